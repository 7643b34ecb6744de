"""Finished runs of the three tracks with damaged files: every command works, or gives one line and status 2."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from malformed import damage_file, error_of, fuzz
from saved_models import save_finetuned, save_scratch, save_static

from minitext import cli
from minitext.data.dataset import Dataset, Splits
from minitext.evaluation import bootstrap
from minitext.reporting import plots
from minitext.reporting.report import finish_run
from minitext.utils.run_dir import Cost, Notes, RunDir

TRACKS = {"static": save_static, "scratch": save_scratch, "finetune": save_finetuned}
NUMBERS = (
    "scores.json",
    "settings.json",
    "costs.json",
    "notes.json",
    "metrics.jsonl",
    "predictions.csv",
    "mistakes.csv",
)
MODEL = ("config.json", "model.safetensors", "tokenizer.json", "words.txt", "tokenizer_config.json")
TEXTS = ["good film", "", "数据 \ud800\0"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict[str, Path]:
    """A finished run of each track, with all its files but the figures."""
    made = {}
    for track, save in TRACKS.items():
        names = ("neg", "pos") if track == "static" else ("neg", "pos", "so-so")
        labels, count = np.arange(6) % len(names), len(names)
        part = Dataset(["bad film", "so so", "good"] * 2, labels, names, [f"r.csv:{i}" for i in range(6)])
        run = RunDir(tmp_path_factory.mktemp("runs") / track)
        settings = {
            "data": {"data": "reviews.csv"}, "data_found": {"test": {"fingerprint": "abc"}}, "classes": names,
            "run": {"seed": 0}, "command": f"train_{track}.py", "started": "2026-11-24", "machine": "x86_64",
            "versions": {"minitext": "0.2.0", "torch": "2.13"},
        }  # fmt: skip
        run.start(settings)
        for epoch in (1, 2):
            row = {"loss": 0.5, "accuracy": 0.75}
            run.log.write({"epoch": epoch, "train": row, "valid": row, "best": epoch == 1})
        save(tmp_path_factory.mktemp("models") / track)
        for path in (tmp_path_factory.getbasetemp()).glob(f"models*/{track}/*"):
            shutil.copy(path, run.folder)
        logits = torch.randn(6, count, generator=torch.Generator().manual_seed(0))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(bootstrap, "RESAMPLES", 20)
            patch.setattr(plots, "DPI", 20)
            notes = Notes(quiet=True)
            notes.add("texts", "six")
            finish_run(run, Splits(part, part, part), [logits] * 3, 1.5, notes, Cost(3, 1.0, 1.0, 12))
        made[track] = run.out
    return made


def commands(folder: Path, page: Path) -> dict[str, list[str]]:
    return {
        "compare": ["compare", str(folder), "--out", str(page), "--overwrite"],
        "plot": ["plot", str(folder)],
        "report": ["report", str(folder)],
        "predict": ["predict", str(folder), *TEXTS],
        "explain": ["explain", str(folder), *TEXTS[::2], "--json"],
    }


@pytest.mark.parametrize("track", TRACKS)
def test_every_command_reads_an_intact_run(runs, tmp_path, monkeypatch, track: str):
    for command in commands(runs[track], tmp_path / "page.html").values():
        monkeypatch.setattr("sys.argv", ["minitext", *command])
        assert error_of(cli.main) == ""


@pytest.mark.parametrize("key", ["vocab_size", "embedding_dim", "hidden_size", "buckets"])
@pytest.mark.parametrize("size", [10**8, 10**12])
def test_sizes_that_do_not_fit_the_weights_of_a_scratch_run_get_no_memory(runs, tmp_path, monkeypatch, key, size):
    folder = shutil.copytree(runs["scratch"], tmp_path / "run")
    config = json.loads((folder / "config.json").read_text())
    (config if key in config else config["network"])[key] = size
    (folder / "config.json").write_text(json.dumps(config))
    monkeypatch.setattr("sys.argv", ["minitext", "predict", str(folder), "good"])
    assert "corrupt (Error(s) in loading state_dict" in error_of(cli.main)


@pytest.mark.slow
@fuzz(500)
@given(data=st.data())
def test_a_damaged_run(data: st.DataObject, runs, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(bootstrap, "RESAMPLES", 20)
    monkeypatch.setattr(plots, "DPI", 20)
    folder = tmp_path / "run"
    shutil.rmtree(folder, ignore_errors=True)
    source = runs[data.draw(st.sampled_from(sorted(runs)), "track")]
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("*.png"))
    of_model = data.draw(st.booleans(), "model")
    names = [name for name in (MODEL if of_model else NUMBERS) if (folder / name).exists()]
    damage_file(folder / data.draw(st.sampled_from(names), "file"), data)
    used = ("predict", "explain") if of_model else ("report", "report", "report", "report", "compare", "plot")
    command = commands(folder, tmp_path / "page.html")[data.draw(st.sampled_from(used), "command")]
    monkeypatch.setattr("sys.argv", ["minitext", *command])
    error = error_of(cli.main)
    assert not error or str(folder) in error
