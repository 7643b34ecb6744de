"""Checkpoints are downloaded and cached, runs are uploaded, every failure is one line with a remedy.

The Hub is hub_server.py on 127.0.0.1. huggingface-hub reads address, cache and token from the environment on import, so
each call is a process.
"""

import ast
import base64
import hashlib
import json
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hub_server import COMMITS, Hub, run_child, serve

FOLDER = {
    "config.json": b'{"model_type": "bert"}',
    "tokenizer.json": b"{}",
    "tokenizer_config.json": b'{"do_lower_case": true}',
    "model.safetensors": bytes(range(256)) * 1000,
}
BIN = {"pytorch_model.bin": b"a pickle"}
Call = Callable[..., tuple[str, int]]


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serve(Hub({"user/model": dict(FOLDER)})) as served:
        yield served


@pytest.fixture
def nowhere() -> Iterator[str]:
    """An address without a server."""
    with socket.socket() as taken:  # bound, but not listening
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


@pytest.fixture
def call(tmp_path: Path) -> Call:
    """Run a line of Python in a process: its output and exit status. All calls of a test use the same cache."""

    def run(line: str, endpoint: str, **more: str) -> tuple[str, int]:
        users = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "TRANSFORMERS_"))}
        environment = users | {
            "HF_ENDPOINT": endpoint,
            "HF_HOME": str(tmp_path / "hf"),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1",
        }
        code = f"from pathlib import Path\nfrom minitext.models import hub\n{line}"
        return run_child(code, environment | more, tmp_path / "output")

    return run


def fetch(source: str) -> str:
    """The line that fetches a checkpoint and prints its files."""
    return f"print({{path.name: path.read_bytes() for path in hub.fetch_checkpoint({source!r}).iterdir()}})"


def fetched(call: Call, source: str, endpoint: str, **more: str) -> dict[str, bytes]:
    """The files of a checkpoint, by name."""
    output, status = call(fetch(source), endpoint, **more)
    assert status == 0, output
    assert output.count("\n") == 1
    return ast.literal_eval(output)


def refusal(answer: tuple[str, int]) -> str:
    """The line that a failed call printed."""
    output, status = answer
    assert status == 2, output
    assert output.count("\n") == 1, output
    assert output.startswith("error: "), output
    return output.removeprefix("error: ").strip()


def test_safetensors_are_fetched_and_files_of_other_frameworks_are_not(hub: Hub, call: Call):
    hub.files["user/model"] |= BIN | {"flax_model.msgpack": b"", "onnx/model.onnx": b""}
    assert fetched(call, "user/model", hub.address) == FOLDER
    got = [request.split("/")[-1] for request in hub.asked if request.startswith("GET /user/model/resolve/")]
    assert sorted(got) == sorted(FOLDER)


def test_all_tokenizer_files_are_fetched(hub: Hub, call: Call):
    names = ("tokenizer_config", "special_tokens_map", "added_tokens", "vocab")
    old = {"config.json": b"{}", "vocab.txt": b"", "merges.txt": b"", **{f"{name}.json": b"{}" for name in names}}
    hub.files["user/model"] = old | {"model.safetensors": b""}
    assert fetched(call, "user/model", hub.address) == hub.files["user/model"]


def test_a_fetched_checkpoint_is_available_offline(hub: Hub, call: Call, nowhere: str):
    fetched(call, "user/model", hub.address)
    asked = len(hub.asked)
    assert fetched(call, "user/model", nowhere) == FOLDER
    assert fetched(call, "user/model", hub.address, HF_HUB_OFFLINE="1") == FOLDER
    assert len(hub.asked) == asked


def test_a_fetched_checkpoint_is_not_fetched_again(hub: Hub, call: Call):
    fetched(call, "user/model", hub.address)
    hub.asked.clear()
    assert fetched(call, "user/model", hub.address) == FOLDER
    assert not [request for request in hub.asked if request.startswith("GET /user/model/resolve/")]


@pytest.mark.parametrize("status", [500, 503, 429])
def test_the_cache_is_used_while_the_hub_is_out_of_order(hub: Hub, call: Call, status: int):
    fetched(call, "user/model", hub.address)
    hub.failures["GET /"] = hub.failures["HEAD /"] = (status, {})
    assert fetched(call, "user/model", hub.address) == FOLDER


def test_the_revision_follows_an_at_sign(hub: Hub, call: Call):
    hub.files["user/model@old"] = FOLDER | {"model.safetensors": b"old weights"}
    assert fetched(call, "user/model@old", hub.address)["model.safetensors"] == b"old weights"
    assert fetched(call, "user/model", hub.address) == FOLDER
    assert fetched(call, "user/model@", hub.address) == FOLDER


def test_a_commit_is_found_in_the_cache(hub: Hub, call: Call, nowhere: str):
    commit = COMMITS["old"]
    hub.files["user/model@old"] = FOLDER | {"model.safetensors": b"old weights"}
    there = fetched(call, f"user/model@{commit}", hub.address)
    assert there["model.safetensors"] == b"old weights"
    assert fetched(call, f"user/model@{commit}", nowhere) == there
    assert "cannot be reached" in refusal(call(fetch("user/model"), nowhere))  # main is not in the cache


def test_the_shards_of_an_index_are_fetched(hub: Hub, call: Call, nowhere: str):
    index = {
        "weight_map": {
            "a": "model-1-of-2.safetensors",
            "b": "model-2-of-2.safetensors",
            "c": "model-1-of-2.safetensors",
        }
    }
    shards = {"model-1-of-2.safetensors": b"one", "model-2-of-2.safetensors": b"two"}
    files = {"config.json": b"{}", "model.safetensors.index.json": json.dumps(index).encode(), **shards}
    hub.files["user/model"] = files | BIN
    assert fetched(call, "user/model", hub.address) == files
    assert fetched(call, "user/model", nowhere) == files


def test_a_legacy_bin_is_fetched_if_there_are_no_safetensors(hub: Hub, call: Call, nowhere: str):
    hub.files["user/model"] = {"config.json": b"{}", "vocab.txt": b"[PAD]\n", **BIN}
    assert fetched(call, "user/model", hub.address) == hub.files["user/model"]
    assert fetched(call, "user/model", nowhere) == hub.files["user/model"]


def test_a_folder_is_used_as_it_is_without_a_request(hub: Hub, call: Call, tmp_path: Path):
    folder = tmp_path / "user" / "model"
    folder.mkdir(parents=True)
    (folder / "config.json").touch()
    output, status = call(f"print(hub.fetch_checkpoint({str(folder)!r}))", hub.address)
    assert (output.strip(), status) == (str(folder), 0)
    assert hub.asked == []


def test_the_token_is_sent_with_each_request(hub: Hub, call: Call):
    fetched(call, "user/model", hub.address, HF_TOKEN="hf_secret")
    assert set(hub.tokens) == {"Bearer hf_secret"}


def test_without_a_token_none_is_sent(hub: Hub, call: Call):
    fetched(call, "user/model", hub.address)
    assert set(hub.tokens) == {None}


@pytest.mark.parametrize("token", ["", "hf_secret"], ids=["401", "404"])
def test_an_unknown_repository_is_one_line(hub: Hub, call: Call, token: str):
    message = refusal(call(fetch("user/unknown"), hub.address, HF_TOKEN=token))
    assert message.startswith("user/unknown: no such repository on the Hub, or a private one")
    assert "HF_TOKEN" in message


@pytest.mark.parametrize("gate", ["GET /api/models/user/model", "HEAD /user/model/resolve/"], ids=["all", "files"])
def test_a_gated_repository_is_one_line(hub: Hub, call: Call, gate: str):
    hub.failures[gate] = (403, {"X-Error-Code": "GatedRepo"})
    message = refusal(call(fetch("user/model"), hub.address))
    assert message.startswith("user/model: gated; request access")
    assert "HF_TOKEN" in message


def test_an_invalid_token_is_one_line(hub: Hub, call: Call):
    hub.failures["GET /"] = (401, {"X-Error-Message": "Invalid credentials in Authorization header"})
    message = refusal(call(fetch("user/model"), hub.address, HF_TOKEN="hf_expired"))
    assert message.startswith("user/model: ")
    assert "HF_TOKEN" in message


def test_an_unknown_revision_is_one_line(hub: Hub, call: Call):
    message = refusal(call(fetch("user/model@nowhere"), hub.address))
    assert message == "user/model@nowhere: the repository has no such revision"


@pytest.mark.parametrize("source", ["a b c", "/no/such/folder", "user/model/more", "user//model"])
def test_an_invalid_id_is_one_line_without_a_request(hub: Hub, call: Call, source: str):
    message = refusal(call(fetch(source), hub.address))
    assert message == f"{source}: neither a file, a folder nor a Hub id such as google-bert/bert-base-uncased"
    assert hub.asked == []


def test_a_file_instead_of_a_folder_is_one_line(hub: Hub, call: Call, tmp_path: Path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"")
    message = refusal(call(fetch(str(path)), hub.address))
    assert message == f"{path}: has no config.json; give a folder with a checkpoint, or a Hub id"


def test_a_folder_without_a_config_is_one_line(hub: Hub, call: Call, tmp_path: Path):
    message = refusal(call(fetch(str(tmp_path)), hub.address))
    assert message == f"{tmp_path}: has no config.json; give a folder with a checkpoint, or a Hub id"


def test_a_repository_without_a_config_is_one_line(hub: Hub, call: Call):
    hub.files["user/model"] = {"README.md": b"", "tokenizer.json": b"{}"}
    message = refusal(call(fetch("user/model"), hub.address))
    assert message.startswith("user/model: has no config.json")


@pytest.mark.parametrize("offline", ["0", "1"])
def test_offline_with_an_empty_cache_is_one_line(call: Call, nowhere: str, offline: str):
    message = refusal(call(fetch("user/model"), nowhere, HF_HUB_OFFLINE=offline))
    assert message.startswith("user/model: not (completely) in the Hub's cache, and the Hub cannot be reached")
    assert "give a folder" in message


@pytest.mark.parametrize("status", [500, 503])
def test_a_hub_out_of_order_with_an_empty_cache_is_one_line(hub: Hub, call: Call, status: int):
    hub.failures["GET /"] = hub.failures["HEAD /"] = (status, {})
    message = refusal(call(fetch("user/model"), hub.address))
    assert message.startswith("user/model: not (completely) in the Hub's cache, and the Hub cannot be reached")
    assert "try again later" in message


@pytest.mark.parametrize("failing", ["HEAD config.json", "HEAD model.safetensors", "GET tokenizer.json"])
def test_a_rejected_file_is_one_line_and_no_other_file_replaces_it(hub: Hub, call: Call, failing: str):
    hub.files["user/model"] |= BIN
    method, name = failing.split()
    hub.failures[f"{method} /user/model/resolve/{COMMITS['main']}/{name}"] = (403, {})  # a 500 is retried for long
    message = refusal(call(fetch("user/model"), hub.address))
    assert message.startswith("user/model: ")
    assert not [request for request in hub.asked if request.endswith("pytorch_model.bin")]


def test_an_interrupted_download_is_not_used_offline(hub: Hub, call: Call, nowhere: str):
    hub.failures[f"HEAD /user/model/resolve/{COMMITS['main']}/model.safetensors"] = (403, {})
    refusal(call(fetch("user/model"), hub.address))
    line = "from minitext.models.hf_checkpoint import read_weights\nread_weights(hub.fetch_checkpoint('user/model'))"
    message = refusal(call(line, nowhere))
    # huggingface-hub 2 notices that a file is missing, version 1 returns the folder
    assert "not (completely) in the Hub's cache" in message or "has no weights" in message


# A server that accepts connections and does not answer

# a short limit, and no pauses between the attempts of huggingface-hub
IMPATIENT = """import time
from minitext.utils import download
download.SILENCE = 0.2
time.sleep = lambda seconds: None
"""
# huggingface-hub itself waits 10 s for the address of a file, six times; here 0.2 s
HURRY = """def hurry(request):
    request.extensions["timeout"] = dict.fromkeys(request.extensions["timeout"], 0.2)
download.limit_silence = hurry
"""
QUIET = {"HF_HUB_VERBOSITY": "error"}  # no line per attempt


@pytest.mark.parametrize("silent", ["GET /api/models/user/model/revision", "GET /api/models/user/model/tree"])
def test_a_silent_hub_is_one_line(hub: Hub, call: Call, silent: str):
    hub.silent.append(silent)
    message = refusal(call(IMPATIENT + fetch("user/model"), hub.address, **QUIET))
    assert message.startswith("user/model: ")
    assert "try again later" in message


def test_a_hub_that_falls_silent_at_a_file_is_one_line(hub: Hub, call: Call):
    hub.silent.append(f"HEAD /user/model/resolve/{COMMITS['main']}/model.safetensors")
    message = refusal(call(IMPATIENT + HURRY + fetch("user/model"), hub.address, **QUIET))
    assert message.startswith("user/model: ")
    assert "try again later" in message


def test_the_cache_is_used_while_the_hub_is_silent(hub: Hub, call: Call):
    fetched(call, "user/model", hub.address)
    hub.silent.append("GET /")
    output, status = call(IMPATIENT + fetch("user/model"), hub.address, **QUIET)
    assert (ast.literal_eval(output), status) == (FOLDER, 0)


@pytest.mark.slow
@pytest.mark.parametrize(
    "silent",
    ["POST /api/repos/create", "POST /api/models/user/new/preupload/", "POST /user/new.git/info/lfs/objects/batch",
     "PUT /put/", "POST /api/models/user/new/commit/"],
)  # fmt: skip
def test_a_push_to_a_silent_hub_is_one_line(hub: Hub, call: Call, push: str, silent: str):
    hub.silent.append(silent)
    message = refusal(call(IMPATIENT + push, hub.address, HF_TOKEN="hf_secret", **QUIET))
    assert message.startswith("user/new: ")
    assert "try again later" in message
    assert hub.commits == {}


# A home that cannot be written

NO_HOME = {"HOME": "/dev/null/home", "HF_HOME": "/dev/null/hf", "XDG_CACHE_HOME": "/dev/null/cache"}


@pytest.mark.parametrize("home", [NO_HOME, {"HOME": "", "HF_HOME": ""}], ids=["not writable", "none"])
def test_the_bundled_model_and_folders_need_no_home(call: Call, nowhere: str, tmp_path: Path, home: dict):
    (tmp_path / "config.json").touch()
    output, status = call(
        f"print(hub.fetch_checkpoint('sample'), hub.fetch_checkpoint({str(tmp_path)!r}))", nowhere, **home
    )
    assert (status, output.split()[1]) == (0, str(tmp_path))


def test_a_cache_that_cannot_be_written_is_one_line(hub: Hub, call: Call):
    message = refusal(call(fetch("user/model"), hub.address, **NO_HOME))
    assert message.startswith("user/model: ")
    assert "/dev/null/hf" in message and "set HF_HOME to another folder" in message


RUN = {
    name: f"the bytes of {name}\n".encode()
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "settings.json", "scores.json", "report.md")
} | {
    name: bytes(range(256)) + name.encode()
    for name in ("model.safetensors", "curves.png", "confusion.png", "probabilities.png", "reliability.png")
}


@pytest.fixture
def push(tmp_path: Path) -> str:
    """The line that pushes a finished run."""
    folder = tmp_path / "run"
    folder.mkdir()
    for name, content in (RUN | {"predictions.csv": b"private", "mistakes.csv": b"private"}).items():
        (folder / name).write_bytes(content)
    return f"hub.open_repository('user/new')\nprint(hub.push(Path({str(folder)!r}), 'user/new'))"


def uploaded(hub: Hub) -> dict[str, bytes]:
    """The files of the only commit, by name."""
    ((path, lines),) = hub.commits.items()
    assert path == "/api/models/user/new/commit/main"
    values = {line["value"]["path"]: (line["key"], line["value"]) for line in lines if line["key"] != "header"}
    return {
        name: hub.uploads[value["oid"]] if key == "lfsFile" else base64.b64decode(value["content"])
        for name, (key, value) in values.items()
    }


@pytest.mark.parametrize("exists", [False, True], ids=["new", "exists"])
def test_a_run_is_uploaded_with_its_report_as_the_model_card(hub: Hub, call: Call, push: str, exists: bool):
    if exists:
        hub.files["user/new"] = {}
    output, status = call(push, hub.address, HF_TOKEN="hf_secret")
    assert (output.strip(), status) == (f"{hub.address}/user/new", 0)
    assert [(asked["organization"], asked["name"]) for asked in hub.created] == [("user", "new")]
    expected = {"README.md" if name == "report.md" else name: content for name, content in RUN.items()}
    assert uploaded(hub) == expected
    assert all(hashlib.sha256(content).hexdigest() == name for name, content in hub.uploads.items())
    own = [token for token, request in zip(hub.tokens, hub.asked, strict=True) if not request.startswith("PUT")]
    assert set(own) == {"Bearer hf_secret"}


@pytest.mark.parametrize(
    ("failing", "status"),
    [
        ("POST /api/repos/create", 401),
        ("POST /api/repos/create", 403),
        ("POST /api/models/user/new/preupload/", 401),
        ("POST /user/new.git/info/lfs/objects/batch", 403),
        ("PUT /put/", 403),
        ("POST /api/models/user/new/commit/", 403),
    ],
)
def test_a_rejected_push_is_one_line_and_commits_nothing(hub: Hub, call: Call, push: str, failing: str, status: int):
    hub.failures[failing] = (status, {})
    message = refusal(call(push, hub.address, HF_TOKEN="hf_secret"))
    assert message.startswith("user/new: ")
    assert hub.commits == {}
    if status == 401:
        assert "HF_TOKEN" in message


@pytest.mark.parametrize("offline", ["0", "1"])
def test_a_push_without_a_network_is_one_line(call: Call, push: str, nowhere: str, offline: str):
    message = refusal(call(push, nowhere, HF_TOKEN="hf_secret", HF_HUB_OFFLINE=offline))
    assert message.startswith("user/new: ")
    assert "request to the Hub failed" in message


def test_a_run_with_a_missing_file_is_one_line_and_commits_nothing(hub: Hub, call: Call, push: str, tmp_path: Path):
    (tmp_path / "run" / "report.md").unlink()
    message = refusal(call(push, hub.address, HF_TOKEN="hf_secret"))
    assert message.startswith("user/new: ")
    assert "report.md" in message
    assert hub.commits == {}


@pytest.mark.parametrize("repository", ["a b c", "name", "user/a b"])
def test_a_push_to_an_incomplete_id_is_one_line_without_a_request(hub: Hub, call: Call, repository: str):
    assert refusal(call(f"hub.open_repository({repository!r})", hub.address)).startswith(f"{repository}: ")
    assert hub.asked == []
