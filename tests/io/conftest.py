"""A small model folder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from episome.io import ModelFolder, write_model_folder


def small_model(seed: int = 0) -> ModelFolder:
    rng = np.random.default_rng(seed)
    return ModelFolder(
        manifest={"model": {"class": "Toy"}, "number": seed},
        tensors={
            "weight": rng.normal(size=(7, 5)).astype(np.float32),
            "rows": np.arange(seed + 3),
        },
        genes={"id": ("A", "B", "C"), "feature_name": ("a", "", "c\tc")},
        labels={"label": ("x", "β, y"), "ontology_term_id": ("CL:1", "")},
        history={"epoch": (0, 1), "train_loss": (0.1, float("nan"))},
        files={"tree.json": b'{"a": 1}'},
        card="# Toy\n",
    )


@pytest.fixture
def model() -> Callable[[int], ModelFolder]:
    """Make a model whose contents follow from a number."""
    return small_model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where such a model was saved."""
    return write_model_folder(tmp_path / "model", small_model())


@pytest.fixture
def reseal(folder: Path) -> Callable[[dict], None]:
    """Write a manifest with right checksums, as somebody with bad intentions can."""

    def write(changes: dict) -> None:
        manifest = json.loads((folder / "manifest.json").read_text())
        manifest |= changes
        for name, entry in manifest["files"].items():
            if isinstance(entry, dict) and (folder / name).is_file():
                data = (folder / name).read_bytes()
                entry |= {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
        text = json.dumps(manifest).encode()
        (folder / "manifest.json").write_bytes(text)
        seal = f"{hashlib.sha256(text).hexdigest()}  manifest.json\n"
        (folder / "manifest.sha256").write_text(seal)

    return write
