"""Checkpoint folders with damaged files and odd values either work or are refused in one line."""

import json
import math
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_hf_checkpoint import saved
from test_hf_tokenizer import WORDS, write_bpe, write_vocab

from minitext.data.tokenizer import encode
from minitext.models.hf_checkpoint import load_classifier
from minitext.models.hf_tokenizer import load_hub_tokenizer
from minitext.utils.errors import UserError

VALUES = [
    None, True, False, 0, -1, 1, 2, 10**12, 10**400, 1e308, -0.5, 2.0, math.nan, math.inf, "", "x", "[CLS]", "a b",
    "$A", "\ud800", [], [1], ["a"], {}, {"content": "[CLS]"}, {"content": 1}, {"a": 1}, [["a", 1.0]], "BPE", "Unigram",
]  # fmt: skip
TEXTS = ["good film [MASK] x", "", "数据 schön"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> list[Path]:
    """Whole checkpoints: two families as minitext saves them, old tokenizer files, and RoBERTa's."""
    made = [tmp_path_factory.mktemp(name) for name in ("bert", "electra", "old", "roberta")]
    for folder, kind in zip(made, ("bert", "electra", "bert", "roberta"), strict=True):
        saved(folder, kind)
    for folder in made[2:]:
        config = (folder / "config.json").read_bytes()
        (folder / "tokenizer.json").unlink()
        (folder / "tokenizer_config.json").unlink()
        if folder is made[2]:
            write_vocab(folder, WORDS[:36], do_lower_case=False, tokenizer_class="BertTokenizer", mask_token="[MASK]")
            (folder / "added_tokens.json").write_text('{"@user": 36}')
            (folder / "special_tokens_map.json").write_text('{"cls_token": {"content": "[CLS]", "lstrip": true}}')
        else:
            write_bpe(folder, add_prefix_space=True)
        (folder / "config.json").write_bytes(config)
    return made


def damage_bytes(path: Path, data: st.DataObject) -> None:
    """Cut a file, or change some of its bytes."""
    content = bytearray(path.read_bytes())
    if data.draw(st.booleans(), "cut"):
        content = content[: data.draw(st.integers(0, len(content)), "length")]
    for _ in range(data.draw(st.integers(0, 4), "changes") if content else 0):
        content[data.draw(st.integers(0, len(content) - 1), "index")] = data.draw(st.integers(0, 255), "byte")
    path.write_bytes(bytes(content))


def change_value(path: Path, data: st.DataObject) -> None:
    """Replace, remove or add one value of a JSON file, at any depth."""
    value = json.loads(path.read_text(encoding="utf-8"))
    parent = value
    while True:
        keys = sorted(parent)[:60] if isinstance(parent, dict) else list(range(min(len(parent), 20)))
        key = data.draw(st.sampled_from(keys), "key")
        if not parent[key] or not isinstance(parent[key], dict | list) or data.draw(st.booleans(), "stop"):
            break
        parent = parent[key]
    if data.draw(st.booleans(), "remove"):
        del parent[key]
    else:
        parent[key] = data.draw(st.sampled_from(VALUES), "value")
    path.write_text(json.dumps(value), encoding="utf-8")


@pytest.mark.slow
@settings(max_examples=800, deadline=10_000, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_checkpoint_works_or_is_refused_in_one_line(data: st.DataObject, folders, tmp_path):
    for old in tmp_path.iterdir():
        old.unlink()
    for path in data.draw(st.sampled_from(folders), "folder").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    path = data.draw(st.sampled_from(sorted(tmp_path.iterdir())), "file")
    if path.suffix == ".json" and data.draw(st.integers(0, 3), "as JSON"):
        change_value(path, data)
    else:
        damage_bytes(path, data)
    for load in (lambda: load_classifier(tmp_path, ["neg", "pos"]), lambda: load_hub_tokenizer(tmp_path, 700)):
        try:
            loaded = load()
            if not isinstance(loaded, tuple):
                encode(loaded, TEXTS, 16, "head")
        except UserError as error:
            assert "\n" not in str(error)
