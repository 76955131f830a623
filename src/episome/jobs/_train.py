"""Train a model on a labelled file and save its folder."""

from __future__ import annotations

import contextlib
import inspect
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from episome import plugins, settings
from episome.data import cell_files, check_inputs, has_own_source, read_any, read_cells
from episome.errors import InputFileError, UsageError
from episome.inference import pick_device
from episome.io import check_model_output
from episome.jobs._auto import train_auto
from episome.jobs._labels_file import join_labels
from episome.log import get_logger
from episome.train import holds_work

if TYPE_CHECKING:
    from anndata import AnnData

    from episome.models import Ensemble, EpisomeModel

logger = get_logger(__name__)

#: Method that compares the installed annotators.
AUTO = "auto"

ProgressReport = Callable[[int, int, dict[str, float]], None]


@dataclass(frozen=True, slots=True)
class TrainRequest:
    """What ``episome train`` is asked for.

    Parameters
    ----------
    method
        Name of an installed model, or ``"auto"``: see ``train_auto``.
    input
        File of cells, with labels for annotators; of two modalities for translators. A folder of
        h5ad files becomes one, read while training.
    output
        Folder of the model.
    setup
        Of the model's ``setup_anndata``: ``labels_key``, ``donor_key``, ``layer``, ...
    labels_file
        Table of labels to join by barcode.
    model
        Arguments of the model, e.g. ``{"preset": "small"}``.
    train
        Arguments of ``train``, e.g. ``{"max_epochs": 20}``.
    n_models
        Members of a deep ensemble; 1: the model alone.
    overwrite
        Replace an existing folder.
    seed
        Default ``episome.settings.seed``.
    max_memory, trust
        Of ``episome.data.read_cells``.
    backed
        Leave the cells of h5ad and zarr in the file and read them while training. Chosen by itself
        where they would not fit into memory, by models that can.
    resume
        ``"auto"`` goes on from what an earlier run of the same request left beside the output,
        ``"never"`` starts anew; for models that are trained in epochs.
    models, time_budget
        Of ``train_auto``, for the method ``"auto"``.
    """

    method: str
    input: Path
    output: Path
    setup: Mapping[str, object]
    labels_file: Path | None = None
    model: Mapping[str, object] = field(default_factory=dict)
    train: Mapping[str, object] = field(default_factory=dict)
    n_models: int = 1
    overwrite: bool = False
    seed: int | None = None
    max_memory: int | None = None
    trust: bool = False
    backed: bool = False
    resume: str = "auto"
    models: tuple[str, ...] = ()
    time_budget: float = 600.0


@dataclass(frozen=True, slots=True)
class TrainResult:
    """What ``episome train`` leaves: the folder and the facts of the fit."""

    output: Path
    model: str
    n_cells: int
    n_genes: int
    n_classes: int
    input_kind: str
    notes: tuple[str, ...]
    fit: Mapping[str, object]


def train(request: TrainRequest, *, progress: ProgressReport | None = None) -> TrainResult:
    """Train a model on a file of cells and save its folder.

    Parameters
    ----------
    request
        What to do; everything that can be checked without the data is checked first.
    progress
        Called with ``(done, total, metrics)`` after every epoch of models that have epochs.

    Raises
    ------
    EpisomeError
        Of the family in ``episome.errors``; nothing is written then.
    """
    if request.method == AUTO:
        return _auto(request)
    spec = plugins.get_spec(request.method)
    check_inputs(request.input)
    check_model_output(request.output, overwrite=request.overwrite)
    if request.seed is not None:
        settings.seed = request.seed
    cls = plugins.load_class(spec)
    model_args = known_arguments(cls.__init__, request.model, f"{spec.name} (--set)")
    # Models of two modalities are set up with MuData.
    translates = "translation" in spec.capabilities
    set_up = cls.setup_mudata if translates else cls.setup_anndata
    setup = known_arguments(set_up, request.setup, f"{spec.name} (set-up)", exactly=True)
    train_args = known_arguments(cls.train, request.train, f"{spec.name} (train)")
    data, backed = _cells(request, cls, in_modalities=translates)
    notes = [*_said_of_reading(request, backed=backed), *_join(data, request, setup)]
    if backed:
        data = cls.setup_source(data, **setup)
        notes += getattr(data.source, "notes", ())
    else:
        set_up(data, **setup)
    model: EpisomeModel | Ensemble
    if request.n_models == 1:
        model = cls(data, **model_args)
    elif "annotation" in spec.capabilities:
        model = cls.ensemble(data, n_models=request.n_models, **model_args)
    else:
        raise UsageError(
            "E-U12",
            f"there is no ensemble of {spec.name}",
            why="probabilities are averaged, and it gives none",
            fix="leave n_models (--ensemble) out",
        )
    if progress is not None:
        train_args["progress"] = progress
    with _kept_run(cls, request) as kept:
        model.train(**train_args, **kept)
        model.save(request.output, overwrite=request.overwrite)
    return _result(model, request.output, spec.name, tuple(notes))


def run_folder(output: Path) -> Path:
    """Return the place of an unfinished training, beside its output."""
    return output.parent / f".{output.name}.training"


@contextlib.contextmanager
def _kept_run(cls: type[EpisomeModel], request: TrainRequest) -> Iterator[dict[str, object]]:
    """Give the arguments that keep a training beside its output; remove it when all is saved."""
    if "checkpoint_dir" not in inspect.signature(cls.train).parameters:
        yield {}
        return
    folder = run_folder(request.output)
    try:
        yield {"checkpoint_dir": folder, "resume": request.resume}
    except BaseException:
        if holds_work(folder):
            logger.warning("what is done is kept in %s", folder)
        raise
    shutil.rmtree(folder)


def _cells(
    request: TrainRequest, cls: type[EpisomeModel], *, in_modalities: bool
) -> tuple[Any, bool]:
    """Read the cells, and say whether their values stay in the file."""
    options: dict[str, Any] = {"max_memory": request.max_memory, "trust": request.trust}
    if cell_files(request.input) or has_own_source(request.input):
        _refuse_labels_file(request)
        return request.input, True
    if request.backed:
        return read_cells(request.input, backed=True, **options), True
    if in_modalities:
        return read_any(request.input, **options), False
    try:
        return read_cells(request.input, **options), False
    except InputFileError as error:
        # Too large, and not broken or made to do harm.
        details = error.problems[0].details
        if not cls.reads_sources or not {"declared_bytes", "max_memory"} <= details.keys():
            raise
        return read_cells(request.input, backed=True, **options), True


def _refuse_labels_file(request: TrainRequest) -> None:
    if request.labels_file is not None:
        raise UsageError(
            "E-U85",
            "a table of labels is given for several files",
            where=request.labels_file.name,
            why="the same barcode may be in more than one of them",
            fix="write the labels into a column of obs of each file",
        )


def _said_of_reading(request: TrainRequest, *, backed: bool) -> list[str]:
    """Return the line that says where the cells are read from, if that was not asked for."""
    if not backed or request.backed or cell_files(request.input) or has_own_source(request.input):
        return []
    line = f"{request.input.name} does not fit into memory: its cells are read while training"
    logger.info("%s", line)
    return [line]


def _auto(request: TrainRequest) -> TrainResult:
    """Train the annotator that is best on held-out cells."""
    if request.backed or cell_files(request.input) or has_own_source(request.input):
        raise UsageError(
            "E-U83",
            "the comparison of models reads one file into memory",
            where="auto",
            why="every candidate sees them many times",
            fix="pass one file without backed (--backed), or name the model that is to be trained",
        )
    for name in request.models:
        plugins.get_spec(name)
    if request.model or request.n_models != 1:
        raise UsageError(
            "E-U76",
            "settings of one model are given to the comparison of many",
            where="auto",
            examples=sorted(request.model) or ["n_models"],
            why="every candidate is taken as it comes",
            fix="leave them out, or train the model that you mean by its name",
        )
    check_inputs(request.input)
    check_model_output(request.output, overwrite=request.overwrite)
    if request.seed is not None:
        settings.seed = request.seed
    from episome.models import AnnotationMixin

    wanted: dict[str, Any] = known_arguments(
        AnnotationMixin.setup_anndata, request.setup, "auto (set-up)", exactly=True
    )
    adata = read_cells(request.input, max_memory=request.max_memory, trust=request.trust)
    notes = _join(adata, request, wanted)
    labels_key = str(wanted.pop("labels_key"))
    found = train_auto(
        adata,
        labels_key,
        models=request.models or None,
        time_budget=request.time_budget,
        train_kwargs=dict(request.train),
        **wanted,
    )
    found.model.save(request.output, overwrite=request.overwrite)
    return _result(found.model, request.output, " + ".join(found.chosen), tuple(notes))


def _join(adata: AnnData, request: TrainRequest, setup: dict[str, object]) -> list[str]:
    if request.labels_file is None:
        return []
    join = join_labels(adata, request.labels_file, str(setup["labels_key"]))
    adata.obs[str(setup["labels_key"])] = join.labels
    setup["unlabeled"] = "keep"
    logger.info("%s", join.text)
    return [join.text]


def _result(
    model: EpisomeModel | Ensemble, output: Path, name: str, notes: tuple[str, ...]
) -> TrainResult:
    return TrainResult(
        output=output,
        model=name,
        n_cells=int(model.fit_["n_cells"]),
        n_genes=len(model.features),
        n_classes=len(model.labels) if model.labels else 0,
        input_kind=model.input_rule.input_kind,
        notes=notes,
        fit=model.fit_,
    )


def known_arguments(
    function: Callable[..., object],
    given: Mapping[str, object],
    where: str,
    *,
    exactly: bool = False,
) -> dict[str, object]:
    """Return the arguments that were given; refuse those that ``function`` does not take.

    With ``exactly`` its ``**kwargs`` do not count: those of a set-up are scvi-tools' own.

    Raises
    ------
    UsageError
        E-U24, naming what it takes.
    """
    parameters = _parameters_of(function)
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    names = [
        p.name
        for p in parameters.values()
        if p.kind in {p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD}
        and p.name not in {"self", "cls", "adata", "registry"}
    ]
    unknown = [k for k in given if k not in names]
    if unknown and (exactly or not takes_any):
        raise UsageError(
            "E-U24",
            f"unknown arguments {', '.join(unknown)}",
            where=where,
            why=f"it takes {', '.join(names)}" if names else "it takes none",
            fix="leave them out, or use one of these",
        )
    return dict(given)


def _parameters_of(function: Callable[..., object]) -> dict[str, inspect.Parameter]:
    """Parameters of a function; of a set-up that hands some on, those of the host's too."""
    found = dict(inspect.signature(function).parameters)
    cls = getattr(function, "__self__", None)
    for base in getattr(cls, "__mro__", ()):
        if base.__module__.partition(".")[0] == "scvi":
            break
        handed_on = base.__dict__.get(function.__name__)
        if isinstance(handed_on, classmethod):
            found = dict(inspect.signature(handed_on.__func__).parameters) | found
    return found


def device_arguments(device: str) -> dict[str, object]:
    """Arguments of ``train`` for the name of a device, see ``episome.inference.pick_device``."""
    if device == "auto":
        return {"accelerator": "auto", "devices": "auto"}
    found = pick_device(device)
    accelerator = {"cuda": "gpu"}.get(found.type, found.type)
    return {"accelerator": accelerator, "devices": 1 if found.index is None else [found.index]}
