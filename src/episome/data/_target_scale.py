"""`TargetScale`: what the values of a modality become before a model learns to predict them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
from scipy import sparse

from episome.data._matrix import require_rows, to_csr_block
from episome.data._source import ChangedSource, ChosenCells
from episome.data._target_fit import (
    DEFAULTS,
    NEEDS_COUNTS,
    Fitted,
    bad_block,
    checked_options,
    fit_scale,
    noise_of,
    option_fits,
    refuse_values,
    standardised,
)
from episome.data._values import row_sums
from episome.errors import ModelFileError, UsageError, did_you_mean

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from episome.data._matrix import Rows
    from episome.data._source import CellSource

ScaleName: TypeAlias = Literal["none", "log1p", "binary", "tfidf", "clr", "clr_cells", "dsb"]

_UNITS = {
    "none": "values as given",
    "log1p": "log1p of counts",
    "binary": "open (1) or not (0)",
    "tfidf": "TF-IDF",
    "clr": "CLR of every feature across cells",
    "clr_cells": "CLR within every cell",
    "dsb": "DSB, signal above empty droplets",
}
_ARRAYS: dict[str, tuple[str, ...]] = {
    "tfidf": ("idf",),
    "clr": ("geometric_mean",),
    "dsb": ("mean", "sd"),
}


@dataclass(frozen=True, slots=True, eq=False)
class TargetScale:
    """A scale of a modality's values, fitted on training cells; made by :meth:`fit`.

    Parameters
    ----------
    name
        ``"none"`` (values as they are), ``"log1p"``, ``"binary"`` (1 where there is a count),
        ``"tfidf"``, ``"clr"`` (every feature by its geometric mean across training cells),
        ``"clr_cells"`` (every cell by its own) or ``"dsb"`` (above the background of empty
        droplets).
    n_features
        Number of features.
    options
        Settings of the scale, see :meth:`fit`.
    controls
        Positions of the isotype controls that ``"dsb"`` denoises with.
    n_cells
        Number of training cells.
    arrays
        What was fitted: float64 arrays by name.

    Notes
    -----
    ``"tfidf"``, ``"clr"``, ``"clr_cells"`` and ``"dsb"`` of all training cells are muon's with its
    defaults. NaN means that a feature was not measured in a cell: it stays NaN, and takes no part
    in sums, means and fits. The one thing that other cells have and training cells need not is a
    count of a peak that no training cell has: its idf is that of a peak with one count.
    """

    name: ScaleName
    n_features: int
    options: Mapping[str, float | bool | str] = field(default_factory=dict)
    controls: tuple[int, ...] = ()
    n_cells: int = 0
    arrays: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)

    @classmethod
    def fit(
        cls,
        name: ScaleName,
        source: CellSource,
        rows: NDArray[np.int64] | slice | None = None,
        *,
        empty: object | None = None,
        controls: Sequence[str] = (),
        options: Mapping[str, float | bool | str] | None = None,
    ) -> TargetScale:
        """Fit a scale on training cells, which are read in blocks.

        Parameters
        ----------
        name
            Of the scale.
        source
            Values of the modality: counts, but for ``"none"``.
        rows
            Training cells; default all. Nothing else is read.
        empty
            For ``"dsb"``: counts of empty droplets, (n_droplets, n_features), an array, data frame
            or sparse matrix. None of them may be a cell of the source.
        controls
            For ``"dsb"``: names of the isotype controls in ``source.var``.
        options
            ``"tfidf"``: ``scale_factor`` (10,000), ``log_tf`` (True), ``log_idf`` (True),
            ``log_tfidf`` (False). ``"dsb"``: ``pseudocount`` (10), ``scale`` (``"standardize"`` or
            ``"mean_subtract"``), ``denoise`` (True), ``seed`` (0).

        Returns
        -------
        :class:`TargetScale`

        Raises
        ------
        InputDataError
            There are no cells (E-D31) or too few (E-D32); values are infinite (E-D03), negative
            (E-D04), log1p where counts are wanted (E-D07) or all zero (E-D13); features that no
            training cell, or no empty droplet, measured (E-D61); features that are alike in all
            empty droplets (E-D62).
        UsageError
            There is no such scale (E-U30), or what is passed does not fit it (E-U113).

        Examples
        --------
        >>> import anndata, numpy as np
        >>> from episome.data import AnnDataSource
        >>> counts = np.array([[1, 0], [3, 4]], dtype="float32")
        >>> scale = TargetScale.fit("tfidf", AnnDataSource(anndata.AnnData(counts)))
        >>> scale.unit, scale.arrays["idf"].round(3)
        ('TF-IDF', array([0.405, 0.405]))
        """
        if name not in _UNITS:
            raise UsageError(
                "E-U30",
                f"there is no scale {name!r}",
                why=f"the scales are {', '.join(_UNITS)}",
                fix=did_you_mean(str(name), _UNITS) or "use one of them",
            )
        chosen = checked_options(name, options, empty=empty, controls=controls)
        every = slice(None) if rows is None else rows
        cells = ChosenCells(source, np.sort(require_rows(every, source.n_obs, source.where)))
        refuse_values(name, cells)
        fitted = Fitted()
        if name in _ARRAYS:
            fitted = fit_scale(name, cells, chosen, empty=empty, controls=controls)
        return cls(name, cells.n_vars, chosen, fitted.controls, cells.n_obs, fitted.arrays)

    @property
    def unit(self) -> str:
        """The scale in a few words, for tables."""
        return _UNITS[self.name]

    @property
    def keeps_zero(self) -> bool:
        """Whether zero stays zero, so that sparse values stay sparse."""
        return self.name != "dsb"

    @property
    def needs_counts(self) -> bool:
        """Whether what is scaled has to be counts."""
        return self.name in NEEDS_COUNTS

    def check(self, source: CellSource, rows: NDArray[np.int64] | slice | None = None) -> None:
        """Refuse cells that this scale cannot be used on, after a scan of all their values.

        Parameters
        ----------
        source
            Values of the same features.
        rows
            Cells; default all.

        Raises
        ------
        InputDataError
            As for :meth:`fit`.
        UsageError
            Other features than the scale was fitted on (E-U113).
        """
        self._require_width(source.n_vars, source.where)
        every = slice(None) if rows is None else rows
        chosen = require_rows(every, source.n_obs, source.where)
        refuse_values(self.name, ChosenCells(source, chosen), training=False)

    def apply(self, block: sparse.spmatrix | NDArray[np.generic]) -> sparse.csr_matrix:
        """Return values on this scale.

        Parameters
        ----------
        block
            Cells with the features of the training cells, in their order; never modified.

        Returns
        -------
        CSR float32 of the same shape; may share memory with ``block`` where nothing changes.

        Raises
        ------
        InputDataError
            Infinite values (E-D03), or negative ones where there should be counts (E-D04).
        UsageError
            Another number of features (E-U113).
        """
        values = to_csr_block(block)
        self._require_width(values.shape[1], "the values to scale")
        bad_block(self.name, values)
        if self.name == "none":
            return values
        if self.name == "dsb":
            return sparse.csr_matrix(self._above_background(values).astype(np.float32))
        by_name = {
            "log1p": self._log1p,
            "binary": self._binary,
            "tfidf": self._tfidf,
            "clr": self._clr,
            "clr_cells": self._clr_cells,
        }
        scaled = by_name[self.name](values, values.data.astype(np.float64))
        out = sparse.csr_matrix(
            (scaled.astype(np.float32), values.indices.copy(), values.indptr.copy()),
            shape=values.shape,
        )
        out.eliminate_zeros()
        return out

    def _require_width(self, n: int, where: str) -> None:
        if n != self.n_features:
            raise UsageError(
                "E-U113",
                f"the scale was fitted on {self.n_features:,} features, and there are {n:,}",
                where=where,
                why="every feature has numbers of its own",
                fix="bring them to the features of the training cells with match_features first",
            )

    # --- scales: the stored values of a block, float64 ------------------------------------------

    def _log1p(self, _: sparse.csr_matrix, data: NDArray[np.float64]) -> NDArray[np.float64]:
        found: NDArray[np.float64] = np.log1p(data)
        return found

    def _binary(self, _: sparse.csr_matrix, data: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.where(np.isnan(data), np.nan, data > 0)

    def _tfidf(self, block: sparse.csr_matrix, data: NDArray[np.float64]) -> NDArray[np.float64]:
        totals = row_sums(np.nan_to_num(data), block.indptr)
        share = np.divide(1.0, totals, out=np.zeros_like(totals), where=totals > 0)
        scaled: NDArray[np.float64] = data * np.repeat(share, np.diff(block.indptr))
        # As muon: none of these is a factor of its own.
        if self.options["scale_factor"]:
            scaled *= float(self.options["scale_factor"])
        if self.options["log_tf"]:
            scaled = np.log1p(scaled)
        scaled *= self.arrays["idf"][block.indices]
        if self.options["log_tfidf"]:
            scaled = np.log1p(scaled)
        return scaled

    def _clr(self, block: sparse.csr_matrix, data: NDArray[np.float64]) -> NDArray[np.float64]:
        share: NDArray[np.float64] = data / self.arrays["geometric_mean"][block.indices]
        return self._log1p(block, share)

    def _clr_cells(
        self, block: sparse.csr_matrix, data: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        missing = row_sums(np.isnan(data), block.indptr)
        sums = row_sums(np.nan_to_num(np.log1p(data)), block.indptr)
        means = np.exp(sums / np.maximum(block.shape[1] - missing, 1))
        return self._log1p(block, data / np.repeat(means, np.diff(block.indptr)))

    def _above_background(self, block: sparse.csr_matrix) -> NDArray[np.float64]:
        values = standardised(block, self.options, self.arrays)
        if self.options["denoise"]:
            noise = noise_of(values, self.controls, self.options, self.arrays)
            values -= noise[:, None] * self.arrays["noise_slopes"]
        return values

    # --- a model's folder -----------------------------------------------------------------------

    def to_json(self) -> dict[str, Any]:
        """Return everything but the arrays as plain data."""
        return {
            "name": self.name,
            "n_features": self.n_features,
            "options": dict(self.options),
            "controls": list(self.controls),
            "n_cells": self.n_cells,
        }

    @classmethod
    def from_json(
        cls, plain: Mapping[str, Any], arrays: Mapping[str, NDArray[np.floating]] | None = None
    ) -> TargetScale:
        """Restore a scale from plain data and its arrays.

        Parameters
        ----------
        plain
            Of :meth:`to_json`.
        arrays
            ``scale.arrays``; others are left alone.

        Raises
        ------
        ModelFileError
            They are not what a scale wrote (E-M06).
        """
        kept = {k: np.asarray(v, dtype=np.float64) for k, v in (arrays or {}).items()}
        wrong = _what_is_wrong(plain, kept)
        if wrong:
            raise ModelFileError(
                "E-M06",
                "the scale of what is predicted cannot be restored",
                why=wrong,
                fix="copy the folder again, or train the model again",
            )
        name, n, options = plain["name"], plain["n_features"], dict(plain["options"])
        controls = tuple(plain["controls"])
        kept = {k: kept[k] for k in _shapes(name, n, controls, options)}
        return cls(name, n, options, controls, plain["n_cells"], kept)


def _what_is_wrong(plain: Mapping[str, Any], arrays: Mapping[str, NDArray[np.float64]]) -> str:
    """Return why a scale cannot be made of what a folder holds; empty where it can."""
    name, options, controls = (plain.get(k) for k in ("name", "options", "controls"))
    n, n_cells = plain.get("n_features"), plain.get("n_cells")
    if name not in _UNITS:
        return f"there is no scale {name!r}"
    if not isinstance(n, int) or not isinstance(n_cells, int) or min(n, n_cells) < 0:
        return f"it says {n!r} features and {n_cells!r} cells"
    known = DEFAULTS.get(name, {})
    if not isinstance(options, Mapping) or set(options) != set(known):
        return f"the options of {name!r} are {', '.join(known) or 'none'}"
    if not all(option_fits(k, v, known[k]) for k, v in options.items()):
        return "an option has a value that it cannot have"
    if not isinstance(controls, list | tuple) or not all(_is_place(c, n) for c in controls):
        return "controls are no features"
    for key, shape in _shapes(name, n, tuple(controls), options).items():
        if key not in arrays or arrays[key].shape != shape or not np.isfinite(arrays[key]).all():
            return f"the array {key!r} is missing, of another shape or not finite"
    return ""


def _is_place(control: object, n: int) -> bool:
    return isinstance(control, int) and 0 <= control < n


def _shapes(
    name: str, n: int, controls: tuple[int, ...], options: Mapping[str, object]
) -> dict[str, tuple[int, ...]]:
    """Return the arrays that a scale has, with their shapes."""
    found: dict[str, tuple[int, ...]] = {}
    for key in _ARRAYS.get(name, ()):
        found[key] = (n,)
    if name == "dsb" and options["denoise"]:
        found |= dict.fromkeys(("noise_mean", "noise_weights"), (len(controls) + 1,))
        found["noise_slopes"] = (n,)
    return found


class ScaledSource(ChangedSource):
    """Another source, with its values on a scale.

    Parameters
    ----------
    source
        Values of the features that the scale was fitted on; it stays as it is.
    scale
        Of its values.

    Raises
    ------
    UsageError
        Other features than the scale was fitted on (E-U113).
    """

    def __init__(self, source: CellSource, scale: TargetScale) -> None:
        super().__init__(source)
        scale._require_width(source.n_vars, source.where)
        self._scale = scale

    @property
    def scale(self) -> TargetScale:
        """What is applied."""
        return self._scale

    @property
    def notes(self) -> tuple[str, ...]:
        """Lines of the input report."""
        return (*getattr(self._source, "notes", ()), f"values are {self._scale.unit}")

    def read(self, rows: Rows) -> sparse.csr_matrix:
        """Return the scaled values of ``rows`` as CSR float32, in the order asked for."""
        return self._scale.apply(self._source.read(rows))
