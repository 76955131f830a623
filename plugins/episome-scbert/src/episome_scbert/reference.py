"""From a user's checkpoint of the original to a trained `SCBERT`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from episome.data import InputRule, read_gene_list, read_label_list
from episome.models import registry_from_parts
from episome_scbert.checkpoint import read_checkpoint
from episome_scbert.core import SCBERTCore
from episome_scbert.genes import read_vectors, vectors_for

if TYPE_CHECKING:
    from episome.data import NameTable
    from episome_scbert.genes import GeneVectors
    from episome_scbert.model import SCBERT

#: What the tensors of one kind of checkpoint do not hold: they stay as they start.
_OF_OURS = ("encoder.levels", "encoder.n_asked", "n_drawn")
_TO_TOKENS = ("encoder.to_tokens.weight", "encoder.to_tokens.bias")
_GENES = "encoder.genes.weight"


def import_reference(
    cls: type[SCBERT],
    path: str | Path,
    *,
    genes: NameTable | None,
    labels: NameTable | None,
    gene_table: GeneVectors | None,
    unlabeled_category: str,
) -> SCBERT:
    """See ``SCBERT.from_reference_checkpoint``."""
    weights = read_checkpoint(path)
    sizes, n_classes = weights.sizes(), weights.n_classes
    features = read_gene_list(
        genes,
        weights.n_genes,
        place="the checkpoint",
        why="their order is that of the matrix that the model was pretrained on",
        fix="pass genes= with a list of names in that order",
        misfit_fix="pass one unique name for every input, the appended token not among them",
    )
    classes = None
    if n_classes:
        classes = read_label_list(
            labels,
            n_classes,
            place="the checkpoint",
            why="they are the sorted cell types of the training data",
            fix="pass labels= with a list of names in that order",
            unlabeled_category=unlabeled_category,
        )
    rule = InputRule(input_kind="counts", size_factor="model_genes", target_sum=1e4)
    registry = registry_from_parts(cls, features, classes, rule)
    model = cls(registry=registry, preset="paper", gene_embedding="table", **sizes)
    # In the original the appended token is attended to; the keys' stabiliser is that of its
    # prediction, which reads one cell at a time.
    whole = {**model.module.config, "attend_appended": True, "stabilizer": "cell"}
    core = SCBERTCore.from_config(whole)
    state = core.state_dict()
    found = {k: v for k, v in weights.state.items() if k in state}
    spared = {*_OF_OURS, *(() if "encoder.to_tokens.bias" in found else _TO_TOKENS)}
    if gene_table is not None and _GENES not in found:
        core.encoder.genes.set_genes(vectors_for(features, read_vectors(gene_table)))
        spared.add(_GENES)
    missing = sorted(set(state) - set(found) - spared)
    foreign = sorted(set(weights.state) - set(state))
    if missing or foreign:
        why = f"missing {', '.join(missing[:3])}" if missing else f"{foreign[0]} is none of it"
        raise weights.mismatch(why)
    wrong = [k for k, v in found.items() if v.shape != state[k].shape]
    if wrong:
        shapes = tuple(found[wrong[0]].shape), tuple(state[wrong[0]].shape)
        why = f"{wrong[0]} has shape {shapes[0]}, and not {shapes[1]}"
        raise weights.mismatch(why)
    core.load_state_dict({**core.state_dict(), **found})
    if "encoder.to_tokens.bias" in found:
        core.encoder.n_asked.fill_(1)
    model.module = core.eval()
    model.is_trained_ = True
    model.history_ = {}
    model.fit_ = {"source": "reference checkpoint", **weights.facts}
    return model
