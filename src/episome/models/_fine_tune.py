"""Further training of a classifier on new cells and classes."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from episome import settings
from episome.data import (
    Labels,
    cells_name,
    check_classes,
    class_terms,
    clean_labels,
    combined_column,
    definite_donors,
    labels_with_terms,
    obs_column,
    organisms_of,
    split_cells,
    term_column,
)
from episome.models._fields import ExpressionField, LabelsField

if TYPE_CHECKING:
    from anndata import AnnData

    from episome.data import CellSource
    from episome.models._classifier import ClassifierModel
    from episome.nn import TorchCore


def fine_tuned(
    model: ClassifierModel,
    adata: AnnData,
    labels_key: str,
    *,
    donor_key: str | list[str] | None,
    query: Mapping[str, Any],
    train_kwargs: Mapping[str, Any],
) -> ClassifierModel:
    """See ``ClassifierModel.fine_tune``."""
    labels = model.labels
    values = clean_labels(
        obs_column(adata, labels_key), unlabeled_category=labels.unlabeled, unlabeled="keep"
    )
    found = check_classes(values, labels.unlabeled, f"{cells_name(adata)}.obs[{labels_key!r}]")
    own_terms = model.setup_args.get("own_terms")
    merged = _merged_labels(labels, values, found, adata, labels_key, own_terms)
    new = _clone(model, merged)
    codes = merged.codes(values)
    codes = np.where(codes >= len(merged), -1, codes)
    donors = None if donor_key is None else definite_donors(combined_column(adata, donor_key))
    args = dict(train_kwargs)
    split = split_cells(
        codes,
        donors=donors,
        train_size=args.pop("train_size", None),
        validation_size=args.pop("validation_size", None),
    )
    batch_size = int(args.pop("batch_size", None) or new._training_defaults()["batch_size"])
    cells = new.prepare(adata, **query)
    _add_organisms(new, cells.source)
    data = new._cells_for(cells, split, batch_size, codes=codes, donors=donors)
    plan = dict(args.pop("plan_kwargs", None) or {})
    # Old classes may be absent from the new cells: their balanced weight would be infinite.
    plan.setdefault("class_weight", None if len(found) < len(merged) else "balanced")
    new.train(datamodule=data, plan_kwargs=plan, **args)
    return new


def _merged_labels(
    labels: Labels,
    values: np.ndarray,
    found: list[str],
    adata: AnnData,
    labels_key: str,
    own_terms: Mapping[str, Any] | None,
) -> Labels:
    fresh = [c for c in found if c not in set(labels.names)]
    given = (*labels.term_ids, *class_terms(values, term_column(adata, labels_key), fresh))
    return labels_with_terms(
        (*labels.names, *fresh), given, unlabeled=labels.unlabeled, own_terms=own_terms
    )


def _clone(model: ClassifierModel, labels: Labels) -> ClassifierModel:
    registry = copy.deepcopy({k: v for k, v in model.registry.items() if k != "_scvi_uuid"})
    entry = registry["field_registries"]["labels"]
    state = entry["state_registry"]
    state[LabelsField.CATEGORICAL_MAPPING_KEY] = np.array(
        [*labels.names, labels.unlabeled], dtype=object
    )
    state[LabelsField.TERMS_KEY] = np.array(labels.term_ids, dtype=object)
    state[LabelsField.RELEASE_KEY] = labels.ontology_release
    entry["summary_stats"]["n_labels"] = len(labels) + 1
    params = model.init_params_
    new = type(model)(registry=registry, **params["non_kwargs"])
    new.module = grown_core(model.module, len(labels))
    new.is_trained_ = True
    return new


def _add_organisms(model: ClassifierModel, source: CellSource) -> None:
    """Record of which organisms the new cells are, beside those of a model that says so."""
    state = model.registry["field_registries"]["X"]["state_registry"]
    known, found = model.input_rule.organisms, organisms_of(source)
    if known and found is not None:
        state[ExpressionField.ORGANISMS_KEY] = list(dict.fromkeys([*known, *found.names]))


def grown_core(core: TorchCore, n_classes: int) -> TorchCore:
    """Copy a core and widen its head; the first rows keep their weights."""
    config: dict[str, Any] = core.config
    old = int(config["n_classes"])
    if n_classes == old:
        return copy.deepcopy(core)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.stream_seed("init"))
        grown = type(core).from_config({**config, "n_classes": n_classes})
    state = grown.state_dict()
    for name, tensor in core.state_dict().items():
        if state[name].shape == tensor.shape:
            state[name] = tensor.clone()
        else:
            state[name] = state[name].clone()
            state[name][tuple(slice(0, n) for n in tensor.shape)] = tensor
    grown.load_state_dict(state)
    return grown
