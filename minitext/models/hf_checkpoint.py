"""A checkpoint's folder in the Hub's format, read and written.

In: a folder with `config.json`, weights and tokenizer. Out: an encoder with its weights, every tensor accounted for.
And back: a folder that transformers opens.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from tokenizers import BertWordPieceTokenizer, Tokenizer
from torch import Tensor

from minitext.data.tokenizer import load_tokenizer
from minitext.models.bert import BertClassifier, BertConfig, BertMaskedLM
from minitext.models.hf_names import FAMILIES, Family, family_of, hub_names, read_config
from minitext.utils.errors import UserError, first_line
from minitext.utils.io import atomic, write_text

WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
# buffers of old checkpoints, not weights; the decoder is the token embedding again
IGNORE_INDEX = re.compile(r"(position_ids|cls\.predictions\.decoder\.(weight|bias)|lm_head\.decoder\.(weight|bias)"
                     r"|vocab_projector\.weight)$")  # fmt: skip
GENERIC_LABEL = re.compile(r"LABEL_\d+")
NOT_OURS = {"transformers_version", "_name_or_path", "dtype"}
SPECIAL_ROLES = {
    "unk_token": ("[UNK]", "<unk>"),
    "pad_token": ("[PAD]", "<pad>"),
    "cls_token": ("[CLS]", "<s>"),
    "sep_token": ("[SEP]", "</s>"),
    "mask_token": ("[MASK]", "<mask>"),
}


def mask_id(tokenizer: Tokenizer) -> int | None:
    """The token that hides another one; None where the tokenizer has none."""
    known = map(tokenizer.token_to_id, SPECIAL_ROLES["mask_token"])
    return next((number for number in known if number is not None), None)


def read_json(path: Path) -> dict:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{path.parent}: has no {path.name}; give a folder with a checkpoint, or a Hub id") from error
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error}); fetch the checkpoint again") from error
    if not isinstance(value, dict):
        raise UserError(f"{path}: not a JSON object; fetch the checkpoint again")
    return value


def shards(index: Path) -> list[str]:
    """The files that an index of a sharded checkpoint names."""
    places = read_json(index).get("weight_map")
    names = sorted(set(map(str, places.values()))) if isinstance(places, dict) else []
    outside = [name for name in names if Path(name).name != name or name in ("", "..")]
    if outside or not names:
        raise UserError(f"{index}: names {'files outside its folder' if outside else 'no files'}")
    return names


def read_weights(folder: Path) -> dict[str, Tensor]:
    """All tensors of a checkpoint by their names in it: safetensors, single or sharded, else a legacy `.bin`."""
    found = next((folder / name for name in WEIGHTS if (folder / name).exists()), None)
    if found is None:
        raise UserError(f"{folder}: has no weights ({' or '.join(WEIGHTS[:3:2])})")
    paths = [folder / name for name in shards(found)] if found.suffix == ".json" else [found]
    tensors: dict[str, Tensor] = {}
    for path in paths:
        try:
            tensors |= read_tensors(path)
        except PermissionError:
            raise
        except FileNotFoundError as error:
            raise UserError(f"{path}: missing, though {found.name} names it; fetch the checkpoint again") from error
        except Exception as error:  # torch.load raises whatever its unpickler stumbles over
            raise UserError(f"{path}: damaged ({first_line(error)}); fetch the checkpoint again") from error
    return tensors


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of one file by their names; no code from the file is run."""
    if path.suffix == ".safetensors":
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    tensors = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(tensors, dict) or not all(isinstance(tensor, Tensor) for tensor in tensors.values()):
        raise ValueError("holds other things than tensors by their names")
    return {str(name): tensor for name, tensor in tensors.items()}


def rename(name: str, family: Family) -> str:
    """A checkpoint's name as the family writes it today: old norms' `gamma` and `beta`, and the prefix."""
    name = re.sub(r"\.gamma$", ".weight", re.sub(r"\.beta$", ".bias", name))
    bare = ("embeddings.", "embeddings_project.", "encoder.", "transformer.", "pooler.")
    return family.prefix + name if name.startswith(bare) else name


@torch.no_grad()
def load_weights(
    model: BertClassifier | BertMaskedLM, folder: Path, family: Family, new_output: bool = False
) -> tuple[list[str], list[str]]:
    """Copy a checkpoint into `model`, every tensor accounted for.

    Returns our tensors that keep the values they were drawn with, because the checkpoint lacks them (`new_output`: or
    is not to be asked for the classes' layer), and the checkpoint's tensors that have no place here. Raises UserError
    when a tensor of the encoder is missing, or any but the classes' layer has the wrong shape.
    """
    tensors = {rename(name, family): tensor for name, tensor in read_weights(folder).items()}
    masked_lm = isinstance(model, BertMaskedLM)
    new, missing, wrong, used = [], [], [], set()
    for ours, parameter in model.state_dict().items():
        names = hub_names(ours, family, masked_lm)
        parts = dict(zip(names, parameter.chunk(len(names)), strict=True))  # views
        absent = [name for name in names if name not in tensors]
        if absent and ours.startswith("encoder."):
            missing += absent
            continue
        misfits = [] if absent else [name for name in names if tensors[name].shape != parts[name].shape]
        if absent or (ours.startswith("output.") and (new_output or misfits)):
            new.append(ours)
            continue
        wrong += [f"{name} is {tuple(tensors[name].shape)}, expected {tuple(parts[name].shape)}" for name in misfits]
        if not misfits:
            for name, part in parts.items():
                part.copy_(tensors[name])
            used |= set(names)
    if missing:
        raise UserError(f"{folder}: the encoder's {missing[0]} is missing ({len(missing)} tensors in all)")
    if wrong:
        raise UserError(f"{folder}: {wrong[0]} ({len(wrong)} tensors of the wrong shape)")
    return new, sorted(name for name in tensors if name not in used and not IGNORE_INDEX.search(name))


def load_classifier(
    folder: Path, names: Sequence[str], attention_dropout: float | None = None, dropout: float | None = None
) -> tuple[BertClassifier, list[str]]:
    """A classifier for the classes `names` with a checkpoint's weights, and lines on what is new, kept or left over.

    The dropouts replace those of the checkpoint's config. A head that the checkpoint brings is kept where it has the
    same classes, put into the order of `names`; else a new one is drawn from torch's generator, so seed it first.
    """
    config = read_json(folder / "config.json")
    family = family_of(config, str(folder))
    settings = read_config(config, str(folder))
    if attention_dropout is not None:
        settings = replace(settings, attention_dropout=attention_dropout)
    if dropout is not None:
        settings = replace(settings, dropout=dropout, head_dropout=dropout)
    model = BertClassifier(settings, len(names))
    order = label_order(config, names)
    new, unused = load_weights(model, folder, family, new_output=order is None)
    lines = []
    if "output.weight" not in new:
        model.output.load_state_dict({name: tensor[order] for name, tensor in model.output.state_dict().items()})
        lines.append("the checkpoint's classification head is kept")
    if new:
        lines.append(f"newly drawn: {', '.join(new)}")
    if unused:
        more = f" and {len(unused) - 4} more" if len(unused) > 4 else ""
        lines.append(f"in the checkpoint, not used: {', '.join(unused[:4])}{more}")
    return model, lines


def label_order(config: Mapping, names: Sequence[str]) -> list[int] | None:
    """For each of `names` its row in a checkpoint's head; None where the head is for other classes.

    A head without names (`LABEL_0`, or none at all) fits any classes as they come.
    """
    theirs = {str(label): str(row) for row, label in (config.get("id2label") or {}).items()}
    if all(GENERIC_LABEL.fullmatch(label) for label in theirs):
        return list(range(len(names)))
    rows = {label.casefold(): row for label, row in theirs.items()}
    wanted = [name.casefold() for name in names]
    if sorted(rows) != sorted(wanted) or sorted(rows.values()) != sorted(str(row) for row in range(len(names))):
        return None
    return [int(rows[name]) for name in wanted]


def load_hub_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of a checkpoint: its `tokenizer.json`, or BERT's WordPiece on an old repository's `vocab.txt`."""
    if (folder / "tokenizer.json").exists() or not (folder / "vocab.txt").exists():
        return load_tokenizer(str(folder))
    settings = read_json(folder / "tokenizer_config.json") if (folder / "tokenizer_config.json").exists() else {}
    return BertWordPieceTokenizer(str(folder / "vocab.txt"), lowercase=settings.get("do_lower_case", True))._tokenizer


def check_vocabulary(tokenizer: Tokenizer, config: BertConfig, source: str) -> None:
    """Raises UserError where the tokenizer has ids that the encoder has no row for."""
    if tokenizer.get_vocab_size() > config.vocabulary:
        raise UserError(
            f"{source}: its tokenizer has {tokenizer.get_vocab_size():,} word pieces, its encoder "
            f"{config.vocabulary:,}; the two are not from one checkpoint"
        )


def save_model(
    model: BertClassifier | BertMaskedLM, tokenizer: Tokenizer, folder: Path, source: Mapping, names: Sequence[str] = (),
    **more: object,
) -> None:  # fmt: skip
    """Write a folder that transformers opens: weights in safetensors, config, tokenizer.

    `source` is the `config.json` that the model came from; `names` are the classes; `more` is kept in the config under
    `minitext`, where transformers leaves it alone.
    """
    family = FAMILIES[source["model_type"]]
    masked_lm = isinstance(model, BertMaskedLM)
    tensors: dict[str, Tensor] = {}
    for ours, tensor in model.state_dict().items():
        theirs = hub_names(ours, family, masked_lm)
        tensors |= zip(theirs, (part.contiguous() for part in tensor.cpu().chunk(len(theirs))), strict=True)
    config = {
        **{key: value for key, value in source.items() if key not in NOT_OURS},
        "architectures": [family.masked_lm_architecture if masked_lm else family.architecture],
        "torch_dtype": str(next(iter(tensors.values())).dtype).removeprefix("torch."),
        "minitext": more,
    }
    if names:
        config |= {
            "id2label": {str(row): name for row, name in enumerate(names)},
            "label2id": {name: row for row, name in enumerate(names)},
            "problem_type": "single_label_classification",
        }
    with atomic(folder / "model.safetensors") as temporary:
        save_file(tensors, temporary, metadata={"format": "pt"})
    write_text(folder / "config.json", json.dumps(config, indent=2, ensure_ascii=False) + "\n")
    save_tokenizer(tokenizer, folder, model.config.longest)


def save_tokenizer(tokenizer: Tokenizer, folder: Path, longest: int) -> None:
    """`tokenizer.json`, and the settings by which transformers' AutoTokenizer finds its special tokens."""
    tokenizer.no_padding()
    tokenizer.no_truncation()
    known = {
        role: next((token for token in tokens if tokenizer.token_to_id(token) is not None), None)
        for role, tokens in SPECIAL_ROLES.items()
    }
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": longest,
        "model_input_names": ["input_ids", "attention_mask"],  # DistilBERT of transformers 4 refuses token types
        **{role: token for role, token in known.items() if token},
    }
    write_text(folder / "tokenizer.json", tokenizer.to_str(pretty=True))
    write_text(folder / "tokenizer_config.json", json.dumps(settings, indent=2) + "\n")
