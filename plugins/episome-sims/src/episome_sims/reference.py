"""From a checkpoint of the published implementation to a trained `SIMS`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from episome.data import InputRule, read_gene_list, read_label_list
from episome.errors import UsageError
from episome.log import get_logger
from episome.models import registry_from_parts
from episome_sims.checkpoint import Checkpoint, read_checkpoint
from episome_sims.presets import PUBLISHED

if TYPE_CHECKING:
    from episome.data import FeatureSpace, Labels, NameTable
    from episome_sims.model import SIMS

logger = get_logger(__name__)

#: What stands before the names of the network in the files of the published code.
PREFIXES = ("network.tabnet.", "tabnet.", "")
_INPUT = "encoder.initial_bn.weight"
#: A second input norm that the published network registers and never uses.
_UNUSED = "initial_bn."


def import_reference(
    cls: type[SIMS],
    path: str | Path,
    *,
    trust: bool,
    genes: NameTable | None,
    labels: NameTable | None,
    unlabeled_category: str,
    input_scaling: str,
    target_sum: float,
    **given: object,
) -> SIMS:
    """See ``SIMS.from_reference_checkpoint``."""
    _require_known(given)
    checkpoint, temperature = network_alone(read_checkpoint(path, trust=trust))
    weights = checkpoint.renamed()
    sizes = weights.sizes()
    settings = weights.free_settings(given, PUBLISHED, "the published code")
    weights.require_agreement(sizes)
    features = read_genes(checkpoint.genes if genes is None else genes, weights.n_inputs)
    names = checkpoint.labels if labels is None else labels
    classes = read_labels(names, weights.n_outputs, unlabeled_category)
    rule = InputRule(input_kind="counts", size_factor="model_genes", target_sum=target_sum)
    registry = registry_from_parts(cls, features, classes, rule)
    model = cls(registry=registry, preset="tall", input_scaling=input_scaling, **sizes, **settings)
    weights.fill(model)
    if temperature is not None:
        model.fit_["temperature_of_the_file"] = temperature
        logger.info("the temperature %.3f of the file is not applied", temperature)
    return model


def _require_known(given: Mapping[str, object]) -> None:
    if unknown := sorted(set(given) - set(Checkpoint.FREE)):
        raise UsageError(
            "E-U24",
            f"unknown arguments {', '.join(unknown)}",
            where="from_reference_checkpoint()",
            why="sizes are read off the tensors",
            fix=f"use some of {', '.join(Checkpoint.FREE)}",
        )


def network_alone(checkpoint: Checkpoint) -> tuple[Checkpoint, float | None]:
    """Return the tensors of the network without their prefix, and the temperature of the file.

    A second input norm that is never used is left out, and so are matrices of gene groups that
    leave every gene alone. Everything else has to be the network's.
    """
    state = dict(checkpoint.state)
    temperature = state.pop("temperature", None)
    prefix = next((p for p in PREFIXES if p + _INPUT in state), None)
    if prefix is None:
        why = f"it has no tensor {PREFIXES[0]}{_INPUT}"
        raise checkpoint.mismatch(why)
    for name in [n for n in state if n.endswith(("group_matrix", "group_attention_matrix"))]:
        matrix = state.pop(name)
        if not torch.equal(matrix, torch.eye(len(matrix), dtype=matrix.dtype)):
            why = "it has groups of genes, which are not imported"
            raise checkpoint.mismatch(why)
    foreign = [n for n in state if not n.startswith(prefix)]
    if foreign:
        why = f"{len(foreign)} tensors are not its, first {foreign[0]}"
        raise checkpoint.mismatch(why)
    inner = {n.removeprefix(prefix): v for n, v in state.items()}
    kept = {n: v for n, v in inner.items() if not n.startswith(_UNUSED)}
    found = None if temperature is None else float(temperature.flatten()[0])
    return replace(checkpoint, state=kept), found


def read_genes(genes: NameTable | None, n_inputs: int) -> FeatureSpace:
    """Return the genes of the inputs in their order."""
    return read_gene_list(
        genes,
        n_inputs,
        place="the file",
        why="their order is that of the training data",
        fix="pass genes= with the list, or the var_names of that data",
        misfit_fix="pass one unique name for every input",
    )


def read_labels(labels: NameTable | None, n_outputs: int, unlabeled_category: str) -> Labels:
    """Return the classes of the outputs in their order."""
    return read_label_list(
        labels,
        n_outputs,
        place="the file",
        why="they are the cell types of the training data, in alphabetical order",
        fix="pass labels= with a list of names",
        unlabeled_category=unlabeled_category,
    )
