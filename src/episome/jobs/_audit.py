"""Find the cells of a labelled file whose label is likely wrong."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import episome
from episome import plugins, settings
from episome.data import check_inputs, missing_column, name_cells, read_cells
from episome.errors import UsageError
from episome.io import check_columns, check_output, write_calls
from episome.jobs._arguments import known_arguments, require_preset
from episome.jobs._inputs import (
    is_streamed,
    kind_of_input,
    named_columns,
    require_columns_of_file,
    shown_name,
)

if TYPE_CHECKING:
    from anndata import AnnData

    from episome.models import Audit, AuditPlan

#: Of the columns in an h5ad.
PREFIX = "audit_"


@dataclass(frozen=True, slots=True)
class AuditRequest:
    """What ``episome audit`` is asked for.

    Parameters
    ----------
    input
        File of labelled cells, never changed.
    output
        ``.csv``, ``.tsv`` or ``.parquet`` for a table of the cells, ``.h5ad`` for a copy of the
        input with new columns; ``None`` writes no file.
    setup
        Of the model's ``setup_anndata``: ``labels_key``, ``donor_key``, ``layer``, ...
    method
        Name of an annotator; default an installed one with the tag ``student``.
    cluster_key
        Column of clusters.
    n_folds, n_rounds, false_discoveries, n_pairs, n_genes
        Of ``episome.models.audit``.
    threshold
        Score from which a label is corrected; default that of the audit.
    corrected
        Name of a column that is added with corrected labels; ``None``: none.
    model, train
        Arguments of the model, and of its ``train``.
    prefix
        Of the columns in an ``.h5ad``; default ``"audit_"``. A table has none unless it is given.
    overwrite, overwrite_columns
        Replace an existing file, and columns of the ``.h5ad``.
    dry_run
        Check everything and train nothing.
    seed, max_memory, trust
        As for ``TrainRequest``.
    """

    input: Path
    output: Path | None
    setup: Mapping[str, object]
    method: str | None = None
    cluster_key: str | None = None
    n_folds: int = 5
    n_rounds: int = 2
    false_discoveries: float = 0.1
    n_pairs: int = 10
    n_genes: int = 10
    threshold: float | None = None
    corrected: str | None = None
    model: Mapping[str, object] = field(default_factory=dict)
    train: Mapping[str, object] = field(default_factory=dict)
    prefix: str | None = None
    overwrite: bool = False
    overwrite_columns: bool = False
    dry_run: bool = False
    seed: int | None = None
    max_memory: int | None = None
    trust: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class AuditResult:
    """What ``episome audit`` found.

    Parameters
    ----------
    plan
        Who judged which cell.
    audit
        What was found; ``None`` after a dry run.
    output
        The file that was written, if one was.
    n_corrected
        Labels that the corrected column changes; 0 without one.
    """

    plan: AuditPlan
    audit: Audit | None
    output: Path | None
    n_corrected: int


def audit(
    request: AuditRequest, *, progress: Callable[[int, int], None] | None = None
) -> AuditResult:
    """Rank the cells of a file by how likely their label is wrong; see ``episome.models.audit``.

    Parameters
    ----------
    request
        What to do; everything that can be checked without the cells is checked first.
    progress
        Called with ``(trainings done, trainings)``.

    Raises
    ------
    EpisomeError
        Of the family in ``episome.errors``; nothing is written then.
    """
    from episome.models import audit as audit_cells
    from episome.models import audit_plan

    check_inputs(request.input)
    if request.output is not None:
        check_output(request.output, overwrite=request.overwrite, source=request.input)
    options = _options(request)
    adata = _cells(request)
    _check_new_columns(request, adata)
    with settings.using_seed(request.seed):
        if request.dry_run:
            return AuditResult(audit_plan(adata, **options), None, None, 0)
        found = audit_cells(
            adata,
            **options,
            false_discoveries=request.false_discoveries,
            n_pairs=request.n_pairs,
            n_genes=request.n_genes,
            progress=progress,
        )
    table, n_corrected = found.cells, 0
    if request.corrected is not None:
        labels = found.corrected(request.threshold)
        n_corrected = int((labels != table["label"]).sum())
    if request.output is not None:
        table = table.add_prefix(_prefix(request))
        if request.corrected is not None:
            table = table.assign(**{request.corrected: labels})
        write_calls(
            request.output,
            table,
            adata=adata if request.output.suffix == ".h5ad" else None,
            provenance=_provenance(request, found),
            prefix="",
            overwrite=request.overwrite,
            overwrite_columns=request.overwrite_columns,
        )
    return AuditResult(found.plan, found, request.output, n_corrected)


def _options(request: AuditRequest) -> dict[str, Any]:
    """Return the arguments of the audit; refuse those that the model does not take."""
    from episome.models import annotator_spec

    spec = annotator_spec(request.method, argument="method (--method)")
    cls: Any = plugins.load_class(spec)
    model = known_arguments(cls.__init__, request.model, spec.name, option="--set")
    require_preset(cls, model)
    setup = known_arguments(
        cls.setup_anndata, request.setup, f"{spec.name} (set-up)", exactly=True
    )
    if request.threshold is not None and not 0 <= request.threshold <= 1:
        raise UsageError(
            "E-U65",
            f"threshold={request.threshold!r} (--threshold)",
            fix="pass a probability such as 0.8",
        )
    train = known_arguments(cls.train, request.train, f"{spec.name} (train)", of=cls)
    cls.check_train_arguments(train)
    return {
        "model": cls,
        "model_kwargs": model,
        "train_kwargs": train,
        "cluster_key": request.cluster_key,
        "n_folds": request.n_folds,
        "n_rounds": request.n_rounds,
        **setup,
    }


def _cells(request: AuditRequest) -> AnnData:
    """Read the cells; columns are looked for first, as reading all values may take long."""
    name = shown_name(request.input)
    if is_streamed(request.input):
        raise UsageError(
            "E-U83",
            f"labels are audited in memory, and this is {kind_of_input(request.input)}",
            where=name,
            why="every fold trains on most of the cells",
            fix="pass one file of some of the cells, as many as fit into memory",
        )
    columns = named_columns(request.setup)
    if request.cluster_key is not None:
        columns.append(request.cluster_key)
    options: dict[str, Any] = {"max_memory": request.max_memory, "trust": request.trust}
    require_columns_of_file(request.input, columns, **options)
    adata = read_cells(request.input, **options)
    for key in columns:
        if key not in adata.obs.columns:
            raise missing_column(key, list(map(str, adata.obs.columns)), f"{name}.obs")
    name_cells(adata, name)
    return adata


def _check_new_columns(request: AuditRequest, adata: AnnData) -> None:
    """Refuse new columns that exist already, or of one name."""
    from episome.models import Audit

    names = [f"{_prefix(request)}{c}" for c in Audit.columns]
    if request.corrected in names:
        raise UsageError(
            "E-L16",
            f"the corrected column has the name of another new one, {request.corrected!r}",
            where="corrected (--corrected)",
            fix="choose another name",
        )
    if request.output is None or request.output.suffix != ".h5ad":
        return
    options: dict[str, Any] = {
        "prefix": "",
        "overwrite_columns": request.overwrite_columns,
        "name": shown_name(request.input),
    }
    check_columns(adata, names, overwrite=request.overwrite, **options)
    if request.corrected is not None:
        check_columns(adata, [request.corrected], **options)


def _prefix(request: AuditRequest) -> str:
    if request.prefix is not None:
        return request.prefix
    whole = request.output is not None and request.output.suffix == ".h5ad"
    return PREFIX if whole else ""


def _provenance(request: AuditRequest, found: Audit) -> dict[str, object]:
    return {
        "audit": {
            "model": found.plan.model,
            "labels_key": found.labels_key,
            "held_out_by": found.plan.held_out_by,
            "n_folds": found.plan.n_folds,
            "n_rounds": found.plan.n_rounds,
            "false_discoveries": request.false_discoveries,
            "threshold": found.threshold,
            "noise": found.noise,
            "episome": episome.__version__,
        }
    }
