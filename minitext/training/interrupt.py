"""Ctrl-C between two steps instead of in the middle of one, so that the state that is saved is a whole one."""

import signal
import threading
from types import FrameType
from typing import Self


class DelayedInterrupt:
    """While this context is open, the first Ctrl-C (SIGINT) only sets `asked`; a second one stops at once."""

    def __init__(self) -> None:
        self.asked = False

    def __enter__(self) -> Self:
        self.in_main_thread = threading.current_thread() is threading.main_thread()  # others cannot set handlers
        if self.in_main_thread:
            self.previous = signal.signal(signal.SIGINT, self.note)
        return self

    def note(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True

    def __exit__(self, *error: object) -> None:
        if self.in_main_thread:
            signal.signal(signal.SIGINT, self.previous)
