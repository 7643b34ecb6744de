"""Mean-encoding the 50,000 labeled IMDB reviews from raw text: minitext and gensim, alternating in one run.

    python tests/benchmarks/encode_texts.py aclImdb_v1.tar.gz glove.6B.100d.txt [--rounds 3]

The peer splits each text in Python and calls gensim's `KeyedVectors.get_mean_vector` on its words. Prints medians and
the ratio, and how far the two results are apart.
"""

import argparse
import statistics
import string
import time
from pathlib import Path

import numpy as np
import torch
from gensim.models import KeyedVectors

from minitext.data.imdb import read_imdb
from minitext.data.word_vectors import load_word_vectors
from minitext.data.words import words
from minitext.models.static import MeanEncoder


def encode_with_gensim(vectors: KeyedVectors, texts: list[str]) -> np.ndarray:
    marks = str.maketrans(string.punctuation.replace("'", ""), " " * (len(string.punctuation) - 1), "'")
    result = np.zeros((len(texts), vectors.vector_size), dtype=np.float32)
    for row, text in enumerate(texts):
        result[row] = vectors.get_mean_vector(text.lower().translate(marks).split(), pre_normalize=False)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("imdb")
    parser.add_argument("vectors")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    texts = [text for _, text, _, _ in read_imdb(Path(arguments.imdb))]
    vectors = load_word_vectors(arguments.vectors)
    encoder = MeanEncoder(vectors.words, vectors.table)
    peer = KeyedVectors(vectors.table.shape[1])
    peer.add_vectors(vectors.words, vectors.table.numpy())

    seconds: dict[str, list[float]] = {"gensim": [], "minitext": []}
    for _ in range(arguments.rounds):
        start = time.perf_counter()
        theirs = encode_with_gensim(peer, texts)
        seconds["gensim"].append(time.perf_counter() - start)
        start = time.perf_counter()
        ours = encoder.encode(texts).vectors
        seconds["minitext"].append(time.perf_counter() - start)
    ascii_only = torch.tensor([text.isascii() for text in texts])  # the peer's list of marks is ASCII's
    apart = (ours - torch.from_numpy(theirs))[ascii_only].abs().max()
    medians = {way: statistics.median(times) for way, times in seconds.items()}
    count = sum(len(words(text)) for text in texts)
    print(f"{len(texts):,} texts, {count:,} words, width {encoder.table.shape[1]}, median of {arguments.rounds}")
    for way, median in medians.items():
        print(f"{way:9} {median:7.2f} s  {medians['gensim'] / median:5.1f} x gensim")
    print(f"largest difference on ASCII texts: {apart:.1e}")


if __name__ == "__main__":
    main()
