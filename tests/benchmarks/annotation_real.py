"""Train and annotate real sets from the command line, on fixed splits, over fixed seeds.

``EPISOME_TEST_DATA`` names the folder with ``data/*.h5ad`` and ``data/baselines.csv``. For every
split the training part goes to ``episome train`` and the test part, without labels, to
``episome annotate``; macro F1 is over the classes that the test part holds. Prints a table beside
the reference rows; ``--json FILE`` keeps every run.

    python tests/benchmarks/annotation_real.py [--splits kang-donors facs ...] [--models sctab ...]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from _splits import DATA, LABEL, TASKS, SplitTask, parts
from sklearn.metrics import accuracy_score, f1_score

SEEDS = (0, 1, 2)
MODELS = ("majority", "centroid", "knn", "logreg", "sctab")


def episome(*arguments: object) -> dict[str, object]:
    """Run a command and return its JSON answer."""
    command = [sys.executable, "-m", "episome", *map(str, arguments), "--json", "-q"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    answer = (
        json.loads(done.stdout) if done.stdout else {"ok": False, "error": done.stderr[-2000:]}
    )
    if not answer["ok"]:
        msg = f"{' '.join(command)}: {answer['error']}"
        raise RuntimeError(msg)
    return answer


def run(
    task: SplitTask, model: str, seed: int, folder: Path, extra: list[str]
) -> dict[str, float]:
    """Train, annotate, score."""
    donors = ["--donor-key", task.donor_key] if task.donor_key else []
    train = episome(
        "train", model, folder / "train.h5ad", "--labels-key", LABEL, *donors, "--seed", seed,
        "-o", folder / "model", "--overwrite", *extra,
    )  # fmt: skip
    episome(
        "annotate", folder / "query.h5ad", "-m", folder / "model", "-o", folder / "calls.csv",
        "--overwrite",
    )  # fmt: skip
    calls = pd.read_csv(folder / "calls.csv", dtype={"label": str}, keep_default_na=False)
    truth = pd.read_csv(folder / "truth.csv", dtype=str, keep_default_na=False)[LABEL]
    present = sorted(set(truth))
    return {
        "macro_f1": float(
            f1_score(truth, calls["label"], labels=present, average="macro", zero_division=0)
        ),
        "accuracy": float(accuracy_score(truth, calls["label"])),
        "train_seconds": float(train["fit"]["seconds"]),
    }


def reference_rows(task: SplitTask) -> dict[str, float]:
    """Macro F1 of the reference methods on this split."""
    table = pd.read_csv(DATA / "baselines.csv")
    name, split = task.reference
    rows = table[(table.task == name) & table.split.str.startswith(split)]
    short = {"logistic": "LR", "kNN": "kNN", "CellTypist": "CellTypist", "XGBoost": "XGBoost"}
    return {
        s: float(r.macro_f1)
        for r in rows.itertuples()
        for k, s in short.items()
        if r.method.startswith(k)
    }


def main() -> None:
    """Run the chosen splits and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--splits", nargs="+", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    parser.add_argument("--extra", default="", help="more arguments of `episome train`")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    records = []
    for name in options.splits:
        task = TASKS[name]
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            train, test = parts(task)
            test.obs[[LABEL]].to_csv(folder / "truth.csv")
            test.obs = test.obs[[]]
            train.write_h5ad(folder / "train.h5ad")
            test.write_h5ad(folder / "query.h5ad")
            sizes = f"{train.n_obs} training, {test.n_obs} test cells"
            print(f"\n{name}: {sizes}; {reference_rows(task)}")
            for model in options.models:
                runs = [run(task, model, s, folder, options.extra.split()) for s in options.seeds]
                records += [
                    {"split": name, "model": model, "seed": s, **r}
                    for s, r in zip(options.seeds, runs, strict=True)
                ]
                f1 = np.array([r["macro_f1"] for r in runs])
                shown = ", ".join(f"{v:.3f}" for v in f1)
                accuracy = np.mean([r["accuracy"] for r in runs])
                seconds = np.mean([r["train_seconds"] for r in runs])
                print(
                    f"  {model:<10} macro F1 {f1.mean():.3f} ({shown})  "
                    f"accuracy {accuracy:.3f}  {seconds:.1f} s",
                    flush=True,
                )
    if options.json:
        options.json.write_text(json.dumps(records, indent=1) + "\n")


if __name__ == "__main__":
    main()
