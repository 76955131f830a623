from __future__ import annotations

import numpy as np
import pytest
import torch

from episome.nn import CSRParts, FoldedTabNet, TabNet

N_GENES, N_CLASSES = 60, 4


def cells(n, *, dtype=torch.float64, density=0.2):
    rng = torch.Generator().manual_seed(n)
    x = torch.log1p(torch.empty(n, N_GENES, dtype=dtype).exponential_(0.5, generator=rng))
    return x * (torch.rand(n, N_GENES, generator=rng) < density)


def trained(**settings):
    """A network a few training steps away from its start."""
    torch.manual_seed(0)
    defaults = {"n_d": 8, "n_a": 4, "virtual_batch_size": 16, "momentum": 0.3}
    net = TabNet(N_GENES, N_CLASSES, **defaults | settings).double().train()
    optimiser = torch.optim.AdamW(net.parameters(), lr=0.02)
    for step in range(4):
        optimiser.zero_grad()
        out = net(cells(48 + step))
        y = torch.arange(48 + step) % N_CLASSES
        torch.nn.functional.cross_entropy(out.logits, y).backward()
        optimiser.step()
    return net.eval()


SHAPES = {
    "one step": {},
    "three steps": {"n_steps": 3},
    "no shared": {"n_shared": 0, "n_independent": 2, "n_steps": 2},
    "no independent": {"n_shared": 2, "n_independent": 0, "n_steps": 2},
    "groups": {"n_steps": 2, "feature_groups": np.arange(N_GENES) * 7 % 13},
}


def same(out, expected, dtype):
    rtol = 1e-10 if dtype == torch.float64 else 1e-5
    for name in ("logits", "embedding", "sparsity"):
        value, wanted = getattr(out, name), getattr(expected, name)
        limit = rtol * float(wanted.abs().max())
        torch.testing.assert_close(value, wanted, rtol=rtol, atol=limit)
    for mask, wanted in zip(out.masks, expected.masks, strict=True):
        torch.testing.assert_close(mask.to_dense(N_GENES), wanted, rtol=rtol, atol=rtol)


@pytest.mark.parametrize("mask", ["entmax15", "sparsemax"])
@pytest.mark.parametrize("shape", list(SHAPES))
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_folded_any_shape_equals_evaluation(shape, mask, dtype, path):
    net = trained(mask=mask, **SHAPES[shape]).to(dtype)
    x = cells(33, dtype=dtype)

    out = net.folded()(x, return_masks=True)

    with torch.no_grad():
        same(out, net(x, return_masks=True), dtype)


def as_inputs(x):
    parts = CSRParts.from_dense(x)
    backwards = [torch.arange(int(a), int(b)).flip(0) for a, b in parts.indptr.unfold(0, 2, 1)]
    order = torch.cat(backwards)
    return {
        "parts": parts,
        "arrays": parts.numpy(),
        "int32 arrays": (parts.numpy()[0].astype(np.int32), *parts.numpy()[1:]),
        "unsorted": (parts.indptr, parts.indices[order], parts.values[order]),
        "torch": torch.sparse_csr_tensor(
            parts.indptr, parts.indices.long(), parts.values, x.shape
        ),
    }


@pytest.mark.parametrize("kind", ["parts", "arrays", "int32 arrays", "unsorted", "torch"])
@pytest.mark.filterwarnings("ignore:Sparse:UserWarning")
def test_folded_sparse_input_equals_dense(kind, path):
    net = trained(n_steps=2).folded()
    x = cells(21)
    x[3] = 0

    out = net(as_inputs(x)[kind])

    torch.testing.assert_close(out.logits, net(x).logits, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("density", [0.0, 0.29, 0.5, 1.0])
def test_folded_any_density_equals_evaluation(density, path):
    net = trained()
    x = cells(20, density=density)

    out = net.folded()(x)

    torch.testing.assert_close(out.logits, net(x).logits.detach(), rtol=1e-9, atol=1e-11)


def test_folded_prior_equals_evaluation(path):
    net = trained(n_steps=2)
    x = cells(10)
    prior = torch.rand(
        10, N_GENES, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    )

    out = net.folded()(x, prior=prior)

    torch.testing.assert_close(out.logits, net(x, prior=prior).logits.detach())


def test_folded_has_no_norms_and_keeps_source_unchanged():
    net = trained()
    before = {k: v.clone() for k, v in net.state_dict().items()}

    folded = FoldedTabNet.from_tabnet(net)
    expected = folded(cells(5)).logits
    with torch.no_grad():
        net.first[0].zero_()
        net.head.weight.zero_()

    assert torch.equal(folded(cells(5)).logits, expected)
    assert not any(isinstance(m, torch.nn.modules.batchnorm._BatchNorm) for m in folded.modules())
    assert not list(folded.parameters())
    assert before.keys() == net.state_dict().keys()


def test_folded_output_does_not_depend_on_the_batch(path):
    net = trained(n_steps=2).folded()
    x = cells(300)

    whole = net(x).logits
    parts = torch.cat([net(p).logits for p in x.split(7)])

    torch.testing.assert_close(parts, whole, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p, i, v: (p, i, v[:-1]), "do not fit together"),
        (lambda p, i, v: (p[1:], i, v), "do not fit together"),
        (lambda p, i, v: (p, i + 1, v), "expected 0 to 59"),
        (lambda p, i, v: (p, i * 0, v), r"sum_duplicates"),
    ],
)
def test_folded_bad_csr_raises(change, message):
    net = trained().folded()
    x = cells(4, density=1.0)

    with pytest.raises(ValueError, match=message):
        net(change(*CSRParts.from_dense(x)))


def test_folded_wrong_width_raises():
    net = trained().folded()

    with pytest.raises(ValueError, match="Align the genes"):
        net(torch.zeros(3, N_GENES + 1))
