"""A checkpoint's tokenizer, from all files that transformers writes or has written.

Inputs: a folder with `tokenizer.json`, `vocab.txt`, or `vocab.json` and `merges.txt`, and with settings beside them in
`tokenizer_config.json`, `special_tokens_map.json` and `added_tokens.json`.
Outputs: a tokenizer with the token ids of `AutoTokenizer.from_pretrained` in transformers 5, where the settings of
`tokenizer_config.json` replace those in `tokenizer.json`.
"""

import base64
from collections.abc import Mapping
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from minitext.data.tokenizer import load_tokenizer, tokenizer_errors
from minitext.utils.errors import UserError
from minitext.utils.io import read_json

BERT_TOKENS = {
    "unk_token": "[UNK]", "sep_token": "[SEP]", "pad_token": "[PAD]", "cls_token": "[CLS]", "mask_token": "[MASK]",
}  # fmt: skip
ROBERTA_TOKENS = {
    "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "sep_token": "</s>", "pad_token": "<pad>",
    "cls_token": "<s>", "mask_token": "<mask>",
}  # fmt: skip
CAMEMBERT_TOKENS = ROBERTA_TOKENS | {"mask_token": {"content": "<mask>", "lstrip": True}}
# tokenizer classes of transformers: the model in `tokenizers`, and the roles and names of their special tokens
CLASSES = {
    "BertTokenizer": ("WordPiece", BERT_TOKENS),
    "DistilBertTokenizer": ("WordPiece", BERT_TOKENS),
    "ElectraTokenizer": ("WordPiece", BERT_TOKENS),
    "RobertaTokenizer": ("BPE", ROBERTA_TOKENS),
    "CamembertTokenizer": ("Unigram", CAMEMBERT_TOKENS),
    "XLMRobertaTokenizer": ("Unigram", ROBERTA_TOKENS),
}
DEFAULT_CLASSES = {
    "bert": "BertTokenizer", "distilbert": "BertTokenizer", "electra": "BertTokenizer", "roberta": "RobertaTokenizer",
    "camembert": "CamembertTokenizer", "xlm-roberta": "XLMRobertaTokenizer",
}  # fmt: skip
SAVE = "AutoTokenizer.from_pretrained('{0}').save_pretrained('{0}') of transformers writes it"
AddedTokens = dict[int, AddedToken]


def load_hub_tokenizer(folder: Path, vocab_size: int | None = None) -> Tokenizer:
    """The tokenizer of a checkpoint. `vocab_size` is the number of rows of its encoder's token embedding.

    Raises UserError if files are missing or corrupt, a setting has the wrong type, or an id has no embedding.
    """
    settings = read_optional(folder / "tokenizer_config.json")
    file = read_optional(folder / "tokenizer.json")
    name = class_name(folder, settings)
    model, roles = CLASSES.get(name, (None, {}))
    with tokenizer_errors(str(folder), "download it again"):
        added, special = added_tokens(folder, settings, file, roles)
        as_it_is = bool(file) and (model is None or file["model"].get("type", model) != model)
        tokenizer = load_tokenizer(str(folder)) if as_it_is else build(folder, name, settings, file, special)
        if not as_it_is:
            check_needed(tokenizer, model, added, special, folder)
        add_tokens(tokenizer, added, special, vocab_size)
        if not as_it_is:
            add_ends(tokenizer, model, special)
    size = max(tokenizer.get_vocab().values(), default=0) + 1
    if vocab_size is not None and size > vocab_size:
        raise UserError(f"{folder}: has a tokenizer of {size:,} tokens but an encoder of {vocab_size:,}; replace it")
    return tokenizer


def read_optional(path: Path) -> dict:
    """The JSON object in a file; empty if there is no such file."""
    return read_json(path) if path.exists() else {}


def class_name(folder: Path, settings: Mapping) -> str:
    """The tokenizer class of transformers, without `Fast`; empty for a tokenizer that is used as it is."""
    config = read_optional(folder / "config.json")
    default = DEFAULT_CLASSES.get(str(config.get("model_type")), "")
    if not default and not (folder / "tokenizer.json").exists() and (folder / "vocab.txt").exists():
        default = "BertTokenizer"
    name = str(settings.get("tokenizer_class") or config.get("tokenizer_class") or default).removesuffix("Fast")
    return "" if name in ("PreTrainedTokenizer", "TokenizersBackend") else name


def added_tokens(
    folder: Path, settings: Mapping, file: Mapping, roles: Mapping[str, str]
) -> tuple[AddedTokens, dict[str, AddedToken]]:
    """Added tokens by id, and special tokens by role: `roles` and what the settings say."""
    named = {role: value for role, value in settings.items() if role.endswith("_token") and value is not None}
    extra = settings.get("extra_special_tokens") or settings.get("additional_special_tokens") or []
    added: AddedTokens = {}
    if "added_tokens_decoder" in settings:
        added = {int(index): to_token(token) for index, token in settings["added_tokens_decoder"].items()}
    else:  # files of transformers 4 and earlier
        special_map = read_optional(folder / "special_tokens_map.json")
        extra = special_map.pop("additional_special_tokens", None) or extra
        named |= {role: value for role, value in special_map.items() if role.endswith("_token") and value is not None}
        declared = {to_token(token).content for token in (*named.values(), *extra)}
        for content, index in read_optional(folder / "added_tokens.json").items():
            is_special = content in declared
            added[int(index)] = AddedToken(content, normalized=not is_special, special=is_special)
        added |= {token["id"]: to_token(token) for token in file.get("added_tokens") or []}
    by_content = {token.content: token for token in added.values()}
    special = {role: to_token(value) for role, value in (roles | named).items() if isinstance(value, str | dict)}
    special = {role: by_content.get(token.content, token) for role, token in special.items()}
    values = extra.values() if isinstance(extra, dict) else extra
    return added, special | {f"extra {number}": to_token(value) for number, value in enumerate(values)}


def to_token(value: str | Mapping) -> AddedToken:
    """A token that is given as a string, which is special, or as a dictionary with its content."""
    if isinstance(value, str):
        return AddedToken(value, special=True)
    flags = ("single_word", "lstrip", "rstrip", "normalized", "special")
    return AddedToken(value["content"], **({"special": True} | {name: value[name] for name in flags if name in value}))


def add_tokens(
    tokenizer: Tokenizer, added: AddedTokens, special: Mapping[str, AddedToken], vocab_size: int | None
) -> None:
    """Add tokens in the order of their ids, then special tokens that the tokenizer lacks.

    A special token without an embedding is left out: transformers adds it and fails on a text that has it.
    """
    tokenizer.add_tokens([added[index] for index in sorted(added)])
    present = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
    for token in special.values():
        has_row = tokenizer.token_to_id(token.content) is not None
        if token.content not in present and (has_row or vocab_size is None or tokenizer.get_vocab_size() < vocab_size):
            tokenizer.add_tokens([token])


def build(folder: Path, name: str, settings: Mapping, file: Mapping, special: Mapping[str, AddedToken]) -> Tokenizer:
    """The tokenizer of a class from its vocabulary and settings, as the class makes it in transformers."""
    kind = CLASSES[name][0] if name in CLASSES else None
    flag = {key: read_flag(settings, key, folder) for key in FLAGS}
    if kind == "WordPiece":
        tokenizer = Tokenizer(models.WordPiece(wordpiece_vocab(folder, file), unk_token=special["unk_token"].content))
        lower, accents, chinese = (flag[key] for key in ("do_lower_case", "strip_accents", "tokenize_chinese_chars"))
        tokenizer.normalizer = normalizers.BertNormalizer(True, chinese, accents, lower)
        tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.BertPreTokenizer(), decoders.WordPiece()
    elif kind == "BPE":
        tokenizer = Tokenizer(models.BPE(*bpe_vocab(folder, file), continuing_subword_prefix="", end_of_word_suffix=""))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=bool(flag["add_prefix_space"]))
        tokenizer.decoder = decoders.ByteLevel()
    elif kind == "Unigram" and file:
        tokenizer = Tokenizer(unigram(file["model"]["vocab"], name, special["unk_token"].content))
        if charsmap := precompiled(file.get("normalizer") or {}):
            tokenizer.normalizer = normalizers.Precompiled(base64.b64decode(charsmap))
        prepend = "never" if flag["add_prefix_space"] is False else "always"
        metaspace = pre_tokenizers.Metaspace(prepend_scheme=prepend)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), metaspace])
        tokenizer.decoder = decoders.Metaspace(prepend_scheme=prepend)
    else:
        what = f"of class {name} needs" if name else "needs"
        raise UserError(f"{folder}: its tokenizer {what} tokenizer.json; {SAVE.format(folder)}")
    return tokenizer


def end_roles(model: str) -> tuple[str, str]:
    """The roles of the tokens before and after a text."""
    return ("bos_token", "eos_token") if model == "Unigram" else ("cls_token", "sep_token")


def check_needed(
    tokenizer: Tokenizer, model: str, added: AddedTokens, special: Mapping[str, AddedToken], folder: Path
) -> None:
    """Raise UserError if the vocabulary lacks a token of every text; transformers would add an untrained one."""
    roles = end_roles(model) if model == "BPE" else ("unk_token", *end_roles(model))  # bytes are never unknown
    known = {*tokenizer.get_vocab(), *(token.content for token in added.values())}
    if missing := [special[role].content for role in roles if special[role].content not in known]:
        raise UserError(f"{folder}: the tokenizer's vocabulary has no {', '.join(missing)}; download it again")


def add_ends(tokenizer: Tokenizer, model: str, special: Mapping[str, AddedToken]) -> None:
    """Make the tokenizer add a token before and after each text."""
    first, last = ((special[role].content, tokenizer.token_to_id(special[role].content)) for role in end_roles(model))
    if model == "BPE":
        tokenizer.post_processor = processors.RobertaProcessing(last, first)
    else:
        template = [first[0], "$A", last[0]]
        tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=[first, last])


FLAGS = {  # of tokenizer_config.json: the default, and whether null is allowed
    "do_lower_case": (True, False),
    "strip_accents": (None, True),  # null: as do_lower_case
    "tokenize_chinese_chars": (True, False),
    "add_prefix_space": (None, True),  # null: the default of the class
}


def read_flag(settings: Mapping, name: str, folder: Path) -> bool | None:
    """A true or false setting of a `tokenizer_config.json`."""
    default, nullable = FLAGS[name]
    value = settings.get(name, default)
    if not isinstance(value, bool) and not (value is None and nullable):
        raise UserError(f"{folder / 'tokenizer_config.json'}: {name} must be true or false (got {value!r:.60})")
    return value


def wordpiece_vocab(folder: Path, file: Mapping) -> dict[str, int]:
    """The vocabulary of `tokenizer.json` or `vocab.txt`."""
    path = folder / "vocab.txt"
    if file:
        return file["model"]["vocab"]
    if not path.exists():
        raise UserError(f"{folder}: has neither tokenizer.json nor vocab.txt; {SAVE.format(folder)}")
    with tokenizer_errors(str(path), "it must be in UTF-8, one token per line"):
        return models.WordPiece.read_file(str(path))


def bpe_vocab(folder: Path, file: Mapping) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """The vocabulary and merges of `tokenizer.json`, or of `vocab.json` and `merges.txt`."""
    if file:
        merges = [merge.split(" ") if isinstance(merge, str) else merge for merge in file["model"]["merges"]]
        return file["model"]["vocab"], [(first, second) for first, second in merges]
    paths = folder / "vocab.json", folder / "merges.txt"
    if not all(path.exists() for path in paths):
        raise UserError(f"{folder}: has neither tokenizer.json nor vocab.json and merges.txt; {SAVE.format(folder)}")
    with tokenizer_errors(f"{paths[0]} with merges.txt", "download them again"):
        return models.BPE.read_file(*map(str, paths))


def unigram(vocab: list, name: str, unknown: str) -> models.Unigram:
    """A Unigram model. XLM-RoBERTa's unknown token has the id 3, CamemBERT's is looked up."""
    pieces = [(piece, score) for piece, score in vocab]
    found = next((index for index, (piece, _) in enumerate(pieces) if piece == unknown), 0)
    return models.Unigram(pieces, found if name == "CamembertTokenizer" else 3, byte_fallback=False)


def precompiled(normalizer: Mapping) -> str | None:
    """The character map of SentencePiece in a normalizer of `tokenizer.json`, in base64."""
    parts = normalizer.get("normalizers", [normalizer])
    return next((part["precompiled_charsmap"] for part in parts if part.get("type") == "Precompiled"), None)
