"""`ClassifierModel.train`: arguments, splits, history, failures."""

from __future__ import annotations

import random

import numpy as np
import pandas as pd
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import CSVLogger

from episome import plugins, settings
from episome.errors import TrainingError, UsageError


@pytest.fixture
def fresh(toy):
    """An untrained model of simulated cells."""

    def make(adata=None, **setup):
        adata = toy.cells() if adata is None else adata
        toy.ToyModel.setup_anndata(adata, **{"labels_key": "cell_type", **setup})
        return toy.ToyModel(adata)

    return make


def quick(model, **kwargs):
    model.train(**{"max_epochs": 2, "accelerator": "cpu", **kwargs})
    return model


# -- arguments -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kwargs", "text"),
    [
        ({"epochs": 3}, r"does not know epochs.*max_epochs|near.*E-U16"),
        ({"lr": 0.1}, r"optimiser settings go into plan_kwargs.*E-U16"),
        ({"enable_checkpointing": True}, "the best weights are kept"),
        ({"plan_kwargs": {"learning_rate": 1}}, "E-U14"),
        ({"plan_kwargs": {"class_weight": "auto"}}, "E-U15"),
        ({"datasplitter_kwargs": {"pin_memory": True}}, r"unknown keys pin_memory.*E-U21"),
        ({"shuffle_set_split": False}, r"external_indexing.*E-U21"),
        ({"train_size": 1.5}, "E-U10"),
        ({"max_epochs": 0}, r"max_epochs=0.*E-U22"),
        ({"batch_size": 0}, "E-U22"),
        ({"datasplitter_kwargs": {"external_indexing": [[0], [1]]}}, "E-U19"),
        ({"datasplitter_kwargs": {"external_indexing": [[0, 900]]}}, "E-U11"),
    ],
)
def test_impossible_arguments_raise_before_training(fresh, kwargs, text, monkeypatch):
    from episome.models import _network

    monkeypatch.setattr(_network, "fit", lambda *a, **k: pytest.fail("training began"))
    model = fresh()

    with pytest.raises(UsageError, match=text):
        model.train(**kwargs)
    assert not model.is_trained


def test_a_class_without_a_training_cell_is_named(fresh):
    model = fresh()
    rows = np.flatnonzero(model.training_codes() > 0)

    with pytest.raises(UsageError, match=r"1 of 3, first: type 0.*E-U20"):
        quick(
            model,
            datasplitter_kwargs={"external_indexing": [rows, np.setdiff1d(np.arange(200), rows)]},
        )


def test_arguments_of_scvi_tools_are_taken(fresh):
    model = quick(
        fresh(),
        train_size=0.8,
        validation_size=0.1,
        shuffle_set_split=True,
        load_sparse_tensor=True,
        batch_size=64,
        early_stopping=True,
        early_stopping_patience=5,
        gradient_clip_val=0.5,
        devices=1,
    )

    sizes = [len(getattr(model, f"{p}_indices_")) for p in ("train", "validation", "test")]
    assert sum(sizes) == 200
    assert sizes == pytest.approx([160, 20, 20], abs=4)
    assert model.fit_["batch_size"] == 64


def test_batches_are_never_larger_than_the_training_cells(fresh):
    model = quick(fresh(), batch_size=100_000)

    assert model.fit_["batch_size"] == len(model.train_indices_) < 200


# -- splits --------------------------------------------------------------------------------------


def test_whole_donors_are_held_out(fresh):
    model = quick(fresh(donor_key="donor_id"), train_size=0.6, validation_size=0.2)
    donors = model.training_donors()

    parts = [set(donors[getattr(model, f"{p}_indices_")]) for p in ("train", "validation", "test")]
    assert model.fit_["split_by"] == "donor"
    assert all(parts)
    assert not parts[0] & parts[1]
    assert not (parts[0] | parts[1]) & parts[2]


def test_cells_without_a_donor_train_only(fresh, toy):
    adata = toy.cells()
    adata.obs["donor_id"] = adata.obs["donor_id"].astype(str)
    adata.obs.loc[adata.obs_names[:30], "donor_id"] = "unknown"

    model = quick(fresh(adata, donor_key="donor_id"))

    assert set(range(30)) <= set(model.train_indices_)


def test_a_given_split_is_used_and_not_changed(fresh):
    parts = [np.arange(0, 120), np.arange(120, 180), np.arange(180, 200)]
    kept = [p.copy() for p in parts]

    model = quick(fresh(), datasplitter_kwargs={"external_indexing": parts})

    assert model.fit_["split_by"] == "given"
    for name, part, before in zip(("train", "validation", "test"), parts, kept, strict=True):
        assert np.array_equal(getattr(model, f"{name}_indices_"), before)
        assert np.array_equal(part, before)


def test_a_given_split_need_not_cover_every_cell(fresh):
    model = quick(fresh(), datasplitter_kwargs={"external_indexing": [np.arange(50)]})

    assert (len(model.train_indices_), len(model.validation_indices_)) == (50, 0)
    assert model.fit_["best_epoch"] is None


# -- history -------------------------------------------------------------------------------------


def test_history_is_the_same_with_and_without_a_logger(fresh, tmp_path):
    plain = quick(fresh())
    logged = quick(fresh(), logger=CSVLogger(tmp_path), log_every_n_steps=1)

    assert set(plain.history) == {"train_loss", "validation_loss", "validation_f1_macro", "lr"}
    assert set(plain.history) == set(logged.history)
    for name in plain.history:
        pd.testing.assert_frame_equal(plain.history[name], logged.history[name])
    assert "validation_f1_macro" in next(tmp_path.rglob("metrics.csv")).read_text()


def test_training_again_appends_to_the_history(fresh):
    model = quick(fresh())
    before = model.module.head.weight.detach().clone()
    first = {k: v.copy() for k, v in model.history.items()}

    quick(model, max_epochs=3)

    for name, frame in model.history.items():
        assert frame.index.tolist() == [0, 1, 2, 3, 4]
        pd.testing.assert_frame_equal(frame.iloc[:2], first[name])
    assert not torch.equal(model.module.head.weight, before)


def test_facts_of_the_run_are_kept(fresh):
    model = quick(fresh(), plan_kwargs={"lr": 0.01})

    facts = model.fit_
    best = model.history["validation_f1_macro"].loc[facts["best_epoch"]].iloc[0]
    assert facts["validation_f1_macro"] == best
    assert (facts["n_epochs"], facts["n_updates"]) == (2, 10)
    assert facts["n_train"] + facts["n_validation"] == 200
    assert facts["n_validation"] == len(model.validation_indices_)
    assert facts["plan"]["lr"] == 0.01
    assert facts["seed"] == 0
    assert len(facts["split_sha256"]) == 64


# -- seeds ---------------------------------------------------------------------------------------


def test_the_seed_decides_everything(fresh, query, monkeypatch):
    found = []
    for seed in (0, 0, 3):
        monkeypatch.setattr(settings, "seed", seed)
        model = quick(fresh())
        found.append((model.predict_proba(query).to_numpy(), model.fit_["split_sha256"]))

    assert np.array_equal(found[0][0], found[1][0])
    assert found[0][1] == found[1][1] != found[2][1]
    assert not np.array_equal(found[0][0], found[2][0])


def test_global_random_states_are_left_alone(fresh):
    torch.manual_seed(9)
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002

    model = quick(fresh())
    model.predict()

    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()  # noqa: NPY002
    assert random.getstate() == before[2]


# -- failures ------------------------------------------------------------------------------------


def test_a_loss_that_is_not_finite_leaves_the_weights_of_before(fresh, query):
    model = quick(fresh())
    wanted, history = model.predict_proba(query), model.history["train_loss"].copy()

    with pytest.raises(TrainingError, match=r"plan_kwargs=\{\"lr\": ...\}.*E-T01"):
        quick(model, plan_kwargs={"lr": 1e30}, gradient_clip_val=None)

    pd.testing.assert_frame_equal(model.predict_proba(query), wanted)
    pd.testing.assert_frame_equal(model.history["train_loss"], history)
    quick(model)
    assert len(model.history["train_loss"]) == 4


def test_a_first_training_that_diverged_leaves_an_untrained_model(fresh):
    model = fresh()

    with pytest.raises(TrainingError):
        quick(model, plan_kwargs={"lr": 1e30}, gradient_clip_val=None)

    assert not model.is_trained
    assert all(torch.isfinite(v).all() for v in model.module.state_dict().values())


# -- small data ----------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [33, 8])
def test_few_cells_train(fresh, toy, n):
    model = quick(fresh(toy.cells(n, n_types=2)), batch_size=32, train_size=1.0)

    assert np.isfinite(model.predict_proba()).all().all()


def test_hints_of_plugins_are_called(fresh, install):
    install(
        "watch",
        "from episome.plugins import hookimpl\n"
        "EPISOME_API = (1, 0)\n"
        "seen = []\n"
        "def note(model, run, when): seen.append((when, model.is_trained, run['seed']))\n"
        "@hookimpl\n"
        "def episome_before_train(model, run): note(model, run, 'before')\n"
        "@hookimpl\n"
        "def episome_after_train(model, run): note(model, run, 'after')\n",
    )
    plugins.reset_manager()

    quick(fresh())

    import fake_watch

    assert fake_watch.seen == [("before", False, 0), ("after", True, 0)]


def test_callbacks_of_the_caller_run(fresh):
    class Count(Callback):
        n = 0

        def on_train_epoch_end(self, *args):
            self.n += 1

    mine = Count()
    quick(fresh(), callbacks=[mine])

    assert mine.n == 2


def test_a_rate_that_waits_for_the_loss_needs_no_validation_cells(toy) -> None:
    adata = toy.cells()
    toy.ToyModel.setup_anndata(adata, labels_key="cell_type")
    model = toy.ToyModel(adata)

    model.train(
        max_epochs=4,
        train_size=1.0,
        accelerator="cpu",
        plan_kwargs={"lr_schedule": "plateau", "lr_patience": 0, "lr": 1e-6},
    )

    assert len(model.history["lr"]) == 4
