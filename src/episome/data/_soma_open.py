"""SOMA experiments, opened; what `tiledbsoma` says on the way in the one form of messages."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from episome.data._read_kind import is_soma
from episome.data._read_names import first_line, shown
from episome.errors import InputFileError, MissingDependencyError, UsageError

if TYPE_CHECKING:
    from tiledbsoma import Experiment
    from tiledbsoma.options import SOMATileDBContext

#: TileDB's own take a gigabyte for every column that is read, and ten for everything.
_CONFIG: dict[str, str | float] = {
    "soma.init_buffer_bytes": 64 << 20,
    "sm.mem.total_budget": 1 << 30,
}


def require_tiledbsoma() -> None:
    """Refuse to go on without the package.

    Raises
    ------
    MissingDependencyError
        E-P02, naming the extra.
    """
    if find_spec("tiledbsoma") is None:
        raise MissingDependencyError(
            "E-P02",
            "SOMA experiments are read by tiledbsoma, which is not installed",
            fix='pip install "episome[census]"',
        )


def open_experiment(
    experiment: str | Path | Experiment, context: SOMATileDBContext | None
) -> tuple[Any, str]:
    """Return an open experiment and how messages name it."""
    import tiledbsoma

    if isinstance(experiment, tiledbsoma.Experiment):
        return experiment, experiment.uri.rstrip("/").rpartition("/")[2]
    if not isinstance(experiment, str | Path):
        raise UsageError(
            "E-U07",
            f"cells cannot be read from a {type(experiment).__name__}",
            why="a path or an open tiledbsoma.Experiment is expected",
            fix='for example SomaSource("experiment.soma")',
        )
    address = str(experiment)
    name = address.rstrip("/").rpartition("/")[2] or address
    if "://" not in address and not is_soma(address):
        there = Path(address).exists()
        raise InputFileError(
            "E-F06" if there else "E-F07",
            "there is no SOMA experiment here" if there else "there is no such folder",
            where=shown(Path(address)),
            why="the folder has no __tiledb_group.tdb" if there else None,
            fix="pass the folder of an experiment",
        )
    try:
        found = tiledbsoma.open(
            address, context=context or tiledbsoma.SOMATileDBContext(tiledb_config=_CONFIG)
        )
    except tiledbsoma.SOMAError as error:
        raise InputFileError(
            "E-F01",
            "the experiment cannot be opened as SOMA",
            where=name,
            why=first_line(error),
            fix="download or write it again",
        ) from error
    if not isinstance(found, tiledbsoma.Experiment):
        kind = type(found).__name__
        found.close()
        raise InputFileError(
            "E-F06",
            f"this is a {kind} of SOMA, and no experiment",
            where=name,
            fix="pass the experiment: the folder with obs and ms",
        )
    return found, name
