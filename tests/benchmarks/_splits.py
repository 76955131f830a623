"""Real sets, and which of their cells train and which test.

``EPISOME_TEST_DATA`` names the folder with ``data/*.h5ad``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import anndata as ad
import numpy as np
from sklearn.model_selection import train_test_split

from episome_baselines.studies import BLOOD

LABEL = "label_of_the_split"
#: Column of the Cell Ontology terms of the labels, where the file has them.
TERMS = f"{LABEL}_ontology_term_id"
DATA = Path(os.environ.get("EPISOME_TEST_DATA", ".")) / "data"


@dataclass(frozen=True)
class SplitTask:
    """Which cells train and which test.

    ``file`` holds both parts, told apart by ``test``, or the training part alone where ``other``
    names the file of the test part. ``names`` brings labels to common names; cells without one
    take no part. ``chosen_on``: settings of models were chosen by scores on this split.
    ``exchangeable``: test cells are drawn as training cells are.
    """

    file: str
    labels_key: str
    donor_key: str | None
    test: Callable[[ad.AnnData], np.ndarray] | None
    reference: tuple[str, str]
    keep: Callable[[ad.AnnData], np.ndarray] | None = None
    other: str | None = None
    keep_other: Callable[[ad.AnnData], np.ndarray] | None = None
    names: Mapping[str, str] | None = None
    chosen_on: bool = False
    exchangeable: bool = False
    summary: str = ""


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


def of_five(labels_key: str) -> Callable[[ad.AnnData], np.ndarray]:
    """Cells of classes of at least five."""

    def mask(adata: ad.AnnData) -> np.ndarray:
        labels = adata.obs[labels_key].astype(str)
        return (labels.map(labels.value_counts()) >= 5).to_numpy()

    return mask


def _control(adata: ad.AnnData) -> np.ndarray:
    return (adata.obs["condition"].astype(str) == "control").to_numpy()


T_CELLS = {
    k: "T cell" if v.endswith("T cell") else v for k, v in BLOOD.items()
} | {
    "B cell": "B cell",
    "CD14+": "CD14-positive monocyte",
    "NK cell": "natural killer cell",
    "T cell": "T cell",
}  # fmt: skip

TASKS = {
    "pbmc3k-to-kang": SplitTask(
        "pbmc3k.h5ad",
        "cell_type_label",
        None,
        None,
        ("pbmc_cross_dataset", "train pbmc3k"),
        other="kang_pbmc_ifnb.h5ad",
        keep_other=_control,
        names=BLOOD,
        summary="pbmc3k to Kang control cells, 7 types",
    ),
    "kang-to-pbmc3k": SplitTask(
        "kang_pbmc_ifnb.h5ad",
        "cell_type_label",
        "donor_id",
        None,
        ("pbmc_cross_dataset", "train Kang"),
        keep=_control,
        other="pbmc3k.h5ad",
        names=BLOOD,
        summary="Kang control cells to pbmc3k, 7 types",
    ),
    "kang-donors": SplitTask(
        "kang_pbmc_ifnb.h5ad",
        "cell_type_label",
        "donor_id",
        one_of("donor_id", lambda _: ["kang_101", "kang_107", "kang_1016"]),
        ("kang_pbmc_ifnb", "test donors"),
        keep=lambda a: (a.obs["donor_id"].astype(str) != "unassigned").to_numpy(),
        summary="Kang, 3 unseen donors of 8",
    ),
    "kang-stimulated": SplitTask(
        "kang_pbmc_ifnb.h5ad",
        "cell_type_label",
        "donor_id",
        one_of("condition", lambda _: ["stimulated"]),
        ("kang_pbmc_ifnb", "train control"),
        summary="Kang control to stimulated cells",
    ),
    "facs": SplitTask(
        "pbmc_facs_zheng.h5ad",
        "facs_label",
        None,
        stratified("facs_label"),
        ("pbmc_facs_zheng", "random 70/30"),
        keep=of_five("facs_label"),
        exchangeable=True,
        summary="FACS-sorted PBMC, 10 types, random 30 %",
    ),
    "snare": SplitTask(
        "multiome_mop_snare.h5ad",
        "cluster (remapped)",
        "Batch",
        one_of("Batch", lambda v: v[len(v) // 2 :]),
        ("multiome_mop_snare", "RNA only"),
        summary="SNARE-seq cortex, 6 unseen libraries of 12",
    ),
    "baron": SplitTask(
        "baron_human_mouse_small.h5ad",
        "cell_type_label",
        "donor_id",
        one_of("species", lambda _: ["mouse"]),
        ("baron_human_mouse_small", "train human"),
        summary="Baron pancreas, human to mouse",
    ),
    "facs-to-pbmc3k": SplitTask(
        "pbmc_facs_zheng.h5ad",
        "cell_type_label",
        None,
        None,
        ("pbmc_cross_dataset", "train FACS"),
        other="pbmc3k.h5ad",
        names=T_CELLS,
        summary="FACS-sorted PBMC to pbmc3k, 4 types",
    ),
    "onek1k": SplitTask(
        "onek1k_blood.h5ad",
        "cell_type_label",
        "donor_id",
        one_of("donor_id", lambda v: v[-8:]),
        ("onek1k_blood", "test the last 8"),
        chosen_on=True,
        summary="OneK1K blood, 8 unseen donors of 28",
    ),
    "mixology": SplitTask(
        "mixology_3cl.h5ad",
        "cell_type_label",
        None,
        one_of("assay", lambda _: ["Drop-seq"]),
        ("mixology_3cl", "train CEL-seq2"),
        chosen_on=True,
        summary="three cell lines, CEL-seq2 to Drop-seq",
    ),
    "zeisel": SplitTask(
        "zeisel_cortex_small.h5ad",
        "cell_type_label",
        None,
        stratified("cell_type_label"),
        ("zeisel_cortex_small", "random 70/30"),
        chosen_on=True,
        exchangeable=True,
        summary="Zeisel cortex, 200 genes, random 30 %",
    ),
    "pbmc3k": SplitTask(
        "pbmc3k.h5ad",
        "cell_type_label",
        None,
        stratified("cell_type_label"),
        ("pbmc3k", "random 70/30"),
        chosen_on=True,
        exchangeable=True,
        summary="pbmc3k, 9 types, random 30 %",
    ),
}


def _named(adata: ad.AnnData, task: SplitTask) -> ad.AnnData:
    """The cells that have a label, under its common name."""
    labels = adata.obs[task.labels_key].astype(str)
    if task.names is not None:
        labels = labels.map(task.names)
    found = adata[labels.notna().to_numpy()].copy()
    found.obs[LABEL] = labels[labels.notna()].to_numpy(dtype=object)
    given = "cell_type_ontology_term_id"
    if task.names is None and task.labels_key == "cell_type_label" and given in found.obs:
        found.obs[TERMS] = found.obs[given].astype(str)
    return found


def _by_symbol(adata: ad.AnnData) -> ad.AnnData:
    for column in ("symbol", "feature_name"):
        if column in adata.var and adata.var_names[0].startswith("ENSG"):
            adata.var_names = adata.var[column].astype(str).to_numpy()
    adata.var_names_make_unique()
    return adata


def _both(task: SplitTask) -> tuple[ad.AnnData, ad.AnnData]:
    """Training and test cells with the same genes."""
    adata = ad.read_h5ad(DATA / task.file)
    if task.keep is not None:
        adata = adata[task.keep(adata)].copy()
    adata = _named(adata, task)
    if task.other is None:
        mask = task.test(adata)
        return adata[~mask].copy(), adata[mask].copy()
    other = ad.read_h5ad(DATA / task.other)
    if task.keep_other is not None:
        other = other[task.keep_other(other)].copy()
    adata, other = _by_symbol(adata), _by_symbol(_named(other, task))
    shared = adata.var_names.intersection(other.var_names)
    return adata[:, shared].copy(), other[:, shared].copy()


def parts(task: SplitTask) -> tuple[ad.AnnData, ad.AnnData]:
    """Training and test cells; test classes that training lacks are left out."""
    train, test = _both(task)
    test = test[test.obs[LABEL].isin(train.obs[LABEL].unique()).to_numpy()]
    found = []
    for part in (train, test):
        columns = [c for c in (LABEL, task.donor_key, TERMS) if c in part.obs]
        found.append(ad.AnnData(part.X, obs=part.obs[columns].copy(), var=part.var[[]]))
    return found[0], found[1]
