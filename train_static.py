"""Pretrained word vectors, averaged over a text, under a logistic regression and a multilayer perceptron.

    python train_static.py                                            the sample that travels with minitext
    python train_static.py --data imdb --vectors glove.6B.100d        downloads both, once
    python train_static.py --data reviews.csv --vectors vectors.txt   your own

Writes two runs, <out>/logistic and <out>/mlp, each with scores, figures, predictions, a report and the model.
"""

import sys
import time
from dataclasses import dataclass
from functools import partial

import torch

from minitext.data import word_vectors as glove
from minitext.data.dataset import DataConfig, Splits, describe_splits, load
from minitext.data.duplicates import check_duplicates
from minitext.data.words import distinct_words
from minitext.evaluation.calibration import fit_temperature, fold_temperature
from minitext.models.mean_encoder import MeanEncoder, fit_sif
from minitext.models.static import (
    EncodedTexts,
    LogisticConfig,
    MLPConfig,
    StaticClassifier,
    fit_logistic,
    fit_mlp,
)
from minitext.reporting.report import finish_run, score_rows, text_table
from minitext.reporting.seeds import for_each_seed, summarize
from minitext.utils import run_dir as run
from minitext.utils.config import option, parse
from minitext.utils.errors import exit_status

SHORT_SENTENCE = "The plot was thin, but I loved every minute of it."


@dataclass(frozen=True)
class VectorConfig:
    """word vectors"""

    vectors: str = option(
        "sample", "sample, glove.6B.100d, glove-wiki-gigaword-100 (and their other widths), or a file"
    )
    pooling: str = option(
        "mean", "mean, or sif: rare words weigh more, the common direction goes", choices=("mean", "sif")
    )


@dataclass(frozen=True)
class RunConfig(run.RunConfig):
    """run"""

    out: str = option("runs/static", "folder of the two runs")


@dataclass(frozen=True)
class Config:
    data: DataConfig
    vectors: VectorConfig
    logistic: LogisticConfig
    mlp: MLPConfig
    run: RunConfig


RUNS = ("logistic", "mlp")
COURSE_REPORT = {"data": "imdb", "subset": (0.04, 0.02), "vectors": "glove-wiki-gigaword-100"}


def main() -> None:
    options = parse(Config, __doc__, {"course-report": COURSE_REPORT})
    for once in for_each_seed(options, RUNS):
        train_one_seed(once)
    for name in RUNS if options.run.num_seeds > 1 else ():
        run.log(summarize(options, name), options.run.quiet)


def train_one_seed(options: Config) -> None:
    runs = {name: run.RunDir(options.run.folder(name), options.run.overwrite) for name in RUNS}
    device = torch.device("cpu")
    glove.locate(options.vectors.vectors)  # a wrong path should fail now, not after the data has been read
    say = partial(run.log, quiet=options.run.quiet)
    say(f"data: {options.data.data} · vectors: {options.vectors.vectors} · device: {device}")
    if options.data.data == "sample":
        say("      (what travels with minitext; the real ones: --data imdb --vectors glove.6B.100d)")

    # Data. Three parts; texts that stand in two of them are counted before anything is trained.
    splits, twins = check_duplicates(load(options.data, options.run.seed), options.data.drop_duplicates)
    classes = len(splits.train.class_names)
    run_notes = {"texts": describe_splits(splits), "texts in two parts": twins}
    say(f"texts: {run_notes['texts']}")
    say(f"texts in two parts: {run_notes['texts in two parts']}")

    # Encoding. A text is the mean of its words' vectors; first tried and timed on a short sentence.
    start = time.perf_counter()
    vectors = glove.read(options.vectors.vectors, distinct_words(text for part in splits for text in part.texts))
    say(f"vectors: {len(vectors.words):,} of the texts' words, width {vectors.table.shape[1]}, {seconds_since(start)}")
    if options.vectors.pooling == "sif":
        encoder = fit_sif(vectors.words, vectors.table, splits.train.texts).to(device)
    else:
        encoder = MeanEncoder(vectors.words, vectors.table).to(device)
    encoder.encode([SHORT_SENTENCE])  # the first call pays for tables that are made once
    start = time.perf_counter()
    tried = encoder.encode([SHORT_SENTENCE])  # vectors: (1, D)
    run_notes["tried on a sentence"] = (
        f"{SHORT_SENTENCE!r} gives {tuple(tried.vectors.shape)}, {tried.known} of {tried.total} words known, "
        f"in {1000 * (time.perf_counter() - start):.2f} ms"
    )
    say(f"tried: {run_notes['tried on a sentence']}")
    start = time.perf_counter()
    encoded = [encoder.encode(part.texts) for part in splits]
    encoding_seconds = time.perf_counter() - start
    run_notes["words with a vector"] = ", ".join(
        f"{name} {part.known / max(part.total, 1):.1%}" for name, part in zip(Splits._fields, encoded, strict=True)
    )
    say(f"encoded in {seconds_since(start)}; words with a vector: {run_notes['words with a vector']}")
    train, valid, test = (
        EncodedTexts(part.vectors, torch.from_numpy(corpus.labels).to(device))
        for part, corpus in zip(encoded, splits, strict=True)
    )

    # Logistic regression, to convergence, for each penalty; then the perceptron, until validation says stop.
    start = time.perf_counter()
    fitted = {"logistic": fit_logistic(train, valid, classes, options.logistic)}
    seconds = {"logistic": time.perf_counter() - start}
    say(
        f"logistic regression: {fitted['logistic'].epoch} iterations, L2 {fitted['logistic'].history[-1]['l2']:g} "
        f"chosen on validation, {seconds_since(start)}"
    )
    start = time.perf_counter()
    fitted["mlp"] = fit_mlp(train, valid, classes, options.mlp, options.run.seed, options.run.quiet)
    seconds["mlp"] = time.perf_counter() - start
    say(f"perceptron: best epoch {fitted['mlp'].epoch} of {len(fitted['mlp'].history)}, {seconds_since(start)}")

    # Evaluation. The one look at test; scores, figures, report and model go into each run's folder.
    data_found = {
        name: {"texts": len(part), "fingerprint": part.fingerprint()} for name, part in splits._asdict().items()
    }
    settings = run.run_settings(options, data_found, splits.train.class_names)
    for name, fit in fitted.items():
        model = StaticClassifier(encoder, fit.model, splits.train.class_names)
        start = time.perf_counter()
        with torch.no_grad():
            logits = [fit.model(part.vectors) for part in (train, valid, test)]
        costs = run.Cost(
            sum(tensor.numel() for tensor in model.state_dict().values()), seconds[name],
            encoding_seconds + time.perf_counter() - start, sum(map(len, splits)),
        )  # fmt: skip
        runs[name].start(settings)
        for row in fit.history:
            runs[name].log.write(row)
        temperature = fit_temperature(valid.labels, logits[1])
        fold_temperature(fit.model.output, temperature)
        model.save(runs[name].folder)
        scores = finish_run(runs[name], splits, logits, temperature, run_notes, costs)
        say(f"\n{name}: {runs[name].out}/report.md\n{text_table(score_rows(scores))}")


def seconds_since(start: float) -> str:
    return f"{time.perf_counter() - start:.1f} s"


if __name__ == "__main__":
    sys.exit(exit_status(main))
