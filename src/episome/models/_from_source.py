"""Set-up of models whose training cells are no AnnData object in memory."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anndata
import numpy as np
import pandas as pd

from episome.data import (
    CellSource,
    ManyCells,
    ObsmSource,
    PreparedCells,
    ScannedSource,
    cellxgene_source,
    combined_column,
    definite_donors,
    existing_columns,
    in_memory,
    listed,
    name_cells,
    open_source,
    read_cells,
    read_modality,
    refuse_matrix,
)
from episome.errors import UsageError
from episome.log import get_logger
from episome.models._fields import features_from_state, labels_from_state, rule_from_state
from episome.models._setup import SOURCE

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray

    from episome.models._base import EpisomeModel

logger = get_logger(__name__)

_TERMS = "_ontology_term_id"
_SCHEMA_TERMS = f"cell_type{_TERMS}"


def prepared_cells(
    cls: type[EpisomeModel],
    data: AnnData | str | Path | CellSource | Sequence[Any],
    setup: Mapping[str, Any],
) -> PreparedCells:
    """Set cells up where they are; see ``EpisomeModel.setup_source``."""
    require_reader(cls)
    _require_complete(cls, setup)
    setup = dict(setup)
    source = _training_cells(cls, data, setup)
    stand_in = _stand_in(source, setup)
    if not in_memory(source):
        source = ScannedSource(source)
    # One set-up for all kinds of cells: what it registers of an object without values, and of
    # a source beside it, is what it would register of both in one object.
    given: dict[str, Any] = {**setup, SOURCE: source}
    cls.setup_anndata(stand_in, **given)
    manager = cls._setup_adata_manager_store.pop(stand_in.uns["_scvi_uuid"])
    registry = {k: v for k, v in manager.registry.items() if k != "_scvi_uuid"}
    fields = registry["field_registries"]
    donor_key = setup.get("donor_key")
    return PreparedCells(
        source,
        features_from_state(fields["X"]["state_registry"]),
        rule_from_state(fields["X"]["state_registry"]),
        _codes(stand_in, fields),
        None if donor_key is None else definite_donors(combined_column(stand_in, donor_key)),
        cls.__name__,
        registry,
    )


def prepared_by_schema(
    cls: type[EpisomeModel], data: str | Path | CellSource | Sequence[Any]
) -> PreparedCells:
    """Set cells up by the columns of the CELLxGENE schema.

    Raises
    ------
    UsageError
        They do not follow it (E-U28).
    """
    source, choice = cellxgene_source(data, model=cls.__name__, needs_labels=reads_labels(cls))
    logger.info("set up by the CELLxGENE columns: %s", choice.text)
    setup = cls._labels_of_schema(choice)
    if choice.donor_key:
        setup["donor_key"] = list(choice.donor_key)
    return prepared_cells(cls, source, setup)


def reads_labels(cls: type[EpisomeModel]) -> bool:
    """Whether the set-up of a model takes labels."""
    return "labels_key" in inspect.signature(cls.setup_anndata).parameters


def require_reader(cls: type[EpisomeModel]) -> None:
    """Refuse models that want their training cells as an object.

    Raises
    ------
    UsageError
        E-U83.
    """
    if not cls.reads_sources:
        raise UsageError(
            "E-U83",
            f"{cls.__name__} cannot be trained from a file or source",
            where="setup_source()",
            why="it hands an object with all cells to another program, or reads several "
            "modalities",
            fix="read the file with episome.data.read_any, and set the object up",
        )


def _require_complete(cls: type[EpisomeModel], setup: Mapping[str, Any]) -> None:
    """Refuse a set-up without what it needs; arguments too many it refuses itself."""
    parameters = inspect.signature(cls.setup_anndata).parameters.values()
    needed = [p.name for p in parameters if p.default is p.empty and p.kind is not p.VAR_KEYWORD]
    missing = [n for n in needed if n != "adata" and n not in setup]
    if missing:
        raise UsageError(
            "E-U28",
            f"{', '.join(missing)} is not given",
            where="setup_source()",
            why=f"{cls.__name__} cannot be set up without it",
            fix=f"setup_source(data, {missing[0]}=...)",
        )


def _training_cells(
    cls: type[EpisomeModel],
    data: AnnData | str | Path | CellSource | Sequence[Any],
    setup: dict[str, Any],
) -> CellSource:
    """Open the cells, and leave in ``setup`` where their values were found."""
    layer, use_raw = setup.get("layer"), setup.get("use_raw", False)
    modality = setup.pop("modality", None)
    obsm_key = setup.get("obsm_key") or cls.default_obsm_key
    refuse_matrix(obsm_key, layer=layer, use_raw=use_raw)
    if obsm_key is not None:
        if modality is not None:
            data = read_modality(data, modality, backed=True)
        if isinstance(data, str | Path):
            name = Path(data).name
            return ObsmSource(read_cells(data, backed=True), obsm_key, name=name)
        return data if isinstance(data, ObsmSource) else ObsmSource(data, obsm_key)
    given = isinstance(data, CellSource) and modality is None
    if given and (layer is not None or use_raw):
        raise UsageError(
            "E-U27",
            "a source is given, and `layer` or `use_raw` beside it",
            why="a source knows where its values are",
            fix="choose the place where the source is made",
        )
    source: CellSource
    if modality is None and (several := listed(data)) is not None:
        duplicates = setup.get("duplicates", "error")
        source = ManyCells(several, layer=layer, use_raw=use_raw, duplicates=duplicates)
    else:
        source = open_source(data, layer=layer, use_raw=use_raw, backed=True, modality=modality)
    # What "auto" and the schema found is what the registry says.
    chosen = {
        "layer": getattr(source, "layer", None),
        "use_raw": bool(getattr(source, "use_raw", 0)),
    }
    setup |= {k: v for k, v in chosen.items() if v or k in setup}
    return source


def _stand_in(source: CellSource, setup: Mapping[str, Any]) -> AnnData:
    """Return an object of the cells' columns that the set-up reads, and of no values."""
    wanted: list[str] = []
    for name, value in setup.items():
        if name.endswith("_key") and name != "obsm_key" and value is not None:
            wanted += [value] if isinstance(value, str) else list(value)
    labels_key = setup.get("labels_key")
    if labels_key is not None and setup.get("ontology_term_key") is None:
        # Where the set-up looks by itself for the terms of the labels.
        wanted += existing_columns(source, (f"{labels_key}{_TERMS}", _SCHEMA_TERMS))
    columns = {key: source.obs_column(key).array for key in dict.fromkeys(wanted)}
    obs = pd.DataFrame(columns, index=pd.RangeIndex(source.n_obs).astype(str))
    stand_in = anndata.AnnData(obs=obs, var=pd.DataFrame(index=pd.Index([], dtype=str)))
    name_cells(stand_in, str(getattr(source, "name", source.where)))
    return stand_in


def _codes(stand_in: AnnData, fields: Mapping[str, Any]) -> NDArray[np.int64]:
    if "labels" not in fields:
        return np.zeros(stand_in.n_obs, dtype=np.int64)
    n_classes = len(labels_from_state(fields["labels"]["state_registry"]))
    codes = np.asarray(stand_in.obs["_scvi_labels"], dtype=np.int64)
    return np.where(codes >= n_classes, -1, codes)
