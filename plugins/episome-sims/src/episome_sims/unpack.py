"""Tensors and plain data of a torch file; run as a program it leaves them in a folder.

torch's restricted reader builds nothing but what it is told. Here it is told inert classes under
the names that honest checkpoints hold beside tensors: nothing of those packages is imported or
run. Names of cells, which the published code saves too, are left behind.
"""

from __future__ import annotations

import contextlib
import json
import pickle
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch

from episome.models import inert_classes, inert_dtype, number_from_bytes

ENCODER = "sklearn.preprocessing._label.LabelEncoder"
_OPTIMISERS = ("adam.Adam", "adamw.AdamW", "sgd.SGD", "rmsprop.RMSprop", "nadam.NAdam")
_SCHEDULERS = ("ReduceLROnPlateau", "StepLR", "CosineAnnealingLR", "ExponentialLR")
_CLASSES = (
    ENCODER,
    *(f"torch.optim.{name}" for name in _OPTIMISERS),
    *(f"torch.optim.lr_scheduler.{name}" for name in _SCHEDULERS),
)
_NUMPY = ("numpy.core.multiarray", "numpy._core.multiarray")
#: Exit code where a file names something else.
REFUSED = 3
#: Every name that a file may hold beside those of torch.
NAMES = frozenset(
    {*_CLASSES, "numpy.dtype", "numpy.ndarray"}
    | {f"{place}.{name}" for place in _NUMPY for name in ("_reconstruct", "scalar")}
)
#: Settings that are read; everything else of a file stays there.
SETTINGS = (
    "input_dim", "output_dim", "n_d", "n_a", "n_steps", "gamma", "n_independent", "n_shared",
    "epsilon", "virtual_batch_size", "momentum", "mask_type", "lambda_sparse",
)  # fmt: skip
_FACTS = ("epoch", "global_step")


def refused_names(path: Path) -> list[str]:
    """Names that torch would not build; found by reading, nothing is run.

    Raises
    ------
    RuntimeError, pickle.UnpicklingError
        It is no file of torch.
    """
    find = getattr(torch.serialization, "get_unsafe_globals_in_checkpoint", None)
    if find is not None:
        with contextlib.suppress(ValueError):  # the format from before torch 1.6
            return list(find(path))
    try:
        torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # Here torch tells only the first.
        if named := _named_in(error):
            return named
        raise
    return []


def _named_in(error: Exception) -> list[str]:
    return re.findall(r"GLOBAL ([\w.]+)", str(error))


def plain_content(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, object]]:
    """Return the tensors of a file by name, and what it says beside them, as plain data."""
    content = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(content, Mapping):
        return {}, {}
    state = content.get("state_dict", content)
    if not isinstance(state, Mapping):
        return {}, {}
    tensors = {k: v for k, v in state.items() if isinstance(v, torch.Tensor)}
    said = content.get("hyper_parameters")
    settings = said if isinstance(said, Mapping) else {}
    found: dict[str, object] = {
        "settings": {k: _number(settings[k]) for k in SETTINGS if _number(settings.get(k))},
        "genes": _texts(settings.get("genes")),
        "labels": _texts(_classes(settings)),
        "facts": {k: content[k] for k in _FACTS if isinstance(content.get(k), int)},
    }
    return {str(k): v for k, v in tensors.items()}, found


def _classes(settings: Mapping[str, object]) -> object:
    """Return the classes in the order of the outputs, from the encoder or a list."""
    encoder = settings.get("label_encoder")
    return getattr(encoder, "classes_", None) if encoder is not None else settings.get("labels")


def _number(value: object) -> object:
    """Return a plain number or word; ``None`` for everything else."""
    if isinstance(value, Scalar):
        value = value.value
    return value if isinstance(value, int | float | str) else None


def _texts(value: object) -> list[str] | None:
    if isinstance(value, Array):
        value = value.values
    if not isinstance(value, Iterable) or isinstance(value, str | Mapping | torch.Tensor):
        return None
    items = list(value)
    return [str(v) for v in items] if items and all(isinstance(v, str) for v in items) else None


# --- stand-ins ------------------------------------------------------------------------------


class Scalar:
    """A number of numpy, rebuilt from its bytes."""

    def __init__(self, kind: object, data: bytes) -> None:
        self.value = number_from_bytes(kind, data).item()


class Array:
    """An array of numpy: its values where they are objects, else nothing."""

    values: list[object] | None = None

    def __setstate__(self, state: tuple[object, ...]) -> None:
        data = state[-1]
        self.values = data if isinstance(data, list) else _strings(state)


def _strings(state: tuple[object, ...]) -> list[object] | None:
    """Return the text of an array of fixed width, else ``None``."""
    _, _, kind, _, data = state
    code = getattr(kind, "code", "")
    if not isinstance(data, bytes) or not re.fullmatch(r"U\d+", code):
        return None
    width = 4 * int(code[1:])
    cut = [data[i : i + width] for i in range(0, len(data), width)] if width else []
    form = "utf-32-be" if getattr(kind, "order", "<") == ">" else "utf-32-le"
    return [part.decode(form).rstrip("\0") for part in cut]


def stand_ins() -> list[object]:
    """Return inert things under the names that a file may hold."""
    known: list[object] = [*inert_classes(_CLASSES), inert_dtype()]
    array = type("ndarray", (Array,), {"__module__": "numpy"})
    known.append(array)
    for place in _NUMPY:
        known += [
            _named(lambda *_: array(), place, "_reconstruct"),
            _named(Scalar, place, "scalar"),
        ]
    return known


def _named(make: object, place: str, name: str) -> object:
    """Return a function under the name by which torch knows what it allows."""

    def function(*arguments: object) -> object:
        return make(*arguments)

    function.__module__, function.__name__, function.__qualname__ = place, name, name
    return function


def main(path: str, folder: str) -> None:
    """Read a file and leave ``tensors.safetensors`` and ``found.json`` in a folder."""
    from safetensors.torch import save_file

    try:
        with torch.serialization.safe_globals(stand_ins()):
            tensors, found = plain_content(Path(path))
    except pickle.UnpicklingError as error:
        # torch's own text advises to load the file without protection: only the name is told.
        sys.stderr.write(" ".join(_named_in(error)))
        sys.exit(REFUSED)
    # Layers share tensors: every name gets its own copy, which the format wants.
    copies = {k: v.detach().clone().contiguous() for k, v in tensors.items()}
    save_file(copies, Path(folder) / "tensors.safetensors")
    (Path(folder) / "found.json").write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
