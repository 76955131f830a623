"""The study of the paper: one part for every question of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
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

PAPER = "10.1038/s42256-024-00934-3"
MASKS = ("random_mask", "programme_mask", "programme_to_programme", "programme_to_tf")
VIEWS = ("byol", "barlow", "vicreg", "simclr")
#: Gene sets that the tasks about programmes read; they lie beside the data, and are the user's.
CELL_TYPES, FACTORS = (
    "resources/msigdb_c8_celltype_clustermole.gmt.gz",
    "resources/msigdb_c3_tft_v7.5.1.gmt.gz",
)
_TYPES = {"labels_key": "cell_type_label"}
_KNOWN = "donor_id!=unassigned"


@dataclass(frozen=True, slots=True)
class _Scale:
    """What a scale runs on.

    ``auxiliary`` are the cells of other studies that encoders are pretrained on; ``sizes`` are
    those of the networks.
    """

    labelled: tuple[DataEntry, ...]
    auxiliary: tuple[DataEntry, ...]
    unseen: tuple[DataEntry, ...]
    donors: tuple[DataEntry, ...]
    batches: tuple[DataEntry, ...]
    n_labelled: int
    seeds: tuple[int, ...]
    sizes: Mapping[str, Any]
    pretrain: Mapping[str, Any]
    tasks: tuple[str, ...]
    rates: tuple[float, ...]
    programme_rates: tuple[float, ...]
    train: Mapping[str, Any]


def _simulated(name: str, **more: Any) -> DataEntry:
    given = {"labels_key": "cell_type", "donor_key": "donor_id", **more}
    return DataEntry(name, "simulated-types", splits=(SplitEntry("group"),), **given)


def _census(name: str, dataset: str) -> DataEntry:
    """Cells of one data set of the census that the paper used."""
    address = f"census:homo_sapiens@2023-05-15?dataset_id == '{dataset}'"
    return DataEntry(name, address, splits=(SplitEntry("group"),))


_KANG = DataEntry(
    "Kang donors",
    "kang_pbmc_ifnb.h5ad",
    **_TYPES,
    donor_key="donor_id",
    keep=(_KNOWN,),
    splits=(SplitEntry("group"),),
)
_FACS = DataEntry(
    "FACS-sorted blood",
    "pbmc_facs_zheng.h5ad",
    labels_key="facs_label",
    min_cells=5,
    splits=(SplitEntry("random"),),
)
_AUXILIARY = (
    DataEntry("pbmc3k", "pbmc3k.h5ad", donor_key="donor_id"),
    DataEntry("two chemistries", "pbmc_unlabelled_2chem.h5ad", donor_key="donor_id"),
    DataEntry("frozen A", "pbmc_unlabelled_frozenA.h5ad", donor_key="donor_id"),
)
#: Labels that the two studies share, under one name.
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
_SMALL = {"hidden": [256, 128, 64], "n_latent": 32}
_SCALES = {
    "tiny": _Scale(
        labelled=(_simulated("simulated"),),
        auxiliary=(),
        unseen=(),
        donors=(),
        batches=(),
        n_labelled=60,
        seeds=(0,),
        sizes={"hidden": [32, 16], "n_latent": 8},
        pretrain={"max_epochs": 3},
        tasks=("random_mask", "vicreg"),
        rates=(0.5,),
        programme_rates=(),
        train={"max_epochs": 3},
    ),
    "small": _Scale(
        labelled=(_KANG, _FACS),
        auxiliary=_AUXILIARY,
        unseen=(
            DataEntry(
                "Kang to pbmc3k",
                "kang_pbmc_ifnb.h5ad",
                **_TYPES,
                donor_key="donor_id",
                keep=("condition=control", _KNOWN),
                query="pbmc3k.h5ad",
                names=_BLOOD,
                splits=(SplitEntry("query"),),
            ),
        ),
        donors=(
            DataEntry(
                "OneK1K blood",
                "onek1k_blood.h5ad",
                **_TYPES,
                donor_key="donor_id",
                splits=(SplitEntry("group"),),
            ),
        ),
        batches=(
            DataEntry(
                "three cell lines",
                "mixology_3cl.h5ad",
                **_TYPES,
                batch_key="assay",
                splits=(SplitEntry("random"),),
            ),
        ),
        n_labelled=500,
        seeds=(0, 1, 2, 3, 4),
        sizes=_SMALL,
        pretrain={"max_epochs": 12},
        tasks=(*MASKS, *VIEWS),
        rates=(0.1, 0.25, 0.5, 0.75, 0.9),
        programme_rates=(0.01, 0.05, 0.1, 0.25, 0.5),
        train={},
    ),
    "full": _Scale(
        labelled=(
            _census("PBMC", "2a498ace-872a-4935-984b-1afa70fd9886"),
            _census("Tabula Sapiens", "53d208b0-2cfd-4366-9866-c3c6114081bc"),
        ),
        auxiliary=(DataEntry("scTab corpus", "sctab.corpus"),),
        unseen=(),
        donors=(DataEntry("scTab corpus", "sctab.corpus", splits=(SplitEntry("group"),)),),
        batches=(),
        n_labelled=500,
        seeds=(0, 1, 2, 3, 4),
        sizes={},
        pretrain={},
        tasks=(*MASKS, *VIEWS),
        rates=(0.1, 0.25, 0.5, 0.75, 0.9),
        programme_rates=(0.01, 0.05, 0.1, 0.25, 0.5),
        train={},
    ),
}


def ssl(scale: str) -> tuple[Study, ...]:
    """Return the parts of the study at a scale.

    Parameters
    ----------
    scale
        ``"tiny"``: simulated cells, to see that it runs; ``"small"``: public sets, and networks of
        half the published widths and less; ``"full"``: the sets and the network of the paper,
        where they are at hand.

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
        _few_labels(at, shared),
        _zero_shot(at, shared),
        _rates(at, shared),
        _reconstruction(at, shared),
        _unseen(at, shared),
        _donors(at, shared),
        _integration(at, shared),
    )
    return tuple(p for p in parts if p is not None)


def _task(at: _Scale, pretext: str, **more: Any) -> dict[str, Any]:
    """Arguments of an encoder that one task trains."""
    init = {**at.sizes, "pretext": pretext, **more}
    if pretext.startswith("programme"):
        init["programmes"] = FACTORS if pretext == "programme_to_tf" else CELL_TYPES
    return init


def _pretraining(at: _Scale, pretext: str, model: str = "ssl", **more: Any) -> Pretraining:
    return Pretraining(
        model, init=_task(at, pretext), train=at.pretrain, data=at.auxiliary, **more
    )


def _classifier(at: _Scale, name: str, **more: Any) -> ModelEntry:
    return ModelEntry("ssl-classifier", name, init=at.sizes, train=at.train, **more)


def _few_labels(at: _Scale, shared: Mapping[str, Any]) -> Study:
    scratch, same = "from scratch", "pretrained on the same cells"
    mask = f"pretrained: {at.tasks[0]}"
    own = replace(_pretraining(at, at.tasks[0]), data=())
    entries = [
        _classifier(at, scratch),
        # Where there are no other cells, those of the run are what tasks are pretrained on.
        *([_classifier(at, same, pretrain=own)] if at.auxiliary else []),
        *(_classifier(at, f"pretrained: {t}", pretrain=_pretraining(at, t)) for t in at.tasks),
        replace(
            _classifier(at, "last layer only", pretrain=_pretraining(at, at.tasks[0])),
            init={**at.sizes, "freeze": "shallow"},
        ),
        ModelEntry("logreg"),
    ]
    views = [t for t in at.tasks if t in VIEWS]
    return Study(
        "ssl-few-labels",
        "label-efficiency",
        at.labelled,
        tuple(entries),
        options={"fractions": (), "cells_per_class": (), "cells": (at.n_labelled,)},
        floor=False,
        summary="Do encoders that were pretrained on cells of other studies learn types from few "
        "labelled cells better than networks that start from scratch?",
        published=(
            {"what": "PBMC, from scratch", "f1_macro": "0.7013 +- 0.0077"},
            {"what": "PBMC, pretrained on the scTab corpus", "f1_macro": "0.7466 +- 0.0057"},
            {"what": "Tabula Sapiens, from scratch", "f1_macro": "0.2722 +- 0.0123"},
            {"what": "Tabula Sapiens, pretrained", "f1_macro": "0.3085 +- 0.0040"},
        ),
        contrasts=(
            *(Contrast(f"pretrained: {t}", scratch, f"{t}: pretraining helps") for t in at.tasks),
            *(
                (
                    Contrast(same, scratch, "pretraining on the same cells helps"),
                    Contrast(mask, same, "cells of other studies help more than the same cells"),
                )
                if at.auxiliary
                else ()
            ),
            *(Contrast(mask, f"pretrained: {t}", f"masking is better than {t}") for t in views),
            Contrast(mask, "logreg", "a pretrained network is better than logreg"),
        ),
        **shared,
    )


def _zero_shot(at: _Scale, shared: Mapping[str, Any]) -> Study:
    entries = [
        ModelEntry("ssl", f"zero-shot: {t}", pretrain=_pretraining(at, t, model="", genes="run"))
        for t in at.tasks
    ]
    # Weights that were never moved: what an encoder is worth before it learns.
    still = {"max_epochs": 1, "plan_kwargs": {"lr": 1e-12, "weight_decay": 0.0}}
    entries += [
        ModelEntry("ssl", "random encoder", init=_task(at, at.tasks[0]), train=still),
        ModelEntry("pca"),
    ]
    mask = f"zero-shot: {at.tasks[0]}"
    return Study(
        "ssl-zero-shot",
        "embedding",
        at.labelled,
        tuple(entries),
        options={"n_neighbors": 5},
        summary="What can be read off encoders of other studies without training?",
        published=(
            {"what": "scTab test cells, zero-shot kNN, best task", "f1_macro": "up to 0.6725"},
        ),
        contrasts=(
            Contrast(mask, "random encoder", "pretraining is better than random weights"),
            Contrast(mask, "pca", "pretraining is better than principal components"),
            *(
                Contrast(mask, f"zero-shot: {t}", f"masking is better than {t}")
                for t in at.tasks
                if t in VIEWS
            ),
        ),
        **shared,
    )


def _rates(at: _Scale, shared: Mapping[str, Any]) -> Study:
    tried = [("random_mask", r) for r in at.rates]
    if "programme_mask" in at.tasks:
        tried += [("programme_mask", r) for r in at.programme_rates]
    entries = tuple(
        ModelEntry(
            "ssl",
            f"{task}, rate {rate:g}",
            pretrain=replace(
                _pretraining(at, task, model="", genes="run"),
                init=_task(at, task, mask_rate=rate),
            ),
        )
        for task, rate in tried
    )
    return Study(
        "ssl-rates",
        "embedding",
        at.labelled,
        entries,
        options={"n_neighbors": 5},
        summary="How much should be hidden? Rates of programmes are shares of programmes, not of "
        "genes.",
        **{**shared, "seeds": at.seeds[:1]},
    )


def _reconstruction(at: _Scale, shared: Mapping[str, Any]) -> Study:
    masks = [t for t in at.tasks if t in MASKS]
    entries = [
        ModelEntry("ssl", t, init=_task(at, t), train=at.pretrain)
        for t in masks
        # A decoder of one programme, or of factors, is not asked for whole cells.
        if t in MASKS[:2]
    ]
    entries += [
        ModelEntry("ssl-reconstructor", "from scratch", init=at.sizes, train=at.pretrain),
        *(
            ModelEntry(
                "ssl-reconstructor",
                f"pretrained: {t}",
                init=at.sizes,
                train=at.pretrain,
                pretrain=_pretraining(at, t),
            )
            for t in masks
        ),
        ModelEntry("pca"),
        ModelEntry("scvi"),
    ]
    first = f"pretrained: {masks[0]}"
    return Study(
        "ssl-reconstruction",
        "reconstruction",
        at.labelled,
        tuple(entries),
        floor=False,
        summary="Do pretrained encoders reconstruct cells of a new study better?",
        contrasts=(
            Contrast(first, "from scratch", "pretraining helps to reconstruct"),
            Contrast(
                first,
                "from scratch",
                "pretraining helps to reconstruct (explained variance)",
                metric="ev_weighted",
            ),
        ),
        **{**shared, "seeds": at.seeds[:2]},
    )


def _unseen(at: _Scale, shared: Mapping[str, Any]) -> Study | None:
    if not at.unseen:
        return None
    # The study that is tested on is no part of pretraining.
    files = {entry.query for entry in at.unseen}
    others = tuple(a for a in at.auxiliary if a.source not in files)
    start = replace(_pretraining(at, at.tasks[0]), data=others)
    return Study(
        "ssl-unseen",
        "annotation",
        at.unseen,
        (
            _classifier(at, "from scratch"),
            _classifier(at, "pretrained", pretrain=start),
            ModelEntry("logreg"),
        ),
        summary="Does pretraining help on a study that neither pretraining nor labels have seen?",
        published=(
            {"what": "great apes, from scratch", "f1_macro": "0.0877 +- 0.0215"},
            {"what": "great apes, pretrained", "f1_macro": "0.1797 +- 0.0450"},
        ),
        contrasts=(Contrast("pretrained", "from scratch", "pretraining helps on a new study"),),
        **shared,
    )


def _donors(at: _Scale, shared: Mapping[str, Any]) -> Study | None:
    if not at.donors:
        return None
    shares = (0.1, 0.25, 0.5, 1.0)
    own = replace(_pretraining(at, at.tasks[0]), data=())
    names = {f: f"{f:.0%} of the donors" for f in shares}
    return Study(
        "ssl-donors",
        "label-efficiency",
        at.donors,
        (
            _classifier(at, "from scratch"),
            *(
                _classifier(at, name, pretrain=replace(own, donor_fraction=f))
                for f, name in names.items()
            ),
        ),
        options={"fractions": (), "cells_per_class": (), "cells": (100,)},
        floor=False,
        summary="Of how many donors should cells for pretraining be?",
        contrasts=(
            Contrast(names[1.0], names[0.1], "all donors are better than a tenth of them"),
        ),
        **shared,
    )


def _integration(at: _Scale, shared: Mapping[str, Any]) -> Study | None:
    if not at.batches:
        return None

    def one(name: str, **more: Any) -> ModelEntry:
        init = {**at.sizes, **more.pop("init", {})}
        return ModelEntry("ssl-reconstructor", name, init=init, train=at.pretrain, **more)

    start = _pretraining(at, at.tasks[0])
    return Study(
        "ssl-integration",
        "integration",
        at.batches,
        (
            one("from scratch"),
            one("pretrained", pretrain=start),
            one("pretrained, last layer", pretrain=start, init={"freeze": "shallow"}),
            ModelEntry("pca"),
            ModelEntry("scvi"),
        ),
        floor=False,
        summary="Does pretraining help to bring batches together? The batch is the same for all "
        "models, and scVI reads counts.",
        published=(
            {"what": "three lung studies, from scratch", "total": "0.5354 +- 0.0110"},
            {"what": "the same, pretrained", "total": "0.5571 +- 0.0080"},
            {"what": "the same, last layer", "total": "0.5638 +- 0.0089"},
        ),
        contrasts=(
            Contrast("pretrained", "from scratch", "pretraining helps to integrate"),
            Contrast("pretrained, last layer", "pretrained", "training the last layer is better"),
        ),
        **{**shared, "seeds": at.seeds[:1]},
    )
