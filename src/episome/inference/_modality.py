"""Another modality of cells, as a model predicts it from their RNA, batch by batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import sparse

from episome.confidence import Intervals
from episome.data import TargetScale
from episome.errors import Problem, UsageError, did_you_mean, warn
from episome.inference._folders import TARGET_PREFIX
from episome.inference._predictor import DEFAULT_BATCH_SIZE
from episome.io import decode
from episome.log import get_logger

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from episome.data import CellSource, Query
    from episome.inference._predictor import Predictor
    from episome.io import ModelFolder

logger = get_logger(__name__)

#: Share of missing genes above which intervals are doubted.
MANY_LACKING = 0.1
#: Code of cells of a batch that the model does not know.
UNSEEN = -1
#: Under which the code of the batch is in a batch.
BATCH_KEY = "batch"
#: Values of a batch of predictions, unless the caller says how many cells.
_BATCH_VALUES = 2**24


@dataclass(frozen=True, slots=True, eq=False)
class TargetFacts:
    """What is known of the modality that a model predicts.

    Parameters
    ----------
    names
        Its features, in the order of the outputs.
    kind
        ``"protein"``, ``"atac"`` or ``"other"``.
    scale
        What measured values become before they are compared with predictions; ``None``: nothing
        is known of it.
    batch_key, batches
        Column of the batches that the model was told, and their names.
    intervals
        ``"unseen"``: of cells of no known batch; ``"known"``: of the others, where there are
        batches. Empty where no cells were held out.
    table
        How well every feature is predicted in cells that were held out, by its name; see
        ``episome.metrics.feature_scores``.
    never
        Features that no training cell was measured for, bool (n_features,): nothing is predicted
        of them. ``None``: there are none.
    """

    names: tuple[str, ...]
    kind: str = "protein"
    scale: TargetScale | None = None
    batch_key: str | None = None
    batches: tuple[str, ...] = ()
    intervals: Mapping[str, Intervals] = field(default_factory=dict)
    table: pd.DataFrame | None = None
    never: NDArray[np.bool_] | None = None

    @property
    def unit(self) -> str:
        """What predictions are, in words."""
        return "" if self.scale is None else self.scale.unit

    def to_parts(self) -> tuple[dict[str, NDArray[np.generic]], dict[str, Any]]:
        """Return tensors, and plain data for the manifest; names are in the registry."""
        tensors: dict[str, NDArray[np.generic]] = {}
        plain: dict[str, Any] = {
            "kind": self.kind,
            "unit": self.unit,
            "batch_key": self.batch_key,
            "batches": list(self.batches),
            "intervals": {},
        }
        if self.scale is not None:
            plain["scale"] = self.scale.to_json()
            tensors |= {f"scale/{k}": v for k, v in self.scale.arrays.items()}
        for name, found in self.intervals.items():
            arrays, facts = found.to_parts()
            plain["intervals"][name] = facts
            tensors |= {f"intervals/{name}/{k}": _bits(v) for k, v in arrays.items()}
        if self.never is not None:
            tensors["never"] = self.never.astype(np.uint8)
        if self.table is not None:
            numbers = self.table.select_dtypes("number")
            words = [c for c in self.table if c not in numbers]
            tensors |= {f"table/{c}": _bits(self.table[c].to_numpy()) for c in numbers}
            plain["table"] = {"numbers": list(numbers), "words": {}}
            for column in words:
                kinds = sorted(set(self.table[column].astype(str)))
                codes = pd.Index(kinds).get_indexer(self.table[column].astype(str))
                plain["table"]["words"][column] = kinds
                tensors[f"table/{column}"] = codes.astype(np.int32)
        return {f"{TARGET_PREFIX}{k}": v for k, v in tensors.items()}, plain

    @classmethod
    def from_parts(
        cls,
        names: Sequence[str],
        tensors: Mapping[str, NDArray[np.generic]],
        plain: Mapping[str, Any],
    ) -> TargetFacts:
        """Build them again from what :meth:`to_parts` returned."""
        own = {
            k.removeprefix(TARGET_PREFIX): np.asarray(v)
            for k, v in tensors.items()
            if k.startswith(TARGET_PREFIX)
        }
        scale = plain.get("scale")
        return cls(
            tuple(names),
            kind=str(plain.get("kind", "protein")),
            scale=None if scale is None else TargetScale.from_json(scale, _under(own, "scale/")),
            batch_key=plain.get("batch_key"),
            batches=tuple(map(str, plain.get("batches", ()))),
            intervals={
                name: Intervals.from_parts(
                    {k: _numbers(v) for k, v in _under(own, f"intervals/{name}/").items()}, facts
                )
                for name, facts in plain.get("intervals", {}).items()
            },
            table=_table(names, own, plain.get("table")),
            never=own["never"].astype(bool) if "never" in own else None,
        )

    def told(self, query: Query, transform_batch: str | None = None) -> Query:
        """Return a query whose cells name their batch, where the model knows it.

        Parameters
        ----------
        query
            Cells; without the column, or with other batches in it, they are of no known batch.
        transform_batch
            Batch that all cells are read as being of; default their own.

        Raises
        ------
        UsageError
            There is no such batch (E-U110).
        """
        if len(self.batches) < 2 and transform_batch is None:
            return query
        if transform_batch is None:
            codes = self._codes(query.source)
        else:
            codes = np.full(query.source.n_obs, self.batch_code(transform_batch), dtype=np.int64)
        return replace(query, columns={**query.columns, BATCH_KEY: codes})

    def batch_code(self, name: str) -> int:
        """Return the number of a batch.

        Raises
        ------
        UsageError
            There is no such batch (E-U110).
        """
        wanted = str(name)
        if wanted in self.batches:
            return self.batches.index(wanted)
        raise UsageError(
            "E-U110",
            f"there is no batch {name!r}",
            where="transform_batch (--transform-batch)",
            why=f"the model knows {', '.join(self.batches[:5])}"
            if self.batches
            else "the model was told no batches",
            fix=did_you_mean(wanted, self.batches)
            or ("name one of these" if self.batches else "leave it out"),
        )

    def require_interval(self, level: float) -> None:
        """Refuse intervals that the model cannot give.

        Raises
        ------
        UsageError
            It has none (E-U114), or none of this level (E-U22).
        """
        if not self.intervals:
            raise UsageError(
                "E-U114",
                "the model has no intervals",
                where=f"interval={level}",
                why="they come from cells that were held out of its training, and there were "
                "too few, or its predictions are probabilities",
                fix="leave interval (--interval) out, or train with validation cells",
            )
        if isinstance(level, bool) or not isinstance(level, int | float):
            raise UsageError("E-U22", f"interval={level!r}", fix="pass a number such as 0.9")
        for found in self.intervals.values():
            found.bounds(np.empty((0, 0)), level, np.empty(0, dtype=np.int64))

    def _codes(self, source: CellSource) -> NDArray[np.int64]:
        there = getattr(source, "obs_columns", None)
        if self.batch_key is None or (there is not None and self.batch_key not in there):
            return np.full(source.n_obs, UNSEEN, dtype=np.int64)
        values = pd.Series(source.obs_column(self.batch_key))
        whole = pd.api.types.is_float_dtype(values) and bool((values.dropna() % 1 == 0).all())
        # Whole numbers are floats in a column in which some were missing once.
        named = values.astype("Int64") if whole else values
        codes = pd.Index(self.batches).get_indexer(named.astype(str))
        if unknown := int((codes < 0).sum()):
            logger.info(
                "%s of %s cells of %s are of no batch that the model knows",
                f"{unknown:,}",
                f"{len(codes):,}",
                source.where,
            )
        return np.asarray(codes, dtype=np.int64)

    def places(self, features: Sequence[str] | None) -> NDArray[np.int64]:
        """Return where features are, each once, in the order in which they are named.

        Raises
        ------
        UsageError
            The model does not predict some of them (E-U61).
        """
        if features is None:
            return np.arange(len(self.names))
        given = [features] if isinstance(features, str) else list(features)
        wanted = list(dict.fromkeys(map(str, given)))
        index = pd.Index(self.names)
        found = index.get_indexer(wanted)
        if missing := [w for w, at in zip(wanted, found, strict=True) if at < 0]:
            raise UsageError(
                "E-U61",
                "features that the model does not predict",
                where="features (--features)",
                count=len(missing),
                total=len(wanted),
                examples=missing[:3],
                fix=did_you_mean(missing[0], self.names)
                or _alike(missing[0], self.names)
                or f"the model predicts {', '.join(self.names[:5])}"
                + (", ..." if len(self.names) > 5 else ""),
            )
        return np.asarray(found, dtype=np.int64)


def folder_target(folder: ModelFolder) -> TargetFacts:
    """Return what a saved model predicts.

    Raises
    ------
    UsageError
        It predicts no other modality (E-U12).
    """
    registry = decode(folder.manifest["registry"])
    fields = registry.get("field_registries", {})
    if "target" not in fields:
        raise UsageError(
            "E-U12",
            "the model predicts no other modality",
            fix="use a model with the capability translation",
        )
    names = [str(n) for n in fields["target"]["state_registry"]["column_names"]]
    return TargetFacts.from_parts(names, folder.tensors, folder.manifest.get("target") or {})


class ModalityBlock(NamedTuple):
    """What is predicted for some cells: float32 (B, n_features), and which cells are empty."""

    values: NDArray[np.float32]
    lower: NDArray[np.float32] | None
    upper: NDArray[np.float32] | None
    empty: NDArray[np.bool_]


class PredictedModality:
    """What a core's ``target`` says of the cells of a query.

    Parameters
    ----------
    predictor
        Of a model with the capability ``translation``.
    query
        Of ``Predictor.prepare``.
    facts
        What is known of the modality.
    features
        Names of the features that are given back; default all.
    interval
        Share of cells whose measured value lies between ``lower`` and ``upper``; ``None``: none.
    transform_batch
        See :meth:`TargetFacts.told`.

    Raises
    ------
    UsageError
        Unknown features (E-U61) or batches (E-U110), a level that was not fitted (E-U22), or a
        model without intervals (E-U114).
    """

    def __init__(
        self,
        predictor: Predictor,
        query: Query,
        facts: TargetFacts,
        *,
        features: Sequence[str] | None = None,
        interval: float | None = None,
        transform_batch: str | None = None,
    ) -> None:
        self.facts, self.interval = facts, interval
        self.features = facts.places(features)
        if interval is not None:
            facts.require_interval(interval)
        self.query = facts.told(query, transform_batch)
        self._predictor = predictor
        if interval is not None:
            self._doubt_intervals()

    @property
    def n_lacking(self) -> int:
        """How many of the model's genes the query lacks."""
        found = self.query.alignment
        return found.n_features - len(np.unique(found.columns[found.columns >= 0]))

    def _doubt_intervals(self) -> None:
        """Warn where intervals were made of cells that had more genes than the query."""
        total = self.query.alignment.n_features
        if self.n_lacking > MANY_LACKING * total:
            warn(
                Problem(
                    "E-D65",
                    "genes of the model are missing, and intervals do not know it",
                    where=self.query.source.where,
                    count=self.n_lacking,
                    total=total,
                    why="they were made of cells with all of them, and may be too narrow",
                    fix="pass all genes that were measured, or train on those that the query has",
                )
            )

    @property
    def names(self) -> list[str]:
        """Names of the features that are given back."""
        return [self.facts.names[i] for i in self.features]

    @property
    def var(self) -> pd.DataFrame:
        """What is known of every feature that is given back."""
        if self.facts.table is None:
            # The same column in any case: nothing was held out to tell.
            return pd.DataFrame({"status": "unknown"}, index=pd.Index(self.names, dtype=object))
        return self.facts.table.iloc[self.features]

    def blocks(
        self, *, rows: NDArray[np.int64] | None = None, batch_size: int | None = None
    ) -> Iterator[ModalityBlock]:
        """Yield what is predicted for every batch of cells, in the order of the query.

        Cells with none of the model's genes have NaN. Batches of many features are of fewer cells.
        """
        if batch_size is None:
            fitting = _BATCH_VALUES // max(len(self.facts.names), 1)
            batch_size = int(np.clip(fitting, 1, DEFAULT_BATCH_SIZE))
        stream = self._predictor.stream(
            self.query, rows=rows, batch_size=batch_size, outputs=["target"]
        )
        for out in stream:
            if "target" not in out:
                raise UsageError(
                    "E-U12",
                    "the model gives no 'target'",
                    fix="use a model with the capability translation",
                )
            every = out["target"].astype(np.float32, copy=False)
            whole = len(self.features) == every.shape[1] and (np.diff(self.features) == 1).all()
            values = every if whole else every[:, self.features]
            lower = upper = None
            if self.interval is not None:
                lower, upper = self._bounds(values, out["ind_x"])
            never = None if self.facts.never is None else self.facts.never[self.features]
            if out["empty"].any() or never is not None:
                values = values.copy()
                for part in (values, lower, upper):
                    if part is not None:
                        part[out["empty"]] = np.nan
                        if never is not None:
                            part[:, never] = np.nan
            yield ModalityBlock(values, lower, upper, out["empty"])

    def _bounds(
        self, values: NDArray[np.float32], rows: NDArray[np.int64]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        found = self.facts.intervals
        level = float(self.interval or 0.0)
        lower, upper = found["unseen"].bounds(values, level, self.features)
        codes = self.query.columns.get(BATCH_KEY)
        if "known" in found and codes is not None:
            known = codes[rows] >= 0
            if known.any():
                parts = found["known"].bounds(values[known], level, self.features)
                lower[known], upper[known] = parts
        return lower, upper


def without_small(values: NDArray[np.float32], limit: float) -> sparse.csr_matrix:
    """Return values as CSR without those that are smaller; NaN stay.

    Parameters
    ----------
    values
        (n_cells, n_features).
    limit
        Smallest value that is kept.
    """
    return sparse.csr_matrix(np.where(values < limit, np.float32(0), values))


def _alike(name: str, known: Sequence[str]) -> str:
    """Name what begins like it: of antibodies, that without the suffix of a kit."""
    found = [k for k in known if k.casefold().startswith(name.casefold())]
    return f"did you mean {found[0]!r}?" if len(found) == 1 else ""


def _bits(values: NDArray[Any]) -> NDArray[np.int32]:
    """Return float32 as integers: NaN and infinity are answers here, and no broken weights."""
    return np.ascontiguousarray(values, dtype=np.float32).view(np.int32)


def _numbers(bits: NDArray[np.int32]) -> NDArray[np.float32]:
    """Return what :func:`_bits` was given."""
    return np.ascontiguousarray(bits, dtype=np.int32).view(np.float32)


def _under(tensors: Mapping[str, NDArray[Any]], prefix: str) -> dict[str, NDArray[Any]]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def _table(
    names: Sequence[str], tensors: Mapping[str, NDArray[Any]], plain: Mapping[str, Any] | None
) -> pd.DataFrame | None:
    if plain is None:
        return None
    found = _under(tensors, "table/")
    columns: dict[str, Any] = {c: _numbers(found[c]) for c in plain["numbers"]}
    for column, kinds in plain["words"].items():
        columns[column] = np.array(kinds, dtype=object)[found[column]]
    return pd.DataFrame(columns, index=pd.Index([str(n) for n in names], dtype=object))
