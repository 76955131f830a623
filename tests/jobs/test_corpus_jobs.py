"""The verbs of a corpus as functions."""

from __future__ import annotations

import json

import numpy as np
import pytest

from episome import get_model
from episome.data import CorpusSource, read_cells, read_split, simulate_cells
from episome.errors import InputDataError, InputFileError, UsageError
from episome.jobs import (
    CorpusRequest,
    SplitRequest,
    corpus_build,
    corpus_info,
    corpus_split,
    corpus_verify,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpora")
    cells = simulate_cells(400, 60, n_donors=10, seed=3)
    cells.obs["tissue"] = ["lung", "blood"] * 200
    cells.obs["donor_id"] = cells.obs["donor_id"].astype(str)
    cells.obs.iloc[:7, cells.obs.columns.get_loc("donor_id")] = "unknown"
    cells.write_h5ad(folder / "cells.h5ad")
    corpus_build(request(folder, folder / "c"))
    return folder


def request(folder, output, **options):
    return CorpusRequest(
        (folder / "cells.h5ad",),
        output,
        **{"labels_key": "cell_type", "donor_keys": ("donor_id",), **options},
    )


def split_request(folder, output, **options):
    return SplitRequest(folder / "c", output, **options)


def made_split(folder, output, **options):
    return corpus_split(split_request(folder, output, **options))[output]


def test_build_says_what_it_made_and_how_far_it_is(folder, tmp_path):
    seen = []

    result = corpus_build(request(folder, tmp_path / "c"), progress=lambda *a: seen.append(a))

    assert (result.output, result.n_obs, result.n_vars) == (tmp_path / "c", 400, 60)
    assert result.disk == sum(f.stat().st_size for f in (tmp_path / "c").rglob("*.*"))
    assert result.inputs[0]["n_obs"] == 400
    assert "400 of 400 cells, counts of X, 60 of 60 genes" in result.notes[0]
    assert {what for what, _, _ in seen} == {"checking", "sorting", "writing"}
    assert seen[-1] == ("writing", 400, 400)


def test_a_dry_run_writes_nothing_and_estimates(folder, tmp_path):
    result = corpus_build(request(folder, tmp_path / "deep" / "c", dry_run=True))

    assert result.output is None
    assert 0.5 < result.disk / corpus_info(folder / "c").disk < 2
    assert not list(tmp_path.rglob("c"))


def test_missing_inputs_are_all_named_before_anything_is_read(folder, tmp_path):
    wanted = CorpusRequest(
        (tmp_path / "a.h5ad", folder / "cells.h5ad", tmp_path / "b.h5ad"), folder / "x"
    )

    with pytest.raises(InputFileError) as caught:
        corpus_build(wanted)

    assert [p.code for p in caught.value.problems] == ["E-F07", "E-F07"]


def test_an_output_that_is_there_is_refused_before_inputs_are_read(folder, monkeypatch):
    from episome.jobs import _corpus

    monkeypatch.setattr(_corpus, "check_corpus_inputs", lambda *_, **__: pytest.fail("read"))

    with pytest.raises(InputFileError, match="E-F26"):
        corpus_build(request(folder, folder / "c"))


def test_a_run_that_ended_but_did_not_tidy_up_is_recognised(folder, tmp_path):
    output = tmp_path / "c"
    corpus_build(request(folder, output))
    left = tmp_path / ".c.building"
    left.mkdir()

    assert corpus_build(request(folder, output)).output == output
    assert not left.exists()
    left.mkdir()
    with pytest.raises(InputFileError, match="E-F26"):
        corpus_build(request(folder, output, shuffle_seed=8))


def test_info_counts_cells_by_label_donor_and_tissue(folder):
    facts = corpus_info(folder / "c")

    assert (facts.n_obs, facts.n_vars, facts.labels_key) == (400, 60, "cell_type")
    assert facts.composition["tissue"] == {"lung": 200, "blood": 200}
    assert sum(facts.composition["cell_type"].values()) == 400
    assert facts.composition["donor_id"]["unknown"] == 7
    assert facts.inputs[0]["name"] == "cells.h5ad"


def test_verify_finds_what_is_damaged(folder, tmp_path):
    assert corpus_verify(folder / "c").problems == ()
    corpus_build(request(folder, tmp_path / "c"))
    shard = tmp_path / "c" / "shards" / "00000.records"
    shard.write_bytes(shard.read_bytes()[:-1] + b"\x00")

    problems = corpus_verify(tmp_path / "c").problems

    assert [p.code for p in problems] == ["E-F31"]
    assert "00000.records" in problems[0].where


def test_a_split_keeps_donors_apart_and_can_be_read_again(folder, tmp_path):
    source = CorpusSource(folder / "c")
    made = made_split(folder, tmp_path / "s.json", sizes=(0.6, 0.2, 0.2))

    split = read_split(tmp_path / "s.json", source)

    donors = source.obs_column("donor_id").astype(str).to_numpy()
    parts = [split.train, split.validation, split.test]
    groups = [set(donors[p]) - {"unknown"} for p in parts]
    assert all(a.isdisjoint(b) for a, b in zip(groups, groups[1:] + groups[:1], strict=True))
    assert sorted(np.concatenate(parts)) == list(range(400))
    assert [len(p) for p in parts] == [p["n_obs"] for p in made["parts"].values()]
    assert all(0.1 < len(p) / 400 < 0.35 for p in parts[1:])
    # A cell of nobody's may be anybody's: it is no fair test.
    assert set(np.flatnonzero(donors == "unknown")) <= set(split.train)
    assert set(source.obs_column("cell_type").iloc[split.train]) == set(
        source.obs_column("cell_type")
    )
    assert split.digest == made["sha256"]
    assert made["corpus"] == source.digest


def test_a_model_is_trained_from_a_corpus_as_from_memory(folder):
    source, cls = CorpusSource(folder / "c"), get_model("centroid")
    cells = read_cells(folder / "cells.h5ad")[list(source.obs_names)].copy()
    cls.setup_anndata(cells, labels_key="cell_type")

    model = cls(cls.setup_source(source, labels_key="cell_type"))
    model.train()
    memory = cls(cells)
    memory.train()

    assert np.array_equal(model.predict_proba(cells), memory.predict_proba(cells))
    assert list(model.annotate(source)["label"]) == list(memory.annotate(cells)["label"])


def test_a_seed_gives_one_split_and_another_another(folder, tmp_path):
    first = made_split(folder, tmp_path / "a.json", seed=1)
    again = made_split(folder, tmp_path / "b.json", seed=1)
    other = made_split(folder, tmp_path / "c.json", seed=2)

    assert first == again
    assert other["sha256"] != first["sha256"]


def test_subsets_are_nested_and_leave_validation_and_test_alone(folder, tmp_path):
    source = CorpusSource(folder / "c")
    shares = (0.5, 0.2, 0.8)
    files = corpus_split(split_request(folder, tmp_path / "s.json", subsets=shares))

    names = [f"s.{kind}-{n}.json" for n in (20, 50, 80) for kind in ("groups", "cells")]
    assert [p.name for p in files] == ["s.json", *names]
    whole = read_split(tmp_path / "s.json", source)
    donors = source.obs_column("donor_id").astype(str).to_numpy()
    for kind in ("groups", "cells"):
        found = [read_split(tmp_path / f"s.{kind}-{n}.json", source) for n in (20, 50, 80)]
        trains = [set(s.train.tolist()) for s in found] + [set(whole.train.tolist())]
        assert all(a < b for a, b in zip(trains, trains[1:], strict=False))
        for share, split in zip((0.2, 0.5, 0.8), found, strict=True):
            assert np.array_equal(split.validation, whole.validation)
            assert np.array_equal(split.test, whole.test)
            assert (np.diff(split.train) > 0).all()
            held = donors[split.train]
            known = set(donors[whole.train]) - {"unknown"}
            if kind == "cells":
                assert len(split.train) == round(share * len(whole.train))
            else:
                # All cells of these donors, and nobody else's.
                assert len(set(held)) == max(round(share * len(known)), 1)
                assert "unknown" not in held
                left = whole.train[np.isin(donors[whole.train], held)]
                assert np.array_equal(split.train, left)


def test_a_subset_whose_groups_were_changed_is_refused(folder, tmp_path):
    corpus_split(split_request(folder, tmp_path / "s.json", subsets=(0.5,)))
    path = tmp_path / "s.groups-50.json"
    kept = json.loads(path.read_bytes())
    moved = kept["parts"]["left_out"]["groups"].pop()
    kept["parts"]["train"]["groups"].append(moved)
    path.write_text(json.dumps(kept))

    with pytest.raises(InputDataError, match="E-L38"):
        read_split(path, CorpusSource(folder / "c"))


def test_groups_of_two_columns_are_named_by_both(folder, tmp_path):
    made = made_split(folder, tmp_path / "s.json", by=("donor_id", "tissue"))

    names = [g for part in made["parts"].values() for g in part["groups"]]
    assert "donor 1_lung" in names
    assert len(names) == len(set(names)) == 20


@pytest.mark.parametrize(
    ("options", "error", "code"),
    [
        ({"by": ("nobody",)}, UsageError, "E-U04"),
        ({"sizes": (0.7, 0.2, 0.2)}, UsageError, "E-U10"),
        ({"sizes": (0.7, 0.3)}, UsageError, "E-U10"),
        ({"subsets": (0.5, 1.0)}, UsageError, "E-U10"),
        ({"by": ("tissue",)}, InputDataError, "E-L37"),
        ({"by": ("cell_type",)}, InputDataError, "E-L37"),
    ],
)
def test_splits_that_cannot_be_are_refused(folder, tmp_path, options, error, code):
    with pytest.raises(error, match=code):
        corpus_split(split_request(folder, tmp_path / "s.json", **options))

    assert not (tmp_path / "s.json").exists()


def test_a_split_of_other_cells_or_of_nothing_is_refused(folder, tmp_path):
    corpus_split(split_request(folder, tmp_path / "s.json"))
    corpus_build(request(folder, tmp_path / "other", shuffle_seed=5))
    with pytest.raises(InputDataError, match="E-L38"):
        read_split(tmp_path / "s.json", CorpusSource(tmp_path / "other"))
    kept = json.loads((tmp_path / "s.json").read_bytes())
    kept["parts"]["test"]["groups"] = kept["parts"]["test"]["groups"][1:]
    (tmp_path / "s.json").write_text(json.dumps(kept))
    with pytest.raises(InputDataError, match="E-L38"):
        read_split(tmp_path / "s.json", CorpusSource(folder / "c"))
    del kept["parts"]["test"]
    (tmp_path / "s.json").write_text(json.dumps(kept))
    with pytest.raises(InputFileError, match="E-F33"):
        read_split(tmp_path / "s.json", CorpusSource(folder / "c"))
    (tmp_path / "s.json").write_text("[]")
    with pytest.raises(InputFileError, match="E-F33"):
        read_split(tmp_path / "s.json", CorpusSource(folder / "c"))


# -- rules for cells in the CELLxGENE schema -----------------------------------------------------

T_CELL, B_CELL, CELL = "CL:0000084", "CL:0000236", "CL:0000000"


@pytest.fixture(scope="module")
def schema(tmp_path_factory):
    """Two files: T cells of five donors, B cells of two, some cells of no kind, doublets."""
    folder = tmp_path_factory.mktemp("schema")
    for name in "xy":
        cells = simulate_cells(200, 60, seed=ord(name))
        terms = np.repeat([T_CELL, B_CELL, CELL, "unknown"], [100, 60, 30, 10])
        donors = np.array([f"p{i % 5}" for i in range(200)])
        donors[100:160] = [f"p{i % 2}" for i in range(60)]
        cells.obs = cells.obs[[]].assign(
            cell_type_ontology_term_id=terms,
            cell_type=terms,
            donor_id=donors,
            assay=["10x 3' v3"] * 150 + ["Smart-seq2"] * 50,
            is_primary_data=np.arange(200) % 10 != 0,
        )
        cells.obs_names = [f"{name}{i}" for i in range(200)]
        cells.write_h5ad(folder / f"{name}.h5ad")
    return folder


def schema_request(folder, output, **rules):
    files = (folder / "x.h5ad", folder / "y.h5ad")
    return CorpusRequest(files, output, preset="cellxgene-human", rules=rules)


def test_every_rule_of_the_preset_says_what_it_loses(schema, tmp_path):
    result = corpus_build(
        schema_request(schema, tmp_path / "c", min_cells=90, min_donors=3, min_ancestors=2)
    )

    rules = [n for n in result.notes if " lost, " in n]
    assert [r.split(": ")[1] for r in rules] == [
        "40 cells and 0 types lost, 360 cells of 4 types left",
        "90 cells and 2 types lost, 270 cells of 2 types left",
        "0 cells and 0 types lost, 270 cells of 2 types left",
        "0 cells and 0 types lost, 270 cells of 2 types left",
        "90 cells and 1 types lost, 180 cells of 1 types left",
        "0 cells and 0 types lost, 180 cells of 1 types left",
    ]
    source = CorpusSource(tmp_path / "c")
    assert source.n_obs == 180
    assert set(source.obs_column("cell_type_ontology_term_id")) == {T_CELL}
    assert set(source.obs_column("assay")) == {"10x 3' v3"}
    assert (source.labels_key, source.donor_keys) == ("cell_type", ("donor_id",))


def test_a_preset_writes_the_split_by_donor_and_its_subsets(schema, tmp_path, caplog):
    rules = {"min_cells": 0, "min_donors": 0, "min_ancestors": 0}
    result = corpus_build(schema_request(schema, tmp_path / "c", **rules))

    assert [p.name for p in result.splits[:3]] == [
        "split.json",
        "split.groups-15.json",
        "split.cells-15.json",
    ]
    assert len(result.splits) == 9
    source = CorpusSource(tmp_path / "c")
    split = read_split(result.splits[0], source)
    donors = source.obs_column("donor_id").astype(str).to_numpy()
    assert set(donors[split.train]).isdisjoint(donors[split.test])
    assert corpus_verify(tmp_path / "c").problems == ()

    few = corpus_build(
        CorpusRequest(
            (schema / "x.h5ad", schema / "y.h5ad"),
            tmp_path / "few",
            preset="cellxgene-human",
            where=(f"donor_id={donors[0]}",),
            rules=rules,
        )
    )
    assert few.splits == ()
    assert "the corpus is complete and was not split" in caplog.text


def test_rules_can_be_changed_one_by_one(schema, tmp_path):
    loose = {"primary": False, "assays": ("Smart-seq2",), "min_cells": 0, "min_donors": 0}

    result = corpus_build(
        schema_request(schema, tmp_path / "c", min_ancestors=0, **loose), progress=None
    )

    # Of 50 cells a file, 10 are B cells; those of no term, or of the highest, are below none.
    assert result.n_obs == 20
    assert len([n for n in result.notes if " lost, " in n]) == 2


def test_types_count_over_all_files_and_only_what_is_left(schema, tmp_path):
    rules = {"min_donors": 0, "min_ancestors": 0}
    both = corpus_build(schema_request(schema, tmp_path / "a", min_cells=180, **rules))
    assert both.n_obs == 180

    with pytest.raises(InputDataError, match=r"no cell is left by the rule.*E-D57"):
        corpus_build(schema_request(schema, tmp_path / "b", min_cells=181, **rules))


def test_rules_that_mean_nothing_are_refused(schema, tmp_path):
    with pytest.raises(UsageError, match="E-U92"):
        corpus_build(schema_request(schema, tmp_path / "c", descendant_of="T cell"))
    with pytest.raises(UsageError, match="E-U30"):
        corpus_build(CorpusRequest((schema / "x.h5ad",), tmp_path / "c", preset="mine"))
