"""Masked autoencoders: the loss of blocks is that of whole matrices, and masks are rules."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from episome.nn import (
    CSRParts,
    MaskedAutoencoder,
    MeasuredMask,
    RandomMask,
    TableMask,
    masked_error,
    output_error,
)
from episome.nn import _masked as module

ACTIVATIONS = {
    "identity": lambda t: t,
    "softplus": F.softplus,
    "sigmoid": torch.sigmoid,
}


def cells_of(n: int, d: int, seed: int = 0, *, share: float = 0.2) -> torch.Tensor:
    """Expression with few values above zero, (n, d) float64."""
    rng = torch.Generator().manual_seed(seed)
    values = torch.rand(n, d, generator=rng, dtype=torch.float64) * 4 + 0.1
    return values * (torch.rand(n, d, generator=rng) < share)


def table(d: int, n: int, seed: int) -> TableMask:
    """Two sets of genes that are hidden; others are scored."""
    rng = torch.Generator().manual_seed(seed)
    hidden = (torch.rand(2, d, generator=rng) < 0.5).to(torch.uint8)
    hidden[:, 0] = 0
    scored = (torch.rand(2, d, generator=rng) < 0.5).to(torch.uint8)
    rows = torch.randint(0, 2, (n,), generator=rng)
    return TableMask(hidden, scored, rows, scale=torch.tensor([1.5, 2.0]))


def textbook(hidden, weight, bias, x, scored, genes, activation) -> torch.Tensor:
    """Everything in full."""
    expected = ACTIVATIONS[activation](hidden @ weight.T + bias)
    errors = (expected - x).square() * scored
    return errors[:, genes].sum() / max(int(scored[:, genes].sum()), 1)


@settings(max_examples=40)
@given(
    n=st.integers(1, 7),
    d=st.integers(1, 40),
    rate=st.sampled_from([0.0, 0.3, 0.9]),
    seed=st.integers(0, 999),
    tabled=st.booleans(),
    sampled=st.booleans(),
    activation=st.sampled_from(sorted(ACTIVATIONS)),
    compiled=st.booleans(),
)
def test_error_and_gradients_are_those_of_the_whole_matrix(
    n, d, rate, seed, tabled, sampled, activation, compiled
):
    rng = torch.Generator().manual_seed(seed)
    x = cells_of(n, d, seed)
    parameters = [
        torch.randn(*shape, generator=rng, dtype=torch.float64).requires_grad_()
        for shape in ((n, 3), (d, 3), (d,))
    ]
    mask = table(d, n, seed) if tabled else RandomMask(rate, seed)
    genes = torch.randperm(d, generator=rng)[: max(d // 3, 1)].sort().values if sampled else None
    every = torch.arange(d)
    scored = mask.scored(n, every)

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EPISOME_NUMBA", "1" if compiled else "0")
        # Blocks of five genes, so that there are several.
        patch.setattr(module, "_BLOCK_VALUES", 1)
        patch.setattr(module, "_MIN_BLOCK", 5)
        ours = masked_error(
            *parameters, CSRParts.from_dense(x), mask, genes=genes, activation=activation
        )
        found = torch.autograd.grad(ours * 2, parameters)
    theirs = textbook(*parameters, x, scored, every if genes is None else genes, activation)

    torch.testing.assert_close(ours, theirs)
    for a, b in zip(found, torch.autograd.grad(theirs * 2, parameters), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_random_masks_hide_the_share_that_is_wanted(rate):
    scored = RandomMask(rate, seed=3).scored(200, torch.arange(1000)).double()

    sigma = (rate * (1 - rate)) ** 0.5
    assert abs(float(scored.mean()) - rate) < 3 * sigma / scored.numel() ** 0.5
    # Of every cell and of every gene too: no row and no column is special.
    assert float((scored.mean(1) - rate).abs().max()) < 5 * sigma / 1000**0.5
    assert float((scored.mean(0) - rate).abs().max()) < 5 * sigma / 200**0.5


def test_draws_of_cells_of_genes_and_of_seeds_are_independent():
    genes = torch.arange(2000)
    draws = torch.cat(
        [RandomMask(0.5, seed=s).scored(30, genes) for s in (0, 1, 2**32, 2**33)]
    ).double()

    between = torch.corrcoef(draws).fill_diagonal_(0)
    assert float(between.abs().max()) < 5 / 2000**0.5
    # Nor is the mask of a cell that of another, moved by some genes.
    first = np.fft.rfft(draws[0].numpy() - 0.5)
    for other in draws[1:20].numpy():
        moved = np.fft.irfft(first.conj() * np.fft.rfft(other - 0.5)) / (0.25 * 2000)
        assert np.abs(moved).max() < 6 / 2000**0.5


def test_compiled_draws_are_the_plain_ones(monkeypatch):
    mask = RandomMask(0.3, seed=2**40 + 17, cells=torch.tensor([5, 2**35, 0, 5]))
    cells = CSRParts.from_dense(cells_of(4, 300))
    genes = torch.tensor([0, 3, 4, 250, 299])
    compiled = mask.scored(4, genes), mask.visible(cells)

    monkeypatch.setenv("EPISOME_NUMBA", "0")
    plain = mask.scored(4, genes), mask.visible(cells)

    assert torch.equal(compiled[0], plain[0])
    assert torch.equal(compiled[0][0], compiled[0][3])
    for a, b in zip(compiled[1], plain[1], strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("mask", [RandomMask(0.4, seed=1), table(50, 6, 1)])
def test_what_is_scored_and_not_seen_is_one_rule(mask):
    x = cells_of(6, 50, share=0.9)
    seen = mask.visible(CSRParts.from_dense(x)).to_dense(50)
    hidden = (
        mask.scored(6, torch.arange(50))
        if isinstance(mask, RandomMask)
        else mask.hidden[mask.rows]
    )

    assert not seen[hidden == 1].any()
    factor = 1 / 0.6 if isinstance(mask, RandomMask) else mask.scale[mask.rows][:, None].double()
    torch.testing.assert_close(seen, torch.where(hidden == 1, 0.0, x * factor))


def test_visible_values_keep_their_expectation():
    x = cells_of(3, 40, share=0.5)
    cells = CSRParts.from_dense(x)

    mean = torch.stack(
        [RandomMask(0.5, seed=s).visible(cells).to_dense(40) for s in range(800)]
    ).mean(0)

    assert float((mean - x).abs().max()) < 5 * 4 / 800**0.5
    assert RandomMask(0.0).visible(cells) is cells


def test_visible_targets_do_not_count_and_padding_does_not():
    x = cells_of(5, 30)
    rng = torch.Generator().manual_seed(0)
    hidden, weight, bias = (
        torch.randn(*s, generator=rng, dtype=torch.float64) for s in ((5, 4), (30, 4), (30,))
    )
    mask = RandomMask(0.5, seed=9)
    scored = mask.scored(5, torch.arange(30))
    other = torch.where(scored == 1, x, x + 1)
    error = masked_error(hidden, weight, bias, CSRParts.from_dense(x), mask)

    assert torch.equal(error, masked_error(hidden, weight, bias, CSRParts.from_dense(other), mask))
    # Genes that no table scores change nothing.
    wide = TableMask(
        *[torch.cat([t, torch.zeros(5, 7, dtype=torch.uint8)], 1) for t in (scored, scored)],
        rows=torch.arange(5),
    )
    padded = [torch.cat([t, t[:7] * 3]) for t in (weight, bias)]
    torch.testing.assert_close(error, masked_error(hidden, *padded, CSRParts.from_dense(x), wide))


def test_few_decoded_genes_estimate_the_whole_error_and_its_gradient():
    net = MaskedAutoencoder(400, hidden=(12,), n_latent=4, dropout=0.0).double()
    cells = CSRParts.from_dense(cells_of(16, 400))
    mask = RandomMask(0.5, seed=4)
    rng = torch.Generator().manual_seed(0)

    def loss(genes=None) -> tuple[float, torch.Tensor]:
        value = net.loss(cells, mask, genes=genes)
        (gradient,) = torch.autograd.grad(value, net.first)
        return float(value.detach()), gradient

    whole, gradient = loss()
    drawn = [loss(torch.randperm(400, generator=rng)[:50].sort().values) for _ in range(400)]
    values = np.array([v for v, _ in drawn])

    error = values.std(ddof=1) / len(values) ** 0.5
    assert abs(values.mean() - whole) < 4 * error
    gradients = torch.stack([g for _, g in drawn])
    error = (gradients.var(0).sum() / len(drawn)).sqrt()
    assert float((gradients.mean(0) - gradient).norm()) < 2 * float(error)
    assert float(error) < 0.5 * float(gradient.norm())


class Shapes(TorchDispatchMode):
    """Keeps the shapes of all tensors that are made."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[tuple[int, ...]] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for t in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(t, torch.Tensor):
                self.seen.add(tuple(t.shape))
        return out


def test_no_tensor_of_cells_by_genes_is_made():
    n, d = 300, 9000
    net = MaskedAutoencoder(d, hidden=(6,), n_latent=3)
    cells = CSRParts.from_dense(cells_of(n, d, share=0.02).float())

    with Shapes() as shapes:
        net.loss(cells, RandomMask(0.5)).backward()

    assert (d, 6) in shapes.seen
    assert max(np.prod(s) for s in shapes.seen) < n * d / 2


def test_products_with_fewer_digits_stay_near():
    torch.manual_seed(0)
    net = MaskedAutoencoder(600, hidden=(64, 32), n_latent=16, dropout=0.0)
    cells = CSRParts.from_dense(cells_of(32, 600).float())
    losses, gradients = [], []
    for products in (None, torch.bfloat16):
        net.zero_grad()
        value = net.loss(cells, RandomMask(0.5, seed=2), products=products)
        value.backward()
        losses.append(float(value.detach()))
        gradients.append(torch.cat([p.grad.reshape(-1) for p in net.parameters()]))

    assert losses[1] != losses[0]
    assert losses[1] == pytest.approx(losses[0], rel=5e-3)
    assert float((gradients[1] - gradients[0]).norm() / gradients[0].norm()) < 0.03


@pytest.mark.parametrize("share", [0.1, 0.9])
def test_cells_of_many_and_of_few_values_are_trained_with_fewer_digits(share):
    """Of many stored values the first product is a dense one, which autocast would lower."""
    torch.manual_seed(0)
    net = MaskedAutoencoder(60, hidden=(64, 32), n_latent=16, dropout=0.0)
    cells = CSRParts.from_dense(cells_of(32, 60, share=share).float())
    gradients = []
    for products in (None, torch.bfloat16):
        net.zero_grad()
        net.loss(cells, RandomMask(0.2, seed=1), products=products).backward()
        gradients.append(net.first.grad.clone())

    assert gradients[1].dtype == torch.float32
    assert float((gradients[1] - gradients[0]).norm() / gradients[0].norm()) < 0.05


def test_an_autoencoder_learns_what_is_hidden():
    """Genes come in groups that rise and fall together; the hidden are told from the visible."""
    torch.manual_seed(0)
    groups = torch.rand(256, 4).repeat_interleave(10, 1) * 3
    cells = CSRParts.from_dense(groups)
    net = MaskedAutoencoder(40, hidden=(32,), n_latent=8, dropout=0.0)
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    for step in range(1000):
        optimizer.zero_grad()
        net.loss(cells, RandomMask(0.5, seed=step)).backward()
        optimizer.step()

    with torch.no_grad():
        error = float(net.loss(cells, RandomMask(0.5, seed=10_000)))
    assert error < 0.25 * float(groups.var(0).mean())


def test_embedding_and_reconstruction_of_sparse_and_dense_cells_agree(monkeypatch):
    net = MaskedAutoencoder(50, hidden=(8, 6), n_latent=3, output_activation="softplus").eval()
    x = cells_of(7, 50).float()
    cells = CSRParts.from_dense(x)
    compiled = net(cells)

    torch.testing.assert_close(compiled, net(x))
    monkeypatch.setenv("EPISOME_NUMBA", "0")
    torch.testing.assert_close(compiled, net(cells))
    assert net.encode(x).shape == (7, 3)
    assert float(compiled.detach().min()) > 0


def test_threads_do_not_change_the_loss():
    net = MaskedAutoencoder(2000, hidden=(16,), n_latent=4, dropout=0.0)
    cells = CSRParts.from_dense(cells_of(200, 2000).float())
    before = torch.get_num_threads()
    values = []
    try:
        for n in (1, 2):
            torch.set_num_threads(n)
            values.append(
                masked_error(
                    net.decoder(net.encode(cells)),
                    net.out.weight,
                    net.out.bias,
                    cells,
                    RandomMask(0.5),
                ).detach()
            )
    finally:
        torch.set_num_threads(before)

    torch.testing.assert_close(values[0], values[1], rtol=1e-6, atol=0)


def test_gradients_are_taken_once():
    net = MaskedAutoencoder(20, hidden=(4,), n_latent=2)
    loss = net.loss(CSRParts.from_dense(torch.eye(3, 20)), RandomMask(0.5))
    loss.backward(retain_graph=True)

    with pytest.raises(RuntimeError, match="compute the loss again"):
        loss.backward()


def test_nothing_scored_is_no_error():
    net = MaskedAutoencoder(20, hidden=(4,), n_latent=2)
    nothing = torch.zeros(1, 20, dtype=torch.uint8)
    mask = TableMask(nothing, nothing, rows=torch.zeros(3, dtype=torch.int64))

    loss = net.loss(CSRParts.from_dense(torch.eye(3, 20)), mask)
    loss.backward()

    assert float(loss.detach()) == 0
    assert not net.out.weight.grad.any()


@pytest.mark.parametrize("rate", [-0.1, 1.0, 1.5, float("nan")])
def test_rates_outside_are_refused(rate):
    with pytest.raises(ValueError, match="at least 0 and below 1"):
        RandomMask(rate)


def test_tables_that_cannot_be_are_refused():
    rows = torch.zeros(2, dtype=torch.int64)
    ones, some = torch.ones(2, 4), torch.eye(2, 4)
    with pytest.raises(ValueError, match="2 of 2 rows of the mask hide every gene"):
        TableMask(ones, ones, rows)
    with pytest.raises(ValueError, match="expected the same"):
        TableMask(some, some[:, :3], rows)
    with pytest.raises(ValueError, match="the mask has 2 cells; the batch has 5"):
        TableMask(some, some, rows).scored(5, torch.arange(4))


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"hidden": ()}, "one hidden layer"),
        ({"hidden": (4, 0)}, "every width"),
        ({"n_latent": 0}, "every width"),
        ({"activation": "tanh"}, "activation is 'tanh'"),
        ({"output_activation": "tanh"}, "output_activation is 'tanh'"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, text):
    with pytest.raises(ValueError, match=text):
        MaskedAutoencoder(10, **settings)


def test_layers_are_those_of_the_paper():
    net = MaskedAutoencoder(1000)
    linear = [
        m for m in itertools.chain(net.encoder, net.decoder) if isinstance(m, torch.nn.Linear)
    ]

    assert net.first.shape == (1000, 512)
    assert [m.out_features for m in linear] == [512, 256, 256, 64, 256, 256, 512, 512]
    assert net.out.weight.shape == (1000, 512)


def test_genes_that_were_not_measured_in_a_cell_are_not_asked_for():
    x = cells_of(8, 40)
    rng = torch.Generator().manual_seed(1)
    measured = torch.rand(3, 40, generator=rng) < 0.6
    origins = torch.tensor([0, 1, 2, 0, 1, 2, 0, 1])
    x = torch.where(measured[origins], x, torch.zeros(()).double())
    net = MaskedAutoencoder(40, hidden=(6,), n_latent=3, dropout=0.0).double()
    cells, plain = CSRParts.from_dense(x), RandomMask(0.5, seed=2)
    mask = MeasuredMask(plain, measured, origins)

    found = net.loss(cells, mask)

    scored = plain.scored(8, torch.arange(40)).bool() & measured[origins]
    out = net.decode(net.encode_visible(cells, plain))
    torch.testing.assert_close(found, (out - x)[scored].square().mean())
    assert torch.equal(mask.scored(8, torch.arange(40)).bool(), scored)
    # What the encoder sees is what the other mask leaves.
    assert torch.equal(mask.visible(cells).values, plain.visible(cells).values)


# -- outputs of other likelihoods -----------------------------------------------------------------


@pytest.mark.parametrize("likelihood", ["mse", "poisson", "bernoulli"])
@pytest.mark.parametrize("n_features", [5, 700])
def test_an_output_block_by_block_is_the_whole_one(likelihood, n_features, monkeypatch):
    # Blocks of 256 features, so that there are several.
    monkeypatch.setattr(module, "_BLOCK_VALUES", 1)
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(6, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(n_features, 4, generator=generator, dtype=torch.float64)
    weight.requires_grad_()
    bias = torch.randn(n_features, generator=generator, dtype=torch.float64, requires_grad=True)
    values = torch.poisson(torch.full((6, n_features), 0.7, dtype=torch.float64), generator)
    size = torch.rand(6, generator=generator, dtype=torch.float64) + 0.5
    measured = (torch.rand(2, n_features, generator=generator) < 0.7).to(torch.uint8)
    origins = torch.tensor([0, 1, 1, 0, 0, 1])
    mask = MeasuredMask(RandomMask(0.0), measured, origins)

    loss = output_error(
        hidden,
        weight,
        bias,
        CSRParts.from_dense(values),
        mask,
        likelihood=likelihood,
        size=size if likelihood == "poisson" else None,
    )
    found = torch.autograd.grad(loss, (hidden, weight, bias))

    raw = hidden @ weight.T + bias
    if likelihood == "mse":
        errors = (raw - values).square()
    elif likelihood == "bernoulli":
        errors = torch.nn.functional.binary_cross_entropy_with_logits(
            raw, (values > 0).double(), reduction="none"
        )
    else:
        mean = size[:, None] * torch.nn.functional.softplus(raw)
        errors = -torch.distributions.Poisson(mean).log_prob(values)
    scored = measured[origins].double()
    whole = (errors * scored).sum() / scored.sum()
    wanted = torch.autograd.grad(whole, (hidden, weight, bias))
    torch.testing.assert_close(loss, whole, rtol=1e-6, atol=1e-8)
    # Logarithms of means add 1e-8 to them.
    atol = 1e-6 if likelihood == "poisson" else 1e-8
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=atol)


def test_an_output_of_nothing_has_no_error():
    nothing = torch.zeros(1, 3, dtype=torch.uint8)
    mask = MeasuredMask(RandomMask(0.0), nothing, torch.zeros(2, dtype=torch.int64))
    values = CSRParts.from_dense(torch.ones(2, 3))

    loss = output_error(torch.ones(2, 2), torch.ones(3, 2), torch.zeros(3), values, mask)

    assert float(loss) == 0.0


def test_another_likelihood_of_an_output_is_refused():
    values = CSRParts.from_dense(torch.ones(2, 3))
    with pytest.raises(ValueError, match="likelihood is 'normal'"):
        output_error(
            torch.ones(2, 2),
            torch.ones(3, 2),
            torch.zeros(3),
            values,
            RandomMask(0.0),
            likelihood="normal",
        )
