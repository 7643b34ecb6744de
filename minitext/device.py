"""Which processor a run uses."""

import torch

from minitext.errors import UserError


def pick_device(name: str) -> torch.device:
    """`auto` takes CUDA, then Apple's MPS, then the CPU; any name of torch's is taken as it is.

    Raises UserError when this machine lacks the named one.
    """
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return torch.device(next(kind for kind, here in available.items() if here))
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"--device {name}: unknown; give auto, cpu, cuda, cuda:1 or mps") from error
    if not available.get(device.type, False) or device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        here = ", ".join(kind for kind, there in available.items() if there)
        raise UserError(f"--device {name}: this machine and this build of torch offer: {here}")
    return device
