"""A study that is killed at random moments ends with the results of one that was not.

Run ``python tests/benchmarks/benchmark_kills.py``. The runner and all of its processes are killed
(SIGKILL) ten times after a random time, each time started again with the same command; what the
store then holds is compared with an uninterrupted one: runs, scores, predictions, no run lost or
done twice.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from episome.benchmark import ResultStore

STUDY = """
task = "annotation"
models = ["centroid", "logreg", "knn", "linear", "markers", "correlation"]
seeds = [0, 1, 2]

[[data]]
name = "simulated"
source = "simulated-types"
labels_key = "cell_type"
donor_key = "donor_id"

[[splits]]
by = "group"
"""


def command(study: Path, output: Path) -> list[str]:
    """Return what is run, again and again."""
    return [
        sys.executable,
        "-m",
        "episome",
        "benchmark",
        "run",
        str(study),
        "-o",
        str(output),
        "-q",
    ]


def killed(study: Path, output: Path, seconds: float) -> bool:
    """Start the study, and kill it with all of its processes after a time; False if it ended."""
    process = subprocess.Popen(
        command(study, output),
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return True
    return False


def differences(one: ResultStore, two: ResultStore) -> list[str]:
    """Say in what two stores differ, but for times and memory."""
    tables = [s.table().set_index(["run", "condition", "metric"]).sort_index() for s in (one, two)]
    found = []
    if not tables[0].index.equals(tables[1].index):
        return [f"rows: {len(tables[0])} and {len(tables[1])}"]
    if tables[0].index.has_duplicates:
        found.append("a run is there twice")
    values = [t["value"].to_numpy(dtype=float) for t in tables]
    if not np.array_equal(*values, equal_nan=True):
        found.append("scores")
    if list(tables[0]["status"]) != list(tables[1]["status"]):
        found.append("how runs ended")
    for run in one.runs():
        said = one.predictions(run), two.predictions(run)
        if said[0] is None or said[1] is None or not said[0].equals(said[1]):
            found.append(f"predictions of {run}")
    return found


def main() -> None:
    """Kill, go on, compare."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--kills", type=int, default=10)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--most", type=float, default=25.0, help="seconds before a kill at most")
    args = options.parse_args()
    rng = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        study = folder / "kills.toml"
        study.write_text(STUDY)
        subprocess.run(command(study, folder / "whole"), check=True)
        kills, started = 0, time.monotonic()
        while kills < args.kills:
            after = rng.uniform(1.0, args.most)
            if not killed(study, folder / "killed", after):
                sys.stdout.write(f"ended by itself before kill {kills + 1}\n")
                break
            kills += 1
            n = len(ResultStore(folder / "killed").runs()) if (folder / "killed").exists() else 0
            sys.stdout.write(f"kill {kills} after {after:.1f} s: {n} runs are there\n")
            sys.stdout.flush()
        subprocess.run(command(study, folder / "killed"), check=True)
        found = differences(ResultStore(folder / "whole"), ResultStore(folder / "killed"))
        seconds = time.monotonic() - started
    sys.stdout.write(f"{kills} kills in {seconds:.0f} s; differences: {found or 'none'}\n")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
