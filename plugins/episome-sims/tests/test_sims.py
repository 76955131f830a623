"""SIMS's own promises; what every model must keep is in the conformance kit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from scipy import sparse
from sklearn.metrics import f1_score

from episome.data import simulate_cells
from episome.errors import EpisomeWarning, UsageError
from episome.models import SIMS
from episome_sims.presets import (
    PUBLISHED,
    SMALL_BELOW,
    VENTI_FROM,
    training_defaults,
    values_for,
)

if TYPE_CHECKING:
    from anndata import AnnData

SIZES = {"n_d": 8, "n_a": 4}
SCALINGS = ("none", "l2", "zscore_train")


@pytest.fixture(scope="module")
def trained() -> SIMS:
    model = SIMS(simulate_cells(200, 120, seed=0), **SIZES)
    model.train(max_epochs=4, accelerator="cpu")
    return model


@pytest.fixture
def query() -> AnnData:
    return simulate_cells(30, 120, seed=0)


# --- presets --------------------------------------------------------------------------------


def test_preset_auto_follows_the_number_of_cells() -> None:
    assert values_for("auto", SMALL_BELOW - 1, 2000)[0] == "small"
    assert values_for("auto", SMALL_BELOW, 2000)[0] == "grande"
    assert values_for("auto", VENTI_FROM - 1, 2000)[0] == "grande"
    assert values_for("auto", VENTI_FROM, 2000)[0] == "venti"


@pytest.mark.parametrize(
    ("preset", "width"), [("tall", 8), ("grande", 32), ("venti", 64), ("trenta", 128)]
)
def test_preset_has_the_published_values(preset: str, width: int) -> None:
    name, values = values_for(preset, 1000, 2000)
    defaults = training_defaults(preset, 1000)

    assert name == preset
    assert values == {**PUBLISHED, "n_d": width, "n_a": width}
    names = ("n_steps", "n_shared", "n_independent", "gamma", "virtual_batch_size", "momentum")
    assert [PUBLISHED[k] for k in names] == [3, 2, 2, 1.3, 128, 0.02]
    assert (PUBLISHED["mask"], PUBLISHED["lambda_sparse"]) == ("sparsemax", 1e-3)
    assert defaults["max_epochs"] == 500
    assert defaults["early_stopping_patience"] == 50
    assert defaults["plan_kwargs"] == {
        "lr": 0.01,
        "weight_decay": 0.01,
        "lr_schedule": "plateau",
        "lr_decay": 0.75,
        "lr_patience": 20,
    }


def test_preset_small_spares_the_genes_of_a_panel() -> None:
    dropouts = [values_for("small", 1000, n)[1]["dropout"] for n in (100, 500, 2000, 20_000)]

    assert dropouts == [0.0, 0.3, 0.7, 0.85]


def test_preset_is_kept_by_the_model_and_its_folder(tmp_path: Path) -> None:
    model = SIMS(simulate_cells(40, 30), preset="tall", n_steps=2)
    model.train(max_epochs=1, batch_size=20, accelerator="cpu")
    model.save(tmp_path / "model")

    loaded = SIMS.load(tmp_path / "model")

    assert loaded.preset == "tall"
    config = loaded.module.config
    assert (config["n_d"], config["n_a"], config["n_steps"]) == (8, 8, 2)
    manifest = json.loads((tmp_path / "model" / "manifest.json").read_text())
    assert manifest["model"]["spec"] == "sims"


def test_words_that_there_are_not_are_refused() -> None:
    adata = simulate_cells(40, 30)

    with pytest.raises(UsageError, match=r"preset='huge'.*\"trenta\".*E-U23"):
        SIMS(adata, preset="huge")
    with pytest.raises(UsageError, match=r"input_scaling.*zscore_train.*E-U30"):
        SIMS(adata, input_scaling="zscore")


# --- ranked labels --------------------------------------------------------------------------


def test_ranked_labels_are_those_of_the_probabilities(trained: SIMS, query: AnnData) -> None:
    probabilities = trained.predict_proba(query)

    ranked = trained.ranked(query, k=3)

    assert list(ranked.columns) == [
        f"{name}_{i}" for i in (1, 2, 3) for name in ("label", "probability")
    ]
    assert ranked.index.equals(query.obs_names)
    assert np.array_equal(ranked["label_1"], trained.predict(query))
    for i, (_, row) in enumerate(ranked.iterrows()):
        order = probabilities.iloc[i].sort_values(ascending=False)
        assert [row[f"label_{j}"] for j in (1, 2, 3)] == list(order.index[:3])
        assert [row[f"probability_{j}"] for j in (1, 2, 3)] == pytest.approx(list(order[:3]))


def test_ranked_labels_of_some_cells_and_of_empty_ones(trained: SIMS, query: AnnData) -> None:
    counts = query.X.toarray()
    counts[3] = 0
    query.X = sparse.csr_matrix(counts)

    some = trained.ranked(query, k=99, indices=[3, 1])
    nothing = trained.ranked(query[:0], k=2)

    assert list(some.index) == list(query.obs_names[[3, 1]])
    assert some.shape[1] == 2 * len(trained.labels)
    assert some.iloc[0]["label_1"] == "unknown"
    assert np.isnan(some.iloc[0]["probability_1"])
    assert nothing.shape == (0, 4)
    with pytest.raises(UsageError, match=r"k=0.*E-U22"):
        trained.ranked(query, k=0)


# --- stability ------------------------------------------------------------------------------


def test_stability_compares_trainings(query: AnnData) -> None:
    adata = simulate_cells(150, 60, n_types=3, marker_share=0.1, seed=0)
    model = SIMS(adata, **SIZES)

    found = model.explanation_stability(
        seeds=2, k=10, train_kwargs={"max_epochs": 3, "accelerator": "cpu"}
    )

    assert not model.is_trained_
    assert set(found.genes.index) == set(model.features.ids)
    assert list(found.genes.columns) == [
        "gene_name", "mean", "dispersion", "mean_rank", "top_share",
    ]  # fmt: skip
    assert found.genes["mean_rank"].is_monotonic_increasing
    assert found.genes["top_share"].sum() == pytest.approx(10)
    assert found.jaccard.shape == (2, 2)
    assert 0 <= found.mean_jaccard < 1
    with pytest.raises(UsageError, match=r"seeds=1.*E-U22"):
        model.explanation_stability(seeds=1)


def test_stability_of_known_weights() -> None:
    from episome_sims.stability import compared

    weights = np.array([[4.0, 2.0, 0.0, 0.0], [1.0, 2.0, 1.0, 0.0]])

    found = compared(weights, ("a", "b", "c", "d"), ("A", "B", "C", "D"), k=2)

    genes = found.genes.loc[["a", "b", "c", "d"]]
    assert genes["mean"].tolist() == [0.75, 0.75, 0.25, 0.0]
    assert genes["dispersion"].tolist()[:3] == pytest.approx([0.0625 / 0.75] * 2 + [0.0625 / 0.25])
    assert np.isnan(genes["dispersion"].iloc[3])
    assert genes["mean_rank"].tolist() == [(1 + 2.5) / 2, 1.5, (3.5 + 2.5) / 2, (3.5 + 4) / 2]
    assert genes["top_share"].tolist() == [1.0, 1.0, 0.0, 0.0]
    assert found.mean_jaccard == 1.0
    assert found.genes.index[0] == "b"


# --- learning -------------------------------------------------------------------------------


@pytest.mark.slow
def test_learning_check_few_of_many_cells_are_enough() -> None:
    # The check of the method: 3 % of 20,000 cells.
    cells = simulate_cells(
        20_000, 500, n_types=6, n_donors=1, marker_share=0.05, depth=3000.0, seed=3
    )
    few = np.sort(np.random.default_rng(0).permutation(20_000)[:600])
    rest = np.setdiff1d(np.arange(20_000), few)[:5000]
    model = SIMS(cells[few].copy())

    model.train(accelerator="cpu")

    truth = cells.obs["cell_type"].to_numpy()[rest]
    assert f1_score(truth, model.predict(cells[rest]), average="macro") > 0.9


@pytest.mark.slow
def test_real_cells_are_called_smoke(tmp_path: Path) -> None:
    import os

    import anndata

    folder = os.environ.get("EPISOME_TEST_DATA")
    if not folder:
        pytest.skip("EPISOME_TEST_DATA is not set: real data are elsewhere")
    adata = anndata.read_h5ad(Path(folder) / "data" / "pbmc_facs_zheng.h5ad")
    known = adata.obs["facs_label"].astype(str).value_counts()
    adata = adata[adata.obs["facs_label"].astype(str).map(known).to_numpy() >= 5].copy()
    held_out = np.random.default_rng(0).permutation(adata.n_obs)
    train, test = adata[held_out[:1200]].copy(), adata[held_out[1200:1700]].copy()
    SIMS.setup_anndata(train, "facs_label")
    model = SIMS(train)
    model.train(max_epochs=30, refit=False, accelerator="cpu")

    truth = test.obs["facs_label"].astype(str).to_numpy()
    assert f1_score(truth, model.predict(test), average="macro") > 0.5


def test_query_that_lacks_genes_warns(trained: SIMS, query: AnnData) -> None:
    with pytest.warns(EpisomeWarning, match="E-G04"):
        trained.predict(query[:, :80])
