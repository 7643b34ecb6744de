"""Evaluation of a finished run on other labeled texts: its scores, its files, and the commands that read them."""

import csv
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

from minitext import cli
from minitext.data.dataset import Dataset, Splits, to_dataset
from minitext.data.readers import read_rows
from minitext.evaluation import bootstrap
from minitext.evaluation.calibration import fold_temperature
from minitext.models.static import LogisticRegression, MeanEncoder, StaticClassifier
from minitext.reporting import plots
from minitext.reporting.evaluate import Config, LabeledDataConfig, ResultConfig, default_out, evaluate
from minitext.reporting.plots import save
from minitext.reporting.report import finish_run
from minitext.reporting.saved_run import read_run
from minitext.utils.run_dir import Cost, Notes, RunDir

TEST = [("pos", "good film"), ("neg", "bad film"), ("pos", "bad good good"), ("neg", "good"), ("neg", "bad, bad")]
OTHER = [("neg", "bad"), ("pos", "good"), ("pos", "a bad film"), ("neg", "so bad"), ("pos", "good good")]
TEMPERATURE = 2.0
FILES = ["confusion.png", "costs.json", "mistakes.csv", "notes.json", "predictions.csv", "probabilities.png",
         "reliability.png", "report.md", "scores.json", "settings.json"]  # fmt: skip


@pytest.fixture(autouse=True)
def fast(monkeypatch) -> None:
    """Few resamples, and figures that are empty files."""
    monkeypatch.setattr(bootstrap, "RESAMPLES", 20)
    monkeypatch.setattr(plots, "DPI", 20)
    monkeypatch.setattr(plots, "save", lambda _, path: path.touch())


def write_table(path: Path, rows: Sequence[tuple], head: Sequence[str] = ("label", "text")) -> Path:
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([head, *rows])
    return path


def train(out: Path, data: Path, weight: float = 3.0, seed: int = 0, names: tuple[str, ...] = ("neg", "pos")) -> Path:
    """A finished run: `good` has the logit margin `weight` for pos before the temperature, `bad` for neg."""
    test = to_dataset(read_rows(str(data)), names)
    part = Dataset(["good", "bad"] * 2, test.labels[:4], names, ["train.csv:2"] * 4)
    splits = Splits(part, part, test)
    run = RunDir(out)
    run.start({
        "data": {"data": "train.csv", "test_data": str(data)}, "data_found": splits.summary(), "classes": names,
        "run": {"seed": seed}, "command": "train_static.py", "started": f"2026-11-24T10:00:0{seed}",
        "machine": "x86_64", "versions": {"minitext": "0.2.0", "torch": "2.13"},
    })  # fmt: skip
    row = {"loss": 0.5, "accuracy": 0.75}
    run.log.write({"epoch": 1, "train": row, "valid": row, "best": True})
    classifier = LogisticRegression(1, len(names))
    if len(names) == 2:
        classifier.load_state_dict({"output.weight": torch.tensor([[weight]]), "output.bias": torch.zeros(1)})
    model = StaticClassifier(MeanEncoder(["good", "bad"], torch.tensor([[1.0], [-1.0]])), classifier, names)
    with torch.no_grad():
        logits = [model.logits(part.texts) for part in splits]
    fold_temperature(classifier.output, TEMPERATURE)
    model.save(run.folder)
    finish_run(run, splits, logits, TEMPERATURE, Notes(quiet=True), Cost(3, 1.0, 1.0, 12))
    return out


@pytest.fixture
def own(tmp_path) -> Path:
    """The test texts of `run`."""
    return write_table(tmp_path / "own.csv", TEST)


@pytest.fixture
def other(tmp_path) -> Path:
    """Labeled texts that `run` has not seen."""
    return write_table(tmp_path / "other.csv", OTHER)


@pytest.fixture
def run(tmp_path, own) -> Path:
    return train(tmp_path / "mlp", own)


@pytest.fixture
def minitext(monkeypatch, capsys) -> Callable[..., str]:
    """Run `minitext …`, which must succeed; returns what it printed."""

    def command(*arguments: object) -> str:
        monkeypatch.setattr("sys.argv", ["minitext", *map(str, arguments)])
        assert cli.main() == 0, capsys.readouterr().err
        return capsys.readouterr().out

    return command


@pytest.fixture
def refused(monkeypatch, capsys) -> Callable[..., str]:
    """Run `minitext …`, which must be refused with status 2; returns the one line of the error."""

    def command(*arguments: object) -> str:
        monkeypatch.setattr("sys.argv", ["minitext", *map(str, arguments)])
        assert cli.main() == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ") and error.count("\n") == 1, error
        return error

    return command


def read_json(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


# Scores


def test_the_test_texts_of_a_run_get_its_scores_again(minitext, run, own, tmp_path):
    minitext("evaluate", run, "--data", own)
    found, expected = (read_json(folder / "scores.json")["test"] for folder in (tmp_path / "mlp-on-own", run))
    del expected["generalization_gap"]  # it and the words not in train need the training texts
    expected["subgroup_accuracy"] = [row for row in expected["subgroup_accuracy"] if row["by"] != "words not in train"]
    assert found.keys() == expected.keys()
    assert found["accuracy"] == expected["accuracy"]
    assert found["subgroup_accuracy"] == expected["subgroup_accuracy"]
    for before, now in zip(*(read_run(folder).probabilities for folder in (run, tmp_path / "mlp-on-own")), strict=True):
        assert now == pytest.approx(before, abs=1e-6)  # float32 weights were divided by the temperature
    assert found["before_temperature"] == pytest.approx(expected["before_temperature"], abs=1e-6)


def test_probabilities_are_those_of_predict(minitext, run, other, tmp_path):
    minitext("evaluate", run, "--data", other)
    minitext("predict", run, "--input", other, "--output", tmp_path / "out.csv")
    tables = []
    for path in (tmp_path / "mlp-on-other" / "predictions.csv", tmp_path / "out.csv"):
        with open(path, encoding="utf-8", newline="") as file:
            tables.append([(row["predicted"], row["p(neg)"], row["p(pos)"]) for row in csv.DictReader(file)])
    assert tables[0] == tables[1]


def test_all_rows_are_test_and_the_folder_has_neither_model_nor_curves(minitext, run, other, tmp_path):
    printed = minitext("evaluate", run, "--data", other)
    folder = tmp_path / "mlp-on-other"
    assert sorted(path.name for path in folder.iterdir()) == FILES
    scores = read_json(folder / "scores.json")
    assert (list(scores), scores["test"]["count"], scores["test"]["accuracy"]["value"]) == (["test"], 5, 0.8)
    assert f"data: {other}; test 5: all texts of the source" in printed
    assert "accuracy                         80.0 % [" in printed


def test_each_phase_is_printed(minitext, run, other):
    printed = minitext("evaluate", run, "--data", other)
    for phase in (f"reading {other}", "predicting 5 texts on cpu", "scoring", "drawing figures"):
        assert f"{phase} …\n" in printed and f"\n{phase}: " in f"\n{printed}"


def test_of_a_source_with_splits_only_test_is_used(minitext, run, tmp_path):
    rows = [("meh", "unused", "train"), *((*row, "test") for row in OTHER)]
    table = write_table(tmp_path / "split.csv", rows, ("label", "text", "split"))
    printed = minitext("evaluate", run, "--data", table)
    assert f"data: {table}; test 5: those marked as test; the other splits are not used" in printed


def test_a_class_without_texts_is_named(minitext, run, tmp_path):
    printed = minitext("evaluate", run, "--data", write_table(tmp_path / "neg.csv", [("neg", "bad"), ("neg", "good")]))
    assert "classes without texts: 1 of 2: pos" in printed
    assert read_run(tmp_path / "mlp-on-neg").scores["roc_auc"]["value"] is None


@pytest.mark.parametrize(
    ("name", "content", "options"),
    [
        ("a.txt", b"__label__pos good\n__label__neg good\n", []),
        ("b.csv", b"pos;good\nneg;good\n", ["--no-header", "--delimiter", ";", "--text-column", "2",
                                            "--label-column", "1"]),
        ("c.tsv", "stars\tbody\npos\tgood caf\u00e9\nneg\tgood\n".encode("latin-1"),
         ["--text-column", "body", "--label-column", "stars", "--encoding", "latin-1"]),
    ],
)  # fmt: skip
def test_formats_are_those_of_the_scripts(minitext, run, tmp_path, name: str, content: bytes, options: list[str]):
    (tmp_path / name).write_bytes(content)
    minitext("evaluate", run, "--data", tmp_path / name, *options, "--out", tmp_path / "result")
    assert read_run(tmp_path / "result").correct.tolist() == [True, False]


# What is known of the texts


def test_the_report_says_that_single_texts_were_not_compared(minitext, run, other, tmp_path):
    minitext("evaluate", run, "--data", other)
    report = (tmp_path / "mlp-on-other" / "report.md").read_text(encoding="utf-8")
    assert "Evaluation of the finished run `../mlp` (trained 2026-11-24T10:00:00)" in report
    assert "these are not the train, valid, test texts of the run as a whole (by fingerprint)" in report
    assert "single texts were not compared, as a run keeps no training texts" in report
    assert "Here nothing was fitted" in report and "curves.png" not in report and "Overfitting" not in report


@pytest.mark.parametrize("part", ["train", "valid", "test"])
def test_the_texts_of_the_run_itself_are_recognized(minitext, run, other, tmp_path, part: str):
    minitext("evaluate", run, "--data", other)
    fingerprint = read_json(tmp_path / "mlp-on-other" / "settings.json")["data_found"]["test"]["fingerprint"]
    settings = read_json(run / "settings.json")
    settings["data_found"][part]["fingerprint"] = fingerprint
    (run / "settings.json").write_text(json.dumps(settings), encoding="utf-8")
    printed = minitext("evaluate", run, "--data", other, "--overwrite")
    warning = "" if part == "test" else "warning: "
    assert f"overlap with the run's texts: {warning}these are the {part} texts of the run, with the same" in printed


def test_the_source_of_the_training_texts_is_recognized(minitext, run, other):
    settings = read_json(run / "settings.json")
    settings["data"]["data"] = str(other.parent / "mlp" / ".." / other.name)
    (run / "settings.json").write_text(json.dumps(settings), encoding="utf-8")
    assert f"warning: the run was trained on texts of {other}" in minitext("evaluate", run, "--data", other)


# Refusals


@pytest.mark.parametrize(
    ("label", "message"),
    [
        ("meh", "new.csv:3: label 'meh' does not occur in {run} (neg, pos); fix the row"),
        ("Pos", "new.csv:3: label 'Pos' does not occur"),
        ("", "new.csv, line 3: the label is empty"),
    ],
)
def test_a_label_that_is_no_class_of_the_run_is_refused_with_its_line(refused, run, tmp_path, label: str, message: str):
    table = write_table(tmp_path / "new.csv", [("pos", "good"), (label, "bad")])
    assert message.format(run=run) in refused("evaluate", run, "--data", table)
    assert not (tmp_path / "mlp-on-new").exists()


def test_a_class_that_is_another_spelling_of_a_number_is_refused(refused, tmp_path):
    run = train(tmp_path / "mlp", write_table(tmp_path / "a.csv", [(label, "x") for _, label in zip(TEST, "01011")]),
                names=("0", "1"))  # fmt: skip
    table = write_table(tmp_path / "b.csv", [("1", "good"), ("1.0", "good")])
    assert "b.csv:3: label '1.0' is the number '1' of" in refused("evaluate", run, "--data", table)


def test_splits_without_test_are_refused(refused, run, tmp_path):
    table = write_table(tmp_path / "a.csv", [("pos", "good", "train")], ("label", "text", "split"))
    assert "a.csv: has splits but no test text" in refused("evaluate", run, "--data", table)


def test_a_killed_evaluation_is_repeated(minitext, refused, run, other, tmp_path, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("minitext.reporting.evaluate.score_new_data", interrupt)
        evaluate(run, Config(LabeledDataConfig(data=str(other)), ResultConfig()))
    assert "unfinished run; repeat its command\n" in refused("plot", tmp_path / "mlp-on-other")
    minitext("evaluate", run, "--data", other)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mlp", "mlp-on-other", "other.csv", "own.csv"]


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def test_an_existing_result_is_replaced_only_with_overwrite(minitext, refused, run, other, tmp_path):
    minitext("evaluate", run, "--data", other)
    assert "pass another --out, or --overwrite" in refused("evaluate", run, "--data", other)
    write_table(other, OTHER[:2])
    minitext("evaluate", run, "--data", other, "--overwrite")
    assert len(read_run(tmp_path / "mlp-on-other").labels) == 2


@pytest.mark.parametrize("out", ["mlp", "second"])
def test_a_trained_run_is_never_replaced(refused, run, own, other, tmp_path, out: str):
    train(tmp_path / "second", own)
    error = refused("evaluate", run, "--data", other, "--out", tmp_path / out, "--overwrite")
    assert "contains a trained run, and no evaluation; pass another folder" in error
    assert (tmp_path / out / "model.safetensors").exists()


def test_a_result_that_contains_the_data_is_not_replaced(minitext, refused, run, other, tmp_path):
    minitext("evaluate", run, "--data", other)
    data = shutil.copy(other, tmp_path / "mlp-on-other" / "data.csv")
    error = refused("evaluate", run, "--data", data, "--out", tmp_path / "mlp-on-other", "--overwrite")
    assert "contains the data" in error and Path(data).exists()


@pytest.mark.parametrize("command", ["evaluate", "predict", "explain"])
def test_a_result_has_no_model(minitext, refused, run, other, tmp_path, command: str):
    minitext("evaluate", run, "--data", other)
    rest = ["--data", other] if command == "evaluate" else ["good"]
    message = f"has no model, it is an evaluation; pass the run: {run}"
    assert message in refused(command, tmp_path / "mlp-on-other", *rest)


@pytest.mark.parametrize(
    "evaluated", [..., None, "x", {}, {"folder": "../mlp"}, {"folder": 1, "started": "x"}], ids=str
)
def test_a_corrupt_result_is_refused_in_one_line(minitext, refused, run, other, tmp_path, evaluated: object):
    minitext("evaluate", run, "--data", other)
    folder = tmp_path / "mlp-on-other"
    settings = read_json(folder / "settings.json") | {"evaluated_run": evaluated}
    if evaluated is ...:
        del settings["evaluated_run"]
    (folder / "settings.json").write_text(json.dumps(settings), encoding="utf-8")
    for command in (["plot"], ["report"], ["compare", "--out", tmp_path / "page.html"]):
        assert f"{folder}: corrupt (" in refused(*command, folder)


@pytest.mark.parametrize(
    ("run", "data", "out"),
    [
        ("runs/mlp", "new/reviews.csv", "runs/mlp-on-reviews"),
        ("runs/mlp/", "reviews.jsonl.gz", "runs/mlp-on-reviews"),
        ("mlp", "aclImdb_v1.tar.gz", "mlp-on-aclImdb_v1"),
        ("runs/mlp/seed0", "imdb", "runs/mlp/seed0-on-imdb"),
        ("runs/mlp", "banking77.test.jsonl", "runs/mlp-on-banking77.test"),
    ],
)
def test_the_default_folder_is_beside_the_run_and_named_by_the_data(run: str, data: str, out: str):
    assert default_out(Path(run), data) == Path(out)


def test_the_default_folder_of_a_folder_of_texts_has_its_name(tmp_path, monkeypatch):
    (tmp_path / "v1.0").mkdir()
    monkeypatch.chdir(tmp_path / "v1.0")
    assert default_out(Path("mlp"), str(tmp_path / "v1.0")) == Path("mlp-on-v1.0")
    assert default_out(Path("."), "x.csv") == tmp_path / "v1.0-on-x"


# The commands that read a result


def test_figures_and_report_can_be_made_again(minitext, run, other, tmp_path, monkeypatch):
    monkeypatch.setattr(plots, "save", save)
    minitext("evaluate", run, "--data", other)
    folder = tmp_path / "mlp-on-other"
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    for path in (*folder.glob("*.png"), folder / "report.md"):
        path.unlink()
    minitext("plot", folder)
    minitext("report", folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_run_is_compared_with_the_evaluation_of_another_on_its_test_texts(minitext, run, own, other, tmp_path):
    second = train(tmp_path / "second", other, weight=-3.0)  # the opposite predictions
    minitext("evaluate", second, "--data", own)
    printed = minitext("compare", run, tmp_path / "second-on-own", "--out", tmp_path / "page.html")
    rows = {line[:29].strip(): line for line in printed.splitlines()}
    assert "2 runs on 5 test texts" in printed and "mlp - second-on-own" in printed
    assert rows["generalization gap (points)"].endswith("none") and rows["validation loss, best to last"].endswith(
        "none"
    )
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert 'aria-label="Learning curves: mlp"' in page and 'aria-label="Learning curves: second' not in page
    assert 'class="w"' in page  # words colored by the model of the evaluated run


def test_two_evaluations_are_compared_without_learning_curves(minitext, run, own, other, tmp_path):
    second = train(tmp_path / "second", own, weight=-1.0)
    for folder in (run, second):
        minitext("evaluate", folder, "--data", other)
    folders = [tmp_path / f"{name}-on-other" for name in ("mlp", "second")]
    assert "mlp-on-other - second-on-other" in minitext("compare", *folders, "--out", tmp_path / "page.html")
    assert "Learning curves" not in (tmp_path / "page.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("change", ["deleted", "trained again"])
def test_words_are_not_colored_by_another_model(minitext, run, own, tmp_path, change: str):
    second = train(tmp_path / "second", own, weight=-3.0)
    for folder in (run, second):
        minitext("evaluate", folder, "--data", own)
        shutil.rmtree(folder)
        if change == "trained again":
            train(folder, own, seed=1)
    folders = [tmp_path / f"{name}-on-own" for name in ("mlp", "second")]
    minitext("compare", *folders, "--out", tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<h2>Disagreements" in page and 'class="w"' not in page


def test_a_moved_pair_of_run_and_evaluation_is_still_a_pair(minitext, run, other, tmp_path):
    minitext("evaluate", run, "--data", other)
    (tmp_path / "elsewhere").mkdir()
    for name in ("mlp", "mlp-on-other"):
        shutil.move(tmp_path / name, tmp_path / "elsewhere" / name)
    folder = read_run(tmp_path / "elsewhere" / "mlp-on-other").model_folder
    assert folder.resolve() == tmp_path / "elsewhere" / "mlp"


def test_other_texts_are_not_compared(minitext, refused, run, own, other, tmp_path):
    minitext("evaluate", run, "--data", other)
    error = refused("compare", run, tmp_path / "mlp-on-other", "--out", tmp_path / "page.html")
    assert f"data {other} against train.csv" in error and "seed" not in error and "subset" not in error
    assert "evaluate both on the same data" in error


def test_each_seed_is_evaluated_and_seeds_are_paired(minitext, refused, own, other, tmp_path):
    for name, weight in (("mlp", 3.0), ("logistic", -3.0)):
        for seed in (0, 1):
            train(tmp_path / name / f"seed{seed}", own, weight * (1 - 2 * seed), seed)
        minitext("evaluate", tmp_path / name, "--data", other)
    folders = [tmp_path / f"{name}-on-other" for name in ("mlp", "logistic")]
    assert sorted(path.name for path in folders[0].iterdir()) == ["seed0", "seed1"]
    printed = minitext("compare", *folders, "--out", tmp_path / "page.html")
    assert "\n\n2 models over 2 seeds (0, 1), the same test texts" in printed
    assert "Learning curves" not in (tmp_path / "page.html").read_text(encoding="utf-8")
    minitext("evaluate", tmp_path / "mlp" / "seed0", "--data", other, "--out", tmp_path / "one")
    error = refused("evaluate", tmp_path / "mlp", "--data", other, "--out", tmp_path / "one", "--overwrite")
    assert "contains a single run, but" in error


@pytest.mark.parametrize("name", ["costs.json", "predictions.csv", "mistakes.csv", "settings.json"])
def test_a_corrupt_evaluation_is_to_be_evaluated_again_and_no_model_trained(
    run, other, minitext, refused, tmp_path, name: str
):
    out = tmp_path / "new"
    minitext("evaluate", run, "--data", other, "--out", out)
    (out / name).unlink()
    for command in ("plot", "report"):
        error = refused(command, out)
        assert "re-train" not in error
        again = f"minitext evaluate {run} --data FILE --out {out} --overwrite"
        assert (again if name != "settings.json" else "delete it and run minitext evaluate again") in error
    if name != "settings.json":
        minitext("evaluate", run, "--data", other, "--out", out, "--overwrite")
        minitext("report", out)


def test_plot_and_report_print_when_they_begin_and_end(run, minitext):
    for command, phase in (("plot", "drawing figures"), ("report", "writing the report")):
        first, last = minitext(command, run).splitlines()
        assert first == f"{phase} …"
        assert last.startswith(f"{phase}: ") and last.endswith(" s")
