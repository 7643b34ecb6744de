"""A checkpoint's tokenizer has the token ids of transformers, whatever files it comes in, or is refused in one line.

The oracles write a folder as transformers writes it or has written it, and compare with `AutoTokenizer`.
"""

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
from tokenizers import Tokenizer, normalizers, pre_tokenizers, trainers
from tokenizers.models import BPE, Unigram

from minitext.models.hf_tokenizer import load_hub_tokenizer
from minitext.utils.errors import UserError

TEXTS = [
    "schön", "SCHÖN Straße", "数据 データ", "@user http://x.org", "  two  spaces", "great 😀 film 👍🏽",
    "cafe\u0301 NAÏVE", "un [MASK] film", "good<mask> film, <s>good</s>", "", " ", "\tunhappy\n\u00a0Happy!!",
    "[unused1] [cls] [CLS]", "\u200bgood\u0000", "a " + "b" * 120, "\ufffdx 中good",
]  # fmt: skip
CORPUS = [*TEXTS, "good film bad film", "un happy unhappy", "the schon straße strasse cafe naive user"] * 4
WORDS = [
    "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "film", "un", "##happy", "happy", "Happy", "schon", "schön",
    "sch", "##ö", "##n", "straße", "SCH", "数", "据", "数据", "データ", "cafe", "café", "naive", "user", "@", "http",
    ":", "/", "x", ".", "org", "two", "spaces", "!", ",", "a", "b", "##b", "[", "]", "mask", "中", "中good",
    "unused", "##1", "<", ">", "s", "cls", "great", "😀",
]  # fmt: skip
WORDPIECE = ["bert", "distilbert", "electra"]
UNIGRAM = ["camembert", "xlm-roberta"]
ROBERTAS = ["<s>", "<pad>", "</s>", "<unk>"]


def write_json(folder: Path, name: str, value: object) -> None:
    (folder / f"{name}.json").write_text(json.dumps(value), encoding="utf-8")


def write_vocab(folder: Path, words: list[str] = WORDS, kind: str = "bert", **settings) -> None:
    """An old repository: a config, `vocab.txt`, and settings if there are any."""
    folder.mkdir(exist_ok=True)
    write_json(folder, "config", {"model_type": kind, "vocab_size": 1000})
    (folder / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    if settings:
        write_json(folder, "tokenizer_config", settings)


def write_bpe(folder: Path, **settings) -> None:
    """`vocab.json` and `merges.txt` of a RoBERTa."""
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = [*ROBERTAS, "<mask>"]
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    folder.mkdir(exist_ok=True)
    write_json(folder, "config", {"model_type": "roberta", "vocab_size": 1000})
    tokenizer.model.save(str(folder))
    if settings:
        write_json(folder, "tokenizer_config", settings)


def write_unigram(folder: Path, kind: str, **settings) -> None:
    """A CamemBERT or XLM-RoBERTa as transformers saves it."""
    transformers = pytest.importorskip("transformers")
    tokenizer = Tokenizer(Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    special = [*ROBERTAS, "<mask>"]
    trainer = trainers.UnigramTrainer(vocab_size=120, special_tokens=special, unk_token="<unk>", show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    vocab = [tuple(entry) for entry in json.loads(tokenizer.to_str())["model"]["vocab"]]
    cls = transformers.CamembertTokenizer if kind == "camembert" else transformers.XLMRobertaTokenizer
    cls(vocab=vocab).save_pretrained(folder)
    write_json(folder, "config", {"model_type": kind, "vocab_size": 1000})
    change(folder, "tokenizer_config", settings)


def save_with_transformers(folder: Path) -> None:
    """Replace the files by those that transformers writes today."""
    transformers = pytest.importorskip("transformers")
    transformers.AutoTokenizer.from_pretrained(folder).save_pretrained(folder)
    for name in ("vocab.txt", "vocab.json", "merges.txt"):
        (folder / name).unlink(missing_ok=True)


def change(folder: Path, name: str, changes: Mapping) -> None:
    path = folder / f"{name}.json"
    write_json(folder, name, json.loads(path.read_text(encoding="utf-8")) | dict(changes))


def assert_same_ids(folder: Path) -> None:
    """The ids of all texts are those of transformers, also after minitext's own truncation and saving."""
    transformers = pytest.importorskip("transformers")
    theirs, ours = transformers.AutoTokenizer.from_pretrained(folder), load_hub_tokenizer(folder)
    for text in TEXTS:
        assert ours.encode(text).ids == theirs(text)["input_ids"], (text, ours.encode(text).tokens)
    again = Tokenizer.from_str(ours.to_str())
    assert [again.encode(text).ids for text in TEXTS] == [ours.encode(text).ids for text in TEXTS]


SETTINGS = [
    {},
    {"do_lower_case": False},
    {"do_lower_case": True, "strip_accents": False},
    {"do_lower_case": False, "strip_accents": True},
    {"strip_accents": None},
    {"tokenize_chinese_chars": False},
    {"do_lower_case": False, "strip_accents": False, "tokenize_chinese_chars": False, "do_basic_tokenize": False},
]


@pytest.mark.oracle
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("kind", WORDPIECE)
def test_a_vocab_txt_with_settings(kind: str, settings: dict, tmp_path):
    write_vocab(tmp_path, kind=kind, **settings)
    assert_same_ids(tmp_path)


@pytest.mark.oracle
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("kind", WORDPIECE)
def test_a_tokenizer_json_and_settings_that_disagree(kind: str, settings: dict, tmp_path):
    write_vocab(tmp_path, kind=kind, do_lower_case=False, strip_accents=True)
    save_with_transformers(tmp_path)
    change(tmp_path, "tokenizer_config", settings)
    assert_same_ids(tmp_path)


@pytest.mark.oracle
@pytest.mark.parametrize("name", ["BertTokenizer", "BertTokenizerFast", "DistilBertTokenizer", "ElectraTokenizerFast",
                                  "PreTrainedTokenizerFast", "TokenizersBackend", None])  # fmt: skip
@pytest.mark.parametrize("kind", WORDPIECE)
def test_the_class_decides_whether_settings_replace_a_tokenizer_json(kind: str, name: str | None, tmp_path):
    write_vocab(tmp_path, kind=kind)
    save_with_transformers(tmp_path)
    change(tmp_path, "tokenizer_config", {"do_lower_case": False, "tokenizer_class": name})
    assert_same_ids(tmp_path)


@pytest.mark.oracle
def test_a_tokenizer_json_without_settings(tmp_path):
    write_vocab(tmp_path, do_lower_case=False)
    save_with_transformers(tmp_path)
    (tmp_path / "tokenizer_config.json").unlink()
    assert_same_ids(tmp_path)


@pytest.mark.oracle
@pytest.mark.parametrize("file", ["tokenizer_config", "special_tokens_map"])
@pytest.mark.parametrize("form", ["string", "dict"])
@pytest.mark.parametrize("saved", [False, True], ids=["vocab.txt", "tokenizer.json"])
def test_special_tokens_with_other_names(file: str, form: str, saved: bool, tmp_path):
    names = {
        "cls_token": "<cls>",
        "sep_token": "<sep>",
        "unk_token": "<unk>",
        "pad_token": "<pad>",
        "mask_token": "<mask>",
    }
    flags = {"lstrip": True, "rstrip": False, "normalized": False, "single_word": False}
    kind = {"__type": "AddedToken"} if file == "tokenizer_config" else {}
    values = {role: {**kind, "content": name, **flags} if form == "dict" else name for role, name in names.items()}
    write_vocab(tmp_path, ["<pad>", "<unk>", "<cls>", "<sep>", "<mask>", *WORDS[5:]])
    write_json(tmp_path, file, values)
    if saved:
        save_with_transformers(tmp_path)
    assert_same_ids(tmp_path)
    assert load_hub_tokenizer(tmp_path).encode("good").tokens == ["<cls>", "good", "<sep>"]


@pytest.mark.oracle
@pytest.mark.parametrize("kind", ["bert", "roberta"])
@pytest.mark.parametrize("saved", [False, True], ids=["old files", "tokenizer.json"])
def test_added_tokens(kind: str, saved: bool, tmp_path):
    write_vocab(tmp_path) if kind == "bert" else write_bpe(tmp_path)
    size = len(WORDS) if kind == "bert" else len(json.loads((tmp_path / "vocab.json").read_text(encoding="utf-8")))
    write_json(tmp_path, "added_tokens", {"@user": size, "http": size + 1, "Straße": size + 2, "[unused1]": size + 3})
    write_json(tmp_path, "special_tokens_map", {"additional_special_tokens": ["[unused1]", "naive"]})
    if saved:
        save_with_transformers(tmp_path)
    assert_same_ids(tmp_path)
    assert "@user" in load_hub_tokenizer(tmp_path).encode("@user http").tokens


@pytest.mark.oracle
@pytest.mark.parametrize("saved", [False, True], ids=["vocab.txt", "tokenizer.json"])
def test_an_added_tokens_decoder(saved: bool, tmp_path):
    write_vocab(tmp_path)
    if saved:
        save_with_transformers(tmp_path)
    flags = {"lstrip": False, "rstrip": True, "normalized": True, "single_word": True, "special": False}
    tokens = {len(WORDS): {"content": "@user", **flags}, 4: {"content": "[MASK]", **flags, "special": True}}
    path = tmp_path / "tokenizer_config.json"
    settings = json.loads(path.read_text()) if path.exists() else {}
    write_json(
        tmp_path, "tokenizer_config", settings | {"added_tokens_decoder": tokens, "extra_special_tokens": ["two"]}
    )
    write_json(tmp_path, "added_tokens", {"film": 70})  # not read beside a decoder
    assert_same_ids(tmp_path)


ROBERTA_SETTINGS = [{}, {"add_prefix_space": True}, {"add_prefix_space": False},
                    {"mask_token": {"__type": "AddedToken", "content": "<mask>", "lstrip": True}}]  # fmt: skip


@pytest.mark.oracle
@pytest.mark.parametrize("settings", ROBERTA_SETTINGS, ids=str)
@pytest.mark.parametrize("saved", [False, True], ids=["vocab.json", "tokenizer.json"])
def test_a_vocab_json_with_merges(saved: bool, settings: dict, tmp_path):
    write_bpe(tmp_path)
    if saved:
        save_with_transformers(tmp_path)
        change(tmp_path, "tokenizer_config", settings)
    else:
        write_json(tmp_path, "tokenizer_config", settings)
    assert_same_ids(tmp_path)


@pytest.mark.oracle
@pytest.mark.parametrize("settings", ROBERTA_SETTINGS, ids=str)
@pytest.mark.parametrize("kind", UNIGRAM)
def test_a_sentencepiece_tokenizer_json(kind: str, settings: dict, tmp_path):
    write_unigram(tmp_path, kind, **settings)
    assert_same_ids(tmp_path)


@pytest.mark.oracle
@pytest.mark.parametrize("model", ["bert", "roberta"])
def test_the_tokenizer_class_counts_and_not_the_model_type(model: str, tmp_path):
    """As in multilingual MiniLM, a BERT with the tokenizer of XLM-RoBERTa, and KLUE, a RoBERTa with that of BERT."""
    if model == "bert":
        write_unigram(tmp_path, "xlm-roberta")
    else:
        write_vocab(tmp_path, tokenizer_class="BertTokenizer", do_lower_case=False)
    write_json(tmp_path, "config", {"model_type": model, "vocab_size": 1000})
    assert_same_ids(tmp_path)


# Refusals


def refusal(folder: Path, vocab_size: int | None = None) -> str:
    """The line that refuses a folder's tokenizer."""
    with pytest.raises(UserError) as caught:
        load_hub_tokenizer(folder, vocab_size)
    message = str(caught.value)
    assert message.startswith(str(folder)) and "\n" not in message
    return message.removeprefix(str(folder))


@pytest.mark.parametrize("kind", ["roberta", "camembert", "xlm-roberta", "bert", "distilbert"])
def test_a_missing_file_is_named_with_the_way_to_get_it(kind: str, tmp_path):
    write_json(tmp_path, "config", {"model_type": kind})
    (tmp_path / "sentencepiece.bpe.model").write_bytes(b"\x0a\x05")
    message = refusal(tmp_path)
    assert "tokenizer.json" in message
    assert f"AutoTokenizer.from_pretrained('{tmp_path}').save_pretrained" in message


@pytest.mark.parametrize("missing", ["vocab.json", "merges.txt"])
def test_a_vocab_json_without_merges_is_refused(missing: str, tmp_path):
    write_bpe(tmp_path)
    (tmp_path / missing).unlink()
    assert "neither tokenizer.json nor vocab.json and merges.txt" in refusal(tmp_path)


def test_a_class_with_rules_of_its_own_needs_a_tokenizer_json(tmp_path):
    write_vocab(tmp_path, tokenizer_class="BertJapaneseTokenizer")
    assert "of class BertJapaneseTokenizer needs tokenizer.json" in refusal(tmp_path)


@pytest.mark.parametrize("lacking", ["[CLS]", "[SEP]", "[UNK]"])
def test_a_vocab_txt_without_a_needed_token_is_refused(lacking: str, tmp_path):
    write_vocab(tmp_path, [word for word in WORDS if word != lacking])
    assert f"vocabulary has no {lacking}" in refusal(tmp_path, 1000)


@pytest.mark.parametrize("content", ["", "\n", "good\nfilm\n", "\n".join(WORDS).replace("[", "<")])
def test_an_empty_or_foreign_vocab_txt_is_refused(content: str, tmp_path):
    write_vocab(tmp_path)
    (tmp_path / "vocab.txt").write_text(content, encoding="utf-8")
    assert "vocabulary has no [UNK], [CLS], [SEP]" in refusal(tmp_path)


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
def test_a_vocab_txt_that_is_not_utf_8_is_refused(encoding: str, tmp_path):
    write_vocab(tmp_path)
    (tmp_path / "vocab.txt").write_bytes("\n".join([*WORDS[:5], "schön", "straße"]).encode(encoding))
    assert "it must be in UTF-8, one token per line" in refusal(tmp_path)


@pytest.mark.parametrize("name", ["do_lower_case", "strip_accents", "tokenize_chinese_chars"])
@pytest.mark.parametrize("value", ["false", 0, 1.0, [True], {}])
def test_a_setting_that_is_not_true_or_false_is_refused(name: str, value: object, tmp_path):
    write_vocab(tmp_path, **{name: value})
    assert f"{name} must be true or false (got {value!r})" in refusal(tmp_path)


@pytest.mark.parametrize("name", ["do_lower_case", "tokenize_chinese_chars"])
def test_null_is_refused_where_it_has_no_meaning(name: str, tmp_path):
    write_vocab(tmp_path, **{name: None})
    assert f"{name} must be true or false (got None)" in refusal(tmp_path)


MALFORMED = {
    "tokenizer_config": [
        "", "[]", "{", '{"cls_token": {}}', '{"cls_token": {"content": 5}}', '{"added_tokens_decoder": []}',
        '{"added_tokens_decoder": {"x": {"content": "a"}}}',
        '{"extra_special_tokens": [5]}', '{"extra_special_tokens": 5}', '{"unk_token": "<none>"}',
        '{"added_tokens_decoder": null}', '{"cls_token": {"content": "[CLS]", "lstrip": "yes"}}',
    ],
    "special_tokens_map": ["", "[]", '{"sep_token": {"text": "a"}}', '{"additional_special_tokens": 5}'],
    "added_tokens": ["", "[]", '{"a": "b"}', '{"a": null, "b": 70}'],
    "tokenizer": [
        "", "[]", "{}", "null", '{"model": {}}', '{"model": {"type": "WordPiece", "vocab": 5}}',
        '{"model": {"type": "WordPiece", "vocab": {"a": "b"}}}', '{"model": {"type": "BPE"}}', '{"model": 5}',
        '{"model": {"type": "WordPiece", "vocab": {"a": -1}}}', '{"model": {"type": "WordPiece", "vocab": {}}}',
        '{"model": {"vocab": {"[UNK]": 0, "[CLS]": 1, "[SEP]": 2}}, "added_tokens": [5]}', '{"added_tokens": 5}',
        '{"model": {"vocab": {"[UNK]": 0, "[CLS]": 1, "[SEP]": 2}}, "added_tokens": [{"content": "a"}]}',
    ],
}  # fmt: skip


@pytest.mark.parametrize(("name", "content"), [(name, content) for name in MALFORMED for content in MALFORMED[name]])
def test_a_malformed_file_is_refused(name: str, content: str, tmp_path):
    write_vocab(tmp_path)
    if name == "tokenizer":
        (tmp_path / "vocab.txt").unlink()
    (tmp_path / f"{name}.json").write_text(content)
    refusal(tmp_path)


UNIGRAM_JSON = {"type": "Unigram", "vocab": [["<s>", 0.0], ["<pad>", 0.0], ["</s>", 0.0], ["<unk>", 0.0], ["a", -1.0]]}


@pytest.mark.parametrize(
    "changes",
    [
        {"model": UNIGRAM_JSON | {"vocab": []}},
        {"model": UNIGRAM_JSON | {"vocab": {"a": 1}}},
        {"model": UNIGRAM_JSON | {"vocab": [["a"]]}},
        {"model": UNIGRAM_JSON | {"vocab": [["a", "b"]]}},
        {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "!"}},
        {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"}},
        {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "/////////////w=="}},
        {"normalizer": {"type": "Precompiled", "precompiled_charsmap": 5}},
        {"normalizer": {"normalizers": 5}},
    ],
    ids=str,
)
def test_a_malformed_sentencepiece_model_is_refused(changes: dict, tmp_path):
    write_json(tmp_path, "config", {"model_type": "xlm-roberta"})
    write_json(tmp_path, "tokenizer", {"model": UNIGRAM_JSON} | changes)
    refusal(tmp_path)


def test_a_panic_of_the_tokenizers_library_is_one_line(tmp_path, monkeypatch):
    class PanicException(BaseException):
        """Like that of pyo3, which cannot be imported."""

    def panic(*_: object) -> None:
        raise PanicException("no entry found for key")

    write_vocab(tmp_path)
    monkeypatch.setattr("tokenizers.models.WordPiece.read_file", panic)
    assert "cannot be read as a tokenizer (no entry found for key)" in refusal(tmp_path)


# Ids without an embedding


def test_more_tokens_than_embeddings_are_refused(tmp_path):
    write_vocab(tmp_path)
    assert load_hub_tokenizer(tmp_path, len(WORDS)).get_vocab_size() == len(WORDS)
    assert f"a tokenizer of {len(WORDS)} tokens but an encoder of {len(WORDS) - 1}" in refusal(tmp_path, len(WORDS) - 1)


def test_an_id_beyond_the_embeddings_is_refused_although_the_tokens_are_few(tmp_path):
    write_vocab(tmp_path, [*WORDS, *["twice"] * 9])
    assert f"a tokenizer of {len(WORDS) + 9} tokens" in refusal(tmp_path, len(WORDS) + 1)


def test_a_special_token_without_an_embedding_is_left_out(tmp_path):
    write_vocab(tmp_path, [word for word in WORDS if word not in ("[MASK]", "[PAD]")])
    size = len(WORDS) - 2
    assert load_hub_tokenizer(tmp_path, size).get_vocab_size() == size
    assert load_hub_tokenizer(tmp_path, size + 2).get_vocab_size() == size + 2


# Without an oracle


def test_a_tokenizer_json_is_preferred_to_a_vocab_txt(tmp_path):
    write_vocab(tmp_path)
    load_hub_tokenizer(tmp_path).save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "vocab.txt").write_text("other\n")
    assert load_hub_tokenizer(tmp_path).encode("unhappy schön").tokens == ["[CLS]", "un", "##happy", "schon", "[SEP]"]


def test_a_folder_without_a_config_is_read_by_its_files(tmp_path):
    write_vocab(tmp_path, do_lower_case=False)
    (tmp_path / "config.json").unlink()
    assert load_hub_tokenizer(tmp_path).encode("Happy schön").tokens == ["[CLS]", "Happy", "schön", "[SEP]"]
