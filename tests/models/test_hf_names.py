"""The settings and tensor names of each family are those of transformers, complete and without extras."""

import math
import re

import pytest
from safetensors import safe_open

from minitext.models.bert import BertClassifier, BertConfig, BertMaskedLM
from minitext.models.hf_names import FAMILIES, hub_names, read_config, write_config
from minitext.utils.errors import UserError

BERT_SETTINGS = {
    "vocab_size": 30, "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 16,
    "max_position_embeddings": 20, "hidden_act": "gelu_new", "layer_norm_eps": 1e-5, "hidden_dropout_prob": 0.2,
    "attention_probs_dropout_prob": 0.3, "initializer_range": 0.5,
}  # fmt: skip
DISTILBERT_SETTINGS = {
    "vocab_size": 30, "dim": 8, "n_layers": 2, "n_heads": 4, "hidden_dim": 16, "max_position_embeddings": 20,
    "activation": "relu", "dropout": 0.2, "attention_dropout": 0.3, "seq_classif_dropout": 0.4,
    "initializer_range": 0.5,
}  # fmt: skip
SHAPE = {
    "vocab_size": 30, "hidden_size": 8, "num_layers": 2, "num_heads": 4, "intermediate_size": 16, "max_positions": 20,
    "activation": "gelu_new", "norm_eps": 1e-5, "dropout": 0.2, "attention_dropout": 0.3, "head_dropout": 0.2,
    "initializer_range": 0.5,
}  # fmt: skip
ROBERTA = {"num_token_types": 1, "first_position": 2, "dropout_before_head": True, "masked_lm_activation": "gelu"}


def config(kind: str, **changes) -> dict:
    """The contents of a `config.json`."""
    return {"model_type": kind, **(DISTILBERT_SETTINGS if kind == "distilbert" else BERT_SETTINGS), **changes}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (config("bert", type_vocab_size=3), {"num_token_types": 3}),
        (config("bert", classifier_dropout=0.4), {"head_dropout": 0.4}),
        (config("bert", classifier_dropout=None), {}),
        (config("roberta", type_vocab_size=1, pad_token_id=1), ROBERTA),
        (config("camembert", type_vocab_size=1, pad_token_id=1), ROBERTA),
        (config("xlm-roberta", type_vocab_size=1, pad_token_id=1), ROBERTA),
        (
            config("distilbert"),
            {
                "dropout_after_attention": False,
                "num_token_types": 0,
                "head_dropout": 0.4,
                "head_activation": "relu",
                "activation": "relu",
                "norm_eps": 1e-12,
            },
        ),
        (
            config("electra", embedding_size=6),
            {"embedding_size": 6, "head_activation": "gelu", "dropout_before_head": True},
        ),
        (config("electra", embedding_size=8), {"head_activation": "gelu", "dropout_before_head": True}),
    ],
)
def test_a_hub_config_is_read(given: dict, expected: dict):
    assert read_config(given, "folder") == BertConfig(**{**SHAPE, **expected})


def test_missing_settings_are_those_of_bert_base():
    assert read_config({"model_type": "bert"}, "folder") == BertConfig(30522)


@pytest.mark.oracle
@pytest.mark.parametrize("kind", FAMILIES)
def test_missing_settings_are_the_defaults_of_transformers(kind: str):
    transformers = pytest.importorskip("transformers")
    theirs, ours = transformers.AutoConfig.for_model(kind), read_config({"model_type": kind}, "folder")
    head = "seq_classif_dropout" if kind == "distilbert" else "classifier_dropout"
    expected = {
        "vocab_size": theirs.vocab_size,
        "hidden_size": theirs.hidden_size,
        "num_layers": theirs.num_hidden_layers,
        "num_heads": theirs.num_attention_heads,
        "intermediate_size": theirs.hidden_dim if kind == "distilbert" else theirs.intermediate_size,
        "max_positions": theirs.max_position_embeddings,
        "num_token_types": getattr(theirs, "type_vocab_size", 0),
        "embedding_size": getattr(theirs, "embedding_size", None),
        "activation": theirs.activation if kind == "distilbert" else theirs.hidden_act,
        "norm_eps": getattr(theirs, "layer_norm_eps", 1e-12),  # DistilBERT's is fixed
        "dropout": theirs.dropout if kind == "distilbert" else theirs.hidden_dropout_prob,
        "attention_dropout": theirs.attention_dropout if kind == "distilbert" else theirs.attention_probs_dropout_prob,
        "initializer_range": theirs.initializer_range,
        "first_position": theirs.pad_token_id + 1 if FAMILIES[kind].prefix == "roberta." else 0,
    }
    assert {name: getattr(ours, name) for name in expected} == expected
    default = 0.1 if getattr(theirs, head) is None else getattr(theirs, head)
    assert ours.head_dropout == default


@pytest.mark.oracle
@pytest.mark.parametrize("kind", FAMILIES)
def test_an_empty_config_gives_the_shapes_of_transformers(kind: str, tmp_path):
    """All sizes at once: the names and shapes of the tensors that transformers makes by default."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    with torch.device("meta"):
        theirs = transformers.AutoModelForSequenceClassification.from_config(transformers.AutoConfig.for_model(kind))
        ours = BertClassifier(read_config({"model_type": kind}, "folder"), 2)
    expected = {name: tuple(tensor.shape) for name, tensor in theirs.state_dict().items()}
    found = {}
    for name, tensor in ours.state_dict().items():
        names = hub_names(name, FAMILIES[kind], masked_lm=False)
        found |= {theirs: tuple(part.shape) for theirs, part in zip(names, tensor.chunk(len(names)), strict=True)}
    assert found == {name: shape for name, shape in expected.items() if not name.endswith(("position_ids", "type_ids"))}


def test_settings_of_other_families_are_not_read():
    bert = {"model_type": "bert", "dropout": 0.5, "n_layers": 3, "embedding_size": 4, "seq_classif_dropout": 0.6}
    assert read_config(bert, "folder") == BertConfig(30522)
    distilbert = {
        "model_type": "distilbert",
        "layer_norm_eps": 1e-3,
        "hidden_dropout_prob": 0.5,
        "classifier_dropout": 0.6,
    }
    assert read_config(distilbert, "folder") == read_config({"model_type": "distilbert"}, "folder")


@pytest.mark.parametrize("kind", ["roberta", "camembert", "xlm-roberta"])
@pytest.mark.parametrize("pad", [0, 1, 5])
def test_the_first_position_of_roberta_follows_its_padding_id(kind: str, pad: int):
    assert read_config(config(kind, pad_token_id=pad), "folder").first_position == pad + 1


@pytest.mark.parametrize("pad", [{}, {"pad_token_id": None}])
def test_the_default_padding_id_of_roberta_is_1(pad: dict):
    assert read_config(config("roberta", **pad), "folder").first_position == 2


def test_a_dropout_may_be_an_integer():
    whole = read_config(config("bert", hidden_dropout_prob=0, attention_probs_dropout_prob=0), "folder")
    assert (whole.dropout, whole.attention_dropout, whole.head_dropout) == (0, 0, 0)
    head_only = read_config(config("bert", hidden_dropout_prob=0, classifier_dropout=0.5), "folder")
    assert (head_only.dropout, head_only.head_dropout) == (0, 0.5)


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [
        ("bert", "vocab_size", "30522"),
        ("bert", "hidden_size", 8.0),
        ("bert", "num_hidden_layers", True),
        ("bert", "hidden_act", 3),
        ("bert", "layer_norm_eps", "1e-12"),
        ("bert", "hidden_dropout_prob", False),
        ("bert", "type_vocab_size", "2"),
        ("bert", "classifier_dropout", "0.1"),
        ("distilbert", "dim", [8]),
        ("distilbert", "seq_classif_dropout", {}),
        ("roberta", "pad_token_id", "1"),
        ("electra", "embedding_size", 6.5),
    ],
)
def test_a_setting_of_the_wrong_type_is_rejected_by_name(kind: str, name: str, value: object):
    expected = f"folder: {name} must be (an integer from|a number from|a name).* \\(got {re.escape(repr(value))}\\)"
    with pytest.raises(UserError, match=expected):
        read_config(config(kind, **{name: value}), "folder")


SIZES = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size",
         "max_position_embeddings", "type_vocab_size")  # fmt: skip
FRACTIONS = ("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout", "layer_norm_eps")


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("value", [-1, 0, 10**12, 10**100, 1e12, math.nan, math.inf, "8", [8], {}, True])
def test_an_impossible_size_is_rejected_by_name(name: str, value: object):
    with pytest.raises(UserError, match=f"folder: {name} must be an integer from 1 to "):
        read_config(config("bert", **{name: value}), "folder")


@pytest.mark.parametrize("name", FRACTIONS)
@pytest.mark.parametrize("value", [-0.1, 2.0, 2, math.nan, math.inf, -math.inf, "0.1", [0.1], {}, True])
def test_an_impossible_fraction_is_rejected_by_name(name: str, value: object):
    with pytest.raises(UserError, match=f"folder: {name} must be a number from 0 to 1 "):
        read_config(config("bert", **{name: value}), "folder")


@pytest.mark.parametrize("value", [-0.02, math.nan, math.inf, 1e6, "0.02", [0.02]])
def test_an_impossible_initializer_range_is_rejected(value: object):
    with pytest.raises(UserError, match="folder: initializer_range must be a number from 0 to 100 "):
        read_config(config("bert", initializer_range=value), "folder")


@pytest.mark.parametrize("kind", FAMILIES)
@pytest.mark.parametrize("value", [-1, 10**12, 1.0, "0", [0]])
def test_an_impossible_padding_id_is_rejected(kind: str, value: object):
    with pytest.raises(UserError, match="folder: pad_token_id must be an integer from 0 to "):
        read_config(config(kind, pad_token_id=value), "folder")


@pytest.mark.parametrize("pad", [18, 19, 20, 5000])
def test_a_padding_id_that_leaves_no_position_is_rejected(pad: int):
    with pytest.raises(UserError, match="pad_token_id must be less than max_position_embeddings - 1"):
        read_config(config("roberta", pad_token_id=pad + 1), "folder")


@pytest.mark.parametrize("name", [*SIZES, *FRACTIONS, "initializer_range", "hidden_act"])
def test_null_is_the_default(name: str):
    given = config("bert", hidden_size=24)
    missing = {key: value for key, value in given.items() if key != name}
    assert read_config(given | {name: None}, "folder") == read_config(missing, "folder")


@pytest.mark.parametrize("name", ["quantization_config", "compression_config"])
@pytest.mark.parametrize("value", [{"quant_method": "gptq", "bits": 4}, {"load_in_8bit": True}, "fp8"])
def test_a_quantized_checkpoint_is_rejected(name: str, value: object):
    with pytest.raises(UserError, match=rf"folder: quantized weights \({name}\) are not supported"):
        read_config(config("bert", **{name: value}), "folder")


@pytest.mark.parametrize(
    ("name", "value"), [("num_attention_heads", 3), ("num_attention_heads", 0), ("hidden_act", "swish")]
)
def test_impossible_settings_are_rejected(name: str, value: object):
    with pytest.raises(UserError, match=str(value)):
        read_config(config("bert", **{name: value}), "folder")


@pytest.mark.parametrize("kind", ["gpt2", None, ["bert"], ""])
def test_an_unsupported_model_type_is_rejected_with_the_supported_ones(kind: object):
    with pytest.raises(
        UserError, match="folder: .*supported: bert, roberta, camembert, xlm-roberta, distilbert, electra"
    ):
        read_config({"model_type": kind}, "folder")


@pytest.mark.parametrize("other", [{"position_embedding_type": "relative_key"}, {"is_decoder": True}])
def test_relative_positions_and_decoders_are_rejected(other: dict):
    with pytest.raises(UserError, match="folder: relative positions and decoders are not supported"):
        read_config(config("bert", **other), "folder")


def test_a_written_config_is_read_back():
    shape = BertConfig(**{**SHAPE, "num_token_types": 1})
    assert read_config(write_config(shape), "folder") == shape


# Names


@pytest.mark.parametrize(
    ("kind", "ours", "theirs"),
    [
        ("bert", "encoder.token_embedding.weight", "bert.embeddings.word_embeddings.weight"),
        ("bert", "encoder.type_embedding.weight", "bert.embeddings.token_type_embeddings.weight"),
        ("bert", "encoder.norm.bias", "bert.embeddings.LayerNorm.bias"),
        ("bert", "encoder.layers.11.mlp.up.bias", "bert.encoder.layer.11.intermediate.dense.bias"),
        ("bert", "dense.weight", "bert.pooler.dense.weight"),
        ("bert", "output.bias", "classifier.bias"),
        ("roberta", "encoder.position_embedding.weight", "roberta.embeddings.position_embeddings.weight"),
        ("roberta", "dense.bias", "classifier.dense.bias"),
        ("camembert", "encoder.layers.0.mlp_norm.weight", "roberta.encoder.layer.0.output.LayerNorm.weight"),
        ("xlm-roberta", "output.weight", "classifier.out_proj.weight"),
        ("distilbert", "encoder.layers.3.attention_norm.bias", "distilbert.transformer.layer.3.sa_layer_norm.bias"),
        ("distilbert", "encoder.layers.3.mlp.down.weight", "distilbert.transformer.layer.3.ffn.lin2.weight"),
        ("distilbert", "dense.weight", "pre_classifier.weight"),
        ("electra", "encoder.project.weight", "electra.embeddings_project.weight"),
        ("electra", "output.weight", "classifier.out_proj.weight"),
    ],
)
def test_the_name_of_a_classifiers_tensor_in_the_checkpoint(kind: str, ours: str, theirs: str):
    assert hub_names(ours, FAMILIES[kind], masked_lm=False) == (theirs,)


def test_queries_keys_and_values_of_the_checkpoint_are_one_tensor():
    assert hub_names("encoder.layers.2.attention.qkv.weight", FAMILIES["bert"], masked_lm=False) == (
        "bert.encoder.layer.2.attention.self.query.weight",
        "bert.encoder.layer.2.attention.self.key.weight",
        "bert.encoder.layer.2.attention.self.value.weight",
    )
    assert hub_names("encoder.layers.2.attention.qkv.bias", FAMILIES["distilbert"], masked_lm=True) == (
        "distilbert.transformer.layer.2.attention.q_lin.bias",
        "distilbert.transformer.layer.2.attention.k_lin.bias",
        "distilbert.transformer.layer.2.attention.v_lin.bias",
    )


@pytest.mark.parametrize(
    ("kind", "ours", "theirs"),
    [
        ("bert", "dense.weight", "cls.predictions.transform.dense.weight"),
        ("bert", "bias", "cls.predictions.bias"),
        ("roberta", "norm.weight", "lm_head.layer_norm.weight"),
        ("camembert", "bias", "lm_head.bias"),
        ("distilbert", "bias", "vocab_projector.bias"),
        ("distilbert", "encoder.token_embedding.weight", "distilbert.embeddings.word_embeddings.weight"),
    ],
)
def test_the_name_of_a_masked_language_models_tensor_in_the_checkpoint(kind: str, ours: str, theirs: str):
    assert hub_names(ours, FAMILIES[kind], masked_lm=True) == (theirs,)


def names_of(model: BertClassifier | BertMaskedLM, kind: str) -> list[str]:
    """Sorted, duplicates included."""
    masked_lm = isinstance(model, BertMaskedLM)
    return sorted(name for ours in model.state_dict() for name in hub_names(ours, FAMILIES[kind], masked_lm))


def names_that_transformers_saves(architecture: str, given: dict, folder) -> list[str]:
    transformers = pytest.importorskip("transformers")
    settings = transformers.AutoConfig.for_model(**given, num_labels=3)
    getattr(transformers, architecture)(settings).save_pretrained(folder)
    with safe_open(folder / "model.safetensors", "pt") as file:
        return sorted(file.keys())


@pytest.mark.oracle
@pytest.mark.parametrize("kind", FAMILIES)
def test_the_names_of_a_classifier_are_exactly_those_of_transformers(kind: str, tmp_path):
    given = config(kind, embedding_size=6) if kind == "electra" else config(kind)
    expected = names_that_transformers_saves(f"{FAMILIES[kind].name}ForSequenceClassification", given, tmp_path)
    assert names_of(BertClassifier(read_config(given, "here"), 3), kind) == expected


@pytest.mark.oracle
@pytest.mark.parametrize("kind", [kind for kind in FAMILIES if FAMILIES[kind].masked_lm])
def test_the_names_of_a_masked_language_model_are_exactly_those_of_transformers(kind: str, tmp_path):
    expected = names_that_transformers_saves(f"{FAMILIES[kind].name}ForMaskedLM", config(kind), tmp_path)
    tied = {"cls.predictions.decoder.weight", "cls.predictions.decoder.bias", "lm_head.decoder.weight",
            "lm_head.decoder.bias", "vocab_projector.weight"}  # fmt: skip
    assert names_of(BertMaskedLM(read_config(config(kind), "here")), kind) == [
        name for name in expected if name not in tied
    ]
