"""Every kind of file that cells are read from, written here as its programs write it."""

from __future__ import annotations

import gzip
import logging
import os
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from episome.data import (
    AnnDataSource,
    FileKind,
    check_readable,
    kind_of,
    read_any,
    read_cells,
    simulate_cells,
)
from episome.errors import InputDataError, InputFileError, MissingDependencyError

COUNTS = np.random.default_rng(0).poisson(0.8, (7, 5)).astype(np.float32)
CELLS = [f"{''.join(c)}-1" for c in np.random.default_rng(1).choice(list("ACGT"), (7, 16))]
IDS = [f"ENSG0000000000{i}" for i in range(5)]
GENES = ["CD3E", "CD19", "LYZ", "CD3", "CD19-tag"]
KINDS = ["Gene Expression"] * 5


def same(adata, counts=COUNTS, cells=CELLS, genes=GENES):
    assert list(adata.obs_names) == list(cells)
    assert list(adata.var_names) == list(genes)
    assert sparse.issparse(adata.X)
    assert np.array_equal(adata.X.toarray(), counts)
    return True


# -- h5ad and zarr -------------------------------------------------------------------------------


def full():
    """Cells with everything that an object holds."""
    adata = simulate_cells(40, 20)
    adata.layers["dense"] = adata.X.toarray()
    adata.obsm["X_pca"] = np.ones((40, 3), np.float32)
    adata.obsp["near"] = sparse.identity(40, format="csr", dtype=np.float32)
    adata.uns["list"] = {"a": 1, "b": sparse.identity(3, format="csr")}
    adata.raw = adata[:, :15].copy()
    return adata


@pytest.fixture(scope="module", params=["h5ad", "csc", "dense", "zarr2", "zarr3"])
def stored(request, tmp_path_factory):
    adata, kind = full(), request.param
    folder = tmp_path_factory.mktemp(kind)
    if kind.startswith("zarr"):
        path = folder / "cells.zarr"
        import zarr

        group = zarr.open_group(path, mode="w", zarr_format=int(kind[-1]))
        anndata.io.write_elem(group, "/", adata)
        zarr.consolidate_metadata(group.store)
        return path, adata
    path = folder / "cells.h5ad"
    if kind != "h5ad":
        adata.X = adata.X.tocsc() if kind == "csc" else adata.X.toarray()
    adata.write_h5ad(path, compression="gzip")
    return path, adata


def contents(path: Path) -> dict[str, bytes]:
    files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
    return {str(p): p.read_bytes() for p in files}


@pytest.mark.filterwarnings("ignore:Writing zarr v2")
@pytest.mark.parametrize("slot", [{}, {"layer": "dense"}, {"use_raw": True}], ids=str)
def test_on_disk_and_in_memory_are_the_same_and_nothing_is_written(stored, slot):
    path, adata = stored
    before = contents(path)
    rows = np.random.default_rng(0).permutation(40)

    there, here = read_cells(path, backed=True), read_cells(path)
    got = [AnnDataSource(a, **slot).read(rows).toarray() for a in (there, here, adata)]

    assert np.array_equal(got[0], got[2])
    assert np.array_equal(got[1], got[2])
    pd.testing.assert_frame_equal(there.obs, here.obs)
    assert list(there.obsm) == list(here.obsm) == ["X_pca"]
    if there.isbacked:
        there.file.close()
    assert contents(path) == before


def test_zarr_without_raw_and_layers_is_read(tmp_path):
    import zarr

    adata = simulate_cells(9, 5)
    group = zarr.open_group(tmp_path / "x", mode="w")
    anndata.io.write_elem(group, "/", adata)

    for backed in (False, True):
        got = read_cells(tmp_path / "x", backed=backed)
        assert got.raw is None
        assert np.array_equal(AnnDataSource(got).read(slice(0, 9)).toarray(), adata.X.toarray())


def test_backed_zarr_leaves_the_matrix_on_disk(stored):
    path, _ = stored
    if path.suffix != ".zarr":
        pytest.skip("h5ad is backed by anndata")

    adata = read_cells(path, backed=True)

    assert not isinstance(adata.X, np.ndarray)
    assert not sparse.issparse(adata.X)
    assert hasattr(adata.layers["dense"], "chunks")


@pytest.mark.parametrize("name", ["cells.txt", "cells", "cells.zarr", "a.csv.gz"])
def test_the_name_of_a_file_says_nothing(tmp_path, name):
    simulate_cells(5, 6).write_h5ad(tmp_path / "x.h5ad")
    (tmp_path / "x.h5ad").rename(tmp_path / name)

    assert read_cells(tmp_path / name).shape == (5, 6)
    assert kind_of(tmp_path / name, inside=True) is FileKind.H5AD


def test_the_kind_is_found_without_heavy_imports(tmp_path, run_python):
    simulate_cells(5, 6).write_h5ad(tmp_path / "x.h5ad")
    write_mtx(tmp_path / "m")
    code = (
        "import sys\nfrom episome.data import kind_of, check_readable\n"
        f"check_readable({str(tmp_path / 'x.h5ad')!r})\n"
        f"print(kind_of({str(tmp_path / 'm')!r}).value)\n"
        "print(sorted({'h5py', 'numpy', 'pandas', 'anndata', 'zarr'} & set(sys.modules)))"
    )

    assert run_python(code).stdout.splitlines() == ["matrix market", "[]"]


# -- 10x -----------------------------------------------------------------------------------------


def write_tenx(path, *, kinds=KINDS, counts=COUNTS):
    with h5py.File(path, "w") as file:
        matrix = sparse.csr_matrix(counts)
        group = file.create_group("matrix")
        group["barcodes"] = np.array(CELLS, "S")
        group["data"] = matrix.data.astype(np.int32)
        group["indices"] = matrix.indices.astype(np.int64)
        group["indptr"] = matrix.indptr.astype(np.int64)
        group["shape"] = np.array(counts.shape[::-1], np.int32)
        features = group.create_group("features")
        for key, values in (
            ("id", IDS),
            ("name", GENES),
            ("feature_type", kinds),
            ("genome", ["GRCh38"] * 5),
        ):
            features[key] = np.array(values, "S")
        features["_all_tag_keys"] = np.array(["genome"], "S")
    return path


def write_tenx_v2(path, genomes=("GRCh38",)):
    with h5py.File(path, "w") as file:
        for genome in genomes:
            matrix = sparse.csr_matrix(COUNTS)
            group = file.create_group(genome)
            group["barcodes"] = np.array(CELLS, "S")
            group["genes"], group["gene_names"] = np.array(IDS, "S"), np.array(GENES, "S")
            group["data"] = matrix.data.astype(np.int32)
            group["indices"], group["indptr"] = matrix.indices, matrix.indptr
            group["shape"] = np.array(COUNTS.shape[::-1], np.int32)
    return path


@pytest.mark.parametrize("write", [write_tenx, write_tenx_v2])
@pytest.mark.parametrize("name", ["filtered_feature_bc_matrix.h5", "cells.h5ad"])
def test_hdf5_of_10x_is_read(tmp_path, write, name):
    path = write(tmp_path / name)

    assert same(read_cells(path))
    assert same(read_any(path))
    assert kind_of(path) is FileKind.HDF5
    assert kind_of(path, inside=True) is FileKind.TENX_H5
    assert list(read_cells(path, backed=True).var["gene_ids"]) == IDS


def test_several_genomes_in_one_file_are_refused(tmp_path):
    with pytest.raises(InputFileError, match=r"several genomes.*GRCh38, mm10.*E-F06"):
        read_cells(write_tenx_v2(tmp_path / "x.h5", ("GRCh38", "mm10")))


MIXED = ["Gene Expression"] * 3 + ["Antibody Capture", "Peaks"]


@pytest.mark.parametrize("form", ["h5", "mtx"])
def test_several_kinds_of_features_open_as_mudata(tmp_path, form, caplog):
    if form == "h5":
        path = write_tenx(tmp_path / "x.h5", kinds=MIXED)
    else:
        path = write_mtx(tmp_path / "x", kinds=MIXED)

    mdata = read_any(path)
    with caplog.at_level(logging.INFO, logger="episome"):
        rna = read_cells(path)

    assert list(mdata.mod) == ["rna", "prot", "atac"]
    assert same(mdata.mod["rna"], COUNTS[:, :3], genes=GENES[:3])
    assert same(mdata.mod["prot"], COUNTS[:, 3:4], genes=GENES[3:4])
    assert same(rna, COUNTS[:, :3], genes=GENES[:3])
    assert "reading rna, leaving out prot (1 features), atac (1 features)" in caplog.text


# -- matrix market -------------------------------------------------------------------------------


def write_mtx(
    folder, *, features="features.tsv", packed=True, kinds=KINDS, prefix="", legacy=False
):
    folder.mkdir(parents=True, exist_ok=True)
    coo = sparse.coo_matrix(COUNTS.T)
    lines = ["%%MatrixMarket matrix coordinate integer general", "% written by a test"]
    lines.append(f"{coo.shape[0]} {coo.shape[1]} {coo.nnz}")
    lines += [
        f"{i + 1} {j + 1} {int(v)}" for i, j, v in zip(coo.row, coo.col, coo.data, strict=True)
    ]
    table = [
        f"{i}\t{g}" + ("" if legacy else f"\t{k}")
        for i, g, k in zip(IDS, GENES, kinds, strict=True)
    ]
    texts = {"matrix.mtx": lines, features: table, "barcodes.tsv": CELLS}
    for name, rows in texts.items():
        data = "".join(f"{row}\n" for row in rows).encode()
        if packed:
            (folder / f"{prefix}{name}.gz").write_bytes(gzip.compress(data))
        else:
            (folder / f"{prefix}{name}").write_bytes(data)
    return folder


@pytest.mark.parametrize("packed", [True, False], ids=["gz", "plain"])
@pytest.mark.parametrize("features", ["features.tsv", "genes.tsv"])
@pytest.mark.parametrize("prefix", ["", "GSM1_"])
def test_matrix_folders_are_read_in_every_spelling(tmp_path, packed, features, prefix):
    folder = write_mtx(
        tmp_path / "x",
        packed=packed,
        features=features,
        prefix=prefix,
        legacy=features == "genes.tsv",
    )
    matrix = folder / f"{prefix}matrix.mtx{'.gz' if packed else ''}"

    adata = read_cells(folder)

    assert same(adata)
    assert list(adata.var["gene_ids"]) == IDS
    assert same(read_cells(matrix))
    assert kind_of(folder) is kind_of(matrix) is FileKind.MTX


@pytest.mark.parametrize("asked", ["", "Solo.out", "Solo.out/Gene", "Solo.out/Gene/filtered"])
def test_starsolo_gives_its_filtered_cells(tmp_path, asked):
    write_mtx(tmp_path / "Solo.out" / "Gene" / "filtered", packed=False)
    write_mtx(tmp_path / "Solo.out" / "GeneFull" / "filtered", packed=False)
    (tmp_path / "Solo.out" / "Gene" / "raw").mkdir()

    assert same(read_cells(tmp_path / asked))


@pytest.mark.parametrize("form", ["h5", "folder", "version 2"])
def test_outs_of_cell_ranger_give_their_filtered_cells(tmp_path, form):
    outs = tmp_path / "run" / "outs"
    write_mtx(outs / "raw_feature_bc_matrix")
    if form == "h5":
        write_tenx(outs / "filtered_feature_bc_matrix.h5")
    elif form == "folder":
        write_mtx(outs / "filtered_feature_bc_matrix")
    else:
        write_mtx(outs / "filtered_gene_bc_matrices" / "hg19", features="genes.tsv", packed=False)

    for path in (outs, tmp_path / "run"):
        check_readable(path)
        assert same(read_cells(path))


def test_folders_with_several_matrices_are_refused(tmp_path):
    write_mtx(tmp_path, prefix="a_")
    write_mtx(tmp_path, prefix="b_")

    with pytest.raises(InputFileError, match=r"several matrices.*a_matrix.mtx.gz.*E-F07"):
        read_cells(tmp_path)
    assert same(read_cells(tmp_path / "a_matrix.mtx.gz"))


@pytest.mark.parametrize("lost", ["features.tsv", "barcodes.tsv"])
def test_a_matrix_without_its_lists_is_refused(tmp_path, lost):
    folder = write_mtx(tmp_path / "x", packed=False)
    (folder / lost).unlink()

    with pytest.raises(InputFileError, match=rf"no {lost} beside the matrix.*E-F07"):
        read_cells(folder)


def broken_mtx(folder, old, new):
    write_mtx(folder, packed=False)
    path = folder / "matrix.mtx"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    return folder


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        ("\n5 7 ", "\nfive 7 ", "line 3.*E-F22"),
        ("coordinate", "array", "line 1.*E-F22"),
        ("\n5 7 ", "\n5 8 ", "does not fit its lists.*E-F22"),
        ("\n5 7 ", "\n5 7 1", "cut short.*E-F01"),
        ("\n5 7 ", "\n5 7 9999999999999", "E-F09"),
    ],
)
def test_broken_matrices_are_told_by_line(tmp_path, old, new, text):
    with pytest.raises(InputFileError, match=text):
        read_cells(broken_mtx(tmp_path / "x", old, new))


def test_entries_outside_the_matrix_are_told_by_line(tmp_path):
    folder = write_mtx(tmp_path / "x", packed=False)
    path = folder / "matrix.mtx"
    lines = path.read_text().splitlines()
    lines[5] = "99 1 1"
    path.write_text("\n".join(lines) + "\n")

    with pytest.raises(InputFileError, match=r"(?i:line) 6.*E-F22"):
        read_cells(folder)


def test_lists_of_features_with_odd_lines_are_told(tmp_path):
    folder = write_mtx(tmp_path / "x", packed=False)
    path = folder / "features.tsv"
    path.write_text(path.read_text().replace("\tCD19\t", "\t", 1))

    with pytest.raises(InputFileError, match=r"line 2 has 2 fields, the first line has 3.*E-F22"):
        read_cells(folder)


# -- h5mu, loom ----------------------------------------------------------------------------------


def test_h5mu_opens_whole_or_as_rna(tmp_path, caplog):
    import mudata

    rna, prot = simulate_cells(12, 8), simulate_cells(12, 3)
    prot.var_names = ["a", "b", "c"]
    path = tmp_path / "cells.h5mu"
    mudata.MuData({"rna": rna, "prot": prot}).write(path)

    with caplog.at_level(logging.INFO, logger="episome"):
        got = read_cells(path)

    assert kind_of(path) is FileKind.H5MU
    assert list(read_any(path).mod) == ["rna", "prot"]
    assert np.array_equal(got.X.toarray(), rna.X.toarray())
    assert "leaving out prot (3 features)" in caplog.text


def test_modalities_without_rna_have_to_be_chosen(tmp_path):
    import mudata

    a, b = simulate_cells(12, 8), simulate_cells(12, 3)
    b.var_names = ["a", "b", "c"]
    path = tmp_path / "cells.h5mu"
    mudata.MuData({"x": a, "y": b}).write(path)

    with pytest.raises(InputFileError, match=r"none is called rna.*x, y.*E-F06"):
        read_cells(path)


def write_loom(path):
    with h5py.File(path, "w") as file:
        file.attrs["LOOM_SPEC_VERSION"] = "3.0.0"
        file["matrix"] = COUNTS.T
        for group, key, values in (("row", "Gene", GENES), ("col", "CellID", CELLS)):
            file.create_group(f"{group}_attrs")[key] = np.array(values, dtype=object)
            file.create_group(f"{group}_graphs")
        file.create_group("layers")
        file.create_group("attrs")["LOOM_SPEC_VERSION"] = "3.0.0"
    return path


def test_loom_is_read_by_loompy(tmp_path):
    pytest.importorskip("loompy")

    assert same(read_cells(write_loom(tmp_path / "x.loom")))


def test_loom_without_loompy_names_the_extra(tmp_path, monkeypatch):
    from episome.data import _read

    monkeypatch.setattr(_read, "find_spec", lambda name: None)
    path = write_loom(tmp_path / "x.loom")

    with pytest.raises(MissingDependencyError, match=r'pip install "episome\[loom\]".*E-P02'):
        read_cells(path)
    assert kind_of(path, inside=True) is FileKind.LOOM


# -- tables --------------------------------------------------------------------------------------


def table(separator=",", *, corner="cell", decimal=".", quote="", values=COUNTS):
    rows = [[corner, *GENES]] if corner is not None else [GENES]
    rows += [
        [c, *(f"{v:g}".replace(".", decimal) for v in r)]
        for c, r in zip(CELLS, values, strict=True)
    ]
    return "".join(separator.join(f"{quote}{f}{quote}" for f in row) + "\n" for row in rows)


@pytest.mark.parametrize("separator", [",", "\t", ";"])
@pytest.mark.parametrize("quote", ["", '"'])
@pytest.mark.parametrize("corner", ["cell", "", None])
@pytest.mark.parametrize("packed", [False, True])
def test_tables_are_read_in_every_spelling(tmp_path, separator, quote, corner, packed):
    data = table(separator, quote=quote, corner=corner).encode()
    path = tmp_path / "cells.csv"
    path.write_bytes(gzip.compress(data) if packed else data)

    assert same(read_cells(path))
    assert kind_of(path) is FileKind.TABLE


@pytest.mark.parametrize("separator", ["\t", ";"])
def test_decimal_commas_are_read(tmp_path, separator):
    path = tmp_path / "cells.csv"
    path.write_text(table(separator, decimal=",", values=COUNTS + np.float32(0.5)))

    assert same(read_cells(path), COUNTS + np.float32(0.5))


def test_marks_and_ends_of_other_systems_are_read(tmp_path):
    path = tmp_path / "cells.csv"
    path.write_bytes(b"\xef\xbb\xbf\r\n" + table().replace("\n", "\r\n").encode() + b"\r\n\r\n")

    assert same(read_cells(path))


def test_tables_are_read_in_blocks(tmp_path, monkeypatch):
    from episome.data import _read_table

    monkeypatch.setattr(_read_table, "_VALUES_AT_ONCE", 12)
    path = tmp_path / "cells.csv"
    path.write_text(table())

    assert same(read_cells(path))
    with pytest.raises(InputFileError, match="E-F09"):
        read_cells(path, max_memory=64)


def test_counts_that_float32_cannot_hold_stay_whole(tmp_path):
    path = tmp_path / "cells.csv"
    path.write_text("cell,A,B\nc,16777217,1\n")

    assert read_cells(path).X.toarray().tolist() == [[16777217, 1]]


def with_line(number, line):
    lines = table().splitlines()
    lines[number - 1] = line
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (with_line(7, "c,1,2"), "line 7 has 3 fields, the others have 6"),
        (with_line(7, "c,1,2,3,4,5,6"), "line 7 has 7 fields, the others have 6"),
        (with_line(4, "c,1,2,x,4,5"), "line 4 holds 'x' for 'LYZ'"),
        (with_line(4, "c,1,2,NA,4,5"), "line 4 holds 'NA' for 'LYZ'"),
        (with_line(4, "c,1,2,nan,4,5"), "line 4 holds 'nan' for 'LYZ'"),
        (with_line(4, "c,1,2,,4,5"), "line 4 holds nothing for 'LYZ'"),
        (with_line(4, 'c,1,"2,3,4,5'), "line (4|8) cannot be read"),
        (with_line(1, "c,1,2,3,4,5"), "line 1 holds numbers, no gene names"),
        (with_line(1, "cell,CD3E"), "line 2 has 6 fields, the header has 2"),
        (table().replace(",", "|"), "line 1 holds no comma"),
        (table(";", decimal=",", values=COUNTS + np.float32(1.125)), "line 2 holds '\\d,125'"),
    ],
)
def test_odd_lines_are_told_by_number(tmp_path, text, said):
    path = tmp_path / "cells.csv"
    path.write_text(text)

    with pytest.raises(InputFileError, match=rf"{said}.*E-F22"):
        read_cells(path)


def test_other_encodings_are_told_by_line(tmp_path):
    path = tmp_path / "cells.csv"
    path.write_bytes(table().replace(CELLS[3], "Zürich").encode("latin1"))

    with pytest.raises(InputFileError, match=r"line 5 is not UTF-8.*iconv.*E-F22"):
        read_cells(path)


@pytest.mark.parametrize("cells", [CELLS, [f"c{i}" for i in range(7)]])
def test_genes_in_rows_are_refused(tmp_path, cells):
    path = tmp_path / "cells.csv"
    frame = pd.DataFrame(COUNTS, index=cells, columns=["CD4", "CD74", "GAPDH", "ACTB", "LYZ"])
    frame.T.to_csv(path)

    with pytest.raises(InputDataError, match=r"genes are in rows.*\.T.*E-D35"):
        read_cells(path)
    frame.to_csv(path)
    assert read_cells(path).shape == (7, 5)


def test_a_table_without_cells_is_empty(tmp_path):
    path = tmp_path / "cells.csv"
    path.write_text("cell,A,B\n")

    assert read_cells(path).shape == (0, 2)


# -- structure -----------------------------------------------------------------------------------


@pytest.mark.parametrize("slot", ["X", "layers/more", "raw/X", "obsp/near", "uns/list/b"])
@pytest.mark.parametrize("what", ["indices", "indptr"])
def test_broken_structures_are_refused_wherever_they_are(tmp_path, slot, what):
    path = tmp_path / "cells.h5ad"
    adata = full()
    adata.layers["more"] = adata.X.copy()
    adata.write_h5ad(path)
    with h5py.File(path, "r+") as file:
        file[slot][what][2] = 1_000_000

    with pytest.raises(InputDataError, match=r"cells.h5ad, .*E-D23"):
        read_cells(path)


@pytest.mark.parametrize("slot", ["X", "raw/X"])
@pytest.mark.parametrize("place", [0, 2, -1])
def test_broken_pointers_on_disk_are_refused(tmp_path, slot, place):
    path = tmp_path / "cells.h5ad"
    full().write_h5ad(path)
    with h5py.File(path, "r+") as file:
        file[slot]["indptr"][place] = 1_000_000

    with pytest.raises(InputDataError, match=rf"cells.h5ad, {slot}.*E-D23"):
        read_cells(path, backed=True)


def test_broken_columns_on_disk_are_refused_when_they_are_read(tmp_path):
    path = tmp_path / "cells.h5ad"
    full().write_h5ad(path)
    with h5py.File(path, "r+") as file:
        file["X"]["indices"][2] = 1_000_000

    adata = read_cells(path, backed=True)
    with pytest.raises(InputDataError, match="E-D23"):
        AnnDataSource(adata).read(slice(0, 40))
    adata.file.close()


@pytest.mark.parametrize("form", ["csr", "csc", "dense"])
def test_broken_chunks_on_disk_are_told_when_they_are_read(tmp_path, form):
    path = tmp_path / "cells.h5ad"
    adata = full()
    adata.X = adata.X.toarray() if form == "dense" else adata.X.asformat(form)
    adata.write_h5ad(path, compression="gzip")
    with h5py.File(path) as file:
        matrix = file["X"] if form == "dense" else file["X/data"]
        place = matrix.id.get_chunk_info(0).byte_offset
    data = bytearray(path.read_bytes())
    data[place : place + 20] = bytes(20)
    path.write_bytes(data)

    there = read_cells(path, backed=True)
    with pytest.raises(InputFileError, match=r"cannot be read.*E-F01"):
        AnnDataSource(there).read(slice(0, 40))
    there.file.close()
    with pytest.raises(InputFileError, match="E-F01"):
        read_cells(path)


def test_codes_without_a_category_are_refused(tmp_path):
    path = tmp_path / "cells.h5ad"
    full().write_h5ad(path)
    with h5py.File(path, "r+") as file:
        file["obs/cell_type/codes"][3] = 100

    with pytest.raises(InputFileError, match=r"codes need to be between.*E-F01"):
        read_cells(path)


# -- real files ----------------------------------------------------------------------------------

REAL = sorted(Path(os.environ.get("EPISOME_TEST_DATA", "/nowhere"), "data").glob("*.h5ad"))


@pytest.mark.skipif(not REAL, reason="EPISOME_TEST_DATA is not set: there are no real files")
@pytest.mark.parametrize("path", REAL, ids=lambda p: p.stem)
@pytest.mark.filterwarnings("ignore:Variable names are not unique")
@pytest.mark.filterwarnings("ignore:Observation names are not unique")
def test_real_files_open_on_disk_and_in_memory(path):
    there, here = read_cells(path, backed=True), read_cells(path)
    rows = np.arange(0, here.n_obs, 7)

    got = [AnnDataSource(a).read(rows) for a in (there, here)]
    there.file.close()

    assert there.shape == here.shape
    assert (got[0] != got[1]).nnz == 0
    pd.testing.assert_frame_equal(there.obs, here.obs)
