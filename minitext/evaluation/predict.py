"""Logits of many texts, and the scores of an evaluation on validation.

Inputs: a model and a collator. Outputs: `(B, C)` logits in the order of the data.
Shapes: B texts, C classes.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from minitext.data.batching import Collator, evaluation_batches, load_batches
from minitext.evaluation.metrics import average_scores, class_counts, confusion_matrix
from minitext.training.distributed import SINGLE, Distributed

GPU_TOKENS = 32_768  # of a forward pass on CUDA: about 1 GB with BERT-base (estimated, not measured on a card)


@torch.inference_mode()
def predict_logits(
    model: nn.Module,
    collator: Collator,
    batch_size: int,
    device: torch.device,
    dtype: torch.dtype,
    *,
    distributed: Distributed = SINGLE,
    quiet: bool = True,
) -> Tensor:
    """Logits of all texts, `(B, C)` float32 on the CPU, without dropout.

    A batch has at most `batch_size` texts, and no more tokens than as many windows if there are windows; on CUDA, at
    most GPU_TOKENS tokens instead. With several processes each one computes its shard of the batches, and all get all
    logits.
    """
    model.eval()
    num_texts, num_classes = len(collator.data.offsets) - 1, model.output.out_features
    window = collator.data.window
    limits = (batch_size, None if window is None else batch_size * window)
    if device.type == "cuda":
        limits = (max(num_texts, 1), GPU_TOKENS)
    batches = distributed.shard(evaluation_batches(collator.data.lengths().numpy(), *limits))
    logits = torch.zeros(num_texts, num_classes, device=device)  # copied to the host once, at the end
    loaded = load_batches(collator, batches, pin=device.type == "cuda")
    for batch in tqdm(loaded, "predicting", len(batches), leave=False, disable=quiet or None):
        batch = batch.to(device)
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            logits[batch.indices] = model(batch).float()
    return distributed.all_reduce_sum(logits).cpu()


def probabilities(logits: Tensor) -> np.ndarray:
    """`(B, C)` float64 softmax of float32 logits.

    In float32, rounding would make some of them equal, and the most probable class would not be the logits' argmax.
    """
    return logits.double().softmax(dim=1).numpy()


def classification_metrics(logits: Tensor, labels: Tensor) -> dict[str, float]:
    """Loss (nats), accuracy and macro F1 of `(B, C)` logits."""
    confusion = confusion_matrix(labels.numpy(), logits.argmax(dim=1).numpy(), logits.shape[1])
    scores = average_scores(*class_counts(confusion))
    metrics = {name: float(scores[name]) for name in ("accuracy", "macro_f1")}
    return {"loss": F.cross_entropy(logits.double(), labels).item()} | metrics
