"""Fine-tune a pretrained BERT: tokens, encoder, a classification head on the first token, and a hand-written loop.

    python train_finetune.py                                                   the bundled BERT and the bundled sample
    python train_finetune.py --data imdb --model google-bert/bert-base-uncased
    python train_finetune.py --data reviews.csv --model FacebookAI/roberta-base    a relative of BERT, your own texts
    python train_finetune.py --data reviews.csv --model folder/ --resume       continue an interrupted run
    torchrun --nproc-per-node 8 train_finetune.py --data imdb                  eight GPUs, the same update

Writes a run directory to <out>: scores, figures, predictions, a report, and the model in the Hub's format.
Several machines need no common disk: each reads its own copy of --data, and the process of rank 0 does all the rest.
"""

import sys
import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer

from minitext.data.batching import PackCollator
from minitext.data.dataset import DataConfig, Dataset, describe_splits, load_dataset
from minitext.data.duplicates import check_duplicates
from minitext.data.tokenizer import (
    TRUNCATIONS,
    TokenizedTexts,
    describe_tokens,
    describe_unknown,
    encode,
    special_ids,
    tokenizer_sha256,
)
from minitext.data.windows import describe_windows
from minitext.evaluation.calibration import fit_temperature, fold_temperature
from minitext.evaluation.predict import classification_metrics, predict_logits, probabilities
from minitext.evaluation.predictor import TOP, format_prediction
from minitext.models.bert import BertClassifier, init_weights
from minitext.models.hf_checkpoint import load_classifier, save_model
from minitext.models.hf_tokenizer import load_hub_tokenizer
from minitext.models.hub import fetch_checkpoint, open_repository, push
from minitext.reporting.formats import text_table
from minitext.reporting.report import finish_run, score_rows
from minitext.reporting.seeds import for_each_seed, summarize
from minitext.training import loop
from minitext.training.device import compute_settings, pick_device, pick_dtype
from minitext.training.distributed import Distributed, destroy, init_distributed
from minitext.training.loop import TrainLength, TrainPlan, class_weights_of, fit, plan_steps
from minitext.training.optim import layer_groups
from minitext.utils import run_dir
from minitext.utils.config import option, parse, require
from minitext.utils.errors import UserError, after_training, exit_status
from minitext.utils.io import read_json
from minitext.utils.run_dir import Cost, Notes, RunDir, log, run_settings

SAMPLE_SUBJECT = "the bundled BERT, trained on English film reviews"
MAX_LENGTH = 256  # tokens per text, if the model has that many positions
CPU_MICRO_BATCH_TOKENS = 2048  # whose activations fit the caches of a CPU; a GPU is faster with the whole batch
LENGTH = TrainLength(updates=250, updates_per_class=80, min_epochs=4, max_epochs=20)  # see docs/results.md
# Compiling takes about half a minute, and saves 3 of the 10 to 30 ms of an update (an estimate: BERT-base on an H100).
MIN_COMPILED_UPDATES = 10_000


@dataclass(frozen=True)
class ModelConfig:
    """model"""

    model: str = option(
        "sample",
        f"sample ({SAMPLE_SUBJECT}), a Hub id, id@revision, or a checkpoint's folder",
    )
    max_length: int | None = option(
        None, f"maximum tokens per text, special tokens included (default: {MAX_LENGTH}, or the model's if it has less)"
    )
    truncate: str = option("head", "which tokens of a longer text are kept", choices=TRUNCATIONS)
    windows: bool = option(
        False, "keep all tokens of a longer text: average the logits of overlapping windows of --max-length tokens"
    )
    dropout: float | None = option(None, "dropout of hidden states and head (default: the checkpoint's)")
    attention_dropout: float = option(0.0, "dropout of attention weights; above 0 no variable-length kernel is used")
    reinit_layers: int = option(0, "re-initialize the top N layers (Zhang et al. 2021, arXiv:2006.05987, section 4)")
    freeze_layers: int = option(0, "freeze the embeddings and the bottom N layers")
    layer_lr_decay: float = option(1.0, "layer-wise learning-rate decay factor (Sun et al. 2019, section 5.3.3)")
    gradient_checkpointing: bool = option(False, "less memory for a third more work (Chen et al. 2016)")
    compile: bool | None = option(
        None, f"compile the layers; takes a minute to start (default: on CUDA from {MIN_COMPILED_UPDATES:,} updates on)"
    )
    push_to_hub: str | None = option(None, "upload the finished run to this Hub repository, user/name")

    def __post_init__(self) -> None:
        require(self, lambda value: value >= 4, "at least 4", "max_length")
        require(self, lambda value: 0 <= value < 1, "in [0, 1)", "dropout", "attention_dropout")
        require(self, lambda value: 0 < value <= 1, "in (0, 1]", "layer_lr_decay")
        require(self, lambda value: value >= 0, ">= 0", "reinit_layers", "freeze_layers")
        if self.windows and self.truncate != "head":
            raise UserError(f"--windows keeps all tokens, but --truncate {self.truncate} drops some; choose one")


@dataclass(frozen=True)
class TrainConfig(loop.TrainConfig):
    """training"""

    epochs: int | None = option(None, f"passes over the training texts (default: {LENGTH.describe()})")
    batch_size: int = option(16, "texts per optimizer update (over all GPUs and micro-batches)")
    optimizer: str = option("adamw", "adam or adamw", choices=("adam", "adamw"))
    lr: float | None = option(None, "peak learning rate (default: 3e-5 for 768 hidden units, higher for fewer)")
    weight_decay: float = option(0.01, "weight decay (matrices only; biases and norms are exempt)")


@dataclass(frozen=True)
class RunConfig(run_dir.RunConfig):
    """run"""

    out: str = option("runs/finetune", "run directory")
    device: str = option("auto", "auto, cpu, cuda, cuda:1 or mps")
    resume: bool = option(False, "resume an interrupted run in --out (bit-identical on the CPU)")


@dataclass(frozen=True)
class Config:
    """All settings of the script."""

    data: DataConfig
    model: ModelConfig
    loop: TrainConfig
    run: RunConfig

    def __post_init__(self) -> None:
        if self.model.push_to_hub and self.run.num_seeds > 1:
            raise UserError("--push-to-hub uploads one run, but --num-seeds makes several; choose one with --seed")


COURSE_REPORT = {
    "data": "imdb", "subset": (0.04, 0.02), "model": "google-bert/bert-base-uncased", "batch_size": 64, "epochs": 10,
    "lr": 3e-5, "warmup": 0.1, "weight_decay": 0.01, "select_by": "accuracy", "precision": "fp16",
    "attention_dropout": 0.1,
}  # fmt: skip


def main() -> None:
    config = parse(Config, __doc__, presets={"course-report": COURSE_REPORT})
    device = pick_device(config.run.device)
    distributed = init_distributed(device)  # one process, or those that torchrun started
    is_main = distributed.rank == 0  # this process alone has a run directory
    if "sample" in (config.data.data, config.model.model) and is_main:
        log(
            "using the bundled sample; for real data: --data imdb --model google-bert/bert-base-uncased",
            config.run.quiet,
        )
    for seed_config in distributed.broadcast(list(for_each_seed(config)) if is_main else []):
        train_one_seed(seed_config, device, distributed)
    destroy(distributed)
    if config.run.num_seeds > 1 and is_main:
        with after_training("the summary of the seeds", f"minitext compare {config.run.out}"):
            log(summarize(config), config.run.quiet)
    if config.model.push_to_hub and is_main:  # an upload may take longer than the other processes would wait
        folder, repository = config.run.folder(), config.model.push_to_hub
        with after_training("the upload", f"hf upload {repository} {folder}"):
            log(f"\nuploaded to {push(folder, repository)}", config.run.quiet)


def train_one_seed(config: Config, device: torch.device, distributed: Distributed) -> None:
    seed, quiet, is_main = config.run.seed, config.run.quiet or distributed.rank > 0, distributed.rank == 0
    notes = Notes(quiet)
    run, checkpoint = open_run(config) if is_main else (None, None)

    # Data: training, validation and test texts. Test texts are scored once, at the end.
    with notes.phase(f"reading {config.data.data}"):
        splits, duplicates = check_duplicates(load_dataset(config.data, seed), config.data.drop_duplicates)
    notes.add("data", f"{config.data.data}; {describe_splits(splits)}")
    notes.add("duplicates across splits", duplicates)
    distributed.require_same(splits.summary(), config.data.data)

    # Model: new parameters are initialized after seeding, so that one seed gives one set of weights.
    class_names = splits.train.class_names
    torch.manual_seed(seed)
    built = build_model(config.model, checkpoint, class_names, notes) if is_main else None
    model, tokenizer = distributed.broadcast(built)
    model.to(device)
    config = replace(config, model=fill_max_length(config.model, model.config.max_length, notes))
    start = time.perf_counter()
    cut = {name: getattr(config.model, name) for name in ("max_length", "truncate", "windows")}
    with notes.phase("tokenizing"):
        tokens = [encode(tokenizer, part.texts, quiet=quiet, **cut) for part in splits]
    encoding_seconds = time.perf_counter() - start
    note_tokens(tokenizer, tokens, notes)
    train, valid, test = map(PackCollator, tokens, [torch.from_numpy(part.labels) for part in splits])

    # Training: every step is in minitext/training/step.py and loop.py. Bad settings fail before a folder exists.
    mean_length = train.data.lengths().double().mean().item()
    settings = fill_defaults(config.loop, model.config.hidden_size, mean_length, device)
    settings = LENGTH.fill(settings, len(train.labels), len(class_names))
    plan = plan_steps(train.data.lengths().numpy(), settings, seed)
    notes.add("plan", f"{settings.epochs} epochs, {len(plan.steps):,} updates, learning rate {settings.lr:.2g}")
    batch_size = settings.micro_batch_size or settings.batch_size  # of a forward pass
    num_tokens = batch_size * mean_length
    dtype = distributed.broadcast(pick_dtype(settings.precision, device, model.config.hidden_size, num_tokens))
    parameters = sum(parameter.numel() for parameter in model.parameters())
    name = f"sample ({SAMPLE_SUBJECT})" if config.model.model == "sample" else config.model.model
    notes.add("model", f"{name}, {parameters:,} parameters on {device}, {dtype}")
    compile_if_long(model, config.model.compile, device, plan)
    if is_main:
        run.start(run_settings(config, splits.summary(), class_names, tokenizer=tokenizer_sha256(tokenizer),
                               **compute_settings(device, dtype, distributed.world_size)))  # fmt: skip
    predict = partial(predict_logits, model, batch_size=batch_size, device=device, dtype=dtype,
                      distributed=distributed, quiet=quiet)  # fmt: skip
    state = fit(
        model, train, lambda: classification_metrics(predict(valid), valid.labels), settings,
        seed=seed, device=device, dtype=dtype, run_dir=run.folder if is_main else None,
        class_weights=class_weights_of(train.labels, len(class_names), settings.class_weights),
        param_groups=layer_groups(model, settings.weight_decay, config.model.layer_lr_decay),
        distributed=distributed, log=notes.print, quiet=quiet,
    )  # fmt: skip
    notes.add("best checkpoint", state.describe_best(settings.select_by, settings.epochs))

    # Evaluation: the temperature is fitted on validation and folded into the last layer; then test is scored.
    start = time.perf_counter()
    with notes.phase("predicting all parts"):
        logits = [predict(part) for part in (train, valid, test)]
    cost = Cost(parameters, state.seconds, encoding_seconds + time.perf_counter() - start, sum(map(len, splits)))
    if is_main:
        temperature = fit_temperature(valid.labels, logits[1])
        fold_temperature(model.output, temperature)
        save_model(
            model, tokenizer, run.folder, read_json(checkpoint / "config.json"), class_names, track="finetune", **cut,
        )  # fmt: skip
        scores = finish_run(run, splits, logits, temperature, notes, cost)
        show_results(run, splits.test, probabilities(logits[-1][:1] / temperature)[0], scores, notes)


def open_run(config: Config) -> tuple[RunDir, Path]:
    """The run directory and the folder of the checkpoint. Wrong names fail before the data are read."""
    run = RunDir(config.run.folder(), config.run.overwrite, config.run.resume)
    checkpoint = fetch_checkpoint(config.model.model)
    if config.model.push_to_hub:
        open_repository(config.model.push_to_hub)
    return run, checkpoint


def show_results(run: RunDir, test: Dataset, example: np.ndarray, scores: dict, notes: Notes) -> None:
    """Print the probabilities of one test text and the scores."""
    notes.print(f"\n{format_prediction(test.texts[0], test.class_names, example.tolist(), top=TOP)}")
    notes.print(f"  label: {test.class_names[test.labels[0]]}")
    notes.print(f"\n{run.out}/report.md\n{text_table(score_rows(scores))}")


def build_model(
    config: ModelConfig, checkpoint: Path, class_names: tuple[str, ...], notes: Notes
) -> tuple[BertClassifier, Tokenizer]:
    """The checkpoint's tokenizer, and its encoder with a head for the classes; layers re-initialized or frozen."""
    model, lines = load_classifier(checkpoint, class_names, config.attention_dropout, config.dropout)
    for line in lines:
        notes.print(f"model: {line}")
    encoder = model.encoder
    if max(config.reinit_layers, config.freeze_layers) > len(encoder.layers):
        raise UserError(f"{config.model} has {len(encoder.layers)} layers; lower --reinit-layers or --freeze-layers")
    for layer in encoder.layers[len(encoder.layers) - config.reinit_layers :]:
        init_weights(layer, model.config.initializer_range)
    if config.freeze_layers:
        encoder.requires_grad_(False)
        encoder.layers[config.freeze_layers :].requires_grad_(True)
    encoder.checkpointing = config.gradient_checkpointing
    tokenizer = load_hub_tokenizer(checkpoint, model.config.vocab_size)
    if not all(special_ids(tokenizer)):
        raise UserError(f"{config.model}: the tokenizer adds no token before and after a text, which the head needs")
    return model, tokenizer


def fill_max_length(config: ModelConfig, positions: int, notes: Notes) -> ModelConfig:
    """The maximum length where none is given. Raises UserError if the model has fewer positions."""
    if config.max_length is None:
        config = replace(config, max_length=max(4, min(MAX_LENGTH, positions)))
        if positions < MAX_LENGTH:
            notes.add("maximum length", f"{positions} tokens per text: the model has no more positions")
    if config.max_length > positions:
        raise UserError(f"{config.model} has {positions} positions; lower --max-length (at least 4)")
    return config


def compile_if_long(model: BertClassifier, choice: bool | None, device: torch.device, plan: TrainPlan) -> None:
    """Compile the layers if `choice` says so; without a choice, if a run on CUDA is long enough to gain by it."""
    gains = device.type == "cuda" and len(plan.steps) >= MIN_COMPILED_UPDATES
    if gains if choice is None else choice:
        model.encoder.compile_layers()


def note_tokens(tokenizer: Tokenizer, tokens: list[TokenizedTexts], notes: Notes) -> None:
    """Note the numbers of tokens of training, validation and test, and warn of many unknown ones in training."""
    notes.add("tokens", describe_tokens(tokens))
    if tokens[0].window is not None:
        notes.add("windows", describe_windows(tokens[0].lengths(), tokens[0].window))
    if unknown := describe_unknown(tokenizer, tokens[0]):
        notes.add("unknown tokens", unknown)


def fill_defaults(config: TrainConfig, hidden_size: int, mean_length: float, device: torch.device) -> TrainConfig:
    """The learning rate of this encoder, and micro-batches on a CPU, where none are given.

    BERT-base's rate is 3e-5 (Devlin et al. 2019, A.3); narrower encoders need more. On 4 % of IMDB 2e-4 was the best of
    four for 192 hidden units, 1e-4 of two for 384; the exponent 1.5 lies between. `mean_length` is in tokens per text.
    """
    if config.lr is None:
        config = replace(config, lr=3e-5 * (768 / hidden_size) ** 1.5)
    if config.micro_batch_size is None and device.type == "cpu":
        num_texts = max(1, int(CPU_MICRO_BATCH_TOKENS / mean_length))
        config = replace(config, micro_batch_size=min(num_texts, config.batch_size))
    return config


if __name__ == "__main__":
    sys.exit(exit_status(main))
