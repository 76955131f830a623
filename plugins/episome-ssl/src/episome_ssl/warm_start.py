"""Starts of the models that use a pretrained encoder."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from episome.data import require_choice
from episome.errors import GeneMatchError
from episome.models import EncoderPart, EpisomeModel, gene_places
from episome_ssl.start import widths

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from anndata import AnnData

    from episome.data import CellSource, PreparedCells


#: Smallest share of an encoder's genes that cells must have to be read by these.
MIN_OVERLAP = 0.5


def on_genes_of(cells: PreparedCells, part: EncoderPart) -> PreparedCells:
    """Return training cells that are read by the genes and the rule of an encoder.

    Parameters
    ----------
    cells
        Of ``setup_source``.
    part
        The encoder.

    Raises
    ------
    ModelMismatchError
        Their values are of another scale (E-M06).
    """
    part.require_rule(cells.rule)
    rule = dataclasses.replace(part.rule, organisms=cells.rule.organisms)
    registry = dict(cells.registry)
    fields = {k: dict(v) for k, v in registry["field_registries"].items()}
    state = dict(fields["X"]["state_registry"])
    ids = np.array(part.features.ids, dtype=object)
    state |= {
        "column_names": ids,
        "n_vars": len(ids),
        "other_names": {k: np.array(v, dtype=object) for k, v in part.features.other.items()},
        "input": rule.to_json(),
    }
    fields["X"] |= {"state_registry": state}
    if "summary_stats" in fields["X"]:
        fields["X"]["summary_stats"] = {**fields["X"]["summary_stats"], "n_vars": len(ids)}
    registry["field_registries"] = fields
    return dataclasses.replace(cells, features=part.features, rule=rule, registry=registry)


#: Sizes of an encoder that has no other to follow.
SIZES: dict[str, Any] = {"hidden": (512, 512, 256, 256), "n_latent": 64, "activation": "selu"}


def sizes_of(init: EncoderPart | None, **given: Any) -> dict[str, Any]:
    """Return sizes of an encoder: those given, else those of its start, else the usual ones.

    Parameters
    ----------
    init
        What it starts from.
    **given
        ``hidden``, ``n_latent`` and ``activation``; ``None`` where nothing is given.
    """
    usual = SIZES if init is None else {**SIZES, **init.settings}
    found = {k: usual[k] if v is None else v for k, v in given.items()}
    return {**found, "hidden": widths(found["hidden"])}


def started(
    cls: type[Any],
    ssl: EpisomeModel | str | Path,
    data: AnnData | str | Path | CellSource | Sequence[Any],
    model_kwargs: dict[str, Any],
    setup: dict[str, Any],
    genes: Literal["encoder", "data"] = "encoder",
) -> Any:
    """Build a model that starts from an encoder.

    Parameters
    ----------
    cls
        Class of the model.
    ssl
        A trained model with an encoder, or its folder.
    data
        Training cells.
    model_kwargs, setup
        Of the constructor and of the set-up.
    genes
        Whose genes it has.

    Raises
    ------
    GeneMatchError
        Too few genes of the one are known to the other (E-G03).
    """
    require_choice("genes", genes, ("encoder", "data"))
    part = EncoderPart.of(ssl)
    cells = cls.setup_source(data, **setup)
    if genes == "data":
        return cls(cells, init=part, **model_kwargs)
    _require_known(part, cells)
    model = cls(on_genes_of(cells, part), **{**part.settings, **model_kwargs})
    model.init_from(part, min_gene_overlap=0.0)
    return model


def _require_known(part: EncoderPart, cells: PreparedCells) -> None:
    """Refuse cells that lack most genes of an encoder, before anything is built on them."""
    places = gene_places(part.features, cells.features)
    n_known, n = int((places >= 0).sum()), len(places)
    if n_known < MIN_OVERLAP * n:
        raise GeneMatchError(
            "E-G03",
            f"the cells have only {n_known:,} of the {n:,} genes of the encoder",
            where=cells.where,
            why="the model would have the genes of the encoder, most of them zero",
            fix='from_ssl(..., genes="data") keeps the genes of the cells; those that the encoder '
            "does not know start anew",
        )
