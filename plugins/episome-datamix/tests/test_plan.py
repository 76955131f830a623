"""Plans: what they refuse, which cells they draw, and what their runs say."""

from __future__ import annotations

import json
import warnings

import anndata
import numpy as np
import pandas as pd
import pytest

from episome.data import open_source
from episome.errors import EpisomeWarning, InputDataError, UsageError
from episome_datamix import (
    Corpus,
    Mix,
    Plan,
    compare_latents,
    compare_mixes,
    compare_plans,
    coverage_table,
    matrix,
    results,
    run,
    runs_of,
    size_curves,
)
from episome_datamix.mixing import MixedCells, gene_space, rows_of_mix, smallest
from episome_datamix.pools import mitochondrial, pool_of

KEYS = {"labels_key": "cell_type", "donor_key": "donor_id"}
MODELS = [
    {
        "model": "ldvae",
        "init": {"n_hidden": 16, "n_latent": 4},
        "train": {"max_epochs": 30, "accelerator": "cpu", "plan_kwargs": {"lr": 0.02}},
    }
]


def plan(**more) -> Plan:
    given = {
        "name": "simulated",
        "corpora": {n: {"source": f"{n}.h5ad", **KEYS} for n in ("near", "far", "mixed")},
        "evaluation": {"target": {"source": "target.h5ad", **KEYS}},
        "models": MODELS,
        "seeds": [0, 1],
        "n_cells": 200,
        "n_top_genes": 0,
    }
    return Plan.from_dict({**given, **more})


def test_a_plan_comes_back_from_plain_data_and_is_named_by_it():
    one = plan(
        mixes=[
            "near",
            "near+far",
            {"name": "half", "parts": {"near": 0.5, "far": 0.5}, "n_cells": 200},
        ]
    )

    again = Plan.from_dict(json.loads(json.dumps(one.to_dict())))

    assert again == one
    assert again.digest == one.digest != plan().digest
    assert [m.name for m in one.mixes] == ["near", "near+far", "half"]
    assert one.mixes[2].sizes(999) == {"near": 100, "far": 100}
    assert plan(leave_one_out=True).mixes[-1] == Mix("all but mixed", {"near": 1.0, "far": 1.0})
    assert Mix("x", {"a": 1 / 3, "b": 2 / 3}, 100).sizes(7) == {"a": 33, "b": 67}


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"corpora": {}}, "no corpora"),
        ({"seeds": []}, "no seeds"),
        ({"mixes": ["neer"]}, r"no corpus of 'neer' 'neer'.*near"),
        ({"mixes": ["near", "near"]}, "same name: near"),
        ({"mixes": [{"name": "m", "parts": {"near": 0.5}, "n_cells": 10}]}, "sum to 0.5"),
        ({"mixes": [{"name": "m", "parts": {"near": 0.5}}]}, "without a number of cells"),
        ({"mixes": [{"name": "m", "parts": {"near": -1}}]}, "pass positive ones"),
        ({"baseline": "elsewhere"}, "no baseline 'elsewhere'"),
        ({"sampling": "even"}, "no sampling 'even'"),
        ({"target": "speed"}, "no target 'speed'"),
        ({"n_cells": 1}, "n_cells=1"),
        ({"qc": {"max_mit": 1}}, "qc knows no .max_mit."),
        ({"corpora": {"a|b": {"source": "x"}}}, "'a|b' is no name"),
        ({"corpora": {"a": {"source": "x"}}, "sampling": "balanced"}, "no labels_key of a"),
        ({"corpora": {"a": {"source": "x"}}, "target": "annotation"}, "no labels_key of a"),
    ],
)
def test_what_a_plan_cannot_ask_is_refused(given, text):
    with pytest.raises(UsageError, match=text) as error:
        plan(**given)

    assert error.value.problems[0].code == "E-B07"


def test_draws_are_nested_of_equal_size_and_by_seed(pools):
    one = plan(mixes=["near", "near+far", "far+far"], n_cells=None)
    near, both, twice = one.mixes

    few = rows_of_mix(one, near, 50, 0, pools)[0][1]
    many = rows_of_mix(one, near, 100, 0, pools)[0][1]
    mixed = rows_of_mix(one, both, 100, 0, pools)
    other = rows_of_mix(one, near, 100, 1, pools)[0][1]

    assert set(few) < set(many)
    assert [len(rows) for _, rows in mixed] == [100, 100]
    assert np.array_equal(mixed[0][1], many)
    assert not np.array_equal(other, many)
    assert len(np.unique(rows_of_mix(one, twice, 100, 0, pools)[0][1])) == 200
    assert smallest(one, pools) == 250
    with pytest.raises(InputDataError, match=r"'near' has 500 cells, and 600 are wanted.*E-B06"):
        rows_of_mix(one, near, 600, 0, pools)


@pytest.mark.parametrize("design", ["balanced", "sketch"])
def test_designs_draw_rare_types_more_often(pools, design, tmp_path):
    from episome_datamix import simulated

    uneven = simulated.pool({"a": 0.94, "c": 0.06}, 400, seed=11)
    uneven.write_h5ad(tmp_path / "uneven.h5ad")
    simulated.target().write_h5ad(tmp_path / "target.h5ad")
    corpora = {"uneven": {"source": "uneven.h5ad", **KEYS}}
    shares = []
    for sampling in ("random", design):
        one = plan(corpora=corpora, sampling=sampling, mixes=["uneven"])
        pool, rows = rows_of_mix(one, one.mixes[0], 60, 0, tmp_path)[0]
        shares.append(float((pool.types(rows) == "type c").mean()))

    assert shares[1] > shares[0]


def test_a_mix_is_read_like_its_files_in_any_order(pools):
    one = plan(mixes=["near+far"])
    parts = rows_of_mix(one, one.mixes[0], 40, 0, pools)
    features = gene_space(one, pools)
    cells = MixedCells(parts, features, column="mix_corpus", where="here")
    rows = np.array([70, 3, 3, 41, 0])

    found = cells.read(rows).toarray()

    whole = cells.read(slice(0, 80)).toarray()
    np.testing.assert_array_equal(found, whole[rows])
    pool, own = parts[0]
    near = open_source(pools / "near.h5ad")
    columns = near.var.index.get_indexer(list(features.ids))
    np.testing.assert_array_equal(whole[:40], near.read(own).toarray()[:, columns])
    assert list(cells.obs_column("mix_corpus").unique()) == ["near", "far"]
    assert cells.obs_names[0].startswith("near/near-")
    with pytest.raises(UsageError, match=r"'size' is missing.*E-U04"):
        cells.obs_column("size")
    assert list(features.ids) == sorted(features.ids)


def test_of_genes_that_a_target_lacks_a_plan_warns_once_or_leaves_them_out(pools, tmp_path):
    import shutil

    for name in ("near", "far"):
        shutil.copy(pools / f"{name}.h5ad", tmp_path)
    half = anndata.read_h5ad(pools / "target.h5ad")
    half[:, : half.n_vars // 2].copy().write_h5ad(tmp_path / "target.h5ad")
    corpora = {n: {"source": f"{n}.h5ad", **KEYS} for n in ("near", "far")}
    asked = plan(corpora=corpora, mixes=["near", "far"], n_cells=40)

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        runs = runs_of(asked, tmp_path)

    assert sum("E-G04" in str(w.message) for w in said) == 1
    assert len(runs) == 4
    measured = plan(corpora=corpora, mixes=["near", "far"], n_cells=40, gene_space="measured")
    with warnings.catch_warnings():
        warnings.simplefilter("error", EpisomeWarning)
        runs_of(measured, tmp_path)
    assert list(gene_space(measured, tmp_path).ids) == sorted(half.var_names[: half.n_vars // 2])


def test_held_out_types_are_gone_with_all_their_kinds(tmp_path):
    from episome_datamix import simulated

    cells = simulated.pool({"a": 0.4, "b": 0.3, "c": 0.3}, 300, seed=3)
    names = {"type a": "B cell", "type b": "naive B cell", "type c": "monocyte"}
    cells.obs["cell_type"] = cells.obs["cell_type"].map(names)
    cells.write_h5ad(tmp_path / "blood.h5ad")
    simulated.target().write_h5ad(tmp_path / "target.h5ad")
    one = plan(
        corpora={"blood": {"source": "blood.h5ad", **KEYS}},
        mixes=["blood"],
        hold_out=["CL:0000236"],
    )

    pool = pool_of(one, "blood", tmp_path)

    assert set(pool.types(pool.rows)) == {"monocyte"}
    assert pool.lost["hold_out"] == int((cells.obs["cell_type"] != "monocyte").sum())


def test_quality_is_by_symbol_or_identifier(pools, tmp_path):
    var = pd.DataFrame(
        {"symbol": ["MT-ND1", "ACTB", "x"]}, index=["g1", "g2", "ENSG00000198888.2"]
    )
    assert mitochondrial(var).tolist() == [True, False, True]
    one = plan(qc={"max_mito": 0.1})
    with pytest.raises(InputDataError, match=r"no mitochondrial gene is known.*E-B05"):
        pool_of(one, "near", pools)
    good = pool_of(plan(qc={"min_counts": 800}), "near", pools)
    sums = open_source(pools / "near.h5ad").read(slice(0, 500)).sum(axis=1).A.ravel()
    assert np.array_equal(good.rows, np.flatnonzero(sums >= 800))
    assert good.lost["qc"] == int((sums < 800).sum())


def test_overlaps_are_refused_before_anything_runs(pools, own_cache, tmp_path):
    one = plan(evaluation={"again": Corpus("near.h5ad", where=("cell_type=type a",), **KEYS)})

    with pytest.raises(InputDataError, match=r"'near' and the evaluation set 'again' share") as e:
        run(one, tmp_path / "out", base=pools)

    assert {p.code for p in e.value.problems} == {"E-L20"}
    assert not (tmp_path / "out").exists()


def test_runs_are_the_same_list_every_time(pools, own_cache):
    one = plan(mixes=["near", "far"], seeds=[0])

    first, again = (runs_of(one, pools) for _ in range(2))

    assert [r.digest for r in first] == [r.digest for r in again]
    assert len({r.digest for r in first}) == 2
    assert {r.entry.name for r in first} == {"near", "far"}


@pytest.mark.slow
def test_cells_like_the_target_win_and_others_do_not_help(pools, own_cache, tmp_path):
    # Long enough that a model of 250 cells tells more than their mean.
    train = {"max_epochs": 200, "accelerator": "cpu", "plan_kwargs": {"lr": 0.02}}
    models = [{"model": "ldvae", "init": {"n_hidden": 32, "n_latent": 6}, "train": train}]
    one = plan(
        mixes=["near", "far", "mixed", "near+far", "near+near"],
        baseline="near",
        models=models,
        n_cells=250,
    )

    done = run(one, tmp_path / "out", base=pools, keep_models=True)
    again = run(one, tmp_path / "out", base=pools, keep_models=True)

    assert done.counts == {"ok": 10} == again.counts
    table = results(tmp_path / "out")
    found = matrix(table, "near").set_index(["model", "mix"])["value"]["ldvae"]
    assert found["near"] > found["mixed"] > found["far"]
    assert found["near+far"] < found["near+near"] + 0.05
    floor = matrix(table, "near").set_index(["model", "mix"])["value"]["mean of training"]
    assert found["near+near"] > floor["near+near"]
    apart = compare_mixes(table, "near", "far")
    assert apart["difference"].iloc[0] > 0
    assert len(compare_mixes(table, "near", "far", over="donors")) == 1
    told = coverage_table(table).set_index("coverage")["spearman"]
    assert told["coverage_types"] > 0
    same = compare_plans(table, table, baselines=("near", "near"), models=("ldvae", "ldvae"))
    assert same.slope == pytest.approx(1)
    folder = tmp_path / "out" / "models" / "near" / "seed 0" / "ldvae"
    target = open_source(pools / "target.h5ad")
    assert compare_latents(folder, folder, target).explained == pytest.approx(1)


def test_curves_of_sizes_find_what_they_tend_to():
    rows = [
        {
            "mix": "a",
            "n_cells": n,
            "seed": s,
            "model": "m",
            "evaluation": "e",
            "part": "",
            "metric": "r2",
            "value": 0.8 - 2.0 * n**-0.5 + 0.002 * s,
        }
        for n in (100, 200, 400, 800, 1600)
        for s in range(3)
    ]

    (curve,) = size_curves(pd.DataFrame(rows))

    assert curve.top == pytest.approx(0.802, abs=0.01)
    assert curve.rate == pytest.approx(0.5, abs=0.05)
    assert curve.saturation == pytest.approx(100 * 400, rel=0.3)
    assert curve.beyond
    with pytest.raises(UsageError, match=r"1 sizes were run.*E-B13"):
        size_curves(pd.DataFrame(rows[:3]))


def test_a_latent_space_explains_itself_turned_and_nothing_of_noise():
    rng = np.random.default_rng(0)
    space = rng.normal(size=(400, 5))
    turn = np.linalg.qr(rng.normal(size=(5, 5)))[0]

    assert compare_latents(space, space, None).explained == pytest.approx(1)
    assert compare_latents(space, space @ turn, None).explained == pytest.approx(1)
    assert compare_latents(space, rng.normal(size=(400, 5)), None).explained < 0.05
    with pytest.raises(UsageError, match="E-U45"):
        compare_latents(space, space[:10], None)
    with pytest.raises(UsageError, match="E-U19"):
        compare_latents(space[:10], space[:10], None)


def test_results_that_are_not_there_are_named(tmp_path):
    with pytest.raises(UsageError, match=r"no results of any plan.*E-B13"):
        results(tmp_path)


def test_a_report_without_the_baseline_says_so(tmp_path):
    from episome_datamix.sections import _mixes

    table = pd.DataFrame(
        {
            "mix": ["a", "b"],
            "n_cells": np.nan,
            "seed": 0,
            "model": "ldvae",
            "evaluation": "t",
            "part": "",
            "metric": "r2",
            "value": [0.1, 0.2],
        }
    )

    said, means = _mixes(table, "r2", "c")

    assert said.badge == "bad"
    assert "the baseline 'c' has no results" in said.text
    assert means.frame["value"].tolist() == [0.1, 0.2]
    assert len(_mixes(table, "r2", "a")) == 4
