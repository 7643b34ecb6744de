"""Proves that a download ends in the published file or in an error, never in half a file, and that what has arrived
once is not asked for again. The server is one of our own, on 127.0.0.1.
"""

import hashlib
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from minitext.utils.download import TRIES, Remote, fetch
from minitext.utils.errors import UserError

CONTENT = b"0123456789"


@dataclass
class Server:
    """What the server sends, how it misbehaves, and the Range header of each request that it got."""

    content: bytes = CONTENT
    status: int = 200
    knows_range: bool = True
    resumed_at: int | None = None  # sends from this byte on, whatever was asked for
    breaks_after: list[int] = field(default_factory=list)  # bytes sent before each of the first connections breaks
    ranges: list[str | None] = field(default_factory=list)
    url: str = ""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = self.headers["Range"]
            state.ranges.append(asked)
            start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and state.knows_range else 0
            if asked and state.resumed_at is not None:
                start = state.resumed_at
            body = state.content[start:]
            self.send_response(206 if asked and state.knows_range else state.status)
            self.send_header("Content-Length", str(len(body)))
            if asked and state.knows_range:
                self.send_header("Content-Range", f"bytes {start}-{len(state.content) - 1}/{len(state.content)}")
            self.end_headers()
            self.wfile.write(body[: state.breaks_after.pop(0)] if state.breaks_after else body)

        def log_message(self, *_: object) -> None:
            """Nothing on stderr."""

    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        state.url = f"http://127.0.0.1:{http.server_address[1]}/vectors.txt"
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield state
        http.shutdown()
        thread.join()


def published(url: str, content: bytes = CONTENT) -> Remote:
    return Remote(url, len(content), hashlib.md5(content).hexdigest())


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def refusal(remote: Remote, path: Path) -> str:
    with pytest.raises(UserError) as caught:
        fetch(remote, path, quiet=True)
    assert remote.url in str(caught.value)
    return str(caught.value)


def test_a_file_is_fetched_whole_and_nothing_else_is_left(server: Server, tmp_path: Path):
    path = tmp_path / "vectors.txt"
    assert fetch(published(server.url), path, quiet=True) == path
    assert contents(tmp_path) == {"vectors.txt": CONTENT}
    assert server.ranges == [None]


def test_a_file_of_several_blocks_is_fetched_whole(server: Server, tmp_path: Path):
    server.content = bytes(range(256)) * 10_000  # 2.5 MB, of which 1 MiB is read at a time
    fetch(published(server.url, server.content), tmp_path / "vectors.txt", quiet=True)
    assert contents(tmp_path) == {"vectors.txt": server.content}


def test_a_file_that_is_there_is_not_fetched_again(server: Server, tmp_path: Path):
    path = tmp_path / "vectors.txt"
    path.write_bytes(b"put here by the user")
    assert fetch(published(server.url), path, quiet=True) == path
    assert contents(tmp_path) == {"vectors.txt": b"put here by the user"}
    assert server.ranges == []


def test_only_what_a_part_lacks_is_asked_for(server: Server, tmp_path: Path):
    (tmp_path / "vectors.txt.part").write_bytes(CONTENT[:4])
    fetch(published(server.url), tmp_path / "vectors.txt", quiet=True)
    assert contents(tmp_path) == {"vectors.txt": CONTENT}
    assert server.ranges == ["bytes=4-"]


def test_a_whole_part_is_not_asked_for(server: Server, tmp_path: Path):
    (tmp_path / "vectors.txt.part").write_bytes(CONTENT)
    fetch(published(server.url), tmp_path / "vectors.txt", quiet=True)
    assert contents(tmp_path) == {"vectors.txt": CONTENT}
    assert server.ranges == []


def test_a_server_that_ignores_range_starts_the_file_anew(server: Server, tmp_path: Path):
    server.knows_range = False
    (tmp_path / "vectors.txt.part").write_bytes(CONTENT[:4])
    fetch(published(server.url), tmp_path / "vectors.txt", quiet=True)
    assert contents(tmp_path) == {"vectors.txt": CONTENT}
    assert server.ranges == ["bytes=4-"]


def test_an_answer_from_the_first_byte_on_is_not_appended(server: Server, tmp_path: Path):
    server.resumed_at = 0
    (tmp_path / "vectors.txt.part").write_bytes(CONTENT[:4])
    fetch(published(server.url), tmp_path / "vectors.txt", quiet=True)
    assert contents(tmp_path) == {"vectors.txt": CONTENT}


def test_a_connection_that_breaks_is_taken_up_where_it_broke(server: Server, tmp_path: Path):
    server.breaks_after = [4, 3]
    fetch(published(server.url), tmp_path / "vectors.txt", quiet=True)
    assert contents(tmp_path) == {"vectors.txt": CONTENT}
    assert server.ranges == [None, "bytes=4-", "bytes=7-"]


def test_a_connection_that_breaks_each_time_is_given_up_and_goes_on_in_the_next_call(server: Server, tmp_path: Path):
    server.breaks_after = [1] * TRIES
    message = refusal(published(server.url), tmp_path / "vectors.txt")
    assert f"after {TRIES} of {len(CONTENT)} bytes" in message
    assert "run again" in message
    assert contents(tmp_path) == {"vectors.txt.part": CONTENT[:TRIES]}
    fetch(published(server.url), tmp_path / "vectors.txt", quiet=True)
    assert contents(tmp_path) == {"vectors.txt": CONTENT}
    assert server.ranges[TRIES:] == [f"bytes={TRIES}-"]


@pytest.mark.parametrize("sent", [b"9876543210", CONTENT + b"more"], ids=["another file", "a longer file"])
def test_what_is_not_the_published_file_is_refused_and_removed(server: Server, tmp_path: Path, sent: bytes):
    server.content = sent
    message = refusal(published(server.url), tmp_path / "vectors.txt")
    assert hashlib.md5(CONTENT).hexdigest() in message
    assert hashlib.md5(sent).hexdigest() in message
    assert contents(tmp_path) == {}


def test_a_part_of_another_file_is_removed_and_the_next_call_succeeds(server: Server, tmp_path: Path):
    (tmp_path / "vectors.txt.part").write_bytes(b"abcd")
    refusal(published(server.url), tmp_path / "vectors.txt")
    assert contents(tmp_path) == {}
    fetch(published(server.url), tmp_path / "vectors.txt", quiet=True)
    assert contents(tmp_path) == {"vectors.txt": CONTENT}


@pytest.mark.parametrize("status", [404, 403, 500])
def test_an_answer_that_is_an_error_is_shown_and_writes_nothing(server: Server, tmp_path: Path, status: int):
    server.status = status
    assert f"answered {status}" in refusal(published(server.url), tmp_path / "vectors.txt")
    assert contents(tmp_path) == {}


def test_an_answer_that_is_an_error_leaves_the_part_as_it_was(server: Server, tmp_path: Path):
    server.status, server.knows_range = 404, False
    (tmp_path / "vectors.txt.part").write_bytes(CONTENT[:4])
    refusal(published(server.url), tmp_path / "vectors.txt")
    assert contents(tmp_path) == {"vectors.txt.part": CONTENT[:4]}


@pytest.mark.parametrize("there", [{}, {"vectors.txt.part": CONTENT[:4]}], ids=["nothing", "a part"])
def test_a_refused_connection_is_an_error_that_names_the_place_for_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: dict[str, bytes]
):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    for name, content in there.items():
        (tmp_path / name).write_bytes(content)
    with socket.socket() as taken:  # bound, but not listening: nobody else gets the port, and nobody answers
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/vectors.txt"
        message = refusal(published(url), tmp_path / "vectors.txt")
    assert "refused" in message
    assert f"put the file at {tmp_path / 'vectors.txt'}" in message
    assert contents(tmp_path) == there
