"""Several files of cells as one source."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from episome.data import (
    AnnDataSource,
    CellSource,
    FeatureSpace,
    InputRule,
    ManyCells,
    _many_parts,
    cell_files,
    prepare_query,
    simulate_cells,
)
from episome.data._gene_union import join_genes
from episome.errors import GeneMatchError, InputDataError, UsageError

GENES = [f"ENSG{i:011d}" for i in range(30)]


def some_cells(n, genes, *, seed=0, names="cell", **columns):
    rng = np.random.default_rng(seed)
    counts = rng.poisson(1.0, (n, len(genes))).astype(np.float32)
    counts[:, 0] += 1
    obs = pd.DataFrame(
        {"cell_type": [f"type {i % 2}" for i in range(n)], **columns},
        index=[f"{names}{i}" for i in range(n)],
    )
    return anndata.AnnData(sparse.csr_matrix(counts), obs=obs, var=pd.DataFrame(index=list(genes)))


@pytest.fixture
def three():
    """Cells of three sets of genes in three orders; the last lacks ten genes."""
    rng = np.random.default_rng(1)
    return [
        some_cells(20, GENES[:25], seed=1, names="a"),
        some_cells(15, list(rng.permutation(GENES)), seed=2, names="b"),
        some_cells(10, GENES[10:], seed=3, names="c"),
    ]


@pytest.fixture(params=["memory", "h5ad", "zarr", "mixed"])
def many(request, three, tmp_path):
    data = list(three)
    for i, adata in enumerate(three):
        kind = ("h5ad", "zarr", "memory")[i] if request.param == "mixed" else request.param
        path = tmp_path / f"set{i}.{kind}"
        if kind == "h5ad":
            adata.copy().write_h5ad(path)
        elif kind == "zarr":
            adata.copy().write_zarr(path)
        data[i] = adata if kind == "memory" else path
    return ManyCells(data)


def by_name(three):
    """What the values are, without any of the code under test."""
    frames = [pd.DataFrame(a.X.toarray(), a.obs_names, a.var_names) for a in three]
    return pd.concat(frames).fillna(0)


# -- reading -------------------------------------------------------------------------------------


def test_all_genes_of_all_files_are_aligned_by_name(many, three):
    assert isinstance(many, CellSource)
    assert (many.n_obs, many.n_vars) == (45, 30)

    values = many.read(slice(0, 45))

    wanted = by_name(three)[list(many.var.index)]
    np.testing.assert_array_equal(values.toarray(), wanted.to_numpy())
    assert list(many.obs_names) == list(wanted.index)
    assert values.dtype == np.float32
    assert list(many.var.index[:25]) == GENES[:25]


@pytest.mark.parametrize("seed", range(3))
def test_rows_come_in_the_order_asked_for_over_borders(many, three, seed):
    rng = np.random.default_rng(seed)
    rows = rng.integers(0, 45, 60)  # some twice
    whole = by_name(three)[list(many.var.index)].to_numpy()

    np.testing.assert_array_equal(many.read(rows).toarray(), whole[rows])
    for part in (slice(18, 37), slice(5, 5), slice(40, 90), slice(44, 3, -5)):
        np.testing.assert_array_equal(many.read(part).toarray(), whole[part])
    assert many.read(np.array([], dtype=np.int64)).shape == (0, 30)


def test_inner_keeps_the_genes_of_all_files(three):
    many = ManyCells(three, join="inner")

    assert sorted(many.var.index) == GENES[10:25]
    wanted = by_name(three)[list(many.var.index)].to_numpy()
    np.testing.assert_array_equal(many.read(slice(0, 45)).toarray(), wanted)
    assert "15 of 30 genes are not in all 3 files" in many.notes[0]


def test_files_that_lack_genes_are_said(three):
    many = ManyCells(three)

    assert many.notes == (
        "2 of 3 files lack some of the 30 genes, which are zero there (part 3.X 10, part 1.X 5)",
    )


def test_the_same_genes_need_no_word(three):
    assert ManyCells([three[1], three[1].copy()[:, ::-1].copy()]).notes[0].startswith("30 of 30")
    assert ManyCells(three[:1]).notes == ()


def test_only_files_with_wanted_rows_are_read(many, monkeypatch):
    read = []
    original = AnnDataSource.read
    monkeypatch.setattr(
        AnnDataSource, "read", lambda self, rows: read.append(self.n_obs) or original(self, rows)
    )

    many.read(np.array([21, 40]))
    many.read(slice(20, 30))

    assert read == [15, 10, 15]


def test_few_files_are_open_at_a_time(three, tmp_path, monkeypatch):
    monkeypatch.setattr(_many_parts, "MAX_OPEN", 2)
    paths = []
    for i in range(4):
        paths.append(tmp_path / f"{i}.h5ad")
        some_cells(12, GENES, seed=i, names=f"s{i}.").write_h5ad(paths[-1])
    many = ManyCells(paths)
    rows = np.arange(47, -1, -1)

    forward, backward = many.read(slice(0, 48)), many.read(rows)

    np.testing.assert_array_equal(forward.toarray()[::-1], backward.toarray())
    assert len(many._parts._open) == 2


def test_a_file_that_is_opened_again_is_read_from_the_place_that_was_found(tmp_path, monkeypatch):
    monkeypatch.setattr(_many_parts, "MAX_OPEN", 1)
    paths = []
    for i in range(2):
        adata = some_cells(12, GENES, seed=i, names=f"s{i}.")
        adata.raw = adata.copy()
        adata.X = adata.X.log1p()
        paths.append(tmp_path / f"{i}.h5ad")
        adata.write_h5ad(paths[-1])
    many = ManyCells(paths, use_raw="auto")

    values = many.read(slice(0, 24)).data

    assert many.use_raw is True
    assert (values == np.rint(values)).all()


# -- genes by other names ------------------------------------------------------------------------


def test_genes_are_found_by_the_names_that_match_best():
    symbols = [f"SYM{chr(65 + i)}" for i in range(20)]
    ensembl = some_cells(10, GENES[:20], seed=1, names="a")
    ensembl.var["feature_name"] = symbols
    named = some_cells(10, symbols[:15], seed=2, names="b")
    versioned = some_cells(10, [f"{g}.3" for g in GENES[5:25]], seed=3, names="c")

    many = ManyCells([ensembl, named, versioned])

    assert list(many.var.index) == GENES[:25]
    assert list(many.var["feature_name"]) == [*symbols, *[""] * 5]
    values = many.read(slice(0, 30)).toarray()
    np.testing.assert_array_equal(values[10:20, :15], named.X.toarray())
    np.testing.assert_array_equal(values[20:, 5:25], versioned.X.toarray())
    assert not values[20:, :5].any()


def test_new_genes_are_named_as_those_that_there_are():
    first = some_cells(10, GENES[:20], seed=1)
    second = some_cells(10, [f"SYM{chr(65 + i)}" for i in range(20)], seed=2, names="b")
    second.var["gene_ids"] = GENES[5:25]

    many = ManyCells([first, second])

    assert list(many.var.index) == GENES[:25]


def test_genes_of_another_kind_are_refused(three):
    foreign = some_cells(10, [f"SYM{chr(65 + i)}" for i in range(20)])

    with pytest.raises(GeneMatchError, match=r"shares too few genes.*part 2\.X.*0 of 20.*E-G25"):
        ManyCells([three[0], foreign])
    with pytest.raises(GeneMatchError, match="no gene is in all files.*E-G25"):
        ManyCells([three[0], foreign], join="inner", min_gene_overlap=0)


def test_duplicated_genes_are_refused_or_added_up(three):
    twice = some_cells(10, [*GENES[:5], GENES[0]], seed=4)

    with pytest.raises(InputDataError, match=r"part 2\.X.*E-G11"):
        ManyCells([three[0], twice])
    many = ManyCells([three[0], twice], duplicates="sum")

    dense = twice.X.toarray()
    assert (many.read(slice(20, 30)).toarray()[:, 0] == dense[:, 0] + dense[:, 5]).all()


# -- no gene is lost -----------------------------------------------------------------------------

WORDS = ["ACBD", "NAAF", "SNURF", "TXN", "LINC", "MATR"]


def of(names, ids, *, seed=0, names_cells="cell"):
    adata = some_cells(8, names, seed=seed, names=names_cells)
    adata.var["ensembl_id"] = list(ids)
    return adata


def held(many, part, i):
    """Values of a file in the joined cells, gene by gene of the file."""
    first = int(many._starts[i])
    block = many.read(slice(first, first + part.n_obs)).toarray()
    return block[:, many._alignments[i].columns]


def test_identifiers_go_before_names_where_both_files_have_them():
    ids = [*GENES[:9], ""]
    first = of([*(f"SYM{chr(65 + i)}" for i in range(9)), "ACBD"], ids)
    # What the first file calls SYMA is another gene's name here, as of an older annotation.
    second = some_cells(8, [*GENES[:9], GENES[20], GENES[21]], seed=1, names="b")
    second.var["symbol"] = ["OLD", *list(first.var_names[1:9]), "SYMA", "ACBD"]

    many = ManyCells([first, second])

    assert many.n_vars == 11
    assert list(many.var.index) == [*first.var_names, GENES[20]]
    assert many.var.loc["SYMA", "ensembl_id"] == GENES[0]
    assert many.var.loc["ACBD", "ensembl_id"] == GENES[21]
    for i, part in enumerate((first, second)):
        np.testing.assert_array_equal(held(many, part, i), part.X.toarray())
    assert many.notes[-1] == (
        "1 genes have the name of another gene, and stand apart from it under another, in 1 of "
        f"2 files (part 2.X 1, first: SYMA as {GENES[20]})"
    )


def test_genes_of_one_symbol_stay_apart_unless_they_are_to_be_added_up():
    first = some_cells(8, WORDS)
    second = some_cells(8, GENES[:7], seed=1, names="b")
    second.var["symbol"] = [*WORDS, "SNURF"]

    apart = ManyCells([first, second])
    together = ManyCells([first, second], duplicates="sum")

    assert list(apart.var.index) == [*WORDS, GENES[2], GENES[6]]
    np.testing.assert_array_equal(held(apart, second, 1), second.X.toarray())
    assert "2 genes have the name of another gene" in apart.notes[-1]
    assert f"SNURF as {GENES[2]}, SNURF as {GENES[6]}" in apart.notes[-1]
    assert list(together.var.index) == WORDS
    dense = second.X.toarray()
    summed = together.read(slice(8, 16)).toarray()[:, 2]
    np.testing.assert_array_equal(summed, dense[:, 2] + dense[:, 6])
    assert together.notes[-1] == (
        "1 genes were added up with another of their file, of the same name, in 1 of 2 files "
        f"(part 2.X 1, first: {GENES[6]})"
    )


def test_genes_joined_by_name_in_spite_of_their_identifiers_are_said():
    first = of(WORDS, GENES[:6])
    second = of(WORDS[::-1], [GENES[10], *GENES[4::-1]], seed=1, names_cells="b")

    many = ManyCells([first, second])

    assert list(many.var.index) == WORDS
    np.testing.assert_array_equal(held(many, second, 1), second.X.toarray())
    assert many.notes == (
        "1 genes were joined by name, though their identifiers differ, in 1 of 2 files "
        f"(part 2.X 1, first: MATR of {GENES[5]} and {GENES[10]})",
    )


def test_files_of_the_same_names_are_joined_by_their_identifiers():
    first, second = of(WORDS, GENES[:6]), of(WORDS, GENES[5::-1], seed=1, names_cells="b")

    many = ManyCells([first, second])

    assert list(many.var["ensembl_id"]) == GENES[:6]
    np.testing.assert_array_equal(many.read(slice(8, 16)).toarray(), second.X.toarray()[:, ::-1])


def test_identifiers_of_an_index_are_kept_for_files_that_know_no_names():
    first = some_cells(8, WORDS)
    second = some_cells(8, GENES[:9], seed=1, names="b")
    second.var["symbol"] = [*WORDS, "SYMA", "SYMB", "SYMC"]
    third = some_cells(8, GENES[3:12], seed=2, names="c")

    many = ManyCells([first, second, third])

    assert list(many.var.index) == [*WORDS, "SYMA", "SYMB", "SYMC", *GENES[9:12]]
    assert list(many.var["ensembl_id"]) == GENES[:12]
    np.testing.assert_array_equal(held(many, third, 2), third.X.toarray())


def test_numbered_duplicates_are_genes_like_others(three):
    numbered = three[1].copy()
    numbered.var_names = ["TBCE", "TBCE-1", *numbered.var_names[2:]]

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        many = ManyCells([three[0], numbered])

    assert {"TBCE", "TBCE-1"} <= set(many.var.index)
    np.testing.assert_array_equal(held(many, numbered, 1), numbered.X.toarray())


@given(
    files=st.lists(
        st.tuples(
            st.lists(st.sampled_from([*WORDS, *GENES[:6]]), min_size=1, unique=True),
            st.lists(st.sampled_from(["", *GENES[:6]]), min_size=12, max_size=12),
            st.lists(st.sampled_from(["", *WORDS]), min_size=12, max_size=12),
        ),
        min_size=1,
        max_size=4,
    )
)
def test_every_gene_of_every_file_is_one_of_the_joined_whatever_the_names(files):
    tables = []
    for i, (names, ids, symbols) in enumerate(files):
        columns = {"ensembl_id": ids[: len(names)], "feature_name": symbols[: len(names)]}
        tables.append((pd.DataFrame(columns, index=pd.Index(names)), f"file {i}"))

    joined = join_genes(tables, min_gene_overlap=0)

    assert joined.var.index.is_unique
    assert "" not in joined.var.index
    for (var, _), alignment in zip(tables, joined.alignments, strict=True):
        assert (alignment.columns >= 0).all()
        assert len(set(alignment.columns)) == len(var)


def test_every_count_of_two_real_files_is_kept():
    folder = os.environ.get("EPISOME_TEST_DATA")
    if not folder:
        pytest.skip("EPISOME_TEST_DATA is not set: the real files are elsewhere")
    data = Path(folder) / "data"
    kang = anndata.read_h5ad(data / "kang_pbmc_ifnb.h5ad")
    facs = anndata.read_h5ad(data / "pbmc_facs_zheng.h5ad")

    many = ManyCells([kang, facs])

    for i, part in enumerate((kang, facs)):
        rows = slice(int(many._starts[i]), int(many._starts[i + 1]))
        assert many.read(rows).sum(dtype=np.float64) == part.X.sum(dtype=np.float64)
        assert len(set(many._alignments[i].columns)) == part.n_vars
    assert many.var.loc["ACBD6", "ensembl_id"] == "ENSG00000230124"
    column = list(facs.var_names).index("ENSG00000230124")
    assert many.var.index[many._alignments[1].columns[column]] == "ACBD6"


# -- cells ---------------------------------------------------------------------------------------


def test_names_of_cells_get_the_file_where_they_collide(tmp_path):
    first, second = some_cells(4, GENES, names="x"), some_cells(6, GENES, names="x", seed=1)
    second.obs_names = ["x0", "x1", "only", "here", "and", "there"]
    for name, adata in (("lung", first), ("blood", second)):
        adata.write_h5ad(tmp_path / f"{name}.h5ad")

    many = ManyCells([tmp_path / "lung.h5ad", tmp_path / "blood.h5ad"])

    assert list(many.obs_names[:3]) == ["lung:x0", "lung:x1", "x2"]
    assert list(many.obs_names[4:]) == ["blood:x0", "blood:x1", "only", "here", "and", "there"]
    assert many.notes[-1].startswith("4 of 10 cells have names that are in several files")


def test_files_of_one_name_are_told_apart(tmp_path):
    paths = []
    for i in range(2):
        (tmp_path / str(i)).mkdir()
        paths.append(tmp_path / str(i) / "cells.h5ad")
        some_cells(3, GENES, seed=i).write_h5ad(paths[-1])

    assert list(ManyCells(paths).obs_names[[0, 3]]) == ["cells.1:cell0", "cells.2:cell0"]


def test_columns_are_read_from_all_files(three):
    three[0].obs["cell_type"] = pd.Categorical(three[0].obs["cell_type"])
    three[1].obs["cell_type"] = pd.Categorical(["new"] * 15)
    three[2].obs["cell_type"] = pd.Categorical(three[2].obs["cell_type"])
    for i, adata in enumerate(three):
        adata.obs["batch"] = i
    many = ManyCells(three)

    labels, batch = many.obs_column("cell_type"), many.obs_column("batch")

    assert list(labels.astype(str)) == [v for a in three for v in a.obs["cell_type"].astype(str)]
    assert isinstance(labels.dtype, pd.CategoricalDtype)
    assert batch.tolist() == [0] * 20 + [1] * 15 + [2] * 10
    assert (labels.index == many.obs_names).all()


def test_missing_values_and_mixed_types_of_columns_stay(three):
    three[0].obs["donor"] = pd.Categorical(["d1", None] * 10)
    three[1].obs["donor"] = "d2"
    three[2].obs["donor"] = 3

    donors = ManyCells(three).obs_column("donor")

    assert donors.isna().sum() == 10
    assert donors.iloc[20] == "d2"
    assert donors.iloc[44] == 3


def test_a_column_that_a_file_lacks_is_named_with_the_file(three):
    three[0].obs["donor"] = three[2].obs["donor"] = "d"
    many = ManyCells(three)

    assert "donor" not in many.obs_columns
    with pytest.raises(UsageError, match=r"'donor' is missing.*1 of 3.*part 2\.X.*E-U04"):
        many.obs_column("donor")


# -- refusals ------------------------------------------------------------------------------------


def test_counts_beside_log_values_are_refused(three):
    three[1].X = three[1].X.log1p()

    with pytest.raises(InputDataError, match=r"some files hold counts.*part 2\.X.*E-D54"):
        ManyCells(three)


@pytest.mark.parametrize(
    ("data", "kwargs", "text"),
    [
        ([], {}, "E-U85"),
        ([3], {}, "cannot be read from a int.*E-U07"),
        (["x"], {"join": "left"}, "E-U30"),
    ],
)
def test_what_is_no_list_of_cells_is_refused(data, kwargs, text):
    with pytest.raises(UsageError, match=text):
        ManyCells(data, **kwargs)


def test_objects_are_not_changed(three):
    before = [(a.obs.copy(), a.var.copy(), a.X.copy()) for a in three]

    many = ManyCells(three)
    many.read(np.array([44, 0, 20]))

    for adata, (obs, var, x) in zip(three, before, strict=True):
        pd.testing.assert_frame_equal(adata.obs, obs)
        pd.testing.assert_frame_equal(adata.var, var)
        assert (x != adata.X).nnz == 0


# -- folders and queries -------------------------------------------------------------------------


def test_files_of_a_folder(three, tmp_path):
    for name in ("b", "a"):
        three[0].write_h5ad(tmp_path / f"{name}.h5ad")
    (tmp_path / "notes.txt").write_text("none")
    (tmp_path / ".hidden.h5ad").write_text("none")

    assert [p.name for p in cell_files(tmp_path)] == ["a.h5ad", "b.h5ad"]
    assert cell_files(tmp_path / "a.h5ad") == []
    three[0].write_zarr(tmp_path / "c.zarr")
    assert cell_files(tmp_path / "c.zarr") == []


def test_a_list_is_a_query(tmp_path):
    cells = simulate_cells(60, 40)
    cells[:30].copy().write_h5ad(tmp_path / "a.h5ad")
    cells[30:, ::-1].copy().write_h5ad(tmp_path / "b.h5ad")
    space, rule = FeatureSpace(tuple(cells.var_names)), InputRule("counts")

    for data in ([tmp_path / "a.h5ad", tmp_path / "b.h5ad"], tmp_path):
        query = prepare_query(data, space, rule)

        batch = query.loader(batch_size=60).batch(np.arange(60))
        assert (batch["X"] != cells.X).nnz == 0
