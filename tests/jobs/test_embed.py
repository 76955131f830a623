"""The vector of every cell: the same as in Python, whatever file it goes to."""

from __future__ import annotations

import gzip
import hashlib

import anndata
import numpy as np
import pandas as pd
import pytest

from episome.data import open_source, simulate_cells
from episome.errors import InputFileError, PluginError, UsageError
from episome.inference import Predictor
from episome.io import _blocks
from episome.jobs import EmbedRequest, TrainRequest, embed, train
from episome.models import load

READERS = {
    ".csv": lambda p: pd.read_csv(p, index_col=0),
    ".csv.gz": lambda p: pd.read_csv(p, index_col=0),
    ".tsv": lambda p: pd.read_csv(p, index_col=0, sep="\t"),
    ".tsv.gz": lambda p: pd.read_csv(p, index_col=0, sep="\t"),
    ".parquet": pd.read_parquet,
}


@pytest.fixture(scope="module")
def model(files, tmp_path_factory):
    path = tmp_path_factory.mktemp("embedder") / "pca"
    wanted = {"model": {"n_components": 4}, "setup": {}}
    train(TrainRequest(input=files / "reference.h5ad", output=path, method="pca", **wanted))
    return path


@pytest.fixture(scope="module")
def query(tmp_path_factory):
    """230 cells with all that an h5ad may hold."""
    cells = simulate_cells(230, 40, n_types=3, n_donors=5, seed=0)
    cells.obs["_scvi_batch"] = 0
    cells.obsm["X_umap"] = np.ones((230, 2), dtype=np.float32)
    cells.layers["counts"] = cells.X.copy()
    cells.uns["title"] = "a study"
    cells.uns["_scvi_uuid"] = "x"
    cells.uns["episome"] = {"model": "what called them"}
    cells.raw = cells.copy()
    path = tmp_path_factory.mktemp("query") / "query.h5ad"
    cells.write_h5ad(path)
    return path


@pytest.fixture(scope="module")
def known(model, query):
    cells = anndata.read_h5ad(query)
    return pd.DataFrame(
        load(model).get_latent_representation(cells),
        cells.obs_names,
        [f"latent_{i}" for i in range(1, 5)],
    )


def ask(query, model, output, **kwargs):
    return EmbedRequest(query, model, output, **{"device": "cpu", **kwargs})


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("suffix", sorted(READERS))
def test_a_table_has_names_and_dimensions(query, model, known, tmp_path, suffix, monkeypatch):
    monkeypatch.setattr(_blocks, "_ROWS", 64)
    before = digest(query)

    found = embed(ask(query, model, tmp_path / f"e{suffix}", batch_size=50))

    table = READERS[suffix](tmp_path / f"e{suffix}")
    assert (found.n_obs, found.n_vars, found.n_latent) == (230, 40, 4)
    assert found.embedding is None
    assert list(table.columns) == list(known.columns)
    assert list(table.index) == list(known.index)
    np.testing.assert_allclose(table, known, rtol=1e-5, atol=1e-5)
    assert digest(query) == before


def test_an_array_is_the_embedding(query, model, known, tmp_path):
    embed(ask(query, model, tmp_path / "e.npy", batch_size=50))

    array = np.load(tmp_path / "e.npy", allow_pickle=False)
    assert array.dtype == np.float32
    np.testing.assert_allclose(array, known, rtol=1e-5, atol=1e-5)


def test_without_a_file_the_table_is_in_memory(query, model, known):
    found = embed(ask(query, model, None))

    pd.testing.assert_frame_equal(found.embedding, known, check_exact=True)


def test_compressed_text_is_the_text_and_the_same_every_time(query, model, tmp_path):
    embed(ask(query, model, tmp_path / "a.csv"))
    for name in ("b.csv.gz", "c.csv.gz"):
        embed(ask(query, model, tmp_path / name))

    packed = [(tmp_path / n).read_bytes() for n in ("b.csv.gz", "c.csv.gz")]
    assert packed[0] == packed[1]
    assert gzip.decompress(packed[0]) == (tmp_path / "a.csv").read_bytes()


def test_an_h5ad_is_a_copy_with_the_array_in_obsm(query, model, known, tmp_path):
    before = digest(query)

    found = embed(ask(query, model, tmp_path / "e.h5ad", batch_size=50))

    made, given = anndata.read_h5ad(tmp_path / "e.h5ad"), anndata.read_h5ad(query)
    assert found.key == "X_pca"
    np.testing.assert_allclose(made.obsm["X_pca"], known, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(made.obsm["X_umap"], given.obsm["X_umap"])
    for a, b in ((made.X, given.X), (made.raw.X, given.raw.X)):
        assert (a != b).nnz == 0
    assert (made.layers["counts"] != given.layers["counts"]).nnz == 0
    pd.testing.assert_frame_equal(made.obs, given.obs.drop(columns="_scvi_batch"))
    assert set(made.uns) == {"title", "episome", "episome_embed"}
    assert made.uns["episome"] == {"model": "what called them"}
    assert made.uns["episome_embed"]["X_pca"]["model"] == "PCAEmbedding"
    assert digest(query) == before


def test_cells_of_another_kind_of_file_give_the_same_h5ad(query, model, known, tmp_path):
    cells = anndata.read_h5ad(query)
    cells.raw = None
    cells.write_zarr(tmp_path / "query.zarr")

    embed(ask(tmp_path / "query.zarr", model, tmp_path / "e.h5ad"))

    made = anndata.read_h5ad(tmp_path / "e.h5ad")
    np.testing.assert_allclose(made.obsm["X_pca"], known, rtol=1e-5, atol=1e-5)
    assert set(made.uns) == {"title", "episome", "episome_embed"}
    assert made.uns["episome"] == {"model": "what called them"}
    assert (made.X != cells.X).nnz == 0


def test_a_second_embedding_is_added_under_its_own_key(query, model, tmp_path):
    embed(ask(query, model, tmp_path / "one.h5ad"))

    with pytest.raises(UsageError, match=r"'X_pca'.*one\.h5ad.*--key-added.*E-L16"):
        embed(ask(tmp_path / "one.h5ad", model, tmp_path / "two.h5ad"))
    assert not (tmp_path / "two.h5ad").exists()
    embed(ask(tmp_path / "one.h5ad", model, tmp_path / "two.h5ad", key_added="X_mine"))
    embed(ask(tmp_path / "one.h5ad", model, tmp_path / "new.h5ad", overwrite_columns=True))

    two, new = (anndata.read_h5ad(tmp_path / f"{n}.h5ad") for n in ("two", "new"))
    np.testing.assert_array_equal(two.obsm["X_mine"], two.obsm["X_pca"])
    assert set(two.uns["episome_embed"]) == {"X_pca", "X_mine"}
    assert set(new.obsm) == {"X_umap", "X_pca"}


def test_several_files_are_embedded_in_blocks(query, model, known, tmp_path):
    cells = anndata.read_h5ad(query)
    (tmp_path / "parts").mkdir()
    cells[:90].copy().write_h5ad(tmp_path / "parts" / "a.h5ad")
    cells[90:, ::-1].copy().write_h5ad(tmp_path / "parts" / "b.h5ad")

    embed(ask(tmp_path / "parts", model, tmp_path / "e.csv"))

    table = pd.read_csv(tmp_path / "e.csv", index_col=0)
    assert list(table.index) == list(open_source(tmp_path / "parts").obs_names)
    np.testing.assert_allclose(table, known.loc[table.index], rtol=1e-4, atol=1e-5)
    with pytest.raises(UsageError, match=r"an h5ad with the embedding.*several files.*E-U09"):
        embed(ask(tmp_path / "parts", model, tmp_path / "e.h5ad"))


def test_chosen_cells_are_embedded_alone(query, model, known, tmp_path):
    cells = anndata.read_h5ad(query)
    of = cells.obs["cell_type"].iloc[0]

    found = embed(ask(query, model, None, where=(f"cell_type={of}",)))

    pd.testing.assert_frame_equal(
        found.embedding, known[(cells.obs["cell_type"] == of).to_numpy()], rtol=1e-5
    )
    with pytest.raises(UsageError, match=r"some conditions in query\.h5ad.*embedding\.csv.*E-U09"):
        embed(ask(query, model, tmp_path / "e.h5ad", where=(f"cell_type={of}",)))


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".npy", ".h5ad"])
def test_no_cells_have_no_vectors(query, model, tmp_path, suffix):
    cells = anndata.read_h5ad(query)[:0].copy()
    cells.raw = None
    cells.write_h5ad(tmp_path / "none.h5ad")

    found = embed(ask(tmp_path / "none.h5ad", model, tmp_path / f"e{suffix}"))

    assert found.n_obs == 0
    if suffix == ".npy":
        assert len(np.load(tmp_path / "e.npy")) == 0
    elif suffix == ".h5ad":
        assert len(anndata.read_h5ad(tmp_path / "e.h5ad").obsm["X_pca"]) == 0
    else:
        assert len(READERS[suffix](tmp_path / f"e{suffix}")) == 0


def test_progress_counts_the_cells(query, model):
    seen = []

    embed(ask(query, model, None, batch_size=100), progress=lambda *counts: seen.append(counts))

    assert seen == [(100, 230), (200, 230), (230, 230)]


def test_only_one_batch_is_held_at_a_time(query, model, tmp_path, monkeypatch):
    """Every block is on its way to the file before the next is made."""
    order, stream = [], Predictor.stream

    def watched(self, *args, **kwargs):
        for out in stream(self, *args, **kwargs):
            order.append("made")
            yield out

    def written(blocks, *args):
        for block in blocks:
            order.append("taken")
            yield block

    monkeypatch.setattr(Predictor, "stream", watched)
    fill = _blocks._fill
    monkeypatch.setattr(_blocks, "_fill", lambda arrays, blocks: fill(arrays, written(blocks)))

    embed(ask(query, model, tmp_path / "e.h5ad", batch_size=100))

    assert order == ["made", "taken"] * 3


@pytest.fixture(scope="module")
def other(files, tmp_path_factory):
    """A model without an embedding."""
    path = tmp_path_factory.mktemp("other") / "centroid"
    setup = {"labels_key": "cell_type"}
    train(
        TrainRequest(input=files / "reference.h5ad", output=path, method="centroid", setup=setup)
    )
    return path


def test_a_model_without_an_embedding_is_refused_before_anything_is_read(
    query, other, tmp_path, monkeypatch
):
    monkeypatch.setattr(Predictor, "from_folder", lambda *a, **k: pytest.fail("weights were read"))

    with pytest.raises(
        UsageError,
        match=r"centroid has not the capability 'embedding'.*capabilities are annotation.*"
        r"train one of .*pca.*E-U12",
    ):
        embed(ask(query, other, tmp_path / "e.csv"))
    assert list(tmp_path.iterdir()) == []


def test_an_ensemble_has_no_embedding(files, query, tmp_path):
    setup = {"labels_key": "cell_type"}
    request = TrainRequest(
        input=files / "reference.h5ad",
        output=tmp_path / "two",
        method="knn",
        setup=setup,
        n_models=2,
    )
    train(request)

    with pytest.raises(UsageError, match=r"an ensemble of knn.*one member.*E-U12"):
        embed(ask(query, tmp_path / "two", None))
    member = embed(ask(query, tmp_path / "two" / "members" / "0", None))
    assert member.n_obs == 230


@pytest.mark.parametrize(
    ("name", "options", "error", "text"),
    [
        ("e.xlsx", {}, UsageError, r"\.npy.*E-U08"),
        ("e.h5ad", {"key_added": "a/b"}, UsageError, r"--key-added.*E-U22"),
        ("e.csv", {"where": ("kind=1",)}, UsageError, "E-U04"),
        ("e.csv", {"part": "test"}, UsageError, "E-U34"),
        ("e.csv", {"device": "tpu"}, UsageError, "E-U25"),
    ],
)
def test_mistakes_are_refused_and_nothing_is_written(
    query, model, tmp_path, name, options, error, text
):
    with pytest.raises(error, match=text):
        embed(ask(query, model, tmp_path / name, **options))

    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_there_stays(query, model, tmp_path):
    path = tmp_path / "e.csv"
    path.write_text("mine")

    with pytest.raises(InputFileError, match="E-F26"):
        embed(ask(query, model, path))
    assert path.read_text() == "mine"
    embed(ask(query, model, path, overwrite=True))
    assert len(pd.read_csv(path)) == 230


@pytest.mark.parametrize("name", ["e.csv", "e.npy", "e.h5ad"])
def test_a_run_that_stops_leaves_what_was_there(query, model, tmp_path, name, monkeypatch):
    path = tmp_path / name
    path.write_text("mine")
    stream = Predictor.stream

    def stops(self, *args, **kwargs):
        yield next(stream(self, *args, **kwargs))
        raise PluginError("E-P06", "the core gives nonsense")

    monkeypatch.setattr(Predictor, "stream", stops)

    with pytest.raises(PluginError):
        embed(ask(query, model, path, overwrite=True, batch_size=50))

    assert [p.name for p in tmp_path.iterdir()] == [name]
    assert path.read_text() == "mine"
