"""The study that compares all installed annotators."""

from __future__ import annotations

from typing import Any

from episome.benchmark import Contrast, DataEntry, ModelEntry, SplitEntry, Study, scale_of

#: Types that the two sets of blood share, by names of the Cell Ontology.
BLOOD = {
    "B": "B cell",
    "CD14+ Mono": "CD14-positive monocyte",
    "CD14+Mono": "CD14-positive monocyte",
    "FCGR3A+ Mono": "CD14-low, CD16-positive monocyte",
    "FCGR3A+Mono": "CD14-low, CD16-positive monocyte",
    "NK": "natural killer cell",
    "DC": "dendritic cell",
    "Dendritic": "dendritic cell",
    "CD8 T": "CD8-positive, alpha-beta T cell",
    "CD8T": "CD8-positive, alpha-beta T cell",
    "CD4T": "CD4-positive, alpha-beta T cell",
    "Naive CD4 T": "CD4-positive, alpha-beta T cell",
    "Memory CD4 T": "CD4-positive, alpha-beta T cell",
}
KANG = "kang_pbmc_ifnb.h5ad"
_TYPES = {"labels_key": "cell_type_label"}
_KNOWN = "donor_id!=unassigned"
_CONTROL = ("condition=control", _KNOWN)
_OTHER_FILE = SplitEntry("query")
SETS = (
    DataEntry(
        "pbmc3k to Kang",
        "pbmc3k.h5ad",
        **_TYPES,
        query=KANG,
        keep_query=_CONTROL,
        names=BLOOD,
        splits=(_OTHER_FILE,),
    ),
    DataEntry(
        "Kang to pbmc3k",
        KANG,
        **_TYPES,
        donor_key="donor_id",
        keep=_CONTROL,
        query="pbmc3k.h5ad",
        names=BLOOD,
        splits=(_OTHER_FILE,),
    ),
    DataEntry(
        "Kang donors",
        KANG,
        **_TYPES,
        donor_key="donor_id",
        keep=(_KNOWN,),
        splits=(SplitEntry("where", where=("donor_id=kang_101|kang_107|kang_1016",)),),
    ),
    DataEntry(
        "Kang stimulated",
        KANG,
        **_TYPES,
        donor_key="donor_id",
        # The same donors before and after: what is asked is the condition.
        splits=(SplitEntry("where", where=("condition=stimulated",), allow=("donor",)),),
    ),
    DataEntry(
        "FACS-sorted blood",
        "pbmc_facs_zheng.h5ad",
        labels_key="facs_label",
        min_cells=5,
        splits=(SplitEntry("random"),),
    ),
    DataEntry(
        "SNARE cortex",
        "multiome_mop_snare.h5ad",
        labels_key="cluster (remapped)",
        donor_key="Batch",
        splits=(SplitEntry("group", test_size=0.5),),
    ),
    DataEntry(
        "Baron to mouse",
        "baron_human_mouse_small.h5ad",
        **_TYPES,
        donor_key="donor_id",
        splits=(SplitEntry("where", where=("species=mouse",)),),
    ),
)


#: What papers on annotators say of each other.
CLAIMS = (
    Contrast("sctab", "logreg", "scTab is better than logistic regression"),
    Contrast("sims", "logreg", "SIMS is better than logistic regression"),
    Contrast("mlp", "logreg", "a plain network is better than logistic regression"),
    Contrast("sctab", "mlp", "scTab is better than a plain network"),
    Contrast("sctab", "xgboost", "scTab is better than boosted trees"),
    Contrast("sctab", "celltypist", "scTab is better than CellTypist"),
    Contrast("sims", "scanvi", "SIMS is better than scANVI"),
    Contrast("logreg", "celltypist", "our logistic regression is better than CellTypist's"),
)


_SCALES: dict[str, dict[str, Any]] = {
    "tiny": {
        "data": (
            DataEntry(
                "simulated",
                "simulated-types",
                labels_key="cell_type",
                donor_key="donor_id",
                splits=(SplitEntry("group"),),
            ),
        ),
        "models": (ModelEntry("installed"),),
        "timeout": 300.0,
    },
    "small": {
        "data": SETS,
        "models": (ModelEntry("scanvi", data=("pbmc3k to Kang",)), ModelEntry("installed")),
        "timeout": 1800.0,
        "contrasts": CLAIMS,
    },
}


def annotators(scale: str = "small") -> Study:
    """Return the study of all installed annotators.

    Parameters
    ----------
    scale
        ``"tiny"``: simulated cells, seconds. ``"small"``: seven splits of five public sets, files
        of the folder that is passed (``--data``); scANVI on one of them only. ``"full"`` needs
        sets of your own: pass a TOML file.

    Raises
    ------
    UsageError
        Another scale (E-B07).
    """
    at = scale_of(_SCALES, scale, why="its cells are public sets of a few thousand cells")
    return Study(
        "annotators",
        "annotation",
        seeds=(0,),
        summary="Which annotator finds the types of cells of other donors, studies and species?",
        **at,
    )
