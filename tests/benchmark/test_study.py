"""Studies: declared in TOML or Python, checked before anything is run."""

from __future__ import annotations

import dataclasses

import pytest
from _studies import entry, study

from episome.benchmark import DataEntry, ModelEntry, SplitEntry, Study, plan, task_named
from episome.errors import InputFileError, UsageError
from episome.jobs import BenchmarkRequest, benchmark_plan

TOML = """
task = "annotation"
summary = "Which model finds the types of unseen donors?"
models = ["centroid", {model = "logreg", name = "few genes", init = {n_top_genes = 20}}]
seeds = [3, 4]

[[data]]
name = "cells"
source = "cells.h5ad"
labels_key = "cell_type"
donor_key = "donor_id"

[[splits]]
by = "kfold"
n_folds = 3
"""


@pytest.fixture
def written(folder, tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(TOML)
    return path


def test_a_file_says_what_python_says(written):
    found = Study.from_toml(written)

    assert found == Study(
        "mine",
        "annotation",
        data=(entry(),),
        models=(
            ModelEntry("centroid"),
            ModelEntry("logreg", "few genes", init={"n_top_genes": 20}),
        ),
        splits=(SplitEntry("kfold", n_folds=3),),
        seeds=(3, 4),
        summary="Which model finds the types of unseen donors?",
    )
    assert Study.from_dict(found.to_dict()) == found


def test_every_combination_is_a_run_of_its_own(written, folder):
    found = Study.from_toml(written)

    runs = plan(found, task_named("annotation"), folder).runs

    floor = {"majority", "centroid", "logreg", "knn"}
    assert {r.model.shown for r in runs} == {"few genes", *floor}
    assert len(runs) == 5 * 2 * 3
    assert len({r.digest for r in runs}) == len(runs)
    assert runs[0].text == "cells, 3 folds, centroid, fold 0, seed 3"


def test_what_decides_a_run_is_in_its_name(folder):
    def digest(**kwargs):
        return plan(study(**kwargs), task_named("annotation"), folder).runs[0].digest

    same = digest()
    assert digest() == same
    assert digest(timeout=5.0) == same
    assert digest(seeds=(1,)) != same
    assert digest(precision="bf16-mixed") != same
    assert digest(models=(ModelEntry("centroid", setup={"unlabeled": "keep"}),)) != same
    assert digest(data=(entry(keep=("site!=1",)),)) != same
    assert digest(splits=(SplitEntry("group", test_size=0.5),)) != same


def test_one_seed_may_stand_without_a_list(written):
    plain = Study.from_toml(written).to_dict()

    assert Study.from_dict({**plain, "seeds": 3}).seeds == (3,)


def test_splits_of_other_sizes_have_other_names():
    shares = [SplitEntry("random", test_size=s).name for s in (0.3, 0.2, 0.8)]

    assert shares == ["random cells", "random cells, 20 % of the cells"] + [
        "random cells, 80 % of the cells"
    ]
    assert SplitEntry("kfold", column="site").name == "5 folds by site"


def test_integration_has_floors_of_its_own(folder):
    data = (entry(batch_key="site"),)
    asked = study("integration", ("knn",), data=data, floor=True)

    runs = plan(asked, task_named("integration"), folder).runs

    assert {"pca", "scvi"} <= {r.model.shown for r in runs}


@pytest.mark.parametrize(
    ("task", "options", "match"),
    [
        ("novelty", {"types": ["alfa"]}, "alfa.*which no cell is"),
        ("ensemble", {"unseen": ["B cells"]}, "B cells.*which no cell is"),
        ("label-efficiency", {"fractions": ["x"]}, "fractions holds"),
        ("label-efficiency", {"fractions": [0.5, 2.0]}, "above 0 and up to 1"),
        ("robustness", {"n_draws": "three"}, "n_draws holds 'three'"),
        ("groups", {"alone": "yes"}, "alone holds 'yes'"),
        ("groups", {"column": 3}, "column holds 3"),
    ],
)
def test_options_that_make_no_sense_are_refused(task, options, match, folder):
    with pytest.raises(UsageError, match=match):
        plan(study(task, options=options), task_named(task), folder)


def test_one_value_may_stand_for_a_list_of_it(folder):
    asked = study("label-efficiency", options={"fractions": 0.5, "cells_per_class": []})

    runs = plan(asked, task_named("label-efficiency"), folder).runs

    assert {r.condition for r in runs} == {"50 % of the training cells"}


def test_models_that_are_not_there_take_no_part_and_are_named(folder):
    found = plan(study(models=("centroid", "nothing", "pca")), task_named("annotation"), folder)

    assert {r.model.shown for r in found.runs} == {"centroid"}
    assert found.missing == {
        "nothing": "no installed plugin has it",
        "pca": "it has no capability 'annotation'",
    }


def test_a_data_set_that_cannot_be_read_is_named_and_the_others_go_on(folder):
    two = study(data=(entry(), DataEntry("gone", "gone.h5ad", labels_key="cell_type")))

    found = plan(two, task_named("annotation"), folder)

    assert {r.entry.name for r in found.runs} == {"cells"}
    assert "E-F07" in found.missing["data set gone"]


def test_a_study_of_which_nothing_is_left_is_refused(folder):
    with pytest.raises(UsageError, match="no installed plugin has it.*E-B10"):
        plan(study(models=("nothing",)), task_named("annotation"), folder)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"data": []}, "E-B07"),
        ({"model": ["a"]}, "did you mean `models`.*E-B07"),
        ({"models": [{"model": "a", "inti": {}}]}, "did you mean `init`.*E-B07"),
        ({"models": ["a", "a"]}, "the same name: a.*E-B07"),
        ({"splits": [{"by": "patient"}]}, "E-B04"),
        ({"splits": [{"by": "where"}]}, "E-B04"),
        ({"splits": [{"test_size": 2}]}, "E-B04"),
        ({"splits": [{"by": "kfold", "n_folds": 1}]}, "E-B04"),
        ({"splits": ["random"]}, "E-B07"),
        ({"data": [{"name": "a"}]}, "source.*E-B07"),
        ({"timeout": 0}, "E-B07"),
        ({"timeout": "1h"}, "E-B07"),
        ({"max_memory": "8GB"}, "pass bytes.*E-B07"),
        ({"seeds": ["a"]}, "E-B07"),
        ({"seeds": [0, 0]}, "each once.*E-B07"),
        ({"accelerator": "gpux"}, "did you mean `gpu`.*E-B07"),
        ({"published": 0.8}, "E-B07"),
        ({"models": [{"model": "pca", "data": ["nope"]}]}, "which is no data set here.*E-B07"),
        ({"splits": [{"by": "random", "column": "site"}]}, "with a column.*E-B04"),
        ({"name": "a/b"}, "E-B07"),
    ],
)
def test_studies_that_make_no_sense_are_refused(change, match):
    plain = {"name": "x", "task": "annotation", "data": [{"name": "a", "source": "a.h5ad"}]}

    with pytest.raises(UsageError, match=match):
        Study.from_dict({**plain, **change})


def test_a_file_that_is_no_study_is_refused(tmp_path):
    (tmp_path / "a.toml").write_text("[[data")

    for name in ("a.toml", "gone.toml"):
        with pytest.raises(InputFileError, match="E-B08"):
            Study.from_toml(tmp_path / name)


def test_tasks_and_options_that_are_none_are_refused(folder):
    with pytest.raises(UsageError, match="E-B11"):
        task_named("guessing")
    with pytest.raises(UsageError, match="E-B09"):
        plan(study(options={"ratio": 3}), task_named("imbalance"), folder)


def test_only_some_of_a_study():
    two = study(data=(entry(), DataEntry("other", "other.h5ad")))

    found = two.only(models=["knn", "centroid"], data=["other"])

    assert [m.model for m in found.models] == ["knn", "centroid"]
    assert [d.name for d in found.data] == ["other"]
    with pytest.raises(UsageError, match="no data set third.*E-B07"):
        two.only(data=["third"])


def test_a_data_set_may_have_splits_of_its_own(folder):
    plain = {
        "name": "x",
        "task": "annotation",
        "models": ["centroid"],
        "floor": False,
        "seeds": [0],
        "data": [
            {
                "name": "own",
                "source": "cells.h5ad",
                "labels_key": "cell_type",
                "splits": [{"by": "where", "where": "site=1"}],
            },
            {"name": "usual", "source": "cells.h5ad", "labels_key": "cell_type"},
        ],
        "splits": [{"by": "random"}],
    }
    found = Study.from_dict(plain)

    runs = plan(found, task_named("annotation"), folder).runs

    assert [r.key["split"] for r in runs] == ["where site=1", "random cells"]
    assert Study.from_dict(found.to_dict()) == found
    plain["data"][0]["splits"] = [{"bye": "x"}]
    with pytest.raises(UsageError, match=r"data\.splits knows no 'bye'.*did you mean `by`"):
        Study.from_dict(plain)


@pytest.mark.parametrize("name", ["sctab", "sims"])
def test_parts_and_sets_that_a_study_lacks_are_named(name, tmp_path):
    ask = BenchmarkRequest(name, tmp_path, scale="tiny")

    with pytest.raises(UsageError, match=rf"{name} has no part typo.*{name}-.*E-B14"):
        benchmark_plan(dataclasses.replace(ask, parts=("typo",)))
    # One that is known does not hide one that is not.
    with pytest.raises(UsageError, match=r"has no data set typo.*E-B07"):
        benchmark_plan(dataclasses.replace(ask, data_sets=("simulated", "typo")))
    found, _, _ = benchmark_plan(dataclasses.replace(ask, data_sets=("simulated",)))
    assert all([d.name for d in s.data] == ["simulated"] for s in found)


def test_a_data_set_whose_cells_the_seed_draws_is_one_for_every_seed(folder, monkeypatch):
    from episome.benchmark import _runs
    from episome.benchmark._load import load_data

    opened = []

    def drawn(entry, base, *, labels):
        opened.append(entry.source)
        file = dataclasses.replace(entry, source="cells.h5ad")
        return dataclasses.replace(load_data(file, base, labels=labels), entry=entry)

    monkeypatch.setattr(_runs, "load_data", drawn)
    asked = study(models=("centroid",), seeds=(3, 5))
    of_seed = dataclasses.replace(asked.data[0], source="draw:{seed}")
    asked = dataclasses.replace(asked, data=(of_seed,))

    runs = plan(asked, task_named("annotation"), folder).runs

    assert opened == ["draw:3", "draw:5"]
    assert [(r.seed, r.entry.source) for r in runs] == [(3, "draw:3"), (5, "draw:5")]
    assert len({r.entry.name for r in runs}) == 1
