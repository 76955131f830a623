"""`Ensemble`: several models of the same genes and classes that answer as one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

import numpy as np

from episome import plugins, settings
from episome.confidence import Confidence, mean_grid
from episome.errors import Problem, UsageError, warn
from episome.inference import (
    CONFIDENCE_PREFIX,
    EnsembleCore,
    Predictor,
    folder_confidence,
    folder_spec,
    mean_importance,
)
from episome.io import (
    EnsembleFolder,
    encode,
    provenance,
    read_ensemble_folder,
    write_ensemble_folder,
)
from episome.log import get_logger
from episome.models._calls import CallsMixin
from episome.models._card import CardFacts, card_text
from episome.models._classifier import ClassifierModel
from episome.models._confidence import confidence_of, mean_held_out
from episome.models._explanation import ExplanationMixin
from episome.models._folder import model_folder
from episome.models._training import normalized_rows, part_of

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

    from episome.data import CellSource, FeatureSpace, GeneImportance, InputRule, Labels, Query
    from episome.models._annotation import AnnotationMixin
    from episome.models._base import EpisomeModel
    from episome.ontology import ClassHierarchy

logger = get_logger(__name__)


class Ensemble(ExplanationMixin, CallsMixin):
    """Annotators of the same genes and classes; their probabilities are averaged.

    ``SCTab.ensemble(adata, n_models=5)`` makes one whose members differ by their seed: member 0
    has ``settings.seed`` itself, so an ensemble of one is the model. Members may also be of
    different kinds, as long as they were set up with the same data.

    Parameters
    ----------
    members
        The models, trained or not.

    Raises
    ------
    UsageError
        No members, or members that differ in genes, classes or input (E-U37).

    References
    ----------
    Fischer et al. (2024); Lakshminarayanan et al. (2017), deep ensembles.
    """

    uncertainty_kinds: ClassVar[tuple[str, ...]] = ("max", "entropy", "disagreement")

    def __init__(self, members: Sequence[AnnotationMixin]) -> None:
        self.members: tuple[AnnotationMixin, ...] = tuple(members)
        _require_alike(self.members)
        self._seed = settings.seed
        self.confidence_ = Confidence()

    def __len__(self) -> int:
        return len(self.members)

    def __repr__(self) -> str:
        kinds = ", ".join(sorted({type(m).__name__ for m in self.members}))
        state = "trained" if self.is_trained_ else "not trained"
        return f"Ensemble of {len(self)} models ({kinds}), {state}"

    # --- what all members share -------------------------------------------------------------

    @property
    def features(self) -> FeatureSpace:
        """Genes of the members, in their order."""
        return self.members[0].features

    @property
    def labels(self) -> Labels:
        """Classes in the order of the outputs."""
        return self.members[0].labels

    @property
    def input_rule(self) -> InputRule:
        """What input values are and how counts become the scale of the members."""
        return self.members[0].input_rule

    def class_hierarchy(self, also: Iterable[str] = ()) -> ClassHierarchy | None:
        """Return which classes are kinds of which others; see ``AnnotationMixin``."""
        return self.members[0].class_hierarchy(also)

    @property
    def gene_importance(self) -> GeneImportance | None:
        """Share of the weight that every gene carries, mean over members."""
        return mean_importance([m.gene_importance for m in self.members])

    @property
    def is_trained_(self) -> bool:
        """Whether every member is trained."""
        return all(m.is_trained_ for m in self.members)

    @property
    def fit_(self) -> dict[str, Any]:
        """Facts of the fits: those of member 0, scores averaged, seconds added up."""
        fits = [m.fit_ for m in self.members]
        scores = {
            k: float(np.mean([f[k] for f in fits]))
            for k in fits[0]
            if k.startswith("validation_") and all(k in f for f in fits)
        }
        seconds = round(sum(float(f.get("seconds", 0.0)) for f in fits), 2)
        return {**fits[0], **scores, "seconds": seconds, "n_models": len(self)}

    @property
    def history(self) -> list[dict[str, pd.DataFrame]]:
        """Training histories of the members."""
        return [m.history for m in self.members]

    @property
    def module(self) -> EnsembleCore:
        """The cores of the members as one."""
        return EnsembleCore([m.module for m in self.members])

    def _require_trained(self) -> None:
        for member in self.members:
            member._require_trained()

    # --- training ---------------------------------------------------------------------------

    def train(self, **train_kwargs: Any) -> None:
        """Train every member with its own seed on the same split.

        Parameters
        ----------
        **train_kwargs
            Of the members' ``train``.
        """
        progress = train_kwargs.pop("progress", None)
        for i, member in enumerate(self.members):
            args = dict(train_kwargs)
            for name in ("checkpoint_dir", "resume"):
                # Every member has a run of its own.
                if args.get(name) not in {None, "auto", "never"}:
                    args[name] = Path(args[name]) / f"member-{i}"
            if progress is not None:
                args["progress"] = part_of(progress, i, len(self))
            if i > 0 and "datamodule" not in args:
                args = self._with_the_first_split(member, args)
            with settings.using_seed(settings.member_seed(i, self._seed)):
                member.train(**args)
            logger.info("member %d of %d is trained", i + 1, len(self))
        self._warn_of_twins()
        self._fit_confidence()

    def _fit_confidence(self) -> None:
        """Calibrate the mean of the members on cells that none of them was trained on."""
        first = self.members[0]
        held = mean_held_out([m._held_out for m in self.members])
        novelty = first.confidence_.novelty
        if not first.has_data or held is None:
            self.confidence_ = Confidence()
            return
        query = first.training_query()
        self.confidence_ = confidence_of(
            held,
            first.training_codes(),
            first.training_donors(),
            space=None if novelty is None else novelty.space,
            values=lambda rows: normalized_rows(query, rows),
            seed=settings.stream_seed("calibration", self._seed, bits=32),
            name=f"the ensemble of {len(self)}",
        )
        shift = mean_grid([m.confidence_.shift for m in self.members])
        self.confidence_ = replace(self.confidence_, shift=shift)

    def _warn_of_twins(self) -> None:
        states = [m.module.state()[0] for m in self.members]
        twins = sum(
            other.keys() == states[0].keys()
            and all(np.array_equal(v, states[0][k]) for k, v in other.items())
            for other in states[1:]
        )
        if twins:
            warn(
                Problem(
                    "E-U58",
                    "members of the ensemble that are the same as the first",
                    count=twins,
                    total=len(self),
                    why="the method does not depend on the seed, so they add nothing",
                    fix="use the model alone, or members of different kinds",
                )
            )

    def _with_the_first_split(self, member: EpisomeModel, args: dict[str, Any]) -> dict[str, Any]:
        """Give a member the split of member 0: held-out cells stay so for the whole."""
        first = self.members[0]
        names = ("train", "validation", "test", "calibration")
        parts = [getattr(first, f"{p}_indices_", np.empty(0, dtype=np.int64)) for p in names]
        if not len(parts[1]) and not len(parts[2]):
            return args
        splitter = {**(args.get("datasplitter_kwargs") or {}), "external_indexing": parts}
        sizes = {"train_size", "validation_size", "calibration_size"}
        rest = {k: v for k, v in args.items() if k not in sizes}
        if splitter.pop("split", None) is not None and isinstance(member, ClassifierModel):
            rest.setdefault("refit", False)  # as for the first, which was given the file
        return {**rest, "datasplitter_kwargs": splitter}

    def fine_tune(self, adata: AnnData, **kwargs: Any) -> Ensemble:
        """Return a new ensemble whose members were trained further on new cells.

        Parameters
        ----------
        adata
            New labelled cells, genes in any order; not modified.
        **kwargs
            Of ``ClassifierModel.fine_tune``.
        """
        members = []
        for i, member in enumerate(self.members):
            with settings.using_seed(settings.member_seed(i, self._seed)):
                members.append(member.fine_tune(adata, **kwargs))
        return Ensemble(members)

    # --- prediction -------------------------------------------------------------------------

    def predictor(self) -> Predictor:
        """Return the predictor that runs all members over every batch."""
        self._require_trained()
        return Predictor(
            self.module,
            features=self.features,
            rule=self.input_rule,
            labels=self.labels,
            importance=self.gene_importance,
            confidence=self.confidence_,
        )

    def prepare(
        self, adata: AnnData | str | Path | CellSource | None = None, **kwargs: Any
    ) -> Query:
        """Check a query and align its genes; see ``EpisomeModel.prepare``."""
        return self.members[0].prepare_as(adata, importance=self.gene_importance, **kwargs)

    # --- folders ----------------------------------------------------------------------------

    def get_latent_representation(self, *args: object, **kwargs: object) -> NoReturn:
        """Refuse: the embeddings of members have different axes, and their mean means nothing.

        Raises
        ------
        UsageError
            Always (E-U12).
        """
        raise UsageError(
            "E-U12",
            "an ensemble has no embedding of its own",
            why="every member has its own axes",
            fix="ensemble.members[0].get_latent_representation(adata)",
        )

    def save(self, dir_path: str | Path, *, overwrite: bool = False, **kwargs: object) -> None:
        """Save all members as one folder, each an ordinary model folder under ``members/``.

        Raises
        ------
        UsageError
            A member is not trained (E-M20), or arguments of other formats are given (E-U18).
        """
        self._require_trained()
        if kwargs:
            raise UsageError(
                "E-U18",
                f"save() does not take {sorted(kwargs)} for an ensemble",
                why="it has one format, and data are not saved with it",
                fix="leave it out, or save the members one by one",
            )
        folders = [model_folder(m) for m in self.members]
        sure, confidence = self.confidence_.to_parts()
        manifest = {
            "model": {**folders[0].manifest["model"], "class": type(self).__name__},
            "input": self.input_rule.to_json(),
            "genes_sha256": self.features.digest,
            "unlabeled": self.labels.unlabeled,
            "ontology": folders[0].manifest["ontology"],
            "fit": encode(self.fit_),
            "confidence": encode(confidence),
            "provenance": {**provenance(), "seed": self._seed},
        }
        tensors = {f"{CONFIDENCE_PREFIX}{k}": v for k, v in sure.items()}
        first = folders[0]
        facts = CardFacts(manifest, first.genes, first.labels, [f.manifest for f in folders])
        write_ensemble_folder(
            dir_path,
            EnsembleFolder(manifest, folders, card_text(facts), tensors),
            overwrite=overwrite,
        )
        logger.info("saved %s", dir_path)

    @classmethod
    def load(
        cls,
        dir_path: str | Path,
        adata: AnnData | None = None,
        *,
        accelerator: str = "auto",
        device: int | str = "auto",
    ) -> Ensemble:
        """Load an ensemble folder; nothing in it is executed.

        Parameters
        ----------
        dir_path
            A folder that :meth:`save` wrote.
        adata
            Data to attach to every member.
        accelerator, device
            Where the members go.

        Raises
        ------
        ModelFileError, UntrustedModelError
            See ``episome.io.read_ensemble_folder``.
        PluginError
            The plugin of a member is not installed (E-P01).
        """
        folder = read_ensemble_folder(dir_path)
        members = []
        for part in folder.members:
            model_cls = plugins.load_class(folder_spec(part.manifest["model"]))
            members.append(
                model_cls.from_parts(part, adata, accelerator=accelerator, device=device)
            )
        ensemble = cls(members)
        ensemble.confidence_ = folder_confidence(
            folder.tensors, folder.manifest, folder.members[0]
        )
        ensemble._seed = int(folder.manifest["provenance"]["seed"])
        return ensemble


def _require_alike(members: Sequence[AnnotationMixin]) -> None:
    if not members:
        raise UsageError("E-U37", "an ensemble of no models", fix="pass one model at least")
    first = members[0]
    for i, other in enumerate(members[1:], start=1):
        differs = [
            name
            for name, mine, its in (
                ("genes", first.features.digest, other.features.digest),
                ("classes", first.labels, other.labels),
                ("input", first.input_rule, other.input_rule),
            )
            if mine != its
        ]
        if differs:
            raise UsageError(
                "E-U37",
                f"members 0 and {i} of the ensemble differ in their {' and '.join(differs)}",
                why="their probabilities are of different things",
                fix="set up all members with the same data",
            )
