"""Time of the bootstrap intervals of one part of the data: every score of 25,000 texts, 10,000 resamples.

    PYTHONPATH=. python tests/benchmarks/bootstrap.py [--texts 25000] [--classes 2] [--rounds 3]

Prints the fastest and the median round, for drawing the resamples alone and for all scores.
"""

import argparse
import statistics
import time

import numpy as np

from minitext.evaluation import metrics


def random_case(count: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels (B,) and probabilities (B, C) of a classifier that is right about nine times in ten."""
    generator = np.random.default_rng(0)
    labels = generator.integers(classes, size=count)
    raw = np.exp(generator.normal(size=(count, classes)) + 2 * np.eye(classes)[labels])
    return labels, raw / raw.sum(1, keepdims=True)


def seconds(work) -> tuple[float, float]:
    """Wall-clock time and processor time; the latter is the fairer one if other processes use the cores."""
    start, used = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - start, time.process_time() - used


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("texts", 25_000), ("classes", 2), ("rounds", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    labels, probabilities = random_case(options.texts, options.classes)
    predicted = probabilities.argmax(1)
    names = tuple(map(str, range(options.classes)))
    print(f"{options.texts:,} texts, {options.classes} classes, {metrics.RESAMPLES:,} resamples")
    for what, work in (
        ("resamples alone", lambda: sum(len(block) for block in metrics.resamples(options.texts, 0))),
        (
            "every score",
            lambda: metrics.classification_scores(labels, predicted, probabilities, names, 0),
        ),
    ):
        clock, used = zip(*(seconds(work) for _ in range(options.rounds)), strict=True)
        print(
            f"{what:<16} fastest {min(clock):.2f} s, median {statistics.median(clock):.2f} s; "
            f"processor time {min(used):.2f} s"
        )


if __name__ == "__main__":
    main()
