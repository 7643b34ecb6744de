"""Which processor a run uses, and in which precision it computes."""

import os

import torch

from minitext.utils.errors import UserError

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def pick_device(name: str) -> torch.device:
    """`auto` takes CUDA, then Apple's MPS, then the CPU; any name of torch's is taken as it is.

    Raises UserError when this machine lacks the named one.
    """
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(kind for kind, here in available.items() if here)
    if name == "cuda" and "LOCAL_RANK" in os.environ:  # torchrun: a process for each GPU
        name = f"cuda:{os.environ['LOCAL_RANK']}"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"--device {name}: unknown; give auto, cpu, cuda, cuda:1 or mps") from error
    beyond = device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count()
    if beyond or not available.get(device.type, False):
        here = ", ".join(kind for kind, there in available.items() if there)
        raise UserError(f"--device {name}: this machine and this build of torch offer: {here}")
    return device


def pick_precision(name: str, device: torch.device) -> torch.dtype:
    """The type that matrix products are computed in; weights and sums stay in float32.

    `auto`: bfloat16 where the GPU computes in it, float16 (whose small range needs loss scaling) on older CUDA GPUs,
    float32 elsewhere.
    """
    if name != "auto":
        return PRECISIONS[name]
    if device.type != "cuda":
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
