"""Text classifier trained from random weights: WordPiece tokens, embedding, mean, Linear, ReLU, Linear.

    python train_scratch.py                                            the bundled sample
    python train_scratch.py --data imdb --ngrams 3                     all of IMDB, with hashed n-grams up to trigrams
    python train_scratch.py --data reviews.csv                         your own texts
    python train_scratch.py --data reviews.csv --resume                continue an interrupted run

Writes a run directory to <out>: scores, figures, predictions, a report, the model and its tokenizer.
"""

import sys
import time
from dataclasses import dataclass, replace
from functools import partial

import torch
from tokenizers import Tokenizer

from minitext.data.batching import PackCollator
from minitext.data.dataset import DataConfig, Dataset, describe_splits, load_dataset
from minitext.data.duplicates import check_duplicates
from minitext.data.tokenizer import (
    TokenizerConfig,
    describe_tokens,
    encode,
    load_tokenizer,
    pad_id,
    tokenizer_sha256,
    train_tokenizer,
)
from minitext.data.word_vectors import load_word_vectors, locate_word_vectors
from minitext.evaluation.calibration import fit_temperature, fold_temperature
from minitext.evaluation.predict import classification_metrics, predict_logits
from minitext.models.embedding_bag import EmbeddingBagClassifier, NetworkConfig, fill_buckets
from minitext.reporting.formats import text_table
from minitext.reporting.report import finish_run, score_rows
from minitext.reporting.seeds import for_each_seed, summarize
from minitext.training import loop
from minitext.training.device import compute_settings, pick_device, pick_dtype
from minitext.training.distributed import refuse_torchrun
from minitext.training.loop import TrainLength, class_weights_of, fit, plan_steps
from minitext.utils import run_dir
from minitext.utils.config import option, parse
from minitext.utils.errors import UserError, after_training, exit_status
from minitext.utils.io import write_text
from minitext.utils.run_dir import Cost, Notes, RunDir, log, run_settings

LENGTH = TrainLength(updates=200, updates_per_class=20, min_epochs=3, max_epochs=100)  # see docs/results.md


@dataclass(frozen=True)
class InitConfig:
    """initialization"""

    vectors: str | None = option(
        None, "word vectors that initialize the embedding: sample (from English film reviews), a name, or a file"
    )  # fmt: skip


@dataclass(frozen=True)
class TrainConfig(loop.TrainConfig):
    """training"""

    epochs: int | None = option(None, f"passes over the training texts (default: {LENGTH.describe()})")
    lr: float = option(5e-3, "peak learning rate")
    label_smoothing: float = option(0.1, "probability that label smoothing spreads over all classes")
    select_by: str = option(
        "loss", "validation metric that selects the best weights", choices=("accuracy", "macro_f1", "loss")
    )


@dataclass(frozen=True)
class RunConfig(run_dir.RunConfig):
    """run"""

    out: str = option("runs/scratch", "run directory")
    device: str = option("auto", "auto, cpu, cuda, cuda:1 or mps")
    resume: bool = option(False, "resume an interrupted run in --out (bit-identical on the CPU)")


@dataclass(frozen=True)
class Config:
    """All settings of the script."""

    data: DataConfig
    tokens: TokenizerConfig
    network: NetworkConfig
    init: InitConfig
    loop: TrainConfig
    run: RunConfig

    def __post_init__(self) -> None:
        if self.tokens.pad_to and (self.network.ngrams > 1 or self.network.binary_counts):
            raise UserError("--pad-to pads token ids; it needs --ngrams 1 and no --binary-counts")


COURSE_REPORT = {
    "data": "imdb", "subset": (0.04, 0.02), "tokenizer": "google-bert/bert-base-uncased", "max_length": 512,
    "pad_to": 512, "ngrams": 1, "embedding_dim": 64, "hidden_size": 64, "dropout": 0.5, "epochs": 10, "lr": 3e-3,
    "label_smoothing": 0.0, "select_by": "accuracy",
}  # fmt: skip


def main() -> None:
    config = parse(Config, __doc__, presets={"course-report": COURSE_REPORT})
    refuse_torchrun("train_scratch.py")
    if config.data.data == "sample":
        log("using the bundled sample; for real data: --data imdb", config.run.quiet)
    for seed_config in for_each_seed(config):
        train_one_seed(seed_config)
    if config.run.num_seeds > 1:
        with after_training("the summary of the seeds", f"minitext compare {config.run.out}"):
            log(summarize(config), config.run.quiet)


def train_one_seed(config: Config) -> None:
    run, notes = RunDir(config.run.folder(), config.run.overwrite, config.run.resume), Notes(config.run.quiet)
    seed, quiet = config.run.seed, config.run.quiet
    device = pick_device(config.run.device, auto_mps=False)
    dtype = pick_dtype(config.loop.precision, device)
    if config.init.vectors:
        locate_word_vectors(config.init.vectors)  # a wrong path fails before the data are read

    # Data: training, validation and test texts. Test texts are scored once, at the end.
    with notes.phase(f"reading {config.data.data}"):
        splits, duplicates = check_duplicates(load_dataset(config.data, seed), config.data.drop_duplicates)
    notes.add("data", f"{config.data.data}; {describe_splits(splits)}")
    notes.add("duplicates across splits", duplicates)
    start = time.perf_counter()
    with notes.phase("tokenizing"):
        tokenizer = build_tokenizer(config.tokens, splits.train, run)
        length, truncate = config.tokens.max_length, config.tokens.truncate
        tokens = [encode(tokenizer, part.texts, length, truncate, quiet) for part in splits]
    notes.add("tokens", f"{tokenizer.get_vocab_size():,} word pieces; {describe_tokens(tokens)}")

    # Model: initialized after seeding, so that one seed gives one set of weights.
    num_classes = len(splits.train.class_names)
    config = replace(config, network=fill_buckets(config.network, len(tokens[0].ids)))
    torch.manual_seed(seed)
    model = build_model(config, tokenizer, num_classes, notes).to(device)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    notes.add("model", f"{parameters:,} parameters on {device}, {dtype}")
    padding = model.embedding.padding_idx, config.tokens.pad_to
    train, valid, test = (
        PackCollator(model.features(ids), torch.from_numpy(part.labels), *padding)
        for ids, part in zip(tokens, splits, strict=True)
    )
    encoding_seconds = time.perf_counter() - start

    # Training: every step is in minitext/training/step.py and loop.py.
    settings = LENGTH.fill(config.loop, len(train.labels), num_classes)
    plan = plan_steps(train.data.lengths().numpy(), settings, seed)  # bad settings fail before a folder exists
    notes.add("plan", f"{settings.epochs} epochs, {len(plan.steps):,} updates")
    run.start(run_settings(config, splits.summary(), splits.train.class_names, tokenizer=tokenizer_sha256(tokenizer),
                           **compute_settings(device, dtype)))  # fmt: skip
    write_text(run.folder / "tokenizer.json", tokenizer.to_str(pretty=True))
    predict = partial(predict_logits, model, batch_size=config.loop.batch_size, device=device, dtype=dtype, quiet=quiet)
    state = fit(
        model, train, lambda: classification_metrics(predict(valid), valid.labels), settings,
        seed=seed, device=device, dtype=dtype, run_dir=run.folder,
        class_weights=class_weights_of(train.labels, num_classes, settings.class_weights),
        log=notes.print, quiet=quiet,
    )  # fmt: skip
    notes.add("best checkpoint", state.describe_best(settings.select_by, settings.epochs))

    # Evaluation: the temperature is fitted on validation and folded into the last layer; then test is scored.
    start = time.perf_counter()
    with notes.phase("predicting all parts"):
        logits = [predict(part) for part in (train, valid, test)]
    cost = Cost(parameters, state.seconds, encoding_seconds + time.perf_counter() - start, sum(map(len, splits)))
    temperature = fit_temperature(valid.labels, logits[1])
    fold_temperature(model.output, temperature)
    model.save(
        run.folder, class_names=splits.train.class_names, max_length=config.tokens.max_length,
        truncate=config.tokens.truncate,
    )  # fmt: skip
    scores = finish_run(run, splits, logits, temperature, notes, cost)
    notes.print(f"\n{run.out}/report.md\n{text_table(score_rows(scores))}")


def build_tokenizer(config: TokenizerConfig, train: Dataset, run: RunDir) -> Tokenizer:
    """The tokenizer of a resumed run, the one that is named, or one trained on the training texts."""
    saved = run.folder / "tokenizer.json"
    source = str(saved) if run.resumes and saved.exists() else config.tokenizer
    return load_tokenizer(source) if source else train_tokenizer(train.texts, config.vocab_size)


def build_model(config: Config, tokenizer: Tokenizer, num_classes: int, notes: Notes) -> EmbeddingBagClassifier:
    """New weights, or embeddings from word vectors where the tokens are words."""
    padding = pad_id(tokenizer) if config.tokens.pad_to else None
    model = EmbeddingBagClassifier(tokenizer.get_vocab_size(), num_classes, config.network, padding)
    if config.init.vectors:
        vectors = load_word_vectors(config.init.vectors, tokenizer.get_vocab())
        count = model.load_embeddings(tokenizer.get_vocab(), vectors.index, vectors.table)
        notes.add("initialized from word vectors", f"{count:,} of {tokenizer.get_vocab_size():,} tokens")
    return model


if __name__ == "__main__":
    sys.exit(exit_status(main))
