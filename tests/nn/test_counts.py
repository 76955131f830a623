"""Likelihoods of counts: scvi-tools' values and gradients, whatever the counts are."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scvi.distributions import NegativeBinomial, ZeroInflatedNegativeBinomial

from episome.nn import (
    CSRParts,
    negative_binomial_log_likelihood,
    zero_inflated_log_likelihood,
)


def problem(n: int, d: int, rate: float, seed: int, *, per_cell: bool = False):
    """Counts, and float64 parameters that need gradients."""
    rng = torch.Generator().manual_seed(seed)
    x = torch.poisson(torch.full((n, d), rate, dtype=torch.float64), generator=rng)
    mu = (torch.rand(n, d, generator=rng, dtype=torch.float64) * 3 + 1e-3).requires_grad_()
    shape = (n, d) if per_cell else (d,)
    theta = (torch.rand(shape, generator=rng, dtype=torch.float64) * 4 + 0.05).requires_grad_()
    logits = torch.randn(n, d, generator=rng, dtype=torch.float64).requires_grad_()
    return x, mu, theta, logits


def gradients(value: torch.Tensor, *of: torch.Tensor) -> list[torch.Tensor]:
    # A gradient of its own for every cell.
    weights = torch.linspace(0.5, 1.5, len(value), dtype=value.dtype)
    return list(torch.autograd.grad((value * weights).sum(), of))


def same(ours: torch.Tensor, theirs: torch.Tensor, *of: torch.Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)
    for a, b in zip(gradients(ours, *of), gradients(theirs, *of), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-8)


@settings(max_examples=60)
@given(
    n=st.integers(1, 5),
    d=st.integers(1, 6),
    rate=st.sampled_from([0.0, 0.1, 1.0, 40.0]),
    seed=st.integers(0, 999),
    per_cell=st.booleans(),
    sparse=st.booleans(),
)
def test_values_and_gradients_are_those_of_scvi_tools(n, d, rate, seed, per_cell, sparse):
    x, mu, theta, logits = problem(n, d, rate, seed, per_cell=per_cell)
    counts = CSRParts.from_dense(x) if sparse else x

    plain = NegativeBinomial(mu=mu, theta=theta, validate_args=False).log_prob(x).sum(1)
    same(negative_binomial_log_likelihood(counts, mu, theta), plain, mu, theta)

    inflated = ZeroInflatedNegativeBinomial(
        mu=mu, theta=theta, zi_logits=logits, validate_args=False
    )
    ours = zero_inflated_log_likelihood(counts, mu, theta, logits)
    same(ours, inflated.log_prob(x).sum(1), mu, theta, logits)


def test_zeros_that_are_stored_are_zeros():
    x, mu, theta, logits = problem(3, 4, 1.0, 0)
    full = CSRParts(
        torch.arange(4) * 4,
        torch.arange(4, dtype=torch.int32).repeat(3),
        x.reshape(-1),
    )

    ours, theirs = (negative_binomial_log_likelihood(c, mu, theta) for c in (full, x))
    same(ours, theirs, mu, theta)
    ours, theirs = (zero_inflated_log_likelihood(c, mu, theta, logits) for c in (full, x))
    same(ours, theirs, mu, theta, logits)


def test_logits_have_the_shape_of_means():
    x, mu, theta, logits = problem(3, 4, 1.0, 0)

    with pytest.raises(ValueError, match="shape"):
        zero_inflated_log_likelihood(x, mu, theta, logits[:, :2])


def test_single_precision_is_near_double():
    x, mu, theta, logits = problem(20, 200, 0.1, 1)
    singles = [t.detach().float().requires_grad_() for t in (mu, theta, logits)]

    for like, n in ((negative_binomial_log_likelihood, 2), (zero_inflated_log_likelihood, 3)):
        exact = like(x, *(mu, theta, logits)[:n])
        found = like(x.float(), *singles[:n])
        torch.testing.assert_close(found.double(), exact, rtol=2e-6, atol=1e-4)
        for a, b in zip(
            gradients(found, *singles[:n]), gradients(exact, *(mu, theta, logits)[:n]), strict=True
        ):
            torch.testing.assert_close(a.double(), b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"mu": torch.ones(2, 3)}, r"mu has shape \(2, 3\); expected \(3, genes\)"),
        ({"theta": torch.ones(2)}, r"theta has shape \(2,\); expected \(3,\)"),
        ({"counts": torch.ones(3, 4)}, r"counts have shape \(3, 4\)"),
    ],
)
def test_shapes_that_do_not_fit_are_named(change, text):
    given_ = {"counts": torch.ones(3, 3), "mu": torch.ones(3, 3), "theta": torch.ones(3)} | change

    with pytest.raises(ValueError, match=text):
        negative_binomial_log_likelihood(**given_)


def test_nothing_is_computed_for_dispersions_that_need_no_gradient():
    x, mu, theta, logits = problem(3, 4, 1.0, 2)
    found = zero_inflated_log_likelihood(x, mu, theta.detach(), logits.detach()).sum()

    (gradient,) = torch.autograd.grad(found, mu)
    expected = ZeroInflatedNegativeBinomial(
        mu=mu, theta=theta.detach(), zi_logits=logits.detach(), validate_args=False
    )
    torch.testing.assert_close(
        gradient, torch.autograd.grad(expected.log_prob(x).sum(), mu)[0], rtol=1e-8, atol=1e-8
    )
