"""Fine-tuning a BERT for one epoch: minitext and transformers' Trainer alternating, each run in its own process.

    pip install "transformers>=5" accelerate
    python tests/benchmarks/fit_finetune.py --model MiniLM/ --data aclImdb_v1.tar.gz --subset 0.04 0.02 [--rounds 3]
    python tests/benchmarks/fit_finetune.py --shape base --tokenizer MiniLM/ --data aclImdb_v1.tar.gz --steps 100

Both get the same token ids. minitext updates from 64 texts (on the CPU in micro-batches of 8), Trainer from its
default 8 or from --peer-batch, padded by DataCollatorWithPadding; each evaluates as many at once. Printed, medians:

    training    real tokens (no padding) per second, from the end of the update that completes the first 64 texts, the
                warm-up, to the end of the last: fetching, forward, backward, clipping, optimizer; no evaluation
    evaluation  real tokens per second of `predict_logits` and `Trainer.predict` on the test texts, after 64 for warm-up
    peak        the process's most resident memory (CPU) or torch's most allocated (CUDA); with --peak-tflops also the
                share of it that training makes use of, counting work on real tokens only (`training_flops`)
"""

import argparse
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from tokenizers import processors
from torch.amp import GradScaler

from minitext.data.batching import PackCollator
from minitext.data.dataset import DataConfig, load_dataset
from minitext.data.tokenizer import encode, train_tokenizer
from minitext.evaluation.predict import predict_logits
from minitext.models.bert import BertClassifier, BertConfig
from minitext.models.hf_checkpoint import load_classifier, save_model
from minitext.models.hf_names import read_config, write_config
from minitext.models.hf_tokenizer import load_hub_tokenizer
from minitext.training.device import PRECISIONS, pick_device, pick_dtype
from minitext.training.distributed import SINGLE
from minitext.training.loop import TrainConfig, plan_steps
from minitext.training.micro_batches import MicroBatches
from minitext.training.optim import build_optimizers, layer_groups, lr_factor, set_lr
from minitext.training.step import train_step
from minitext.utils.io import read_json

DEVICE = pick_device("auto")
LOOP = TrainConfig(epochs=1, optimizer="adamw", lr=3e-5, weight_decay=0.01)  # as in train_finetune.py; 64 texts
CPU_MICRO_BATCH = 8  # as in train_finetune.py
WARM_UP = 64  # texts: one update of minitext, eight of Trainer's default
SHAPES = {
    "base": {},
    "small": {"hidden_size": 384, "num_layers": 6, "num_heads": 12, "intermediate_size": 1536},
}  # BERT-base, MiniLM-L6
SHAPES["tiny"] = {
    "hidden_size": 64,
    "num_layers": 2,
    "num_heads": 2,
    "intermediate_size": 128,
}  # only to see that it all runs
GROUPED = {"train_sampling_strategy": "group_by_length"}
PEERS = {"default": {}, "grouped": GROUPED, "fp16": {"fp16": True}, "bf16": {"bf16": True}}
PEERS["best"] = PEERS["bf16"] | GROUPED | {"torch_compile": True, "optim": "adamw_torch_fused"}
FitOutcome = tuple[Callable, list[tuple[list[int], float]]]  # predicts; of each update its texts' lengths, its end
Measured = tuple[float, float, float, float]  # tokens/s in training and evaluation, peak in bytes, FLOP/s in training


class Contestant(NamedTuple):
    name: str
    batch_size: int  # texts per update
    micro_batch_size: int  # texts per forward pass
    dtype: torch.dtype
    settings: dict | None  # of TrainingArguments; None: minitext
    attention_dropout: float | None = None  # minitext's; None: the checkpoint's


def fit_minitext(way: Contestant, model: str, data: PackCollator, names: list[str], seed: int) -> FitOutcome:
    """The steps of `minitext.training.loop.fit` without evaluations, checkpoints and log; Trainer has none either."""
    loop, done = replace(LOOP, batch_size=way.batch_size), []
    classifier = load_classifier(Path(model), names, way.attention_dropout)[0].to(DEVICE)
    lengths, weights = data.data.lengths().numpy(), torch.ones(len(names), device=DEVICE)
    plan = plan_steps(lengths, loop, seed)
    groups = layer_groups(classifier, loop.weight_decay, 1.0)
    optimizers = build_optimizers(classifier, loop.optimizer, loop.lr, loop.weight_decay, groups)
    scaler = GradScaler(DEVICE.type, enabled=way.dtype == torch.float16)
    steps = MicroBatches(data, plan.steps, plan.epochs, way.micro_batch_size, DEVICE, SINGLE)
    for update, (indices, batches) in enumerate(zip(plan.steps, steps, strict=True)):
        set_lr(optimizers, loop.lr * lr_factor(update, len(plan.steps), plan.warmup, loop.schedule))
        train_step(
            classifier, batches, optimizers, scaler,
            dtype=way.dtype, max_grad_norm=loop.max_grad_norm, class_weights=weights,
        )  # fmt: skip
        done.append((lengths[indices].tolist(), time.perf_counter()))
    return lambda texts: predict_logits(classifier, texts, way.micro_batch_size, DEVICE, way.dtype), done


def fit_trainer(way: Contestant, model: str, data: list, names: list[str], seed: int) -> FitOutcome:
    """Trainer with its defaults, but for the way's settings and for what it would print, report and save."""
    import transformers  # not at the top: minitext's memory is measured without it

    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    pad = transformers.DataCollatorWithPadding(transformers.AutoTokenizer.from_pretrained(model))
    fetched, done = [], []

    def collate(rows: list[dict]) -> dict:  # an update's texts, in order; one update ahead
        fetched.append([len(row["input_ids"]) for row in rows])
        return pad(rows)

    class Clock(transformers.TrainerCallback):
        def on_step_end(self, *_: object, **__: object) -> None:
            done.append((fetched[len(done)], time.perf_counter()))

    settings = transformers.TrainingArguments(
        tempfile.gettempdir(), num_train_epochs=1, seed=seed, per_device_train_batch_size=way.batch_size,
        per_device_eval_batch_size=way.micro_batch_size, report_to="none", save_strategy="no", logging_strategy="no",
        disable_tqdm=True, use_cpu=DEVICE.type == "cpu", **way.settings,
    )  # fmt: skip
    classifier = transformers.AutoModelForSequenceClassification.from_pretrained(model, num_labels=len(names))
    trainer = transformers.Trainer(classifier, settings, collate, data, callbacks=[Clock()])
    trainer.remove_callback(transformers.PrinterCallback)
    trainer.train()
    return trainer.predict, done


def as_rows(data: PackCollator) -> list[dict]:
    texts = zip(data.data.ids.split(data.data.lengths().tolist()), data.labels.tolist(), strict=True)
    return [{"input_ids": ids.tolist(), "labels": label} for ids, label in texts]


def measure(way: Contestant, model: str, tokens: Path, seed: int) -> Measured:
    parts, names = torch.load(tokens, weights_only=False)
    ours, count = way.settings is None, len(parts[1].data.ids)
    train, test, first = parts if ours else map(as_rows, parts)
    torch.manual_seed(seed)
    predict, done = (fit_minitext if ours else fit_trainer)(way, model, train, names, seed)
    predict(first)
    start = time.perf_counter()
    predict(test)
    evaluation = count / (time.perf_counter() - start)
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    peak = resident if DEVICE.type == "cpu" else torch.cuda.max_memory_allocated()
    warm = int(np.argmax(np.cumsum([len(lengths) for lengths, _ in done]) >= WARM_UP))
    seconds = done[-1][1] - done[warm][1]
    lengths = torch.tensor([length for update, _ in done[warm + 1 :] for length in update])
    config = read_config(read_json(Path(model) / "config.json"), model)
    return int(lengths.sum()) / seconds, evaluation, peak, training_flops(config, lengths) / seconds


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


def in_own_process(function: Callable, *arguments: object) -> object:
    # nothing of a run is left when the next starts; the parent loads no data, since a child's peak starts at its own
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def prepare(arguments: argparse.Namespace, folder: Path) -> str:
    """Write the tokens of the texts, and a random model where none is given; returns the model's folder."""
    splits = load_dataset(DataConfig(data=arguments.data, subset=tuple(arguments.subset)), seed=0)
    order = np.random.default_rng(0).permutation(len(splits.train))
    train = splits.train.subset(order[: arguments.steps and arguments.steps * LOOP.batch_size])
    if len(train) < 2 * WARM_UP:
        raise ValueError(f"{len(train)} training texts: {WARM_UP} are the warm-up, at least as many are to be measured")
    if arguments.model is None:
        known = arguments.tokenizer and load_hub_tokenizer(Path(arguments.tokenizer))
        tokenizer = known or train_tokenizer(splits.train.texts, 30_000)
        ends = [(token, tokenizer.token_to_id(token)) for token in ("[SEP]", "[CLS]")]
        tokenizer.post_processor = processors.BertProcessing(*ends)
        config = BertConfig(tokenizer.get_vocab_size(), **SHAPES[arguments.shape])
        save_model(
            BertClassifier(config, len(train.class_names)), tokenizer, folder, write_config(config), train.class_names
        )
    model = arguments.model or str(folder)
    tokenizer, parts = load_hub_tokenizer(Path(model)), []
    for part in (train, splits.test, splits.test.subset(np.arange(min(WARM_UP, len(splits.test))))):
        ids = encode(tokenizer, part.texts, arguments.max_length, "head")
        parts.append(PackCollator(ids, torch.from_numpy(part.labels)))
    torch.save((parts, train.class_names), folder / "tokens.pt")
    print(f"{len(train):,} training texts, {len(splits.test):,} test texts, at most {arguments.max_length} tokens")
    return model


def choose_contestants(arguments: argparse.Namespace) -> list[Contestant]:
    size = CPU_MICRO_BATCH if DEVICE.type == "cpu" else LOOP.batch_size
    ours = Contestant("minitext", LOOP.batch_size, size, pick_dtype(arguments.precision, DEVICE), None, 0.0)
    dropping = ours._replace(name="minitext, attention dropout", attention_dropout=None)
    ways = [ours, dropping] if arguments.attention_dropout else [ours]
    for batch in arguments.peer_batch:
        for peer in arguments.peers or (PEERS if DEVICE.type == "cuda" else ("default", "grouped")):
            dtype = next((PRECISIONS[name] for name in PEERS[peer] if name in PRECISIONS), torch.float32)
            ways.append(Contestant(f"Trainer {peer}", batch, batch, dtype, PEERS[peer]))
    return ways


def print_table(results: list[tuple[Contestant, list[Measured]]], peak_tflops: float | None) -> None:
    medians = [(way, list(map(statistics.median, zip(*runs, strict=True)))) for way, runs in results if runs]
    base = medians[0][1]
    print(f"{'':28} {'batch':>8} {'':8} {'training, tokens/s':>19} {'evaluation, tokens/s':>22} {'peak, MiB':>19}")
    for way, (training, evaluation, peak, flops) in medians:
        rates = f"{training:10,.0f} {base[0] / training:6.2f} x {evaluation:13,.0f} {base[1] / evaluation:6.2f} x"
        used = f"{flops / 1e12 / peak_tflops:8.1%} of the peak FLOP/s" if peak_tflops else ""
        parts = way.batch_size // way.micro_batch_size
        name = f"{way.name:28} {parts:3} x {way.micro_batch_size:2} {str(way.dtype)[6:]:8}"
        print(f"{name} {rates} {peak / 2**20:10,.0f} {peak / base[2]:6.2f} x{used}")
    print(f"x: how much faster {medians[0][0].name} is, how much less memory it needs")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="folder with a checkpoint")
    parser.add_argument("--shape", choices=SHAPES, default="small", help="of a random model, without --model")
    parser.add_argument("--tokenizer", help="folder, for a random model; without it one is trained on the texts")
    parser.add_argument("--data", default="sample")
    parser.add_argument("--subset", type=float, nargs=2, default=(1.0, 1.0))
    parser.add_argument("--max-length", type=int, default=256)
    parser.add_argument("--steps", type=int, help="train on the texts of N updates of minitext instead of all")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--precision", choices=("auto", *PRECISIONS), default="auto", help="minitext's")
    parser.add_argument("--attention-dropout", action="store_true", help="add minitext with the checkpoint's")
    parser.add_argument("--peers", nargs="+", choices=PEERS, help="default: default grouped (CPU), all (CUDA)")
    parser.add_argument("--peer-batch", type=int, nargs="+", default=[8], help="texts per update of Trainer")
    parser.add_argument("--peak-tflops", type=float, help="of the device, in minitext's precision")
    arguments = parser.parse_args()
    results: list[tuple[Contestant, list[Measured]]] = [(way, []) for way in choose_contestants(arguments)]
    with tempfile.TemporaryDirectory() as folder:
        model = in_own_process(prepare, arguments, Path(folder))
        for seed in range(arguments.rounds):
            for way, runs in results:
                print(f"round {seed + 1}, {way.name}, batch {way.batch_size}: ", end="", flush=True)
                try:
                    runs.append(in_own_process(measure, way, model, Path(folder) / "tokens.pt", seed))
                    print(f"{runs[-1][0]:,.0f} tokens/s")
                except RuntimeError as error:  # too little memory, no compiler: the others continue
                    print(f"{type(error).__name__}: {error}")
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{torch.get_num_threads()} threads"
    versions = ", ".join(f"{package} {version(package)}" for package in ("torch", "transformers", "accelerate"))
    print(f"{os.uname().machine}, {os.cpu_count()} cores, {device}; {versions}; median of {arguments.rounds}")
    print_table(results, arguments.peak_tflops)


if __name__ == "__main__":
    main()
