"""Each parameter is in one group, the schedule follows a table, and clipping equals torch's."""

import copy

import pytest
import torch
from torch import Tensor, nn

from minitext.models.bert import BertClassifier, BertConfig
from minitext.models.embedding_bag import EmbeddingBagClassifier, NetworkConfig
from minitext.training.optim import (
    build_optimizers,
    clip_grad_norm,
    decay_groups,
    layer_groups,
    lr_factor,
    set_lr,
    warmup_updates,
)
from minitext.training.sparse_adam import SparseRowAdam
from minitext.utils.errors import UserError


class Tied(nn.Module):
    """Two layers that share a matrix, a norm, a bias, and a frozen matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4, bias=False)
        self.second.weight = self.first.weight
        self.norm = nn.LayerNorm(4)
        self.frozen = nn.Linear(4, 4, bias=False).requires_grad_(False)


def embedding_bag() -> EmbeddingBagClassifier:
    return EmbeddingBagClassifier(10, 3, NetworkConfig(embedding_dim=4, hidden_size=4, ngrams=1))


def ids_of(optimizer: torch.optim.Optimizer) -> list[int]:
    return [id(parameter) for group in optimizer.param_groups for parameter in group["params"]]


# Parameter groups


@pytest.mark.parametrize("make", [Tied, embedding_bag])
def test_each_trainable_parameter_is_in_exactly_one_group(make):
    model = make()
    placed = [number for optimizer in build_optimizers(model, "adamw", 0.1, 0.5) for number in ids_of(optimizer)]
    trainable = {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
    assert len(placed) == len(set(placed))
    assert set(placed) == trainable


def test_matrices_decay_but_biases_and_norms_do_not():
    model = Tied()
    decaying, others = decay_groups(model, 0.5)
    assert (decaying["weight_decay"], others["weight_decay"]) == (0.5, 0.0)
    assert [id(parameter) for parameter in decaying["params"]] == [id(model.first.weight)]
    expected = {id(parameter) for parameter in (model.first.bias, model.norm.weight, model.norm.bias)}
    assert {id(parameter) for parameter in others["params"]} == expected


def test_a_sparse_embedding_has_its_own_optimizer_which_steps_first():
    model = embedding_bag()
    sparse, dense = build_optimizers(model, "adam", 0.1, 0.5)
    assert isinstance(sparse, SparseRowAdam)
    assert ids_of(sparse) == [id(model.embedding.weight)]
    assert id(model.embedding.weight) not in ids_of(dense)


@pytest.mark.parametrize("allocations", [0, 1, 7, 8, 9])  # two for each of four dense parameters, and a sparse one
@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("MPS backend out of memory")]
)
def test_memory_that_runs_out_while_the_moments_are_made_is_one_line(
    monkeypatch, allocations: int, error: RuntimeError
):
    made, zeros_like = [], torch.zeros_like

    def limited(tensor: Tensor) -> Tensor:
        if len(made) == allocations:
            raise error
        made.append(zeros_like(tensor))
        return made[-1]

    model = embedding_bag()
    monkeypatch.setattr(torch, "zeros_like", limited)
    with pytest.raises(UserError, match="out of memory: the optimizer needs twice as much.*; take a smaller model"):
        build_optimizers(model, "adam", 0.1, 0.0)


def test_other_errors_of_the_moments_are_not_reported_as_missing_memory(monkeypatch):
    def fail(tensor: Tensor) -> None:
        raise RuntimeError("no kernel image is available")

    monkeypatch.setattr(torch, "zeros_like", fail)
    with pytest.raises(RuntimeError, match="no kernel image"):
        build_optimizers(Tied(), "adam", 0.1, 0.0)


def test_a_model_without_sparse_embeddings_has_one_optimizer():
    assert len(build_optimizers(Tied(), "adam", 0.1, 0.0)) == 1


@pytest.mark.parametrize(("name", "kind"), [("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)])
def test_the_dense_optimizer_has_the_given_name(name: str, kind: type):
    assert type(build_optimizers(Tied(), name, 0.1, 0.0)[0]) is kind


def test_a_step_with_zero_gradients_changes_only_decayed_parameters():
    model = Tied()
    before = copy.deepcopy(model.state_dict())
    (optimizer,) = build_optimizers(model, "adamw", lr=0.1, weight_decay=0.5)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name in ("first.bias", "norm.weight", "norm.bias", "frozen.weight"):
        assert torch.equal(model.state_dict()[name], before[name])
    # decoupled: 1 - lr * decay; float32 has 7 digits
    assert torch.allclose(model.first.weight, 0.95 * before["first.weight"], rtol=1e-6, atol=0)


# Layer-wise learning rates


def small_bert(embedding_size: int | None = None, freeze: int = 0) -> BertClassifier:
    torch.manual_seed(0)
    model = BertClassifier(BertConfig(10, 4, 2, 2, 8, 6, embedding_size=embedding_size), 3)
    if freeze:
        model.encoder.requires_grad_(False)
        model.encoder.layers[freeze:].requires_grad_(True)
    return model


def level(name: str) -> int:
    """How many levels below the head a parameter of a model with two layers is."""
    levels = {"encoder.layers.1.": 1, "encoder.layers.0.": 2, "encoder.": 3}
    return next((levels[start] for start in levels if name.startswith(start)), 0)


@pytest.mark.parametrize("embedding_size", [None, 2])
@pytest.mark.parametrize("freeze", [0, 1, 2])
def test_each_trainable_parameter_of_a_bert_is_in_one_group_and_a_frozen_one_in_none(embedding_size, freeze: int):
    model = small_bert(embedding_size, freeze)
    placed = [id(parameter) for group in layer_groups(model, 0.1, 0.9) for parameter in group["params"]]
    assert len(placed) == len(set(placed))
    assert set(placed) == {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
    assert len(placed) < len(list(model.parameters())) or not freeze


@pytest.mark.parametrize("embedding_size", [None, 2])
def test_the_lr_scale_is_the_decay_to_the_power_of_the_depth_below_the_head(embedding_size):
    model = small_bert(embedding_size)
    groups = layer_groups(model, 0.1, 0.5)
    scales = {id(parameter): group["lr_scale"] for group in groups for parameter in group["params"]}
    for name, parameter in model.named_parameters():
        assert scales[id(parameter)] == [1, 0.5, 0.25, 0.125][level(name)], name


def test_in_each_layer_matrices_decay_but_biases_and_norms_do_not():
    for group in layer_groups(small_bert(), 0.1, 0.5):
        for parameter in group["params"]:
            assert group["weight_decay"] == (0.1 if parameter.ndim >= 2 else 0.0)


def test_the_learning_rate_is_multiplied_by_the_lr_scale_of_each_group():
    model = small_bert()
    optimizers = build_optimizers(model, "adamw", 0.3, 0.1, layer_groups(model, 0.1, 0.5))
    for lr in (0.3, 0.08, 0.0):  # of the given rate, not of the rate at the last update
        set_lr(optimizers, lr)
        assert [group["lr"] for group in optimizers[0].param_groups[::2]] == [lr, lr / 2, lr / 4, lr / 8]
        assert [group["lr"] for group in optimizers[0].param_groups[1::2]] == [lr, lr / 2, lr / 4, lr / 8]


def updated(groups: list[dict] | None, model: BertClassifier, updates: int) -> dict[str, Tensor]:
    optimizers = build_optimizers(model, "adamw", 0.01, 0.1, groups)
    for number in range(updates):
        torch.manual_seed(number)
        for parameter in model.parameters():
            parameter.grad = torch.randn_like(parameter)
        set_lr(optimizers, 0.01)
        optimizers[0].step()
    return model.state_dict()


def test_a_layer_decay_of_one_gives_the_updates_of_the_default_groups():
    usual, layered = small_bert(), small_bert()
    expected = updated(None, usual, 3)
    found = updated(layer_groups(layered, 0.1, 1.0), layered, 3)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert not torch.equal(expected["output.weight"], small_bert().output.weight)


def test_an_update_changes_each_layer_by_its_learning_rate():
    model = small_bert()
    before = copy.deepcopy(model.state_dict())
    after = updated(layer_groups(model, 0.0, 0.5), model, 1)
    for name in before:
        # Adam's first step is the learning rate in the direction of the gradient; float32 weights near 1
        assert (after[name] - before[name]).abs().max().item() == pytest.approx(0.01 * 0.5 ** level(name), rel=1e-3)


# The schedule

TABLES = {  # 8 updates, of which 2 are warm-up: 1/3, 2/3, then the decrease over 6
    "linear": [1 / 3, 2 / 3, 1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6],
    "cosine": [1 / 3, 2 / 3, 1, 0.9330127018922193, 0.75, 0.5, 0.25, 0.0669872981077807],
    "constant": [1 / 3, 2 / 3, 1, 1, 1, 1, 1, 1],
}


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_moments_that_exist_from_the_start_give_the_bits_of_torchs_own(name: str):
    first = Tied()
    models = [first, copy.deepcopy(first)]
    for model in models:
        (optimizer,) = build_optimizers(model, name, 0.1, 0.5)
        if model is models[1]:
            optimizer.state.clear()
        for seed in range(3):
            generator = torch.Generator().manual_seed(seed)
            for parameter in model.parameters():
                parameter.grad = torch.randn(parameter.shape, generator=generator)
            optimizer.step()
    for ours, theirs in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("kind", ["dense", "sparse"])
def test_the_first_update_makes_no_moments_so_that_running_out_of_memory_leaves_no_half_state(kind: str, monkeypatch):
    model = Tied() if kind == "dense" else embedding_bag()
    optimizers = build_optimizers(model, "adamw", 0.1, 0.5)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    if kind == "sparse":
        model.embedding.weight.grad = model.embedding.weight.grad.to_sparse(1)

    def no_memory(*arguments: object, **settings: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(torch, "zeros_like", no_memory)
    for optimizer in optimizers:
        optimizer.step()


@pytest.mark.parametrize("schedule", TABLES)
def test_the_learning_rate_follows_the_table(schedule: str):
    assert [lr_factor(update, 8, 2, schedule) for update in range(8)] == pytest.approx(TABLES[schedule], rel=1e-12)


@pytest.mark.parametrize(("schedule", "table"), [("linear", [1, 0.75, 0.5, 0.25]), ("constant", [1, 1, 1, 1])])
def test_without_warmup_the_first_update_has_the_peak_learning_rate(schedule: str, table: list[float]):
    assert [lr_factor(update, 4, 0, schedule) for update in range(4)] == table


@pytest.mark.parametrize("schedule", TABLES)
@pytest.mark.parametrize("updates", [1, 2, 7, 100])
def test_every_learning_rate_is_above_zero_and_at_most_the_peak(schedule: str, updates: int):
    for warmup in range(updates + 1):
        factors = [lr_factor(update, updates, warmup, schedule) for update in range(updates)]
        assert 0 < min(factors) <= max(factors) <= 1


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_the_learning_rate_after_the_last_update_is_zero(schedule: str):
    assert [lr_factor(update, 8, 2, schedule) for update in (8, 9)] == [0, 0]


@pytest.mark.parametrize(("warmup", "count"), [(0.0, 0), (0.1, 20), (0.06, 12), (1, 1), (20, 20), (200, 200)])
def test_warmup_is_a_fraction_below_one_and_a_number_of_updates_from_one_on(warmup: float, count: int):
    assert warmup_updates(warmup, 200) == count


@pytest.mark.parametrize(
    ("warmup", "message"), [(1.5, "--warmup must be a fraction < 1 .* 1.5"), (201, "--warmup 201 .* 200 updates")]
)
def test_an_impossible_warmup_is_refused(warmup: float, message: str):
    with pytest.raises(UserError, match=message):
        warmup_updates(warmup, 200)


def test_the_learning_rate_is_set_in_all_groups_of_all_optimizers():
    optimizers = build_optimizers(embedding_bag(), "adam", 0.1, 0.5)
    set_lr(optimizers, 0.25)
    assert [group["lr"] for optimizer in optimizers for group in optimizer.param_groups] == [0.25] * 3


# Clipping


def with_gradients(*gradients: Tensor) -> list[nn.Parameter]:
    parameters = []
    for gradient in gradients:
        parameter = nn.Parameter(torch.zeros(gradient.shape, dtype=gradient.dtype))
        parameter.grad = gradient.clone()
        parameters.append(parameter)
    return parameters


def test_a_norm_above_the_maximum_is_scaled_down_to_it():
    parameters = with_gradients(torch.tensor([3.0, 0]), torch.tensor([[4.0]]))
    assert clip_grad_norm(parameters, 2.5) == 5
    # torch's rule adds 1e-6 to the norm
    assert parameters[0].grad.tolist() == pytest.approx([1.5, 0], rel=1e-6)
    assert parameters[1].grad.item() == pytest.approx(2, rel=1e-6)


def test_a_norm_below_the_maximum_does_not_change():
    parameters = with_gradients(torch.tensor([3.0, 0]), torch.tensor([[4.0]]))
    assert clip_grad_norm(parameters, 6.0) == 5
    assert (parameters[0].grad.tolist(), parameters[1].grad.item()) == ([3, 0], 4)


def test_a_parameter_without_a_gradient_is_ignored():
    parameters = [*with_gradients(torch.tensor([3.0, 4.0])), nn.Parameter(torch.ones(2))]
    assert clip_grad_norm(parameters, 1.0) == 5


@pytest.mark.oracle
@pytest.mark.parametrize("max_norm", [0.1, 1.0, 100.0])
def test_dense_gradients_are_clipped_as_by_torch(max_norm: float):
    generator = torch.Generator().manual_seed(0)
    gradients = [torch.randn(size, generator=generator) for size in ((5, 3), (3,), (2, 2, 2))]
    ours, theirs = with_gradients(*gradients), with_gradients(*gradients)
    expected = torch.nn.utils.clip_grad_norm_(theirs, max_norm).item()
    assert clip_grad_norm(ours, max_norm).item() == pytest.approx(expected, rel=1e-6)  # float32
    for mine, other in zip(ours, theirs, strict=True):
        assert torch.allclose(mine.grad, other.grad, rtol=1e-6, atol=0)


@pytest.mark.oracle
def test_a_sparse_gradient_with_repeated_rows_is_clipped_as_its_dense_form():
    values = torch.randn(4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    gradient = torch.sparse_coo_tensor(torch.tensor([[3, 0, 3, 3]]), values, (6, 3), check_invariants=True)
    other = torch.ones(4, dtype=torch.float64)
    ours, theirs = with_gradients(gradient, other), with_gradients(gradient.to_dense(), other)
    expected = torch.nn.utils.clip_grad_norm_(theirs, 0.5).item()
    assert clip_grad_norm(ours, 0.5).item() == pytest.approx(expected, rel=1e-12)  # float64
    assert ours[0].grad.is_sparse
    assert (ours[0].grad.to_dense() - theirs[0].grad).abs().max() < 1e-12
    assert (ours[1].grad - theirs[1].grad).abs().max() < 1e-12


def test_the_norm_is_a_tensor_so_that_nothing_waits_for_the_device():
    norm = clip_grad_norm(with_gradients(torch.tensor([3.0, 4.0])), 1.0)
    assert isinstance(norm, Tensor) and norm.shape == ()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_norm_that_is_not_finite_is_returned(value: float):
    assert not clip_grad_norm(with_gradients(torch.tensor([1.0, value])), 1.0).isfinite()
