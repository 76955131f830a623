"""Tasks of embeddings: what types can be read off them, and how well batches are mixed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
from sklearn.neighbors import NearestNeighbors

from episome import settings
from episome.benchmark._case import Case, Outcome, class_of, needs_labels
from episome.benchmark._data import LABEL
from episome.benchmark._scores import call_scores
from episome.benchmark._tasks import Task, predictions_of
from episome.errors import MissingDependencyError, UsageError
from episome.models import LabelTransfer

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray

    from episome.benchmark._data import TaskData


_VARIABLE = 2000


class EmbeddingTask(Task):
    """Types of unseen cells, read off an embedding that was learned without their labels.

    Conditions: ``kNN`` (vote of the ``n_neighbors`` nearest training cells) and ``linear probe``
    (logistic regression on standardised dimensions). ARI and NMI compare k-means clusters of the
    test cells, as many as types, with the types.
    """

    name = "embedding"
    capability = "embedding"
    metrics: ClassVar[dict[str, bool]] = {
        "f1_macro": True,
        "accuracy": True,
        "ari": True,
        "nmi": True,
        "saw_labels": False,
        "n_latent": False,
    }
    main = "f1_macro"
    defaults: ClassVar[dict[str, Any]] = {"n_neighbors": 15, "labels": False}

    def run(self, case: Case) -> Outcome:
        """Embed both parts, and classify the test cells in two ways."""
        train, test = embedded(case, labels=bool(case.options["labels"]))
        truth = case.truth[LABEL].to_numpy(dtype=str)
        labels = case.train.obs[LABEL].to_numpy(dtype=str)
        clusters = _clusters(test, len(np.unique(truth)), case.seed)
        shared = {
            "ari": float(adjusted_rand_score(truth, clusters)),
            "nmi": float(normalized_mutual_info_score(truth, clusters)),
            "n_latent": float(train.shape[1]),
            # A model that cannot be set up without labels was told them, and that is said.
            "saw_labels": float(bool(case.options["labels"]) or needs_labels(class_of(case))),
        }
        k = min(int(case.options["n_neighbors"]), len(train))
        votes = LabelTransfer(train, labels, k=k, weights="distance")
        probe = LabelTransfer(train, labels, method="probe")
        classes = np.array(votes.classes)
        shares = {"kNN": votes.shares(test), "linear probe": probe.shares(test)}
        scores, said = {}, []
        for condition, values in shares.items():
            frame = pd.DataFrame(np.asarray(values), columns=classes)
            found = call_scores(frame, truth)
            scores[condition] = {"f1_macro": found["f1_macro"], "accuracy": found["accuracy"]}
            scores[condition] |= shared
            call = classes[np.asarray(values).argmax(axis=1)]
            said.append(predictions_of(case, call, frame.max(axis=1), condition))
        return Outcome(scores, pd.concat(said, ignore_index=True))


class IntegrationTask(Task):
    """How well an embedding keeps types apart and mixes batches, by scib-metrics.

    All cells of the data set are embedded together, as the method is meant to be used, so nothing
    is held out: the scores say how well these cells are integrated, not how new ones would be.
    ``batch_key`` of the data is needed.
    """

    name = "integration"
    capability = "embedding"
    metrics: ClassVar[dict[str, bool]] = {
        "total": True,
        "bio_conservation": True,
        "batch_correction": True,
        "isolated_labels": True,
        "nmi_kmeans": True,
        "ari_kmeans": True,
        "silhouette_label": True,
        "clisi": True,
        "bras": True,
        "ilisi": True,
        "kbet_per_label": True,
        "graph_connectivity": True,
        "pcr_comparison": True,
    }
    main = "total"
    defaults: ClassVar[dict[str, Any]] = {"labels": False, "n_neighbors": 90}

    def conditions(self, data: TaskData, options: dict[str, Any]) -> Sequence[str]:
        """One; refused without batches."""
        if data.entry.batch_key is None:
            raise UsageError(
                "E-B05",
                "integration needs a column of batches",
                where=data.entry.name,
                fix="batch_key = of the data",
            )
        return ("",)

    def run(self, case: Case) -> Outcome:
        """Embed all cells and score the space."""
        from anndata import concat

        cells = concat([case.train, _with_truth(case)], merge="same")
        model = case.fitted(cells, labels=bool(case.options["labels"]))
        with case.timed("predict"):
            space = np.asarray(model.get_latent_representation(cells, **case.reading))
        labels = cells.obs[LABEL].to_numpy(dtype=str)
        batches = cells.obs[str(case.entry.batch_key)].astype(str).to_numpy()
        before = _unintegrated(cells, case)
        k = int(case.options["n_neighbors"])
        scores = {
            "": integration_scores(space, labels, batches, before=before, n_neighbors=k),
            # Against itself, or its means would be of fewer scores than those of the models.
            "unintegrated": integration_scores(
                before, labels, batches, before=before, n_neighbors=k
            ),
        }
        return Outcome(scores)


def integration_scores(
    space: NDArray[np.floating],
    labels: NDArray[np.str_],
    batches: NDArray[np.str_],
    *,
    before: NDArray[np.floating] | None = None,
    n_neighbors: int = 90,
) -> dict[str, float]:
    """Return the scores that scib-metrics gives a space of cells.

    Parameters
    ----------
    space
        (n_cells, n_latent).
    labels, batches
        Of every cell.
    before
        The space without integration, for ``pcr_comparison``; left out without it.
    n_neighbors
        Neighbours of LISI and kBET, the cell itself among them; fewer where there are fewer.

    Returns
    -------
    Every score; ``bio_conservation`` and ``batch_correction``, the means of those that
    scib-metrics' benchmark takes by default; and ``total``, 0.6 of the one and 0.4 of the other,
    as in scIB. ``silhouette_batch`` and ``kbet`` over all cells stand beside them.

    Raises
    ------
    MissingDependencyError
        scib-metrics is not installed (E-P02).
    """
    try:
        import scib_metrics as scib
        from scib_metrics.nearest_neighbors import NeighborsResults
    except ImportError as error:
        raise MissingDependencyError(
            "E-P02",
            "the package 'scib-metrics' is not installed",
            where="integration",
            why="its scores are those of scib-metrics",
            fix='`pip install "episome[benchmark]"`',
        ) from error
    space = np.ascontiguousarray(space, dtype=np.float32)
    k = min(n_neighbors, len(space))
    distances, indices = NearestNeighbors(n_neighbors=k).fit(space).kneighbors(space)
    near = NeighborsResults(indices=indices, distances=distances)
    clusters = scib.nmi_ari_cluster_labels_kmeans(space, labels)
    bio = {
        "isolated_labels": scib.isolated_labels(space, labels, batches),
        "nmi_kmeans": clusters["nmi"],
        "ari_kmeans": clusters["ari"],
        "silhouette_label": scib.silhouette_label(space, labels),
        "clisi": scib.clisi_knn(near, labels),
    }
    batch = {
        "bras": scib.bras(space, labels, batches),
        "ilisi": scib.ilisi_knn(near, batches),
        "kbet_per_label": scib.kbet_per_label(near, batches, labels),
        "graph_connectivity": scib.graph_connectivity(near, labels),
    }
    if before is not None:
        old = np.ascontiguousarray(before, dtype=np.float32)
        batch["pcr_comparison"] = scib.pcr_comparison(old, space, batches, categorical=True)
    beside = {
        "silhouette_batch": scib.silhouette_batch(space, labels, batches),
        "kbet": scib.kbet(near, batches),
    }
    means = {"bio_conservation": _mean(bio), "batch_correction": _mean(batch)}
    total = 0.6 * means["bio_conservation"] + 0.4 * means["batch_correction"]
    scores = {k: float(_number(v)) for k, v in {**bio, **batch, **beside}.items()}
    return {"total": total, **means, **scores}


def _number(value: Any) -> Any:
    """Return the number of scores that come with more."""
    return value[0] if isinstance(value, tuple) else value


def embedded(case: Case, *, labels: bool) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Return the latents of training and test cells of a model that learned from the former."""
    model = case.fitted(labels=labels)
    train = np.asarray(model.get_latent_representation(case.train, **case.reading))
    with case.timed("predict"):
        test = np.asarray(model.get_latent_representation(case.test, **case.reading))
    return train, test


def _clusters(space: NDArray[np.floating], n: int, seed: int) -> NDArray[np.int64]:
    state = settings.stream_seed("benchmark-clusters", seed, bits=32)
    found: NDArray[np.int64] = KMeans(n, n_init=10, random_state=state).fit_predict(space)
    return found


def _unintegrated(cells: AnnData, case: Case) -> NDArray[np.floating]:
    """Principal components of log-normalised variable genes: what no model has touched."""
    import scanpy as sc

    part = cells.copy()
    sc.pp.normalize_total(part, target_sum=1e4)
    sc.pp.log1p(part)
    if part.n_vars > _VARIABLE:
        sc.pp.highly_variable_genes(part, n_top_genes=_VARIABLE, subset=True)
    n = min(50, part.n_obs - 1, part.n_vars - 1)
    sc.pp.pca(part, n_comps=n, random_state=0)
    return np.asarray(part.obsm["X_pca"])


def _with_truth(case: Case) -> AnnData:
    cells = case.test.copy()
    cells.obs[case.truth.columns] = case.truth
    return cells


def _mean(found: dict[str, float]) -> float:
    return float(np.mean([float(_number(v)) for v in found.values()]))
