"""Augmentation: in training only, within bounds, with both signs, the same on every run."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import sparse

from episome.data import DonorShifts
from episome.nn import CSRParts, shift_expression
from episome.train import ClassifierPlan, DonorAugmentation


def table(n_vectors=6, n_genes=20, seed=0):
    rng = np.random.default_rng(seed)
    dense = rng.uniform(-1.5, 1.5, (n_vectors, n_genes)).astype(np.float32)
    dense[np.abs(dense) < 0.5] = 0
    return dense


def augmentation(**kwargs):
    shifts = DonorShifts(sparse.csr_matrix(table()), ("a", "b"), 6, 1)
    return DonorAugmentation(shifts, **{"seed": 0, **kwargs})


def test_shifted_expression_is_clamped_addition():
    dense, rng = table(), np.random.default_rng(1)
    x = rng.uniform(0, 9.2, (50, 20)).astype(np.float32)
    index, sign = rng.integers(6, size=50), rng.choice([-1, 1], 50)

    got = shift_expression(
        torch.as_tensor(x),
        CSRParts.from_dense(torch.as_tensor(dense)),
        torch.as_tensor(index),
        torch.as_tensor(sign),
    )

    np.testing.assert_allclose(got, np.clip(x + sign[:, None] * dense[index], 0, 9), atol=1e-6)


def test_shifted_expression_equals_the_golden(golden):
    case = golden("05_sctab_augmentation")

    got = shift_expression(
        torch.as_tensor(case["x"]),
        CSRParts.from_dense(torch.as_tensor(case["vectors"])),
        torch.as_tensor(case["index"]),
        torch.as_tensor(case["sign"])[:, 0],
    )

    case.check("augmented", got.numpy())


def test_the_batch_itself_is_not_changed():
    x = torch.ones(8, 20)

    augmentation()(x)

    assert (x == 1).all()


def test_every_cell_is_shifted_and_signs_are_balanced():
    index, sign = augmentation().draw(20_000)

    assert set(sign.tolist()) == {-1, 1}
    assert abs(sign.double().mean()) < 0.03
    assert np.bincount(index, minlength=6).min() > 20_000 / 6 * 0.9


def test_values_stay_between_zero_and_the_upper_bound():
    x = torch.rand(200, 20) * 9.21

    got = augmentation()(x)

    assert got.min() == 0
    assert got.max() <= 9


@pytest.mark.parametrize(("target_sum", "high"), [(1e4, 9.0), (1e6, 13.5), (1e3, 6.75)])
def test_the_upper_bound_follows_the_scale(target_sum, high):
    assert augmentation(target_sum=target_sum).high == pytest.approx(high, abs=0.01)


def test_draws_follow_the_seed_and_leave_the_global_state_alone():
    before = torch.random.get_rng_state()

    one, same, other = (augmentation(seed=s).draw(50) for s in (1, 1, 2))

    assert all(torch.equal(a, b) for a, b in zip(one, same, strict=True))
    assert not torch.equal(one[0], other[0])
    assert torch.equal(before, torch.random.get_rng_state())


def counts(n=4, n_genes=6):
    rng = np.random.default_rng(0)
    dense = rng.poisson(3, (n, n_genes)).astype(np.float32)
    return {
        "X": CSRParts.from_dense(torch.as_tensor(dense)),
        "size_factor": torch.as_tensor(dense.sum(axis=1)),
        "labels": torch.zeros(n, dtype=torch.int64),
    }


@pytest.mark.parametrize("form", ["dense", "csr"])
def test_the_plan_augments_training_batches_only(toy, form):
    class Core(toy.ToyCore):
        input_format = form

    shifts = DonorShifts(sparse.csr_matrix(np.full((1, 6), 1.0, np.float32)), ("a", "b"), 1, 1)
    plan = ClassifierPlan(Core(6, 3), augmentation=DonorAugmentation(shifts, seed=0))
    plain = ClassifierPlan(Core(6, 3))

    def values(p):
        x = p.on_after_batch_transfer(counts(), 0)["X"]
        return x if form == "dense" else x.to_dense(6)

    unchanged = torch.equal(values(plan.eval()), values(plain))
    shifted = (values(plan.train()) - values(plain)).abs()

    assert unchanged
    assert (shifted > 0).any(dim=1).all()
