"""What decides the result of a training: two runs that agree in it are the same run."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from episome import settings
from episome.errors import UsageError
from episome.io import provenance
from episome.models._folder import model_identity
from episome.train import RunFolder

if TYPE_CHECKING:
    from episome.data import CellSource
    from episome.models._network import NetworkModel
    from episome.train import CellDataModule, RunPart

#: Bytes of values up to which all are looked at, and cells that stand for more of them.
WHOLE_BYTES, SAMPLED = 256 << 20, 256
_BLOCK = 4096
#: Settings of a trainer that say where and how it shows itself, not what comes out.
_SHOWN = {"accelerator", "devices", "logger", "progress", "enable_progress_bar", "profiler"}


@contextlib.contextmanager
def run_parts(
    checkpoint_dir: str | Path | None, resume: str | Path, facts: Mapping[str, object]
) -> Iterator[tuple[RunPart | None, RunPart | None]]:
    """Own the folder of a training; give the places of its run, and of the one after a refit.

    Parameters
    ----------
    checkpoint_dir
        The folder; ``None`` keeps nothing.
    resume
        ``"auto"``, ``"never"``, or a folder to go on from.
    facts
        Of :func:`run_facts`.
    """
    folder, how = checked_resume(checkpoint_dir, resume)
    if folder is None:
        yield None, None
        return
    with RunFolder(folder).opened(facts, resume=how) as run:
        yield run.part(1), run.part(2)


def checked_resume(
    checkpoint_dir: str | Path | None, resume: str | Path
) -> tuple[Path | None, Literal["auto", "never", "must"]]:
    """Return the folder and what is wanted of it.

    Raises
    ------
    UsageError
        Two folders are given (E-U97).
    """
    if resume in {"auto", "never"}:
        how: Literal["auto", "never"] = "auto" if resume == "auto" else "never"
        return (None if checkpoint_dir is None else Path(checkpoint_dir)), how
    if checkpoint_dir is not None and Path(checkpoint_dir) != Path(resume):
        raise UsageError(
            "E-U97",
            f"resume={str(resume)!r} is another folder than checkpoint_dir",
            where="train()",
            why=f"checkpoint_dir is {str(checkpoint_dir)!r}, and a run goes on in its own folder",
            fix='give one of them; resume is "auto", "never" or the folder of a run',
        )
    return Path(resume), "must"


def run_facts(
    model: NetworkModel, data: CellDataModule, arguments: Mapping[str, Any]
) -> dict[str, object]:
    """Return what decides the result of a training, by names that a message may show.

    Parameters
    ----------
    model
        Before it trains.
    data
        Its cells.
    arguments
        What ``train`` was given and has chosen.
    """
    identity = model_identity(type(model))
    versions: Any = provenance()["versions"]
    return {
        "model": identity["class"],
        "episome": versions["episome"],
        "plugin": f"{identity.get('plugin')} {identity.get('version')}",
        "seed": settings.seed,
        "cells": _cells_seen(data.source, data.others),
        "labels and donors": _digest(data.labels, *_text(data.donors)),
        "genes": model.features.digest,
        "classes": list(model.labels.names) if model.labels else [],
        "split": data.split.digest,
        "sampling": None if data.weights is None else _digest(data.weights),
        **({"columns": _digest(*data.columns.values())} if data.columns else {}),
        "values": {"rule": str(data.rule), "kind": str(data.kind)},
        "configuration": _plain(model.module.config),
        "weights at the start": _digest(
            *(v.detach().cpu().numpy() for v in model.module.state_dict().values())
        ),
        **{k: _plain(v) for k, v in arguments.items() if k not in _SHOWN},
    }


def _cells_seen(source: CellSource, others: Mapping[str, CellSource] | None = None) -> str:
    """Return a digest of names, genes and values; of large sources of some cells' values.

    Parameters
    ----------
    source
        The cells.
    others
        The same cells in other modalities.
    """
    found = hashlib.sha256(
        _digest(
            *_text(np.asarray(source.obs_names)), *_text(np.asarray(source.var.index))
        ).encode()
    )
    for part in (source, *(others or {}).values()):
        for rows in _looked_at(part):
            block = part.read(rows)
            for array in (block.indptr, block.indices, block.data):
                found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()


def _looked_at(source: CellSource) -> Iterator[slice]:
    n = source.n_obs
    head = source.read(slice(0, min(64, n)))
    size = head.nnz * 8 * n / max(head.shape[0], 1)
    if size <= WHOLE_BYTES:
        yield from (slice(i, min(i + _BLOCK, n)) for i in range(0, n, _BLOCK))
        return
    for i in np.unique(np.linspace(0, n - 1, SAMPLED).astype(int)).tolist():
        yield slice(i, i + 1)


def _text(values: np.ndarray | None) -> list[np.ndarray]:
    """Names as bytes with their lengths, so that no two lists of names are the same bytes."""
    if values is None:
        return []
    encoded = [str(v).encode() for v in values]
    lengths = np.array([len(e) for e in encoded], dtype=np.int64)
    return [lengths, np.frombuffer(b"".join(encoded), dtype=np.uint8)]


def _digest(*arrays: np.ndarray) -> str:
    found = hashlib.sha256()
    for array in arrays:
        found.update(f"{array.dtype}{array.shape}".encode())
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()


def _plain(value: object) -> object:
    """Plain data as it is; of objects the name of their class, of arrays their content."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, np.ndarray):
        return _digest(value) if value.dtype != object else _digest(*_text(value))
    if isinstance(value, list | tuple):
        items = [_plain(v) for v in value]
        # Rows of a split, groups of genes: long lists are told apart by what they hold.
        text = json.dumps(items)
        return items if len(text) < 1000 else hashlib.sha256(text.encode()).hexdigest()
    return type(value).__qualname__
