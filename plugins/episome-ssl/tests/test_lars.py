"""LARS and its learning rate: the recorded step and schedule, momentum, and bad settings."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from episome_ssl.lars import LARS, LR_BIASES, LR_WEIGHTS, lars_groups, warmup_cosine


def parameters(seed=0, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    shapes = [(4, 3), (4,), (2, 4)]
    return [torch.nn.Parameter(torch.randn(s, generator=g, dtype=dtype)) for s in shapes]


def with_gradients(params, seed):
    g = torch.Generator().manual_seed(seed)
    for p in params:
        p.grad = torch.randn(p.shape, generator=g, dtype=p.dtype)
    return [p.grad.clone() for p in params]


def test_step_of_recorded_gradients_gives_the_recorded_weights(golden):
    case = golden("06d_ssl_barlow_twins")
    lars = case.config["lars"]
    gradients, lrs = case.part("grad/"), case.arrays["lars_lr"]
    params = {name: torch.nn.Parameter(case.tensor(f"state/{name}")) for name in gradients}
    for name, gradient in gradients.items():
        params[name].grad = gradient

    groups = lars_groups(params.values(), lr_weights=lrs[0], lr_biases=lrs[1])
    options = {key: lars[key] for key in ("momentum", "eta", "weight_decay")}
    LARS(groups, **options).step()

    for name, value in params.items():
        case.check(f"after_lars/{name}", value)


def test_schedule_is_the_recorded_one(golden):
    case = golden("06d_ssl_barlow_twins")
    run, lars = case.meta["lr_schedule_config"], case.config["lars"]
    steps = case.arrays["lr_schedule"][:, 0].astype(int)

    factors = np.array(
        [
            warmup_cosine(
                int(step), run["loader_length"], run["epochs"], batch_size=run["batch_size"]
            )
            for step in steps
        ]
    )

    assert (lars["lr_weights"], lars["lr_biases"]) == (LR_WEIGHTS, LR_BIASES)
    case.check("lr_schedule", np.stack([steps, LR_WEIGHTS * factors, LR_BIASES * factors], 1))


def test_steps_are_those_of_the_equation():
    params = parameters()
    expected = [p.detach().clone() for p in params]
    moments = [torch.zeros_like(p) for p in expected]
    optimiser = LARS(params, 0.3, momentum=0.8, eta=0.01, weight_decay=0.1)

    for seed in (1, 2, 3):
        gradients = with_gradients(params, seed)
        optimiser.step()
        for i, g in enumerate(gradients):
            d = g
            if g.ndim > 1:
                d = g + 0.1 * expected[i]
                lengths = [t.square().sum().sqrt() for t in (expected[i], d)]
                d = d * 0.01 * lengths[0] / lengths[1]
            moments[i] = 0.8 * moments[i] + d
            expected[i] = expected[i] - 0.3 * moments[i]

    for p, e in zip(params, expected, strict=True):
        torch.testing.assert_close(p.detach(), e, rtol=1e-12, atol=1e-14)


def test_momentum_of_the_first_step_moves_the_second():
    lasting, anew = parameters(), parameters()
    optimiser = LARS(lasting, 0.1)

    for seed in (1, 2):
        with_gradients(lasting, seed)
        optimiser.step()
        with_gradients(anew, seed)
        LARS(anew, 0.1).step()

    for a, b in zip(lasting, anew, strict=True):
        assert not torch.allclose(a, b, rtol=1e-6, atol=0)


def test_momentum_survives_saving():
    params = parameters()
    optimiser = LARS(params, 0.1)
    with_gradients(params, 1)
    optimiser.step()
    resumed = copy.deepcopy(params)
    other = LARS(resumed, 0.7)

    other.load_state_dict(copy.deepcopy(optimiser.state_dict()))
    for each in (params, resumed):
        with_gradients(each, 2)
    optimiser.step()
    other.step()

    assert all(torch.equal(a, b) for a, b in zip(params, resumed, strict=True))


def test_weights_of_zero_take_the_plain_step():
    p = torch.nn.Parameter(torch.zeros(2, 2))
    p.grad = torch.ones(2, 2)

    LARS([p], 0.5).step()

    torch.testing.assert_close(p.detach(), torch.full((2, 2), -0.5))


def test_gradients_of_zero_and_none_leave_weights_as_they_are():
    p, q = torch.nn.Parameter(torch.ones(2, 2)), torch.nn.Parameter(torch.ones(2, 2))
    p.grad = torch.zeros(2, 2)

    LARS([p, q], 0.5, weight_decay=0.0).step()

    assert torch.equal(p, torch.ones(2, 2))
    assert torch.equal(q, torch.ones(2, 2))


def test_closure_is_computed_with_gradients():
    p = torch.nn.Parameter(torch.tensor([3.0]))
    optimiser = LARS([p], 0.1)

    def closure():
        optimiser.zero_grad()
        loss = p.square().sum()
        loss.backward()
        return loss

    assert optimiser.step(closure).item() == 9.0
    torch.testing.assert_close(p.detach(), torch.tensor([2.4]))


def test_sparse_gradients_are_refused():
    table = torch.nn.Embedding(4, 2, sparse=True)
    table(torch.tensor([1])).sum().backward()

    with pytest.raises(RuntimeError, match="does not support sparse gradients"):
        LARS(table.parameters(), 0.1).step()


def test_groups_part_weights_from_the_rest():
    frozen = torch.nn.Parameter(torch.ones(2, 2), requires_grad=False)
    params = parameters()

    weights, rest = lars_groups([*params, frozen])

    assert (weights["lr"], rest["lr"]) == (0.2, 0.0048)
    assert [p.ndim for p in weights["params"]] == [2, 2]
    assert [p.ndim for p in rest["params"]] == [1]
    assert len(lars_groups(params[:1])) == 1


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"lr": -0.1}, r"Invalid lr: -0\.1"),
        ({"lr": float("nan")}, "Invalid lr: nan"),
        ({"weight_decay": -1.0}, r"Invalid weight_decay: -1\.0"),
        ({"momentum": 1.0}, r"Invalid momentum: 1\.0"),
        ({"eta": 0.0}, r"Invalid eta: 0\.0"),
    ],
)
def test_impossible_settings_are_refused(settings, match):
    with pytest.raises(ValueError, match=match):
        LARS(parameters(), **settings)
    with pytest.raises(ValueError, match=match):
        LARS([{"params": parameters(), **settings}], 0.1)


@given(st.integers(1, 20), st.integers(1, 12), st.integers(0, 8), st.integers(1, 4096))
def test_schedule_rises_to_the_base_and_falls_to_the_floor(per_epoch, more, warmup, batch_size):
    epochs = warmup + more

    found = [
        warmup_cosine(t, per_epoch, epochs, batch_size=batch_size, warmup_epochs=warmup, floor=0.1)
        for t in range(per_epoch * epochs + 1)
    ]

    base, top = batch_size / 256, per_epoch * warmup
    rising, falling = found[: top + 1], found[top:]
    assert rising == sorted(rising)
    assert falling == sorted(falling, reverse=True)
    assert found[top] == pytest.approx(base)
    assert found[-1] == pytest.approx(0.1 * base)
    assert found[0] == (0 if warmup else pytest.approx(base))


def test_schedule_stays_after_the_end():
    found = [warmup_cosine(t, 5, 20, batch_size=64) for t in (100, 101, 1000)]

    assert found[0] == found[1] == found[2] == pytest.approx(0.25e-3)


@pytest.mark.parametrize(
    ("arguments", "settings", "match"),
    [
        ((-1, 5, 20), {}, "step is -1"),
        ((0, 0, 20), {}, "n_steps_per_epoch 0"),
        ((0, 5, 20), {"batch_size": 0}, "batch_size 0"),
        ((0, 5, 10), {}, "warmup_epochs is 10 of 10 epochs"),
        ((0, 5, 20), {"floor": 2.0}, r"floor is 2\.0"),
    ],
)
def test_impossible_schedules_are_refused(arguments, settings, match):
    with pytest.raises(ValueError, match=match):
        warmup_cosine(*arguments, **{"batch_size": 14, **settings})
