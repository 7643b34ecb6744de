"""A text classifier learned from nothing: WordPiece tokens, Embedding, mean, Linear, ReLU, Linear.

    python train_scratch.py                                        the sample that travels with minitext
    python train_scratch.py --data imdb --ngrams 3 --binary-counts      all of IMDB, with hashed n-grams
    python train_scratch.py --data reviews.csv                     your own
    python train_scratch.py --data reviews.csv --resume            go on where a run was stopped

Writes a run into <out>: scores, figures, predictions, a report, the model and its tokenizer.
"""

import sys
import time
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace

import torch

from minitext.data.batching import PackCollator
from minitext.data.dataset import DataConfig, Splits, describe_splits, load_dataset
from minitext.data.duplicates import check_duplicates
from minitext.data.tokenizer import TokenizerConfig, digest, encode, load_tokenizer, pad_id, train_tokenizer
from minitext.data.word_vectors import load_word_vectors, locate_word_vectors
from minitext.evaluation.predict import predict_logits
from minitext.models.embedding_bag import EmbeddingBagClassifier, NetworkConfig
from minitext.reporting import run
from minitext.reporting.report import score_rows, text_table
from minitext.reporting.seeds import for_each_seed, summarize
from minitext.training.device import pick_device, pick_precision
from minitext.training.loop import TrainConfig, fit, plan_steps
from minitext.utils.config import option, parse
from minitext.utils.errors import exit_status
from minitext.utils.io import write_text


@dataclass(frozen=True)
class InitConfig:
    """start"""

    vectors: str | None = option(None, "start the embedding from word vectors: sample, a name, or a file")


@dataclass(frozen=True)
class RunConfig(run.RunConfig):
    """run"""

    out: str = option("runs/scratch", "folder of the run")
    resume: bool = option(False, "go on with an unfinished run in --out, to the same result")


COURSE_REPORT = {
    "data": "imdb", "subset": (0.04, 0.02), "tokenizer": "google-bert/bert-base-uncased", "max_length": 512,
    "pad": "fixed",
}  # fmt: skip


def main() -> None:
    options = parse(
        __doc__,
        presets={"course-report": COURSE_REPORT},
        data=DataConfig,
        tokens=TokenizerConfig,
        network=NetworkConfig,
        start=InitConfig,
        loop=TrainConfig,
        run=RunConfig,
    )
    for once in for_each_seed(options):
        train_one_seed(once)
    if options.run.num_seeds > 1:
        run.say(summarize(options), options.run.quiet)


def train_one_seed(options: SimpleNamespace) -> None:
    job = run.RunDir(options.run.folder(), options.run.overwrite, options.run.resume)
    device = pick_device(options.run.device)
    precision = pick_precision(options.loop.precision, device)
    if options.start.vectors:
        locate_word_vectors(options.start.vectors)  # a wrong path should fail now, not after the data has been read
    say = partial(run.say, quiet=options.run.quiet)
    say(f"data: {options.data.data} · device: {device}, {precision}")
    if options.data.data == "sample":
        say("      (a small sample; the real thing: --data imdb)")

    # Data. Three parts; duplicates across them are counted before anything is trained.
    splits, duplicates = check_duplicates(load_dataset(options.data, options.run.seed), options.data.drop_duplicates)
    run_notes = {"texts": describe_splits(splits), "duplicates across splits": duplicates}
    say(f"texts: {run_notes['texts']}")
    say(f"duplicates across splits: {duplicates}")

    # Tokens. A loaded tokenizer, or one trained on the training texts; a resumed run keeps the one it has.
    start = time.perf_counter()
    saved = job.folder / "tokenizer.json"
    source = str(saved) if job.resumes and saved.exists() else options.tokens.tokenizer
    tokenizer = load_tokenizer(source) if source else train_tokenizer(splits.train.texts, options.tokens.vocab_size)
    encoding = time.perf_counter()
    encoded = [
        encode(tokenizer, part.texts, options.tokens.max_length, options.tokens.truncate, options.run.quiet)
        for part in splits
    ]
    run_notes["tokens"] = (
        f"{tokenizer.get_vocab_size():,} word pieces; "
        + ", ".join(f"{name} {len(part.ids):,}" for name, part in zip(Splits._fields, encoded, strict=True))
        + " tokens"
    )
    say(f"tokens: {run_notes['tokens']}, {time.perf_counter() - start:.1f} s")
    encoding_seconds = time.perf_counter() - encoding
    fixed = options.tokens.max_length if options.loop.pad == "fixed" else None
    train, valid, test = (
        PackCollator(ids, torch.from_numpy(corpus.labels), pad_id(tokenizer), fixed)
        for ids, corpus in zip(encoded, splits, strict=True)
    )

    # Model. Initialised after seeding, so that the same seed gives the same weights.
    torch.manual_seed(options.run.seed)
    model = EmbeddingBagClassifier(tokenizer.get_vocab_size(), len(splits.train.class_names), options.network)
    if options.start.vectors:
        vectors = load_word_vectors(options.start.vectors, tokenizer.get_vocab())
        run_notes["started from vectors"] = (
            f"{model.start_from(tokenizer.get_vocab(), vectors.index, vectors.table):,} tokens"
        )
        say(f"started from vectors: {run_notes['started from vectors']}")
    model.to(device)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    say(f"model: {parameters:,} parameters")

    # Training. Every step is in minitext/training/loop.py; what cannot be trained is refused before there is a folder.
    plan_steps(encoded[0].lengths().numpy(), options.loop, options.run.seed)
    job.start(run.describe(options, splits, tokenizer_sha256=digest(tokenizer)))
    write_text(job.folder / "tokenizer.json", tokenizer.to_str(pretty=True))
    progress = fit(
        model, train, valid, options.loop, options.run.seed, device, precision, job.folder, say, options.run.quiet
    )
    run_notes["kept"] = f"epoch {progress.best_epoch:g}, the best on validation by {options.loop.select_by}"
    run_notes["trained in"] = f"{progress.seconds:.1f} s, {progress.updates:,} updates"

    # Evaluation. The one look at test; scores, figures, report and model go into the run's folder.
    start = time.perf_counter()
    probabilities = [
        predict_logits(model, part, options.loop.batch_size, device, precision, options.run.quiet)
        .softmax(dim=1)
        .numpy()
        for part in (train, valid, test)
    ]
    predicting_seconds = time.perf_counter() - start
    model.save(
        job.folder,
        names=splits.train.class_names,
        max_length=options.tokens.max_length,
        truncate=options.tokens.truncate,
    )
    costs = run.Cost(parameters, progress.seconds, encoding_seconds + predicting_seconds, sum(map(len, splits)))
    scores = job.finish(splits, probabilities, run_notes, costs)
    say(f"kept: {run_notes['kept']}; trained in {run_notes['trained in']}")
    say(f"\n{job.out}/report.md\n{text_table(score_rows(scores))}")


if __name__ == "__main__":
    sys.exit(exit_status(main))
