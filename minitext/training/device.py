"""The device of a run, and the dtype that it computes in.

Inputs: the values of `--device` and `--precision`, and torchrun's LOCAL_RANK. Outputs: a device, a dtype.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from minitext.utils.errors import UserError

CPU_INFO = Path("/proc/cpuinfo")
# Training in bfloat16, 8 texts of 30 to 240 tokens, took 1.3 times as long as in float32 with 192 hidden units, as long
# with 256, and 0.7 times as long with 384: oneDNN compiles for each new number of tokens, which few units do not repay.
# With 384 hidden units and 200, 480 and 960 tokens in a forward pass it took 1.2, 0.6 and 0.5 times as long: each pass
# casts all weights.
AMX_HIDDEN_SIZE = 384
AMX_TOKENS = 400
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def pick_device(name: str, auto_mps: bool = True) -> torch.device:
    """The device with a name of torch's. `auto` is CUDA, else Apple's MPS if `auto_mps`, else the CPU.

    Small models gain nothing by MPS, which has no kernel for embedding bags before torch 2.10 (pytorch#162270).
    Under torchrun, `cuda` is the GPU of this process. A CUDA device with an index also becomes the current device.
    """
    num_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    available = {"cuda": num_gpus > 0, "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(kind for kind, exists in available.items() if exists and (auto_mps or kind != "mps"))
    if name == "cuda" and num_gpus and "LOCAL_RANK" in os.environ:
        # some launchers show each process only its own GPU, which is then cuda:0
        name = f"cuda:{int(os.environ['LOCAL_RANK']) % num_gpus}"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"--device {name}: unknown device; give auto, cpu, cuda, cuda:1 or mps") from error
    if not available.get(device.type, False) or (device.type == "cuda" and (device.index or 0) >= num_gpus):
        devices = [f"cuda:{index}" for index in range(num_gpus)]
        devices += [kind for kind in ("mps", "cpu") if available[kind]]
        raise UserError(f"--device {name}: this machine does not have it; available: {', '.join(devices)}")
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)
    return device


def pick_dtype(name: str, device: torch.device, hidden_size: int = 0, tokens: float = 0) -> torch.dtype:
    """The autocast dtype of a precision. Weights, sums and losses stay in float32.

    `auto` is bfloat16 on GPUs that compute in it, float16 (with loss scaling) on older ones, bfloat16 on CPUs with
    AMX for encoders of at least AMX_HIDDEN_SIZE hidden units if a forward pass has at least AMX_TOKENS `tokens` on
    average, and float32 elsewhere.
    """
    if name != "auto":
        return PRECISIONS[name]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    is_large = hidden_size >= AMX_HIDDEN_SIZE and tokens >= AMX_TOKENS
    return torch.bfloat16 if device.type == "cpu" and is_large and has_amx() else torch.float32


def has_amx() -> bool:
    """Whether this CPU multiplies bfloat16 matrices in tiles (Intel's AMX), as far as Linux tells; elsewhere False."""
    try:
        flags = re.search(r"^flags\s*:(.*)$", CPU_INFO.read_text(encoding="utf-8", errors="replace"), re.MULTILINE)
    except OSError:
        return False
    return flags is not None and "amx_bf16" in flags[1].split() and torch.backends.mkldnn.is_available()


def compute_settings(device: torch.device, dtype: torch.dtype, processes: int = 1) -> dict[str, str | int]:
    """For `settings.json`: the precision, with which a run has to be resumed, and the devices, which may change."""
    precision = next(name for name, value in PRECISIONS.items() if value == dtype)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return {"precision": precision, "device": name, "processes": processes}


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch compute in one thread: on small operations two took twice the CPU time, and longer on busy cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
