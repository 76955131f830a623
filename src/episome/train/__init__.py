"""Training: plans, the data module, callbacks, one run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from episome._lazy import lazy_names

if TYPE_CHECKING:
    from episome.train._augment import DonorAugmentation
    from episome.train._callbacks import (
        AverageWeights,
        BestWeights,
        EpochProgress,
        History,
        ReestimateBatchNorm,
    )
    from episome.train._datamodule import Batches, CellDataModule
    from episome.train._fit import ProgressReport, check_trainer_kwargs, fit
    from episome.train._once import Fit
    from episome.train._optimizer import SharedMomentAdamW
    from episome.train._places import holds_work
    from episome.train._plan import (
        LOSS_MONITOR,
        MONITOR,
        ONTOLOGY_MONITOR,
        ClassifierPlan,
        CorePlan,
        LossPlan,
        balanced_weights,
        check_plan_kwargs,
        label_sets,
    )
    from episome.train._run_folder import RunFolder, RunPart
    from episome.train._schedules import (
        bounded_epochs,
        small_reference_dropout,
        small_reference_training,
    )
    from episome.train._survive import EVERY_MINUTES

_HOME = {
    "AverageWeights": "_callbacks",
    "DonorAugmentation": "_augment",
    "MONITOR": "_plan",
    "ONTOLOGY_MONITOR": "_plan",
    "Batches": "_datamodule",
    "BestWeights": "_callbacks",
    "CellDataModule": "_datamodule",
    "ClassifierPlan": "_plan",
    "CorePlan": "_plan",
    "LOSS_MONITOR": "_plan",
    "LossPlan": "_plan",
    "EVERY_MINUTES": "_survive",
    "EpochProgress": "_callbacks",
    "Fit": "_once",
    "History": "_callbacks",
    "ProgressReport": "_fit",
    "ReestimateBatchNorm": "_callbacks",
    "RunFolder": "_run_folder",
    "RunPart": "_run_folder",
    "SharedMomentAdamW": "_optimizer",
    "balanced_weights": "_plan",
    "bounded_epochs": "_schedules",
    "check_plan_kwargs": "_plan",
    "label_sets": "_plan",
    "check_trainer_kwargs": "_fit",
    "fit": "_fit",
    "holds_work": "_places",
    "small_reference_dropout": "_schedules",
    "small_reference_training": "_schedules",
}
__all__ = sorted(_HOME)

__getattr__, __dir__ = lazy_names(__name__, _HOME)
