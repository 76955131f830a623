"""From a checkpoint of the published implementation to a trained `SCTab`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from episome.data import InputRule, read_gene_list, read_label_list
from episome.models import registry_from_parts
from episome_sctab.checkpoint import read_checkpoint
from episome_sctab.presets import PAPER

if TYPE_CHECKING:
    from episome.data import FeatureSpace, Labels, NameTable
    from episome_sctab.model import SCTab

#: Counts over the model's genes, as the published pipeline normalises them.
RULE = InputRule(input_kind="counts", size_factor="model_genes", target_sum=1e4)
#: Where the authors' store keeps the two lists.
GENES_FILE, LABELS_FILE = "var.parquet", "categorical_lookup/cell_type.parquet"
#: Rows of the gene list in the authors' repository: more genes than the model has inputs.
REPOSITORY_GENES = 19_357


def import_reference(
    cls: type[SCTab],
    path: str | Path,
    *,
    genes: NameTable | None,
    labels: NameTable | None,
    unlabeled_category: str,
    **given: object,
) -> SCTab:
    """See ``SCTab.from_reference_checkpoint``."""
    weights = read_checkpoint(path).renamed()
    sizes = weights.sizes()
    weights.require_agreement(sizes)
    settings = weights.free_settings(given, PAPER, "the published script")
    if labels is None and isinstance(genes, str | Path) and Path(genes).is_dir():
        labels = genes
    features = read_genes(genes, weights.n_inputs)
    classes = read_labels(labels, weights.n_outputs, unlabeled_category)
    registry = registry_from_parts(cls, features, classes, RULE)
    model = cls(registry=registry, preset="paper", **sizes, **settings)
    weights.fill(model)
    return model


def read_genes(genes: NameTable | None, n_inputs: int) -> FeatureSpace:
    """Return the genes of the inputs in their order, from the user's store or a list."""
    return read_gene_list(
        genes,
        n_inputs,
        place="the checkpoint",
        why="their order is that of the store that the model was trained on",
        fix="pass genes= with that store's folder, its var.parquet, or a list of gene "
        "identifiers in that order",
        misfit_fix="pass var.parquet of the store that the model was trained on",
        repeats_fix="pass a column of unique identifiers",
        file=GENES_FILE,
        known_lists={
            REPOSITORY_GENES: "this is the feature list of the authors' repository, which is not "
            "the order of the inputs"
        },
    )


def read_labels(labels: NameTable | None, n_outputs: int, unlabeled_category: str) -> Labels:
    """Return the classes of the outputs in their order, from the user's store or a list."""
    return read_label_list(
        labels,
        n_outputs,
        place="the checkpoint",
        why="they are the cell types of the training data, in the order of their codes",
        fix=f"pass labels= with the store's folder, its {LABELS_FILE}, or a list of names",
        unlabeled_category=unlabeled_category,
        file=LABELS_FILE,
        index_is_code=True,  # as in the store's table
        order_fix="take the list from the store that the model was trained on",
    )
