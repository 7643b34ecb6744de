"""BERT and relatives on the Hugging Face Hub: the names of their settings and tensors.

Inputs: the contents of a Hub `config.json`. Outputs: a `BertConfig`; for each of our tensors its names in a checkpoint.
Each family is one table, so that all of them run on one encoder.
"""

import re
from collections.abc import Mapping, Sequence
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
ROBERTA_SETTINGS = {"dropout_before_head": True, "masked_lm_activation": "gelu"}
DISTILBERT_SETTINGS = {"dropout_after_attention": False, "num_token_types": 0, "head_activation": "relu"}
ELECTRA_SETTINGS = {"dropout_before_head": True, "head_activation": "gelu"}


class Family(NamedTuple):
    """A model type of the Hub."""

    name: str  # in transformers' classes: BertForMaskedLM, BertForSequenceClassification
    prefix: str  # of all encoder names; some checkpoints omit it
    encoder: Mapping[str, str]  # without the prefix
    head: Mapping[str, str]  # classification head
    masked_lm: Mapping[str, str]  # masked-LM head, empty if there is none; "" is the parameter `bias` of BertMaskedLM
    settings: Mapping[str, object]  # of BertConfig, constant within the family


ROBERTA = ("roberta.", BERT_ENCODER, DENSE_HEAD, ROBERTA_MASKED_LM, ROBERTA_SETTINGS)
DISTILBERT = ("distilbert.", DISTILBERT_ENCODER, DISTILBERT_HEAD, DISTILBERT_MASKED_LM, DISTILBERT_SETTINGS)
FAMILIES = {
    "bert": Family("Bert", "bert.", BERT_ENCODER, BERT_HEAD, BERT_MASKED_LM, {}),
    "roberta": Family("Roberta", *ROBERTA),  # Liu et al. 2019
    "camembert": Family("Camembert", *ROBERTA),  # the same modules, other texts and tokenizers
    "xlm-roberta": Family("XLMRoberta", *ROBERTA),
    "distilbert": Family("DistilBert", *DISTILBERT),  # Sanh et al. 2019
    "electra": Family("Electra", "electra.", BERT_ENCODER, DENSE_HEAD, {}, ELECTRA_SETTINGS),  # Clark et al. 2020
}

# our setting: its possible names in a config.json, and its default in transformers
SETTINGS = {
    "vocab_size": (("vocab_size",), 30522),
    "hidden_size": (("hidden_size", "dim"), 768),
    "num_layers": (("num_hidden_layers", "n_layers"), 12),
    "num_heads": (("num_attention_heads", "n_heads"), 12),
    "intermediate_size": (("intermediate_size", "hidden_dim"), 3072),
    "max_positions": (("max_position_embeddings",), 512),
    "num_token_types": (("type_vocab_size",), 2),
    "activation": (("hidden_act", "activation"), "gelu"),
    "norm_eps": (("layer_norm_eps",), 1e-12),
    "dropout": (("hidden_dropout_prob", "dropout"), 0.1),
    "attention_dropout": (("attention_probs_dropout_prob", "attention_dropout"), 0.1),
    "initializer_range": (("initializer_range",), 0.02),
}


def family_of(config: Mapping, source: str) -> Family:
    """The family of a Hub `config.json`. Raises UserError for an unsupported model type."""
    kind = config.get("model_type")
    if not isinstance(kind, str) or kind not in FAMILIES:
        raise UserError(f"{source}: unsupported model type {kind!r}; supported: {', '.join(FAMILIES)}")
    if config.get("position_embedding_type", "absolute") != "absolute" or config.get("is_decoder"):
        raise UserError(f"{source}: relative positions and decoders are not supported")
    return FAMILIES[kind]


def read_config(config: Mapping, source: str) -> BertConfig:
    """A `BertConfig` from the contents of a Hub `config.json`; `source` is named in errors."""
    family = family_of(config, source)
    values = {ours: setting(config, names, default, source) for ours, (names, default) in SETTINGS.items()}
    if family.prefix == "roberta.":
        values["first_position"] = setting(config, ("pad_token_id",), 1, source) + 1
    embedding_size = setting(config, ("embedding_size",), values["hidden_size"], source)
    values["embedding_size"] = embedding_size if embedding_size != values["hidden_size"] else None
    head_dropouts = ("classifier_dropout", "seq_classif_dropout")
    values["head_dropout"] = setting(config, head_dropouts, float(values["dropout"]), source)
    return BertConfig(**{**values, **family.settings})


def write_config(config: BertConfig) -> dict[str, object]:
    """The contents of a Hub `config.json` for a new BERT."""
    values = {names[0]: getattr(config, ours) for ours, (names, _) in SETTINGS.items()}
    return {"model_type": "bert", **values, "pad_token_id": 0}


def setting(config: Mapping, names: Sequence[str], default: object, source: str) -> object:
    """The value of the first of `names` that a `config.json` has. Raises UserError unless its type is the default's."""
    name, value = next(((name, config[name]) for name in names if config.get(name) is not None), (names[0], default))
    if type(value) is not type(default) and not (isinstance(default, float) and type(value) is int):
        raise UserError(f"{source}: {name} must be of type {type(default).__name__} (got {value!r})")
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
