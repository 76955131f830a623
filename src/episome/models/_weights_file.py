"""Files of foreign weights: what is read of any, and the words that refuse one."""

from __future__ import annotations

import contextlib
import hashlib
import pickle
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from episome.errors import InputFileError, ModelFileError, UntrustedModelError
from episome.models._inert import inert_classes, inert_dtype, number_from_bytes

if TYPE_CHECKING:
    import numpy as np
    import torch

_OPTIMISERS = (
    "adadelta.Adadelta",
    "adagrad.Adagrad",
    "adam.Adam",
    "adamax.Adamax",
    "adamw.AdamW",
    "nadam.NAdam",
    "radam.RAdam",
    "rmsprop.RMSprop",
    "sgd.SGD",
)
_SCHEDULERS = (
    "ConstantLR",
    "CosineAnnealingLR",
    "CosineAnnealingWarmRestarts",
    "ExponentialLR",
    "LinearLR",
    "MultiStepLR",
    "OneCycleLR",
    "ReduceLROnPlateau",
    "StepLR",
)
_REFUSED = re.compile(r"GLOBAL ([\w.]+)")
_RESAVE = (
    "where you trust it, load it with the program that wrote it, save "
    "torch.save(module.state_dict(), 'weights.pt') there and import weights.pt"
)


class WeightsContent(NamedTuple):
    """What a file of weights holds.

    Parameters
    ----------
    tensors
        By name.
    settings
        Plain settings beside them; empty for bare weights.
    facts
        Of :meth:`WeightsFile.facts`.
    """

    tensors: Mapping[str, torch.Tensor]
    settings: Mapping[str, Any]
    facts: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class WeightsFile:
    """A file of weights that another program wrote.

    Parameters
    ----------
    path
        Where it is.
    """

    path: Path

    @classmethod
    def at(cls, path: str | Path) -> Self:
        """Return the file at a path.

        Raises
        ------
        InputFileError
            There is no such file (E-F07).
        """
        path = Path(path)
        if not path.is_file():
            what = "the path is a folder" if path.is_dir() else "there is no such file"
            raise InputFileError("E-F07", what, where=str(path), fix="pass the file of weights")
        return cls(path)

    @property
    def is_safetensors(self) -> bool:
        """Whether it says that it is ``.safetensors``."""
        return self.path.suffix == ".safetensors"

    def safetensors(self) -> dict[str, torch.Tensor]:
        """Return the tensors of a ``.safetensors`` file.

        Raises
        ------
        ModelFileError
            It cannot be read (E-M31).
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(self.path)
        except (SafetensorError, ValueError, OSError) as error:
            raise self.unreadable(str(error)) from error

    def content(self) -> WeightsContent:
        """Return tensors and plain settings of a torch or ``.safetensors`` file; nothing is run.

        Raises
        ------
        UntrustedModelError
            The file names functions or classes other than optimisers and schedules of torch and
            numbers of numpy (E-M30).
        ModelFileError
            It cannot be read, or holds no tensors (E-M31).
        """
        content: Any = self.safetensors() if self.is_safetensors else self._torch()
        named: Mapping[str, Any] = content if isinstance(content, Mapping) else {}
        state: Any = named.get("state_dict", named.get("model_state_dict", named))
        import torch

        tensors = {k: v for k, v in state.items() if isinstance(v, torch.Tensor)}
        if not tensors or not all(isinstance(k, str) for k in tensors):
            why = "it holds no tensors by name"
            raise self.unreadable(why)
        lightning = content if "state_dict" in content else {}
        settings = lightning.get("hyper_parameters")
        return WeightsContent(
            tensors,
            settings if isinstance(settings, Mapping) else {},
            self.facts(lightning),
        )

    def _torch(self) -> Mapping[str, Any]:
        import torch

        known = getattr(torch.serialization, "safe_globals", None)  # torch 2.5 and later
        with known(_stand_ins()) if known else contextlib.nullcontext():
            try:
                names = _unsafe_globals(self.path)
                if not names:
                    found: Mapping[str, Any] = torch.load(
                        self.path, map_location="cpu", weights_only=True
                    )
                    return found
            except Exception as error:  # noqa: BLE001 - a damaged file raises anything
                refused = isinstance(error, pickle.UnpicklingError)
                names = _REFUSED.findall(str(error)) if refused else []
                if not names:
                    raise self.unreadable(error) from None
        raise self.untrusted(names)

    def facts(self, content: Mapping[str, object]) -> dict[str, object]:
        """Return the name and the SHA-256 of the file, and how long the training was.

        Parameters
        ----------
        content
            What a Lightning file holds; ``epoch`` and ``global_step`` are taken where they are
            whole numbers.
        """
        with self.path.open("rb") as handle:
            digest = hashlib.file_digest(handle, "sha256").hexdigest()
        said = {k: content.get(k) for k in ("epoch", "global_step")}
        counted = {k: v for k, v in said.items() if isinstance(v, int)}
        return {"file": self.path.name, "sha256": digest, **counted}

    def unreadable(self, why: str | Exception) -> ModelFileError:
        """Return the error of a file that is damaged or something else (E-M31).

        Parameters
        ----------
        why
            In words, or what torch raised; raise the result ``from None`` then, since torch's own
            text advises to load the file without protection.
        """
        return ModelFileError(
            "E-M31",
            "the file cannot be read as weights",
            where=str(self.path),
            why=(why if isinstance(why, str) else _said_of(why))[:200],
            fix="pass a Lightning checkpoint, a state dict that torch.save wrote, or .safetensors",
        )

    def untrusted(self, names: Sequence[str], *, fix: str = _RESAVE) -> UntrustedModelError:
        """Return the error of a file that would run code (E-M30).

        Parameters
        ----------
        names
            Functions and classes that it names.
        fix
            What to do where the file is trusted.
        """
        return UntrustedModelError(
            "E-M30",
            "the file names code that loading it would run",
            where=str(self.path),
            count=len(names),
            examples=sorted(names),
            why="nothing of it was run",
            fix=fix,
        )


def _said_of(error: Exception) -> str:
    if isinstance(error, pickle.UnpicklingError):
        # torch's own text is not for users: it advises to load without protection.
        return "its content is no plain data"
    said = ": ".join([type(error).__name__, *str(error).strip().splitlines()[:1]])
    return f"torch did not write it, or it is damaged ({said})"


def _unsafe_globals(path: Path) -> list[str]:
    """Names that torch would refuse; an empty list where this torch cannot tell beforehand."""
    import torch

    find = getattr(torch.serialization, "get_unsafe_globals_in_checkpoint", None)
    if find is None:
        return []
    try:
        return list(find(path))
    except ValueError:  # the format from before torch 1.6
        return []


def _stand_ins() -> list[object]:
    """Return inert things under the names that honest checkpoints hold beside tensors.

    Classes of optimisers and schedules are settings there, never used: empty classes stand in for
    them. Numbers of numpy are rebuilt from their bytes.
    """
    names = [f"torch.optim.{name}" for name in _OPTIMISERS]
    names += [f"torch.optim.lr_scheduler.{name}" for name in _SCHEDULERS]
    scalars = (_scalar_of(package) for package in ("numpy.core", "numpy._core"))
    return [*inert_classes(names), inert_dtype(), *scalars]


def _scalar_of(package: str) -> object:
    def scalar(kind: object, data: bytes) -> np.generic:
        return number_from_bytes(kind, data)

    # torch knows what it allows by these names, in some versions by the one, in others the other.
    scalar.__module__, scalar.__qualname__ = f"{package}.multiarray", "scalar"
    return scalar


def require_finite_weights(tensors: Mapping[str, Any], where: str) -> None:
    """Refuse foreign weights of which some are no numbers.

    Parameters
    ----------
    tensors
        By name.
    where
        The file.

    Raises
    ------
    ModelFileError
        E-M07.
    """
    import torch

    if bad := [k for k, v in tensors.items() if not torch.isfinite(v).all()]:
        raise ModelFileError(
            "E-M07",
            "weights that are not finite",
            where=where,
            count=len(bad),
            total=len(tensors),
            examples=bad[:3],
            why="every answer would be meaningless",
            fix="take another checkpoint",
        )
