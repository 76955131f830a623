from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from episome.nn import GhostBatchNorm, reestimate_batch_norm


def loop_norm(plain, x, n_pieces):
    """The reference's form: one plain batch norm, piece by piece."""
    return torch.cat([plain(piece) for piece in x.chunk(n_pieces)])


def pair(width, **settings):
    ghost = GhostBatchNorm(width, **settings).double()
    plain = nn.BatchNorm1d(width, momentum=ghost.momentum).double()
    with torch.no_grad():
        ghost.weight.copy_(torch.linspace(0.5, 2, width))
        ghost.bias.copy_(torch.linspace(-1, 1, width))
    plain.load_state_dict(ghost.state_dict())
    return ghost, plain


@pytest.mark.parametrize(
    ("n_obs", "rounding", "sizes"),
    [
        (40, "floor", [20, 20]),
        (40, "ceil", [14, 14, 12]),
        (15, "floor", [15]),
        (15, "ceil", [15]),
        (32, "ceil", [16, 16]),
        (47, "floor", [24, 23]),
        (1, "floor", [1]),
        (0, "floor", [0]),
    ],
)
def test_piece_sizes_rule_gives_chunks(n_obs, rounding, sizes):
    norm = GhostBatchNorm(3, virtual_batch_size=16, rounding=rounding)

    assert norm.piece_sizes(n_obs) == sizes


@pytest.mark.parametrize("n_obs", [*range(2, 40), 127, 128, 129, 257])
@pytest.mark.parametrize("size", [2, 3, 16])
@pytest.mark.parametrize("rounding", ["floor", "ceil"])
def test_piece_sizes_any_batch_has_no_piece_of_one(n_obs, size, rounding):
    sizes = GhostBatchNorm(3, virtual_batch_size=size, rounding=rounding).piece_sizes(n_obs)

    assert sum(sizes) == n_obs
    assert min(sizes) > 1
    wanted = max(n_obs // size, 1) if rounding == "floor" else -(-n_obs // size)
    chunks = [len(c) for c in torch.empty(n_obs).chunk(wanted)]
    assert sizes == chunks or chunks[-1] == 1


@pytest.mark.parametrize("n_obs", [32, 40, 47])
@pytest.mark.parametrize("momentum", [0.02, 0.5, None])
def test_training_any_batch_equals_loop(n_obs, momentum, rng):
    ghost, plain = pair(5, virtual_batch_size=16, momentum=momentum)
    n_pieces = max(n_obs // 16, 1)
    for _ in range(3):
        x = 2 + 3 * torch.randn(n_obs, 5, generator=rng, dtype=torch.float64)
        x1, x2 = x.clone().requires_grad_(), x.clone().requires_grad_()
        g = torch.randn(n_obs, 5, generator=rng, dtype=torch.float64)

        out, expected = ghost(x1), loop_norm(plain, x2, n_pieces)
        out.backward(g)
        expected.backward(g)

        torch.testing.assert_close(out, expected, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(x1.grad, x2.grad, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(ghost.weight.grad, plain.weight.grad, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(ghost.bias.grad, plain.bias.grad, rtol=1e-10, atol=1e-12)
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(ghost.state_dict()[name], value, rtol=1e-10, atol=1e-12)


def test_training_gradcheck_passes(rng):
    ghost = GhostBatchNorm(3, virtual_batch_size=4).double()
    x = torch.randn(8, 3, generator=rng, dtype=torch.float64, requires_grad=True)

    assert torch.autograd.gradcheck(ghost, x)


def test_evaluation_equals_plain_norm(rng):
    ghost, plain = pair(4, virtual_batch_size=3)
    x = torch.randn(11, 4, generator=rng, dtype=torch.float64)
    for norm in (ghost, plain):
        norm.running_mean.fill_(0.3)
        norm.running_var.fill_(2.5)
        norm.eval()

    assert torch.equal(ghost(x), plain(x))


def test_training_whole_batch_equals_plain_norm(rng):
    ghost, plain = pair(4, virtual_batch_size=None)
    x = torch.randn(11, 4, generator=rng, dtype=torch.float64)

    torch.testing.assert_close(ghost(x), plain(x))
    torch.testing.assert_close(ghost.running_var, plain.running_var)


def test_training_batch_of_one_uses_running_statistics(rng):
    norm = GhostBatchNorm(4, virtual_batch_size=8)
    norm(torch.randn(16, 4, generator=rng))
    before = {k: v.clone() for k, v in norm.state_dict().items()}
    x = torch.randn(1, 4, generator=rng)

    out = norm(x)

    assert all(torch.equal(v, before[k]) for k, v in norm.state_dict().items())
    torch.testing.assert_close(out, norm.eval()(x))


def test_constructor_bad_settings_raise():
    with pytest.raises(ValueError, match="at least 2 cells"):
        GhostBatchNorm(3, virtual_batch_size=1)
    with pytest.raises(ValueError, match="rounding is 'round'"):
        GhostBatchNorm(3, virtual_batch_size=4, rounding="round")


def net_with_norms():
    return nn.Sequential(
        nn.Linear(4, 5),
        nn.BatchNorm1d(5, momentum=0.01),
        nn.Dropout(0.5),
        nn.Linear(5, 6),
        GhostBatchNorm(6, virtual_batch_size=8),
    ).double()


def test_reestimate_statistics_are_cumulative_averages(rng):
    net = net_with_norms()
    batches = [torch.randn(24, 4, generator=rng, dtype=torch.float64) for _ in range(3)]
    weights = {k: v.clone() for k, v in net.named_parameters()}
    net[2].train()
    net[4].eval()
    modes = [m.training for m in net.modules()]

    used = reestimate_batch_norm(net, iter(batches))

    hidden = [net[0](b).detach() for b in batches]
    torch.testing.assert_close(
        net[1].running_mean, torch.stack([h.mean(0) for h in hidden]).mean(0)
    )
    torch.testing.assert_close(net[1].running_var, torch.stack([h.var(0) for h in hidden]).mean(0))
    scale = (
        net[1].weight
        / (torch.stack([h.var(0, correction=0) for h in hidden])[:, None] + 1e-5).sqrt()
    )
    normed = [s * (h - h.mean(0)) + net[1].bias for s, h in zip(scale, hidden, strict=True)]
    pieces = torch.cat([net[3](n).detach().view(3, 8, 6) for n in normed])
    torch.testing.assert_close(net[4].running_mean, pieces.mean(1).mean(0))
    torch.testing.assert_close(net[4].running_var, pieces.var(1).mean(0))
    assert used == 3
    assert [m.training for m in net.modules()] == modes
    assert (net[1].momentum, net[4].momentum) == (0.01, 0.02)
    assert int(net[1].num_batches_tracked) == int(net[4].num_batches_tracked) == 0
    assert all(torch.equal(v, weights[k]) and v.grad is None for k, v in net.named_parameters())


def test_reestimate_forward_unpacks_batches(rng):
    net = net_with_norms()
    batches = [{"X": torch.randn(9, 4, generator=rng, dtype=torch.float64)}]

    reestimate_batch_norm(net, batches, forward=lambda m, b: m(b["X"]))

    assert not torch.equal(net[1].running_mean, torch.zeros(5, dtype=torch.float64))


@pytest.mark.parametrize("error", [ValueError, RuntimeError])
def test_reestimate_error_restores_everything(error, rng):
    net = net_with_norms().eval()
    net[1].running_mean.fill_(7)
    before = {k: v.clone() for k, v in net.state_dict().items()}

    def batches():
        if error is RuntimeError:
            yield torch.randn(9, 4, generator=rng, dtype=torch.float64)
            raise RuntimeError

    with pytest.raises(error):
        reestimate_batch_norm(net, batches())

    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert not any(m.training for m in net.modules())
    assert net[1].momentum == 0.01


def test_reestimate_stale_statistics_make_evaluation_equal_training(rng):
    net = net_with_norms()
    x = 5 + torch.randn(8, 4, generator=rng, dtype=torch.float64)

    reestimate_batch_norm(net, [x])

    net.train()
    net[2].eval()
    expected = net(x).detach().numpy()
    shift = np.abs(net.eval()(x).detach().numpy() - expected).max()
    assert shift < 0.2 * np.abs(expected).max()  # unbiased against biased variance only
