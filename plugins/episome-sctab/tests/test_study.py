"""The study of the paper: its smallest scale runs, and every set of the others can be read."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from episome import plugins
from episome.benchmark import (
    DataEntry,
    SplitEntry,
    Study,
    lineup,
    load_data,
    perform,
    plan,
    task_named,
)
from episome.errors import UsageError
from episome.jobs import BenchmarkRequest, benchmark_run
from episome_sctab.studies import sctab
from episome_sctab.variance import Explained

DATA = Path(os.environ.get("EPISOME_TEST_DATA", "")) / "data"
real = pytest.mark.skipif(not (DATA / "pbmc3k.h5ad").is_file(), reason="real data are not here")


def test_the_plugin_registers_it():
    spec = plugins.studies()["sctab"]

    assert plugins.load_object(spec.target) is sctab
    assert {s.task for s in sctab("small")} == set(spec.tasks)
    assert task_named("donor-variance").name == "donor-variance"


@pytest.mark.parametrize("scale", ["tiny", "small", "full"])
def test_parts_have_names_of_their_own_and_come_back_from_plain_data(scale):
    parts = sctab(scale)

    assert len({p.name for p in parts}) == len(parts) == 8
    for part in parts:
        assert Study.from_dict(part.to_dict()).to_dict() == part.to_dict()
        task = task_named(part.task)
        task.options(dict(part.options))
        shown = {e.shown for e in lineup(part, task.capability).entries}
        assert {n for c in part.contrasts for n in (c.first, c.second)} <= shown | {"xgboost"}


def test_another_scale_is_refused():
    with pytest.raises(UsageError, match=r"no scale 'huge'.*E-B07"):
        sctab("huge")


@real
def test_its_sets_are_there():
    for entry in {e.name: e for p in sctab("small") for e in p.data}.values():
        found = load_data(entry, DATA)

        assert found.cells.n_obs > 400
        assert found.cells.obs["episome_label"].nunique() > 2


@pytest.mark.slow
def test_its_smallest_scale_ends_well(tmp_path):
    found = benchmark_run(BenchmarkRequest("sctab", tmp_path, scale="tiny"))

    assert set(found.counts) == {"ok"}
    assert found.missing == {}
    text = (tmp_path / "sctab.md").read_text()
    assert "scTab is better than linear" in text
    assert "not tested" not in text
    assert "Published, other protocol" in text
    assert {p.name for p in found.reports} == {"sctab.html", "sctab.md", "results.csv"}


def explained(values, types, donors, block=5):
    found = Explained(np.asarray(types), np.asarray(donors))
    for start in range(0, len(values), block):
        found.add(start, sparse.csr_matrix(values[start : start + block]))
    return found.shares


def by_least_squares(values, types, donors):
    """The same by numpy's solver, on dense matrices."""
    columns = [np.eye(types.max() + 1)[types], np.eye(donors.max() + 1)[donors]]
    total = ((values - values.mean(axis=0)) ** 2).sum()
    shares = []
    for design in (columns[0], np.hstack(columns)):
        fit = design @ np.linalg.lstsq(design, values, rcond=None)[0]
        shares.append(1 - ((values - fit) ** 2).sum() / total)
    return {"r2": shares[1], "r2_type": shares[0], "r2_donor": shares[1] - shares[0]}


@given(
    n=st.integers(6, 40),
    n_types=st.integers(1, 4),
    n_donors=st.integers(1, 4),
    seed=st.integers(0, 99),
)
def test_shares_of_variance_are_those_of_least_squares(n, n_types, n_donors, seed):
    rng = np.random.default_rng(seed)
    values = rng.normal(2.0, 1.0, (n, 5)) * (rng.random((n, 5)) < 0.6)
    types, donors = rng.integers(0, n_types, n), rng.integers(0, n_donors, n)

    found = explained(values, types, donors)

    assert found == pytest.approx(by_least_squares(values, types, donors), abs=1e-8)
    assert -1e-9 <= found["r2_type"] <= found["r2"] + 1e-9 <= 1 + 2e-9


def test_what_only_types_decide_is_theirs_alone():
    types = np.repeat([0, 1, 2], 4)
    values = np.array([[0.0, 1.0], [5.0, -1.0], [2.0, 3.0]])[types]

    found = explained(values, types, np.tile([0, 1], 6))

    assert found == pytest.approx({"r2": 1.0, "r2_type": 1.0, "r2_donor": 0.0})


def test_donors_are_needed_for_their_variance():
    data = DataEntry(
        "x", "simulated-types", labels_key="cell_type", splits=(SplitEntry("random"),)
    )
    part = next(p for p in sctab("tiny") if p.task == "donor-variance")
    asked = Study("x", part.task, (data,), part.models, seeds=(0,), floor=False)

    (run,) = plan(asked, task_named(asked.task)).runs
    found = perform(run)

    assert found.status == "failed"
    assert "no donors are known" in found.reason
