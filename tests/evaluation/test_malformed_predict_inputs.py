"""Damaged files of texts are predicted, or refused in one line; a row that is no text gets a note."""

import io
import os
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from malformed import error_of, fuzz
from malformed_tables import damaged_table
from saved_models import save_static

from minitext import cli

FLAGS = {
    "no_header": "--no-header",
    "delimiter": "--delimiter",
    "encoding": "--encoding",
    "text_column": "--text-column",
}


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory) -> Path:
    return save_static(tmp_path_factory.mktemp("runs") / "static")


@pytest.mark.slow
@fuzz(400)
@given(data=st.data())
def test_a_damaged_input(data: st.DataObject, run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    name, content, options = damaged_table(data)
    for old in tmp_path.iterdir():
        old.unlink()
    path = tmp_path / name
    path.write_bytes(content)
    flags = [f"{FLAGS[key]}={value}" for key, value in options.items() if key in FLAGS and value not in (None, False)]
    flags = [flag.removesuffix("=True") for flag in flags]
    command = ["minitext", "predict", str(run_folder), *(os.fsencode(flag).decode() for flag in flags)]
    how = data.draw(st.sampled_from(("--input", "stdin", ".csv", ".tsv", ".jsonl", ".csv")), "how")
    if how == "stdin":
        command = command[:3]
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))
    else:
        command.append(f"--input={path}")
    if how.startswith("."):
        output = tmp_path / f"predicted{how}"
        command += [f"--output={output}", "--overwrite"]
        if data.draw(st.booleans(), "keep"):
            command += [
                "--keep-columns",
                data.draw(st.sampled_from(("label", "id", "1", "text", "line", "note")), "column"),
            ]
        if data.draw(st.booleans(), "resume"):
            command.append("--resume")
            partial = data.draw(
                st.sampled_from((b"", b"line,", b'{"line": 1}\n', b"line,predicted\n1,x\n", content)), "partial"
            )
            output.with_name(output.name + ".partial").write_bytes(partial)
    elif data.draw(st.booleans(), "json"):
        command.append("--json")
    monkeypatch.setattr(sys, "argv", command)
    error_of(cli.main)
