"""Texts to token ids with a WordPiece or BPE tokenizer of the `tokenizers` library.

Inputs: texts, and a tokenizer that is loaded (file, folder, Hub) or trained on them. Outputs: flat ids with offsets.
A long text is truncated, or cut into overlapping windows. Shapes: B texts, N tokens of all texts.
"""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import WordPiece
from tokenizers.trainers import WordPieceTrainer
from torch import Tensor
from tqdm import tqdm

from minitext.data.windows import num_windows, split_windows
from minitext.data.words import without_long_words
from minitext.utils.config import option, require
from minitext.utils.download import download_from_hub
from minitext.utils.errors import UserError, first_line

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")  # the ids 0..4 of a trained tokenizer
PAD_TOKENS = ("[PAD]", "<pad>")  # BERT's and RoBERTa's
UNKNOWN_TOKENS = ("[UNK]", "<unk>")
# of all tokens but special ones. Short English texts that end in an emoji each have 4 to 6 % with the bundled BERT,
# Polish 17 %, Russian 44 %, Chinese 100 %.
MANY_UNKNOWN = 0.1
CONTINUATION = "##"  # the prefix of a word piece inside a word
TRUNCATIONS = ("head", "tail", "head+tail")
CHUNK = 1024  # texts encoded in one call, which uses all cores


class TokenizedTexts(NamedTuple):
    """Token ids of B texts end to end: text i is `ids[offsets[i]:offsets[i + 1]]`.

    With `window`, a text is its windows end to end, each with special tokens: all but its last have `window` tokens.
    """

    ids: Tensor  # (N,) int32
    offsets: Tensor  # (B + 1,) int64
    window: int | None = None  # tokens

    def lengths(self) -> Tensor:
        """(B,) int64, the tokens of each text, in all of its windows."""
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
        require(self, lambda value: value >= 4, "at least 4", "max_length")
        require(self, lambda value: value >= 100, "at least 100", "vocab_size")
        if self.pad_to is not None and self.pad_to < self.max_length:
            raise UserError(f"--pad-to {self.pad_to} is less than --max-length {self.max_length}; make them equal")


def load_tokenizer(source: str) -> Tokenizer:
    """A tokenizer from a `tokenizer.json`, from a folder with one, or from the Hub."""
    path = Path(source)
    if path.is_dir():
        path = path / "tokenizer.json"
    elif not path.exists():
        path = download_from_hub(source, "tokenizer.json")
    with tokenizer_errors(str(path), "give a tokenizer.json"):
        tokenizer = Tokenizer.from_file(str(path))
        tokenizer.encode("\N{CUNEIFORM SIGN A}")  # unknown: fails if the vocabulary lacks its unknown token
    tokenizer.no_padding()  # some files ask for a fixed length, whatever the text
    tokenizer.no_truncation()
    return tokenizer


@contextmanager
def tokenizer_errors(source: str, remedy: str) -> Iterator[None]:
    """Turn the errors of the tokenizers library into one line. A panic in its Rust code is not an `Exception`."""
    try:
        yield
    except (UserError, PermissionError, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        raise UserError(f"{source}: cannot be read as a tokenizer ({first_line(error)}); {remedy}") from error


def train_tokenizer(texts: Sequence[str], vocabulary: int) -> Tokenizer:
    """A lower-casing WordPiece tokenizer for `texts`; the same texts give the same vocabulary.

    The library's trainer numbers the pieces inside words ("##a") in the order of a hash table, and merges equal counts
    in the order of those numbers (tokenizers#1794). Here it is given these pieces in sorted order, as special tokens.
    """
    texts = without_long_words(texts)  # the trainer takes minutes for one of a million letters; encoded, it is [UNK]
    normalizer = normalizers.BertNormalizer(lowercase=True)
    characters = sorted(set(normalizer.normalize_str("".join(sorted(set().union(*texts))))) - {" "})
    special = [*SPECIAL_TOKENS, *(CONTINUATION + character for character in characters)]
    trainer = WordPieceTrainer(
        vocab_size=vocabulary, special_tokens=special, continuing_subword_prefix=CONTINUATION, show_progress=False
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


def first_token_id(tokenizer: Tokenizer, tokens: Sequence[str]) -> int | None:
    """The id of the first of `tokens` that the tokenizer has; None without one."""
    return next((number for number in map(tokenizer.token_to_id, tokens) if number is not None), None)


def pad_id(tokenizer: Tokenizer) -> int:
    """The id of the padding token. Raises UserError for a tokenizer without one."""
    found = first_token_id(tokenizer, PAD_TOKENS)
    if found is None:
        raise UserError(f"the tokenizer has no padding token ({' or '.join(PAD_TOKENS)}); drop --pad-to")
    return found


def tokenizer_sha256(tokenizer: Tokenizer) -> str:
    """SHA-256 of the tokenizer's definition."""
    return hashlib.sha256(tokenizer.to_str().encode()).hexdigest()


def encode(
    tokenizer: Tokenizer,
    texts: Sequence[str],
    max_length: int,
    truncate: str,
    quiet: bool = True,
    windows: bool = False,
) -> TokenizedTexts:
    """Tokenize on all cores. A text has at most `max_length` tokens, with the special tokens that the tokenizer adds.

    `truncate`: which tokens of a longer text are kept: `head`, `tail`, or `head+tail` (Sun et al. 2019, section 5.3.1).
    With `windows` all are kept, in windows of at most `max_length` tokens, each with the special tokens.
    """
    before, after = special_ids(tokenizer)
    room = max_length - len(before) - len(after)
    rows = [np.empty(0, dtype=np.int32)]
    with tqdm(total=len(texts), desc="tokens", unit=" texts", leave=False, disable=quiet or None) as bar:
        for first in range(0, len(texts), CHUNK):
            encodings = tokenizer.encode_batch_fast(texts[first : first + CHUNK], add_special_tokens=False)
            for encoding in encodings:
                parts = (before + part + after for part in fit_length(encoding.ids, room, truncate, windows))
                rows.append(np.array(list(chain.from_iterable(parts)), dtype=np.int32))
            bar.update(len(encodings))
    offsets = torch.tensor([len(row) for row in rows]).cumsum(0)  # from 0: the first row is empty
    return TokenizedTexts(torch.from_numpy(np.concatenate(rows)), offsets, max_length if windows else None)


def fit_length(ids: list[int], room: int, truncate: str, windows: bool) -> list[list[int]]:
    """The windows of a text, or the one sequence that is left of it, each of at most `room` ids."""
    return split_windows(ids, room) if windows else [truncated(ids, room, truncate)]


def truncated(ids: list[int], room: int, truncate: str) -> list[int]:
    """At most `room` of the ids."""
    if len(ids) <= room:
        return ids
    head = {"head": room, "tail": 0, "head+tail": room // 4}[truncate]  # 128 of 510 tokens in Sun et al. 2019
    return ids[:head] + ids[len(ids) - (room - head) :]


def describe_tokens(splits: Sequence[TokenizedTexts]) -> str:
    """One line: tokens of train, validation and test, and per text."""
    train, valid, test = (len(part.ids) for part in splits)
    mean = (train + valid + test) / sum(len(part.offsets) - 1 for part in splits)
    return f"train {train:,}, valid {valid:,}, test {test:,}; {mean:.0f} per text"


def describe_unknown(tokenizer: Tokenizer, tokens: TokenizedTexts) -> str | None:
    """A warning if more than `MANY_UNKNOWN` of the tokens of texts are the unknown token; None without one."""
    names = (getattr(tokenizer.model, "unk_token", None) or UNKNOWN_TOKENS[0], *UNKNOWN_TOKENS)
    unknown, (before, after) = first_token_id(tokenizer, names), special_ids(tokenizer)
    lengths, window = tokens.lengths(), tokens.window
    sequences = len(lengths) if window is None else num_windows(lengths, window).sum().item()
    total = len(tokens.ids) - sequences * len(before + after)
    share = (tokens.ids == unknown).sum().item() / total if total and unknown is not None else 0
    if share <= MANY_UNKNOWN:
        return None
    name = tokenizer.id_to_token(unknown)
    return f"warning: {share:.0%} of the training tokens are {name}; use a model whose vocabulary fits these texts"


def special_ids(tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """The ids that the tokenizer adds before and after a text, such as `[CLS]` and `[SEP]`."""
    bare = tokenizer.encode("a", add_special_tokens=False).ids
    full = tokenizer.encode("a", add_special_tokens=True).ids
    before = next(i for i in range(len(full)) if full[i : i + len(bare)] == bare)
    return full[:before], full[before + len(bare) :]
