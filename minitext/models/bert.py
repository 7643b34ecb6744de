"""BERT (Devlin et al. 2019, arXiv:1810.04805) and relatives, with classification and masked-LM heads.

Inputs: packed batches (`data/batching.py`). Outputs: hidden states, class logits, or logits of masked tokens.
Shapes: B texts (in the encoder, sequences), S sequences (texts or their windows), T tokens of a sequence, N tokens of a
batch, M masked tokens, H hidden, A heads, D head width (H / A), E width of the token embedding, C classes,
V vocabulary.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from minitext.data.batching import Batch
from minitext.data.windows import mean_by_text
from minitext.models.attention import SequenceInfo, attend, can_use_varlen
from minitext.utils.errors import UserError

ACTIVATIONS = {
    "gelu": F.gelu,  # exact, with the error function (Hendrycks & Gimpel 2016)
    "gelu_new": lambda x: F.gelu(x, approximate="tanh"),
    "gelu_pytorch_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "relu": F.relu,
    "tanh": torch.tanh,
}


@dataclass(frozen=True)
class BertConfig:
    """Sizes and settings of an encoder and its heads."""

    vocab_size: int
    hidden_size: int = 768  # H
    num_layers: int = 12
    num_heads: int = 12  # A
    intermediate_size: int = 3072  # units of a layer's MLP
    max_positions: int = 512  # rows of the position table
    first_position: int = 0  # row of a text's first token; RoBERTa does not use the rows up to its padding id
    num_token_types: int = 2  # rows of the token-type table; single-segment inputs use type 0. DistilBERT has none
    embedding_size: int | None = None  # E; None: H. ELECTRA's small models embed in fewer dimensions
    activation: str = "gelu"
    norm_eps: float = 1e-12
    dropout: float = 0.1  # of hidden states
    dropout_after_attention: bool = True  # of hidden states, as after the MLP; DistilBERT has none
    attention_dropout: float = 0.1  # of attention weights
    head_dropout: float = 0.1
    head_activation: str = "tanh"
    masked_lm_activation: str | None = None  # None: activation
    dropout_before_head: bool = False  # RoBERTa and ELECTRA also apply dropout before the first matrix of the head
    initializer_range: float = 0.02  # standard deviation of new weights

    def __post_init__(self) -> None:
        if self.num_heads < 1 or self.hidden_size % self.num_heads:
            raise UserError(f"hidden_size {self.hidden_size} is not divisible by {self.num_heads} heads")
        for name in filter(None, (self.activation, self.head_activation, self.masked_lm_activation)):
            if name not in ACTIVATIONS:
                raise UserError(f"unsupported activation {name!r}; supported: {', '.join(ACTIVATIONS)}")

    @property
    def max_length(self) -> int:
        """Largest number of tokens of a text."""
        return self.max_positions - self.first_position

    @property
    def token_width(self) -> int:
        """E, the width of the token embedding."""
        return self.embedding_size or self.hidden_size


class BertClassifier(nn.Module):
    """An encoder, and on the hidden state of each first token: Linear, activation, dropout, Linear."""

    def __init__(self, config: BertConfig, num_classes: int):
        super().__init__()
        self.config = config
        self.encoder = BertEncoder(config)
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)  # BERT's pooler
        self.output = nn.Linear(config.hidden_size, num_classes)
        init_weights(self, config.initializer_range)

    def forward(self, batch: Batch) -> Tensor:
        """A packed batch to `(B, C)` logits. Every text needs at least one token; windows are averaged."""
        logits = self.head(self.encoder(batch, first_only=True))  # (S, C)
        return logits if batch.windows is None else mean_by_text(logits, batch.windows)

    def head(self, hidden: Tensor) -> Tensor:
        """`(B, H)` hidden states to `(B, C)` logits, in float32: half precision would round logits to three digits."""
        with torch.autocast(hidden.device.type, enabled=False):
            hidden = hidden.to(self.dense.weight.dtype)
            if self.config.dropout_before_head:
                hidden = F.dropout(hidden, self.config.head_dropout, self.training)
            hidden = ACTIVATIONS[self.config.head_activation](self.dense(hidden))
            return self.output(F.dropout(hidden, self.config.head_dropout, self.training))


class BertMaskedLM(nn.Module):
    """An encoder, and on each masked token: Linear, activation, norm, and the transpose of the token embedding."""

    def __init__(self, config: BertConfig):
        super().__init__()
        self.config = config
        self.encoder = BertEncoder(config)
        self.dense = nn.Linear(config.hidden_size, config.token_width)
        self.norm = nn.LayerNorm(config.token_width, config.norm_eps)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))
        init_weights(self, config.initializer_range)

    def forward(self, batch: Batch) -> Tensor:
        """`(M, V)` logits of the tokens `batch.masked` alone: logits of all tokens would be most of the work."""
        activation = ACTIVATIONS[self.config.masked_lm_activation or self.config.activation]
        hidden = self.norm(activation(self.dense(self.encoder(batch).index_select(0, batch.masked))))  # (M, E)
        return F.linear(hidden, self.encoder.token_embedding.weight, self.bias)  # tied (Press & Wolf 2017)


class BertEncoder(nn.Module):
    """Embeddings and layers. With `checkpointing`, the backward pass recomputes each layer to save memory."""

    def __init__(self, config: BertConfig):
        super().__init__()
        self.config = config
        self.checkpointing = False  # Chen et al. 2016, "Training deep nets with sublinear memory cost"
        width = config.token_width
        self.token_embedding = nn.Embedding(config.vocab_size, width)
        self.position_embedding = nn.Embedding(config.max_positions, width)
        self.type_embedding = nn.Embedding(config.num_token_types, width) if config.num_token_types else None
        self.norm = nn.LayerNorm(width, config.norm_eps)
        self.project = nn.Linear(width, config.hidden_size) if config.embedding_size else None
        self.layers = nn.ModuleList(BertLayer(config) for _ in range(config.num_layers))

    def compile_layers(self, backend: str | Callable = "inductor") -> None:
        """Compile each layer by torch.compile when it is first called, for batches of any number of tokens.

        All layers share their graphs: the last one has its own, and so have training and evaluation, and one text.
        """
        torch._dynamo.config.recompile_limit = 32  # beyond it, torch would silently stop compiling; its default is 8
        for layer in self.layers:
            layer.compile(dynamic=True, backend=backend)

    def forward(self, batch: Batch, first_only: bool = False) -> Tensor:
        """Hidden states `(N, H)`; with `first_only` those of first tokens, `(B, H)`: the last layer omits the rest."""
        num_rows = len(batch.lengths) if first_only else len(batch.ids)
        batch = align(batch, token_multiple(batch.ids.device))
        return self.encode(self.embed(batch.ids, batch.positions), self.sequence_info(batch), first_only)[:num_rows]

    def sequence_info(self, batch: Batch) -> SequenceInfo:
        """The layout of a batch."""
        drops_attention = self.training and self.config.attention_dropout > 0  # which the kernel does not support
        head_width = self.config.hidden_size // self.config.num_heads
        use_kernel = not drops_attention and can_use_varlen(batch.ids.device, head_width)
        return SequenceInfo(batch.cu_seqlens, max(batch.lengths), batch.lengths, use_kernel)

    def embed(self, ids: Tensor, positions: Tensor) -> Tensor:
        """Sum of token, position and type embeddings, normalized. `(N,)` ids and positions to `(N, H)`."""
        hidden = self.token_embedding(ids) + self.position_embedding(positions + self.config.first_position)  # (N, E)
        if self.type_embedding is not None:
            hidden = hidden + self.type_embedding.weight[0]
        hidden = F.dropout(self.norm(hidden), self.config.dropout, self.training)
        return hidden if self.project is None else self.project(hidden)

    def encode(self, hidden: Tensor, sequence: SequenceInfo, first_only: bool = False) -> Tensor:
        """`(N, H)` embeddings through all layers to `(N, H)`, or `(B, H)` with `first_only`."""
        recompute = self.checkpointing and self.training
        for layer in self.layers:
            arguments = hidden, sequence, first_only and layer is self.layers[-1]
            hidden = checkpoint(layer, *arguments, use_reentrant=False) if recompute else layer(*arguments)
        return hidden


class BertLayer(nn.Module):
    """Self-attention and an MLP, each added to its input and normalized after (post-layer-norm)."""

    def __init__(self, config: BertConfig):
        super().__init__()
        self.dropout = config.dropout
        self.attention_dropout = config.dropout if config.dropout_after_attention else 0.0
        self.attention = SelfAttention(config)
        self.attention_norm = nn.LayerNorm(config.hidden_size, config.norm_eps)
        self.mlp = MLP(config)
        self.mlp_norm = nn.LayerNorm(config.hidden_size, config.norm_eps)

    def forward(self, hidden: Tensor, sequence: SequenceInfo, first_only: bool = False) -> Tensor:
        """`(N, H)` to `(N, H)`, or to the first tokens' `(B, H)` with `first_only`."""
        queries = hidden.index_select(0, sequence.cu_seqlens[:-1]) if first_only else hidden  # (B, H) or (N, H)
        attn = self.attention(queries, hidden, sequence)
        hidden = self.attention_norm(queries + F.dropout(attn, self.attention_dropout, self.training))
        return self.mlp_norm(hidden + F.dropout(self.mlp(hidden), self.dropout, self.training))


class SelfAttention(nn.Module):
    """Multi-head self-attention within each text (Vaswani et al. 2017, section 3.2)."""

    def __init__(self, config: BertConfig):
        super().__init__()
        self.num_heads, self.dropout = config.num_heads, config.attention_dropout
        self.qkv = nn.Linear(config.hidden_size, 3 * config.hidden_size)  # three matrices, one product
        self.output = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, queries: Tensor, hidden: Tensor, sequence: SequenceInfo) -> Tensor:
        """Queries come from `queries`, (N, H) or (B, H), keys and values from `hidden`, (N, H)."""
        weight, bias, output_weight, output_bias = cast_parameters(self.qkv, self.output)
        if queries is hidden:
            query, key, value = F.linear(hidden, weight, bias).chunk(3, dim=-1)  # each (N, H)
        else:
            size = hidden.shape[-1]
            query = F.linear(queries, weight[:size], bias[:size])  # (B, H)
            key, value = F.linear(hidden, weight[size:], bias[size:]).chunk(2, dim=-1)
        query, key, value = (part.unflatten(-1, (self.num_heads, -1)) for part in (query, key, value))  # (N, A, D)
        attn = attend(query, key, value, sequence, self.dropout if self.training else 0.0)  # (N, H) or (B, H)
        return F.linear(attn, output_weight, output_bias)


class MLP(nn.Module):
    """Linear, activation, Linear: the position-wise network of a layer."""

    def __init__(self, config: BertConfig):
        super().__init__()
        self.activation = config.activation
        self.up = nn.Linear(config.hidden_size, config.intermediate_size)
        self.down = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, hidden: Tensor) -> Tensor:
        up_weight, up_bias, down_weight, down_bias = cast_parameters(self.up, self.down)
        return F.linear(ACTIVATIONS[self.activation](F.linear(hidden, up_weight, up_bias)), down_weight, down_bias)


class CastTogether(torch.autograd.Function):
    """Casts tensors, and their gradients back, by one kernel for all of them."""

    @staticmethod
    def forward(ctx, dtype: torch.dtype, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.dtype = tensors[0].dtype
        copies = [torch.empty_like(tensor, dtype=dtype) for tensor in tensors]
        torch._foreach_copy_(copies, tensors)
        return tuple(copies)

    @staticmethod
    def backward(ctx, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        copies = [torch.empty_like(gradient, dtype=ctx.dtype) for gradient in gradients]
        torch._foreach_copy_(copies, gradients)
        return None, *copies


def cast_parameters(*modules: nn.Linear) -> list[Tensor]:
    """Weight and bias of each module in the dtype of autocast, which alone would cast each one by a kernel of its own.

    The gradients come back in the dtype of the parameters. A compiler joins the casts with what follows.
    """
    parameters = [tensor for module in modules for tensor in (module.weight, module.bias)]
    device = parameters[0].device.type
    if device != "cuda" or torch.compiler.is_compiling() or not torch.is_autocast_enabled(device):
        return parameters  # a CPU has no such kernel: a forward pass took 10 % longer
    return list(CastTogether.apply(torch.get_autocast_dtype(device), *parameters))


def align(batch: Batch, multiple: int) -> Batch:
    """A batch with one text more, so that the number of its tokens is a multiple: only the last rows are its own."""
    count = -len(batch.ids) % multiple
    if not count:
        return batch
    ids, positions = F.pad(batch.ids, (0, count)), F.pad(batch.positions, (0, count))
    cu_seqlens = F.pad(batch.cu_seqlens, (0, 1), value=len(ids))
    return batch._replace(ids=ids, positions=positions, cu_seqlens=cu_seqlens, lengths=(*batch.lengths, count))


def token_multiple(device: torch.device) -> int:
    """The N of a batch is rounded up to a multiple: a GPU's products are faster, and its memory has fewer sizes."""
    return 64 if device.type == "cuda" else 1


@torch.no_grad()
def init_weights(model: nn.Module, std: float) -> None:
    """BERT's initialization: matrices and embeddings normal with deviation `std`, biases zero, norms the identity."""
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, 0.0, std)
        if isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)
        if isinstance(module, nn.LayerNorm):
            module.reset_parameters()
