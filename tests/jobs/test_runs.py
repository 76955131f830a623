"""The same command on the same inputs is known again, and nothing else is."""

from __future__ import annotations

import json
import os

import pytest

from episome import settings
from episome.errors import ResourceError
from episome.jobs import Run, _runs

ANSWER = {"text": "done", "data": {"n": 1}}


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run whose output was written and remembered, and how to make another like it."""
    monkeypatch.setenv("EPISOME_HOME", str(tmp_path / "home"))
    (tmp_path / "in.txt").write_text("a")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "x.txt").write_text("result")

    def make(command="annotate", output="out", inputs=("in.txt", None), **arguments):
        paths = [None if p is None else tmp_path / p for p in inputs]
        return Run(command, tmp_path / output, arguments, paths)

    make(layer=None).remember(ANSWER)
    return make


def test_the_same_run_is_known(run):
    assert run(layer=None).answer() == ANSWER


@pytest.mark.parametrize(
    "other",
    [
        {"layer": "counts"},
        {"layer": None, "more": 1},
        {"layer": None, "command": "train"},
        {"layer": None, "output": "out2"},
        {"layer": None, "inputs": ("in.txt",)},
        {"layer": None, "inputs": (None, "in.txt")},
    ],
)
def test_another_run_is_not(run, other):
    assert run(**other).answer() is None


def test_an_input_of_another_time_is_another_input(run, tmp_path):
    written = (tmp_path / "in.txt").stat()
    (tmp_path / "in.txt").write_text("b")
    os.utime(tmp_path / "in.txt", ns=(written.st_atime_ns, written.st_mtime_ns))

    assert run(layer=None).answer() is None


@pytest.mark.parametrize("change", ["changed", "added", "removed", "gone"])
def test_an_output_that_somebody_changed_is_not_taken_for_ours(run, tmp_path, change):
    out = tmp_path / "out"
    if change == "changed":
        (out / "x.txt").write_text("mine")
    elif change == "added":
        (out / "y.txt").write_text("mine")
    else:
        (out / "x.txt").unlink()
        if change == "gone":
            out.rmdir()

    assert run(layer=None).answer() is None


def test_an_input_that_changes_during_the_run_is_not_the_one_that_was_read(run, tmp_path):
    begun = run(layer="counts")
    (tmp_path / "in.txt").write_text("later")
    begun.remember(ANSWER)

    assert run(layer="counts").answer() is None


def test_a_new_version_is_another_run(run, monkeypatch):
    monkeypatch.setattr("episome.__version__", "99.0")

    assert run(layer=None).answer() is None


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"key": 1, "output": [], "answer": {}}', "\0"])
def test_a_record_that_is_none_is_passed_over(run, text):
    (record,) = settings.cache_folder("runs").glob("*.json")
    record.write_text(text)

    assert run(layer=None).answer() is None


def test_the_oldest_records_are_forgotten(run, tmp_path, monkeypatch):
    monkeypatch.setattr(_runs, "KEPT", 2)
    for name in ("p", "q", "r"):
        (tmp_path / name).write_text(name)
        run(output=name).remember(ANSWER)

    assert [run(output=n).answer() is None for n in "pqr"] == [True, False, False]
    assert run(layer=None).answer() is None


@pytest.mark.parametrize(
    "error", [PermissionError(13, "no right"), ResourceError("E-R02", "the disk is full")]
)
def test_a_cache_that_cannot_be_written_does_no_harm(run, monkeypatch, error):
    def full(*args, **kwargs):
        raise error

    monkeypatch.setattr(_runs, "write_file", full)

    run(layer="b").remember(ANSWER)

    assert run(layer="b").answer() is None
    assert json.dumps(run(layer=None).answer()) == json.dumps(ANSWER)
