"""Checkpoints come from a Hub and go to it: a server of our own on 127.0.0.1 speaks its protocol.

huggingface-hub reads its address and cache from the environment when it is imported, so each call is a process.
"""

import base64
import hashlib
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

import pytest

COMMITS = {"main": "a" * 40, "old": "b" * 40}
REFUSED = {  # repository: status and the error code that the Hub sends
    "user/gated": (403, "GatedRepo"),
}
FOLDER = {"config.json": b'{"model_type": "bert"}', "tokenizer.json": b"{}", "model.safetensors": b"weights"}


class Hub(ThreadingHTTPServer):
    """Repositories in memory, and what was asked of them."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = {"user/model": dict(FOLDER), "user/empty": {}}  # name@revision where it is not main
        self.asked, self.tokens, self.commits, self.created, self.uploads = [], set(), [], [], {}
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_GET(self) -> None:
        self.server.tokens.add(self.headers.get("Authorization"))
        path = unquote(self.path).split("?")[0].strip("/")
        repository, resolve, rest = path.partition("/resolve/")
        if repository in REFUSED:
            status, code = REFUSED[repository]
            return self.answer(status, b"refused", X_Error_Code=code)
        if path.startswith("api/models/"):
            return self.describe(path.removeprefix("api/models/"))
        if not resolve:
            return self.answer(404, b"{}")
        revision, _, name = rest.partition("/")
        self.server.asked.append(name)
        if revision not in (*COMMITS, *COMMITS.values()):
            return self.answer(404, b"", X_Error_Code="RevisionNotFound")
        commit = COMMITS.get(revision, revision)
        files = self.server.files.get(f"{repository}@{revision}", self.server.files.get(repository, {}))
        if name not in files:
            return self.answer(404, b"", X_Error_Code="EntryNotFound", X_Repo_Commit=commit)
        etag = hashlib.sha256(files[name]).hexdigest()
        return self.answer(200, files[name], X_Repo_Commit=commit, ETag=f'"{etag}"')

    do_HEAD = do_GET

    def describe(self, path: str) -> None:
        """What the Hub says of a repository at a revision: its commit, its files."""
        repository, _, revision = path.partition("/revision/")
        if repository == "user/unknown":
            return self.answer(404, b"", X_Error_Code="RepoNotFound")
        if repository == "user/broken":
            return self.answer(500, b"")
        if revision not in COMMITS:
            return self.answer(404, b"", X_Error_Code="RevisionNotFound")
        files = self.server.files.get(f"{repository}@{revision}", self.server.files.get(repository, FOLDER))
        siblings = [{"rfilename": name} for name in files]
        body = json.dumps({"id": repository, "sha": COMMITS[revision], "siblings": siblings}).encode()
        return self.answer(200, body, Content_Type="application/json")

    def do_POST(self) -> None:
        self.server.tokens.add(self.headers.get("Authorization"))
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = self.path.split("?")[0]
        if "Bearer refused" in (self.headers.get("Authorization") or ""):
            return self.answer(401, b'{"error": "Invalid username or password."}')
        if path == "/api/repos/create":
            self.server.created.append(json.loads(body)["name"])
            reply = {"url": f"{self.server.address}/user/new", "name": "user/new"}
        elif "/preupload/" in path:
            names = [file["path"] for file in json.loads(body)["files"]]
            reply = {
                "files": [
                    {
                        "path": name,
                        "shouldIgnore": False,
                        "uploadMode": "lfs" if name.endswith(".safetensors") else "regular",
                    }
                    for name in names
                ]
            }
        elif path.endswith("/info/lfs/objects/batch"):
            reply = {
                "transfer": "basic",
                "objects": [
                    {
                        "oid": item["oid"],
                        "size": item["size"],
                        "actions": {"upload": {"href": f"{self.server.address}/put/{item['oid']}"}},
                    }
                    for item in json.loads(body)["objects"]
                ],
            }
        elif "/commit/" in path:
            self.server.commits.append([json.loads(line) for line in body.splitlines()])
            reply = {"commitUrl": f"{self.server.address}/user/new/commit/{'c' * 40}", "commitOid": "c" * 40}
        else:
            reply = {}
        return self.answer(200, json.dumps(reply).encode(), Content_Type="application/json")

    def do_PUT(self) -> None:
        self.server.uploads[self.path.rsplit("/", 1)[1]] = self.rfile.read(int(self.headers["Content-Length"]))
        self.answer(200)


@pytest.fixture
def hub():
    server = Hub()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def call(tmp_path):
    """Run a line of Python against a Hub in a process of its own: its output, and its exit status."""

    def run(line: str, endpoint: str, **environment: str) -> tuple[str, int]:
        code = (
            f"from minitext import hub, pretrained\nfrom minitext.errors import exit_status\n"
            f"from pathlib import Path\nimport sys\nsys.exit(exit_status(lambda: {line}))"
        )
        done = subprocess.run(
            [sys.executable, "-c", code],
            check=False,
            capture_output=True,
            text=True,
            timeout=60,
            cwd=Path(__file__).parent.parent,
            env={
                **os.environ,
                "HF_ENDPOINT": endpoint,
                "HF_HOME": str(tmp_path / "hf"),
                "HF_HUB_DISABLE_XET": "1",
                "HF_HUB_DISABLE_TELEMETRY": "1",
                "HF_HUB_DISABLE_PROGRESS_BARS": "1",
                "HF_HUB_OFFLINE": "0",
                **environment,
            },
        )
        return done.stdout + done.stderr, done.returncode

    return run


def fetch(name: str) -> str:
    return f"print({{path.name: path.read_bytes() for path in hub.fetch_checkpoint({name!r}).iterdir()}})"


def test_a_checkpoint_is_fetched_and_later_served_from_the_cache(hub, call):
    output, status = call(fetch("user/model"), hub.address)
    assert status == 0, output
    assert eval(output) == FOLDER
    assert "pytorch_model.bin" not in hub.asked  # safetensors are there, and preferred
    output, status = call(fetch("user/model"), "http://127.0.0.1:9")  # nobody listens there
    assert (eval(output), status) == (FOLDER, 0)
    output, status = call(fetch("user/model"), hub.address, HF_HUB_OFFLINE="1")
    assert (eval(output), status) == (FOLDER, 0)


def test_a_revision_is_named_behind_an_at_sign(hub, call):
    hub.files["user/model@old"] = {**FOLDER, "model.safetensors": b"old weights"}
    output, status = call(fetch("user/model@old"), hub.address)
    assert status == 0 and eval(output)["model.safetensors"] == b"old weights"


def test_shards_follow_their_index(hub, call):
    index = json.dumps({"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}).encode()
    shards = {"model.safetensors.index.json": index, "model-1.safetensors": b"1", "model-2.safetensors": b"2"}
    hub.files["user/model"] = {"config.json": b"{}", **shards}
    output, _ = call(fetch("user/model"), hub.address)
    assert eval(output) == hub.files["user/model"]


def test_a_legacy_bin_is_fetched_where_there_is_nothing_else(hub, call):
    hub.files["user/model"] = {"config.json": b"{}", "pytorch_model.bin": b"pickle"}
    output, _ = call(fetch("user/model"), hub.address)
    assert eval(output) == hub.files["user/model"]


def test_the_token_travels_with_each_request(hub, call):
    call(fetch("user/model"), hub.address, HF_TOKEN="hf_secret")
    assert hub.tokens == {"Bearer hf_secret"}


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("user/unknown", "no such repository"),
        ("user/gated", "ask for access"),
        ("user/model@nowhere", "no such revision"),
        ("user/empty", "has no config.json"),
        ("user/broken", "the Hub refused"),
        ("a b c", "neither a folder nor a Hub id"),
        ("setup.cfg", "a file; give the folder"),
    ],
)
def test_what_cannot_be_fetched_is_one_line_that_names_it_and_the_remedy(hub, call, name, remedy):
    output, status = call(fetch(name), hub.address)
    assert status == 2
    assert output.startswith(f"error: {name}: ") and remedy in output and len(output.splitlines()) == 1


@pytest.mark.parametrize("offline", ["0", "1"])
def test_without_a_network_what_is_not_in_the_cache_is_one_line(call, offline):
    output, status = call(fetch("user/model"), "http://127.0.0.1:9", HF_HUB_OFFLINE=offline)
    assert status == 2 and "cannot be reached" in output and len(output.splitlines()) == 1


def test_a_cached_config_whose_weights_never_came_is_one_line(hub, call):
    hub.files["user/model"] = {"config.json": b"{}"}
    output, status = call("pretrained.read_weights(hub.fetch_checkpoint('user/model'))", hub.address)
    assert status == 2 and "has no weights" in output and len(output.splitlines()) == 1


RUN = {name: name.encode() for name in ("model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json",
       "settings.json", "scores.json", "curves.png", "confusion.png", "probabilities.png", "report.md")}  # fmt: skip


def test_a_run_is_pushed_with_its_report_as_the_model_card(hub, call, tmp_path):
    for name, content in RUN.items():
        (tmp_path / name).write_bytes(content)
    line = f"(hub.open_repository('user/new'), print(hub.push(Path({str(tmp_path)!r}), 'user/new')))"
    output, status = call(line, hub.address, HF_TOKEN="hf_secret")
    assert status == 0, output
    assert output.strip() == f"{hub.address}/user/new"
    assert hub.created == ["new"]
    entries = [entry["value"] for entry in hub.commits[0] if entry["key"] in ("file", "lfsFile")]
    assert {entry["path"] for entry in entries} == {*RUN, "README.md"} - {"report.md"}
    arrived = {entry["path"]: base64.b64decode(entry["content"]) for entry in entries if "content" in entry}
    assert arrived["README.md"] == RUN["report.md"] and arrived["config.json"] == RUN["config.json"]
    assert hub.uploads == {hashlib.sha256(RUN["model.safetensors"]).hexdigest(): RUN["model.safetensors"]}


def test_a_refused_token_is_one_line(hub, call):
    output, status = call("hub.open_repository('user/new')", hub.address, HF_TOKEN="refused")
    assert status == 2 and output.startswith("error: user/new: ") and len(output.splitlines()) == 1
