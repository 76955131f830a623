from __future__ import annotations

import copy
import math

import pytest
import torch
import torch.nn.functional as F

from episome.nn import GhostBatchNorm
from episome.nn._glu import gate_in_place, normed_gate

HALF = math.sqrt(0.5)


def layer(width, dtype, **settings):
    norm = GhostBatchNorm(2 * width, **{"virtual_batch_size": 8} | settings).to(dtype)
    with torch.no_grad():
        norm.weight.copy_(torch.linspace(0.5, 2, 2 * width))
        norm.bias.copy_(torch.linspace(-1, 1, 2 * width))
    return norm


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("width", [1, 7, 200])
@pytest.mark.parametrize("n_obs", [1, 2, 16, 21])
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("mode", ["train", "eval"])
def test_normed_gate_any_batch_equals_separate_operations(
    mode, residual, n_obs, width, dtype, rng
):
    norm = getattr(layer(width, dtype), mode)()
    other = copy.deepcopy(norm)
    z = 3 * torch.randn(n_obs, 2 * width, generator=rng).to(dtype)
    h = torch.randn(n_obs, width, generator=rng).to(dtype)
    g = torch.randn(n_obs, width, generator=rng).to(dtype)
    ours, theirs = ((z.clone().requires_grad_(), h.clone().requires_grad_()) for _ in range(2))
    if n_obs == 2 and mode == "train":
        g = torch.zeros_like(g)  # two cells are normalised to +-1: gradients are rounding only
    eps = 1e-10 if dtype == torch.float64 else 3e-5

    out = normed_gate(ours[0], ours[1] if residual else None, norm, HALF)
    gate = F.glu(other(theirs[0]))
    expected = (theirs[1] + gate) * HALF if residual else gate
    out.backward(g)
    expected.backward(g)

    torch.testing.assert_close(out, expected, rtol=eps, atol=eps)
    torch.testing.assert_close(ours[0].grad, theirs[0].grad, rtol=eps, atol=eps)
    torch.testing.assert_close(norm.weight.grad, other.weight.grad, rtol=eps, atol=10 * eps)
    torch.testing.assert_close(norm.bias.grad, other.bias.grad, rtol=eps, atol=10 * eps)
    if residual:
        torch.testing.assert_close(ours[1].grad, theirs[1].grad)
    for name, value in other.state_dict().items():
        torch.testing.assert_close(norm.state_dict()[name], value, rtol=eps, atol=eps)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gate_in_place_any_size_of_number_equals_torch(dtype):
    b = torch.cat([torch.linspace(-200, 200, 4001), torch.tensor([1e30, -1e30, 0.0, -0.0])])
    z = torch.stack([torch.ones_like(b), b]).T.to(dtype).contiguous()
    expected = F.glu(z)

    out = gate_in_place(z.clone(), None, HALF)

    moderate = b.abs() < 30
    eps = 5e-7 if dtype == torch.float32 else 1e-14
    torch.testing.assert_close(out[moderate], expected[moderate], rtol=eps, atol=0)
    torch.testing.assert_close(out, expected, rtol=0, atol=eps)


def test_gate_in_place_affine_and_residual_equal_torch(rng):
    z = torch.randn(5, 6, generator=rng, dtype=torch.float64)
    h = torch.randn(5, 3, generator=rng, dtype=torch.float64)
    gain, bias = torch.randn(2, 6, generator=rng, dtype=torch.float64)

    out = gate_in_place(z.clone(), h.clone(), HALF, gain, bias)

    torch.testing.assert_close(out, (h + F.glu(z * gain + bias)) * HALF)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gate_in_place_nan_stays_nan(dtype):
    z = torch.zeros(2, 4, dtype=dtype)
    z[0, 3] = float("nan")

    out = gate_in_place(z, None, HALF)

    assert bool(out[0, 1].isnan())
    assert int(out.isnan().sum()) == 1
