"""What `fit_gpu.py` compares: fine-tuning of a BERT by minitext, and by Trainer of transformers, on the same texts."""

import tempfile
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch.amp import GradScaler

from minitext.data.batching import PackCollator
from minitext.data.tokenizer import TokenizedTexts
from minitext.evaluation.predict import predict_logits
from minitext.models.bert import BertClassifier, BertConfig
from minitext.training.device import PRECISIONS
from minitext.training.distributed import SINGLE
from minitext.training.loop import TrainConfig, plan_steps
from minitext.training.micro_batches import MicroBatches
from minitext.training.optim import build_optimizers, lr_factor, set_lr
from minitext.training.step import StepConfig, train_step

VOCAB_SIZE, NUM_CLASSES = 30522, 2
CPU_MICRO_BATCH_SIZE = 8  # as in train_finetune.py


@dataclass(frozen=True)
class Contestant:
    """One way to train."""

    library: str
    batch_size: int  # texts per update
    precision: str
    grouped: bool = False  # Trainer's batches of similar lengths; minitext has no others
    compiled: bool = False
    attention_dropout: float = 0.0

    @property
    def name(self) -> str:
        """What the table and `--only` call it."""
        extras = {"grouped": self.grouped, "compiled": self.compiled, "attention dropout": self.attention_dropout > 0}
        return " ".join(
            [self.library, str(self.batch_size), self.precision, *(word for word in extras if extras[word])]
        )


def random_texts(count: int, max_length: int, seed: int) -> PackCollator:
    """Random ids and labels. Lengths as of 1,500 reviews of IMDB in BERT's tokens: log-normal, median 228, least 38."""
    generator = np.random.default_rng(seed)
    lengths = np.exp(generator.normal(np.log(228), 0.62, count)).astype(np.int64).clip(min(38, max_length), max_length)
    ids = torch.from_numpy(generator.integers(1000, VOCAB_SIZE, lengths.sum(), dtype=np.int32))
    labels = torch.from_numpy(generator.integers(0, NUM_CLASSES, count))
    return PackCollator(TokenizedTexts(ids, F.pad(torch.from_numpy(lengths).cumsum(0), (1, 0))), labels)


def training_flops(config: BertConfig, lengths: torch.Tensor) -> float:
    """Floating-point operations of one forward and backward pass over texts of these lengths, (B,), first token only.

    Two per weight and token forward, twice that backward (Kaplan et al. 2020, section 2.1), and the two products of
    attention. What is not computed is not counted: padding, and most of the last layer.
    """
    tokens, squares, texts = float(lengths.sum()), float((lengths.double() ** 2).sum()), len(lengths)
    width, inner = config.hidden_size, config.intermediate_size
    layer = 2 * tokens * (4 * width * width + 2 * width * inner) + 4 * squares * width
    last = 2 * (2 * tokens + 2 * texts) * width * width + 4 * texts * width * inner + 4 * tokens * width
    return 3 * ((config.num_layers - 1) * layer + last)


def fit_minitext(
    contestant: Contestant, config: BertConfig, data: PackCollator, device: torch.device, clock: Generator
) -> Callable[[PackCollator], object]:
    """The steps of `minitext.training.loop.fit` without evaluations, checkpoints and log, which Trainer has not either.

    Returns a function that predicts.
    """
    dtype = PRECISIONS[contestant.precision]
    loop = TrainConfig(epochs=1, batch_size=contestant.batch_size, optimizer="adamw", lr=3e-5, weight_decay=0.01)
    model = BertClassifier(replace(config, attention_dropout=contestant.attention_dropout), NUM_CLASSES).to(device)
    if contestant.compiled:
        model.encoder.compile_layers()
    lengths = data.data.lengths().numpy()
    step = StepConfig(dtype, loop.max_grad_norm, torch.ones(NUM_CLASSES, device=device))
    plan = plan_steps(lengths, loop, seed=0)
    optimizers = build_optimizers(model, loop.optimizer, loop.lr, loop.weight_decay)
    scaler = GradScaler(device.type, enabled=dtype == torch.float16)
    size = micro_batch_size(contestant, device)
    next(clock)
    for update, batches in enumerate(MicroBatches(data, plan.steps, plan.epochs, size, device, SINGLE)):
        set_lr(optimizers, loop.lr * lr_factor(update, len(plan.steps), plan.warmup, loop.schedule))
        train_step(model, batches, optimizers, scaler, step)
        if not clock.send(lengths[plan.steps[update]].tolist()):
            break
    return lambda texts: predict_logits(model, texts, size, device, dtype)


def fit_trainer(
    contestant: Contestant, config: BertConfig, data: PackCollator, device: torch.device, clock: Generator
) -> Callable[[PackCollator], object]:
    """Trainer with its defaults, but for what the contestant sets and what it would print, report and save.

    Returns a function that predicts.
    """
    import transformers  # not at the top: minitext's memory is measured without it

    transformers.logging.set_verbosity_error()
    size, fetched = micro_batch_size(contestant, device), []

    def collate(rows: list[dict]) -> dict:  # the loader is one batch ahead of the updates
        fetched.append([len(row["input_ids"]) for row in rows])
        ids = [torch.tensor(row["input_ids"]) for row in rows]
        masks = [torch.ones_like(part) for part in ids]
        columns = {"input_ids": ids, "attention_mask": masks}
        padded = {name: torch.nn.utils.rnn.pad_sequence(part, batch_first=True) for name, part in columns.items()}
        return {**padded, "labels": torch.tensor([row["labels"] for row in rows])}

    class Clock(transformers.TrainerCallback):
        def on_step_end(self, arguments: object, state: object, control: object, **_: object) -> None:
            lengths = [length for _ in range(contestant.batch_size // size) for length in fetched.pop(0)]
            control.should_training_stop = not clock.send(lengths)

    model = transformers.BertForSequenceClassification(transformers.BertConfig(
        vocab_size=VOCAB_SIZE, hidden_size=config.hidden_size, num_hidden_layers=config.num_layers,
        num_attention_heads=config.num_heads, intermediate_size=config.intermediate_size, num_labels=NUM_CLASSES,
        attention_probs_dropout_prob=contestant.attention_dropout,
    ))  # fmt: skip
    settings = transformers.TrainingArguments(
        tempfile.gettempdir(), num_train_epochs=1, per_device_train_batch_size=size, per_device_eval_batch_size=size,
        gradient_accumulation_steps=contestant.batch_size // size, learning_rate=3e-5, weight_decay=0.01,
        train_sampling_strategy="group_by_length" if contestant.grouped else "random",
        fp16=contestant.precision == "fp16", bf16=contestant.precision == "bf16", torch_compile=contestant.compiled,
        report_to="none", save_strategy="no", logging_strategy="no", disable_tqdm=True, use_cpu=device.type == "cpu",
    )  # fmt: skip
    trainer = transformers.Trainer(model, settings, collate, as_rows(data), callbacks=[Clock()])
    trainer.remove_callback(transformers.PrinterCallback)
    next(clock)
    trainer.train()
    return lambda texts: trainer.predict(as_rows(texts))


def micro_batch_size(contestant: Contestant, device: torch.device) -> int:
    """Texts per forward pass, in both libraries."""
    return contestant.batch_size if device.type == "cuda" else min(CPU_MICRO_BATCH_SIZE, contestant.batch_size)


def as_rows(data: PackCollator) -> list[dict]:
    """Texts as Trainer expects them."""
    texts = zip(data.data.ids.split(data.data.lengths().tolist()), data.labels.tolist(), strict=True)
    return [{"input_ids": ids.tolist(), "labels": label} for ids, label in texts]
