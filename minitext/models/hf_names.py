"""The BERT family as the Hub stores it: what each member calls its settings and its tensors.

In: a Hub `config.json`. Out: a `BertConfig`, and for each of our tensors the names that it has in a checkpoint. A new
member of the family is a row here, not a copy of the encoder.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from minitext.models.bert import BertConfig
from minitext.utils.errors import UserError

BERT_LAYER = {
    "query_key_value": ("attention.self.query", "attention.self.key", "attention.self.value"),
    "attended": ("attention.output.dense",),
    "attention_norm": ("attention.output.LayerNorm",),
    "inner": ("intermediate.dense",),
    "outer": ("output.dense",),
    "norm": ("output.LayerNorm",),
}
DISTILBERT_LAYER = {
    "query_key_value": ("attention.q_lin", "attention.k_lin", "attention.v_lin"),
    "attended": ("attention.out_lin",),
    "attention_norm": ("sa_layer_norm",),
    "inner": ("ffn.lin1",),
    "outer": ("ffn.lin2",),
    "norm": ("output_layer_norm",),
}
EMBEDDINGS = {
    "tokens": "embeddings.word_embeddings",
    "positions": "embeddings.position_embeddings",
    "types": "embeddings.token_type_embeddings",
    "norm": "embeddings.LayerNorm",
    "project": "embeddings_project",
}
DENSE_AND_OUT = {"dense": "classifier.dense", "output": "classifier.out_proj"}
ROBERTA_LM = {"dense": "lm_head.dense", "norm": "lm_head.layer_norm", "bias": "lm_head.bias"}


@dataclass(frozen=True)
class Family:
    """One model type of the Hub."""

    prefix: str  # before every name of the encoder; some checkpoints leave it out
    layer: Mapping[str, tuple[str, ...]]  # our module in a layer: theirs, joined along the first axis where several
    layers: str  # where the layers' list stands
    head: Mapping[str, str]  # our classification head's modules: theirs
    masked_lm: Mapping[str, str] | None  # our MaskedLM's modules: theirs
    architecture: str  # transformers' class with a classification head
    masked_lm_architecture: str | None
    special: Mapping[str, object]  # settings of BertConfig that the config.json does not say


def robertas(name: str) -> Family:
    """RoBERTa (Liu et al. 2019), CamemBERT and XLM-RoBERTa: one shape, other texts and tokenizers."""
    return Family(
        "roberta.", BERT_LAYER, "encoder.layer", DENSE_AND_OUT, ROBERTA_LM,
        f"{name}ForSequenceClassification", f"{name}ForMaskedLM",
        {"head_drops_first": True, "masked_lm_activation": "gelu"},
    )  # fmt: skip


FAMILIES = {
    "bert": Family(
        "bert.", BERT_LAYER, "encoder.layer",
        {"dense": "bert.pooler.dense", "output": "classifier"},
        {"dense": "cls.predictions.transform.dense", "norm": "cls.predictions.transform.LayerNorm",
         "bias": "cls.predictions.bias"},
        "BertForSequenceClassification", "BertForMaskedLM", {},
    ),
    "roberta": robertas("Roberta"),
    "camembert": robertas("Camembert"),
    "xlm-roberta": robertas("XLMRoberta"),
    "distilbert": Family(  # Sanh et al. 2019
        "distilbert.", DISTILBERT_LAYER, "transformer.layer",
        {"dense": "pre_classifier", "output": "classifier"},
        {"dense": "vocab_transform", "norm": "vocab_layer_norm", "bias": "vocab_projector.bias"},
        "DistilBertForSequenceClassification", "DistilBertForMaskedLM", {"types": 0, "head_activation": "relu"},
    ),
    "electra": Family(  # Clark et al. 2020; its discriminators, which have no masked-LM head
        "electra.", BERT_LAYER, "encoder.layer", DENSE_AND_OUT, None,
        "ElectraForSequenceClassification", None, {"head_drops_first": True, "head_activation": "gelu"},
    ),
}  # fmt: skip

# our setting: the names that a config.json may have for it, and its default in transformers
SETTINGS = {
    "vocabulary": (("vocab_size",), 30522),
    "width": (("hidden_size", "dim"), 768),
    "layers": (("num_hidden_layers", "n_layers"), 12),
    "heads": (("num_attention_heads", "n_heads"), 12),
    "inner": (("intermediate_size", "hidden_dim"), 3072),
    "positions": (("max_position_embeddings",), 512),
    "activation": (("hidden_act", "activation"), "gelu"),
    "norm_eps": (("layer_norm_eps",), 1e-12),
    "dropout": (("hidden_dropout_prob", "dropout"), 0.1),
    "attention_dropout": (("attention_probs_dropout_prob", "attention_dropout"), 0.1),
    "init_std": (("initializer_range",), 0.02),
}


def family_of(config: Mapping, source: str) -> Family:
    """Raises UserError, with the list of what is served, for a model type outside the family."""
    kind = config.get("model_type")
    if not isinstance(kind, str) or kind not in FAMILIES:
        raise UserError(f"{source}: model type {kind!r} is not served; served are {', '.join(FAMILIES)}")
    if config.get("position_embedding_type", "absolute") != "absolute" or config.get("is_decoder"):
        raise UserError(f"{source}: relative positions and decoders are not served")
    return FAMILIES[kind]


def read_config(config: Mapping, source: str) -> BertConfig:
    """A `BertConfig` from the contents of a Hub `config.json`; `source` is named in errors."""
    family = family_of(config, source)
    values = {ours: setting(config, names, default, source) for ours, (names, default) in SETTINGS.items()}
    values["types"] = setting(config, ("type_vocab_size",), 2, source)
    if family.prefix == "roberta.":
        values["first_position"] = setting(config, ("pad_token_id",), 1, source) + 1
    embedding = setting(config, ("embedding_size",), values["width"], source)
    values["token_width"] = embedding if embedding != values["width"] else None
    head = setting(config, ("classifier_dropout", "seq_classif_dropout"), float(values["dropout"]), source)
    return BertConfig(**{**values, "head_dropout": head, **family.special})


def setting(config: Mapping, names: Sequence[str], default: object, source: str) -> object:
    """What a `config.json` has under the first of `names` that it uses; a type other than the default's is refused."""
    name, value = next(((name, config[name]) for name in names if config.get(name) is not None), (names[0], default))
    if type(value) is not type(default) and not (isinstance(default, float) and type(value) is int):
        raise UserError(f"{source}: {name} is {value!r}, not {type(default).__name__}")
    return value


def hub_names(ours: str, family: Family, masked_lm: bool) -> tuple[str, ...]:
    """The names in a checkpoint, with the prefix, of one tensor of our `BertClassifier` or `BertMaskedLM`.

    `encoder.layers.3.inner.weight` is `bert.encoder.layer.3.intermediate.dense.weight` in BERT's.
    """
    if ours.startswith("encoder.layers."):
        _, _, number, module, kind = ours.split(".")
        return tuple(f"{family.prefix}{family.layers}.{number}.{theirs}.{kind}" for theirs in family.layer[module])
    if ours.startswith("encoder."):
        _, module, kind = ours.split(".")
        return (f"{family.prefix}{EMBEDDINGS[module]}.{kind}",)
    module, _, kind = ours.partition(".")
    theirs = (family.masked_lm if masked_lm else family.head)[module]
    return (f"{theirs}.{kind}" if kind else theirs,)


def write_config(config: BertConfig) -> dict:
    """The contents of a Hub `config.json` for a new encoder of BERT's own shape."""
    values = {names[0]: getattr(config, ours) for ours, (names, _) in SETTINGS.items()}
    return {"model_type": "bert", **values, "type_vocab_size": config.types, "pad_token_id": 0}
