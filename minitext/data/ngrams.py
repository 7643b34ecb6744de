"""Hashed n-grams of token ids (Joulin et al. 2017, "Bag of tricks for efficient text classification").

Inputs: `TokenizedTexts`. Outputs: `TokenizedTexts` whose ids are rows of a table: the vocabulary, then the buckets.
Shapes: N tokens of all texts.
"""

import numpy as np
import torch

from minitext.data.tokenizer import TokenizedTexts

MULTIPLIER = 0x9E3779B1  # a prime near 2**32 / golden ratio: multiplicative hashing (Knuth, TAOCP 3, section 6.4)
HASH_MASK = (1 << 31) - 1  # int64 products wrap around; the bits that are kept are never negative
CHUNK = 4096  # texts whose n-grams are computed together: bounds the memory


def add_ngrams(
    tokens: TokenizedTexts, vocab_size: int, ngrams: int, buckets: int, binary_counts: bool = False
) -> TokenizedTexts:
    """Append the n-grams of length 2 to `ngrams` to each text, hashed to rows `vocab_size` to `vocab_size + buckets`.

    With `binary_counts` each distinct row of a text occurs once (Wang & Manning 2012), in ascending order; otherwise
    the tokens come first, then the n-grams by length. A text of T tokens has T - n + 1 n-grams of length n.
    """
    if ngrams == 1 and not binary_counts:
        return tokens
    offsets = tokens.offsets.numpy()
    ids, lengths = [np.empty(0, np.int32)], [np.zeros(1, np.int64)]
    for first in range(0, len(offsets) - 1, CHUNK):
        bounds = offsets[first : first + CHUNK + 1]
        chunk = tokens.ids[bounds[0] : bounds[-1]].numpy().astype(np.int64)
        rows, counts = chunk_features(chunk, np.diff(bounds), vocab_size, ngrams, buckets, binary_counts)
        ids.append(rows.astype(np.int32))
        lengths.append(counts)
    return TokenizedTexts(torch.from_numpy(np.concatenate(ids)), torch.from_numpy(np.concatenate(lengths).cumsum()))


def chunk_features(
    ids: np.ndarray, lengths: np.ndarray, vocab_size: int, ngrams: int, buckets: int, binary_counts: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Feature rows of some texts, text by text, and how many each text has. `ids`: (N,), `lengths`: (texts,)."""
    text = np.repeat(np.arange(len(lengths)), lengths)  # (N,) the text of each token
    remaining = np.repeat(lengths.cumsum(), lengths) - np.arange(len(ids))  # (N,) tokens from here to the text's end
    rows, owners, hashes = [ids], [text], ids
    for n in range(2, ngrams + 1):
        with np.errstate(over="ignore"):  # products wrap around on purpose
            hashes = ((hashes[:-1] * MULTIPLIER + ids[n - 1 :]) * MULTIPLIER >> 7) & HASH_MASK  # starts at token i
        inside = remaining[: len(hashes)] >= n  # the n-gram does not reach into the next text
        rows.append(vocab_size + hashes[inside] % buckets)
        owners.append(text[: len(hashes)][inside])
    row, owner = np.concatenate(rows), np.concatenate(owners)
    if binary_counts:
        key = np.sort(owner * (vocab_size + buckets) + row)  # with AVX-512 ten times as fast as np.unique
        key = key[np.diff(key, prepend=-1) > 0]
        owner, row = np.divmod(key, vocab_size + buckets)
    else:
        row = row[np.argsort(owner, kind="stable")]
    return row, np.bincount(owner, minlength=len(lengths))
