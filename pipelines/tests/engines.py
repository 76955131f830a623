"""The engines of pipelines: where they are, and how they are called."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

#: Folder of the programs of the engines; `nox -s pipelines` names it.
ENGINES = "EPISOME_ENGINES"


def engine(name: str) -> str:
    """Return the path of a program of an engine, or skip the test."""
    place = os.environ.get(ENGINES, "")
    found = shutil.which(name, path=os.pathsep.join(p for p in (place, os.environ["PATH"]) if p))
    if found is None:
        pytest.skip(f"{name} is not installed (nox -s pipelines installs what there is)")
    if name == "nextflow":
        # Its package is a launcher that fetches the program, where there is a network.
        offline = {**os.environ, "NXF_OFFLINE": "true"}
        done = subprocess.run(
            [found, "-version"], env=offline, capture_output=True, timeout=60, check=False
        )
        if done.returncode:
            pytest.skip("the launcher of Nextflow is there, and Nextflow itself is not")
    return found


def run(*arguments: object, cwd: Path, code: int = 0) -> str:
    """Run a program that finds episome's; return what it said."""
    own = str(Path(sys.executable).parent)
    env = {**os.environ, "PATH": os.pathsep.join((own, os.environ["PATH"]))}
    done = subprocess.run(
        list(map(str, arguments)),
        cwd=cwd,
        env=env,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    said = done.stdout + done.stderr
    assert done.returncode == code or (code and done.returncode), said
    return said
