"""Augmented views: the recorded numbers, distributions, and what may depend on what."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from episome.nn import CSRParts, PretextBatch
from episome_ssl import views
from episome_ssl.views import Augmentation


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def dense(view, n_genes=30):
    return view if isinstance(view, torch.Tensor) else view.to_dense(n_genes)


def test_noise_of_recorded_draws_gives_the_recorded_cells(golden):
    case = golden("06e_ssl_augmentations")
    x, config = case.tensor("x"), case.config

    counts = case.tensor("negbin/noise_counts")
    kept, rate = case.tensor("dropout/keep_scale") > 0, config["dropout_intensity"]

    case.check("negbin/out", views.with_count_noise(x, counts, config["negbin_intensity"]))
    case.check("dropout/out", views.with_dropout(x, kept, rate))
    case.check("gaussian/out", views.with_noise(x, case.tensor("gaussian/noise")))
    case.check("uniform/out", views.with_noise(x, case.tensor("uniform/noise")))


@pytest.mark.parametrize("total", [1, 10])
def test_counts_are_those_of_negative_binomials_of_uniform_probability(total):
    """Against the two steps of the published code: a probability for every entry, then counts."""
    n = 200_000
    rng = np.random.default_rng(0)

    draws = views.overdispersed_counts((400, n // 400), generator(), total)

    counts = draws.flatten().numpy()
    assert draws.shape == (400, n // 400)
    assert np.array_equal(counts, counts.round())
    assert counts.min() == 0
    steps = np.arange(2000)
    below = np.searchsorted(np.sort(counts), steps, side="right") / n
    # Kolmogorov's distance, which is exceeded by chance once in a thousand.
    assert np.abs(below - (1 - total / (steps + 1 + total))).max() < 1.95 / n**0.5
    in_steps = rng.poisson(rng.gamma(total, 1 / rng.uniform(size=n) - 1))
    other = np.searchsorted(np.sort(in_steps), steps, side="right") / n
    assert np.abs(below - other).max() < 1.95 * (2 / n) ** 0.5


def test_counts_are_finite_however_small_the_draw():
    draws = views.overdispersed_counts((2000, 2000), generator())

    assert torch.isfinite(draws).all()
    assert float(draws.max()) > 1e5


def test_counts_of_a_total_below_one_are_refused():
    with pytest.raises(ValueError, match=r"total is 0; it must be 1 or more"):
        views.overdispersed_counts((3,), generator(), 0)


def test_noise_of_every_cell_is_scaled_on_its_own():
    out = views.negative_binomial_noise(torch.zeros(50, 40), 0.2, generator())

    totals = torch.expm1(out.double() / 0.2).sum(1)
    torch.testing.assert_close(totals, torch.full_like(totals, 1e4), rtol=1e-4, atol=0)


def test_noise_without_counts_leaves_the_cell_as_it_is():
    x = torch.rand(2, 5)

    out = views.with_count_noise(x, torch.tensor([[0.0] * 5, [1.0] * 5]), 0.2)

    assert torch.equal(out[0], x[0])
    torch.testing.assert_close(out[1], x[1] + 0.2 * torch.log1p(torch.tensor(2000.0)))


def test_dropout_keeps_the_expectation():
    out = views.dropout(torch.ones(1000, 100), 0.2, generator())

    assert set(out.unique().tolist()) == {0.0, 1.25}
    assert abs((out == 0).double().mean() - 0.2) < 4 * (0.16 / out.numel()) ** 0.5


def test_gaussian_and_uniform_noise_have_their_distributions():
    x = torch.full((400, 500), 5.0)

    normal = (views.gaussian_noise(x, 0.3, generator()) - 5).flatten().numpy()
    even = (views.uniform_noise(x, 0.5, generator()) - 5).flatten().numpy()

    assert stats.kstest(normal, stats.norm(0, 0.3).cdf).pvalue > 0.01
    assert stats.kstest(even, stats.uniform(-0.25, 0.5).cdf).pvalue > 0.01


@given(
    st.sampled_from(["noise", "gaussian", "uniform", "dropout"]),
    st.floats(0, 0.9),
    st.integers(0, 2**31),
)
def test_no_noise_leaves_values_below_zero(kind, strength, seed):
    draw = {
        "noise": views.negative_binomial_noise,
        "gaussian": views.gaussian_noise,
        "uniform": views.uniform_noise,
        "dropout": views.dropout,
    }[kind]
    x = torch.rand(6, 9, generator=generator(seed)) - 0.3
    x = x.clamp_min(0)

    out = draw(x, strength, generator(seed))

    assert out.min() >= 0
    assert torch.isfinite(out).all()
    assert torch.equal(out, draw(x, strength, generator(seed)))


def test_every_cell_draws_for_itself_whether_it_gets_noise():
    n = 2000
    empty = PretextBatch(CSRParts.from_dense(torch.zeros(n, 20)), torch.arange(n), seed=3)

    view = Augmentation("noise", probability=0.3, dropout=0.0).view(empty, 20, 0)

    noisy = view.any(1)
    assert abs(int(noisy.sum()) - 0.3 * n) < 4 * (0.21 * n) ** 0.5
    # A run of cells is as unlikely to agree as independent draws are.
    changes = int((noisy[1:] != noisy[:-1]).sum())
    assert abs(changes - 0.42 * n) < 5 * (0.42 * n) ** 0.5


def test_every_cell_draws_for_itself_whether_it_loses_genes():
    n = 2000
    full = PretextBatch(CSRParts.from_dense(torch.ones(n, 20)), torch.arange(n), seed=3)

    view = Augmentation("noise", probability=0.3, intensity=0.0, dropout=0.5).view(full, 20, 0)

    thinned = (view != 1).any(1)
    assert abs(int(thinned.sum()) - 0.3 * n) < 4 * (0.21 * n) ** 0.5
    assert set(view[thinned].unique().tolist()) == {0.0, 2.0}


def test_noise_and_dropout_of_a_cell_are_drawn_apart():
    n = 4000
    empty = PretextBatch(CSRParts.from_dense(torch.zeros(n, 20)), torch.arange(n), seed=3)

    view = Augmentation("noise", probability=0.5, dropout=0.5).view(empty, 20, 0)

    # Half of the cells have noise, and half of these lost about half of it.
    some = view.any(1)
    thinned = some & ((view == 0).double().mean(1) > 0.25)
    assert abs(int(thinned.sum()) - n / 4) < 5 * (n * 3 / 16) ** 0.5


def test_cells_of_a_batch_are_not_changed(batch_of):
    batch = batch_of()
    before = [part.clone() for part in batch.cells]

    for kind in ("noise", "mask"):
        Augmentation(kind, probability=1.0).view(batch, 30, 0)

    assert all(torch.equal(a, b) for a, b in zip(before, batch.cells, strict=True))


@pytest.mark.parametrize("kind", ["noise", "mask"])
def test_views_follow_from_the_seed_and_their_number_alone(batch_of, kind):
    augmentation = Augmentation(kind, probability=1.0)
    state = torch.get_rng_state()

    views_of = {
        (seed, which): dense(augmentation.view(batch_of(seed=seed), 30, which))
        for seed in (1, 2)
        for which in (0, 1)
    }

    again = dense(augmentation.view(batch_of(seed=2), 30, 1))
    assert torch.equal(views_of[2, 1], again)
    found = list(views_of.values())
    assert not any(torch.equal(a, b) for i, a in enumerate(found) for b in found[:i])
    assert all(view.min() >= 0 for view in found)
    assert torch.equal(state, torch.get_rng_state())


def test_masked_views_stay_sparse_and_scaled(batch_of):
    batch = batch_of(400, 50)

    view = Augmentation("mask", mask_rate=0.3).view(batch, 50, 1)

    assert isinstance(view, CSRParts)
    stored = len(batch.cells.values)
    assert abs(len(view.values) - 0.7 * stored) < 4 * (0.21 * stored) ** 0.5
    before, after = batch.cells.to_dense(50), view.to_dense(50)
    torch.testing.assert_close(after[after > 0], before[after > 0] / 0.7)


def test_masked_views_of_a_cell_do_not_depend_on_the_cells_beside_it(batch_of):
    batch, augmentation = batch_of(), Augmentation("mask")
    order = torch.randperm(12, generator=generator())[:7]
    other = dataclasses.replace(batch, cells=batch.cells.take(order), numbers=batch.numbers[order])

    view = augmentation.view(batch, 30, 0)

    assert torch.equal(dense(augmentation.view(other, 30, 0)), dense(view)[order])


def test_nothing_to_do_gives_the_cells(batch_of):
    batch = batch_of()
    x = dense(batch.cells)

    assert torch.equal(Augmentation("noise", probability=0.0).view(batch, 30, 0), x)
    assert torch.equal(dense(Augmentation("mask", mask_rate=0.0).view(batch, 30, 0)), x)


@pytest.mark.parametrize(
    ("kind", "settings", "error", "match"),
    [
        ("blur", {}, ValueError, "augmentation is 'blur'; use one of"),
        ("noise", {"probability": 1.5}, ValueError, r"probability is 1\.5"),
        ("noise", {"intensity": float("nan")}, ValueError, "intensity is nan"),
        ("noise", {"dropout": 1.0}, ValueError, r"dropout is 1\.0; it must be at least 0"),
        ("mask", {"mask_rate": -0.1}, ValueError, r"mask_rate is -0\.1"),
        ("noise", {"mask_rate": 0.5}, TypeError, r"'noise' has no setting \['mask_rate'\]"),
        ("mask", {"intensity": 0.1}, TypeError, "it has mask_rate"),
        ("mask", {"speed": 1}, TypeError, r"no setting \['speed'\]"),
    ],
)
def test_impossible_augmentations_are_refused(kind, settings, error, match):
    with pytest.raises(error, match=match):
        Augmentation.of(kind, **settings)
