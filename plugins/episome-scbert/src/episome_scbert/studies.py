"""The study of the scBERT paper: one part for every question, linear models beside all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from episome.benchmark import (
    Contrast,
    DataEntry,
    ModelEntry,
    Pretraining,
    SplitEntry,
    Study,
    scale_of,
)

PAPER = "10.1038/s42256-022-00534-z"
_TYPES = {"labels_key": "cell_type_label"}
#: A list of markers beside the data; it is the user's.
MARKERS = "resources/panglaodb_markers_2020-03-27.tsv.gz"
_L2, _L1 = "logreg L2", "logreg L1"
_LINEAR = (
    ModelEntry("logreg", _L2),
    ModelEntry("logreg", _L1, init={"norm": "l1"}),
)
_RIVALS = (ModelEntry("sctab"), ModelEntry("sims"))


@dataclass(frozen=True, slots=True)
class _Scale:
    """What a scale runs on.

    ``auxiliary`` are cells of other studies that encoders are pretrained on, ``few_seeds`` those
    of the parts where a seed decides more than a model.
    """

    folds: tuple[DataEntry, ...]
    studies: tuple[DataEntry, ...]
    imbalance: tuple[DataEntry, ...]
    size: tuple[DataEntry, ...]
    novel: tuple[DataEntry, ...]
    markers: tuple[DataEntry, ...]
    pretraining: tuple[DataEntry, ...]
    auxiliary: tuple[DataEntry, ...]
    sensitivity: tuple[DataEntry, ...]
    seeds: tuple[int, ...]
    few_seeds: tuple[int, ...] = (0, 1, 2)
    fractions: tuple[float, ...] = (0.1, 0.3, 0.5, 0.7, 0.9)
    marker_options: Mapping[str, Any] = field(default_factory=lambda: {"markers": MARKERS})
    rivals: tuple[ModelEntry, ...] = _RIVALS
    init: Mapping[str, Any] = field(default_factory=dict)
    train: Mapping[str, Any] = field(default_factory=dict)
    pretrain: Mapping[str, Any] = field(default_factory=dict)
    variants: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def one(self, name: str = "", **more: Any) -> ModelEntry:
        """Return the model of the paper."""
        init = {**self.init, **more.pop("init", {})}
        return ModelEntry("scbert", name, init=init, train=self.train, **more)


def _simulated(split: SplitEntry) -> DataEntry:
    given = {"labels_key": "cell_type", "donor_key": "donor_id"}
    return DataEntry("simulated", "simulated-types", splits=(split,), **given)


_DONORS = (SplitEntry("group"),)
_CELLS = (SplitEntry("random"),)
_KANG = DataEntry(
    "Kang donors",
    "kang_pbmc_ifnb.h5ad",
    **_TYPES,
    donor_key="donor_id",
    keep=("donor_id!=unassigned",),
    splits=_DONORS,
)
_FACS = DataEntry(
    "FACS-sorted blood",
    "pbmc_facs_zheng.h5ad",
    labels_key="facs_label",
    min_cells=5,
    splits=_CELLS,
)
_ZEISEL = DataEntry("Zeisel cortex", "zeisel_cortex_small.h5ad", **_TYPES, splits=_CELLS)
_PAUL = DataEntry("Paul marrow", "paul15_small.h5ad", **_TYPES, splits=_CELLS)
#: Labels that two studies of blood share, under one name.
_BLOOD = {
    "B": "B cell",
    "NK": "natural killer cell",
    "DC": "dendritic cell",
    "Dendritic": "dendritic cell",
    "CD14+ Mono": "CD14 monocyte",
    "CD14+Mono": "CD14 monocyte",
    "FCGR3A+ Mono": "FCGR3A monocyte",
    "FCGR3A+Mono": "FCGR3A monocyte",
    "CD8 T": "CD8 T cell",
    "CD8T": "CD8 T cell",
    "CD4T": "CD4 T cell",
    "Naive CD4 T": "CD4 T cell",
    "Memory CD4 T": "CD4 T cell",
}
_TO_PBMC3K = DataEntry(
    "Kang to pbmc3k",
    "kang_pbmc_ifnb.h5ad",
    **_TYPES,
    donor_key="donor_id",
    keep=("condition=control", "donor_id!=unassigned"),
    query="pbmc3k.h5ad",
    names=_BLOOD,
    splits=(SplitEntry("query"),),
)


def _of_lines(test: str) -> DataEntry:
    """Three cell lines, one technology against the other."""
    split = SplitEntry("where", where=(f"assay={test}",))
    return DataEntry(f"cell lines to {test}", "mixology_3cl.h5ad", **_TYPES, splits=(split,))


_FIVE = (SplitEntry("kfold"),)
#: Bins, widths, heads and layers around the defaults; the paper's range, and 50 dimensions.
_VARIANTS: dict[str, dict[str, Any]] = {
    "3 bins": {"n_bins": 3},
    "7 bins": {"n_bins": 7},
    "9 bins": {"n_bins": 9},
    "rank bins": {"binning": "rank"},
    "dim 16": {"dim": 16},
    "dim 50": {"dim": 50},
    "dim 100": {"dim": 100},
    "1 head": {"heads": 1},
    "8 heads": {"heads": 8},
    "1 layer": {"depth": 1},
    "4 layers": {"depth": 4},
    "genes by chance": {"gene_embedding": "learned"},
    "pooled head": {"head": "pooled"},
    "no hidden genes in training": {"mask_weight": 0.0},
}
_PUBLISHED_VARIANTS: dict[str, dict[str, Any]] = {
    "7 bins": {"n_bins": 7},
    "9 bins": {"n_bins": 9},
    "dim 50": {"dim": 50},
    "dim 100": {"dim": 100},
    "8 heads": {"heads": 8},
    "20 heads": {"heads": 20},
    "4 layers": {"depth": 4},
    "8 layers": {"depth": 8},
}
_SCALES = {
    "tiny": _Scale(
        folds=(_simulated(SplitEntry("kfold", n_folds=2)),),
        studies=(),
        imbalance=(_simulated(SplitEntry("group")),),
        size=(_simulated(SplitEntry("group")),),
        novel=(_simulated(SplitEntry("group")),),
        markers=(_simulated(SplitEntry("group")),),
        pretraining=(_simulated(SplitEntry("group")),),
        auxiliary=(),
        sensitivity=(_simulated(SplitEntry("group")),),
        seeds=(0,),
        few_seeds=(0,),
        fractions=(0.5,),
        marker_options={"genes": tuple(f"GENE{i}" for i in range(10)), "shares": (0.0, 1.0)},
        rivals=(),
        init={"preset": "tiny", "dim": 16, "depth": 1},
        train={"max_epochs": 2},
        pretrain={"max_epochs": 1},
        variants={"dim 8": {"dim": 8}},
    ),
    "small": _Scale(
        folds=tuple(
            replace(d, splits=_FIVE, donor_key=None, keep=d.keep) for d in (_FACS, _ZEISEL, _PAUL)
        ),
        studies=(_TO_PBMC3K, _of_lines("Drop-seq"), _of_lines("CEL-seq2"), _KANG),
        imbalance=(_FACS, _ZEISEL),
        size=(_FACS, _KANG),
        novel=(_KANG, _ZEISEL),
        markers=(_FACS, _KANG),
        pretraining=(_KANG,),
        auxiliary=(
            DataEntry("two chemistries", "pbmc_unlabelled_2chem.h5ad", donor_key="donor_id"),
            DataEntry("frozen A", "pbmc_unlabelled_frozenA.h5ad", donor_key="donor_id"),
        ),
        sensitivity=(_FACS, _KANG),
        seeds=(0, 1),
        variants=_VARIANTS,
    ),
    "full": _Scale(
        folds=tuple(
            DataEntry(name, source, **_TYPES, min_cells=10, splits=_FIVE)
            for name, source in (
                ("Zheng 68k", "zheng68k.h5ad"),
                ("MacParland liver", "macparland.h5ad"),
                ("three organs", "three_organs.h5ad"),
            )
        ),
        studies=tuple(
            DataEntry(
                f"pancreas to {study}",
                "pancreas.h5ad",
                **_TYPES,
                donor_key="donor_id",
                splits=(SplitEntry("where", where=(f"study={study}",)),),
            )
            for study in ("Baron", "Muraro", "Segerstolpe", "Xin")
        ),
        imbalance=(DataEntry("Zheng 68k", "zheng68k.h5ad", **_TYPES, splits=_CELLS),),
        size=(DataEntry("Zheng 68k", "zheng68k.h5ad", **_TYPES, splits=_CELLS),),
        novel=(DataEntry("MacParland liver", "macparland.h5ad", **_TYPES, splits=_CELLS),),
        markers=(DataEntry("Zheng 68k", "zheng68k.h5ad", **_TYPES, splits=_CELLS),),
        pretraining=(DataEntry("Zheng 68k", "zheng68k.h5ad", **_TYPES, splits=_CELLS),),
        auxiliary=(DataEntry("pretraining corpus", "pretraining.corpus"),),
        sensitivity=(DataEntry("Zheng 68k", "zheng68k.h5ad", **_TYPES, splits=_CELLS),),
        seeds=(0, 1, 2),
        marker_options={"markers": "markers.gmt"},
        init={"preset": "base"},
        variants=_PUBLISHED_VARIANTS,
    ),
}


def scbert(scale: str = "small") -> tuple[Study, ...]:
    """Return the parts of the study.

    Parameters
    ----------
    scale
        ``"tiny"``: simulated cells, two epochs: whether everything runs. ``"small"``: public sets
        of 500 to 4,000 cells in the folder that is passed (``--data``), the preset for a laptop.
        ``"full"``: sets of the paper as h5ad files with counts in ``X`` and types in
        ``cell_type_label``: ``zheng68k.h5ad``, ``macparland.h5ad``, ``three_organs.h5ad``,
        ``pancreas.h5ad`` (``study``, ``donor_id``), ``pretraining.corpus`` and ``markers.gmt``;
        those that are missing take no part.

    Raises
    ------
    UsageError
        Another scale (E-B07).
    """
    at = scale_of(_SCALES, scale)
    shared: dict[str, Any] = {
        "seeds": at.seeds,
        "reference": PAPER,
        "timeout": 7200.0 if scale != "full" else 172_800.0,
    }
    parts = (
        _annotation(
            "scbert-folds",
            at.folds,
            "Five folds of the same cells: how good is the transformer where nothing changes?",
            at,
            {**shared, "seeds": at.seeds[:1]},
            (
                {"what": "Zheng 68k, five folds", "accuracy": 0.759, "f1_macro": 0.691},
                {"what": "the same, best other", "accuracy": 0.704, "f1_macro": 0.659},
            ),
        ),
        _annotation(
            "scbert-studies",
            at.studies,
            "Are types of one study, technology or donor found in another?",
            at,
            {**shared, "seeds": at.few_seeds},
            (
                {"what": "pancreas, one study left out", "accuracy": 0.992},
                {"what": "the same, SingleR", "accuracy": 0.987},
            ),
        ),
        _imbalance(at, shared),
        _size(at, shared),
        _novel(at, shared),
        _markers(at, shared),
        _pretraining(at, shared),
        _pretraining(at, shared, few=True),
        _sensitivity(at, shared),
    )
    return tuple(p for p in parts if p is not None)


def _better(at: _Scale, first: str = "scbert") -> tuple[Contrast, ...]:
    rivals = (*_LINEAR, *at.rivals)
    return tuple(Contrast(first, r.shown, f"{first} is better than {r.shown}") for r in rivals)


def _all(at: _Scale) -> tuple[ModelEntry, ...]:
    return (at.one(), *_LINEAR, *at.rivals)


def _annotation(
    name: str,
    data: tuple[DataEntry, ...],
    summary: str,
    at: _Scale,
    shared: Mapping[str, Any],
    published: tuple[Mapping[str, Any], ...],
) -> Study | None:
    if not data:
        return None
    return Study(
        name,
        "annotation",
        data,
        _all(at),
        summary=summary,
        published=published,
        contrasts=_better(at),
        **shared,
    )


def _imbalance(at: _Scale, shared: Mapping[str, Any]) -> Study:
    return Study(
        "scbert-imbalance",
        "imbalance",
        at.imbalance,
        _all(at),
        options={"ratios": (1, 100)},
        floor=False,
        summary="Are types found of which training has a hundredth of the cells of others?",
        published=({"what": "10,000 and 100 cells a type", "accuracy": 0.840, "f1_macro": 0.826},),
        contrasts=_better(at),
        **{**shared, "seeds": at.seeds[:1]},
    )


def _size(at: _Scale, shared: Mapping[str, Any]) -> Study:
    return Study(
        "scbert-size",
        "label-efficiency",
        at.size,
        _all(at),
        options={"fractions": at.fractions, "cells_per_class": ()},
        floor=False,
        summary="How many labelled cells are needed? Fractions are of the training part.",
        contrasts=_better(at),
        **{**shared, "seeds": at.seeds[:1]},
    )


def _novel(at: _Scale, shared: Mapping[str, Any]) -> Study:
    return Study(
        "scbert-novel",
        "novelty",
        at.novel,
        (at.one(), *_LINEAR),
        floor=False,
        summary="Is a type that training lacked told from the others?",
        published=(
            {"what": "MacParland liver, novel types", "accuracy of novel": 0.329},
            {"what": "the same, SciBet", "accuracy of novel": 0.174},
        ),
        contrasts=tuple(
            Contrast("scbert", r.shown, f"scbert finds unseen types better than {r.shown}")
            for r in _LINEAR
        ),
        **{**shared, "seeds": at.seeds[:1]},
    )


def _markers(at: _Scale, shared: Mapping[str, Any]) -> Study:
    return Study(
        "scbert-markers",
        "marker-deletion",
        at.markers,
        _all(at),
        options=at.marker_options,
        floor=False,
        summary="What is left when known markers are not measured, a tenth, half, or all of them?",
        contrasts=_better(at),
        **{**shared, "seeds": at.seeds[:1]},
    )


def _pretraining(at: _Scale, shared: Mapping[str, Any], *, few: bool = False) -> Study:
    """Return the study with few labels and with all, or with few alone and more seeds."""
    start = Pretraining("scbert", init=at.init, train=at.pretrain)
    scratch, same, other = "from scratch", "pretrained on the same cells", "pretrained"
    last = "pretrained, last layer"
    # Pretrained alike, one fine-tuned as a whole and one as published.
    whole = {**at.train, "trainable": "all"}
    entries = [at.one(scratch), replace(at.one(same, pretrain=start), train=whole)]
    contrasts = [Contrast(same, scratch, "pretraining on the same cells helps")]
    if at.auxiliary:
        elsewhere = replace(start, data=at.auxiliary)
        entries += [
            replace(at.one(other, pretrain=elsewhere), train=whole),
            at.one(last, pretrain=elsewhere),
        ]
        contrasts += [
            Contrast(other, scratch, "pretraining on other cells helps"),
            Contrast(other, last, "training all layers is better than the last"),
        ]
    return Study(
        "scbert-few-labels" if few else "scbert-pretraining",
        "label-efficiency",
        at.pretraining,
        (*entries, *_LINEAR),
        options={"fractions": (0.1,) if few else (0.1, 1.0), "cells_per_class": ()},
        floor=False,
        summary="What does pretraining on unlabelled cells add, with "
        + ("few labels?" if few else "few labels and with all?"),
        contrasts=(*contrasts, Contrast(same, _L2, "a pretrained transformer beats logreg L2")),
        **{**shared, "seeds": at.few_seeds if few else at.seeds},
    )


def _sensitivity(at: _Scale, shared: Mapping[str, Any]) -> Study:
    usual = at.one("as it is")
    return Study(
        "scbert-sensitivity",
        "annotation",
        at.sensitivity,
        (usual, *(at.one(name, init=more) for name, more in at.variants.items())),
        floor=False,
        summary="How much do bins, width, heads, layers and heads for classes matter?",
        contrasts=tuple(
            Contrast("as it is", name, f"the defaults are better than {name}")
            for name in at.variants
        ),
        **{**shared, "seeds": at.seeds[:1]},
    )
