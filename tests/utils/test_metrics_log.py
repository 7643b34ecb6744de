"""Metrics log: rows are appended, and truncated on resume."""

import json
from pathlib import Path

import pytest

from minitext.utils.errors import UserError
from minitext.utils.metrics_log import MetricsLog


def test_rows_are_read_back_in_order(tmp_path: Path):
    log = MetricsLog(tmp_path / "metrics.jsonl")
    rows = [{"update": 1, "loss": 0.5}, {"update": 2, "loss": 0.25}]
    for row in rows:
        log.write(row)
    assert log.rows() == rows
    assert [json.loads(line) for line in log.path.read_text().splitlines()] == rows


def test_a_row_is_in_the_file_as_soon_as_it_is_written(tmp_path: Path):
    log = MetricsLog(tmp_path / "metrics.jsonl")
    log.write({"update": 1})
    assert log.path.read_text() == '{"update": 1}\n'


def test_rows_after_a_flush_can_be_truncated(tmp_path: Path):
    log = MetricsLog(tmp_path / "metrics.jsonl")
    log.write({"update": 1})
    size = log.flush()
    log.write({"update": 2})
    log.truncate(size)
    log.write({"update": 3})
    assert log.rows() == [{"update": 1}, {"update": 3}]


def test_flush_returns_the_size_of_the_file(tmp_path: Path):
    log = MetricsLog(tmp_path / "metrics.jsonl")
    assert log.flush() == 0
    log.write({"update": 1})
    assert log.flush() == log.path.stat().st_size == 14


def test_evaluations_are_the_rows_with_validation_scores(tmp_path: Path):
    log = MetricsLog(tmp_path / "metrics.jsonl")
    log.write({"update": 1, "loss": 0.5})
    log.write({"epoch": 1, "valid": {"loss": 0.6}})
    assert log.evaluations() == [{"epoch": 1, "valid": {"loss": 0.6}}]


def test_a_log_that_is_shorter_than_the_checkpoint_says_is_refused(tmp_path: Path):
    log = MetricsLog(tmp_path / "metrics.jsonl")
    log.write({"update": 1})
    with pytest.raises(UserError, match=r"metrics.jsonl: shorter than .*start again without --resume"):
        log.truncate(1000)
    assert log.rows() == [{"update": 1}]


@pytest.mark.parametrize("line", ["[1]", "3", '{"update": 2', "[" * 100_000, "\ufeff{}"])
def test_a_line_that_is_no_json_object_is_named(tmp_path: Path, line: str):
    log = MetricsLog(tmp_path / "metrics.jsonl")
    log.path.write_text(f'{{"update": 1}}\n{line}\n', encoding="utf-8")
    with pytest.raises(UserError, match=r"metrics.jsonl, line 2: .*; re-train the model"):
        log.rows()
