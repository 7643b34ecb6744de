"""Checkpoint folders with damaged files and odd values either work or are refused in one line."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from malformed import damage_file, error_of, fuzz
from test_hf_checkpoint import saved
from test_hf_tokenizer import WORDS, write_bpe, write_vocab

from minitext.data.tokenizer import encode
from minitext.models.hf_checkpoint import load_classifier
from minitext.models.hf_tokenizer import load_hub_tokenizer
from minitext.utils.errors import exit_status

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


@pytest.mark.slow
@fuzz(800)
@given(data=st.data())
def test_a_damaged_checkpoint_works_or_is_refused_in_one_line(data: st.DataObject, folders, tmp_path):
    for old in tmp_path.iterdir():
        old.unlink()
    for path in data.draw(st.sampled_from(folders), "folder").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    damage_file(data.draw(st.sampled_from(sorted(tmp_path.iterdir())), "file"), data)
    error_of(lambda: exit_status(lambda: load_classifier(tmp_path, ["neg", "pos"])))
    error_of(lambda: exit_status(lambda: encode(load_hub_tokenizer(tmp_path, 700), TEXTS, 16, "head")))
