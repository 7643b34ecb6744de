"""A model's logits for many texts, and the scores that a check on validation needs.

In: a model and padded batches. Out: `(N, C)` logits in the texts' own order, whatever order they were computed in.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from minitext.data.batching import PackCollator, evaluation_batches, load_batches
from minitext.evaluation.metrics import averages, confusion_matrix
from minitext.training.distributed import SINGLE, Distributed


@torch.inference_mode()
def predict_logits(
    model: nn.Module,
    data: PackCollator,
    batch: int,
    device: torch.device,
    precision: torch.dtype,
    quiet: bool = True,
    team: Distributed = SINGLE,
) -> Tensor:
    """Logits of all texts in their own order, `(N, C)` float32 on the CPU, with dropout off.

    Each process of a team computes its share of the batches, each text once, and all get all logits.
    """
    model.eval()
    batches = team.share(evaluation_batches(data.data.lengths().numpy(), batch))
    rows, logits = [torch.empty(0, dtype=torch.int64)], []
    pieces = load_batches(data, batches) if batches else ()
    for piece in tqdm(pieces, "predicting", len(batches), leave=False, disable=quiet or None):
        rows.append(piece.rows)
        piece = piece.to(device)
        with torch.autocast(device.type, precision, enabled=precision != torch.float32):
            logits.append(model(piece.ids, piece.mask).float().cpu())
    if team.size == 1:
        return torch.cat(logits)[torch.cat(rows).argsort()]
    classes = team.total(torch.tensor([logits[0].shape[1] if logits else 0, bool(logits)], device=device))
    whole = torch.zeros(len(data.labels), int(classes[0] / classes[1]), device=device)  # a share may be empty
    if logits:
        whole[torch.cat(rows).to(device)] = torch.cat(logits).to(device)
    return team.total(whole).cpu()


def classification_metrics(logits: Tensor, labels: Tensor) -> dict[str, float]:
    """Loss, accuracy and macro-F1 of (N, C) logits."""
    confusion = confusion_matrix(labels.numpy(), logits.argmax(dim=1).numpy(), logits.shape[1])
    scores = averages(confusion)
    return {
        "loss": F.cross_entropy(logits.double(), labels).item(),
        "accuracy": float(scores["accuracy"]),
        "macro_f1": float(scores["macro_f1"]),
    }
