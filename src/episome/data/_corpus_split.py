"""Splits of a corpus that are written to disk: no donor on two sides, the same for a seed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from episome import settings
from episome.data._keys import INDEFINITE_DONORS
from episome.data._splits import Split
from episome.errors import InputDataError, InputFileError, UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from episome.data._source import CellSource

PARTS = ("train", "validation", "test")
#: What a subset of the training cells is drawn of.
SUBSETS = ("groups", "cells")
FORMAT = 1
#: A donor that takes a part this far beyond its share is left to another.
_TOO_MUCH = 1.5


def split_by_groups(
    source: CellSource,
    by: Sequence[str],
    *,
    sizes: Sequence[float] = (0.7, 0.15, 0.15),
    labels_key: str | None = None,
    seed: int | None = None,
) -> dict[str, Any]:
    """Split cells so that no group, such as a donor, stands on two sides.

    Groups are drawn at random until a part has its share of the cells. A label never loses its
    last training cell. Cells without a definite group stay in training.

    Parameters
    ----------
    source
        The cells; only the named columns are read.
    by
        Columns that name the group together, such as ``["dataset_id", "donor_id"]``.
    sizes
        Shares of the training, validation and test cells.
    labels_key
        Column of labels.
    seed
        Default ``episome.settings.seed``.

    Returns
    -------
    Plain data for a JSON file: what was asked for, the groups and number of cells of each part,
    and the SHA-256 of the row numbers.

    Raises
    ------
    UsageError
        Sizes do not fit (E-U10), or a column is missing (E-U04).
    InputDataError
        There are too few groups (E-L37).
    """
    shares = _shares(sizes)
    seed = settings.seed if seed is None else seed
    codes, names = group_cells(source, by)
    labels = _label_codes(source, labels_key)
    table = _cells_of(codes, labels, len(names))
    wanted = sum(s > 0 for s in shares)
    if len(names) < wanted:
        raise _too_few(by, len(names), wanted)
    rng = np.random.default_rng(settings.stream_seed("split", seed))
    part_of = np.zeros(len(names), dtype=np.int64)
    left = table.sum(axis=0)
    left += np.bincount(labels[(codes < 0) & (labels >= 0)], minlength=table.shape[1])
    for part in (1, 2):
        left = _draw(table, part_of, left, part, shares[part] * source.n_obs, rng)
        if shares[part] and not (part_of == part).any():
            raise _undrawable(by, PARTS[part], len(names))
    rows = _rows(codes, part_of)
    split = Split(*rows, "donor", seed)
    return {
        "format": FORMAT,
        "kind": "split",
        "by": list(by),
        "sizes": list(shares),
        "labels_key": labels_key,
        "seed": seed,
        "n_obs": source.n_obs,
        "corpus": getattr(source, "digest", None),
        "parts": {
            name: {"n_obs": len(r), "groups": [names[g] for g in np.flatnonzero(part_of == i)]}
            for i, (name, r) in enumerate(zip(PARTS, rows, strict=True))
        },
        "sha256": split.digest,
    }


def nested_subsets(
    source: CellSource, split: Mapping[str, Any], fractions: Sequence[float]
) -> dict[str, dict[str, Any]]:
    """Return splits with less to train on: few donors, and as a control few cells of all donors.

    Validation and test stay. A smaller subset is part of every larger one, so that scores differ
    by what was added. Subsets of groups hold so many of the training groups, drawn at random;
    cells without a definite group are in none of them. Subsets of cells hold so many of the
    training cells.

    Parameters
    ----------
    source
        The cells.
    split
        Of :func:`split_by_groups`, of the same cells.
    fractions
        Shares of the training groups and of the training cells, above 0 and below 1.

    Returns
    -------
    By name, such as ``"groups-30"`` and ``"cells-30"``, what :func:`split_by_groups` returns;
    ``subset`` says what was drawn, and the training part how many labels are left.

    Raises
    ------
    UsageError
        A fraction is out of range (E-U10).

    References
    ----------
    Fischer et al., Nature Communications 15, 6611 (2024), figure 2b.
    """
    for share in fractions:
        if not 0 < share < 1:
            fix = "give shares above 0 and below 1, such as 0.15,0.3,0.5,0.7"
            raise UsageError("E-U10", f"a subset of {share:g} of the training cells", fix=fix)
    if not fractions:
        return {}
    codes, names = group_cells(source, split["by"])
    labels = _label_codes(source, split["labels_key"])
    found: dict[str, dict[str, Any]] = {}
    for share in sorted(fractions):
        for kind in SUBSETS:
            drawn = {"of": split["sha256"], "kind": kind, "fraction": float(share)}
            parts = _subset_parts(split, drawn)
            rows = _rows_of(codes, names, parts, drawn, split["seed"])
            parts["train"] |= {"n_obs": len(rows[0]), "n_labels": _n_known(labels[rows[0]])}
            whole = Split(*rows, "donor", split["seed"])
            found[f"{kind}-{share * 100:g}"] = {
                **split,
                "parts": parts,
                "subset": drawn,
                "sha256": whole.digest,
            }
    return found


def _subset_parts(split: Mapping[str, Any], drawn: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Copy the parts; a subset of groups names those that it leaves out."""
    parts = {name: dict(part) for name, part in split["parts"].items()}
    if drawn["kind"] == "groups":
        groups = parts["train"]["groups"]
        rng = np.random.default_rng(settings.stream_seed("subset", split["seed"]))
        order = rng.permutation(len(groups))
        kept = set(order[: max(round(drawn["fraction"] * len(groups)), 1)].tolist())
        parts["train"]["groups"] = [g for i, g in enumerate(groups) if i in kept]
        parts["left_out"] = {"groups": [g for i, g in enumerate(groups) if i not in kept]}
    return parts


def _n_known(labels: NDArray[np.int64]) -> int:
    return len(np.unique(labels[labels >= 0]))


def _rows_of(
    codes: NDArray[np.int64],
    names: Sequence[str],
    parts: Mapping[str, Mapping[str, Any]],
    drawn: Mapping[str, Any] | None,
    seed: int,
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Row numbers of the parts; groups that no part names are in none."""
    place = {name: i for i, part in enumerate(PARTS) for name in parts[part]["groups"]}
    part_of = np.array([place.get(name, -1) for name in names], dtype=np.int64)
    train, validation, test = _rows(codes, part_of)
    if drawn is None:
        return train, validation, test
    if drawn["kind"] == "groups":
        return train[codes[train] >= 0], validation, test
    rng = np.random.default_rng(settings.stream_seed("subset", seed))
    order = rng.permutation(len(train))[: max(round(drawn["fraction"] * len(train)), 1)]
    return train[np.sort(order)], validation, test


@dataclass(frozen=True, slots=True)
class _Written:
    """What the file of a split says: columns, seed, checksum, parts, and the draw of a subset."""

    by: tuple[str, ...]
    seed: int
    digest: str
    parts: Mapping[str, Mapping[str, Any]]
    drawn: Mapping[str, Any] | None

    @property
    def groups(self) -> set[str]:
        """Groups of all parts, and of those that a subset leaves out."""
        return {g for part in self.parts.values() for g in part["groups"]}


def _written(path: Path) -> _Written:
    try:
        kept = json.loads(path.read_bytes())
        drawn = kept.get("subset")
        if drawn is not None:
            drawn = {"kind": drawn["kind"], "fraction": float(drawn["fraction"])}
        by, parts = tuple(map(str, kept["by"])), {**kept["parts"]}
        found = _Written(by, int(kept["seed"]), str(kept["sha256"]), parts, drawn)
        for name in (*PARTS, *parts):
            set(parts[name]["groups"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputFileError(
            "E-F33",
            "the file is no split",
            where=str(path),
            why=str(error)[:100],
            fix="make it with `episome corpus split`",
        ) from error
    return found


def split_columns(path: str | Path) -> tuple[str, ...]:
    """Return the columns that the groups of a written split are made of.

    Parameters
    ----------
    path
        File of ``episome corpus split``.

    Raises
    ------
    InputFileError
        It is no split (E-F33).
    """
    return _written(Path(path)).by


def read_split(path: str | Path, source: CellSource) -> Split:
    """Read a split that was written before, for the same cells.

    Raises
    ------
    InputFileError
        It is no split (E-F33).
    InputDataError
        The cells are others than those it was made for (E-L38).
    """
    path = Path(path)
    kept = _written(path)
    codes, names = group_cells(source, kept.by)
    placed = kept.groups
    unknown = [name for name in names if name not in placed]
    rows = _rows_of(codes, names, kept.parts, kept.drawn, kept.seed)
    split = Split(*rows, "donor", kept.seed)
    if unknown or split.digest != kept.digest:
        raise InputDataError(
            "E-L38",
            "the split is of other cells",
            where=path.name,
            count=len(unknown),
            total=len(names),
            examples=unknown[:3],
            why="its checksum is not that of these cells, so parts could overlap",
            fix="make it again with `episome corpus split`",
        )
    return split


def _shares(sizes: Sequence[float]) -> tuple[float, float, float]:
    values = [float(s) for s in sizes]
    good = len(values) == 3 and min(values) >= 0 and values[0] > 0 and abs(sum(values) - 1) < 1e-6
    if not good:
        raise UsageError(
            "E-U10",
            f"the sizes are {', '.join(f'{v:g}' for v in values)}",
            why="they are the shares of training, validation and test, and add up to 1",
            fix="--sizes 0.7,0.15,0.15",
        )
    return values[0], values[1], values[2]


def group_cells(source: CellSource, by: Sequence[str]) -> tuple[NDArray[np.int64], list[str]]:
    """Return the group of every cell, -1 where it has no definite one, and the groups' names."""
    columns = [source.obs_column(key) for key in by]
    codes = np.zeros(source.n_obs, dtype=np.int64)
    names = np.array([""], dtype=object)
    for number, column in enumerate(columns):
        own, values = pd.factorize(column.astype(str), sort=True)
        indefinite = np.array([str(v).strip().casefold() in INDEFINITE_DONORS for v in values])
        gone = column.isna().to_numpy() | indefinite[own]
        joined = np.where(gone | (codes < 0), -1, codes * len(values) + own)
        used = np.unique(joined[joined >= 0])
        before, here = np.divmod(used, max(len(values), 1))
        glue = "_" if number else ""
        names = np.array(
            [f"{names[b]}{glue}{values[h]}" for b, h in zip(before, here, strict=True)], object
        )
        codes = np.where(joined < 0, -1, np.searchsorted(used, joined))
    return codes, [str(n) for n in names]


def _label_codes(source: CellSource, labels_key: str | None) -> NDArray[np.int64]:
    if labels_key is None:
        return np.zeros(source.n_obs, dtype=np.int64)
    column = source.obs_column(labels_key)
    codes, _ = pd.factorize(column, sort=True)
    return np.asarray(codes, dtype=np.int64)


def _cells_of(
    codes: NDArray[np.int64], labels: NDArray[np.int64], n_groups: int
) -> NDArray[np.int64]:
    """Cells of every group and label, shape (n_groups, n_labels); the last column has no label."""
    n_labels = int(labels.max(initial=-1)) + 2
    known = codes >= 0
    flat = codes[known] * n_labels + np.where(labels[known] < 0, n_labels - 1, labels[known])
    return np.bincount(flat, minlength=n_groups * n_labels).reshape(n_groups, n_labels)


def _draw(
    table: NDArray[np.int64],
    part_of: NDArray[np.int64],
    left: NDArray[np.int64],
    part: int,
    wanted: float,
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    """Move groups from training to a part until it has its cells; return the labels left."""
    if wanted < 0.5:
        return left
    taken = 0
    for group in rng.permutation(len(table)):
        size = int(table[group].sum())
        if part_of[group] or (taken and taken + size > _TOO_MUCH * wanted):
            continue
        after = left - table[group]
        # The last column counts cells without a label, which nobody learns from.
        if (after[:-1][table[group][:-1] > 0] == 0).any():
            continue
        part_of[group], left, taken = part, after, taken + size
        if taken >= wanted:
            break
    return left


def _rows(
    codes: NDArray[np.int64], part_of: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    part = np.where(codes < 0, 0, part_of[codes]) if len(part_of) else np.zeros_like(codes)
    first, second, third = (np.flatnonzero(part == i).astype(np.int64) for i in range(3))
    return first, second, third


def _too_few(by: Sequence[str], found: int, wanted: int) -> InputDataError:
    return InputDataError(
        "E-L37",
        "too few groups to split by",
        where=f"obs[{'+'.join(by)!r}]",
        count=found,
        total=wanted,
        why="every part needs one of its own",
        fix="name another column with --by, or ask for fewer parts with --sizes 0.8,0.2,0",
    )


def _undrawable(by: Sequence[str], part: str, total: int) -> InputDataError:
    return InputDataError(
        "E-L37",
        f"no group can be given to the {part} part",
        where=f"obs[{'+'.join(by)!r}]",
        count=0,
        total=total,
        why="each holds the last cells of a label, which training needs",
        fix="leave out rare labels with --where, or name another column with --by",
    )
