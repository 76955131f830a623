"""What of a model folder the predictor needs: core, genes, classes, weights of genes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from episome.confidence import Confidence
from episome.data import FeatureSpace, GeneImportance, InputRule, Labels
from episome.errors import ModelFileError, PluginError
from episome.io import decode

if TYPE_CHECKING:
    from episome.inference._cores import Core
    from episome.io import ModelFolder
    from episome.plugins import ModelSpec

#: Tensors of a folder that are the host's own, and not the core's.
INDEX_PREFIX = "_indices/"
IMPORTANCE = "_gene_importance"
CONFIDENCE_PREFIX = "_confidence/"
#: Of the modality that a model predicts.
TARGET_PREFIX = "_target/"


def core_from_folder(folder: ModelFolder, core_cls: type[Core] | None = None) -> Core:
    """Build and fill the core of a folder.

    Raises
    ------
    PluginError
        The plugin that wrote the folder is not installed (E-P01).
    ModelFileError
        The configuration or the weights do not fit (E-M06), or the number of genes (E-M13).
    """
    if core_cls is None:
        from episome import plugins

        found = plugins.load_core(folder_spec(folder.manifest["model"]))
        core_cls = cast("type[Core]", found)
    tensors = {k: v for k, v in folder.tensors.items() if not _is_of_the_host(k)}
    try:
        core = core_cls.from_config(folder.manifest["core"])
        _require_genes(core, folder)
        core.load_state(tensors, folder.files)
    except ModelFileError:
        raise
    except (TypeError, ValueError, KeyError) as error:
        raise ModelFileError(
            "E-M06",
            "the configuration does not fit the model class",
            where="manifest.json",
            why=str(error)[:200],
            fix="install the version of the plugin that wrote it",
        ) from error
    return core


def _require_genes(core: Core, folder: ModelFolder) -> None:
    width, n_genes = core.config.get("n_features"), len(folder.genes.get("id", ()))
    if width is not None and width != n_genes:
        raise ModelFileError(
            "E-M13",
            f"{n_genes} genes and {width} model inputs",
            where="genes.tsv",
            why="values would enter as other genes",
            fix="copy the folder again",
        )


def _is_of_the_host(tensor: str) -> bool:
    """Whether a tensor of a folder is the host's own, and not the core's."""
    prefixes = (INDEX_PREFIX, CONFIDENCE_PREFIX, TARGET_PREFIX)
    return tensor.startswith(prefixes) or tensor == IMPORTANCE


def folder_spec(model: Mapping[str, Any]) -> ModelSpec:
    """Return what the installed plugins say about the ``"model"`` entry of a manifest.

    Raises
    ------
    PluginError
        The plugin that wrote the folder is not installed, or there was none (E-P01).
    """
    from episome import plugins

    if model.get("plugin") is None:
        raise PluginError(
            "E-P01",
            f"no plugin registers {model['class']}",
            why="only its own class can load it",
            fix=f"{model['class']}.load(folder), or pass core_cls=",
        )
    qualified = f"{model['plugin']}:{model['spec']}"
    try:
        return plugins.get_spec(qualified)
    except PluginError as error:
        raise PluginError(
            "E-P01",
            f"the plugin {model['plugin']!r} that wrote the model is not available",
            why=str(error.problems[0].what),
            fix=f"pip install {model.get('distribution') or 'episome-' + str(model['plugin'])}",
        ) from error


def folder_features(folder: ModelFolder) -> FeatureSpace:
    """Genes of a saved model."""
    columns = {name: tuple(values) for name, values in folder.genes.items()}
    return FeatureSpace(columns.pop("id"), columns)


def folder_rule(folder: ModelFolder) -> InputRule:
    """Input rule of a saved model; folders of before name no organisms."""
    organisms = tuple(map(str, folder.manifest.get("organisms", ())))
    return InputRule(**folder.manifest["input"], organisms=organisms)


def folder_importance(folder: ModelFolder) -> GeneImportance | None:
    """How much the calls of a saved model rest on every gene, or ``None``.

    Raises
    ------
    ModelFileError
        The table does not fit genes and classes (E-M06).
    """
    labels = folder_labels(folder)
    if IMPORTANCE not in folder.tensors or labels is None:
        return None
    found = GeneImportance(np.asarray(folder.tensors[IMPORTANCE]), labels.names)
    return found.require_shape(len(labels), len(folder.genes["id"]))


def folder_confidence(
    tensors: Mapping[str, Any], manifest: Mapping[str, Any], folder: ModelFolder
) -> Confidence:
    """Confidence of a saved model, or of an ensemble with these members' classes.

    Parameters
    ----------
    tensors, manifest
        Of the folder that was calibrated.
    folder
        A folder with the classes.

    Raises
    ------
    ModelFileError
        It does not fit the classes (E-M06).
    """
    labels = folder_labels(folder)
    own = {
        k.removeprefix(CONFIDENCE_PREFIX): np.asarray(v)
        for k, v in tensors.items()
        if k.startswith(CONFIDENCE_PREFIX)
    }
    n_classes = 0 if labels is None else len(labels)
    return Confidence.from_parts(own, manifest.get("confidence") or {}, n_classes=n_classes)


def folder_labels(folder: ModelFolder) -> Labels | None:
    """Classes of a saved model, or ``None``.

    Raises
    ------
    ModelFileError
        The number of classes differs from the width of the head (E-M13).
    """
    if not folder.labels.get("label"):
        return None
    names = tuple(folder.labels["label"])
    width = folder.manifest["core"].get("n_classes", len(names))
    if len(set(names)) != len(names) or width != len(names):
        raise ModelFileError(
            "E-M13",
            f"{len(names)} labels ({len(set(names))} different) and {width} model outputs",
            where="labels.tsv",
            why="calls would carry wrong names",
            fix="copy the folder again",
        )
    ontology = folder.manifest.get("ontology") or {}
    return Labels(
        names,
        tuple(folder.labels["ontology_term_id"]),
        str(folder.manifest["unlabeled"]),
        str(ontology.get("release", "")),
        decode(ontology.get("own_terms") or {}),
    )
