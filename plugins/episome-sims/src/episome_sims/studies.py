"""The study of the SIMS paper: one part for every question of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from episome.benchmark import Contrast, DataEntry, ModelEntry, SplitEntry, Study, scale_of

PAPER = "10.1016/j.xgen.2024.100581"
_RIVALS = (ModelEntry("mlp"), ModelEntry("celltypist"))
_TYPES = {"labels_key": "cell_type_label"}
#: The share of the paper: 7 % of its 64 % training split, 4.5 % of all cells.
SEVEN = 0.07


@dataclass(frozen=True, slots=True)
class _Scale:
    """What a scale runs on."""

    ablation: tuple[DataEntry, ...]
    donors: tuple[DataEntry, ...]
    technologies: tuple[DataEntry, ...]
    folds: tuple[DataEntry, ...]
    novel: tuple[DataEntry, ...]
    conditions: tuple[DataEntry, ...]
    fractions: tuple[float, ...]
    seeds: tuple[int, ...]
    rivals: tuple[ModelEntry, ...]
    max_epochs: int | None = None

    @property
    def one(self) -> ModelEntry:
        """The model of the paper."""
        train = {} if self.max_epochs is None else {"max_epochs": self.max_epochs}
        return ModelEntry("sims", train=train)


def _where(name: str, source: str, *conditions: str, **more: Any) -> DataEntry:
    """Cells of which those with all conditions are the test part."""
    allow = more.pop("allow", ())
    split = SplitEntry("where", where=conditions, allow=allow)
    return DataEntry(name, source, splits=(split,), **{**_TYPES, **more})


def _simulated(name: str, split: SplitEntry) -> DataEntry:
    return DataEntry(
        name, "simulated-types", labels_key="cell_type", donor_key="donor_id", splits=(split,)
    )


# The paper trains on 64 % of the cells; a split of 36 % is what its fractions are shares of.
_CELLS = (SplitEntry("random", test_size=0.36),)
_KANG = "kang_pbmc_ifnb.h5ad"
_TWO = "kang_pbmc_2donors.h5ad"
_BARON = "baron_human_mouse_small.h5ad"
_OF_HUMANS = {"donor_key": "donor_id", "keep": ("species=human",)}
_ZEISEL = DataEntry("Zeisel cortex", "zeisel_cortex_small.h5ad", **_TYPES, splits=_CELLS)
_FACS = DataEntry(
    "FACS-sorted blood",
    "pbmc_facs_zheng.h5ad",
    labels_key="facs_label",
    min_cells=5,
    splits=_CELLS,
)
_SCALES = {
    "tiny": _Scale(
        ablation=(_simulated("simulated", SplitEntry("group")),),
        donors=(_simulated("simulated", SplitEntry("group")),),
        technologies=(),
        folds=(_simulated("simulated", SplitEntry("kfold", n_folds=2)),),
        novel=(_simulated("simulated", SplitEntry("group")),),
        conditions=(),
        fractions=(SEVEN, 1.0),
        seeds=(0,),
        rivals=(),
        max_epochs=10,
    ),
    "small": _Scale(
        ablation=(_ZEISEL, _FACS),
        donors=(
            _where("Kang 101 to 107", _TWO, "donor_id=kang_107", donor_key="donor_id"),
            _where("Kang 107 to 101", _TWO, "donor_id=kang_101", donor_key="donor_id"),
            *(
                _where(f"Baron {h} to others", _BARON, f"donor_id!={h}", **_OF_HUMANS)
                for h in ("human1", "human2", "human3")
            ),
        ),
        technologies=(
            _where("CEL-seq2 to Drop-seq", "mixology_3cl.h5ad", "assay=Drop-seq"),
            _where("Drop-seq to CEL-seq2", "mixology_3cl.h5ad", "assay=CEL-seq2"),
        ),
        folds=tuple(
            DataEntry(name, source, **_TYPES, min_cells=10, splits=(SplitEntry("kfold"),))
            for name, source in (
                ("Zeisel cortex", "zeisel_cortex_small.h5ad"),
                ("mouse bladder", "mouse_bladder.h5ad"),
                ("Paul marrow", "paul15_small.h5ad"),
            )
        ),
        novel=(
            DataEntry(
                "Kang donors",
                _KANG,
                **_TYPES,
                donor_key="donor_id",
                keep=("donor_id!=unassigned",),
                splits=(SplitEntry("group"),),
            ),
            _ZEISEL,
        ),
        # The same donors before and after: what is asked is the condition.
        conditions=(
            _where(
                "Kang control to stimulated",
                _KANG,
                "condition=stimulated",
                donor_key="donor_id",
                allow=("donor",),
            ),
        ),
        fractions=(0.03, SEVEN, 0.2, 0.5, 1.0),
        seeds=(0, 1),
        rivals=_RIVALS,
    ),
    "full": _Scale(
        ablation=(
            DataEntry("mouse cortex and hippocampus", "allen_mouse.h5ad", **_TYPES, splits=_CELLS),
            DataEntry("human cortex", "allen_human.h5ad", **_TYPES, splits=_CELLS),
        ),
        donors=(
            DataEntry(
                "human cortex",
                "allen_human.h5ad",
                **_TYPES,
                donor_key="donor_id",
                splits=(SplitEntry("group", test_size=0.66),),
            ),
        ),
        technologies=(),
        folds=(DataEntry("Zheng 68k", "zheng68k.h5ad", **_TYPES, splits=(SplitEntry("kfold"),)),),
        novel=(
            DataEntry("mouse cortex and hippocampus", "allen_mouse.h5ad", **_TYPES, splits=_CELLS),
        ),
        conditions=(
            _where("E18 and P1 to E18", "SCP1290.h5ad", "age=E18"),
            _where("organoid 11A to others", "SCP282.h5ad", "line!=11A"),
        ),
        fractions=(0.01, 0.03, SEVEN, 0.2, 0.5, 1.0),
        seeds=(0, 1, 2),
        rivals=(*_RIVALS, ModelEntry("scanvi")),
    ),
}


def sims(scale: str = "small") -> tuple[Study, ...]:
    """Return the parts of the study.

    Parameters
    ----------
    scale
        ``"tiny"``: simulated cells and ten epochs, a minute: whether everything runs.
        ``"small"``: public sets of 350 to 4,000 cells in the folder that is passed (``--data``).
        ``"full"``: the sets of the paper as h5ad files
        with counts in ``X`` and types in ``cell_type_label``: ``allen_mouse.h5ad`` (73,347 cells)
        and ``allen_human.h5ad`` (49,495 nuclei, ``donor_id``) of the Allen Brain Map,
        ``zheng68k.h5ad``, ``SCP1290.h5ad`` (``age``) and ``SCP282.h5ad`` (``line``) of the Single
        Cell Portal; those that are missing take no part.

    Raises
    ------
    UsageError
        Another scale (E-B07).
    """
    at = scale_of(_SCALES, scale)
    shared: dict[str, Any] = {
        "seeds": at.seeds,
        "reference": PAPER,
        "timeout": 7200.0 if scale != "full" else 86_400.0,
    }
    parts = (
        _ablation(at, shared),
        _transfer(
            "sims-donors",
            at.donors,
            "Are types of one donor found in others?",
            at,
            shared,
            ({"what": "human cortex, donor to donor", "accuracy": "0.931 to 0.958"},),
        ),
        _transfer(
            "sims-technologies",
            at.technologies,
            "Are types of one technology found in cells of another?",
            at,
            shared,
        ),
        _folds(at, shared),
        _novel(at, shared),
        _transfer(
            "sims-conditions",
            at.conditions,
            "Are types of one condition, age or line found in another?",
            at,
            shared,
            (
                {"what": "organoids 11A to PGP1", "accuracy": 0.757, "f1_macro": 0.583},
                {"what": "organoids 11A to GM8330", "accuracy": 0.763, "f1_macro": 0.603},
                {"what": "P1 to E18", "accuracy": 0.736, "f1_macro": 0.674},
            ),
        ),
    )
    return tuple(p for p in parts if p is not None)


def _better(at: _Scale) -> tuple[Contrast, ...]:
    rivals = (*(r.shown for r in at.rivals), "logreg")
    return tuple(Contrast("sims", r, f"SIMS is better than {r}") for r in rivals)


def _ablation(at: _Scale, shared: Mapping[str, Any]) -> Study:
    few, all_ = (f"{100 * f:g} % of the training cells" for f in (SEVEN, 1.0))
    return Study(
        "sims-ablation",
        "label-efficiency",
        at.ablation,
        (at.one, *at.rivals, ModelEntry("logreg")),
        options={"fractions": at.fractions, "cells_per_class": ()},
        floor=False,
        summary="Is 7 % of the training cells enough? Fractions are of the training part; "
        "n_labelled counts its cells.",
        published=(
            {
                "what": "mouse cortex and hippocampus, 7 % of training cells (3,285)",
                "accuracy": "over 0.95",
                "f1_macro": 0.90,
            },
            {"what": "the same, all training cells", "accuracy": 0.976, "f1_macro": 0.983},
        ),
        contrasts=(
            Contrast("sims", "sims", "all cells are better than 7 %", conditions=(all_, few)),
            *(
                Contrast("sims", r, f"with 7 % SIMS is better than {r}", conditions=(few, few))
                for r in (*(m.shown for m in at.rivals), "logreg")
            ),
        ),
        **shared,
    )


def _transfer(
    name: str,
    data: tuple[DataEntry, ...],
    summary: str,
    at: _Scale,
    shared: Mapping[str, Any],
    published: tuple[Mapping[str, Any], ...] = (),
) -> Study | None:
    if not data:
        return None
    return Study(
        name,
        "annotation",
        data,
        (at.one, *at.rivals),
        summary=summary,
        published=published,
        contrasts=_better(at),
        **shared,
    )


def _folds(at: _Scale, shared: Mapping[str, Any]) -> Study:
    return Study(
        "sims-folds",
        "annotation",
        at.folds,
        (at.one, *at.rivals),
        summary="Five folds of the same cells: how good is SIMS where nothing changes?",
        published=({"what": "mouse cortex, 80/20", "accuracy": 0.976, "f1_macro": 0.983},),
        contrasts=_better(at),
        **{**shared, "seeds": at.seeds[:1]},
    )


def _novel(at: _Scale, shared: Mapping[str, Any]) -> Study:
    return Study(
        "sims-novel",
        "novelty",
        at.novel,
        (at.one, ModelEntry("logreg"), ModelEntry("knn")),
        floor=False,
        summary="Is a type that training lacked told from the others, and at which threshold?",
        contrasts=(
            Contrast("sims", "logreg", "SIMS finds unseen types better than logreg"),
            Contrast(
                "sims",
                "logreg",
                "the confidence of SIMS finds them better than that of logreg",
                metric="auroc_confidence",
            ),
        ),
        **{**shared, "seeds": at.seeds[:1]},
    )
