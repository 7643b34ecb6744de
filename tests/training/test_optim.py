"""Proves that every parameter is in one group and decays only if it should, that the rate is a literal table's at every
update, and that the sparse optimizer and the clipping equal torch's own.
"""

import copy

import pytest
import torch
from torch import Tensor, nn

from minitext.models.bert import BertClassifier, BertConfig
from minitext.models.embedding_bag import EmbeddingBagClassifier, NetworkConfig
from minitext.training.optim import (
    SparseRowAdam,
    build_optimizers,
    clip_grad_norm,
    decay_groups,
    layer_groups,
    lr_factor,
    set_lr,
    warmup_updates,
)
from minitext.utils.errors import UserError


class Tied(nn.Module):
    """A matrix that two layers share, a norm, a bias, and a frozen matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4, bias=False)
        self.second.weight = self.first.weight
        self.norm = nn.LayerNorm(4)
        self.frozen = nn.Linear(4, 4, bias=False).requires_grad_(False)


def feed_forward() -> EmbeddingBagClassifier:
    return EmbeddingBagClassifier(10, 3, NetworkConfig(width=4, hidden=4))


def ids_of(optimizer: torch.optim.Optimizer) -> list[int]:
    return [id(parameter) for group in optimizer.param_groups for parameter in group["params"]]


# Groups


@pytest.mark.parametrize("make", [Tied, feed_forward])
def test_every_trainable_parameter_has_exactly_one_place(make):
    model = make()
    placed = [number for optimizer in build_optimizers(model, "adamw", 0.1, 0.5) for number in ids_of(optimizer)]
    trainable = {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
    assert len(placed) == len(set(placed))
    assert set(placed) == trainable


def test_matrices_decay_and_biases_and_norms_do_not():
    model = Tied()
    decaying, others = decay_groups(model, 0.5)
    assert (decaying["weight_decay"], others["weight_decay"]) == (0.5, 0.0)
    assert [id(parameter) for parameter in decaying["params"]] == [id(model.first.weight)]
    expected = {id(parameter) for parameter in (model.first.bias, model.norm.weight, model.norm.bias)}
    assert {id(parameter) for parameter in others["params"]} == expected


def test_a_sparse_embedding_has_an_optimizer_of_its_own():
    model = feed_forward()
    dense, sparse = build_optimizers(model, "adam", 0.1, 0.5)
    assert ids_of(sparse) == [id(model.embedding.weight)]
    assert id(model.embedding.weight) not in ids_of(dense)


def test_a_model_without_sparse_embeddings_has_one_optimizer():
    assert len(build_optimizers(Tied(), "adam", 0.1, 0.0)) == 1


@pytest.mark.parametrize(("name", "kind"), [("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)])
def test_the_dense_optimizer_is_the_one_that_is_named(name: str, kind: type):
    assert type(build_optimizers(Tied(), name, 0.1, 0.0)[0]) is kind


def test_a_step_without_gradient_shrinks_what_decays_and_nothing_else():
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


# Layers that learn at rates of their own


def small_bert(token_width: int | None = None, freeze: int = 0) -> BertClassifier:
    torch.manual_seed(0)
    model = BertClassifier(BertConfig(10, 4, 2, 2, 8, 6, token_width=token_width), 3)
    if freeze:
        model.encoder.requires_grad_(False)
        model.encoder.layers[freeze:].requires_grad_(True)
    return model


def level(name: str) -> int:
    """How far below the head a parameter of a model with two layers stands."""
    levels = {"encoder.layers.1.": 1, "encoder.layers.0.": 2, "encoder.": 3}
    return next((levels[start] for start in levels if name.startswith(start)), 0)


@pytest.mark.parametrize("token_width", [None, 2])
@pytest.mark.parametrize("freeze", [0, 1, 2])
def test_each_trainable_parameter_of_a_bert_is_in_one_group_and_a_frozen_one_in_none(token_width, freeze: int):
    model = small_bert(token_width, freeze)
    placed = [id(parameter) for group in layer_groups(model, 0.1, 0.9) for parameter in group["params"]]
    assert len(placed) == len(set(placed))
    assert set(placed) == {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
    assert len(placed) < len(list(model.parameters())) or not freeze


@pytest.mark.parametrize("token_width", [None, 2])
def test_a_parameter_s_share_is_the_decay_to_the_power_of_its_depth_below_the_head(token_width):
    model = small_bert(token_width)
    groups = layer_groups(model, 0.1, 0.5)
    shares = {id(parameter): group["share"] for group in groups for parameter in group["params"]}
    for name, parameter in model.named_parameters():
        assert shares[id(parameter)] == [1, 0.5, 0.25, 0.125][level(name)], name


def test_in_every_layer_matrices_decay_and_biases_and_norms_do_not():
    for group in layer_groups(small_bert(), 0.1, 0.5):
        for parameter in group["params"]:
            assert group["weight_decay"] == (0.1 if parameter.ndim >= 2 else 0.0)


def test_the_rate_is_multiplied_by_each_group_s_share_anew_at_every_update():
    model = small_bert()
    optimizers = build_optimizers(model, "adamw", 0.3, 0.1, layer_groups(model, 0.1, 0.5))
    for rate in (0.3, 0.08, 0.0):  # shares multiply the rate, not what the last update made of it
        set_lr(optimizers, rate)
        assert [group["lr"] for group in optimizers[0].param_groups[::2]] == [rate, rate / 2, rate / 4, rate / 8]
        assert [group["lr"] for group in optimizers[0].param_groups[1::2]] == [rate, rate / 2, rate / 4, rate / 8]


def updated(groups: list[dict] | None, model: BertClassifier, updates: int) -> dict[str, Tensor]:
    optimizers = build_optimizers(model, "adamw", 0.01, 0.1, groups)
    for number in range(updates):
        torch.manual_seed(number)
        for parameter in model.parameters():
            parameter.grad = torch.randn_like(parameter)
        set_lr(optimizers, 0.01)
        optimizers[0].step()
    return model.state_dict()


def test_a_layer_decay_of_one_gives_the_updates_of_the_usual_groups():
    usual, layered = small_bert(), small_bert()
    expected = updated(None, usual, 3)
    found = updated(layer_groups(layered, 0.1, 1.0), layered, 3)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert not torch.equal(expected["output.weight"], small_bert().output.weight)


def test_an_update_moves_each_layer_by_its_share():
    model = small_bert()
    before = copy.deepcopy(model.state_dict())
    after = updated(layer_groups(model, 0.0, 0.5), model, 1)
    for name in before:
        # Adam's first step is the rate in the gradient's direction; weights near 1 in float32
        assert (after[name] - before[name]).abs().max().item() == pytest.approx(0.01 * 0.5 ** level(name), rel=1e-3)


# The schedule

TABLES = {  # 8 updates, of which 2 warm up: 1/3, 2/3, then the fall over 6
    "linear": [1 / 3, 2 / 3, 1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6],
    "cosine": [1 / 3, 2 / 3, 1, 0.9330127018922193, 0.75, 0.5, 0.25, 0.0669872981077807],
    "constant": [1 / 3, 2 / 3, 1, 1, 1, 1, 1, 1],
}


@pytest.mark.parametrize("schedule", TABLES)
def test_the_rate_is_the_tables_at_every_update(schedule: str):
    assert [lr_factor(update, 8, 2, schedule) for update in range(8)] == pytest.approx(TABLES[schedule], rel=1e-12)


@pytest.mark.parametrize(("schedule", "table"), [("linear", [1, 0.75, 0.5, 0.25]), ("constant", [1, 1, 1, 1])])
def test_without_warmup_the_first_update_has_the_peak_rate(schedule: str, table: list[float]):
    assert [lr_factor(update, 4, 0, schedule) for update in range(4)] == table


@pytest.mark.parametrize("schedule", TABLES)
@pytest.mark.parametrize("updates", [1, 2, 7, 100])
def test_no_update_is_wasted_at_rate_zero_or_above_the_peak(schedule: str, updates: int):
    for warmup in range(updates + 1):
        shares = [lr_factor(update, updates, warmup, schedule) for update in range(updates)]
        assert 0 < min(shares) <= max(shares) <= 1


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_past_the_last_update_the_rate_is_zero(schedule: str):
    assert [lr_factor(update, 8, 2, schedule) for update in (8, 9)] == [0, 0]


@pytest.mark.parametrize(("warmup", "count"), [(0.0, 0), (0.1, 20), (0.06, 12), (1, 1), (20, 20), (200, 200)])
def test_warmup_is_a_share_below_one_and_a_number_from_one_on(warmup: float, count: int):
    assert warmup_updates(warmup, 200) == count


@pytest.mark.parametrize(("warmup", "message"), [(1.5, "--warmup 1.5: a share"), (201, "--warmup 201: .* only 200")])
def test_a_warmup_that_cannot_be_is_refused(warmup: float, message: str):
    with pytest.raises(UserError, match=message):
        warmup_updates(warmup, 200)


def test_the_rate_is_set_in_all_groups_of_all_optimizers():
    optimizers = build_optimizers(feed_forward(), "adam", 0.1, 0.5)
    set_lr(optimizers, 0.25)
    assert [group["lr"] for optimizer in optimizers for group in optimizer.param_groups] == [0.25] * 3


# Adam by rows


def sparse_gradient(rows: list[int], seed: int, size: tuple[int, int] = (6, 3)) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(len(rows), size[1], generator=generator, dtype=torch.float64)
    return torch.sparse_coo_tensor(torch.tensor([rows]), values, size, check_invariants=True)


def table() -> nn.Parameter:
    return nn.Parameter(torch.randn(6, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64))


ROWS = [[0, 2], [2, 3], [3, 0, 3], [2]]  # of the gradients in turn: overlapping, repeated, alone; never 1, 4, 5


def step(optimizer: torch.optim.Optimizer, parameter: nn.Parameter, number: int) -> None:
    parameter.grad = sparse_gradient(ROWS[number % 4], seed=number)
    optimizer.step()


@pytest.mark.oracle
def test_twenty_steps_are_sparse_adams():
    ours, theirs = table(), table()
    optimizer, oracle = SparseRowAdam([ours], lr=0.1), torch.optim.SparseAdam([theirs], lr=0.1)
    for number in range(20):
        step(optimizer, ours, number)
        step(oracle, theirs, number)
    assert (ours - theirs).abs().max() < 1e-12  # float64 of values near 1
    assert (ours - table())[[0, 2, 3]].abs().min() > 1e-3  # the case tells: they have moved


@pytest.mark.oracle
def test_where_every_row_is_touched_it_is_adam():
    ours, theirs = table(), table()
    optimizer, oracle = SparseRowAdam([ours], lr=0.1), torch.optim.Adam([theirs], lr=0.1)
    for number in range(20):
        ours.grad = sparse_gradient(list(range(6)), seed=number)
        theirs.grad = ours.grad.to_dense()
        optimizer.step()
        oracle.step()
    # the 1e-8 below the fraction stands before the bias correction here and after it there, seen where v is small
    assert (ours - theirs).abs().max() < 1e-5


def test_rows_that_no_batch_touched_stay_as_they_are():
    parameter = table()
    optimizer = SparseRowAdam([parameter], lr=0.1)
    for number in range(8):
        step(optimizer, parameter, number)
    assert torch.equal(parameter[[1, 4, 5]], table()[[1, 4, 5]])
    assert all(not optimizer.state[parameter][name][[1, 4, 5]].any() for name in ("mean", "square"))


def test_a_parameter_without_gradient_is_passed_over():
    parameter = table()
    SparseRowAdam([parameter], lr=0.1).step()
    assert torch.equal(parameter, table())


def test_a_saved_state_goes_on_with_the_same_bits(tmp_path):
    whole, first = table(), table()
    optimizer, half = SparseRowAdam([whole], lr=0.1), SparseRowAdam([first], lr=0.1)
    for number in range(10):
        step(optimizer, whole, number)
    for number in range(5):
        step(half, first, number)
    torch.save({"weights": first.detach(), "optimizer": half.state_dict()}, tmp_path / "state.pt")
    saved = torch.load(tmp_path / "state.pt", weights_only=True)
    second = nn.Parameter(saved["weights"])
    resumed = SparseRowAdam([second], lr=999.0)  # the rate comes back as well
    resumed.load_state_dict(saved["optimizer"])
    for number in range(5, 10):
        step(resumed, second, number)
    assert torch.equal(second, whole)


# Clipping


def with_gradients(*gradients: Tensor) -> list[nn.Parameter]:
    parameters = []
    for gradient in gradients:
        parameter = nn.Parameter(torch.zeros(gradient.shape, dtype=gradient.dtype))
        parameter.grad = gradient.clone()
        parameters.append(parameter)
    return parameters


def test_a_norm_above_the_most_is_scaled_down_to_it():
    parameters = with_gradients(torch.tensor([3.0, 0]), torch.tensor([[4.0]]))
    assert clip_grad_norm(parameters, 2.5) == 5
    # torch's rule adds 1e-6 to the norm
    assert parameters[0].grad.tolist() == pytest.approx([1.5, 0], rel=1e-6)
    assert parameters[1].grad.item() == pytest.approx(2, rel=1e-6)


def test_a_norm_below_the_most_is_left_alone():
    parameters = with_gradients(torch.tensor([3.0, 0]), torch.tensor([[4.0]]))
    assert clip_grad_norm(parameters, 6.0) == 5
    assert (parameters[0].grad.tolist(), parameters[1].grad.item()) == ([3, 0], 4)


def test_a_parameter_without_gradient_does_not_count():
    parameters = [*with_gradients(torch.tensor([3.0, 4.0])), nn.Parameter(torch.ones(2))]
    assert clip_grad_norm(parameters, 1.0) == 5


@pytest.mark.oracle
@pytest.mark.parametrize("most", [0.1, 1.0, 100.0])
def test_dense_gradients_are_clipped_as_torch_clips_them(most: float):
    generator = torch.Generator().manual_seed(0)
    gradients = [torch.randn(size, generator=generator) for size in ((5, 3), (3,), (2, 2, 2))]
    ours, theirs = with_gradients(*gradients), with_gradients(*gradients)
    expected = torch.nn.utils.clip_grad_norm_(theirs, most).item()
    assert clip_grad_norm(ours, most) == pytest.approx(expected, rel=1e-6)  # float32
    for mine, other in zip(ours, theirs, strict=True):
        assert torch.allclose(mine.grad, other.grad, rtol=1e-6, atol=0)


@pytest.mark.oracle
def test_a_sparse_gradient_with_repeated_rows_is_clipped_as_the_dense_one_is():
    gradient, other = sparse_gradient([3, 0, 3, 3], seed=0), torch.ones(4, dtype=torch.float64)
    ours, theirs = with_gradients(gradient, other), with_gradients(gradient.to_dense(), other)
    expected = torch.nn.utils.clip_grad_norm_(theirs, 0.5).item()
    assert clip_grad_norm(ours, 0.5) == pytest.approx(expected, rel=1e-12)  # float64
    assert ours[0].grad.is_sparse
    assert (ours[0].grad.to_dense() - theirs[0].grad).abs().max() < 1e-12
    assert (ours[1].grad - theirs[1].grad).abs().max() < 1e-12
