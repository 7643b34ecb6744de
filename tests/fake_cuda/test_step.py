"""One update and one evaluation of every model on the GPU: all tensors fit together, and the host waits once."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.amp import GradScaler

from fake_cuda.counting import CUDA, FakeCollator, fake_cuda, fake_model
from minitext.data.batching import PackCollator
from minitext.data.tokenizer import TokenizedTexts
from minitext.evaluation import predict
from minitext.models.bert import BertClassifier, BertConfig, BertMaskedLM
from minitext.models.embedding_bag import EmbeddingBagClassifier, NetworkConfig
from minitext.models.hf_names import FAMILIES, read_config
from minitext.pretraining.masking import MLMCollator
from minitext.pretraining.mlm import evaluate_mlm
from minitext.training.distributed import SINGLE
from minitext.training.micro_batches import MicroBatches
from minitext.training.optim import build_optimizers
from minitext.training.step import StepConfig, train_step

DTYPES = (torch.bfloat16, torch.float16, torch.float32)
SIZES = {"vocab_size": 500, "hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 2,
         "intermediate_size": 96, "max_position_embeddings": 80, "dim": 48, "n_layers": 3, "n_heads": 2,
         "hidden_dim": 96}  # fmt: skip
NUM_TEXTS = 6


def texts(longest: int = 70, count: int = NUM_TEXTS) -> TokenizedTexts:
    """Texts of different lengths, the first ones of one length; one has a single token."""
    lengths = torch.tensor([longest] * (count - 3) + [longest // 2, 7, 1])
    ids = torch.randint(5, 400, (int(lengths.sum()),), dtype=torch.int32, generator=torch.Generator().manual_seed(0))
    return TokenizedTexts(ids, F.pad(lengths.cumsum(0), (1, 0)))


def config(family: str, **changes: object) -> BertConfig:
    sizes = SIZES | ({"embedding_size": 16} if family == "electra" else {})
    return read_config({"model_type": family, **sizes, "attention_probs_dropout_prob": 0.0, "attention_dropout": 0.0}
                       | changes, "test")  # fmt: skip


def classifier(family: str = "bert", **changes: object) -> nn.Module:
    return BertClassifier(config(family, **changes), 2)


def frozen() -> nn.Module:
    model = classifier()
    model.encoder.requires_grad_(False)
    model.encoder.layers[1:].requires_grad_(True)
    return model


def checkpointed() -> nn.Module:
    model = classifier()
    model.encoder.checkpointing = True
    return model


def masked_lm(family: str = "bert") -> nn.Module:
    return BertMaskedLM(config(family))


def scratch(**settings: object) -> nn.Module:
    return EmbeddingBagClassifier(500, 2, NetworkConfig(8, 8, **({"ngrams": 1, "buckets": 100} | settings)))


MODELS: dict[str, Callable[[], nn.Module]] = {
    "frozen layers": frozen,
    "gradient checkpointing": checkpointed,
    "heads of width 10": lambda: classifier(hidden_size=20),
    "windows": lambda: classifier(),
    "attention dropout": lambda: classifier(attention_probs_dropout_prob=0.1),
    "scratch": scratch,
    "scratch with n-grams": lambda: scratch(ngrams=2, binary_counts=True),
}
for name, family in FAMILIES.items():
    MODELS[name] = lambda name=name: classifier(name)
    if family.masked_lm:
        MODELS[f"masked LM of {name}"] = lambda name=name: masked_lm(name)

CASES = [(name, torch.bfloat16) for name in MODELS]  # every model in bfloat16, one of each kind in all dtypes
CASES += [(name, dtype) for name in ("bert", "frozen layers", "gradient checkpointing", "masked LM of bert", "scratch")
          for dtype in DTYPES[1:]]  # fmt: skip
MODELS["BERT-base"] = lambda: BertClassifier(BertConfig(30522, attention_dropout=0.0), 2)  # too large for every case
each_case = pytest.mark.parametrize(("name", "dtype"), CASES, ids=[f"{name} {dtype}" for name, dtype in CASES])


class Counts(NamedTuple):
    waits: list[str]
    launches: int
    dtypes: set[torch.dtype]  # of all gradients


def collator(name: str) -> FakeCollator:
    """The batches that a model expects."""
    model, tokens = MODELS[name](), texts()
    if isinstance(model, BertMaskedLM):
        return FakeCollator(MLMCollator(tokens, 0, 3, (0, 1, 2, 3), 400))
    tokens = model.features(tokens) if isinstance(model, EmbeddingBagClassifier) else tokens
    tokens = tokens._replace(window=20 if name == "windows" else None)
    return FakeCollator(PackCollator(tokens, torch.zeros(NUM_TEXTS, dtype=torch.int64)))


def count_update(name: str, dtype: torch.dtype, max_texts: int = NUM_TEXTS) -> Counts:
    """The second update of a model, from its batches on the host on."""
    data = collator(name)
    with fake_cuda() as usage:
        model = fake_model(MODELS[name])
        scaler = GradScaler("cuda", enabled=dtype == torch.float16)
        optimizers = build_optimizers(model, "adamw", 1e-3, 0.01)
        num_classes = 500 if isinstance(model, BertMaskedLM) else 2
        step_config = StepConfig(dtype, 1.0, torch.ones(num_classes, device=CUDA))
        steps, totals = [np.arange(NUM_TEXTS)] * 2, []
        for micro_batches in MicroBatches(data, steps, [0, 0], max_texts, CUDA, SINGLE):
            result = train_step(model, micro_batches, optimizers, scaler, step_config)
            totals.append((len(usage.waits), usage.launches.total()))
        assert not result.skipped
        gradients = [parameter.grad for parameter in model.parameters() if parameter.requires_grad]
        assert all(gradient.device.type == "cuda" for gradient in gradients)
    (waits, launches), (_, all_launches) = totals  # after the first update, and after the second one with its copies
    return Counts(usage.waits[waits:], all_launches - launches, {gradient.dtype for gradient in gradients})


def count_evaluation(name: str, dtype: torch.dtype) -> list[str]:
    """The waits of an evaluation in three batches."""
    data, predict.GPU_TOKENS = collator(name), 100
    with fake_cuda() as usage:
        model = fake_model(MODELS[name])
        if isinstance(model, BertMaskedLM):
            evaluate_mlm(model, data, 2, dtype)
        else:
            assert predict.predict_logits(model, data, 2, CUDA, dtype).shape == (NUM_TEXTS, 2)
    return usage.waits


@each_case
def test_an_update_waits_once_and_its_gradients_are_float32(on_fake_cuda, name: str, dtype: torch.dtype):
    waits, _, dtypes = on_fake_cuda(count_update, name, dtype)
    assert (waits, dtypes) == (["tolist"], {torch.float32})


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", ["bert", "windows", "masked LM of bert"])  # fake sparse gradients cannot be added up
def test_an_update_from_micro_batches_waits_once(on_fake_cuda, name: str, dtype: torch.dtype):
    assert on_fake_cuda(count_update, name, dtype, 2).waits == ["tolist"]


def test_an_update_of_bert_base_launches_at_most_700_kernels(on_fake_cuda):
    """Launches take the host about 5 us each; with as many as an update had at first, 1,150, the GPU waits for them."""
    for dtype in (torch.bfloat16, torch.float16):
        assert on_fake_cuda(count_update, "BERT-base", dtype).launches <= 700  # 650 and 665


@each_case
def test_an_evaluation_waits_once_at_its_end(on_fake_cuda, name: str, dtype: torch.dtype):
    assert len(on_fake_cuda(count_evaluation, name, dtype)) == 1
