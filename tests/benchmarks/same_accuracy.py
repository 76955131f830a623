"""The sparse path of TabNet trains to the same macro F1 as the textbook form, over five seeds.

Run ``python tests/benchmarks/same_accuracy.py FOLDER``, the folder of the public sets. Every set
is split as in the study ``sctab``; SCTab is trained with compiled kernels and, in a process of
its own, with ``EPISOME_NUMBA=0``: plain torch operations. Inputs, draws and settings are the same.
How many genes the masks of the trained model hold stands beside: what the sparse path counts on.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

SETS = ("Kang donors", "OneK1K donors", "Zeisel subtypes")

ONE = """
import json, sys, time, warnings
warnings.simplefilter("ignore")
import logging
logging.disable(logging.WARNING)
from pathlib import Path
import torch
from episome import settings
from episome.benchmark import load_data, parts_of
from episome.metrics import macro_f1
from episome_sctab import SCTab
from episome_sctab.studies import sctab

torch.set_num_threads(1)
folder, name, seed = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
entry = {e.name: e for part in sctab("small") for e in part.data}[name]
settings.seed = seed
data = load_data(entry, folder)
_, train, test = next(iter(parts_of(data, entry.splits[0], seed)))
cells, held = data.cells[train].copy(), data.cells[test].copy()
donors = "episome_donor" if "episome_donor" in cells.obs else None
SCTab.setup_anndata(cells, labels_key="episome_label", donor_key=donors)
model = SCTab(cells)
started = time.process_time()
model.train()
seconds = time.process_time() - started
f1 = macro_f1(held.obs["episome_label"].astype(str), model.predict(held).astype(str))
masks = model.get_feature_mask(held)
print(json.dumps({"f1": float(f1), "cpu": seconds, "support": masks.nnz / masks.shape[0],
                  "genes": masks.shape[1]}))
"""


def one(folder: Path, name: str, seed: int, *, compiled: bool) -> dict[str, float]:
    """Train and score in a process of its own."""
    env = {**os.environ, "EPISOME_NUMBA": "1" if compiled else "0", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", ONE, str(folder), name, str(seed)]
    done = subprocess.run(command, env=env, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def main() -> None:
    """Train, compare, print."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("folder", type=Path)
    options.add_argument("--sets", nargs="+", default=list(SETS))
    options.add_argument("--seeds", type=int, default=5)
    options.add_argument("--json", type=Path, default=None)
    args = options.parse_args()
    results, started = [], time.monotonic()
    for name in args.sets:
        rows = []
        for seed in range(args.seeds):
            fast, dense = (one(args.folder, name, seed, compiled=c) for c in (True, False))
            rows.append((fast, dense))
            results.append({"set": name, "seed": seed, "fast": fast, "dense": dense})
        gap = np.array([f["f1"] - d["f1"] for f, d in rows])
        cpu = np.mean([d["cpu"] for _, d in rows]) / np.mean([f["cpu"] for f, _ in rows])
        support = np.mean([f["support"] for f, _ in rows])
        sys.stdout.write(
            f"{name:18s} macro F1 fast {np.mean([f['f1'] for f, _ in rows]):.4f}, textbook "
            f"{np.mean([d['f1'] for _, d in rows]):.4f}, difference {gap.mean():+.4f} "
            f"({gap.min():+.4f} to {gap.max():+.4f}) over {len(rows)} seeds; {cpu:.1f} times less "
            f"CPU; masks hold {support:.0f} of {rows[0][0]['genes']:.0f} genes\n"
        )
        sys.stdout.flush()
    sys.stdout.write(f"{time.monotonic() - started:.0f} s\n")
    if args.json is not None:
        args.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
