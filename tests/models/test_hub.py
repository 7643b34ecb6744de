"""Proves that a checkpoint comes whole from the Hub or from its cache, that a run arrives there byte for byte, and that
whatever goes wrong is one line with its remedy. The Hub is one of our own, on 127.0.0.1 (hub_server.py).

huggingface-hub reads its address, cache and token from the environment when it is imported: each call is a process.
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
    """An address at which nobody answers."""
    with socket.socket() as taken:  # bound, but not listening: nobody else gets the port
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


@pytest.fixture
def call(tmp_path: Path) -> Call:
    """Run a line of Python against a Hub, in a process of its own: its output and its exit status.

    All calls of a test share a cache.
    """

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
        code = f"from pathlib import Path\nfrom minitext.models import hub\nfrom minitext.models import hf_checkpoint as pretrained\n{line}"
        return run_child(code, environment | more, tmp_path / "output")

    return run


def fetch(source: str) -> str:
    """The line that fetches a checkpoint and prints its files."""
    return f"print({{path.name: path.read_bytes() for path in hub.fetch_checkpoint({source!r}).iterdir()}})"


def fetched(call: Call, source: str, endpoint: str, **more: str) -> dict[str, bytes]:
    """The files of a checkpoint that could be fetched."""
    output, status = call(fetch(source), endpoint, **more)
    assert status == 0, output
    assert output.count("\n") == 1
    return ast.literal_eval(output)


def refusal(answer: tuple[str, int]) -> str:
    """The one line of a call that failed as it should."""
    output, status = answer
    assert status == 2, output
    assert output.count("\n") == 1, output
    assert output.startswith("error: "), output
    return output.removeprefix("error: ").strip()


def test_a_checkpoint_is_fetched_and_no_file_is_asked_for_that_is_not_there(hub: Hub, call: Call):
    hub.files["user/model"] |= BIN | {"flax_model.msgpack": b"not for us"}
    assert fetched(call, "user/model", hub.address) == FOLDER
    got = [request.split("/")[-1] for request in hub.asked if request.startswith("GET /user/model/resolve/")]
    assert sorted(got) == sorted(FOLDER)  # no pytorch_model.bin: safetensors are preferred
    assert not [request for request in hub.asked if request.endswith(("bin", "msgpack", "vocab.txt"))]


def test_what_was_fetched_once_is_served_without_a_network(hub: Hub, call: Call, nowhere: str):
    fetched(call, "user/model", hub.address)
    asked = len(hub.asked)
    assert fetched(call, "user/model", nowhere) == FOLDER
    assert fetched(call, "user/model", hub.address, HF_HUB_OFFLINE="1") == FOLDER
    assert len(hub.asked) == asked


def test_what_was_fetched_once_is_not_fetched_again(hub: Hub, call: Call):
    fetched(call, "user/model", hub.address)
    hub.asked.clear()
    assert fetched(call, "user/model", hub.address) == FOLDER
    assert not [request for request in hub.asked if request.startswith("GET /user/model/resolve/")]


@pytest.mark.parametrize("status", [500, 503, 429, 0], ids=["500", "503", "429", "no answer"])
def test_while_the_hub_is_out_of_order_the_cache_has_to_do(hub: Hub, call: Call, status: int):
    fetched(call, "user/model", hub.address)
    hub.asked.clear()
    hub.failures["GET /"] = hub.failures["HEAD /"] = (status, {})
    output, exit_code = call(f"hub.TIMEOUT = 0.5\n{fetch('user/model')}", hub.address)
    assert exit_code == 0, output
    assert ast.literal_eval(output) == FOLDER
    assert len(hub.asked) == 1  # it is not asked again for each file


def test_a_revision_is_named_behind_an_at_sign(hub: Hub, call: Call):
    hub.files["user/model@old"] = FOLDER | {"model.safetensors": b"old weights"}
    assert fetched(call, "user/model@old", hub.address)["model.safetensors"] == b"old weights"
    assert fetched(call, "user/model", hub.address) == FOLDER
    assert fetched(call, "user/model@", hub.address) == FOLDER  # nothing behind it is main


def test_a_revision_is_found_in_the_cache_too(hub: Hub, call: Call, nowhere: str):
    commit = COMMITS["old"]
    hub.files[f"user/model@{commit}"] = FOLDER | {"model.safetensors": b"old weights"}
    there = fetched(call, f"user/model@{commit}", hub.address)
    assert there["model.safetensors"] == b"old weights"
    assert fetched(call, f"user/model@{commit}", nowhere) == there
    assert "cannot be reached" in refusal(call(fetch("user/model"), nowhere))  # main was never fetched


def test_shards_follow_their_index(hub: Hub, call: Call, nowhere: str):
    index = {
        "weight_map": {
            "a": "model-1-of-2.safetensors",
            "b": "model-2-of-2.safetensors",
            "c": "model-1-of-2.safetensors",
        }
    }
    shards = {"model-1-of-2.safetensors": b"one", "model-2-of-2.safetensors": b"two"}
    files = {"config.json": b"{}", "model.safetensors.index.json": json.dumps(index).encode(), **shards}
    hub.files["user/model"] = files | BIN | {"model-3-of-2.safetensors": b"not in the index"}
    assert fetched(call, "user/model", hub.address) == files
    assert fetched(call, "user/model", nowhere) == files


def test_a_shard_that_lies_outside_the_folder_is_never_asked_for(hub: Hub, call: Call):
    index = {"weight_map": {"a": "../../config.json"}}
    hub.files["user/model"] = {"config.json": b"{}", "model.safetensors.index.json": json.dumps(index).encode()}
    assert "outside its folder" in refusal(call(fetch("user/model"), hub.address))
    assert not [request for request in hub.asked if ".." in request]


def test_a_legacy_bin_is_fetched_where_there_is_nothing_else(hub: Hub, call: Call):
    hub.files["user/model"] = {"config.json": b"{}", "vocab.txt": b"[PAD]\n", **BIN}
    assert fetched(call, "user/model", hub.address) == hub.files["user/model"]


def test_a_folder_is_its_own_checkpoint_and_the_hub_is_not_asked(hub: Hub, call: Call, tmp_path: Path):
    folder = tmp_path / "user" / "model"
    folder.mkdir(parents=True)
    output, status = call(f"print(hub.fetch_checkpoint({str(folder)!r}))", hub.address)
    assert (output.strip(), status) == (str(folder), 0)
    assert hub.asked == []


def test_the_token_travels_with_each_request(hub: Hub, call: Call):
    fetched(call, "user/model", hub.address, HF_TOKEN="hf_secret")
    assert set(hub.tokens) == {"Bearer hf_secret"}


def test_without_a_token_none_travels(hub: Hub, call: Call):
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
    assert message.startswith("user/model: gated; ask for access")
    assert "HF_TOKEN" in message


def test_a_token_that_is_not_accepted_is_one_line(hub: Hub, call: Call):
    hub.failures["GET /"] = (401, {"X-Error-Message": "Invalid credentials in Authorization header"})
    message = refusal(call(fetch("user/model"), hub.address, HF_TOKEN="hf_expired"))
    assert message.startswith("user/model: ")
    assert "HF_TOKEN" in message


def test_an_unknown_revision_is_one_line(hub: Hub, call: Call):
    message = refusal(call(fetch("user/model@nowhere"), hub.address))
    assert message == "user/model@nowhere: the repository has no such revision"


@pytest.mark.parametrize("source", ["a b c", "/no/such/folder", "user/model/more", "user//model"])
def test_what_is_no_id_is_one_line_and_the_hub_is_not_asked(hub: Hub, call: Call, source: str):
    message = refusal(call(fetch(source), hub.address))
    assert message == f"{source}: neither a folder nor a Hub id such as google-bert/bert-base-uncased"
    assert hub.asked == []


def test_a_file_instead_of_a_folder_is_one_line(hub: Hub, call: Call, tmp_path: Path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"")
    message = refusal(call(fetch(str(path)), hub.address))
    assert message == f"{path}: a file; give the folder with its config.json, or a Hub id"


def test_a_repository_without_a_config_is_one_line(hub: Hub, call: Call):
    hub.files["user/model"] = {"model.gguf": b"for another program"}
    message = refusal(call(fetch("user/model"), hub.address))
    assert message.startswith("user/model: the repository has no config.json")


@pytest.mark.parametrize("offline", ["0", "1"])
def test_without_a_network_and_nothing_in_the_cache_is_one_line(call: Call, nowhere: str, offline: str):
    message = refusal(call(fetch("user/model"), nowhere, HF_HUB_OFFLINE=offline))
    assert message.startswith("user/model: not in the Hub's cache, and the Hub cannot be reached")
    assert "give a folder" in message


@pytest.mark.parametrize("status", [500, 503])
def test_a_hub_that_is_out_of_order_and_nothing_in_the_cache_is_one_line(hub: Hub, call: Call, status: int):
    hub.failures["GET /"] = hub.failures["HEAD /"] = (status, {})
    message = refusal(call(fetch("user/model"), hub.address))
    assert message.startswith("user/model: not in the Hub's cache, and the Hub cannot be reached")
    assert "try again later" in message
    assert len(hub.asked) == 1


@pytest.mark.parametrize("failing", ["HEAD /user/model/resolve/main/config.json",
                                     "HEAD /user/model/resolve/main/model.safetensors",
                                     "GET /user/model/resolve/main/tokenizer.json"])  # fmt: skip
def test_a_listed_file_that_is_refused_is_one_line_and_nothing_else_is_taken_for_it(hub: Hub, call: Call, failing: str):
    hub.files["user/model"] |= BIN
    hub.failures[failing] = (403, {})  # huggingface-hub asks again for half a minute after a 500
    message = refusal(call(fetch("user/model"), hub.address))
    assert message.startswith("user/model: ")
    assert not [request for request in hub.asked if request.endswith("pytorch_model.bin")]


def test_a_cached_config_whose_weights_never_came_is_one_line(hub: Hub, call: Call, nowhere: str):
    hub.failures["HEAD /user/model/resolve/main/model.safetensors"] = (403, {})
    refusal(call(fetch("user/model"), hub.address))  # breaks off with the config in the cache
    message = refusal(call("print(pretrained.read_weights(hub.fetch_checkpoint('user/model')))", nowhere))
    assert "has no weights" in message


RUN = {
    name: f"the bytes of {name}\n".encode()
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "settings.json", "scores.json", "report.md")
} | {
    name: bytes(range(256)) + name.encode()
    for name in ("model.safetensors", "curves.png", "confusion.png", "probabilities.png", "reliability.png")
}


@pytest.fixture
def push(tmp_path: Path) -> str:
    """The line that pushes a finished run; the run."""
    folder = tmp_path / "run"
    folder.mkdir()
    for name, content in (RUN | {"predictions.csv": b"the user's own", "mistakes.csv": b"their texts"}).items():
        (folder / name).write_bytes(content)
    return f"hub.open_repository('user/new')\nprint(hub.push(Path({str(folder)!r}), 'user/new'))"


def arrived(hub: Hub) -> dict[str, bytes]:
    """The files of the only commit, as they would be read back."""
    ((path, lines),) = hub.commits.items()
    assert path == "/api/models/user/new/commit/main"
    values = {line["value"]["path"]: (line["key"], line["value"]) for line in lines if line["key"] != "header"}
    return {
        name: hub.uploads[value["oid"]] if key == "lfsFile" else base64.b64decode(value["content"])
        for name, (key, value) in values.items()
    }


@pytest.mark.parametrize("exists", [False, True], ids=["new", "there already"])
def test_a_run_is_pushed_byte_for_byte_with_its_report_as_the_model_card(hub: Hub, call: Call, push: str, exists: bool):
    if exists:
        hub.files["user/new"] = {}
    output, status = call(push, hub.address, HF_TOKEN="hf_secret")
    assert (output.strip(), status) == (f"{hub.address}/user/new", 0)
    assert [(asked["organization"], asked["name"]) for asked in hub.created] == [("user", "new")]
    expected = {"README.md" if name == "report.md" else name: content for name, content in RUN.items()}
    assert arrived(hub) == expected
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
def test_a_push_that_is_refused_is_one_line_and_commits_nothing(
    hub: Hub, call: Call, push: str, failing: str, status: int
):
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
    assert "offline mode" in message if offline == "1" else "refused" in message


def test_a_run_that_lacks_a_file_is_one_line_and_commits_nothing(hub: Hub, call: Call, push: str, tmp_path: Path):
    (tmp_path / "run" / "report.md").unlink()
    message = refusal(call(push, hub.address, HF_TOKEN="hf_secret"))
    assert message.startswith("user/new: ")
    assert "report.md" in message
    assert hub.commits == {}


@pytest.mark.parametrize("repository", ["a b c", "name", "user/a b"])
def test_a_push_to_what_is_no_full_id_is_one_line_before_anything_is_sent(hub: Hub, call: Call, repository: str):
    assert refusal(call(f"hub.open_repository({repository!r})", hub.address)).startswith(f"{repository}: ")
    assert hub.asked == []
