"""Report and result files of a run: they hold the numbers of its scores, each with its interval."""

import csv
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from minitext.data.dataset import Dataset, Splits
from minitext.evaluation import bootstrap
from minitext.evaluation.score import score_run
from minitext.reporting import plots, report
from minitext.reporting.class_tables import class_rows
from minitext.reporting.formats import markdown_table
from minitext.reporting.report import (
    METRIC_LABELS,
    describe_overfitting,
    finish_run,
    score_rows,
    write_predictions,
    write_report,
)
from minitext.utils.errors import exit_status
from minitext.utils.run_dir import Cost, Notes, RunDir

SETTINGS = {
    "data": {"data": "réviews.csv"},
    "data_found": {"test": {"fingerprint": "abc"}},
    "classes": ["neg", "pos"],
    "run": {"seed": 3},
    "command": "train_static.py --data réviews.csv",
    "started": "2026-11-24T10:00:00+00:00",
    "machine": "x86_64, 2 cores, Linux",
    "versions": {"minitext": "0.2.0", "torch": "2.8.0"},
}


HALF = {"value": 0.5, "low": 0.4, "high": 0.6}
NOTHING = {"value": 0.0, "low": None, "high": None}


def part(value: float, count: int) -> dict:
    """Scores of one part of the data: all are `value`, with an interval of 0.05 to both sides."""
    return {
        **{key: {"value": value, "low": value - 0.05, "high": value + 0.05} for key in METRIC_LABELS},
        "count": count,
        "per_class": {
            "neg": dict.fromkeys(("precision", "recall", "f1"), HALF) | {"support": 1200},
            "pos": dict.fromkeys(("precision", "recall", "f1"), NOTHING) | {"support": 7},
        },
        "ece": {"value": value},
        "ece_if_calibrated": {"mean": 0.0625, "percentile_95": 0.1, "verdict": "above"},
    }


SCORES = {"train": part(0.9, 5000), "valid": part(0.8, 100), "test": part(0.7, 1207)}
SCORES["test"] |= {
    "generalization_gap": {"value": 0.2, "low": 0.15, "high": 0.25},
    "confusion": [[600, 600], [7, 0]],
    "before_temperature": {"temperature": 1.5, "log_loss": 0.75, "ece": 0.125, "brier": 0.25},
    "subgroup_accuracy": [
        {"by": by, "subgroup": name, "count": 1200, "accuracy": 0.5, "low": 0.4, "high": 0.6}
        for by, name in (("class", "neg"), ("tag", "irony"))
    ],
}
SCORES["valid"]["temperature_fit"] = {"description": "a gain of nothing: T = 1 is kept"}
EVALUATIONS = [{"epoch": i, "valid": {"loss": loss}, "best": i < 3} for i, loss in ((1, 0.5), (2, 0.4), (3, 0.6))]
MISTAKES = "id,label,predicted,probability,text\nr.csv:7,neg,pos,0.9876,a secret text\n"


@pytest.fixture
def written(tmp_path) -> str:
    """The report of these scores."""
    (tmp_path / "settings.json").write_text(json.dumps(SETTINGS), encoding="utf-8")
    (tmp_path / "scores.json").write_text(json.dumps(SCORES), encoding="utf-8")
    (tmp_path / "mistakes.csv").write_text(MISTAKES, encoding="utf-8")
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in EVALUATIONS))
    write_report(tmp_path, "mlp", {"texts": "train 5,000", "vocabulary coverage": "train 97 %"})
    return (tmp_path / "report.md").read_text(encoding="utf-8")


def test_scores_have_one_column_per_part_and_one_row_per_score():
    head, *body = score_rows(SCORES)
    assert head == ["", "train", "valid", "test"]
    assert [row[0] for row in body] == [*METRIC_LABELS.values(), "calibration error if calibrated"]
    assert body[0] == ["accuracy", "90.0 % [85.0, 95.0]", "80.0 % [75.0, 85.0]", "70.0 % [65.0, 75.0]"]
    assert body[-3][3] == "0.700 [0.650, 0.750]"


def test_the_calibration_error_is_beside_that_of_a_calibrated_model():
    *_, found, if_calibrated = score_rows(SCORES)
    assert found == ["calibration error", "90.0 %, above", "80.0 %, above", "70.0 %, above"]
    assert if_calibrated == ["calibration error if calibrated", *["6.2 %, 95 % below 10.0 %"] * 3]


def test_classes_have_one_row_each():
    assert class_rows(SCORES["test"]["per_class"]) == [
        ["class", "precision", "recall", "F1", "texts"],
        ["neg", *["50.0 % [40.0, 60.0]"] * 3, "1,200"],
        ["pos", *["0.0 %"] * 3, "7"],
    ]


def test_a_report_of_hostile_names_holds_no_html(tmp_path):
    name = "<script>|`x`"
    scores = json.loads(json.dumps(SCORES).replace('"neg"', json.dumps(name)).replace("irony", name))
    (tmp_path / "settings.json").write_text(json.dumps(SETTINGS), encoding="utf-8")
    (tmp_path / "scores.json").write_text(json.dumps(scores), encoding="utf-8")
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in EVALUATIONS))
    write_report(tmp_path, name, {name: name})
    assert "<script>" not in (tmp_path / "report.md").read_text(encoding="utf-8")


def test_the_report_begins_with_name_accuracy_command_and_machine(written):
    lines = written.splitlines()
    assert lines[0] == "# mlp"
    assert lines[2] == "**Accuracy on test: 70.0 % [65.0, 75.0]**"
    assert lines[4].strip() == "`train_static.py --data réviews.csv`"
    assert lines[6] == "2026-11-24T10:00:00+00:00, x86_64, 2 cores, Linux, torch 2.8.0"


def test_the_report_holds_both_tables(written):
    assert markdown_table(score_rows(SCORES)) in written
    assert markdown_table(class_rows(SCORES["test"]["per_class"])) in written


def test_the_report_counts_the_texts_of_its_intervals(written):
    assert "5,000 train, 100 valid, 1,207 test" in written


@pytest.mark.parametrize("figure", ["curves.png", "confusion.png", "probabilities.png", "reliability.png"])
def test_the_report_shows_every_figure(written, figure: str):
    assert f"]({figure})" in written


def test_the_report_has_the_generalization_gap_with_its_interval(written):
    assert "Generalization gap (accuracy on train minus on test): +20.0 [+15.0, +25.0] points." in written


def test_a_validation_loss_that_rose_after_the_best_evaluation_is_overfitting(written):
    best = "0.400 at the best evaluation (epoch 2, its weights were kept)"
    assert f"Overfitting: validation loss {best}, 0.600 at the last (epoch 3)." in written


@pytest.mark.parametrize(
    ("unit", "losses", "best"),
    [("epoch", [0.5, 0.4, 0.41], 2), ("epoch", [0.5, 0.4], 2), ("iteration", [0.5], 1), ("epoch", [0.4, 0.3], 1)],
)
def test_without_a_clear_rise_no_run_is_called_overfitted(unit: str, losses: list[float], best: int):
    """A rise of 2.5 %, no later evaluation, or a lower loss than that of the most accurate evaluation."""
    rows = [{unit: i, "valid": {"loss": loss}, "best": i == best} for i, loss in enumerate(losses, start=1)]
    assert describe_overfitting(rows).startswith("No overfitting")
    assert f"({unit} {best}" in describe_overfitting(rows)


def report_of(tmp_path: Path, names: list[str], matrix: np.ndarray) -> str:
    """The report of a run with these classes, of which the c-th has an F1 of c per cent."""
    per_class = {
        name: dict.fromkeys(("precision", "recall", "f1"), HALF | {"value": c / 100})
        | {"support": int(matrix[c].sum())}
        for c, name in enumerate(names)
    }
    test = SCORES["test"] | {"per_class": per_class, "confusion": matrix.tolist()}
    (tmp_path / "settings.json").write_text(json.dumps(SETTINGS | {"classes": names}), encoding="utf-8")
    (tmp_path / "scores.json").write_text(json.dumps(SCORES | {"test": test}), encoding="utf-8")
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in EVALUATIONS))
    write_report(tmp_path, "mlp", {})
    return (tmp_path / "report.md").read_text(encoding="utf-8")


def test_of_many_classes_the_weakest_and_the_confusions_come_first_and_all_are_folded(tmp_path):
    names = [f"c{c}" for c in range(21)]
    matrix = 9 * np.eye(21, dtype=int)
    matrix[4, 7] = 3
    text = report_of(tmp_path, names, matrix)
    visible, folded = (re.sub(r"<details>.*?</details>", "", text, flags=re.DOTALL), text)
    assert "| c4 | c7 | 3 (25.0 %) |" in visible
    shown = re.findall(r"^\| (c\d+) \| \d", visible, flags=re.MULTILINE)
    assert len(shown) == 10 and set(shown) >= {"c4", "c7"}
    assert visible.index("## Weakest classes") < visible.index("## Most frequent confusions")
    assert re.findall(r"^\| (c\d+) \| \d", folded, flags=re.MULTILINE) == [*shown, *names]
    assert "<details><summary>All 21 classes</summary>\n\n| class |" in text


def test_few_classes_are_shown_whole(tmp_path):
    text = report_of(tmp_path, [f"c{c}" for c in range(20)], 9 * np.eye(20, dtype=int))
    assert text.index("| c19 |") < text.index("<details>")  # of the settings
    assert "confusions, on test" not in text  # there are none


def test_the_report_shows_calibration_before_and_after_the_temperature(written):
    assert "|  | as trained | temperature 1.50 |" in written
    assert "| calibration error, 15 bins | 12.5 % | 70.0 %, above |" in written
    assert "| calibration error if calibrated |  | 6.2 %, 95 % below 10.0 % |" in written
    assert "Here: a gain of nothing: T = 1 is kept." in written


def test_the_report_shows_accuracy_by_subgroup(written):
    assert "| tag | irony | 1,200 | 50.0 % [40.0, 60.0] |" in written
    assert "| class | neg |" not in written  # the accuracy in a class is its recall, which is above


def test_the_report_holds_no_texts(written):
    assert "`mistakes.csv`" in written
    assert "secret" not in written


def test_the_report_lists_the_notes(written):
    assert "- texts: train 5,000\n- vocabulary coverage: train 97 %" in written


def test_the_report_ends_with_the_settings(written):
    assert json.loads(written.partition("```json\n")[2].partition("\n```")[0]) == SETTINGS


def test_only_the_report_is_written(written, tmp_path: Path):
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "metrics.jsonl", "mistakes.csv", "report.md", "scores.json", "settings.json"
    ]  # fmt: skip


# Finishing a run

LABELS = np.array([0, 1, 1])
LOGITS = torch.tensor([[1.0, 0.0], [0.5, 0.25], [-1.0, 1.0]])  # the second is wrong
PREDICTED = LOGITS.argmax(dim=1).numpy()
PROBABILITIES = np.array([[0.75, 0.25], [0.5, 0.5], [0.125, 0.875]])
COST = Cost(parameters=7, train_seconds=1.5, predict_seconds=0.5, texts=9)
ROWS = [{"epoch": i, "train": {"loss": 0.5, "accuracy": 1.0}, "valid": {"loss": 0.6, "accuracy": 0.5}} for i in (1, 2)]
FILES = ["confusion.png", "costs.json", "curves.png", "metrics.jsonl", "mistakes.csv", "notes.json", "predictions.csv",
         "probabilities.png", "reliability.png", "report.md", "scores.json", "settings.json"]  # fmt: skip


def dataset(part: str, names: tuple[str, ...] = ("neg", "pos")) -> Dataset:
    return Dataset(["bad", "so so", "good"], LABELS, names, [f"{part}.csv:{i}" for i in (2, 3, 4)])


SPLITS = Splits(*(dataset(part) for part in Splits._fields))


def start(out: Path, overwrite: bool = False) -> RunDir:
    """A trained run."""
    run = RunDir(out, overwrite)
    run.start(SETTINGS)
    for row in ROWS:
        run.log.write(row)
    return run


def finish(run: RunDir, temperature: float = 2.0, note: str = "three") -> dict:
    notes = Notes(quiet=True)
    notes.add("texts", note)
    return finish_run(run, SPLITS, [LOGITS] * 3, temperature, notes, COST)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def read_rows(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def fast(monkeypatch) -> None:
    """Few resamples and small figures."""
    monkeypatch.setattr(bootstrap, "RESAMPLES", 20)
    monkeypatch.setattr(plots, "DPI", 30)


def test_a_finished_run_has_all_its_files(tmp_path, fast):
    finish(start(tmp_path / "mlp"))
    assert sorted(contents(tmp_path / "mlp")) == FILES
    assert [path.name for path in tmp_path.iterdir()] == ["mlp"]


def test_each_phase_is_printed_when_it_begins_and_ends(tmp_path, fast, capsys):
    finish_run(start(tmp_path / "mlp"), SPLITS, [LOGITS] * 3, 2.0, Notes(), COST)
    lines = capsys.readouterr().out.splitlines()
    phases = ["scoring", "writing scores and predictions", "drawing figures", "writing the report"]
    assert [line.partition(":")[0] for line in lines] == [line for name in phases for line in (f"{name} …", name)]
    assert all(line.endswith(" s") for line in lines[1::2])


def test_scores_and_costs_are_saved(tmp_path, fast):
    scores = finish(start(tmp_path / "mlp"))
    assert scores == score_run(SPLITS, [LOGITS] * 3, 2.0, seed=3)
    assert json.loads((tmp_path / "mlp" / "scores.json").read_text(encoding="utf-8")) == scores
    assert json.loads((tmp_path / "mlp" / "costs.json").read_text()) == COST._asdict()


def test_predictions_are_probabilities_at_the_temperature(tmp_path, fast):
    finish(start(tmp_path / "mlp"), temperature=2.0)
    rows = read_rows(tmp_path / "mlp" / "predictions.csv")
    expected = (LOGITS.double() / 2).softmax(dim=1)[:, 1].tolist()
    assert [float(row["p(pos)"]) for row in rows] == pytest.approx(expected, abs=1e-8)  # nine digits
    assert [row["predicted"] for row in rows] == ["neg", "neg", "pos"]


def test_the_report_has_the_name_of_the_run_and_its_notes(tmp_path, fast):
    finish(start(tmp_path / "mlp"))
    text = (tmp_path / "mlp" / "report.md").read_text(encoding="utf-8")
    assert text.startswith("# mlp\n") and "- texts: three" in text


def test_figures_can_be_drawn_again(tmp_path, fast):
    finish(start(tmp_path / "mlp"))
    first = contents(tmp_path / "mlp")
    for figure in (tmp_path / "mlp").glob("*.png"):
        figure.unlink()
    plots.draw(tmp_path / "mlp")
    assert contents(tmp_path / "mlp") == first


@pytest.mark.parametrize("step", ["draw", "write_report"])
def test_a_figure_or_report_that_fails_costs_no_run(tmp_path, monkeypatch, fast, capsys, step: str):
    def fail(*_):
        raise RuntimeError("no font")

    monkeypatch.setattr(plots if step == "draw" else report, step, fail)
    with monkeypatch.context() as arguments:
        arguments.setattr("sys.argv", ["train.py"])
        assert exit_status(lambda: finish(start(tmp_path / "mlp"))) == 1
    command = {"draw": "plot", "write_report": "report"}[step]
    assert capsys.readouterr().err.endswith(f"repeat it with: minitext {command} {tmp_path / 'mlp'}\n")
    lost = {"report.md"} if step == "write_report" else {name for name in FILES if name.endswith(".png")}
    assert contents(tmp_path / "mlp").keys() == set(FILES) - lost


@pytest.mark.parametrize("step", ["score_run", "draw", "write_report", "write_predictions"])
def test_an_interrupt_while_finishing_keeps_the_old_run(tmp_path, monkeypatch, fast, step: str):
    finish(start(tmp_path / "mlp"))
    before = contents(tmp_path / "mlp")

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(plots if step == "draw" else report, step, interrupt)
    with pytest.raises(KeyboardInterrupt):
        finish(start(tmp_path / "mlp", overwrite=True), note="again")
    assert contents(tmp_path / "mlp") == before


# Predictions


def test_predictions_have_one_row_per_text(tmp_path):
    write_predictions(tmp_path / "p.csv", dataset("test"), PREDICTED, PROBABILITIES)
    assert (tmp_path / "p.csv").read_text().splitlines() == [
        "id,label,predicted,p(neg),p(pos)",
        "test.csv:2,neg,neg,0.75,0.25",
        "test.csv:3,pos,neg,0.5,0.5",
        "test.csv:4,pos,pos,0.125,0.875",
    ]


def test_predictions_have_every_digit_of_a_float32(tmp_path):
    probabilities = np.array([[1 / 3, 2 / 3]] * 3, dtype=np.float32)
    write_predictions(tmp_path / "p.csv", dataset("test"), PREDICTED, probabilities)
    assert {np.float32(row["p(neg)"]) for row in read_rows(tmp_path / "p.csv")} == {probabilities[0, 0]}


def test_predictions_of_texts_with_tags_have_them(tmp_path):
    tagged = replace(dataset("test"), tags=["plain", "irony", "plain"])
    write_predictions(tmp_path / "p.csv", tagged, PREDICTED, PROBABILITIES)
    assert [row["tag"] for row in read_rows(tmp_path / "p.csv")] == ["plain", "irony", "plain"]


def test_class_names_with_commas_and_quotes_are_quoted(tmp_path):
    names = ("sad, bad", 'so-called "good"')
    write_predictions(tmp_path / "p.csv", dataset("test", names), PREDICTED, PROBABILITIES)
    assert [row["label"] for row in read_rows(tmp_path / "p.csv")] == [names[0], names[1], names[1]]
