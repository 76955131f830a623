"""What is refused before anything of a plan runs."""

from __future__ import annotations

import anndata
import numpy as np
import pytest

from episome.errors import EpisomeWarning, InputDataError, InputFileError, UsageError
from episome_datamix import Plan, run, simulated
from episome_datamix.checks import require_ready

KEYS = {"labels_key": "cell_type", "donor_key": "donor_id"}


def plan(**more) -> Plan:
    given = {
        "name": "simulated",
        "corpora": {n: {"source": f"{n}.h5ad", **KEYS} for n in ("near", "far")},
        "evaluation": {"target": {"source": "target.h5ad", **KEYS}},
        "n_cells": 200,
    }
    return Plan.from_dict({**given, **more})


@pytest.fixture
def logged(pools, tmp_path):
    """A copy of the target after log1p, beside the pools."""
    for file in pools.glob("*.h5ad"):
        (tmp_path / file.name).symlink_to(file)
    cells = anndata.read_h5ad(pools / "target.h5ad")
    sums = np.asarray(cells.X.sum(axis=1))
    cells.X = cells.X.multiply(1e4 / sums).tocsr().log1p()
    cells.write_h5ad(tmp_path / "logged.h5ad")
    return tmp_path


def test_a_plan_that_can_run_passes(pools):
    require_ready(plan(), pools)


@pytest.mark.parametrize("where", ["corpora", "evaluation"])
def test_log_values_are_refused_wherever_they_are(logged, where):
    given = getattr(plan(), where)
    more = {n: {"source": c.source, **KEYS} for n, c in given.items()}
    asked = plan(**{where: {**more, "log": {"source": "logged.h5ad", **KEYS}}})

    with pytest.raises(InputDataError, match=r"E-D07"):
        require_ready(asked, logged)


def test_log_values_may_be_annotated(logged):
    asked = plan(
        target="annotation",
        models=["centroid"],
        evaluation={"log": {"source": "logged.h5ad", **KEYS}},
    )

    require_ready(asked, logged)


def test_a_misspelt_type_is_not_held_out_in_silence(pools):
    require_ready(plan(hold_out=["type a"]), pools)
    with pytest.raises(UsageError, match=r"no cell is of the type 'type aa'.*type a.*E-B07"):
        require_ready(plan(hold_out=["type aa"]), pools)


def test_another_spelling_in_a_corpus_is_warned_of(pools, tmp_path):
    for file in pools.glob("*.h5ad"):
        (tmp_path / file.name).symlink_to(file)
    cells = anndata.read_h5ad(pools / "near.h5ad")
    cells.obs["cell_type"] = cells.obs["cell_type"].astype(str).str.replace("type a", "Type  a")
    (tmp_path / "near.h5ad").unlink()
    cells.write_h5ad(tmp_path / "near.h5ad")

    with pytest.warns(EpisomeWarning, match="'near' has no cell of the held-out type 'type a'"):
        require_ready(plan(hold_out=["type a"]), tmp_path)


def test_donors_of_one_name_in_two_files_are_doubted(tmp_path):
    for name, seed in (("corpus", 1), ("other", 2), ("test", 3)):
        simulated.pool({"a": 0.5, "b": 0.5}, 120, seed=seed).write_h5ad(tmp_path / f"{name}.h5ad")
    files = {n: {"source": f"{n}.h5ad", **KEYS} for n in ("corpus", "other")}
    asked = {"corpora": files, "n_cells": 50}
    test = {"source": "test.h5ad", **KEYS}

    with pytest.warns(EpisomeWarning, match=r"have donors of the same name: 4 of 4.*dataset ="):
        require_ready(plan(**asked, evaluation={"t": test}), tmp_path)
    of_one = {n: {**c, "dataset": "kang"} for n, c in files.items()}
    with pytest.raises(InputDataError, match=r"share: donor.*E-L20"):
        require_ready(
            plan(
                **{**asked, "corpora": of_one},
                evaluation={"t": {**test, "dataset": "kang"}},
            ),
            tmp_path,
        )


@pytest.mark.parametrize(
    ("corpus", "error", "text"),
    [
        ({"source": "near.h5ad", "labels_key": "cell_typ"}, UsageError, r"cell_typ.*E-U04"),
        ({"source": "near.h5ad", "donor_key": "donr"}, UsageError, r"donr.*E-U04"),
        ({"source": "neer.h5ad"}, InputFileError, r"near\.h5ad.*E-F07"),
    ],
)
def test_columns_and_files_that_are_not_there_end_the_plan(pools, tmp_path, corpus, error, text):
    asked = plan(corpora={"a": corpus, "far": {"source": "far.h5ad", **KEYS}})

    with pytest.raises(error, match=text):
        run(asked, tmp_path, base=pools)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"n_cells": 10.5}, "n_cells=10.5"),
        ({"n_cells": "200"}, "n_cells='200'"),
        ({"sizes": [10, True, 30]}, "sizes=True"),
        ({"seeds": [-1]}, "seeds=-1"),
        ({"n_top_genes": 1}, "n_top_genes=1"),
        ({"allow": ["donors"]}, "no overlap 'donors'.*did you mean `donor`"),
        ({"qc": {"min_counts": -5}}, "min_counts=-5"),
        ({"qc": {"max_mito": 1.5}}, "max_mito=1.5.*pass 0 to 1"),
    ],
)
def test_numbers_and_words_that_mean_nothing_are_refused(given, text):
    with pytest.raises(UsageError, match=text) as error:
        plan(**given)

    assert error.value.problems[0].code == "E-B07"


def test_leaving_one_out_comes_back_from_plain_data():
    one = plan(leave_one_out=True)

    assert Plan.from_dict(one.to_dict()) == one
