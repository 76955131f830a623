"""What the scales of targets learn from training cells, and what they refuse."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from episome.data._background import background_means
from episome.data._matrix import block_rows_for, iter_blocks, to_csr_block
from episome.data._proteins import protein_names
from episome.data._values import doubtful_values, inspect_values, value_problems
from episome.errors import (
    InputDataError,
    Problem,
    UsageError,
    did_you_mean,
    raise_problems,
    warn,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from scipy import sparse

    from episome.data._source import CellSource

#: Options of every scale that has some.
DEFAULTS: dict[str, dict[str, float | bool | str]] = {
    "tfidf": {"scale_factor": 1e4, "log_tf": True, "log_idf": True, "log_tfidf": False},
    "dsb": {"pseudocount": 10.0, "scale": "standardize", "denoise": True, "seed": 0},
}
#: Scales of counts. ``"binary"`` asks only where there is something.
NEEDS_COUNTS = frozenset({"log1p", "tfidf", "clr", "clr_cells", "dsb"})


@dataclass(frozen=True, slots=True)
class Fitted:
    """What was learned from training cells."""

    arrays: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    controls: tuple[int, ...] = ()


# -- arguments -----------------------------------------------------------------------------------


def checked_options(
    name: str,
    options: Mapping[str, float | bool | str] | None,
    *,
    empty: object | None,
    controls: Sequence[str],
) -> dict[str, float | bool | str]:
    """Return all options of a scale; refuse those that it does not have.

    Raises
    ------
    UsageError
        E-U113.
    """
    known = DEFAULTS.get(name, {})
    chosen = {**known, **(options or {})}
    wrong = [
        *(
            f"{name!r} has no option {k!r}: {did_you_mean(k, known) or _listed(known)}"
            for k in chosen
            if k not in known
        ),
        *(
            f"{k}={v!r} is of the wrong type or range"
            for k, v in chosen.items()
            if k in known and not option_fits(k, v, known[k])
        ),
    ]
    if chosen.get("log_tfidf") and (chosen["log_tf"] or chosen["log_idf"]):
        wrong.append("log_tfidf=True is the logarithm instead of log_tf and log_idf: both False")
    if name == "dsb" and empty is None:
        wrong.append('"dsb" needs empty=, the counts of empty droplets; "clr" does without')
    if name != "dsb" and (empty is not None or len(controls)):
        wrong.append(f"empty droplets and controls are of no use for {name!r}")
    if name == "dsb" and len(controls) and not chosen["denoise"]:
        wrong.append("controls are only used to denoise: denoise=True, or no controls")
    raise_problems(UsageError, [Problem("E-U113", text, "options of the scale") for text in wrong])
    return chosen


def _listed(known: Mapping[str, object]) -> str:
    return f"it has {', '.join(known)}" if known else "it has none"


def option_fits(key: str, value: object, default: object) -> bool:
    """Whether the value of an option is of its type and range."""
    if key == "scale":
        return value in {"standardize", "mean_subtract"}
    if isinstance(default, bool):
        return isinstance(value, bool)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    if key == "seed":
        return int(value) == value and value >= 0
    return bool(np.isfinite(value)) and (value > 0 or (key == "scale_factor" and value == 0))


def refuse_values(name: str, cells: CellSource, *, training: bool = True) -> None:
    """Refuse cells whose values a scale cannot be used on, and warn of doubtful ones.

    Raises
    ------
    InputDataError
        E-D31, E-D03, E-D04, E-D07, E-D13.
    """
    if training and cells.n_obs == 0:
        raise InputDataError(
            "E-D31",
            "there are no cells to fit the scale on",
            where=cells.where,
            fix="pass the rows of the training cells",
        )
    # NaN are features that were not measured: they are left out, not refused.
    report = inspect_values(cells).with_nan_as_zero
    wanted = {"E-D03"}
    wanted |= {"E-D04"} if name != "none" else set()
    wanted |= {"E-D13"} if training else set()
    problems = [
        replace(p, why="the scale wants counts", fix=_AS_THEY_ARE) if p.code == "E-D04" else p
        for p in value_problems(report)
        if p.code in wanted
    ]
    if not problems and name in NEEDS_COUNTS and report.kind == "log1p":
        problems.append(
            Problem(
                "E-D07",
                "log1p-normalised values are given as counts",
                report.where,
                report.n_fractional,
                report.n_stored,
                why=f"they would be scaled twice: {report.evidence}",
                fix=report.elsewhere or _AS_THEY_ARE,
            )
        )
    raise_problems(InputDataError, problems)
    if name in NEEDS_COUNTS:
        for problem in doubtful_values(report):
            if problem.code == "E-D10":
                warn(replace(problem, fix=_AS_THEY_ARE), stacklevel=4)


_AS_THEY_ARE = (
    'pass the layer that holds counts, layer= (--layer), or the scale "none", which takes '
    "values as they are"
)


def bad_block(name: str, block: sparse.csr_matrix) -> None:
    """Refuse a block of cells with infinite values, or negative ones where counts are wanted.

    Raises
    ------
    InputDataError
        E-D03, E-D04.
    """
    data = block.data
    found = [("E-D03", "infinite values", np.isinf(data))]
    if name != "none":
        found.append(("E-D04", "negative values", np.isfinite(data) & (data < 0)))
    raise_problems(
        InputDataError,
        [
            Problem(code, what, "the values to scale", int(bad.sum()), data.size, fix=_AS_THEY_ARE)
            for code, what, bad in found
            if bad.any()
        ],
    )


# -- fits ----------------------------------------------------------------------------------------


def fit_scale(
    name: str,
    cells: CellSource,
    options: Mapping[str, Any],
    *,
    empty: object | None,
    controls: Sequence[str],
) -> Fitted:
    """Learn the numbers of ``"tfidf"``, ``"clr"`` or ``"dsb"``.

    Raises
    ------
    InputDataError, UsageError
        See ``TargetScale.fit``.
    """
    if name == "dsb":
        return _fit_dsb(cells, options, empty, controls)
    logs = name == "clr"
    sums, measured = _sums(cells, logs=logs)
    _require_measured(measured, cells.var.index, "no training cell", cells.where)
    if logs:
        return Fitted({"geometric_mean": np.exp(sums / measured)})
    # A peak that no training cell has counts as one with a single count.
    idf = measured / np.where(sums > 0, sums, 1.0)
    return Fitted({"idf": np.log1p(idf) if options["log_idf"] else idf})


def _blocks(cells: CellSource) -> Iterator[sparse.csr_matrix]:
    for rows in iter_blocks(cells.n_obs, block_rows_for(cells.n_vars)):
        yield to_csr_block(cells.read(rows))


def _sums(cells: CellSource, *, logs: bool) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return the sum of every feature, of counts or log1p of them, and its measured cells."""
    sums = np.zeros(cells.n_vars)
    measured = np.full(cells.n_vars, cells.n_obs, dtype=np.int64)
    for block in _blocks(cells):
        data, missing = block.data.astype(np.float64), np.isnan(block.data)
        if missing.any():
            data[missing] = 0.0
            measured -= np.bincount(block.indices[missing], minlength=cells.n_vars)
        values = np.log1p(data) if logs else data
        sums += np.bincount(block.indices, weights=values, minlength=cells.n_vars)
    return sums, measured


def _require_measured(measured: NDArray[np.int64], names: Any, by: str, where: str) -> None:
    never = np.flatnonzero(measured == 0)
    if len(never):
        raise InputDataError(
            "E-D61",
            f"features that {by} measured",
            where=where,
            count=len(never),
            total=len(measured),
            examples=[str(names[i]) for i in never[:3]],
            why="their scale cannot be known",
            fix="leave these features out",
        )


# -- above the background of empty droplets ------------------------------------------------------


def standardised(
    block: sparse.csr_matrix,
    options: Mapping[str, Any],
    arrays: Mapping[str, NDArray[np.float64]],
) -> NDArray[np.float64]:
    """Return logs of counts above the mean of empty droplets, in their standard deviations."""
    logs = np.log(block.toarray().astype(np.float64) + options["pseudocount"])
    standard: NDArray[np.float64] = (logs - arrays["mean"]) / arrays["sd"]
    return standard


def noise_of(
    values: NDArray[np.float64],
    controls: Sequence[int],
    options: Mapping[str, Any],
    arrays: Mapping[str, NDArray[np.float64]],
) -> NDArray[np.float64]:
    """Return the one number that says how noisy a cell is, (n_cells,)."""
    return _along_axis(_noise_columns(values, controls, options), arrays)


def _along_axis(
    columns: NDArray[np.float64], arrays: Mapping[str, NDArray[np.float64]]
) -> NDArray[np.float64]:
    # What was not measured says nothing: it counts as the mean.
    apart = np.nan_to_num(columns - arrays["noise_mean"])
    noise: NDArray[np.float64] = apart @ arrays["noise_weights"]
    return noise


def _noise_columns(
    values: NDArray[np.float64], controls: Sequence[int], options: Mapping[str, Any]
) -> NDArray[np.float64]:
    lower = background_means(values, seed=int(options["seed"]))
    return np.column_stack([values[:, list(controls)], lower])


def _fit_dsb(
    cells: CellSource, options: Mapping[str, Any], empty: object, controls: Sequence[str]
) -> Fitted:
    places = _places_of(controls, cells)
    arrays = _background_of(empty, cells, options)
    if not options["denoise"]:
        return Fitted(arrays)
    if cells.n_vars < 2:
        raise UsageError(
            "E-U113",
            f"denoising wants two features or more, and there are {cells.n_vars}",
            where=cells.where,
            fix='options={"denoise": False}',
        )
    columns = np.concatenate(
        [_noise_columns(standardised(b, options, arrays), places, options) for b in _blocks(cells)]
    )
    arrays |= _noise_axis(columns, cells.where)
    arrays["noise_slopes"] = _slopes(cells, options, arrays, _along_axis(columns, arrays))
    return Fitted(arrays, places)


def _places_of(controls: Sequence[str], cells: CellSource) -> tuple[int, ...]:
    """Return where isotype controls are, by their names with or without the suffix of a kit."""
    given = [str(n) for n in cells.var.index]
    places: dict[str, int] = {}
    for names in (protein_names(given).names, given):
        places |= {name: i for i, name in enumerate(names)}
    unknown = [str(c) for c in controls if str(c) not in places]
    if unknown:
        raise UsageError(
            "E-U113",
            "controls that are no features",
            where=cells.where,
            count=len(unknown),
            total=len(controls),
            examples=unknown[:3],
            fix=did_you_mean(unknown[0], places) or "name features of the source",
        )
    return tuple(dict.fromkeys(places[str(c)] for c in controls))


def _background_of(
    empty: object, cells: CellSource, options: Mapping[str, Any]
) -> dict[str, NDArray[np.float64]]:
    """Return mean and standard deviation of the logs of every feature in empty droplets."""
    droplets = to_csr_block(empty)
    n, width = droplets.shape
    if width != cells.n_vars:
        raise UsageError(
            "E-U113",
            f"the empty droplets have {width:,} features and the cells {cells.n_vars:,}",
            where=cells.where,
            fix="pass the same features in the same order",
        )
    bad_block("dsb", droplets)
    arrays = {"mean": np.zeros(width), "sd": np.ones(width)}
    measured, sums = np.zeros(width, dtype=np.int64), np.zeros(width)
    blocks = list(iter_blocks(n, block_rows_for(width)))
    for rows in blocks:
        logs = standardised(droplets[rows], options, arrays)
        measured += (~np.isnan(logs)).sum(axis=0)
        sums += np.nansum(logs, axis=0)
    if n == 0:
        raise InputDataError(
            "E-D32", "there are no empty droplets", fix='pass some as empty=, or use "clr"'
        )
    _require_measured(measured, cells.var.index, "no empty droplet", "empty droplets")
    mean = sums / measured
    if options["scale"] == "mean_subtract":
        return {"mean": mean, "sd": np.ones(width)}
    arrays["mean"] = mean
    squares = np.zeros(width)
    for rows in blocks:
        squares += np.nansum(standardised(droplets[rows], options, arrays) ** 2, axis=0)
    sd = np.sqrt(squares / np.maximum(measured - 1, 1))
    flat = np.flatnonzero(~(sd > 1e-12))
    if len(flat):
        raise InputDataError(
            "E-D62",
            "features that are alike in all empty droplets",
            where="empty droplets",
            count=len(flat),
            total=width,
            examples=[str(cells.var.index[i]) for i in flat[:3]],
            why="there is no standard deviation to divide by",
            fix='pass more droplets, leave the features out, or options={"scale": '
            '"mean_subtract"}',
        )
    return {"mean": mean, "sd": sd}


def _noise_axis(columns: NDArray[np.float64], where: str) -> dict[str, NDArray[np.float64]]:
    """Return how controls and background of a cell become one number.

    Without controls it is the background itself, else the first principal component, scaled to
    unit variance.
    """
    known = columns[~np.isnan(columns).any(axis=1)]
    if len(known) < 2:
        raise InputDataError(
            "E-D32",
            "too few training cells to denoise with",
            where=where,
            count=len(known),
            total=len(columns),
            why="their controls and two more features have to be measured",
            fix='options={"denoise": False}, or fewer controls',
        )
    mean = known.mean(axis=0)
    if columns.shape[1] == 1:
        return {"noise_mean": mean, "noise_weights": np.ones(1)}
    variances, axes = np.linalg.eigh(np.cov(known, rowvar=False))
    axis = axes[:, -1] * np.sign(axes[np.argmax(np.abs(axes[:, -1])), -1])
    sd = np.sqrt(max(variances[-1], 0.0))
    weights = axis / sd if sd > 0 else np.zeros_like(axis)
    return {"noise_mean": mean, "noise_weights": weights}


def _slopes(
    cells: CellSource,
    options: Mapping[str, Any],
    arrays: Mapping[str, NDArray[np.float64]],
    noise: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Return how much of every feature rises with the noise: least squares, measured cells."""
    n, c, y, cc, cy = np.zeros((5, cells.n_vars))
    # About the mean: sums of squares of distant numbers lose digits.
    noise = noise - noise.mean()
    first = 0
    for block in _blocks(cells):
        values, x = standardised(block, options, arrays), noise[first : first + block.shape[0]]
        first += len(x)
        measured = ~np.isnan(values)
        filled = np.where(measured, values, 0.0)
        n += measured.sum(axis=0)
        c += x @ measured
        y += filled.sum(axis=0)
        cc += x**2 @ measured
        cy += x @ filled
    _require_measured(n.astype(np.int64), cells.var.index, "no training cell", cells.where)
    spread = cc - c**2 / n
    return np.divide(cy - c * y / n, spread, out=np.zeros_like(n), where=spread > 1e-12)
