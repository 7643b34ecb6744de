"""A parsed vector file as safetensors in the cache folder: mapped into memory, and never trusted blindly.

In: the source file. Out: its words and table, if what is stored is whole and the source is still the same. Same size
and time mean the same source; same size and another time mean that its SHA-256 is compared. A checksum over the table
is verified at each load: it costs little more than touching the memory once.
"""

import hashlib
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from minitext.utils.io import atomic, cache_folder


class Stored(NamedTuple):
    """What a cache file holds."""

    words: list[str]
    table: Tensor  # (V, D) float32, mapped from the file
    notes: tuple[int, int]  # duplicates and replaced words met while parsing


def cache_path(source: Path, member: str | None) -> Path:
    key = hashlib.sha256(f"{source.resolve()}:{member}".encode()).hexdigest()[:16]
    return cache_folder() / "vectors" / f"{source.name}.{key}.safetensors"


def save(source: Path, member: str | None, words: list[str], table: Tensor, notes: tuple[int, int]) -> None:
    """Store a parsed file, atomically."""
    path = cache_path(source, member)
    path.parent.mkdir(exist_ok=True)
    blob = torch.from_numpy(np.frombuffer(bytearray("".join(f"{word}\n" for word in words).encode()), dtype=np.uint8))
    run_notes = {
        "size": source.stat().st_size,
        "mtime_ns": source.stat().st_mtime_ns,
        "sha256": digest(source),
        "checksum": [checksum(table), checksum(blob)],
        "notes": notes,
    }
    notes = json.dumps(run_notes)
    metadata = {"run_notes": notes, "facts_sha256": hashlib.sha256(notes.encode()).hexdigest()}
    with atomic(path) as temporary:
        save_file({"table": table, "words": blob}, temporary, metadata)


def load(source: Path, member: str | None) -> Stored | None:
    """What was stored for `source`, or None where nothing is, or it is stale or damaged."""
    path = cache_path(source, member)
    if not path.exists():
        return None
    try:
        with safe_open(path, "pt") as file:
            run_notes = json.loads(file.metadata()["run_notes"])
            if file.metadata()["facts_sha256"] != hashlib.sha256(file.metadata()["run_notes"].encode()).hexdigest():
                return None
            table, blob = file.get_tensor("table"), file.get_tensor("words")
        if source.stat().st_size != run_notes["size"]:
            return None
        if source.stat().st_mtime_ns != run_notes["mtime_ns"] and digest(source) != run_notes["sha256"]:
            return None
        if [checksum(table), checksum(blob)] != run_notes["checksum"]:
            return None
        words = blob.numpy().tobytes().decode().split("\n")[:-1]
        return Stored(words, table, tuple(run_notes["notes"]))
    except (SafetensorError, KeyError, TypeError, ValueError):  # not a file that this module wrote, or a damaged one
        return None


def digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def checksum(tensor: Tensor) -> int:
    """The sum of the tensor's bytes taken as 64-bit integers, modulo 2**64."""
    raw = tensor.flatten().view(torch.uint8)
    whole = len(raw) // 8 * 8
    return int(raw[:whole].view(torch.int64).sum()) + int(raw[whole:].sum())
