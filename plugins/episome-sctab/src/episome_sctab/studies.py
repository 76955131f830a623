"""The study of the scTab paper: one part for every question of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from episome.benchmark import Contrast, DataEntry, ModelEntry, SplitEntry, Study, scale_of

PAPER = "10.1038/s41467-024-51059-5"
_AUGMENTED = "sctab, augmented"
#: Figures of the paper: 3.4 million test cells of held-out donors, 164 types.
PUBLISHED: tuple[Mapping[str, Any], ...] = (
    {"what": "scTab", "f1_macro_ontology": 0.8295, "over": "5 seeds"},
    {"what": "XGBoost, 256 components", "f1_macro_ontology": 0.8127, "over": "5 seeds"},
    {"what": "MLP", "f1_macro_ontology": 0.7971, "over": "5 seeds"},
    {"what": "linear", "f1_macro_ontology": 0.7848, "over": "5 seeds"},
    {"what": "CellTypist, 1.5 million cells", "f1_macro_ontology": 0.7304, "over": "5 seeds"},
    {"what": "ensemble of 5", "f1_macro_ontology": 0.8459, "over": "1"},
)


@dataclass(frozen=True, slots=True)
class _Scale:
    """What a scale runs on."""

    unseen_donors: tuple[DataEntry, ...]
    other: tuple[DataEntry, ...]
    many_donors: tuple[DataEntry, ...]
    organs: tuple[DataEntry, ...]
    assays: tuple[DataEntry, ...]
    organ_key: str
    organ_names: tuple[str, ...]
    assay_key: str
    seeds: tuple[int, ...]
    members: tuple[int, ...]
    shares: tuple[float, ...]
    unseen_types: tuple[str, ...]
    n_genes: int
    rivals: tuple[ModelEntry, ...]
    max_epochs: int | None = None

    @property
    def one(self) -> ModelEntry:
        """The model of the paper."""
        return ModelEntry("sctab", train=self._train)

    @property
    def augmented(self) -> ModelEntry:
        """The same with augmented training cells."""
        return ModelEntry("sctab", _AUGMENTED, train={**self._train, "augment": "donor"})

    @property
    def _train(self) -> dict[str, Any]:
        return {} if self.max_epochs is None else {"max_epochs": self.max_epochs}


_DONORS = (SplitEntry("group"),)
_CELLS = (SplitEntry("random"),)
_BLOOD = {"labels_key": "cell_type_label", "donor_key": "donor_id"}


def _simulated(name: str, **more: Any) -> DataEntry:
    return DataEntry(
        name,
        "simulated-types",
        labels_key="cell_type",
        donor_key="donor_id",
        splits=_DONORS,
        **more,
    )


_KANG = DataEntry(
    "Kang donors",
    "kang_pbmc_ifnb.h5ad",
    **_BLOOD,
    keep=("donor_id!=unassigned",),
    splits=_DONORS,
)
_ONEK1K = DataEntry("OneK1K donors", "onek1k_blood.h5ad", **_BLOOD, splits=_DONORS)
_SNARE = DataEntry(
    "SNARE libraries",
    "multiome_mop_snare.h5ad",
    labels_key="cluster (remapped)",
    donor_key="Batch",
    splits=_DONORS,
)
_FACS = DataEntry(
    "FACS-sorted blood",
    "pbmc_facs_zheng.h5ad",
    labels_key="facs_label",
    coarse_key="cell_type_label",
    min_cells=5,
    splits=_CELLS,
)
_ZEISEL = DataEntry(
    "Zeisel subtypes",
    "zeisel_cortex_small.h5ad",
    labels_key="cell_type_fine",
    coarse_key="cell_type_label",
    keep=("cell_type_fine!=(none)",),
    min_cells=10,
    splits=_CELLS,
)
_ZEISEL_ORGANS = DataEntry(
    "Zeisel regions",
    "zeisel_cortex_small.h5ad",
    labels_key="cell_type_label",
    splits=_CELLS,
)
_MIXOLOGY = DataEntry(
    "cell lines", "mixology_3cl.h5ad", labels_key="cell_type_label", splits=_CELLS
)
_RIVALS = (
    ModelEntry("mlp"),
    ModelEntry("linear"),
    ModelEntry("celltypist"),
    # Boosted trees of hundreds of rounds take half an hour on the larger sets.
    ModelEntry("xgboost", data=("Kang donors",)),
)
#: A corpus of ``episome corpus build --preset human``; donors are those of a data set.
_CENSUS: dict[str, Any] = {
    "source": "human.corpus",
    "labels_key": "cell_type",
    "donor_key": ("dataset_id", "donor_id"),
    "splits": (SplitEntry("group", test_size=0.15),),
}
#: Cells of the corpus that a run holds in memory at a time: about 12 GB at 1,500 genes a cell.
_CENSUS_CELLS = 1_000_000
_SCALES = {
    "tiny": _Scale(
        unseen_donors=(_simulated("simulated", coarse_key="lineage"),),
        other=(),
        many_donors=(_simulated("simulated"),),
        organs=(_simulated("simulated"),),
        assays=(_simulated("simulated"),),
        organ_key="organ",
        organ_names=("organ 0", "organ 1"),
        assay_key="organ",
        seeds=(0,),
        members=(1, 2),
        shares=(0.5, 1.0),
        unseen_types=("type 3",),
        n_genes=10,
        rivals=(ModelEntry("linear"),),
        max_epochs=10,
    ),
    "small": _Scale(
        unseen_donors=(_KANG, _ONEK1K),
        other=(_FACS, _ZEISEL),
        many_donors=(_ONEK1K, _SNARE),
        organs=(_ZEISEL_ORGANS,),
        assays=(_MIXOLOGY,),
        organ_key="tissue",
        organ_names=("ca1hippocampus", "sscortex"),
        assay_key="assay",
        seeds=(0, 1),
        members=(1, 2, 3, 4, 5),
        shares=(0.15, 0.3, 0.5, 1.0),
        unseen_types=("Dendritic", "CD34+"),
        n_genes=200,
        rivals=_RIVALS,
    ),
    "full": _Scale(
        unseen_donors=(DataEntry("census", max_cells=_CENSUS_CELLS, **_CENSUS),),
        other=(),
        many_donors=(DataEntry("census", max_cells=_CENSUS_CELLS, **_CENSUS),),
        organs=(DataEntry("census", max_cells=_CENSUS_CELLS, **_CENSUS),),
        assays=(DataEntry("census", max_cells=_CENSUS_CELLS, **_CENSUS),),
        organ_key="tissue_general",
        organ_names=("blood", "brain", "lung"),
        assay_key="assay",
        seeds=(0, 1, 2, 3, 4),
        members=(1, 2, 3, 4, 5),
        shares=(0.15, 0.3, 0.5, 0.7, 1.0),
        unseen_types=("microglial cell", "hepatocyte"),
        n_genes=200,
        rivals=(ModelEntry("mlp"), ModelEntry("linear"), ModelEntry("celltypist")),
    ),
}


def sctab(scale: str = "small") -> tuple[Study, ...]:
    """Return the parts of the study.

    Parameters
    ----------
    scale
        ``"tiny"``: simulated cells and ten epochs, a minute: whether everything runs.
        ``"small"``: public sets of 500 to 10,000 cells in the folder that is passed (``--data``).
        ``"full"``: a corpus ``human.corpus`` of ``episome corpus build --preset human`` in that
        folder, of which every run holds a million cells in memory (about 12 GB, and a GPU for
        ``sctab``).

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
    return (
        _models(at, shared),
        _ensemble(at, shared),
        _donors(at, shared),
        _augmentation(at, shared),
        _variance(at, shared),
        _organs(at, shared),
        _assays(at, shared),
        _genes(at, shared),
    )


def _models(at: _Scale, shared: Mapping[str, Any]) -> Study:
    rivals = [r.shown for r in at.rivals]
    return Study(
        "sctab-models",
        "annotation",
        (*at.unseen_donors, *at.other),
        (at.one, *at.rivals),
        summary="Is scTab better than plainer models, on types and on lineages, and are frequent "
        "types called better than rare ones?",
        published=PUBLISHED,
        contrasts=tuple(
            Contrast("sctab", r, f"scTab is better than {r}") for r in (*rivals, "logreg")
        ),
        **shared,
    )


def _ensemble(at: _Scale, shared: Mapping[str, Any]) -> Study:
    most = f"{at.members[-1]} members"
    claims = (
        ("f1_macro", "an ensemble calls better than one model"),
        ("auroc_wrong", "an ensemble knows its wrong calls better"),
        ("auroc_unseen", "an ensemble knows cells of unseen types better"),
    )
    return Study(
        "sctab-ensemble",
        "ensemble",
        (at.unseen_donors[0], *at.other[:1]),
        (at.one,),
        options={"sizes": at.members, "unseen": at.unseen_types},
        floor=False,
        summary="How much do members of an ensemble add to calls and to uncertainty?",
        published=(
            {"what": "uncertainty tells wrong calls", "auroc": 0.891},
            {"what": "uncertainty tells unseen types", "auroc": 0.782},
        ),
        contrasts=tuple(
            Contrast("sctab", "sctab", text, metric, (most, "1 member")) for metric, text in claims
        ),
        **shared,
    )


def _donors(at: _Scale, shared: Mapping[str, Any]) -> Study:
    return Study(
        "sctab-size",
        "label-efficiency",
        at.many_donors,
        (at.one, ModelEntry("logreg")),
        options={"fractions": (), "cells_per_class": (), "donor_fractions": at.shares},
        floor=False,
        summary="Do more donors help more than more cells of the same donors, and does more data "
        "help scTab more than a linear model?",
        published=(
            {"what": "smallest size, 15 % of the donors", "f1_macro_ontology": 0.7864},
            {"what": "all donors", "f1_macro_ontology": 0.8323},
        ),
        contrasts=(
            *(
                Contrast(
                    "sctab",
                    "sctab",
                    f"as many cells of all donors are worth more than {100 * s:g} % of the donors",
                    conditions=(
                        f"as many cells as {100 * s:g} % of the donors",
                        f"{100 * s:g} % of the donors",
                    ),
                )
                for s in at.shares[:-1]
            ),
            Contrast(
                "sctab",
                "sctab",
                "all donors are better than the smallest share",
                conditions=("100 % of the donors", f"{100 * at.shares[0]:g} % of the donors"),
            ),
        ),
        **shared,
    )


def _augmentation(at: _Scale, shared: Mapping[str, Any]) -> Study:
    share = at.shares[min(1, len(at.shares) - 2)]
    return Study(
        "sctab-augmentation",
        "label-efficiency",
        at.many_donors,
        (at.one, at.augmented),
        options={"fractions": (), "cells_per_class": (), "donor_fractions": (share, 1.0)},
        floor=False,
        summary="Does donor augmentation help, above all where donors are few?",
        published=(
            {"what": "30 % of the donors", "f1_macro_ontology": 0.7755},
            {"what": "30 % of the donors, augmented", "f1_macro_ontology": 0.7841},
        ),
        contrasts=(
            Contrast(_AUGMENTED, "sctab", "augmentation improves calls"),
            Contrast(_AUGMENTED, "sctab", "augmentation improves probabilities", metric="nll"),
        ),
        **shared,
    )


def _variance(at: _Scale, shared: Mapping[str, Any]) -> Study:
    return Study(
        "sctab-variance",
        "donor-variance",
        (*at.unseen_donors, *at.many_donors[1:]),
        (at.one,),
        floor=False,
        summary="Does augmentation take away what donors explain and leave what types do?",
        **shared,
    )


def _organs(at: _Scale, shared: Mapping[str, Any]) -> Study:
    return Study(
        "sctab-organs",
        "groups",
        at.organs,
        (at.one, ModelEntry("logreg")),
        options={"column": at.organ_key},
        floor=False,
        summary="Is one model of all organs as good in an organ as one of that organ alone?",
        contrasts=tuple(
            Contrast(
                "sctab",
                "sctab",
                f"all organs are better for {name} than it alone",
                conditions=(f"{name}, trained on all", f"{name}, trained on it alone"),
            )
            for name in at.organ_names
        ),
        **shared,
    )


def _assays(at: _Scale, shared: Mapping[str, Any]) -> Study:
    return Study(
        "sctab-assays",
        "groups",
        at.assays,
        (at.one, ModelEntry("logreg")),
        options={"column": at.assay_key, "alone": False},
        floor=False,
        summary="Are all assays called equally well?",
        **shared,
    )


def _genes(at: _Scale, shared: Mapping[str, Any]) -> Study:
    return Study(
        "sctab-genes",
        "gene-panel",
        (*at.unseen_donors[:1], *at.other),
        (at.one, ModelEntry("logreg")),
        options={"n_genes": at.n_genes},
        floor=False,
        summary="Do the genes of the masks tell rare types apart, and less so those that scTab "
        "finds hard?",
        contrasts=(
            Contrast(
                "sctab",
                "sctab",
                "a linear model on the genes of the masks finds easy rare types better than hard "
                "ones",
                conditions=("easy rare types", "hard rare types"),
            ),
        ),
        **shared,
    )
