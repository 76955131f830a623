"""The deletion test: what it removes, what it compares, and when it is refused."""

from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from episome import models, settings
from episome.data import AnnDataSource, simulate_cells
from episome.errors import UsageError
from episome.models import Ensemble, deletion_test
from episome.nn import CSRParts
from episome.testing import fingerprint


def trained(cls, **train):
    adata = simulate_cells(300, 80, n_types=4, n_donors=5, fold_change=3.0, depth=500.0, seed=2)
    cls.setup_anndata(adata, labels_key="cell_type", donor_key="donor_id")
    model = cls(adata)
    model.train(**train)
    return model


@pytest.fixture(scope="module")
def cells():
    return simulate_cells(90, 80, n_types=4, n_donors=5, fold_change=3.0, depth=500.0, seed=2)


@pytest.fixture(scope="module")
def linear():
    return trained(models.LogisticRegression)


def without(cells, lost):
    """Cells with some counts gone."""
    left = sparse.csr_matrix(np.where(lost, 0, cells.X.toarray()))
    return anndata.AnnData(left, obs=cells.obs, var=cells.var)


def best(scores, k):
    """The k best expressed genes of every cell, as booleans."""
    out = np.zeros(scores.shape, dtype=bool)
    for row, values in zip(out, scores, strict=True):
        order = np.argsort(-values, kind="stable")[:k]
        row[order[values[order] > 0]] = True
    return out


def test_explained_genes_that_are_gone_lower_the_call_as_by_hand(linear, cells):
    found = deletion_test(linear, cells, k=4, library="rest")

    attributed = linear.explain(cells).toarray()
    shares = linear.predict_proba(cells)
    called = linear.predict_proba(cells, calibrated=False).to_numpy().argmax(axis=1)
    at = (np.arange(len(called)), called)
    removed = best(attributed, 4)
    after = linear.predict_proba(without(cells, removed)).to_numpy()[at]
    assert list(found.cells.index) == list(cells.obs_names)
    assert list(found.cells["class"]) == [linear.labels.names[i] for i in called]
    np.testing.assert_allclose(found.cells["before"], shares.to_numpy()[at], rtol=1e-5)
    np.testing.assert_allclose(found.cells["after_explained"], after, rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(
        found.cells["fall_explained"], found.cells["before"] - found.cells["after_explained"]
    )
    assert (found.cells["n_removed"] == removed.sum(axis=1)).all()
    assert found.verdict == "faithful"
    assert found.kind == "native"


def test_sizes_of_cells_are_kept_unless_the_rest_is_asked_for(linear, cells):
    kept = deletion_test(linear, cells, k=4)

    # Normalised values as they were, but for the removed ones: a log1p query of the same model.
    logged = cells.copy()
    x = cells.X.toarray()
    logged.X = sparse.csr_matrix(np.log1p(1e4 * x / x.sum(axis=1, keepdims=True)))
    removed = best(linear.explain(cells).toarray(), 4)
    names = list(linear.labels.names)
    logits = list(
        linear.predictor().stream(linear.prepare(cells), hidden=sparse.csr_matrix(removed))
    )
    wanted = np.concatenate([o["probabilities"] for o in logits])
    called = [names.index(c) for c in kept.cells["class"]]
    np.testing.assert_allclose(
        kept.cells["after_explained"], wanted[np.arange(len(called)), called], rtol=1e-5
    )
    rest = deletion_test(linear, cells, k=4, library="rest")
    assert not np.allclose(rest.cells["after_explained"], kept.cells["after_explained"], rtol=0.1)
    value = np.array(
        [row[gone].mean() for row, gone in zip(logged.X.toarray(), removed, strict=True)]
    )
    np.testing.assert_allclose(kept.cells["value_explained"], value, rtol=1e-4)


@pytest.mark.parametrize("control", ["expressed", "matched"])
def test_results_do_not_depend_on_batches_and_follow_the_seed(linear, cells, control):
    first = deletion_test(linear, cells, k=4, n_random=2, control=control)

    again = deletion_test(linear, cells, k=4, n_random=2, control=control, batch_size=7)
    with settings.using_seed(1):
        other = deletion_test(linear, cells, k=4, n_random=2, control=control)
    given = deletion_test(linear, cells, k=4, n_random=2, control=control, seed=1)

    pd.testing.assert_frame_equal(first.cells, again.cells, rtol=1e-4, atol=1e-6)
    assert first.probability.low == pytest.approx(again.probability.low, abs=1e-5)
    assert (first.cells["fall_random"] != other.cells["fall_random"]).any()
    pd.testing.assert_frame_equal(other.cells, given.cells)
    assert first.control == control


def test_matched_genes_have_about_the_value_of_the_explained(linear, cells):
    matched = deletion_test(linear, cells, k=4, control="matched", n_random=20).cells
    plain = deletion_test(linear, cells, k=4, n_random=20).cells

    far = {
        n: (t["value_explained"] - t["value_random"]).abs().mean()
        for n, t in {"matched": matched, "plain": plain}.items()
    }
    assert far["matched"] < far["plain"] / 2


def test_random_genes_carry_as_much_as_all_when_all_are_removed(linear, cells):
    # With more genes to remove than there are, explained and random ones of the control differ
    # only in what speaks against the call.
    found = deletion_test(linear, cells, k=1000, n_random=3)

    expressed = np.diff(cells.X.indptr)
    positive = (linear.explain(cells).toarray() > 0).sum(axis=1)
    assert (found.cells["n_removed"] == positive).all()
    assert (found.cells["n_removed"] < expressed).all()


def test_attributions_that_say_nothing_are_not_called_faithful(linear, cells, monkeypatch):
    rng = np.random.default_rng(0)
    core = type(linear.module)

    def say(attributions):
        monkeypatch.setattr(core, "explaining", lambda self: lambda b: attributions(self, b))

    def noise(core, batch):
        x = batch["X"].copy()
        x.data = rng.random(x.nnz).astype(np.float32)
        return x

    say(noise)
    random = deletion_test(linear, cells, k=4)
    say(lambda core, batch: sparse.csr_matrix(batch["X"].multiply(noise(core, batch))))
    by_value = [deletion_test(linear, cells, k=4, control=c) for c in ("expressed", "matched")]
    say(lambda core, batch: -contrast(core, batch))
    wrong = deletion_test(linear, cells, k=4)

    assert random.verdict == "not shown"
    # Genes of high values are missed more, whatever was said of them: only the matched control
    # knows.
    assert [t.verdict for t in by_value] == ["faithful", "not shown"]
    assert wrong.verdict == "contrary"
    assert "contrary" in str(wrong)


def contrast(core, batch):
    called = core.forward(batch)["logits"].argmax(axis=1)
    return core.contrasting()(batch, called, None)


def test_masks_count_by_the_value_of_the_gene(toy, query, monkeypatch):
    model = toy.trained()
    core = type(model.module)
    weights = np.arange(40) % 7 + 1.0
    monkeypatch.setattr(core, "attributions_hold_values", False, raising=False)
    monkeypatch.setattr(
        core,
        "explaining",
        lambda self: (
            lambda b: CSRParts.from_dense(b["X"].new_tensor(weights).expand(b["X"].shape))
        ),
        raising=False,
    )

    found = deletion_test(model, query, k=3, method="native")

    x = query.X.toarray()
    logged = np.log1p(1e4 * x / x.sum(axis=1, keepdims=True))
    removed = best(logged * weights, 3)
    value = np.array([row[gone].mean() for row, gone in zip(logged, removed, strict=True)])
    np.testing.assert_allclose(found.cells["value_explained"], value, rtol=1e-4)


def test_with_labels_only_right_calls_take_part(linear, cells):
    labelled = cells.copy()
    labels = labelled.obs["cell_type"].astype(str).to_numpy().copy()
    labels[:10] = "something else"
    labels[10:20] = np.where(labels[10:20] == "type 0", "type 1", "type 0")
    labelled.obs["mine"] = labels

    found = deletion_test(linear, labelled, k=4, labels_key="mine")

    called = linear.predict(labelled)
    right = np.flatnonzero(called == labels)
    assert list(found.cells["row"]) == list(right)
    assert found.left_out["not called rightly, or without a label"] == len(cells) - len(right)
    assert list(found.by_class.index) == sorted(set(labels[right]))
    assert found.by_class["n_cells"].sum() == len(right)


def test_intervals_are_over_donors_where_they_are_known(linear, cells):
    donors = deletion_test(linear, cells, k=4)
    unknown = cells.copy()
    del unknown.obs["donor_id"]
    without_donors = deletion_test(linear, unknown, k=4)
    other = deletion_test(linear, cells, k=4, donor_key=["donor_id", "batch"])

    assert (donors.units, donors.probability.n_units) == ("donors", 5)
    assert (without_donors.units, without_donors.probability.n_units) == ("cells", len(cells))
    assert donors.probability.value == pytest.approx(donors.cells["difference"].mean())
    assert set(other.cells["donor"]) == {
        f"{d}_{b}" for d, b in zip(cells.obs["donor_id"], cells.obs["batch"], strict=True)
    }


def test_cells_without_counts_or_evidence_are_counted_out(linear, cells):
    blank = cells.copy()
    counts = blank.X.toarray()
    counts[3] = 0
    blank.X = sparse.csr_matrix(counts)

    found = deletion_test(linear, blank, k=4)

    assert found.left_out["with none of the model's genes"] == 1
    assert "cell3" not in found.cells.index
    assert len(found.cells) == len(cells) - 1


def test_rows_sources_and_the_query_itself(linear, cells):
    before = fingerprint(cells)

    found = deletion_test(linear, cells, k=4, indices=[5, 2, 9, 30])
    source = deletion_test(linear, AnnDataSource(cells), k=4, indices=[5, 2, 9, 30])

    assert list(found.cells["row"]) == [5, 2, 9, 30]
    assert list(found.cells.index) == ["cell5", "cell2", "cell9", "cell30"]
    pd.testing.assert_frame_equal(found.cells, source.cells)
    assert fingerprint(cells) == before
    assert len(deletion_test(linear, k=2, indices=np.arange(20)).cells) == 20


def test_a_network_an_ensemble_and_contrasts_are_tested(toy, query):
    members = [toy.trained(max_epochs=n) for n in (4, 8)]

    one = deletion_test(members[1], query, k=3)
    whole = deletion_test(Ensemble(members), query, k=3)
    second = deletion_test(members[1], query, k=3, against="second")

    assert {one.kind, whole.kind, second.kind} == {"gradient"}
    assert one.verdict == whole.verdict == second.verdict == "faithful"
    assert (one.cells["fall_explained"] != second.cells["fall_explained"]).any()


def test_what_cannot_be_tested_is_refused(linear, cells):
    for wrong in ({"k": 0}, {"n_random": 0}, {"n_draws": 0}):
        with pytest.raises(UsageError, match=r"=0.*E-U22"):
            deletion_test(linear, cells, **wrong)
    with pytest.raises(UsageError, match=r"library='gone'.*E-U30"):
        deletion_test(linear, cells, library="gone")
    with pytest.raises(UsageError, match=r"control='none'.*E-U30"):
        deletion_test(linear, cells, control="none")
    with pytest.raises(UsageError, match=r"column 'nope' is missing.*E-U04"):
        deletion_test(linear, cells, labels_key="nope")
    with pytest.raises(UsageError, match=r"column 'nope' is missing.*E-U04"):
        deletion_test(linear, cells, donor_key="nope")
    with pytest.raises(UsageError, match=r"1 of 1 cells can be tested.*E-U89"):
        deletion_test(linear, cells, indices=[0])
    with pytest.raises(UsageError, match=r"0 of 90 cells can be tested.*90 not called.*E-U89"):
        deletion_test(linear, cells, labels_key="batch")
    with pytest.raises(UsageError, match=r"needs two of them.*E-U43"):
        deletion_test(linear, cells[cells.obs["donor_id"] == "donor 1"], donor_key="donor_id")
    with pytest.raises(UsageError, match=r"of='type 9'|against='type 9'.*E-U87"):
        deletion_test(linear, cells, against="type 9")


def test_models_without_attributions_or_calls_are_refused(linear, cells, monkeypatch):
    with pytest.raises(UsageError, match=r"NearestCentroid gives no attributions.*E-U12"):
        deletion_test(trained(models.NearestCentroid), cells)
    monkeypatch.setattr(type(linear), "labels", property(lambda self: None))
    with pytest.raises(UsageError, match=r"does not annotate cells.*E-U13"):
        deletion_test(linear, cells)


@pytest.mark.slow
def test_explanations_of_real_cells_are_faithful(real_data):
    cells = anndata.read_h5ad(real_data / "kang_pbmc_ifnb.h5ad")
    cells = cells[cells.obs["donor_id"].astype(str) != "unassigned"].copy()
    test = cells.obs["donor_id"].isin(["kang_101", "kang_107", "kang_1016"]).to_numpy()
    reference = cells[~test].copy()
    cls = models.LogisticRegression
    cls.setup_anndata(reference, labels_key="cell_type_label", donor_key="donor_id")
    model = cls(reference)
    model.train()

    found = deletion_test(model, cells[test].copy(), labels_key="cell_type_label")

    assert found.verdict == "faithful"
    assert (found.units, found.probability.n_units) == ("donors", 3)
    assert found.log_odds.low > 0
