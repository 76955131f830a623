"""Bad files, row by row of the catalogue of bad inputs: nothing is read wrong without a word.

Every row is one test whose id is the row's. What other tests show in depth (readers, atomic
writes) is shown here once, from the side of the file.
"""

from __future__ import annotations

import contextlib
import errno
import gzip
import hashlib
import io
import json
import logging
import multiprocessing
import os
import random
import resource
import shutil
import signal
import tarfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
from _catalogue import Catalogue, marked
from scipy import sparse

from episome.data import AnnDataSource, read_any, read_cells, simulate_cells
from episome.errors import (
    EpisomeError,
    EpisomeWarning,
    InputDataError,
    InputFileError,
    ResourceError,
)
from episome.io import check_output, write_calls, write_file

CATALOGUE = Catalogue("test_bad_files")
row = CATALOGUE.row

#: Rows that wait for what is not built yet: they are no tests.
LATER = {
    "F17": "a network share that stalls: no command reads with a time limit",
    "F19": "a download that is cut half-way: no command downloads",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with ``cells.h5ad``."""
    cells().write_h5ad(tmp_path / "cells.h5ad")
    return tmp_path


# -- how it is asked -----------------------------------------------------------------------------


def cells():
    adata = simulate_cells(40, 20)
    adata.layers["dense"] = adata.X.toarray()
    adata.raw = adata[:, :15].copy()
    adata.uns["info"] = {"n": 3, "text": "a"}
    return adata


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""


def written(folder: Path, data: bytes, name: str = "bad.h5ad") -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


def refused(path: Path | str, match: str, error: type[EpisomeError] = InputFileError, **kwargs):
    """Both readers and both ways of reading refuse, in one form and at most six lines."""
    for read in (read_cells, read_any):
        for backed in (False, True):
            with pytest.raises(error, match=match) as caught:
                read(path, backed=backed, **kwargs)
            text = str(caught.value)
            assert len(text.splitlines()) <= 6
            assert len(text) < 800
            assert text.endswith("]")


def broken(folder: Path, change: Callable[[h5py.File], None], name: str = "bad.h5ad") -> Path:
    """Copy the good file and change it."""
    path = folder / name
    shutil.copy(folder / "cells.h5ad", path)
    with h5py.File(path, "r+") as file:
        change(file)
    return path


def good(path: Path | str, adata=None) -> None:
    adata = cells() if adata is None else adata
    got = read_cells(path)
    assert got.shape == adata.shape
    assert np.array_equal(AnnDataSource(got).read(slice(0, 40)).toarray(), adata.X.toarray())


# -- the content ---------------------------------------------------------------------------------


@row("F01", "a file that is cut short", "refused: where it ends, and of how many bytes")
def truncated(folder):
    data = (folder / "cells.h5ad").read_bytes()
    rng = random.Random(0)
    for n in (8, 50, 100, *(rng.randrange(100, len(data)) for _ in range(30)), len(data) - 1):
        refused(written(folder, data[:n]), r"(E-F01|E-F06)\]$")
    refused(
        written(folder, data[:5000]),
        rf"cut short.*ends at 5,000 of {len(data):,} bytes.*download.*E-F01\]$",
    )


@row("F02", "a pointer of Git LFS", "refused with `git lfs pull`")
def lfs_pointer(folder):
    text = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
    refused(written(folder, text), r"a Git LFS pointer.*git lfs pull.*E-F02")


@row("F03", "a page or an answer of a server", "refused: its title or what it says")
def page_of_a_server(folder):
    page = b"\r\n<!DOCTYPE html>\n<html><head><title>Sign in\n please</title></head></html>"
    refused(written(folder, page), r"a web page.*its title is 'Sign in please'.*E-F03")
    answer = b'{"code": 403, "message": "no right to see this"}'
    refused(written(folder, answer), r"JSON.*it says 'no right to see this'.*E-F03")
    refused(written(folder, b"<?xml version='1.0'?><Error/>"), r"XML.*E-F03")


@row("F04", "an empty file", "refused")
def empty(folder):
    refused(written(folder, b""), r"the file is empty.*E-F04")


@row("F05", "gzip, zstd, zip or tar around the file", "refused with the command that unpacks it")
def packed(folder):
    inner = (folder / "cells.h5ad").read_bytes()
    refused(written(folder, gzip.compress(inner)), r"gzip.*gunzip.*E-F05")
    refused(written(folder, b"\x28\xb5\x2f\xfd" + inner[:99]), r"zstd -d.*E-F05")
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("cells.h5ad", inner)
    refused(written(folder, archive.getvalue()), r"zip.*unzip.*E-F05")
    for mode, command in (("w", "tar -xf"), ("w:gz", "tar -xzf"), ("w:bz2", "bunzip2")):
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode=mode) as file:
            file.add(folder / "cells.h5ad", "cells.h5ad")
        refused(written(folder, archive.getvalue()), rf"{command}.*E-F05")


@row(
    "F06",
    "another ending, or another kind of file",
    "known by its content and read; else refused with the converter",
)
def other_names_and_kinds(folder):
    for name in ("cells.txt", "cells.h5", "cells.loom", "cells.csv.gz"):
        good(shutil.copy(folder / "cells.h5ad", folder / name))
    refused(written(folder, gzip.compress(b"RDX3\nX\n")), r"R objects.*anndataR.*E-F06")
    refused(written(folder, gzip.compress(b"X\n\0\0\0\x03\0")), r"RDS.*anndataR.*E-F06")
    refused(written(folder, b"PAR1" + bytes(99)), r"parquet.*read_parquet.*E-F06")
    refused(written(folder, b"\x80\x04\x95"), r"a pickle, which would run code.*E-F06")
    refused(written(folder, bytes(range(1, 200))), r"not HDF5.*E-F06")
    with h5py.File(folder / "bad.h5ad", "w") as file:
        file.create_group("assays")
        file["cell.names"] = [1]
    refused(folder / "bad.h5ad", r"h5Seurat.*anndataR.*E-F06")
    with h5py.File(folder / "bad.h5ad", "w") as file:
        file["values"] = [1]
    refused(folder / "bad.h5ad", r"its top level holds values.*E-F06")


@row(
    "F07",
    "no such file, a folder, a broken link, no permission",
    "refused; like names beside it are shown",
)
def nothing_there(folder):
    refused(folder / "cell.h5ad", r"no such file.*holds cells.h5ad.*E-F07")
    refused(folder / "no" / "cells.h5ad", r"the folder .*no does not exist.*E-F07")
    refused(folder, r"a folder, not a file.*holds cells.h5ad.*E-F07")
    (folder / "link.h5ad").symlink_to(folder / "gone.h5ad")
    refused(folder / "link.h5ad", r"the link is broken.*gone.h5ad.*E-F07")
    refused(folder / "cells.h5ad" / "X", r"E-F07")
    refused("a\0b.h5ad", r"E-F07")
    os.mkfifo(folder / "pipe.h5ad")
    refused(folder / "pipe.h5ad", r"neither a file nor a folder.*E-F07")
    if os.geteuid():
        path = written(folder, b"x")
        path.chmod(0)
        refused(path, r"Permission denied.*chmod.*E-F07")


@row("F08", "one flipped bit", "read or refused, never a crash")
def flipped_bits(folder):
    """No flip crashes; ``tests/fuzz`` does the same thousands of times."""
    data = (folder / "cells.h5ad").read_bytes()
    rng = random.Random(0)
    for _ in range(40):
        bad, bit = bytearray(data), rng.randrange(8 * len(data))
        bad[bit // 8] ^= 1 << (bit % 8)
        path = written(folder, bytes(bad))
        pid = os.fork()
        if pid == 0:
            code = 3
            with contextlib.suppress(BaseException):
                code = _computes(path)
            os._exit(code)
        _, status = os.waitpid(pid, 0)
        assert os.WIFEXITED(status), f"signal {os.WTERMSIG(status)} at bit {bit}"
        assert os.WEXITSTATUS(status) == 0, bit


def _computes(path: Path) -> int:
    signal.alarm(30)
    try:
        adata = read_cells(path)
        AnnDataSource(adata).read(slice(0, adata.n_obs)).sum()
    except EpisomeError:
        pass
    return 0


# -- bombs and traps -----------------------------------------------------------------------------


@row(
    "F09",
    "a small file that declares hundreds of gigabytes",
    "refused before anything is allocated; `max_memory=`",
)
def more_than_memory(folder):
    def huge(file):
        del file["layers/dense"]
        file["layers"].create_dataset(
            "dense", (100_000, 1_000_000), "f4", chunks=(100, 1000), compression="gzip"
        ).attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})

    path = broken(folder, huge)
    assert path.stat().st_size < 200_000
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused(
        path, r"would take 400.0 GB, 8.6 GB are allowed.*layers/dense.*E-F09", max_memory=2**33
    )
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 200_000
    refused(folder / "cells.h5ad", r"max_memory.*E-F09", max_memory=100)
    good(folder / "cells.h5ad")


@row(
    "F10",
    "a bomb: packed zeros, deep nesting, circles, very many attributes",
    "refused; `trust=True` lifts the limit of packing",
)
def bombs(folder):
    zeros = np.zeros(100 << 20, np.uint8)

    def bomb(file):
        file["obsm"].create_dataset("x", data=zeros, chunks=(1 << 20,), compression="gzip")

    def deep(file):
        group = file["uns"]
        for _ in range(40):
            group = group.create_group("a")

    def wide(file):
        # every group twice in the one before: 2**24 ways to the last
        groups = [file.create_group(f"uns/g{n}") for n in range(25)]
        for above, below in zip(groups, groups[1:], strict=False):
            above["a"] = above["b"] = below

    def circle(file):
        file["uns/me"] = file["uns"]

    def soft_circle(file):
        file["uns/me"] = h5py.SoftLink("/uns")

    def attributes(file):
        file["uns"].attrs.update({f"a{n}": n for n in range(1500)})

    for change in (deep, circle, soft_circle):
        refused(broken(folder, change), r"nested more than 32 deep.*E-F09")
    refused(broken(folder, bomb), r"unpacks to far more than it stores.*200 times.*trust.*E-F09")
    good(broken(folder, attributes))
    from episome.data import _read_guard

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_read_guard, "MAX_OBJECTS", 1000)
        for change in (attributes, wide):
            refused(broken(folder, change), r"more than 1,000 objects and attributes.*E-F09")
        patch.setattr(_read_guard, "RATIO_FLOOR", 1 << 20)
        path = folder / "bomb.csv.gz"
        path.write_bytes(gzip.compress(b"cell,A,B\n" + b"c,0,0\n" * (1 << 20)))
        refused(path, r"unpacks to far more.*E-F09")


@row("F11", "links to other files, virtual or external data", "never followed: refused")
def other_files(folder):
    with h5py.File(folder / "secret.h5", "w") as file:
        file["x"] = np.arange(40.0)

    def link(file):
        file["obs/secret"] = h5py.ExternalLink(folder / "secret.h5", "/x")

    def virtual(file):
        layout = h5py.VirtualLayout((40,), "f8")
        layout[:] = h5py.VirtualSource(folder / "secret.h5", "x", (40,))
        file.create_virtual_dataset("obs/secret", layout)

    def external(file):
        file["obs"].create_dataset(
            "secret", (40,), "f8", external=[(bytes(folder / "secret.h5"), 2048, 320)]
        )

    for change in (link, virtual, external):
        path = broken(folder, change)
        refused(path, r"another file|other files.*bad.h5ad, obs/secret.*E-F11")
        assert read_cells(path, trust=True).n_obs == 40


@row("F12", "a filter that this machine lacks", "refused with its name")
def unknown_filters(folder):
    def blosc(file):
        kind = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        kind.set_chunk((10,))
        kind.set_filter(32001, h5py.h5z.FLAG_OPTIONAL, (2, 2))
        h5py.h5d.create(
            file["obs"].id, b"x", h5py.h5t.IEEE_F32LE, h5py.h5s.create_simple((40,)), kind
        )

    refused(broken(folder, blosc), r"filter 32001 \(blosc\) in bad.h5ad, obs/x.*hdf5plugin.*E-F12")

    # zarr can ask for unpickling
    store = folder / "cells.zarr"
    write_zarr(store, 2)
    where = next((store / "obs" / "_index").rglob(".zarray"))
    content = json.loads(where.read_text())
    content["filters"] = [{"id": "pickle", "protocol": 5}]
    where.write_text(json.dumps(content))
    refused(store, r"pickle in cells.zarr, obs/.*run code.*E-F12")
    refused(store, r"E-F12", trust=True)


def write_zarr(path, version):
    import zarr

    with warnings_off():
        group = zarr.open_group(path, mode="w", zarr_format=version)
        anndata.io.write_elem(group, "/", cells())
        zarr.consolidate_metadata(group.store)


@contextlib.contextmanager
def warnings_off():
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@row("F13", "an encoding of a newer anndata", "refused; upgrade")
def newer_encoding(folder):
    def newer(file):
        file["X"].attrs["encoding-version"] = "9.9.0"

    with pytest.raises(InputFileError, match=r"anndata does not know.*9\.9\.0.*upgrade.*E-F13"):
        read_cells(broken(folder, newer))


@row("F14", "a file of anndata 0.6 or 0.7", "read, with one line")
def older_encodings(folder):
    counts, names = cells().X, cells().obs_names
    with h5py.File(folder / "old.h5ad", "w") as file:  # 0.6: tables as records
        file["X"] = counts.toarray()
        kinds = [("index", "S8"), ("kind", "i1")]
        file["obs"] = np.array([(n.encode(), i % 2) for i, n in enumerate(names)], kinds)
        file["var"] = np.array([(f"G{n}".encode(),) for n in range(20)], [("index", "S8")])
        file["uns/kind_categories"] = np.array([b"B", b"T"])
    with h5py.File(folder / "older.h5ad", "w") as file:  # 0.7: tables as groups
        group = file.create_group("X")
        for key in ("data", "indices", "indptr"):
            group[key] = getattr(counts, key)
        group.attrs.update(
            {"encoding-type": "csr_matrix", "encoding-version": "0.1.0", "shape": counts.shape}
        )
        for key, index in (("obs", list(names)), ("var", [f"G{n}" for n in range(20)])):
            table = file.create_group(key)
            table["_index"] = np.array(index, object)
            table.attrs.update(
                {
                    "encoding-type": "dataframe",
                    "encoding-version": "0.1.0",
                    "_index": "_index",
                    "column-order": np.array(
                        ["kind"] if key == "obs" else [], h5py.string_dtype()
                    ),
                }
            )
        file["obs/kind"] = np.arange(40, dtype="i1") % 2
        file["obs/__categories/kind"] = np.array(["B", "T"], object)
        file["obs/kind"].attrs["categories"] = file["obs/__categories/kind"].ref
    for name in ("old.h5ad", "older.h5ad"):
        with said() as lines:
            adata = read_cells(folder / name)
        assert [f"{name}: written by an anndata before 0.8" in line for line in lines] == [True]
        assert np.array_equal(AnnDataSource(adata).read(slice(0, 40)).toarray(), counts.toarray())
        assert list(adata.obs["kind"][:3]) == ["B", "T", "B"]


@contextlib.contextmanager
def said():
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    logger = logging.getLogger("episome")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield lines
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


@row("F15", "a file that another program writes to", "waited for; refused with the process")
def locked(folder):
    from episome.data import _read_hdf5

    path = shutil.copy(folder / "cells.h5ad", folder / "locked.h5ad")
    context = multiprocessing.get_context("spawn")
    ready, end = context.Event(), context.Event()
    writer = context.Process(target=_hold, args=(str(path), ready, end))
    writer.start()
    try:
        assert ready.wait(60)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(_read_hdf5, "LOCK_SECONDS", 0.5)
            start = time.monotonic()
            with pytest.raises(InputFileError, match=rf"process {writer.pid} \(.*\).*E-F15"):
                read_cells(path)
            assert time.monotonic() - start >= 0.5
        end.set()
        good(path)  # waits for the writer to go
    finally:
        end.set()
        writer.join(60)


def _hold(path, ready, end):
    with h5py.File(path, "r+"):
        ready.set()
        end.wait(60)
        time.sleep(0.3)  # so that the reader, who is told at the same time, has to wait


@row("F16", "a file that changes while it is read", "refused")
def changes_while_read(folder):
    path = shutil.copy(folder / "cells.h5ad", folder / "changing.h5ad")
    read = anndata.read_h5ad

    def slow(*args, **kwargs):
        found = read(*args, **kwargs)
        os.utime(path, ns=(1, 1))
        return found

    def cut(*args, **kwargs):
        os.truncate(path, 3000)
        return read(*args, **kwargs)

    for change in (slow, cut):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(anndata, "read_h5ad", change)
            with pytest.raises(InputFileError, match=r"changed while it was read.*E-F16"):
                read_cells(path)


@row("F18", "a remote address", "refused with the command that downloads it")
def remote(folder):
    for url in ("https://a.org/x/cells.h5ad", "s3://bucket/cells.h5ad", "gs://b/cells.zarr"):
        refused(url, rf"remote in {url}.*download.*{url}.*E-F18")
        refused(Path(url), rf"remote in {url}.*E-F18")  # a Path makes one slash of two
    refused("https://a.org/x.h5ad", r"curl -fLO 'https://a.org/x.h5ad'")
    refused("s3://b/x.h5ad", r"aws s3 cp")


@row(
    "F20",
    "a zarr folder that lacks parts",
    "refused; a missing chunk that is plain zeros by the format: a warning",
)
def parts_of_zarr(folder):
    for version in (2, 3):
        whole = folder / f"cells{version}.zarr"
        write_zarr(whole, version)
        good(whole)

        def part(*names, whole=whole):
            copy = folder / "part.zarr"
            shutil.rmtree(copy, ignore_errors=True)
            shutil.copytree(whole, copy)
            for name in names:
                lost = copy / name
                shutil.rmtree(lost) if lost.is_dir() else lost.unlink(missing_ok=True)
            return copy

        chunk = "0" if version == 2 else "c"
        hidden = [".zgroup", ".zattrs", ".zmetadata"] if version == 2 else ["zarr.json"]
        refused(part(*hidden), r"no metadata.*E-F20")
        refused(part("obs/cell_type"), r"lists are not there.*obs/cell_type/c.*E-F20")
        refused(part("obs", ".zmetadata"), r"E-F20")
        refused(part(f"X/data/{chunk}"), r"missing from X/data.*1 of 1.*E-F20")
        refused(part(f"raw/X/indices/{chunk}"), r"missing from raw/X/indices.*E-F20")
        refused(part(f"X/indptr/{chunk}"), r"E-D23|E-F20", EpisomeError)
        index = "obs/_index/values" if (whole / "obs/_index/values").is_dir() else "obs/_index"
        refused(part(f"{index}/{chunk}"), r"missing from obs/_index.*E-F20")
        lost = "layers/dense/0.0" if version == 2 else "layers/dense/c"
        with pytest.warns(EpisomeWarning, match=r"read as zeros.*1 of .*layers/dense.*E-F20"):
            read_cells(part(lost))
        # what is cut inside
        for path in sorted((folder / "part.zarr" / "X" / "data").rglob("*")):
            if path.is_file() and not path.name.startswith((".z", "zarr")):
                path.write_bytes(path.read_bytes()[:20])
        for backed in (False, True):
            with warnings_off(), pytest.raises(InputFileError, match="E-F01"):
                AnnDataSource(read_cells(folder / "part.zarr", backed=backed)).read(slice(0, 9))
        # what is no zarr of cells, and what leaves the folder
        store = part()
        (store / "uns" / "x").symlink_to("/etc")
        refused(store, r"a link to another folder.*E-F11")


@row("F21", "archives with paths that leave the folder", "never unpacked: refused")
def archives(folder):
    """Archives are never unpacked, so nothing in one can be written anywhere."""
    before = sorted(folder.rglob("*"))
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as file:
        info = tarfile.TarInfo("../outside.h5ad")
        file.addfile(info, io.BytesIO())
    refused(written(folder, archive.getvalue()), r"tar -xzf.*E-F05")
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("../../outside.zarr/.zgroup", "{}")
    refused(written(folder, archive.getvalue(), "cells.zarr.zip"), r"unzip.*E-F05")
    made = {folder / "bad.h5ad", folder / "cells.zarr.zip"}
    assert sorted(set(folder.rglob("*")) - made) == before
    assert not (folder.parent / "outside.h5ad").exists()


# -- text ----------------------------------------------------------------------------------------


@row(
    "F22", "tables with ragged rows, other marks, no header", "refused with the number of the line"
)
def tables(folder):
    for text, line in (
        ("cell|A|B\nc|1|2\n", "line 1"),
        ("c,1,2\nd,3,4\n", "line 1 holds numbers"),
        ("cell,A,B\nc,1,2\nd,1\n", "line 3 has 2 fields"),
        ('cell,A,B\nc,1,2\nd,"1,2\n', "line (3|4)"),
        ('cell,A,B\nc,"1,5","2,5"\nd,x,1\n', "line 3 holds 'x'"),
        ("cell;A;B\nc;1,234;2\n", "line 2 holds '1,234'"),
        ("cell,A,B\nc,1,2\nd,1,\n", "line 3 holds nothing for 'B'"),
    ):
        refused(written(folder, text.encode(), "table.csv"), rf"{line}.*E-F22")
    refused(written(folder, gzip.compress(b"cell,A,B\nc,1\n"), "t.csv.gz"), r"E-F22")
    refused(written(folder, gzip.compress(b"cell,A,B\nc,1,2\n" * 99)[:-9], "t.csv.gz"), r"E-F01")
    for text in ("cell,A,B\nc,1,2\n", "\ufeffcell;A;B\nc;1;2\n", '"cell"\t"A"\t"B"\nc\t1\t2\n'):
        path = written(folder, text.encode(), "table.csv")
        assert read_cells(path).X.toarray().tolist() == [[1, 2]]
    (folder / "m").mkdir()
    written(
        folder / "m",
        b"%%MatrixMarket matrix coordinate real general\n2 1 1\n3 1 1\n",
        "matrix.mtx",
    )
    written(folder / "m", b"A\tA\nB\tB\n", "genes.tsv")
    written(folder / "m", b"c\n", "barcodes.tsv")
    refused(folder / "m", r"(?i:line) 3.*E-F22")


@row("F23", "10x folders of any release, packed or not", "read")
def tenx_folders(folder):
    matrix = b"%%MatrixMarket matrix coordinate integer general\n2 1 1\n2 1 5\n"
    for n, (features, table) in enumerate(
        (
            ("features.tsv", b"E1\tA\tGene Expression\nE2\tB\tGene Expression\n"),
            ("genes.tsv", b"E1\tA\nE2\tB\n"),
        )
    ):
        for packed in (True, False):
            place = folder / f"m{n}{packed}"
            place.mkdir()
            for name, data in (
                ("matrix.mtx", matrix),
                (features, table),
                ("barcodes.tsv", b"c\n"),
            ):
                end = ".gz" if packed else ""
                written(place, gzip.compress(data) if packed else data, name + end)
            adata = read_cells(place)
            assert adata.X.toarray().tolist() == [[0, 5]]
            assert list(adata.var_names) == ["A", "B"]


@row("F24", "odd names of files", "read")
def odd_names(folder):
    names = ["a b.h5ad", 'it\'s "x".h5ad', "Zellen-ä-細胞-🧬.h5ad", "-rf.h5ad", "a\nb.h5ad"]
    names += ["x" * 250 + ".h5ad", "%s{0}.h5ad", "a#?*[b].h5ad", "con.h5ad", "tab\t.h5ad"]
    for name in names:
        path = folder / name
        shutil.copy(folder / "cells.h5ad", path)
        good(path)
        good(str(path))
        adata = read_cells(path, backed=True)
        assert adata.n_obs == 40
        adata.file.close()
        path.write_bytes(b"")
        refused(path, r"empty.*E-F04")
    refused(folder / ("x" * 256), r"E-F07")
    here = Path.cwd()
    os.chdir(folder)
    try:
        shutil.copy("cells.h5ad", folder / "-x")
        good("-x")
    finally:
        os.chdir(here)


# -- writing -------------------------------------------------------------------------------------


def calls():
    return pd.DataFrame({"label": ["a"] * 40}, index=cells().obs_names)


@row("F25", "the output is the input", "refused")
def output_is_input(folder):
    path = folder / "cells.h5ad"
    (folder / "link.h5ad").symlink_to(path)
    for output in (path, folder / "link.h5ad", folder / "x" / ".." / "cells.h5ad"):
        with pytest.raises(InputFileError, match="E-F25"):
            check_output(output, overwrite=True, source=path)


@row("F26", "the output exists", "refused; `overwrite=True` replaces it")
def output_exists(folder):
    path = written(folder, b"mine", "calls.csv")
    with pytest.raises(InputFileError, match=r"exists already.*overwrite.*E-F26"):
        write_calls(path, calls())
    assert path.read_bytes() == b"mine"
    write_calls(path, calls(), overwrite=True)
    assert len(pd.read_csv(path)) == 40


@row("F27", "no folder for the output, or none to write to", "made; refused before the work")
def output_folder(folder):
    write_calls(folder / "new" / "deep" / "calls.csv", calls())
    assert (folder / "new" / "deep" / "calls.csv").exists()
    written(folder, b"", "file")
    with pytest.raises(InputFileError, match=r"cannot be written.*E-F27"):
        check_output(folder / "file" / "calls.csv", overwrite=False)


@row("F28", "a full disk while writing", "the old file stays; refused with what is free")
def disk_full(folder):
    path = written(folder, b"old", "out.txt")

    def fill(temporary: Path) -> None:
        temporary.write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(ResourceError, match=r"disk is full.*MB are free.*E-R02"):
        write_file(path, fill, overwrite=True)
    assert path.read_bytes() == b"old"
    assert not list(folder.glob(".*"))


@row("F29", "killed while writing", "the old file stays")
def killed_while_writing(folder):
    path = written(folder, b"old" * 1000, "out.txt")
    for moment in range(6):
        pid = os.fork()
        if pid == 0:

            def slow(temporary: Path, moment=moment) -> None:
                with temporary.open("wb") as handle:
                    for n in range(6):
                        if n == moment:
                            os.kill(os.getpid(), signal.SIGKILL)
                        handle.write(b"new" * 200)

            with contextlib.suppress(BaseException):
                write_file(path, slow, overwrite=True)
            os._exit(1)
        _, status = os.waitpid(pid, 0)
        assert os.WTERMSIG(status) == signal.SIGKILL
        assert path.read_bytes() == b"old" * 1000
    write_file(path, b"new", overwrite=True)
    assert path.read_bytes() == b"new"


# -- the rows -----------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:zarr v3 autosharding")
@pytest.mark.parametrize("name", marked(CATALOGUE, {}))
def test_bad_files(name, folder):
    before = {p: digest(p) for p in folder.iterdir()}

    CATALOGUE[name].shows(folder)

    assert {p: digest(p) for p in before} == before


# -- a bug of ours is no broken file -------------------------------------------------------------


def test_errors_of_ours_are_not_taken_for_the_file(folder, monkeypatch):
    from episome.data import _read_tree

    def bug(*args, **kwargs):
        raise RuntimeError("a bug")

    monkeypatch.setattr(_read_tree, "check_tree", bug)

    with pytest.raises(RuntimeError, match=r"^a bug$"):
        read_cells(folder / "cells.h5ad")


def test_structure_is_refused_before_anyone_computes(folder):
    def break_it(file):
        file["X/indices"][0] = 2**30

    with pytest.raises(InputDataError, match=r"bad.h5ad, X.*E-D23"):
        read_cells(broken(folder, break_it))
    assert sparse.issparse(read_cells(folder / "cells.h5ad").X)
