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
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
from sklearn.metrics import accuracy_score, f1_score
from sklearn.model_selection import train_test_split

SEEDS = (0, 1, 2)
MODELS = ("majority", "centroid", "knn", "logreg", "sctab")
LABEL = "label_of_the_split"
DATA = Path(os.environ.get("EPISOME_TEST_DATA", ".")) / "data"


@dataclass(frozen=True)
class SplitTask:
    """One data set, its labels and donors, and which cells are for testing."""

    file: str
    labels_key: str
    donor_key: str | None
    test: Callable[[ad.AnnData], np.ndarray]
    reference: tuple[str, str]
    keep: Callable[[ad.AnnData], np.ndarray] | None = None


def one_of(
    column: str, values: Callable[[list[str]], list[str]]
) -> Callable[[ad.AnnData], np.ndarray]:
    """Cells whose column holds one of the values chosen from its sorted ones."""

    def mask(adata: ad.AnnData) -> np.ndarray:
        text = adata.obs[column].astype(str)
        return text.isin(values(sorted(text.unique()))).to_numpy()

    return mask


def stratified(labels_key: str) -> Callable[[ad.AnnData], np.ndarray]:
    """30 % of every class, as scikit-learn draws them with seed 0."""

    def mask(adata: ad.AnnData) -> np.ndarray:
        labels = adata.obs[labels_key].astype(str).to_numpy()
        rows = train_test_split(
            np.arange(adata.n_obs), test_size=0.3, stratify=labels, random_state=0
        )[1]
        out = np.zeros(adata.n_obs, dtype=bool)
        out[rows] = True
        return out

    return mask


TASKS = {
    "kang-donors": SplitTask(
        "kang_pbmc_ifnb.h5ad",
        "cell_type_label",
        "donor_id",
        one_of("donor_id", lambda _: ["kang_101", "kang_107", "kang_1016"]),
        ("kang_pbmc_ifnb", "test donors"),
        keep=lambda a: (a.obs["donor_id"].astype(str) != "unassigned").to_numpy(),
    ),
    "kang-stimulated": SplitTask(
        "kang_pbmc_ifnb.h5ad",
        "cell_type_label",
        "donor_id",
        one_of("condition", lambda _: ["stimulated"]),
        ("kang_pbmc_ifnb", "train control"),
    ),
    "facs": SplitTask(
        "pbmc_facs_zheng.h5ad",
        "facs_label",
        None,
        stratified("facs_label"),
        ("pbmc_facs_zheng", "random 70/30"),
        keep=lambda a: (
            a.obs["facs_label"].astype(str).map(a.obs["facs_label"].astype(str).value_counts())
            >= 5
        ).to_numpy(),
    ),
    "onek1k": SplitTask(
        "onek1k_blood.h5ad",
        "cell_type_label",
        "donor_id",
        one_of("donor_id", lambda v: v[-8:]),
        ("onek1k_blood", "test the last 8"),
    ),
    "snare": SplitTask(
        "multiome_mop_snare.h5ad",
        "cluster (remapped)",
        "Batch",
        one_of("Batch", lambda v: v[len(v) // 2 :]),
        ("multiome_mop_snare", "RNA only"),
    ),
}


def parts(task: SplitTask) -> tuple[ad.AnnData, ad.AnnData]:
    """Training and test cells; test classes that training lacks are left out."""
    adata = ad.read_h5ad(DATA / task.file)
    if task.keep is not None:
        adata = adata[task.keep(adata)].copy()
    adata.obs[LABEL] = adata.obs[task.labels_key].astype(str)
    test = task.test(adata)
    test &= adata.obs[LABEL].isin(adata.obs[LABEL][~test]).to_numpy()
    train = ~task.test(adata)
    columns = [LABEL, *([task.donor_key] if task.donor_key else [])]
    return tuple(
        ad.AnnData(a.X, obs=a.obs[columns], var=a.var) for a in (adata[train], adata[test])
    )


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
