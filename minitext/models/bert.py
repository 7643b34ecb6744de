"""BERT (Devlin et al. 2019, arXiv:1810.04805) and relatives, with classification and masked-LM heads.

Inputs: packed batches (`data/batching.py`). Outputs: hidden states, class logits, or logits of masked tokens.
Shapes: B texts, T tokens of a text, N tokens of a batch, M masked tokens, H hidden, A heads, D head width (H / A),
E width of the token embedding, C classes, V vocabulary.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from minitext.data.batching import Batch
from minitext.utils.errors import UserError

varlen_attn = None
if torch.cuda.is_available():  # only CUDA has the kernel, and the import takes a second
    try:
        from torch.nn.attention.varlen import varlen_attn  # torch 2.10 and later
    except ImportError:
        pass

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


class SequenceInfo(NamedTuple):
    """Where each text of a packed batch is. `lengths` is None where the variable-length kernel is used."""

    cu_seqlens: Tensor  # (B + 1,) int32
    max_seqlen: int
    lengths: tuple[int, ...] | None


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
        """A packed batch to `(B, C)` logits. Every text needs at least one token."""
        return self.head(self.encoder(batch, first_only=True))

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

    def forward(self, batch: Batch, first_only: bool = False) -> Tensor:
        """Hidden states `(N, H)`; with `first_only` those of first tokens, `(B, H)`: the last layer omits the rest."""
        return self.encode(self.embed(batch.ids, batch.positions), self.sequence_info(batch), first_only)

    def sequence_info(self, batch: Batch) -> SequenceInfo:
        """The layout of a batch."""
        drops_attention = self.training and self.config.attention_dropout > 0  # which the kernel does not support
        head_width = self.config.hidden_size // self.config.num_heads
        use_kernel = not drops_attention and can_use_varlen(batch.ids.device, head_width)
        return SequenceInfo(batch.cu_seqlens, max(batch.lengths), None if use_kernel else batch.lengths)

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
        self.attention = SelfAttention(config)
        self.attention_norm = nn.LayerNorm(config.hidden_size, config.norm_eps)
        self.mlp = MLP(config)
        self.mlp_norm = nn.LayerNorm(config.hidden_size, config.norm_eps)

    def forward(self, hidden: Tensor, sequence: SequenceInfo, first_only: bool = False) -> Tensor:
        """`(N, H)` to `(N, H)`, or to the first tokens' `(B, H)` with `first_only`."""
        queries = hidden[sequence.cu_seqlens[:-1]] if first_only else hidden  # (B, H) or (N, H)
        attn = self.attention(queries, hidden, sequence)
        hidden = self.attention_norm(queries + F.dropout(attn, self.dropout, self.training))
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
        if queries is hidden:
            query, key, value = self.qkv(hidden).chunk(3, dim=-1)  # each (N, H)
        else:
            size = hidden.shape[-1]
            query = F.linear(queries, self.qkv.weight[:size], self.qkv.bias[:size])  # (B, H)
            key, value = F.linear(hidden, self.qkv.weight[size:], self.qkv.bias[size:]).chunk(2, dim=-1)
        query, key, value = (part.unflatten(-1, (self.num_heads, -1)) for part in (query, key, value))  # (N, A, D)
        return self.output(attend(query, key, value, sequence, self.dropout if self.training else 0.0))


class MLP(nn.Module):
    """Linear, activation, Linear: the position-wise network of a layer."""

    def __init__(self, config: BertConfig):
        super().__init__()
        self.activation = config.activation
        self.up = nn.Linear(config.hidden_size, config.intermediate_size)
        self.down = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.down(ACTIVATIONS[self.activation](self.up(hidden)))


def attend(query: Tensor, key: Tensor, value: Tensor, sequence: SequenceInfo, dropout: float) -> Tensor:
    """softmax(Q K' / sqrt(D)) V within each text: (N, A, D) to (N, H); queries (B, A, D), one per text, to (B, H)."""
    one_per_text = len(query) < len(key)
    if sequence.lengths is None:
        query_cu_seqlens, query_longest = cu_seqlens, longest = sequence.cu_seqlens, sequence.max_seqlen
        if one_per_text:
            query_cu_seqlens = torch.arange(len(cu_seqlens), dtype=torch.int32, device=cu_seqlens.device)
            query_longest = 1
        return varlen_attn(query, key, value, query_cu_seqlens, cu_seqlens, query_longest, longest).flatten(1)
    query_lengths = [1] * len(sequence.lengths) if one_per_text else sequence.lengths
    parts = query.split(query_lengths), key.split(sequence.lengths), value.split(sequence.lengths)
    outputs = []
    for text in zip(*parts, strict=True):
        q, k, v = (part.transpose(0, 1).unsqueeze(0) for part in text)  # (1, A, T, D)
        outputs.append(F.scaled_dot_product_attention(q, k, v, dropout_p=dropout)[0].transpose(0, 1))  # (T, A, D)
    return torch.cat(outputs).flatten(1)


def can_use_varlen(device: torch.device, head_width: int) -> bool:
    """Whether torch's variable-length kernel serves this call, see `mha_varlen_fwd` in pytorch's flash_api.cpp."""
    if device.type != "cuda" or varlen_attn is None or head_width % 8 or head_width > 256:
        return False
    half = torch.is_autocast_enabled("cuda") and torch.get_autocast_dtype("cuda") in (torch.float16, torch.bfloat16)
    has_flash_attention = torch.backends.cuda.is_flash_attention_available()
    return half and has_flash_attention and torch.cuda.get_device_capability(device) >= (8, 0)


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
