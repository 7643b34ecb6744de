"""A Hub on 127.0.0.1 for the tests, in memory, with a log of its requests; and processes that use it."""

import hashlib
import json
import multiprocessing
import os
import re
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

COMMITS = {"main": "a" * 40, "old": "b" * 40}
NEW_COMMIT = "c" * 40


@dataclass
class Hub:
    """The repositories of the Hub, its failures, and the requests that it got.

    A request whose `METHOD path` begins with a key of `failures` gets that status and these headers, one that begins
    with an entry of `silent` gets no answer.
    """

    files: dict[str, dict[str, bytes]] = field(default_factory=dict)  # by `user/name`, or `user/name@revision`
    failures: dict[str, tuple[int, dict[str, str]]] = field(default_factory=dict)
    silent: list[str] = field(default_factory=list)
    closed: threading.Event = field(default_factory=threading.Event)
    asked: list[str] = field(default_factory=list)  # METHOD path
    tokens: list[str | None] = field(default_factory=list)  # the Authorization header of each request
    created: list[dict] = field(default_factory=list)
    commits: dict[str, list[dict]] = field(default_factory=dict)  # by path: the lines of the last commit
    uploads: dict[str, bytes] = field(default_factory=dict)  # by SHA-256
    address: str = ""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *_: object) -> None:
        """Nothing on stderr."""

    def answer(self, status: int, body: bytes = b"", headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def answer_json(self, value: object, status: int = 200) -> None:
        self.answer(status, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def any_request(self) -> None:
        path = unquote(self.path.partition("?")[0])
        request = f"{self.command} {path}"
        self.hub.asked.append(request)
        self.hub.tokens.append(self.headers.get("Authorization"))
        if any(request.startswith(start) for start in self.hub.silent):
            self.hub.closed.wait()
            self.close_connection = True
            return None
        body = self.body()
        for start, (status, headers) in self.hub.failures.items():
            if request.startswith(start):
                return self.answer(status, b'{"error": "set by the test"}', headers)
        if path.startswith("/put/"):
            self.hub.uploads[path.removeprefix("/put/")] = body
            return self.answer(200)
        return self.write(path, body) if self.command == "POST" else self.read(path.strip("/"))

    do_GET = do_HEAD = do_POST = do_PUT = any_request

    def read(self, path: str) -> None:
        """A repository's commit, the list of its files, or one of them."""
        repository, kind, rest = re.fullmatch(r"(?:api/models/)?(.*?)(?:/(revision|tree|resolve)/(.*))?", path).groups()
        revision, _, name = (rest or "main").partition("/")
        if repository not in self.hub.files:
            return self.answer(404 if self.hub.tokens[-1] else 401, b"", {"X-Error-Code": "RepoNotFound"})
        commit = COMMITS.get(revision, revision)
        if commit not in COMMITS.values():
            return self.answer(404, b"", {"X-Error-Code": "RevisionNotFound"})
        branch = {commit: branch for branch, commit in COMMITS.items()}[commit]
        files = self.hub.files.get(f"{repository}@{branch}", self.hub.files[repository])
        if kind == "tree":
            return self.answer_json(
                [
                    {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                    for name, content in files.items()
                ]
            )
        if kind != "resolve":
            siblings = [{"rfilename": name} for name in files]
            return self.answer_json({"id": repository, "sha": commit, "siblings": siblings})
        headers = {"X-Repo-Commit": commit}
        if name not in files:
            return self.answer(404, b"", headers | {"X-Error-Code": "EntryNotFound"})
        return self.answer(200, files[name], headers | {"ETag": f'"{hashlib.sha256(files[name]).hexdigest()}"'})

    def write(self, path: str, body: bytes) -> None:
        """The steps of an upload: create the repository, choose upload modes, get upload addresses, commit."""
        if path == "/api/repos/create":
            self.hub.created.append(json.loads(body))
            name = "{organization}/{name}".format(**self.hub.created[-1])
            exists = name in self.hub.files
            return self.answer_json({"url": f"{self.hub.address}/{name}", "name": name}, 409 if exists else 200)
        if "/preupload/" in path:
            names = [file["path"] for file in json.loads(body)["files"]]
            modes = {name: "lfs" if name.endswith((".safetensors", ".png")) else "regular" for name in names}
            files = [{"path": name, "shouldIgnore": False, "uploadMode": mode} for name, mode in modes.items()]
            return self.answer_json({"files": files})
        if path.endswith("/info/lfs/objects/batch"):
            objects = [
                {**item, "actions": {"upload": {"href": f"{self.hub.address}/put/{item['oid']}"}}}
                for item in json.loads(body)["objects"]
            ]
            return self.answer_json({"transfer": "basic", "objects": objects})
        if "/commit/" in path:
            self.hub.commits[path] = [json.loads(line) for line in body.splitlines()]
            url = f"{self.hub.address}/{path.split('/commit/')[0].removeprefix('/api/models/')}/commit/{NEW_COMMIT}"
            return self.answer_json({"commitUrl": url, "commitOid": NEW_COMMIT})
        return self.answer_json({})  # /api/validate-yaml


@contextmanager
def serve(hub: Hub) -> Iterator[Hub]:
    handler = type("Handler", (Handler,), {"hub": hub})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as http:
        http.daemon_threads = True
        hub.address = f"http://127.0.0.1:{http.server_port}"
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield hub
        hub.closed.set()
        http.shutdown()
        thread.join()


def child(code: str, environment: dict[str, str], output: str) -> None:
    """Run `code` like a script in this new process, with stdout and stderr in the file `output`."""
    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    assert "huggingface_hub" not in sys.modules  # it reads the environment on import
    os.environ.clear()
    os.environ.update(environment)
    from minitext.utils.errors import exit_status

    sys.argv = ["test"]
    status = exit_status(lambda: exec(code, {}))  # noqa: S102 (lines of the test)
    sys.stdout.flush()
    sys.exit(status)


def run_child(code: str, environment: Mapping[str, str], output: Path) -> tuple[str, int]:
    """The output of `code` (stdout and stderr) and its exit status.

    Processes are forked from one that has imported torch and the package, but not huggingface-hub: a third of a second
    each instead of two.
    """
    context = multiprocessing.get_context("forkserver" if os.name == "posix" else "spawn")
    if os.name == "posix":
        context.set_forkserver_preload(["pytest", "minitext.models.hub", "minitext.models.hf_checkpoint"])
    process = context.Process(target=child, args=(code, dict(environment), str(output)))
    process.start()
    process.join(30)
    if process.is_alive():
        process.kill()
        process.join()
        raise AssertionError(f"still running after 30 s:\n{code}\n{output.read_text(encoding='utf-8')}")
    return output.read_text(encoding="utf-8"), process.exitcode
