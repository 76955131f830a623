"""Cells of SOMA experiments and of the Census, whose layout the small experiments here have."""

from __future__ import annotations

import json
import logging
import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from scipy import sparse

from episome import models
from episome.cli import _app
from episome.data import (
    CellSource,
    CensusSource,
    CorpusSource,
    FileKind,
    ManyCells,
    SomaSource,
    _census,
    _soma,
    _soma_open,
    kind_of,
    open_source,
    read_cells,
    simulate_cells,
)
from episome.errors import (
    InputDataError,
    InputFileError,
    MissingDependencyError,
    RemoteError,
    UsageError,
)

tiledbsoma = pytest.importorskip("tiledbsoma", reason='the extra "census" is not installed')
import pyarrow as pa  # noqa: E402 - after the package that needs it
from tiledbsoma import io as soma_io  # noqa: E402

N_OBS, N_VARS = 240, 50


@pytest.fixture(scope="module")
def cells():
    """Cells as the Census has them: numbers instead of names, a quarter of them copies."""
    adata = simulate_cells(N_OBS, N_VARS, n_types=3, n_donors=4)
    rng = np.random.default_rng(0)
    adata.obs["is_primary_data"] = rng.random(N_OBS) > 0.25
    adata.obs["tissue"] = pd.Categorical(rng.choice(["lung", "blood", "gut"], N_OBS))
    adata.obs["n_measured"] = rng.integers(10, 99, N_OBS)
    adata.obs_names = [str(i) for i in range(N_OBS)]
    adata.var["feature_name"] = [f"SYM{i}" for i in range(N_VARS)]
    return adata


def write_experiment(place: str, adata, *, parent=None, dense: bool = False) -> None:
    """Write an experiment with the columns of the Census by hand."""
    obs = _with_numbers(pa.Table.from_pandas(adata.obs, preserve_index=False))
    names = {"feature_id": list(adata.var_names), "feature_name": adata.var["feature_name"]}
    var = _with_numbers(pa.table(names))
    if parent is None:
        experiment = tiledbsoma.Experiment.create(place)
    else:
        experiment = parent.add_new_collection(Path(place).name, tiledbsoma.Experiment)
    with experiment:
        _add_table(experiment, "obs", obs)
        measurement = experiment.add_new_collection("ms").add_new_collection(
            "RNA", tiledbsoma.Measurement
        )
        _add_table(measurement, "var", var)
        matrices = measurement.add_new_collection("X")
        add = matrices.add_new_dense_ndarray if dense else matrices.add_new_sparse_ndarray
        add("raw", type=pa.float32(), shape=adata.shape)
    # Categories are only kept by a table that was closed after it was made.
    for name, table in (("obs", obs), ("ms/RNA/var", var)):
        with tiledbsoma.DataFrame.open(f"{place}/{name}", "w") as frame:
            frame.write(table)
    with tiledbsoma.open(f"{place}/ms/RNA/X/raw", "w") as array:
        if dense:
            array.write((), pa.Tensor.from_numpy(adata.X.toarray()))
            return
        found = sparse.coo_matrix(adata.X)
        rows, columns = found.row.astype(np.int64), found.col.astype(np.int64)
        values = found.data.astype(np.float32)
        array.write(pa.table({"soma_dim_0": rows, "soma_dim_1": columns, "soma_data": values}))


def _with_numbers(table):
    return table.add_column(0, "soma_joinid", pa.array(np.arange(len(table)), type=pa.int64()))


def _add_table(parent, name, table):
    parent.add_new_dataframe(
        name,
        schema=table.schema,
        index_column_names=["soma_joinid"],
        domain=[[0, len(table) - 1]],
    )


@pytest.fixture(scope="module")
def path(tmp_path_factory, cells):
    place = tmp_path_factory.mktemp("soma") / "atlas.soma"
    write_experiment(str(place), cells)
    return place


@pytest.fixture(scope="module")
def primary(cells):
    """What a source of the experiment holds."""
    return cells[cells.obs["is_primary_data"].to_numpy()].copy()


def files_of(folder: Path) -> dict[str, int]:
    return {str(p): p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}


# -- reading -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "rows",
    [
        slice(0, 60),
        slice(None),
        slice(50, 3, -7),
        slice(4, 4),
        np.array([5]),
        np.array([170, 3, 3, 90, 0, 91, 92]),
        np.arange(0, 160, 20),
        np.array([], dtype=np.int64),
    ],
    ids=str,
)
@pytest.mark.parametrize("at_once", [7, 2048])
def test_rows_are_those_of_the_object(path, primary, rows, at_once, monkeypatch):
    monkeypatch.setattr(_soma, "_ROWS", at_once)
    source = SomaSource(path)

    got = source.read(rows)

    assert isinstance(source, CellSource)
    assert isinstance(got, sparse.csr_matrix)
    assert got.dtype == np.float32
    assert got.has_canonical_format
    assert np.array_equal(got.toarray(), primary.X.toarray()[rows])


def test_the_tables_are_those_of_the_object(path, primary):
    source = SomaSource(path)

    assert (source.n_obs, source.n_vars, source.dtype) == (*primary.shape, "float32")
    assert source.where == "atlas.soma, RNA/X/raw"
    assert not source.in_memory
    assert list(source.obs_names) == list(primary.obs_names)
    assert list(source.var.index) == list(primary.var_names)
    assert list(source.var["feature_name"]) == list(primary.var["feature_name"])
    assert source.obs_columns == list(primary.obs.columns)
    for key in primary.obs.columns:
        assert list(source.obs_column(key)) == list(primary.obs[key]), key


def test_nothing_is_written(path):
    before = files_of(path)

    source = SomaSource(path)
    source.read(slice(0, 5))
    source.obs_column("tissue")

    assert files_of(path) == before


def test_another_process_opens_the_experiment_anew(path, primary):
    source = SomaSource(path, obs_filter="tissue == 'lung'", var_filter="feature_name != 'SYM1'")

    again = pickle.loads(pickle.dumps(source))

    assert type(again) is SomaSource
    assert (again.n_obs, again.n_vars) == (source.n_obs, N_VARS - 1)
    assert (again.read(slice(None)) != source.read(slice(None))).nnz == 0


def test_dense_matrices_are_read(tmp_path, cells, primary):
    write_experiment(str(tmp_path / "dense.soma"), cells, dense=True)
    rows = np.array([100, 3, 4, 5, 4])

    got = SomaSource(tmp_path / "dense.soma").read(rows)

    assert np.array_equal(got.toarray(), primary.X.toarray()[rows])


def test_an_open_experiment_stays_open(path, primary):
    with tiledbsoma.Experiment.open(str(path)) as experiment:
        source = SomaSource(experiment)

        assert source.read(slice(0, 3)).sum() == primary.X[:3].sum()
        del source
        assert not experiment.closed


def test_what_tiledbsoma_makes_of_an_object_keeps_its_names(tmp_path):
    adata = simulate_cells(30, 12)
    place = str(tmp_path / "made.soma")
    soma_io.from_anndata(place, adata, measurement_name="gex", X_layer_name="data")

    source = SomaSource(place, measurement_name="gex", layer="data")

    assert list(source.obs_names) == list(adata.obs_names)
    assert list(source.var.index) == list(adata.var_names)
    assert np.array_equal(source.read(slice(None)).toarray(), adata.X.toarray())
    assert source.notes == ()


def test_a_closed_experiment_says_so(path):
    experiment = tiledbsoma.Experiment.open(str(path))
    source = SomaSource(experiment)
    experiment.close()

    with pytest.raises(InputFileError, match=r"cannot be read as SOMA.*E-F01"):
        source.read(slice(0, 3))


# -- which cells ---------------------------------------------------------------------------------


def test_copies_are_left_out_and_counted(path, cells, caplog):
    n_copies = int((~cells.obs["is_primary_data"]).sum())

    with caplog.at_level(logging.INFO, logger="episome"):
        source = SomaSource(path)

    assert source.n_obs == N_OBS - n_copies
    assert source.notes[0] in caplog.text
    assert f"{n_copies} of {N_OBS} cells are copies" in source.notes[0]


@pytest.mark.parametrize(
    ("arguments", "chosen"),
    [
        ({"is_primary_data": False}, lambda obs: obs["is_primary_data"].notna()),
        ({"obs_filter": "is_primary_data == False"}, lambda obs: ~obs["is_primary_data"]),
        (
            {"obs_filter": "tissue == 'lung' or n_measured > 90"},
            lambda obs: (
                ((obs["tissue"] == "lung") | (obs["n_measured"] > 90)) & obs["is_primary_data"]
            ),
        ),
        (
            {"obs_filter": "tissue in ['lung', 'gut']", "is_primary_data": False},
            lambda obs: obs["tissue"] != "blood",
        ),
    ],
    ids=["all", "copies", "or", "in"],
)
def test_filters_choose_cells(path, cells, arguments, chosen):
    wanted = cells[chosen(cells.obs).to_numpy()]

    source = SomaSource(path, **arguments)

    assert list(source.obs_names) == list(wanted.obs_names)
    assert np.array_equal(source.read(slice(None)).toarray(), wanted.X.toarray())
    tissue = source.obs_column("tissue")
    assert list(tissue) == list(wanted.obs["tissue"])
    assert set(tissue.cat.categories) == set(wanted.obs["tissue"])


def test_a_filter_chooses_genes(path, primary):
    wanted = ["SYM31", "SYM4", "SYM5"]

    source = SomaSource(path, var_filter=f"feature_name in {wanted}")

    assert list(source.var["feature_name"]) == ["SYM4", "SYM5", "SYM31"]
    rows = np.array([9, 100, 7])
    got = source.read(rows).toarray()
    assert np.array_equal(got, primary.X.toarray()[np.ix_(rows, [4, 5, 31])])


# -- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["nope == 1", "tissue ==", "tissue", "n_measured == 'x'", "f(3)"])
def test_a_filter_that_cannot_be_read_is_refused(path, text):
    with pytest.raises(UsageError, match=r"cannot be read.*compare columns.*E-U93"):
        SomaSource(path, obs_filter=text)


def test_no_cells_and_no_genes_are_refused(path):
    with pytest.raises(InputDataError, match=r"no cell meets the filter.*E-D57"):
        SomaSource(path, obs_filter="tissue == 'skin'")
    with pytest.raises(InputDataError, match=r"there are no genes.*E-D33"):
        SomaSource(path, var_filter="feature_name == 'none'").n_vars  # noqa: B018 - it is read now


def test_what_an_experiment_lacks_is_named(path):
    with pytest.raises(InputDataError, match=r"no measurement 'ATAC'.*it has RNA.*E-D58"):
        SomaSource(path, measurement_name="ATAC")
    with pytest.raises(InputDataError, match=r"layer 'X' is missing.*'raw'.*E-D28"):
        SomaSource(path, layer="X")
    with pytest.raises(UsageError, match=r"column 'sex' is missing.*tissue.*E-U04"):
        SomaSource(path).obs_column("sex")
    with pytest.raises(UsageError, match=r"row numbers that are no rows.*E-U39"):
        SomaSource(path).read(np.array([10_000]))


def test_other_places_are_refused(path, tmp_path):
    with pytest.raises(InputFileError, match=r"no such folder.*E-F07"):
        SomaSource(tmp_path / "nothing")
    with pytest.raises(InputFileError, match=r"no SOMA experiment here.*E-F06"):
        SomaSource(tmp_path)
    with pytest.raises(InputFileError, match=r"a Measurement of SOMA, and no experiment.*E-F06"):
        SomaSource(path / "ms" / "RNA")
    with pytest.raises(UsageError, match=r"cannot be read from a int.*E-U07"):
        SomaSource(3)


def test_a_damaged_experiment_is_refused(tmp_path, cells):
    place = tmp_path / "cut.soma"
    write_experiment(str(place), cells)
    for file in (place / "obs" / "__fragments").rglob("*.tdb"):
        file.write_bytes(file.read_bytes()[:3])

    with pytest.raises(InputFileError, match=r"cut.soma.*E-F01"):
        SomaSource(place)


def test_without_the_package_the_extra_is_named(path, monkeypatch):
    monkeypatch.setattr(_soma_open, "find_spec", lambda name: None)

    with pytest.raises(MissingDependencyError, match=r'pip install "episome\[census\]".*E-P02'):
        SomaSource(path)


# -- where it is used ----------------------------------------------------------------------------


def test_a_path_is_recognised(path, primary):
    assert kind_of(path) is FileKind.SOMA
    source = open_source(path)
    assert isinstance(source, SomaSource)
    assert source.n_obs == primary.n_obs

    with pytest.raises(UsageError, match=r"`use_raw` is given for a SOMA experiment.*E-U27"):
        open_source(path, use_raw=True)
    with pytest.raises(InputFileError, match=r"a SOMA experiment, whose cells are read in blocks"):
        read_cells(path)


def test_a_model_is_the_one_of_the_same_cells_in_memory(path, primary):
    model_cls = models.LogisticRegression
    in_memory = primary.copy()
    model_cls.setup_anndata(in_memory, "cell_type")

    one = model_cls(in_memory)
    other = model_cls(model_cls.setup_source(path, "cell_type"))
    for model in (one, other):
        model.train()

    assert (one.predict_proba(primary) == other.predict_proba(primary)).all(axis=None)


def test_the_schema_is_recognised(path, primary):
    model = models.LogisticRegression(SomaSource(path))
    model.train()

    assert model.setup_args["labels_key"] == "cell_type"
    assert list(model.predict(SomaSource(path))) == list(model.predict(primary))


def test_experiments_join_files(path, primary, tmp_path):
    more = simulate_cells(40, N_VARS, n_types=3, seed=5)
    more.copy().write_h5ad(tmp_path / "more.h5ad")

    many = ManyCells([path, tmp_path / "more.h5ad"])

    assert many.n_obs == primary.n_obs + 40
    assert not many.in_memory
    order = [list(many.var.index).index(g) for g in primary.var_names]
    last = primary.n_obs - 1
    got = many.read(np.array([last + 1, last])).toarray()[:, order]
    assert np.array_equal(got[1], primary.X[last].toarray()[0])
    assert np.array_equal(got[0], more[0, primary.var_names].X.toarray()[0])


def test_train_reads_an_experiment(path, primary, tmp_path):
    arguments = ["train", "logreg", str(path), "--labels-key", "cell_type"]

    done = CliRunner().invoke(_app.app, [*arguments, "-o", str(tmp_path / "model"), "--json"])

    assert done.exit_code == 0, done.output
    answer = json.loads(done.stdout)
    assert answer["n_cells"] == primary.n_obs
    assert "cells are copies" in answer["notes"][0]


def test_a_corpus_is_built_from_an_experiment(path, primary, tmp_path):
    arguments = ["corpus", "build", str(path), "-o", str(tmp_path / "c"), "--where", "tissue=lung"]

    done = CliRunner().invoke(_app.app, [*arguments, "--labels-key", "cell_type"])

    assert done.exit_code == 0, done.output
    corpus = CorpusSource(tmp_path / "c")
    lung = primary[(primary.obs["tissue"] == "lung").to_numpy()]
    assert corpus.n_obs == lung.n_obs
    columns = [list(corpus.var.index).index(g) for g in primary.var_names]
    place = {name: i for i, name in enumerate(corpus.obs_names)}
    rows = np.array([place[n] for n in lung.obs_names])
    assert np.array_equal(corpus.read(rows).toarray()[:, columns], lung.X.toarray())


def test_what_a_corpus_cannot_hold_is_said_of_an_experiment(tmp_path, cells):
    logged = cells.copy()
    logged.X = logged.X.log1p()
    write_experiment(str(tmp_path / "log.soma"), logged)
    arguments = ["corpus", "build", str(tmp_path / "log.soma"), "-o", str(tmp_path / "c")]

    done = CliRunner().invoke(_app.app, arguments)

    assert done.exit_code == 3
    assert "E-D55" in done.output


# -- the Census ----------------------------------------------------------------------------------


@pytest.fixture
def census(tmp_path, cells, monkeypatch):
    """A Census on disk, opened in the place of the one on the network; what was asked for."""
    cellxgene_census = pytest.importorskip(
        "cellxgene_census", reason='the extra "census" is not installed'
    )
    place = str(tmp_path / "census")
    with (
        tiledbsoma.Collection.create(place) as top,
        top.add_new_collection("census_data") as data,
    ):
        write_experiment(f"{place}/census_data/homo_sapiens", cells, parent=data)
    asked = []

    def describe(version):
        if version not in {"stable", "2025-01-30"}:
            message = f"Unable to locate Census version: {version}."
            raise ValueError(message)
        return {"release_build": "2025-01-30"}

    def open_soma(*, census_version=None, uri=None, context=None):
        asked.append(census_version or uri)
        return tiledbsoma.open(place, context=context)

    monkeypatch.setattr(cellxgene_census, "get_census_version_description", describe)
    monkeypatch.setattr(cellxgene_census, "open_soma", open_soma)
    return asked


def test_a_query_of_the_census_is_a_source(census, primary):
    wanted = primary[(primary.obs["tissue"] == "gut").to_numpy()]

    source = CensusSource("Homo sapiens", obs_value_filter="tissue == 'gut'")

    assert isinstance(source, SomaSource)
    assert census == ["2025-01-30"]
    assert source.census_version == "2025-01-30"
    assert source.notes[0] == (
        f"Census 2025-01-30, homo_sapiens: {wanted.n_obs} cells, tissue == 'gut'"
    )
    assert "are copies" in source.notes[1]
    assert np.array_equal(source.read(slice(None)).toarray(), wanted.X.toarray())
    again = pickle.loads(pickle.dumps(source))
    assert again.notes == source.notes
    assert census == ["2025-01-30"] * 2


def test_an_address_is_a_query_of_the_census(census, primary, tmp_path):
    address = "census:homo_sapiens@2025-01-30?tissue == 'gut'"
    wanted = primary[(primary.obs["tissue"] == "gut").to_numpy()]

    source = open_source(address)
    done = CliRunner().invoke(_app.app, ["corpus", "build", address, "-o", str(tmp_path / "c")])

    assert isinstance(source, CensusSource)
    assert source.n_obs == wanted.n_obs
    assert done.exit_code == 0, done.output
    assert CorpusSource(tmp_path / "c").n_obs == wanted.n_obs
    assert set(census) == {"2025-01-30"}
    with pytest.raises(UsageError, match=r"no query of the Census.*E-U94"):
        open_source("census:?tissue == 'gut'")


def test_a_model_learns_from_the_census(census, primary):
    model = models.LogisticRegression(CensusSource(census_version="2025-01-30"))

    model.train()

    assert len(model.predict(primary)) == primary.n_obs


@pytest.mark.usefixtures("census")
def test_what_the_census_lacks_is_refused():
    with pytest.raises(UsageError, match=r"organism='rat'.*homo_sapiens.*E-U30"):
        CensusSource("rat")
    with pytest.raises(UsageError, match=r"census_version='1999-01-01'.*E-U30"):
        CensusSource(census_version="1999-01-01")


@pytest.mark.usefixtures("census")
def test_a_census_that_does_not_answer_is_said(monkeypatch):
    import cellxgene_census

    def fail(version):
        message = "no route to host"
        raise ConnectionError(message)

    monkeypatch.setattr(cellxgene_census, "get_census_version_description", fail)

    with pytest.raises(RemoteError, match=r"cannot be reached.*no route to host.*E-N01"):
        CensusSource()


def test_without_the_package_of_the_census_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(_census, "find_spec", lambda name: None)

    with pytest.raises(MissingDependencyError, match=r'pip install "episome\[census\]".*E-P02'):
        CensusSource()
