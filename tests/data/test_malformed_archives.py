"""Damaged IMDB archives are read, or refused in one line: their bytes, headers and members."""

import gzip
import io
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from malformed import PIECES, damage, error_of, fuzz

from minitext.data.corpus import CorpusConfig, load_corpus
from minitext.data.dataset import load_dataset
from minitext.utils.errors import exit_status

BLOCK = tarfile.BLOCKSIZE
TYPES = b"\x000123456789xgLKSDVNMXA?\xff"
NUMBERS = [b"", b"0", b"-1", b"8", b"777777777777", b"\x80" + b"\xff" * 11, b"\xff" * 12, b"\x80" + bytes(11), b" 1 2"]
PAX_KEYS = ["path", "size", "mtime", "linkpath", "uid", "hdrcharset", "charset", "GNU.sparse.map", "GNU.sparse.size",
            "GNU.sparse.major", "GNU.sparse.minor", "GNU.sparse.name", "GNU.sparse.realsize"]  # fmt: skip
PAX_VALUES = [
    "",
    "0",
    "-1",
    "1",
    "99999999999999999999",
    "1e400",
    "nan",
    "x",
    "0,9,1",
    "\0",
    "train/pos/a.txt",
    "BINARY",
]


def archive(data: st.DataObject) -> bytes:
    """A small archive of reviews, of which one member may have odd PAX headers."""
    file = io.BytesIO()
    odd = data.draw(st.integers(-6, 7), "member with PAX headers")
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for i in range(8):
            content = f"a {('good', 'bad')[i % 2]} film, naïve<br />".encode()
            info = tarfile.TarInfo(f"aclImdb/{('train', 'test')[i // 4]}/{('pos', 'neg')[i % 2]}/{i}.txt")
            info.size = len(content)
            if i == odd:
                keys = data.draw(st.lists(st.sampled_from(PAX_KEYS), min_size=1, max_size=4, unique=True), "keys")
                info.pax_headers = {key: data.draw(st.sampled_from(PAX_VALUES), key) for key in keys}
            tar.addfile(info, io.BytesIO(content))
    return file.getvalue()


def change_header(content: bytes, data: st.DataObject) -> bytes:
    """Change a field of a header, and correct the header's checksum."""
    headers = [at for at in range(0, len(content), BLOCK) if content[at + 257 : at + 262] == b"ustar"]
    if not headers:
        return content
    at = data.draw(st.sampled_from(headers), "header")
    header = bytearray(content[at : at + BLOCK])
    field = data.draw(st.sampled_from(("name", "size", "size", "type", "type", "mtime", "link", "magic")), "field")
    if field == "type":
        header[156] = data.draw(st.sampled_from(TYPES), "type")
    elif field in ("size", "mtime"):
        start = {"size": 124, "mtime": 136}[field]
        header[start : start + 12] = data.draw(st.sampled_from(NUMBERS), "number").ljust(12, b"\0")
    else:
        start, end = {"name": (0, 100), "link": (157, 257), "magic": (257, 265)}[field]
        text = data.draw(
            st.sampled_from([*PIECES, b"../train/pos/1.txt", b"/train/pos/1.txt", b"train/pos/" + bytes(9)])
        )
        header[start:end] = text[: end - start].ljust(end - start, b"\0")
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return content[:at] + bytes(header) + content[at + BLOCK :]


@pytest.mark.slow
@fuzz(300)
@given(data=st.data())
def test_a_damaged_archive(data: st.DataObject, tmp_path: Path):
    content = archive(data)
    for _ in range(data.draw(st.integers(0, 2), "headers")):
        content = change_header(content, data)
    if data.draw(st.integers(0, 2), "damage") == 0:
        content = damage(content, data)
    packed = gzip.compress(content, 1)
    if data.draw(st.integers(0, 3), "damage gzip") == 0:
        packed = damage(packed, data)
    path = tmp_path / "reviews.tar.gz"
    path.write_bytes(packed)
    error_of(lambda: exit_status(lambda: load_dataset(str(path))))
    if data.draw(st.integers(0, 4), "corpus") == 0:
        error_of(lambda: exit_status(lambda: load_corpus(CorpusConfig(data=(str(path),)), 0)))
