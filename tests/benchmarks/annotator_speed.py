"""Linear models against CellTypist, and SCTab against scVI and scANVI, in turn in one process.

4,000 reference and 1,500 query cells of 3,000 genes and eight types, pairs of them similar, a
small shift between the two; training and predicting together. The peers are called directly, not
through episome. CellTypist is trained in its default way where the installed scikit-learn allows
that, by gradient descent otherwise, which is said.

    python tests/benchmarks/annotator_speed.py [--rounds 3] [--parts linear deep] [--json FILE]
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import anndata as ad
import numpy as np
import scanpy as sc
from _common import interleave, report, write_json
from scipy import sparse
from sklearn.metrics import f1_score

LABEL = "cell_type"
N_TYPES, N_GENES, N_REFERENCE, N_QUERY = 8, 3000, 4000, 1500


def cells(seed: int = 0) -> tuple[ad.AnnData, ad.AnnData]:
    """Negative binomial counts; types 2 i and 2 i + 1 differ in 40 genes only."""
    rng = np.random.default_rng(seed)
    base = rng.lognormal(0, 1.5, N_GENES)
    profiles = []
    for _ in range(N_TYPES // 2):
        pair = base.copy()
        pair[rng.choice(N_GENES, 150, replace=False)] *= rng.lognormal(1.0, 0.5, 150)
        for _ in range(2):
            one = pair.copy()
            one[rng.choice(N_GENES, 20, replace=False)] *= rng.lognormal(1.2, 0.4, 20)
            profiles.append(one / one.sum())
    shift = rng.lognormal(0, 0.2, N_GENES)
    parts = []
    for n, factor in ((N_REFERENCE, np.ones(N_GENES)), (N_QUERY, shift)):
        codes = rng.integers(0, N_TYPES, n)
        means = np.array(profiles)[codes] * factor
        means = means / means.sum(axis=1, keepdims=True) * rng.lognormal(7.6, 0.4, (n, 1))
        counts = rng.poisson(rng.gamma(2.0, means / 2.0)).astype(np.float32)
        part = ad.AnnData(sparse.csr_matrix(counts))
        part.obs[LABEL] = [f"type {c}" for c in codes]
        part.var_names = [f"gene{i}" for i in range(N_GENES)]
        parts.append(part)
    return parts[0], parts[1]


def ours(name: str, reference: ad.AnnData, query: ad.AnnData) -> Callable[[], np.ndarray]:
    """Train and predict with an installed model."""
    from episome import plugins

    cls = plugins.load_class(plugins.get_spec(name))

    def run() -> np.ndarray:
        data = reference.copy()
        cls.setup_anndata(data, labels_key=LABEL)
        model = cls(data)
        model.train()
        return model.predict(query)

    return run


def celltypist_run(reference: ad.AnnData, query: ad.AnnData) -> Callable[[], np.ndarray]:
    """Train and predict with the package itself."""
    import celltypist

    def logged(part: ad.AnnData) -> ad.AnnData:
        part = part.copy()
        sc.pp.normalize_total(part, target_sum=1e4)
        sc.pp.log1p(part)
        return part

    def run() -> np.ndarray:
        train, test = logged(reference), logged(query)
        settings = {"labels": LABEL, "n_jobs": 1, "check_expression": True}
        try:
            model = celltypist.train(train, **settings)
        except TypeError:
            model = celltypist.train(train, use_SGD=True, **settings)
        found = celltypist.annotate(test, model=model)
        return found.predicted_labels["predicted_labels"].astype(str).to_numpy()

    return run


def scanvi_run(reference: ad.AnnData, query: ad.AnnData) -> Callable[[], np.ndarray]:
    """ScVI, then scANVI, with the settings of their tutorial."""
    import scvi

    def run() -> np.ndarray:
        data = reference.copy()
        scvi.settings.seed = 0
        scvi.model.SCVI.setup_anndata(data, labels_key=LABEL)
        base = scvi.model.SCVI(data, n_layers=2, n_latent=30, gene_likelihood="nb")
        base.train(accelerator="cpu", enable_progress_bar=False, early_stopping=True)
        model = scvi.model.SCANVI.from_scvi_model(base, unlabeled_category="unknown")
        model.train(
            max_epochs=20,
            n_samples_per_label=100,
            accelerator="cpu",
            enable_progress_bar=False,
        )
        test = query.copy()
        test.obs[LABEL] = "unknown"
        return np.asarray(model.predict(test))

    return run


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--parts", nargs="+", default=["linear", "deep"])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    reference, query = cells()
    truth = query.obs[LABEL].to_numpy()
    candidates = {
        "linear": {
            "CellTypist": celltypist_run(reference, query),
            "logreg": ours("logreg", reference, query),
            "linear": ours("linear", reference, query),
        },
        "deep": {
            "scVI + scANVI": scanvi_run(reference, query),
            "sctab": ours("sctab", reference, query),
        },
    }
    needs = {"linear": {"logreg": 1.0, "linear": 1.0}, "deep": {"sctab": 3.0}}
    results = []
    for part in options.parts:
        scores: dict[str, float] = {}

        def scored(name: str, run: Callable[[], np.ndarray], kept: dict[str, float] = scores):
            def once() -> None:
                calls = run()
                kept[name] = float(f1_score(truth, calls, average="macro"))

            return once

        runs = {n: scored(n, run) for n, run in candidates[part].items()}
        rounds, warmup = (options.rounds, 1) if part == "linear" else (1, 0)
        base = next(iter(runs))
        times = interleave(runs, rounds=rounds, warmup=warmup)
        found = report(f"{part}: train and predict", times, base=base, required=needs[part])
        for name, value in scores.items():
            sys.stdout.write(f"{name:34s} macro F1 {value:.4f}\n")
        results.append({**found, "macro_f1": scores})
    write_json(options.json, results)


if __name__ == "__main__":
    main()
