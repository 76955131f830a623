"""Files of the celltypist package: pickles, opened only where the caller trusts them."""

from __future__ import annotations

import pickle
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from episome.data import FeatureSpace, InputRule, labels_with_terms
from episome.errors import InputFileError, ModelFileError, ModelMismatchError, UntrustedModelError
from episome.models import registry_from_parts
from episome_baselines.celltypist_fit import _of_every_class

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from episome_baselines.celltypist_model import CellTypist

#: The package wants all genes of the data in the sum of a cell.
RULE = InputRule(input_kind="counts", size_factor="all_genes", target_sum=1e4)


def import_file(
    cls: type[CellTypist], path: str | Path, *, trust: bool, unlabeled_category: str
) -> CellTypist:
    """See ``CellTypist.from_file``."""
    path = Path(path)
    if not path.is_file():
        what = "the path is a folder" if path.is_dir() else "there is no such file"
        raise InputFileError("E-F07", what, where=str(path), fix="pass the file of the model")
    if not trust:
        raise UntrustedModelError(
            "E-M36",
            "the file is a pickle",
            where=path.name,
            why="opening it runs whatever code is in it; nothing of it was opened",
            fix="pass trust=True if you know who made it",
        )
    classifier, scaler, description = _unpickled(path)
    names, arrays = _arrays(classifier, scaler, path.name)
    classes = [str(c) for c in classifier.classes_]
    if len(set(classes) - {unlabeled_category}) != len(classes) or len(classes) < 2:
        raise _no_model(path.name, f"its classes are {', '.join(classes)[:100]}")
    labels = labels_with_terms(classes, [""] * len(classes), unlabeled=unlabeled_category)
    registry = registry_from_parts(cls, FeatureSpace(tuple(names)), labels, RULE)
    model = cls(registry=registry)
    model.module.fill(**arrays)
    model.is_trained_ = True
    model.history_ = {}
    model.fit_ = {"source": "celltypist file", "file": path.name, **description}
    return model


def _unpickled(path: Path) -> tuple[Any, Any, dict[str, str]]:
    """Open a pickle that the caller trusts."""
    try:
        with path.open("rb") as handle, warnings.catch_warnings():
            # Published files were written by older scikit-learn; only plain arrays are read off.
            warnings.simplefilter("ignore")
            held = pickle.load(handle)
    except (pickle.UnpicklingError, EOFError, AttributeError, ImportError, ValueError) as error:
        raise ModelFileError(
            "E-M31",
            "the file cannot be read",
            where=path.name,
            why=str(error)[:200],
            fix="pass a file that celltypist's Model.write wrote",
        ) from error
    if not isinstance(held, dict) or not {"Model", "Scaler_"} <= set(held):
        raise _no_model(path.name, "it is no dictionary of a model and a scaler")
    told = {k: str(v) for k, v in dict(held.get("description") or {}).items() if str(v)}
    return held["Model"], held["Scaler_"], told


def _arrays(
    classifier: Any, scaler: Any, where: str
) -> tuple[list[str], dict[str, NDArray[np.generic]]]:
    """Return the genes of a model and the arrays of its core, checked for their shapes."""
    try:
        names = [str(g) for g in classifier.features]
        coefficients, intercept = _of_every_class(
            np.asarray(classifier.coef_, dtype=np.float64),
            np.asarray(classifier.intercept_, dtype=np.float64).reshape(-1),
        )
        n_genes, n_classes = len(names), len(classifier.classes_)
        mean = scaler.mean_ if scaler.with_mean else np.zeros(n_genes)
        arrays: dict[str, NDArray[np.generic]] = {
            "genes": np.arange(n_genes, dtype=np.int64),
            "mean": np.asarray(mean, dtype=np.float64),
            "scale": np.asarray(scaler.scale_, dtype=np.float64),
            "coefficients": coefficients,
            "intercept": intercept,
        }
    except (AttributeError, TypeError, ValueError) as error:
        raise _no_model(where, str(error)[:200]) from error
    shapes = arrays["mean"].shape, arrays["scale"].shape, coefficients.shape, intercept.shape
    if shapes != ((n_genes,), (n_genes,), (n_classes, n_genes), (n_classes,)):
        raise _no_model(where, f"its arrays have the shapes {', '.join(map(str, shapes))}")
    if len(set(names)) != n_genes:
        raise _no_model(where, "genes are named twice")
    if not all(np.isfinite(a).all() for a in arrays.values()):
        raise _no_model(where, "weights are not finite")
    return names, arrays


def _no_model(where: str, why: str) -> ModelMismatchError:
    return ModelMismatchError(
        "E-M34",
        "the file holds no model of celltypist",
        where=where,
        why=why,
        fix="pass a file that celltypist's Model.write wrote",
    )
