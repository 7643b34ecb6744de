"""Validation scores of recipes, to choose defaults by: what was chosen on what stands in docs/results.md.

    PYTHONPATH=. python tests/benchmarks/choose_defaults.py scratch reviews.csv --try "" "--lr 1e-2" --num-seeds 5
    PYTHONPATH=. python tests/benchmarks/choose_defaults.py finetune aclImdb_v1.tar.gz --train-fraction 0.04 --try ""

A recipe is a string of options of the script. No test text is read into a model or a score. The texts for training are
split once more: `--train-fraction` of them train, a ninth of their number selects the epoch, as in a script with its
defaults, and up to MAX_SCORED others are scored. So the scores are not optimistic. A run gives three of them: at the
epochs that accuracy and loss select, and at the last epoch.
"""

import argparse
import shlex
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

import train_finetune
import train_scratch
from minitext.data.batching import PackCollator
from minitext.data.dataset import DataConfig, Dataset, load_dataset, split_off
from minitext.data.tokenizer import encode, train_tokenizer
from minitext.evaluation.predict import classification_metrics, predict_logits
from minitext.evaluation.significance import mean_and_std
from minitext.models.embedding_bag import EmbeddingBagClassifier, fill_buckets
from minitext.models.hub import fetch_checkpoint
from minitext.reporting.formats import format_mean, markdown_table
from minitext.training.device import pick_dtype
from minitext.training.loop import TrainConfig, class_weights_of, fit, selection_score
from minitext.training.optim import layer_groups
from minitext.utils.config import parse
from minitext.utils.run_dir import Notes

MAX_SCORED = 1_000  # texts
CPU = torch.device("cpu")
SELECTIONS = ("accuracy", "loss")
Prepared = tuple[nn.Module, list[PackCollator], TrainConfig, torch.dtype]


def split(dataset: Dataset, train_fraction: float, seed: int) -> list[Dataset]:
    """Texts that train, that select, and that are scored; each split by class."""
    rest, train = split_off(dataset, train_fraction, [seed, 1], "--train-fraction")
    rest, selecting = split_off(rest, len(train) / 9 / len(rest), [seed, 2], "--train-fraction")
    scored = split_off(rest, MAX_SCORED / len(rest), [seed, 3], "")[1] if len(rest) > MAX_SCORED else rest
    return [train, selecting, scored]


def prepare_scratch(options: list[str], parts: list[Dataset], seed: int) -> Prepared:
    """Model, collators and settings as in train_scratch.py."""
    config = parse(train_scratch.Config, None, arguments=options)
    tokenizer = train_tokenizer(parts[0].texts, config.tokens.vocab_size)
    tokens = [encode(tokenizer, part.texts, config.tokens.max_length, config.tokens.truncate) for part in parts]
    num_classes, network = len(parts[0].class_names), fill_buckets(config.network, len(tokens[0].ids))
    torch.manual_seed(seed)
    model = EmbeddingBagClassifier(tokenizer.get_vocab_size(), num_classes, network)
    features = (model.features(ids) for ids in tokens)
    data = [PackCollator(ids, torch.from_numpy(part.labels)) for ids, part in zip(features, parts, strict=True)]
    return model, data, train_scratch.LENGTH.fill(config.loop, len(parts[0]), num_classes), torch.float32


def prepare_finetune(options: list[str], parts: list[Dataset], seed: int) -> Prepared:
    """Model, collators and settings as in train_finetune.py."""
    config = parse(train_finetune.Config, None, arguments=options)
    torch.manual_seed(seed)
    checkpoint, names = fetch_checkpoint(config.model.model), parts[0].class_names
    model, tokenizer = train_finetune.build_model(config.model, checkpoint, names, Notes(quiet=True))
    settings = train_finetune.fill_max_length(config.model, model.config.max_length, Notes(quiet=True))
    tokens = [encode(tokenizer, part.texts, settings.max_length, settings.truncate) for part in parts]
    data = [PackCollator(ids, torch.from_numpy(part.labels)) for ids, part in zip(tokens, parts, strict=True)]
    mean_length = data[0].data.lengths().double().mean().item()
    loop = train_finetune.fill_defaults(config.loop, model.config.hidden_size, mean_length, CPU)
    loop = train_finetune.LENGTH.fill(loop, len(parts[0]), len(names))
    dtype = pick_dtype(loop.precision, CPU, model.config.hidden_size, loop.micro_batch_size * mean_length)
    return model, data, loop, dtype


def score_recipe(
    prepare: Callable[[list[str], list[Dataset], int], Prepared], options: list[str], parts: list[Dataset], seed: int
) -> dict[str, float]:
    """The accuracy of the scored texts at the epoch that each metric selects, and at the last; epochs and seconds."""
    model, (train, selecting, scored), loop, dtype = prepare(options, parts, seed)
    selections, accuracies = [], []

    def evaluate() -> dict[str, float]:
        logits = (predict_logits(model, part, 64, CPU, dtype) for part in (selecting, scored))
        chosen, result = (
            classification_metrics(values, part.labels)
            for values, part in zip(logits, (selecting, scored), strict=True)
        )
        selections.append(chosen)
        accuracies.append(result["accuracy"])
        return chosen

    start = time.perf_counter()
    is_bert = hasattr(model, "encoder")
    with tempfile.TemporaryDirectory() as folder:
        fit(
            model, train, evaluate, replace(loop, save_every=1e9), seed=seed, device=CPU, dtype=dtype,
            run_dir=Path(folder), class_weights=class_weights_of(train.labels, model.output.out_features, "equal"),
            param_groups=layer_groups(model, loop.weight_decay, 1.0) if is_bert else None, log=lambda line: None,
            quiet=True,
        )  # fmt: skip
    best = {metric: int(np.argmax([selection_score(row, metric) for row in selections])) for metric in SELECTIONS}
    result = {metric: accuracies[epoch] for metric, epoch in best.items()} | {"last epoch": accuracies[-1]}
    return result | {"epochs": loop.epochs, "seconds": time.perf_counter() - start}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("track", choices=("scratch", "finetune"))
    parser.add_argument("source", help="labeled texts")
    parser.add_argument("--try", dest="recipes", nargs="+", default=[""], metavar="OPTIONS", help="recipes")
    parser.add_argument("--train-fraction", type=float, default=0.7)
    parser.add_argument("--num-seeds", type=int, default=5)
    arguments = parser.parse_args()
    prepare = {"scratch": prepare_scratch, "finetune": prepare_finetune}[arguments.track]
    results = {recipe: [] for recipe in arguments.recipes}
    for seed in range(arguments.num_seeds):
        parts = split(load_dataset(DataConfig(data=arguments.source), seed).train, arguments.train_fraction, seed)
        for recipe, found in results.items():
            found.append(score_recipe(prepare, shlex.split(recipe), parts, seed))
            print(f"seed {seed}, {recipe or 'defaults'}: {found[-1]}", flush=True)
    names = (*SELECTIONS, "last epoch")
    rows = [["recipe", *(f"by {name}" for name in names), "epochs", "seconds"]]
    for recipe, found in results.items():
        columns = ([run[name] for run in found] for name in names)
        cells = (format_mean(mean, std or 0.0, True) for mean, std in map(mean_and_std, columns))
        seconds = np.mean([run["seconds"] for run in found])
        rows.append([recipe or "defaults", *cells, str(found[0]["epochs"]), f"{seconds:.0f}"])
    sizes = ", ".join(f"{len(part):,}" for part in parts)
    print(f"\n{arguments.track}, {arguments.source}: {sizes} texts train, select, are scored; {len(found)} seeds\n")
    print(markdown_table(rows))


if __name__ == "__main__":
    main()
