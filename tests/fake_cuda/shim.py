"""Compiles `hooks.cpp` on first use, and starts processes that have loaded it.

Torch asks for its CUDA hooks once in a process, and keeps the answer: the tests of the suite's own process must not see
them. So fake CUDA tensors live in a process of their own, which loads the hooks before it imports torch.
"""

import ctypes
import hashlib
import importlib.util
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from pathlib import Path

SOURCE = Path(__file__).with_name("hooks.cpp")


def torch_folder() -> Path:
    return Path(importlib.util.find_spec("torch").origin).parent


def reason_to_skip() -> str | None:
    """Why this machine has no fake CUDA tensors; None if it has."""
    if sys.platform != "linux":
        return "fake CUDA tensors are tested on Linux only"
    if shutil.which("g++") is None:
        return "fake CUDA tensors need a compiler, g++"
    if (torch_folder() / "lib" / "libtorch_cuda.so").exists():
        return "fake CUDA tensors need a CPU build of torch: the hooks of a CUDA build cannot be replaced"
    return None


def build_hooks(folder: Path) -> Path:
    """The compiled hooks of this torch in the cache `folder`; compiled (2 s) if missing. Safe in parallel processes."""
    key = hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:12]
    library = folder / f"hooks-torch-{version('torch')}-{key}.so"
    if not library.exists():
        folder.mkdir(parents=True, exist_ok=True)
        root = torch_folder()
        includes = [f"-I{root}/include", f"-I{root}/include/torch/csrc/api/include"]
        with tempfile.TemporaryDirectory(dir=folder) as temporary:
            output = Path(temporary) / library.name
            command = ["g++", "-shared", "-fPIC", "-O1", "-std=c++20", *includes, f"-L{root}/lib"]
            command += ["-lc10", "-ltorch_cpu", str(SOURCE), "-o", str(output)]
            subprocess.run(command, check=True, timeout=300)
            os.replace(output, library)  # atomic: another process sees no file or a complete one
    return library


def load_hooks(library: Path) -> None:
    """Load the hooks into this process, and let torch's Python code believe in an H100. Before torch is imported."""
    assert "torch" not in sys.modules
    for name in ("libc10.so", "libtorch_cpu.so"):
        ctypes.CDLL(str(torch_folder() / "lib" / name), mode=ctypes.RTLD_GLOBAL)
    ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
    import torch

    torch.set_num_threads(1)
    torch.cuda._lazy_init = lambda: None
    torch.cuda.is_available = lambda: True
    torch.cuda.is_bf16_supported = lambda including_emulation=True: True
    torch.cuda.get_device_capability = lambda device=None: (9, 0)
    torch.backends.cuda.is_flash_attention_available = lambda: True
    torch.cuda.amp.common.amp_definitely_not_available = lambda: False  # else GradScaler disables itself


def start_process(library: Path) -> ProcessPoolExecutor:
    """One new process with the hooks: what is submitted to it may use fake CUDA tensors."""
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(1, context, initializer=load_hooks, initargs=(library,))


def call(function: Callable, *arguments: object) -> object:
    """The result of `function`; its error, which may not be picklable, as a RuntimeError that is."""
    try:
        return function(*arguments)
    except Exception:  # noqa: BLE001
        message = traceback.format_exc()
    raise RuntimeError(message)
