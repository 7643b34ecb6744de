"""Pretrain a BERT on texts without labels, from nothing or going on from a checkpoint (`minitext pretrain`).

In: texts. Out: a folder in the Hub's format that `train_finetune.py --model` takes and transformers opens. The masked
language model of Devlin et al. 2019 on the loop of the three scripts; going on from a checkpoint on the texts of the
task is within-task further pretraining (Sun et al. 2019, section 5.4; Gururangan et al. 2020).
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, processors
from torch import nn

from minitext.data.batching import PackCollator, evaluation_batches, load_batches
from minitext.data.tokenizer import TokenizedTexts, digest, encode, pad_id, special_ids, train_tokenizer
from minitext.data.word_vectors import load_word_vectors
from minitext.models.bert import BertConfig, BertMaskedLM
from minitext.models.hf_checkpoint import (
    check_vocabulary,
    load_hub_tokenizer,
    load_weights,
    mask_id,
    read_json,
    save_model,
)
from minitext.models.hf_names import FAMILIES, family_of, read_config, write_config
from minitext.models.hub import fetch_checkpoint
from minitext.pretraining.glove import read_texts
from minitext.pretraining.masking import MLMCollator, pack_blocks
from minitext.pretraining.starts import init_output_bias, init_positions, start_from
from minitext.reporting.run import OutputConfig, commit, say, start_folder
from minitext.training import loop
from minitext.training.device import pick_device, pick_precision
from minitext.training.distributed import join, leave
from minitext.training.loop import fit, plan_steps
from minitext.utils.config import option
from minitext.utils.errors import UserError
from minitext.utils.metrics_log import MetricsLog

MIN_TEXTS = 20  # texts; fewer cannot spare any to check on
NO_TRUNCATION = 1 << 30  # tokens; a text is not cut, the blocks are
EVAL_EPOCH = 1 << 30  # the same tokens are hidden at each check, and others than in any epoch of training


@dataclass(frozen=True)
class PretrainConfig:
    """pretraining"""

    data: tuple[str, ...] = option(
        ("sample",), "labelled texts (their test part is left out) or .txt files with a text a line", metavar="DATA"
    )
    model: str | None = option(None, "go on from this checkpoint: Hub id or folder (default: from nothing)")
    vocab_size: int = option(4096, "word pieces of a new tokenizer")
    width: int = option(256, "hidden units of a new encoder")
    layers: int = option(4, "layers of a new encoder")
    heads: int = option(4, "attention heads of a new encoder")
    positions: int = option(512, "longest text that a new encoder can read, in tokens")
    vectors: str | None = option(None, "start a new encoder's tokens from word vectors of its width: a name, or a file")
    max_length: int = option(128, "tokens of a block; texts are packed end to end")
    dropout: float = option(0.0, "while pretraining; what a new encoder tells fine-tuning is BERT's 0.1")
    cls_objective: bool = option(
        False, "a block's first token, which classifiers read, learns to name a hidden one, too"
    )
    save_fp16: bool = option(False, "keep the result in half precision, in half the space")
    valid_fraction: float = option(0.01, "share of the texts that is only checked on")

    def __post_init__(self) -> None:
        for name in ("vocab_size", "width", "layers", "heads", "positions", "max_length"):
            least = {"vocab_size": 100, "max_length": 8}.get(name, 1)
            if getattr(self, name) < least:
                raise UserError(f"--{name.replace('_', '-')} {getattr(self, name)}: at least {least}")
        if self.vectors and self.model:
            raise UserError("--vectors start a new encoder; --model goes on with one that has its own")
        if not 0 <= self.dropout < 1:
            raise UserError(f"--dropout {self.dropout}: a share lies from 0 to below 1")
        if not 0 < self.valid_fraction < 1:
            raise UserError(f"--valid-fraction {self.valid_fraction}: a share between 0 and 1")


@dataclass(frozen=True)
class TrainConfig(loop.LoopConfig):
    """training"""

    optimizer: str = option("adamw", "adam or adamw", choices=("adam", "adamw"))
    lr: float = option(5e-4, "peak learning rate")
    weight_decay: float = option(0.01, "of matrices; biases and norms do not decay")
    select_by: str = option("loss", "what decides on the best check", choices=("accuracy", "loss"))


@dataclass(frozen=True)
class PretrainRunConfig(OutputConfig):
    """run"""

    out: str = option("runs/pretrain", "folder of the checkpoint")
    resume: bool = option(False, "go on with an unfinished one in --out, to the same result")


def pretrain(options: PretrainConfig, settings: TrainConfig, run: PretrainRunConfig) -> None:
    """Read, tokenize, pack, train, and write `run.out`, which is there whole or not at all."""
    device = pick_device(run.device)
    precision = pick_precision(settings.precision, device)
    team = join(device)
    quiet = run.quiet or team.rank > 0
    out = Path(run.out)
    ours = (out / "journal.jsonl").exists() and not (out / "scores.json").exists()  # scores: a classifier's run
    if out.exists() and not (run.overwrite and ours):
        raise UserError(f"{out}: exists; choose another --out, or replace a checkpoint of minitext with --overwrite")
    folder = out.with_name(out.name + ".partial")

    texts = [text for source in options.data for text in read_texts(source) if text.strip()]
    if len(texts) < MIN_TEXTS:
        raise UserError(
            f"{', '.join(options.data)}: {len(texts)} texts are too few to train on; give {MIN_TEXTS} or more"
        )
    order = np.random.default_rng(run.seed).permutation(len(texts))
    held = min(max(round(options.valid_fraction * len(texts)), 1), len(texts) - 1)
    parts = [[texts[row] for row in rows] for rows in (order[held:], order[:held])]

    torch.manual_seed(run.seed)
    if options.model:
        model, tokenizer, config = load_existing(options.model, options.dropout)
    else:
        model, tokenizer, config = build_new(options, parts[0])
    if options.max_length > model.config.longest:
        raise UserError(f"--max-length {options.max_length}: the encoder has {model.config.longest} positions")
    before, after = special_ids(tokenizer)
    if options.cls_objective and not before:
        raise UserError("--cls-objective: the tokenizer puts no token before a text")
    encoded = [encode_untruncated(tokenizer, part, quiet) for part in parts]
    blocks = [pack_blocks(ids, options.max_length, before, after) for ids in encoded]
    if not all(len(part.ids) for part in blocks):
        raise UserError(f"{', '.join(options.data)}: the tokenizer finds no tokens in the texts")
    if not options.model:
        init_output_bias(model, blocks[0].ids)
    train, valid = (make_collator(ids, tokenizer, run.seed) for ids in blocks)
    train = replace(train, summary=options.cls_objective)
    say(
        f"{len(texts):,} texts, {len(blocks[0].ids):,} tokens in {len(blocks[0].offsets) - 1:,} blocks to learn from, "
        f"{len(blocks[1].ids):,} held out; {sum(p.numel() for p in model.parameters()):,} parameters; {device}, "
        f"{precision}",
        quiet,
    )
    plan_steps(blocks[0].lengths().numpy(), settings, run.seed)
    if team.rank == 0:
        start_folder(
            folder, run.resume and (folder / "settings.json").exists(),
            {"pretrain": asdict(options), "loop": asdict(settings), "seed": run.seed, "tokenizer": digest(tokenizer),
             "tokens": [hashlib.sha256(part.ids.numpy().tobytes()).hexdigest() for part in blocks]},
        )  # fmt: skip
    team.wait()
    model.to(device)
    progress = fit(
        model, train, valid, settings, run.seed, device, precision, folder, lambda line: say(line, quiet), quiet, team,
        task=loop.Task(
            lambda: evaluate_mlm(model, valid.at_epoch(EVAL_EPOCH), settings, device, precision),
            torch.ones(model.config.vocabulary),
        ),
    )  # fmt: skip
    if team.rank == 0:
        if options.save_fp16:
            model.half()
        save_model(model, tokenizer, folder, config, track="pretrain", updates=progress.updates)
        draw_curves(folder)
        commit(folder, out)
    say(f"{out}: epoch {progress.best_epoch:g}, the best of {progress.epoch}; {progress.seconds:.0f} s", quiet)
    leave(team)


def build_new(options: PretrainConfig, texts: Sequence[str]) -> tuple[BertMaskedLM, Tokenizer, dict]:
    """A new encoder of BERT's shape, and a WordPiece tokenizer for `texts` that adds `[CLS]` and `[SEP]` as BERT's."""
    tokenizer = train_tokenizer(texts, options.vocab_size)
    if tokenizer.get_vocab_size() < options.vocab_size:
        raise UserError(
            f"--vocab-size {options.vocab_size}: the texts allow {tokenizer.get_vocab_size():,} word pieces; ask for "
            "fewer, or give more texts"
        )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")],
    )  # fmt: skip
    config = BertConfig(
        tokenizer.get_vocab_size(), options.width, options.layers, options.heads, 4 * options.width, options.positions
    )
    model = BertMaskedLM(with_dropout(config, options.dropout))
    init_positions(model)
    if options.vectors:
        start_from(model, tokenizer, load_word_vectors(options.vectors, tokenizer.get_vocab()))
    return model, tokenizer, write_config(config)


def with_dropout(config: BertConfig, share: float) -> BertConfig:
    return replace(config, dropout=share, attention_dropout=share)


def load_existing(source: str, dropout: float) -> tuple[BertMaskedLM, Tokenizer, dict]:
    """The encoder of a checkpoint, its masked-LM head where it has one, and its tokenizer."""
    folder = fetch_checkpoint(source)
    config = read_json(folder / "config.json")
    family = family_of(config, source)
    if family.masked_lm is None:
        raise UserError(f"{source}: a {config['model_type']} is no masked language model; these are: "
                        f"{', '.join(kind for kind, member in FAMILIES.items() if member.masked_lm)}")  # fmt: skip
    model = BertMaskedLM(with_dropout(read_config(config, source), dropout))
    load_weights(model, folder, family)
    tokenizer = load_hub_tokenizer(folder)
    check_vocabulary(tokenizer, model.config, source)
    return model, tokenizer, config


def encode_untruncated(tokenizer: Tokenizer, texts: Sequence[str], quiet: bool) -> TokenizedTexts:
    """Ids of texts, nothing cut, without the tokens that stand around a text: the blocks have their own."""
    bare = Tokenizer.from_str(tokenizer.to_str())
    bare.post_processor = processors.TemplateProcessing(single="$A", pair="$A $B", special_tokens=[])
    return encode(bare, texts, NO_TRUNCATION, "head", quiet)


def make_collator(blocks: TokenizedTexts, tokenizer: Tokenizer, seed: int) -> MLMCollator:
    """Blocks to a source of batches with hidden tokens."""
    mask = mask_id(tokenizer)
    if mask is None:
        raise UserError("the tokenizer has no [MASK] or <mask>; it is not one of a masked language model")
    special = {number for number, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    labels = torch.zeros(len(blocks.offsets) - 1, dtype=torch.int64)
    padder = PackCollator(blocks, labels, pad_id(tokenizer))
    return MLMCollator(padder, seed, mask, tuple(sorted(special)), tokenizer.get_vocab_size())


@torch.inference_mode()
def evaluate_mlm(
    model: nn.Module, data: MLMCollator, settings: TrainConfig, device: torch.device, precision: torch.dtype
) -> dict[str, float]:
    """Mean loss in nats a hidden token, the share of them that is named right, and the perplexity, exp(loss)."""
    model.eval()
    loss, right, count = 0.0, 0, 0
    plan = evaluation_batches(data.data.lengths().numpy(), settings.micro_batch_size or settings.batch_size)
    for batch in load_batches(data, plan):
        batch = batch.to(device)
        with torch.autocast(device.type, precision, enabled=precision != torch.float32):
            logits = model(*batch.inputs).float()  # (M, V)
        loss += F.cross_entropy(logits, batch.labels, reduction="sum").item()
        right += int((logits.argmax(dim=1) == batch.labels).sum())
        count += len(batch.labels)
    return {"loss": loss / count, "accuracy": right / count, "perplexity": math.exp(min(loss / count, 700))}


def draw_curves(folder: Path) -> None:
    """Loss and accuracy at each check."""
    from minitext.reporting.plots import curves, save  # here: matplotlib is slow to import

    save(curves(MetricsLog(folder / "journal.jsonl").checks()), folder / "curves.png")
