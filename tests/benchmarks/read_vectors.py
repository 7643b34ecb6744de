"""Reading a 400,000 x 100 GloVe text file: minitext and gensim, alternating in one run.

    python tests/benchmarks/read_vectors.py [--rounds 3] [--imdb aclImdb_v1.tar.gz]

Prints medians and ratios, for the whole file and for a corpus's own words. Every measurement is a process of its own;
peak memory is that process's above one that has only imported torch and the package. The file is generated; with --imdb
its first words are those of the real corpus, so that "own words" are as many as they would be.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

WORDS, WIDTH = 400_000, 100
MEASURE = (
    # the kernel's peak of this very process, in KiB (getrusage would count what the parent had when it forked)
    "peak = lambda: int(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1]); "
    "base = peak(); start = time.perf_counter(); {work}; print(time.perf_counter() - start, (peak() - base) / 1024)"
)
MINITEXT = "import re, sys, time; from minitext.data.word_vectors import load_word_vectors as load; "
WAYS = {
    "gensim": "import re, sys, time; from gensim.models import KeyedVectors; "
    + MEASURE.format(work="KeyedVectors.load_word2vec_format(sys.argv[1], no_header=True)"),
    "minitext, all words": MINITEXT + MEASURE.format(work="load(sys.argv[1])"),
    "minitext, own words": MINITEXT
    + "own = open(sys.argv[2]).read().split(); "
    + MEASURE.format(work="load(sys.argv[1], own)"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--imdb", help="the archive, for its words; by default own words are a sixth of the file")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        own = own_words(arguments.imdb)
        (folder / "own.txt").write_text("\n".join(own), encoding="utf-8")
        make_file(folder / "vectors.txt", own)
        results: dict[str, list[list[float]]] = {way: [] for way in WAYS}
        for _ in range(arguments.rounds):
            for way, code in WAYS.items():
                results[way].append(measure(code, folder))
    table = WORDS * WIDTH * 4 / 2**20
    seconds = {way: statistics.median(run[0] for run in runs) for way, runs in results.items()}
    print(f"{WORDS:,} x {WIDTH}, {len(own):,} own words, median of {arguments.rounds}, table {table:.0f} MiB")
    for way, runs in results.items():
        peak = statistics.median(run[1] for run in runs)
        print(
            f"{way:22} {seconds[way]:8.3f} s  {seconds['gensim'] / seconds[way]:8.1f} x gensim"
            f"  peak memory {peak:6.0f} MiB, {peak / table:.1f} x the table"
        )


def own_words(imdb: str | None) -> list[str]:
    """The words of IMDB that occur at least three times: about as many as the public GloVe files have of them."""
    if imdb is None:
        return [f"word{i}" for i in range(0, WORDS, 6)]
    from minitext.data.imdb import read_imdb
    from minitext.data.words import distinct_words, word_ids

    texts = [text for _, text, _, _ in read_imdb(Path(imdb))]
    index = distinct_words(texts)
    counts = np.bincount(word_ids(texts, index)[0])
    return [word for word, number in index.items() if counts[number] >= 3]


def make_file(path: Path, own: list[str]) -> None:
    """Numbers with five decimals, as the public files have them; own words are spread over the file."""
    generator = np.random.default_rng(0)
    words = own + [f"filler{i}" for i in range(WORDS - len(own))]
    with open(path, "w", encoding="utf-8") as file:
        for row in generator.permutation(WORDS):
            numbers = generator.normal(0, 0.4, WIDTH).round(5)
            file.write(words[row] + " " + " ".join(map(str, numbers.tolist())) + "\n")


def measure(code: str, folder: Path) -> list[float]:
    """Seconds and MiB of one process."""
    command = [sys.executable, "-c", code, folder / "vectors.txt", folder / "own.txt"]
    return list(map(float, subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()))


if __name__ == "__main__":
    main()
