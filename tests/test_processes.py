"""Several processes of a script: they share no disk, a signal to one stops all, and another number resumes the run."""

import csv
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import processors

from minitext.data.tokenizer import train_tokenizer
from minitext.models.bert import BertClassifier, BertConfig
from minitext.models.hf_checkpoint import save_model
from minitext.models.hf_names import write_config

ROOT = Path(__file__).parents[1]
TEXTS = [("a good film, warm and funny", "pos"), ("a dull film, slow and bad", "neg"), ("good fun for all", "pos"),
         ("bad, and far too long", "neg"), ("", "neg"), ("good " * 100, "pos")] * 8  # fmt: skip
OPTIONS = {
    "--data": "reviews.csv", "--model": "bert", "--out": "run", "--device": "cpu", "--max-length": "16",
    "--batch-size": "4", "--epochs": "20", "--eval-every": "7", "--lr": "1e-3", "--save-every": "0.01",
}  # fmt: skip
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """A folder with texts and a checkpoint without dropout, and the run of one process."""
    folder = tmp_path_factory.mktemp("source")
    write_texts(folder)
    tokenizer = train_tokenizer([text for text, _ in TEXTS], 200)
    ends = [(token, tokenizer.token_to_id(token)) for token in ("[SEP]", "[CLS]")]
    tokenizer.post_processor = processors.BertProcessing(*ends)
    config = BertConfig(tokenizer.get_vocab_size(), 16, 2, 2, 32, 64, dropout=0.0)
    torch.manual_seed(0)
    (folder / "bert").mkdir()
    save_model(BertClassifier(config, 2), tokenizer, folder / "bert", write_config(config))
    process = start(folder)
    assert process.wait(120) == 0
    return folder


def write_texts(folder: Path) -> None:
    with open(folder / "reviews.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        writer.writerows((f"{text} {number}" if text else "", label) for number, (text, label) in enumerate(TEXTS))


def start(folder: Path, *more: str, torchrun: bool = False, **environment: object) -> subprocess.Popen:
    """Fine-tuning in `folder`, on relative paths."""
    options = (word for pair in OPTIONS.items() for word in pair)
    return run(folder, *(TORCHRUN if torchrun else ()), ROOT / "train_finetune.py", *options, *more, **environment)


def run(folder: Path, *command: str | Path, **environment: object) -> subprocess.Popen:
    """A command of Python in `folder`."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **{name: str(value) for name, value in environment.items()}}
    command = [sys.executable, *command, "--quiet"]
    return subprocess.Popen(command, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True)


def start_two(first: Path, second: Path, *more: str, start: Callable = start) -> list[subprocess.Popen]:
    """Two processes of one run, as on two machines, each in a folder of its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free.getsockname()[1], "WORLD_SIZE": 2}
    return [start(folder, *more, **address, RANK=rank) for rank, folder in enumerate((first, second))]


def read_only_folder(folder: Path) -> Path:
    """A folder with the texts alone. Root may write all the same, so tests also look at what is in it."""
    folder.mkdir()
    write_texts(folder)
    folder.chmod(0o555)
    return folder


def wait_for_updates(folder: Path, process: subprocess.Popen) -> None:
    """Until the run has a checkpoint and some updates."""
    metrics = folder / "run.partial" / "metrics.jsonl"
    while not metrics.exists() or metrics.read_text().count("\n") < 12:
        time.sleep(0.005)
        assert process.poll() is None, process.communicate()[1]


def assert_same_run(folder: Path, expected: Path) -> None:
    """Not the same bits: sums over processes have another order, in float32."""
    for name, row in predictions(folder).items():
        assert row == pytest.approx(predictions(expected)[name], abs=1e-6)
    weights, others = (load_file(place / "run" / "model.safetensors") for place in (folder, expected))
    for name, tensor in others.items():
        if not name.endswith("key.bias"):  # it has no effect, and Adam magnifies the rounding of its zero gradient
            assert (weights[name] - tensor).abs().max() < 1e-5, name  # 160 updates of Adam; 1e-6 was measured


def predictions(folder: Path) -> dict[str, list[float]]:
    """The probabilities of each test text."""
    with open(folder / "run" / "predictions.csv", newline="", encoding="utf-8") as file:
        return {row["id"]: [float(row["p(neg)"]), float(row["p(pos)"])] for row in csv.DictReader(file)}


def copy_source(source: Path, folder: Path) -> Path:
    folder.mkdir()
    write_texts(folder)
    os.symlink(source / "bert", folder / "bert")
    return folder


def test_processes_in_folders_of_their_own_train_and_resume_what_one_trains(tmp_path: Path, source: Path):
    """The second has a copy of the texts in a folder that cannot be written, and neither checkpoint nor run."""
    first, second = copy_source(source, tmp_path / "first"), read_only_folder(tmp_path / "second")
    processes = start_two(first, second)
    wait_for_updates(first, processes[0])
    processes[1].send_signal(signal.SIGTERM)
    messages = [process.communicate(timeout=120)[1] for process in processes]
    assert [process.returncode for process in processes] == [130, 130], messages
    assert "interrupted: the state is saved in run.partial" in messages[0] and "interrupted\n" in messages[1]
    assert not (first / "run").exists()
    processes = start_two(first, second, "--resume")
    messages = [process.communicate(timeout=120)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], messages
    assert_same_run(first, source)
    processes = start_two(first, second, "--overwrite")  # without an interrupt
    messages = [process.communicate(timeout=120)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], messages
    assert_same_run(first, source)
    assert [path.name for path in second.iterdir()] == ["reviews.csv"]


def test_pretraining_in_folders_of_their_own_gives_the_encoder_of_one_process(tmp_path: Path, source: Path):
    first, second = copy_source(source, tmp_path / "first"), read_only_folder(tmp_path / "second")
    command = ["-m", "minitext", "pretrain", "--data", "reviews.csv", "--model", "bert", "--device", "cpu",
               "--epochs", "3", "--batch-size", "4", "--max-length", "16", "--held-out", "0.2"]  # fmt: skip
    process = run(first, *command, "--out", "alone")
    assert process.wait(120) == 0
    processes = start_two(first, second, *command, "--out", "two", start=run)
    messages = [process.communicate(timeout=120)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], messages
    assert [path.name for path in second.iterdir()] == ["reviews.csv"]
    weights, others = (load_file(first / name / "model.safetensors") for name in ("two", "alone"))
    for name, tensor in others.items():
        if not name.endswith("key.bias"):  # see above
            assert (weights[name] - tensor).abs().max() < 1e-5, name  # float32 sums in another order
    name = "bert.embeddings.word_embeddings.weight"
    assert (others[name] - load_file(source / "bert" / "model.safetensors")[name]).abs().max() > 1e-3


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_torchrun_saves_the_state_and_one_process_resumes_it(tmp_path: Path, source: Path, number: int):
    folder = copy_source(source, tmp_path / "first")
    process = start(folder, torchrun=True)
    wait_for_updates(folder, process)
    process.send_signal(number)
    message = process.communicate(timeout=120)[1]
    assert process.returncode != 0
    assert message.count("interrupted: the state is saved in run.partial") == 1, message
    process = start(folder, "--resume")
    message = process.communicate(timeout=120)[1]
    assert process.returncode == 0, message
    assert_same_run(folder, source)
