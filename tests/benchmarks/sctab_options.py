"""What SCTab's options do on real sets: augmentation, class weights, ensemble size, size preset.

``EPISOME_TEST_DATA`` names the folder with ``data/*.h5ad``; the splits are those of
``annotation_real.py``. Every run trains on all cells of the training part (what ``refit`` ends
with) and keeps the probabilities of the test part in ``--cache``, so that a stopped study goes on.
An ensemble of size k takes the members 0 to k - 1 of its seed. Prints one table per split: mean
over the seeds with its 95 % interval (Student's t).

    python tests/benchmarks/sctab_options.py --cache runs [--splits ...] [--options ...]
"""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import annotation_real
import numpy as np
import pandas as pd

from episome import settings

if TYPE_CHECKING:
    import anndata as ad

SPLITS = ("kang-donors", "kang-stimulated", "snare", "facs")
SEEDS = (0, 1, 2, 3, 4)
MEMBERS = 5
LABEL = annotation_real.LABEL


@dataclass(frozen=True)
class Option:
    """One way to build and train the model."""

    model: dict[str, Any] = field(default_factory=dict)
    train: dict[str, Any] = field(default_factory=dict)
    members: int = 1
    validates: bool = False
    needs_donors: bool = False


# The published schedule takes batches of 2,048 cells; these sets have about a thousand.
PUBLISHED = {"batch_size": 128}
OPTIONS = {
    "default": Option(members=MEMBERS),
    "donor augmentation": Option(train={"augment": "donor"}, needs_donors=True),
    "no class weights": Option(train={"plan_kwargs": {"class_weight": None}}),
    "paper-xs": Option({"preset": "paper-xs"}, PUBLISHED, validates=True),
    "paper": Option({"preset": "paper"}, PUBLISHED, validates=True),
    "paper-xl": Option({"preset": "paper-xl"}, PUBLISHED, validates=True),
}


def probabilities(
    train: ad.AnnData, test: ad.AnnData, donor_key: str | None, option: Option
) -> tuple[np.ndarray, list[str]]:
    """Train with ``settings.seed`` and return the probabilities of the test cells."""
    from episome.models import SCTab

    SCTab.setup_anndata(train, labels_key=LABEL, donor_key=donor_key)
    model = SCTab(train, **option.model)
    splitter = None if option.validates else {"external_indexing": [np.arange(train.n_obs)]}
    model.train(datasplitter_kwargs=splitter, **option.train)
    table = model.predict_proba(test)
    model.close()
    return table.to_numpy(), list(table.columns)


def run(split: str, name: str, seed: int, member: int, cache: Path) -> Path:
    """Train one member unless the cache has it."""
    file = cache / split / name.replace(" ", "-") / f"seed{seed}-member{member}.npz"
    if file.is_file():
        return file
    task = annotation_real.TASKS[split]
    train, test = annotation_real.parts(task)
    with settings.using_seed(settings.member_seed(member, seed)):
        found, classes = probabilities(train, test, task.donor_key, OPTIONS[name])
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(".part.npz")
    np.savez(
        part,
        probabilities=found,
        classes=np.array(classes),
        truth=test.obs[LABEL].to_numpy(dtype=str),
    )
    part.rename(file)
    print(f"  {split}, {name}, seed {seed}, member {member}", flush=True)
    return file


def scores(files: list[Path]) -> dict[str, float]:
    """Score the mean probabilities of some members."""
    from episome import metrics

    parts = [np.load(f) for f in files]
    mean = np.mean([p["probabilities"] for p in parts], axis=0)
    classes, truth = parts[0]["classes"], parts[0]["truth"]
    codes = pd.Index(classes).get_indexer(truth)
    called = classes[mean.argmax(axis=1)]
    right = called == truth
    return {
        "macro F1": metrics.macro_f1(truth, called),
        "ECE": metrics.expected_calibration_error(mean.max(axis=1), right),
        "NLL": metrics.negative_log_likelihood(mean, codes),
        "AUROC": metrics.error_auroc(metrics.uncertainty(mean), right),
    }


def interval(values: np.ndarray) -> str:
    """Mean and half the width of its 95 % interval."""
    from scipy import stats

    half = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return f"{values.mean():.3f} ± {half:.3f}"


def rows(split: str, names: list[str], seeds: list[int], cache: Path) -> list[dict[str, Any]]:
    """Scores of every option, ensemble size and seed."""
    task = annotation_real.TASKS[split]
    out = []
    for name in names:
        option = OPTIONS[name]
        if option.needs_donors and task.donor_key is None:
            continue
        for seed in seeds:
            files = [run(split, name, seed, m, cache) for m in range(option.members)]
            for size in range(1, option.members + 1):
                found = scores(files[:size])
                out.append({"split": split, "option": name, "size": size, "seed": seed, **found})
            for m, file in enumerate(files):
                found = scores([file])
                key = {"split": split, "option": f"{name}, member", "size": m, "seed": seed}
                out.append({**key, **found})
    return out


def show(table: pd.DataFrame) -> None:
    """Print one line per option and ensemble size."""
    columns = ["macro F1", "ECE", "NLL", "AUROC"]
    single = table[~table["option"].str.endswith(", member")]
    print(f"  {'option':<28}" + "".join(f"{c:>18}" for c in columns))
    for (name, size), part in single.groupby(["option", "size"], sort=False):
        label = name if size == 1 else f"{name}, {size} members"
        print(f"  {label:<28}" + "".join(f"{interval(part[c].to_numpy()):>18}" for c in columns))
    members = table[table["option"].str.endswith(", member")]
    for name, part in members.groupby("option", sort=False):
        if part["size"].nunique() > 1:
            mean = part.groupby("seed")[columns].mean()
            shown = "".join(f"{interval(mean[c].to_numpy()):>18}" for c in columns)
            print(f"  {'mean of single members':<28}{shown}   ({name.removesuffix(', member')})")


def main() -> None:
    """Run what the cache lacks and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--splits", nargs="+", default=list(SPLITS))
    parser.add_argument("--options", nargs="+", default=list(OPTIONS), choices=list(OPTIONS))
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    parser.add_argument("--train-only", action="store_true", help="fill the cache, score nothing")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    records: list[dict[str, Any]] = []
    for split in options.splits:
        print(f"\n{split}", flush=True)
        if options.train_only:
            for seed in options.seeds:
                for name in options.options:
                    for member in range(OPTIONS[name].members):
                        run(split, name, seed, member, options.cache)
            continue
        found = rows(split, options.options, options.seeds, options.cache)
        records += found
        show(pd.DataFrame(found))
    if options.json:
        options.json.write_text(json.dumps(records, indent=1) + "\n")


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
