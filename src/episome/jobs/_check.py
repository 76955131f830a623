"""Look at a file of cells before anything is done with it."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from episome import settings
from episome.data import AnnDataSource, check_readable, inspect, read_any, read_cells
from episome.errors import UsageError

if TYPE_CHECKING:
    from episome.data import Inspection, MuInspection
    from episome.inference import Predictor, ShiftReport

#: Cells that a report of shift looks at.
MAX_CELLS = 20_000


@dataclass(frozen=True, slots=True)
class CheckRequest:
    """What ``episome check`` is asked for.

    Parameters
    ----------
    input
        File of cells; never changed.
    model
        Folder of a model that the cells are meant for.
    layer, use_raw
        Where the values are, of several modalities those of RNA; default the first slot with
        counts.
    min_gene_overlap, duplicates, gene_map, gene_case
        As for ``episome annotate``.
    shift
        Run the model over the cells (20,000 of more) and report how they differ from its training
        cells, see ``episome.inference.shift_report``.
    max_memory, trust
        Of ``episome.data.read_any``.
    """

    input: Path
    model: Path | None = None
    layer: str | None = None
    use_raw: bool = False
    min_gene_overlap: float = 0.5
    duplicates: Literal["error", "sum", "first"] = "error"
    gene_map: Path | None = None
    gene_case: Literal["as is", "upper"] = "as is"
    shift: bool = False
    max_memory: int | None = None
    trust: bool = False


@dataclass(frozen=True, slots=True)
class CheckResult:
    """What ``episome check`` found, the commands that follow from it, and the report of shift."""

    inspection: Inspection | MuInspection
    next: tuple[str, ...]
    shift: ShiftReport | None = None


def check(request: CheckRequest) -> CheckResult:
    """Inspect a file of cells with all its modalities, alone or for a model.

    The matrix of h5ad and zarr stays on disk.

    Raises
    ------
    EpisomeError
        The file or the model folder cannot be read; a report of shift is asked for without a
        model (E-U34). Problems of the content are in the result.
    """
    check_readable(request.input)
    if request.shift and request.model is None:
        raise UsageError(
            "E-U34",
            "shift (--shift) is asked for without a model",
            why="cells are compared with those that a model was trained on",
            fix="give model (-m) too",
        )
    meant: dict[str, Any] = {}
    predictor = None
    if request.model is not None:
        from episome.inference import Predictor

        predictor = Predictor.from_folder(request.model, device="cpu")
        meant = {
            "features": predictor.features,
            "rule": predictor.rule,
            "importance": predictor.importance,
        }
    cells = read_any(
        request.input, backed=True, max_memory=request.max_memory, trust=request.trust
    )
    try:
        found: Inspection | MuInspection = inspect(
            cells,
            layer=request.layer,
            use_raw=request.use_raw,
            name=_name(request.input),
            min_gene_overlap=request.min_gene_overlap,
            duplicates=request.duplicates,
            gene_map=request.gene_map,
            gene_case=request.gene_case,
            **meant,
        )
    finally:
        if cells.isbacked:
            cells.file.close()
    shift = None
    if request.shift and found.ok and predictor is not None:
        shift = _shift(request, found, predictor)
    return CheckResult(found, _next(request, found), shift)


def _shift(
    request: CheckRequest, found: Inspection | MuInspection, predictor: Predictor
) -> ShiftReport:
    """Run the model over the cells, 20,000 of more."""
    from episome.inference import shift_report

    cells = read_cells(request.input, backed=True, trust=request.trust)
    try:
        source = AnnDataSource(
            cells,
            layer=str(found.arguments["layer"]) if "layer" in found.arguments else None,
            use_raw=bool(found.arguments.get("use_raw", False)),
            name=_name(request.input),
        )
        query = predictor.prepare(
            source,
            min_gene_overlap=request.min_gene_overlap,
            duplicates=request.duplicates,
            gene_map=request.gene_map,
            gene_case=request.gene_case,
        )
        rows = None
        if source.n_obs > MAX_CELLS:
            rng = np.random.default_rng(settings.stream_seed("shift-report", bits=32))
            rows = np.sort(rng.choice(source.n_obs, MAX_CELLS, replace=False))
        return shift_report(predictor, query, rows=rows)
    finally:
        if cells.isbacked:
            cells.file.close()


def _name(path: Path) -> str:
    """Name of a file or folder, also where the path is ``.`` or ends in ``..``."""
    return path.resolve().name if path.name in {"", ".."} else path.name


def _next(request: CheckRequest, found: Inspection | MuInspection) -> tuple[str, ...]:
    """Commands that use the file as it was found; none where it cannot be used.

    ``METHOD`` stands for a name that ``episome plugins`` lists.
    """
    # The commands read one modality.
    if not found.ok or not getattr(found, "used", True):
        return ()
    values = []
    if "layer" in found.arguments:
        values += ["--layer", str(found.arguments["layer"])]
    if "use_raw" in found.arguments:
        values += ["--use-raw"]
    file = str(request.input)
    if request.model is not None:
        verb, output = _verb(request.model)
        words = ["episome", verb, file, "-m", str(request.model), *values, "-o", output]
        return (shlex.join(words),)
    if "labels_key" not in found.arguments:
        return ()
    words = [
        "episome",
        "train",
        "METHOD",
        file,
        "--labels-key",
        str(found.arguments["labels_key"]),
    ]
    if "donor_key" in found.arguments:
        words += ["--donor-key", str(found.arguments["donor_key"])]
    return (shlex.join([*words, *values, "-o", "my-model"]),)


def _verb(model: Path) -> tuple[str, str]:
    """Return the command that runs a model, and what it writes."""
    from episome.inference import folder_spec
    from episome.io import is_ensemble, read_manifest

    manifest = read_manifest(model)
    able = folder_spec(manifest["model"]).capabilities
    if is_ensemble(manifest) or "annotation" in able:
        return "annotate", "calls.csv"
    if "translation" in able:
        return "predict-modality", "predicted.h5ad"
    return "embed", "embedding.csv"
