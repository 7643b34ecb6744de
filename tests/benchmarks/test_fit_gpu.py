"""The benchmark of fine-tuning: its contestants, its table, and a run with the smallest settings on the CPU."""

import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from fit_contestants import Contestant, random_texts, training_flops
from fit_gpu import CONTESTANTS, Result, Round, choose_contestants, format_table
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from minitext.models.bert import BertClassifier, BertConfig

ROOT = Path(__file__).parents[2]
SMALLEST = ("--device", "cpu", "--shape", "tiny", "--max-length", "40", "--warm-up", "1", "--updates", "1",
            "--rounds", "1", "--texts", "8")  # fmt: skip


def test_each_contestant_of_trainer_has_one_of_minitext_with_the_same_texts_and_dropout():
    by_library = {
        library: {(one.batch_size, one.attention_dropout) for one in CONTESTANTS if one.library == library}
        for library in ("minitext", "Trainer")
    }
    assert by_library["Trainer"] == by_library["minitext"]


def test_on_a_cpu_all_compute_in_float32_and_each_is_there_once(capsys):
    names = [one.name for one in choose_contestants("cpu", ["minitext"])]
    assert names == [
        "minitext 16 fp32",
        "minitext 64 fp32",
        "minitext 64 fp32 compiled",
        "minitext 64 fp32 compiled attention dropout",
    ]


def test_random_texts_have_the_lengths_of_imdb():
    lengths = random_texts(20_000, 512, seed=0).data.lengths()
    assert (lengths.min(), lengths.max()) == (38, 512)
    assert lengths.double().median().item() == pytest.approx(228, rel=0.03)  # 0.5 % is the error of 20,000 draws
    assert lengths.double().mean().item() == pytest.approx(259, rel=0.03)


def test_the_operations_of_training_are_those_that_torch_counts():
    config = BertConfig(50, 32, 3, 2, 64, 64, dropout=0.0, attention_dropout=0.0)
    data = random_texts(4, 60, seed=0)
    batch = data(np.arange(4))
    batch = batch._replace(ids=batch.ids % 50)
    model = BertClassifier(config, 2)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):  # fused attention is not counted
        model(batch).sum().backward()
    # torch also counts the head
    assert training_flops(config, data.data.lengths()) == pytest.approx(counter.get_total_flops(), rel=0.005)


def test_the_table_has_medians_ratios_and_use_of_the_peak():
    ours, theirs = Contestant("minitext", 64, "bf16", compiled=True), Contestant("Trainer", 64, "bf16", grouped=True)
    alone = Contestant("Trainer", 16, "fp32")
    results = {
        ours: Result([Round(3000.0, 4e12, 2**30), Round(2000.0, 3e12, 2**31), Round(1000.0, 2e12, 2**30)], 5000.0),
        theirs: Result([Round(1000.0, 1e12, 2**30)]),
        alone: Result([Round(500.0, 1e12, 2**30)], 100.0),
    }
    _, *rows = (re.split(r"\s{2,}", line) for line in format_table(results, peak_tflops=10.0).splitlines())
    assert rows == [
        ["minitext 64 bf16 compiled", "2,000 (1,000 to 3,000)", "1.00 x", "30.0%", "2.0", "5,000"],
        ["Trainer 64 bf16 grouped", "1,000 (1,000 to 1,000)", "2.00 x", "10.0%", "1.0", "-"],
        ["Trainer 16 fp32", "500 (500 to 500)", "-", "-", "1.0", "100"],
    ]


def run(*arguments: str) -> str:
    """What the benchmark prints."""
    command = [sys.executable, "tests/benchmarks/fit_gpu.py", *SMALLEST, *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_smallest_run_measures_minitext_and_trainer_where_it_is_installed():
    out = run("--only", "minitext 16", "Trainer 16")
    number = r"[\d,]+"
    numbers = rf"{number} \({number} to {number}\) +[\d.]+ x +- +[\d.]+ +{number}"
    has_trainer = find_spec("transformers") and find_spec("accelerate")
    for name in ("minitext 16 fp32", *(["Trainer 16 fp32"] if has_trainer else [])):
        assert re.search(rf"\n{name} +{numbers}\n", out), out
    assert ("pip install" in out) == (not has_trainer)
    assert f"torch {torch.__version__}" in out.splitlines()[-1]


@pytest.mark.slow
def test_when_the_time_is_up_nothing_starts_and_the_table_is_printed():
    lines = run("--only", "minitext 16", "--budget", "0").splitlines()
    assert "0 s are over: no further measurement is started" in lines
    assert "tokens/s" in lines[-2] and "1 rounds" in lines[-1]
