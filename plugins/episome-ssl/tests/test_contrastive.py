"""Contrastive tasks: the recorded numbers, oracles of their losses, and what they promise."""

from __future__ import annotations

import copy
import dataclasses
import math
import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from episome.nn import CSRParts, MaskedAutoencoder, PretextBatch, PretextSetting
from episome_ssl.contrastive import BYOL, BarlowTwins, SimCLR, VICReg
from episome_ssl.losses import (
    barlow_loss,
    byol_loss,
    cosine_distance,
    cross_correlation,
    nt_xent,
    vicreg_loss,
)

SMALL = {
    BYOL: {"projection_hidden": 16, "projection_size": 8},
    BarlowTwins: {"projection": (16, 12)},
    VICReg: {"projection": (16, 12)},
    SimCLR: {"projection_hidden": 16, "projection_size": 8},
}
TASKS = tuple(SMALL)


def network(n_genes=30, **options):
    torch.manual_seed(1)
    options = {"hidden": (20, 10), "n_latent": 6, "dropout": 0.0, "decodes": False} | options
    return MaskedAutoencoder(n_genes, **options)


def task_of(kind, net, n_latent=6, **options):
    torch.manual_seed(2)
    task = kind.build(PretextSetting(30, n_latent), **(SMALL[kind] | options))
    task.prepare(net)
    return task


def update(task, net, batch, lr=0.1):
    """Take one step of gradient descent, and what follows it."""
    optimiser = torch.optim.SGD([*net.parameters(), *task.parameters()], lr=lr)
    out = task.loss(net, batch)
    out.loss.backward()
    optimiser.step()
    optimiser.zero_grad()
    task.after_update(net, 0.0)
    return out


def encoder_names(names, prefix):
    """Recorded name of every parameter of the encoder, by ours."""
    ours = {}
    for name in names:
        if name.startswith(f"{prefix}."):
            _, layer, kind = name.split(".")
            if layer == "0":
                ours["first" if kind == "weight" else "first_bias"] = name
            else:
                ours[f"encoder.{int(layer) - 1}.{kind}"] = name
    return ours


def recorded_network(case, state, prefix):
    *hidden, n_latent = case.config["units"]
    net = MaskedAutoencoder(
        case.config["gene_dim"], hidden=hidden, n_latent=n_latent, dropout=0.0, decodes=False
    )
    ours = {o: state[theirs] for o, theirs in encoder_names(state, prefix).items()}
    net.load_state_dict(ours | {"first": ours["first"].T})
    return net


def as_recorded(name, value):
    return value.T if name == "first" else value


def recorded_byol(case):
    config = case.config
    net = recorded_network(case, case.part("state/online."), "net")
    task = BYOL(
        config["units"][-1],
        projection_hidden=config["projection_hidden_size"],
        projection_size=config["projection_size"],
        momentum=config["use_momentum"],
        decay=config["moving_average_decay"],
    )
    task.prepare(net)
    for module, prefix in ((task.projector, "online.projector."), (task.predictor, "predictor.")):
        module.load_state_dict(case.part(f"state/{prefix}"))
    if config["use_momentum"]:
        other = recorded_network(case, case.part("state/target."), "net")
        task.target.net.load_state_dict(other.state_dict())
        task.target.projector.load_state_dict(case.part("state/target.projector."))
    return net, task


@pytest.mark.parametrize("name", ["06c_ssl_byol", "06c_ssl_simsiam"])
def test_loss_and_gradients_of_recorded_views_are_the_recorded_ones(golden, name):
    case = golden(name)
    net, task = recorded_byol(case)
    said = {}
    for part in ("projector", "predictor"):
        getattr(task, part).register_forward_hook(
            lambda _, __, out, part=part: said.update({part: out.detach()})
        )

    out = task.loss_of_views(net, case.tensor("view1"), case.tensor("view2"))
    out.loss.backward()

    case.check("loss", out.loss)
    case.check("online_projection", said["projector"])
    case.check("online_prediction", said["predictor"])
    ours = {f"net.{n}": p for n, p in net.named_parameters()}
    theirs = encoder_names(case.part("grad/online."), "net")
    for n, recorded in theirs.items():
        case.check(f"grad/online.{recorded}", as_recorded(n, ours[f"net.{n}"].grad))
    for n, p in task.projector.named_parameters():
        case.check(f"grad/online.projector.{n}", p.grad)
    for n, p in task.predictor.named_parameters():
        case.check(f"grad/predictor.{n}", p.grad)
    n_checked = len(theirs) + len([*task.projector.parameters(), *task.predictor.parameters()])
    assert n_checked == len(case.part("grad/"))


def test_target_moves_as_recorded(golden):
    case = golden("06c_ssl_byol")
    net, task = recorded_byol(case)
    views = case.tensor("view1"), case.tensor("view2")
    projections = task.target(views, None)
    predictions = task.predictor(task.projector(torch.cat([net.encode(v) for v in views])))

    task.after_update(net, 0.0)

    case.check("target_projection", projections)
    first = predictions.chunk(2)[0], projections.chunk(2)[1]
    case.check("pairwise_loss_fn", cosine_distance(*first))
    recorded = case.part("after_ema/target.")
    moved = dict(task.target.net.named_parameters())
    for n, theirs in encoder_names(recorded, "net").items():
        case.check(f"after_ema/target.{theirs}", as_recorded(n, moved[n]))
    for n, value in task.target.projector.state_dict().items():
        case.check(f"after_ema/target.projector.{n}", value)


def test_barlow_twins_of_recorded_views_are_the_recorded_ones(golden):
    case = golden("06d_ssl_barlow_twins")
    net = recorded_network(case, case.part("state/"), "backbone")
    widths = tuple(int(w) for w in case.config["projector"].split("-"))
    task = BarlowTwins(64, projection=widths, off_weight=case.config["lambd"])
    task.projector.load_state_dict(case.part("state/projector."))
    views = case.tensor("view1"), case.tensor("view2")

    z1, z2 = (task.projector(net.encode(v)) for v in views)
    out = task.loss_of_views(net, *views)
    out.loss.backward()

    case.check("z1", z1)
    case.check("z2", z2)
    case.check("cross_correlation", cross_correlation(z1, z2))
    case.check("loss", out.loss)
    total = out.said["on_diagonal"] + case.config["lambd"] * out.said["off_diagonal"]
    case.check("loss", total)
    ours = dict(net.named_parameters())
    theirs = encoder_names(case.part("grad/"), "backbone")
    for n, recorded in theirs.items():
        case.check(f"grad/{recorded}", as_recorded(n, ours[n].grad))
    for n, p in task.projector.named_parameters():
        case.check(f"grad/projector.{n}", p.grad)
    assert len(theirs) + len([*task.projector.parameters()]) == len(case.part("grad/"))


def projections(n=7, d=4, seed=0, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    z = torch.randn(n, d, generator=g, dtype=dtype)
    return z, z + 0.5 * torch.randn(n, d, generator=g, dtype=dtype)


def cosine(a, b):
    return float(np.dot(a, b) / math.sqrt(np.dot(a, a)) / math.sqrt(np.dot(b, b)))


def test_byol_loss_is_that_of_loops():
    p, t = projections(seed=1), projections(seed=2)
    p1, p2, t1, t2 = (z.numpy() for z in (*p, *t))

    expected = [(2 - 2 * cosine(p1[i], t2[i])) + (2 - 2 * cosine(p2[i], t1[i])) for i in range(7)]

    assert byol_loss(p, t).item() == pytest.approx(sum(expected) / 7, rel=1e-12)


def test_barlow_loss_is_that_of_loops():
    z1, z2 = projections()

    on = off = 0.0
    for i in range(4):
        for j in range(4):
            a, b = z1[:, i].tolist(), z2[:, j].tolist()
            ma, mb = sum(a) / 7, sum(b) / 7
            va = sum((x - ma) ** 2 for x in a) / 7 + 1e-5
            vb = sum((x - mb) ** 2 for x in b) / 7 + 1e-5
            c = sum((x - ma) * (y - mb) for x, y in zip(a, b, strict=True)) / 7
            c /= math.sqrt(va * vb)
            on += (c - 1) ** 2 if i == j else 0
            off += c**2 if i != j else 0
    expected = on + 0.3 * off

    parts = barlow_loss(z1, z2, off_weight=0.3)
    found = [part.item() for part in parts]
    assert found == pytest.approx([expected, on, off], rel=1e-12)


def test_vicreg_loss_is_that_of_loops():
    z1, z2 = (0.6 * z for z in projections())
    n, d = 7, 4

    same = sum(float(z1[b, i] - z2[b, i]) ** 2 for b in range(n) for i in range(d)) / (n * d)
    alive = apart = 0.0
    for z in (z1, z2):
        means = [sum(z[:, i].tolist()) / n for i in range(d)]
        for i in range(d):
            for j in range(d):
                cov = sum(float((z[b, i] - means[i]) * (z[b, j] - means[j])) for b in range(n))
                cov /= n - 1
                if i == j:
                    alive += max(0.0, 1 - math.sqrt(cov + 1e-4)) / d
                else:
                    apart += cov**2 / d

    parts = vicreg_loss(z1, z2)
    assert alive > 0
    expected = [25 * same + 25 * alive + apart, same, alive, apart]
    assert [part.item() for part in parts] == pytest.approx(expected, rel=1e-12)
    weighed = vicreg_loss(z1, z2, invariance=2, variance=3, covariance=5).loss
    assert weighed.item() == pytest.approx(2 * same + 3 * alive + 5 * apart, rel=1e-12)


def test_nt_xent_is_that_of_loops():
    z1, z2 = projections()
    rows = [*z1.numpy(), *z2.numpy()]
    n = len(rows)

    expected = 0.0
    for i in range(n):
        others = [math.exp(cosine(rows[i], rows[k]) / 0.2) for k in range(n) if k != i]
        wanted = math.exp(cosine(rows[i], rows[(i + 7) % n]) / 0.2)
        expected -= math.log(wanted / sum(others)) / n

    assert nt_xent(z1, z2, temperature=0.2).item() == pytest.approx(expected, rel=1e-12)


def test_identical_views_correlate_with_themselves():
    z, _ = projections(50)
    variance = z.var(0, correction=0)

    c = cross_correlation(z, z)

    torch.testing.assert_close(c.diagonal(), variance / (variance + 1e-5), rtol=1e-12, atol=0)
    parts = barlow_loss(z, z)
    assert parts.on_diagonal < 1e-8
    assert parts.loss.item() == pytest.approx(0.0051 * parts.off_diagonal.item(), rel=1e-6)


def test_half_a_batch_correlates_as_much_as_a_whole_one():
    z1, z2 = projections(16)

    twice = cross_correlation(torch.cat([z1, z1]), torch.cat([z2, z2]))

    torch.testing.assert_close(cross_correlation(z1, z2), twice, rtol=1e-12, atol=1e-14)


def every_loss(z1, z2):
    return torch.stack(
        [
            byol_loss((z1, z2), (z2, z1)),
            barlow_loss(z1, z2).loss,
            vicreg_loss(z1, z2).loss,
            nt_xent(z1, z2),
        ]
    )


@given(st.permutations(range(7)), st.integers(0, 1000))
def test_losses_do_not_depend_on_the_order_of_cells_or_views(order, seed):
    z1, z2 = projections(seed=seed)

    losses = every_loss(z1, z2)

    order = torch.tensor(order)
    for other in (every_loss(z1[order], z2[order]), every_loss(z2, z1)):
        torch.testing.assert_close(other, losses, rtol=1e-10, atol=1e-12)


@given(st.floats(0.1, 10), st.integers(0, 1000))
def test_only_vicreg_looks_at_the_scale(scale, seed):
    z1, z2 = projections(seed=seed)
    p, t = (z1, scale * z2), (scale * z2, z1)

    found = torch.stack([byol_loss(p, t), nt_xent(z1, scale * z2)])

    expected = torch.stack([byol_loss((z1, z2), (z2, z1)), nt_xent(z1, z2)])
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    assert vicreg_loss(scale * z1, scale * z2).invariance.item() == pytest.approx(
        scale**2 * vicreg_loss(z1, z2).invariance.item(), rel=1e-10
    )


def test_collapse_is_what_vicreg_punishes_most():
    z1, z2 = projections(200)
    constant = torch.ones_like(z1)

    collapsed, spread = vicreg_loss(constant, constant), vicreg_loss(2 * z1, 2 * z1)

    assert collapsed.invariance == collapsed.covariance == 0
    # Each view has deviations of the root of eps, 0.01, where 1 is wanted.
    assert collapsed.loss.item() == pytest.approx(25 * 2 * 0.99, rel=1e-12)
    assert spread.loss < 0.1 * collapsed.loss
    assert vicreg_loss(z1, z2).loss < collapsed.loss


def test_losses_of_a_single_cell_are_what_is_documented():
    z1, z2 = projections(1)

    byol, barlow, vicreg, simclr = every_loss(z1, z2).tolist()

    assert byol == pytest.approx(2 * (2 - 2 * cosine(z1[0].numpy(), z1[0].numpy())), abs=1e-12)
    assert barlow == 4
    same = (z1 - z2).square().mean().item()
    assert vicreg == pytest.approx(25 * same + 25 * 2 * 0.99, rel=1e-12)
    assert simclr == 0


@pytest.mark.parametrize("kind", ["barlow", "vicreg", "nt_xent"])
def test_gradients_of_losses_are_right(kind):
    loss = {
        "barlow": lambda a, b: barlow_loss(a, b).loss,
        "vicreg": lambda a, b: vicreg_loss(a, b).loss,
        "nt_xent": nt_xent,
    }[kind]
    views = [z.requires_grad_() for z in projections(5, 3)]

    assert torch.autograd.gradcheck(loss, views)


@pytest.mark.parametrize("kind", TASKS)
@pytest.mark.parametrize("augmentation", ["noise", "mask"])
def test_every_parameter_that_is_trained_gets_a_gradient(kind, augmentation, batch_of):
    net = network()
    task = task_of(kind, net, augmentation=augmentation)

    out = task.loss(net, batch_of())
    out.loss.backward()

    for name, p in net.named_parameters():
        assert p.grad is not None, name
        assert p.grad.any(), name
    trained = {n: p for n, p in task.named_parameters() if not n.startswith("target.")}
    assert all(p.grad is not None for p in trained.values())
    assert out.latent.shape == (24, 6)
    assert not out.latent.requires_grad
    assert not any(value.requires_grad for value in out.said.values())


@pytest.mark.parametrize("kind", TASKS)
def test_training_lowers_the_loss(kind, batch_of):
    net, batch = network(), batch_of(40)
    task = task_of(kind, net)
    optimiser = torch.optim.Adam([*net.parameters(), *task.parameters()], lr=3e-3)

    losses = []
    for seed in range(60):
        out = task.loss(net, dataclasses.replace(batch, seed=seed))
        optimiser.zero_grad()
        out.loss.backward()
        optimiser.step()
        task.after_update(net, seed / 60)
        losses.append(out.loss.item())

    assert np.mean(losses[-5:]) < 0.9 * np.mean(losses[:5])


def test_target_moves_by_its_share_of_the_difference(batch_of):
    net, batch = network(), batch_of()
    task = task_of(BYOL, net, decay=0.9)
    before = [p.clone() for p in task.target.parameters()]

    update(task, net, batch)

    leading = [*net.parameters(), *task.projector.parameters()]
    after = list(task.target.parameters())
    assert len(before) == len(leading) == len(after)
    moved = [not torch.equal(old, lead) for old, lead in zip(before, leading, strict=True)]
    # A batch norm takes out the bias before it, which may therefore stay where it is.
    assert sum(moved) >= len(moved) - 1
    for old, lead, new in zip(before, leading, after, strict=True):
        torch.testing.assert_close(new, old + 0.1 * (lead - old), rtol=1e-5, atol=1e-7)


def test_target_takes_no_gradient_and_no_step_of_the_optimiser(batch_of):
    net, batch = network(), batch_of()
    task = task_of(BYOL, net, frozen_target=True)
    before = [p.clone() for p in task.target.parameters()]

    for _ in range(3):
        update(task, net, batch)
    task.loss(net, batch).loss.backward()

    for old, p in zip(before, task.target.parameters(), strict=True):
        assert not p.requires_grad
        assert p.grad is None
        assert torch.equal(old, p)


def test_gradient_of_simsiam_leaves_the_target_out():
    prediction, target = (z.requires_grad_() for z in projections())

    cosine_distance(prediction, target).sum().backward()

    assert prediction.grad.any()
    assert target.grad is None


def test_target_is_the_encoder_alone_and_is_kept_once():
    net = network(decodes=True)

    task = task_of(BYOL, net)

    encoder = {"first", "first_bias"} | {n for n in net.state_dict() if n.startswith("encoder.")}
    assert set(task.target.net.state_dict()) == encoder
    assert {n.split(".")[0] for n in task.state_dict()} == {"projector", "predictor", "target"}
    tensors = list(task.state_dict(keep_vars=True).values())
    assert len({t.data_ptr() for t in tensors}) == len(tensors)
    assert not {p.data_ptr() for p in net.parameters()} & {t.data_ptr() for t in tensors}
    assert not task.target.net.decodes
    assert net.decodes
    assert net(torch.rand(2, 30)).shape == (2, 30)


def test_encoder_copied_from_a_likelihood_of_counts_has_no_dispersions():
    net = network(decodes=True, likelihood="nb")

    task = task_of(BYOL, net)

    assert "log_theta" not in task.target.net.state_dict()
    assert torch.equal(task.target.net.encode(torch.ones(2, 30)), net.encode(torch.ones(2, 30)))


def test_state_of_a_task_is_resumed(batch_of):
    net, batch = network(), batch_of()
    task = task_of(BYOL, net)
    update(task, net, batch)
    other_net, other = copy.deepcopy(net), task_of(BYOL, network(n_genes=30))

    other.load_state_dict(copy.deepcopy(task.state_dict()))

    for n, t in ((net, task), (other_net, other)):
        update(t, n, batch)
    assert all(
        torch.equal(a, b)
        for a, b in zip(task.state_dict().values(), other.state_dict().values(), strict=True)
    )


def test_target_of_a_task_that_is_not_prepared_is_missed(batch_of):
    task = BYOL(6, **SMALL[BYOL])

    with pytest.raises(RuntimeError, match=re.escape("call prepare(net) before training")):
        task.loss(network(), batch_of())
    with pytest.raises(RuntimeError, match="no target network yet"):
        task.after_update(network(), 0.0)


def test_simsiam_has_no_target(batch_of):
    net = network()
    task = task_of(BYOL, net, momentum=False)

    update(task, net, batch_of())

    assert task.target is None
    assert not any(n.startswith("target") for n in task.state_dict())


def test_decay_runs_to_one():
    fixed, cosine_ = BYOL(6, decay=0.9), BYOL(6, decay=0.9, decay_schedule="cosine")

    assert [fixed.decay_at(s) for s in (0.0, 0.3, 1.0)] == [0.9] * 3
    found = [cosine_.decay_at(s) for s in (0.0, 0.25, 0.5, 1.0)]
    assert found == pytest.approx([0.9, 1 - 0.1 * (1 + 2**-0.5) / 2, 0.95, 1.0], rel=1e-12)


def test_cosine_says_what_the_loss_says(batch_of):
    net = network()
    out = task_of(BYOL, net).loss(net, batch_of())

    assert out.said["cosine"].item() == pytest.approx(1 - out.loss.item() / 4, rel=1e-6)


@pytest.mark.parametrize("kind", TASKS)
@pytest.mark.parametrize("augmentation", ["noise", "mask"])
def test_validation_is_the_same_every_time_and_draws_nothing_global(kind, augmentation, batch_of):
    net = network(dropout=0.3).eval()
    task = task_of(kind, net, augmentation=augmentation).eval()
    buffers = [b.clone() for b in task.buffers()]
    state = torch.get_rng_state()

    first, second = (task.loss(net, batch_of()) for _ in range(2))

    assert torch.equal(first.loss, second.loss)
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(buffers, task.buffers(), strict=True))
    other = task.loss(net, batch_of(seed=1))
    assert not torch.equal(first.loss, other.loss)


@pytest.mark.parametrize("kind", TASKS)
@pytest.mark.parametrize("augmentation", ["noise", "mask"])
def test_validation_of_a_single_cell_has_a_loss(kind, augmentation, batch_of):
    net = network().eval()
    task = task_of(kind, net, augmentation=augmentation).eval()

    out = task.loss(net, batch_of(1))

    assert torch.isfinite(out.loss)
    assert out.latent.shape == (2, 6)


def test_validation_loss_of_byol_is_the_mean_over_cells(batch_of):
    net, batch = network(), batch_of()
    task = task_of(BYOL, net, augmentation="mask")
    update(task, net, batch)
    net.eval(), task.eval()

    single = [
        task.loss(
            net, PretextBatch(batch.cells.take(torch.tensor([i])), batch.numbers[i : i + 1])
        ).loss
        for i in range(12)
    ]

    torch.testing.assert_close(torch.stack(single).mean(), task.loss(net, batch).loss)


def test_barlow_twins_see_two_augmented_views_or_one(batch_of):
    batch = batch_of()
    cells = batch.cells.to_dense(30)

    two = BarlowTwins(6, augmentation="noise").views(batch, 30)
    one = BarlowTwins(6, augmentation="noise", clean_second_view=True).views(batch, 30)

    # Noise is always on: no cell is left as it was.
    assert all((view != cells).any(1).all() for view in two)
    assert not torch.equal(*two)
    assert torch.equal(one[0], two[0])
    assert isinstance(one[1], CSRParts)
    assert torch.equal(one[1].to_dense(30), cells)


def test_defaults_of_views_are_the_published_noise_or_a_mask():
    kinds = {kind: kind(6).augmentation for kind in TASKS}

    assert [kinds[kind].kind for kind in TASKS] == ["noise", "noise", "mask", "mask"]
    noise = kinds[BYOL]
    assert (noise.probability, noise.intensity, noise.dropout) == (0.3, 0.2, 0.1)
    assert kinds[VICReg].mask_rate == kinds[SimCLR].mask_rate == 0.5
    assert not any(kind.needs_decoder for kind in TASKS)


@pytest.mark.parametrize("kind", TASKS)
def test_lower_products_give_nearly_the_same_loss(kind, batch_of):
    net, batch = network(), batch_of()
    task = task_of(kind, net, augmentation="noise")

    full = task.loss(net, batch)
    low = task.loss(net, dataclasses.replace(batch, products=torch.bfloat16))

    assert low.loss.dtype == low.latent.dtype == torch.float32
    assert not torch.equal(low.latent, full.latent)
    # Products of eight binary digits, through three layers.
    scale = full.latent.abs().max().item()
    torch.testing.assert_close(low.latent, full.latent, rtol=0, atol=4 * 2**-8 * scale)


@settings(max_examples=10)
@given(st.sampled_from(TASKS), st.integers(0, 2**40))
def test_cells_of_a_batch_do_not_share_views(kind, seed):
    """Equal cells get views of their own, whatever the seed."""
    x = torch.ones(8, 30)
    batch = PretextBatch(CSRParts.from_dense(x), torch.arange(8), seed)
    known = {"probability": 1.0} if kind in {BYOL, BarlowTwins} else {}

    for view in kind(6, **known).views(batch, 30):
        rows = view if isinstance(view, torch.Tensor) else view.to_dense(30)
        assert len({tuple(row) for row in rows.tolist()}) == 8


@pytest.mark.parametrize(
    ("kind", "options", "error", "match"),
    [
        (BYOL, {"decay": 1.1}, ValueError, r"decay is 1\.1"),
        (BYOL, {"decay_schedule": "linear"}, ValueError, "decay_schedule is 'linear'"),
        (BYOL, {"momentum": False, "frozen_target": True}, ValueError, "no target to freeze"),
        (BYOL, {"projection_size": 0}, ValueError, "widths of a projector"),
        (BYOL, {"decays": 0.9}, TypeError, r"no setting \['decays'\]"),
        (BarlowTwins, {"off_weight": -1.0}, ValueError, r"off_weight is -1\.0"),
        (BarlowTwins, {"projection": ()}, ValueError, "must be an output"),
        (BarlowTwins, {"augmentation": "mask", "dropout": 0.1}, TypeError, "it has mask_rate"),
        (VICReg, {"covariance": float("nan")}, ValueError, "covariance is nan"),
        (SimCLR, {"temperature": 0.0}, ValueError, r"temperature is 0\.0"),
        (SimCLR, {"mask_rate": 1.0}, ValueError, r"mask_rate is 1\.0"),
    ],
)
def test_impossible_options_are_refused(kind, options, error, match):
    with pytest.raises(error, match=match):
        kind.build(PretextSetting(30, 6), **options)
