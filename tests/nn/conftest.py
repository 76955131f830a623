"""Fixtures of the tests of `episome.nn`."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

HERE = Path(__file__).parent


def _load(name: str, path: Path) -> ModuleType:
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    return sys.modules[name]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """One thread: on a busy machine the barriers of tiny parallel operations take seconds."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def textbook() -> ModuleType:
    """The textbook networks that benchmarks use too."""
    return _load("_episome_nn_textbook", HERE.parent / "benchmarks" / "_common.py")


@pytest.fixture(params=["numba", "torch"])
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run a test with the compiled kernels, then with plain torch."""
    monkeypatch.setenv("EPISOME_NUMBA", "1" if request.param == "numba" else "0")
    return request.param


@pytest.fixture
def rng() -> torch.Generator:
    """A seeded source of random numbers."""
    return torch.Generator().manual_seed(0)
