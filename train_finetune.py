"""A pretrained BERT, fine-tuned: tokens, encoder, a head on the first token, and a loop with every step in sight.

    python train_finetune.py                                                 the small BERT and the sample of minitext
    python train_finetune.py --data imdb --model google-bert/bert-base-uncased
    python train_finetune.py --data reviews.csv --model roberta-base         another of the family, your own texts
    python train_finetune.py --data reviews.csv --model folder/ --resume     your own checkpoint; go on where it stopped
    torchrun --nproc-per-node 8 train_finetune.py --data imdb                eight GPUs, the same update

Writes a run into <out>: scores, figures, predictions, a report, and the model as transformers and the Hub know it.
"""

import sys
import time
from dataclasses import dataclass, replace
from functools import partial
from types import SimpleNamespace

import torch

from minitext.data.batching import PackCollator
from minitext.data.dataset import DataConfig, Splits, describe_splits, load_dataset
from minitext.data.duplicates import check_duplicates
from minitext.data.tokenizer import TRUNCATIONS, digest, encode, pad_id, special_ids
from minitext.evaluation.predict import predict_logits
from minitext.evaluation.predictor import format_prediction
from minitext.models.bert import init_weights
from minitext.models.hf_checkpoint import check_vocabulary, load_classifier, load_hub_tokenizer, read_json, save_model
from minitext.models.hub import fetch_checkpoint, open_repository, push
from minitext.reporting import run
from minitext.reporting.report import score_rows, text_table
from minitext.reporting.seeds import for_each_seed, summarize
from minitext.training import loop
from minitext.training.device import pick_device, pick_precision
from minitext.training.distributed import Distributed, join, leave
from minitext.training.loop import fit, plan_steps
from minitext.training.optim import layer_groups
from minitext.utils.config import option, parse
from minitext.utils.errors import UserError, exit_status

CPU_MICRO_BATCH = 8  # texts whose activations stay near a CPU's caches; a GPU is faster with the whole batch at once


@dataclass(frozen=True)
class ModelConfig:
    """model"""

    model: str = option("sample", "sample, a Hub id, id@revision, or a folder with a checkpoint")
    max_length: int = option(256, "most tokens of a text; special tokens count as well")
    truncate: str = option("head", "what is kept of longer texts", choices=TRUNCATIONS)
    dropout: float | None = option(None, "of hidden states and head (default: the checkpoint's)")
    attention_dropout: float = option(0.0, "of attention weights; above 0 no fast attention kernel serves")
    reinit_layers: int = option(0, "top layers to draw anew (Zhang et al. 2021, arXiv:2006.05987, section 4)")
    freeze_layers: int = option(0, "bottom layers, and the embeddings, that stay as they are")
    layer_lr_decay: float = option(
        1.0, "learning rate of a layer as a share of the next one's (Sun et al. 2019, 5.3.3)"
    )
    gradient_checkpointing: bool = option(False, "less memory, a third more work (Chen et al. 2016, arXiv:1604.06174)")
    compile: bool = option(False, "let torch.compile fuse each layer's kernels; takes a minute to start")
    push_to_hub: str | None = option(None, "upload the finished run to this Hub repository, user/name")

    def __post_init__(self) -> None:
        if self.max_length < 4:
            raise UserError(f"--max-length {self.max_length}: at least 4")
        for name in ("dropout", "attention_dropout"):
            if not 0 <= (getattr(self, name) or 0) < 1:
                raise UserError(f"--{name.replace('_', '-')} {getattr(self, name)}: a share lies from 0 to below 1")
        if not 0 < self.layer_lr_decay <= 1:
            raise UserError(f"--layer-lr-decay {self.layer_lr_decay}: above 0, at most 1")
        if min(self.reinit_layers, self.freeze_layers) < 0:
            raise UserError("--reinit-layers and --freeze-layers are not below 0")


@dataclass(frozen=True)
class TrainConfig(loop.TrainConfig):
    """training"""

    epochs: int = option(4, "passes over the training texts")
    batch_size: int = option(16, "texts that one update sees")
    optimizer: str = option("adamw", "adam or adamw", choices=("adam", "adamw"))
    lr: float | None = option(None, "peak learning rate (default: 3e-5 for 768 hidden units, more for fewer)")
    weight_decay: float = option(0.01, "of matrices; biases and norms do not decay")
    select_by: str = option(
        "loss",
        "what decides on the best check; of few texts the loss tells more",
        choices=("accuracy", "macro_f1", "loss"),
    )


@dataclass(frozen=True)
class RunConfig(run.RunConfig):
    """run"""

    out: str = option("runs/finetune", "folder of the run")
    resume: bool = option(False, "go on with an unfinished run in --out, to the same result")


COURSE_REPORT = {
    "data": "imdb", "subset": (0.04, 0.02), "model": "google-bert/bert-base-uncased", "batch_size": 64, "epochs": 10,
    "lr": 3e-5, "warmup": 0.1, "weight_decay": 0.01, "select_by": "accuracy", "precision": "fp16", "attention_dropout": 0.1,
}  # fmt: skip


def main() -> None:
    options = parse(
        __doc__,
        presets={"course-report": COURSE_REPORT},
        data=DataConfig,
        model=ModelConfig,
        loop=TrainConfig,
        run=RunConfig,
    )
    if options.model.push_to_hub and options.run.num_seeds > 1:
        raise UserError("--push-to-hub uploads one run, --num-seeds makes several; choose the seed to push with --seed")
    device = pick_device(options.run.device)
    team = join(device)  # one process, or those that torchrun started
    for once in for_each_seed(options):
        train_one_seed(once, device, team)
    if options.run.num_seeds > 1 and team.rank == 0:
        run.say(summarize(options), options.run.quiet)
    leave(team)


def train_one_seed(options: SimpleNamespace, device: torch.device, team: Distributed) -> None:
    precision = pick_precision(options.loop.precision, device)
    job = run.RunDir(options.run.folder(), options.run.overwrite, options.run.resume)
    quiet = options.run.quiet or team.rank > 0
    say = partial(run.say, quiet=quiet)
    say(f"data: {options.data.data} · model: {options.model.model} · device: {device}, {precision}")
    if "sample" in (options.data.data, options.model.model):
        say("      (what travels with minitext; the real ones: --data imdb --model google-bert/bert-base-uncased)")
    checkpoint = fetch_checkpoint(options.model.model)  # a wrong name fails now, not after the data has been read
    if options.model.push_to_hub and team.rank == 0:
        open_repository(options.model.push_to_hub)

    # Data. Three parts; duplicates across them are counted before anything is trained.
    splits, duplicates = check_duplicates(load_dataset(options.data, options.run.seed), options.data.drop_duplicates)
    run_notes = {"texts": describe_splits(splits), "duplicates across splits": duplicates}
    say(f"texts: {run_notes['texts']}")
    say(f"duplicates across splits: {duplicates}")

    # Model. A head that is new, or a layer drawn anew, is drawn after seeding: the same seed gives the same weights.
    torch.manual_seed(options.run.seed)
    chosen = options.model
    model, lines = load_classifier(checkpoint, splits.train.class_names, chosen.attention_dropout, chosen.dropout)
    encoder = model.encoder
    if (
        max(chosen.reinit_layers, chosen.freeze_layers) > len(encoder.layers)
        or chosen.max_length > model.config.longest
    ):
        raise UserError(f"{chosen.model}: has {len(encoder.layers)} layers (--reinit-layers, --freeze-layers) and room for texts of "
                        f"{model.config.longest} tokens (--max-length)")  # fmt: skip
    for layer in list(encoder.layers)[len(encoder.layers) - chosen.reinit_layers :]:
        init_weights(layer, model.config.init_std)
    if chosen.freeze_layers:
        encoder.requires_grad_(False)
        encoder.layers[chosen.freeze_layers :].requires_grad_(True)
    encoder.checkpointing = chosen.gradient_checkpointing
    model.to(device)
    if chosen.compile:
        for layer in encoder.layers:
            layer.compile(dynamic=True)
    for line in lines:
        say(f"model: {line}")
    parameters = sum(parameter.numel() for parameter in model.parameters())
    run_notes["model"] = f"{chosen.model}, {parameters:,} parameters"
    say(f"model: {run_notes['model']}")

    # Tokens, by the checkpoint's own tokenizer; each text is cut to what the encoder may see.
    start = time.perf_counter()
    tokenizer = load_hub_tokenizer(checkpoint)
    check_vocabulary(tokenizer, model.config, chosen.model)
    if not all(special_ids(tokenizer)):
        raise UserError(f"{chosen.model}: its tokenizer puts no token before and after a text, which the head needs")
    encoded = [encode(tokenizer, part.texts, chosen.max_length, chosen.truncate, quiet) for part in splits]
    run_notes["tokens"] = (
        ", ".join(f"{name} {len(part.ids):,}" for name, part in zip(Splits._fields, encoded, strict=True))
        + f"; {sum(len(part.ids) for part in encoded) / sum(map(len, (part.texts for part in splits))):.0f} a text"
    )
    say(f"tokens: {run_notes['tokens']}, {time.perf_counter() - start:.1f} s")
    encoding_seconds = time.perf_counter() - start
    fixed = chosen.max_length if options.loop.pad == "fixed" else None
    train, valid, test = (
        PackCollator(ids, torch.from_numpy(corpus.labels), pad_id(tokenizer), fixed)
        for ids, corpus in zip(encoded, splits, strict=True)
    )

    # Training. Every step is in minitext/training/loop.py; what cannot be trained is refused before there is a folder.
    settings = options.loop
    if settings.lr is None:
        settings = replace(settings, lr=usual_rate(model.config.width))
        run_notes["learning rate"] = f"{settings.lr:.2g}"
    if settings.micro_batch_size is None and device.type == "cpu":
        settings = replace(settings, micro_batch_size=min(CPU_MICRO_BATCH, settings.batch_size))
    plan_steps(encoded[0].lengths().numpy(), settings, options.run.seed)
    if team.rank == 0:
        job.start(run.describe(options, splits, tokenizer_sha256=digest(tokenizer), processes=team.size))
    team.wait()
    groups = layer_groups(model, settings.weight_decay, chosen.layer_lr_decay)
    progress = fit(
        model, train, valid, settings, options.run.seed, device, precision, job.folder, say, quiet, team, groups
    )
    run_notes["kept"] = f"epoch {progress.best_epoch:g}, the best on validation by {settings.select_by}"
    run_notes["trained in"] = f"{progress.seconds:.1f} s with checks, {progress.updates:,} updates"

    # Evaluation. The one look at test; scores, figures, report and model go into the run's folder.
    start = time.perf_counter()
    texts_at_once = settings.micro_batch_size or settings.batch_size
    probabilities = [
        predict_logits(model, part, texts_at_once, device, precision, quiet, team).softmax(dim=1).numpy()
        for part in (train, valid, test)
    ]
    predicting_seconds = time.perf_counter() - start
    if team.rank == 0:
        save_model(
            model, tokenizer, job.folder, read_json(checkpoint / "config.json"), splits.train.class_names,
            track="finetune", max_length=chosen.max_length, truncate=chosen.truncate,
        )  # fmt: skip
        costs = run.Cost(parameters, progress.seconds, encoding_seconds + predicting_seconds, sum(map(len, splits)))
        scores = job.finish(splits, probabilities, run_notes, costs)
        say(f"kept: {run_notes['kept']}; trained in {run_notes['trained in']}")
        say(f"\n{format_prediction(splits.test.texts[0], splits.test.class_names, probabilities[-1][0].tolist())}")
        say(f"  the label: {splits.test.class_names[splits.test.labels[0]]}")
        say(f"\n{job.out}/report.md\n{text_table(score_rows(scores))}")
        if chosen.push_to_hub:
            say(f"\npushed to {push(job.out, chosen.push_to_hub)}")


def usual_rate(width: int) -> float:
    """BERT-base's 3e-5 (Devlin et al. 2019, A.3); narrower encoders need more.

    On 4 % of IMDB 2e-4 was the best of four for 192 hidden units, 1e-4 of two for 384; the exponent lies between.
    """
    return 3e-5 * (768 / width) ** 1.5


if __name__ == "__main__":
    sys.exit(exit_status(main))
