"""Kills at random moments: how many trainings end as they would have, and what checkpoints cost.

Trains a network on simulated cells through the command line, kills it with SIGKILL ``--kills``
times at random moments and gives the same command again until it ends; weights, history and
calibration are compared with those of a run that nobody killed. ``episome corpus build`` from
several files is killed in the same way, and every file of the corpus compared. Then the time of a
training with and without a folder for checkpoints is measured, alternately.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
from _common import load_average, write_json

from episome.data import simulate_cells
from episome.io import read_model_folder
from episome.models import MLPClassifier

# The interval is no option of the command: minutes are too long for a benchmark.
PROGRAM = """
import sys
from episome.train._survive import Survive
real = Survive.__init__
def init(self, *args, **kwargs):
    real(self, *args, **{**kwargs, "every_minutes": 0.005})
Survive.__init__ = init
from episome.cli import main
main()
"""


def command(folder: Path, name: str, epochs: int) -> list[str]:
    """Return the command that trains."""
    words = ["train", "mlp", str(folder / "cells.h5ad"), "--labels-key", "cell_type"]
    words += ["--max-epochs", str(epochs), "--threads", "1", "--device", "cpu"]
    return [sys.executable, "-c", PROGRAM, *words, "-q", "-o", str(folder / name)]


def build(folder: Path, name: str) -> list[str]:
    """Return the command that builds a corpus."""
    words = ["corpus", "build", *map(str, sorted(folder.glob("part*.h5ad")))]
    words += ["--labels-key", "cell_type", "--donor-key", "donor_id", "-q"]
    return [sys.executable, "-m", "episome", *words, "-o", str(folder / name)]


def kill_all(
    make: Callable[[str], list[str]], folder: Path, kills: int, seconds: float, seed: int
) -> dict[str, int]:
    """Kill a command at random moments, then let it end; it writes ``folder / "killed"``."""
    draws, killed, ended = random.Random(seed), 0, 0
    target = folder / "killed"
    while killed < kills:
        process = subprocess.Popen(make("killed"))
        try:
            code = process.wait(draws.uniform(0.3, 1.0) * seconds)
            if code:
                raise subprocess.CalledProcessError(code, process.args)
            shutil.rmtree(target)
            ended += 1
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            if target.exists():  # it was written already
                shutil.rmtree(target)
                ended += 1
            else:
                killed += 1
    subprocess.run(make("killed"), check=True)
    return {"killed": killed, "ended between": ended}


def same_files(one: Path, other: Path) -> dict[str, bool]:
    """Compare two folders, file by file."""
    names = [
        sorted(str(p.relative_to(f)) for p in f.rglob("*") if p.is_file()) for f in (one, other)
    ]
    shared = set(names[0]) & set(names[1])
    return {
        "names": names[0] == names[1],
        "bytes": all((one / n).read_bytes() == (other / n).read_bytes() for n in shared),
    }


def corpus(folder: Path, kills: int) -> dict[str, object]:
    """Build a corpus of several files, undisturbed and killed."""
    folder.mkdir()
    for i in range(6):
        cells = simulate_cells(12_000, 1_500, n_types=5, n_donors=6, seed=i)
        cells.obs_names = [f"{i}-{name}" for name in cells.obs_names]
        cells.obs["donor_id"] = [f"{i}-{d}" for d in cells.obs["batch"]]
        cells.write_h5ad(folder / f"part{i}.h5ad")
    started = time.perf_counter()
    subprocess.run(build(folder, "whole"), check=True)
    seconds = time.perf_counter() - started
    counts = kill_all(lambda name: build(folder, name), folder, kills, seconds, seed=1)
    return {
        "seconds of a whole build": round(seconds, 1),
        **{f"builds {k}": v for k, v in counts.items()},
        "the same corpus": same_files(folder / "whole", folder / "killed"),
        "left beside it": [p.name for p in folder.iterdir() if p.suffix != ".h5ad"],
    }


def same(one: Path, other: Path) -> dict[str, bool]:
    """Compare two model folders."""
    first, second = read_model_folder(one), read_model_folder(other)
    return {
        "weights": first.tensors.keys() == second.tensors.keys()
        and all(np.array_equal(v, second.tensors[k]) for k, v in first.tensors.items()),
        "history": first.history.keys() == second.history.keys()
        and all(np.array_equal(v, second.history[k]) for k, v in first.history.items()),
        "confidence": first.manifest["confidence"] == second.manifest["confidence"],
    }


def cost(n_cells: int, epochs: int, repeats: int) -> dict[str, list[float]]:
    """Return seconds of fits with and without a folder, alternately."""
    cells = simulate_cells(n_cells, 500, n_types=5, n_donors=6)
    MLPClassifier.setup_anndata(cells, labels_key="cell_type")
    found: dict[str, list[float]] = {"without": [], "with": []}
    for i in range(repeats):
        for kind in found:
            with tempfile.TemporaryDirectory() as folder:
                keeps = {"checkpoint_dir": f"{folder}/{i}"} if kind == "with" else {}
                model = MLPClassifier(cells)
                started = time.perf_counter()
                model.train(max_epochs=epochs, accelerator="cpu", refit=False, **keeps)
                found[kind].append(round(time.perf_counter() - started, 3))
    return found


def main() -> None:
    """Run the benchmark."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--json", type=Path, default=None, help="write the figures here")
    arguments.add_argument("--kills", type=int, default=20)
    arguments.add_argument("--epochs", type=int, default=40)
    arguments.add_argument("--cells", type=int, default=3000)
    arguments.add_argument("--repeats", type=int, default=5)
    options = arguments.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["EPISOME_HOME"] = str(folder / "home")
        cells = simulate_cells(options.cells, 500, n_types=5, n_donors=6)
        cells.write_h5ad(folder / "cells.h5ad")
        started = time.perf_counter()
        subprocess.run(command(folder, "whole", options.epochs), check=True)
        seconds = time.perf_counter() - started
        counts = kill_all(
            lambda name: command(folder, name, options.epochs),
            folder,
            options.kills,
            seconds,
            seed=0,
        )
        result = {
            "seconds of a whole run": round(seconds, 1),
            **counts,
            "the same": same(folder / "whole", folder / "killed"),
            **corpus(folder / "corpus", options.kills),
            "cost": cost(options.cells, 10, options.repeats),
            "load": load_average(),
        }
    for key, value in result.items():
        sys.stdout.write(f"{key}: {value}\n")
    write_json(options.json, [result])


if __name__ == "__main__":
    main()
