"""The conformance kit passes good models and finds what is wrong with others, and nothing else."""

from __future__ import annotations

import inspect
import pickle
import random
import socket
import threading
import time
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest

from episome.testing import (
    CHECKS,
    CheckFailure,
    check_model,
    exemptions,
    fingerprint,
    measure_model,
    parametrize_with_checks,
    synthetic_adata,
    synthetic_mudata,
)

#: What only a class of a plugin can pass.
UNREGISTERED = dict.fromkeys(
    (
        "check_class_is_found_through_its_plugin",
        "check_listing_is_light",
        "check_core_needs_no_scvi_tools",
    ),
    "no plugin registers the toy",
)
KINDS = ["ToyModel", "ToyEncoder", "ToyTranslator"]


def failures(model) -> dict[str, str]:
    results = check_model(model, expected_failures=UNREGISTERED, on_fail="collect")
    return {r.check: r.message for r in results if r.status in {"failed", "unexpected pass"}}


# -- good models ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_good_model_passes_every_check_that_applies(toy, kind):
    seen = []

    results = check_model(getattr(toy, kind), expected_failures=UNREGISTERED, callback=seen.append)

    assert seen == results
    assert [r.check for r in results] == [c.name for c in CHECKS]
    assert {r.status for r in results} == {"passed", "expected", "skipped"}
    assert {r.check for r in results if r.status == "expected"} == set(UNREGISTERED)
    assert sum(r.status == "passed" for r in results) >= 40


def test_every_check_has_advice_and_a_name_of_its_own():
    assert len({c.name for c in CHECKS}) == len(CHECKS) >= 45
    for check in CHECKS:
        assert check.name.startswith("check_")
        assert check.advice
        assert check.summary.endswith(".")


# -- the gallery of broken models ----------------------------------------------------------------


def finished(broken):
    """Give a class what its parent has: documentation, and the signatures of what it overrides."""
    parent = broken.__mro__[1]
    broken.__doc__ = parent.__doc__
    for name, value in vars(broken).items():
        function = getattr(value, "__func__", value)
        if inspect.isfunction(function) and name != "__init__" and hasattr(parent, name):
            original = getattr(parent, name)
            function.__doc__ = original.__doc__
            function.__signature__ = inspect.signature(getattr(original, "__func__", original))
    return broken


def in_memory(adata) -> bool:
    return hasattr(adata, "var_names") and not adata.isbacked


def by_position(cls):
    """Takes the genes of a query as they come, where their number fits."""

    class Broken(cls):
        def predict_proba(self, adata=None, **kwargs):
            if in_memory(adata) and set(adata.var_names) == set(self.features.ids):
                adata = adata.copy()
                adata.var_names = list(self.features.ids)
            return super().predict_proba(adata, **kwargs)

    return Broken


def takes_foreign_genes(cls):
    """Answers a query that has none of its genes."""

    class Broken(cls):
        def prepare(self, adata=None, **kwargs):
            if in_memory(adata) and not set(adata.var_names) & set(self.features.ids):
                adata = adata.copy()
                adata.var_names = list(self.features.ids)
            return super().prepare(adata, **kwargs)

    return Broken


def fills_missing_genes(cls):
    """Puts one molecule where a gene is missing."""

    class Broken(cls):
        def prepare(self, adata=None, **kwargs):
            known = set(getattr(adata, "var_names", ()))
            missing = [g for g in self.features.ids if g not in known]
            if missing and 2 * len(missing) < len(self.features):
                values = np.ones((adata.n_obs, len(missing)), np.float32)
                table = pd.DataFrame(index=missing)
                extra = anndata.AnnData(values, obs=adata.obs, var=table)
                adata = anndata.concat([adata, extra], axis=1, merge="same")
            return super().prepare(adata, **kwargs)

    return Broken


def wants_labels(cls):
    """Looks at the labels of a query."""

    class Broken(cls):
        def predict_proba(self, adata=None, **kwargs):
            found = super().predict_proba(adata, **kwargs)
            if "cell_type" in getattr(adata, "obs", ()):
                return found.iloc[:, ::-1].set_axis(found.columns, axis=1)
            return found

    return Broken


def writes_to_the_query(cls):
    """Leaves its calls in the query."""

    class Broken(cls):
        def predict_proba(self, adata=None, **kwargs):
            found = super().predict_proba(adata, **kwargs)
            if in_memory(adata) and not adata.is_view and len(found) == adata.n_obs:
                adata.obs["called"] = found.to_numpy().argmax(axis=1)
            return found

    return Broken


def copies_views(cls):
    """Turns the caller's view into an object of its own."""

    class Broken(cls):
        def predict_proba(self, adata=None, **kwargs):
            if getattr(adata, "is_view", False):
                adata._init_as_actual(adata.copy())
            return super().predict_proba(adata, **kwargs)

    return Broken


def keeps_queries(cls):
    """Remembers every query."""

    class Broken(cls):
        held = []

        def predict_proba(self, adata=None, **kwargs):
            self.held.append(adata)
            return super().predict_proba(adata, **kwargs)

    return Broken


def depends_on_batch_mates(cls):
    """Centres what it sees by the mean of the batch, where that has seven cells."""

    class Core(cls._core_cls):
        def forward(self, batch):
            out = super().forward(batch)
            if not self.training and len(out["logits"]) == 7:
                return {**out, "logits": out["logits"] + out["logits"].mean(dim=0)}
            return out

    class Broken(cls):
        _core_cls = Core

    return Broken


def unseeded(cls):
    """Draws from the clock."""

    class Broken(cls):
        def train(self, *args, **kwargs):
            super().train(*args, **kwargs)
            bias = self.module.head.bias
            bias.data += bias.new_tensor([1e-8, 0.0, 0.0]) * (time.time_ns() // 100 % 1000)

    return Broken


def seeds_the_process(cls):
    """Sets the seed of everybody's generator."""

    class Broken(cls):
        def train(self, *args, **kwargs):
            super().train(*args, **kwargs)
            random.seed(0)

    return Broken


def silences_numpy(cls):
    """Hides divisions by zero, for everybody and for good."""

    class Broken(cls):
        def train(self, *args, **kwargs):
            super().train(*args, **kwargs)
            np.seterr(divide="ignore")

    return Broken


def forgets_with_data(cls):
    """Starts a little elsewhere when it is loaded with data."""

    class Broken(cls):
        def _attach(self, adata):
            super()._attach(adata)
            bias = self.module.head.bias
            bias.data += bias.new_tensor([0.5, 0.0, 0.0])

    return Broken


def pickles(cls):
    """Keeps its settings as a pickle in its folder."""

    class Core(cls._core_cls):
        def state(self):
            tensors, files = super().state()
            return tensors, {**files, "settings.bin": pickle.dumps({"width": 16})}

    class Broken(cls):
        _core_cls = Core

    return Broken


def takes_negative_values(cls):
    """Takes the absolute values of what it is given."""

    class Broken(cls):
        def prepare(self, adata=None, **kwargs):
            if in_memory(adata) and hasattr(adata.X, "indptr"):
                adata = adata.copy()
                adata.X.data = np.nan_to_num(abs(adata.X.data), posinf=1)
            return super().prepare(adata, **kwargs)

    return Broken


def empty_fails(cls):
    """Fails where there are no cells."""

    class Broken(cls):
        def annotate(self, adata=None, **kwargs):
            if adata.n_obs == 0:
                raise ZeroDivisionError
            return super().annotate(adata, **kwargs)

    return Broken


def calls_empty_cells(cls):
    """Gives a type to a cell without counts."""

    class Broken(cls):
        def annotate(self, adata=None, **kwargs):
            calls = super().annotate(adata, **kwargs)
            calls["label"] = calls["label"].replace(self.labels.unlabeled, self.labels.names[0])
            return calls

    return Broken


def forgets_the_names(cls):
    """Returns probabilities of cells that nobody can name."""

    class Broken(cls):
        def predict_proba(self, adata=None, **kwargs):
            return super().predict_proba(adata, **kwargs).reset_index(drop=True)

    return Broken


def prints(cls):
    """Prints its progress."""

    class Broken(cls):
        def train(self, *args, **kwargs):
            super().train(*args, **kwargs)
            print("done")

    return Broken


def writes_files(cls):
    """Leaves a file where it is called."""

    class Broken(cls):
        def train(self, *args, **kwargs):
            super().train(*args, **kwargs)
            Path("checkpoint.bin").write_bytes(b"0")

    return Broken


def opens_the_network(cls):
    """Asks a server whether there is a newer version."""

    class Broken(cls):
        def train(self, *args, **kwargs):
            super().train(*args, **kwargs)
            with socket.socket() as probe:
                probe.settimeout(0.2)
                try:
                    probe.connect(("127.0.0.1", 9))
                except OSError:
                    self.fit_["newest"] = None

    return Broken


def leaves_threads(cls):
    """Starts a thread and never ends it."""

    class Broken(cls):
        def train(self, *args, **kwargs):
            super().train(*args, **kwargs)
            threading.Thread(target=threading.Event().wait, daemon=True, name="watcher").start()

    return Broken


def not_thread_safe(cls):
    """Keeps the batch on the model while it is at work."""

    class Core(cls._core_cls):
        def forward(self, batch):
            if self.training:
                return super().forward(batch)
            self.held = batch["X"]
            time.sleep(0.05)
            return super().forward({**batch, "X": self.held})

    class Broken(cls):
        _core_cls = Core

    return Broken


def one_precision(cls):
    """Trains as it likes, whatever precision is asked for."""

    class Broken(cls):
        def train(self, *args, precision=None, **kwargs):
            super().train(*args, **kwargs)

    return Broken


def swallows_arguments(cls):
    """Takes a misspelt argument of training."""

    class Broken(cls):
        def train(self, *args, max_epoch=None, **kwargs):
            super().train(*args, **kwargs)

    return Broken


def ignores_the_split(cls):
    """Trains on its own split."""

    class Broken(cls):
        def train(self, *args, datasplitter_kwargs=None, **kwargs):
            super().train(*args, **kwargs)

    return Broken


def mixes_donors(cls):
    """Splits by cell, whoever the donors are."""

    class Broken(cls):
        def training_donors(self):
            return None

    return Broken


def silent_progress(cls):
    """Never says how far it is."""

    class Broken(cls):
        def train(self, *args, progress=None, **kwargs):
            super().train(*args, **kwargs)

    return Broken


def loses_its_history(cls):
    """Keeps no losses."""

    class Broken(cls):
        def train(self, *args, **kwargs):
            super().train(*args, **kwargs)
            self.history_ = {}

    return Broken


def learns_noise(cls):
    """Trains on labels in another order."""

    class Broken(cls):
        def training_codes(self):
            codes = super().training_codes()
            known = codes >= 0
            codes[known] = np.random.default_rng(0).permutation(codes[known])
            return codes

    return Broken


def swallows_callbacks(cls):
    """Goes on when a callback of the caller raises."""

    class Broken(cls):
        def train(self, *args, **kwargs):
            try:
                super().train(*args, **kwargs)
            except ZeroDivisionError:
                self.fit_["failed"] = True

    return Broken


def copies_at_set_up(cls):
    """Copies a view at set-up, and then trains on what the caller does not have."""

    class Broken(cls):
        @classmethod
        def setup_anndata(cls, adata, *args, **kwargs):
            if adata.is_view:
                adata._init_as_actual(adata.copy())
            super().setup_anndata(adata, *args, **kwargs)

    return Broken


def undocumented(cls):
    """Has a method that says nothing."""

    class Broken(cls):
        def score(self, adata: object) -> float:
            return 0.0

    return Broken


def untyped(cls):
    """Has a method without types."""

    class Broken(cls):
        def score(self, adata):
            """Return nothing of use."""
            return 0.0

    return Broken


def boastful(cls):
    """Says that it translates."""

    class Broken(cls):
        capabilities = (*cls.capabilities, "translation")

    return Broken


def positional(cls):
    """Takes its settings by position."""

    class Broken(cls):
        def __init__(self, adata=None, registry=None, width=16):
            super().__init__(adata, registry, width=width)

    Broken.__init__.__annotations__ = {
        "adata": object,
        "registry": object,
        "width": int,
        "return": None,
    }
    return Broken


#: What is wrong, and the checks that must see it; every other check must pass.
GALLERY = {
    by_position: "check_genes_in_another_order_change_nothing",
    takes_foreign_genes: "check_foreign_genes_are_refused",
    fills_missing_genes: "check_missing_genes_count_as_zero",
    wants_labels: "check_labels_of_a_query_change_nothing",
    writes_to_the_query: "check_queries_are_not_modified",
    copies_views: "check_views_agree_and_stay_views",
    keeps_queries: "check_queries_are_let_go",
    depends_on_batch_mates: "check_batch_size_does_not_matter",
    unseeded: "check_the_same_seed_gives_the_same_model",
    seeds_the_process: "check_the_state_of_the_process_is_left_alone",
    silences_numpy: "check_the_state_of_the_process_is_left_alone",
    forgets_with_data: "check_save_and_load_are_exact",
    pickles: "check_folders_hold_no_code",
    takes_negative_values: "check_values_that_are_no_expression_are_refused",
    empty_fails: "check_a_query_of_no_cells_is_answered",
    calls_empty_cells: "check_a_cell_without_counts_gets_no_type",
    forgets_the_names: "check_probabilities_are_probabilities",
    prints: "check_nothing_is_printed",
    writes_files: "check_no_files_are_left",
    opens_the_network: "check_no_connection_is_opened",
    leaves_threads: "check_no_threads_are_left",
    not_thread_safe: "check_threads_may_predict_at_once",
    one_precision: "check_arguments_of_lightning_reach_its_trainer",
    swallows_arguments: "check_unknown_arguments_of_training_are_refused",
    ignores_the_split: "check_a_given_split_is_kept",
    mixes_donors: "check_donors_do_not_straddle_the_split",
    silent_progress: "check_progress_is_reported",
    loses_its_history: "check_history_has_the_losses",
    learns_noise: "check_separable_types_are_learnt",
    swallows_callbacks: "check_a_training_that_fails_leaves_the_model_as_it_was",
    copies_at_set_up: "check_views_are_refused_at_set_up",
    undocumented: "check_public_methods_are_documented",
    untyped: "check_public_methods_are_typed",
    boastful: "check_capabilities_are_kept",
    positional: "check_constructor_has_the_signature",
}


DEFECTS = pytest.mark.parametrize(
    ("defect", "check"), GALLERY.items(), ids=[d.__name__ for d in GALLERY]
)


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """Some defects leave files or settings behind."""
    monkeypatch.chdir(tmp_path)
    numpy = np.geterr()
    yield
    np.seterr(**numpy)


@DEFECTS
def test_a_defect_is_found_by_its_check(toy, defect, check, elsewhere):
    model = finished(defect(toy.ToyModel))

    (result,) = check_model(
        model, checks=[c for c in CHECKS if c.name == check], on_fail="collect"
    )

    assert result.status == "failed"
    assert "To fix: " in result.message


@pytest.mark.slow
@DEFECTS
def test_a_defect_is_found_by_no_other_check(toy, defect, check, elsewhere):
    found = failures(finished(defect(toy.ToyModel)))

    assert set(found) == {check}, found


# -- how the kit is used -------------------------------------------------------------------------


def test_the_first_failure_raises_with_what_to_do(toy):
    model = finished(forgets_the_names(toy.ToyModel))

    with pytest.raises(CheckFailure, match=r"its rows are not the cells\. To fix: give logits"):
        check_model(model, expected_failures=UNREGISTERED)


def test_exemptions_of_the_class_count_and_have_reasons(toy):
    model = finished(prints(toy.ToyModel))
    model.check_exemptions = {"check_nothing_is_printed": "it is what it is for"}

    results = check_model(model, expected_failures=UNREGISTERED)

    told = {r.check: r.message for r in results if r.status == "expected"}
    assert told["check_nothing_is_printed"] == "it is what it is for"


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"check_that_is_none": "x"}, "is no check"),
        ({"check_nothing_is_printed": " "}, "no reason"),
    ],
)
def test_exemptions_that_are_none_are_refused(toy, given, text):
    with pytest.raises(ValueError, match=text):
        exemptions(toy.ToyModel, given)


def test_an_exemption_that_is_not_needed_is_a_failure(toy):
    expected = {**UNREGISTERED, "check_nothing_is_printed": "it used to print"}

    with pytest.raises(CheckFailure, match="check_nothing_is_printed: it passes"):
        check_model(toy.ToyModel, expected_failures=expected)


def test_checks_become_parameters_with_readable_names(toy):
    mark = parametrize_with_checks(["sctab", toy.ToyEncoder])

    names, parameters = mark.args
    assert names == ("check", "model_cls")
    ids = [p.id for p in parameters]
    assert "sctab-check_probabilities_are_probabilities" in ids
    assert "ToyEncoder-check_masked_entries_are_not_seen" in ids
    assert "ToyEncoder-check_probabilities_are_probabilities" not in ids
    assert len(ids) == len(set(ids))


@parametrize_with_checks(["centroid"])
def test_checks_run_as_parameters(check, model_cls):
    check(model_cls)


def test_costs_are_measured_and_not_judged(toy):
    found = measure_model(toy.ToyModel)

    assert found.train_seconds > 0
    assert found.cells_per_second > 0
    assert found.peak_memory > 1e7


# -- the data of the kit -------------------------------------------------------------------------


def test_synthetic_cells_are_the_same_for_a_seed():
    assert fingerprint(synthetic_adata(seed=3)) == fingerprint(synthetic_adata(seed=3))
    assert fingerprint(synthetic_adata(seed=3)) != fingerprint(synthetic_adata(seed=4))


def test_synthetic_modalities_are_of_the_same_cells():
    mdata = synthetic_mudata(30)

    assert list(mdata.mod) == ["rna", "prot"]
    assert list(mdata.mod["rna"].obs_names) == list(mdata.mod["prot"].obs_names)
    assert fingerprint(mdata.mod["prot"]) == fingerprint(synthetic_mudata(30).mod["prot"])


def test_fingerprint_sees_every_change():
    adata = synthetic_adata(20)
    adata.obsm["p"] = np.zeros((20, 2))
    before = fingerprint(adata)

    def changed(change) -> bool:
        copy = adata.copy()
        change(copy)
        return fingerprint(copy) != before

    assert not changed(lambda a: a.obs.insert(0, "_scvi_labels", 1))
    assert changed(lambda a: a.obs.insert(0, "mine", 1))
    assert changed(lambda a: a.X.data.__setitem__(0, 99))
    assert changed(lambda a: a.obsm["p"].__setitem__((0, 0), 1))
    assert changed(lambda a: a.uns.update(x=1))
    assert changed(lambda a: setattr(a, "var_names", a.var_names[::-1]))
    assert changed(lambda a: setattr(a, "X", a.X.tocsc()))
