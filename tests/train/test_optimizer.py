"""AdamW whose second moment the genes share."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from episome.errors import UsageError
from episome.nn import TorchCore
from episome.train import SharedMomentAdamW
from episome.train._optimizer import adamw


class _Core(TorchCore):
    """Cells of genes that differ a hundredfold in scale, one hidden layer."""

    def __init__(self):
        super().__init__()
        self.first = nn.Parameter(torch.randn(30, 4, generator=torch.manual_seed(0)) * 0.1)
        self.head = nn.Linear(4, 2)

    def gene_axes(self):
        return {"first": 0}

    def forward(self, x):
        return self.head(torch.tanh(x @ self.first))


def _train(core, optimizer, n_steps=60, dtype=torch.float32):
    rng = torch.Generator().manual_seed(1)
    scale = torch.logspace(-2, 0, 30, dtype=dtype)
    losses = []
    for _ in range(n_steps):
        x = torch.randn(64, 30, generator=rng, dtype=dtype)
        target = (x[:, :15].sum(1) > 0).long()
        loss = nn.functional.cross_entropy(core(x * scale), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def test_without_a_gene_axis_it_is_adamw():
    core = _Core().double()
    twin = copy.deepcopy(core)
    params = [{"params": list(core.parameters()), "gene_axis": None}]
    ours = _train(core, SharedMomentAdamW(params, lr=0.01, weight_decay=0.3), dtype=torch.float64)
    theirs = _train(
        twin, torch.optim.AdamW(twin.parameters(), lr=0.01, weight_decay=0.3), dtype=torch.float64
    )
    assert ours == pytest.approx(theirs, abs=1e-9)
    for a, b in zip(core.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-8, rtol=0)


def test_only_the_weights_that_the_core_names_share_their_moment():
    core = _Core()
    optimizer = adamw(core, lr=0.01, weight_decay=0.0, share_moment=True)
    _train(core, optimizer, n_steps=3)
    assert optimizer.state[core.first]["exp_avg_sq"].shape == (1, 4)
    assert optimizer.state[core.head.weight]["exp_avg_sq"].shape == (2, 4)
    assert isinstance(
        adamw(core, lr=0.01, weight_decay=0.0, share_moment=False), torch.optim.AdamW
    )


def test_genes_move_in_proportion_to_their_gradients():
    """First step: AdamW moves every gene by the rate, ours keeps the gradients' proportions."""
    core, rate = _Core(), 0.01
    before = core.first.detach().clone()
    optimizer = adamw(core, lr=rate, weight_decay=0.0, share_moment=True)
    _train(core, optimizer, n_steps=1)
    moved, grad = before - core.first.detach(), core.first.grad
    torch.testing.assert_close(
        moved, rate * grad / grad.square().mean(0, keepdim=True).sqrt(), atol=1e-6, rtol=1e-3
    )
    assert moved[:10].abs().mean() < 0.3 * moved[20:].abs().mean()
    twin = _Core()
    plain = torch.optim.AdamW(twin.parameters(), lr=rate, weight_decay=0.0)
    _train(twin, plain, n_steps=1)
    torch.testing.assert_close(
        (before - twin.first.detach()).abs(), torch.full((30, 4), rate), atol=1e-5, rtol=1e-2
    )


@pytest.mark.parametrize("axes", [{}, {"no such weight": 0}])
def test_a_core_without_such_weights_is_refused(axes, monkeypatch):
    monkeypatch.setattr(_Core, "gene_axes", lambda self: axes)
    with pytest.raises(UsageError, match=r"share_moment=True for _Core.*E-U15"):
        adamw(_Core(), lr=0.01, weight_decay=0.0, share_moment=True)


def test_a_run_goes_on_from_its_state():
    core = _Core()
    optimizer = adamw(core, lr=0.01, weight_decay=0.1, share_moment=True)
    _train(core, optimizer, n_steps=5)
    twin, state = copy.deepcopy(core), copy.deepcopy(optimizer.state_dict())
    again = adamw(twin, lr=0.01, weight_decay=0.1, share_moment=True)
    again.load_state_dict(state)
    assert _train(core, optimizer, n_steps=5) == _train(twin, again, n_steps=5)
    torch.testing.assert_close(core.first, twin.first, rtol=0, atol=0)
