"""Small models for the tests of prediction: saved runs, and predictors of all tracks."""

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer
from tokenizers.processors import BertProcessing
from torch import nn

from minitext.data.tokenizer import train_tokenizer
from minitext.evaluation.predictor import Predictor, TokenSettings
from minitext.models.bert import BertClassifier, BertConfig
from minitext.models.embedding_bag import EmbeddingBagClassifier, NetworkConfig
from minitext.models.hf_checkpoint import save_model
from minitext.models.hf_names import write_config
from minitext.models.static import MLP, LogisticRegression, MeanEncoder, StaticClassifier, fit_sif

CPU = torch.device("cpu")
POSITIVE = torch.tensor(2.0).sigmoid().item()  # 0.8808: the probability of `pos` for the text `good` in `save_static`
VOCABULARY = ["good", "bad", "film", "the", "so"]
CLASSES = ("neg", "pos", "so-so")


def save_static(folder: Path, mlp: bool = False, weight: float = 2.0) -> Path:
    """Save a finished static run in which `good` has the logit margin `weight` for pos, and `bad` for neg."""
    folder.mkdir(parents=True, exist_ok=True)
    classifier = MLP(1, 4, 2) if mlp else LogisticRegression(1, 2)
    if not mlp:
        classifier.load_state_dict({"output.weight": torch.tensor([[weight]]), "output.bias": torch.zeros(1)})
    encoder = MeanEncoder(["good", "bad"], torch.tensor([[1.0], [-1.0]]))
    StaticClassifier(encoder, classifier, ("neg", "pos")).save(folder)
    (folder / "scores.json").write_text("{}")
    return folder


def save_scratch(folder: Path) -> EmbeddingBagClassifier:
    """Save a finished scratch run with bigrams; return its model."""
    folder.mkdir(parents=True)
    tokenizer = word_pieces()
    config = NetworkConfig(4, 8, ngrams=2, buckets=50)
    model = randomize(EmbeddingBagClassifier(tokenizer.get_vocab_size(), 3, config))
    model.save(folder, class_names=CLASSES, max_length=6, truncate="head")
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "scores.json").write_text("{}")
    return model


def save_finetuned(
    folder: Path, truncate: str = "head", windows: bool = False
) -> tuple[BertClassifier, dict[str, int]]:
    """Save a finished fine-tuned run; return its model and the ids of its tokens."""
    folder.mkdir(parents=True)
    tokenizer = train_tokenizer(["good bad so"] * 9, 100)
    ids = tokenizer.get_vocab()
    tokenizer.post_processor = BertProcessing(("[SEP]", ids["[SEP]"]), ("[CLS]", ids["[CLS]"]))
    torch.manual_seed(0)
    config = BertConfig(len(ids), 8, 2, 2, 16, 8, initializer_range=0.5)
    model = BertClassifier(config, 3).eval()
    save_model(model, tokenizer, folder, write_config(config), CLASSES,
               track="finetune", max_length=6, truncate=truncate, windows=windows)  # fmt: skip
    (folder / "scores.json").write_text("{}")
    return model, ids


def change_json(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def cut_file(path: Path) -> None:
    """Keep the first half of a file."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def randomize(model: nn.Module) -> nn.Module:
    """Give a model weights that are large enough for every word to matter."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 1, generator=generator)
    return model.eval()


def word_pieces(special: bool = False) -> Tokenizer:
    """Train a tokenizer in which `goodness` has two tokens or more, and a cat is unknown."""
    tokenizer = train_tokenizer(["good bad so the film . , ;"] * 9 + ["goodness"], 100)
    if special:
        tokenizer.post_processor = BertProcessing(*((name, tokenizer.token_to_id(name)) for name in ("[SEP]", "[CLS]")))
    return tokenizer


def class_names(classes: int) -> tuple[str, ...]:
    return tuple(f"c{c}" for c in range(classes))


def static_predictor(classes: int = 2, mlp: bool = False, sif: bool = False) -> Predictor:
    table = torch.randn(len(VOCABULARY), 4, generator=torch.Generator().manual_seed(1))
    if sif:  # words are so frequent in two short texts that their weights are small
        encoder = fit_sif(VOCABULARY, 200 * table, ["so good the film", "the bad film"])
    else:
        encoder = MeanEncoder(VOCABULARY, table)
    classifier = randomize(MLP(4, 8, classes) if mlp else LogisticRegression(4, classes))
    model = StaticClassifier(encoder, classifier, class_names(classes)).eval()
    return Predictor(model.class_names, model, CPU)


def scratch_predictor(
    classes: int = 2, ngrams: int = 1, binary_counts: bool = False, special: bool = False, max_length: int = 99,
    truncate: str = "head",
) -> Predictor:  # fmt: skip
    tokenizer = word_pieces(special)
    config = NetworkConfig(4, 8, ngrams=ngrams, buckets=50, binary_counts=binary_counts)
    model = randomize(EmbeddingBagClassifier(tokenizer.get_vocab_size(), classes, config))
    return Predictor(class_names(classes), model, CPU, TokenSettings(tokenizer, max_length, truncate))


def bert_predictor(
    classes: int = 2, max_length: int = 20, truncate: str = "head", tokenizer: Tokenizer | None = None,
    windows: bool = False,
) -> Predictor:  # fmt: skip
    tokenizer = tokenizer or word_pieces(special=True)
    torch.manual_seed(0)
    config = BertConfig(tokenizer.get_vocab_size(), 8, 2, 2, 16, 24, initializer_range=0.5)
    model = BertClassifier(config, classes).eval()
    return Predictor(class_names(classes), model, CPU, TokenSettings(tokenizer, max_length, truncate, windows))


PREDICTORS = {
    "logistic": static_predictor,
    "SIF": lambda classes: static_predictor(classes, sif=True),
    "MLP": lambda classes: static_predictor(classes, mlp=True),
    "MLP on SIF": lambda classes: static_predictor(classes, mlp=True, sif=True),
    "scratch": scratch_predictor,
    "n-grams": lambda classes: scratch_predictor(classes, 3),
    "binary n-grams": lambda classes: scratch_predictor(classes, 3, binary_counts=True),
    "n-grams with special tokens": lambda classes: scratch_predictor(classes, 3, binary_counts=True, special=True),
    "BERT": bert_predictor,
    "BERT with windows": lambda classes: bert_predictor(classes, max_length=7, windows=True),
}
