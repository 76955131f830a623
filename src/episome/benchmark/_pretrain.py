"""Pretraining before a run: on cells without labels, once for all runs that share it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from anndata import AnnData

from episome import plugins, settings
from episome.benchmark._data import DONOR, DataEntry, TaskData, content_digest
from episome.benchmark._guard import find_leaks, require_no_leaks
from episome.benchmark._load import load_data
from episome.data import FeatureSpace
from episome.errors import InputDataError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from episome.benchmark._study import ModelEntry, Pretraining


def pretrained_model(entry: ModelEntry) -> str:
    """Return the spec name of what is pretrained."""
    asked = entry.pretrain
    return entry.model if asked is None or not asked.model else asked.model


def pretraining_digest(entry: ModelEntry, base: Path | None) -> str:
    """Return a digest of the cells that a model is pretrained on; empty for those of the run.

    Parameters
    ----------
    entry
        The model.
    base
        Folder that paths of data are relative to.
    """
    asked = entry.pretrain
    if asked is None or not asked.data:
        return ""
    digests = [content_digest(load_data(one, base, labels=False)) for one in asked.data]
    return hashlib.sha256("".join(digests).encode()).hexdigest()[:16]


def pretrained_folder(
    entry: ModelEntry,
    asked: Pretraining,
    train: AnnData,
    test: AnnData,
    *,
    seed: int,
    base: Path | None,
    version: str,
    compute: dict[str, Any],
) -> Path:
    """Pretrain what an entry asks for, and return its folder; one that is there is taken.

    Parameters
    ----------
    entry, asked
        The model, and its ``pretrain``.
    train
        Training cells of the run: what is pretrained on where no other cells are named. Labels are
        not shown.
    test
        Test cells with their donors, for the guard.
    seed, base, version, compute
        Of the run: seed, folder of the data, version of the code that is pretrained, and arguments
        of ``train``.

    Raises
    ------
    InputDataError
        Pretraining and test share donors or cells that the entry does not allow (E-L20).
    UsageError
        The model cannot be pretrained (E-B15).
    """
    spec = plugins.get_spec(pretrained_model(entry))
    if "pretraining" not in spec.capabilities:
        raise UsageError(
            "E-B15",
            f"{spec.name} cannot be pretrained",
            where=entry.shown,
            why="its plugin does not say that it learns without labels",
            fix='pretrain = { model = "NAME" } with a model of the capability pretraining',
        )
    sets = [_without_labels(train)] if not asked.data else []
    for one in asked.data:
        cells = load_data(one, base, labels=False).cells
        leaks = find_leaks(
            *_on_shared_genes(cells, test), donor_key=DONOR if DONOR in cells.obs else None
        )
        require_no_leaks(leaks, asked.allow, where=f"pretraining on {one.name}")
        if asked.genes == "run":
            cells = _known_genes(cells, test)
        sets.append(_named(cells, one.name))
    sets = [_fewer_donors(s, asked.donor_fraction, seed) for s in sets]
    files = files_digest(asked.init, base)
    folder = _folder(spec.name, asked, sets, seed, version, compute, files)
    if folder.is_dir():
        return folder
    cls = plugins.load_class(spec)
    donors = {"donor_key": DONOR} if all(DONOR in s.obs for s in sets) else {}
    cells = sets[0] if len(sets) == 1 else sets
    model = cls(cls.setup_source(cells, **donors, **asked.setup), **with_files(asked.init, base))
    model.train(**{**compute, **asked.train})
    folder.parent.mkdir(parents=True, exist_ok=True)
    model.save(folder, overwrite=True)
    return folder


def with_files(arguments: Mapping[str, Any], base: Path | None) -> dict[str, Any]:
    """Return arguments of a class, files that lie in the folder of the data by their path.

    Parameters
    ----------
    arguments
        Of the class.
    base
        Folder that paths of data are relative to.
    """

    def found(value: Any) -> Any:
        here = base is not None and isinstance(value, str) and (base / value).is_file()
        return str(base / value) if here and base is not None else value

    return {k: found(v) for k, v in arguments.items()}


def files_digest(arguments: Mapping[str, Any], base: Path | None) -> str:
    """Return a digest of the files that arguments of a class name; empty where they name none.

    Parameters
    ----------
    arguments, base
        Of :func:`with_files`.
    """
    found = hashlib.sha256()
    files = [v for k, v in sorted(with_files(arguments, base).items()) if v != arguments[k]]
    for file in files:
        found.update(Path(file).read_bytes())
    return found.hexdigest()[:16] if files else ""


def _folder(
    model: str,
    asked: Pretraining,
    sets: list[AnnData],
    seed: int,
    version: str,
    compute: dict[str, Any],
    files: str,
) -> Path:
    named = {
        "model": [model, version],
        "arguments": [dict(asked.setup), dict(asked.init), dict(asked.train), compute],
        "cells": [content_digest(TaskData(DataEntry("", ""), s)) for s in sets],
        "files": files,
        "seed": seed,
    }
    text = json.dumps(named, sort_keys=True, default=str)
    name = hashlib.sha256(text.encode()).hexdigest()[:24]
    return settings.cache_folder("pretrained") / name


def _without_labels(cells: AnnData) -> AnnData:
    """Return cells with their donors and nothing else of their table; values are shared."""
    obs = cells.obs[[c for c in (DONOR,) if c in cells.obs]].copy()
    return AnnData(cells.X, obs=obs, var=cells.var)


def _named(cells: AnnData, name: str) -> AnnData:
    """Return cells without labels, donors and cells named after their data set."""
    found = _without_labels(cells)
    found.obs_names = [f"{name}/{n}" for n in found.obs_names]
    if DONOR in found.obs:
        donors = found.obs[DONOR].astype("object")
        found.obs[DONOR] = [None if d is None or d != d else f"{name}/{d}" for d in donors]
    return found


def _on_shared_genes(cells: AnnData, test: AnnData) -> tuple[AnnData, AnnData]:
    """Return both parts on the genes of both: cells are the same if they are so there.

    Where these are few, other cells are alike on them too; then on all genes of each.
    """
    shared = test.var_names.intersection(cells.var_names)
    if len(shared) < test.n_vars / 2:
        return cells, test
    return cells[:, shared], test[:, shared]


def _known_genes(cells: AnnData, test: AnnData) -> AnnData:
    """Return cells with the genes that the cells of the run have too, by whatever name."""
    space = FeatureSpace.from_var(test.var, duplicates="sum")
    found = space.align(cells.var, min_gene_overlap=0.0, duplicates="sum")
    return cells[:, found.columns >= 0].copy()


def _fewer_donors(cells: AnnData, fraction: float, seed: int) -> AnnData:
    """Return the cells of a share of the donors; larger shares hold the smaller ones."""
    if fraction >= 1:
        return cells
    if DONOR not in cells.obs:
        raise InputDataError(
            "E-B05",
            "a share of the donors is asked for, and no donors are known",
            where="pretrain.donor_fraction",
            fix="name donor_key = of the data",
        )
    donors = sorted(cells.obs[DONOR].dropna().astype(str).unique())
    rng = np.random.default_rng(settings.stream_seed("pretraining-donors", seed))
    order = [donors[i] for i in rng.permutation(len(donors))]
    chosen = order[: max(round(fraction * len(donors)), 1)]
    return cells[cells.obs[DONOR].astype(str).isin(chosen).to_numpy()].copy()
