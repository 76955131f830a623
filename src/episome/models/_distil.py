"""Distillation: a small annotator that gives the calls of a large one."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from anndata import AnnData

from episome import plugins, settings
from episome.data import (
    AnnDataSource,
    clean_labels,
    combined_column,
    definite_donors,
    split_cells,
)
from episome.errors import InputDataError, PluginError, UsageError
from episome.log import get_logger
from episome.metrics import expected_calibration_error, macro_f1
from episome.models import load

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from episome.models._annotation import AnnotationMixin
    from episome.models._ensemble import Ensemble

logger = get_logger(__name__)

#: Tag of models that are small and quick.
STUDENT = "student"
_LABEL = "_episome_call"
_DONOR = "_episome_donor"
_ROUNDS = 3


@dataclass(frozen=True, slots=True, eq=False)
class Distilled:
    """A student, and what it lost and gained on held-out cells.

    Parameters
    ----------
    model
        The student, trained.
    n_train, n_test
        Cells that it learned from, and cells that the figures below are of.
    held_out_by
        ``"donor"`` or ``"cell"``.
    agreement, agreement_f1
        Share of the held-out cells that student and teacher call alike, and macro F1 of the
        student's calls with the teacher's as truth.
    teacher_f1, student_f1
        Macro F1 against labels; NaN without any. A teacher that was trained on these cells looks
        better than it is.
    teacher_ece, student_ece
        Calibration error against labels; without labels that of the student against the teacher's
        calls, and NaN for the teacher.
    teacher_cells_per_second, student_cells_per_second
        Of prediction, by the least time of three rounds in turns.
    """

    model: AnnotationMixin
    n_train: int
    n_test: int
    held_out_by: str
    agreement: float
    agreement_f1: float
    teacher_f1: float
    student_f1: float
    teacher_ece: float
    student_ece: float
    teacher_cells_per_second: float
    student_cells_per_second: float

    @property
    def speed_up(self) -> float:
        """How many times faster the student is."""
        return self.student_cells_per_second / self.teacher_cells_per_second

    @property
    def text(self) -> str:
        """What was lost and gained, in one line."""
        said = f"{self.agreement:.1%} of {self.n_test:,} held-out cells are called alike"
        if np.isfinite(self.student_f1):
            said += f"; macro F1 {self.teacher_f1:.3f} -> {self.student_f1:.3f}"
            said += f", calibration error {self.teacher_ece:.3f} -> {self.student_ece:.3f}"
        return f"{said}; {self.speed_up:.1f} times as fast"


def distil(
    teacher: AnnotationMixin | Ensemble | str | Path,
    adata: AnnData,
    *,
    student: str | None = None,
    labels_key: str | None = None,
    donor_key: str | list[str] | None = None,
    layer: str | None = None,
    use_raw: bool = False,
    held_out: float = 0.2,
    seed: int | None = None,
    model_kwargs: Mapping[str, Any] | None = None,
    train_kwargs: Mapping[str, Any] | None = None,
) -> Distilled:
    """Train a small annotator on the calls of another, and measure what that costs.

    The student learns from the teacher's calls of ``adata``, which needs no labels: any cells of
    the kinds that are to be called do. It reads the genes of ``adata``.

    Parameters
    ----------
    teacher
        A trained annotator, an ensemble, or the folder of one.
    adata
        Cells to learn from; not changed.
    student
        Name of an annotator; default an installed one with the tag ``student``.
    labels_key
        Column of true labels, if there are some: for the figures only.
    donor_key
        Column or columns that name the donor: whole donors are held out, where there are four.
    layer, use_raw
        Where the values are.
    held_out
        Share of the cells that the figures are measured on.
    seed
        Of the split and the student; default ``episome.settings.seed``.
    model_kwargs, train_kwargs
        Of the student's class and its ``train``.

    Returns
    -------
    A :class:`Distilled`.

    Raises
    ------
    PluginError
        No installed annotator is tagged ``student``, and none is named (E-P14); there is none of
        the name (E-P03).
    UsageError
        The student annotates no cells (E-U12), or a column is missing (E-U04).
    InputDataError
        The teacher calls all cells alike (E-L41).
    """
    if not 0 < held_out < 1:
        raise UsageError("E-U22", f"held_out={held_out!r}", fix="pass a share such as 0.2")
    master: Any = load(teacher) if isinstance(teacher, str | Path) else teacher
    spec = annotator_spec(student)
    where: dict[str, Any] = {"layer": layer, "use_raw": use_raw}
    truth = None if labels_key is None else _truth(AnnDataSource(adata, **where), labels_key)
    calls = master.annotate(adata, **where)
    called = calls["label_raw"].to_numpy(dtype=object)
    known = calls["label_raw"].notna().to_numpy()
    codes = np.full(len(called), -1, dtype=np.int64)
    codes[known] = np.unique(called[known].astype(str), return_inverse=True)[1]
    if len(set(codes[known])) < 2:
        raise InputDataError(
            "E-L41",
            "the teacher calls all cells alike",
            where="distil()",
            count=int(known.sum()),
            total=len(known),
            fix="pass cells of the types that the student is to know",
        )
    donors = None if donor_key is None else definite_donors(combined_column(adata, donor_key))
    parts = split_cells(
        codes, donors=donors, train_size=1 - held_out, validation_size=held_out, seed=seed
    )
    with settings.using_seed(seed):
        model = _trained(
            spec,
            _own_cells(adata, parts.train, called, donors, where),
            dict(model_kwargs or {}),
            dict(train_kwargs or {}),
        )
    found = _measured(
        master,
        model,
        adata[parts.validation].copy(),
        where,
        called[parts.validation].astype(str),
        None if truth is None else truth[parts.validation],
    )
    result = Distilled(model, len(parts.train), len(parts.validation), parts.by, **found)
    model.fit_["distilled"] = {
        "teacher": type(master).__name__,
        **{k: v for k, v in found.items() if np.isfinite(v)},
        "held_out_by": parts.by,
        "n_test": result.n_test,
    }
    logger.info("%s: %s", type(model).__name__, result.text)
    return result


def annotator_spec(name: str | None, *, argument: str = "student") -> plugins.ModelSpec:
    """Return the annotator of a name, or an installed one with the tag `student`.

    Parameters
    ----------
    name
        Of the spec.
    argument
        How messages call what names it.

    Raises
    ------
    PluginError
        There is none of the tag (E-P14) or of the name (E-P01).
    UsageError
        It annotates no cells (E-U12).
    """
    if name is None:
        tagged = [s for s in plugins.models().values() if STUDENT in s.tags]
        if not tagged:
            raise PluginError(
                "E-P14",
                "no installed annotator is tagged `student`",
                fix=f"name one: {argument}=..., or pip install episome-baselines",
            )
        return tagged[0]
    spec = plugins.get_spec(name)
    if "annotation" not in spec.capabilities:
        raise UsageError(
            "E-U12", f"{spec.name} annotates no cells", fix=f"name an annotator: {argument}=..."
        )
    return spec


def _own_cells(
    adata: AnnData,
    rows: NDArray[np.int64],
    called: NDArray[np.object_],
    donors: NDArray[np.object_] | None,
    where: Mapping[str, Any],
) -> AnnData:
    """Copy the cells that the student learns from, with the values in ``X`` and little else."""
    source = AnnDataSource(adata, **where)
    obs = pd.DataFrame({_LABEL: called[rows].astype(str)}, index=adata.obs_names[rows])
    if donors is not None:
        obs[_DONOR] = donors[rows]
    return AnnData(source.read(rows), obs=obs, var=source.var.copy())


def _trained(
    spec: plugins.ModelSpec,
    cells: AnnData,
    model_kwargs: dict[str, Any],
    train_kwargs: dict[str, Any],
) -> Any:
    cls = plugins.load_class(spec)
    donor_key = _DONOR if _DONOR in cells.obs else None
    cls.setup_anndata(cells, labels_key=_LABEL, donor_key=donor_key)
    model = cls(cells, **model_kwargs)
    model.train(**train_kwargs)
    return model


def _truth(source: AnnDataSource, labels_key: str) -> NDArray[np.str_]:
    column = source.obs_column(labels_key)
    cleaned = clean_labels(column, unlabeled_category="unknown", unlabeled="keep")
    return np.asarray(cleaned, dtype=str)


def _measured(
    master: Any,
    model: Any,
    cells: AnnData,
    where: Mapping[str, Any],
    called: NDArray[np.str_],
    truth: NDArray[np.str_] | None,
) -> dict[str, float]:
    seconds: dict[str, list[float]] = {"teacher": [], "student": []}
    shares: dict[str, pd.DataFrame] = {}
    for _ in range(_ROUNDS):
        for name, one in (("teacher", master), ("student", model)):
            started = time.perf_counter()
            shares[name] = one.predict_proba(cells, **where)
            seconds[name].append(time.perf_counter() - started)
    call, sure = {}, {}
    for name, table in shares.items():
        values = table.to_numpy()
        call[name] = table.columns.to_numpy(dtype=str)[values.argmax(axis=1)]
        sure[name] = np.minimum(values.max(axis=1), 1.0)
    found = {
        "agreement": float((call["student"] == called).mean()),
        "agreement_f1": float(macro_f1(called, call["student"])),
        "teacher_f1": float("nan"),
        "student_f1": float("nan"),
        "teacher_ece": float("nan"),
        "student_ece": expected_calibration_error(sure["student"], call["student"] == called),
    }
    if truth is not None and (labelled := truth != "unknown").any():
        for name in ("teacher", "student"):
            said = call[name][labelled]
            found[f"{name}_f1"] = float(macro_f1(truth[labelled], said))
            found[f"{name}_ece"] = expected_calibration_error(
                sure[name][labelled], said == truth[labelled]
            )
    for name, times in seconds.items():
        found[f"{name}_cells_per_second"] = cells.n_obs / min(times)
    return found
