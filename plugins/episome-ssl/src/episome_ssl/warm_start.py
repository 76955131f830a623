"""Starts of the models that use a pretrained encoder."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from episome.data import require_choice
from episome.errors import GeneMatchError, Problem, UsageError, warn
from episome.models import (
    EncoderPart,
    EpisomeModel,
    NetworkModel,
    donor_digests,
    gene_places,
    shared_donors,
)
from episome_ssl.start import widths

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from pathlib import Path

    from anndata import AnnData

    from episome.data import CellSource, PreparedCells
    from episome.io import ModelFolder
    from episome.models import EncoderReport
    from episome.train import CellDataModule

    _Model = NetworkModel
else:
    _Model = object


#: Smallest share of an encoder's genes that cells must have to be read by these.
MIN_OVERLAP = 0.5


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
        frozen = self.module.frozen
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


def digests_of_training(data: Any, *before: Collection[str]) -> list[str]:
    """Return the digests of the donors that an encoder has seen, sorted.

    Parameters
    ----------
    data
        A data module that was trained on.
    *before
        Digests of trainings that this one went on from.
    """
    found = {digest for digests in before for digest in digests}
    if data.donors is None:
        return sorted(found)
    # The validation cells chose the epoch: their donors are no unseen ones either.
    parts = (data.split.train, data.split.validation)
    rows = np.concatenate([np.asarray(p, dtype=np.int64) for p in parts])
    return sorted(found.union(donor_digests(data.donors[rows])))


def on_genes_of(cells: PreparedCells, part: EncoderPart) -> PreparedCells:
    """Return training cells that are read by the genes and the rule of an encoder.

    Parameters
    ----------
    cells
        Of ``setup_source``.
    part
        The encoder.

    Raises
    ------
    ModelMismatchError
        Their values are of another scale (E-M06).
    """
    part.require_rule(cells.rule)
    rule = dataclasses.replace(part.rule, organisms=cells.rule.organisms)
    registry = dict(cells.registry)
    fields = {k: dict(v) for k, v in registry["field_registries"].items()}
    state = dict(fields["X"]["state_registry"])
    ids = np.array(part.features.ids, dtype=object)
    state |= {
        "column_names": ids,
        "n_vars": len(ids),
        "other_names": {k: np.array(v, dtype=object) for k, v in part.features.other.items()},
        "input": rule.to_json(),
    }
    fields["X"] |= {"state_registry": state}
    if "summary_stats" in fields["X"]:
        fields["X"]["summary_stats"] = {**fields["X"]["summary_stats"], "n_vars": len(ids)}
    registry["field_registries"] = fields
    return dataclasses.replace(cells, features=part.features, rule=rule, registry=registry)


#: Sizes of an encoder that has no other to follow.
SIZES: dict[str, Any] = {"hidden": (512, 512, 256, 256), "n_latent": 64, "activation": "selu"}


def sizes_of(init: EncoderPart | None, **given: Any) -> dict[str, Any]:
    """Return sizes of an encoder: those given, else those of its start, else the usual ones.

    Parameters
    ----------
    init
        What it starts from.
    **given
        ``hidden``, ``n_latent`` and ``activation``; ``None`` where nothing is given.
    """
    usual = SIZES if init is None else {**SIZES, **init.settings}
    found = {k: usual[k] if v is None else v for k, v in given.items()}
    return {**found, "hidden": widths(found["hidden"])}


def started(
    cls: type[Any],
    ssl: EpisomeModel | str | Path,
    data: AnnData | str | Path | CellSource | Sequence[Any],
    model_kwargs: dict[str, Any],
    setup: dict[str, Any],
    genes: Literal["encoder", "data"] = "encoder",
) -> Any:
    """Build a model that starts from an encoder.

    Parameters
    ----------
    cls
        Class of the model.
    ssl
        A trained model with an encoder, or its folder.
    data
        Training cells.
    model_kwargs, setup
        Of the constructor and of the set-up.
    genes
        Whose genes it has.

    Raises
    ------
    GeneMatchError
        Too few genes of the one are known to the other (E-G03).
    """
    require_choice("genes", genes, ("encoder", "data"))
    part = EncoderPart.of(ssl)
    cells = cls.setup_source(data, **setup)
    if genes == "data":
        return cls(cells, init=part, **model_kwargs)
    _require_known(part, cells)
    model = cls(on_genes_of(cells, part), **{**part.settings, **model_kwargs})
    model.init_from(part, min_gene_overlap=0.0)
    return model


def _require_known(part: EncoderPart, cells: PreparedCells) -> None:
    """Refuse cells that lack most genes of an encoder, before anything is built on them."""
    places = gene_places(part.features, cells.features)
    n_known, n = int((places >= 0).sum()), len(places)
    if n_known < MIN_OVERLAP * n:
        raise GeneMatchError(
            "E-G03",
            f"the cells have only {n_known:,} of the {n:,} genes of the encoder",
            where=cells.where,
            why="the model would have the genes of the encoder, most of them zero",
            fix='from_ssl(..., genes="data") keeps the genes of the cells; those that the encoder '
            "does not know start anew",
        )
