"""Another modality: the same as in Python, written block by block, and only what is there."""

from __future__ import annotations

import dataclasses
import hashlib
from types import SimpleNamespace

import _toy
import anndata
import mudata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from episome.data import open_source
from episome.errors import (
    EpisomeWarning,
    InputFileError,
    PluginError,
    ResourceError,
    UsageError,
)
from episome.inference import Predictor
from episome.io import _blocks
from episome.jobs import (
    PredictModalityRequest,
    TrainRequest,
    _written,
    predict_modality,
    train,
)

PLUGIN = """
from episome.plugins import ModelSpec, hookimpl

EPISOME_API = (1, 0)


@hookimpl
def episome_register_models():
    return (
        ModelSpec(
            "toy-translator",
            "_toy:ToyTranslator",
            "_toy:ToyTranslatorCore",
            "toy",
            capabilities=("translation",),
            modalities=("rna", "protein"),
        ),
    )
"""
READERS = {
    ".csv": lambda p: pd.read_csv(p, index_col=0),
    ".csv.gz": lambda p: pd.read_csv(p, index_col=0),
    ".tsv": lambda p: pd.read_csv(p, index_col=0, sep="\t"),
    ".parquet": pd.read_parquet,
}


def cells(n_cells, start):
    """Cells of two laboratories."""
    mdata = _toy.pairs(n_cells, start=start)
    mdata.mod["rna"].obs["lab"] = np.where(np.arange(n_cells) % 2, "a", "b")
    return mdata


@pytest.fixture(scope="module")
def translator():
    """A model that knows two batches; of 24 cells that were held out it has intervals."""
    mdata = cells(240, 0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_toy.ToyTranslator, "told_batches", True)
        _toy.ToyTranslator.setup_mudata(mdata, batch_key="lab")
        model = _toy.ToyTranslator(mdata)
        model.train(accelerator="cpu")
    return model


@pytest.fixture
def saved(install, translator, tmp_path):
    """Save the model, or one that knows other things, in a folder that a plugin can read."""
    install("toy", PLUGIN)

    def save(name="model", **facts):
        known = translator.target_
        try:
            translator.target_ = dataclasses.replace(known, **facts)
            translator.save(tmp_path / name)
        finally:
            translator.target_ = known
        return tmp_path / name

    return save


@pytest.fixture
def model(saved):
    return saved()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The same 60 cells, as h5ad and as MuData; the first has no gene of the model."""
    folder = tmp_path_factory.mktemp("queries")
    mdata = cells(60, 250)
    rna = mdata.mod["rna"]
    rna.obs["_scvi_batch"] = 0
    counts = rna.X.toarray()
    counts[0] = 0
    rna.X = sparse.csr_matrix(counts)
    rna.write_h5ad(folder / "query.h5ad")
    mdata.write(folder / "query.h5mu")
    return folder


@pytest.fixture
def query(files):
    return files / "query.h5ad"


def ask(query, model, output=None, **kwargs):
    return PredictModalityRequest(query, model, output, **{"device": "cpu", **kwargs})


def python(model, query, **kwargs):
    """What the model says in Python."""
    return _toy.ToyTranslator.load(model).predict_modality(anndata.read_h5ad(query), **kwargs)


pytestmark = pytest.mark.filterwarnings("ignore:.*E-D12", "ignore:.*E-D64")


# -- what is written -----------------------------------------------------------------------------


@pytest.mark.parametrize("interval", [None, 0.9])
def test_an_h5ad_holds_what_python_says(query, model, tmp_path, interval):
    before = hashlib.sha256(query.read_bytes()).hexdigest()
    wanted = python(model, query, interval=interval)

    found = predict_modality(ask(query, model, tmp_path / "p.h5ad", interval=interval))

    made = anndata.read_h5ad(tmp_path / "p.h5ad")
    assert made.X.dtype == np.float32
    np.testing.assert_array_equal(made.X, wanted.X)
    names = {k for k in made.layers if k is not None}
    assert names == (set() if interval is None else {"lower", "upper"})
    for name in names:
        np.testing.assert_array_equal(made.layers[name], wanted.layers[name])
    told = made.var.astype({"status": object})
    said = wanted.var.astype({"status": object})
    pd.testing.assert_frame_equal(told, said, check_index_type=False)
    kept = anndata.read_h5ad(query).obs.drop(columns="_scvi_batch")
    pd.testing.assert_frame_equal(made.obs, kept)
    assert set(made.uns) == {"episome", "scale", "unit"}
    assert (made.uns["scale"], made.uns["unit"]) == ("log1p", "log1p of counts")
    assert made.uns["episome"]["model"] == "ToyTranslator"
    assert made.uns["episome"].get("interval") == interval
    assert (found.n_obs, found.n_features, found.kind) == (60, 6, "protein")
    assert found.unit == "log1p of counts"
    assert sum(found.status.values()) == 6
    assert found.status == wanted.var["status"].value_counts().to_dict()
    assert found.predicted is None
    assert hashlib.sha256(query.read_bytes()).hexdigest() == before


def test_sparse_predictions_are_the_dense_ones_without_small_values(query, model, tmp_path):
    options = {"interval": 0.8, "batch_size": 13}
    wanted = python(model, query, sparse_below=1.5, batch_size=13)
    predict_modality(ask(query, model, tmp_path / "d.h5ad", **options))

    predict_modality(ask(query, model, tmp_path / "s.h5ad", sparse_below=1.5, **options))

    dense, made = (anndata.read_h5ad(tmp_path / f"{n}.h5ad") for n in "ds")
    assert isinstance(made.X, sparse.csr_matrix)
    assert made.X.dtype == np.float32
    assert 0 < made.X.nnz < dense.X.size
    np.testing.assert_array_equal(made.X.toarray(), np.where(dense.X < 1.5, 0, dense.X))
    assert (made.X != wanted.X).nnz == int(np.isnan(dense.X).sum())  # NaN is not itself
    for name in ("lower", "upper"):
        np.testing.assert_array_equal(made.layers[name], dense.layers[name])
    assert made.uns["episome"]["sparse_below"] == 1.5
    backed = anndata.read_h5ad(tmp_path / "s.h5ad", backed="r")
    part = backed[5:40].to_memory()
    backed.file.close()
    assert (made.X[5:40] != part.X).nnz == 0


@pytest.mark.parametrize("suffix", sorted(READERS))
def test_a_table_has_columns_for_the_ends_of_intervals(query, model, tmp_path, suffix):
    wanted = python(model, query, features=["CD4", "CD1"], interval=0.9)

    path = tmp_path / f"p{suffix}"
    predict_modality(ask(query, model, path, features=("CD4", "CD1", "CD4"), interval=0.9))

    table = READERS[suffix](path)
    ends = ("", "_lower", "_upper")
    assert list(table.columns) == [f"{n}{end}" for n in ("CD4", "CD1") for end in ends]
    assert list(table.index) == list(wanted.obs_names)
    parts = (wanted.X, wanted.layers["lower"], wanted.layers["upper"])
    for i, part in enumerate(parts):
        np.testing.assert_array_equal(table.iloc[:, i::3].astype(np.float32), part)


def test_a_table_may_leave_small_values_out_too(query, model):
    wanted = python(model, query, sparse_below=1.5).X.toarray()

    found = predict_modality(ask(query, model, sparse_below=1.5)).predicted

    np.testing.assert_array_equal(found, wanted)


def test_features_are_read_from_files(query, model, tmp_path):
    (tmp_path / "a.csv").write_text("protein,why\nCD5,known\nCD0,asked\n")

    found = predict_modality(ask(query, model, features=(str(tmp_path / "a.csv"), "CD2")))

    assert list(found.predicted.columns) == ["CD5", "CD0", "CD2"]
    assert found.n_features == 3


def test_cells_without_genes_of_the_model_are_nan_and_counted(query, model):
    found = predict_modality(ask(query, model, interval=0.9))

    assert found.n_empty == 1
    assert found.predicted.iloc[0].isna().all()
    assert found.predicted.iloc[1:].notna().all(axis=None)
    assert any(n.startswith("1 cells have no counts of the model's genes") for n in found.notes)


def test_intervals_of_a_query_that_lacks_genes_are_doubted(query, model, tmp_path):
    anndata.read_h5ad(query)[:, 3:].copy().write_h5ad(tmp_path / "lacks.h5ad")

    whole = predict_modality(ask(query, model, interval=0.9))
    lacking = predict_modality(ask(tmp_path / "lacks.h5ad", model, interval=0.9))
    plain = predict_modality(ask(tmp_path / "lacks.h5ad", model))

    said = [sum("may be too narrow" in n for n in r.notes) for r in (whole, lacking, plain)]
    assert said == [0, 1, 0]
    assert any(n.startswith("3 of the model's 40 genes are not in") for n in lacking.notes)


def test_order_of_genes_and_cells_and_blocks_change_nothing(query, model, tmp_path):
    rna = anndata.read_h5ad(query)
    order = np.random.default_rng(0).permutation(rna.n_obs)
    rna[order].copy()[:, ::-1].copy().write_h5ad(tmp_path / "turned.h5ad")
    wanted = predict_modality(ask(query, model)).predicted

    turned = predict_modality(ask(tmp_path / "turned.h5ad", model, batch_size=7)).predicted

    assert list(turned.index) == list(rna.obs_names[order])
    np.testing.assert_allclose(turned.loc[wanted.index], wanted, rtol=1e-5, atol=1e-5)


def test_cells_of_several_files_keep_their_columns(query, model, tmp_path):
    rna = anndata.read_h5ad(query)
    (tmp_path / "parts").mkdir()
    rna[:20].copy().write_h5ad(tmp_path / "parts" / "a.h5ad")
    rna[20:, ::-1].copy().write_h5ad(tmp_path / "parts" / "b.h5ad")
    wanted = predict_modality(ask(query, model)).predicted

    predict_modality(ask(tmp_path / "parts", model, tmp_path / "p.h5ad"))
    predict_modality(ask(query, model, tmp_path / "w.h5ad", where=("lab=a",), sparse_below=0.1))

    made, part = anndata.read_h5ad(tmp_path / "p.h5ad"), anndata.read_h5ad(tmp_path / "w.h5ad")
    names = list(open_source(tmp_path / "parts").obs_names)
    assert list(made.obs_names) == names
    np.testing.assert_allclose(made.X, wanted.loc[names], rtol=1e-5, atol=1e-5)
    assert list(made.obs["donor_id"]) == list(rna.obs.loc[names, "donor_id"])
    assert set(part.obs["lab"]) == {"a"}
    assert part.shape == (30, 6)


def test_no_cells_give_a_file_of_features(query, model, tmp_path):
    anndata.read_h5ad(query)[:0].copy().write_h5ad(tmp_path / "none.h5ad")

    for name, more in {"d.h5ad": {}, "s.h5ad": {"sparse_below": 1.0}, "t.csv": {}}.items():
        asked = ask(tmp_path / "none.h5ad", model, tmp_path / name, interval=0.9, **more)
        predict_modality(asked)

    for name in ("d.h5ad", "s.h5ad"):
        made = anndata.read_h5ad(tmp_path / name)
        assert made.shape == made.layers["upper"].shape == (0, 6)
    assert READERS[".csv"](tmp_path / "t.csv").shape == (0, 18)


@pytest.mark.parametrize("sparse_below", [None, 1.0])
def test_every_block_is_written_before_the_next_is_made(
    query, model, tmp_path, monkeypatch, sparse_below
):
    order, stream, fill = [], Predictor.stream, _blocks._fill

    def watched(self, *args, **kwargs):
        for out in stream(self, *args, **kwargs):
            order.append("made")
            yield out

    def taken(blocks):
        for block in blocks:
            order.append("taken")
            yield block

    monkeypatch.setattr(Predictor, "stream", watched)
    monkeypatch.setattr(_blocks, "_fill", lambda arrays, blocks: fill(arrays, taken(blocks)))
    asked = {"batch_size": 30, "sparse_below": sparse_below, "interval": 0.5}

    predict_modality(ask(query, model, tmp_path / "p.h5ad", **asked))

    assert order == ["made", "taken"] * 2


def test_batches_of_many_features_are_of_few_cells(query, model, monkeypatch):
    from episome.inference import _modality

    monkeypatch.setattr(_modality, "_BATCH_VALUES", 6 * 25)
    seen = []

    predict_modality(ask(query, model), progress=lambda *counts: seen.append(counts))

    assert seen == [(25, 60), (50, 60), (60, 60)]


# -- several modalities --------------------------------------------------------------------------


def test_of_mudata_the_rna_is_read(files, query, model, tmp_path):
    wanted = predict_modality(ask(query, model)).predicted

    predict_modality(ask(files / "query.h5mu", model, tmp_path / "p.h5ad"))

    made = anndata.read_h5ad(tmp_path / "p.h5ad")
    np.testing.assert_array_equal(made.X, wanted)
    assert list(made.obs["lab"]) == list(anndata.read_h5ad(query).obs["lab"])


def test_the_rna_may_have_another_name(files, model, tmp_path):
    mdata = mudata.read_h5mu(files / "query.h5mu")
    named = {"other": mdata.mod["rna"], "gex": mdata.mod["rna"], "prot": mdata.mod["prot"]}
    for name in ("gex", "other"):
        parts = {name: named[name], "prot": named["prot"]}
        mudata.MuData(parts).write(tmp_path / f"{name}.h5mu")
    wanted = predict_modality(ask(files / "query.h5mu", model)).predicted

    found = predict_modality(ask(tmp_path / "gex.h5mu", model))
    chosen = predict_modality(ask(tmp_path / "other.h5mu", model, modality="other"))

    np.testing.assert_array_equal(found.predicted, wanted)
    np.testing.assert_array_equal(chosen.predicted, wanted)
    assert any("gex.h5mu['gex']" in note for note in found.notes)
    with pytest.raises(UsageError, match=r"'rna' is missing.*other, prot.*--modality.*E-U60"):
        predict_modality(ask(tmp_path / "other.h5mu", model))


def test_a_modality_of_cells_that_have_one_is_refused(files, query, model, tmp_path):
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "a.h5ad").write_bytes(query.read_bytes())

    for place in (query, tmp_path / "parts"):
        with pytest.raises(UsageError, match=r"leave.*--modality.*out.*E-U60"):
            predict_modality(ask(place, model, modality="rna"))
    with pytest.raises(UsageError, match=r"'atac' is missing.*prot, rna.*E-U60"):
        predict_modality(ask(files / "query.h5mu", model, modality="atac"))


# -- batches -------------------------------------------------------------------------------------


def test_cells_are_of_their_own_batch_where_the_model_knows_it(query, model, tmp_path):
    rna = anndata.read_h5ad(query)
    rna.obs["lab"] = ["a", "elsewhere"] * 30
    rna.write_h5ad(tmp_path / "half.h5ad")
    wanted = python(model, tmp_path / "half.h5ad", interval=0.9)

    half = predict_modality(ask(tmp_path / "half.h5ad", model, tmp_path / "p.h5ad", interval=0.9))
    whole = predict_modality(ask(query, model))
    one = predict_modality(ask(query, model, transform_batch="a"))

    made = anndata.read_h5ad(tmp_path / "p.h5ad")
    np.testing.assert_array_equal(made.layers["upper"], wanted.layers["upper"])
    assert any("30 of 60 cells are of no batch" in n and "column lab" in n for n in half.notes)
    assert not any("batch" in note for note in whole.notes)
    assert any("as of the batch 'a'" in note for note in one.notes)


def test_a_column_that_the_query_lacks_is_no_error(query, model, tmp_path):
    rna = anndata.read_h5ad(query)
    del rna.obs["lab"]
    rna.write_h5ad(tmp_path / "untold.h5ad")

    found = predict_modality(ask(tmp_path / "untold.h5ad", model))

    assert any("60 of 60 cells are of no batch" in note for note in found.notes)


# -- how well ------------------------------------------------------------------------------------


def rated(translator, *words):
    table = translator.target_.table.copy()
    table["status"] = [*words, *["predictable"] * (6 - len(words))]
    return table


@pytest.mark.parametrize(
    ("words", "features", "said"),
    [
        (["not predictable", "constant"], (), None),
        (["not predictable", "too few cells", "weak", "constant"], (), None),
        (["not predictable", "constant"], ("CD2", "CD5"), None),
        (["not predictable", "constant"], ("CD5", "CD1"), "1 of 2, first: CD1"),
        (["not predictable"] * 3 + ["constant"], (), "4 of 6, first: CD0, CD1, CD2"),
    ],
)
def test_features_of_no_use_are_said(saved, translator, query, recwarn, words, features, said):
    folder = saved(table=rated(translator, *words))

    found = predict_modality(ask(query, folder, features=features))

    warned = [str(w.message) for w in recwarn if "E-D64" in str(w.message)]
    assert len(warned) == (said is not None)
    if said:
        assert said in warned[0]
        assert "--features" in warned[0]
    if not features:
        every = [*words, *["predictable"] * (6 - len(words))]
        assert found.status == {w: every.count(w) for w in every}


def test_the_warning_is_one_of_ours(saved, translator, query):
    folder = saved(table=rated(translator, "constant"))

    with pytest.warns(EpisomeWarning, match=r"than by their mean in model: 1 of 1.*CD0.*E-D64"):
        predict_modality(ask(query, folder, features=("CD0",)))


def test_a_model_that_held_no_cells_out_says_nothing_of_its_features(saved, query, tmp_path):
    folder = saved(table=None, intervals={})

    found = predict_modality(ask(query, folder, tmp_path / "p.h5ad"))

    assert found.status == {}
    made = anndata.read_h5ad(tmp_path / "p.h5ad")
    assert list(made.var_names) == [f"CD{i}" for i in range(6)]
    assert list(made.var.columns) == ["status"]
    with pytest.raises(UsageError, match=r"no intervals.*--interval.*E-U114"):
        predict_modality(ask(query, folder, interval=0.9))


# -- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options", "error", "text"),
    [
        ("p.npy", {}, UsageError, r"\.h5ad.*E-U08"),
        ("p.h5ad", {"features": ("CD3", "CD33")}, UsageError, r"1 of 2.*CD33.*`CD3`.*E-U61"),
        ("p.h5ad", {"features": ("none.txt",)}, InputFileError, r"--features.*E-F07"),
        ("p.h5ad", {"interval": 0.91}, UsageError, r"interval=0.91.*0.9, 0.95.*E-U22"),
        ("p.h5ad", {"transform_batch": "c"}, UsageError, r"batch 'c'.*a, b.*E-U110"),
        ("p.h5ad", {"sparse_below": float("nan")}, UsageError, r"--sparse-below.*E-U22"),
        ("p.h5ad", {"where": ("kind=1",)}, UsageError, "E-U04"),
        ("p.h5ad", {"part": "test"}, UsageError, "E-U34"),
    ],
)
def test_mistakes_are_refused_before_cells_are_read(
    query, model, tmp_path, monkeypatch, name, options, error, text
):
    monkeypatch.setattr(Predictor, "prepare", lambda *a, **k: pytest.fail("cells were read"))
    before = sorted(tmp_path.iterdir())

    with pytest.raises(error, match=text):
        predict_modality(ask(query, model, tmp_path / name, **options))

    assert sorted(tmp_path.iterdir()) == before


def test_a_file_that_is_there_stays(query, model, tmp_path):
    (tmp_path / "p.h5ad").write_text("mine")

    with pytest.raises(InputFileError, match="E-F26"):
        predict_modality(ask(query, model, tmp_path / "p.h5ad"))

    assert (tmp_path / "p.h5ad").read_text() == "mine"
    predict_modality(ask(query, model, tmp_path / "p.h5ad", overwrite=True))
    assert anndata.read_h5ad(tmp_path / "p.h5ad").shape == (60, 6)


def test_a_table_that_is_too_large_is_refused(query, model, tmp_path, monkeypatch):
    monkeypatch.setattr(_written, "MAX_TEXT", 1000)

    with pytest.raises(
        UsageError, match=r"60 cells and 6 features are 1,080 values.*predicted\.h5ad.*E-U111"
    ):
        predict_modality(ask(query, model, tmp_path / "p.csv", interval=0.9))
    predict_modality(ask(query, model, tmp_path / "p.csv"))
    predict_modality(ask(query, model, tmp_path / "p.h5ad", interval=0.9))


@pytest.mark.parametrize(
    ("options", "needed"), [({}, 1440), ({"interval": 0.9}, 4320), ({"sparse_below": 1}, 0)]
)
def test_a_disk_that_is_too_small_is_said_first(
    query, model, tmp_path, monkeypatch, options, needed
):
    monkeypatch.setattr(_blocks.shutil, "disk_usage", lambda _: SimpleNamespace(free=needed - 1))
    monkeypatch.setattr(Predictor, "prepare", lambda *a, **k: pytest.fail("cells were read"))

    with pytest.raises(ResourceError, match=r"GB are free.*write fewer features.*E-R02"):
        predict_modality(ask(query, model, tmp_path / "p.h5ad", **options))


def test_columns_of_one_name_are_refused():
    with pytest.raises(UsageError, match=r"1 of 9, first: A_lower.*h5ad.*E-U115"):
        _blocks.with_layers((), ["A", "A_lower", "B"], ("lower", "upper"))
    assert _blocks.with_layers((), ["A", "A_lower"], ())[1] == ["A", "A_lower"]


def test_a_model_that_predicts_no_modality_is_refused(model, query, tmp_path):
    setup = {"labels_key": "cell_type"}
    train(TrainRequest(input=query, output=tmp_path / "m", method="centroid", setup=setup))

    with pytest.raises(
        UsageError,
        match=r"centroid has not the capability 'translation'.*toy-translator.*E-U12",
    ):
        predict_modality(ask(query, tmp_path / "m"))


@pytest.mark.parametrize("name", ["p.h5ad", "p.csv"])
def test_a_run_that_stops_leaves_what_was_there(query, model, tmp_path, name, monkeypatch):
    path, stream = tmp_path / name, Predictor.stream
    path.write_text("mine")
    before = sorted(tmp_path.iterdir())

    def stops(self, *args, **kwargs):
        yield next(stream(self, *args, **kwargs))
        raise PluginError("E-P06", "the core gives nonsense")

    monkeypatch.setattr(Predictor, "stream", stops)

    with pytest.raises(PluginError):
        predict_modality(ask(query, model, path, overwrite=True, batch_size=30, sparse_below=1.0))

    assert sorted(tmp_path.iterdir()) == before
    assert path.read_text() == "mine"
