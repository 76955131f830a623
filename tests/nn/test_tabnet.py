from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from episome.nn import TabNet, explanation_csr, gene_mask_csr, rename_reference_state

N_GENES, N_CLASSES = 37, 5
SHAPES = {
    "one step": {},
    "three steps": {"n_steps": 3},
    "no shared": {"n_shared": 0, "n_independent": 2, "n_steps": 2},
    "no independent": {"n_shared": 2, "n_independent": 0, "n_steps": 2},
    "gamma one": {"n_steps": 3, "gamma": 1.0},
}


def counts_like(n, n_genes=N_GENES, *, seed=0, dtype=torch.float64):
    rng = torch.Generator().manual_seed(seed)
    x = torch.log1p(torch.empty(n, n_genes, dtype=dtype).exponential_(0.5, generator=rng))
    return x * (torch.rand(n, n_genes, generator=rng) < 0.25)


def small(**settings):
    defaults = {"n_d": 6, "n_a": 4, "virtual_batch_size": 8}
    return TabNet(N_GENES, N_CLASSES, **defaults | settings).double()


def shaken(net, seed=0):
    """Weights of norms and running statistics away from their start."""
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in [*net.named_parameters(), *net.named_buffers()]:
            if "norm" in name and value.is_floating_point():
                noise = torch.rand(value.shape, generator=rng, dtype=value.dtype)
                value.copy_(0.5 + noise if "var" in name or "weight" in name else noise - 0.5)
    return net


def textbook_pair(textbook, mask, groups=None, **shape):
    torch.manual_seed(0)
    shape = {"n_shared": 3, "n_independent": 5, "n_steps": 1, "gamma": 1.3} | shape
    reference = textbook.TextbookTabNet(
        N_GENES, N_CLASSES, n_d=6, n_a=4, size=8, mask=mask, groups=groups, **shape
    ).double()
    ours = small(mask=mask, feature_groups=groups, **shape)
    textbook.copy_weights(shaken(reference), ours)
    return reference, ours


@pytest.mark.parametrize("mask", ["entmax15", "sparsemax"])
@pytest.mark.parametrize("shape", list(SHAPES))
@pytest.mark.parametrize("grouped", [False, True])
def test_tabnet_any_shape_equals_textbook(shape, mask, grouped, path, textbook):
    groups = torch.arange(N_GENES) * 7 % 12 if grouped else None
    reference, ours = textbook_pair(textbook, mask, groups, **SHAPES[shape])
    y = torch.arange(20) % N_CLASSES

    for mode, n in (("train", 20), ("eval", 11)):
        x = counts_like(n, seed=n)
        expected = getattr(reference, mode)() and reference(x)
        out = getattr(ours, mode)() and ours(x, return_masks=True)

        torch.testing.assert_close(out.logits, expected[0], rtol=1e-9, atol=1e-10)
        torch.testing.assert_close(out.embedding, expected[1], rtol=1e-9, atol=1e-10)
        torch.testing.assert_close(-out.sparsity, expected[2], rtol=1e-9, atol=1e-10)
        for mine, theirs in zip(out.masks, reference.masks, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-10)
        if mode == "train":
            (F.cross_entropy(expected[0], y) - 1e-2 * expected[2]).backward()
            (F.cross_entropy(out.logits, y) + 1e-2 * out.sparsity).backward()
    grads = {k: p.grad for k, p in reference.named_parameters(remove_duplicate=False)}
    wanted = textbook.our_names(grads, reference, ours.n_shared)
    for name, p in ours.named_parameters():
        torch.testing.assert_close(p.grad, wanted[name], rtol=1e-7, atol=1e-10, msg=name)
    buffers = textbook.our_names(reference.state_dict(), reference, ours.n_shared)
    for name, b in ours.named_buffers():
        if name in buffers:
            torch.testing.assert_close(b, buffers[name], rtol=1e-9, atol=1e-10, msg=name)


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("mask", ["entmax15", "sparsemax"])
def test_tabnet_gradients_equal_finite_differences(mode, mask, path):
    net = getattr(shaken(small(n_steps=2, mask=mask, n_shared=2, n_independent=1)), mode)()
    x = counts_like(9)
    before = {k: v.clone() for k, v in net.state_dict().items()}

    def value():
        net.load_state_dict(before)
        out = net(x)
        return (out.logits * torch.linspace(-1, 1, N_CLASSES)).sum() + out.sparsity

    value().backward()

    step = 1e-6
    for name in ("first.0", "attentions.1.weight", "attentions.0.norm.weight", "input_norm.bias"):
        p = net.get_parameter(name)
        grad = p.grad.clone()
        at = np.unravel_index(int(grad.abs().argmax()), grad.shape)
        ends = []
        for sign in (1, -1):
            changed = before[name].clone()
            changed[at] += sign * step
            before_value = before[name]
            before[name] = changed
            with torch.no_grad():
                ends.append(float(value()))
            before[name] = before_value
        slope = (ends[0] - ends[1]) / (2 * step)
        assert math.isclose(float(grad[at]), slope, rel_tol=2e-4, abs_tol=1e-6), name


def test_tabnet_prior_hides_genes(path):
    net = small(n_steps=2).eval()
    x = counts_like(7)
    prior = torch.ones(7, N_GENES, dtype=torch.float64)
    prior[:, ::2] = 0

    plain = net(x)
    ones = net(x, prior=torch.ones_like(prior))
    hidden = net(x, prior=prior)
    row = net(x, prior=prior[:1])

    torch.testing.assert_close(ones.logits, plain.logits)
    assert not torch.allclose(hidden.logits, plain.logits)
    torch.testing.assert_close(row.logits, hidden.logits)


def test_tabnet_prior_with_gradient_equals_both_ways(monkeypatch):
    net = shaken(small(n_steps=3)).train()
    x = counts_like(16)
    prior = torch.rand(
        16, N_GENES, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    )
    grads = []
    for flag in "10":
        monkeypatch.setenv("EPISOME_NUMBA", flag)
        net.zero_grad()
        out = net(x, prior=prior)
        (out.logits.square().sum() + out.sparsity).backward()
        grads.append([p.grad.clone() for p in net.parameters()])

    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-9)


def test_tabnet_dense_masks_and_dense_input_equal_plain_torch(monkeypatch):
    """Supports and inputs so full that products switch to dense."""
    net = shaken(small(n_steps=2)).train()
    with torch.no_grad():
        for t in range(2):
            net.attention(t).norm.weight.mul_(0.01)
            net.attention(t).norm.bias.mul_(0.01)
    x = counts_like(16) + 0.1
    results = []
    for flag in "10":
        monkeypatch.setenv("EPISOME_NUMBA", flag)
        net.zero_grad()
        out = net(x, return_masks=True)
        (out.logits.square().sum() + out.sparsity).backward()
        results.append([out.logits.detach(), *(p.grad.clone() for p in net.parameters())])

    assert float((out.masks[0] > 0).double().mean()) > 0.5
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-9)


def test_tabnet_masks_weigh_genes_of_a_group_alike(path):
    groups = np.arange(N_GENES) // 4
    net = small(feature_groups=groups).eval()

    (mask,) = net(counts_like(6), return_masks=True).masks

    torch.testing.assert_close(mask.sum(1), torch.ones(6, dtype=torch.float64))
    for group in range(groups.max() + 1):
        members = mask[:, groups == group]
        torch.testing.assert_close(members, members[:, :1].expand_as(members))


def test_tabnet_identity_groups_equal_no_groups(path):
    plain = shaken(small(n_steps=2)).eval()
    grouped = small(n_steps=2, feature_groups=np.arange(N_GENES)).eval()
    grouped.load_state_dict(plain.state_dict())
    x = counts_like(6)

    torch.testing.assert_close(grouped(x).logits, plain(x).logits)


def test_tabnet_gene_used_fully_is_forbidden_with_gamma_one(path):
    net = small(n_steps=2, gamma=1.0).eval()
    with torch.no_grad():
        for t in range(2):
            net.attention(t).weight.zero_()
            net.attention(t).norm.bias.zero_()
            net.attention(t).norm.bias[3] = 30

    first, second = net(counts_like(4), return_masks=True).masks

    torch.testing.assert_close(first[:, 3], torch.ones(4, dtype=torch.float64))
    assert bool((second[:, 3] < 0.2).all())


def stored_bytes(net):
    tensors = [*net.parameters(), *net.buffers(), *net.folded().buffers()]
    return sum(t.numel() * t.element_size() for t in tensors)


def test_tabnet_groups_need_no_square_matrix():
    n_genes = 20_000
    settings = {"n_d": 4, "n_a": 4, "n_shared": 1, "n_independent": 0}
    groups = np.arange(n_genes)

    plain = TabNet(n_genes, 2, **settings)
    grouped = TabNet(n_genes, 2, feature_groups=groups, **settings)

    assert stored_bytes(grouped) - stored_bytes(plain) < 100 * n_genes
    out = grouped(counts_like(2, n_genes, dtype=torch.float32))
    assert out.logits.shape == (2, 2)


@pytest.mark.parametrize(
    ("n_d", "n_a", "n_parameters"),
    [
        (128, 64, 9_655_628),
        (16, 16, 1_653_052),
        (32, 32, 3_277_932),
        (64, 64, 6_675_148),
        (256, 64, 16_206_412),
    ],
)
def test_tabnet_published_sizes_have_published_parameters(n_d, n_a, n_parameters):
    with torch.device("meta"):
        net = TabNet(19_331, 164, n_d=n_d, n_a=n_a)

    assert sum(p.numel() for p in net.parameters()) == n_parameters


def test_tabnet_initial_weights_have_documented_spread():
    torch.manual_seed(0)
    net = TabNet(2000, 30, n_d=32, n_a=16)

    def std(w):
        return float(w.detach().std())

    assert math.isclose(std(net.first[0]), math.sqrt(2) / 2000**0.25, rel_tol=0.02)
    assert math.isclose(std(net.shared[0]), math.sqrt(2) / 48**0.25, rel_tol=0.05)
    assert math.isclose(std(net.attention(0).weight), 1 / 16**0.25, rel_tol=0.02)
    assert math.isclose(std(net.head.weight), 1 / 32**0.25, rel_tol=0.1)


def test_tabnet_same_seed_is_bit_identical(path):
    outputs = []
    for _ in range(2):
        torch.manual_seed(3)
        net = small(dropout=0.2).train()
        optimiser = torch.optim.AdamW(net.parameters())
        for seed in range(3):
            optimiser.zero_grad()
            net(counts_like(19, seed=seed)).logits.square().sum().backward()
            optimiser.step()
        outputs.append(net.eval()(counts_like(5)).logits)

    assert torch.equal(*outputs)


def test_tabnet_reset_with_generator_repeats():
    net = small()
    net.reset_parameters(torch.Generator().manual_seed(5))
    first = net.state_dict()["first.0"].clone()

    net.reset_parameters(torch.Generator().manual_seed(5))

    assert torch.equal(net.first[0], first)


@pytest.mark.parametrize("n", [1, 9, 17])
def test_tabnet_training_any_last_batch_gives_gradients(n, path):
    net = small(n_steps=2).train()

    out = net(counts_like(n))
    out.logits.sum().backward()

    assert bool(out.logits.isfinite().all())
    assert all(bool(p.grad.isfinite().all()) for p in net.parameters())


def test_tabnet_evaluation_does_not_depend_on_the_batch(path):
    net = shaken(small(n_steps=2)).eval()
    x = counts_like(30)
    order = torch.randperm(30, generator=torch.Generator().manual_seed(0))

    with torch.no_grad():
        whole = net(x).logits
        single = torch.cat([net(row[None]).logits for row in x])
        shuffled = net(x[order]).logits

    torch.testing.assert_close(single, whole, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(shuffled, whole[order], rtol=1e-10, atol=1e-12)


def test_tabnet_permuted_genes_and_weights_give_same_logits(path):
    net, moved = shaken(small()).eval(), small().eval()
    order = torch.randperm(N_GENES, generator=torch.Generator().manual_seed(0))
    state = net.state_dict()
    for name in state:
        if name.startswith(("input_norm.", "first.", "attentions.")) and state[name].ndim:
            state[name] = state[name][order]
    moved.load_state_dict(state)
    x = counts_like(8)

    torch.testing.assert_close(moved(x[:, order]).logits, net(x).logits)


def test_tabnet_empty_batch_in_evaluation_gives_empty_output(path):
    net = small().eval()

    assert net(counts_like(0)).logits.shape == (0, N_CLASSES)
    assert net.folded()(counts_like(0)).logits.shape == (0, N_CLASSES)


def test_tabnet_input_with_gradient_gets_one():
    net = shaken(small()).eval()
    x = counts_like(4).requires_grad_()

    net(x).embedding.square().sum().backward()

    assert bool((x.grad != 0).any())


def test_tabnet_nan_input_gives_nan_not_a_label(path):
    net = small().eval()
    x = counts_like(4)
    x[2, 5] = float("nan")

    with torch.no_grad():
        logits = net(x).logits
        folded = net.folded()(x).logits

    for out in (logits, folded):
        assert bool(out[2].isnan().all())
        assert bool(out[[0, 1, 3]].isfinite().all())


def test_tabnet_autocast_runs_close_to_float32():
    net = small().float().eval()
    x = counts_like(6, dtype=torch.float32)

    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        out = net(x, return_masks=True)

    torch.testing.assert_close(out.masks[0].sum(1), torch.ones(6))


def test_tabnet_dropout_only_in_training(path):
    net = small(dropout=0.9)
    x = counts_like(16)

    assert torch.equal(net.eval()(x).logits, net(x).logits)
    net.train()
    assert not torch.equal(net(x).logits, net(x).logits)


def test_tabnet_under_compile_equals_eager():
    net = shaken(small(n_steps=2)).eval()
    x = counts_like(6)

    with torch.no_grad():
        out = torch.compile(net, backend="eager")(x).logits

    torch.testing.assert_close(out, net(x).logits.detach())


def test_explain_equals_masks_times_decisions(path):
    net = shaken(small(n_steps=2)).train()
    x = counts_like(7)

    total = net.explain(x)
    normalised = net.explain(x, normalize=True)

    assert net.training
    out = net.eval()(x, return_masks=True)
    pairs = zip(out.masks, out.decisions, strict=True)
    torch.testing.assert_close(total, sum(m * d.sum(1, keepdim=True) for m, d in pairs))
    some = total.sum(1) > 0
    torch.testing.assert_close(normalised.sum(1)[some], torch.ones_like(normalised.sum(1)[some]))


def dense(parts, n=N_GENES):
    indptr, indices, values = parts
    out = np.zeros((len(indptr) - 1, n))
    for i in range(len(out)):
        cols = indices[indptr[i] : indptr[i + 1]]
        assert (np.diff(cols) > 0).all()
        out[i, cols] = values[indptr[i] : indptr[i + 1]]
    return out


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("folded", [False, True])
def test_mask_csr_any_network_equals_dense_masks(grouped, folded, path):
    groups = np.arange(N_GENES) * 5 % 9 if grouped else None
    net = shaken(small(n_steps=2, feature_groups=groups)).eval()
    x = counts_like(6)
    masks = [m.detach().numpy() for m in net(x, return_masks=True).masks]
    source = net.folded() if folded else net.train()

    second = dense(gene_mask_csr(source, x, step=1))
    mean = dense(gene_mask_csr(source, x))
    explained = dense(explanation_csr(source, x, normalize=True))

    np.testing.assert_allclose(second, masks[1], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(mean, (masks[0] + masks[1]) / 2, rtol=1e-9, atol=1e-12)
    expected = net.explain(x, normalize=True).numpy()
    np.testing.assert_allclose(explained, expected, rtol=1e-8, atol=1e-12)
    assert folded or net.training


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_shared": 0, "n_independent": 0}, "at least one layer"),
        ({"mask": "softmax"}, "mask is 'softmax'"),
        ({"n_d": 0}, "n_d is 0"),
        ({"feature_groups": [0] * 3}, "one integer per feature"),
        ({"feature_groups": [0.5] * N_GENES}, "one integer per feature"),
        ({"feature_groups": [0, 2] + [0] * (N_GENES - 2)}, "leaves out group 1 of 3"),
        ({"feature_groups": [-1] + [0] * (N_GENES - 1)}, "numbered from 0"),
    ],
)
def test_tabnet_bad_settings_raise(settings, message):
    with pytest.raises(ValueError, match=message):
        small(**settings)


def test_tabnet_wrong_width_raises(path):
    with pytest.raises(ValueError, match=r"shape \(2, 36\); expected \(cells, 37\)"):
        small()(counts_like(2, 36))


def test_tabnet_state_round_trip_is_exact():
    net, other = shaken(small(n_steps=2)), small(n_steps=2)

    other.load_state_dict(net.state_dict())

    x = counts_like(5)
    assert torch.equal(other.eval()(x).logits, net.eval()(x).logits)


def reference_state(net):
    """The state of `net` under reference names, shared tensors under one name."""
    state, out = net.state_dict(), {}
    blocks = ["initial_splitter", *(f"feat_transformers.{t}" for t in range(net.n_steps))]
    parts = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    for p in parts:
        out[f"encoder.initial_bn.{p}"] = state[f"input_norm.{p}"]
    for k, block in enumerate(blocks):
        for i in range(net.n_shared):
            own = f"encoder.{block}.shared.glu_layers.{i}"
            w = state["first.0"].T if i == 0 else state[f"shared.{i - 1}"]
            out[f"{own}.fc.weight"] = w
            for p in parts:
                out[f"{own}.bn.bn.{p}"] = state[f"transformers.{k}.norms.{i}.{p}"]
        for i in range(net.n_independent):
            own = f"encoder.{block}.specifics.glu_layers.{i}"
            if net.n_shared:
                w = state[f"transformers.{k}.specific.{i}"]
            else:
                w = (
                    state[f"first.{k}"].T
                    if i == 0
                    else state[f"transformers.{k}.specific.{i - 1}"]
                )
            out[f"{own}.fc.weight"] = w
            for p in parts:
                out[f"{own}.bn.bn.{p}"] = state[f"transformers.{k}.norms.{net.n_shared + i}.{p}"]
    for t in range(net.n_steps):
        out[f"encoder.att_transformers.{t}.fc.weight"] = state[f"attentions.{t}.weight"]
        for p in parts:
            out[f"encoder.att_transformers.{t}.bn.bn.{p}"] = state[f"attentions.{t}.norm.{p}"]
    out["final_mapping.weight"] = state["head.weight"]
    return out


@pytest.mark.parametrize("shape", list(SHAPES))
def test_rename_reference_state_any_shape_round_trips(shape):
    net = shaken(small(**SHAPES[shape]))

    renamed = rename_reference_state(reference_state(net))

    assert renamed.keys() == net.state_dict().keys()
    assert all(torch.equal(v, renamed[k]) for k, v in net.state_dict().items())


def test_rename_reference_state_unknown_name_raises():
    state = reference_state(small())
    state["encoder.extra.weight"] = torch.zeros(1)

    with pytest.raises(ValueError, match=r"encoder\.extra\.weight"):
        rename_reference_state(state)


@pytest.mark.parametrize(
    "name",
    [
        "final_mapping.weight",
        "encoder.initial_bn.bias",
        "encoder.initial_splitter.specifics.glu_layers.2.fc.weight",
        "encoder.att_transformers.0.bn.bn.running_var",
    ],
)
def test_rename_reference_state_missing_tensor_raises(name):
    state = reference_state(small())
    del state[name]

    with pytest.raises(ValueError, match="missing from the reference state"):
        rename_reference_state(state)


def test_rename_reference_state_differing_aliases_raise():
    state = reference_state(small())
    state["encoder.initial_splitter.shared.shared_layers.1.weight"] = torch.zeros(20, 10)

    with pytest.raises(ValueError, match="differs from another name"):
        rename_reference_state(state)
