"""What `SCBERT` may learn before labels: hidden genes of cells that are not tested on."""

from __future__ import annotations

import copy
import dataclasses
import numbers
from collections.abc import Collection, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from episome import settings
from episome.benchmark import find_leaks, require_no_leaks
from episome.data import (
    combined_column,
    definite_donors,
    existing_columns,
    given_split,
    split_cells,
)
from episome.errors import InputDataError, UsageError
from episome.log import get_logger
from episome.models import (
    SeenDonorsMixin,
    digests_of_training,
    knowing_what_was_measured,
)
from episome.train import check_plan_kwargs, check_trainer_kwargs, fit
from episome_scbert.genes import learn_from_cells
from episome_scbert.plan import MaskedPlan
from episome_scbert.presets import pretraining_defaults

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from episome.data import CellSource, Query, Split
    from episome.models import ClassifierModel
    from episome.train import CellDataModule, Fit
    from episome_scbert.core import SCBERTCore

    _Model = ClassifierModel
else:
    _Model = object

logger = get_logger(__name__)


class PretrainingMixin(SeenDonorsMixin, _Model):
    """Pretraining of the encoder; mixed in before the host's bases.

    ``pretraining_`` holds what is known of it, as plain data; empty for a fresh encoder.
    """

    module: SCBERTCore
    preset: str
    pretraining_: dict[str, Any]
    #: Rows of the model's own cells that were pretrained on, in memory only.
    _pretrained_rows: NDArray[np.int64] | None = None

    def pretrain(
        self,
        max_epochs: int | None = None,
        *,
        adata: AnnData | str | Path | CellSource | None = None,
        held_out: AnnData | str | Path | None = None,
        donor_key: str | list[str] | None = None,
        mask_rate: float | None = None,
        accelerator: str = "auto",
        devices: int | list[int] | str = "auto",
        train_size: float | None = None,
        validation_size: float | None = None,
        batch_size: int | None = None,
        early_stopping: bool = True,
        datasplitter_kwargs: Mapping[str, Any] | None = None,
        plan_kwargs: Mapping[str, Any] | None = None,
        **trainer_kwargs: Any,
    ) -> dict[str, pd.DataFrame]:
        """Train the encoder without labels; :meth:`train` then starts from it.

        Expressed genes are hidden at random, and the network learns to tell their levels from the
        other genes of the cell. The weights of the best epoch by the loss in held-out cells are
        kept. Of the model's own cells those take part that :meth:`train` with the same arguments
        trains on, and those without a label; what it holds out is not seen.

        Parameters
        ----------
        max_epochs
            Passes over the cells; default by the preset and the number of cells.
        adata
            Other cells to learn from, aligned to the model's genes by name and not modified;
            ``None`` takes the training cells.
        held_out
            Cells that will be tested on: pretraining on one of them, or on a donor of theirs, is
            refused. A cell is known again by its name, and by the order of its values among the
            genes of the model that both parts have, so as counts and as their logarithms; cells
            with fewer than 10 of these genes are not told apart.
        donor_key
            Column of the donors of ``adata`` and ``held_out``; default that of the set-up, where
            they have it.
        mask_rate
            Share of the expressed genes of a cell that are hidden; default the model's.
        accelerator, devices
            Of Lightning.
        train_size, validation_size
            Shares of the cells, as for :meth:`train`.
        batch_size
            Cells per update.
        early_stopping
            Stop when the loss of held-out cells has not improved for
            ``early_stopping_patience`` epochs.
        datasplitter_kwargs
            ``external_indexing=[train, validation, test]``, as for :meth:`train`.
        plan_kwargs
            ``lr``, ``weight_decay``, ``lr_schedule``, ``lr_decay``, ``lr_patience``,
            ``weight_average``, ``restarts``.
        **trainer_kwargs
            Of ``lightning.Trainer``, and ``progress``, as for :meth:`train`.

        Returns
        -------
        Losses of every epoch, one frame per name, as ``history`` holds them.

        Raises
        ------
        UsageError
            Unknown or impossible arguments, before anything is computed.
        InputDataError
            Cells, or donors, are also in ``held_out`` (E-L20).
        TrainingError
            The loss is not finite (E-T01).
        """
        rate = float(self.module.config["mask_rate"]) if mask_rate is None else mask_rate
        if not isinstance(rate, int | float | np.number) or not 0 < rate < 1:
            raise UsageError(
                "E-U15",
                f"mask_rate={mask_rate}",
                where="pretrain()",
                why="some genes have to be hidden, and some seen",
                fix="mask_rate=0.15",
            )
        check_plan_kwargs(dict(plan_kwargs or {}), MaskedPlan)
        progress = trainer_kwargs.pop("progress", None)
        check_trainer_kwargs(trainer_kwargs)
        for name, value in (("max_epochs", max_epochs), ("batch_size", batch_size)):
            if value is not None and not (isinstance(value, numbers.Integral) and value > 0):
                raise UsageError("E-U22", f"{name}={value!r}", fix=f"pass {name} of at least 1")
        if adata is None and held_out is None and donor_key is not None:
            raise UsageError(
                "E-U24",
                f"donor_key={donor_key!r} names donors of other cells, and there are none",
                where="pretrain()",
                fix="setup_anndata(donor_key=) names those of the model's own cells",
            )
        if held_out is not None:
            self._require_apart(adata, held_out, donor_key)
        data = self._unlabelled(
            adata,
            donor_key,
            dict(datasplitter_kwargs or {}),
            {"train_size": train_size, "validation_size": validation_size},
        )
        usual = pretraining_defaults(self.preset, len(data.split.train))
        epochs, size = usual.pop("max_epochs"), usual.pop("batch_size")
        plan = {**usual.pop("plan_kwargs"), **(plan_kwargs or {})}
        data.batch_size = min(batch_size or size, len(data.split.train))
        with self._put_back(rate):
            found = self._fit_masked(
                data,
                plan,
                max_epochs=max_epochs or epochs,
                accelerator=accelerator,
                devices=devices,
                early_stopping=early_stopping,
                progress=progress,
                **{**usual, **trainer_kwargs},
            )
        self._remember_pretraining(found, data, rate, own=adata is None)
        return dict(found.history)

    def _fit_masked(
        self, data: CellDataModule, plan_args: Mapping[str, Any], **fit_kwargs: Any
    ) -> Fit:
        core = self.module
        if not self.is_trained_ and not self.pretraining_:
            learn_from_cells(core, data)
        core.set_trainable("all")
        epochs = int(fit_kwargs["max_epochs"])
        plan = MaskedPlan(core, target_sum=data.rule.target_sum, n_epochs=epochs, **plan_args)
        plan.n_obs_training = len(data.split.train)
        plan.n_obs_validation = len(data.split.validation)
        with knowing_what_was_measured(core, data):
            return fit(plan, data, seed=settings.seed, **fit_kwargs)

    @contextmanager
    def _put_back(self, rate: float) -> Iterator[None]:
        """Put the weights back where training raises, and the rate in any case."""
        core = self.module
        before, usual = {k: v.clone() for k, v in core.state_dict().items()}, core.config
        core.config = {**usual, "mask_rate": rate}
        try:
            yield
        except BaseException:
            core.load_state_dict(before)
            core.to("cpu").eval()
            raise
        finally:
            core.config = usual

    def _remember_pretraining(
        self, run: Fit, data: CellDataModule, rate: float, *, own: bool
    ) -> None:
        facts: dict[str, Any] = {
            "n_cells": len(data.split.train) + len(data.split.validation),
            "own_cells": own,
            "mask_rate": rate,
            "n_epochs": run.n_epochs,
            "best_epoch": run.best_epoch,
            "n_updates": run.n_updates,
            "seconds": round(run.seconds, 2),
        }
        if run.best_epoch is not None:
            for name in ("validation_loss", "validation_masked_accuracy"):
                facts[name] = float(run.history[name].loc[run.best_epoch].iloc[0])
        before = self.pretraining_.get("donor_digests", ())
        if own:
            # What train() holds out was not seen, and is no leak; its validation cells chose the
            # epoch of this run, and do the same there.
            data = copy.copy(data)
            data.split = dataclasses.replace(data.split, validation=np.empty(0, dtype=np.int64))
            self._pretrained_rows = np.asarray(data.split.train)
        facts["donor_digests"] = digests_of_training(data, before)
        if self.is_trained_ and self.labels is not None:
            logger.warning(
                "the model was trained before: its head no longer fits the encoder; call train() "
                "before it predicts again"
            )
        self.pretraining_, self.is_trained_ = facts, False

    def _unlabelled(
        self,
        adata: AnnData | str | Path | CellSource | None,
        donor_key: str | list[str] | None,
        splitter: dict[str, Any],
        sizes: dict[str, float | None],
    ) -> CellDataModule:
        """Batches of cells whose labels play no part."""
        if unknown := sorted(set(splitter) - {"external_indexing"}):
            raise UsageError(
                "E-U21",
                f"unknown keys {', '.join(unknown)}",
                where="datasplitter_kwargs",
                fix="pass external_indexing=[train, validation, test], or leave it out",
            )
        given = splitter.get("external_indexing")
        if adata is not None:
            query = self.prepare(adata)
            keys = self._donor_keys(query, donor_key)
            donors = _donors_of(query, keys) if keys else None
            codes = np.zeros(query.source.n_obs, dtype=np.int64)
            split = (
                split_cells(codes, donors=donors, **sizes)
                if given is None
                else given_split(given, len(codes), settings.seed)
            )
            return self._cells_for(query, split, 1, codes=codes, donors=donors)
        share = self._calibration_size(None, sizes["train_size"], sizes["validation_size"])
        split = self._split(given, sizes["train_size"], sizes["validation_size"], share)
        codes, donors = self.training_codes(), self.training_donors()
        split = _with_unlabelled(split, codes, donors)
        zeros = np.zeros(len(codes), dtype=np.int64)
        return self._cells_for(self.training_query(), split, 1, codes=zeros, donors=donors)

    def _require_apart(
        self,
        adata: AnnData | str | Path | CellSource | None,
        held_out: AnnData,
        donor_key: str | list[str] | None,
    ) -> None:
        """Refuse cells and donors that are to be tested on."""
        cells: Any = self._require_adata() if adata is None else adata
        for part in (cells, held_out):
            if not isinstance(part, AnnData | str | Path):
                raise UsageError(
                    "E-U07",
                    f"cells of a {type(part).__name__} cannot be compared",
                    where="pretrain(held_out=)",
                    why="all cells of both parts are looked at",
                    fix="pass AnnData, or the path of a file that fits into memory",
                )
        own = None if adata is None else cells
        queries = [self.prepare(part, min_gene_overlap=0.0) for part in (own, held_out)]
        keys = [self._donor_keys(query, donor_key) for query in queries]
        parts = _comparable(queries, keys)
        leaks = find_leaks(*parts, donor_key=_DONOR)
        fix = "pretrain on cells of other donors, or test on others"
        require_no_leaks(leaks, (), where="pretrain()", fix=fix)

    def _donor_keys(self, query: Query, donor_key: str | list[str] | None) -> list[str]:
        """Return the columns that name the donors of cells: those asked for, or the set-up's."""
        if donor_key is not None:
            return [donor_key] if isinstance(donor_key, str) else list(donor_key)
        usual = self.setup_args.get("donor_key") or []
        keys = [usual] if isinstance(usual, str) else list(usual)
        return keys if len(existing_columns(query.source, keys)) == len(keys) else []

    def _require_untouched(self, split: Split) -> None:
        """Refuse a test part that was pretrained on."""
        if self._pretrained_rows is None or not len(split.test):
            return
        seen = np.intersect1d(self._pretrained_rows, split.test)
        if len(seen):
            names = self.training_source().obs_names
            raise InputDataError(
                "E-L20",
                "pretraining and test share: cell",
                where="train()",
                count=len(seen),
                total=len(split.test),
                examples=[str(names[i]) for i in seen[:3]],
                why="the encoder has seen them, if not their labels",
                fix="pass the same datasplitter_kwargs to pretrain()",
            )

    def seen_donors(self) -> Collection[str]:
        """Return the digests of the donors that were pretrained on; not of those of labels."""
        found: Collection[str] = self.pretraining_.get("donor_digests", ())
        return found


_DONOR = "_donor"
#: Cells with fewer expressed genes are too alike to be told apart.
FEWEST = 10
_BLOCK = 4096


def _donors_of(query: Query, keys: list[str]) -> NDArray[np.object_]:
    table = pd.DataFrame({k: query.source.obs_column(k) for k in keys})
    return definite_donors(combined_column(AnnData(obs=table), keys))


def _comparable(queries: list[Query], keys: list[list[str]]) -> list[AnnData]:
    """Return cells with what they are known by: names, donors, and the order of their values.

    Values are ranks within a cell among the model's genes that all parts have: those of counts and
    of their logarithms are the same. Cells with few expressed genes have none.
    """
    places = [np.unique(q.alignment.columns[q.alignment.columns >= 0]) for q in queries]
    shared = np.intersect1d(*places)
    found = []
    for query, of in zip(queries, keys, strict=True):
        at = query.alignment.columns
        use = np.flatnonzero(np.isin(at, shared))
        chosen = sparse.csr_matrix(
            (np.ones(len(use), np.float32), (use, np.searchsorted(shared, at[use]))),
            shape=(len(at), len(shared)),
        )
        n = query.source.n_obs
        blocks = [
            _ranks((query.source.read(slice(i, min(i + _BLOCK, n))) @ chosen).tocsr())
            for i in range(0, n, _BLOCK)
        ]
        obs = pd.DataFrame(index=query.source.obs_names.astype(str))
        obs[_DONOR] = _donors_of(query, of) if of else None
        found.append(AnnData(sparse.vstack(blocks, format="csr"), obs=obs))
    return found


def _ranks(block: sparse.csr_matrix) -> sparse.csr_matrix:
    """Return the dense rank of every value in its cell, from 1; nothing of nearly empty cells."""
    block.eliminate_zeros()
    sizes = np.diff(block.indptr)
    rows = np.repeat(np.arange(len(sizes)), sizes)
    order = np.lexsort((block.data, rows))
    values, of = block.data[order], rows[order]
    higher = np.ones(len(order), dtype=bool)
    higher[1:] = (values[1:] != values[:-1]) | (of[1:] != of[:-1])
    ranks = np.cumsum(higher)
    first = ranks[block.indptr[:-1][sizes > 0]]
    ranks = ranks - np.repeat(first, sizes[sizes > 0]) + 1
    out = np.empty(len(order), dtype=np.float32)
    out[order] = np.where(sizes[of] >= FEWEST, ranks, 0)
    return sparse.csr_matrix((out, block.indices, block.indptr), shape=block.shape)


def _with_unlabelled(
    split: Split, codes: NDArray[np.int64], donors: NDArray[np.object_] | None
) -> Split:
    """Add cells without a label to the training part, but for those of donors held out."""
    more = np.flatnonzero(codes < 0)
    taken = (split.train, split.validation, split.test, split.calibration)
    more = np.setdiff1d(more, np.concatenate([np.asarray(t, dtype=np.int64) for t in taken]))
    if donors is not None and len(more):
        held = np.concatenate([split.validation, split.test, split.calibration]).astype(np.int64)
        names = {d for d in donors[held] if d is not None}
        more = np.array([i for i in more if donors[i] not in names], dtype=np.int64)
    return dataclasses.replace(split, train=np.union1d(split.train, more).astype(np.int64))
