"""Metrics log of a run: `metrics.jsonl`, one JSON object per line, append-only.

Inputs: a row per update and per evaluation. Outputs: the rows. On resume, rows after the checkpoint are truncated.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path


class MetricsLog:
    """Append-only log. It holds no clock times, so that a resumed run writes the same file as an uninterrupted one."""

    def __init__(self, path: Path):
        self.path = path

    def write(self, row: Mapping) -> None:
        """Append one line."""
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def flush(self) -> int:
        """Sync the file to disk; returns its size in bytes, for `truncate`."""
        with open(self.path, "ab") as file:
            os.fsync(file.fileno())
            return file.tell()

    def truncate(self, size: int) -> None:
        """Keep only the first `size` bytes."""
        with open(self.path, "ab") as file:
            file.truncate(size)

    def rows(self) -> list[dict]:
        """All rows."""
        return [json.loads(line) for line in self.path.read_text(encoding="utf-8").splitlines()]

    def evaluations(self) -> list[dict]:
        """The rows that hold an evaluation on the validation set."""
        return [row for row in self.rows() if "valid" in row]
