"""The study: what mixes of blood give, near and far from it, by two models."""

from __future__ import annotations

from typing import Any

from episome.benchmark import ModelEntry, Study, scale_of
from episome_datamix.plan import QC, Corpus, Mix, Plan
from episome_datamix.runner import study_of

#: What the paper set, and scvi-tools' defaults otherwise.
_PAPER: dict[str, Any] = {"max_epochs": 250, "plan_kwargs": {"lr": 5e-3}}
#: Some hundred cells are few batches: smaller ones, and larger steps.
_SMALL: dict[str, Any] = {"max_epochs": 100, "batch_size": 32, "plan_kwargs": {"lr": 0.05}}
#: Name of the mix with more cells of what was there already.
ITSELF = "itself"
_KEYS = {"labels_key": "cell_type", "donor_key": "donor_id"}


def datamix(scale: str = "small") -> tuple[Study, ...]:
    """Return the study of the paper: corpora alone, added to one, and added to all.

    Parameters
    ----------
    scale
        ``"tiny"``: simulated pools, seconds. ``"small"``: six pools of blood, and targets from
        other donors to pancreas. ``"full"``: the paper's sizes, on files that it names and that
        are the user's to fetch.

    Returns
    -------
    ``datamix-alone``: every corpus. ``datamix-added``: every corpus added to one, and as many more
    cells of that one as the control, by LDVAE and by scVI: does a gain survive another
    architecture? ``datamix-atlas``: the same added to a mix of many: does it survive a broad
    baseline? ``datamix-sizes``: more and more cells of one corpus.

    Raises
    ------
    UsageError
        Another scale (E-B14).

    References
    ----------
    Nadig et al. (2025), bioRxiv 2025.02.19.639127, figures 1 to 4.
    """
    return tuple(study_of(p) for p in plans(scale))


def plans(scale: str = "small") -> tuple[Plan, ...]:
    """Return the plans that the study stands for.

    Parameters
    ----------
    scale
        As in :func:`datamix`.
    """
    made = scale_of({"tiny": _tiny, "small": _small, "full": _full}, scale)
    found: tuple[Plan, ...] = made()
    return found


def _models(train: dict[str, Any], **init: Any) -> tuple[ModelEntry, ...]:
    """LDVAE, and another architecture at its side."""
    same = {k: v for k, v in train.items() if k != "plan_kwargs"}
    return (
        ModelEntry("ldvae", init=init, train=train),
        ModelEntry("scvi", init={"n_layers": 2}, train=same),
    )


def _tiny() -> tuple[Plan, ...]:
    train = {"max_epochs": 20, "plan_kwargs": {"lr": 0.02}}
    corpora = {n: Corpus(f"simulated-{n}", **_KEYS) for n in ("near", "far", "mixed")}
    return (
        Plan(
            corpora,
            {"target": Corpus("simulated-target", **_KEYS)},
            name="datamix-added",
            mixes=("near", "near+near", "near+far"),  # type: ignore[arg-type]
            n_cells=200,
            seeds=(0,),
            models=(ModelEntry("ldvae", train=train),),
            n_top_genes=0,
        ),
    )


def _small() -> tuple[Plan, ...]:
    kang = "kang_pbmc_ifnb.h5ad"
    donors = "donor_id=" + "|".join(f"kang_{n}" for n in (101, 107, 1015, 1016, 1039))
    others = "donor_id=" + "|".join(f"kang_{n}" for n in (1244, 1256, 1488))
    keys = {"labels_key": "cell_type_label", "donor_key": "donor_id", "dataset": "kang"}
    corpora = {
        "pbmc3k": _file("pbmc3k", labels_key="cell_type_label"),
        "sorted": _file("pbmc_facs_zheng", labels_key="cell_type_label", donor_key=None),
        "frozen A": _file("pbmc_unlabelled_frozenA"),
        "two chemistries": _file("pbmc_unlabelled_2chem"),
        "control": Corpus(kang, (donors, "condition=control"), **keys),
        "stimulated": Corpus(kang, (donors, "condition=stimulated"), **keys),
    }
    evaluation = {
        "control, others": Corpus(kang, (others, "condition=control"), **keys),
        "stimulated, others": Corpus(kang, (others, "condition=stimulated"), **keys),
        "cell lines": Corpus("mixology_3cl.h5ad", (), "cell_type_label"),
        "pancreas": Corpus("baron_human_mouse_small.h5ad", ("species=human",), "cell_type_label"),
    }
    atlas = ("pbmc3k", "sorted", "frozen A", "two chemistries")
    # Genes that a target lacks would be zeros there that no training cell has: with half of them
    # missing a model is worse than the mean of its training cells.
    genes: dict[str, Any] = {"gene_space": "measured"}
    # As many cells as the smallest corpus has, nearly.
    size: dict[str, Any] = {"n_cells": 380, "seeds": (0, 1, 2), **genes}
    found = _questions(corpora, evaluation, "pbmc3k", atlas, _models(_SMALL), **size)
    series = Plan(
        {"pbmc3k": corpora["pbmc3k"]},
        evaluation,
        name="datamix-sizes",
        sizes=(160, 320, 640, 1280, 2560),
        models=_models(_SMALL)[:1],
        **genes,
    )
    return (*found, series)


def _full() -> tuple[Plan, ...]:
    names = ("blood", "marrow", "blood cancer", "perturbations", "transcription factors", "atlas")
    corpora = {n: _file(n.replace(" ", "_")) for n in names}
    evaluation = {
        n: _file(f"{n}_test") for n in ("blood", "marrow", "aml", "scc", "neurons", "heart")
    }
    return _questions(
        corpora,
        evaluation,
        "blood",
        ("atlas",),
        _models(_PAPER, start_from_mean=False),
        n_cells=101_879,
        seeds=(0, 1, 2, 3, 4),
        qc=QC(min_counts=1000, max_mito=0.1),
    )


def _file(name: str, **more: Any) -> Corpus:
    return Corpus(f"{name}.h5ad", **{"donor_key": "donor_id", **more})


def _questions(
    corpora: dict[str, Corpus],
    evaluation: dict[str, Corpus],
    one: str,
    atlas: tuple[str, ...],
    models: tuple[ModelEntry, ...],
    *,
    n_cells: int,
    **more: Any,
) -> tuple[Plan, ...]:
    """Return the three questions about corpora of one kind."""
    alone = Plan(
        corpora,
        evaluation,
        name="datamix-alone",
        baseline=one,
        models=models[:1],
        n_cells=n_cells,
        **more,
    )
    return (
        alone,
        *(
            Plan(
                corpora,
                evaluation,
                name=name,
                mixes=_added(of, [n for n in corpora if (n,) != of], n_cells),
                baseline=ITSELF,
                models=models if of == (one,) else models[:1],
                n_cells=n_cells,
                **more,
            )
            for name, of in (("datamix-added", (one,)), ("datamix-atlas", atlas))
        ),
    )


def _added(base: tuple[str, ...], names: list[str], n_cells: int) -> tuple[Mix, ...]:
    """Return a mix, itself with more cells of it, and with those of every other."""
    total = (len(base) + 1) * n_cells
    mixes = [
        Mix("nothing", dict.fromkeys(base, 1.0)),
        Mix(ITSELF, {n: 1 / len(base) for n in base}, total),
    ]
    for name in names:
        parts = dict.fromkeys(base, 1.0)
        mixes.append(Mix(name, {**parts, name: parts.get(name, 0.0) + 1.0}))
    return tuple(mixes)
