"""How models of scvi-tools that need no labels are trained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from scvi.train import TrainingPlan

from episome import plugins, settings
from episome_baselines.extras import require_positive
from episome_baselines.scvi_base import Adapter, splitter_indices, trainer_arguments
from episome_baselines.scvi_training import (
    Cells,
    heuristic_epochs,
    plan_settings,
    run_unsupervised,
)

if TYPE_CHECKING:
    import pandas as pd

    from episome.train import ProgressReport

#: scVI's cells per update.
BATCH_SIZE = 128


class UnlabelledTraining(Adapter):
    """Base of adapters whose loss reads no labels."""

    _plan_class: ClassVar[type[TrainingPlan]] = TrainingPlan
    #: Cells per update where nothing is said.
    usual_batch_size: ClassVar[int] = BATCH_SIZE

    def _begin_with(self, cells: Cells) -> dict[str, Any]:
        """Tell the module what the training cells say; return settings of the plan."""
        return {}

    def train(
        self,
        max_epochs: int | None = None,
        *,
        accelerator: str = "auto",
        devices: int | list[int] | str = "auto",
        train_size: float | None = None,
        validation_size: float | None = None,
        shuffle_set_split: bool = True,
        load_sparse_tensor: bool = False,
        batch_size: int | None = None,
        early_stopping: bool = True,
        datasplitter_kwargs: Mapping[str, Any] | None = None,
        plan_kwargs: Mapping[str, Any] | None = None,
        progress: ProgressReport | None = None,
        **trainer_kwargs: Any,
    ) -> None:
        """Train the model as scvi-tools does.

        Parameters
        ----------
        max_epochs
            Passes over the training cells; default scvi-tools' heuristic: 400, fewer in
            proportion above 20,000 cells.
        accelerator, devices
            Of Lightning; ``"auto"`` takes a GPU when there is one.
        train_size, validation_size
            Shares of the cells, by default 0.9 and the rest. With a ``donor_key`` of at least four
            donors whole donors are held out.
        shuffle_set_split
            Only ``True``: splits are seeded and by donor.
        load_sparse_tensor
            Accepted for scvi-tools' sake, and means nothing.
        batch_size
            Cells per update; default scvi-tools' for the model.
        early_stopping
            Stop when ``elbo_validation`` has not fallen for 45 epochs
            (``early_stopping_patience``).
        datasplitter_kwargs
            ``external_indexing=[train, validation, test]`` gives the split, or ``split`` a file of
            ``episome corpus split``.
        plan_kwargs
            Of the model's plan in ``scvi.train`` (``lr``, ``weight_decay``,
            ``n_epochs_kl_warmup`` ...), by default as scvi-tools sets them.
        progress
            A function ``(done, total, metrics)`` called after every epoch.
        **trainer_kwargs
            Of ``lightning.Trainer``, and scvi-tools' ``early_stopping_*``.

        Raises
        ------
        UsageError
            Unknown or impossible arguments, before anything is computed.
        TrainingError
            The loss is not finite (E-T01).
        """
        given = splitter_indices(
            datasplitter_kwargs, self.training_source(), shuffle_set_split=shuffle_set_split
        )
        trainer = trainer_arguments(
            accelerator,
            devices,
            trainer_kwargs,
            early_stopping=early_stopping,
            load_sparse_tensor=load_sparse_tensor,
        )
        (plan,) = plan_settings(plan_kwargs or {}, self._plan_class)
        batch_size = self.usual_batch_size if batch_size is None else batch_size
        require_positive(max_epochs=max_epochs, batch_size=batch_size)
        split = self._split(given, train_size, validation_size)
        cells = Cells(
            self._stand_in_of_training(),
            split.train,
            split.validation,
            min(batch_size, len(split.train)),
        )
        epochs = heuristic_epochs(len(split.train)) if max_epochs is None else max_epochs

        def run() -> dict[str, pd.DataFrame]:
            return run_unsupervised(
                self.module,
                cells,
                trainer,
                max_epochs=epochs,
                plan={**self._begin_with(cells), **plan},
                progress=progress,
                plan_class=self._plan_class,
            )

        self._train(cells, run)
        self._remember_split(split)
        plugins.after_train(model=self, run={"seed": settings.seed})
