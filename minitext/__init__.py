"""Text classification in plain PyTorch, without high-level trainers.

from minitext import Predictor

predictor = Predictor.load("runs/finetune")
predictor.predict_proba(["A warm and funny film."])  # (1, C)
"""

__version__ = "0.2.0"

from minitext.data.dataset import DataConfig, Dataset, Splits, load_dataset
from minitext.data.word_vectors import WordVectors, load_word_vectors
from minitext.evaluation.attribution import Attribution, explain
from minitext.evaluation.predictor import Predictor
from minitext.models.bert import BertClassifier, BertConfig
from minitext.models.embedding_bag import EmbeddingBagClassifier, NetworkConfig
from minitext.models.static import MeanEncoder, StaticClassifier
from minitext.training.loop import TrainConfig, fit
from minitext.training.step import train_step
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
    "TrainConfig",
    "UserError",
    "WordVectors",
    "explain",
    "fit",
    "load_dataset",
    "load_word_vectors",
    "train_step",
]
