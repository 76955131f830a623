"""A corpus on disk: what goes in comes out, and nothing that is damaged is read."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
import threading
import time
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from episome.data import CellSource, simulate_cells
from episome.data._compiled import offsets_of
from episome.data._corpus_build import build_corpus
from episome.data._corpus_inputs import Condition, CorpusInput, check_corpus_inputs
from episome.data._corpus_plan import CorpusOptions, plan_corpus
from episome.data._corpus_records import decode, encode, gather
from episome.data._corpus_source import CorpusSource
from episome.data._corpus_verify import verify_corpus
from episome.errors import (
    EpisomeWarning,
    GeneMatchError,
    InputDataError,
    InputFileError,
    ResourceError,
    UsageError,
)


def make(inputs, output, *, save_seconds=30.0, **options):
    paths = [CorpusInput(p) if isinstance(p, Path) else p for p in inputs]
    wanted = CorpusOptions(**{"shard_cells": 64, **options})
    checked = check_corpus_inputs(paths, duplicates=wanted.duplicates, required=wanted.required)
    plan = plan_corpus(paths, checked, wanted)
    return CorpusSource(build_corpus(plan, output, save_seconds=save_seconds))


def written(adata, path):
    adata.write_h5ad(path)
    return path


def content(folder):
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in files}


@pytest.fixture(scope="module")
def cells():
    adata = simulate_cells(300, 60, n_donors=6, seed=1)
    counts = adata.X.tolil()
    counts[3, 5], counts[4, 6], counts[5, 7] = 70_000, 255, 254
    adata.X = counts.tocsr()
    adata.obs["age"] = np.arange(300.0)
    adata.obs.loc[adata.obs_names[7], "age"] = np.nan
    adata.obs["is_primary_data"] = np.arange(300) % 2 == 0
    return adata


@pytest.fixture(scope="module")
def file(cells, tmp_path_factory):
    return written(cells, tmp_path_factory.mktemp("inputs") / "a.h5ad")


@pytest.fixture(scope="module")
def corpus(file, tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus") / "cells.corpus"
    return make(
        [file],
        folder,
        labels_key="cell_type",
        donor_keys=("donor_id",),
        columns=("age", "is_primary_data"),
    )


@pytest.fixture
def copy(corpus, tmp_path):
    return Path(shutil.copytree(corpus.path, tmp_path / "copy.corpus"))


# -- records -------------------------------------------------------------------------------------


@given(
    st.lists(
        st.dictionaries(
            st.integers(0, 69_999),
            st.integers(1, 300) | st.integers(1, (1 << 24) - 1),
            max_size=30,
        ),
        max_size=8,
    )
)
def test_records_hold_any_counts_and_columns(rows):
    ends = offsets_of(np.array([len(r) for r in rows], dtype=np.int64))
    columns = np.array([c for r in rows for c in sorted(r)], dtype=np.int32)
    values = np.array([r[c] for r in rows for c in sorted(r)], dtype=np.float32)
    block = sparse.csr_matrix((values, columns, ends), shape=(len(rows), 70_000))

    records, places = encode(block)
    back = decode(records, places[:-1], places[1:], np.diff(ends), 70_000, where="here")

    assert back.shape == block.shape
    assert np.array_equal(back.indptr, block.indptr)
    assert np.array_equal(back.indices, block.indices)
    assert np.array_equal(back.data, block.data)


@given(st.binary(max_size=60), st.integers(0, 30), st.integers(1, 400))
def test_bytes_that_are_no_record_are_refused_or_stay_inside_the_genes(data, n_stored, n_vars):
    records = np.frombuffer(data, dtype=np.uint8)
    places = np.array([0, len(data)])

    try:
        block = decode(records, places[:1], places[1:], np.array([n_stored]), n_vars, where="x")
    except InputDataError:
        return
    block.has_canonical_format = False
    block.check_format(full_check=True)
    assert encode(block)[0].tobytes() == data or 255 in data


def test_what_is_no_count_has_no_record():
    for value, code in ((0.5, "E-D55"), (np.nan, "E-D55"), (-1, "E-D55"), (2.0**32, "E-D56")):
        with pytest.raises(InputDataError) as caught:
            encode(sparse.csr_matrix(np.array([[value]], dtype=np.float32)))
        assert caught.value.code == code


def test_gather_takes_runs_in_the_order_asked_for():
    taken = gather(np.arange(10, dtype=np.uint8), np.array([7, 0]), np.array([2, 3]))

    assert taken.tolist() == [7, 8, 0, 1, 2]


# -- what goes in comes out ----------------------------------------------------------------------


def test_a_corpus_is_a_source_of_the_same_cells(corpus, cells):
    assert isinstance(corpus, CellSource)
    assert (corpus.n_obs, corpus.n_vars, corpus.in_memory) == (300, 60, False)
    place = corpus.obs_names.get_indexer(cells.obs_names)
    assert sorted(place) == list(range(300))
    assert (corpus.read(place) != cells.X).nnz == 0
    assert list(corpus.var.index) == list(cells.var_names)
    assert corpus.manifest["n_stored"] == cells.X.nnz
    assert (corpus.labels_key, corpus.donor_keys) == ("cell_type", ("donor_id",))


def test_columns_keep_their_values_and_what_is_missing(corpus, cells):
    place = corpus.obs_names.get_indexer(cells.obs_names)
    for key in ("cell_type", "donor_id"):
        column = corpus.obs_column(key)
        assert isinstance(column.dtype, pd.CategoricalDtype)
        assert list(column.iloc[place].astype(str)) == list(cells.obs[key].astype(str))
    age = corpus.obs_column("age").iloc[place].to_numpy()
    assert np.array_equal(age, cells.obs["age"].to_numpy(), equal_nan=True)
    primary = corpus.obs_column("is_primary_data")
    assert primary.dtype == bool
    assert list(primary.iloc[place]) == list(cells.obs["is_primary_data"])
    assert set(corpus.obs_column("corpus_input")) == {"a.h5ad"}


def test_a_cell_may_be_asked_for_very_often(corpus):
    often = corpus.read(np.zeros(500, dtype=np.int64)).toarray()

    assert (often == corpus.read(slice(0, 1)).toarray()).all()


def test_rows_come_in_the_order_asked_for_and_twice(corpus):
    every = corpus.read(slice(None)).toarray()
    rows = np.array([5, 299, 5, 0, 128, 64, 63])

    assert np.array_equal(corpus.read(rows).toarray(), every[rows])
    assert np.array_equal(corpus.read(slice(60, 70)).toarray(), every[60:70])
    assert np.array_equal(corpus.read(slice(10, 0, -3)).toarray(), every[10:0:-3])
    assert corpus.read(np.empty(0, dtype=np.int64)).shape == (0, 60)


@pytest.mark.parametrize("rows", [[-1], [300], [0, 1000]])
def test_rows_that_are_none_are_refused(corpus, rows):
    with pytest.raises(UsageError, match="row numbers that are no rows"):
        corpus.read(np.array(rows))


def test_a_missing_column_is_named_with_those_there_are(corpus):
    with pytest.raises(UsageError, match=r"column 'tissue' is missing.*cell_type"):
        corpus.obs_column("tissue")


def test_cells_are_shuffled_by_the_seed_alone(corpus, file, tmp_path):
    names = list(corpus.obs_names)
    other = make([file], tmp_path / "other", seed=5)

    assert names != sorted(names, key=lambda n: int(n[4:]))
    assert list(other.obs_names) != names
    # A run of the order is a random sample: every shard has cells of every tenth of the file.
    tenth = np.array([int(n[4:]) // 30 for n in names])
    assert all(len(set(tenth[i : i + 64])) == 10 for i in range(0, 256, 64))


def test_a_corpus_can_be_sent_to_another_process_and_read_by_threads(corpus):
    again = pickle.loads(pickle.dumps(corpus))
    want = corpus.read(slice(None)).toarray()
    wrong = []

    def read(seed):
        for _ in range(20):
            rows = np.random.default_rng(seed).permutation(300)[:50]
            if not np.array_equal(again.read(rows).toarray(), want[rows]):
                wrong.append(seed)

    threads = [threading.Thread(target=read, args=(s,)) for s in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert wrong == []


def test_counts_and_layers_are_found_and_conditions_met(cells, tmp_path):
    adata = cells.copy()
    adata.layers["counts"] = adata.X.copy()
    adata.X = adata.X.log1p()
    path = written(adata, tmp_path / "logged.h5ad")

    corpus = make([path], tmp_path / "c", where=(Condition.parse("donor_id=donor 1|donor 2"),))
    without = make([path], tmp_path / "d", where=(Condition.parse("donor_id!=donor 1"),))

    kept = cells[cells.obs["donor_id"].isin(["donor 1", "donor 2"])]
    place = corpus.obs_names.get_indexer(kept.obs_names)
    assert corpus.n_obs == kept.n_obs
    assert (corpus.read(place) != kept.X).nnz == 0
    assert corpus.manifest["inputs"][0]["layer"] == "counts"
    assert without.n_obs == int((cells.obs["donor_id"] != "donor 1").sum())


@pytest.mark.parametrize("kind", ["csc", "dense", "uint16", "zarr"])
def test_any_form_of_input_gives_the_same_corpus(cells, corpus, tmp_path, kind):
    adata = cells.copy()
    if kind == "csc":
        adata.X = adata.X.tocsc()
    elif kind == "dense":
        adata.X = adata.X.toarray()
    elif kind == "uint16":
        adata.X.data[adata.X.data > 65_535] = 65_534
        adata.X = adata.X.astype(np.uint16)
    path = tmp_path / ("a.zarr" if kind == "zarr" else "a.h5ad")
    if kind == "zarr":
        adata.write_zarr(path)
    else:
        adata.write_h5ad(path)

    other = make([path], tmp_path / "c")

    want = corpus.read(slice(None))
    if kind == "uint16":
        want.data[want.data > 65_535] = 65_534
    assert (other.read(slice(None)) != want).nnz == 0


# -- several inputs ------------------------------------------------------------------------------


@pytest.fixture
def two(tmp_path):
    first = simulate_cells(100, 60, seed=1)
    second = simulate_cells(80, 80, seed=2)
    second = second[:, np.random.default_rng(0).permutation(80)].copy()
    second.obs_names = [f"b{n}" for n in second.obs_names]
    files = [written(first, tmp_path / "first.h5ad"), written(second, tmp_path / "second.h5ad")]
    return first, second, files


def test_genes_of_inputs_are_joined_and_what_was_measured_is_kept(two, tmp_path):
    first, second, files = two

    outer = make(files, tmp_path / "outer")
    inner = make(files, tmp_path / "inner", join="inner")

    assert (outer.n_vars, inner.n_vars) == (80, 60)
    assert outer.measured.sum(axis=1).tolist() == [60, 80]
    assert list(inner.var.index) == list(first.var_names)
    for corpus in (outer, inner):
        for adata in (first, second):
            place = corpus.obs_names.get_indexer(adata.obs_names)
            block = pd.DataFrame(corpus.read(place).toarray(), columns=corpus.var.index)
            shared = [g for g in corpus.var.index if g in adata.var_names]
            assert np.array_equal(block[shared], adata[:, shared].X.toarray())
            assert not block.drop(columns=shared).to_numpy().any()
    assert set(outer.obs_column("corpus_input")) == {"first.h5ad", "second.h5ad"}


def test_identifiers_of_one_kind_are_found_in_a_column_of_var(tmp_path):
    ids = [f"ENSG{i:011d}" for i in range(1, 41)]
    symbols = ["CD3E", "CD19", "MS4A1", "GNLY", "NKG7", "LYZ", "CD14", "ACTB"] + [
        f"ZNF{i}" for i in range(100, 132)
    ]
    first, second = simulate_cells(50, 40, seed=1), simulate_cells(50, 40, seed=2)
    first.var_names = ids
    second.var_names, second.var["gene_ids"] = symbols, ids
    second.obs_names = [f"b{n}" for n in second.obs_names]
    files = [written(first, tmp_path / "x.h5ad"), written(second, tmp_path / "y.h5ad")]

    corpus = make(files, tmp_path / "c")

    assert list(corpus.var.index) == ids
    place = corpus.obs_names.get_indexer(second.obs_names)
    assert (corpus.read(place) != second.X).nnz == 0


def test_every_count_of_every_input_is_stored_and_what_is_joined_by_name_is_said(tmp_path):
    ids = [f"ENSG{i:011d}" for i in range(1, 42)]
    first, second = simulate_cells(50, 40, seed=1), simulate_cells(50, 41, seed=2)
    first.var["ensembl_id"] = ids[:40]
    second.var["symbol"] = ["OLD", *first.var_names[1:], first.var_names[0]]
    second.var_names = ids
    second.obs_names = [f"b{n}" for n in second.obs_names]
    files = [written(first, tmp_path / "x.h5ad"), written(second, tmp_path / "y.h5ad")]

    inputs = [CorpusInput(f) for f in files]
    plan = plan_corpus(inputs, check_corpus_inputs(inputs), CorpusOptions())
    corpus = make(files, tmp_path / "c")

    assert corpus.measured.sum(axis=1).tolist() == [40, 41]
    assert corpus.read(slice(0, 100)).sum() == first.X.sum() + second.X.sum()
    assert f"{first.var_names[0]} as {ids[40]}" in plan.notes[-1]


def test_inputs_of_foreign_genes_are_refused(two, tmp_path):
    first, _, files = two
    first.var_names = [f"OTHER{g}" for g in first.var_names]

    with pytest.raises(GeneMatchError, match=r"too few genes.*second.h5ad: 0 of 60.*E-G25"):
        make([written(first, files[0]), files[1]], tmp_path / "c")


def test_whole_numbers_stay_whole_unless_a_file_has_others(two, tmp_path):
    first, second, files = two
    first.obs["run"], second.obs["run"] = 3, 4
    first.obs["age"], second.obs["age"] = 30, 30.5
    first.obs["ok"] = pd.array([True, None] * 50, dtype="boolean")
    second.obs["ok"] = False

    corpus = make(
        [written(first, files[0]), written(second, files[1])],
        tmp_path / "c",
        columns=("run", "age", "ok"),
    )

    assert corpus.obs_column("run").dtype == np.int64
    assert sorted(corpus.obs_column("run").unique()) == [3, 4]
    assert set(corpus.obs_column("age")) == {30.0, 30.5}
    place = corpus.obs_names.get_indexer(first.obs_names)
    found = corpus.obs_column("ok").iloc[place]
    assert found.isna().tolist() == [False, True] * 50
    assert found.dropna().all()
    assert verify_corpus(corpus.path) == []


def test_a_column_of_two_kinds_is_refused(two, tmp_path):
    first, second, files = two
    first.obs["age"], second.obs["age"] = 3.0, "old"

    with pytest.raises(InputDataError, match=r"column 'age' is.*E-L36"):
        make(
            [written(first, files[0]), written(second, files[1])], tmp_path / "c", columns=("age",)
        )


def test_every_problem_of_every_input_is_said_at_once_and_nothing_is_written(two, tmp_path):
    first, second, files = two
    first.X.data[0] = -1
    second.X.data[:] = np.log1p(second.X.data)
    empty = written(simulate_cells(10, 60)[:0].copy(), tmp_path / "empty.h5ad")
    broken = tmp_path / "broken.h5ad"
    broken.write_bytes(files[0].read_bytes()[:5000])
    written(first, files[0])
    written(second, files[1])

    with pytest.raises(InputDataError) as caught:
        make([*files, empty, broken], tmp_path / "c", labels_key="label")

    codes = {p.code for p in caught.value.problems}
    assert {"E-D04", "E-D55", "E-D31", "E-F01", "E-L35"} <= codes
    assert not (tmp_path / "c").exists()
    assert not list(tmp_path.glob(".*"))


def test_conditions_that_no_cell_meets_are_refused(file, tmp_path):
    with pytest.raises(InputDataError, match=r"no cell meets.*donor_id=nobody.*E-D57"):
        make([file], tmp_path / "c", where=(Condition.parse("donor_id=nobody"),))


def test_a_file_is_given_once(file, tmp_path):
    for inputs in ([file, file.parent / ".." / file.parent.name / file.name], []):
        with pytest.raises(UsageError, match="E-U91"):
            make(inputs, tmp_path / "c")


def test_a_condition_is_written_in_one_way():
    assert Condition.parse(" assay = 10x 3' v2 |10x 3' v3") == Condition(
        "assay", ("10x 3' v2", "10x 3' v3")
    )
    with pytest.raises(UsageError, match=r"no condition.*E-U90"):
        Condition.parse("tissue")


def test_an_input_that_changes_meanwhile_is_refused(cells, tmp_path):
    path = written(cells, tmp_path / "a.h5ad")
    inputs, options = [CorpusInput(path)], CorpusOptions()
    plan = plan_corpus(inputs, check_corpus_inputs(inputs), options)
    os.utime(path, ns=(1, 1))

    with pytest.raises(InputFileError, match=r"changed while it was read.*E-F16"):
        build_corpus(plan, tmp_path / "c")

    assert not (tmp_path / "c").exists()


# -- damage --------------------------------------------------------------------------------------


def test_a_whole_corpus_is_verified(corpus):
    seen = []

    found = verify_corpus(corpus.path, progress=lambda done, total: seen.append((done, total)))

    assert found == []
    assert 0 < seen[-1][0] <= seen[-1][1]


def test_every_flipped_byte_is_found(copy):
    names = sorted(content(copy))
    rng = np.random.default_rng(0)
    missed = []
    for name in names:
        file, good = copy / name, (copy / name).read_bytes()
        for at in {0, len(good) - 1, *rng.integers(0, len(good), 6).tolist()}:
            bad = bytearray(good)
            bad[at] ^= 1 << int(rng.integers(8))
            file.write_bytes(bad)
            try:
                found = verify_corpus(copy)
            except InputFileError as error:
                found = error.problems
            if not any(p.code in {"E-F31", "E-F30", "E-F32"} for p in found):
                missed.append((name, at))
        file.write_bytes(good)

    assert missed == []
    assert verify_corpus(copy) == []


def test_a_cut_missing_or_longer_file_is_refused_when_opened(copy):
    for name in sorted(content(copy)):
        if name.startswith("manifest"):
            continue
        file, good = copy / name, (copy / name).read_bytes()
        for bad in (good[:-1], b"", good + b"x", None):
            file.unlink()
            if bad is not None:
                file.write_bytes(bad)
            with pytest.raises(InputFileError, match="E-F31"):
                CorpusSource(copy)
            file.write_bytes(good)


def test_broken_records_and_pointers_are_refused_when_read(copy):
    shard = copy / "shards/00000.records"
    good = shard.read_bytes()
    shard.write_bytes(b"\xff" * len(good))
    with pytest.raises(InputDataError, match="E-D23"):
        CorpusSource(copy).read(slice(0, 64))
    shard.write_bytes(good)
    for kind in ("places", "indptr"):
        file = copy / f"shards/00000.{kind}.npy"
        pointers = np.load(file)
        pointers[3] = 1 << 40
        np.save(file, pointers)
        with pytest.raises(InputFileError, match=r"points outside the cells.*E-F31"):
            CorpusSource(copy).read(slice(0, 64))
        shutil.rmtree(copy)
        return


def test_what_is_no_corpus_is_refused(copy, tmp_path):
    with pytest.raises(InputFileError, match="E-F30"):
        CorpusSource(tmp_path / "nothing")
    with pytest.raises(InputFileError, match="E-F30"):
        CorpusSource(tmp_path)
    manifest = copy / "manifest.json"
    manifest.write_bytes(manifest.read_bytes() + b" ")
    with pytest.raises(InputFileError, match=r"its checksum differs.*E-F31"):
        CorpusSource(copy)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"format_version": [2, 0]}, "E-F32"),
        ({"kind": "model"}, "E-F30"),
        ({"files": {"../x": {}}}, "E-F31"),
        ({"format_version": 1}, "E-F31"),
    ],
)
def test_manifests_of_other_things_are_refused(copy, change, code):
    import hashlib

    text = json.dumps({**json.loads((copy / "manifest.json").read_bytes()), **change}).encode()
    (copy / "manifest.json").write_bytes(text)
    seal = f"{hashlib.sha256(text).hexdigest()}  manifest.json\n"
    (copy / "manifest.sha256").write_text(seal)

    with pytest.raises(InputFileError, match=code):
        CorpusSource(copy)


def test_a_stranger_and_a_link_are_refused(copy):
    (copy / "cells" / "more.npy").write_bytes(b"x")
    assert [p.why for p in verify_corpus(copy)] == ["the manifest does not name it"]
    (copy / "cells" / "more.npy").unlink()
    genes = copy / "genes.json"
    genes.rename(copy.parent / "genes.json")
    genes.symlink_to(copy.parent / "genes.json")
    with pytest.raises(InputFileError, match="it is a link"):
        CorpusSource(copy)


# -- making it -----------------------------------------------------------------------------------


def test_the_same_inputs_make_the_same_bytes(file, corpus, tmp_path):
    options = {
        "labels_key": "cell_type",
        "donor_keys": ("donor_id",),
        "columns": ("age", "is_primary_data"),
    }

    again = make([file], tmp_path / "c", max_memory=1 << 16, **options)

    assert content(again.path) == content(corpus.path)
    assert not list(tmp_path.glob(".*"))


def test_an_output_that_is_there_is_kept_unless_overwritten(file, corpus, tmp_path):
    folder = tmp_path / "c"
    make([file], folder)
    make([file], folder)  # the same corpus: nothing to do
    inputs = [CorpusInput(file)]
    plan = plan_corpus(inputs, check_corpus_inputs(inputs), CorpusOptions(seed=9))
    before = content(folder)

    with pytest.raises(InputFileError, match="E-F26"):
        build_corpus(plan, folder)
    assert content(folder) == before
    build_corpus(plan, folder, overwrite=True)
    assert CorpusSource(folder).manifest["shuffle_seed"] == 9
    other = tmp_path / "other"
    other.mkdir()
    (other / "mine.txt").write_text("keep")
    with pytest.raises(InputFileError, match=r"is no corpus.*E-F26"):
        build_corpus(plan, other, overwrite=True)
    assert (other / "mine.txt").read_text() == "keep"


def test_two_programs_do_not_make_one_corpus(file, tmp_path):
    from episome.data._corpus_work import WorkFolder

    inputs = [CorpusInput(file)]
    plan = plan_corpus(inputs, check_corpus_inputs(inputs), CorpusOptions())

    with WorkFolder(tmp_path / "c").locked(), pytest.raises(ResourceError, match="E-R05"):
        build_corpus(plan, tmp_path / "c")


def test_a_disk_without_room_is_told_before_anything_is_written(file, tmp_path, monkeypatch):
    inputs = [CorpusInput(file)]
    plan = plan_corpus(inputs, check_corpus_inputs(inputs), CorpusOptions())
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)

    with pytest.raises(ResourceError, match=r"too little room.*E-R02"):
        build_corpus(plan, tmp_path / "c")


def test_the_estimate_of_the_disk_is_near_and_above(corpus, file):
    inputs = [CorpusInput(file)]
    plan = plan_corpus(inputs, check_corpus_inputs(inputs), CorpusOptions())

    size = sum(len(data) for data in content(corpus.path).values())

    assert size / 1.5 < plan.disk < 2 * size


def _make_slowly(plan, output):
    """Make a corpus in a child process, with more moments to be killed at."""
    from episome.data import _corpus_build, _corpus_tables, _corpus_work

    fast = _corpus_work.sync

    def slow(path):
        time.sleep(0.002)
        fast(path)

    for module in (_corpus_build, _corpus_tables, _corpus_work):
        module.sync = slow
    build_corpus(plan, output, save_seconds=0.0)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="children are forked")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_killed_at_any_moment_it_ends_with_the_same_bytes(two, tmp_path):
    _, _, files = two
    inputs, output = [CorpusInput(f) for f in files], tmp_path / "killed"
    options = CorpusOptions(shard_cells=16, max_memory=1 << 14)
    plan = plan_corpus(inputs, check_corpus_inputs(inputs), options)
    build_corpus(plan, tmp_path / "whole")
    rng, kills, finished = np.random.default_rng(0), 0, False

    while not finished:
        child = os.fork()
        if child == 0:
            _make_slowly(plan, output)
            os._exit(0)
        if kills < 20:
            time.sleep(float(rng.uniform(0.0, 0.06)))
            os.kill(child, signal.SIGKILL)
        status = os.waitpid(child, 0)[1]
        kills += os.WIFSIGNALED(status)
        assert not output.exists() or verify_corpus(output) == []
        finished = status == 0

    assert kills >= 10
    assert content(output) == content(tmp_path / "whole")
    assert not (tmp_path / ".killed.building").exists()


def test_another_plan_starts_anew_and_says_nothing_of_the_old(two, tmp_path, monkeypatch):
    from episome.data import _corpus_build

    _, _, files = two
    inputs, output = [CorpusInput(f) for f in files], tmp_path / "c"
    checked = check_corpus_inputs(inputs)
    first = plan_corpus(inputs, checked, CorpusOptions(shard_cells=64))
    second = plan_corpus(inputs, checked, CorpusOptions(shard_cells=64, seed=3))

    def stop(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(_corpus_build._Builder, "_finish", stop)
        with pytest.raises(KeyboardInterrupt):
            build_corpus(first, output)
    build_corpus(second, output)

    build_corpus(second, tmp_path / "whole")
    assert content(output) == content(tmp_path / "whole")


def test_what_was_checked_is_not_read_again_unless_it_changed(two):
    first, _, files = two
    inputs = [CorpusInput(f) for f in files]
    found = check_corpus_inputs(inputs)
    known = {str(i.path): c.to_json() for i, c in zip(inputs, found, strict=True)}
    known = json.loads(json.dumps(known))
    again = check_corpus_inputs(inputs, known=known)
    assert [(c.name, c.sha256, c.columns) for c in again] == [
        (c.name, c.sha256, c.columns) for c in found
    ]
    with pytest.raises(InputDataError, match=r"column 'age' is missing.*E-L35"):
        check_corpus_inputs(inputs, known=known, required=("age",))
    other_version = {k: {"name": "x"} for k in known}
    assert check_corpus_inputs(inputs, known=other_version) == found
    first.X.data[0] = -1
    written(first, files[0])

    with pytest.raises(InputDataError, match="E-D04"):
        check_corpus_inputs(inputs, known=known)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is asked of Linux")
def test_memory_does_not_grow_with_the_cells(tmp_path, run_python):
    """Three times the cells take hardly more memory, in blocks of a stated size."""
    peaks = []
    for n in (6_000, 18_000):
        columns = 4 * np.arange(1000) + np.random.default_rng(0).integers(0, 4, (n, 1000))
        counts = np.random.default_rng(0).integers(1, 5, n * 1000).astype(np.float32)
        ends = np.arange(n + 1) * 1000
        adata = anndata.AnnData(sparse.csr_matrix((counts, columns.ravel(), ends), (n, 4_000)))
        adata.obs_names = [f"cell{i}" for i in range(n)]
        adata.var_names = [f"GENE{i}" for i in range(4_000)]
        path = written(adata, tmp_path / f"{n}.h5ad")
        code = (
            "from pathlib import Path\n"
            "from episome.data._corpus_build import build_corpus\n"
            "from episome.data._corpus_inputs import CorpusInput, check_corpus_inputs\n"
            "from episome.data._corpus_plan import CorpusOptions, plan_corpus\n"
            "from episome.data._corpus_verify import verify_corpus\n"
            f"inputs = [CorpusInput(Path({str(path)!r}))]\n"
            "options = CorpusOptions(max_memory=8 << 20, shard_cells=2000)\n"
            "plan = plan_corpus(inputs, check_corpus_inputs(inputs), options)\n"
            f"verify_corpus(build_corpus(plan, Path({str(tmp_path / f'{n}.corpus')!r})))\n"
            "print(*[x for x in open('/proc/self/status') if 'VmHWM' in x])\n"
        )
        done = run_python(code, OMP_NUM_THREADS="1")
        assert done.returncode == 0, done.stderr
        peaks.append(int(done.stdout.split()[-2]) << 10)

    # In memory the larger matrix alone takes 96 MB more, and more than one copy is usual.
    assert peaks[1] - peaks[0] < 40 << 20


def test_cells_of_one_name_and_of_no_count_stay(tmp_path):
    adata = simulate_cells(40, 60)
    adata.obs_names = ["same"] * 40
    adata.X[3] = 0
    path = tmp_path / "a.h5ad"
    written(adata, path)

    with pytest.warns(EpisomeWarning):
        corpus = make([path], tmp_path / "c")

    assert set(corpus.obs_names) == {"same"}
    assert int((np.diff(corpus.read(slice(None)).indptr) == 0).sum()) == 1
    assert verify_corpus(corpus.path) == []
