"""Text for the terminal: control characters of file names, class names and texts are escaped."""

import re

# C0 and C1 controls (terminals act on them), lone surrogates (cannot be written), line separators, and the marks
# that reverse the order of what is shown (Boucher & Anderson 2021, "Trojan Source")
UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def printable(text: str, keep: str = "") -> str:
    r"""Escape characters that a terminal would act on: `"\x1b[31m"` becomes `"\\x1b[31m"`.

    The characters in `keep` are not escaped, such as `"\n\t"` for a message of several lines.
    """
    return UNSAFE.sub(lambda match: match[0] if match[0] in keep else ascii(match[0])[1:-1], text)
