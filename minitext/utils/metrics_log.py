"""Metrics log of a run: `metrics.jsonl`, one JSON object per line, append-only.

Inputs: a row per update and per evaluation. Outputs: the rows. On resume, rows after the checkpoint are truncated.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path

from minitext.utils.errors import UserError, first_line


class MetricsLog:
    """Append-only log. It holds no clock times, so that a resumed run writes the same file as an uninterrupted one."""

    def __init__(self, path: Path):
        self.path = path

    def write(self, row: Mapping) -> None:
        """Append one line."""
        with open(self.path, "a", encoding="utf-8", newline="\n") as file:
            file.write(json.dumps(row) + "\n")

    def flush(self) -> int:
        """Sync the file to disk; returns its size in bytes, for `truncate`."""
        with open(self.path, "ab") as file:
            os.fsync(file.fileno())
            return file.tell()

    def truncate(self, size: int) -> None:
        """Keep only the first `size` bytes. Raises UserError if there are fewer."""
        with open(self.path, "ab") as file:
            if file.tell() < size:
                raise UserError(f"{self.path}: shorter than when the run was saved; start again without --resume")
            file.truncate(size)

    def rows(self) -> list[dict]:
        """All rows. Raises UserError with the line that is not a JSON object."""
        rows, number = [], 0
        try:
            for number, line in enumerate(filter(None, self.path.read_text(encoding="utf-8").split("\n")), start=1):
                row = json.loads(line)
                if not isinstance(row, dict):
                    raise TypeError("not a JSON object")
                rows.append(row)
        except (ValueError, TypeError, RecursionError) as error:
            raise UserError(f"{self.path}, line {number}: {first_line(error)}; re-train the model") from error
        return rows

    def evaluations(self) -> list[dict]:
        """The rows that hold an evaluation on the validation set."""
        return [row for row in self.rows() if "valid" in row]
