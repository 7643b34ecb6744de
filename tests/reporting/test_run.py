"""Proves that a run's folder is there whole or not at all, that a finished run is replaced only when it is asked for
and only at the end, and that its files hold what the run gave.
"""

import csv
import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from minitext.reporting.run import RunDir, describe

from minitext.data.dataset import Dataset, Splits
from minitext.evaluation import calibration, metrics
from minitext.reporting import plots, run
from minitext.utils.errors import UserError

NAMES = ("neg", "pos")
SETTINGS = {"run": {"seed": 3}, "command": "train.py --out é", "started": "today", "machine": "this",
            "versions": {"torch": "2"}}  # fmt: skip
ROWS = [{"epoch": i, "train": {"loss": 0.5, "accuracy": 1.0}, "valid": {"loss": 0.6, "accuracy": 0.5}} for i in (1, 2)]
# three texts a part; the second is called wrongly
PROBABILITIES = np.array([[0.75, 0.25], [0.5, 0.5], [0.125, 0.875]], dtype=np.float32)
FILES = ["config.json", "confusion.png", "costs.json", "curves.png", "metrics.jsonl", "mistakes.csv", "predictions.csv",
         "probabilities.png", "reliability.png", "report.md", "scores.json", "settings.json"]  # fmt: skip
COSTS = run.Cost(parameters=7, train_seconds=1.5, predict_seconds=0.5, texts=9)


@pytest.fixture(autouse=True)
def quick(monkeypatch) -> None:
    """Few resamples and small pictures, and a temperature of 1: none of them is what these tests are about."""
    monkeypatch.setattr(metrics, "RESAMPLES", 20)
    monkeypatch.setattr(run, "fit_temperature", lambda labels, probabilities: 1.0)
    monkeypatch.setattr(plots, "DPI", 30)


def corpus(part: str, names: tuple[str, ...] = NAMES) -> Dataset:
    return Dataset(["bad", "so so", "good"], np.array([0, 1, 1]), names, [f"{part}.csv:{i}" for i in (2, 3, 4)])


def splits(names: tuple[str, ...] = NAMES) -> Splits:
    return Splits(*(corpus(part, names) for part in Splits._fields))


def begin(out: Path, overwrite: bool = False) -> RunDir:
    """A run up to the point where only `finish` is left."""
    made = RunDir(out, overwrite)
    made.start(SETTINGS)
    for row in ROWS:
        made.journal.write(row)
    (made.folder / "config.json").write_text('{"track": "static"}')
    return made


def finish(made: RunDir, run_notes: dict[str, str] | None = None) -> dict:
    return made.finish(splits(), [PROBABILITIES] * 3, run_notes or {"texts": "three"}, COSTS)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# What a finished run holds


def test_a_finished_run_has_all_its_files_and_leaves_nothing_beside_it(tmp_path):
    finish(begin(tmp_path / "runs" / "mlp"))
    assert sorted(contents(tmp_path / "runs" / "mlp")) == FILES
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["mlp"]


def test_settings_are_kept_as_they_were_given(tmp_path):
    finish(begin(tmp_path / "mlp"))
    assert json.loads((tmp_path / "mlp" / "settings.json").read_text(encoding="utf-8")) == SETTINGS


def test_the_journal_has_a_line_a_row(tmp_path):
    finish(begin(tmp_path / "mlp"))
    assert [json.loads(line) for line in (tmp_path / "mlp" / "metrics.jsonl").read_text().splitlines()] == ROWS


def test_a_journal_line_is_on_disk_as_soon_as_it_is_written(tmp_path):
    made = begin(tmp_path / "mlp")
    assert len((made.folder / "metrics.jsonl").read_text().splitlines()) == 2


def test_scores_are_those_of_each_part(tmp_path):
    returned = finish(begin(tmp_path / "mlp"))
    written = json.loads((tmp_path / "mlp" / "scores.json").read_text(encoding="utf-8"))
    assert written == returned
    assert list(written) == ["train", "valid", "test"]
    expected = metrics.score(np.array([0, 1, 1]), PROBABILITIES.astype(np.float64), NAMES, seed=3)
    assert expected.items() <= written["test"].items()
    assert written["test"]["accuracy"]["value"] == pytest.approx(2 / 3)


def test_predictions_have_a_row_a_test_text(tmp_path):
    finish(begin(tmp_path / "mlp"))
    with open(tmp_path / "mlp" / "predictions.csv", encoding="utf-8", newline="") as file:
        assert list(csv.reader(file)) == [
            ["id", "label", "predicted", "p(neg)", "p(pos)"],
            ["test.csv:2", "neg", "neg", "0.75", "0.25"],
            ["test.csv:3", "pos", "neg", "0.5", "0.5"],
            ["test.csv:4", "pos", "pos", "0.125", "0.875"],
        ]


def test_predictions_hold_every_digit_of_a_float32(tmp_path):
    probabilities = np.array([[1 / 3, 2 / 3]] * 3, dtype=np.float32)
    run.write_predictions(tmp_path / "p.csv", corpus("test"), probabilities)
    with open(tmp_path / "p.csv", encoding="utf-8", newline="") as file:
        assert {np.float32(row["p(neg)"]) for row in csv.DictReader(file)} == {probabilities[0, 0]}


def test_predictions_of_a_corpus_with_tags_have_them(tmp_path):
    tagged = replace(corpus("test"), tags=["plain", "irony", "plain"])
    run.write_predictions(tmp_path / "p.csv", tagged, PROBABILITIES)
    with open(tmp_path / "p.csv", encoding="utf-8", newline="") as file:
        assert [row["tag"] for row in csv.DictReader(file)] == ["plain", "irony", "plain"]


def test_the_temperature_is_chosen_on_validation_applied_to_all_and_kept_with_the_model(tmp_path, monkeypatch):
    monkeypatch.setattr(run, "fit_temperature", calibration.fit_temperature)
    valid = np.array([[0.9, 0.1], [0.9, 0.1], [0.1, 0.9]], dtype=np.float32)  # says 90 %, is right in two of three
    scores = begin(tmp_path / "mlp").finish(splits(), [PROBABILITIES, valid, PROBABILITIES], {}, COSTS)
    temperature = json.loads((tmp_path / "mlp" / "config.json").read_text())["temperature"]
    assert temperature == calibration.fit_temperature(np.array([0, 1, 1]), valid) > 1.5
    with open(tmp_path / "mlp" / "predictions.csv", encoding="utf-8", newline="") as file:
        found = [float(row["p(pos)"]) for row in csv.DictReader(file)]
    assert found == pytest.approx(calibration.apply_temperature(PROBABILITIES, temperature)[:, 1].tolist(), abs=1e-8)
    before = scores["test"]["before_temperature"]
    assert before["temperature"] == temperature
    assert before["log_loss"] == pytest.approx(metrics.log_losses(np.array([0, 1, 1]), PROBABILITIES).mean())


def test_the_gap_between_train_and_test_is_there_with_its_verdict(tmp_path):
    sure = np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    gap = begin(tmp_path / "mlp").finish(splits(), [sure, sure, 1 - sure], {}, COSTS)["test"]["gap_to_train"]
    assert gap == {"value": 1.0, "low": 1.0, "high": 1.0, "overfitting": True}


def test_what_a_run_took_is_kept(tmp_path):
    finish(begin(tmp_path / "mlp"))
    assert json.loads((tmp_path / "mlp" / "costs.json").read_text()) == COSTS._asdict()


def test_class_names_with_commas_and_quotes_are_quoted(tmp_path):
    names = ("sad, bad", 'so-called "good"')
    run.write_predictions(tmp_path / "p.csv", corpus("test", names), PROBABILITIES)
    with open(tmp_path / "p.csv", encoding="utf-8", newline="") as file:
        assert [row["label"] for row in csv.DictReader(file)] == [names[0], names[1], names[1]]


def test_the_report_carries_the_runs_name_and_facts(tmp_path):
    finish(begin(tmp_path / "mlp"), {"words with a vector": "97 %"})
    report = (tmp_path / "mlp" / "report.md").read_text(encoding="utf-8")
    assert report.startswith("# mlp\n")
    assert "- words with a vector: 97 %" in report


def test_figures_can_be_drawn_again(tmp_path):
    finish(begin(tmp_path / "mlp"))
    first = contents(tmp_path / "mlp")
    for picture in (tmp_path / "mlp").glob("*.png"):
        picture.unlink()
    plots.draw(tmp_path / "mlp")
    assert contents(tmp_path / "mlp") == first


# What stood there before


def test_a_finished_run_is_refused_and_left_untouched(tmp_path):
    finish(begin(tmp_path / "mlp"))
    before = contents(tmp_path / "mlp")
    with pytest.raises(UserError, match=r"mlp: holds a finished run.*--overwrite"):
        RunDir(tmp_path / "mlp")
    assert contents(tmp_path / "mlp") == before


def test_overwriting_replaces_a_finished_run(tmp_path):
    finish(begin(tmp_path / "mlp"), {"round": "first"})
    finish(begin(tmp_path / "mlp", overwrite=True), {"round": "second"})
    assert "- round: second" in (tmp_path / "mlp" / "report.md").read_text(encoding="utf-8")
    assert [path.name for path in tmp_path.iterdir()] == ["mlp"]


def test_overwriting_leaves_the_old_run_until_the_end(tmp_path):
    finish(begin(tmp_path / "mlp"))
    before = contents(tmp_path / "mlp")
    begin(tmp_path / "mlp", overwrite=True)  # and never finished
    assert contents(tmp_path / "mlp") == before


@pytest.mark.parametrize("step", ["score", "draw", "write_report", "write_predictions"])
def test_an_interrupt_while_finishing_leaves_the_old_run_whole(tmp_path, monkeypatch, step: str):
    finish(begin(tmp_path / "mlp"))
    before = contents(tmp_path / "mlp")

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(plots if step == "draw" else run, step, interrupt)
    with pytest.raises(KeyboardInterrupt):
        finish(begin(tmp_path / "mlp", overwrite=True))
    assert contents(tmp_path / "mlp") == before


def test_an_interrupted_first_run_leaves_no_folder_of_its_name(tmp_path):
    begin(tmp_path / "mlp")
    assert not (tmp_path / "mlp").exists()


def test_a_run_that_was_interrupted_can_be_started_again(tmp_path):
    begin(tmp_path / "mlp")
    (tmp_path / "mlp.partial" / "left.txt").write_text("from the first try")
    finish(begin(tmp_path / "mlp"))
    assert sorted(contents(tmp_path / "mlp")) == FILES  # nothing of the first try, and two journal lines only
    assert len((tmp_path / "mlp" / "metrics.jsonl").read_text().splitlines()) == 2


def test_what_a_kill_between_the_two_renames_left_is_cleared(tmp_path):
    finish(begin(tmp_path / "mlp"))
    (tmp_path / "mlp").rename(tmp_path / "mlp.old")  # killed here, before the new run took the name
    finish(begin(tmp_path / "mlp"))
    assert [path.name for path in tmp_path.iterdir()] == ["mlp"]


def test_what_a_kill_after_the_renames_left_does_not_block_the_next_run(tmp_path):
    for name in ("mlp", "mlp.old"):  # killed before the old run was removed
        finish(begin(tmp_path / name))
    finish(begin(tmp_path / "mlp", overwrite=True), {"round": "third"})
    assert "- round: third" in (tmp_path / "mlp" / "report.md").read_text(encoding="utf-8")
    assert [path.name for path in tmp_path.iterdir()] == ["mlp"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_that_is_no_run_is_refused(tmp_path, overwrite: bool):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.tex").write_text("precious")
    with pytest.raises(UserError, match=r"thesis: exists and is not a run"):
        RunDir(tmp_path / "thesis", overwrite)
    assert contents(tmp_path / "thesis") == {"chapter1.tex": b"precious"}


def test_a_file_in_the_place_of_a_run_is_refused(tmp_path):
    (tmp_path / "mlp").write_text("precious")
    with pytest.raises(UserError, match=r"mlp: exists and is not a run"):
        RunDir(tmp_path / "mlp", overwrite=True)


def test_asking_for_a_run_makes_no_folder_yet(tmp_path):
    RunDir(tmp_path / "runs" / "mlp")
    assert list(tmp_path.iterdir()) == []


# Settings


@dataclass(frozen=True)
class SomeOptions:
    """some options"""

    seed: int = 4
    l2: tuple[float, ...] = (1.0, 0.1)


@dataclass(frozen=True)
class Config:
    run: SomeOptions = SomeOptions()


def test_settings_hold_options_data_versions_and_command(monkeypatch):
    monkeypatch.setattr("sys.argv", ["/here/train.py", "--seed", "4"])
    found = describe(Config(), splits(), weights="mean")
    assert found["run"] == {"seed": 4, "l2": (1.0, 0.1)}
    assert found["data_found"]["test"] == {"texts": 3, "fingerprint": corpus("test").fingerprint()}
    assert (found["classes"], found["weights"]) == (NAMES, "mean")
    assert found["command"] == "train.py --seed 4"
    assert set(found["versions"]) == {"minitext", "python", "torch", "numpy"}
    json.dumps(found)


def test_the_command_in_the_settings_can_be_pasted_into_a_shell(monkeypatch):
    monkeypatch.setattr("sys.argv", ["train.py", "--data", "my reviews.csv"])
    assert describe(Config(), splits())["command"] == "train.py --data 'my reviews.csv'"


def test_a_quiet_script_says_nothing(capsys):
    run.say("texts: 3", quiet=True)
    run.say("texts: 4")
    assert capsys.readouterr().out == "texts: 4\n"
