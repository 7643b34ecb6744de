"""train_static.py, run as its users run it, leaves two whole run folders or, on bad input, one line and nothing
else; on IMDB it reaches what averaged vectors can.
"""

import csv
import io
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = [
    "config.json", "confusion.png", "costs.json", "curves.png", "metrics.jsonl", "mistakes.csv", "model.safetensors",
    "predictions.csv", "probabilities.png", "reliability.png", "report.md", "scores.json", "settings.json", "words.txt",
]  # fmt: skip
SCORES = ["accuracy", "macro_precision", "macro_recall", "macro_f1", "roc_auc", "log_loss"]
TOPICS = ["sea", "sky", "city"]
VECTORS = "sea 4 0 0\nsky 0 4 0\ncity 0 0 4\nand 1 1 1\n"
FAST = ("--epochs", "3", "--hidden", "8", "--l2", "0.1")


def call(*arguments: str | Path, timeout: float = 120) -> subprocess.CompletedProcess:
    """The script, in a process of its own; two threads at most, since the machine is shared."""
    return subprocess.run(
        [sys.executable, "train_static.py", *map(str, arguments)],
        cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "2"}, capture_output=True, text=True, timeout=timeout,
        check=False,
    )  # fmt: skip


def write_topics(path: Path, count: int = 60, header: str = "text,label") -> Path:
    """Three classes that one word each decides; no two texts are the same."""
    rows = [f"{TOPICS[i % 3]} and{' x' * (i // 3)},{TOPICS[i % 3]}" for i in range(count)]
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


@pytest.fixture
def topics(tmp_path) -> tuple[str, ...]:
    """Options for a run that takes a second."""
    (tmp_path / "vectors.txt").write_text(VECTORS)
    data = write_topics(tmp_path / "topics.csv")
    return ("--data", str(data), "--vectors", str(tmp_path / "vectors.txt"), *FAST)


def read_scores(folder: Path) -> dict:
    return json.loads((folder / "scores.json").read_text(encoding="utf-8"))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def accuracy(out: Path) -> dict[str, float]:
    return {kind: read_scores(out / kind)["test"]["accuracy"]["value"] for kind in ("logistic", "mlp")}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# Runs that end well


@pytest.mark.slow
def test_the_sample_gives_two_whole_runs(tmp_path):
    done = call("--out", tmp_path / "run")
    assert (done.returncode, done.stderr) == (0, "")
    assert names(tmp_path / "run") == ["logistic", "mlp"]
    for kind in ("logistic", "mlp"):
        assert names(tmp_path / "run" / kind) == FILES
        scores = read_scores(tmp_path / "run" / kind)
        assert {part: values["count"] for part, values in scores.items()} == {"train": 404, "valid": 46, "test": 150}
        for part in scores.values():
            for name in SCORES:
                assert part[name]["low"] <= part[name]["value"] <= part[name]["high"]
    # of 150 texts, half of them positive, chance is above 0.58 in one of 40 draws
    assert min(accuracy(tmp_path / "run").values()) > 0.58


def test_three_classes_are_learnt_from_a_table_with_vectors_of_ones_own(tmp_path, topics):
    done = call(*topics, "--l2", "0.01", "--epochs", "60", "--hidden", "32", "--lr", "0.01", "--out", tmp_path / "run")
    assert (done.returncode, done.stderr) == (0, "")
    assert accuracy(tmp_path / "run") == {"logistic": 1, "mlp": 1}
    for kind in ("logistic", "mlp"):
        assert names(tmp_path / "run" / kind) == FILES
        with open(tmp_path / "run" / kind / "predictions.csv", encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        assert list(rows[0]) == ["id", "label", "predicted", "p(city)", "p(sea)", "p(sky)"]
        assert len(rows) == 12  # a fifth of 60
        assert all(row["id"].startswith("topics.csv:") for row in rows)


@pytest.mark.slow
def test_one_seed_gives_the_same_predictions_and_another_seed_others(tmp_path, topics):
    for name, seed in (("first", "5"), ("second", "5"), ("third", "6")):
        assert call(*topics, "--seed", seed, "--out", tmp_path / name).returncode == 0
    for kind in ("logistic", "mlp"):
        first, second, third = (
            (tmp_path / n / kind / "predictions.csv").read_bytes() for n in ("first", "second", "third")
        )
        assert first == second != third


def test_quiet_prints_nothing(tmp_path, topics):
    done = call(*topics, "--quiet", "--out", tmp_path / "run")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.slow
def test_sif_weights_give_whole_runs_and_other_predictions(tmp_path, topics):
    done = call(*topics, "--pooling", "sif", "--out", tmp_path / "sif")
    assert (done.returncode, done.stderr) == (0, "")
    assert names(tmp_path / "sif" / "logistic") == names(tmp_path / "sif" / "mlp") == FILES
    assert call(*topics, "--out", tmp_path / "mean").returncode == 0
    sif, mean = (tmp_path / name / "logistic" / "predictions.csv" for name in ("sif", "mean"))
    assert sif.read_bytes() != mean.read_bytes()


@pytest.mark.slow
def test_duplicates_are_reported_and_dropped_from_train_when_asked(tmp_path, topics):
    test = tmp_path / "test.csv"
    test.write_text(
        "text,label\nsea and,sea\nsky and,sky\ncity sea and sky,city\n"
    )  # the first two stand in topics.csv
    counts = {}
    for name, more in (("kept", ()), ("dropped", ("--drop-duplicates",))):
        done = call(*topics, "--valid-data", test, "--test-data", test, "--out", tmp_path / name, *more)
        assert (done.returncode, done.stderr) == (0, "")
        assert "train/test 2 exact" in done.stdout
        counts[name] = read_scores(tmp_path / name / "logistic")["train"]["count"]
    assert counts == {"kept": 60, "dropped": 58}


# Runs that are refused


def refused(*arguments: str | Path) -> str:
    """The one line of a run that is refused."""
    done = call(*arguments)
    assert (done.returncode, done.stdout.count("Traceback")) == (2, 0), done.stderr
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr
    return done.stderr


@pytest.mark.slow
def test_a_finished_run_is_refused_and_untouched_unless_overwritten(tmp_path, topics):
    assert call(*topics, "--out", tmp_path / "run").returncode == 0
    before = contents(tmp_path / "run")
    assert "--overwrite" in refused(*topics, "--seed", "1", "--out", tmp_path / "run")
    assert contents(tmp_path / "run") == before
    assert call(*topics, "--seed", "1", "--out", tmp_path / "run", "--overwrite").returncode == 0
    assert names(tmp_path / "run") == ["logistic", "mlp"]
    settings = json.loads((tmp_path / "run" / "mlp" / "settings.json").read_text(encoding="utf-8"))
    assert settings["run"]["seed"] == 1


def archive(member: str = "aclImdb/train/pos/0_9.txt") -> bytes:
    """A tar.gz with one review."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as file:
        entry = tarfile.TarInfo(member)
        entry.size = 4
        file.addfile(entry, io.BytesIO(b"good"))
    return buffer.getvalue()


BAD_DATA = {
    "missing.csv": (None, "no such file"),
    "empty.csv": (b"", "holds no labelled text"),
    "one_class.csv": (b"text,label\nsea,wet\nsky,wet\ncity,wet\n", "needs at least two classes"),
    "no_column.csv": (b"words,label\nsea,wet\n", "line 1: no column any of text"),
    "empty_label.csv": (b"text,label\nsea,wet\nsky,\n", "line 3: the label is empty"),
    "truncated.tar.gz": (archive()[:-20], "not a whole tar.gz archive"),
    "outside.tar.gz": (archive("../train/pos/0_9.txt"), "points outside"),
}


@pytest.mark.parametrize("name", BAD_DATA)
def test_bad_data_is_refused_in_one_line_and_leaves_no_folder(tmp_path, topics, name: str):
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
def test_bad_vectors_are_refused_in_one_line_and_leave_no_folder(tmp_path, topics, vectors: str | None, message: str):
    if vectors is not None:
        (tmp_path / "bad.txt").write_text(vectors)
    error = refused(*topics, "--vectors", tmp_path / "bad.txt", "--out", tmp_path / "new" / "run")
    assert "bad.txt" in error
    assert message in error
    assert not (tmp_path / "new").exists()


def test_an_unknown_device_is_refused_in_one_line_and_leaves_no_folder(tmp_path, topics):
    assert "--device abacus" in refused(*topics, "--device", "abacus", "--out", tmp_path / "new" / "run")
    assert not (tmp_path / "new").exists()


# Real data


@pytest.mark.slow
def test_a_small_fraction_of_imdb_is_learnt(tmp_path, imdb, real_vectors):
    done = call("--data", imdb, "--vectors", real_vectors, "--subset", "0.04", "0.02", "--out", tmp_path / "run")
    assert (done.returncode, done.stderr) == (0, "")
    assert read_scores(tmp_path / "run" / "mlp")["test"]["count"] == 500
    assert min(accuracy(tmp_path / "run").values()) > 0.68  # loose: the interval of 500 texts is 8 points wide


@pytest.mark.slow
def test_all_of_imdb_reaches_what_averaged_vectors_can(tmp_path, imdb, real_vectors):
    done = call("--data", imdb, "--vectors", real_vectors, "--out", tmp_path / "run", timeout=500)
    assert (done.returncode, done.stderr) == (0, "")
    found = accuracy(tmp_path / "run")  # on 25,000 texts the interval is 1.1 points wide
    assert found["mlp"] >= 0.755  # the lower ends of the intervals of the README's table
    assert found["logistic"] >= 0.739
