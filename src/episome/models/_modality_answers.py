"""What a model that predicts another modality answers: the modality, and how well it is told."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import anndata
import numpy as np
import pandas as pd
from scipy import sparse

from episome.data import (
    AnnDataSource,
    FeatureSpace,
    MatchedSource,
    match_features,
    pair_modalities,
)
from episome.errors import UsageError
from episome.inference import PredictedModality, TargetFacts, without_small
from episome.log import get_logger
from episome.metrics import feature_scores
from episome.models._arguments import as_rows

if TYPE_CHECKING:
    from anndata import AnnData
    from mudata import MuData
    from numpy.typing import NDArray

    from episome.data import CellSource, Query
    from episome.models._base import EpisomeModel as _Base
else:
    _Base = object

logger = get_logger(__name__)

#: Values of a block of features that are compared at once.
_VALUES = 2**26


class ModalityAnswers(_Base):
    """Queries of a model of two modalities; ``target_`` says what is known of its predictions."""

    target_: TargetFacts | None = None

    if TYPE_CHECKING:

        @property
        def target_features(self) -> FeatureSpace: ...

    def prepare(
        self, adata: AnnData | MuData | str | Path | CellSource | None = None, **kwargs: Any
    ) -> Query:
        """Check a query and align its genes; of MuData the RNA is read."""
        mod: Mapping[str, AnnData] = getattr(adata, "mod", {})
        if mod and adata is not self.adata:
            name = kwargs.pop("modality", None) or self.setup_args["rna_modality"]
            layer, part = kwargs.pop("layer", None), modality_named(mod, name)
            query = super().prepare(AnnDataSource(part, layer=layer, name=name), **kwargs)
        else:
            query = super().prepare(adata, **kwargs)
        return query if self.target_ is None else self.target_.told(query)

    def predict_modality(
        self,
        adata: AnnData | MuData | str | Path | CellSource | None = None,
        *,
        indices: Sequence[int] | None = None,
        features: Sequence[str] | None = None,
        interval: float | None = None,
        transform_batch: str | None = None,
        sparse_below: float | None = None,
        batch_size: int | None = None,
        **query: Any,
    ) -> AnnData:
        """Return the other modality of every cell, predicted from its RNA.

        Parameters
        ----------
        adata
            Query: RNA, or MuData with RNA; genes are aligned by name, nothing is modified.
            ``None`` takes the training cells, those without the other modality too.
        indices
            Rows; default all.
        features
            Names of the features to predict; default all.
        interval
            Share of cells, such as 0.9, whose measured value is to lie between
            ``layers["lower"]`` and ``layers["upper"]``: split conformal, from cells that were held
            out of training. It holds for cells that are like those.
        transform_batch
            Predict all cells as if they were of this batch; default their own where the model
            knows it, else none of them.
        sparse_below
            Leave out smaller predictions: ``X`` is then CSR. For many peaks.
        batch_size
            Cells at a time.
        **query
            ``layer``, ``use_raw``, ``input_kind``, ``min_gene_overlap``, ``duplicates``;
            ``modality``, the name of the RNA in MuData, where it is another than in training.

        Returns
        -------
        AnnData of shape (n_cells, n_features): ``X`` float32, NaN for cells with none of the
        model's genes; ``obs`` has the cell names alone; ``var`` says how well every feature was
        predicted in cells that were held out (``status``: ``"predictable"``, ``"weak"``,
        ``"not predictable"``), ``uns["scale"]`` and ``uns["unit"]`` what the values are.

        Raises
        ------
        UsageError
            Unknown features (E-U61) or batches (E-U110), a level that was not fitted (E-U22), or
            a model without intervals (E-U114).
        """
        prepared, rows = self.prepare(adata, **query), as_rows(indices)
        predictor = self.predictor()
        facts = self.target_ or TargetFacts(self.target_features.ids)
        found = PredictedModality(
            predictor,
            prepared,
            facts,
            features=features,
            interval=interval,
            transform_batch=transform_batch,
        )
        blocks = found.blocks(rows=rows, batch_size=batch_size)
        empty = np.empty((0, len(found.features)), dtype=np.float32)
        ends: dict[str, list[NDArray[np.float32]]] = {"lower": [], "upper": []}
        parts: list[Any] = [empty]
        for block in blocks:
            parts.append(
                block.values if sparse_below is None else without_small(block.values, sparse_below)
            )
            for name, found_ends in ends.items():
                if (end := getattr(block, name)) is not None:
                    found_ends.append(end)
        names = prepared.source.obs_names if rows is None else prepared.source.obs_names[rows]
        if sparse_below is None:
            values = np.concatenate(parts)
        else:
            values = sparse.vstack([sparse.csr_matrix(empty), *parts[1:]], format="csr")
        layers = (
            {} if interval is None else {k: np.concatenate([empty, *v]) for k, v in ends.items()}
        )
        uns = {} if facts.scale is None else {"scale": facts.scale.name, "unit": facts.unit}
        with warnings.catch_warnings():
            # Rows that are asked for twice are there twice.
            warnings.filterwarnings("ignore", message="Observation names are not unique")
            return anndata.AnnData(
                values,
                obs=pd.DataFrame(index=names.astype(str)),
                var=found.var.copy(),
                layers=layers,
                uns=uns,
            )

    def feature_report(
        self,
        mdata: MuData,
        *,
        modality: str | None = None,
        target_layer: str | None = None,
        transform_batch: str | None = None,
        interval: float | None = 0.9,
        **query: Any,
    ) -> pd.DataFrame:
        """Compare predictions with measured values of cells that the model has not seen.

        Parameters
        ----------
        mdata
            Cells with both modalities, paired by name; its RNA is all that the model sees.
        modality
            Name of the measured modality; default that of the training cells. Proteins are matched
            by name, without the suffix of a kit, peaks by overlap.
        target_layer
            Where the measured values are; default ``X``.
        transform_batch, **query
            Of :meth:`predict_modality`.
        interval
            Level whose coverage is counted, where the model has intervals.

        Returns
        -------
        One row per feature of the model, see ``episome.metrics.feature_scores``; ``coverage``:
        the share of cells whose measured value lies in the interval. Features that were not
        measured have NaN.

        Raises
        ------
        UsageError
            The modality is missing (E-U60).
        InputDataError
            No cell has both (E-D45).
        """
        self._require_trained()
        rna = self.setup_args["rna_modality"]
        name = modality or self.setup_args["target_modality"]
        layers = {rna: query.pop("layer", None), name: target_layer}
        paired = pair_modalities(mdata, [rna, name], layers=layers)
        facts = self.target_ or TargetFacts(self.target_features.ids)
        level = interval if facts.intervals else None
        source = paired.sources[name]
        kind: Literal["protein", "atac"] = "atac" if facts.kind == "atac" else "protein"
        theirs = list(map(str, source.var.index))
        matched = match_features(kind, facts.names, theirs, where=source.where)
        logger.info("%s", matched.report)
        if facts.scale is not None:
            # Values of another scale would be scaled once more, without a word.
            facts.scale.check(MatchedSource(source, matched))
        truth = matched.apply(source.read(slice(0, source.n_obs)))
        truth = (truth if facts.scale is None else facts.scale.apply(truth)).tocsc()
        width = max(_VALUES // max(source.n_obs, 1), 1)
        tables = [
            self._report(
                paired.sources[rna],
                truth,
                slice(first, first + width),
                matched.measured,
                transform_batch=transform_batch,
                interval=level,
                **query,
            )
            for first in range(0, len(facts.names), width)
        ]
        return pd.concat(tables)

    def _report(
        self,
        rna: CellSource,
        measured: sparse.csc_matrix,
        part: slice,
        known: NDArray[np.bool_],
        *,
        interval: float | None,
        **query: Any,
    ) -> pd.DataFrame:
        """Compare some features; neither the whole prediction nor the whole truth is formed."""
        facts = self.target_ or TargetFacts(self.target_features.ids)
        names = list(facts.names[part])
        said = self.predict_modality(rna, features=names, interval=interval, **query)
        truth = np.asarray(measured[:, part].toarray(), dtype=np.float32)
        truth[:, ~known[part]] = np.nan
        table = feature_scores(np.asarray(said.X), truth, names)
        if interval is not None:
            inside = (truth >= said.layers["lower"]) & (truth <= said.layers["upper"])
            there = np.isfinite(truth)
            n_cells = there.sum(axis=0)
            table["coverage"] = np.where(
                n_cells > 0, (inside & there).sum(axis=0) / np.maximum(n_cells, 1), np.nan
            )
        return table


def modality_named(mod: Mapping[str, AnnData], name: str) -> AnnData:
    """Return a modality.

    Raises
    ------
    UsageError
        There is none of that name (E-U60).
    """
    if name not in mod:
        raise UsageError(
            "E-U60",
            f"there is no modality {name!r}",
            where="mdata.mod",
            why=f"it has {', '.join(mod)}",
            fix="pass the AnnData object of the RNA, or name the modality alike",
        )
    return mod[name]
