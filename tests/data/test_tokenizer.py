"""A trained tokenizer is the same wherever it is trained, truncation keeps the tokens that one counts by
hand, and a tokenizer is found in a file, a folder and on the Hub, or refused in one line.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hub_server import Hub, run_child, serve
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import WordLevel
from tokenizers.processors import TemplateProcessing

from minitext.data import tokenizer as tokens
from minitext.data.tokenizer import (
    TokenizerConfig,
    describe_unknown,
    encode,
    load_tokenizer,
    pad_id,
    tokenizer_sha256,
    train_tokenizer,
)
from minitext.utils.errors import UserError

ROOT = Path(__file__).parents[2]
TEXTS = ["The low lower lowest film", "a new newer newest film", "wide, wider, widest!", "Ça va? ça va. 日本"] * 3
# many pieces of equal count: where the order of a hash table shows, if it shows anywhere
TIES = [" ".join(f"{a}{b}{c}" for a in "klmnop" for b in "aeiou" for c in "rstvwz")]


def digits_tokenizer(template: bool = False) -> Tokenizer:
    """`0` to `9` have the ids 0 to 9; with a template, [CLS] = 10 and [SEP] = 11 are added around a text."""
    vocabulary = {str(i): i for i in range(10)} | {"[CLS]": 10, "[SEP]": 11, "[UNK]": 12}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if template:
        tokenizer.post_processor = TemplateProcessing(
            single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 10), ("[SEP]", 11)]
        )
    return tokenizer


def encode_one(tokenizer: Tokenizer, text: str, max_length: int = 100, truncate: str = "head") -> list[int]:
    return encode(tokenizer, [text], max_length, truncate).ids.tolist()


# Training


def test_a_trained_tokenizer_lower_cases_and_splits_off_punctuation():
    tokenizer = train_tokenizer(["Good film, bad film!"] * 5, 200)
    assert tokenizer.encode("FILM,good!").tokens == ["film", ",", "good", "!"]


def test_an_unseen_word_is_split_into_known_pieces():
    tokenizer = train_tokenizer(["low er newest"], 200)
    assert tokenizer.decode(tokenizer.encode("lower").ids) == "lower"
    assert "[UNK]" not in tokenizer.encode("lower").tokens


def test_an_unseen_character_is_unknown():
    assert train_tokenizer(["abc"], 100).encode("ж").tokens == ["[UNK]"]


def test_special_tokens_have_the_ids_0_to_4():
    tokenizer = train_tokenizer(TEXTS, 100)
    assert [tokenizer.token_to_id(token) for token in ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")] == list(range(5))


def test_training_twice_gives_the_same_tokenizer():
    assert len({tokenizer_sha256(train_tokenizer(TEXTS + TIES, 300)) for _ in range(4)}) == 1


@pytest.mark.slow
def test_hash_seeds_do_not_change_the_vocabulary():
    code = (
        "from minitext.data.tokenizer import *; from tests.data.test_tokenizer import TEXTS, TIES\n"
        "print(tokenizer_sha256(train_tokenizer(TEXTS + TIES, 300)))"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT / "tests")}
    found = {
        subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, env=environment | {"PYTHONHASHSEED": seed}, capture_output=True,
            text=True, check=True,
        ).stdout
        for seed in ("1", "2")
    }  # fmt: skip
    assert found == {tokenizer_sha256(train_tokenizer(TEXTS + TIES, 300)) + "\n"}


def test_a_literal_piece_in_a_text_is_not_a_special_token():
    tokenizer = train_tokenizer(["b#a ba ca da #"] * 3, 100)
    assert "##a" in tokenizer.get_vocab()
    assert tokenizer.encode("##a").tokens == ["#", "#", "a"]


def test_the_vocabulary_is_at_most_vocab_size():
    assert train_tokenizer(TEXTS + TIES, 120).get_vocab_size() == 120


@pytest.mark.parametrize("wrong", [{"max_length": 3}, {"vocab_size": 99}])
def test_impossible_settings_are_refused(wrong: dict):
    with pytest.raises(UserError, match=f"--{next(iter(wrong)).replace('_', '-')}"):
        TokenizerConfig(**wrong)


# Encoding


@pytest.mark.parametrize(
    ("truncate", "kept"),
    [("head", [0, 1, 2, 3, 4, 5]), ("tail", [4, 5, 6, 7, 8, 9]), ("head+tail", [0, 5, 6, 7, 8, 9])],  # 6 // 4 = 1 ahead
)
def test_truncation_keeps_head_tail_or_both(truncate: str, kept: list[int]):
    assert encode_one(digits_tokenizer(), "0 1 2 3 4 5 6 7 8 9", 6, truncate) == kept


@pytest.mark.parametrize(
    ("truncate", "kept"), [("head", [0, 1, 2, 3]), ("tail", [6, 7, 8, 9]), ("head+tail", [0, 7, 8, 9])]
)
def test_special_tokens_count_in_the_length(truncate: str, kept: list[int]):
    assert encode_one(digits_tokenizer(template=True), "0 1 2 3 4 5 6 7 8 9", 6, truncate) == [10, *kept, 11]


@pytest.mark.parametrize("truncate", ["head", "tail", "head+tail"])
def test_a_text_of_exactly_the_maximum_length_is_not_truncated(truncate: str):
    assert encode_one(digits_tokenizer(template=True), "1 2 3 4", 6, truncate) == [10, 1, 2, 3, 4, 11]


def test_each_window_has_the_special_tokens():
    found = encode(digits_tokenizer(template=True), ["1 2", "0 1 2 3 4 5 6 7 8 9", ""], 6, "head", windows=True)
    first, second, third = [10, 0, 1, 2, 3, 11], [10, 3, 4, 5, 6, 11], [10, 6, 7, 8, 9, 11]  # 4 // 4 = 1 is repeated
    assert found.ids.tolist() == [10, 1, 2, 11, *first, *second, *third, 10, 11]
    assert (found.lengths().tolist(), found.window) == ([4, 18, 2], 6)


def test_windows_do_not_change_a_text_of_the_maximum_length():
    texts, tokenizer = ["1 2 3 4", "", "5"], digits_tokenizer(template=True)
    plain, windows = (encode(tokenizer, texts, 6, "head", windows=windows) for windows in (False, True))
    assert plain.ids.tolist() == windows.ids.tolist() and plain.offsets.tolist() == windows.offsets.tolist()
    assert (plain.window, windows.window) == (None, 6)


@pytest.mark.parametrize(("template", "ids"), [(False, []), (True, [10, 11])])
def test_a_text_of_zero_tokens_keeps_only_special_ones(template: bool, ids: list[int]):
    found = encode(digits_tokenizer(template), ["", "1", "  "], 10, "head")
    assert found.lengths().tolist() == [len(ids), len(ids) + 1, len(ids)]
    assert found.ids[: len(ids)].tolist() == ids


def test_no_texts_give_no_ids():
    found = encode(digits_tokenizer(), [], 10, "head")
    assert (found.ids.tolist(), found.offsets.tolist()) == ([], [0])


def test_offsets_delimit_the_texts():
    found = encode(digits_tokenizer(), ["1 2", "", "3 4 5"], 10, "head")
    assert found.ids.tolist() == [1, 2, 3, 4, 5]
    assert found.offsets.tolist() == [0, 2, 2, 5]


@pytest.mark.parametrize("chunk", [1, 2, 1024])
def test_encoding_equals_the_tokenizers_library_text_by_text(monkeypatch, chunk: int):
    monkeypatch.setattr(tokens, "CHUNK", chunk)
    tokenizer = train_tokenizer(TEXTS, 150)
    tokenizer.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    texts = [*TEXTS, "", "ж unseen"]
    found = encode(tokenizer, texts, 1000, "head")
    each = [found.ids[a:b].tolist() for a, b in zip(found.offsets[:-1], found.offsets[1:], strict=True)]
    assert each == [tokenizer.encode(text).ids for text in texts]


def test_a_tokenizers_own_padding_and_truncation_are_switched_off(tmp_path):
    tokenizer = digits_tokenizer()
    tokenizer.enable_padding(length=8)
    tokenizer.enable_truncation(2)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    assert encode_one(load_tokenizer(str(tmp_path)), "1 2 3 4") == [1, 2, 3, 4]


@pytest.mark.parametrize("token", ["[PAD]", "<pad>"])
def test_the_padding_id_is_that_of_the_padding_token(token: str):
    assert pad_id(Tokenizer(WordLevel({"a": 0, token: 1}, unk_token="a"))) == 1


def test_a_tokenizer_without_a_padding_token_cannot_pad():
    with pytest.raises(UserError, match=r"no padding token.*--pad-to"):
        pad_id(Tokenizer(WordLevel({"a": 0, "other": 1}, unk_token="a")))


def test_the_sha256_changes_with_the_vocabulary():
    assert tokenizer_sha256(train_tokenizer(["abc"] * 3, 100)) != tokenizer_sha256(train_tokenizer(["abd"] * 3, 100))


# Unknown tokens


@pytest.mark.parametrize(("text", "share"), [("1 2 3 4 x", "20%"), ("x y", "100%"), ("1 2 x 4 x 6 7 x 9", "33%")])
@pytest.mark.parametrize("template", [False, True])
def test_many_unknown_tokens_are_a_warning(text: str, share: str, template: bool):
    tokenizer = digits_tokenizer(template)
    found = describe_unknown(tokenizer, encode(tokenizer, [text] * 3, 100, "head"))
    assert found.startswith(f"warning: {share} of the training tokens are [UNK]; ")


@pytest.mark.parametrize("text", ["1 2 3", "1 2 3 4 5 6 7 8 9 x", "", "1"])
@pytest.mark.parametrize("template", [False, True])
def test_few_unknown_tokens_are_no_warning(text: str, template: bool):
    tokenizer = digits_tokenizer(template)
    assert describe_unknown(tokenizer, encode(tokenizer, [text] * 3, 100, "head")) is None
    assert describe_unknown(tokenizer, encode(tokenizer, [], 100, "head")) is None


def test_the_unknown_token_may_have_another_name():
    tokenizer = Tokenizer(WordLevel({"a": 0, "<none>": 1}, unk_token="<none>"))
    assert "100% of the training tokens are <none>" in describe_unknown(tokenizer, encode(tokenizer, ["b"], 9, "head"))


def test_a_tokenizer_without_an_unknown_token_has_no_warning():
    tokenizer = Tokenizer(WordLevel({"a": 0}))
    assert describe_unknown(tokenizer, encode(tokenizer, ["a"], 9, "head")) is None


ENGLISH = ["A good film 😀", "so warm, so funny … ❤", "5★ from me, I would see it again with my friends"]


@pytest.mark.parametrize(
    ("texts", "warned"),
    [
        (ENGLISH, False),
        (["Ein schöner Film über Größe.", "Très bon film, j'ai adoré."], False),
        (["这部电影很好看，我喜欢。"], True),  # Chinese
        (["Очень хороший фильм."], True),  # Russian
    ],
    ids=["English with rare symbols", "German and French", "Chinese", "Russian"],
)
def test_the_bundled_vocabulary_warns_of_other_scripts(texts: list[str], warned: bool):
    tokenizer = load_tokenizer(str(ROOT / "minitext" / "data" / "sample" / "bert"))
    assert bool(describe_unknown(tokenizer, encode(tokenizer, texts, 256, "head"))) == warned


# Loading


@pytest.mark.parametrize("source", ["tokenizer.json", "."])
def test_a_tokenizer_comes_from_a_file_or_its_folder(tmp_path, source: str):
    digits_tokenizer().save(str(tmp_path / "tokenizer.json"))
    assert tokenizer_sha256(load_tokenizer(str(tmp_path / source))) == tokenizer_sha256(digits_tokenizer())


def test_a_file_that_is_not_a_tokenizer_is_refused(tmp_path):
    (tmp_path / "other.json").write_text('{"a": 1}')
    with pytest.raises(UserError, match="other.json: cannot be read as a tokenizer"):
        load_tokenizer(str(tmp_path / "other.json"))


def test_a_vocabulary_without_its_unknown_token_is_refused(tmp_path):
    Tokenizer(WordLevel({"a": 0}, unk_token="[UNK]")).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(UserError, match=r"tokenizer\.json: cannot be read as a tokenizer .*Missing \[UNK\]"):
        load_tokenizer(str(tmp_path))


def test_a_folder_without_a_tokenizer_is_refused(tmp_path):
    with pytest.raises(UserError, match="tokenizer.json: cannot be read"):
        load_tokenizer(str(tmp_path))


def test_a_missing_path_that_is_not_a_hub_id_is_refused(tmp_path):
    with pytest.raises(UserError, match="neither a file, a folder nor a Hub id"):
        load_tokenizer(str(tmp_path / "missing" / "tokenizer.json"))


def test_a_tokenizer_comes_from_the_hub(tmp_path):
    code = (
        "from minitext.data.tokenizer import load_tokenizer, tokenizer_sha256\n"
        "print(tokenizer_sha256(load_tokenizer('owner/name')))"
    )
    with serve(Hub({"owner/name": {"tokenizer.json": digits_tokenizer().to_str().encode()}})) as hub:
        settings = {"HF_HOME": str(tmp_path / "hf"), "HF_ENDPOINT": hub.address, "no_proxy": "127.0.0.1"}
        output, status = run_child(code, os.environ | settings, tmp_path / "output")
    assert (output, status) == (tokenizer_sha256(digits_tokenizer()) + "\n", 0)


def test_padding_shorter_than_the_maximum_length_is_refused():
    with pytest.raises(UserError, match="--pad-to 8 is less than --max-length 16"):
        TokenizerConfig(max_length=16, pad_to=8)


@pytest.mark.parametrize("letters", ["a", "abcdefghij"])
def test_a_word_of_millions_of_letters_does_not_change_the_vocabulary(letters: str):
    texts = ["a good film", "a bad film"] * 3
    expected = train_tokenizer(texts, 60).get_vocab()
    assert train_tokenizer([*texts, letters * 300_000], 60).get_vocab() == expected
