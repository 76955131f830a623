"""Tables of an audit: clusters, pairs of classes, and the genes that speak for a suggestion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from episome.models._training import normalized_rows

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray
    from scipy import sparse

    from episome.data import FeatureSpace, Labels

CELL_COLUMNS = (
    "label",
    "suggested",
    "suggested_ontology_term_id",
    "p_label",
    "p_suggested",
    "score",
    "rank",
    "fold",
    "wrong",
    "relation",
)
CLUSTER_COLUMNS = (
    "n_cells",
    "n_judged",
    "label",
    "label_share",
    "suggested",
    "suggested_share",
    "n_wrong",
    "wrong_share",
    "expected_wrong",
    "relation",
)
PAIR_COLUMNS = (
    "label",
    "suggested",
    "n_label",
    "n_like",
    "like_share",
    "n_wrong",
    "auroc",
    "auroc_high",
    "relation",
    "verdict",
)
GENE_COLUMNS = (
    "label",
    "suggested",
    "rank",
    "gene",
    "gene_name",
    "score",
    "mean_doubted",
    "mean_label",
    "mean_suggested",
    "evidence",
)
#: Two classes are one type under two names where even the end of the interval is below this.
MERGED = 0.7
#: A label is too coarse where so many of its cells look like one finer term.
COARSE = 0.1


def relations(
    children: NDArray[np.bool_], labels: NDArray[np.int64], suggested: NDArray[np.int64]
) -> NDArray[np.object_]:
    """Return what every suggestion is to the label, by which class is a kind of which."""
    finer, coarser = children[labels, suggested], children[suggested, labels]
    found = np.full(len(labels), "other type", dtype=object)
    found[finer] = "finer"
    found[coarser] = "coarser"
    found[finer & coarser] = "same term"
    found[labels == suggested] = ""
    return found


def cluster_table(
    cells: pd.DataFrame, clusters: NDArray[np.object_], labels: Labels
) -> pd.DataFrame:
    """Return one row per cluster, the most doubted first."""
    from episome.ontology import ClassHierarchy

    hierarchy = ClassHierarchy.from_labels(labels.names, term_ids=labels.term_ids)
    named = pd.Series(clusters, index=cells.index)
    rows = {}
    for name, part in cells[named.notna().to_numpy()].groupby(
        named.dropna().astype(str).to_numpy(), sort=True
    ):
        judged = part[part["score"].notna()]
        label, suggested = _commonest(part["label"]), _commonest(judged["suggested"])
        relation = ""
        if suggested[0]:
            at = hierarchy.codes([label[0], suggested[0]])
            relation = str(relations(hierarchy.children, at[:1], at[1:])[0])
        n_wrong = int(judged["wrong"].sum())
        rows[name] = (
            len(part), len(judged), *label, *suggested, n_wrong,
            n_wrong / len(judged) if len(judged) else np.nan,
            float(judged["score"].sum()), relation,
        )  # fmt: skip
    found = pd.DataFrame.from_dict(rows, orient="index", columns=list(CLUSTER_COLUMNS))
    found.index.name = "cluster"
    return found.sort_values(["wrong_share", "expected_wrong"], ascending=False, kind="stable")


def _commonest(names: pd.Series) -> tuple[str, float]:
    counts = names.value_counts()
    if counts.empty:
        return "", float("nan")
    top = min(counts.index[counts == counts.iloc[0]])
    return str(top), float(counts.iloc[0] / len(names))


def pair_table(
    cells: pd.DataFrame,
    shares: NDArray[np.float64],
    codes: NDArray[np.int64],
    names: Sequence[str],
) -> pd.DataFrame:
    """Return one row per label and suggestion that differ, most wrong cells first."""
    judged = cells["score"].notna().to_numpy()
    place = {name: i for i, name in enumerate(names)}
    n_label = np.bincount(codes[judged], minlength=len(names))
    rows = []
    unlike = cells[judged & (cells["label"] != cells["suggested"]).to_numpy()]
    for (label, suggested), part in unlike.groupby(["label", "suggested"], sort=True):
        a, b = place[label], place[suggested]
        auroc, high = told_apart(shares[judged], codes[judged], a, b)
        relation, share = str(part["relation"].iloc[0]), len(part) / n_label[a]
        n_wrong = int(part["wrong"].sum())
        verdict = _verdict(relation, share, n_wrong, high)
        rows.append(
            (label, suggested, int(n_label[a]), len(part), share, n_wrong, auroc, high,
             relation, verdict)
        )  # fmt: skip
    found = pd.DataFrame(rows, columns=list(PAIR_COLUMNS))
    order = ["n_wrong", "n_like", "like_share"]
    return found.sort_values(order, ascending=False, kind="stable").reset_index(drop=True)


def _verdict(relation: str, share: float, n_wrong: int, high: float) -> str:
    if relation == "other type" and high < MERGED:
        return "merged"
    if relation == "finer" and share >= COARSE:
        return "too coarse"
    return "wrong labels" if n_wrong else ""


def told_apart(
    shares: NDArray[np.float64], codes: NDArray[np.int64], a: int, b: int
) -> tuple[float, float]:
    """Return how well two classes are told apart, and the upper end of its 95 % interval.

    The area under the curve of one class's probability against the other's, over the cells that
    have one of the two labels; 0.5 where they are told apart by chance. The interval is Hanley and
    McNeil's. NaN where one of the classes has no cell.
    """
    of_a, of_b = codes == a, codes == b
    n, m = int(of_a.sum()), int(of_b.sum())
    if not n or not m:
        return float("nan"), float("nan")
    some = of_a | of_b
    # In logarithms: their order is that of the shares of the two, without sums of zero.
    least = np.finfo(np.float64).tiny
    evidence = np.log(np.maximum(shares[some, a], least)) - np.log(
        np.maximum(shares[some, b], least)
    )
    ranks = rankdata(evidence)
    area = float((ranks[of_a[some]].sum() - n * (n + 1) / 2) / (n * m))
    q1, q2 = area / (2 - area), 2 * area**2 / (1 + area)
    spread = (area * (1 - area) + (n - 1) * (q1 - area**2) + (m - 1) * (q2 - area**2)) / (n * m)
    return area, min(1.0, area + 1.96 * float(np.sqrt(max(spread, 0.0))))


@dataclass(frozen=True, slots=True, eq=False)
class Evidence:
    """Normalised values of all cells, and a model that did not learn the doubted ones.

    Parameters
    ----------
    model
        Trained, where it explains.
    cells
        All labelled cells.
    values
        Normalised log1p, CSR (n_cells, n_genes), genes in the order of the model.
    query
        How the model reads cells.
    explains
        Whether the model's attributions are the evidence.
    """

    model: Any
    cells: AnnData
    values: sparse.csr_matrix
    query: Mapping[str, Any]
    explains: bool

    @classmethod
    def of_model(
        cls, model: Any, cells: AnnData, query: Mapping[str, Any], *, explains: bool
    ) -> Evidence:
        """Normalise all cells as the model does."""
        prepared = model.prepare(cells.copy(), **query)
        values = normalized_rows(prepared, np.arange(cells.n_obs))
        return cls(model, cells, values, query, explains)

    def of_pair(self, cells: pd.DataFrame, pair: Any) -> pd.DataFrame:
        """Return the genes of a pair: label, suggestion, and the means of the three groups."""
        like = (cells["label"] == pair.label) & (cells["suggested"] == pair.suggested)
        sure = (cells["label"] == cells["suggested"]) & cells["score"].notna()
        doubted = np.flatnonzero(like)
        of_label = np.flatnonzero(sure & (cells["label"] == pair.label))
        of_other = np.flatnonzero(sure & (cells["label"] == pair.suggested))
        means = [_mean(self.values, rows) for rows in (doubted, of_label, of_other)]
        change = means[0] - means[1]
        # A gene speaks for the suggestion where the cells lie on its side of the label.
        sides = means[2] - means[1]
        speaks = change * np.sign(np.nan_to_num(sides))
        score, how = speaks, "difference of means"
        if self.explains:
            found = self._attributed(doubted, pair.suggested)
            if found is not None:
                score, how = np.where(speaks > 0, found, 0.0), "explanation"
        features: FeatureSpace = self.model.features
        table = pd.DataFrame(
            {
                "label": pair.label,
                "suggested": pair.suggested,
                "rank": 0,
                "gene": list(features.ids),
                "gene_name": list(features.symbols),
                "score": score,
                "mean_doubted": means[0],
                "mean_label": means[1],
                "mean_suggested": means[2],
                "evidence": how,
            }
        )
        return table[(table["score"] > 0)]

    def _attributed(self, rows: NDArray[np.int64], suggested: str) -> NDArray[np.float64] | None:
        """Mean attribution of the cells that this model calls as suggested too."""
        part = self.cells[rows].copy()
        calls = self.model.predict(part, **self.query)
        agreed = np.flatnonzero(calls == suggested)
        if not len(agreed):
            return None
        found = self.model.explain(part, indices=agreed, **self.query)
        return np.asarray(found.mean(axis=0), dtype=np.float64).ravel()


def evidence_genes(parts: Sequence[pd.DataFrame], n_genes: int) -> pd.DataFrame:
    """Return the genes of all pairs in one table, the best of each first."""
    best = []
    for part in parts:
        top = part.sort_values("score", ascending=False, kind="stable").head(n_genes)
        best.append(top.assign(rank=np.arange(1, len(top) + 1)))
    best = [b for b in best if len(b)]
    if not best:
        return pd.DataFrame(columns=list(GENE_COLUMNS))
    return pd.concat(best, ignore_index=True)[list(GENE_COLUMNS)]


def _mean(values: sparse.csr_matrix, rows: NDArray[np.int64]) -> NDArray[np.float64]:
    if not len(rows):
        return np.full(values.shape[1], np.nan)
    return np.asarray(values[rows].mean(axis=0), dtype=np.float64).ravel()
