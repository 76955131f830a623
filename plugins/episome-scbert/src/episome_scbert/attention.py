"""What `SCBERT` says of genes beside its calls: attention among them, and their vectors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from episome.errors import UsageError
from episome.models import ExplanationMixin, as_rows
from episome_scbert.gene_attention import attention_among, vectors_of

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray

    from episome.data import CellSource
    from episome_scbert.core import SCBERTCore

    _Model = ExplanationMixin
else:
    _Model = object

#: Entries of what is returned above which it is refused; 2 GB.
MAX_ENTRIES = 500_000_000


class GeneAttentionMixin(_Model):
    """Answers about chosen genes; no matrix of all genes by all genes is formed."""

    module: SCBERTCore

    def attention(
        self,
        adata: AnnData | str | Path | CellSource | None = None,
        *,
        genes: Sequence[str],
        groupby: str | Sequence[object] | NDArray[Any] | pd.Series | None = None,
        indices: Sequence[int] | None = None,
        batch_size: int | None = None,
        **query: Any,
    ) -> pd.DataFrame | dict[str, pd.DataFrame]:
        """Return the attention that chosen genes pay to each other, mean over cells.

        Weights are those among all genes of a cell, mean over heads and layers; a pair counts in
        the cells in which both genes are in the sequence: all cells with ``attention="favor"``,
        those that express both otherwise.

        Parameters
        ----------
        adata, indices, batch_size, **query
            As for :meth:`explain`.
        genes
            Genes by identifier or symbol.
        groupby
            As for :meth:`explain`; ``None``: all cells.

        Returns
        -------
        A frame, rows the genes that pay and columns those that get it, NaN where no cell has
        both; with ``groupby`` one for every group, by its name.

        Raises
        ------
        UsageError
            Unknown genes (E-U61), none (E-U22), or groups as for :meth:`explain`.
        """
        self._require_trained()
        numbers = self._numbers(genes)
        prepared = self.prepare(adata, **query)
        groups = self._groups(groupby, prepared, adata, indices, batch_size=batch_size, **query)
        n = len(numbers)
        if len(groups.names) * n * n > MAX_ENTRIES:
            raise UsageError(
                "E-U51",
                f"{len(groups.names)} tables of {n} genes by {n}",
                fix="ask for fewer genes, or for fewer groups",
            )
        total = np.zeros((len(groups.names), n, n))
        count = np.zeros((len(groups.names), n, n), dtype=np.int64)
        start, core = 0, self.module
        for batch in self.predictor().batches(
            prepared, rows=as_rows(indices), batch_size=batch_size
        ):
            sequences = core.sequences(batch["X"])
            codes = groups.codes[start : start + len(sequences.lengths)]
            start += len(codes)
            for cells in core.in_parts(sequences):
                part = sequences.of_cells(cells)
                found, there = attention_among(core.encoder, part, numbers.to(core.device))
                of = codes[cells.cpu().numpy()]
                both = (there[:, :, None] & there[:, None, :]).cpu().numpy()
                for code in np.unique(of[of >= 0]):
                    total[code] += found.double().cpu().numpy()[of == code].sum(0)
                    count[code] += both[of == code].sum(0)
        with np.errstate(invalid="ignore"):
            mean = np.where(count > 0, total / np.maximum(count, 1), np.nan)
        ids = [self.features.ids[int(i)] for i in numbers]
        frames = {
            name: pd.DataFrame(table.astype(np.float32), index=ids, columns=ids)
            for name, table in zip(groups.names, mean, strict=True)
        }
        nothing = pd.DataFrame(np.nan, index=ids, columns=ids, dtype=np.float32)
        return frames if groupby is not None else frames.get("all", nothing)

    def gene_embeddings(
        self,
        adata: AnnData | str | Path | CellSource | None = None,
        genes: Sequence[str] = (),
        *,
        indices: Sequence[int] | None = None,
        batch_size: int | None = None,
        **query: Any,
    ) -> NDArray[np.float32]:
        """Return the vectors of chosen genes in every cell, as the other genes shape them.

        Parameters
        ----------
        adata, indices, batch_size, **query
            As for :meth:`explain`.
        genes
            Genes by identifier or symbol.

        Returns
        -------
        float32 (n_cells, n_genes, dim), genes as asked for. Where attention is exact, a gene that
        a cell does not express has NaN there.

        Raises
        ------
        UsageError
            Unknown genes (E-U61), none (E-U22), or more numbers than fit into memory (E-U51).
        """
        self._require_trained()
        numbers, core = self._numbers(genes), self.module
        prepared, rows = self.prepare(adata, **query), as_rows(indices)
        n_cells = prepared.source.n_obs if rows is None else len(rows)
        dim = int(core.config["dim"])
        if n_cells * len(numbers) * dim > MAX_ENTRIES:
            raise UsageError(
                "E-U51",
                f"{n_cells:,} cells times {len(numbers):,} genes times {dim} numbers",
                fix="ask for fewer genes, or for some cells with indices=",
            )
        out = np.full((n_cells, len(numbers), dim), np.nan, dtype=np.float32)
        start = 0
        for batch in self.predictor().batches(prepared, rows=rows, batch_size=batch_size):
            sequences = core.sequences(batch["X"])
            for cells in core.in_parts(sequences):
                part = sequences.of_cells(cells)
                found = vectors_of(core.encoder, part, numbers.to(core.device))
                out[start + cells.cpu().numpy()] = found.float().cpu().numpy()
            start += len(sequences.lengths)
        return out

    def _numbers(self, genes: Sequence[str]) -> torch.Tensor:
        """Numbers of the genes that are asked for, int64, each once."""
        names = [genes] if isinstance(genes, str) else list(dict.fromkeys(genes or ()))
        if not names:
            raise UsageError("E-U22", "no genes are asked for", fix="pass genes=[...]")
        return torch.from_numpy(self.features.places(names, where="genes"))
