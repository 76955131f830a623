"""`MarkerScore`: tables in every form, scores written out, real markers on real cells."""

from __future__ import annotations

import gzip
import logging
import os
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from scipy.special import softmax
from scipy.stats import ttest_ind

from episome import models
from episome.data import FeatureSpace, Labels, simulate_cells
from episome.errors import EpisomeWarning, GeneMatchError, InputFileError, UsageError
from episome.models import TrainingCells
from episome_baselines import MarkerScore
from episome_baselines.marker_labels import type_of_labels
from episome_baselines.marker_table import read_markers
from episome_baselines.marker_weights import LEAST_SPREAD, known_markers, learned_weights, spread

GENES = ["CD79A", "MS4A1", "CD3D", "CD3E", "NKG7", "GNLY", "LYZ", "CD14", "ACTB", "GAPDH"]
TABLE = {
    "B cell": ["CD79A", "MS4A1", "-CD3D"],
    "T cell": ["CD3D", "CD3E"],
    "natural killer cell": ["NKG7", "GNLY", "-CD3E"],
    "monocyte": ["LYZ", "CD14"],
}
OF_TYPE = {"B cell": [0, 1], "T cell": [2, 3], "natural killer cell": [4, 5], "monocyte": [6, 7]}


def blood(n_cells: int = 120, seed: int = 0) -> anndata.AnnData:
    """Cells of four types that express their markers, and two genes that all have."""
    rng = np.random.default_rng(seed)
    names = list(OF_TYPE)
    codes = np.arange(n_cells) % 4
    mean = np.full((n_cells, len(GENES)), 0.3)
    mean[:, 8:] = 20.0
    for i, code in enumerate(codes):
        mean[i, OF_TYPE[names[code]]] = 15.0
    found = anndata.AnnData(sparse.csr_matrix(rng.poisson(mean).astype(np.float32)))
    found.var_names = GENES
    found.obs_names = [f"cell{i}" for i in range(n_cells)]
    found.obs["cell_type"] = pd.Categorical(np.array(names)[codes])
    return found


def logged(adata) -> np.ndarray:
    """The host's rule, written out."""
    counts = adata.X.toarray().astype(np.float64)
    return np.log1p(counts / np.maximum(counts.sum(1, keepdims=True), 1) * 1e4)


def fitted(adata, labels_key=None, markers=None, **kwargs):
    adata = adata.copy()
    MarkerScore.setup_anndata(adata, labels_key=labels_key)
    model = MarkerScore(adata, markers=markers, **kwargs)
    model.train()
    return model


# -- tables --------------------------------------------------------------------------------------


def frame() -> pd.DataFrame:
    rows = [
        (t, g.lstrip("-"), 1.0, "negative" if g[0] == "-" else "positive")
        for t, genes in TABLE.items()
        for g in genes
    ]
    return pd.DataFrame(rows, columns=["cell_type", "gene", "weight", "direction"])


def written(path: Path) -> Path:
    """A file of the table in the form of its name."""
    if ".gmt" in path.name:
        text = "".join("\t".join([t, "of the tests", *g]) + "\n" for t, g in TABLE.items())
    else:
        text = frame().to_csv(index=False, sep="," if ".csv" in path.name else "\t")
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


WANTED = {
    "B cell": {"CD79A": 1.0, "MS4A1": 1.0, "CD3D": -1.0},
    "T cell": {"CD3D": 1.0, "CD3E": 1.0},
    "natural killer cell": {"NKG7": 1.0, "GNLY": 1.0, "CD3E": -1.0},
    "monocyte": {"LYZ": 1.0, "CD14": 1.0},
}


@pytest.mark.parametrize("name", ["m.csv", "m.tsv", "m.txt", "m.gmt", "m.csv.gz", "m.gmt.gz"])
def test_files_of_every_form_give_one_table(tmp_path, name):
    path = written(tmp_path / name)

    assert read_markers(path) == WANTED
    assert read_markers(str(path)) == WANTED
    assert list(read_markers(path)) == list(TABLE)


def test_objects_of_every_form_give_one_table():
    signs = {
        t: {g.lstrip("-"): -1 if g[0] == "-" else 1 for g in genes} for t, genes in TABLE.items()
    }
    names = {"cell_type": "cell type", "gene": "official gene symbol"}
    other_names = frame().rename(columns=names)

    forms = [TABLE, {t: tuple(g) for t, g in TABLE.items()}, signs, frame(), other_names, WANTED]

    assert all(read_markers(form) == WANTED for form in forms)


def test_a_marker_named_twice_keeps_its_larger_weight():
    table = pd.DataFrame(
        {"cell_type": ["a", "a", "b"], "gene": ["G", "G", "H"], "weight": ["0.5", 2, -3]}
    )

    assert read_markers(table) == {"a": {"G": 2.0}, "b": {"H": -3.0}}


@pytest.mark.parametrize(
    ("markers", "match"),
    [
        ({}, "names no marker"),
        ({"a": []}, "names no marker"),
        ({"a": "CD3D"}, "the markers of 'a' are 'CD3D'"),
        ({"a": {"CD3D": "much"}}, "'much' is no number"),
        ({"a": {"CD3D": 0}}, r"weight 0\.0 of CD3D for 'a' is none"),
        ({"a": {"CD3D": float("nan")}}, "weight nan"),
        ({"a": ["CD3D", "-CD3D"]}, "both for and against 'a'"),
        (3, "markers are a int"),
        (pd.DataFrame({"cell_type": ["a"], "x": ["CD3D"]}), "columns are cell_type, x"),
        (
            pd.DataFrame({"cell_type": ["a"], "gene": ["CD3D"], "direction": ["sideways"]}),
            "direction 'sideways'",
        ),
        ("markers.xlsx", "no .xlsx"),
    ],
)
def test_what_is_no_table_is_refused(markers, match):
    with pytest.raises(UsageError, match=rf"{match}.*E-U81"):
        read_markers(markers)


def test_a_file_that_is_not_there_or_no_table_is_refused(tmp_path):
    torn = tmp_path / "torn.csv"
    torn.write_text('cell_type,gene\n"a,b\n')

    with pytest.raises(InputFileError, match="does not exist.*E-F07"):
        read_markers(tmp_path / "none.csv")
    with pytest.raises(InputFileError, match="cannot be read.*E-F22"):
        read_markers(torn)


# -- scores --------------------------------------------------------------------------------------


def test_scores_are_weighted_means_of_scaled_values():
    train, query = blood(), blood(40, seed=1)
    values, asked = logged(train), logged(query)
    scale = np.sqrt(np.maximum(values.std(axis=0), LEAST_SPREAD))
    wanted = np.stack(
        [
            sum(w * asked[:, GENES.index(g)] / scale[GENES.index(g)] for g, w in genes.items())
            / sum(abs(w) for w in genes.values())
            for genes in WANTED.values()
        ],
        axis=1,
    )

    model = fitted(train, markers=TABLE)

    assert model.labels.names == tuple(TABLE)
    assert model.fit_["scale"] == 10.0
    np.testing.assert_allclose(
        model.predict_proba(query), softmax(10.0 * wanted, axis=1), atol=1e-4
    )
    assert (model.predict(query) == query.obs["cell_type"].astype(str)).mean() > 0.9


def test_spread_is_the_standard_deviation():
    values = logged(blood())

    np.testing.assert_allclose(spread(sparse.csr_matrix(values)), values.std(axis=0), atol=1e-6)


def test_a_cell_without_a_marker_gets_equal_probabilities():
    query = blood(4)
    query.X = sparse.csr_matrix(query.X.toarray() * (np.arange(10) >= 8))

    found = fitted(blood(), markers=TABLE).predict_proba(query)

    np.testing.assert_allclose(found, 0.25)


def test_learned_markers_are_those_of_the_t_statistic():
    cells = simulate_cells(120, 40, n_types=3, n_donors=2, seed=0)
    values, codes = logged(cells), cells.obs["cell_type"].cat.codes.to_numpy().astype(np.int64)

    weights = learned_weights(
        TrainingCells(sparse.csr_matrix(values), codes, None, 3, 0), n_markers=5
    )

    for code in range(3):
        inside, outside = values[codes == code], values[codes != code]
        t = ttest_ind(inside, outside, equal_var=False).statistic
        found = np.flatnonzero(weights[code])
        # The floor under the noise changes the order of the first ones at most.
        assert set(found) <= set(np.argsort(-t)[:10])
        assert len(found) == min(5, (t > 0).sum())
        np.testing.assert_allclose(
            weights[code, found],
            1 / len(found) / np.sqrt(np.maximum(values.std(axis=0)[found], LEAST_SPREAD)),
            rtol=1e-5,
        )


def test_without_a_table_markers_are_learned_from_labels():
    model = fitted(blood(), labels_key="cell_type", n_markers=2)
    weights = model.module.arrays["weights"]

    found = {
        name: sorted(np.array(GENES)[model.module.arrays["genes"][row > 0]])
        for name, row in zip(model.labels.names, weights, strict=True)
    }

    assert found == {t: sorted(np.array(GENES)[i]) for t, i in OF_TYPE.items()}
    assert model.confidence_.is_calibrated


# -- genes ---------------------------------------------------------------------------------------


def test_markers_are_found_by_symbol_and_by_identifier():
    ids = tuple(f"ENSG0000000000{i}" for i in range(4))
    features = FeatureSpace(ids, {"feature_name": ("CD79A", "CD3D", "LYZ", "ACTB")})

    with pytest.warns(EpisomeWarning, match=r"markers that the data do not have.*1 of 5.*FOXP9"):
        kept = known_markers(
            {"b": {"CD79A": 1.0, "FOXP9": 1.0}, "t": {"CD3D": 1.0}, "m": {ids[2]: 1, ids[3]: 1}},
            features,
        )

    assert kept == {"b": {"CD79A": 1.0}, "t": {"CD3D": 1.0}, "m": {ids[2]: 1, ids[3]: 1}}


def test_a_type_without_a_marker_is_dropped_and_named():
    with (
        pytest.warns(EpisomeWarning, match=r"2 of 10, first: XYZ1, XYZ2.*E-G23"),
        pytest.warns(EpisomeWarning, match=r"types without a marker.*1 of 5, first: odd.*E-G24"),
    ):
        model = fitted(blood(), markers={**TABLE, "odd": ["XYZ1", "XYZ2", "-CD3D"]})

    assert "odd" not in model.labels.names
    assert model.predict_proba(blood()).shape == (120, 4)


def test_a_table_that_fits_no_gene_is_refused():
    with (
        pytest.warns(EpisomeWarning, match="E-G23"),
        pytest.raises(GeneMatchError, match=r"2 of 2, first: a, b.*E-G24"),
    ):
        fitted(blood(), markers={"a": ["XYZ1"], "b": ["XYZ2"]})


# -- labels --------------------------------------------------------------------------------------


def test_neither_table_nor_labels_is_refused():
    with pytest.raises(UsageError, match=r"neither a table of markers nor.*E-U80"):
        fitted(blood())


def test_no_marker_per_class_is_refused():
    with pytest.raises(UsageError, match=r"n_markers=0.*E-U31"):
        fitted(blood(), labels_key="cell_type", n_markers=0)


def test_arguments_of_labels_need_labels():
    with pytest.raises(UsageError, match=r"unlabeled_category, unlabeled.*E-U24"):
        MarkerScore.setup_anndata(blood(), unlabeled="keep", unlabeled_category="none")


def test_labels_only_calibrate_where_there_is_a_table(caplog):
    train, query = blood(), blood(40, seed=1)
    train.obs["mine"] = train.obs["cell_type"].astype(str).replace({"monocyte": "odd"})
    plain = fitted(train, markers=TABLE)

    with caplog.at_level(logging.INFO):
        model = fitted(train, labels_key="mine", markers=TABLE)

    assert "3 of 4 labels are types of the marker table" in caplog.text
    assert model.labels.names == tuple(TABLE)
    assert model.fit_["n_cells"] == 120
    assert model.fit_["n_labelled"] == 90
    assert model.confidence_.is_calibrated
    assert not plain.confidence_.is_calibrated
    assert np.array_equal(model.module.arrays["weights"], plain.module.arrays["weights"])
    assert (model.predict(query) == query.obs["cell_type"].astype(str)).mean() > 0.9


def test_labels_that_match_nothing_leave_the_model_as_without_labels():
    train = blood()
    train.obs["mine"] = train.obs["cell_type"].astype(str).map(lambda t: f"cluster {t[:3]}")

    model = fitted(train, labels_key="mine", markers=TABLE)

    assert model.fit_["n_labelled"] == 0
    assert not model.confidence_.is_calibrated


def test_labels_are_matched_by_name_then_by_the_ontology():
    labels = Labels(
        ("b CELL", "CD14+ Mono", "CD8 T", "odd", "cell"),
        ("", "CL:0001054", "CL:0000625", "", "CL:0000000"),
    )
    types = Labels(
        ("B cell", "Monocytes", "T cells", "CD8 cells"),
        ("CL:0000236", "CL:0000576", "CL:0000084", "CL:0000625"),
    )

    assert type_of_labels(labels, types).tolist() == [0, 1, 3, -1, -1]


def test_models_of_one_object_keep_their_own_classes():
    train = blood()
    MarkerScore.setup_anndata(train, labels_key="cell_type")
    learned = MarkerScore(train)
    given = MarkerScore(train, markers={"x": ["CD3D"], "y": ["LYZ"]})

    assert learned.labels.names == tuple(sorted(TABLE))
    assert given.labels.names == ("x", "y")


@pytest.mark.parametrize("labels_key", [None, "cell_type"])
def test_a_saved_model_gives_the_same_calls(tmp_path, labels_key):
    train, query = blood(), blood(40, seed=1)
    model = fitted(train, labels_key=labels_key, markers=TABLE)
    model.save(tmp_path / "model")

    alone = models.load(tmp_path / "model")
    with_data = models.load(tmp_path / "model", adata=train.copy())
    with_data.train()

    wanted = model.annotate(query)
    assert alone.labels == model.labels
    pd.testing.assert_frame_equal(alone.annotate(query), wanted)
    pd.testing.assert_frame_equal(with_data.annotate(query), wanted)
    assert wanted["label_ontology_term_id"].str.startswith("CL:").all()


def test_the_objects_of_the_user_stay_as_they_are():
    train, table = blood(), frame()
    MarkerScore.setup_anndata(train)
    before = set(train.obs.columns), set(train.uns)

    MarkerScore(train, markers=table).train()

    assert (set(train.obs.columns), set(train.uns)) == before
    assert set(train.obs.columns) == {"cell_type"}
    pd.testing.assert_frame_equal(table, frame())


# -- real cells ----------------------------------------------------------------------------------

DATA = Path(os.environ.get("EPISOME_TEST_DATA", "")) / "data"
PANGLAO = DATA / "resources" / "panglaodb_markers_2020-03-27.tsv.gz"
LINEAGES = {
    "B cells": ["B"],
    "NK cells": ["NK"],
    "Monocytes": ["CD14+ Mono", "FCGR3A+ Mono"],
    "T cells": ["CD8 T", "Memory CD4 T", "Naive CD4 T"],
    "Dendritic cells": ["DC"],
    "Platelets": ["Platelet"],
}


@pytest.mark.skipif(not PANGLAO.is_file(), reason="EPISOME_TEST_DATA has no marker table")
@pytest.mark.filterwarnings("ignore::episome.errors.EpisomeWarning")
def test_public_markers_call_blood_without_labels(tmp_path):
    table = pd.read_csv(PANGLAO, sep="\t", dtype=object, keep_default_na=False)
    table = table[table["cell type"].isin(LINEAGES) & table["species"].str.contains("Hs")]
    table.to_csv(tmp_path / "markers.tsv", sep="\t", index=False)
    cells = anndata.read_h5ad(DATA / "pbmc3k.h5ad")
    lineage = {label: name for name, labels in LINEAGES.items() for label in labels}
    truth = cells.obs["cell_type_label"].astype(str).map(lineage).to_numpy()

    called = fitted(cells, markers=tmp_path / "markers.tsv").predict(cells)

    share = {t: (called[truth == t] == t).mean() for t in LINEAGES}
    assert (called == truth).mean() > 0.88
    assert all(share[t] > 0.8 for t in ("B cells", "NK cells", "Monocytes", "T cells"))
