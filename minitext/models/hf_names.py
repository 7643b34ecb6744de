"""BERT and relatives on the Hugging Face Hub: the names of their settings and tensors.

Inputs: the contents of a Hub `config.json`. Outputs: a `BertConfig`; for each of our tensors its names in a checkpoint.
Each family is one table, so that all of them run on one encoder.
"""

import re
from collections.abc import Mapping
from typing import NamedTuple

from minitext.models.bert import BertConfig
from minitext.utils.errors import UserError

# their module: our module, {} is the layer. Several of theirs for one of ours are joined along the first axis.
EMBEDDINGS = {
    "embeddings.word_embeddings": "encoder.token_embedding",
    "embeddings.position_embeddings": "encoder.position_embedding",
    "embeddings.token_type_embeddings": "encoder.type_embedding",
    "embeddings.LayerNorm": "encoder.norm",
    "embeddings_project": "encoder.project",
}
BERT_ENCODER = EMBEDDINGS | {
    "encoder.layer.{}.attention.self.query": "encoder.layers.{}.attention.qkv",
    "encoder.layer.{}.attention.self.key": "encoder.layers.{}.attention.qkv",
    "encoder.layer.{}.attention.self.value": "encoder.layers.{}.attention.qkv",
    "encoder.layer.{}.attention.output.dense": "encoder.layers.{}.attention.output",
    "encoder.layer.{}.attention.output.LayerNorm": "encoder.layers.{}.attention_norm",
    "encoder.layer.{}.intermediate.dense": "encoder.layers.{}.mlp.up",
    "encoder.layer.{}.output.dense": "encoder.layers.{}.mlp.down",
    "encoder.layer.{}.output.LayerNorm": "encoder.layers.{}.mlp_norm",
}
DISTILBERT_ENCODER = EMBEDDINGS | {
    "transformer.layer.{}.attention.q_lin": "encoder.layers.{}.attention.qkv",
    "transformer.layer.{}.attention.k_lin": "encoder.layers.{}.attention.qkv",
    "transformer.layer.{}.attention.v_lin": "encoder.layers.{}.attention.qkv",
    "transformer.layer.{}.attention.out_lin": "encoder.layers.{}.attention.output",
    "transformer.layer.{}.sa_layer_norm": "encoder.layers.{}.attention_norm",
    "transformer.layer.{}.ffn.lin1": "encoder.layers.{}.mlp.up",
    "transformer.layer.{}.ffn.lin2": "encoder.layers.{}.mlp.down",
    "transformer.layer.{}.output_layer_norm": "encoder.layers.{}.mlp_norm",
}
BERT_HEAD = {"bert.pooler.dense": "dense", "classifier": "output"}
DENSE_HEAD = {"classifier.dense": "dense", "classifier.out_proj": "output"}
DISTILBERT_HEAD = {"pre_classifier": "dense", "classifier": "output"}
MASKED_LM_TRANSFORM = {"cls.predictions.transform.dense": "dense", "cls.predictions.transform.LayerNorm": "norm"}
BERT_MASKED_LM = MASKED_LM_TRANSFORM | {"cls.predictions": ""}
ROBERTA_MASKED_LM = {"lm_head.dense": "dense", "lm_head.layer_norm": "norm", "lm_head": ""}
DISTILBERT_MASKED_LM = {"vocab_transform": "dense", "vocab_layer_norm": "norm", "vocab_projector": ""}
ROBERTA_CONSTANTS = {"dropout_before_head": True, "masked_lm_activation": "gelu"}
DISTILBERT_CONSTANTS = {
    "dropout_after_attention": False,
    "num_token_types": 0,
    "head_activation": "relu",
    "norm_eps": 1e-12,
}
ELECTRA_CONSTANTS = {"dropout_before_head": True, "head_activation": "gelu"}


class Setting(NamedTuple):
    """A value of a `config.json`: its names, its default in transformers, and the allowed range of a number."""

    names: tuple[str, ...]
    default: int | float | str
    low: float = 0
    high: float = 1


MAX_SIZE = 10_000_000  # of one dimension of a tensor; the largest vocabularies of the Hub have about a million rows
MAX_LAYERS = 1000
SETTINGS = {
    "vocab_size": Setting(("vocab_size",), 30522, 1, MAX_SIZE),
    "hidden_size": Setting(("hidden_size",), 768, 1, MAX_SIZE),
    "num_layers": Setting(("num_hidden_layers",), 12, 1, MAX_LAYERS),
    "num_heads": Setting(("num_attention_heads",), 12, 1, MAX_SIZE),
    "intermediate_size": Setting(("intermediate_size",), 3072, 1, MAX_SIZE),
    "max_positions": Setting(("max_position_embeddings",), 512, 1, MAX_SIZE),
    "num_token_types": Setting(("type_vocab_size",), 2, 1, MAX_SIZE),
    "activation": Setting(("hidden_act",), "gelu"),
    "norm_eps": Setting(("layer_norm_eps",), 1e-12),
    "dropout": Setting(("hidden_dropout_prob",), 0.1),
    "attention_dropout": Setting(("attention_probs_dropout_prob",), 0.1),
    "initializer_range": Setting(("initializer_range",), 0.02, 0, 100),
}
ROBERTA_SETTINGS = SETTINGS | {"vocab_size": Setting(("vocab_size",), 50265, 1, MAX_SIZE)}
DISTILBERT_SETTINGS = SETTINGS | {
    "hidden_size": Setting(("dim", "hidden_size"), 768, 1, MAX_SIZE),
    "num_layers": Setting(("n_layers", "num_hidden_layers"), 6, 1, MAX_LAYERS),
    "num_heads": Setting(("n_heads", "num_attention_heads"), 12, 1, MAX_SIZE),
    "intermediate_size": Setting(("hidden_dim",), 3072, 1, MAX_SIZE),
    "activation": Setting(("activation",), "gelu"),
    "dropout": Setting(("dropout",), 0.1),
    "attention_dropout": Setting(("attention_dropout",), 0.1),
    "head_dropout": Setting(("seq_classif_dropout",), 0.2),
}
ELECTRA_SETTINGS = SETTINGS | {
    "hidden_size": Setting(("hidden_size",), 256, 1, MAX_SIZE),
    "num_heads": Setting(("num_attention_heads",), 4, 1, MAX_SIZE),
    "intermediate_size": Setting(("intermediate_size",), 1024, 1, MAX_SIZE),
    "embedding_size": Setting(("embedding_size",), 128, 1, MAX_SIZE),
}
PADDING_ID = Setting(("pad_token_id",), 1, 0, MAX_SIZE)  # RoBERTa's positions begin after it


class Family(NamedTuple):
    """A model type of the Hub."""

    name: str  # in transformers' classes: BertForMaskedLM, BertForSequenceClassification
    prefix: str  # of all encoder names; some checkpoints omit it
    encoder: Mapping[str, str]  # without the prefix
    head: Mapping[str, str]  # classification head
    masked_lm: Mapping[str, str]  # masked-LM head, empty if there is none; "" is the parameter `bias` of BertMaskedLM
    constants: Mapping[str, object]  # of BertConfig, the same for the whole family
    settings: Mapping[str, Setting] = SETTINGS  # of BertConfig, read from config.json


ROBERTA = ("roberta.", BERT_ENCODER, DENSE_HEAD, ROBERTA_MASKED_LM, ROBERTA_CONSTANTS)
DISTILBERT = ("distilbert.", DISTILBERT_ENCODER, DISTILBERT_HEAD, DISTILBERT_MASKED_LM, DISTILBERT_CONSTANTS)
ELECTRA = ("electra.", BERT_ENCODER, DENSE_HEAD, {}, ELECTRA_CONSTANTS)
FAMILIES = {
    "bert": Family("Bert", "bert.", BERT_ENCODER, BERT_HEAD, BERT_MASKED_LM, {}),
    "roberta": Family("Roberta", *ROBERTA, ROBERTA_SETTINGS),  # Liu et al. 2019
    "camembert": Family("Camembert", *ROBERTA),  # the same modules, other texts and tokenizers
    "xlm-roberta": Family("XLMRoberta", *ROBERTA),
    "distilbert": Family("DistilBert", *DISTILBERT, DISTILBERT_SETTINGS),  # Sanh et al. 2019
    "electra": Family("Electra", *ELECTRA, ELECTRA_SETTINGS),  # Clark et al. 2020
}


def family_of(config: Mapping, source: str) -> Family:
    """The family of a Hub `config.json`. Raises UserError for an unsupported model type."""
    kind = config.get("model_type")
    if not isinstance(kind, str) or kind not in FAMILIES:
        raise UserError(f"{source}: unsupported model type {kind!r}; supported: {', '.join(FAMILIES)}")
    if config.get("position_embedding_type", "absolute") != "absolute" or config.get("is_decoder"):
        raise UserError(f"{source}: relative positions and decoders are not supported")
    for name in ("quantization_config", "compression_config"):
        if config.get(name):
            raise UserError(f"{source}: quantized weights ({name}) are not supported; give a checkpoint without")
    return FAMILIES[kind]


def read_config(config: Mapping, source: str) -> BertConfig:
    """A `BertConfig` from the contents of a Hub `config.json`; `source` is named in errors.

    Missing values are the defaults of transformers' configuration classes. Raises UserError for an impossible value.
    """
    family = family_of(config, source)
    settings = {ours: setting for ours, setting in family.settings.items() if ours not in family.constants}
    values = {ours: read_setting(config, setting, source) for ours, setting in settings.items()}
    pad_id = read_setting(config, PADDING_ID, source)
    if family.prefix == "roberta.":
        values["first_position"] = pad_id + 1
        if values["first_position"] >= values["max_positions"]:
            raise UserError(f"{source}: pad_token_id must be less than max_position_embeddings - 1; fix config.json")
    if values.get("embedding_size") == values["hidden_size"]:
        del values["embedding_size"]
    if "head_dropout" not in values:
        default = Setting(("classifier_dropout",), float(values["dropout"]))
        values["head_dropout"] = read_setting(config, default, source)
    try:
        return BertConfig(**{**values, **family.constants})
    except UserError as error:
        raise UserError(f"{source}: {error}") from error


def write_config(config: BertConfig) -> dict[str, object]:
    """The contents of a Hub `config.json` for a new BERT."""
    values = {setting.names[0]: getattr(config, ours) for ours, setting in SETTINGS.items()}
    return {"model_type": "bert", **values, "pad_token_id": 0}


def read_setting(config: Mapping, setting: Setting, source: str) -> object:
    """The value of a setting in a `config.json`; null counts as missing. Raises UserError for another type or range."""
    names, default, low, high = setting
    name, value = next(((name, config[name]) for name in names if config.get(name) is not None), (names[0], default))
    if isinstance(default, str):
        valid, expected = isinstance(value, str), "a name"
    else:
        right_type = type(value) is type(default) or (isinstance(default, float) and type(value) is int)
        valid = right_type and low <= value <= high  # false for NaN
        expected = f"{'an integer' if isinstance(default, int) else 'a number'} from {low:,} to {high:,}"
    if not valid:
        raise UserError(f"{source}: {name} must be {expected} (got {value!r:.60}); fix config.json")
    return value


def hub_names(ours: str, family: Family, masked_lm: bool) -> tuple[str, ...]:
    """The checkpoint's names of one tensor of our `BertClassifier` or `BertMaskedLM`.

    `encoder.layers.3.mlp.up.weight` is `bert.encoder.layer.3.intermediate.dense.weight` in a BERT checkpoint.
    """
    module, _, kind = ours.rpartition(".")
    layer = re.search(r"\d+", module)
    pattern = re.sub(r"\d+", "{}", module)
    names = {family.prefix + theirs: own for theirs, own in family.encoder.items()}
    names |= family.masked_lm if masked_lm else family.head
    return tuple(f"{theirs.format(layer and layer[0])}.{kind}" for theirs, own in names.items() if own == pattern)
