"""Self-attention within each text of a packed batch (Vaswani et al. 2017, section 3.2).

Inputs: queries, keys and values of all texts, end to end. Outputs: one mixture of values per query.
Shapes: B texts, T tokens of a text, N tokens of a batch, H hidden, A heads, D head width (H / A).
"""

from dataclasses import dataclass
from itertools import groupby

import torch
import torch.nn.functional as F
from torch import Tensor

varlen_attn = None
if torch.cuda.is_available():  # only CUDA has the kernel, and the import takes a second
    try:
        from torch.nn.attention.varlen import varlen_attn  # torch 2.10 and later
    except ImportError:
        pass

MAX_HEAD_WIDTH = 192  # the backward pass of wider heads fails on cards of the GeForce line (sm86, sm89, sm120)
MAX_EXPLICIT_LENGTH = 256  # tokens; in longer texts the weights, (T, T) per head, take too much memory


@dataclass  # not a tuple: torch.compile would make a new graph for each number of lengths
class SequenceInfo:
    """Where each text of a packed batch is."""

    cu_seqlens: Tensor  # (B + 1,) int32
    max_seqlen: int
    lengths: tuple[int, ...]  # of the B texts
    use_kernel: bool = False  # torch's variable-length kernel, see `can_use_varlen`


def attend(query: Tensor, key: Tensor, value: Tensor, sequence: SequenceInfo, dropout: float) -> Tensor:
    """softmax(Q K' / sqrt(D)) V within each text: (N, A, D) to (N, H); queries (B, A, D), one per text, to (B, H)."""
    if not sequence.use_kernel:
        return attend_by_length(query, key, value, sequence, dropout)
    query_cu_seqlens, query_longest = cu_seqlens, longest = sequence.cu_seqlens, sequence.max_seqlen
    if len(query) < len(key):
        query_cu_seqlens = torch.arange(len(cu_seqlens), dtype=torch.int32, device=cu_seqlens.device)
        query_longest = 1
    return varlen_attn(query, key, value, query_cu_seqlens, cu_seqlens, query_longest, longest).flatten(1)


@torch.compiler.disable  # a graph would serve one list of lengths only
def attend_by_length(query: Tensor, key: Tensor, value: Tensor, sequence: SequenceInfo, dropout: float) -> Tensor:
    """`attend` where there is no variable-length kernel: consecutive texts of one length are one batch."""
    counts = [len(list(run)) for _, run in groupby(sequence.lengths)]  # texts of each run
    sizes = [sum(run) for _, run in groupby(sequence.lengths)]  # tokens of each run
    query_sizes = counts if len(query) < len(key) else sizes
    outputs = []
    for count, *parts in zip(counts, query.split(query_sizes), key.split(sizes), value.split(sizes), strict=True):
        q, k, v = (part.unflatten(0, (count, -1)).transpose(1, 2) for part in parts)  # (count, A, T, D)
        outputs.append(attend_equal_lengths(q, k, v, dropout).transpose(1, 2).flatten(0, 1))  # (count * T, A, D)
    return torch.cat(outputs).flatten(1)


def attend_equal_lengths(query: Tensor, key: Tensor, value: Tensor, dropout: float) -> Tensor:
    """Attention in a batch of texts of one length, (B, A, T, D).

    While training in bfloat16 on a CPU, matrix products take a third to two thirds of the time of torch's kernel, whose
    backward pass is slow; in evaluation the kernel is faster.
    """
    training_on_cpu = query.requires_grad and query.device.type == "cpu"
    if training_on_cpu and query.dtype == torch.bfloat16 and key.shape[-2] <= MAX_EXPLICIT_LENGTH:
        # softmax computes in float32 and rounds its result
        weights = (query * query.shape[-1] ** -0.5 @ key.transpose(-2, -1)).softmax(dim=-1)  # (B, A, T, T)
        return F.dropout(weights, dropout) @ value
    return F.scaled_dot_product_attention(query, key, value, dropout_p=dropout)


def can_use_varlen(device: torch.device, head_width: int) -> bool:
    """Whether torch's variable-length kernel serves this call, see `mha_varlen_fwd` in pytorch's flash_api.cpp."""
    if device.type != "cuda" or varlen_attn is None or head_width % 8 or head_width > MAX_HEAD_WIDTH:
        return False
    half = torch.is_autocast_enabled("cuda") and torch.get_autocast_dtype("cuda") in (torch.float16, torch.bfloat16)
    has_flash_attention = torch.backends.cuda.is_flash_attention_available()
    return half and has_flash_attention and torch.cuda.get_device_capability(device) >= (8, 0)
