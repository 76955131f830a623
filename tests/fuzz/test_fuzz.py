"""Damaged files never crash, hang, run code or give a bare exception; see ``run.py``."""

from __future__ import annotations

import importlib.util
import random
import sys
from pathlib import Path
from types import ModuleType

import pytest

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="forks one warm process, and reads /proc"
)


@pytest.fixture(scope="module")
def run() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "_episome_fuzz", Path(__file__).with_name("run.py")
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_damaged_files_are_refused_or_read_right(run, tmp_path):
    results = run.fuzz(500, 0, tmp_path)

    print(run.table(results))
    assert [line for result in results.values() for line in result.failures] == []
    assert sum(sum(r.counts.values()) for r in results.values()) == 500
    assert all(r.counts["refused"] for r in results.values())


def explode(path, number):
    raise KeyError(number)


def load_code(path, number):
    import pickle

    return pickle.loads(pickle.dumps(Path("/"))), ""


def spin(path, number):
    while True:
        pass


def abort(path, number):
    import os

    os.abort()


@pytest.mark.parametrize(
    ("read", "said"),
    [
        (explode, "BARE"),
        (load_code, "CODE"),
        (abort, "CRASH"),
        (spin, "HANG"),
        (lambda path, number: ("other", "calls"), "silent"),
        (lambda path, number: ("a", "b"), "same"),
    ],
)
def test_every_outcome_is_seen(run, tmp_path, monkeypatch, read, said):
    monkeypatch.setattr(run, "CPU_SECONDS", 1)
    target = run.Target(tmp_path / "x", read)

    assert run.outcome(target, tmp_path / "x", 0, ("a", "b"))["outcome"] == said


def test_other_calls_of_a_sealed_folder_are_wrong(run, tmp_path):
    target = run.Target(tmp_path / "x", explode, sealed=True)

    assert run.compare(target, ("a", "c"), ("a", "b"))["outcome"] == "WRONG"


def test_damage_is_one_bit_or_a_cut(run, tmp_path):
    path = tmp_path / "x"
    path.write_bytes(bytes(100))
    seen = set()

    for n in range(40):
        run.damage(run.Target(path, explode), tmp_path / "y", random.Random(n))
        data = (tmp_path / "y").read_bytes()
        seen.add((len(data) < 100, sum(b.bit_count() for b in data)))

    assert seen == {(True, 0), (False, 1)}
    assert path.read_bytes() == bytes(100)
