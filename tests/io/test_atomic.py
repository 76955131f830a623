"""Writing: a reader finds the old thing or the new one, whole, whatever happens."""

from __future__ import annotations

import os
import random
import resource
import signal
import sys
import time

import numpy as np
import pytest

from episome.errors import InputFileError, ResourceError
from episome.io import (
    ModelFolder,
    _atomic,
    read_model_folder,
    write_calls,
    write_file,
    write_folder,
    write_model_folder,
)
from episome.io._atomic import recover

# The child only writes files, and ends without running anything of pytest's.
pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")


def numbered(number: int, size: int = 200_000) -> ModelFolder:
    """A model every part of which carries one number."""
    return ModelFolder(
        manifest={"number": number},
        tensors={"w": np.full(size, number, np.float32)},
        genes={"id": [f"G{number}"] * 50},
        files={"data": str(number).encode() * 1000},
    )


def in_child(action) -> int:
    """Run ``action`` in a fork; returns its process number. It never returns to pytest."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            code = action() or 0
        finally:
            os._exit(code)
    return pid


def exit_code(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@needs_fork
@pytest.mark.parametrize("exchange", [True, False])
def test_kill_while_saving_leaves_the_old_or_the_new_model(tmp_path, monkeypatch, exchange):
    if not exchange:
        monkeypatch.setattr(_atomic, "_exchange", lambda a, b: False)
    path = tmp_path / "model"
    write_model_folder(path, numbered(0))
    random_ = random.Random(0)

    def keep_saving() -> None:
        for number in range(1, 1000):
            write_model_folder(path, numbered(number), overwrite=True)

    for _ in range(10):
        pid = in_child(keep_saving)
        time.sleep(random_.uniform(0.002, 0.06))
        os.kill(pid, signal.SIGKILL)
        assert exit_code(pid) == -signal.SIGKILL
        got = read_model_folder(path)
        number = got.manifest["number"]
        assert (got.tensors["w"] == number).all()
        assert set(got.genes["id"]) == {f"G{number}"}
        assert got.files["data"] == str(number).encode() * 1000


@needs_fork
@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".h5ad"])
def test_full_disk_leaves_the_old_result(tmp_path, suffix):
    import anndata
    import pandas as pd

    path = tmp_path / f"calls{suffix}"
    random_ = np.random.default_rng(0)
    adata = anndata.AnnData(random_.normal(size=(3000, 40)).astype(np.float32))
    calls = pd.DataFrame(
        {"label": random_.integers(0, 1 << 40, 3000).astype(str)}, index=adata.obs_names
    )
    path.write_bytes(b"the old result")

    def write() -> int:
        resource.setrlimit(resource.RLIMIT_FSIZE, (8_000, 8_000))
        sys.stderr = open(os.devnull, "w")  # noqa: PTH123, SIM115 - this process ends here
        try:
            write_calls(path, calls, adata=adata, overwrite=True)
        except ResourceError as error:
            return 0 if error.code == "E-R02" else 3
        return 2

    assert exit_code(in_child(write)) == 0
    assert path.read_bytes() == b"the old result"
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@needs_fork
def test_full_disk_leaves_the_old_model(tmp_path):
    path = tmp_path / "model"
    write_model_folder(path, numbered(0))

    def save() -> int:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        try:
            write_model_folder(path, numbered(1), overwrite=True)
        except ResourceError as error:
            return 0 if "what was there before is untouched" in str(error) else 3
        return 2

    assert exit_code(in_child(save)) == 0
    assert read_model_folder(path).manifest["number"] == 0
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_a_function_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def fail(temporary):
        temporary.write_text("half")
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        write_file(path, fail, overwrite=True)
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


@pytest.mark.parametrize("exchange", [True, False])
def test_a_folder_is_replaced_whole(tmp_path, monkeypatch, exchange):
    if not exchange:
        monkeypatch.setattr(_atomic, "_exchange", lambda a, b: False)
    path = tmp_path / "folder"
    write_folder(path, {"a": b"1", "sub/b": b"2"})

    write_folder(path, {"c": b"3"}, overwrite=True)

    assert [p.name for p in path.rglob("*")] == ["c"]
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]


def test_recover_brings_back_the_newest_folder_that_was_renamed_aside(tmp_path):
    path = tmp_path / "model[1]"
    for age, number in ((200, "1"), (100, "2")):
        aside = tmp_path / f".model[1].old-{number}"
        aside.mkdir()
        (aside / "number").write_text(number)
        when = time.time() - age
        os.utime(aside, (when, when))

    recover(path)

    assert (path / "number").read_text() == "2"
    recover(path)
    assert (path / "number").read_text() == "2"


def test_recover_of_nothing_does_nothing(tmp_path):
    recover(tmp_path / "model")
    recover(tmp_path / "nowhere" / "model")

    assert list(tmp_path.iterdir()) == []


def test_files_and_folders_do_not_replace_each_other(tmp_path):
    (tmp_path / "file").write_text("words")
    (tmp_path / "folder").mkdir()

    with pytest.raises(InputFileError, match=r"a file, not a folder.*E-F26"):
        write_folder(tmp_path / "file", {"a": b""}, overwrite=True)
    with pytest.raises(InputFileError, match=r"a folder, not a file.*E-F26"):
        write_file(tmp_path / "folder", b"", overwrite=True)
    assert (tmp_path / "file").read_text() == "words"


def test_missing_folders_are_made_and_impossible_ones_refused(tmp_path):
    write_file(tmp_path / "new" / "deep" / "a", b"1")
    (tmp_path / "file").touch()

    with pytest.raises(InputFileError, match=r"cannot be written.*choose another place.*E-F27"):
        write_file(tmp_path / "file" / "a", b"1")


@pytest.mark.parametrize(
    "name", ["with blank.csv", "-dash.csv", "ünïcode 細胞.csv", "a" * 200 + ".csv"]
)
def test_odd_names_are_fine(tmp_path, name):
    assert write_file(tmp_path / name, b"1").read_bytes() == b"1"
