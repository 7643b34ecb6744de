"""A download ends in the complete file with its published SHA-256, or in an error and no file.

The servers are on 127.0.0.1.
"""

import hashlib
import os
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from hub_server import Hub, run_child, serve

from minitext.utils.download import download, download_from_hub
from minitext.utils.errors import UserError

CONTENT = bytes(range(256)) * 10_000  # 2.5 MB: several blocks
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@dataclass
class Server:
    """What the server sends."""

    url: str
    content: bytes = CONTENT
    status: int = 200
    sent: int | None = None  # bytes after which the connection breaks
    silent_after: int | None = None  # bytes after which nothing more is sent
    requests: int = 0
    delay: float = 0.0  # seconds until it answers


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.requests += 1
            time.sleep(state.delay)
            self.send_response(state.status)
            self.send_header("Content-Length", str(len(state.content)))
            self.end_headers()
            self.wfile.write(state.content[: state.sent if state.silent_after is None else state.silent_after])
            if state.silent_after is not None:
                over.wait()

        def log_message(self, *_: object) -> None:
            """Nothing on stderr."""

    monkeypatch.setenv("no_proxy", "127.0.0.1")
    over = threading.Event()
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        state = Server(f"http://127.0.0.1:{http.server_address[1]}/data.bin")
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield state
        over.set()
        http.shutdown()
        thread.join()


def error_of(url: str, path: Path) -> str:
    """The message of the error; no file may be left."""
    with pytest.raises(UserError) as caught:
        download(url, path, SHA256)
    assert url in str(caught.value)
    assert list(path.parent.iterdir()) == []
    return str(caught.value)


def test_a_file_is_downloaded_and_nothing_else_is_left(server: Server, tmp_path: Path):
    path = tmp_path / "data.bin"
    assert download(server.url, path, SHA256) == path
    assert path.read_bytes() == CONTENT
    assert list(tmp_path.iterdir()) == [path]


def test_an_existing_file_is_not_downloaded_again(server: Server, tmp_path: Path):
    path = tmp_path / "data.bin"
    path.write_bytes(b"copied by the user")
    assert download(server.url, path, SHA256) == path
    assert path.read_bytes() == b"copied by the user"
    assert server.requests == 0


def test_of_processes_that_need_a_file_at_once_one_downloads_it(server: Server, tmp_path: Path):
    """Threads stand for the processes: a lock excludes both in the same way."""
    server.delay = 0.2
    path = tmp_path / "data.bin"
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: download(server.url, path, SHA256).read_bytes() == CONTENT, range(4)))
    assert found == [True] * 4
    assert server.requests == 1
    assert list(tmp_path.iterdir()) == [path]


def test_after_a_failed_download_the_next_process_tries(server: Server, tmp_path: Path):
    server.status, server.delay = 500, 0.2

    def attempt(number: int) -> bool:
        try:
            return download(server.url, tmp_path / "data.bin", SHA256).exists()
        except UserError:
            server.status = 200
            return False

    with ThreadPoolExecutor(3) as pool:
        assert sorted(pool.map(attempt, range(3))) == [False, True, True]
    assert server.requests == 2


def test_another_file_is_an_error(server: Server, tmp_path: Path):
    server.content = b"moved"
    message = error_of(server.url, tmp_path / "data.bin")
    assert SHA256 in message
    assert hashlib.sha256(b"moved").hexdigest() in message


def test_a_broken_connection_is_an_error(server: Server, tmp_path: Path):
    server.sent = 1_000_000
    error_of(server.url, tmp_path / "data.bin")


@pytest.mark.parametrize("sent", [0, 1_000_000])
def test_a_silent_server_is_given_up(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sent: int):
    monkeypatch.setattr("minitext.utils.download.SILENCE", 0.1)
    server.silent_after = sent
    assert "timed out" in error_of(server.url, tmp_path / "data.bin")
    assert socket.getdefaulttimeout() is None  # other connections are not limited


@pytest.mark.parametrize("status", [404, 403, 500])
def test_an_error_of_the_server_is_shown(server: Server, tmp_path: Path, status: int):
    server.status = status
    assert f"HTTP Error {status}" in error_of(server.url, tmp_path / "data.bin")


def test_a_refused_connection_is_an_error_that_says_where_to_put_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with socket.socket() as taken:  # bound, but not listening: nobody answers
        taken.bind(("127.0.0.1", 0))
        message = error_of(f"http://127.0.0.1:{taken.getsockname()[1]}/data.bin", tmp_path / "data.bin")
    assert "refused" in message
    assert f"put the file at {tmp_path / 'data.bin'}" in message


def from_hub(endpoint: str, name: str, folder: Path, **more: str) -> tuple[str, int]:
    """What `download_from_hub` prints in a process of its own: huggingface-hub reads the environment once."""
    code = (
        "from minitext.utils.download import download_from_hub\n"
        f"print(download_from_hub('user/vectors', {name!r}).read_bytes())"
    )
    environment = {key: value for key, value in os.environ.items() if not key.startswith("HF_")} | {
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(folder / "hf"),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "no_proxy": "127.0.0.1",
    }
    return run_child(code, environment | more, folder / "output")


def test_a_file_of_the_hub_is_downloaded_once_and_then_found_without_the_hub(tmp_path: Path):
    with serve(Hub({"user/vectors": {"v.zip": b"a zip"}})) as hub:
        address = hub.address
        assert from_hub(address, "v.zip", tmp_path) == ("b'a zip'\n", 0)
    assert from_hub(address, "v.zip", tmp_path) == ("b'a zip'\n", 0)


@pytest.mark.parametrize("repository", ["user/vectors", "nobody/nothing"])
def test_a_file_that_the_hub_does_not_have_is_an_error_of_one_line(tmp_path: Path, repository: str):
    with serve(Hub({repository: {"v.zip": b"a zip"}})) as hub:
        output, status = from_hub(hub.address, "other.zip", tmp_path)
    assert status == 2
    expected = {"user/vectors": "the Hub has no such file", "nobody/nothing": "no such repository on the Hub"}[
        repository
    ]
    assert output.startswith(f"error: user/vectors/other.zip: {expected}") and output.count("\n") == 1


def test_a_failure_of_the_hub_is_an_error_of_one_line(tmp_path: Path):
    with serve(Hub({"user/vectors": {"v.zip": b"a zip"}}, failures={"GET": (400, {})})) as hub:
        output, status = from_hub(hub.address, "v.zip", tmp_path)
    assert status == 2
    assert output.startswith("error: user/vectors/v.zip: request to the Hub failed")
    assert output.count("\n") == 1


def test_a_name_that_is_not_a_hub_id_is_an_error():
    with pytest.raises(UserError, match="a/b/c/tokenizer.json: neither a file, a folder nor a Hub id"):
        download_from_hub("a/b/c", "tokenizer.json")


def test_a_file_that_is_not_in_the_cache_is_an_error_in_offline_mode(tmp_path: Path):
    output, status = from_hub("http://127.0.0.1:1", "v.zip", tmp_path, HF_HUB_OFFLINE="1")
    assert status == 2
    assert output.startswith(
        "error: user/vectors/v.zip: not (completely) in the Hub's cache, and the Hub cannot be reached"
    )
    assert output.count("\n") == 1
