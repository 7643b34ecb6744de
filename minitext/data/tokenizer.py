"""Texts to token ids with a WordPiece or BPE tokenizer of the `tokenizers` library.

Inputs: texts, and a tokenizer that is loaded (file, folder, Hub) or trained on them. Outputs: one flat array of ids with
offsets, never padded.
Shapes: B texts, N tokens of all texts.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import WordPiece
from tokenizers.trainers import WordPieceTrainer
from torch import Tensor
from tqdm import tqdm

from minitext.utils.config import option
from minitext.utils.errors import UserError

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")  # the ids 0..4 of a tokenizer that is trained here
PAD_TOKENS = ("[PAD]", "<pad>")  # BERT's and RoBERTa's
CONTINUATION = "##"  # the prefix of a word piece inside a word
HEAD_SHARE = 4  # head+tail keeps 1/4 from the start: 128 of 510 tokens in Sun et al. 2019, section 5.3.1
TRUNCATIONS = ("head", "tail", "head+tail")
CHUNK = 1024  # texts encoded in one call, which uses all cores


class TokenizedTexts(NamedTuple):
    """Token ids of B texts end to end: text i is `ids[offsets[i]:offsets[i + 1]]`."""

    ids: Tensor  # (N,) int32
    offsets: Tensor  # (B + 1,) int64

    def lengths(self) -> Tensor:
        """(B,) int64."""
        return self.offsets.diff()


@dataclass(frozen=True)
class TokenizerConfig:
    """tokens"""

    tokenizer: str | None = option(None, "tokenizer.json, a folder with one, or a Hub id (default: train one)")
    vocab_size: int = option(30_000, "word pieces of a trained tokenizer")
    max_length: int = option(4096, "maximum tokens per text, special tokens included")
    truncate: str = option("head", "which tokens of a longer text are kept", choices=TRUNCATIONS)
    pad_to: int | None = option(None, "pad every text to this many tokens (default: no padding)")

    def __post_init__(self) -> None:
        if self.max_length < 4:
            raise UserError(f"--max-length must be at least 4 (got {self.max_length})")
        if self.vocab_size < 100:
            raise UserError(f"--vocab-size must be at least 100 (got {self.vocab_size})")
        if self.pad_to is not None and self.pad_to < self.max_length:
            raise UserError(f"--pad-to {self.pad_to} is less than --max-length {self.max_length}; make them equal")


def load_tokenizer(source: str) -> Tokenizer:
    """A tokenizer from a `tokenizer.json`, from a folder with one, or from the Hub."""
    path = Path(source)
    if path.is_dir():
        path = path / "tokenizer.json"
    elif not path.exists():
        path = download_tokenizer(source)
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing narrower
        raise UserError(f"{path}: cannot be read as a tokenizer ({error}); give a tokenizer.json") from error
    tokenizer.no_padding()  # some files ask for a fixed length, whatever the text
    tokenizer.no_truncation()
    return tokenizer


def download_tokenizer(repository: str) -> Path:
    """`tokenizer.json` of a Hub repository, through huggingface-hub and its cache."""
    from huggingface_hub import hf_hub_download  # imported late: it costs half a second that most runs need not pay
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(repository, "tokenizer.json"))
    except HFValidationError as error:
        raise UserError(f"{repository}: neither a file or folder here nor a Hub id such as owner/name") from error
    except LocalEntryNotFoundError as error:
        raise UserError(f"{repository}: not in the Hub's cache, and the Hub cannot be reached") from error
    except HfHubHTTPError as error:
        reason = str(error).strip().splitlines()[-1]
        raise UserError(f"{repository}: the Hub has no tokenizer.json for it ({reason})") from error


def train_tokenizer(texts: Sequence[str], vocabulary: int) -> Tokenizer:
    """A lower-casing WordPiece tokenizer for `texts`; the same texts give the same vocabulary.

    The library's trainer alone does not promise that (tokenizers#1794): it numbers the pieces inside words ("##a") in
    the order of a hash table, and equal counts are then merged in the order of those numbers. Handing it these pieces
    in sorted order, as if they were special tokens, removes the dependence on the hash table.
    """
    normalizer = normalizers.BertNormalizer(lowercase=True)
    characters = sorted(set(normalizer.normalize_str("".join(sorted(set().union(*texts))))) - {" "})
    trainer = WordPieceTrainer(
        vocab_size=vocabulary,
        special_tokens=[*SPECIAL_TOKENS, *(CONTINUATION + character for character in characters)],
        continuing_subword_prefix=CONTINUATION,
        show_progress=False,
    )
    trained = bert_tokenizer(WordPiece(unk_token="[UNK]"))
    trained.train_from_iterator(texts, trainer, length=len(texts))
    # a new tokenizer with the same vocabulary, in which "##a" is not a special token
    tokenizer = bert_tokenizer(WordPiece(trained.get_vocab(), unk_token="[UNK]"))
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    return tokenizer


def bert_tokenizer(model: WordPiece) -> Tokenizer:
    """A tokenizer with the normalization and pre-tokenization of uncased BERT."""
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix=CONTINUATION)
    return tokenizer


def pad_id(tokenizer: Tokenizer) -> int:
    """The id of the padding token. Raises UserError for a tokenizer without one."""
    known = [tokenizer.token_to_id(token) for token in PAD_TOKENS]
    found = next((number for number in known if number is not None), None)
    if found is None:
        raise UserError(f"the tokenizer has no padding token ({' or '.join(PAD_TOKENS)}); drop --pad-to")
    return found


def tokenizer_sha256(tokenizer: Tokenizer) -> str:
    """SHA-256 of the tokenizer's definition."""
    return hashlib.sha256(tokenizer.to_str().encode()).hexdigest()


def encode(
    tokenizer: Tokenizer, texts: Sequence[str], max_length: int, truncate: str, quiet: bool = True
) -> TokenizedTexts:
    """Tokenize on all cores, with the special tokens that the tokenizer adds to a text.

    Args:
        max_length: maximum tokens per text, special tokens included.
        truncate: which tokens of a longer text are kept: `head`, `tail`, or `head+tail` (Sun et al. 2019, "How to
            fine-tune BERT for text classification", section 5.3.1).
    """
    tokenizer.no_padding()
    tokenizer.no_truncation()
    before, after = special_ids(tokenizer)
    room = max_length - len(before) - len(after)
    flat, lengths = [np.empty(0, dtype=np.int32)], []
    with tqdm(total=len(texts), desc="tokens", unit=" texts", leave=False, disable=quiet or None) as bar:
        for first in range(0, len(texts), CHUNK):
            chunk = texts[first : first + CHUNK]
            for encoding in tokenizer.encode_batch_fast(chunk, add_special_tokens=False):
                row = np.array(before + truncated(encoding.ids, room, truncate) + after, dtype=np.int32)
                flat.append(row)
                lengths.append(len(row))
            bar.update(len(chunk))
    offsets = torch.tensor([0, *lengths], dtype=torch.int64).cumsum(0)
    return TokenizedTexts(torch.from_numpy(np.concatenate(flat)), offsets)


def truncated(ids: list[int], room: int, truncate: str) -> list[int]:
    """At most `room` of the ids."""
    if len(ids) <= room:
        return ids
    head = {"head": room, "tail": 0, "head+tail": room // HEAD_SHARE}[truncate]
    return ids[:head] + ids[len(ids) - (room - head) :]


def describe_tokens(splits: Sequence[TokenizedTexts]) -> str:
    """One line: tokens of train, validation and test, and per text."""
    counts = ", ".join(f"{name} {len(part.ids):,}" for name, part in zip(("train", "valid", "test"), splits, strict=True))
    mean = sum(len(part.ids) for part in splits) / sum(len(part.offsets) - 1 for part in splits)
    return f"{counts}; {mean:.0f} per text"


def special_ids(tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """The ids that the tokenizer adds before and after a text, such as `[CLS]` and `[SEP]`."""
    bare = tokenizer.encode("a", add_special_tokens=False).ids
    full = tokenizer.encode("a", add_special_tokens=True).ids
    before = next(i for i in range(len(full)) if full[i : i + len(bare)] == bare)
    return full[:before], full[before + len(bare) :]
