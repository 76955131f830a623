"""From a checkpoint of the published code to a trained `SSLEncoder`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from episome.data import InputRule, read_gene_list
from episome.models import registry_from_parts
from episome_ssl.checkpoint import read_checkpoint

if TYPE_CHECKING:
    from episome.data import NameTable
    from episome_ssl.model import SSLEncoder


def import_reference(
    cls: type[SSLEncoder],
    path: str | Path,
    *,
    genes: NameTable | None,
    activation: Literal["selu", "relu"],
    output_activation: Literal["identity", "softplus", "sigmoid"],
    embedding_activation: Literal["identity", "relu"],
    target_sum: float,
) -> SSLEncoder:
    """See ``SSLEncoder.from_reference_checkpoint``."""
    weights = read_checkpoint(path)
    features = read_gene_list(
        genes,
        weights.n_genes,
        place="the checkpoint",
        why="their order is that of the store that the model was trained on",
        fix="pass genes= with that store's folder, its var.parquet, or a list of gene "
        "identifiers in that order",
        misfit_fix="pass the genes of the store that the model was trained on",
        repeats_fix="pass a column of unique identifiers",
        file="var.parquet",
    )
    rule = InputRule(input_kind="counts", size_factor="model_genes", target_sum=target_sum)
    registry = registry_from_parts(cls, features, None, rule)
    state = weights.state()
    model = cls(
        registry=registry,
        # A contrastive task has no decoder.
        pretext="random_mask" if weights.decoder else "barlow",
        hidden=weights.hidden,
        n_latent=weights.n_latent,
        activation=activation,
        output_activation=output_activation,
        embedding_activation=embedding_activation,
    )
    ours = model.module.state_dict()
    if set(state) != {k for k in ours if k != "n_drawn"}:
        msg = "its layers are not those of an encoder and a mirrored decoder"
        raise weights.mismatch(msg)
    model.module.load_state_dict({**ours, **state})
    model.module.eval()
    model.is_trained_ = True
    model.fit_ = {"imported": dict(weights.facts)}
    return model
