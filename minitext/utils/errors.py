"""Errors that a user can mend: one class, raised where the fact is known, shown in one line.

In: a script's `main`. Out: its exit status (0 done, 2 bad input, 130 interrupted).
"""

import sys
from collections.abc import Callable


class UserError(Exception):
    """Something in the input is wrong; the message names the file, the line and the remedy."""


def first_line(error: Exception) -> str:
    """What a library says, short enough for a line; its class where it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def exit_status(main: Callable[[], None]) -> int:
    """Run `main`; turn what a user can mend into one line on stderr. `--debug` keeps the traceback."""
    try:
        main()
    except BrokenPipeError:  # `| head` has read enough
        sys.stdout = None  # nothing is left to flush into the closed pipe
        return 0
    except (UserError, OSError) as error:  # OSError: a full disk, a missing permission: the user's to mend as well
        if "--debug" in sys.argv:
            raise
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as interrupt:
        print(f"interrupted{': ' + str(interrupt) if str(interrupt) else ''}", file=sys.stderr)
        return 130
    return 0
