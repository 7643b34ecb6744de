"""The three tracks with their defaults, and two baselines tuned on validation, on the same splits; one table per file.

    pip install scikit-learn fasttext-numpy2-wheel
    PYTHONPATH=. python tests/benchmarks/defaults.py reviews.csv train.jsonl,test.jsonl [--num-seeds 5] [--part valid]
    PYTHONPATH=. python tests/benchmarks/defaults.py aclImdb_v1.tar.gz --subset 0.04 0.02 --only static tfidf

The tracks are the scripts as a user starts them, each in a process of its own and a temporary run folder; the program
checks that they split the data as it does itself. The baselines learn from the same training texts and choose their
settings by validation accuracy: tf-idf of words and bigrams + logistic regression (scikit-learn) its C, fastText
learning rate, epochs and bigrams. No model learns from validation texts.

Scores: one seed with its 95 % interval over the texts, or mean (standard deviation) over seeds, each of which also
splits anew what the file does not split itself. Seconds: of a script everything from its start to its end, of a
baseline all fits of its search, without reading.

By default the scores are those of test: the figures to publish, once defaults are fixed. `--part valid` prints
validation only, and the baselines then predict no test text. Validation scores are optimistic, as each model chose its
epoch or its settings by them. Defaults are chosen by `choose_defaults.py`.
"""

import argparse
import importlib.util
import itertools
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from minitext.data.dataset import DataConfig, Dataset, Splits, load_dataset
from minitext.data.words import words
from minitext.evaluation.metrics import classification_scores
from minitext.evaluation.significance import mean_and_std
from minitext.reporting.formats import format_mean, format_score, markdown_table
from minitext.utils.io import read_json

ROOT = Path(__file__).parents[2]
TRACKS = ("static", "scratch", "finetune")
BASELINES = ("tfidf", "fasttext")
INVERSE_PENALTIES = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)  # C of scikit-learn
FASTTEXT_GRID = tuple(itertools.product((0.1, 0.5, 1.0), (5, 25, 50), (1, 2)))  # learning rate, epochs, n-grams
MAX_BUCKETS = 2_000_000  # fastText's default; fewer where the texts have fewer words

Predict = Callable[[list[str]], np.ndarray]  # texts to (B, C) probabilities


class Result(NamedTuple):
    """Scores of one model and seed on one part, as in `scores.json`, and what it took."""

    accuracy: dict[str, float]
    macro_f1: dict[str, float]
    count: int  # texts of the part
    seconds: float

    @classmethod
    def of(cls, scores: dict, seconds: float) -> "Result":
        return cls(scores["accuracy"], scores["macro_f1"], scores["count"], seconds)


def run_script(name: str, options: list[str], splits: Splits, part: str) -> dict[str, Result]:
    """Run `train_<name>.py` with its defaults; the results of its run, or of both runs of the static track."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / name
        command = [sys.executable, ROOT / f"train_{name}.py", *options, "--out", out, "--quiet"]
        start = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        seconds = time.perf_counter() - start
        results = {}
        for run in sorted(path.parent for path in out.rglob("scores.json")):
            assert read_json(run / "settings.json")["data_found"] == splits.summary(), f"{name} has other splits"
            label = name if run == out else f"{name}, {run.name}"
            results[label] = Result.of(read_json(run / "scores.json")[part], seconds)
    return results


def run_baseline(tune: Callable[[Dataset, Dataset], tuple[Predict, str]], splits: Splits, part: str) -> Result:
    """Tune a baseline on validation, and score it on one part."""
    start = time.perf_counter()
    predict, chosen = tune(splits.train, splits.valid)
    scored = getattr(splits, part)
    probabilities = predict(scored.texts)
    seconds = time.perf_counter() - start
    print(f"  {tune.__name__}: {chosen}", file=sys.stderr, flush=True)
    names = scored.class_names
    scores = classification_scores(scored.labels, probabilities.argmax(axis=1), probabilities, names, seed=0)
    return Result.of(scores, seconds)


def tune_tfidf(train: Dataset, valid: Dataset) -> tuple[Predict, str]:
    """Logistic regression on tf-idf of words and bigrams; the C of the highest validation accuracy, or the first."""
    vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    train_features, valid_features = vectorizer.fit_transform(train.texts), vectorizer.transform(valid.texts)
    fits = [LogisticRegression(C=c, max_iter=1000).fit(train_features, train.labels) for c in INVERSE_PENALTIES]
    best = max(fits, key=lambda fit: fit.score(valid_features, valid.labels))
    return lambda texts: best.predict_proba(vectorizer.transform(texts)), f"C {best.C:g}"


def tune_fasttext(train: Dataset, valid: Dataset) -> tuple[Predict, str]:
    """fastText with the settings of FASTTEXT_GRID of the highest validation accuracy."""
    import fasttext  # not at the top: it need not be installed

    lines = [" ".join(words(text)) for text in train.texts]
    buckets = min(MAX_BUCKETS, 1 << sum(line.count(" ") + 1 for line in lines).bit_length())
    order = np.random.default_rng(0).permutation(len(lines))  # fastText reads its file in order
    best, best_accuracy, chosen = None, -1.0, ""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "train.txt"
        path.write_text("".join(f"__label__{train.labels[i]} {lines[i]}\n" for i in order), encoding="utf-8")
        for lr, epochs, ngrams in FASTTEXT_GRID:
            try:
                model = fasttext.train_supervised(
                    str(path), lr=lr, epoch=epochs, wordNgrams=ngrams, bucket=buckets, thread=1, verbose=0
                )  # one thread: the same model every time
            except RuntimeError as error:  # a learning rate that is too high for these texts
                if "NaN" not in str(error):
                    raise
                continue
            predict = partial(predict_fasttext, model, len(train.class_names))
            accuracy = (predict(valid.texts).argmax(axis=1) == valid.labels).mean()
            if accuracy > best_accuracy:
                best, best_accuracy = predict, accuracy
                chosen = f"learning rate {lr:g}, {epochs} epochs, {ngrams}-grams"
    return best, chosen


def predict_fasttext(model: object, num_classes: int, texts: list[str]) -> np.ndarray:
    """Probabilities (B, C) of a fastText model."""
    names, values = model.predict([" ".join(words(text)) for text in texts], k=num_classes)
    result = np.zeros((len(texts), num_classes))
    for row, text_names, text_values in zip(result, names, values, strict=True):
        row[[int(name.removeprefix("__label__")) for name in text_names]] = text_values
    return result


def run_models(arguments: argparse.Namespace, source: str, seed: int) -> dict[str, Result]:
    """The results of all chosen models for one source and seed, by the name of their row."""
    data, _, test_data = source.partition(",")
    config = DataConfig(data=data, test_data=test_data or None, subset=tuple(arguments.subset))
    splits = load_dataset(config, seed)
    options = ["--data", data, *(("--test-data", test_data) if test_data else ()), "--seed", str(seed)]
    options += ["--subset", *map(str, arguments.subset)]
    scripts = [(name, []) for name in arguments.only if name in ("static", "scratch")]
    scripts += [("finetune", ["--model", model]) for model in arguments.model if "finetune" in arguments.only]
    results = {}
    for name, more in scripts:
        print(f"{source}, seed {seed}: {name} {' '.join(more)}", file=sys.stderr, flush=True)
        for label, result in run_script(name, [*options, *more], splits, arguments.part).items():
            results[" ".join([label, *more[1:]])] = result
    if "tfidf" in arguments.only:
        results["tf-idf bigrams + logistic regression, tuned"] = run_baseline(tune_tfidf, splits, arguments.part)
    if "fasttext" in arguments.only and importlib.util.find_spec("fasttext"):
        results["fastText, tuned"] = run_baseline(tune_fasttext, splits, arguments.part)
    return results


def format_table(by_seed: list[dict[str, Result]], part: str) -> str:
    """A Markdown table with one row per model: accuracy, macro F1 and mean seconds."""
    count = next(iter(by_seed[0].values())).count
    rows = [["model", f"accuracy on {part} ({count:,} texts)", "F1 (macro)", "seconds"]]
    for name in by_seed[0]:
        results = [results[name] for results in by_seed]
        cells = [format_cell([getattr(result, key) for result in results]) for key in ("accuracy", "macro_f1")]
        rows.append([name, *cells, f"{np.mean([result.seconds for result in results]):.0f}"])
    return markdown_table(rows)


def format_cell(scores: list[dict[str, float]]) -> str:
    """A score with its interval; over seeds the mean (standard deviation)."""
    mean, std = mean_and_std([score["value"] for score in scores])
    return format_score(scores[0], True) if std is None else format_mean(mean, std, True)


def parse_arguments(given: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", nargs="+", metavar="FILE", help="labeled texts, or TRAIN,TEST")
    parser.add_argument("--subset", type=float, nargs=2, default=(1.0, 1.0), metavar=("TRAIN", "TEST"))
    parser.add_argument("--num-seeds", type=int, default=1, help="seeds 0, 1, …")
    parser.add_argument("--only", nargs="+", choices=TRACKS + BASELINES, default=TRACKS + BASELINES)
    parser.add_argument("--model", nargs="+", default=["sample"], help="encoders to fine-tune, one row each")
    parser.add_argument("--part", choices=("valid", "test"), default="test")
    return parser.parse_args(given)


def main() -> None:
    arguments = parse_arguments()
    if "fasttext" in arguments.only and not importlib.util.find_spec("fasttext"):
        print("fastText is left out: pip install fasttext-numpy2-wheel", file=sys.stderr)
    for source in arguments.sources:
        seeds = range(arguments.num_seeds)
        by_seed = [run_models(arguments, source, seed) for seed in seeds]
        shown = "seed 0" if len(seeds) == 1 else f"seeds 0 to {len(seeds) - 1}"
        if arguments.subset != (1.0, 1.0):
            shown = f"--subset {arguments.subset[0]:g} {arguments.subset[1]:g}, {shown}"
        print(f"\n{source}, {shown}\n\n{format_table(by_seed, arguments.part)}", flush=True)


if __name__ == "__main__":
    main()
