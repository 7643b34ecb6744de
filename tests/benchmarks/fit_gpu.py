"""Fine-tuning a BERT: minitext and transformers' Trainer on the same random texts; a table, without network or data.

    python tests/benchmarks/fit_gpu.py                                  BERT-base on one GPU, under eight minutes
    python tests/benchmarks/fit_gpu.py --device cpu --shape small --only "minitext 64" "Trainer 64" --rounds 5
    python tests/benchmarks/fit_gpu.py --shape tiny --warm-up 2 --updates 2 --rounds 1     whether it runs, on a CPU too

Trainer needs `pip install "transformers>=5" accelerate`; without them minitext alone is measured. Token ids are random,
lengths are distributed as in IMDB, and weights are random: speed depends on none of them. All contestants use AdamW,
clipping, dropout 0.1 and a linear schedule; those with the same number in their name see as many texts per update.

Each contestant is a process of its own, on one GPU. Its first round follows a warm-up, which includes compilation; then
the rounds of all contestants alternate. Only one computes at a time, and the device is synchronized around each round.

    tokens/s    real tokens (no padding) per second of training: batches, forward, backward, clipping, optimizer
    minitext    how many times as fast the fastest minitext with the same texts per update and attention dropout is
    MFU         floating-point operations on real tokens per second, as a share of the GPU's peak in half precision
    GiB         most memory that torch allocated in training; on a CPU the most resident memory of the process
    evaluation  real tokens per second of `predict_logits` and `Trainer.predict`, texts in random order
"""

import argparse
import os
import resource
import statistics
import time
from collections.abc import Generator
from dataclasses import dataclass, replace
from importlib.metadata import version
from importlib.util import find_spec
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import NamedTuple

import torch
from fit_contestants import VOCAB_SIZE, Contestant, fit_minitext, fit_trainer, random_texts, training_flops

from minitext.models.bert import BertConfig
from minitext.utils.errors import first_line

SHAPES = {
    "base": {},  # BERT-base
    "small": {"hidden_size": 384, "num_layers": 6, "num_heads": 12, "intermediate_size": 1536},  # MiniLM-L6
    "tiny": {"hidden_size": 64, "num_layers": 2, "num_heads": 2, "intermediate_size": 128},
}
UNMEASURED = 8  # updates at the start of a round, which get back the memory that was released for the others
PEAK_TFLOPS = {"H100 80GB HBM3": 989.4, "H200": 989.4, "A100": 312.0}  # dense bfloat16, NVIDIA's data sheets
CONTESTANTS = (
    Contestant("minitext", 16, "bf16"),  # the batch size of train_finetune.py
    Contestant("minitext", 64, "bf16"),
    Contestant("minitext", 64, "bf16", compiled=True),
    Contestant("minitext", 64, "bf16", compiled=True, attention_dropout=0.1),
    Contestant("Trainer", 16, "fp32"),  # its defaults, except for the batch size
    Contestant("Trainer", 64, "fp16"),
    Contestant("Trainer", 64, "bf16"),
    Contestant("Trainer", 64, "bf16", grouped=True),
    Contestant("Trainer", 64, "bf16", grouped=True, compiled=True),
    Contestant("Trainer", 64, "bf16", grouped=True, compiled=True, attention_dropout=0.1),
)


class Round(NamedTuple):
    """What one round measured."""

    tokens_per_second: float
    flops_per_second: float
    peak_bytes: int


@dataclass
class Result:
    """What all rounds of a contestant measured."""

    rounds: list[Round]
    evaluation: float | None = None  # real tokens per second; None: the time was up

    @property
    def speed(self) -> float:
        """Median of the rounds, in tokens per second."""
        return statistics.median(done.tokens_per_second for done in self.rounds)


def run_rounds(
    arguments: argparse.Namespace, config: BertConfig, parent: Connection
) -> Generator[bool, list[int], None]:
    """Yields whether another update follows; `send` it the lengths of the texts of each update that is done.

    A round begins when the parent process sends "round", and its measurement is sent back. "evaluate" ends training.
    """
    on_gpu = arguments.device == "cuda"
    parent.send("ready")
    parent.recv()
    for _ in range(arguments.warm_up):
        yield True
    while True:
        for _ in range(UNMEASURED if on_gpu else 0):
            yield True
        lengths: list[int] = []
        if on_gpu:
            torch.cuda.reset_peak_memory_stats()
            torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(arguments.updates):
            lengths += yield True
        if on_gpu:
            torch.cuda.synchronize()
        seconds = time.perf_counter() - start
        resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        peak = torch.cuda.max_memory_allocated() if on_gpu else resident
        if on_gpu:
            torch.cuda.empty_cache()  # for the other contestants
        parent.send(Round(sum(lengths) / seconds, training_flops(config, torch.tensor(lengths)) / seconds, peak))
        if parent.recv() == "evaluate":
            break
    yield False


def run_contestant(contestant: Contestant, arguments: argparse.Namespace, parent: Connection) -> None:
    """What the process of a contestant does. It sends the measurement of each round and of evaluation, or an error."""
    try:
        torch.manual_seed(0)
        config, device = BertConfig(VOCAB_SIZE, **SHAPES[arguments.shape]), torch.device(arguments.device)
        updates = arguments.warm_up + arguments.rounds * (UNMEASURED + arguments.updates)
        data = random_texts(updates * contestant.batch_size, arguments.max_length, seed=0)
        fit = fit_minitext if contestant.library == "minitext" else fit_trainer
        predict = fit(contestant, config, data, device, run_rounds(arguments, config, parent))
        predict(random_texts(2 * contestant.batch_size, arguments.max_length, seed=1))  # compiles for evaluation
        texts = random_texts(arguments.texts, arguments.max_length, seed=2)
        start = time.perf_counter()
        predict(texts)  # its result is on the CPU: nothing is left to wait for
        parent.send(len(texts.data.ids) / (time.perf_counter() - start))
    except Exception as error:  # noqa: BLE001 (too little memory, no compiler: the others continue)
        parent.send(RuntimeError(f"{type(error).__name__}: {first_line(error)}"))  # any other may not be picklable


def measure(contestants: list[Contestant], arguments: argparse.Namespace) -> dict[Contestant, Result]:
    """Start all processes, let them compute in turn until all is done or the time is up, and end them."""
    context, begun = get_context("spawn"), time.perf_counter()
    running, processes, results = {}, [], {}
    for contestant in contestants:
        running[contestant], theirs = context.Pipe()
        processes.append(context.Process(target=run_contestant, args=(contestant, arguments, theirs)))
        processes[-1].start()
        theirs.close()
    try:
        # the first measurement begins when all are ready: imports would disturb it
        for command in ["start"] + ["round"] * arguments.rounds + ["evaluate"]:
            for contestant, connection in list(running.items()):
                if time.perf_counter() - begun > arguments.budget:
                    print(f"{arguments.budget:g} s are over: no further measurement is started")
                    return results
                try:
                    if command != "start":
                        connection.send(command)
                    answer = connection.recv()
                except (EOFError, BrokenPipeError):
                    answer = RuntimeError("its process has ended")
                if isinstance(answer, Exception):
                    print(f"{contestant.name}: {answer}", flush=True)
                    del running[contestant]
                elif command == "evaluate":
                    results[contestant].evaluation = answer
                elif command == "round":
                    results.setdefault(contestant, Result([])).rounds.append(answer)
                    print(f"{contestant.name}: {answer.tokens_per_second:,.0f} tokens/s", flush=True)
    finally:
        for process in processes:
            process.terminate()
            process.join()
    return results


def format_table(results: dict[Contestant, Result], peak_tflops: float | None) -> str:
    """One row per contestant."""
    lines = [f"{'':44} {'tokens/s (least to most)':>32} {'minitext':>9} {'MFU':>6} {'GiB':>6} {'evaluation':>11}"]
    for contestant, result in results.items():
        speeds = [done.tokens_per_second for done in result.rounds]
        rivals = [
            other.speed / result.speed for one, other in results.items() if one.library == "minitext"
            and (one.batch_size, one.attention_dropout) == (contestant.batch_size, contestant.attention_dropout)
        ]  # fmt: skip
        ratio = f"{max(rivals):.2f} x" if rivals else "-"
        flops = statistics.median(done.flops_per_second for done in result.rounds)
        mfu = f"{flops / 1e12 / peak_tflops:.1%}" if peak_tflops and contestant.precision != "fp32" else "-"
        gib = max(done.peak_bytes for done in result.rounds) / 2**30
        evaluation = "-" if result.evaluation is None else f"{result.evaluation:,.0f}"
        spread = f"{result.speed:,.0f} ({min(speeds):,.0f} to {max(speeds):,.0f})"
        lines.append(f"{contestant.name:44} {spread:>32} {ratio:>9} {mfu:>6} {gib:6.1f} {evaluation:>11}")
    return "\n".join(lines)


def choose_contestants(device: str, only: list[str]) -> list[Contestant]:
    """The contestants whose names begin with one of `only`. On a CPU all compute in float32; each is there once."""
    found = [replace(one, precision="fp32") if device == "cpu" else one for one in CONTESTANTS]
    found = [one for one in dict.fromkeys(found) if one.name.startswith(tuple(only))]
    if not (find_spec("transformers") and find_spec("accelerate")):
        print('Trainer is left out; it needs: pip install "transformers>=5" accelerate')
        found = [one for one in found if one.library == "minitext"]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--shape", choices=SHAPES, default="base")
    parser.add_argument("--max-length", type=int, default=512, help="of a text, in tokens")
    parser.add_argument("--warm-up", type=int, default=24, help="updates before the first round")
    parser.add_argument("--updates", type=int, default=40, help="measured updates of a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--texts", type=int, default=1024, help="of the evaluation")
    parser.add_argument("--only", nargs="+", default=[""], help="contestants whose names begin like this")
    parser.add_argument("--peak-tflops", type=float, help="of the device in half precision (default: of known GPUs)")
    parser.add_argument("--budget", type=float, default=420, help="seconds after which no measurement is started")
    arguments = parser.parse_args()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "0")
    os.environ["CUDA_VISIBLE_DEVICES"] = visible.split(",")[0]  # Trainer would split a batch over all GPUs
    begun = time.perf_counter()
    results = measure(choose_contestants(arguments.device, arguments.only), arguments)
    device = torch.cuda.get_device_name() if arguments.device == "cuda" else f"{torch.get_num_threads()} CPU threads"
    peaks = [tflops for name, tflops in PEAK_TFLOPS.items() if name in device]
    print(f"\n{format_table(results, arguments.peak_tflops or next(iter(peaks), None))}")
    packages = [name for name in ("torch", "transformers", "accelerate") if find_spec(name)]
    versions = ", ".join(f"{name} {version(name)}" for name in packages)
    print(f"{device}; {versions}; {arguments.rounds} rounds; {time.perf_counter() - begun:.0f} s")


if __name__ == "__main__":
    main()
