"""What of a live model goes into its folder, and back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from episome.inference import CONFIDENCE_PREFIX, IMPORTANCE, INDEX_PREFIX
from episome.io import ModelFolder, encode, provenance, version_of
from episome.models._card import CardFacts, card_text
from episome.models._parts import parts_of

if TYPE_CHECKING:
    from episome.data import Labels
    from episome.models._base import EpisomeModel

_PARTS = ("train", "validation", "test", "calibration")


def model_folder(model: EpisomeModel) -> ModelFolder:
    """Collect the parts of a trained model's folder."""
    tensors, files = model.module.state()
    features, labels = model.features, model.labels
    sure, confidence = model.confidence_.to_parts()
    more_tensors, more_facts = model._more_parts()
    manifest = {
        "model": model_identity(type(model)),
        "core": encode(model.module.config),
        "init_params": encode(_plain_init(model)),
        "registry": encode(_plain_registry(model)),
        "input": model.input_rule.to_json(),
        "genes_sha256": features.digest,
        "unlabeled": labels.unlabeled if labels else None,
        "ontology": None if labels is None else _ontology(model, labels),
        "fit": encode(model.fit_),
        "confidence": encode(confidence),
        "provenance": provenance(),
        **{k: encode(v) for k, v in more_facts.items()},
    }
    if parts := parts_of(model.module):
        manifest["parts"] = encode(parts)
    if organisms := model.input_rule.organisms:
        manifest["organisms"] = list(organisms)
    table = {} if labels is None else {"label": labels.names, "ontology_term_id": labels.term_ids}
    genes = {"id": features.ids, **features.other}
    return ModelFolder(
        manifest=manifest,
        tensors={
            **tensors,
            **_index_tensors(model),
            **_weights_of_genes(model),
            **{f"{CONFIDENCE_PREFIX}{k}": v for k, v in sure.items()},
            **more_tensors,
        },
        genes=genes,
        labels=table,
        history=_history_columns(model.history_),
        files=files,
        card=card_text(CardFacts(manifest, genes, table)),
    )


def _ontology(model: EpisomeModel, labels: Labels) -> dict[str, object]:
    own = model.setup_args.get("own_terms") or {}
    return {"name": "CL", "release": labels.ontology_release, "own_terms": encode(own)}


def model_identity(cls: type[EpisomeModel]) -> dict[str, object]:
    """Class, spec name, plugin and its version."""
    spec = cls.spec()
    identity: dict[str, object] = {"class": cls.__name__, "spec": None, "plugin": None}
    if spec is not None:
        distribution = cls.__module__.split(".")[0].replace("_", "-")
        identity |= {"spec": spec.name, "plugin": spec.plugin, "distribution": distribution}
        identity["version"] = version_of(distribution)
    return identity


def _plain_init(model: EpisomeModel) -> dict[str, object]:
    params = model.init_params_
    plain = dict(params["non_kwargs"])
    for extra in params["kwargs"].values():
        plain |= extra
    return plain


def _plain_registry(model: EpisomeModel) -> dict[str, object]:
    """Return the registry without the identifiers of one run's objects."""
    return {k: _unpacked(v) for k, v in model.registry.items() if k != "_scvi_uuid"}


def _unpacked(value: object) -> object:
    if hasattr(value, "items"):
        return {str(k): _unpacked(v) for k, v in value.items()}
    return value


def _index_tensors(model: EpisomeModel) -> dict[str, np.ndarray]:
    rows = {p: getattr(model, f"{p}_indices_", None) for p in _PARTS}
    return {
        f"{INDEX_PREFIX}{p}": np.asarray(r, dtype=np.int64)
        for p, r in rows.items()
        if r is not None
    }


def _weights_of_genes(model: EpisomeModel) -> dict[str, np.ndarray]:
    return {} if model.gene_weights_ is None else {IMPORTANCE: model.gene_weights_}


def saved_indices(folder: ModelFolder) -> dict[str, np.ndarray]:
    """Row numbers of training, validation and test cells."""
    return {
        k.removeprefix(INDEX_PREFIX): v
        for k, v in folder.tensors.items()
        if k.startswith(INDEX_PREFIX)
    }


def _history_columns(history: dict[str, pd.DataFrame] | None) -> dict[str, list[float]]:
    if not history:
        return {}
    table = pd.concat(history.values(), axis=1)
    return {"epoch": list(table.index), **{c: table[c].tolist() for c in table.columns}}


def saved_history(folder: ModelFolder) -> dict[str, pd.DataFrame] | None:
    """History as scvi-tools holds it: one single-column float frame per metric."""
    columns = dict(folder.history)
    if not columns:
        return None
    epochs = pd.Index([int(e) for e in columns.pop("epoch")], name="epoch")
    return {k: pd.DataFrame({k: np.asarray(v, float)}, index=epochs) for k, v in columns.items()}
