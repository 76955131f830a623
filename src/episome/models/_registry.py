"""The registry of a model that never saw data, from its genes, classes and input rule."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import anndata
import numpy as np
from scipy import sparse
from scvi.data import AnnDataManager

from episome.errors import UsageError
from episome.models._fields import ExpressionField, LabelsField

if TYPE_CHECKING:
    from episome.data import FeatureSpace, InputRule, Labels
    from episome.models._annotation import AnnotationMixin
    from episome.models._base import EpisomeModel


def registry_from_parts(
    cls: type[EpisomeModel] | type[AnnotationMixin],
    features: FeatureSpace,
    labels: Labels | None,
    rule: InputRule,
    *,
    n_cells: int = 0,
    **setup_args: object,
) -> dict[str, Any]:
    """Return the registry that ``cls.setup_anndata`` would leave, without any data.

    ``cls(registry=registry)`` then builds the model; importers of foreign weights use it.

    Parameters
    ----------
    cls
        Class of the model.
    features
        Genes in the order of its inputs.
    labels
        Classes in the order of its outputs; ``None`` for models that do not annotate.
    rule
        What its input values are.
    n_cells
        Number of training cells, where it is known.
    **setup_args
        Arguments of ``cls.setup_anndata`` beside those that the parts say; ``labels_key`` is
        ``"cell_type"`` unless given.

    Returns
    -------
    Plain data and arrays, under scvi-tools' keys.

    Raises
    ------
    UsageError
        ``setup_anndata`` takes no such argument, or a part says it already (E-U24).
    """
    args = _setup_args(cls, labels, rule, setup_args)
    fields = [
        ExpressionField("X", args["layer"], use_raw=args["use_raw"], features=features, rule=rule),
    ]
    if labels is not None:
        fields.append(LabelsField("labels", args["labels_key"], labels.unlabeled, labels))
    manager = AnnDataManager(
        fields=fields,
        setup_method_args=cls._get_setup_method_args(cls=cls, adata=None, **args),
    )
    # The fields write what they were given; an object of no cells is all that the manager needs.
    manager.register_fields(anndata.AnnData(sparse.csr_matrix((0, 0), dtype=np.float32)))
    registry = {k: v for k, v in manager.registry.items() if k != "_scvi_uuid"}
    expression = registry["field_registries"]["X"]
    expression["state_registry"]["n_obs"] = expression["summary_stats"]["n_cells"] = n_cells
    return registry


def _setup_args(
    cls: type[EpisomeModel] | type[AnnotationMixin],
    labels: Labels | None,
    rule: InputRule,
    given: dict[str, object],
) -> dict[str, Any]:
    """Every argument of the set-up call: given, said by a part, or its default."""
    said: dict[str, object] = {"size_factor": rule.size_factor}
    if labels is not None:
        said["unlabeled_category"] = labels.unlabeled
    parameters = inspect.signature(cls.setup_anndata).parameters
    defaults = {
        name: p.default
        for name, p in parameters.items()
        if name != "adata" and p.kind is not p.VAR_KEYWORD
    }
    if unknown := sorted(given.keys() - (defaults.keys() - said.keys())):
        raise UsageError(
            "E-U24",
            f"unknown arguments {', '.join(unknown)}",
            where=f"the set-up of {cls.__name__}",
            why="setup_anndata does not take them, or the labels and the input rule say them",
            fix=f"use some of {', '.join(sorted(defaults.keys() - said.keys()))}",
        )
    usual = {} if labels is None else {"labels_key": "cell_type"}
    return {**defaults, **usual, **said, **given}
