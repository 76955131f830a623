"""Train a model on a labelled file and save its folder."""

from __future__ import annotations

import contextlib
import inspect
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import nn

from episome import plugins, settings
from episome.data import (
    AnnDataSource,
    check_inputs,
    file_modalities,
    modalities_of,
    name_cells,
    read_any,
    read_cells,
    read_modality,
    rna_among,
)
from episome.errors import InputFileError, UsageError
from episome.inference import pick_device
from episome.io import check_model_output
from episome.jobs._arguments import known_arguments, require_preset
from episome.jobs._auto import train_auto
from episome.jobs._inputs import (
    is_streamed,
    kind_of_input,
    named_columns,
    require_columns_of_file,
    require_columns_of_source,
    shown_name,
    streamed_cells,
)
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
        Leave the cells of h5ad, h5mu and zarr in the file and read them while training. Chosen by
        itself where they would not fit into memory, by models that can.
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
    with settings.using_seed(request.seed):
        return _auto(request) if request.method == AUTO else _one(request, progress)


@dataclass(frozen=True, slots=True)
class TrainPlan:
    """What ``train`` would do: the model, the cells, and how large the network is.

    ``n_parameters`` is 0 where that is known only when it is trained.
    """

    model: str
    n_cells: int
    n_genes: int
    labels: tuple[str, ...]
    input_kind: str
    n_parameters: int
    notes: tuple[str, ...]


def train_plan(request: TrainRequest) -> TrainPlan:
    """Check everything that ``train`` would, and say what it would do; nothing is written.

    Parameters
    ----------
    request
        Of ``train``, for a model that is named.

    Raises
    ------
    EpisomeError
        As ``train``; E-U76 for the method ``"auto"``, whose candidates are known when they are
        trained.
    """
    if request.method == AUTO:
        raise UsageError(
            "E-U76",
            "the comparison of many models has no dry run",
            where=AUTO,
            why="what each of them needs is found by training it",
            fix="name the model that is to be trained",
        )
    with settings.using_seed(request.seed):
        ready = _ready(request)
    one = ready.model.members[0] if request.n_models != 1 else ready.model
    weights = one.module.parameters() if isinstance(one.module, nn.Module) else ()
    return TrainPlan(
        ready.name,
        int(one.summary_stats.n_cells),
        len(one.features),
        tuple(map(str, one.labels.names)) if one.labels else (),
        one.input_rule.input_kind,
        request.n_models * sum(p.numel() for p in weights),
        ready.notes,
    )


class _Ready(NamedTuple):
    """A model that is set up and checked, and the arguments that it is trained with."""

    name: str
    cls: type[EpisomeModel]
    model: Any
    train: dict[str, Any]
    notes: tuple[str, ...]


def _one(request: TrainRequest, progress: ProgressReport | None) -> TrainResult:
    """Train the model that is named."""
    ready = _ready(request)
    if progress is not None:
        ready.train["progress"] = progress
    with _kept_run(ready.cls, request) as kept:
        ready.model.train(**ready.train, **kept)
        ready.model.save(request.output, overwrite=request.overwrite)
    return _result(ready.model, request.output, ready.name, ready.notes)


def _ready(request: TrainRequest) -> _Ready:
    """Set up the model that is named; whatever can be wrong without training is refused."""
    spec = plugins.get_spec(request.method)
    check_inputs(request.input)
    check_model_output(request.output, overwrite=request.overwrite)
    cls = plugins.load_class(spec)
    model_args = known_arguments(cls.__init__, request.model, spec.name, option="--set")
    require_preset(cls, model_args)
    if request.n_models != 1 and "annotation" not in spec.capabilities:
        raise UsageError(
            "E-U12",
            f"there is no ensemble of {spec.name}",
            why="probabilities are averaged, and it gives none",
            fix="leave n_models (--ensemble) out",
        )
    # Models of two modalities are set up with MuData.
    translates = "translation" in spec.capabilities
    set_up = cls.setup_mudata if translates else cls.setup_anndata
    setup = known_arguments(set_up, request.setup, f"{spec.name} (set-up)", exactly=True)
    train_args = known_arguments(cls.train, request.train, f"{spec.name} (train)", of=cls)
    cls.check_train_arguments(train_args)
    data, backed = _cells(request, cls, setup, in_modalities=translates)
    notes = [*_said_of_reading(request, backed=backed), *_join(data, request, setup)]
    if backed:
        data = cls.setup_source(data, **setup)
        notes += getattr(data.source, "notes", ())
    else:
        set_up(data, **setup)
    model: EpisomeModel | Ensemble
    if request.n_models == 1:
        model = cls(data, **model_args)
    else:
        model = cls.ensemble(data, n_models=request.n_models, **model_args)
    return _Ready(spec.name, cls, model, train_args, tuple(notes))


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
    request: TrainRequest,
    cls: type[EpisomeModel],
    setup: dict[str, object],
    *,
    in_modalities: bool,
) -> tuple[Any, bool]:
    """Read the cells, and say whether their values stay in the file.

    Columns are looked for first: reading or scanning all values may take long.
    """
    options: dict[str, Any] = {"max_memory": request.max_memory, "trust": request.trust}
    if is_streamed(request.input):
        if in_modalities:
            raise _not_two(request, kind_of_input(request.input))
        _refuse_labels_file(request)
        return _streamed(request, cls, setup), True
    require_columns_of_file(request.input, _wanted_columns(request, setup), **options)
    if in_modalities:
        return _of_modalities(request, cls, setup, options)
    data, backed = _of_file(request, cls, options)
    if not data.isbacked:
        name_cells(data, shown_name(request.input))
    return data, backed


def _streamed(request: TrainRequest, cls: type[EpisomeModel], setup: dict[str, object]) -> Any:
    """Open cells that are read where they are; the place of their values is no set-up then."""
    if not cls.reads_sources or setup.get("obsm_key") or cls.default_obsm_key:
        return request.input  # which is refused
    place: dict[str, Any] = {k: setup.pop(k) for k in ("layer", "use_raw") if k in setup}
    if setup.get("duplicates") == "sum":
        place["duplicates"] = "sum"
    source = streamed_cells(request.input, **place)
    assert source is not None
    require_columns_of_source(source, _wanted_columns(request, setup))
    return source


def _wanted_columns(request: TrainRequest, setup: Mapping[str, object]) -> list[str]:
    """Return the columns that the cells must have; a table of labels brings its own."""
    joined = {"labels_key"} if request.labels_file is not None else set()
    return named_columns({k: v for k, v in setup.items() if k not in joined}, request.train)


def _of_file(
    request: TrainRequest, cls: type[EpisomeModel], options: dict[str, Any]
) -> tuple[Any, bool]:
    """Read one file, and say whether its values stay in it."""
    return _read_or_left(
        request,
        cls,
        lambda: read_cells(request.input, **options),
        lambda: read_cells(request.input, backed=True, **options),
    )


def _of_modalities(
    request: TrainRequest,
    cls: type[EpisomeModel],
    setup: Mapping[str, object],
    options: dict[str, Any],
) -> tuple[Any, bool]:
    """Read a file of several modalities, and say whether their values stay in it."""
    held = file_modalities(request.input, **options)
    if not held:  # 10x counts several kinds of features in one matrix, and cells have one kind
        found = read_any(request.input, **options)
        if not modalities_of(found):
            raise _not_two(request, "this file")
        return found, False
    name, target = shown_name(request.input), setup.get("target_modality")
    rna = str(setup.get("rna_modality") or rna_among(held, "rna") or "rna")

    def left() -> dict[str, AnnDataSource]:
        layers = {m: "layer" if m == rna else "target_layer" for m in held}
        wanted = held if target is None else [rna, str(target)]
        parts = {m: read_modality(request.input, m, backed=True, **options) for m in wanted}
        return {
            m: AnnDataSource(part, layer=setup.get(layers[m]), name=f"{name}[{m!r}]")  # type: ignore[arg-type]
            for m, part in parts.items()
        }

    return _read_or_left(request, cls, lambda: read_any(request.input, **options), left)


def _not_two(request: TrainRequest, what: str) -> UsageError:
    return UsageError(
        "E-U63",
        f"{request.method} is trained on cells of two modalities, and there is one in {what}",
        where=shown_name(request.input),
        fix='mudata.MuData({"rna": rna, "prot": prot}).write("cells.h5mu"), and pass cells.h5mu',
    )


def _read_or_left(
    request: TrainRequest,
    cls: type[EpisomeModel],
    read: Callable[[], Any],
    left: Callable[[], Any],
) -> tuple[Any, bool]:
    """Read cells into memory, or open them where they are: as asked, or as they do not fit."""
    if request.backed:
        return left(), True
    try:
        return read(), False
    except InputFileError as error:
        if not cls.reads_sources or not _is_too_large(error):
            raise
        return left(), True


def _is_too_large(error: InputFileError) -> bool:
    """Whether a file is larger than memory, and not broken or made to do harm."""
    return {"declared_bytes", "max_memory"} <= error.problems[0].details.keys()


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
    if not backed or request.backed or is_streamed(request.input):
        return []
    line = f"{request.input.name} does not fit into memory: its cells are read while training"
    logger.info("%s", line)
    return [line]


def _auto(request: TrainRequest) -> TrainResult:
    """Train the annotator that is best on held-out cells."""
    _refuse_streamed_comparison(request)
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
    from episome.models import AnnotationMixin

    wanted: dict[str, Any] = known_arguments(
        AnnotationMixin.setup_anndata, request.setup, "auto (set-up)", exactly=True
    )
    options: dict[str, Any] = {"max_memory": request.max_memory, "trust": request.trust}
    require_columns_of_file(request.input, _wanted_columns(request, wanted), **options)
    try:
        adata = read_cells(request.input, **options)
    except InputFileError as error:
        if not _is_too_large(error):
            raise
        fix = "name the model that is to be trained: most read their cells from the file"
        raise InputFileError(replace(error.problems[0], fix=fix)) from error
    name_cells(adata, shown_name(request.input))
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


def _refuse_streamed_comparison(request: TrainRequest) -> None:
    """Refuse what does not lead to one object in memory, and a split, which candidates lack."""
    splitter: Any = request.train.get("datasplitter_kwargs") or {}
    if splitter.get("split") is not None:
        raise UsageError(
            "E-U76",
            "split (--split) is given to the comparison of many models",
            where="auto",
            why="it holds out parts of its own, of one object in memory",
            fix="leave it out, or name the model that is to be trained",
        )
    if request.backed:
        raise UsageError(
            "E-U83",
            "the comparison of models reads all cells into memory",
            where="auto",
            why="every candidate sees them many times",
            fix="leave backed (--backed) out, or name the model that is to be trained",
        )
    if is_streamed(request.input):
        raise UsageError(
            "E-U83",
            f"models are compared in memory, and this is {kind_of_input(request.input)}",
            where=shown_name(request.input),
            why="every candidate sees all cells many times",
            fix="name the model that is to be trained, or pass one file of some of the cells, as "
            "many as fit into memory",
        )


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


def device_arguments(device: str) -> dict[str, object]:
    """Arguments of ``train`` for the name of a device, see ``episome.inference.pick_device``."""
    if device == "auto":
        return {"accelerator": "auto", "devices": "auto"}
    found = pick_device(device)
    accelerator = {"cuda": "gpu"}.get(found.type, found.type)
    return {"accelerator": accelerator, "devices": 1 if found.index is None else [found.index]}
