"""Masked likelihoods of counts: those of the whole matrix, of scvi-tools, and recorded ones."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from scvi.distributions import NegativeBinomial
from torch.utils._python_dispatch import TorchDispatchMode

from episome.nn import (
    CSRParts,
    MaskedAutoencoder,
    RandomMask,
    TableMask,
    masked_count_error,
    negative_binomial_log_likelihood,
)
from episome.nn import _masked as module


def counts_of(n: int, d: int, rate: float, seed: int) -> torch.Tensor:
    """Whole numbers, (n, d) float64."""
    rng = torch.Generator().manual_seed(seed)
    return torch.poisson(torch.full((n, d), rate, dtype=torch.float64), generator=rng)


def problem(n: int, d: int, seed: int) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Last hidden layer, weight, bias and theta, which want gradients; sizes of cells."""
    rng = torch.Generator().manual_seed(seed)
    drawn = [
        torch.randn(*shape, generator=rng, dtype=torch.float64) for shape in ((n, 3), (d, 3), (d,))
    ]
    theta = torch.rand(d, generator=rng, dtype=torch.float64) * 4 + 0.05
    size = torch.rand(n, generator=rng, dtype=torch.float64) * 3 + 0.1
    return [t.requires_grad_() for t in (*drawn, theta)], size


def table(d: int, n: int, seed: int) -> TableMask:
    """Three sets of genes; what is scored is not what is hidden."""
    rng = torch.Generator().manual_seed(seed)
    hidden = (torch.rand(3, d, generator=rng) < 0.5).to(torch.uint8)
    hidden[:, 0] = 0
    scored = (torch.rand(3, d, generator=rng) < 0.5).to(torch.uint8)
    return TableMask(hidden, scored, torch.randint(0, 3, (n,), generator=rng))


def textbook(parameters, x, size, scored, genes) -> torch.Tensor:
    """Every mean, and scvi-tools' likelihood of every count."""
    hidden, weight, bias, theta = parameters
    mu = size[:, None] * F.softplus(hidden @ weight.T + bias)
    plain = NegativeBinomial(mu=mu, theta=theta, validate_args=False).log_prob(x)
    return -(plain * scored)[:, genes].sum() / max(int(scored[:, genes].sum()), 1)


@settings(max_examples=60)
@given(
    n=st.integers(1, 7),
    d=st.integers(1, 40),
    rate=st.sampled_from([0.0, 0.1, 1.0, 40.0]),
    mask_rate=st.sampled_from([0.0, 0.3, 0.9]),
    seed=st.integers(0, 999),
    tabled=st.booleans(),
    sampled=st.booleans(),
    compiled=st.booleans(),
)
def test_count_error_and_gradients_are_those_of_scvi_tools(
    n, d, rate, mask_rate, seed, tabled, sampled, compiled
):
    x = counts_of(n, d, rate, seed)
    parameters, size = problem(n, d, seed)
    mask = table(d, n, seed) if tabled else RandomMask(mask_rate, seed)
    rng = torch.Generator().manual_seed(seed)
    genes = torch.randperm(d, generator=rng)[: max(d // 3, 1)].sort().values if sampled else None
    every = torch.arange(d)

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EPISOME_NUMBA", "1" if compiled else "0")
        # Blocks of five genes, so that there are several.
        patch.setattr(module, "_BLOCK_VALUES", 1)
        patch.setattr(module, "_MIN_BLOCK", 5)
        ours = masked_count_error(*parameters, CSRParts.from_dense(x), size, mask, genes=genes)
        found = torch.autograd.grad(ours * 2, parameters)
    theirs = textbook(
        parameters, x, size, mask.scored(n, every), every if genes is None else genes
    )

    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)
    wanted = torch.autograd.grad(theirs * 2, parameters)
    for name, a, b in zip(("hidden", "weight", "bias", "theta"), found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-8, msg=lambda m, n=name: f"{n}: {m}")


def test_count_error_without_a_mask_is_the_host_s_likelihood_of_whole_cells():
    x = counts_of(5, 30, 2.0, 0)
    parameters, size = problem(5, 30, 0)
    hidden, weight, bias, theta = parameters
    mu = size[:, None] * F.softplus(hidden @ weight.T + bias)

    ours = masked_count_error(*parameters, CSRParts.from_dense(x), size, RandomMask(0.0))

    whole = negative_binomial_log_likelihood(CSRParts.from_dense(x), mu, theta)
    torch.testing.assert_close(ours, -whole.sum() / x.numel(), rtol=1e-10, atol=1e-10)


def test_counts_that_are_not_scored_change_nothing():
    x = counts_of(6, 40, 1.0, 1)
    parameters, size = problem(6, 40, 1)
    mask = RandomMask(0.5, seed=3)
    scored = mask.scored(6, torch.arange(40))
    other = torch.where(scored == 1, x, x + 7)

    def found(counts):
        value = masked_count_error(*parameters, CSRParts.from_dense(counts), size, mask)
        return [value, *torch.autograd.grad(value, parameters)]

    for a, b in zip(found(x), found(other), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("n_parts", [2, 3, 7])
def test_parts_of_the_genes_weighted_by_what_they_score_give_the_whole_error(n_parts):
    """So that genes drawn at random, each as often as others, estimate it without bias."""
    x = counts_of(8, 42, 1.5, 2)
    parameters, size = problem(8, 42, 2)
    mask, cells = RandomMask(0.4, seed=5), CSRParts.from_dense(x)
    order = torch.randperm(42, generator=torch.Generator().manual_seed(2))
    parts = [p.sort().values for p in order.chunk(n_parts)]
    weights = [float(mask.scored(8, p).sum()) for p in parts]

    def found(genes):
        value = masked_count_error(*parameters, cells, size, mask, genes=genes)
        return [value.detach(), *torch.autograd.grad(value, parameters)]

    of_parts = [
        [w / sum(weights) * t for t in found(p)] for p, w in zip(parts, weights, strict=True)
    ]

    for whole, *pieces in zip(found(None), *of_parts, strict=True):
        torch.testing.assert_close(sum(pieces), whole, rtol=1e-9, atol=1e-10)


def test_a_scored_gene_that_is_not_decoded_has_no_gradient():
    x = counts_of(4, 20, 1.0, 0)
    parameters, size = problem(4, 20, 0)
    genes = torch.tensor([3, 4, 11])

    value = masked_count_error(
        *parameters, CSRParts.from_dense(x), size, RandomMask(0.0), genes=genes
    )
    _, weight, bias, theta = torch.autograd.grad(value, parameters)

    others = np.setdiff1d(np.arange(20), genes)
    for gradient in (weight, bias, theta):
        assert not gradient[others].any()
        assert gradient[genes].reshape(3, -1).any(1).all()


@pytest.mark.parametrize("extreme", ["no counts", "one cell of no size", "many counts"])
def test_count_error_of_extreme_cells_is_finite(extreme):
    x = counts_of(3, 12, 1.0, 0).float()
    parameters, size = problem(3, 12, 0)
    parameters = [p.detach().float().requires_grad_() for p in parameters]
    if extreme == "no counts":
        x = torch.zeros_like(x)
    elif extreme == "one cell of no size":
        x[0], size[0] = 0.0, 0.0
    else:
        x[0], size[0] = 50_000.0, 60.0

    value = masked_count_error(
        *parameters, CSRParts.from_dense(x), size.float(), RandomMask(0.0), genes=None
    )
    gradients = torch.autograd.grad(value, parameters)

    assert torch.isfinite(value)
    assert all(torch.isfinite(g).all() for g in gradients)


class Shapes(TorchDispatchMode):
    """Keeps the number of values of all tensors that are made."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[tuple[int, ...]] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for t in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(t, torch.Tensor):
                self.seen.add(tuple(t.shape))
        return out


def test_no_tensor_of_cells_by_genes_is_made_of_counts():
    n, d = 300, 9000
    net = MaskedAutoencoder(d, hidden=(6,), n_latent=3, likelihood="nb")
    counts = CSRParts.from_dense(counts_of(n, d, 0.02, 0).float())
    cells = counts._replace(values=counts.values.log1p())

    with Shapes() as shapes:
        net.loss(cells, RandomMask(0.5), counts=counts, size=torch.ones(n)).backward()

    assert (d, 6) in shapes.seen
    assert max(np.prod(s) for s in shapes.seen) < n * d / 2


def test_a_shift_is_added_to_the_first_layer_of_the_decoder():
    torch.manual_seed(3)
    net = MaskedAutoencoder(20, hidden=(6, 5), n_latent=3, likelihood="nb", dropout=0.0).double()
    counts = CSRParts.from_dense(counts_of(4, 20, 1.0, 3))
    size, z = torch.ones(4, dtype=torch.float64), torch.randn(4, 3, dtype=torch.float64)
    shift = torch.randn(4, 5, dtype=torch.float64).requires_grad_()
    first = net.decoder[0]

    def error(**how):
        return net.error(z, counts, RandomMask(0.3, seed=1), counts=counts, size=size, **how)

    # Of one cell each, the shift is a bias.
    wanted = torch.zeros(4, 20, dtype=torch.float64)
    with torch.no_grad():
        bias = first.bias.clone()
        for i in range(4):
            first.bias.copy_(bias + shift[i])
            wanted[i] = net.decode(z)[i]
        first.bias.copy_(bias)

    torch.testing.assert_close(net.decode(z, shift=shift), wanted)
    assert torch.equal(error(shift=torch.zeros(5, dtype=torch.float64)), error())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(net, "_expanded", lambda *_: net_expanded(net, z, shift))
        dense = error()
    assert torch.equal(error(shift=shift), dense)
    assert error(shift=shift) != error()
    (gradient,) = torch.autograd.grad(error(shift=shift), shift)
    assert gradient.any(1).all()


def net_expanded(net, z, shift):
    """The decoder of a network layer by layer, with what is added to its first."""
    hidden = F.linear(z, net.decoder[0].weight, net.decoder[0].bias) + shift
    for layer in net.decoder[1:]:
        hidden = layer(hidden)
    return hidden


def test_counts_or_sizes_that_are_missing_are_asked_for():
    net = MaskedAutoencoder(10, hidden=(4,), n_latent=2, likelihood="nb")
    cells = CSRParts.from_dense(torch.eye(3, 10))

    with pytest.raises(ValueError, match="needs counts and the size of every cell"):
        net.loss(cells, RandomMask(0.5), counts=cells)
    with pytest.raises(ValueError, match="needs counts and the size of every cell"):
        net.loss(cells, RandomMask(0.5), size=torch.ones(3))


# --- recorded numbers of the published code ---------------------------------------------------


def recorded(case, prefix: str = "state/", **options) -> MaskedAutoencoder:
    """The recorded network: ours keeps the first layer gene by gene, theirs has a Linear."""
    *hidden, n_latent = case.config["units_encoder"]
    d = case.config["gene_dim"]
    net = MaskedAutoencoder(d, hidden=hidden, n_latent=n_latent, dropout=0.0, **options).double()
    state = dict(net.state_dict())

    def theirs(name: str) -> torch.Tensor:
        return case.tensor(f"{prefix}{name}", torch.float64)

    state["first"] = theirs("encoder.0.weight").T.contiguous()
    state["first_bias"] = theirs("encoder.0.bias")
    for kind in ("weight", "bias"):
        for layer in (3, 6):
            state[f"encoder.{layer - 1}.{kind}"] = theirs(f"encoder.{layer}.{kind}")
        for layer in (0, 3):
            state[f"decoder.{layer}.{kind}"] = theirs(f"decoder.0.{layer}.{kind}")
        # Of a likelihood of counts the second half of the outputs is never used there.
        state[f"out.{kind}"] = theirs(f"decoder.0.6.{kind}")[:d]
    net.load_state_dict(state)
    return net


class GivenMask:
    """A recorded mask: 1 visible, 0 hidden, and the share that is visible."""

    def __init__(self, visible: torch.Tensor, share: float) -> None:
        self.seen, self.share = visible, share

    def visible(self, cells: CSRParts) -> CSRParts:
        dense = cells.to_dense(self.seen.shape[1]) * self.seen / self.share
        return CSRParts.from_dense(dense)

    def scored(self, n_rows: int, genes: torch.Tensor) -> torch.Tensor:
        return (1 - self.seen[:, genes]).to(torch.uint8)


MASKS = {
    "random_mask": lambda case: GivenMask(
        case.tensor("mask_random"), 1 - case.config["masking_rate"]
    ),
    "gene_program_mask": lambda case: GivenMask(
        case.tensor("mask_gene_program"), 1 - float(case["gene_program_fraction_hidden"])
    ),
}


@pytest.mark.parametrize("activation", ["sigmoid", "identity"])
@pytest.mark.parametrize("name", MASKS)
def test_masked_reconstruction_loss_and_gradient_are_the_recorded_ones(golden, name, activation):
    case = golden("06a_ssl_masked_autoencoder")
    net = recorded(case, output_activation=activation)
    mask = MASKS[name](case)
    x = case.tensor("x", torch.float64)
    cells = CSRParts.from_dense(x)
    # Theirs divides by all entries of the batch, ours by the hidden ones.
    share = float((1 - mask.seen).double().mean())

    loss = net.loss(cells, mask)
    loss.backward()

    case.check(f"{activation}/reconstruction_{name}", net(mask.visible(cells)))
    case.check(f"{activation}/loss_{name}", loss * share)
    if name == "random_mask":
        case.check(f"{activation}/grad_first_layer_{name}", net.first.grad.T * share)


@pytest.mark.parametrize("activation", ["sigmoid", "identity"])
def test_plain_reconstruction_and_loss_are_the_recorded_ones(golden, activation):
    case = golden("06a_ssl_masked_autoencoder")
    net = recorded(case, output_activation=activation)
    cells = CSRParts.from_dense(case.tensor("x", torch.float64))

    if activation == "sigmoid":
        case.check("sigmoid/latent", net.encode(cells))
    case.check(f"{activation}/reconstruction", net(cells))
    # At rate 0 nothing is hidden and all is scored: both divide by the same.
    case.check(f"{activation}/loss_unmasked", net.loss(cells, RandomMask(0.0)))


@pytest.mark.parametrize("name", [None, *MASKS])
def test_a_rectified_output_is_recorded_and_follows_from_the_plain_one(golden, name):
    """Ours has none: where it is zero nothing is learned. Softplus is its smooth form."""
    case = golden("06a_ssl_masked_autoencoder")
    net = recorded(case)
    x = case.tensor("x", torch.float64)
    cells = CSRParts.from_dense(x)
    mask = None if name is None else MASKS[name](case)
    hidden = torch.ones_like(x) if mask is None else 1 - mask.seen.double()

    out = net(cells if mask is None else mask.visible(cells)).clamp_min(0)
    loss = (hidden * (out - x).square()).mean()

    ending = "" if name is None else f"_{name}"
    case.check(f"relu/reconstruction{ending}", out)
    case.check("relu/loss_unmasked" if name is None else f"relu/loss{ending}", loss)
    if name == "random_mask":
        loss.backward()
        case.check("relu/grad_first_layer_random_mask", net.first.grad.T)


def test_recorded_programmes_hide_their_union(golden):
    case = golden("06a_ssl_masked_autoencoder")
    programmes = case["gene_programs"] > 0
    union = programmes[case["gene_program_chosen"]].any(0)

    seen = case["mask_gene_program"] == 1

    assert (seen == ~union).all()
    assert float(case["gene_program_fraction_hidden"]) == pytest.approx(union.mean())


def test_likelihood_of_counts_is_the_recorded_one(golden):
    case = golden("06f_ssl_likelihoods_and_metrics")
    net = recorded(case, prefix="nb/state/", likelihood="nb")
    with torch.no_grad():
        net.log_theta.copy_(case.tensor("nb/state/px_r", torch.float64))
    cells, counts = (
        CSRParts.from_dense(case.tensor(k, torch.float64).contiguous()) for k in ("x", "counts")
    )
    n, d = case["counts"].shape
    one = torch.ones(n, dtype=torch.float64)  # theirs knows no size of a cell

    z = net.encode(cells)
    total = net.error(z, cells, RandomMask(0.0), counts=counts, size=one)

    case.check("nb/mu", net.decode(z))
    case.check("nb/mean", net.decode(z))
    case.check("nb/theta", net.log_theta.exp())
    # Theirs is the sum over genes, ours the mean.
    case.check("nb/loss", total * d)
    entries = np.empty((n, d))
    for i, j in np.ndindex(n, d):
        only = torch.zeros(1, d, dtype=torch.uint8)
        only[0, j] = 1
        rows = torch.zeros(1, dtype=torch.int64)
        mask = TableMask(torch.zeros_like(only), only, rows)
        row = CSRParts.from_dense(case.tensor("counts", torch.float64)[i : i + 1].contiguous())
        with torch.no_grad():
            entries[i, j] = net.error(z[i : i + 1], row, mask, counts=row, size=one[:1])
    case.check("nb/neg_log_prob", entries)
