"""The study: one protocol for all that predict a modality from RNA."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
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
#: What the published scripts set, where ours differs by default.
_PUBLISHED: dict[str, Any] = {
    "hidden": [256, 256],
    "n_latent": 40,
    "decoder": [256, 256],
    "dropout": 0.1574,
    "input_dropout": 0.0,
}
_PUBLISHED_TRAIN: dict[str, Any] = {
    "batch_size": 256,
    "plan_kwargs": {"lr": 1e-3, "weight_decay": 1.164e-3, "share_moment": False},
}
#: The encoder of the pretraining, which has to be the same in both.
_ENCODER: dict[str, Any] = {"hidden": [512, 256], "n_latent": 64}


@dataclass(frozen=True, slots=True)
class _Scale:
    """What a scale runs on."""

    proteins: tuple[DataEntry, ...]
    tissues: tuple[DataEntry, ...]
    peaks: tuple[DataEntry, ...]
    auxiliary: tuple[DataEntry, ...]
    seeds: tuple[int, ...]
    train: Mapping[str, Any]
    totalvi: Mapping[str, Any]
    pretrain: Mapping[str, Any]


_COUNTS = {"target": "obsm:protein_counts", "target_names": "protein_names"}
_KFOLD = (SplitEntry("kfold", n_folds=5),)
_SIMULATED = DataEntry(
    "simulated",
    "simulated-cite",
    labels_key="cell_type",
    donor_key="donor_id",
    target="obsm:protein",
    splits=(SplitEntry("group"),),
)
_AUXILIARY = tuple(
    DataEntry(name, f"{file}.h5ad", donor_key="donor_id")
    for name, file in {
        "pbmc3k": "pbmc3k",
        "two chemistries": "pbmc_unlabelled_2chem",
        "frozen A": "pbmc_unlabelled_frozenA",
    }.items()
)
_SCALES = {
    "tiny": _Scale(
        proteins=(_SIMULATED,),
        tissues=(),
        peaks=(),
        auxiliary=(),
        seeds=(0,),
        train={"max_epochs": 3},
        totalvi={"max_epochs": 2},
        pretrain={"max_epochs": 2},
    ),
    "small": _Scale(
        proteins=(DataEntry("CITE-seq PBMC", "citeseq_pbmc10k.h5ad", **_COUNTS, splits=_KFOLD),),
        tissues=(
            DataEntry(
                "marrow and blood",
                "citeseq_bm_triana.h5ad",
                target="obsm:protein_lognorm",
                target_names="protein_names",
                splits=(SplitEntry("where", where=("batch=PBMC_200AB",)),),
            ),
        ),
        peaks=(
            DataEntry(
                "SNARE cortex",
                "multiome_mop_snare.h5ad",
                batch_key="Batch",
                donor_key="Batch",
                target="obsm:atac",
                target_names="atac_names",
                splits=(SplitEntry("group", column="Batch", test_size=0.25),),
            ),
        ),
        auxiliary=_AUXILIARY,
        seeds=(0,),
        train={},
        totalvi={},
        pretrain={"max_epochs": 12},
    ),
    "full": _Scale(
        proteins=(
            DataEntry(
                "NeurIPS CITE-seq",
                "neurips2021_cite.h5mu",
                batch_key="batch",
                donor_key="batch",
                target="prot",
                splits=(SplitEntry("kfold", column="batch", n_folds=12),),
            ),
        ),
        tissues=(),
        peaks=(
            DataEntry(
                "NeurIPS multiome",
                "neurips2021_multiome.h5mu",
                batch_key="batch",
                donor_key="batch",
                target="atac",
                splits=(SplitEntry("kfold", column="batch", n_folds=13),),
            ),
        ),
        auxiliary=(DataEntry("scTab corpus", "sctab.corpus"),),
        seeds=(0, 1, 2),
        train={},
        totalvi={},
        pretrain={},
    ),
}


#: Of another data set, with one batch held out.
_PUBLISHED_FIGURES: tuple[Mapping[str, Any], ...] = tuple(
    {"what": f"NeurIPS CITE-seq, {what}", "pearson_flat": value}
    for what, value in {
        "without pretraining": 0.8809,
        "pretrained on the same cells": 0.8824,
        "pretrained on scTab": 0.8943,
    }.items()
)


def crossmodal(scale: str) -> tuple[Study, ...]:
    """Return the parts of the study at a scale.

    Parameters
    ----------
    scale
        ``"tiny"``: simulated cells, to see that it runs; ``"small"``: public sets; ``"full"``: the
        sets of the paper (GSE194122), where they are at hand as MuData, one batch held out at a
        time.

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
    parts = [_proteins(at, shared)]
    if at.tissues:
        parts.append(_tissues(at, shared))
    if at.peaks:
        parts.append(_peaks(at, shared))
    return tuple(parts)


def _ours(at: _Scale, name: str = "", **more: Any) -> ModelEntry:
    train = {**at.train, **more.pop("train", {})}
    return ModelEntry("crossmodal", name, train=train, **more)


def _claim(first: str, second: str, claim: str) -> Contrast:
    """Return a claim about the predictions, and not about the mean of training beside them."""
    return Contrast(first, second, claim, conditions=("", ""))


def _proteins(at: _Scale, shared: Mapping[str, Any]) -> Study:
    """Proteins of unseen cells, with and without a pretrained encoder."""
    scratch, same, other = (
        "encoder without batches",
        "pretrained on the same cells",
        "pretrained on other studies",
    )
    masked = {**_ENCODER, "encoder": "masked"}
    pretraining = {"init": _ENCODER, "train": at.pretrain}
    models = [
        _ours(at),
        _ours(at, "published settings", init=_PUBLISHED, train=_PUBLISHED_TRAIN),
        _ours(at, "negative binomial", init={"likelihood": "nb"}),
        _ours(at, "background and foreground", init={"likelihood": "nb_mixture"}),
        _ours(at, scratch, init={**masked, "activation": "selu"}),
        _ours(at, same, init={"encoder": "masked"}, pretrain=Pretraining("ssl", **pretraining)),
        ModelEntry("ridge"),
        ModelEntry("knn-translation"),
        ModelEntry("totalvi", train=at.totalvi),
    ]
    if at.auxiliary:
        more = Pretraining("ssl", data=at.auxiliary, **pretraining)
        models.append(_ours(at, other, init={"encoder": "masked"}, pretrain=more))
    contrasts = [
        _claim("crossmodal", "ridge", "a network predicts proteins better than a linear map"),
        _claim("crossmodal", "knn-translation", "and better than neighbours"),
        _claim("crossmodal", "totalvi", "it outperforms totalVI"),
        _claim("crossmodal", "published settings", "our defaults are better than the published"),
        _claim(same, scratch, "pretraining on the same cells helps"),
    ]
    if at.auxiliary:
        contrasts.append(_claim(other, scratch, "pretraining on other studies helps"))
    return Study(
        "crossmodal-proteins",
        "cross-modality",
        at.proteins,
        tuple(models),
        contrasts=tuple(contrasts),
        summary="Surface proteins of cells that a model has not seen, from their RNA.",
        published=_PUBLISHED_FIGURES,
        **shared,
    )


def _tissues(at: _Scale, shared: Mapping[str, Any]) -> Study:
    return Study(
        "crossmodal-tissues",
        "cross-modality",
        at.tissues,
        (_ours(at), ModelEntry("ridge"), ModelEntry("knn-translation")),
        options={"scale": "none"},
        summary="Proteins of another tissue: few cells, and an anecdote.",
        **shared,
    )


def _peaks(at: _Scale, shared: Mapping[str, Any]) -> Study:
    return Study(
        "crossmodal-peaks",
        "cross-modality",
        at.peaks,
        (
            _ours(at),
            _ours(at, "TF-IDF", init={"target_scale": "tfidf"}),
            ModelEntry("knn-translation"),
        ),
        options={"scale": "binary"},
        summary="Open chromatin of cells of libraries that a model has not seen.",
        **shared,
    )
