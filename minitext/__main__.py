"""`python -m minitext` runs the `minitext` command."""

import sys

from minitext.cli import main

sys.exit(main())
