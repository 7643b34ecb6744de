"""The IMDB archive (Maas et al. 2011, "Learning Word Vectors for Sentiment Analysis").

Inputs: the published `aclImdb_v1.tar.gz`, downloaded once. Outputs: its reviews, read as a stream: nothing is unpacked.
"""

import html
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path

from minitext.data.text_input import MAX_RATIO, MAX_TEXT, MIN_BOUND, open_regular, unpack
from minitext.utils.download import download
from minitext.utils.errors import UserError
from minitext.utils.io import cache_folder

URL = "https://ai.stanford.edu/~amaas/data/sentiment/aclImdb_v1.tar.gz"
SHA256 = "c40f74a18d3b61f90feba1e17730e0d38e8b97c05fde7008942e91923d1658fe"
MEMBER = re.compile(r"(?:.*/)?((train|test)/(pos|neg|unsup)/[^/]+\.txt)")


def imdb_archive() -> Path:
    """The path of the archive in the cache; downloaded if necessary."""
    return download(URL, cache_folder() / "aclImdb_v1.tar.gz", SHA256)


def read_imdb_unlabeled(path: Path) -> list[str]:
    """The 50,000 reviews without a label, for word vectors and language models."""
    return [text for _, text, _, _ in read_imdb(path, ("unsup",))]


def read_imdb(path: Path, labels: tuple[str, ...] = ("pos", "neg")) -> Iterator[tuple[str, str, str, str]]:
    """Yield (origin, text, label, split) of the reviews with these labels. Raises UserError for a damaged archive."""
    try:
        with open_regular(path) as file:
            longest = max(MIN_BOUND, MAX_RATIO * path.stat().st_size)  # bytes that `unpack` allows
            stream = unpack(file, str(path), gzipped=True)
            with tarfile.open(fileobj=stream, mode="r|") as archive:
                for member in archive:
                    match = MEMBER.fullmatch(member.name)
                    if match and match[3] in labels and member.isfile():  # neither a link nor a device
                        yield match[1], clean_html(read_member(path, archive, member)), match[3], match[2]
                    if (
                        archive.offset > longest
                    ):  # where the next header should be; tarfile would read on beyond the end
                        raise tarfile.ReadError(f"{member.name} claims {member.size:,} bytes")
            while stream.read(1 << 20):  # to the end, where gzip has its checksum
                pass
    except UnicodeDecodeError as error:
        raise UserError(f"{path}, {member.name}: not UTF-8 ({error}); download the archive again") from error
    # ValueError: a header with a number that is none; RecursionError: hundreds of headers for one member
    except (tarfile.TarError, ValueError, OverflowError, RecursionError) as error:
        raise UserError(f"{path}: not a complete tar.gz archive ({error}); download it again") from error


def read_member(path: Path, archive: tarfile.TarFile, member: tarfile.TarInfo) -> str:
    """The text of a member. Raises UserError if its header claims more than a text can have."""
    if member.size > MAX_TEXT:
        problem = f"claims {member.size:,} bytes, a text has at most {MAX_TEXT:,}"
        raise UserError(f"{path}, {member.name}: {problem}; download the archive again")
    return archive.extractfile(member).read().decode("utf-8")


def clean_html(text: str) -> str:
    """Turn `<br />` into a space and `&amp;` into `&`: the reviews are cut from web pages."""
    return html.unescape(re.sub(r"<br\s*/?>", " ", text)) if "<" in text or "&" in text else text
