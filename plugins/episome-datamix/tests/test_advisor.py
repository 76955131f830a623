"""The advisor: what it tells from scores that are known, and what it refuses."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from episome.errors import InputDataError, UsageError
from episome_datamix import MixtureRegression, Plan, advise, advisor, check_advice
from episome_datamix.mixing import rows_of_mix
from episome_datamix.mixture import designed, drawn, features
from episome_datamix.pools import pool_of

KEYS = {"labels_key": "cell_type", "donor_key": "donor_id"}


def plan(**more) -> Plan:
    given = {
        "name": "simulated",
        "corpora": {n: {"source": f"{n}.h5ad", **KEYS} for n in ("near", "far", "mixed")},
        "evaluation": {"target": {"source": "target.h5ad", **KEYS}},
        "n_cells": 100,
    }
    return Plan.from_dict({**given, **more})


def truth(shares: np.ndarray) -> np.ndarray:
    """A score in which the first corpus helps, the third a little, and half of both most."""
    near, far, mixed = np.atleast_2d(shares).T
    return 0.3 + 0.2 * near + 0.05 * mixed - 0.1 * far + 0.3 * near * mixed


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> list[dict]:
    """Runs whose scores are known; what was asked of them is kept."""
    asked = []

    def scored(plan, what, shares, have, n_cells, *rest, last=()):
        asked.append({"plan": plan, "what": what, "have": dict(have), "n_cells": n_cells})
        rng = np.random.default_rng(0)
        value = truth(shares) + rng.normal(0, 1e-3, len(shares))
        names = [f"{what} {i}" for i in range(len(shares) - len(last))] + list(last)
        index = pd.Index(names, name="mix")
        return pd.DataFrame({"value": value, "coverage": rng.random(len(shares))}, index=index)

    monkeypatch.setattr(advisor, "_scored", scored)
    return asked


@given(st.integers(2, 6), st.integers(1, 40), st.integers(0, 99))
def test_designs_are_shares(n_corpora, n_mixes, seed):
    rng = np.random.default_rng(seed)

    for made in (designed(n_corpora, n_mixes, rng), drawn(n_corpora, n_mixes, rng)):
        assert made.shape == (n_mixes, n_corpora)
        assert (made >= -1e-12).all()
        np.testing.assert_allclose(made.sum(axis=1), 1, atol=1e-9)


def test_designs_hold_every_corpus_alone_and_equal_shares():
    made = designed(3, 9, np.random.default_rng(0))

    np.testing.assert_allclose(made[0], 1 / 3)
    np.testing.assert_array_equal(made[1:4], np.eye(3))
    assert {tuple(r) for r in made[4:7]} == {(0.5, 0.5, 0), (0.5, 0, 0.5), (0, 0.5, 0.5)}
    assert features(np.array([[0.5, 0.5, 0.0]])).tolist() == [[0.5, 0.5, 0.0, 1.0, 0.0, 0.0]]


def test_a_regression_finds_what_shares_add_and_its_intervals_hold_it():
    rng = np.random.default_rng(1)
    shares = designed(3, 16, rng)
    others = drawn(3, 200, rng)
    equal = np.full(3, 1 / 3)
    inside = []
    for _ in range(20):
        found = MixtureRegression(shares, truth(shares) + rng.normal(0, 0.02, 16))
        gain, low, high = found.gains(others, equal)
        real = truth(others) - truth(equal) + rng.normal(0, 0.02, 200)
        inside.append(((low <= real) & (real <= high)).mean())
        assert np.corrcoef(gain, truth(others))[0, 1] > 0.8

    # 90 % is what is asked for; the jackknife+ promises 80 % at least.
    assert 0.8 <= np.mean(inside) <= 1.0
    assert np.mean(inside) < 0.999
    with pytest.raises(UsageError, match="4 mixes are too few to tell what 3 corpora add"):
        MixtureRegression(shares[:4], np.arange(4.0))


def test_what_helps_is_advised_and_full_runs_are_of_the_other_half(pools, known, tmp_path):
    found = advise(plan(), "target", tmp_path, n_cells=400, base=pools)

    assert found.sure
    assert found.best["near"] >= 0.5
    assert found.best["far"] <= 0.1
    assert found.rank_r > 0.9
    assert found.proxy_cells == 100
    assert "Of the next 400 cells take" in found.text
    assert {"gain", "low", "high", "similarity"} <= set(found.candidates)
    assert (found.candidates["low"] <= found.candidates["high"]).all()

    check = check_advice(found, tmp_path, base=pools)

    assert check.ranks.loc["advisor", "spearman"] > 0.95
    assert check.ranks.loc["advisor", "regret"] < 0.01
    assert check.ranks["n_mixes"].eq(12).all()
    assert check.gain[0] == pytest.approx(check.gain[1], abs=0.02)
    assert "the advisor's Spearman correlation is" in check.text
    halves = [a["plan"].evaluation["target"].half for a in known]
    assert halves == ["first", "second"]
    again = check_advice(found, tmp_path, base=pools)
    names = list(found.plan.corpora)
    np.testing.assert_array_equal(check.mixes[names], again.mixes[names])


def test_halves_share_no_donor_and_are_all_of_it(pools):
    one = plan()
    whole = pool_of(one, "target", pools, evaluation=True)
    halves = []
    for half in ("first", "second"):
        given = {"target": {"source": "target.h5ad", **KEYS, "half": half}}
        halves.append(pool_of(plan(evaluation=given), "target", pools, evaluation=True))

    donors = [set(p.donors(p.rows)) for p in halves]
    assert not donors[0] & donors[1]
    assert sorted([*halves[0].rows, *halves[1].rows]) == whole.rows.tolist()
    with pytest.raises(UsageError, match="there is no half 'third'"):
        plan(evaluation={"t": {"source": "x", "half": "third"}})


def test_cells_that_are_there_already_take_part(pools, known, tmp_path):
    one = plan(mixes=["far", "near+mixed"])

    advise(one, "target", tmp_path, n_cells=200, start="far", base=pools, proxy_cells=100)

    assert known[0]["have"] == {"near": 0, "far": 50, "mixed": 0}
    assert known[0]["n_cells"] == 100


def test_mixes_are_those_that_are_asked_for(pools):
    """Shares, cells that are there, and numbers of cells become the rows that are drawn."""
    from episome_datamix import Mix

    total = 150
    mix = Mix("m", {"near": 100 / total, "far": 50 / total}, total)

    drawn_rows = rows_of_mix(plan(mixes=[mix]), mix, None, 0, pools)

    assert [(p.name, len(r)) for p, r in drawn_rows] == [("near", 100), ("far", 50)]


@pytest.mark.parametrize(
    ("more", "error", "text"),
    [
        ({"target": "trget"}, UsageError, "no evaluation set 'trget'.*target"),
        ({"start": "nowhere"}, UsageError, "no mix 'nowhere'"),
        ({"n_cells": 100}, InputDataError, "small runs of 25 cells cannot be made"),
        ({"n_cells": 4000, "proxy_cells": 900}, InputDataError, "has 500 cells"),
        ({"n_cells": 4000}, InputDataError, "too few cells for mixes of 4,000"),
    ],
)
def test_what_cannot_be_advised_on_is_refused(pools, known, tmp_path, more, error, text):
    given = {"target": "target", "n_cells": 400, **more}

    with pytest.raises(error, match=text):
        advise(plan(), given.pop("target"), tmp_path, base=pools, **given)


def test_one_corpus_and_few_mixes_are_refused(pools, known, tmp_path):
    alone = plan(corpora={"near": {"source": "near.h5ad", **KEYS}})
    with pytest.raises(UsageError, match="one corpus leaves nothing to choose"):
        advise(alone, "target", tmp_path, n_cells=400, base=pools)
    found = advise(plan(), "target", tmp_path, n_cells=400, base=pools)
    with pytest.raises(UsageError, match="n_mixes=2"):
        check_advice(found, tmp_path, n_mixes=2, base=pools)
