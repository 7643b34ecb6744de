"""A checkpoint's folder in the Hub's format: read weights, config and tokenizer, and write them.

Inputs: a folder with `config.json`, weights and tokenizer. Outputs: a model with its weights, and a note on each tensor
that is new or unused; a folder that transformers opens.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from tokenizers import BertWordPieceTokenizer, Tokenizer
from torch import Tensor

from minitext.data.tokenizer import PAD_TOKENS, first_token_id, load_tokenizer
from minitext.models.bert import BertClassifier, BertMaskedLM
from minitext.models.hf_names import FAMILIES, Family, family_of, hub_names, read_config
from minitext.utils.errors import UserError, first_line
from minitext.utils.io import atomic, read_json, write_json, write_text

WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
# buffers of old checkpoints, and the decoder, which is the token embedding
NOT_WEIGHTS = re.compile(r"position_ids$|(cls\.predictions|lm_head)\.decoder\.(weight|bias)$|vocab_projector\.weight$")
# parts of the source's config.json that do not hold for the saved model
NOT_KEPT = {"transformers_version", "_name_or_path", "dtype", "torch_dtype",
            "num_labels", "id2label", "label2id", "problem_type"}  # fmt: skip
Model = BertClassifier | BertMaskedLM
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
def load_weights(model: Model, folder: Path, family: Family, new_output: bool = False) -> tuple[list[str], list[str]]:
    """Copy a checkpoint into `model`; with `new_output`, leave the classes' layer as it is.

    Returns our tensors that the checkpoint lacks, which keep their values, and the checkpoint's unused tensors. Raises
    UserError if a tensor of the encoder is missing, or any tensor but the classes' layer has the wrong shape.
    """
    tensors = {current_name(name, family): tensor for name, tensor in read_weights(folder).items()}
    new, problems, used = [], [], set()
    for ours, parameter in model.state_dict().items():
        names = hub_names(ours, family, isinstance(model, BertMaskedLM))
        parts = dict(zip(names, parameter.chunk(len(names)), strict=True))  # views of the parameter
        shapes = {name: tuple(tensors[name].shape) if name in tensors else "missing" for name in names}
        wrong = [name for name in names if shapes[name] != parts[name].shape]
        absent = "missing" in shapes.values() and not ours.startswith("encoder.")
        if absent or (ours.startswith("output.") and (new_output or wrong)):
            new.append(ours)
        elif wrong:
            problems += [f"{name} is {shapes[name]}, expected {tuple(parts[name].shape)}" for name in wrong]
        else:
            for name, part in parts.items():
                part.copy_(tensors[name])
            used |= set(names)
    if problems:
        raise UserError(f"{folder}: {problems[0]} ({len(problems)} tensors do not fit config.json)")
    return new, sorted(name for name in tensors if name not in used and not NOT_WEIGHTS.search(name))


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
    model = BertClassifier(replace(read_config(config, str(folder)), **changes), len(class_names))
    order = label_order(config, class_names)
    new, unused = load_weights(model, folder, family_of(config, str(folder)), new_output=order is None)
    notes = [f"newly initialized: {', '.join(new)}"] if new else []
    if "output.weight" not in new:
        model.output.load_state_dict({name: tensor[order] for name, tensor in model.output.state_dict().items()})
        notes.insert(0, "classification head of the checkpoint kept")
    if unused:
        notes.append(f"unused: {', '.join(unused[:4])}{f' and {len(unused) - 4} more' if len(unused) > 4 else ''}")
    return model, notes


def label_order(config: Mapping, class_names: Sequence[str]) -> list[int] | None:
    """For each class its row in a checkpoint's head; None if the head has other classes.

    A head without class names (`LABEL_0`, or none at all) fits any classes in their order.
    """
    rows = {str(label).casefold(): str(row) for row, label in (config.get("id2label") or {}).items()}
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
    roles = {token: role for role, tokens in SPECIAL_ROLES.items() for token in reversed(tokens)}
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": model.config.max_length,
        "model_input_names": ["input_ids", "attention_mask"],  # DistilBERT of transformers 4 rejects token types
        **{role: token for token, role in roles.items() if tokenizer.token_to_id(token) is not None},
    }
    write_json(folder / "tokenizer_config.json", settings)


def load_hub_tokenizer(folder: Path, vocab_size: int | None = None) -> Tokenizer:
    """The tokenizer of a checkpoint: its `tokenizer.json`, or BERT's WordPiece with an old repository's `vocab.txt`."""
    if (folder / "tokenizer.json").exists() or not (folder / "vocab.txt").exists():
        tokenizer = load_tokenizer(str(folder))
    else:
        settings = read_json(folder / "tokenizer_config.json") if (folder / "tokenizer_config.json").exists() else {}
        wordpiece = BertWordPieceTokenizer(str(folder / "vocab.txt"), lowercase=settings.get("do_lower_case", True))
        tokenizer = Tokenizer.from_str(wordpiece.to_str())
    size = tokenizer.get_vocab_size()
    if vocab_size is not None and size > vocab_size:
        raise UserError(f"{folder}: has a tokenizer of {size:,} tokens but an encoder of {vocab_size:,}; replace it")
    return tokenizer


def mask_id(tokenizer: Tokenizer) -> int | None:
    """The id of the mask token, if there is one."""
    return first_token_id(tokenizer, SPECIAL_ROLES["mask_token"])
