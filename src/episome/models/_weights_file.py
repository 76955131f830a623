"""Files of foreign weights: what is read of any, and the words that refuse one."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from episome.errors import InputFileError, ModelFileError, UntrustedModelError

if TYPE_CHECKING:
    import torch

_RESAVE = (
    "where you trust it, load it with the program that wrote it, save "
    "torch.save(module.state_dict(), 'weights.pt') there and import weights.pt"
)


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
    return ": ".join([type(error).__name__, *str(error).strip().splitlines()[:1]])
