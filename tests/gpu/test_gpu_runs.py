"""The commands on a card: they end with status 0, resume, and agree with the CPU."""

import csv
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from gpu_factories import assert_same_change, classifier, texts, update, weights_of
from torch.amp import GradScaler

from minitext.data.dataset import DataConfig, load_dataset
from minitext.evaluation.attribution import explain
from minitext.evaluation.predict import classification_metrics, predict_logits
from minitext.evaluation.predictor import Predictor
from minitext.training import loop
from minitext.training.checkpoint import TrainState, load_checkpoint, save_checkpoint
from minitext.training.optim import build_optimizers
from minitext.utils.metrics_log import MetricsLog

pytestmark = pytest.mark.gpu
ROOT = Path(__file__).parents[2]
REVIEWS = ["A warm and funny film.", "Dull, slow and far too long.", "Not the worst film of the year.", "good " * 400]
FEW_TEXTS = ("--subset", "0.5", "0.5", "--epochs", "1", "--quiet", "--overwrite")


def run(*command: object) -> None:
    """Run a Python command in the root of the repository; its status must be 0."""
    done = subprocess.run([sys.executable, *map(str, command)], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def last_evaluation(folder: Path) -> dict:
    return MetricsLog(folder / "metrics.jsonl").evaluations()[-1]


@pytest.fixture(scope="module")
def runs(device, tmp_path_factory) -> Path:
    """A folder with runs of the bundled sample on the card: `scratch` and `finetune`."""
    folder = tmp_path_factory.mktemp("runs")
    run("train_scratch.py", "--device", device.type, "--out", folder / "scratch", *FEW_TEXTS)
    run("train_finetune.py", "--device", device.type, "--out", folder / "finetune", "--precision", "bf16", *FEW_TEXTS)
    return folder


def test_the_commands_of_the_readme_end_with_status_0(device, runs, tmp_path):
    run("train_static.py", "--out", tmp_path / "static", "--subset", "0.5", "0.5", "--quiet")
    folders = [tmp_path / "static/logistic", runs / "scratch", runs / "finetune"]
    page = tmp_path / "compare.html"
    run("-m", "minitext", "compare", "--device", device.type, "--out", page, *folders)
    assert "<html" in page.read_text(encoding="utf-8")
    run("-m", "minitext", "explain", "--device", device.type, runs / "finetune", REVIEWS[0])


def test_fine_tuning_reaches_the_validation_loss_of_the_cpu(runs, tmp_path):
    run("train_finetune.py", "--device", "cpu", "--precision", "fp32", "--out", tmp_path / "run", *FEW_TEXTS)
    found, expected = last_evaluation(runs / "finetune"), last_evaluation(tmp_path / "run")
    # other dropout masks and bfloat16: the loss of an epoch is reproduced to about a hundredth
    assert found["valid"]["loss"] == pytest.approx(expected["valid"]["loss"], abs=0.03)


@pytest.mark.parametrize("track", ["scratch", "finetune"])
def test_predictions_agree_with_the_cpu(device, runs, track: str):
    found, expected = (Predictor.load(runs / track, name).predict_proba(REVIEWS) for name in (device.type, "cpu"))
    assert np.abs(found - expected).max() < 1e-4  # float32 on both: probabilities to 5 digits


@pytest.mark.parametrize("track", ["scratch", "finetune"])
def test_contributions_of_words_agree_with_the_cpu_and_add_up(device, runs, track: str):
    found, expected = (explain(Predictor.load(runs / track, name), REVIEWS[2]) for name in (device.type, "cpu"))
    assert found.completeness_error < 0.01
    for word, other in zip(found.words, expected.words, strict=True):
        assert word.contribution == pytest.approx(other.contribution, abs=1e-3)  # float32, margins of a few units


def test_predictions_in_bfloat16_agree_with_those_of_predict(device, runs):
    """`predictions.csv` is computed in the precision of the run, `minitext predict` in float32."""
    test = load_dataset(DataConfig(subset=(0.5, 0.5)), seed=0).test
    with open(runs / "finetune" / "predictions.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["id"] for row in rows] == list(map(str, test.ids))
    predictor = Predictor.load(runs / "finetune", device.type)
    saved = np.array([[float(row[f"p({name})"]) for name in predictor.class_names] for row in rows])
    # bfloat16 keeps 8 bits: logits of a few units are off by about 0.02, probabilities by at most a quarter of that
    assert np.abs(predictor.predict_proba(test.texts) - saved).max() < 0.01


# Checkpoints


def train(folder: Path, device: torch.device, stop_after: int | None = None) -> list[dict]:
    """The rows of the metrics log of a run of six updates, with dropout in bfloat16."""
    model, data, updates = classifier(device, dropout=0.3), texts([20 + number % 9 for number in range(24)]), []
    settings = loop.TrainConfig(epochs=2, batch_size=8, optimizer="adamw", lr=1e-3)

    def interrupt(*_: object) -> None:
        updates.append(1)
        if len(updates) == stop_after:
            os.kill(os.getpid(), signal.SIGINT)

    def evaluate() -> dict[str, float]:
        return classification_metrics(predict_logits(model, data, 8, device, torch.bfloat16), data.labels)

    handle = model.register_forward_pre_hook(interrupt)
    folder.mkdir(exist_ok=True)
    torch.manual_seed(1)
    loop.fit(
        model, data, evaluate, settings, seed=0, device=device, dtype=torch.bfloat16, run_dir=folder,
        class_weights=torch.ones(3), log=str, quiet=True,
    )  # fmt: skip
    handle.remove()
    return MetricsLog(folder / "metrics.jsonl").rows()


def test_a_resumed_run_draws_the_dropout_of_an_uninterrupted_one(device, tmp_path):
    expected = train(tmp_path / "whole", device)
    with pytest.raises(KeyboardInterrupt, match="--resume"):
        train(tmp_path / "stopped", device, stop_after=2)
    found = train(tmp_path / "stopped", device)
    assert len(found) == len(expected) == 6 + 2
    for row, other in zip(found, expected, strict=True):
        if "loss" in row:  # the kernels of the backward pass add in any order; other dropout masks change 0.1
            assert row["loss"] == pytest.approx(other["loss"], abs=5e-3)


@pytest.mark.parametrize("from_card", [True, False], ids=["from the card to the CPU", "from the CPU to the card"])
def test_a_checkpoint_opens_on_another_device(device, tmp_path, from_card: bool):
    places = (device, torch.device("cpu")) if from_card else (torch.device("cpu"), device)
    models = [classifier(place, seed) for seed, place in enumerate(places)]
    optimizers = [build_optimizers(model, "adamw", 1e-3, 0.01) for model in models]
    scalers = [GradScaler(place.type, enabled=False) for place in places]
    batches = [texts([5, 9])(range(2)).to(place) for place in places]
    update(models[0], [batches[0]], optimizers[0])
    best = {name: tensor.clone() for name, tensor in models[0].state_dict().items()}
    save_checkpoint(tmp_path, TrainState(step=1), models[0], optimizers[0], scalers[0], best)
    state, best = load_checkpoint(tmp_path, models[1], optimizers[1], scalers[1])
    assert state.step == 1
    assert all(torch.equal(tensor, best[name].cpu()) for name, tensor in weights_of(models[1]).items())
    before = weights_of(models[0])
    for model, optimizer, batch in zip(models, optimizers, batches, strict=True):
        update(model, [batch], optimizer)
    assert_same_change(weights_of(models[1]), weights_of(models[0]), before)
