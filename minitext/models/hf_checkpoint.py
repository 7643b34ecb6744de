"""A checkpoint's folder in the Hub's format: read weights and config, and write them with the tokenizer.

Inputs: a folder with `config.json` and weights. Outputs: a model with its weights, and a note on each tensor that is
new or unused; a folder that transformers opens.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor

from minitext.data.tokenizer import PAD_TOKENS, first_token_id, special_ids
from minitext.models.bert import BertClassifier, BertMaskedLM
from minitext.models.hf_names import FAMILIES, Family, family_of, hub_names, read_config
from minitext.utils.errors import UserError, first_line
from minitext.utils.io import atomic, read_json, write_json, write_text

WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
# buffers of old checkpoints, and the decoder, which is the token embedding
NOT_WEIGHTS = re.compile(r"position_ids$|(cls\.predictions|lm_head)\.decoder\.(weight|bias)$|vocab_projector\.weight$")
# beside the weights of bitsandbytes, GPTQ, AWQ, fp8, compressed-tensors and torch, which are no numbers on their own
QUANTIZED = re.compile(
    r"\.(SCB|weight_format|(nested_)?(absmax|quant_map)|quant_state\..*|qweight|qzeros|g_idx|scales|input_scale|"
    r"weight_(packed|scale|scale_inv|zero_point)|_packed_params.*)$"
)
FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
UNQUANTIZED = "give a checkpoint in float32, float16 or bfloat16"
# parts of the source's config.json that do not hold for the saved model
NOT_KEPT = {"transformers_version", "_name_or_path", "dtype", "torch_dtype", "auto_map",
            "num_labels", "id2label", "label2id", "problem_type"}  # fmt: skip
Model = TypeVar("Model", BertClassifier, BertMaskedLM)
SPECIAL_ROLES = {
    "unk_token": ("[UNK]", "<unk>"),
    "pad_token": PAD_TOKENS,
    "cls_token": ("[CLS]", "<s>"),
    "sep_token": ("[SEP]", "</s>"),
    "mask_token": ("[MASK]", "<mask>"),
}


def read_weights(folder: Path) -> dict[str, Tensor]:
    """All tensors of a checkpoint by name: safetensors, single or sharded, else a legacy `.bin`."""
    found = next((folder / name for name in WEIGHTS if (folder / name).exists()), None)
    if found is None:
        raise UserError(f"{folder}: has no weights ({' or '.join(WEIGHTS[:3:2])})")
    weight_map = read_json(found).get("weight_map") if found.suffix == ".json" else {"": found.name}
    if not weight_map or not isinstance(weight_map, dict):
        raise UserError(f"{found}: lists no files; download the checkpoint again")
    tensors: dict[str, Tensor] = {}
    for path in sorted({folder / Path(str(name)).name for name in weight_map.values()}):  # in `folder` alone
        try:
            tensors |= read_tensors(path)
        except Exception as error:  # torch.load raises whatever its unpickler meets
            if isinstance(error, PermissionError):
                raise
            raise UserError(f"{path}: missing or corrupt ({first_line(error)}); download it again") from error
    return tensors


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of one file by name; no code from the file is run."""
    if path.suffix == ".safetensors":
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    tensors = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(tensors, dict) or not all(isinstance(tensor, Tensor) for tensor in tensors.values()):
        raise ValueError("expected a dictionary of tensors")
    return {str(name): tensor for name, tensor in tensors.items()}


def current_name(name: str, family: Family) -> str:
    """A checkpoint's name as transformers writes it today: norms had `gamma` and `beta`, the prefix may be missing."""
    name = re.sub(r"\.gamma$", ".weight", re.sub(r"\.beta$", ".bias", name))
    bare = ("embeddings.", "embeddings_project.", "encoder.", "transformer.", "pooler.")
    return family.prefix + name if name.startswith(bare) else name


@torch.no_grad()
def load_model(
    new_model: Callable[[], Model], folder: Path, family: Family, new_output: bool = False
) -> tuple[Model, list[str], list[str]]:
    """Build a model and copy a checkpoint into it; with `new_output`, leave the classes' layer as it is.

    Returns the model, its tensors that the checkpoint lacks, which are newly initialized, and the checkpoint's unused
    tensors. Raises UserError if weights do not fit; this is found out before the model gets memory.
    """
    tensors = {current_name(name, family): tensor for name, tensor in read_weights(folder).items()}
    with torch.device("meta"):  # shapes without memory
        sources = match_tensors(new_model(), tensors, folder, family, new_output)
    model = new_model()
    parameters = model.state_dict()
    for ours, names in sources.items():
        for name, part in zip(names, parameters[ours].chunk(len(names)), strict=True):
            part.copy_(tensors[name])  # a view of the parameter
    used = {name for names in sources.values() for name in names}
    unused = sorted(name for name in tensors if name not in used and not NOT_WEIGHTS.search(name))
    return model, [ours for ours in parameters if ours not in sources], unused


def match_tensors(
    model: Model, tensors: Mapping[str, Tensor], folder: Path, family: Family, new_output: bool
) -> dict[str, tuple[str, ...]]:
    """For each of our tensors that a checkpoint has its names there.

    Raises UserError if a tensor of the encoder is missing, any tensor but the classes' layer has the wrong shape, or
    the weights are quantized.
    """
    sources, problems = {}, []
    for ours, parameter in model.state_dict().items():
        names = hub_names(ours, family, isinstance(model, BertMaskedLM))
        expected = dict(zip(names, (tuple(part.shape) for part in parameter.chunk(len(names))), strict=True))
        shapes = {name: tuple(tensors[name].shape) if name in tensors else "missing" for name in names}
        wrong = [name for name in names if shapes[name] != expected[name]]
        absent = "missing" in shapes.values() and not ours.startswith("encoder.")
        if not (absent or (ours.startswith("output.") and (new_output or wrong))):
            problems += [f"{name} is {shapes[name]}, expected {expected[name]}" for name in wrong]
            sources[ours] = names
    used = [name for names in sources.values() for name in names if name in tensors]
    quantized = [name for name in tensors if QUANTIZED.search(name)]
    quantized += [f"{name}, {tensors[name].dtype}" for name in used if tensors[name].dtype not in FLOATS]
    if quantized:
        raise UserError(f"{folder}: quantized weights ({quantized[0]}) are not supported; {UNQUANTIZED}")
    if problems:
        raise UserError(f"{folder}: {problems[0]} ({len(problems)} tensors do not fit config.json)")
    return sources


def load_classifier(
    folder: Path, class_names: Sequence[str], attention_dropout: float | None = None, dropout: float | None = None
) -> tuple[BertClassifier, list[str]]:
    """A classifier with the weights of a checkpoint, and notes on newly initialized and unused tensors.

    The checkpoint's head is kept if it has the same classes, and put into the order of `class_names`. Otherwise it is
    initialized from torch's global generator, so seed it first. The dropouts replace those of the checkpoint.
    """
    config = read_json(folder / "config.json")
    changes = {"attention_dropout": attention_dropout, "dropout": dropout, "head_dropout": dropout}
    changes = {name: value for name, value in changes.items() if value is not None}
    family, bert_config = family_of(config, str(folder)), replace(read_config(config, str(folder)), **changes)
    order = label_order(config, class_names, str(folder))
    new_model = partial(BertClassifier, bert_config, len(class_names))
    model, new, unused = load_model(new_model, folder, family, new_output=order is None)
    notes = [f"newly initialized: {', '.join(new)}"] if new else []
    if "output.weight" not in new:
        model.output.load_state_dict({name: tensor[order] for name, tensor in model.output.state_dict().items()})
        notes.insert(0, "classification head of the checkpoint kept")
    if unused:
        notes.append(f"unused: {', '.join(unused[:4])}{f' and {len(unused) - 4} more' if len(unused) > 4 else ''}")
    return model, notes


def label_order(config: Mapping, class_names: Sequence[str], source: str) -> list[int] | None:
    """For each class its row in a checkpoint's head; None if the head has other classes.

    A head without class names (`LABEL_0`, or none at all) fits any classes in their order. A head to which `id2label`
    and `label2id` give different orders fits none. Raises UserError if one of the two is not a mapping.
    """
    labels, numbers = config.get("id2label") or {}, config.get("label2id") or {}
    if not isinstance(labels, dict) or not isinstance(numbers, dict):
        wrong = "label2id" if isinstance(labels, dict) else "id2label"
        raise UserError(f"{source}: {wrong} must be a JSON object (got {config[wrong]!r:.60}); fix config.json")
    rows = {str(label).casefold(): str(row) for row, label in labels.items()}
    if any(rows.get(name.casefold(), str(row)) != str(row) for name, row in numbers.items()):
        return None
    expected = [str(row) for row in range(len(class_names))]
    if all(re.fullmatch(r"label_\d+", label) for label in rows):
        return list(map(int, expected))
    order = [rows.get(name.casefold(), "") for name in class_names]
    return list(map(int, order)) if len(rows) == len(order) and sorted(order) == sorted(expected) else None


def save_model(
    model: Model,
    tokenizer: Tokenizer,
    folder: Path,
    source: Mapping,
    class_names: Sequence[str] = (),
    **more: object,
) -> None:
    """Write a folder that transformers opens. `source` is the `config.json` that the model came from."""
    family = FAMILIES[source["model_type"]]
    masked_lm, tensors = isinstance(model, BertMaskedLM), {}
    for ours, tensor in model.state_dict().items():
        names = hub_names(ours, family, masked_lm)
        tensors |= zip(names, (part.contiguous() for part in tensor.cpu().chunk(len(names))), strict=True)
    config = {key: value for key, value in source.items() if key not in NOT_KEPT} | {
        "architectures": [f"{family.name}For{'MaskedLM' if masked_lm else 'SequenceClassification'}"],
        "torch_dtype": str(next(iter(tensors.values())).dtype).removeprefix("torch."),
        "minitext": more,
    }
    if class_names:
        config["id2label"] = dict(enumerate(class_names))
        config["label2id"] = {name: row for row, name in enumerate(class_names)}
        config["problem_type"] = "single_label_classification"
    with atomic(folder / "model.safetensors") as temporary:
        save_file(tensors, temporary, metadata={"format": "pt"})
    write_json(folder / "config.json", config)
    write_text(folder / "tokenizer.json", tokenizer.to_str(pretty=True))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": model.config.max_length,
        "model_input_names": ["input_ids", "attention_mask"],  # DistilBERT of transformers 4 rejects token types
        **special_roles(tokenizer, source.get("pad_token_id")),
    }
    write_json(folder / "tokenizer_config.json", settings)


def special_roles(tokenizer: Tokenizer, pad_id: int | None) -> dict[str, str]:
    """The special tokens by role, as `tokenizer_config.json` names them. `pad_id` is used where no name is known."""
    vocabulary = tokenizer.get_vocab()
    known = {role: [token for token in tokens if token in vocabulary] for role, tokens in SPECIAL_ROLES.items()}
    roles = {role: tokens[0] for role, tokens in known.items() if tokens}
    if pad_id is not None and (pad := tokenizer.id_to_token(pad_id)):
        roles = {"pad_token": pad} | roles
    before, after = special_ids(tokenizer)
    ends = {"cls_token": before[:1], "sep_token": after[-1:]}
    return roles | {role: tokenizer.id_to_token(row) for role, ids in ends.items() for row in ids}


def mask_id(tokenizer: Tokenizer) -> int | None:
    """The id of the mask token, if there is one."""
    return first_token_id(tokenizer, SPECIAL_ROLES["mask_token"])
