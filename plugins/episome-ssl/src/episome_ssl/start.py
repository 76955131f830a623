"""What decoders begin with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from episome.data import measured_genes
from episome.errors import UsageError
from episome.models import normalized_rows

if TYPE_CHECKING:
    from episome.train import CellDataModule
    from episome_ssl.core import EncoderCore

_CELLS = 4096


def widths(hidden: Sequence[int]) -> list[int]:
    """Return the widths of hidden layers as plain data.

    Parameters
    ----------
    hidden
        One number for each layer.

    Raises
    ------
    UsageError
        It is no list of whole numbers (E-U31).
    """
    try:
        if isinstance(hidden, str) or any(int(h) != h for h in hidden):
            raise TypeError
        return [int(h) for h in hidden]
    except (TypeError, ValueError) as error:
        raise UsageError(
            "E-U31",
            f"hidden={hidden!r} is no list of widths",
            why="the encoder has a layer for each of them",
            fix="hidden=(512, 256), on the command line --set 'hidden=[512, 256]'",
        ) from error


def start_from_means(core: EncoderCore, data: CellDataModule) -> None:
    """Let the decoder of a fresh core begin at the means of its training cells.

    Parameters
    ----------
    core
        Changed in place; one without a decoder stays as it is.
    data
        Of the training; up to 4,096 of its training cells are read.
    """
    if not core.net.decodes:
        return
    rows = np.asarray(data.split.train)
    if len(rows) > _CELLS:
        # Evenly over all of them: files of several studies lie one behind the other.
        rows = rows[np.linspace(0, len(rows) - 1, _CELLS).astype(np.int64)]
    values = normalized_rows(data, np.sort(rows))
    if core.config["likelihood"] == "nb":
        values = values.expm1()
    panels = measured_genes(data.source, data.alignment)
    n_cells = np.full(values.shape[1], len(rows))
    if panels is not None:
        # Of the cells in which a gene was looked for.
        origins = np.bincount(panels.codes[rows], minlength=len(panels.measured))
        n_cells = origins @ panels.measured
    total = np.asarray(values.sum(axis=0), dtype=np.float64).ravel()
    mean = (total / np.maximum(n_cells, 1)).astype(np.float32)
    core.net.start_from(torch.from_numpy(mean).to(core.device))
