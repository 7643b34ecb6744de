"""The process in which fake CUDA tensors live."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fake_cuda.shim import build_hooks, call, reason_to_skip, start_process

CACHE = Path.home() / ".cache" / "minitext" / "fake_cuda"


@pytest.fixture(scope="package")
def on_fake_cuda() -> Iterator[Callable]:
    """Calls a function, with picklable arguments, in that process; errors come back with their traceback."""
    reason = reason_to_skip()
    if reason:
        pytest.skip(reason)
    with start_process(build_hooks(CACHE)) as process:
        yield lambda function, *arguments: process.submit(call, function, *arguments).result(timeout=300)
