"""The hooks are compiled once for each torch, also by processes that start together."""

import subprocess
from pathlib import Path

import pytest

from fake_cuda import shim
from fake_cuda.shim import build_hooks, reason_to_skip


def test_without_a_compiler_the_reason_is_named(monkeypatch):
    monkeypatch.setattr(shim.shutil, "which", lambda name: None)
    assert "compiler" in reason_to_skip()


def test_with_a_cuda_build_of_torch_the_reason_is_named(monkeypatch, tmp_path):
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "libtorch_cuda.so").touch()
    monkeypatch.setattr(shim.shutil, "which", lambda name: "/usr/bin/g++")
    monkeypatch.setattr(shim, "torch_folder", lambda: tmp_path)
    assert "CPU build of torch" in reason_to_skip()


def fake_compiler(monkeypatch, calls: list[Path], fails: bool = False) -> None:
    def run(command: list[str], **options) -> None:
        calls.append(Path(command[-1]))
        calls[-1].write_text("half of a library")
        if fails:
            raise subprocess.CalledProcessError(1, command)

    monkeypatch.setattr(shim.subprocess, "run", run)


def test_the_library_of_each_torch_is_compiled_once(monkeypatch, tmp_path):
    calls: list[Path] = []
    fake_compiler(monkeypatch, calls)
    first = build_hooks(tmp_path)
    assert (build_hooks(tmp_path), len(calls)) == (first, 1)
    monkeypatch.setattr(shim, "version", lambda name: "9.9")
    assert build_hooks(tmp_path) != first and len(calls) == 2
    assert len(list(tmp_path.iterdir())) == 2  # and nothing temporary


def test_a_library_appears_complete_or_not_at_all(monkeypatch, tmp_path):
    calls: list[Path] = []
    fake_compiler(monkeypatch, calls, fails=True)
    with pytest.raises(subprocess.CalledProcessError):
        build_hooks(tmp_path)
    assert calls[0].parent.parent == tmp_path and not list(tmp_path.iterdir())
