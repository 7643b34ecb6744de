"""Tests of resuming: a run that is killed at any instant and resumed ends with the same bytes."""

import csv
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
RESULTS = ("model.safetensors", "metrics.jsonl", "predictions.csv", "scores.json", "tokenizer.json")
SETTINGS = {
    "--epochs": 12,
    "--batch-size": 4,
    "--eval-every": 3,
    "--ngrams": 2,
    "--buckets": 4096,
    "--embedding-dim": 16,
    "--save-every": 0.01,
    "--dropout": 0.3,
    "--vocab-size": 200,
}


@pytest.fixture
def reviews(tmp_path: Path) -> Path:
    """90 short texts of three classes."""
    generator = random.Random(0)
    kinds = {"good": "fine warm bright lovely", "bad": "dull grey slow awful", "so-so": "plain mixed usual middling"}
    with open(tmp_path / "reviews.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        for number in range(90):
            name = list(kinds)[number % 3]
            chosen = generator.choices(kinds[name].split() + ["the", "film", "was"], k=generator.randint(1, 30))
            writer.writerow([" ".join(chosen), name])
    return tmp_path / "reviews.csv"


def start(reviews: Path, out: Path, *more: str) -> subprocess.Popen:
    settings = [str(word) for pair in SETTINGS.items() for word in pair]
    command = [sys.executable, ROOT / "train_scratch.py", "--data", reviews, "--out", out, "--quiet", *settings, *more]
    return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)


def results(out: Path) -> dict[str, bytes]:
    return {name: (out / name).read_bytes() for name in RESULTS}


@pytest.mark.slow
def test_a_run_killed_at_ten_instants_ends_with_the_same_bytes(tmp_path: Path, reviews: Path):
    begun = time.monotonic()
    assert start(reviews, tmp_path / "whole").wait() == 0
    took = time.monotonic() - begun
    generator = random.Random(1)
    killed = 0
    for number in range(10):
        process = start(reviews, tmp_path / "killed", "--resume", "--overwrite")
        try:
            process.wait(timeout=generator.uniform(0.3, 0.9) * took)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            killed += process.wait() == -signal.SIGKILL
        if (tmp_path / "killed").exists():  # finished before the kill
            assert results(tmp_path / "killed") == results(tmp_path / "whole"), f"run {number}"
            os.rename(tmp_path / "killed", tmp_path / f"killed{number}")
    assert killed >= 5
    assert start(reviews, tmp_path / "killed", "--resume").wait() == 0
    assert results(tmp_path / "killed") == results(tmp_path / "whole")
    assert not (tmp_path / "killed.partial").exists()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_and_sigterm_save_the_state_and_exit_130(tmp_path: Path, reviews: Path, number: int):
    assert start(reviews, tmp_path / "whole").wait() == 0
    process = start(reviews, tmp_path / "run")
    metrics = tmp_path / "run.partial" / "metrics.jsonl"
    while not metrics.exists() or metrics.read_text().count("\n") < 10:
        time.sleep(0.01)
        assert process.poll() is None
    process.send_signal(number)
    _, message = process.communicate()
    assert process.returncode == 130
    assert message.count("\n") == 1 and "--resume" in message
    assert start(reviews, tmp_path / "run", "--resume").wait() == 0
    assert results(tmp_path / "run") == results(tmp_path / "whole")


@pytest.mark.slow
def test_a_run_is_not_resumed_with_other_settings(tmp_path: Path, reviews: Path):
    process = start(reviews, tmp_path / "run")
    while not (tmp_path / "run.partial" / "checkpoint.pt").exists():
        time.sleep(0.01)
        assert process.poll() is None
    process.kill()
    process.wait()
    other = start(reviews, tmp_path / "run", "--resume", "--lr", "0.5")
    _, message = other.communicate()
    assert other.returncode == 2
    assert "loop.lr: 0.005 → 0.5" in message
    reviews.write_text(reviews.read_text().replace("lovely", "splendid"))
    other = start(reviews, tmp_path / "run", "--resume")
    _, message = other.communicate()
    assert other.returncode == 2
    assert "data_found.train.fingerprint" in message


@pytest.mark.slow
def test_impossible_settings_are_refused_before_a_folder_exists(tmp_path: Path, reviews: Path):
    process = start(reviews, tmp_path / "run", "--warmup", "100000")
    _, message = process.communicate()
    assert process.returncode == 2
    assert message.startswith("error: --warmup 100000") and message.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["reviews.csv"]


@pytest.mark.slow
def test_a_full_disk_gives_one_line_and_keeps_the_last_checkpoint(tmp_path: Path, reviews: Path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", disk]
    if os.geteuid() != 0 or subprocess.run(mount, check=False).returncode:
        pytest.skip("needs the right to mount a small tmpfs")
    try:
        process = start(reviews, disk / "run")
        checkpoint = disk / "run.partial" / "checkpoint.pt"
        while not checkpoint.exists():
            time.sleep(0.005)
            assert process.poll() is None
        try:
            with open(disk / "filler", "wb", buffering=0) as filler:
                while True:
                    filler.write(bytes(1024))
        except OSError:
            pass
        _, message = process.communicate()
        assert process.returncode == 2
        assert message.startswith("error: ") and message.count("\n") == 1
        (disk / "filler").unlink()
        assert start(reviews, disk / "run", "--resume").wait() == 0  # the checkpoint was good
    finally:
        subprocess.run(["umount", disk], check=True)
