"""Texts that stand in two splits: a test review that was trained on measures memory, not learning.

In: the splits. Out: how many texts have a twin in an earlier split, exactly (the same words) or nearly (Jaccard
similarity of their 3-word shingles of at least 0.9). Candidates come from min-hash signatures in bands (Broder 1997,
"On the resemblance and containment of documents"; banding: Leskovec, Rajaraman & Ullman, "Mining of Massive Datasets",
section 3.4); each is then verified on its whole shingle set, so that the only estimate is which pairs are looked at.
"""

from collections import defaultdict
from itertools import combinations, pairwise

import numpy as np

from minitext.data.dataset import Dataset, Splits
from minitext.data.words import distinct_words, word_ids
from minitext.utils.errors import UserError

SHINGLE = 3  # words; one changed word inside a text of 100 words leaves a similarity of 95/101
NEAR = 0.9  # Jaccard similarity from which two texts are near duplicates
BANDS, ROWS = 16, 4  # a pair at 0.9 is missed with probability (1 - 0.9 ** 4) ** 16 = 4e-8
CROWD = 100  # texts that share a band, from which on not all of their pairs are looked at
MIX = np.uint64(0x9E3779B97F4A7C15)  # an odd constant; products wrap around at 64 bits, as hashes do


def report_duplicates(splits: Splits) -> tuple[dict[str, dict[str, int]], np.ndarray]:
    """Count the texts that stand in two splits, before anything is trained.

    Returns the counts `{"train/test": {"exact": …, "near": …}, …}`, of texts of the later split with a twin in the
    earlier one, and a bool mask, (train texts,): has a twin in validation or test. A text is counted once, as exact
    where it is both; texts without a word have no twins.
    """
    exact, near = find_twins(list(splits))
    counts = {}
    for (a, earlier), (b, later) in combinations(enumerate(Splits._fields), 2):
        counts[f"{earlier}/{later}"] = {
            "exact": int(exact[b][:, a].sum()),
            "near": int((near[b][:, a] & ~exact[b][:, a]).sum()),
        }
    return counts, (exact[0] | near[0])[:, 1:].any(axis=1)


def check_duplicates(splits: Splits, drop: bool) -> tuple[Splits, str]:
    """Count twins and, if `drop`, take them out of train; returns the splits to go on with, and a line that tells."""
    counts, is_twin = report_duplicates(splits)
    return drop_twins(splits, is_twin) if drop else splits, describe_twins(counts)


def drop_twins(splits: Splits, is_twin: np.ndarray) -> Splits:
    """The splits without the train texts of the mask `is_twin`, (N,). Raises UserError if a class would vanish."""
    train = splits.train.subset(np.flatnonzero(~is_twin))
    for number, name in enumerate(train.class_names):
        if number not in train.labels:
            raise UserError(f"--drop-duplicates: every train text of class {name!r} also stands in validation or test")
    return splits._replace(train=train)


def describe_twins(counts: dict[str, dict[str, int]]) -> str:
    """One line for people: `train/test 114 exact + 0 near, …`."""
    return ", ".join(f"{pair} {kinds['exact']} exact + {kinds['near']} near" for pair, kinds in counts.items())


def find_twins(corpora: list[Dataset]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """For each corpus two bool tables, (its texts, corpora): has an exact twin there, has a near twin there."""
    texts = [text for corpus in corpora for text in corpus.texts]
    part = np.repeat(np.arange(len(corpora)), [len(corpus) for corpus in corpora])  # (N,)
    ids, offsets = word_ids(texts, distinct_words(texts))
    group = group_equal(ids, offsets)  # (N,)
    first = np.unique(group, return_index=True)[1]  # (G,) one text of each group
    present = np.zeros((len(first), len(corpora)), dtype=bool)
    present[group, part] = True
    present[np.diff(offsets)[first] == 0] = False

    near = np.zeros_like(present)
    shingles, starts = shingle_hashes(ids, offsets)
    for i, j in candidate_pairs(shingles, starts, first):
        a, b = group[i], group[j]
        if (present[a] | present[b]).sum() > 1 and jaccard(
            shingles[starts[i] : starts[i + 1]], shingles[starts[j] : starts[j + 1]]
        ) >= NEAR:
            near[a] |= present[b]
            near[b] |= present[a]
    members = [group[part == k] for k in range(len(corpora))]
    return [present[groups] for groups in members], [near[groups] for groups in members]


def group_equal(ids: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """A number for each text, (N,), the same for texts of the same words, in order of first appearance."""
    numbers: dict[bytes, int] = {}
    return np.array(
        [numbers.setdefault(ids[a:b].tobytes(), len(numbers)) for a, b in pairwise(offsets)], dtype=np.int64
    )


def shingle_hashes(ids: np.ndarray, offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A 64-bit hash of each run of SHINGLE words inside a text, and where each text's hashes start, (N + 1,).

    A text shorter than SHINGLE has one shingle, all of its words; a text without words has none.
    """
    lengths = np.diff(offsets)
    counts = np.where(lengths == 0, 0, np.maximum(lengths - SHINGLE + 1, 1))
    starts = np.concatenate(([0], np.cumsum(counts)))
    place = np.arange(starts[-1]) + np.repeat(offsets[:-1] - starts[:-1], counts)  # each shingle's first word
    ends = np.repeat(offsets[1:], counts)
    padded = np.concatenate([ids, np.zeros(SHINGLE, ids.dtype)]).astype(np.uint64) + np.uint64(1)  # 0 is "no word"
    hashes = np.zeros(len(place), dtype=np.uint64)
    for k in range(SHINGLE):
        hashes = scramble(hashes * MIX + padded[place + k] * (place + k < ends))
    return hashes, starts


def scramble(x: np.ndarray) -> np.ndarray:
    """The finalizer of splitmix64 (Steele, Lea & Flood 2014): each input bit moves about half of the output's."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def candidate_pairs(shingles: np.ndarray, starts: np.ndarray, chosen: np.ndarray) -> set[tuple[int, int]]:
    """Pairs (i, j), i < j, of the texts `chosen` whose min-hash signatures agree in all rows of a band."""
    filled = chosen[np.diff(starts)[chosen] > 0]
    everything = np.flatnonzero(np.diff(starts))  # reduceat cuts at the start of every text that has a shingle
    position = np.searchsorted(everything, filled)
    salts = scramble(np.arange(1, BANDS * ROWS + 1, dtype=np.uint64)).reshape(BANDS, ROWS)
    pairs = set()
    for band in range(BANDS):
        key = np.zeros(len(filled), dtype=np.uint64)
        for salt in salts[band]:
            minima = np.minimum.reduceat(scramble(shingles ^ salt), starts[everything])[position]
            key = scramble(key * MIX + minima)
        buckets = defaultdict(list)
        for text, value in zip(filled.tolist(), key.tolist(), strict=True):
            buckets[value].append(text)
        for members in buckets.values():
            # many texts of one mould: each is compared with the first only, lest their pairs fill the memory
            pairs.update(combinations(members, 2) if len(members) <= CROWD else ((members[0], m) for m in members[1:]))
    return pairs


def jaccard(a: np.ndarray, b: np.ndarray) -> float:
    """Shared shingles / all shingles, each counted once."""
    shared = len(np.intersect1d(a, b))
    return shared / (len(np.unique(a)) + len(np.unique(b)) - shared)
