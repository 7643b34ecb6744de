"""Pretrained word vectors, averaged over each text, under a logistic regression and an MLP.

    python train_static.py                                            the bundled sample
    python train_static.py --data imdb --vectors glove.6B.100d        all of IMDB; downloads both once
    python train_static.py --data reviews.csv --vectors vectors.txt   your own texts and vectors

Writes two run directories, <out>/logistic and <out>/mlp: scores, figures, predictions, a report and the model.
"""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from minitext.data.dataset import DataConfig, Splits, describe_splits, load_dataset
from minitext.data.duplicates import check_duplicates
from minitext.data.word_vectors import load_word_vectors, locate_word_vectors
from minitext.data.words import distinct_words
from minitext.evaluation.calibration import fit_temperature, fold_temperature
from minitext.evaluation.predict import classification_metrics
from minitext.models.static import EncodedTexts, MeanEncoder, StaticClassifier, fit_sif, time_encoding
from minitext.reporting.formats import text_table
from minitext.reporting.report import finish_run, score_rows
from minitext.reporting.seeds import for_each_seed, summarize
from minitext.training.distributed import refuse_torchrun
from minitext.training.fit_static import FitResult, LogisticConfig, MLPConfig, SelectionConfig, fit_logistic, fit_mlp
from minitext.training.loop import class_weights_of
from minitext.utils import run_dir
from minitext.utils.config import option, parse
from minitext.utils.errors import UserError, after_training, exit_status
from minitext.utils.run_dir import Cost, Notes, RunDir, log, run_settings

SAMPLE_SUBJECT = "bundled, trained on English film reviews"
SHORT_SENTENCE = "The plot was thin, but I loved every minute of it."
RUNS = ("logistic", "mlp")
MIN_COVERAGE = 0.7  # fraction of the words; English texts reach 0.75 with 2,700 English words, and 0.95 with 10,000
COURSE_REPORT = {"data": "imdb", "subset": (0.04, 0.02), "vectors": "glove-wiki-gigaword-100"}


@dataclass(frozen=True)
class VectorConfig:
    """word vectors"""

    vectors: str = option(
        "sample",
        f"sample ({SAMPLE_SUBJECT}), glove.6B.100d, glove-wiki-gigaword-100 (also 50, 200, 300), or a file",
    )
    pooling: str = option("mean", "mean, or SIF weighting (Arora et al. 2017)", choices=("mean", "sif"))


@dataclass(frozen=True)
class RunConfig(run_dir.RunConfig):
    """run"""

    out: str = option("runs/static", "parent folder of the two run directories")


@dataclass(frozen=True)
class Config:
    """All settings of the script."""

    data: DataConfig
    vectors: VectorConfig
    fit: SelectionConfig
    logistic: LogisticConfig
    mlp: MLPConfig
    run: RunConfig


def main() -> None:
    config = parse(Config, __doc__, presets={"course-report": COURSE_REPORT})
    refuse_torchrun("train_static.py")
    if config.data.data == "sample":
        log("using the bundled sample; for real data: --data imdb --vectors glove.6B.100d", config.run.quiet)
    for seed_config in for_each_seed(config, RUNS):
        train_one_seed(seed_config)
    for name in RUNS if config.run.num_seeds > 1 else ():
        with after_training("the summary of the seeds", f"minitext compare {config.run.out}/{name}"):
            log(summarize(config, name), config.run.quiet)


def train_one_seed(config: Config) -> None:
    runs = {name: RunDir(config.run.folder(name), config.run.overwrite) for name in RUNS}
    notes = Notes(config.run.quiet)
    locate_word_vectors(config.vectors.vectors)  # a wrong path fails before the data are read

    # Data: training, validation and test texts. Test texts are scored once, at the end.
    with notes.phase(f"reading {config.data.data}"):
        splits, duplicates = check_duplicates(load_dataset(config.data, config.run.seed), config.data.drop_duplicates)
    num_classes = len(splits.train.class_names)
    notes.add("data", f"{config.data.data}; {describe_splits(splits)}")
    notes.add("duplicates across splits", duplicates)

    # Model: a text is the mean of the vectors of its words.
    start = time.perf_counter()
    encoder = build_encoder(config.vectors, splits, notes)
    notes.add("short sentence", time_encoding(encoder, SHORT_SENTENCE))
    encoded = encode_splits(encoder, splits, notes)
    encoding_seconds = time.perf_counter() - start

    # Training: penalty and epoch are selected on validation.
    settings = run_settings(config, splits.summary(), splits.train.class_names)
    for run in runs.values():
        run.start(settings)
    train, valid, _ = encoded
    select_by = config.fit.select_by
    class_weights = class_weights_of(train.labels, num_classes, config.fit.class_weights)
    how = {"class_weights": class_weights, "select_by": select_by, "evaluate": classification_metrics}
    with notes.phase("fitting the logistic regression"):
        fits = {"logistic": fit_logistic(train, valid, config.logistic, **how)}
    note_fit("logistic regression", fits["logistic"], select_by, notes)
    with notes.phase("fitting the MLP"):
        fits["mlp"] = fit_mlp(train, valid, config.mlp, seed=config.run.seed, quiet=config.run.quiet, **how)
    note_fit("MLP", fits["mlp"], select_by, notes)

    # Evaluation: the temperature is fitted on validation and folded into the last layer; then test is scored.
    for name, fit in fits.items():
        model = StaticClassifier(encoder, fit.model, splits.train.class_names)
        evaluate(model, fit, runs[name], splits, encoded, encoding_seconds, notes)


def build_encoder(config: VectorConfig, splits: Splits, notes: Notes) -> MeanEncoder:
    """An encoder with the vectors of the words that occur in the texts."""
    words = distinct_words(text for part in splits for text in part.texts)
    with notes.phase(f"reading the vectors of {len(words):,} words"):
        vectors = load_word_vectors(config.vectors, words)
    if not vectors.words:
        problem = f"none of the {len(words):,} distinct words of the texts has a vector"
        raise UserError(f"--vectors {config.vectors}: {problem}; give vectors of the language of the texts")
    found = f"{len(vectors.words):,} of {len(words):,} distinct words"
    source = f"sample ({SAMPLE_SUBJECT})" if config.vectors == "sample" else config.vectors
    notes.add("word vectors", f"{source}; {found}, dimension {vectors.table.shape[1]}")
    if config.pooling == "sif":
        return fit_sif(vectors.words, vectors.table, splits.train.texts)
    return MeanEncoder(vectors.words, vectors.table)


def encode_splits(encoder: MeanEncoder, splits: Splits, notes: Notes) -> list[EncodedTexts]:
    """Vectors and labels of the three parts."""
    with notes.phase("encoding"):
        encodings = [encoder.encode(part.texts) for part in splits]
    shares = [encoding.num_known / max(encoding.num_words, 1) for encoding in encodings]
    coverage = ", ".join(f"{name} {share:.1%}" for name, share in zip(Splits._fields, shares, strict=True))
    notes.add("vocabulary coverage", coverage)
    if shares[0] < MIN_COVERAGE:
        problem = f"only {shares[0]:.1%} of the words of the training texts have a vector, less than {MIN_COVERAGE:.0%}"
        notes.add("warning", f"{problem}; pass --vectors of the language and the subject of the texts")
    labels = [torch.from_numpy(part.labels) for part in splits]
    return [EncodedTexts(encoding.vectors, part) for encoding, part in zip(encodings, labels, strict=True)]


def note_fit(name: str, fit: FitResult, select_by: str, notes: Notes) -> None:
    """Note what was fitted, and a warning if it did not converge."""
    notes.add(name, fit.describe(select_by))
    if not fit.converged:
        notes.add(f"warning, {name}", fit.remedy())


def evaluate(
    model: StaticClassifier, fit: FitResult, run: RunDir, splits: Splits, encoded: Sequence[EncodedTexts],
    encoding_seconds: float, notes: Notes,
) -> None:  # fmt: skip
    """Calibrate, save and score a classifier; commit its run directory."""
    for row in fit.history:
        run.log.write(row)
    start = time.perf_counter()
    with torch.no_grad():
        logits = [model.classifier(part.vectors) for part in encoded]  # (B, C) each
    predict_seconds = encoding_seconds + time.perf_counter() - start
    temperature = fit_temperature(encoded[1].labels, logits[1])
    fold_temperature(model.classifier.output, temperature)
    model.save(run.folder)
    parameters = sum(tensor.numel() for tensor in model.state_dict().values())
    cost = Cost(parameters, fit.seconds, predict_seconds, sum(map(len, splits)))
    scores = finish_run(run, splits, logits, temperature, notes, cost)
    notes.print(f"\n{run.out}/report.md\n{text_table(score_rows(scores))}")


if __name__ == "__main__":
    sys.exit(exit_status(main))
