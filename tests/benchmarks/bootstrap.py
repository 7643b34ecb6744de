"""Time and memory of the scores of one part of the data, with their intervals.

    PYTHONPATH=. python tests/benchmarks/bootstrap.py [--texts 25000] [--classes 2] [--rounds 3]

Prints the fastest and the median round, for drawing the resamples alone and for all scores, and the peak of memory
beyond labels and probabilities.
"""

import argparse
import resource
import statistics
import time

import numpy as np

from minitext.evaluation import bootstrap, calibration, metrics


def random_case(count: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels (B,) and probabilities (B, C) of a classifier that is right about nine times in ten."""
    generator = np.random.default_rng(0)
    labels = generator.integers(classes, size=count)
    probabilities = generator.normal(size=(count, classes))
    probabilities[np.arange(count), labels] += 2
    np.exp(probabilities, out=probabilities)
    probabilities /= probabilities.sum(1, keepdims=True)
    return labels, probabilities


def every_score(labels: np.ndarray, probabilities: np.ndarray) -> None:
    """What `score_run` computes for one part."""
    names = tuple(map(str, range(probabilities.shape[1])))
    metrics.classification_scores(labels, probabilities.argmax(1), probabilities, names, 0)
    calibration.calibration_scores(labels, probabilities, 0)


def peak() -> float:
    """The highest memory of this process so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


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
    before = peak()
    print(f"{options.texts:,} texts, {options.classes} classes, {bootstrap.RESAMPLES:,} resamples")
    for what, work in (
        ("resamples alone", lambda: sum(len(block) for block in bootstrap.resamples(options.texts, 0))),
        ("every score", lambda: every_score(labels, probabilities)),
    ):
        clock, used = zip(*(seconds(work) for _ in range(options.rounds)), strict=True)
        print(
            f"{what:<16} fastest {min(clock):.2f} s, median {statistics.median(clock):.2f} s; "
            f"processor time {min(used):.2f} s"
        )
    print(f"memory beyond the data: {peak() - before:,.0f} MiB")


if __name__ == "__main__":
    main()
