"""The encoder of a saved folder as the start of a new model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from episome.errors import ModelMismatchError
from episome.inference import folder_features
from episome.io import read_model_folder
from episome.log import get_logger
from episome.models import EncoderReport, filled_by_gene, gene_places, require_known_genes
from episome_sims.pretext import encoder_names

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from episome.data import FeatureSpace
    from episome.io import ModelFolder
    from episome_sims.core import SIMSCore

logger = get_logger(__name__)

PREFIX = "net."
#: Tensors with one row per gene, by the start of their name.
_BY_GENE = ("net.input_norm.", "net.first.", "net.attentions.")
_SIZES = ("n_d", "n_a", "n_steps", "n_shared", "n_independent")


def fill_encoder(
    core: SIMSCore, features: FeatureSpace, path: str | Path, *, min_gene_overlap: float = 0.5
) -> EncoderReport:
    """Fill the encoder of a core with that of a folder, gene by gene by name.

    Parameters
    ----------
    core
        Changed in place, and only if everything fits.
    features
        Its genes.
    path
        A model folder with a TabNet encoder of the same sizes.
    min_gene_overlap
        Smallest accepted share of the core's genes that the folder's encoder knows.

    Raises
    ------
    ModelMismatchError
        Tensors, settings or groups differ (E-M06).
    GeneMatchError
        Too few genes are known there (E-G03).
    """
    folder = read_model_folder(path)
    saved = {k: torch.from_numpy(np.array(v)) for k, v in folder.tensors.items()}
    wanted = {k: v for k, v in core.state_dict().items() if k in set(encoder_names(core))}
    _require_settings(core, features, folder)
    _require_tensors(wanted, saved, folder)
    places = _places(core, features, folder, saved)
    require_known_genes(places, min_gene_overlap, where=str(path))
    state = core.state_dict()
    by_group = core.net.groups is not None
    for name, tensor in wanted.items():
        state[name] = _filled(name, tensor, saved[name], places, by_group=by_group)
    core.load_state_dict(state)
    spec = str(folder.manifest["model"].get("spec") or folder.manifest["model"]["class"])
    report = EncoderReport(len(wanted), len(places), int((places >= 0).sum()), spec)
    logger.info("%s", report.text)
    return report


def _filled(
    name: str,
    mine: torch.Tensor,
    its: torch.Tensor,
    places: NDArray[np.int64],
    *,
    by_group: bool,
) -> torch.Tensor:
    grouped = by_group and name.startswith("net.attentions.")
    axis = 0 if _is_by_gene(name, mine) and not grouped else None
    return filled_by_gene(mine, its, places, axis)


def _is_by_gene(name: str, tensor: torch.Tensor) -> bool:
    return name.startswith(_BY_GENE) and tensor.ndim > 0


def _require_tensors(
    wanted: Mapping[str, torch.Tensor], saved: Mapping[str, torch.Tensor], folder: ModelFolder
) -> None:
    """Refuse a folder in which one tensor of the encoder is missing, unknown or of other size."""
    its = {k for k in saved if k.startswith(PREFIX) and k != "net.head.weight"}
    wrong = [
        name
        for name, mine in wanted.items()
        if name in its and _inner(name, mine) != _inner(name, saved[name])
    ]
    missing, unknown = sorted(set(wanted) - its), sorted(its - set(wanted))
    if not (missing or unknown or wrong):
        return
    core = folder.manifest["core"]
    sizes = ", ".join(f"{k}={core[k]}" for k in _SIZES if k in core)
    raise ModelMismatchError(
        "E-M06",
        "the folder holds no encoder" if not its else "the encoder of the folder is another",
        where="weights.safetensors",
        count=len(missing) + len(unknown) + len(wrong),
        total=len(wanted),
        examples=[*(f"missing {k}" for k in missing), *(f"unknown {k}" for k in unknown), *wrong],
        why="an encoder that is filled in part is no start",
        fix=f"build the model with {sizes}" if sizes and its else "take a folder of a TabNet",
    )


def _inner(name: str, tensor: torch.Tensor) -> tuple[int, ...]:
    """Shape without the axis of genes."""
    shape = tuple(tensor.shape)
    return shape[1:] if _is_by_gene(name, tensor) else shape


def _require_settings(core: SIMSCore, features: FeatureSpace, folder: ModelFolder) -> None:
    mine, its = core.config, folder.manifest["core"]
    differ = [
        f"{name} is {mine[name]!r} here and {its.get(name, default)!r} there"
        for name, default in (("input_scaling", "none"), ("mask", mine["mask"]))
        if mine[name] != its.get(name, default)
    ]
    same_genes = list(features.ids) == list(folder.genes.get("id", ()))
    groups = its.get("feature_groups")
    if mine["feature_groups"] != groups or (groups is not None and not same_genes):
        differ.append("groups of genes differ")
    if mine["n_top_genes"] is not None:
        differ.append("n_top_genes chooses genes only at training")
    if differ:
        raise ModelMismatchError(
            "E-M06",
            "the encoder of the folder reads its input in another way",
            where="manifest.json",
            count=len(differ),
            examples=differ,
            why="its weights would mean something else here",
            fix="build the model with the folder's settings, and without n_top_genes",
        )


def _places(
    core: SIMSCore, features: FeatureSpace, folder: ModelFolder, saved: Mapping[str, torch.Tensor]
) -> NDArray[np.int64]:
    """Row of every gene of the core in the folder's encoder, -1 for unknown ones, (G,)."""
    theirs = folder_features(folder)
    entered = saved.get("genes", torch.arange(len(theirs))).numpy()
    row = np.full(len(theirs) + 1, -1, dtype=np.int64)
    row[entered] = np.arange(len(entered))
    # The last entry, -1, is that of genes that are not there.
    return row[gene_places(features, theirs)]
