"""Starts of models that use a pretrained encoder, and what is known of it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from episome.errors import InputDataError, Problem, UsageError, warn
from episome.models._parts import EncoderPart, EncoderReport
from episome.models._seen import digests_of_training, shared_donors

if TYPE_CHECKING:
    from episome.io import ModelFolder
    from episome.models._base import EpisomeModel
    from episome.models._network import NetworkModel
    from episome.train import CellDataModule

    _Model = NetworkModel
else:
    _Model = object


class SeenDonorsMixin(_Model):
    """Which donors an encoder was pretrained on; mixed in before the host's base."""

    def seen_donors(self) -> Collection[str]:
        """Return the digests of these donors."""
        found: Collection[str] = self.fit_.get("donor_digests", ())
        return found

    def leaked_donors(self, donors: Sequence[object]) -> list[str]:
        """Return those of some donors that the encoder was pretrained on.

        Scores on cells of these donors say too much: the encoder has seen them, if not their
        labels. Donors are compared by name, as the columns of ``donor_key`` name them.

        Parameters
        ----------
        donors
            Names, or a column of a cell table.
        """
        return shared_donors(self.seen_donors(), donors)

    def require_no_leaks(self, donors: Sequence[object]) -> None:
        """Refuse donors that the encoder was pretrained on; see :meth:`leaked_donors`.

        Parameters
        ----------
        donors
            Of the cells that are to be tested on.

        Raises
        ------
        InputDataError
            Some were (E-L20).
        """
        if found := self.leaked_donors(donors):
            raise InputDataError(
                "E-L20",
                "pretraining and test share: donor",
                where=type(self).__name__,
                count=len(found),
                total=pd.Series(list(donors), dtype=object).nunique(),
                examples=found[:3],
                why="cells of one donor are alike: the encoder is not tested on a new one",
                fix="pretrain on other donors, or leave these out of the test",
            )


class WarmStartMixin(_Model):
    """What the models on top of an encoder share; mixed in before the host's base.

    ``pretraining_`` holds what is known of the start, as plain data; empty for a fresh encoder.
    """

    pretraining_: dict[str, Any]

    @classmethod
    def from_parts(cls, folder: ModelFolder, *args: Any, **kwargs: Any) -> Any:
        """Build a model from the parts of its folder, which say what it was started from."""
        model = super().from_parts(folder, *args, **kwargs)
        model.pretraining_ = dict(model.fit_.get("pretraining", {}))
        return model

    def init_from(
        self, given: EpisomeModel | str | Path | EncoderPart, *, min_gene_overlap: float = 0.5
    ) -> EncoderReport:
        """Take the encoder of a trained model as the start of training.

        Every tensor of the encoder is filled, or none: names and sizes must match, and rows of
        genes go to the genes of the same name. Genes that are not known there keep their fresh
        weights. Nothing of a folder is run.

        Parameters
        ----------
        given
            A model with an encoder, or its folder.
        min_gene_overlap
            Smallest accepted share of this model's genes that the encoder knows.

        Returns
        -------
        How many tensors and genes came from there.

        Raises
        ------
        ModelMismatchError
            There is no encoder, it is of other sizes, or of values of another scale (E-M06).
        GeneMatchError
            Too few genes are known there (E-G03).
        ModelFileError
            It is no sound model folder.
        """
        part = EncoderPart.of(given)
        part.require_rule(self.input_rule)
        report = part.fill(self.module, self.features, min_gene_overlap=min_gene_overlap)
        digests = part.facts.get("donor_digests", ())
        self.pretraining_ = {**report._asdict(), "donor_digests": list(digests)}
        if pretext := part.facts.get("pretext"):
            self.pretraining_["pretext"] = pretext
        self.is_trained_ = False
        return report

    def _fit(self, datamodule: CellDataModule, *args: Any, **kwargs: Any) -> None:
        frozen = getattr(self.module, "frozen", "none")
        if frozen != "none" and not self.pretraining_ and not self.is_trained_:
            raise UsageError(
                "E-U112",
                f"freeze={frozen!r} with an encoder that has learned nothing",
                where="train()",
                why="layers of random weights would stay as they are",
                fix='start from an encoder, init="FOLDER" (--set init=FOLDER) or from_ssl(), or '
                "leave freeze out",
            )
        super()._fit(datamodule, *args, **kwargs)

    def _remember(self, result: Any, data: Any, facts: dict[str, Any]) -> None:
        more: dict[str, Any] = {"pretraining": self.pretraining_} if self.pretraining_ else {}
        # An encoder that is handed on once more has seen the donors of both trainings.
        before = [f.get("donor_digests", ()) for f in (self.pretraining_, self.fit_ or {})]
        more["donor_digests"] = digests_of_training(data, *before)
        super()._remember(result, data, {**facts, **more})
        self._look_for_leaks(data)

    def _look_for_leaks(self, data: Any) -> None:
        """Warn where donors that the scores are of were among those of pretraining."""
        digests = self.pretraining_.get("donor_digests", ())
        if data.donors is None or not digests:
            return
        parts = (data.split.validation, data.split.calibration, data.split.test)
        held = data.donors[np.concatenate([np.asarray(p, dtype=np.int64) for p in parts])]
        if found := shared_donors(digests, held):
            warn(
                Problem(
                    "E-L46",
                    "donors that are held out were seen in pretraining",
                    where="train()",
                    count=len(found),
                    total=len({d for d in held if d is not None}),
                    examples=found[:3],
                    why="the encoder knows them, if not their labels: scores on their cells, and "
                    "the confidence that is fitted on them, say too much of new donors",
                    fix="pretrain on other donors, or keep other donors for the test",
                )
            )
