"""train_static.py writes two complete run directories or, on bad input, one line; accuracies on IMDB."""

import csv
import io
import json
import os
import re
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

import train_static
from minitext.evaluation.predictor import Predictor
from minitext.reporting import plots
from minitext.utils.errors import exit_status
from minitext.utils.io import lock_output

ROOT = Path(__file__).parents[1]

FILES = [
    "config.json", "confusion.png", "costs.json", "curves.png", "metrics.jsonl", "mistakes.csv", "model.safetensors",
    "notes.json", "predictions.csv", "probabilities.png", "reliability.png", "report.md", "scores.json",
    "settings.json", "words.txt",
]  # fmt: skip
SCORES = ["accuracy", "macro_precision", "macro_recall", "macro_f1", "roc_auc", "log_loss"]
TOPICS = ["sea", "sky", "city"]
VECTORS = "sea 4 0 0\nsky 0 4 0\ncity 0 0 4\nand 1 1 1\n"
FAST = ("--epochs", "3", "--hidden", "8", "--l2", "0.1")


def write_topics(path: Path, count: int = 60, classes: int = 3) -> Path:
    """Three classes, each with a word of its own; no two texts are the same."""
    rows = [f"{TOPICS[i % classes]} and{' x' * (i // classes)},{TOPICS[i % classes]}" for i in range(count)]
    path.write_text("\n".join(["text,label", *rows]) + "\n")
    return path


class Done(NamedTuple):
    """What a call of the script left."""

    code: int
    out: str
    err: str


Call = Callable[..., Done]


@pytest.fixture
def call(monkeypatch, capsys) -> Call:
    """Runs the script in this process."""

    def run(*arguments: str | Path) -> Done:
        monkeypatch.setattr("sys.argv", ["train_static.py", *map(str, arguments)])
        capsys.readouterr()
        return Done(exit_status(train_static.main), *capsys.readouterr())

    return run


@pytest.fixture
def refused(call) -> Callable[..., str]:
    """Runs the script, which has to refuse its arguments; returns the one line of its error."""

    def run(*arguments: str | Path) -> str:
        done = call(*arguments)
        assert (done.code, done.out.count("Traceback")) == (2, 0), done.err
        assert done.err.startswith("error: ") and done.err.count("\n") == 1, done.err
        return done.err

    return run


@pytest.fixture
def topics(tmp_path) -> tuple[str, ...]:
    """Options of a run that takes a second."""
    (tmp_path / "vectors.txt").write_text(VECTORS)
    data = write_topics(tmp_path / "topics.csv")
    return ("--data", str(data), "--vectors", str(tmp_path / "vectors.txt"), *FAST)


def read_scores(folder: Path) -> dict:
    return json.loads((folder / "scores.json").read_text(encoding="utf-8"))


def read_predictions(folder: Path) -> list[dict[str, str]]:
    with open(folder / "predictions.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def read_temperature(folder: Path) -> float:
    return read_scores(folder)["test"]["before_temperature"]["temperature"]


def accuracy(out: Path) -> dict[str, float]:
    return {kind: read_scores(out / kind)["test"]["accuracy"]["value"] for kind in ("logistic", "mlp")}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# Complete runs


@pytest.mark.slow
def test_the_sample_gives_two_complete_runs(tmp_path, call):
    done = call("--out", tmp_path / "run")
    assert (done.code, done.err) == (0, "")
    assert "using the bundled sample; for real data: --data imdb --vectors glove.6B.100d\n" in done.out
    assert names(tmp_path / "run") == ["logistic", "mlp"]
    for kind in ("logistic", "mlp"):
        assert names(tmp_path / "run" / kind) == FILES
        scores = read_scores(tmp_path / "run" / kind)
        assert {part: values["count"] for part, values in scores.items()} == {"train": 1000, "valid": 100, "test": 500}
        for part in scores.values():
            for name in SCORES:
                assert part[name]["low"] <= part[name]["value"] <= part[name]["high"]
    # of 500 texts, half of them positive, chance is above 0.55 in one of 89 draws
    assert min(accuracy(tmp_path / "run").values()) > 0.55


def test_three_classes_with_own_data_and_vectors(tmp_path, call, topics):
    done = call(*topics, "--l2", "0.01", "--epochs", "60", "--hidden", "32", "--lr", "0.01", "--out", tmp_path / "run")
    assert (done.code, done.err) == (0, "")
    for line in (
        "short sentence: encoded 'The plot was thin, but I loved every minute of it.' to shape (1, 3) in ",
        "vocabulary coverage: train ",
        "logistic regression: L2 0.01 (by validation loss), converged after ",
        "MLP: epoch ",
    ):
        assert f"\n{line}" in done.out
    assert accuracy(tmp_path / "run") == {"logistic": 1, "mlp": 1}
    for kind in ("logistic", "mlp"):
        assert names(tmp_path / "run" / kind) == FILES
        rows = read_predictions(tmp_path / "run" / kind)
        assert list(rows[0]) == ["id", "label", "predicted", "p(city)", "p(sea)", "p(sky)"]
        assert len(rows) == 12  # a fifth of 60
        assert all(row["id"].startswith("topics.csv:") for row in rows)


@pytest.mark.parametrize("classes", [2, 3])
def test_the_saved_models_give_the_calibrated_probabilities(tmp_path, call, topics, monkeypatch, classes: int):
    monkeypatch.setattr(train_static, "fit_temperature", lambda *_: 2.0)  # these few texts would keep T = 1
    data = write_topics(tmp_path / "some.csv", classes=classes)
    assert call(*topics, "--data", data, "--out", tmp_path / "run").code == 0
    with open(data, encoding="utf-8", newline="") as file:
        texts = [row["text"] for row in csv.DictReader(file)]
    for kind in ("logistic", "mlp"):
        rows = read_predictions(tmp_path / "run" / kind)
        predictor = Predictor.load(tmp_path / "run" / kind)
        written = np.array([[float(row[f"p({name})"]) for name in predictor.class_names] for row in rows])
        test_texts = [texts[int(row["id"].split(":")[1]) - 2] for row in rows]  # line 1 is the header
        assert np.abs(predictor.predict_proba(test_texts) - written).max() < 1e-6  # float32 logits
        assert read_temperature(tmp_path / "run" / kind) == 2.0


@pytest.mark.slow
def test_several_seeds_are_summarized(tmp_path, call, topics):
    done = call(*topics, "--num-seeds", "2", "--out", tmp_path / "run")
    assert (done.code, done.err) == (0, "")
    for kind in ("logistic", "mlp"):
        assert names(tmp_path / "run" / kind) == ["curves.png", "seed0", "seed1", "seeds.json"]
    assert done.out.count("of 2 seeds\n") == 2


def test_fits_that_do_not_converge_are_warnings_with_the_option_to_change_in_output_and_report(tmp_path, call, topics):
    done = call(*topics, "--iterations", "1", "--out", tmp_path / "run")
    assert (done.code, done.err) == (0, "")
    warnings = (
        "warning, logistic regression: not converged after 1 iterations; pass more --iterations, or a larger --l2",
        "warning, MLP: may still improve (the best of 3 epochs was 3); pass more --epochs",
    )
    report = (tmp_path / "run" / "mlp" / "report.md").read_text(encoding="utf-8")
    for warning in warnings:
        assert f"\n{warning}\n" in done.out
        assert f"- {warning}\n" in report


def test_converged_fits_are_reported_as_such(tmp_path, call, topics):
    done = call(*topics, "--epochs", "60", "--lr", "0.1", "--patience", "2", "--out", tmp_path / "run")
    assert "\nwarning, " not in done.out
    assert re.search(
        r"\nlogistic regression: L2 0.1 \(by validation loss\), converged after \d+ iterations; ", done.out
    )
    assert re.search(r"\nMLP: epoch \d+ of \d+ \(by validation loss\), stopped by --patience; ", done.out)


def test_balanced_class_weights_and_macro_f1_help_a_rare_class(tmp_path, call, topics):
    """19 texts of 20 are of one class, and the words say little: without weights nobody finds the rare one."""
    rows = [
        f"and{' x' * i} {'sea' if i % 20 == 0 or i % 3 == 0 else 'sky'},{'rare' if i % 20 == 0 else 'common'}"
        for i in range(200)
    ]
    data = tmp_path / "rare.csv"
    data.write_text("\n".join(["text,label", *rows]) + "\n")
    recall = {}
    for name, more in (("equal", ()), ("balanced", ("--class-weights", "balanced", "--select-by", "macro_f1"))):
        done = call(*topics, "--data", data, "--epochs", "30", "--lr", "0.01", *more, "--out", tmp_path / name)
        assert (done.code, done.err) == (0, "")
        assert f"(by validation {'macro_f1' if more else 'loss'})" in done.out
        for kind in ("logistic", "mlp"):
            recall[name, kind] = read_scores(tmp_path / name / kind)["test"]["per_class"]["rare"]["recall"]["value"]
    assert recall["equal", "logistic"] == recall["equal", "mlp"] == 0
    assert recall["balanced", "logistic"] == recall["balanced", "mlp"] == 1


def test_the_bundled_vectors_are_named_as_those_of_film_reviews_in_help_and_report(tmp_path, call, topics, capsys):
    data = write_language(tmp_path / "data.csv", ["the film was good and I liked it", "a bad plot and a dull film"])
    assert call("--data", data, *FAST, "--out", tmp_path / "run").code == 0
    report = (tmp_path / "run" / "mlp" / "report.md").read_text(encoding="utf-8")
    assert "- word vectors: sample (bundled, trained on English film reviews); " in report
    with pytest.raises(SystemExit):
        call("--help")
    assert "sample (bundled, trained on English film reviews), glove" in " ".join(capsys.readouterr().out.split())


@pytest.mark.slow
def test_a_seed_determines_the_predictions(tmp_path, call, topics):
    for name, seed in (("first", "5"), ("second", "5"), ("third", "6")):
        assert call(*topics, "--seed", seed, "--out", tmp_path / name).code == 0
    for kind in ("logistic", "mlp"):
        first, second, third = (
            (tmp_path / n / kind / "predictions.csv").read_bytes() for n in ("first", "second", "third")
        )
        assert first == second != third


def test_quiet_prints_nothing(tmp_path, call, topics):
    done = call(*topics, "--quiet", "--out", tmp_path / "run")
    assert (done.code, done.out, done.err) == (0, "", "")


@pytest.mark.slow
def test_sif_pooling_gives_complete_runs_and_other_predictions(tmp_path, call, topics):
    done = call(*topics, "--pooling", "sif", "--out", tmp_path / "sif")
    assert (done.code, done.err) == (0, "")
    assert names(tmp_path / "sif" / "logistic") == names(tmp_path / "sif" / "mlp") == FILES
    assert call(*topics, "--out", tmp_path / "mean").code == 0
    sif, mean = (tmp_path / name / "logistic" / "predictions.csv" for name in ("sif", "mean"))
    assert sif.read_bytes() != mean.read_bytes()


@pytest.mark.slow
def test_duplicates_are_reported_and_dropped_with_the_flag(tmp_path, call, topics):
    test = tmp_path / "test.csv"
    test.write_text("text,label\nsea and,sea\nsky and,sky\ncity sea and sky,city\n")  # topics.csv has the first two
    counts = {}
    for name, more in (("kept", ()), ("dropped", ("--drop-duplicates",))):
        done = call(*topics, "--valid-data", test, "--test-data", test, "--out", tmp_path / name, *more)
        assert (done.code, done.err) == (0, "")
        assert "duplicates across splits: train/valid 2, train/test 2, valid/test 3\n" in done.out
        counts[name] = read_scores(tmp_path / name / "logistic")["train"]["count"]
    assert counts == {"kept": 60, "dropped": 58}


# Refused runs


@pytest.mark.slow
def test_a_finished_run_is_kept_unless_overwritten(tmp_path, call, refused, topics):
    assert call(*topics, "--out", tmp_path / "run").code == 0
    before = contents(tmp_path / "run")
    assert "--overwrite" in refused(*topics, "--seed", "1", "--out", tmp_path / "run")
    assert contents(tmp_path / "run") == before
    assert call(*topics, "--seed", "1", "--out", tmp_path / "run", "--overwrite").code == 0
    assert names(tmp_path / "run") == ["logistic", "mlp"]
    settings = json.loads((tmp_path / "run" / "mlp" / "settings.json").read_text(encoding="utf-8"))
    assert settings["run"]["seed"] == 1


def archive() -> bytes:
    """A tar.gz with one review."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as file:
        entry = tarfile.TarInfo("aclImdb/train/pos/0_9.txt")
        entry.size = 4
        file.addfile(entry, io.BytesIO(b"good"))
    return buffer.getvalue()


BAD_DATA = {
    "missing.csv": (None, "no such file"),
    "empty.csv": (b"", "no column names"),
    "one_class.csv": (b"text,label\nsea,wet\nsky,wet\ncity,wet\n", "needs at least two classes"),
    "no_column.csv": (b"words,label\nsea,wet\n", "line 1: no column any of text"),
    "empty_label.csv": (b"text,label\nsea,wet\nsky,\n", "line 3: the label is empty"),
    "truncated.tar.gz": (archive()[:-20], "damaged or cut short"),
}


@pytest.mark.parametrize("name", BAD_DATA)
def test_bad_data_are_refused_before_a_folder_exists(tmp_path, refused, topics, name: str):
    content, message = BAD_DATA[name]
    if content is not None:
        (tmp_path / name).write_bytes(content)
    error = refused(*topics, "--data", tmp_path / name, "--out", tmp_path / "new" / "run")
    assert message in error
    assert name in error
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        ("sea 4 0 0\nsky 0 4\ncity 0 0 4\nand 1 1 1\n", "line 2"),
        ("", "line 1: the file is empty"),
        (None, "no such file"),
    ],
)
def test_bad_vectors_are_refused_before_a_folder_exists(tmp_path, refused, topics, vectors: str | None, message: str):
    if vectors is not None:
        (tmp_path / "bad.txt").write_text(vectors)
    error = refused(*topics, "--vectors", tmp_path / "bad.txt", "--out", tmp_path / "new" / "run")
    assert "bad.txt" in error
    assert message in error
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--lr", "-1"), ("--lr", "nan"), ("--lr", "inf"), ("--weight-decay", "-5"), ("--weight-decay", "inf"),
        ("--iterations", "0"), ("--l2", "nan"), ("--l2", "-1"), ("--l2", "inf"), ("--seed", "18446744073709551616"),
        ("--seed", "-1"), ("--dropout", "nan"), ("--patience", "0"), ("--valid-fraction", "nan"), ("--num-seeds", "0"),
        ("--out", ""), ("--out", "."), ("--out", ".."), ("--out", "/"), ("--out", "x" * 300),
    ],
)  # fmt: skip
def test_options_out_of_range_are_refused_before_any_work(tmp_path, monkeypatch, refused, topics, option, value):
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.iterdir())
    assert option in refused(*topics, f"{option}={value}")
    assert sorted(tmp_path.iterdir()) == before


def test_an_mlp_that_diverges_is_refused(tmp_path, refused, topics):
    error = refused(*topics, "--lr", "1e30", "--epochs", "9", "--out", tmp_path / "run")
    assert re.search(r"MLP, epoch \d+: the loss on (train|valid) is (nan|inf); lower --lr \(now 1e\+30\)", error)
    assert not (tmp_path / "run" / "mlp").exists()


def test_figures_that_fail_cost_no_run_and_no_seed(tmp_path, monkeypatch, call, topics):
    def fail(*_):
        raise RuntimeError("no font")

    monkeypatch.setattr(plots, "draw", fail)
    done = call(*topics, "--num-seeds", "2", "--out", tmp_path / "run")
    assert done.code == 1
    folders = [tmp_path / "run" / name / f"seed{seed}" for seed in range(2) for name in ("logistic", "mlp")]
    assert done.err.splitlines() == [
        "error: drawing the figures failed (RuntimeError: no font); model, scores and predictions are saved; "
        f"repeat it with: minitext plot {folder}"
        for folder in folders
    ]
    for folder in folders:
        assert set(names(folder)) == {name for name in FILES if not name.endswith(".png")}
    assert (tmp_path / "run" / "mlp" / "seeds.json").exists()


def test_a_second_process_on_the_same_folder_is_refused_before_the_training(tmp_path, monkeypatch, refused, topics):
    monkeypatch.setattr(train_static, "fit_logistic", None)  # would fail
    with lock_output(tmp_path / "run" / "logistic"):
        assert "another process is writing it" in refused(*topics, "--out", tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["cp1252", "cp932", "ascii"])
def test_a_console_that_lacks_characters_costs_no_run(tmp_path, topics, encoding: str):
    data = tmp_path / "topics.csv"
    data.write_text(data.read_text(encoding="utf-8").replace("sea", "mer é海\U0001f40b"), encoding="utf-8")
    environment = os.environ | {"PYTHONIOENCODING": encoding, "MPLBACKEND": "module://matplotlib_inline.backend_inline"}
    command = [sys.executable, ROOT / "train_static.py", *topics, "--num-seeds", "2", "--out", tmp_path / "run"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    for seed in range(2):
        assert names(tmp_path / "run" / "mlp" / f"seed{seed}") == FILES
    report = (tmp_path / "run" / "mlp" / "seed0" / "report.md").read_text(encoding="utf-8")
    assert "mer é海\U0001f40b" in report


def test_torchrun_is_refused(tmp_path, monkeypatch, refused, topics):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "run it without torchrun" in refused(*topics, "--out", tmp_path / "run")
    assert not (tmp_path / "run").exists()


# Real data


@pytest.mark.slow
def test_accuracy_on_a_subset_of_imdb(tmp_path, call, imdb, real_vectors):
    done = call("--data", imdb, "--vectors", real_vectors, "--subset", "0.04", "0.02", "--out", tmp_path / "run")
    assert (done.code, done.err) == (0, "")
    assert read_scores(tmp_path / "run" / "mlp")["test"]["count"] == 500
    assert min(accuracy(tmp_path / "run").values()) > 0.68  # loose: the interval of 500 texts is 8 points wide


@pytest.mark.slow
def test_accuracy_on_all_of_imdb(tmp_path, call, imdb, real_vectors):
    done = call("--data", imdb, "--vectors", real_vectors, "--out", tmp_path / "run")
    assert (done.code, done.err) == (0, "")
    found = accuracy(tmp_path / "run")  # on 25,000 texts the interval is 1.1 points wide
    assert found["mlp"] >= 0.755  # the lower ends of the intervals of the README's table
    assert found["logistic"] >= 0.739


GERMAN = ["ein sehr schöner Film über die Liebe", "die Handlung war langweilig und viel zu lang"]
CHINESE = ["这部电影非常好看", "情节无聊而且太长"]


def write_language(path: Path, texts: list[str], more: str = "") -> Path:
    rows = [f"{text} {number} {more},{label}" for number in range(12) for label, text in enumerate(texts)]
    path.write_text("\n".join(["text,label", *rows]) + "\n", encoding="utf-8")
    return path


@pytest.mark.parametrize("texts", [["sch\u00f6ner \u00e4pfel", "\u00fcber \u00f6l"], ["\u5f71\u7247", "\u7535\u5f71"]])
def test_vectors_without_any_word_of_the_texts_are_refused(refused, tmp_path, texts: list[str]):
    (tmp_path / "vectors.txt").write_text(VECTORS)
    data = write_language(tmp_path / "data.csv", texts)
    error = refused("--data", data, "--vectors", tmp_path / "vectors.txt", "--out", tmp_path / "runs")
    assert "of the texts has a vector; give vectors of the language of the texts" in error


@pytest.mark.parametrize(("texts", "more"), [(GERMAN, ""), (CHINESE, "film"), (["aa bb cc", "dd ee ff"], "and")])
def test_vectors_of_another_language_are_a_warning_in_output_and_report(call, tmp_path, texts: list[str], more: str):
    data = write_language(tmp_path / "data.csv", texts, more)
    done = call("--data", data, "--out", tmp_path / "runs", *FAST)
    assert "of the words of the training texts have a vector, less than 70%" in done.out
    assert "of the words of the training texts have a vector" in (tmp_path / "runs" / "mlp" / "report.md").read_text()


def test_vectors_of_the_language_of_the_texts_are_no_warning(call, tmp_path):
    data = write_language(tmp_path / "data.csv", ["the film was good and I liked it", "a bad plot and a dull film"])
    assert "\nwarning: " not in call("--data", data, "--out", tmp_path / "runs", *FAST).out
