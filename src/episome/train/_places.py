"""Where the folder of a training run keeps what; torch is not needed to know."""

from __future__ import annotations

from pathlib import Path

CHECKPOINT, FINISHED, SEAL = "checkpoint", "finished-{}", "seal.json"
#: Names of what a training can go on from; that of an ensemble is in the folders of its members.
WORK = (CHECKPOINT, FINISHED.format(1), FINISHED.format(2))


def holds_work(path: Path) -> bool:
    """Whether a training can go on from a folder.

    Parameters
    ----------
    path
        Folder of a run, or of the runs of an ensemble.
    """
    places = (path, *path.glob("member-*"))
    return any((place / name / SEAL).is_file() for place in places for name in WORK)
