"""Look at every modality of MuData on its own, and at how their cells are paired."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from episome.data._inspect_cells import COUNT_LAYERS, inspect_cells
from episome.data._inspect_checks import Findings
from episome.data._inspection import NOUNS, MuInspection
from episome.data._modalities import match_cells, parts_of, shared_names, stale_tables
from episome.data._proteins import modality_kind
from episome.data._read import rna_among
from episome.errors import Problem

if TYPE_CHECKING:
    from anndata import AnnData
    from mudata import MuData

    from episome.data._inspect_checks import Meant


def inspect_modalities(
    mdata: MuData | Mapping[str, AnnData],
    layer: str | None,
    *,
    use_raw: bool,
    name: str,
    meant: Meant,
) -> MuInspection:
    """Look at every modality on its own, and at how their cells are paired."""
    parts = parts_of(mdata, name=name)
    used = _read_by_commands(parts)
    kinds = {m: "rna" if m == used else modality_kind(m, p.var) for m, p in parts.items()}
    model = None if meant.features is None else meant.features.modality
    asked = used if model in {None, "rna"} else next((m for m in kinds if kinds[m] == model), "")
    without = replace(meant, features=None, rule=None)
    collected, found = Findings(), {}
    for m, part in parts.items():
        named = m == used or not used
        if not _holds_values(part) and not (named and layer is not None):
            collected.add("doubtful", [_no_matrix(f"{name}[{m!r}]")])
            continue
        found[m] = inspect_cells(
            part,
            layer if named else None,
            use_raw=use_raw and named,
            name=f"{name}[{m!r}]",
            meant=meant if m == asked else without,
            kind=kinds[m],
        )
    if model is not None and asked not in found:
        collected.add("must mend", [_no_such_kind(model, parts, name)])
    notes = stale_tables(mdata, name)
    n_obs = 0
    with collected.collecting():
        if found:
            common, _, said = match_cells({m: parts[m].obs_names for m in found}, name)
            n_obs, notes = len(common), (*notes, *said)
    features = {m: tuple(map(str, parts[m].var_names)) for m in found}
    notes = (*notes, *shared_names(features, name))
    return MuInspection(name, n_obs, found, used if used in found else "", notes, collected.found)


def _read_by_commands(parts: Mapping[str, AnnData]) -> str:
    """Return the modality that ``read_cells`` takes for a model of genes, or ``""``."""
    return rna_among(list(parts)) or ""


def _holds_values(part: AnnData) -> bool:
    stored = any(key in part.layers for key in COUNT_LAYERS)
    return part.X is not None or part.raw is not None or stored


def _no_matrix(where: str) -> Problem:
    return Problem(
        "E-D27",
        "X is None",
        where,
        why="nothing of this modality is looked at",
        fix="put values into X, or leave the modality out of what a model reads",
    )


def _no_such_kind(kind: str, parts: Iterable[str], name: str) -> Problem:
    noun = next((n for k, n in NOUNS.items() if k == kind), kind)
    return Problem(
        "E-U60",
        f"no modality holds the {noun} that the model reads",
        name,
        why=f"the modalities are {', '.join(parts)}",
        fix='call the modality of genes "rna"' if kind == "rna" else "pass the modality itself",
    )
