"""Masking tasks: what they hide, what they ask for, and what they draw by."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from episome.nn import CSRParts, MaskedAutoencoder, PretextBatch, PretextSetting
from episome_ssl.core import SSLCore
from episome_ssl.masking import (
    ProgrammeMaskTask,
    ProgrammeToProgrammeTask,
    ProgrammeToTFTask,
    RandomMaskTask,
)

N = 30
SETS = {f"set {i}": tuple(range(3 * i, 3 * i + 5)) for i in range(8)}
TARGETS = {name: (genes[-1] + 1) % N for name, genes in SETS.items()}
SETTING = PretextSetting(N, 6, tuple(f"g{i}" for i in range(N)), SETS, TARGETS)
MASKING = (RandomMaskTask, ProgrammeMaskTask, ProgrammeToProgrammeTask, ProgrammeToTFTask)
EVERY = torch.arange(N)


def network(**options) -> MaskedAutoencoder:
    torch.manual_seed(1)
    settings = {"hidden": (20, 10), "n_latent": 6, "dropout": 0.0} | options
    return MaskedAutoencoder(N, **settings).double()


def task_of(kind, setting=SETTING, **options):
    return kind.build(setting, **options)


def batch_of(n_cells=40, *, seed=0, start=100, share=0.6) -> PretextBatch:
    rng = torch.Generator().manual_seed(7)
    x = torch.rand(n_cells, N, generator=rng, dtype=torch.float64) * 3 + 0.1
    x *= torch.rand(n_cells, N, generator=rng) < share
    return PretextBatch(CSRParts.from_dense(x), torch.arange(start, start + n_cells), seed)


def scored(task, batch) -> torch.Tensor:
    return task.mask(batch).scored(len(batch.numbers), EVERY).bool()


def hidden(task, batch) -> torch.Tensor:
    """Which genes the encoder does not see, found by what it is given."""
    ones = CSRParts.from_dense(torch.ones(len(batch.numbers), N, dtype=torch.float64))
    return task.mask(batch).visible(ones).to_dense(N) == 0


# --- all of them -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", MASKING)
def test_loss_is_the_mean_error_of_scored_genes_of_visible_cells(kind):
    task, net, batch = task_of(kind), network(), batch_of()
    x, mask = batch.cells.to_dense(N), scored(task, batch)

    out = task.loss(net, batch)

    expected = net.decode(net.encode(task.mask(batch).visible(batch.cells)))
    torch.testing.assert_close(out.loss, (expected - x)[mask].square().mean())
    torch.testing.assert_close(out.latent, net.encode(task.mask(batch).visible(batch.cells)))
    assert out.latent.shape == (40, 6)


@pytest.mark.parametrize("kind", MASKING)
def test_changing_what_is_neither_seen_nor_scored_changes_nothing(kind):
    """And of what is scored and hidden, only the target counts: the encoder sees none of it."""
    task, net, batch = task_of(kind), network(), batch_of()
    x = batch.cells.to_dense(N)
    unseen, asked = hidden(task, batch), scored(task, batch)

    def found(where):
        changed = CSRParts.from_dense(torch.where(where, x + 5, x))
        return task.loss(net, dataclasses.replace(batch, cells=changed))

    plain = task.loss(net, batch)
    assert torch.equal(found(unseen & ~asked).loss, plain.loss)
    assert torch.equal(found(unseen).latent, plain.latent)
    # So that the test could fail.
    assert not torch.equal(found(asked).loss, plain.loss)
    assert not torch.equal(found(~unseen).latent, plain.latent)


@pytest.mark.parametrize("kind", [RandomMaskTask, ProgrammeMaskTask, ProgrammeToTFTask])
def test_targets_of_visible_genes_do_not_change_the_loss(kind):
    """The encoder is shown the same cells; only what they are compared with is another."""
    task, net, batch = task_of(kind), network(), batch_of()
    mask, x = task.mask(batch), batch.cells.to_dense(N)
    other = CSRParts.from_dense(torch.where(hidden(task, batch), x, x + 3))
    latent = net.encode_visible(batch.cells, mask)

    assert torch.equal(net.error(latent, other, mask), net.error(latent, batch.cells, mask))


@pytest.mark.parametrize("kind", MASKING)
def test_outputs_that_are_not_scored_have_no_gradient(kind):
    task, net, batch = task_of(kind), network(), batch_of(1)

    task.loss(net, batch).loss.backward()

    asked = scored(task, batch)[0]
    assert not net.out.weight.grad[~asked].any()
    assert not net.out.bias.grad[~asked].any()
    assert net.out.bias.grad[asked].all()


@pytest.mark.parametrize("kind", MASKING)
def test_encoder_weights_of_hidden_genes_have_no_gradient(kind):
    task, net, batch = task_of(kind), network(), batch_of(1, share=1.0)

    task.loss(net, batch).loss.backward()

    unseen = hidden(task, batch)[0]
    assert not net.first.grad[unseen].any()
    assert net.first.grad[~unseen].any(1).all()


@pytest.mark.parametrize("kind", MASKING[1:])
def test_unused_genes_that_are_always_zero_change_no_loss_of_programmes(kind):
    """Padding: of a mean over hidden genes, genes that no programme holds are no part.

    Random masks hide padding as they hide any gene: see ``masked_error`` for theirs.
    """
    wide = dataclasses.replace(SETTING, n_features=N + 12)
    # Shares of visible genes are of all genes: what is scaled by them is compared unscaled.
    net, batch = network(), batch_of()
    big = MaskedAutoencoder(N + 12, hidden=(20, 10), n_latent=6, dropout=0.0).double()
    state = big.state_dict()
    for name, tensor in net.state_dict().items():
        state[name][: len(tensor)] = tensor
    big.load_state_dict(state)
    masks = []
    for task in (task_of(kind), task_of(kind, wide)):
        found = task.mask(batch)
        masks.append(dataclasses.replace(found, scale=None))

    torch.testing.assert_close(
        net.loss(batch.cells, masks[0]), big.loss(batch.cells, masks[1]), rtol=1e-10, atol=0
    )


@pytest.mark.parametrize("kind", MASKING)
def test_same_seed_same_draw_and_other_seeds_or_cells_other_draws(kind):
    task = task_of(kind)

    assert torch.equal(scored(task, batch_of()), scored(task, batch_of()))
    assert not torch.equal(scored(task, batch_of()), scored(task, batch_of(seed=1)))
    assert not torch.equal(scored(task, batch_of()), scored(task, batch_of(start=140)))


@pytest.mark.parametrize("kind", MASKING)
def test_masks_neither_read_nor_move_global_generators(kind):
    task, net, batch = task_of(kind, decode_genes=9).train(), network(), batch_of()
    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002 - this one must not move
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002

    first = task.loss(net, batch).loss
    after = torch.get_rng_state(), np.random.get_state()[1]  # noqa: NPY002
    torch.manual_seed(6)

    assert torch.equal(before[0], after[0])
    assert np.array_equal(before[1], after[1])
    assert torch.equal(task.loss(net, batch).loss, first)


@pytest.mark.parametrize("kind", MASKING)
def test_training_draws_anew_and_validation_the_same_in_every_epoch(kind):
    core = SSLCore(N, hidden=(8,), n_latent=6, dropout=0.0)
    core.set_task(task_of(kind))
    cells = batch_of().cells
    batch = {"X": cells, "ind_x": torch.arange(40)}

    def draws(*, training):
        core.train(training)
        return [scored(core.task, core.drawn(batch)) for _ in range(4)]

    validation = draws(training=False)
    training = draws(training=True)
    again = draws(training=False)

    assert all(torch.equal(validation[0], d) for d in (*validation, *again))
    assert not any(
        torch.equal(a, b) for i, a in enumerate(training) for b in (*training[:i], validation[0])
    )
    assert int(core.n_drawn) == 4


@pytest.mark.parametrize("kind", MASKING)
def test_few_genes_are_decoded_in_training_and_all_in_validation(kind):
    task, net, batch = task_of(kind, decode_genes=7), network(), batch_of()
    whole = task_of(kind)

    drawn = task.train().loss(net, batch)
    drawn.loss.backward()
    decoded = net.out.bias.grad.bool()
    validation = task.eval().loss(net, batch)

    assert 0 < int(decoded.sum()) <= 7
    assert torch.equal(validation.loss, whole.loss(net, batch).loss)
    # The mask is the same: what is decoded is drawn by another stream.
    assert torch.equal(scored(task, batch), scored(whole, batch))
    assert torch.equal(drawn.latent, validation.latent)


@pytest.mark.parametrize("kind", MASKING)
def test_options_that_cannot_be_are_refused(kind):
    with pytest.raises(ValueError, match="decode_genes is 0"):
        task_of(kind, decode_genes=0)
    with pytest.raises(TypeError):
        task_of(kind, mask_rates=0.5)


# --- random ------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.8])
def test_share_of_hidden_genes_is_the_rate_within_three_sigma(rate):
    task, batch = task_of(RandomMaskTask, mask_rate=rate), batch_of(400)

    drawn = scored(task, batch).double()

    sigma = (rate * (1 - rate) / drawn.numel()) ** 0.5
    assert abs(float(drawn.mean()) - rate) < 3 * sigma
    assert torch.equal(drawn.bool(), hidden(task, batch))


def test_what_is_visible_has_the_expectation_of_the_cell():
    task, batch = task_of(RandomMaskTask, mask_rate=0.4), batch_of(10)
    x = batch.cells.to_dense(N)
    n = 1500

    draws = [
        task.mask(dataclasses.replace(batch, seed=s)).visible(batch.cells).to_dense(N)
        for s in range(n)
    ]

    sigma = x * (0.4 / 0.6 / n) ** 0.5
    off = (torch.stack(draws).mean(0) - x).abs()
    assert bool((off <= 5 * sigma).all())
    assert torch.equal(torch.stack(draws).bool().any(0), x > 0)


def test_rate_zero_is_the_plain_autoencoder():
    net, batch = network(), batch_of()
    x = batch.cells.to_dense(N)

    out = task_of(RandomMaskTask, mask_rate=0.0).loss(net, batch)

    torch.testing.assert_close(out.loss, (net(x) - x).square().mean())


@pytest.mark.parametrize("rate", [-0.1, 1.0, 2.0])
def test_hiding_everything_is_refused(rate):
    with pytest.raises(ValueError, match="at least 0 and below 1"):
        task_of(RandomMaskTask, mask_rate=rate)


# --- programmes --------------------------------------------------------------------------------


def unions(task) -> set[tuple[bool, ...]]:
    """Every union of as many programmes as the task hides."""
    from itertools import combinations

    table = task.table.bool()
    chosen = combinations(range(len(table)), task.n_hidden)
    return {tuple(table[list(c)].any(0).tolist()) for c in chosen}


@settings(max_examples=30)
@given(
    rate=st.sampled_from([0.05, 0.13, 0.25, 0.4, 0.7]),
    n_groups=st.integers(1, 6),
    seed=st.integers(0, 999),
)
def test_programmes_that_are_hidden_are_whole_and_exactly_their_union(rate, n_groups, seed):
    task = task_of(ProgrammeMaskTask, mask_rate=rate, n_groups=n_groups)
    batch = batch_of(seed=seed)
    assert task.n_hidden == max(int(rate * 8), 1)

    rows = hidden(task, batch)
    seen = {tuple(r.tolist()) for r in rows}

    assert seen <= unions(task)
    assert 1 <= len(seen) <= n_groups
    assert torch.equal(rows, scored(task, batch))


def test_cells_of_a_batch_have_other_unions_unless_one_group_is_asked_for():
    batch = batch_of(64)

    many = hidden(task_of(ProgrammeMaskTask, mask_rate=0.3), batch)
    one = hidden(task_of(ProgrammeMaskTask, mask_rate=0.3, n_groups=1), batch)

    assert len({tuple(r.tolist()) for r in many}) > 8
    assert (one == one[:1]).all()


def test_programmes_are_hidden_equally_often():
    """Those of one gene of its own, so that what is hidden says which they are."""
    setting = dataclasses.replace(SETTING, programmes={f"p{i}": (i,) for i in range(10)})
    task = task_of(ProgrammeMaskTask, setting, mask_rate=0.3, n_groups=1000)

    share = task.unions(20_000, torch.Generator().manual_seed(0)).genes[:, :10].double().mean(0)

    assert float((share - 0.3).abs().max()) < 5 * (0.3 * 0.7 / 20_000) ** 0.5


def test_visible_values_are_scaled_by_the_share_of_genes_that_is_visible():
    task, batch = task_of(ProgrammeMaskTask, mask_rate=0.3), batch_of(share=1.0)

    seen = task.mask(batch).visible(batch.cells).to_dense(N)

    unseen = hidden(task, batch)
    factor = 1 / (1 - unseen.double().mean(1, keepdim=True))
    wanted = torch.where(unseen, 0.0, batch.cells.to_dense(N) * factor)
    torch.testing.assert_close(seen, wanted, rtol=1e-6, atol=0)


def test_the_share_that_is_hidden_is_said():
    task, net, batch = task_of(ProgrammeMaskTask, mask_rate=0.3), network(), batch_of()

    out = task.loss(net, batch)

    assert set(out.said) == {"hidden_share"}
    share = float(hidden(task, batch).double().mean())
    assert float(out.said["hidden_share"]) == pytest.approx(share, abs=1e-6)
    # A share of programmes is not one of genes: they overlap, and not all genes are in one.
    assert abs(share - 0.25) > 0.02


def test_unions_of_every_gene_are_drawn_again_and_refused_where_there_is_no_other():
    sets = {"all": tuple(range(N)), "some": (0, 1, 2), "others": (5, 6)}
    setting = dataclasses.replace(SETTING, programmes=sets)
    task = task_of(ProgrammeMaskTask, setting, mask_rate=0.4, n_groups=50)
    assert task.n_hidden == 1

    rows = {tuple(r.tolist()) for r in hidden(task, batch_of(200))}

    assert len(rows) == 2
    only = dataclasses.replace(SETTING, programmes={"all": tuple(range(N))})
    with pytest.raises(ValueError, match=r"1 of 1 programmes together hold every gene"):
        task_of(ProgrammeMaskTask, only)


def test_unlucky_draws_of_unions_do_not_end_a_training(monkeypatch):
    """Of groups whose union is every gene each time, others' unions are taken."""
    task = task_of(ProgrammeMaskTask, mask_rate=0.3, n_groups=4)
    real = task._unions

    def unlucky(n, generator):
        found = real(n, generator)
        found[:2] = 1
        return found

    monkeypatch.setattr(task, "_unions", unlucky)

    rows = hidden(task, batch_of(200))

    assert {tuple(r.tolist()) for r in rows} <= unions(task)
    assert len({tuple(r.tolist()) for r in rows}) == 2


@pytest.mark.parametrize(
    "options", [{"mask_rate": 0.0}, {"mask_rate": 1.0}, {"mask_rate": 1.5}, {"n_groups": 0}]
)
def test_rates_and_groups_of_programmes_outside_are_refused(options):
    with pytest.raises(ValueError, match="between 0 and 1, and there must be one group"):
        task_of(ProgrammeMaskTask, **options)


def test_one_programme_is_shown_and_asked_for():
    task, batch = task_of(ProgrammeToProgrammeTask), batch_of(64, share=1.0)
    table = {tuple(r.tolist()) for r in task.table.bool()}

    shown, asked = ~hidden(task, batch), scored(task, batch)

    assert torch.equal(shown, asked)
    rows = {tuple(r.tolist()) for r in shown}
    assert rows <= table
    assert len(rows) > 4
    # Unscaled values enter as they are, scaled ones over the share that is seen.
    x = batch.cells.to_dense(N)
    plain = task.mask(batch).visible(batch.cells).to_dense(N)
    assert torch.equal(plain, torch.where(shown, x, 0.0))
    scaled = task_of(ProgrammeToProgrammeTask, scaled=True).mask(batch).visible(batch.cells)
    torch.testing.assert_close(scaled.to_dense(N), plain * N / 5, rtol=1e-6, atol=0)


def test_a_factor_is_asked_for_and_never_seen():
    task, batch = task_of(ProgrammeToTFTask), batch_of(64)

    asked, unseen = scored(task, batch), hidden(task, batch)

    assert (asked.sum(1) == 1).all()
    assert unseen[asked].all()
    of_target = {TARGETS[name]: set(genes) for name, genes in SETS.items()}
    for row in range(64):
        (target,) = asked[row].nonzero().flatten().tolist()
        assert set((~unseen[row]).nonzero().flatten().tolist()) == of_target[target]


@pytest.mark.parametrize("kind", [ProgrammeToProgrammeTask, ProgrammeToTFTask])
def test_programmes_are_drawn_with_replacement(kind):
    """The published code permutes them, so that cells of larger batches are left without one."""
    task, batch = task_of(kind), batch_of(800)

    asked = scored(task, batch)
    drawn = task.mask(batch).rows

    assert asked.any(1).all()
    times = torch.bincount(drawn, minlength=8).double()
    assert float((times - 100).abs().max()) < 5 * (800 / 8 * 7 / 8) ** 0.5


def test_a_programme_of_every_gene_can_be_shown():
    """Nothing is hidden then: an autoencoder of whole cells, and not an error."""
    setting = dataclasses.replace(SETTING, programmes={"all": tuple(range(N))})
    task, net, batch = task_of(ProgrammeToProgrammeTask, setting), network(), batch_of()
    x = batch.cells.to_dense(N)

    torch.testing.assert_close(task.loss(net, batch).loss, (net(x) - x).square().mean())


def test_a_factor_is_not_shown_where_its_own_set_holds_it():
    sets = {"A_1": (0, 1, 2), "B_1": (4,), "C_1": (5, 6)}
    setting = PretextSetting(N, 6, SETTING.genes, sets, {"A_1": 1, "B_1": 4, "C_1": 9})

    task = ProgrammeToTFTask.build(setting)
    whole = ProgrammeToProgrammeTask.build(setting)

    # A set of its factor alone shows nothing, and is left out.
    assert [row.nonzero().ravel().tolist() for row in task.table] == [[0, 2], [5, 6]]
    assert task.targets.tolist() == [1, 9]
    assert [row.nonzero().ravel().tolist() for row in whole.table] == [[0, 1, 2], [4], [5, 6]]


def test_programmes_without_a_factor_are_left_out_of_the_task_of_factors():
    few = dataclasses.replace(SETTING, targets={"set 2": 0, "set 5": 1})

    assert len(task_of(ProgrammeToTFTask, few).table) == 2
    assert len(task_of(ProgrammeToProgrammeTask, few).table) == 8
    with pytest.raises(ValueError, match="target genes of programmes"):
        task_of(ProgrammeToTFTask, dataclasses.replace(SETTING, targets={}))
    with pytest.raises(ValueError, match="programmes of genes"):
        task_of(ProgrammeMaskTask, dataclasses.replace(SETTING, programmes={}))


# --- recorded numbers of the published code ----------------------------------------------------


@pytest.fixture
def recorded(golden, monkeypatch):
    """The recorded programmes as tasks, each cell with its recorded programme."""
    case = golden("06b_ssl_gene_programme_masks")
    names = case.meta["var_names"]
    table = torch.from_numpy(case.arrays["encoded_programmes"]).to(torch.uint8)
    targets = torch.tensor([names.index(n) for n in case.meta["programmes"]])
    rows = case.tensor("programme_per_cell")

    def build(kind, **options):
        without = table.clone()
        if kind is ProgrammeToTFTask:
            without[torch.arange(len(table)), targets] = 0
        task = kind(without, targets, **options)
        monkeypatch.setattr(task, "_drawn", lambda _: rows)
        return task

    x = case.tensor("x").double()
    return case, build, PretextBatch(CSRParts.from_dense(x.contiguous()), torch.arange(len(x)))


def test_masks_of_programmes_are_the_recorded_ones(recorded):
    """The published code hides the programme (which it means to show): inputs are the reverse.

    Some recorded sets hold their own factor, which it would show and ask for; ours takes it out.
    """
    case, build, batch = recorded
    n, d = case.arrays["x"].shape
    task = build(ProgrammeToTFTask)
    mask, every = task.mask(batch), torch.arange(d)
    ones = CSRParts.from_dense(torch.ones(n, d, dtype=torch.float64))

    shown = mask.visible(ones).to_dense(d)
    asked = mask.scored(n, every).double()

    for module in ("transcriptomics", "multiomics"):
        assert torch.equal(asked, case.tensor(f"{module}/output_mask").double())
    own = case.tensor("transcriptomics/input_mask").double() * asked
    assert own.any()
    assert torch.equal(shown, case.tensor("transcriptomics/input_mask").double() - own)
    whole = build(ProgrammeToProgrammeTask).mask(batch).visible(ones).to_dense(d)
    assert torch.equal(whole, case.tensor("transcriptomics/input_mask").double())


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize(
    ("kind", "name"), [(ProgrammeToProgrammeTask, "gp_to_gp"), (ProgrammeToTFTask, "gp_to_tf")]
)
def test_losses_of_programmes_are_the_recorded_definitions(
    recorded, monkeypatch, kind, name, scaled
):
    """Recorded with one linear map as the network, and divided by all entries of the batch.

    Scaled ones are there divided by the share that is seen of the whole batch, with us by that
    of the cell: what it sees has the expectation of the cell then.
    """
    case, build, batch = recorded
    task = build(kind, scaled=scaled)
    n, d = case.arrays["x"].shape
    weight = case.tensor("stub_weight").double()
    if kind is ProgrammeToTFTask:
        # As the definition has it, a factor that its own set holds is shown.
        task.table = torch.from_numpy(case.arrays["encoded_programmes"]).to(torch.uint8)
    mask = task.mask(batch)
    if scaled:
        of_cells = task.table.double().mean(1)[mask.rows]
        torch.testing.assert_close(mask.scale[mask.rows].double(), 1 / of_cells)
        mask = dataclasses.replace(mask, scale=(1 / of_cells.mean()).expand(len(task.table)))
        monkeypatch.setattr(task, "mask", lambda _: mask)
    seen = mask.visible(batch.cells).to_dense(d)

    out = task.loss(LinearNet(weight), batch)

    share = float(mask.scored(n, torch.arange(d)).double().mean())
    ending = "scaled" if scaled else "unscaled"
    case.check(f"definition/{name}_loss_{ending}", out.loss * share)
    torch.testing.assert_close(out.latent, seen)


class LinearNet:
    """The recorded stand-in of a network: cells times a matrix."""

    def __init__(self, weight: torch.Tensor) -> None:
        self.weight, self.n_features = weight, len(weight)

    def encode_visible(self, cells, mask, *, products=None):
        return mask.visible(cells).to_dense(self.n_features)

    def error(self, z, cells, mask, **_):
        out = z @ self.weight.T
        scored = mask.scored(len(z), torch.arange(self.n_features)).bool()
        return (out - cells.to_dense(self.n_features))[scored].square().mean()
