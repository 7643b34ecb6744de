"""Time and memory of `minitext predict RUN --input texts.csv --output out.csv` on 100,000 and on a million texts.

    python tests/benchmarks/predict_file.py RUN [--texts 100000 1000000]

The texts are made from the sample reviews: words from a random position of a random review, 45 on average, the same in
every run. The command runs in a process of its own; its seconds include the start and the loading of the run.
"""

import argparse
import csv
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from minitext.data.readers import read_rows

MIN_WORDS, MAX_WORDS = 10, 80


def write_texts(path: Path, count: int) -> int:
    """Write a table with an id and a text per row; return the number of words."""
    generator = random.Random(0)
    reviews = [row.text.split() for row in read_rows("sample")]
    words = 0
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "text"])
        for number in range(count):
            length = generator.randint(MIN_WORDS, MAX_WORDS)
            text: list[str] = []
            while len(text) < length:
                review = generator.choice(reviews)
                start = generator.randrange(len(review))
                text += review[start : start + length - len(text)]
            words += length
            writer.writerow([number, " ".join(text)])
    return words


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("--texts", type=int, nargs="+", default=[100_000, 1_000_000])
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for count in sorted(arguments.texts):  # ascending: the resident set is the largest of all children so far
            source, output = Path(folder, "texts.csv"), Path(folder, "out.csv")
            words = write_texts(source, count)
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            start = time.perf_counter()
            command = [sys.executable, "-m", "minitext", "predict", arguments.run, "--input", source]
            subprocess.run([*command, "--output", output, "--overwrite"], check=True)
            seconds = time.perf_counter() - start
            used = resource.getrusage(resource.RUSAGE_CHILDREN)
            cpu_seconds = used.ru_utime + used.ru_stime - before.ru_utime - before.ru_stime
            print(
                f"{count:,} texts, {words / count:.1f} words per text, {source.stat().st_size / 1e6:.0f} MB: "
                f"{seconds:.1f} s ({cpu_seconds:.1f} s of CPU time), {count / seconds:,.0f} texts/s, "
                f"peak memory {used.ru_maxrss / 1024:.0f} MiB"
            )


if __name__ == "__main__":
    main()
