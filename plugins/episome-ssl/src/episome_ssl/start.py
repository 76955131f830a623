"""Where decoders begin."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from episome.models import normalized_rows

if TYPE_CHECKING:
    from episome.train import CellDataModule
    from episome_ssl.core import EncoderCore

_CELLS = 4096


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
    mean = np.asarray(values.mean(axis=0), dtype=np.float32).ravel()
    core.net.start_from(torch.from_numpy(mean).to(core.device))
