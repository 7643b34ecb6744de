"""The encoder of Devlin et al. 2019 ("BERT", arXiv:1810.04805) and its kin, with a head on top.

In: `(B, T)` token ids and their mask. Out: hidden states, class logits `(B, C)`, or logits of masked tokens `(M, V)`.
One encoder serves BERT, RoBERTa, DistilBERT and ELECTRA: they differ in a few settings, which `families.py` reads from
a checkpoint. Letters: B texts, T tokens, N tokens of all texts, H hidden, A heads, C classes, V vocabulary, E width of
the token embedding, M masked tokens.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from minitext.utils.errors import UserError

varlen_attn = None
if torch.cuda.is_available():  # nothing else has the kernel, and a second of every start would go to its import
    try:  # torch 2.10 and later; it attends within each text of a packed batch, no padding anywhere
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        pass

ACTIVATIONS = {
    "gelu": F.gelu,  # with the error function (Hendrycks & Gimpel 2016)
    "gelu_new": lambda x: F.gelu(x, approximate="tanh"),  # as Google's and OpenAI's code had it
    "gelu_pytorch_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "relu": F.relu,
    "tanh": torch.tanh,
}


@dataclass(frozen=True)
class BertConfig:
    """The shape of an encoder."""

    vocabulary: int
    width: int = 768  # H
    layers: int = 12
    heads: int = 12
    inner: int = 3072  # units of a layer's feed-forward network
    positions: int = 512  # rows of the position table
    first_position: int = 0  # row of a text's first token; RoBERTa leaves the rows up to its padding id unused
    types: int = 2  # rows of the token-type table; one text is all of type 0. DistilBERT has none
    token_width: int | None = None  # E; None: H. ELECTRA's small models embed in fewer dimensions
    activation: str = "gelu"
    norm_eps: float = 1e-12
    dropout: float = 0.1  # of hidden states
    attention_dropout: float = 0.1  # of attention weights
    head_dropout: float = 0.1
    head_activation: str = "tanh"
    masked_lm_activation: str | None = None  # None: activation
    head_drops_first: bool = False  # RoBERTa's and ELECTRA's heads drop out before their first matrix as well
    init_std: float = 0.02  # of new weights

    def __post_init__(self) -> None:
        if self.heads < 1 or self.width % self.heads:
            raise UserError(f"a width of {self.width} cannot be shared by {self.heads} attention heads")
        for name in filter(None, (self.activation, self.head_activation, self.masked_lm_activation)):
            if name not in ACTIVATIONS:
                raise UserError(f"activation {name!r}: known are {', '.join(ACTIVATIONS)}")

    @property
    def longest(self) -> int:
        """Most tokens of a text."""
        return self.positions - self.first_position

    @property
    def embedding_width(self) -> int:
        return self.token_width or self.width


class Layout(NamedTuple):
    """How the tokens of a batch lie in `hidden`: padded `(B, T, H)`, or packed end to end `(N, H)`."""

    mask: Tensor | None  # padded: (B, 1, 1, T) bool, or None where every token is real
    starts: Tensor | None = None  # packed: (B + 1,) int32, where each text starts
    longest: int = 0  # packed: tokens of the longest text


class BertClassifier(nn.Module):
    """An encoder, and on its first token's hidden state: Linear, activation, dropout, Linear."""

    def __init__(self, config: BertConfig, classes: int):
        super().__init__()
        self.config = config
        self.encoder = BertEncoder(config)
        self.dense = nn.Linear(config.width, config.width)  # BERT calls it the pooler
        self.output = nn.Linear(config.width, classes)
        init_weights(self, config.init_std)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """`(B, T)` ids with a bool mask, True is a real token, to `(B, C)` logits."""
        hidden = self.encoder(ids, mask, first_only=True)  # (B, H)
        if self.config.head_drops_first:
            hidden = F.dropout(hidden, self.config.head_dropout, self.training)
        hidden = ACTIVATIONS[self.config.head_activation](self.dense(hidden))
        return self.output(F.dropout(hidden, self.config.head_dropout, self.training))


class BertMaskedLM(nn.Module):
    """An encoder, and on chosen tokens: Linear, activation, norm, and the token embedding's transpose."""

    def __init__(self, config: BertConfig):
        super().__init__()
        self.config = config
        self.encoder = BertEncoder(config)
        self.dense = nn.Linear(config.width, config.embedding_width)
        self.norm = nn.LayerNorm(config.embedding_width, config.norm_eps)
        self.bias = nn.Parameter(torch.zeros(config.vocabulary))
        init_weights(self, config.init_std)

    def forward(self, ids: Tensor, mask: Tensor, chosen: Tensor) -> Tensor:
        """`chosen`: (B, T) bool, the M tokens to predict, in reading order. Returns `(M, V)` logits of these alone: of
        all tokens they would be most of the work.
        """
        hidden = self.encoder(ids, mask)[chosen]  # (M, H)
        activation = ACTIVATIONS[self.config.masked_lm_activation or self.config.activation]
        hidden = self.norm(activation(self.dense(hidden)))  # (M, E)
        return F.linear(hidden, self.encoder.tokens.weight, self.bias)  # tied (Press & Wolf 2017)


class BertEncoder(nn.Module):
    """Embeddings and layers. `checkpointing` computes a layer's inside again in the backward pass, to save memory."""

    def __init__(self, config: BertConfig):
        super().__init__()
        self.config = config
        self.checkpointing = False  # Chen et al. 2016, "Training deep nets with sublinear memory cost"
        self.tokens = nn.Embedding(config.vocabulary, config.embedding_width)
        self.positions = nn.Embedding(config.positions, config.embedding_width)
        self.types = nn.Embedding(config.types, config.embedding_width) if config.types else None
        self.norm = nn.LayerNorm(config.embedding_width, config.norm_eps)
        self.project = nn.Linear(config.embedding_width, config.width) if config.token_width else None
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))

    def forward(self, ids: Tensor, mask: Tensor, first_only: bool = False) -> Tensor:
        """Hidden states `(B, T, H)`; with `first_only` the first token's, `(B, H)`.

        The last layer then computes for that token alone what no other token is asked for: queries, feed-forward,
        norms. Hidden states of padding are undefined. A text of no tokens is read as one token of padding.
        """
        mask = mask.clone()
        mask[:, 0] = True
        drops_attention = self.training and self.config.attention_dropout > 0  # which the packed kernel cannot
        if can_pack(ids.device) and not drops_attention:
            return self.forward_packed(ids, mask, first_only)
        layout = Layout(None if mask.all() else mask[:, None, None, :])
        hidden = self.encode(self.embed(ids, torch.arange(ids.shape[1], device=ids.device)), layout, first_only)
        return hidden[:, 0] if first_only else hidden

    def forward_packed(self, ids: Tensor, mask: Tensor, first_only: bool) -> Tensor:
        """The same from real tokens only, end to end: no layer sees padding."""
        places = mask.flatten().nonzero().squeeze(1)  # (N,)
        starts = F.pad(mask.sum(dim=1).cumsum(0), (1, 0)).int()  # (B + 1,)
        hidden = self.embed(ids.flatten()[places], places % ids.shape[1])  # (N, H)
        hidden = self.encode(hidden, Layout(None, starts, ids.shape[1]), first_only)
        if first_only:
            return hidden
        return hidden.new_zeros(ids.numel(), hidden.shape[1]).index_copy(0, places, hidden).view(*ids.shape, -1)

    def embed(self, ids: Tensor, positions: Tensor) -> Tensor:
        """Token, position and type vectors, summed and normalised; `positions` count from 0 in each text."""
        hidden = self.tokens(ids) + self.positions(positions + self.config.first_position)
        if self.types is not None:
            hidden = hidden + self.types.weight[0]
        hidden = F.dropout(self.norm(hidden), self.config.dropout, self.training)
        return hidden if self.project is None else self.project(hidden)

    def encode(self, hidden: Tensor, layout: Layout, first_only: bool) -> Tensor:
        for number, layer in enumerate(self.layers, 1):
            arguments = hidden, layout, first_only and number == len(self.layers)
            if self.checkpointing and self.training:
                hidden = checkpoint(layer, *arguments, use_reentrant=False)
            else:
                hidden = layer(*arguments)
        return hidden


class Layer(nn.Module):
    """Attention and a feed-forward network, each added to its input and normalised after (post-layer-norm)."""

    def __init__(self, config: BertConfig):
        super().__init__()
        self.heads, self.activation = config.heads, config.activation
        self.dropout, self.attention_dropout = config.dropout, config.attention_dropout
        self.query_key_value = nn.Linear(config.width, 3 * config.width)  # three matrices, one product
        self.attended = nn.Linear(config.width, config.width)
        self.attention_norm = nn.LayerNorm(config.width, config.norm_eps)
        self.inner = nn.Linear(config.width, config.inner)
        self.outer = nn.Linear(config.inner, config.width)
        self.norm = nn.LayerNorm(config.width, config.norm_eps)

    def forward(self, hidden: Tensor, layout: Layout, first_only: bool = False) -> Tensor:
        """Hidden states in the layout they came in; with `first_only` each text's first, `(B, 1, H)` or `(B, H)`."""
        query, key, value = self.projections(hidden, layout, first_only)
        if first_only:
            hidden = first_tokens(hidden, layout)
        mixed = self.attended(self.attend(query, key, value, layout))
        hidden = self.attention_norm(hidden + F.dropout(mixed, self.dropout, self.training))
        fed = self.outer(ACTIVATIONS[self.activation](self.inner(hidden)))
        return self.norm(hidden + F.dropout(fed, self.dropout, self.training))

    def projections(self, hidden: Tensor, layout: Layout, first_only: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, each split into heads, `(..., A, H / A)`."""
        if first_only:
            width = hidden.shape[-1]
            weight, bias = self.query_key_value.weight, self.query_key_value.bias
            query = F.linear(first_tokens(hidden, layout), weight[:width], bias[:width])
            key, value = F.linear(hidden, weight[width:], bias[width:]).chunk(2, dim=-1)
        else:
            query, key, value = self.query_key_value(hidden).chunk(3, dim=-1)
        return tuple(part.unflatten(-1, (self.heads, -1)) for part in (query, key, value))

    def attend(self, query: Tensor, key: Tensor, value: Tensor, layout: Layout) -> Tensor:
        """softmax(Q K' / sqrt(H / A)) V in each head (Vaswani et al. 2017, section 3.2), heads joined again."""
        if layout.starts is None:
            query, key, value = (part.transpose(1, 2) for part in (query, key, value))  # (B, A, T, H / A)
            dropout = self.attention_dropout if self.training else 0.0
            mixed = F.scaled_dot_product_attention(query, key, value, layout.mask, dropout)
            return mixed.transpose(1, 2).flatten(2)  # (B, T, H)
        starts, longest = layout.starts, layout.longest
        one_each = len(query) < len(key)
        asking = torch.arange(len(starts), dtype=torch.int32, device=starts.device) if one_each else starts
        return varlen_attn(query, key, value, asking, starts, 1 if one_each else longest, longest).flatten(1)  # (N, H)


def first_tokens(hidden: Tensor, layout: Layout) -> Tensor:
    """Of each text the first token's hidden state: `(B, 1, H)` of padded, `(B, H)` of packed ones."""
    return hidden[:, :1] if layout.starts is None else hidden[layout.starts[:-1].long()]


def can_pack(device: torch.device) -> bool:
    """Whether torch has the variable-length kernel for this device and precision (half precisions only)."""
    halves = torch.is_autocast_enabled(device.type) and torch.get_autocast_dtype(device.type) != torch.float32
    return device.type == "cuda" and varlen_attn is not None and halves


@torch.no_grad()
def init_weights(model: nn.Module, std: float) -> None:
    """New weights as BERT draws them: matrices and embeddings normal, biases zero, norms the identity."""
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, 0.0, std)
        if isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)
        if isinstance(module, nn.LayerNorm):
            module.reset_parameters()


def training_flops(config: BertConfig, lengths: Tensor) -> float:
    """Floating-point operations of one forward and backward pass over texts of these lengths, (B,), first_only.

    Two a weight and token forward, twice that backward (Kaplan et al. 2020, section 2.1), and the attention's two
    products. What is not computed is not counted: padding, and most of the last layer.
    """
    tokens, squares, texts = float(lengths.sum()), float((lengths.double() ** 2).sum()), len(lengths)
    width, inner = config.width, config.inner
    layer = 2 * tokens * (4 * width * width + 2 * width * inner) + 4 * squares * width
    last = 2 * (2 * tokens + 2 * texts) * width * width + 4 * texts * width * inner + 4 * tokens * width
    return 3 * ((config.layers - 1) * layer + last)
