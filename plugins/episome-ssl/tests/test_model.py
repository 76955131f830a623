"""`SSLEncoder`: every task trains it, and it says what it has seen."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from lightning.pytorch.callbacks import Callback

from episome import settings
from episome.data import GeneProgrammes
from episome.errors import (
    EpisomeWarning,
    GeneMatchError,
    InputDataError,
    InputFileError,
    UsageError,
)
from episome.io import read_model_folder
from episome.models import SSLEncoder, load
from episome.testing import synthetic_adata

SIZES = {"hidden": (24, 16), "n_latent": 6}
QUICK = {"max_epochs": 2, "accelerator": "cpu", "batch_size": 64}
PROGRAMMES = {f"GENE{i}_SET": [f"GENE{j}" for j in range(i + 1, i + 9)] for i in range(0, 48, 6)}
OPTIONS = {
    "random_mask": {},
    "programme_mask": {"programmes": PROGRAMMES},
    "programme_to_programme": {"programmes": PROGRAMMES},
    "programme_to_tf": {"programmes": PROGRAMMES},
    "byol": {"pretext_kwargs": {"projection_hidden": 16, "projection_size": 8}},
    "barlow": {"pretext_kwargs": {"projection": (16, 12)}},
    "vicreg": {"pretext_kwargs": {"projection": (16, 12)}},
    "simclr": {"pretext_kwargs": {"projection_hidden": 16, "projection_size": 8}},
}
MASKING = tuple(OPTIONS)[:4]


def cells(n=300, seed=0):
    return synthetic_adata(n, 60, seed=seed)


def model_of(pretext="random_mask", adata=None, *, setup=None, **options) -> SSLEncoder:
    adata = cells() if adata is None else adata
    SSLEncoder.setup_anndata(adata, **{"donor_key": "donor_id", **(setup or {})})
    return SSLEncoder(adata, pretext=pretext, **{**SIZES, **OPTIONS[pretext], **options})


def trained(pretext="random_mask", adata=None, *, setup=None, train=None, **options):
    model = model_of(pretext, adata, setup=setup, **options)
    model.pretrain(**{**QUICK, **(train or {})})
    return model


@pytest.fixture(scope="module")
def encoder() -> SSLEncoder:
    """Pretrained by random masks; tests must not change it."""
    return trained()


def names_of(folder) -> set[str]:
    """Weights of a folder, of the network; rows of the split beside them are no weights."""
    names = {k for k in folder.tensors if not k.startswith("_indices/")}
    assert all(k.startswith("net.") for k in names)
    return {k.removeprefix("net.") for k in names}


def state(model) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in model.module.state_dict().items()}


def assert_same(one, other) -> None:
    first, second = state(one), state(other)
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


# --- every task --------------------------------------------------------------------------------


@pytest.mark.parametrize("pretext", OPTIONS)
def test_every_task_trains_an_encoder_that_is_saved_without_it(pretext, tmp_path):
    model = model_of(pretext)
    before = state(model)
    query = cells(40, seed=1)

    model.pretrain(**QUICK)
    model.save(tmp_path / "m")
    again = load(tmp_path / "m")

    moved = {k for k, v in state(model).items() if not torch.equal(v, before[k])}
    assert {k for k in before if k.startswith(("net.first", "net.encoder"))} <= moved
    losses = model.history["validation_loss"]
    assert np.isfinite(losses.to_numpy(dtype=float)).all()
    assert len(losses) == 2
    # Exact: latent and reconstruction, and nothing of the task in the folder.
    latent = model.get_latent_representation(query)
    assert np.array_equal(latent, again.get_latent_representation(query))
    assert latent.shape == (40, 6)
    folder = read_model_folder(tmp_path / "m")
    assert names_of(folder) == set(model.module.net.state_dict())
    assert again.module.task is None
    if pretext in MASKING:
        expected = model.get_normalized_expression(query, return_numpy=True)
        assert np.array_equal(expected, again.get_normalized_expression(query, return_numpy=True))
        assert np.isfinite(expected).all()
    else:
        assert not any("decoder" in k or ".out." in k for k in folder.tensors)
    assert model.fit_["pretext"] == again.fit_["pretext"] == pretext


def test_a_task_without_decoder_says_that_nothing_is_reconstructed():
    model = trained("vicreg", train={"max_epochs": 1})

    with pytest.raises(UsageError, match="E-"):
        model.get_normalized_expression(cells(10, seed=1))


@pytest.mark.parametrize("pretext", ["random_mask", "byol"])
def test_the_same_seed_gives_the_same_weights_and_another_does_not(pretext):
    one, again = trained(pretext), trained(pretext)
    with settings.using_seed(1):
        other = trained(pretext)

    assert_same(one, again)
    assert one.history["train_loss"].equals(again.history["train_loss"])
    assert not torch.equal(one.module.net.first, other.module.net.first)


@pytest.mark.parametrize("pretext", OPTIONS)
def test_building_and_training_read_and_move_no_global_generator(pretext):
    torch.manual_seed(11)
    model = trained(pretext, train={"max_epochs": 1})
    after = torch.rand(1)
    torch.manual_seed(11)

    assert torch.equal(after, torch.rand(1))
    torch.manual_seed(12)
    assert_same(model, trained(pretext, train={"max_epochs": 1}))


def test_labels_are_never_read():
    one = cells()
    other = cells()
    other.obs["cell_type"] = np.roll(other.obs["cell_type"].to_numpy(), 7)
    bare = cells()
    del bare.obs["cell_type"]

    models = [trained(adata=adata) for adata in (one, other, bare)]

    assert_same(models[0], models[1])
    assert_same(models[0], models[2])


def test_training_goes_on_after_loading_and_remembers_all_donors(tmp_path):
    adata = cells()
    first = adata.obs["donor_id"].isin(["donor 0", "donor 1"]).to_numpy()
    model = trained("programme_mask", adata[first].copy(), train={"max_epochs": 1})
    model.save(tmp_path / "m")

    more = SSLEncoder.load(tmp_path / "m", adata=adata[~first].copy())
    before = state(more)
    more.pretrain(**{**QUICK, "max_epochs": 1})

    assert not torch.equal(state(more)["net.first"], before["net.first"])
    assert more.module.task is not None
    assert len(more.history["train_loss"]) == 2
    assert more.leaked_donors([f"donor {i}" for i in range(5)]) == [f"donor {i}" for i in range(5)]


class At(Callback):
    """Interrupt after a number of batches; without one only have the same arguments."""

    def __init__(self, after=10**9):
        self.after = after

    def on_train_batch_end(self, *args):
        self.after -= 1
        if self.after < 0:
            raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("pretext", "done"),
    [("random_mask", 6), ("programme_mask", 4), ("byol", 2), ("byol", 7), ("barlow", 5)],
)
def test_a_run_that_was_interrupted_ends_as_one_that_was_not(pretext, done, tmp_path):
    """Draws go on where they were, and a task's own networks and moving averages too."""
    run = {**QUICK, "max_epochs": 3}
    if pretext == "barlow":
        run["plan_kwargs"] = {"optimizer": "lars", "lr": 0.2}
    whole = model_of(pretext)
    whole.pretrain(**run, callbacks=[At()])
    keeps = {"checkpoint_dir": tmp_path / "run", "checkpoint_every_minutes": 0}

    broken = model_of(pretext)
    with pytest.raises(KeyboardInterrupt):
        broken.pretrain(**run, **keeps, callbacks=[At(done)])
    resumed = model_of(pretext)
    resumed.pretrain(**run, **keeps, callbacks=[At()])

    assert not broken.is_trained_
    assert_same(resumed, whole)
    for name, values in whole.history.items():
        assert values.equals(resumed.history[name]), name


def test_a_file_on_disk_trains_the_model_of_its_cells_in_memory(tmp_path):
    adata = cells()
    adata.write_h5ad(tmp_path / "cells.h5ad")

    source = SSLEncoder.setup_source(tmp_path / "cells.h5ad", donor_key="donor_id")
    model = SSLEncoder(source, **SIZES)
    model.pretrain(**QUICK)

    wanted = trained()
    assert model.adata is None
    assert_same(model, wanted)
    assert model.leaked_donors(["donor 0"]) == wanted.leaked_donors(["donor 0"]) == ["donor 0"]


@pytest.mark.parametrize("pretext", ["random_mask", "programme_mask"])
def test_counts_are_learned_by_their_likelihood(pretext, tmp_path):
    model = trained(pretext, likelihood="nb", train={"max_epochs": 6})
    query = cells(30, seed=1)

    model.save(tmp_path / "m")

    expected = model.get_normalized_expression(query, library_size=1e4, return_numpy=True)
    np.testing.assert_allclose(expected.sum(1), 1e4, rtol=1e-3)
    assert (expected > 0).all()
    losses = model.history["validation_loss"].to_numpy(dtype=float).ravel()
    assert losses[-1] < losses[0]
    again = load(tmp_path / "m").get_normalized_expression(
        query, library_size=1e4, return_numpy=True
    )
    assert np.array_equal(expected, again)


# --- what is refused ---------------------------------------------------------------------------


def test_a_likelihood_of_counts_refuses_logarithms():
    adata = cells()
    adata.X = adata.X.log1p()

    with pytest.raises(InputDataError, match="E-D53"):
        model_of(adata=adata, setup={"input_kind": "log1p"}, likelihood="nb")
    with pytest.raises(UsageError, match=r"likelihood='zinb'.*E-U30"):
        model_of(likelihood="zinb")


def test_an_unknown_task_names_the_near_one():
    adata = cells()
    SSLEncoder.setup_anndata(adata)

    with pytest.raises(UsageError, match=r"no pretext task 'random_maks'.*random_mask.*E-U108"):
        SSLEncoder(adata, pretext="random_maks", **SIZES)
    with pytest.raises(UsageError, match=r"no pretext task None.*E-U108"):
        SSLEncoder(adata, pretext=None, **SIZES)


@pytest.mark.parametrize("pretext", MASKING[1:])
def test_a_task_of_programmes_asks_for_them_before_training(pretext):
    with pytest.raises(UsageError, match=rf"'{pretext}' needs gene programmes.*E-U109"):
        model_of(pretext, programmes=None)


def test_programmes_that_cannot_be_used_are_refused(tmp_path):
    with pytest.raises(GeneMatchError, match="E-G29"):
        model_of("programme_mask", programmes={"mouse": [f"Gm{i}" for i in range(10)]})
    with pytest.raises(InputFileError, match="E-F07"):
        model_of("programme_mask", programmes=tmp_path / "nothing.gmt")
    with pytest.raises(UsageError, match=r"target genes of programmes.*E-U31"):
        model_of("programme_to_tf", programmes={"cycle": PROGRAMMES["GENE0_SET"]})


@pytest.mark.parametrize(
    ("pretext", "options"),
    [
        ("random_mask", {"mask_rate": 1.0}),
        ("random_mask", {"mask_rate": -0.5}),
        ("random_mask", {"pretext_kwargs": {"mask_rates": 0.5}}),
        ("random_mask", {"pretext_kwargs": {"decode_genes": 0}}),
        ("random_mask", {"pretext_kwargs": {"decode_genes": 10.5}}),
        ("programme_mask", {"mask_rate": 0.0}),
        ("programme_mask", {"pretext_kwargs": {"n_groups": 0}}),
        ("programme_to_tf", {"mask_rate": 0.5}),
        ("byol", {"mask_rate": 0.5}),
        ("random_mask", {"hidden": ()}),
        ("random_mask", {"n_latent": 0}),
        ("random_mask", {"activation": "tanh"}),
        ("random_mask", {"output_activation": "relu"}),
        ("random_mask", {"dropout": 1.5}),
    ],
)
def test_options_that_cannot_be_are_refused_where_the_model_is_built(pretext, options):
    with pytest.raises(UsageError, match="E-U31"):
        model_of(pretext, **options)


@pytest.mark.parametrize("hidden", [24, "24", (24, "a"), (2.5,), None])
def test_widths_that_are_no_list_of_numbers_are_refused(hidden):
    with pytest.raises(UsageError, match="is no list of widths.*E-U31"):
        model_of("random_mask", hidden=hidden)


def test_a_programme_that_always_hides_everything_is_refused_before_cells_are_read():
    """One set of all genes cannot be hidden: nothing would be left to see."""
    everything = {"all": [f"GENE{i}" for i in range(60)]}

    with pytest.raises(UsageError, match=r"hold every gene.*E-U31"):
        model_of("programme_mask", programmes=everything)


# --- programmes of any form --------------------------------------------------------------------


def test_programmes_of_a_file_and_of_a_mapping_train_the_same(tmp_path):
    lines = ["\t".join([name, "", *genes]) for name, genes in PROGRAMMES.items()]
    (tmp_path / "sets.gmt").write_text("\n".join(lines))
    forms = (tmp_path / "sets.gmt", str(tmp_path / "sets.gmt"), GeneProgrammes(PROGRAMMES))

    wanted = trained("programme_mask", train={"max_epochs": 1})

    for form in forms:
        assert_same(trained("programme_mask", programmes=form, train={"max_epochs": 1}), wanted)
    assert "hidden_share" in " ".join(wanted.history)


# --- what it has seen --------------------------------------------------------------------------


def test_donors_of_training_and_validation_were_seen_and_are_kept_as_digests(encoder, tmp_path):
    encoder.save(tmp_path / "m")
    donors = [f"donor {i}" for i in range(5)]

    for model in (encoder, load(tmp_path / "m")):
        assert model.leaked_donors([*donors, "another", None]) == donors
        assert model.leaked_donors(["another", None]) == []
        assert model.leaked_donors(cells().obs["donor_id"]) == donors
        model.require_no_leaks(["another"])
        with pytest.raises(InputDataError, match=r"2 of 3, first: donor 1, donor 4.*E-L20"):
            model.require_no_leaks(["donor 4", "x", "donor 1", "donor 1", None, np.nan])
    manifest = (tmp_path / "m" / "manifest.json").read_text()
    assert len(json.loads(manifest)["fit"]["donor_digests"]) == 5
    assert "donor 1" not in manifest


def test_donors_that_were_held_out_were_not_seen():
    adata = cells()
    donors = adata.obs["donor_id"].to_numpy()
    rows = [
        np.flatnonzero(np.isin(donors, names))
        for names in (["donor 0", "donor 1"], ["donor 2"], ["donor 3", "donor 4"])
    ]

    model = trained(adata=adata, train={"datasplitter_kwargs": {"external_indexing": rows}})

    assert model.leaked_donors(sorted(set(donors))) == ["donor 0", "donor 1", "donor 2"]


def test_without_donors_none_are_known():
    model = trained(setup={"donor_key": None}, train={"max_epochs": 1})

    assert model.leaked_donors(["donor 0", None]) == []


# --- collapse ----------------------------------------------------------------------------------


def test_an_encoder_that_gives_all_cells_the_same_is_said():
    model = model_of()
    last = model.module.net.encoder[-1]
    with torch.no_grad():
        last.weight.zero_()
    last.weight.requires_grad_(False)

    with pytest.warns(EpisomeWarning, match=r"embedding has collapsed.*spread 0\.000.*E-T14"):
        model.pretrain(**QUICK)

    assert model.fit_["embedding_spread"] < 0.01


def test_an_embedding_of_one_direction_has_collapsed_too():
    model = model_of()
    last = model.module.net.encoder[-1]
    with torch.no_grad():
        last.weight[1:] = 0
        last.bias.zero_()
    last.weight.register_hook(lambda g: torch.cat([g[:1], torch.zeros_like(g[1:])]))
    last.bias.requires_grad_(False)

    with pytest.warns(EpisomeWarning, match=r"rank 1\.0 \(of 6\).*E-T14"):
        model.pretrain(**QUICK, plan_kwargs={"weight_decay": 0.0})


@pytest.mark.parametrize("pretext", OPTIONS)
def test_a_sound_encoder_is_not_said_to_have_collapsed(pretext):
    with warnings.catch_warnings():
        warnings.simplefilter("error", EpisomeWarning)
        model = trained(pretext)

    assert model.fit_["embedding_spread"] > 0.1
    assert model.fit_["embedding_rank"] > 1.2


# --- imputing ----------------------------------------------------------------------------------


def test_hidden_values_do_not_matter_for_what_is_imputed(encoder):
    query = cells(20, seed=1)
    names = list(encoder.features.ids)
    hide = names[5:12]
    other = query.copy()
    dense = other.X.toarray()
    dense[:, 5:12] = np.random.default_rng(0).poisson(50, (20, 7))
    other.X = type(query.X)(dense.astype(np.float32))

    plain = encoder.get_normalized_expression(query, hide=hide, return_numpy=True)
    changed = encoder.get_normalized_expression(other, hide=hide, return_numpy=True)

    assert np.array_equal(plain, changed)
    seen = encoder.get_normalized_expression(query, return_numpy=True)
    assert not np.array_equal(plain, seen)


def test_masked_entries_do_not_matter_where_the_size_of_the_cell_stays(encoder):
    """Library sizes are those of the whole cell: counts are exchanged among hidden entries."""
    query = cells(20, seed=1)
    mask = np.zeros((20, 60), dtype=bool)
    mask[:, 10:30] = True
    other = query.copy()
    dense = other.X.toarray()
    dense[:, 10:30] = dense[:, 10:30][:, ::-1]
    other.X = type(query.X)(dense)

    plain = encoder.get_normalized_expression(query, mask=mask, return_numpy=True)
    changed = encoder.get_normalized_expression(other, mask=mask, return_numpy=True)

    assert np.array_equal(plain, changed)
    assert not np.array_equal(plain, encoder.get_normalized_expression(other, return_numpy=True))


# --- updates -----------------------------------------------------------------------------------


@pytest.mark.parametrize("accumulated", [1, 2])
def test_a_task_is_told_of_every_update_and_of_nothing_else(accumulated, monkeypatch):
    """Batches whose gradients are only added up move no average."""
    model = model_of()
    told = []
    monkeypatch.setattr(model.module.task, "after_update", lambda _, done: told.append(done))

    model.pretrain(**QUICK, accumulate_grad_batches=accumulated)

    assert len(told) == model.fit_["n_updates"]
    np.testing.assert_allclose(np.diff(told), told[0])
    assert told[-1] == 1.0


def test_a_task_is_told_after_the_weights_have_moved(monkeypatch):
    model = model_of()
    start, seen = model.module.net.first.detach().clone(), []
    monkeypatch.setattr(
        model.module.task, "after_update", lambda net, _: seen.append(net.first.detach().clone())
    )

    model.pretrain(**{**QUICK, "max_epochs": 1})

    steps = [start, *seen]
    assert not any(torch.equal(a, b) for a, b in zip(steps, steps[1:], strict=False))


# --- cells as they are, and options without use ------------------------------------------------


def test_cells_without_labels_and_set_up_are_taken_as_they_are(tmp_path):
    adata = cells()
    adata.obs = adata.obs[["donor_id"]].copy()
    adata.write_h5ad(tmp_path / "cells.h5ad")

    live = SSLEncoder(adata, **SIZES)
    read = SSLEncoder(tmp_path / "cells.h5ad", **SIZES)

    assert live.setup_args["donor_key"] == read.setup_args["donor_key"] == ["donor_id"]
    assert list(live.features.ids) == list(read.features.ids)


def test_programmes_and_likelihoods_that_a_task_has_no_use_for_are_refused():
    sets = {"set": list(cells().var_names[:10])}
    with pytest.raises(UsageError, match=r"'random_mask' reads no gene programmes.*E-U109"):
        model_of("random_mask", programmes=sets)
    with pytest.raises(UsageError, match=r"likelihood='nb' with pretext='byol'.*E-U31"):
        model_of("byol", likelihood="nb")


def test_options_that_a_task_lacks_are_answered_by_those_that_it_has():
    with pytest.raises(UsageError, match=r"its options are mask_rate, decode_genes.*E-U31"):
        model_of("random_mask", pretext_kwargs={"noise": 3})


def test_cells_are_called_where_they_are(tmp_path):
    model = trained("random_mask")
    adata = cells()
    adata.write_h5ad(tmp_path / "cells.h5ad")

    found = model.zero_shot_predict(tmp_path / "cells.h5ad", tmp_path / "cells.h5ad", "cell_type")

    pd.testing.assert_frame_equal(found, model.zero_shot_predict(adata, adata, "cell_type"))
