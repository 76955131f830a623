"""Each kind of leak is planted, and found."""

from __future__ import annotations

import numpy as np
import pytest
from _studies import entry, study
from scipy import sparse

from episome.benchmark import (
    SplitEntry,
    find_leaks,
    perform,
    plan,
    require_no_leaks,
    task_named,
)
from episome.errors import InputDataError, UsageError


@pytest.fixture
def parts(cells):
    """Training and test cells of other donors, under other names."""
    donors = cells.obs["donor_id"].astype(str)
    known = donors.isin(sorted(set(donors))[:4]).to_numpy()
    train, test = cells[known].copy(), cells[~known].copy()
    train.obs_names = [f"a-{i}" for i in range(train.n_obs)]
    test.obs_names = [f"b-{i}" for i in range(test.n_obs)]
    return train, test


def kinds(train, test):
    return {leak.kind: leak.count for leak in find_leaks(train, test, donor_key="donor_id")}


def test_parts_that_share_nothing_have_no_leak(parts):
    assert kinds(*parts) == {}


def test_a_donor_in_both_parts_is_found(parts):
    train, test = parts
    donors = test.obs["donor_id"].astype(str).to_numpy(copy=True)
    donors[:7] = train.obs["donor_id"].iloc[0]
    test.obs["donor_id"] = donors

    assert kinds(train, test) == {"donor": 7}


def test_cells_without_a_donor_are_no_leak(parts):
    train, test = parts
    for part in parts:
        donors = part.obs["donor_id"].astype(object).to_numpy(copy=True)
        donors[:5] = None
        part.obs["donor_id"] = donors

    assert kinds(train, test) == {}


def test_a_name_in_both_parts_is_found_and_a_row_number_is_not(parts):
    train, test = parts
    test.obs_names = [*train.obs_names[:3], *test.obs_names[3:]]
    assert kinds(train, test) == {"barcode": 3}

    for part in parts:
        part.obs_names = [str(i) for i in range(part.n_obs)]
    assert kinds(train, test) == {}


@pytest.mark.parametrize("form", ["csr", "csc", "dense"])
def test_the_same_cell_is_found_under_another_name_and_order_of_genes(parts, form):
    train, test = parts
    counts = test.X.toarray()
    counts[:4] = train.X.toarray()[10:14]
    test.X = sparse.csr_matrix(counts)
    test = test[:, ::-1].copy()
    if form == "dense":
        test.X = test.X.toarray()
    elif form == "csc":
        test.X = sparse.csc_matrix(test.X)

    assert kinds(train, test) == {"cell": 4}


def test_a_cell_that_differs_by_one_molecule_is_another(parts):
    train, test = parts
    counts = test.X.toarray()
    counts[0] = train.X.toarray()[0]
    counts[0, 5] += 1
    test.X = sparse.csr_matrix(counts)

    assert kinds(train, test) == {}


def test_empty_cells_are_no_leak(parts):
    for part in parts:
        counts = part.X.toarray()
        counts[:2] = 0
        part.X = sparse.csr_matrix(counts)

    assert kinds(*parts) == {}


def test_a_leak_is_refused_unless_it_is_allowed_by_name(parts):
    train, test = parts
    test.obs_names = [*train.obs_names[:3], *test.obs_names[3:]]
    leaks = find_leaks(train, test)

    with pytest.raises(InputDataError, match=r"share: barcode.*3 of.*allow.*E-L20"):
        require_no_leaks(leaks, (), where="here")
    require_no_leaks(leaks, ("barcode",), where="here")
    with pytest.raises(UsageError, match="E-B03"):
        require_no_leaks(leaks, ("names",), where="here")


def test_a_run_with_a_leak_is_refused_and_one_that_allows_it_says_so(folder):
    def ran(**kwargs):
        random = study(splits=(SplitEntry("random", **kwargs),), models=("centroid",))
        return perform(plan(random, task_named("annotation"), folder).runs[0])

    refused = ran()
    assert refused.status == "refused"
    assert "E-L20" in refused.reason
    assert not refused.scores

    allowed = ran(allow=("donor",))
    assert allowed.status == "ok"
    assert allowed.facts["leaks"].startswith("donor: ")


def test_models_see_neither_test_labels_nor_test_cells(folder, monkeypatch):
    from episome.benchmark import _case

    seen = {}
    real = _case.Case.fitted

    def fitted(self, *args, **kwargs):
        seen["train"], seen["test"] = self.train, self.test
        return real(self, *args, **kwargs)

    monkeypatch.setattr(_case.Case, "fitted", fitted)
    run = plan(study(data=(entry(),)), task_named("annotation"), folder).runs[0]

    assert perform(run).status == "ok"
    assert list(seen["test"].obs.columns) == []
    assert not seen["test"].uns
    assert not set(seen["train"].obs_names) & set(seen["test"].obs_names)
    assert "site" not in seen["train"].obs
    assert np.isin(["episome_label", "episome_donor"], seen["train"].obs.columns).all()
