"""Text classification in plain PyTorch, without high-level trainers.

from minitext import Predictor

predictor = Predictor.load("runs/finetune")
predictor.predict_proba(["A warm and funny film."])  # (1, C)
"""

import os
import sys

__version__ = "0.2.0"

# Packed batches differ in size, which fragments the memory of a GPU unless its segments can grow. Torch reads the
# variable when it first uses a GPU; both names are read, the second one from torch 2.9 on.
if sys.platform == "linux" and not {"PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF"} & set(os.environ):
    os.environ["PYTORCH_CUDA_ALLOC_CONF"] = "expandable_segments:True"

from minitext.data.dataset import DataConfig, Dataset, Splits, load_dataset
from minitext.data.word_vectors import WordVectors, load_word_vectors
from minitext.evaluation.attribution import Attribution, explain
from minitext.evaluation.predictor import Predictor
from minitext.models.bert import BertClassifier, BertConfig
from minitext.models.embedding_bag import EmbeddingBagClassifier, NetworkConfig
from minitext.models.static import MeanEncoder, StaticClassifier
from minitext.training.loop import TrainConfig, fit
from minitext.training.step import StepConfig, train_step
from minitext.utils.errors import UserError

__all__ = [
    "Attribution",
    "BertClassifier",
    "BertConfig",
    "DataConfig",
    "Dataset",
    "EmbeddingBagClassifier",
    "MeanEncoder",
    "NetworkConfig",
    "Predictor",
    "Splits",
    "StaticClassifier",
    "StepConfig",
    "TrainConfig",
    "UserError",
    "WordVectors",
    "explain",
    "fit",
    "load_dataset",
    "load_word_vectors",
    "train_step",
]
