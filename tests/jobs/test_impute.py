"""Expected expression: the same as in Python, and of hidden genes from the others alone."""

from __future__ import annotations

import hashlib
from types import SimpleNamespace

import anndata
import numpy as np
import pandas as pd
import pytest

from episome.data import open_source, simulate_cells
from episome.errors import (
    EpisomeWarning,
    InputFileError,
    PluginError,
    ResourceError,
    UsageError,
)
from episome.inference import ExpectedExpression, Predictor
from episome.io import _blocks
from episome.jobs import ImputeRequest, TrainRequest, _written, impute, train
from episome.models import load

READERS = {
    ".csv": lambda p: pd.read_csv(p, index_col=0),
    ".csv.gz": lambda p: pd.read_csv(p, index_col=0),
    ".tsv": lambda p: pd.read_csv(p, index_col=0, sep="\t"),
    ".parquet": pd.read_parquet,
}
#: Symbols of the genes, `S3` for `GENE3`.
SYMBOLS = [f"S{i}" for i in range(40)]


@pytest.fixture(scope="module", params=["model_genes", "all_genes"])
def model(request, tmp_path_factory):
    """A model with symbols, for both kinds of library sizes."""
    folder = tmp_path_factory.mktemp("imputer")
    cells = simulate_cells(230, 40, n_types=3, n_donors=5)[:150].copy()
    cells.var["feature_name"] = SYMBOLS
    cells.write_h5ad(folder / "reference.h5ad")
    wanted = {"model": {"n_components": 4}, "setup": {"size_factor": request.param}}
    reference = folder / "reference.h5ad"
    train(TrainRequest(input=reference, output=folder / "pca", method="pca", **wanted))
    return folder / "pca"


@pytest.fixture(scope="module")
def query(tmp_path_factory):
    """80 cells that lack three genes of the model and have one that it does not know."""
    cells = simulate_cells(230, 40, n_types=3, n_donors=5)[150:, 3:].copy()
    cells.var_names = [*cells.var_names[:-1], "OTHER"]
    cells.obs["_scvi_batch"] = 0
    path = tmp_path_factory.mktemp("query") / "query.h5ad"
    cells.write_h5ad(path)
    return path


def ask(query, model, output=None, **kwargs):
    return ImputeRequest(query, model, output, **{"device": "cpu", **kwargs})


def close(found, wanted):
    np.testing.assert_allclose(np.asarray(found), np.asarray(wanted), rtol=1e-4, atol=1e-3)


# -- what is written -----------------------------------------------------------------------------


def test_an_h5ad_holds_what_python_says(query, model, tmp_path):
    before = hashlib.sha256(query.read_bytes()).hexdigest()
    cells = anndata.read_h5ad(query)

    found = impute(ask(query, model, tmp_path / "i.h5ad", batch_size=30))

    made, of = anndata.read_h5ad(tmp_path / "i.h5ad"), load(model)
    close(made.X, of.get_normalized_expression(cells, library_size=1e4))
    assert made.X.dtype == np.float32
    assert list(made.var_names) == list(of.features.ids)
    assert list(made.var["feature_name"]) == SYMBOLS
    assert list(made.var.index[~made.var["in_query"]]) == ["GENE0", "GENE1", "GENE2", "GENE39"]
    assert not made.var["hidden"].any()
    pd.testing.assert_frame_equal(made.obs, cells.obs.drop(columns="_scvi_batch"))
    assert set(made.uns) == {"episome"}
    assert made.uns["episome"]["model"] == "PCAEmbedding"
    assert made.uns["episome"]["library_size"] == 10_000
    assert not made.uns["episome"]["log1p"]
    assert (found.n_obs, found.n_genes, found.n_missing, found.n_hidden) == (80, 40, 4, 0)
    assert any("4 of the model's 40 genes are not in the query" in n for n in found.notes)
    assert found.expression is None
    assert hashlib.sha256(query.read_bytes()).hexdigest() == before


def test_an_h5ad_is_read_in_parts_again(query, model, tmp_path):
    impute(ask(query, model, tmp_path / "i.h5ad"))

    backed = anndata.read_h5ad(tmp_path / "i.h5ad", backed="r")
    part = backed[5:9].to_memory()
    backed.file.close()

    close(part.X, anndata.read_h5ad(tmp_path / "i.h5ad").X[5:9])


@pytest.mark.parametrize("suffix", sorted(READERS))
def test_a_table_has_a_column_per_gene(query, model, tmp_path, suffix, monkeypatch):
    monkeypatch.setattr(_blocks, "_ROWS", 16)
    wanted = load(model).get_normalized_expression(
        anndata.read_h5ad(query), library_size=500, gene_list=["GENE7", "GENE1"]
    )

    path = tmp_path / f"i{suffix}"
    genes = ("S7", "GENE1", "GENE7")
    found = impute(ask(query, model, path, genes=genes, library_size=500, batch_size=30))

    table = READERS[suffix](path)
    assert list(table.columns) == ["GENE7", "GENE1"]
    assert list(table.index) == list(wanted.index)
    close(table, wanted)
    assert found.n_genes == 2


def test_without_a_file_the_table_is_in_memory_and_log1p_is_of_it(query, model):
    plain = impute(ask(query, model)).expression
    logs = impute(ask(query, model, log1p=True)).expression

    assert plain.shape == (80, 40)
    close(logs, np.log1p(plain))


def test_genes_are_read_from_files(query, model, tmp_path):
    (tmp_path / "a.txt").write_text("# those I want\nGENE4\n\nS9\n")
    (tmp_path / "b.csv").write_text('gene,why\n"GENE2",lacking\nGENE5,seen\n')
    genes = (str(tmp_path / "a.txt"), str(tmp_path / "b.csv"), "GENE30")

    found = impute(ask(query, model, genes=genes, hide=(str(tmp_path / "b.csv"),)))

    assert list(found.expression.columns) == ["GENE4", "GENE9", "GENE2", "GENE5", "GENE30"]
    assert found.n_hidden == 2


# -- what is imputed -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["counts", "log1p"])
def test_hidden_genes_do_not_depend_on_their_values(query, model, tmp_path, kind):
    """Whatever the query says of them, and however much of the cells' counts is theirs."""
    cells = anndata.read_h5ad(query)
    counts, other = cells.X.toarray(), cells.X.toarray()
    places = [cells.var_names.get_loc(f"GENE{i}") for i in (5, 11)]
    other[:, places] = np.random.default_rng(0).poisson(200, (80, 2))
    asked = {}
    for name, values in {"a": counts, "b": other}.items():
        if kind == "log1p":
            values = np.log1p(1e4 * values / values.sum(axis=1, keepdims=True))
        path = tmp_path / f"{name}.h5ad"
        anndata.AnnData(values.astype(np.float32), cells.obs, cells.var).write_h5ad(path)
        asked[name] = path

    seen = [impute(ask(p, model)).expression for p in asked.values()]
    hidden = [impute(ask(p, model, hide=("GENE5", "S11"))).expression for p in asked.values()]

    assert not np.allclose(*seen, rtol=1e-2)
    np.testing.assert_allclose(*hidden, rtol=1e-3)


def test_a_hidden_gene_is_as_one_that_the_query_lacks(query, model, tmp_path):
    cells = anndata.read_h5ad(query)
    cells[:, cells.var_names != "GENE5"].copy().write_h5ad(tmp_path / "lacks.h5ad")

    hidden = impute(ask(query, model, hide=("GENE5",)))
    lacking = impute(ask(tmp_path / "lacks.h5ad", model))

    close(hidden.expression, lacking.expression)
    assert (hidden.n_hidden, hidden.n_missing, lacking.n_missing) == (1, 4, 5)
    assert any("hidden from the model, and imputed: 1" in note for note in hidden.notes)


def test_a_hidden_gene_has_no_copy_that_tells_of_it(query, model, tmp_path):
    """A copy that is not taken would count for the size of the cell."""
    cells = anndata.read_h5ad(query)
    twice = anndata.concat([cells, cells[:, ["GENE5"]]], axis=1)
    twice.obs = cells.obs
    twice.write_h5ad(tmp_path / "twice.h5ad")

    once = impute(ask(query, model, hide=("GENE5",))).expression
    first = impute(ask(tmp_path / "twice.h5ad", model, hide=("GENE5",), duplicates="first"))

    close(first.expression, once)


def test_hidden_genes_are_near_the_truth_all_the_same(query, model):
    """The other genes say how much of a gene there is: better than its mean does."""
    cells = anndata.read_h5ad(query)
    sizes = cells.X.sum(axis=1)
    truth = pd.DataFrame(cells.X.toarray() / sizes * 1e4, columns=cells.var_names)
    spread = truth.iloc[:, :-1].std() / truth.iloc[:, :-1].mean()
    gene = spread.idxmax()

    found = impute(ask(query, model, hide=(gene,), genes=(gene,))).expression

    assert np.corrcoef(found[gene], truth[gene])[0, 1] > 0.5


def test_order_of_genes_and_cells_and_blocks_change_nothing(query, model, tmp_path):
    cells = anndata.read_h5ad(query)
    order = np.random.default_rng(0).permutation(cells.n_obs)
    cells[order].copy()[:, ::-1].copy().write_h5ad(tmp_path / "turned.h5ad")
    wanted = impute(ask(query, model, hide=("GENE5",))).expression

    turned = impute(ask(tmp_path / "turned.h5ad", model, hide=("GENE5",), batch_size=7))

    assert list(turned.expression.index) == list(cells.obs_names[order])
    close(turned.expression.loc[wanted.index], wanted)


def test_python_says_the_same_of_hidden_genes(query, model):
    cells, of = anndata.read_h5ad(query), load(model)

    said = of.get_reconstruction(cells, library_size=1e4, hide=["S5"], gene_list=["S5", "GENE6"])

    close(said, impute(ask(query, model, hide=("GENE5",), genes=("S5", "S6"))).expression)


def test_cells_of_several_files_keep_their_columns(query, model, tmp_path):
    cells = anndata.read_h5ad(query)
    (tmp_path / "parts").mkdir()
    cells[:30].copy().write_h5ad(tmp_path / "parts" / "a.h5ad")
    cells[30:, ::-1].copy().write_h5ad(tmp_path / "parts" / "b.h5ad")
    of = cells.obs["cell_type"].iloc[0]

    impute(ask(tmp_path / "parts", model, tmp_path / "i.h5ad", hide=("GENE5",)))
    impute(ask(tmp_path / "parts", model, tmp_path / "p.h5ad", where=(f"cell_type={of}",)))

    made, part = anndata.read_h5ad(tmp_path / "i.h5ad"), anndata.read_h5ad(tmp_path / "p.h5ad")
    names = list(open_source(tmp_path / "parts").obs_names)
    wanted = impute(ask(query, model, hide=("GENE5",))).expression
    assert list(made.obs_names) == names
    close(made.X, wanted.loc[names])
    assert list(made.obs["donor_id"]) == list(cells.obs.loc[names, "donor_id"])
    assert set(part.obs["cell_type"]) == {of}
    assert part.n_obs == (cells.obs["cell_type"] == of).sum()


def test_chosen_cells_of_a_file_keep_their_columns(query, model, tmp_path):
    cells = anndata.read_h5ad(query)
    of = cells.obs["cell_type"].iloc[0]

    impute(ask(query, model, tmp_path / "i.h5ad", where=(f"cell_type={of}",)))

    made = anndata.read_h5ad(tmp_path / "i.h5ad")
    wanted = impute(ask(query, model)).expression
    close(made.X, wanted.loc[made.obs_names])
    assert set(made.obs["cell_type"]) == {of}


def test_no_cells_give_a_file_of_genes(query, model, tmp_path):
    anndata.read_h5ad(query)[:0].copy().write_h5ad(tmp_path / "none.h5ad")

    for suffix in (".h5ad", ".csv", ".parquet"):
        impute(ask(tmp_path / "none.h5ad", model, tmp_path / f"i{suffix}"))

    assert anndata.read_h5ad(tmp_path / "i.h5ad").shape == (0, 40)
    assert READERS[".csv"](tmp_path / "i.csv").shape == (0, 40)
    assert READERS[".parquet"](tmp_path / "i.parquet").shape == (0, 40)


def test_cells_that_show_the_model_nothing_are_counted(query, model, tmp_path):
    cells = anndata.read_h5ad(query)
    counts = cells.X.toarray()
    counts[:3] = 0
    counts[:3, cells.var_names.get_loc("GENE5")] = 4
    anndata.AnnData(counts, cells.obs, cells.var).write_h5ad(tmp_path / "few.h5ad")

    found = impute(ask(tmp_path / "few.h5ad", model, hide=("GENE5",)))

    assert any(note.startswith("3 cells have no counts of genes") for note in found.notes)


def test_genes_that_the_model_expects_nothing_of_are_said(query, model, monkeypatch):
    shares = ExpectedExpression._shares

    def partly(self, mean):
        found = shares(self, mean).copy()
        found[:, [4, 6]] = np.nan
        return found

    monkeypatch.setattr(ExpectedExpression, "_shares", partly)

    with pytest.warns(EpisomeWarning, match=r"in pca: 2 of 40, first: GENE4, GENE6.*E-D59"):
        found = impute(ask(query, model))

    assert found.n_unknown == 2


def test_progress_counts_the_cells(query, model):
    seen = []

    impute(ask(query, model, batch_size=50), progress=lambda *counts: seen.append(counts))

    assert seen == [(50, 80), (80, 80)]


def test_every_block_is_written_before_the_next_is_made(query, model, tmp_path, monkeypatch):
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

    impute(ask(query, model, tmp_path / "i.h5ad", batch_size=30))

    assert order == ["made", "taken"] * 3


# -- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options", "error", "text"),
    [
        ("i.npy", {}, UsageError, r"\.h5ad.*E-U08"),
        ("i.h5ad", {"genes": ("GEN5", "S3")}, UsageError, r"genes \(--genes\).*1 of 2.*`GENE5`"),
        ("i.h5ad", {"genes": ("CD4x",)}, UsageError, r"1 of 1, first: CD4x.*E-U61"),
        ("i.h5ad", {"hide": ("nothing",)}, UsageError, r"hide \(--hide\).*E-U61"),
        ("i.h5ad", {"hide": ("none.txt",)}, InputFileError, r"none\.txt.*--hide.*E-F07"),
        ("i.h5ad", {"library_size": 0}, UsageError, r"library_size=0.*E-U22"),
        ("i.h5ad", {"library_size": float("nan")}, UsageError, "E-U22"),
        ("i.h5ad", {"hide": tuple(SYMBOLS[:25])}, UsageError, r"14 of 40.*50%.*--hide.*E-U106"),
        ("i.h5ad", {"where": ("kind=1",)}, UsageError, "E-U04"),
        ("i.h5ad", {"part": "test"}, UsageError, "E-U34"),
    ],
)
def test_mistakes_are_refused_and_nothing_is_written(
    query, model, tmp_path, name, options, error, text
):
    with pytest.raises(error, match=text):
        impute(ask(query, model, tmp_path / name, **options))

    assert list(tmp_path.iterdir()) == []


def test_more_genes_may_be_hidden_where_that_is_said(query, model):
    found = impute(ask(query, model, hide=tuple(SYMBOLS[:25]), min_gene_overlap=0.2))

    assert found.n_hidden == 25
    with pytest.raises(UsageError, match=r"0 of 40.*E-U106"):
        impute(ask(query, model, hide=tuple(SYMBOLS), min_gene_overlap=0.0))


@pytest.mark.parametrize(
    ("content", "code"), [(b"", "E-F04"), (b"gene\n", "E-F04"), (b"\x89HDF\xff\x00", "E-F22")]
)
def test_a_file_that_is_no_list_is_refused(query, model, tmp_path, content, code):
    (tmp_path / "genes.txt").write_bytes(content)

    with pytest.raises(InputFileError, match=code):
        impute(ask(query, model, genes=(str(tmp_path / "genes.txt"),)))


def test_a_symbol_of_several_genes_is_refused(query, tmp_path):
    cells = simulate_cells(230, 40, n_types=3, n_donors=5)[:150].copy()
    cells.var["feature_name"] = ["TWICE", "TWICE", *SYMBOLS[2:]]
    cells.write_h5ad(tmp_path / "r.h5ad")
    setup = {"model": {"n_components": 4}, "setup": {}}
    train(TrainRequest(input=tmp_path / "r.h5ad", output=tmp_path / "m", method="pca", **setup))

    with pytest.raises(UsageError, match=r"several genes.*1 of 2, first: TWICE.*E-U61"):
        impute(ask(query, tmp_path / "m", genes=("S4", "TWICE")))


@pytest.mark.parametrize("suffix", [".csv", ".tsv.gz", ".parquet"])
def test_a_table_that_is_too_large_is_refused(query, model, tmp_path, suffix, monkeypatch):
    limit = "MAX_PARQUET" if suffix == ".parquet" else "MAX_TEXT"
    monkeypatch.setattr(_written, limit, 1000)

    with pytest.raises(
        UsageError,
        match=r"80 cells and 40 genes are 3,200 values.*at most 1,000.*h5ad.*--genes.*E-U111",
    ):
        impute(ask(query, model, tmp_path / f"i{suffix}"))
    assert list(tmp_path.iterdir()) == []
    impute(ask(query, model, tmp_path / f"i{suffix}", genes=("GENE5",)))
    impute(ask(query, model, tmp_path / "i.h5ad"))


def test_a_disk_that_is_too_small_is_said_before_anything_is_computed(
    query, model, tmp_path, monkeypatch
):
    monkeypatch.setattr(_blocks.shutil, "disk_usage", lambda _: SimpleNamespace(free=12_799))
    monkeypatch.setattr(Predictor, "prepare", lambda *a, **k: pytest.fail("cells were read"))

    with pytest.raises(ResourceError, match=r"GB are free.*--genes.*E-R02"):
        impute(ask(query, model, tmp_path / "i.h5ad"))
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_expects_nothing_is_refused(files, query, tmp_path):
    setup = {"labels_key": "cell_type"}
    reference = files / "reference.h5ad"
    train(TrainRequest(input=reference, output=tmp_path / "m", method="knn", setup=setup))

    with pytest.raises(
        UsageError,
        match=r"knn has not the capability 'reconstruction'.*annotation, embedding.*pca.*E-U12",
    ):
        impute(ask(query, tmp_path / "m"))


@pytest.mark.parametrize("name", ["i.h5ad", "i.csv"])
def test_a_run_that_stops_leaves_what_was_there(query, model, tmp_path, name, monkeypatch):
    path, stream = tmp_path / name, Predictor.stream
    path.write_text("mine")

    def stops(self, *args, **kwargs):
        yield next(stream(self, *args, **kwargs))
        raise PluginError("E-P06", "the core gives nonsense")

    monkeypatch.setattr(Predictor, "stream", stops)

    with pytest.raises(PluginError):
        impute(ask(query, model, path, overwrite=True, batch_size=30))

    assert [p.name for p in tmp_path.iterdir()] == [name]
    assert path.read_text() == "mine"
