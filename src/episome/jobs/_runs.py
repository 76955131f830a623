"""Whether the same command made an output before, from the same inputs: then nothing is to do."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import episome
from episome import plugins, settings
from episome.errors import ResourceError
from episome.io import CARD, EVALUATION, SEALED, write_file
from episome.log import get_logger

logger = get_logger(__name__)

FORMAT = 1
#: Runs that are remembered.
KEPT = 500


@dataclass(frozen=True)
class Run:
    """One run of a command that writes an output.

    Make it before the inputs are read: a file that changes later is another input. What was run
    is kept in the cache folder, so nothing appears beside the output.

    Parameters
    ----------
    command
        Name of the command.
    output
        File or folder that it writes.
    arguments
        What else decides the result; anything that has a text.
    inputs
        Files and folders that it reads; ``None`` for one that was not given.
    """

    command: str
    output: Path
    arguments: Mapping[str, object]
    inputs: Sequence[Path | None]

    def __post_init__(self) -> None:
        # The state of the inputs is that of now.
        _ = self.key

    @cached_property
    def key(self) -> str:
        """Digest of everything that decides the result."""
        versions = {s.distribution: s.version for s in plugins.plugin_status()}
        facts = (
            FORMAT,
            self.command,
            dict(self.arguments),
            [None if p is None else (str(p.resolve()), file_state(p)) for p in self.inputs],
            {**versions, "episome": episome.__version__},
        )
        text = json.dumps(facts, sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()

    def answer(self) -> dict[str, Any] | None:
        """Return what the same run answered, where its output is as it left it; else ``None``."""
        try:
            kept = json.loads(self._record.read_text(encoding="utf-8"))
            same = kept["key"] == self.key and kept["output"] == file_state(self.output)
            answer = kept["answer"] if same and kept["output"] else None
        except (OSError, ValueError, KeyError, TypeError):  # none, or not one of ours
            return None
        return answer if isinstance(answer, dict) else None

    def remember(self, answer: Mapping[str, Any]) -> None:
        """Keep what this run answered.

        Parameters
        ----------
        answer
            Plain data for JSON.
        """
        kept = {"key": self.key, "output": file_state(self.output), "answer": dict(answer)}
        try:
            write_file(self._record, json.dumps(kept, default=str).encode(), overwrite=True)
            _forget(self._record.parent)
        except (OSError, ResourceError) as error:
            # The output is there; only the same command again will not know it.
            logger.debug("the run is not remembered: %s", error)

    @property
    def _record(self) -> Path:
        name = hashlib.sha256(str(self.output.resolve()).encode()).hexdigest()
        return settings.cache_folder("runs") / f"{name[:32]}.json"


def file_state(path: Path) -> list[list[object]]:
    """Name, size, times and number of every file; empty where there is none.

    The time of the last change of the entry cannot be set back, as the time of writing can. Cards
    and scores of a model folder are outside its seal, and left out here.
    """
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    found = []
    beside = {path / CARD, path / EVALUATION} if (path / SEALED[1]).is_file() else set()
    for file in (f for f in files if f not in beside):
        try:
            stat = file.stat()
        except OSError:
            continue
        name = file.relative_to(path).as_posix()
        found.append([name, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino])
    return found


def _forget(folder: Path) -> None:
    """Remove the oldest records."""
    records = sorted(folder.glob("*.json"), key=lambda p: p.stat().st_mtime_ns)
    for old in records[:-KEPT]:
        old.unlink(missing_ok=True)
