"""The page of ``annotators.py``: scores of what its folder holds, with intervals."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from _splits import TASKS
from scipy.stats import betabinom

from episome.benchmark import kept_share
from episome.metrics import (
    brier_score,
    classification_scores,
    expected_calibration_error,
    negative_log_likelihood,
)
from episome.ontology import ClassHierarchy

N_DRAWS = 500
ERROR_RATE = 0.1
#: The bar: what every other model is compared with.
BAR = "logreg"
NETWORKS = ("sctab", "sims", "mlp")
LINEAR = ("centroid", "logreg", "linear", "celltypist", "embedding:X_pca:logreg")


@dataclass
class Runs:
    """All seeds of one model on one split."""

    model: str
    split: str
    truth: np.ndarray
    calls: np.ndarray  # (n_seeds, n_cells)
    scores: pd.DataFrame
    groups: np.ndarray

    @property
    def mean(self) -> pd.Series:
        """Scores, mean over seeds."""
        return self.scores.mean(numeric_only=True)


def read_runs(folder: Path, split: str, model: str) -> Runs | None:
    """Read and score what was run; ``None`` where there is nothing."""
    files = sorted(folder.glob(f"{split}--{model.replace(':', '+')}--[0-9].npz"))
    if not files:
        return None
    rows, calls = [], []
    for file in files:
        with np.load(file) as held:
            found = {k: held[k] for k in held.files}
        rows.append(_scores(found, split))
        calls.append(found["classes"][found["probabilities"].argmax(axis=1)])
    return Runs(model, split, found["truth"], np.array(calls), pd.DataFrame(rows), found["groups"])


def _scores(found: dict[str, np.ndarray], split: str) -> dict[str, float]:
    classes, truth = found["classes"], found["truth"]
    shares = found["probabilities"].astype(np.float64)
    shares /= shares.sum(axis=1, keepdims=True)
    place = {c: i for i, c in enumerate(classes)}
    codes = np.array([place[t] for t in truth])
    calls = classes[shares.argmax(axis=1)]
    right, sure = calls == truth, shares.max(axis=1)
    hierarchy = None
    if found["children"].size:
        hierarchy = ClassHierarchy(tuple(found["names"]), found["children"].astype(bool), "")
    table = classification_scores(truth, calls, hierarchy=hierarchy)
    facts = json.loads(str(found["facts"]))
    raw = found["raw"].astype(np.float64)
    raw /= raw.sum(axis=1, keepdims=True)
    out = {
        "accuracy": table["accuracy"],
        "macro F1": table["f1_macro"],
        "F1, ontology": table.get("f1_macro_ontology", np.nan),
        "ECE": expected_calibration_error(sure, right),
        "ECE raw": expected_calibration_error(raw.max(axis=1), raw.argmax(axis=1) == codes),
        "ECE limit": _calibrated_limit(sure),
        "NLL": negative_log_likelihood(shares, codes),
        "Brier": brier_score(shares, codes),
        "kept": kept_share(sure, right),
        "train s": facts["train_seconds"],
        "predict s": facts["predict_seconds"],
        "MiB": facts["peak_mib"],
        "coverage": np.nan,
        "inside": np.nan,
    }
    if found["sets"].size:
        held = [t in s.split(";") for t, s in zip(truth, found["sets"], strict=True)]
        n_cal, n = int(facts["n_calibration"]), len(truth)
        k = int(np.ceil((n_cal + 1) * (1 - ERROR_RATE)))
        band = betabinom(n, k, n_cal + 1 - k).ppf([0.005, 0.995]) / n
        out["coverage"] = float(np.mean(held))
        out["inside"] = float(band[0] <= out["coverage"] <= band[1])
    return out


def _calibrated_limit(sure: np.ndarray, n_draws: int = 200) -> float:
    """0.01 above what a calibrated model of the same confidences stays below in 95 % of draws."""
    rng = np.random.default_rng(0)
    found = [
        expected_calibration_error(sure, rng.random(len(sure)) < sure) for _ in range(n_draws)
    ]
    return float(np.quantile(found, 0.95)) + 0.01


def draws_of(runs: Runs, seed: int = 0) -> np.ndarray:
    """Macro F1, mean over seeds, of cells drawn again; whole donors where there are five."""
    classes, truth = np.unique(runs.truth, return_inverse=True)
    place = {c: i for i, c in enumerate(classes)}
    calls = np.array([[place.get(c, len(classes)) for c in row] for row in runs.calls])
    rng = np.random.default_rng(seed)
    donors = np.unique(runs.groups) if runs.groups.size else np.array([])
    out = np.empty(N_DRAWS)
    width = len(classes) + 1
    for d in range(N_DRAWS):
        if len(donors) >= 5:
            drawn = rng.choice(donors, len(donors))
            rows = np.concatenate([np.flatnonzero(runs.groups == g) for g in drawn])
        else:
            rows = rng.integers(0, len(truth), len(truth))
        out[d] = np.mean([_f1(truth[rows], c[rows], width) for c in calls])
    return out


def _f1(truth: np.ndarray, calls: np.ndarray, width: int) -> float:
    table = np.bincount(truth * width + calls, minlength=width * width).reshape(width, width)
    hit, of_truth, of_calls = np.diag(table), table.sum(axis=1), table.sum(axis=0)
    present = of_truth > 0
    total = of_truth + of_calls
    return float((2 * hit[present] / total[present]).mean())


def write_page(folder: Path, page: Path, models: list[str]) -> None:
    """Write the page in Markdown."""
    found = {
        (s, m): r for s in TASKS for m in models if (r := read_runs(folder, s, m)) is not None
    }
    wanted = models
    models = [m for m in models if any(k[1] == m for k in found)]
    splits = [s for s in TASKS if any(k[0] == s for k in found)]
    spans = {key: draws_of(runs) for key, runs in found.items()}
    lines = [_HEAD, "", *_overview(found, spans, models, splits), "", *_said(found, spans, splits)]
    lines += ["", *_calibration(found, models, splits), "", "## Every split", ""]
    for split in splits:
        lines += _split_table(found, spans, models, split)
    lines += _missing(folder) + _not_yet(found, wanted)
    page.write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")


def _overview(found: dict, spans: dict, models: list[str], splits: list[str]) -> list[str]:
    lines = ["## Macro F1", "", "Mean over seeds; the best of a column is bold.", ""]
    lines += ["| model | " + " | ".join(splits) + " |", "|---" * (len(splits) + 1) + "|"]
    best = {
        s: max(found[s, m].mean["macro F1"] for m in models if (s, m) in found) for s in splits
    }
    for model in models:
        cells = []
        for split in splits:
            runs = found.get((split, model))
            if runs is None:
                cells.append("")
                continue
            value = runs.mean["macro F1"]
            bold = "**" if round(value, 3) == round(best[split], 3) else ""
            cells.append(f"{bold}{value:.3f}{bold}")
        lines.append(f"| `{model}` | " + " | ".join(cells) + " |")
    return lines


def _said(found: dict, spans: dict, splits: list[str]) -> list[str]:
    """What the numbers say, split by split."""
    lines = ["## Against logistic regression", ""]
    lines += [
        f"Difference of macro F1 to `{BAR}`, with the interval of the difference; models of which "
        "the whole interval is above zero are better, below zero worse.",
        "",
        "| split | better | no difference shown | worse |",
        "|---|---|---|---|",
    ]
    for split in splits:
        if (split, BAR) not in found:
            continue
        groups: dict[str, list[str]] = {"better": [], "same": [], "worse": []}
        for (s, model), draws in spans.items():
            if s != split or model == BAR:
                continue
            low, high = np.percentile(draws - spans[split, BAR], [2.5, 97.5])
            gap = found[s, model].mean["macro F1"] - found[split, BAR].mean["macro F1"]
            kind = "better" if low > 0 else "worse" if high < 0 else "same"
            groups[kind].append(f"`{model}` {gap:+.3f}")
        cells = " | ".join(", ".join(g) for g in groups.values())
        lines.append(f"| {split} | {cells} |")
    return [*lines, "", *_conclusion(found, spans, splits)]


def _conclusion(found: dict, spans: dict, splits: list[str]) -> list[str]:
    """Whether networks are needed, in numbers."""
    held, above, linear = 0, 0, 0
    for split in splits:
        here = {m: found[s, m].mean["macro F1"] for s, m in found if s == split}
        networks = {m: v for m, v in here.items() if m in NETWORKS}
        if BAR not in here or not networks:
            continue
        best = max(networks, key=networks.get)
        gap = np.percentile(spans[split, best] - spans[split, BAR], 97.5)
        held += 1
        above += bool(gap >= 0)
        linear += max(here, key=here.get) in LINEAR
    nets, linears = (", ".join(f"`{m}`" for m in names) for names in (NETWORKS, LINEAR))
    return [
        f"The best of the networks ({nets}) is above `{BAR}`, or not shown to be below it, on "
        f"{above} of {held} splits. A linear model ({linears}) is the best of all on {linear} of "
        f"{held}: for references of this size begin with one, and take a network where "
        "`episome train auto` finds it better on your own cells."
    ]


def _calibration(found: dict, models: list[str], splits: list[str]) -> list[str]:
    lines = [
        "## Calibration",
        "",
        "Expected calibration error (15 bins of equally many cells), before and after; then "
        "on how many splits it stays at most 0.01 above what a perfectly calibrated model of the "
        "same confidences stays below in 95 of 100 draws: of those whose test cells are drawn as "
        "the training cells are, and of the others. Label sets were asked for with an error rate "
        f"of {ERROR_RATE:g}: their coverage on the same two kinds of splits, and on how many of "
        "the first it lies inside the central 99 % of a beta-binomial of calibration and test "
        "sizes.",
        "",
        "| model | ECE raw | ECE | within, same cells | within, others | coverage, same cells | "
        "inside | coverage, others |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for model in models:
        rows = {s: found[s, model].mean for s in splits if (s, model) in found}
        same = [r for s, r in rows.items() if TASKS[s].exchangeable]
        rest = [r for s, r in rows.items() if not TASKS[s].exchangeable]

        def within(group: list[pd.Series]) -> str:
            return f"{sum(r['ECE'] <= r['ECE limit'] for r in group)} of {len(group)}"

        def mean(group: list[pd.Series], name: str) -> str:
            values = [r[name] for r in group if r[name] == r[name]]
            return f"{np.mean(values):.3f}" if values else ""

        every = [*same, *rest]
        inside = [r["inside"] for r in same if r["inside"] == r["inside"]]
        lines.append(
            f"| `{model}` | {mean(every, 'ECE raw')} | {mean(every, 'ECE')} | {within(same)} | "
            f"{within(rest)} | {mean(same, 'coverage')} | "
            f"{sum(i == 1 for i in inside)} of {len(inside)} | {mean(rest, 'coverage')} |"
        )
    return lines


def _split_table(found: dict, spans: dict, models: list[str], split: str) -> list[str]:
    task = TASKS[split]
    rows = [found[split, m] for m in models if (split, m) in found]
    n = len(rows[0].truth)
    tuned = " Settings were chosen on this split, among others." if task.chosen_on else ""
    lines = [f"### {split}", "", f"{task.summary}; {n:,} test cells.{tuned}", ""]
    names = ["F1, ontology", "accuracy", "ECE", "NLL", "Brier", "kept"]
    costs = ["train s", "predict s", "MiB"]
    head = " | ".join([*names[:-1], "kept at 5 %", *costs])
    lines.append(f"| model | seeds | macro F1 | {head} |")
    lines.append("|---" * (3 + len(names) + len(costs)) + "|")
    for runs in sorted(rows, key=lambda r: -r.mean["macro F1"]):
        mean = runs.mean
        low, high = np.percentile(spans[split, runs.model], [2.5, 97.5])
        cells = [f"{mean[k]:.3f}" if mean[k] == mean[k] else "" for k in names]
        cells += [f"{mean['train s']:.1f}", f"{mean['predict s']:.1f}", f"{mean['MiB']:.0f}"]
        lines.append(
            f"| `{runs.model}` | {len(runs.scores)} | {mean['macro F1']:.3f} ({low:.3f} to "
            f"{high:.3f}) | " + " | ".join(cells) + " |"
        )
    return [*lines, ""]


def _missing(folder: Path) -> list[str]:
    failed = sorted(folder.glob("*.failed"))
    if not failed:
        return []
    lines = ["## What failed", ""]
    for file in failed:
        split, model = file.stem.split("--")[:2]
        last = file.read_text(encoding="utf-8").strip().splitlines()[-1][:300]
        last = "stopped before it ended" if last == "killed" else last
        lines.append(f"- `{model.replace('+', ':')}` on {split}: {last}")
    return lines


def _not_yet(found: dict, models: list[str]) -> list[str]:
    """Say what the same command would still run."""
    lines = []
    for model in models:
        left = [s for s in TASKS if (s, model) not in found]
        if left:
            where = "every split" if len(left) == len(TASKS) else ", ".join(left)
            lines.append(f"- `{model}`: {where}")
    return ["", "## Not run yet", "", *lines] if lines else []


_HEAD = """# The annotators compared

<!-- Written by tests/benchmarks/annotators.py; changes by hand are lost. -->

Every annotator as it comes, on the same cells of real data sets, made again by

```console
$ export EPISOME_TEST_DATA=FOLDER
$ python tests/benchmarks/annotators.py runs/annotators
$ python tests/benchmarks/annotators.py runs/annotators --page docs/user_guide/annotators.md
```

which goes on where it was stopped. Five seeds; three for the models that take longer; one for
scANVI, which takes many minutes. The numbers of seeds were fixed beforehand.

Settings of the baselines were chosen on OneK1K, the cell lines, Zeisel and pbmc3k. Those of SCTab
were chosen on parts of the training cells of Kang, FACS and SNARE, those of SIMS on Kang's: their
test cells chose nothing, but these sets are not new to them. One exception: that genes share
AdamW's second moment in `linear` and `mlp` (see [the baselines](../methods/baselines.md)) was
thought of after their scores on the test cells of Baron had been seen, and tried on those of
Kang's donors and SNARE; before, `linear` had 0.734, 0.826 and 0.688 there, `mlp` 0.741, 0.826 and
0.682.

Intervals are of 95 %, by drawing test cells again, whole donors where there are five. *kept at
5 %*: the largest share of cells, the surest first, of which at most 5 % are wrong. Times are of
one thread of a machine with two cores that did other work as well; memory is the peak of the whole
process, with all libraries. `embedding:X_pca:logreg` is a linear probe of 50 principal components:
the row that vectors of a foundation model have to beat. An empty place was not run."""
