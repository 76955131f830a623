from __future__ import annotations

import numpy as np
import pytest
import torch

from episome.nn import (
    TabNet,
    TabNetDecoder,
    hidden_value_loss,
    hidden_value_scale,
    rename_reference_state,
)

SIZES = {"n_d": 6, "n_steps": 2}


@pytest.fixture
def case(golden, path):
    return golden("03b_sims_pretrainer")


def decoder_name(name: str) -> str:
    """Our name of a tensor of the reference's decoder."""
    if name == "reconstruction_layer.weight":
        return "out.weight"
    parts = name.split(".")
    step, kind = parts[1], parts[2]
    if parts[3] == "shared_layers":
        return f"shared.{parts[4]}"
    if parts[5] == "fc":
        return f"transformers.{step}.specific.{parts[4]}" if kind == "specifics" else "shared.0"
    layer = int(parts[4]) + (kind == "specifics")
    return f"transformers.{step}.norms.{layer}.{parts[-1]}"


def build(case, dtype):
    c, state = case.config, case.state(dtype)
    sizes = {
        "n_d": c["n_d"],
        "n_steps": c["n_steps"],
        "virtual_batch_size": c["virtual_batch_size"],
        "momentum": c["momentum"],
        "ghost_rounding": "ceil",
    }
    net = TabNet(
        c["input_dim"],
        1,
        n_a=c["n_a"],
        gamma=c["gamma"],
        n_shared=c["n_shared"],
        n_independent=c["n_independent"],
        mask=c["mask_type"],
        epsilon=c["epsilon"],
        **sizes,
    ).to(dtype)
    encoder = {k: v for k, v in state.items() if k.startswith("encoder.")}
    encoder["final_mapping.weight"] = net.head.weight.detach()
    net.load_state_dict(rename_reference_state(encoder))
    decoder = TabNetDecoder(c["input_dim"], **sizes).to(dtype)
    theirs = {k.removeprefix("decoder."): v for k, v in state.items() if k.startswith("decoder.")}
    decoder.load_state_dict({decoder_name(k): v for k, v in theirs.items()})
    return net, decoder


def run(case, dtype, hidden, *, masked):
    net, decoder = build(case, dtype)
    net.train(masked), decoder.train(masked)
    x = case.tensor("x", dtype)
    seen = x * (1 - hidden) if masked else x
    decisions, _, _ = net.run_steps(seen, prior=1 - hidden if masked else None)
    out = decoder(decisions)
    return net, decoder, out, hidden_value_loss(out, x, hidden, hidden_value_scale(x))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_decoder_golden_evaluation_matches(case, dtype):
    suffix = "_f64" if dtype == torch.float64 else ""

    with torch.no_grad():
        hidden = torch.ones_like(case.tensor("x", dtype))
        _, _, out, loss = run(case, dtype, hidden, masked=False)

    case.check(f"eval{suffix}/reconstruction", out)
    case.check(f"eval{suffix}/loss", loss)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_decoder_golden_training_step_matches(case, dtype):
    suffix = "_f64" if dtype == torch.float64 else ""
    hidden = case.tensor("train/obfuscated", dtype).to(dtype)

    net, decoder, out, loss = run(case, dtype, hidden, masked=True)
    loss.backward()

    case.check(f"train{suffix}/reconstruction", out)
    case.check(f"train{suffix}/loss", loss)
    gradients = dict(decoder.named_parameters())
    seen = set()
    for key, name in case.under(f"grad{suffix}/decoder."):
        ours = decoder_name(name)
        case.check(key, gradients[ours].grad)
        seen.add(ours)
    assert seen == gradients.keys()
    case.check(f"grad{suffix}/encoder.initial_bn.weight", net.input_norm.weight.grad)


def layer(h, weight, norm, *, first):
    """One gated layer in evaluation mode, as the paper writes it."""
    z = h @ weight.T
    z = (z - norm["running_mean"]) / np.sqrt(norm["running_var"] + 1e-5)
    z = z * norm["weight"] + norm["bias"]
    u, v = np.split(z, 2, axis=1)
    gated = u / (1 + np.exp(-v))
    return gated if first else (h + gated) * np.sqrt(0.5)


def test_decoder_equals_the_formula_in_float64():
    torch.manual_seed(0)
    decoder = TabNetDecoder(
        11, **SIZES, n_shared=2, n_independent=1, virtual_batch_size=8
    ).double()
    decisions = [torch.rand(20, 6, dtype=torch.float64) for _ in range(2)]
    for _ in range(3):
        decoder.train()(decisions)
    state = {k: v.numpy() for k, v in decoder.state_dict().items()}

    def norm(t, i):
        prefix = f"transformers.{t}.norms.{i}."
        return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}

    total = 0
    for t, d in enumerate(decisions):
        h = layer(d.numpy(), state["shared.0"], norm(t, 0), first=True)
        h = layer(h, state["shared.1"], norm(t, 1), first=False)
        total = total + layer(h, state[f"transformers.{t}.specific.0"], norm(t, 2), first=False)

    found = decoder.eval()(decisions).detach().numpy()
    np.testing.assert_allclose(found, total @ state["out.weight"].T, rtol=1e-12, atol=1e-12)


def test_scale_of_a_constant_gene_is_its_size_and_of_an_absent_one_is_one():
    x = torch.tensor([[1.0, 2.0, 0.0, -3.0], [3.0, 2.0, 0.0, -3.0]])

    assert hidden_value_scale(x).tolist() == [1.0, 2.0, 1.0, 3.0]


def test_scale_does_not_take_rounding_for_a_variance():
    x = torch.full((1000, 1), 0.1)

    assert hidden_value_scale(x).item() == pytest.approx(0.1)


def test_loss_equals_the_formula_cell_by_cell(rng):
    x = torch.rand(7, 5, generator=rng, dtype=torch.float64)
    made = torch.rand(7, 5, generator=rng, dtype=torch.float64)
    hidden = (torch.rand(7, 5, generator=rng) < 0.4).double()
    scale = torch.rand(5, generator=rng, dtype=torch.float64) + 0.1

    found = hidden_value_loss(made, x, hidden, scale)

    cells = []
    for b in range(7):
        errors = [(made[b, g] - x[b, g]) ** 2 / scale[g] for g in range(5) if hidden[b, g]]
        cells.append(sum(errors) / (len(errors) + 1e-9))
    assert found.item() == pytest.approx(float(sum(cells)) / 7, rel=1e-12)


def test_loss_depends_on_hidden_values_only(rng):
    x = torch.rand(7, 5, generator=rng)
    made = torch.rand(7, 5, generator=rng, requires_grad=True)
    hidden = (torch.rand(7, 5, generator=rng) < 0.4).float()
    scale = hidden_value_scale(x)

    before = hidden_value_loss(made, x, hidden, scale)
    visible = x + 100 * (1 - hidden)
    after = hidden_value_loss(made, visible, hidden, scale)
    (gradient,) = torch.autograd.grad(before, made)

    assert torch.equal(before, after)
    assert torch.equal(gradient != 0, hidden.bool())
    assert hidden_value_loss(made, x, torch.zeros_like(x), scale).item() == 0


def test_decoder_without_shared_layers_is_refused():
    with pytest.raises(ValueError, match=r"n_shared is 0.*Set n_shared to 1"):
        TabNetDecoder(11, **SIZES, n_shared=0)
