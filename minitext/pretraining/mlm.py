"""Masked-language-model pretraining of a BERT, new or from a checkpoint (`minitext pretrain`).

Inputs: texts. Outputs: a folder in the Hub's format, for `train_finetune.py --model` and for transformers.
Method: Devlin et al. 2019, without next-sentence prediction. From a checkpoint, on the texts of a task: within-task
further pretraining (Sun et al. 2019, section 5.4; Gururangan et al. 2020).
"""

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import nn

from minitext.data.batching import evaluation_batches, load_batches
from minitext.data.corpus import CorpusConfig, drop_duplicates, load_corpus
from minitext.data.tokenizer import TokenizedTexts, tokenizer_sha256
from minitext.models.bert import BertConfig, BertMaskedLM
from minitext.models.hf_checkpoint import save_model
from minitext.pretraining.init import build_new, init_output_bias, load_existing
from minitext.pretraining.masking import MASK_PROB, MLMCollator, make_collator
from minitext.training.device import compute_settings, pick_device, pick_dtype
from minitext.training.distributed import SINGLE, Distributed, destroy, init_distributed
from minitext.training.loop import LoopConfig, fit, plan_steps
from minitext.utils.config import option, require
from minitext.utils.errors import UserError, after_training
from minitext.utils.run_dir import METRICS_FILE, OutputConfig, RunDir, already_finished, log, run_settings

MIN_TEXTS = 20  # texts; fewer cannot be split into training and evaluation
EVAL_EPOCH = 1 << 30  # each evaluation masks the same tokens, which differ from those of all training epochs


@dataclass(frozen=True)
class PretrainConfig:
    """pretraining"""

    model: str | None = option(None, "continue from this checkpoint: Hub id or folder (default: a new encoder)")
    vocab_size: int = option(4096, "vocabulary size of a new tokenizer")
    hidden_size: int = option(256, "hidden size of a new encoder")
    num_layers: int = option(4, "layers of a new encoder")
    num_heads: int = option(4, "attention heads of a new encoder")
    max_positions: int = option(512, "maximum input length of a new encoder, in tokens")
    vectors: str | None = option(None, "word vectors that initialize the tokens of a new encoder: a name or a file")
    max_length: int = option(128, "tokens per block; texts are packed end to end")
    mask_prob: float = option(MASK_PROB, "fraction of the training tokens that are masked (Wettig et al. 2023)")
    short_blocks: float = option(
        0.0, "fraction of the blocks that are shorter, so that the encoder also learns short texts (Devlin et al. 2019)"
    )
    dropout: float = option(0.0, "dropout during pretraining (the saved config keeps BERT's 0.1)")
    cls_objective: bool = option(False, "also train [CLS] to predict one of its block's masked tokens")
    save_fp16: bool = option(False, "save the weights in float16")
    held_out: float = option(0.01, "fraction of the texts that is held out to evaluate pretraining")

    def __post_init__(self) -> None:
        require(self, lambda value: value >= 100, "at least 100", "vocab_size")
        require(self, lambda value: value >= 8, "at least 8", "max_length")
        sizes = ("hidden_size", "num_layers", "num_heads", "max_positions")
        require(self, lambda value: value >= 1, "at least 1", *sizes)
        require(self, lambda value: 0 <= value < 1, "in [0, 1)", "dropout")
        require(self, lambda value: 0 <= value <= 1, "in [0, 1]", "short_blocks")
        require(self, lambda value: 0 < value < 1, "strictly between 0 and 1", "held_out", "mask_prob")
        if self.vectors and self.model:
            raise UserError(f"--vectors {self.vectors} initializes a new encoder; drop it or --model {self.model}")


@dataclass(frozen=True)
class PretrainTrainConfig(LoopConfig):
    """training"""

    optimizer: str = option("adamw", "adam or adamw", choices=("adam", "adamw"))
    lr: float = option(5e-4, "peak learning rate")
    weight_decay: float = option(0.01, "weight decay (matrices only; biases and norms are exempt)")


@dataclass(frozen=True)
class PretrainRunConfig(OutputConfig):
    """run"""

    out: str = option("runs/pretrain", "directory of the checkpoint")
    resume: bool = option(False, "resume an interrupted run in --out (bit-identical on the CPU)")
    device: str = option("auto", "auto, cpu, cuda, cuda:1 or mps")


@dataclass(frozen=True)
class Config:
    """All settings of a pretraining run."""

    data: CorpusConfig
    pretrain: PretrainConfig
    loop: PretrainTrainConfig
    run: PretrainRunConfig


def pretrain(config: Config, draw: Callable[[Path], None] | None = None) -> Path:
    """Pretrain and write the checkpoint to `config.run.out`, complete or not at all; returns that folder.

    `draw` may add figures to the folder before it is complete; if it fails, they are left out. Of several processes,
    rank 0 alone has that folder.
    """
    seed, device = config.run.seed, pick_device(config.run.device)
    distributed = init_distributed(device)
    is_main, quiet = distributed.rank == 0, config.run.quiet or distributed.rank > 0
    if distributed.broadcast(is_main and is_finished(config)):
        log(f"{config.run.out}: finished already, with these settings", quiet)
        destroy(distributed)
        return Path(config.run.out)
    if is_main:
        run = RunDir(config.run.out, config.run.overwrite, config.run.resume, final_file=METRICS_FILE)
    texts, note = load_corpus(config.data, seed)
    log(note, quiet)
    train_texts, valid_texts = split_texts(texts, config.pretrain.held_out, seed)

    torch.manual_seed(seed)
    start = start_model(config.pretrain, train_texts) if is_main else None
    model, tokenizer, hub_config = distributed.broadcast(start)
    batch_size, length = config.loop.micro_batch_size or config.loop.batch_size, config.pretrain.max_length
    num_tokens, parameters = batch_size * length, sum(parameter.numel() for parameter in model.parameters())
    dtype = distributed.broadcast(pick_dtype(config.loop.precision, device, model.config.hidden_size, num_tokens))
    masking = {"mask_prob": config.pretrain.mask_prob, "cls_objective": config.pretrain.cls_objective}
    short = config.pretrain.short_blocks
    train = make_collator(tokenizer, train_texts, length, seed, **masking, short_blocks=short, quiet=quiet)
    valid = make_collator(tokenizer, valid_texts, length, seed, quiet=quiet)
    if not config.pretrain.model:
        init_output_bias(model, train.data.ids)
    counts = f"{len(train.data.ids):,} tokens for training, {len(valid.data.ids):,} held out"
    log(f"{counts}; {parameters:,} parameters; {device}, {dtype}", quiet)
    plan_steps(train.data.lengths().numpy(), config.loop, seed)  # settings that do not fit are refused before `start`
    data_found = {"train": describe(train.data), "valid": describe(valid.data)}
    distributed.require_same(data_found, ", ".join(config.data.data))
    if is_main:
        more = {"tokenizer": tokenizer_sha256(tokenizer), **compute_settings(device, dtype, distributed.world_size)}
        run.start(run_settings(config, data_found, class_names=(), **more))
    model.to(device)
    state = fit(
        model, train, partial(evaluate_mlm, model, valid, batch_size, dtype, distributed), config.loop,
        seed=seed, device=device, dtype=dtype, run_dir=run.folder if is_main else None,
        class_weights=torch.ones(model.config.vocab_size), distributed=distributed,
        log=partial(log, quiet=quiet), quiet=quiet,
    )  # fmt: skip
    if is_main:
        if config.pretrain.save_fp16:
            model.half()
        save_model(model, tokenizer, run.folder, hub_config, track="pretrain", updates=state.updates)
        if draw is not None:
            with after_training("drawing the figure", f"minitext plot {run.out}"):
                draw(run.folder)
        run.commit()
    log(f"{config.run.out}: best checkpoint: {state.describe_best(config.loop.select_by, config.loop.epochs)}", quiet)
    destroy(distributed)
    return Path(config.run.out)


def is_finished(config: Config) -> bool:
    """Whether `--resume` finds a finished run with these settings. Raises UserError for the folder of a classifier."""
    if (Path(config.run.out) / "scores.json").exists():
        raise UserError(f"{config.run.out}: contains a classifier; pass another --out")
    return already_finished(config, [Path(config.run.out)], METRICS_FILE)


def split_texts(texts: Sequence[str], fraction: float, seed: int) -> tuple[list[str], list[str]]:
    """The texts for training and those that are held out, at least one of each, in random order.

    No text is in both: of texts with the same words that fall on both sides, the one in training is dropped.
    """
    texts = [text for text in texts if text.strip()]
    if len(texts) < MIN_TEXTS:
        raise UserError(f"--data has {len(texts)} texts, but pretraining needs at least {MIN_TEXTS}; add texts")
    shuffled = [texts[index] for index in np.random.default_rng(seed).permutation(len(texts))]
    num_valid = min(max(round(fraction * len(texts)), 1), len(texts) - 1)
    valid = shuffled[:num_valid]
    train = drop_duplicates(shuffled[num_valid:], valid)
    if not train:
        raise UserError("--data: every text has the same words as one that is held out; add texts")
    return train, valid


def start_model(config: PretrainConfig, texts: Sequence[str]) -> tuple[BertMaskedLM, Tokenizer, dict]:
    """Model, tokenizer and Hub config, from `config.model` or new. Raises UserError if --max-length is too large."""
    if config.model:
        model, tokenizer, hub_config = load_existing(config.model, config.dropout)
    else:
        sizes = {name: getattr(config, name) for name in ("vocab_size", "hidden_size", "num_layers", "num_heads")}
        shape = BertConfig(**sizes, intermediate_size=4 * config.hidden_size, max_positions=config.max_positions)
        model, tokenizer, hub_config = build_new(shape, texts, config.dropout, config.vectors)
    if config.max_length > model.config.max_length:
        raise UserError(
            f"--max-length {config.max_length}: the encoder has {model.config.max_length} positions; lower it"
        )
    return model, tokenizer, hub_config


def describe(blocks: TokenizedTexts) -> dict[str, int | str]:
    """Size and fingerprint of the data, for `settings.json`."""
    fingerprint = hashlib.sha256(blocks.ids.numpy()).hexdigest()
    return {"blocks": len(blocks.offsets) - 1, "tokens": len(blocks.ids), "fingerprint": fingerprint}


@torch.inference_mode()
def evaluate_mlm(
    model: nn.Module, collator: MLMCollator, batch_size: int, dtype: torch.dtype, distributed: Distributed = SINGLE
) -> dict[str, float]:
    """Loss in nats, accuracy and perplexity, exp(loss), on masked tokens of all blocks; the same in all processes."""
    device = next(model.parameters()).device
    model.eval()
    batches = distributed.shard(evaluation_batches(collator.data.lengths().numpy(), batch_size))
    sums = [torch.zeros(3, device=device)]  # of each batch: loss, correct predictions, masked tokens
    for batch in load_batches(collator, batches, [EVAL_EPOCH] * len(batches), pin=device.type == "cuda"):
        batch = batch.to(device)
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            logits = model(batch).float()  # (M, V)
        loss = F.cross_entropy(logits, batch.labels, reduction="sum")
        correct = (logits.argmax(dim=1) == batch.labels).sum()
        sums.append(torch.stack((loss, correct, torch.full_like(loss, len(batch.labels)))))
    loss, correct, count = distributed.all_reduce_sum(torch.stack(sums).sum(dim=0)).tolist()
    return {"loss": loss / count, "accuracy": correct / count, "perplexity": math.exp(min(loss / count, 700))}
