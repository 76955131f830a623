"""A model trained on one split of the study of annotators, and the cells it has not seen."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import episome
from episome import settings
from episome.benchmark import DONOR, LABEL, DataEntry, load_data, parts_of

if TYPE_CHECKING:
    from anndata import AnnData


def trained(entry: DataEntry, folder: Path, name: str, seed: int) -> tuple[Any, AnnData]:
    """Train an installed annotator with its defaults; return it and the test cells."""
    settings.seed = seed
    data = load_data(entry, folder)
    _, train, test = next(iter(parts_of(data, entry.splits[0], seed)))
    cells = data.cells[train].copy()
    model_cls = episome.get_model(name)
    donors = DONOR if DONOR in cells.obs else None
    model_cls.setup_anndata(cells, labels_key=LABEL, donor_key=donors)
    model = model_cls(cells)
    model.train()
    return model, (data.cells if data.query is None else data.query)[test].copy()
