"""Seconds from the command to the first update of `train_scratch.py` on 4 % of IMDB.

    python tests/benchmarks/first_step.py aclImdb_v1.tar.gz [--rounds 5]

Imports, reading the archive, duplicates, training the tokenizer and encoding are all included.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "train_scratch.py"


def wait_for_first_step(imdb: str, folder: Path) -> float:
    """Seconds; the run is stopped as soon as it has taken the step."""
    command = [sys.executable, SCRIPT, "--data", imdb, "--subset", "0.04", "0.02", "--out", folder / "run", "--quiet"]
    metrics = folder / "run.partial" / "metrics.jsonl"
    start = time.perf_counter()
    process = subprocess.Popen(command)
    while not (metrics.exists() and metrics.stat().st_size) and process.poll() is None:
        time.sleep(0.005)
    took = time.perf_counter() - start
    process.kill()
    process.wait()
    return took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("imdb")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    times = []
    for _ in range(arguments.rounds):
        with tempfile.TemporaryDirectory() as folder:
            times.append(wait_for_first_step(arguments.imdb, Path(folder)))
    print(
        f"first update after {statistics.median(times):.2f} s (median of {arguments.rounds}, worst {max(times):.2f} s)"
    )


if __name__ == "__main__":
    main()
