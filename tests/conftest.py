"""Fixtures that every test of the host may use."""

from __future__ import annotations

import importlib.util
import logging
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

# Threads that wait for each other on a busy machine make a network of ten cells 30 times slower.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("NUMBA_NUM_THREADS", "1")

import hypothesis
import numpy as np
import pytest
import torch

from episome import log, plugins, settings

# How long one example takes says what else the machine does.
hypothesis.settings.register_profile("episome", deadline=None)
hypothesis.settings.load_profile("episome")

_PLUGIN_VARIABLES = ("BLOCK", "ONLY", "STRICT", "TRACE")


@pytest.fixture(autouse=True)
def _own_home(
    _same_seed: None, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keep caches and crash reports of tests out of the user's folder.

    What a test patched is undone before ``_same_seed`` looks, as that one is asked for first.
    """
    monkeypatch.setenv("EPISOME_HOME", str(tmp_path_factory.getbasetemp() / "home"))
    # Commands of other tests draw no pictures: a report takes seconds.
    for command in ("ANNOTATE", "EVALUATE"):
        monkeypatch.setenv(f"EPISOME_{command}_NO_REPORT", "1")


@pytest.fixture(autouse=True)
def _same_seed() -> Iterator[None]:
    """No call leaves the seed of the session changed: later tests would draw other cells."""
    before = settings.seed
    yield
    after, settings.seed = settings.seed, before
    assert after == before, "the seed of the session was left changed"


@pytest.fixture(autouse=True)
def _same_draws() -> None:
    """Start every test from the same global generators, whichever tests ran before it."""
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002 - libraries draw from this one
    random.seed(0)


@pytest.fixture(autouse=True)
def _own_log() -> Iterator[None]:
    """Undo what a test did to loggers: commands configure them, import-linter disables them."""
    yield
    root = log.get_logger()
    for handler in log._handlers:
        root.removeHandler(handler)
        handler.close()
    log._handlers.clear()
    root.setLevel(logging.NOTSET)
    for name, logger in logging.root.manager.loggerDict.items():
        if name.startswith("episome") and isinstance(logger, logging.Logger):
            logger.disabled = False


@pytest.fixture
def fresh_manager(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Load the plugins anew in a test, without switches from outside, and again after it."""
    for name in _PLUGIN_VARIABLES:
        monkeypatch.delenv(f"EPISOME_{name}_PLUGINS", raising=False)
    plugins.reset_manager()
    yield
    plugins.reset_manager()


@pytest.fixture
def install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fresh_manager: None
) -> Iterator[Callable[..., Path]]:
    """Install a distribution with one entry point and one module into a folder on the path."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(str(site))
    before = set(sys.modules)

    def add(
        plugin: str,
        source: str,
        *,
        distribution: str | None = None,
        module: str | None = None,
        entry_points: str | None = None,
    ) -> Path:
        distribution = distribution or f"episome-{plugin}"
        module = module or f"fake_{plugin.replace('-', '_')}"
        (site / f"{module}.py").write_text(source, encoding="utf-8")
        info = site / f"{distribution.replace('-', '_')}-1.2.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.2\n", encoding="utf-8"
        )
        text = entry_points or f"[episome]\n{plugin} = {module}\n"
        (info / "entry_points.txt").write_text(text, encoding="utf-8")
        return site

    yield add
    for name in set(sys.modules) - before:
        if name.startswith("fake_"):
            del sys.modules[name]


@pytest.fixture
def run_python(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run code in an interpreter of its own."""

    def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, **environment},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )

    return run


@pytest.fixture(scope="session")
def toy() -> ModuleType:
    """A small neural annotator that no plugin registers, and cells for it; see ``_toy.py``."""
    return _module("_episome_toy", "_toy.py")


def _module(name: str, file: str) -> ModuleType:
    """Import a module that lies beside this file, once."""
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(file))
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    return sys.modules[name]


@pytest.fixture
def golden() -> Callable[[str], object]:
    """Open a golden case by name; skips where the folder is not given."""
    folder = os.environ.get("EPISOME_TEST_DATA")
    if not folder:
        pytest.skip("EPISOME_TEST_DATA is not set: the recorded reference numbers are elsewhere")
    reader = _module("_episome_golden", "_golden.py")
    return lambda name: reader.GoldenCase(Path(folder) / "goldens", name)
