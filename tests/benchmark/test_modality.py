"""Other modalities of unseen cells: the scale of a comparison, the floor, and the scores."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from _studies import entry, study
from _toy import ToyTranslator, pairs
from scipy import sparse

from episome import plugins
from episome.benchmark import DataEntry, SplitEntry, load_data, perform, plan, task_named
from episome.benchmark._modality import (
    MEAN,
    brought_to,
    compared_on,
    feature_means,
    on_scale,
)
from episome.errors import InputDataError, UsageError
from episome.plugins import ModelSpec


class Untold(ToyTranslator):
    """Predicts what the test says, and says of its scale what the test says."""

    predicted = staticmethod(lambda values: values)
    scale: str | None = None

    def predict_modality(self, adata=None, **query):
        found = super().predict_modality(adata, **query)
        del found.uns["scale"]
        found.X = type(self).predicted(found.X)
        if type(self).scale is not None:
            found.uns["scale"] = type(self).scale
        return found


@pytest.fixture
def translator(monkeypatch):
    return installed(monkeypatch, ToyTranslator)


@pytest.fixture
def untold(monkeypatch):
    monkeypatch.setattr(Untold, "predicted", staticmethod(lambda values: values))
    monkeypatch.setattr(Untold, "scale", None)
    installed(monkeypatch, Untold)
    return Untold


def installed(monkeypatch, cls):
    spec = ModelSpec("toy-translator", "_toy:ToyTranslator", "_toy:ToyTranslatorCore", "toy")
    spec = dataclasses.replace(spec, capabilities=("translation",), distribution="toy")
    monkeypatch.setattr(plugins, "models", lambda: {"toy-translator": spec})
    monkeypatch.setattr(plugins, "get_spec", lambda name: spec)
    monkeypatch.setattr(plugins, "load_class", lambda spec: cls)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Cells with six proteins, and of them one that never varies."""
    folder = tmp_path_factory.mktemp("pairs")
    pairs(200).write(folder / "cells.h5mu")
    return folder


def cross(folder, data=None, **kwargs):
    """Scores of the toy, and those of the mean of training."""
    given = {"data": (data or DataEntry("cells", "cells.h5mu", target="prot"),), **kwargs}
    asked = study("cross-modality", ("toy-translator",), splits=(SplitEntry("group"),), **given)
    runs = plan(asked, task_named("cross-modality"), folder).runs
    found = [perform(run) for run in runs]
    assert [r.reason for r in found] == [""] * len(found)
    conditions = {c: {m: v for (k, m), v in found[0].scores.items() if k == c} for c in ("", MEAN)}
    assert {c for c, _ in found[0].scores} == set(conditions)
    return found[0], conditions[""], conditions[MEAN]


# --- the task -----------------------------------------------------------------------------------


def test_proteins_are_predicted_from_rna(translator, files):
    found, scores, mean = cross(files)

    assert set(scores) == set(mean) == set(task_named("cross-modality").metrics)
    assert scores["n_features"] == 6
    assert scores["pearson_features"] > 0.5
    assert scores["spearman_features"] > 0.5
    assert scores["mse_flat"] < mean["mse_flat"]
    assert found.facts["n_test"] == 200 - found.facts["n_train"]


def test_the_mean_of_training_is_always_there(translator, tmp_path):
    data = pairs(200)
    # Proteins differ in abundance: their means alone order them within every cell.
    data.mod["prot"].X = data.mod["prot"].X + 10.0 * np.arange(6, dtype=np.float32) ** 2
    data.write(tmp_path / "cells.h5mu")

    _, _, mean = cross(tmp_path)

    assert mean["pearson_features"] == mean["spearman_features"] == 0.0
    assert mean["auroc"] == pytest.approx(0.5) or np.isnan(mean["auroc"])
    for name in ("pearson_cells", "spearman_cells", "pearson_flat", "spearman_flat"):
        assert mean[name] > 0.7


def test_proteins_in_obsm_are_the_same_proteins(translator, tmp_path):
    both = pairs(200)
    both.write(tmp_path / "cells.h5mu")
    cells = both.mod["rna"].copy()
    cells.obsm["counts"] = both.mod["prot"].X
    cells.uns["names"] = both.mod["prot"].var_names.to_numpy().astype(str)
    cells.write_h5ad(tmp_path / "cells.h5ad")

    in_obsm = DataEntry("c", "cells.h5ad", target="obsm:counts", target_names="names")
    in_mudata = DataEntry("c", "cells.h5mu", target="prot")

    assert cross(tmp_path, in_obsm)[1:] == cross(tmp_path, in_mudata)[1:]


def test_a_feature_that_never_varies_is_counted(translator, tmp_path):
    data = pairs(200)
    data.mod["prot"].X[:, 2] = 3.0
    data.write(tmp_path / "cells.h5mu")

    _, scores, mean = cross(tmp_path)

    assert (scores["n_features"], scores["n_constant_features"]) == (6, 1)
    assert mean["n_constant_features"] == 1
    assert scores["pearson_features"] > 0.5


# --- scales -------------------------------------------------------------------------------------


def test_counts_that_are_predicted_are_brought_to_log1p(untold, files):
    untold.scale = "log1p"
    _, wanted, _ = cross(files)
    untold.predicted, untold.scale = staticmethod(np.expm1), None

    _, found, _ = cross(files)

    # log1p of what a model says of counts below zero is that of none: a little is lost.
    for name in ("mse_flat", "pearson_features", "pearson_cells", "spearman_features"):
        assert found[name] == pytest.approx(wanted[name], abs=0.02)


def test_an_unknown_scale_has_no_squared_error(untold, files):
    untold.scale = "log1p"
    _, wanted, _ = cross(files)
    untold.predicted, untold.scale = staticmethod(lambda v: 3.0 * v + 1.0), "clr"

    _, found, mean = cross(files)

    assert all(np.isnan(found[f"mse_{way}"]) for way in ("features", "cells", "flat"))
    assert np.isfinite(mean["mse_flat"])
    for name in ("pearson_features", "spearman_features", "pearson_cells", "spearman_flat"):
        assert found[name] == pytest.approx(wanted[name], abs=1e-5)


def test_cells_without_a_prediction_are_counted(untold, files):
    untold.scale = "log1p"

    def holes(values):
        values = values.copy()
        values[:2] = np.nan
        return values

    untold.predicted = staticmethod(holes)

    _, found, mean = cross(files)

    assert (found["n_not_predicted"], mean["n_not_predicted"]) == (12, 0)
    assert np.isfinite(found["pearson_features"])


@pytest.mark.parametrize("scale", ["none", "binary"])
def test_the_scale_of_a_comparison_is_an_option(translator, files, scale):
    _, scores, mean = cross(files, options={"scale": scale})

    # The toy predicts log1p, which is neither of the two.
    assert np.isnan(scores["mse_flat"])
    assert np.isfinite(mean["mse_flat"])
    assert scores["spearman_features"] > 0.1


def test_an_unknown_scale_is_refused_before_anything_runs(translator, files):
    asked = study(
        "cross-modality",
        ("toy-translator",),
        data=(DataEntry("cells", "cells.h5mu", target="prot"),),
        splits=(SplitEntry("group"),),
        options={"scale": "clr"},
    )

    with pytest.raises(UsageError, match=r"scale is 'clr'.*log1p, none, binary.*E-B09"):
        plan(asked, task_named("cross-modality"), files)


@pytest.mark.parametrize(
    ("scale", "said", "same", "logged"),
    [
        ("log1p", None, True, True),
        ("log1p", "counts", True, True),
        ("log1p", "log1p", True, False),
        ("log1p", "tfidf", False, False),
        ("none", None, True, False),
        ("none", "none", True, False),
        ("none", "log1p", False, False),
        ("binary", None, False, False),
        ("binary", "binary", True, False),
    ],
)
def test_a_prediction_is_brought_to_the_scale_where_that_can_be_done(scale, said, same, logged):
    expected = np.array([[-0.5, 0.0, 3.0]])

    found, could = brought_to(expected, scale, said)

    assert could == same
    assert found.tolist() == (np.log1p([[0.0, 0.0, 3.0]]) if logged else expected).tolist()


def test_values_that_are_no_counts_are_compared_as_they_are():
    counts, others = sparse.csr_matrix([[0.0, 3.0]]), sparse.csr_matrix([[0.0, 2.5]])
    negative, holes = sparse.csr_matrix([[-1.0, 2.0]]), sparse.csr_matrix([[np.nan, 2.0]])

    asked = {name: compared_on("log1p", v) for name, v in locals().items()}

    assert asked == {"counts": "log1p", "others": "none", "negative": "none", "holes": "log1p"}
    assert compared_on("binary", others) == "binary"


def test_what_was_not_measured_stays_so_on_every_scale():
    values = sparse.csr_matrix([[np.nan, 2.0, 0.0], [1.0, 4.0, 0.0]])

    assert np.isnan(on_scale(values, "log1p").toarray()[0, 0])
    binary = on_scale(values, "binary").toarray()
    np.testing.assert_array_equal(binary, [[np.nan, 1, 0], [1, 1, 0]])
    np.testing.assert_array_equal(feature_means(values), [1.0, 3.0, 0.0])


# --- data sets ----------------------------------------------------------------------------------


def test_a_missing_target_is_said(tmp_path):
    pairs(60).mod["rna"].write_h5ad(tmp_path / "cells.h5ad")

    with pytest.raises(UsageError, match=r"obsm has no 'counts'.*E-B05"):
        load_data(DataEntry("c", "cells.h5ad", target="obsm:counts"), tmp_path, labels=False)


def test_two_files_must_hold_the_same_target(tmp_path):
    for name, keep in (("one", 6), ("two", 5)):
        both = pairs(60)
        cells = both.mod["rna"].copy()
        cells.obsm["counts"] = both.mod["prot"].X[:, :keep]
        cells.write_h5ad(tmp_path / f"{name}.h5ad")
    data = DataEntry("c", "one.h5ad", query="two.h5ad", target="obsm:counts")

    with pytest.raises(InputDataError, match=r"do not hold the same features.*6 and 5"):
        load_data(data, tmp_path, labels=False)


def test_baselines_are_compared_and_the_floor_is_among_them(files):
    asked = study(
        "cross-modality",
        ("ridge",),
        data=(DataEntry("cells", "cells.h5mu", target="prot"),),
        splits=(SplitEntry("group"),),
        floor=True,
    )

    runs = plan(asked, task_named("cross-modality"), files).runs

    found = {run.model.shown: perform(run) for run in runs}
    assert set(found) == {"ridge", "feature-mean"}
    floor, mean = (
        {m: v for (c, m), v in found["feature-mean"].scores.items() if c == k} for k in ("", MEAN)
    )
    assert floor == pytest.approx(mean, rel=1e-5, nan_ok=True)
    assert found["ridge"].scores["", "pearson_features"] > 0.5
    assert found["ridge"].scores["", "mse_flat"] < floor["mse_flat"]


def test_a_study_that_no_installed_model_can_do_says_so(tmp_path, monkeypatch):
    others = {n: s for n, s in plugins.models().items() if "translation" not in s.capabilities}
    monkeypatch.setattr(plugins, "models", lambda: others)
    asked = study("cross-modality", ("installed",), data=(entry(target="obsm:X_p"),))

    with pytest.raises(UsageError, match=r"no installed model can do 'translation'"):
        plan(asked, task_named("cross-modality"), tmp_path)
