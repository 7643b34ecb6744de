"""A run's journal: one JSON object a line, appended; what a resumed run would repeat is cut off first."""

import json
import os
from collections.abc import Mapping
from pathlib import Path


class MetricsLog:
    """An append-only file. It holds no clock times, so that a resumed run's journal equals an uninterrupted one's."""

    def __init__(self, path: Path):
        self.path = path

    def write(self, row: Mapping) -> None:
        """Append one line; it stays, whatever happens next."""
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def sync(self) -> int:
        """Bring what was written to disk; returns the size in bytes, for `cut`."""
        with open(self.path, "ab") as file:
            os.fsync(file.fileno())
            return file.tell()

    def cut(self, size: int) -> None:
        """Drop all that came after the first `size` bytes."""
        with open(self.path, "ab") as file:
            file.truncate(size)

    def rows(self) -> list[dict]:
        """All lines so far."""
        with open(self.path, encoding="utf-8") as file:
            return [json.loads(line) for line in file]

    def checks(self) -> list[dict]:
        """The lines that hold a check on validation."""
        return [row for row in self.rows() if "valid" in row]
