"""Model folders from the files of other programs, and the other way; plugins know the formats."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from episome import plugins
from episome.data import read_cells
from episome.errors import InputFileError, UsageError, did_you_mean
from episome.io import check_model_output, ensure_free, find_model
from episome.jobs._arguments import known_arguments

if TYPE_CHECKING:
    from episome.plugins import ConverterSpec


@dataclass(frozen=True, slots=True)
class ConvertModelRequest:
    """What ``episome models convert`` is asked for.

    Parameters
    ----------
    source
        File or folder of another program; for an export a model folder, or its name in the cache.
    output
        What is written.
    format
        Name of a converter, of ``episome.plugins.converters()``.
    direction
        ``"import"`` or ``"export"``.
    arguments
        Of the converter, such as ``genes`` and ``labels``.
    data
        File of cells, for formats that need the cells of a model.
    overwrite
        Replace an existing output.
    """

    source: Path
    output: Path
    format: str
    direction: str = "import"
    arguments: Mapping[str, object] = field(default_factory=dict)
    data: Path | None = None
    overwrite: bool = False


@dataclass(frozen=True, slots=True)
class ConvertedModel:
    """What was written: the place, the class of the model, and its numbers."""

    output: Path
    model: str
    n_genes: int
    n_classes: int


def models_convert(request: ConvertModelRequest) -> ConvertedModel:
    """Turn a file of another program into a model folder, or a model folder into one.

    Parameters
    ----------
    request
        What to do.

    Returns
    -------
    What was written.

    Raises
    ------
    UsageError
        No installed plugin knows the format (E-U140), or the converter does not take an argument
        (E-U24), or wants cells (E-U141).
    InputFileError
        The source is not there (E-F01), or the output is (E-F26).
    EpisomeError
        Of the converter: nothing is written then.
    """
    spec = converter_of(request.format, request.direction)
    importing = request.direction == "import"
    if importing:
        check_model_output(request.output, overwrite=request.overwrite)
        _require_source(request.source)
    else:
        ensure_free(request.output, overwrite=request.overwrite)
    convert = plugins.load_object(spec.target, plugin=spec.plugin)
    arguments = known_arguments(convert, request.arguments, spec.name, option="--set")
    arguments |= _cells(request, spec, convert)
    if importing:
        model = convert(request.source, **arguments)
        model.save(request.output, overwrite=request.overwrite)
    else:
        from episome.models import load

        model = load(find_model(request.source), accelerator="cpu")
        convert(model, request.output, **arguments)
    labels = getattr(model, "labels", None)
    return ConvertedModel(
        request.output,
        type(model).__name__,
        len(model.features),
        0 if labels is None else len(labels),
    )


def converter_of(name: str, direction: str) -> ConverterSpec:
    """Return the converter of a format.

    Parameters
    ----------
    name
        Of the format.
    direction
        ``"import"`` or ``"export"``.

    Raises
    ------
    UsageError
        There is none (E-U140).
    """
    known = {n: s for n, s in plugins.converters().items() if s.direction == direction}
    if name in known:
        return known[name]
    does = "reads" if direction == "import" else "writes"
    raise UsageError(
        "E-U140",
        f"no installed plugin {does} models of the format {name!r}",
        why=f"known are {', '.join(sorted(known)) or 'none'}",
        fix=did_you_mean(name, list(known)) or "install the plugin that knows it",
    )


def _require_source(path: Path) -> None:
    if not path.exists():
        raise InputFileError(
            "E-F01", "there is no such file or folder", where=str(path), fix="look at its name"
        )


def _cells(request: ConvertModelRequest, spec: ConverterSpec, convert: Any) -> dict[str, object]:
    """Return the cells that a converter is given; refuse them where it has no use for them."""
    parameter = inspect.signature(convert).parameters.get("adata")
    if request.data is not None and parameter is not None:
        return {"adata": read_cells(request.data)}
    if request.data is None and (
        parameter is None or parameter.default is not inspect.Parameter.empty
    ):
        return {}
    wants = parameter is not None
    raise UsageError(
        "E-U141",
        f"the format {spec.name} {'needs the cells of the model' if wants else 'has no cells'}",
        where=str(request.source),
        fix="pass data= (--data FILE)" if wants else "leave data= (--data) out",
    )
