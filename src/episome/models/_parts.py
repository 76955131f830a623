"""Encoders that models hand on: out of a folder or a live model, gene by gene into another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
import torch

from episome.errors import GeneMatchError, ModelMismatchError, UsageError
from episome.inference import folder_features, folder_rule
from episome.io import read_model_folder
from episome.log import get_logger

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from episome.data import FeatureSpace, InputRule
    from episome.io import ModelFolder
    from episome.models._base import EpisomeModel
    from episome.nn import TorchCore

logger = get_logger(__name__)

#: By how much the size that counts are scaled to may differ, as a share.
_SCALE = 0.02


class EncoderReport(NamedTuple):
    """What came from another model.

    Parameters
    ----------
    n_tensors
        Tensors of the encoder that were filled: all of them.
    n_genes, n_known
        Genes that enter the network, and those of them that the other encoder knows; rows of the
        others keep their fresh weights.
    source
        Spec name of the other model.
    """

    n_tensors: int
    n_genes: int
    n_known: int
    source: str

    @property
    def text(self) -> str:
        """One line for the log."""
        return (
            f"{self.n_tensors} tensors of the encoder come from a model of {self.source}; "
            f"{self.n_known:,} of {self.n_genes:,} genes are known there"
        )


@dataclass(frozen=True, slots=True, eq=False)
class EncoderPart:
    """The encoder of a trained model.

    Cores name it in ``parts()["encoder"]``, plain data that the manifest keeps as
    ``parts.encoder``: ``prefix`` and ``tensors``, the names under it; ``gene_axes``, the axis of
    genes of those that have one; and ``settings``, which must be the same where it goes.

    Parameters
    ----------
    tensors
        Weights, by their names without the prefix.
    gene_axes, settings
        See above.
    features
        Genes, in the order of the axes of genes.
    rule
        What its input is.
    source
        Spec name, or class, of the model.
    facts
        Of its training: what ``fit_`` holds.
    """

    tensors: Mapping[str, torch.Tensor]
    gene_axes: Mapping[str, int]
    features: FeatureSpace
    rule: InputRule
    settings: Mapping[str, Any]
    source: str
    facts: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, given: EpisomeModel | str | Path | EncoderPart) -> EncoderPart:
        """Take the encoder out of a trained model or its folder; nothing of it is run.

        Parameters
        ----------
        given
            A model, or the folder of one; what was taken out is itself.

        Raises
        ------
        ModelMismatchError
            It has no encoder to hand on (E-M06).
        UsageError
            The model is not trained (E-M20).
        ModelFileError
            It is no sound model folder.
        """
        if isinstance(given, EncoderPart):
            return given
        if isinstance(given, str | Path):
            folder = read_model_folder(given)
            return cls._of_folder(folder, str(given))
        if not hasattr(given, "module"):
            raise UsageError(
                "E-U07",
                f"an encoder cannot be taken from a {type(given).__name__}",
                why="a trained model is expected, or the folder of one",
                fix='from_ssl(model, ...), or from_ssl("folder", ...)',
            )
        given._require_trained()
        name = type(given).__name__
        spec = type(given).spec()
        return cls._of_parts(
            parts_of(given.module),
            given.module.state()[0],
            features=given.features,
            rule=given.input_rule,
            source=name if spec is None else spec.name,
            facts=given.fit_,
            where=f"a {name}",
        )

    @classmethod
    def _of_folder(cls, folder: ModelFolder, where: str) -> EncoderPart:
        model = folder.manifest["model"]
        return cls._of_parts(
            folder.manifest.get("parts") or {},
            folder.tensors,
            features=folder_features(folder),
            rule=folder_rule(folder),
            source=str(model.get("spec") or model["class"]),
            facts=dict(folder.manifest.get("fit") or {}),
            where=where,
        )

    @classmethod
    def _of_parts(
        cls,
        parts: Mapping[str, Any],
        tensors: Mapping[str, NDArray[np.generic]],
        *,
        where: str,
        **more: Any,
    ) -> EncoderPart:
        found: Mapping[str, Any] = parts.get("encoder") or {}
        missing = [n for n in found.get("tensors", ()) if _full(found, n) not in tensors]
        if not found or missing:
            raise ModelMismatchError(
                "E-M06",
                "the model has no encoder to hand on",
                where=where,
                count=len(missing) or None,
                examples=missing,
                why="its folder names none in parts.encoder",
                fix="take a model with an encoder, such as one that was pretrained",
            )
        return cls(
            {n: torch.from_numpy(np.array(tensors[_full(found, n)])) for n in found["tensors"]},
            dict(found["gene_axes"]),
            settings=dict(found["settings"]),
            **more,
        )

    def fill(
        self, core: TorchCore, features: FeatureSpace, *, min_gene_overlap: float = 0.5
    ) -> EncoderReport:
        """Fill the encoder of a core, all of it or nothing.

        Names and sizes must match, and rows of genes go to the genes of the same name. Genes that
        are not known here keep their fresh weights.

        Parameters
        ----------
        core
            Changed in place; names its own encoder in ``parts()``.
        features
            Its genes.
        min_gene_overlap
            Smallest accepted share of these genes that are known here.

        Raises
        ------
        ModelMismatchError
            Tensors or settings differ (E-M06).
        GeneMatchError
            Too few genes are known (E-G03).
        """
        mine = parts_of(core)["encoder"]
        state = core.state_dict()
        wanted = {n: state[_full(mine, n)] for n in mine["tensors"]}
        self._require_same(wanted, mine)
        places = gene_places(features, self.features)
        require_known_genes(places, min_gene_overlap, where=f"an encoder of {self.source}")
        for name, tensor in wanted.items():
            axis = mine["gene_axes"].get(name)
            filled = filled_by_gene(tensor, self.tensors[name], places, axis)
            state[_full(mine, name)] = filled.to(tensor.device)
        core.load_state_dict(state)
        known = int((places >= 0).sum())
        report = EncoderReport(len(wanted), len(places), known, self.source)
        logger.info("%s", report.text)
        return report

    def _require_same(self, wanted: Mapping[str, torch.Tensor], mine: Mapping[str, Any]) -> None:
        differ = [
            f"{k} is {v!r} here and {self.settings.get(k)!r} there"
            for k, v in mine["settings"].items()
            if self.settings.get(k) != v
        ]
        missing = sorted(set(wanted) - set(self.tensors))
        unknown = sorted(set(self.tensors) - set(wanted))
        axes = mine["gene_axes"]
        wrong = [
            n
            for n, tensor in wanted.items()
            if n in self.tensors and not _alike(tensor, self.tensors[n], axes.get(n))
        ]
        if not (differ or missing or unknown or wrong):
            return
        settings = ", ".join(f"{k}={v!r}" for k, v in self.settings.items())
        names = [*(f"missing {k}" for k in missing), *(f"unknown {k}" for k in unknown), *wrong]
        raise ModelMismatchError(
            "E-M06",
            "the encoder is another",
            where=f"an encoder of {self.source}",
            count=len(differ) or len(names),
            total=None if differ else len(wanted),
            examples=differ or names,
            why="an encoder that is filled in part, or used in another way, is no start",
            fix=f"build the model with {settings}",
        )

    def require_rule(self, rule: InputRule) -> None:
        """Refuse an encoder that was trained on values of another scale.

        Parameters
        ----------
        rule
            What the values are here.

        Raises
        ------
        ModelMismatchError
            E-M06.
        """
        here, there = rule.target_sum, self.rule.target_sum
        if abs(here - there) <= _SCALE * there and (rule.obsm_key == self.rule.obsm_key):
            return
        raise ModelMismatchError(
            "E-M06",
            "the encoder reads values of another scale",
            where=f"an encoder of {self.source}",
            why=f"cells are scaled to {here:g} here and to {there:g} there",
            fix="set up with the counts, layer= or use_raw=True, or take another encoder",
        )


def parts_of(core: Any) -> Mapping[str, Any]:
    """Return what a core hands on, as plain data; cores of arrays hand on nothing.

    Parameters
    ----------
    core
        Of a model.
    """
    parts = getattr(core, "parts", None)
    return {} if parts is None else parts()


def _full(part: Mapping[str, Any], name: str) -> str:
    return f"{part['prefix']}{name}"


def _alike(mine: torch.Tensor, its: torch.Tensor, axis: int | None) -> bool:
    """Whether shapes are equal but for the axis of genes."""
    shapes = [[n for i, n in enumerate(t.shape) if i != axis] for t in (mine, its)]
    return mine.ndim == its.ndim and shapes[0] == shapes[1]


def gene_places(features: FeatureSpace, known: FeatureSpace) -> NDArray[np.int64]:
    """Return the place of every gene among those of an encoder, -1 for unknown ones.

    Parameters
    ----------
    features
        Genes to look for, (n,).
    known
        Genes of the encoder.
    """
    mine = pd.DataFrame({k: list(v) for k, v in features.other.items()}, index=list(features.ids))
    return known.match(mine, duplicates="first", where="the model's genes").columns


def require_known_genes(
    places: NDArray[np.int64],
    min_gene_overlap: float,
    *,
    where: str,
    what: str = "known to the encoder",
    why: str = "the others would start anew",
    fix: str = "take a folder of the same species and gene names",
) -> None:
    """Refuse an encoder, or another table of genes, that knows too few.

    Parameters
    ----------
    places
        Of :func:`gene_places`.
    min_gene_overlap
        Smallest accepted share that is known.
    where
        How the message names the encoder.
    what, why, fix
        What the genes are that count, what becomes of the others, and what to do.

    Raises
    ------
    GeneMatchError
        E-G03.
    """
    n_known = int((places >= 0).sum())
    if n_known < min_gene_overlap * len(places):
        raise GeneMatchError(
            "E-G03",
            f"only {n_known:,} of {len(places):,} genes are {what}",
            where=where,
            why=f"{why}; min_gene_overlap is {min_gene_overlap:g}",
            fix=fix,
        )


def filled_by_gene(
    mine: torch.Tensor, its: torch.Tensor, places: NDArray[np.int64], axis: int | None
) -> torch.Tensor:
    """Return a tensor with the values of another, genes by their places.

    Parameters
    ----------
    mine, its
        The tensor, and the other.
    places
        Of every gene of ``mine`` in ``its``, -1 where it is unknown: these keep their values.
    axis
        Of the genes; ``None``: the tensor has none and is taken whole.
    """
    if axis is None:
        return its.clone()
    known = torch.from_numpy(np.flatnonzero(places >= 0))
    from_where = torch.from_numpy(places[places >= 0])
    out = mine.detach().cpu().clone()
    out.index_copy_(axis, known, its.index_select(axis, from_where).to(out.dtype))
    return out
