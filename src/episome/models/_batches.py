"""Batches that a model conditions on, and models of counts: what some set-ups share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from scvi.data import AnnDataManager
from scvi.data.fields import CategoricalObsField

from episome.data import cells_name, obs_column
from episome.errors import InputDataError, UsageError

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray
    from scvi.model.base import BaseModelClass

    from episome.data import CellSource
    from episome.models._base import EpisomeModel

    _Model = EpisomeModel
else:
    _Model = object

#: Name of the only batch where none was named.
ONE_BATCH = "all cells"


class BatchField(CategoricalObsField):
    """Batches as text; a cell of an unknown one counts to the first.

    Parameters
    ----------
    batch_key
        Column of ``obs``; ``None``: one batch.
    """

    def __init__(self, batch_key: str | None) -> None:
        super().__init__("batch", batch_key)
        self._batch_key = batch_key

    def validate_field(self, adata: AnnData) -> None:
        """Accept objects without the column."""

    def register_field(self, adata: AnnData) -> dict[str, object]:
        """Write ``obs["_scvi_batch"]`` and return the batches, sorted."""
        return self._write(adata, np.array(sorted(set(self._names(adata))), dtype=object))

    def transfer_field(
        self, state_registry: dict[str, Any], adata_target: AnnData, **kwargs: object
    ) -> dict[str, object]:
        """Write the codes of the model's batches."""
        return self._write(adata_target, state_registry[self.CATEGORICAL_MAPPING_KEY])

    def _names(self, adata: AnnData) -> list[str]:
        if self._batch_key is None or self._batch_key not in adata.obs:
            return [ONE_BATCH] * adata.n_obs
        return [str(v) for v in adata.obs[self._batch_key]]

    def _write(self, adata: AnnData, batches: np.ndarray) -> dict[str, object]:
        code = {name: i for i, name in enumerate(batches)}
        adata.obs[self.attr_key] = np.array(
            [code.get(name, 0) for name in self._names(adata)], dtype=np.int64
        )
        return {
            self.CATEGORICAL_MAPPING_KEY: batches,
            self.ORIGINAL_ATTR_KEY: self._batch_key or self.attr_key,
        }


def require_counts(input_kind: str) -> None:
    """Refuse log1p values, which no likelihood of counts describes.

    Raises
    ------
    InputDataError
        ``input_kind="log1p"`` (E-D53).
    """
    if input_kind == "log1p":
        raise InputDataError(
            "E-D53",
            'input_kind="log1p" is given to a model of counts',
            where="setup_anndata()",
            why="its likelihood is that of numbers of molecules",
            fix="pass the layer that holds counts, layer= (--layer) or use_raw=True (--use-raw), "
            "or take another model",
        )


@contextmanager
def only_counts() -> Iterator[None]:
    """Say of log1p values what a model of counts can do about them: nothing.

    Raises
    ------
    InputDataError
        Values after log1p (E-D07).
    """
    try:
        yield
    except InputDataError as error:
        if all(p.code != "E-D07" for p in error.problems):
            raise
        found = next(p for p in error.problems if p.code == "E-D07")
        raise InputDataError(
            "E-D07",
            found.what,
            where=found.where,
            why=found.why,
            fix="pass the layer that holds counts, layer= (--layer) or use_raw=True (--use-raw), "
            "or take another model",
        ) from error


def require_batches(adata: AnnData, batch_key: str | None) -> None:
    """Refuse a column that is not there, or has no batch for some cells.

    Raises
    ------
    UsageError
        There is no such column (E-U04), or values are missing in it (E-U82).
    """
    if batch_key is None:
        return
    missing = obs_column(adata, batch_key).isna()
    if missing.any():
        raise UsageError(
            "E-U82",
            f"column {batch_key!r} names no batch for some cells",
            where=f"{cells_name(adata)}.obs",
            count=int(missing.sum()),
            total=len(missing),
            examples=list(missing.index[missing][:3]),
            why="every cell is conditioned on its batch",
            fix=f"adata.obs[{batch_key!r}] = adata.obs[{batch_key!r}].astype(str)",
        )


def add_batches(
    cls: type[BaseModelClass], adata: AnnData, batch_key: str | None, kwargs: dict[str, Any]
) -> None:
    """Register an object that the host has just set up once more, with its batches.

    Parameters
    ----------
    cls
        The model.
    adata
        The object.
    batch_key
        Its column of batches.
    kwargs
        Of the set-up; what scvi-tools hands on when it transfers one is passed to the fields.
    """
    found = cls._setup_adata_manager_store[adata.uns["_scvi_uuid"]]
    method = {k: found.registry[k] for k in ("model_name", "setup_method_name")}
    args = {**found.registry["setup_args"], "batch_key": batch_key}
    fields = [*found.fields, BatchField(batch_key)]
    manager = AnnDataManager(fields=fields, setup_method_args={**method, "setup_args": args})
    manager.register_fields(adata, **{k: kwargs[k] for k in _TRANSFER if k in kwargs})
    cls.register_manager(manager)


class CountsWithBatches(_Model):
    """The set-up of models of counts that may be told batches; mixed in before the others."""

    @classmethod
    def setup_anndata(  # type: ignore[override]  # counts and batches alone
        cls,
        adata: AnnData,
        *,
        batch_key: str | None = None,
        input_kind: Literal["auto", "counts"] = "auto",
        **kwargs: Any,
    ) -> None:
        """Register training data: counts, and batches; labels are not needed.

        Parameters
        ----------
        adata
            Training cells.
        batch_key
            Column of ``obs`` that the decoder is conditioned on.
        input_kind
            Only counts; they are checked.
        **kwargs
            Of ``EpisomeModel.setup_anndata`` (``layer``, ``use_raw``, ``donor_key``, ...).

        Raises
        ------
        InputDataError
            Values after log1p (E-D07, E-D53), or others that cannot be used.
        UsageError
            There is no such column (E-U04), or it names no batch for some cells (E-U82).
        """
        require_counts(input_kind)
        if kwargs.get("source_registry") is None:
            require_batches(adata, batch_key)
        with only_counts():
            super().setup_anndata(adata, input_kind="counts", **kwargs)
        add_batches(cls, adata, batch_key, kwargs)


def batch_names(model: EpisomeModel) -> tuple[str, ...]:
    """Return the batches that a model knows, in the order of their codes.

    Parameters
    ----------
    model
        Set up with :func:`add_batches`.
    """
    state = model.registry["field_registries"]["batch"]["state_registry"]
    return tuple(str(n) for n in state[BatchField.CATEGORICAL_MAPPING_KEY])


def batch_codes(model: EpisomeModel, source: CellSource) -> NDArray[np.int64]:
    """Return the code of the batch of every cell of a source.

    Parameters
    ----------
    model
        Set up with :func:`add_batches`.
    source
        Cells of its batches.

    Raises
    ------
    UsageError
        There is no such column (E-U04), or cells are of batches that the model does not know
        (E-U110).
    """
    key = model.setup_args.get("batch_key")
    if key is None:
        return np.zeros(source.n_obs, dtype=np.int64)
    known = batch_names(model)
    values = pd.Series(source.obs_column(key)).astype(str)
    codes = pd.Index(known).get_indexer(values)
    if (unknown := codes < 0).any():
        raise UsageError(
            "E-U110",
            f"column {key!r} names batches that the model does not know",
            where="cells to train on",
            count=int(unknown.sum()),
            total=len(codes),
            examples=list(values[unknown].unique()[:3]),
            why=f"the model knows {', '.join(known[:5])}",
            fix="set up the model with these cells, or leave them out",
        )
    return np.asarray(codes, dtype=np.int64)


_TRANSFER = ("source_registry", "extend_categories", "allow_missing_labels")
