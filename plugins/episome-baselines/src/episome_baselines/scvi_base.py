"""What the adapters to scvi-tools' models have in common."""

from __future__ import annotations

import inspect
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import anndata
import numpy as np
import pandas as pd
import torch

from episome import plugins, settings
from episome.data import given_split, read_split, split_cells, variable_genes
from episome.errors import UsageError
from episome.models import EpisomeModel, as_rows, checked_splitter
from episome.train import check_trainer_kwargs
from episome_baselines.scvi_training import EARLY, Cells, TrainerArguments

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scvi.data import AnnDataManager

    from episome.data import CellSource, Split
    from episome_baselines.scvi_core import SCVIAdapterCore


#: Keys of ``datasplitter_kwargs`` that scvi-tools' training can be given.
SPLITTER = ("external_indexing", "drop_last", "split")


class Adapter(EpisomeModel):
    """A model of scvi-tools under the host's contract.

    Training cells are handed to scvi-tools' loaders as an aligned stand-in, so that whatever the
    host does with a matrix (layers, names that are there twice, NaN) is done before.
    """

    _core_cls: ClassVar[type[SCVIAdapterCore]]
    module: SCVIAdapterCore

    @classmethod
    def check_train_arguments(cls, arguments: Mapping[str, Any]) -> None:
        """Refuse arguments that ``train`` does not take; see the base class."""
        named = {*inspect.signature(cls.train).parameters, *EARLY}
        check_trainer_kwargs({k: v for k, v in arguments.items() if k not in named})
        checked_splitter(arguments.get("datasplitter_kwargs"), known=SPLITTER)

    def _build_module(self, n_top_genes: int | None, **config: object) -> SCVIAdapterCore:
        """Build the module with weights from the initialisation stream of ``settings.seed``."""
        n_features = len(self.features)
        classes = {} if self.labels is None else {"n_classes": len(self.labels)}
        full = {
            "n_features": n_features,
            "n_input": n_features if n_top_genes is None else min(n_top_genes, n_features),
            "n_batch": int(self.summary_stats.n_batch),
            "target_sum": float(self.input_rule.target_sum),
            **classes,
            **config,
        }
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.stream_seed("init"))
            try:
                return self._core_cls.from_config(full)
            except (TypeError, ValueError, RuntimeError, AssertionError) as error:
                raise UsageError(
                    "E-U31",
                    f"{type(self).__name__} cannot be built with {config}",
                    why=str(error),
                    fix="pass numbers and words that its documentation names",
                ) from error

    # --- cells ------------------------------------------------------------------------------

    def _stand_in_of_training(self) -> AnnDataManager:
        """Register the training cells, aligned, as the model's set-up would."""
        query, args = self.training_query(), self.setup_args
        matrix = query.alignment.apply(query.source.read(slice(0, query.source.n_obs)))
        obs = pd.DataFrame(index=self.adata.obs_names)
        if args.get("batch_key") is not None:
            obs[args["batch_key"]] = self.adata.obs[args["batch_key"]].astype(str).to_numpy()
        if self.labels is not None:
            names = np.array([*self.labels.names, self.labels.unlabeled], dtype=object)
            obs[args["labels_key"]] = names[self.training_codes()]
        layer = args.get("layer")
        aligned = anndata.AnnData(
            matrix,
            obs=obs,
            var=pd.DataFrame(index=list(self.features.ids)),
            layers={layer: matrix} if layer else None,
        )
        return self._transfer_setup(aligned, self.registry)

    def _split(
        self,
        given: Sequence[Sequence[int]] | None,
        train_size: float | None,
        validation_size: float | None,
        calibration_size: float = 0.0,
    ) -> Split:
        codes = self.training_codes()
        if given is not None:
            parts = [as_rows(p) for p in given]
            split = given_split([p[codes[p] >= 0] for p in parts], len(codes), settings.seed)
        else:
            split = split_cells(
                codes,
                donors=self.training_donors(),
                train_size=train_size,
                validation_size=validation_size,
                calibration_size=calibration_size,
            )
        if len(split.train) < 2:
            raise UsageError(
                "E-U19",
                "fewer than two cells are left for training",
                count=len(split.train),
                total=len(codes),
                fix="pass a larger train_size",
            )
        return split

    def _choose_genes(self, cells: Cells) -> None:
        """Let a fresh network read the variable genes of the training cells."""
        n_input = int(self.module.config["n_input"])
        if self.is_trained_ or n_input == len(self.features):
            return
        counts = cells.manager.adata.X[cells.train].astype(np.float32)
        size = np.asarray(counts.sum(axis=1)).ravel()
        scale = float(self.module.config["target_sum"]) / np.where(size > 0, size, 1)
        values = counts.multiply(scale[:, None]).tocsr().log1p().astype(np.float32)
        self.module.select_genes(variable_genes(values, n_input))

    # --- the run ----------------------------------------------------------------------------

    def _train(self, cells: Cells, run: Any) -> None:
        """Run a training; a model that raised answers as if nothing had happened."""
        before = {k: v.clone() for k, v in self.module.state_dict().items()}
        plugins.before_train(model=self, run={"seed": settings.seed})
        started = time.monotonic()
        try:
            self._choose_genes(cells)
            history = run()
        except BaseException:
            self.module.to("cpu").load_state_dict(before)
            self.module.eval()
            raise
        self.module.to("cpu").eval()
        self.is_trained_ = True
        self.history_ = history
        self.fit_ = {
            "n_epochs": max((len(f) for f in history.values()), default=0),
            "n_train": len(cells.train),
            "n_cells": len(cells.train),
            "n_validation": len(cells.validation),
            "n_genes": int(self.module.config["n_input"]),
            "batch_size": cells.batch_size,
            "seconds": round(time.monotonic() - started, 2),
            "seed": settings.seed,
        }

    def _remember_split(self, split: Split) -> None:
        self.train_indices_, self.validation_indices_ = split.train, split.validation
        self.test_indices_, self.calibration_indices_ = split.test, split.calibration
        self.fit_ |= {"split_by": split.by, "split_sha256": split.digest}


def trainer_arguments(
    accelerator: str,
    devices: int | list[int] | str,
    more: Mapping[str, Any],
    *,
    early_stopping: bool,
    load_sparse_tensor: bool,
) -> TrainerArguments:
    """Check what goes to Lightning's trainer.

    Parameters
    ----------
    accelerator, devices, more
        Arguments of the trainer.
    early_stopping
        Stop where the loss of validation cells falls no more.
    load_sparse_tensor
        Accepted for scvi-tools' sake, and means nothing.

    Raises
    ------
    UsageError
        Unknown arguments (E-U16).
    """
    check_trainer_kwargs({k: v for k, v in more.items() if k not in EARLY})
    return TrainerArguments(accelerator, devices, early_stopping, dict(more))


def splitter_indices(
    kwargs: Mapping[str, Any] | None, source: CellSource, *, shuffle_set_split: bool
) -> Sequence[Sequence[int]] | None:
    """Return the split that the caller gave.

    Parameters
    ----------
    kwargs
        Rows of every part, or the file of a split.
    source
        The training cells.
    shuffle_set_split
        Only ``True``.

    Raises
    ------
    UsageError
        Other keys, or an unshuffled split (E-U21), or a split given twice (E-U27).
    InputDataError
        The split is of other cells (E-L38).
    """
    given = checked_splitter(kwargs, shuffle_set_split=shuffle_set_split, known=SPLITTER)
    if given.get("split") is None:
        return given.get("external_indexing")
    kept = read_split(given["split"], source)
    return [kept.train.tolist(), kept.validation.tolist(), kept.test.tolist()]
