"""What episome, scvi-tools and CellTypist do on the twelve commonest mistakes.

Simulated cells of four types; every tool is trained once on good data, then asked with one mistake
at a time. Printed is what the user gets: an error, a warning, or labels and their accuracy. A row
that says `labels` with a low accuracy and no warning is silent nonsense. CellTypist is optional.

    python tests/benchmarks/common_mistakes.py [--tools episome scvi-tools celltypist] [--json F]
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import logging
import warnings
from collections.abc import Callable
from pathlib import Path

import anndata as ad
import numpy as np
from scipy import sparse

from episome.data import simulate_cells

LABEL = "cell_type"


def symbols(n: int) -> list[str]:
    """Names that look like human symbols."""
    return [f"GENE{chr(65 + i % 26)}{i}" for i in range(n)]


def good() -> tuple[ad.AnnData, ad.AnnData]:
    """Reference and query, counts, symbols in var_names."""
    cells = simulate_cells(600, 200, n_types=4, n_donors=4, fold_change=4.0, seed=0)
    cells.var_names = symbols(200)
    cells.var = cells.var[[]]
    return cells[:400].copy(), cells[400:].copy()


# -- mistakes: reference, query -> reference, query -----------------------------------------------

Pair = tuple[ad.AnnData, ad.AnnData]


def reordered(reference: ad.AnnData, query: ad.AnnData) -> Pair:
    return reference, query[:, ::-1].copy()


def foreign(reference: ad.AnnData, query: ad.AnnData) -> Pair:
    query.var_names = [f"ENSG{i:011d}" for i in range(query.n_vars)]
    return reference, query


def one_in_common(reference: ad.AnnData, query: ad.AnnData) -> Pair:
    query.var_names = [query.var_names[0], *(f"OTHER{i}" for i in range(query.n_vars - 1))]
    return reference, query


def quarter_missing(reference: ad.AnnData, query: ad.AnnData) -> Pair:
    return reference, query[:, : int(0.75 * query.n_vars)].copy()


def duplicated(reference: ad.AnnData, query: ad.AnnData) -> Pair:
    query.var_names = [*query.var_names[:-1], query.var_names[0]]
    return reference, query


def logged(reference: ad.AnnData, query: ad.AnnData) -> Pair:
    library = np.asarray(query.X.sum(axis=1)).ravel()
    query.X = sparse.csr_matrix(sparse.diags(1e4 / library) @ query.X).log1p()
    return reference, query


def scaled(reference: ad.AnnData, query: ad.AnnData) -> Pair:
    dense = query.X.toarray()
    query.X = ((dense - dense.mean(0)) / (dense.std(0) + 1e-6)).astype(np.float32)
    return reference, query


def with_nan(reference: ad.AnnData, query: ad.AnnData) -> Pair:
    dense = query.X.toarray()
    dense[3, 5] = np.nan
    query.X = dense
    return reference, query


def empty_cells(reference: ad.AnnData, query: ad.AnnData) -> Pair:
    dense = query.X.toarray()
    dense[::2] = 0
    query.X = sparse.csr_matrix(dense)
    return reference, query


def transposed(reference: ad.AnnData, query: ad.AnnData) -> Pair:
    turned = query.T.copy()
    turned.obs = turned.obs.assign(**{LABEL: query.obs[LABEL].iloc[: turned.n_obs].to_numpy()})
    return reference, turned


def missing_labels(reference: ad.AnnData, query: ad.AnnData) -> Pair:
    reference.obs[LABEL] = reference.obs[LABEL].astype(object)
    reference.obs.loc[reference.obs_names[:20], LABEL] = np.nan
    return reference, query


def logged_reference(reference: ad.AnnData, query: ad.AnnData) -> Pair:
    return logged(query, reference)[1], query


MISTAKES: dict[str, Callable[[ad.AnnData, ad.AnnData], Pair]] = {
    "genes in another order": reordered,
    "Ensembl identifiers for symbols": foreign,
    "one gene in common": one_in_common,
    "a quarter of the genes missing": quarter_missing,
    "a gene name twice": duplicated,
    "log1p query, model of counts": logged,
    "scaled query": scaled,
    "one NaN": with_nan,
    "every second cell empty": empty_cells,
    "genes as rows": transposed,
    "20 labels missing in training": missing_labels,
    "trained on log1p, asked with counts": logged_reference,
}


# -- tools ----------------------------------------------------------------------------------------


def by_episome(reference: ad.AnnData) -> Callable[[ad.AnnData], np.ndarray]:
    from episome.models import LogisticRegression

    LogisticRegression.setup_anndata(reference, labels_key=LABEL)
    model = LogisticRegression(reference)
    model.train()
    return model.predict


def by_scvi(reference: ad.AnnData) -> Callable[[ad.AnnData], np.ndarray]:
    import scvi

    scvi.settings.seed = 0
    scvi.settings.verbosity = logging.ERROR
    scvi.model.SCANVI.setup_anndata(reference, labels_key=LABEL, unlabeled_category="unknown")
    model = scvi.model.SCANVI(reference)
    model.train(max_epochs=30, enable_progress_bar=False)
    return model.predict


def by_celltypist(reference: ad.AnnData) -> Callable[[ad.AnnData], np.ndarray]:
    import celltypist

    logging.getLogger("celltypist").setLevel(logging.ERROR)
    model = celltypist.train(_for_celltypist(reference), labels=LABEL, check_expression=False)

    def predict(query: ad.AnnData) -> np.ndarray:
        found = celltypist.annotate(_for_celltypist(query), model=model)
        return found.predicted_labels["predicted_labels"].to_numpy()

    return predict


def _for_celltypist(adata: ad.AnnData) -> ad.AnnData:
    """Return what its documentation asks for, log1p of 10,000, where the values are counts."""
    values = adata.X.data if sparse.issparse(adata.X) else np.asarray(adata.X)
    if not np.isfinite(values).all() or (values != np.rint(values)).any():
        return adata
    return logged(adata, adata.copy())[1]


TOOLS = {"episome": by_episome, "scvi-tools": by_scvi, "celltypist": by_celltypist}


def outcome(tool: str, mistake: Callable[[ad.AnnData, ad.AnnData], Pair] | None) -> str:
    """Train, ask, and say what came back."""
    reference, query = good()
    if mistake is not None:
        reference, query = mistake(reference, query)
    truth = query.obs[LABEL].astype(str).to_numpy()
    asked = ad.AnnData(query.X, obs=query.obs[[LABEL]].copy(), var=query.var)
    known = ("episome", "scvi", "celltypist")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            found = np.asarray(TOOLS[tool](reference)(asked)).astype(str)
        except Exception as error:  # noqa: BLE001 - whatever a user would see
            return f"{type(error).__name__}: {' '.join(str(error).split())[:110]}"
    said = [w for w in caught if any(k in str(w.filename) for k in known)]
    text = f"labels, accuracy {np.mean(found == truth):.2f}"
    empty = np.asarray(asked.X.sum(axis=1)).ravel() == 0
    if mistake is empty_cells:
        text += f", {np.mean(found[empty] == 'unknown'):.0%} of empty cells unknown"
    return text + (f", {len(said)} warning(s)" if said else ", no warning")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    there = [t for t in TOOLS if t != "celltypist" or importlib.util.find_spec("celltypist")]
    parser.add_argument("--tools", nargs="+", default=there, choices=list(TOOLS))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    logging.getLogger("episome").setLevel(logging.ERROR)
    rows = []
    for name, mistake in {"(no mistake)": None, **MISTAKES}.items():
        row = {"mistake": name, **{t: outcome(t, mistake) for t in options.tools}}
        rows.append(row)
        print(f"\n{name}", *(f"  {t:<11} {row[t]}" for t in options.tools), sep="\n", flush=True)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
