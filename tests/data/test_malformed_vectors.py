"""Damaged files of word vectors are read, or refused in one line: text, gzip, zip and binary."""

import gzip
import io
import struct
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from malformed import damage, error_of, fuzz

from minitext.data.word_vectors import load_word_vectors
from minitext.utils.errors import exit_status

WORDS = ("the", "good", "bad", "naïve", "数据", ". . .", "film")
LINES = "".join(f"{word} {i} -0.5 1e-3 {i}.25\n" for i, word in enumerate(WORDS)).encode()
HEADED = f"{len(WORDS)} 4\n".encode() + LINES
BINARY = b"3 4\n" + b"".join(word + b" " + struct.pack("<4f", 1, 2, 3, 4) + b"\n" for word in (b"the", b"good", b"bad"))
CONTENTS = {"text": LINES, "header": HEADED, "binary": BINARY, "tabs": LINES.replace(b" ", b"\t")}
METHODS = [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]


def zipped(content: bytes, data: st.DataObject) -> bytes:
    """A zip file of one or two members."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", data.draw(st.sampled_from(METHODS), "method")) as archive:
        for name in data.draw(
            st.sampled_from([("v.txt",), ("v.txt", "readme"), ("v.vec", "w.vec"), ("a/b\x1b",), ()]), "names"
        ):
            archive.writestr(name, content)
    return file.getvalue()


@pytest.mark.slow
@fuzz(500)
@given(data=st.data())
def test_a_damaged_file_of_vectors(data: st.DataObject, tmp_path: Path):
    content = CONTENTS[data.draw(st.sampled_from(sorted(CONTENTS)), "content")]
    if data.draw(st.integers(0, 3), "damage"):
        content = damage(content, data)
    suffix = data.draw(st.sampled_from((".txt", ".vec", ".bin", ".gz", ".zip", ".zip", "")), "suffix")
    if suffix in (".gz", ".zip"):
        content = gzip.compress(content, 1) if suffix == ".gz" else zipped(content, data)
        if data.draw(st.booleans(), "damage the packed bytes"):
            content = damage(content, data)
    path = tmp_path / f"v{suffix}"
    path.write_bytes(content)
    member = data.draw(st.sampled_from(("", "", ":v.txt", ":w.vec", ":nothing")), "member") if suffix == ".zip" else ""
    words = data.draw(st.sampled_from((None, [], ["good", ". . .", "x"])), "words")

    def look_up() -> None:
        vectors = load_word_vectors(f"{path}{member}", words)
        if vectors.words:
            vectors.nearest(vectors.words[0], 3)

    error_of(lambda: exit_status(look_up))
