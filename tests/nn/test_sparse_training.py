"""Sparse batches train as dense ones do: the same numbers, whatever the network and the path."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from episome.nn import CSRParts, TabNet, shift_expression
from episome_sctab.core import SCTabCore
from episome_sims.core import SIMSCore

N_GENES, N_CLASSES = 37, 5
SHAPES = {
    "one step": {},
    "three steps": {"n_steps": 3},
    "sparsemax": {"n_steps": 2, "mask": "sparsemax"},
    "groups": {"n_steps": 2, "feature_groups": np.arange(N_GENES) // 3},
    "no shared": {"n_shared": 0, "n_independent": 2, "n_steps": 2},
}


def cells(n, *, seed=0, share=0.25, dtype=torch.float64):
    rng = torch.Generator().manual_seed(seed)
    x = torch.log1p(torch.empty(n, N_GENES, dtype=dtype).exponential_(0.5, generator=rng))
    return x * (torch.rand(n, N_GENES, generator=rng) < share)


def trained_once(net, x):
    """Outputs, gradients and statistics of one training step."""
    net.train()
    out = net(x)
    y = torch.arange(len(out.logits)) % N_CLASSES
    (F.cross_entropy(out.logits, y) + 0.1 * out.sparsity).backward()
    gradients = {k: p.grad for k, p in net.named_parameters()}
    return out, gradients, {k: v for k, v in net.state_dict().items() if "running" in k}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("share", [0.1, 0.25, 0.9])
@pytest.mark.parametrize("path", ["compiled", "plain", "dense"])
def test_a_step_of_sparse_cells_is_that_of_dense_ones(shape, share, path, monkeypatch):
    torch.manual_seed(0)
    settings = {"n_d": 6, "n_a": 4, "virtual_batch_size": 8, **shape}
    one = TabNet(N_GENES, N_CLASSES, implementation="dense", **settings).double()
    implementation = "dense" if path == "dense" else "auto"
    two = TabNet(N_GENES, N_CLASSES, implementation=implementation, **settings).double()
    two.load_state_dict(one.state_dict())
    x = cells(20, share=share)
    if path == "plain":
        monkeypatch.setenv("EPISOME_NUMBA", "0")

    expected, found = trained_once(one, x), trained_once(two, CSRParts.from_dense(x))

    torch.testing.assert_close(found[0].logits, expected[0].logits, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found[0].sparsity, expected[0].sparsity)
    for ours, theirs in ((found[1], expected[1]), (found[2], expected[2])):
        assert ours.keys() == theirs.keys()
        for name, value in theirs.items():
            torch.testing.assert_close(ours[name], value, rtol=1e-7, atol=1e-8, msg=name)


@pytest.mark.parametrize(
    "make",
    [
        lambda: SCTabCore(N_GENES, N_CLASSES, n_d=6, n_a=4),
        lambda: SCTabCore(N_GENES, N_CLASSES, n_d=6, n_a=4, n_top_genes=20),
        lambda: SIMSCore(N_GENES, N_CLASSES, n_d=6, n_a=4),
        lambda: SIMSCore(N_GENES, N_CLASSES, n_d=6, n_a=4, input_scaling="l2"),
        lambda: SIMSCore(N_GENES, N_CLASSES, n_d=6, n_a=4, input_scaling="zscore_train"),
        lambda: SIMSCore(
            N_GENES, N_CLASSES, n_d=6, n_a=4, input_scaling="zscore_train", n_top_genes=20
        ),
    ],
    ids=["sctab", "sctab, few genes", "sims", "sims l2", "sims z-scores", "sims, few genes"],
)
def test_cores_read_sparse_cells_as_dense_ones(make):
    torch.manual_seed(0)
    core = make().double()
    if core.config.get("n_top_genes"):
        core.select_genes(np.arange(5, 25))
    if hasattr(core, "deviation"):
        core.set_statistics(np.linspace(0, 1, N_GENES), np.linspace(0.5, 2, N_GENES))
    core.eval()
    x = cells(12)

    dense, sparse = core({"X": x}), core({"X": CSRParts.from_dense(x)})

    for name, value in dense.items():
        torch.testing.assert_close(sparse[name], value, rtol=1e-9, atol=1e-9)


def test_dropout_leaves_entries_out_and_scales_up_the_others():
    x = cells(200, share=0.5)
    parts = CSRParts.from_dense(x)

    torch.manual_seed(1)
    thin = parts.thinned(0.7)

    found = thin.to_dense(N_GENES)
    kept = found != 0
    torch.testing.assert_close(found[kept], x[kept] / 0.3)
    assert len(thin.values) == int(kept.sum())
    assert len(thin.values) / len(parts.values) == pytest.approx(0.3, abs=0.03)
    assert len(parts.values) == int((x != 0).sum())  # as it was


def test_dropout_of_sparse_cells_is_for_training_only():
    torch.manual_seed(0)
    net = TabNet(N_GENES, N_CLASSES, n_d=6, n_a=4, dropout=0.5).double()
    parts = CSRParts.from_dense(cells(12))

    again = [net.train()(parts).logits for _ in range(2)]
    same = [net.eval()(parts).logits for _ in range(2)]

    assert not torch.equal(*again)
    assert torch.equal(*same)


@given(
    n=st.integers(1, 6),
    seed=st.integers(0, 500),
    share=st.sampled_from([0.0, 0.2, 1.0]),
    compiled=st.booleans(),
)
def test_augmented_sparse_cells_are_the_augmented_dense_ones(n, seed, share, compiled):
    rng = torch.Generator().manual_seed(seed)
    x = cells(n, seed=seed, share=share, dtype=torch.float32) * 4
    table = torch.randn(4, N_GENES, generator=rng) * (torch.rand(4, N_GENES, generator=rng) < 0.3)
    table[0, 0] = 1.0  # a table of nothing is none
    index = torch.randint(4, (n,), generator=rng)
    sign = 2 * torch.randint(2, (n,), generator=rng) - 1
    vectors, parts = CSRParts.from_dense(table), CSRParts.from_dense(x)

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EPISOME_NUMBA", "1" if compiled else "0")
        found = shift_expression(parts, vectors, index, sign, high=3.0)

    expected = shift_expression(x, vectors, index, sign, high=3.0)
    assert torch.equal(found.to_dense(N_GENES), expected)
    assert (found.values > 0).all()
    for start, stop in zip(found.indptr[:-1], found.indptr[1:], strict=True):
        assert (found.indices[start:stop].diff() > 0).all()


def test_the_choice_of_path_is_logged_once_and_with_its_reason(caplog):
    caplog.set_level(logging.DEBUG, logger="episome.nn")
    x = torch.rand(8, 20)
    net = TabNet(20, 3, n_d=4, n_a=4, virtual_batch_size=8)

    net(x), net(x)
    with torch.autocast("cpu", torch.bfloat16):
        net(x)
    TabNet(20, 3, n_d=4, n_a=4, implementation="dense")(x)

    chosen = [m for m in caplog.messages if m.startswith("gene-wide work")]
    assert chosen == [
        "gene-wide work is done on non-zero values only",
        "gene-wide work is done in full, under autocast",
        "gene-wide work is done in full, as implementation='dense' asks for",
    ]


def test_broad_masks_are_said_and_give_the_same_numbers(caplog):
    caplog.set_level(logging.INFO, logger="episome.nn")
    torch.manual_seed(0)
    x = (torch.rand(12, 40, dtype=torch.float64) * 4) * (torch.rand(12, 40) < 0.2)
    found = []
    for implementation in ("auto", "dense"):
        torch.manual_seed(1)
        net = TabNet(
            40, 3, n_d=4, n_a=4, n_steps=2, virtual_batch_size=6, mask_scale=1e-3,
            implementation=implementation,
        ).double()  # fmt: skip
        out = net(x)
        (out.logits.square().sum() + out.sparsity).backward()
        found.append(torch.cat([p.grad.reshape(-1) for p in net.parameters()]))

    torch.testing.assert_close(*found, rtol=1e-6, atol=1e-9)
    assert caplog.messages == ["masks hold 100% of 40 genes: products over them are taken in full"]
