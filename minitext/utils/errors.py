"""User-facing errors, printed as one line without a traceback."""

import sys
from collections.abc import Callable


class UserError(Exception):
    """The input is wrong; the message names the file, the line and the remedy."""


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or the name of its class if the message is empty."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def exit_status(main: Callable[[], None]) -> int:
    """Run `main`; 0 success, 2 an error that a user can fix (one line, with `--debug` a traceback), 130 interrupted."""
    try:
        main()
    except BrokenPipeError:  # the reader of our output, such as `head`, has finished
        sys.stdout = None  # nothing is left to flush into the closed pipe
        return 0
    except (UserError, OSError) as error:  # OSError: a full disk or a missing permission can be fixed as well
        if "--debug" in sys.argv:
            raise
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as interrupt:
        print(f"interrupted{': ' + str(interrupt) if str(interrupt) else ''}", file=sys.stderr)
        return 130
    return 0
