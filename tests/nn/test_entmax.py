from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from episome.nn import entmax15, entmax15_sort, sparsemax, sparsemax_sort

MAPS = {"entmax15": (entmax15, entmax15_sort), "sparsemax": (sparsemax, sparsemax_sort)}
GOLDENS = [
    "random",
    "ties_int",
    "all_equal",
    "two_way_tie_at_max",
    "large_1e3",
    "large_1e6",
    "tiny_1e-4",
    "single_column",
    "wide",
    "mostly_zero_prior",
    "offset_1e4",
    "batch_of_one",
    "axis1_3d",
]


@pytest.fixture(params=list(MAPS))
def name(request):
    return request.param


def grads(f, x, g, dim=-1):
    x = x.detach().clone().requires_grad_()
    y = f(x, dim)
    y.backward(g)
    return y.detach(), x.grad


@pytest.mark.parametrize(
    ("case", "dtype"),
    [(case, torch.float32) for case in GOLDENS]
    + [(case, torch.float64) for case in GOLDENS if case != "axis1_3d"],
)
def test_map_golden_matches(case, dtype, name, path, golden):
    file = golden("01_entmax_sparsemax")
    suffix = "_f64" if dtype == torch.float64 else ""
    key = f"{case}/{name}{suffix}"
    x = file.tensor(f"{case}/x", dtype)
    dim = 1 if case == "axis1_3d" else -1
    g = file.tensor(f"{case}/g", dtype)

    y, dx = grads(MAPS[name][0], x, g, dim)

    file.check(key, y)
    exact = file.arrays.get(f"{case}/{name}_f64", file.arrays[key])
    clear = (exact == 0) | (exact > 1e-10)  # at ties with tau either sub-gradient is right
    clear &= (file.arrays[key] > 0) == (exact > 0)
    file.check(f"{key}_grad", dx, where=clear)


def test_map_goldens_all_tensors_are_covered(golden):
    file = golden("01_entmax_sparsemax")

    cases = {key.split("/")[0] for key in file.arrays}

    assert cases == set(GOLDENS)


@pytest.mark.parametrize(
    ("f", "x", "expected"),
    [
        (entmax15, [2.0, 1.0, 0.0], [0.830719, 0.169281, 0.0]),
        (entmax15, [3.0, 0.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]),
        (entmax15, [0.5, 0.4, 0.3, -2.0], [0.391757, 0.331667, 0.276576, 0.0]),
        (sparsemax, [0.5, 0.4, 0.3, -2.0], [0.433333, 0.333333, 0.233333, 0.0]),
    ],
)
def test_map_small_input_gives_known_values(f, x, expected, path):
    out = f(torch.tensor(x))

    torch.testing.assert_close(out, torch.tensor(expected), rtol=0, atol=1e-6)


@pytest.mark.parametrize("width", [1, 2, 31, 32, 33, 700])
@pytest.mark.parametrize("scale", [0.0, 0.01, 1.0, 30.0])
def test_map_float64_equals_sort(width, scale, name, path, rng):
    f, oracle = MAPS[name]
    x = scale * torch.randn(9, width, generator=rng, dtype=torch.float64)
    g = torch.randn(9, width, generator=rng, dtype=torch.float64)

    y, dx = grads(f, x, g)
    expected, expected_dx = grads(oracle, x, g)

    torch.testing.assert_close(y, expected, rtol=1e-9, atol=1e-14)
    torch.testing.assert_close(dx, expected_dx, rtol=1e-9, atol=1e-12)


def test_map_wide_flat_scores_equal_sort(name, path, rng):
    f, oracle = MAPS[name]
    x = 1e-3 * torch.randn(3, 5000, generator=rng)

    y = f(x)

    torch.testing.assert_close(y, oracle(x.double()).float(), rtol=1e-5, atol=1e-7)


def test_map_gradcheck_float64_passes(name, path, rng):
    x = torch.randn(4, 7, generator=rng, dtype=torch.float64, requires_grad=True)

    assert torch.autograd.gradcheck(lambda z: MAPS[name][0](z, 0), x, atol=1e-7)
    assert torch.autograd.gradcheck(MAPS[name][0], x, atol=1e-7)


FINITE = {"allow_nan": False, "allow_infinity": False}
SCORES = st.one_of(
    hnp.arrays(np.float64, st.tuples(st.integers(1, 4), st.integers(1, 40)),
               elements=st.floats(-4, 4, **FINITE)),
    hnp.arrays(np.float64, st.tuples(st.integers(1, 4), st.integers(1, 40)),
               elements=st.sampled_from([-1.0, 0.0, 0.5, 1.0])),
    hnp.arrays(np.float64, st.tuples(st.integers(1, 3), st.integers(1, 12)),
               elements=st.floats(-1e300, 1e300, **FINITE)),
    hnp.arrays(np.float64, st.tuples(st.integers(1, 3), st.integers(1, 12)),
               elements=st.floats(-1e-300, 1e-300, **FINITE)),
    st.tuples(st.integers(1, 30), st.floats(-1e5, 1e5, **FINITE)).map(
        lambda a: np.full((1, a[0]), a[1])),
    st.integers(1, 30).map(lambda n: 50.0 * np.eye(n)),
)  # fmt: skip


@pytest.mark.parametrize("name", list(MAPS))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@settings(max_examples=60)
@given(scores=SCORES, seed=st.integers(0, 100))
def test_map_any_scores_keep_properties(name, dtype, scores, seed):
    f, oracle = MAPS[name]
    scores = np.clip(scores, -3e38, 3e38) if dtype == torch.float32 else scores
    x = torch.from_numpy(scores.copy()).to(dtype)
    before = x.clone()
    eps = 2e-6 if dtype == torch.float32 else 1e-12
    order = torch.randperm(x.shape[1], generator=torch.Generator().manual_seed(seed))

    y = f(x)

    assert torch.equal(x, before)
    assert y.dtype == dtype
    assert bool((y >= 0).all())
    torch.testing.assert_close(y.sum(1), torch.ones(len(x), dtype=dtype), rtol=eps, atol=eps)
    torch.testing.assert_close(y, oracle(x.double()).to(dtype), rtol=eps, atol=eps)
    torch.testing.assert_close(f(x[:, order]), y[:, order], rtol=eps, atol=eps)
    if float(x.abs().max()) < 10:
        torch.testing.assert_close(f(x + 8), f((x + 8) - 8), rtol=eps, atol=8 * eps)


@pytest.mark.parametrize("dim", [0, 1, 2, -2])
def test_map_any_axis_equals_moved_axis(dim, name, path, rng):
    f, _ = MAPS[name]
    x = torch.randn(3, 5, 4, generator=rng)

    out = f(x, dim)

    torch.testing.assert_close(out, f(x.movedim(dim, -1).contiguous()).movedim(-1, dim))
    torch.testing.assert_close(out.sum(dim), torch.ones_like(out.sum(dim)))


@pytest.mark.parametrize("shape", [(0, 5), (3, 0), (0,)])
def test_map_empty_input_gives_empty(shape, name, path):
    assert MAPS[name][0](torch.empty(shape)).shape == shape


def test_map_scalar_gives_one(name, path):
    assert float(MAPS[name][0](torch.tensor(3.0))) == 1.0


def test_map_strided_input_equals_contiguous(name, path, rng):
    f, _ = MAPS[name]
    x = torch.randn(40, 12, generator=rng)

    torch.testing.assert_close(f(x.T), f(x.T.contiguous()), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(f(x[::2, 1::3]), f(x[::2, 1::3].contiguous()), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_map_half_precision_is_raised_to_float32(dtype, name, path, rng):
    x = torch.randn(3, 6, generator=rng).to(dtype)

    out = MAPS[name][0](x)

    assert out.dtype == torch.float32
    torch.testing.assert_close(out, MAPS[name][0](x.float()))


def test_map_integer_scores_raise(name):
    with pytest.raises(TypeError, match=r"floating-point tensor. Call x.float\(\)"):
        MAPS[name][0](torch.tensor([1, 2]))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_map_bad_row_is_nan_and_others_are_not(bad, name, path, rng):
    x = torch.randn(3, 50, generator=rng)
    x[1, 7] = bad
    x.requires_grad_()

    y = MAPS[name][0](x)
    y.backward(torch.ones_like(y))

    assert bool(y[1].isnan().all())
    assert bool(x.grad[1].isnan().all())
    assert bool(y[[0, 2]].isfinite().all())
    assert bool(x.grad[[0, 2]].isfinite().all())


def test_map_minus_infinity_gets_no_weight(name, path):
    x = torch.tensor([[0.0, -float("inf"), 0.0], [-float("inf")] * 3])

    y = MAPS[name][0](x)

    torch.testing.assert_close(y[0], torch.tensor([0.5, 0.0, 0.5]))
    assert bool(y[1].isnan().all())


def test_map_under_compile_equals_eager(name, rng):
    f, _ = MAPS[name]
    x = torch.randn(6, 40, generator=rng)

    out = torch.compile(f, backend="eager", fullgraph=True)(x)

    torch.testing.assert_close(out, f(x), rtol=1e-5, atol=1e-6)
