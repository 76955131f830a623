"""What a plugin registers: small frozen records that name their objects by strings."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

__all__ = [
    "ConverterSpec",
    "DatasetSpec",
    "MetricSpec",
    "ModelSpec",
    "PretextSpec",
    "SourceSpec",
    "Spec",
    "StudySpec",
    "TaskSpec",
]

_NAME = re.compile(r"[a-z0-9]+([-_.][a-z0-9]+)*")
_TARGET = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


def _check(spec: Spec, *targets: str) -> None:
    """Raise ValueError for a name or target of the wrong form."""
    if not isinstance(spec.name, str) or not _NAME.fullmatch(spec.name):
        msg = f"the name {spec.name!r} is not lower-case letters, digits and single hyphens"
        raise ValueError(msg)
    for target in targets:
        if not isinstance(target, str) or not _TARGET.fullmatch(target):
            msg = f"the target {target!r} of {spec.name!r} has not the form 'package.module:Name'"
            raise ValueError(msg)


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A model that a plugin offers.

    Parameters
    ----------
    name
        Spec name, unique and lower case, used on the command line and in folders.
    target
        The class, ``"package.module:Class"``; imported on first use.
    core
        What predicts, ``"package.module:Core"``.
    summary
        One line for listings.
    reference
        DOI of the paper.
    capabilities
        Of ``annotation``, ``embedding``, ``reconstruction``, ``translation``, ``explanation``,
        ``pretraining``.
    modalities
        Of ``rna``, ``protein``, ``atac``.
    tags
        How the host chooses without naming a method: ``demo``, ``floor`` (in every benchmark;
        ``floor-TASK``: in those of one task), ``student``, ``probe``
        (learns from any dense vectors: what ``embedding:KEY`` stands for), ``unlabelled`` (an
        annotator that can do without labels, so that nobody is asked for them).
    needs
        What prediction needs beyond torch, such as ``("scvi",)``.
    plugin, distribution, version
        Filled in by the manager.
    obsm_key
        Array of ``obsm`` that a model named ``embedding:KEY`` reads; filled in by the manager.
    """

    name: str
    target: str
    core: str
    summary: str = ""
    reference: str = ""
    capabilities: tuple[str, ...] = ("annotation",)
    modalities: tuple[str, ...] = ("rna",)
    tags: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    plugin: str = ""
    distribution: str = ""
    version: str = ""
    obsm_key: str = ""

    def __post_init__(self) -> None:
        _check(self, self.target, self.core)

    @property
    def class_name(self) -> str:
        """Name of the class, such as ``"SCTab"``."""
        return self.target.rpartition(":")[2]

    @property
    def qualified_name(self) -> str:
        """The name that always works, such as ``"sctab:SCTab"``."""
        return f"{self.plugin}:{self.class_name}"


@dataclass(frozen=True, slots=True)
class DatasetSpec:
    """A data set that can be loaded by name.

    Parameters
    ----------
    name
        Name of the data set.
    target
        The loader, ``"package.module:function"``.
    kind
        ``anndata``, ``mudata`` or ``source``.
    summary, licence, url
        For listings.
    sha256, size
        Checksum and bytes of the download.
    columns
        Which columns hold labels, donors and so on.
    plugin, distribution, version
        Filled in by the manager.
    """

    name: str
    target: str
    kind: str = "anndata"
    summary: str = ""
    licence: str = ""
    url: str = ""
    sha256: str = ""
    size: int = 0
    columns: Mapping[str, str] = field(default_factory=dict)
    plugin: str = ""
    distribution: str = ""
    version: str = ""

    def __post_init__(self) -> None:
        _check(self, self.target)


@dataclass(frozen=True, slots=True)
class MetricSpec:
    """A metric: ``"package.module:function"``, the task it belongs to, and its direction.

    Parameters
    ----------
    name, target, task, summary
        Name, function, name of the task, one line.
    higher_is_better
        Direction of the metric.
    needs
        Inputs beyond predictions: ``labels``, ``ontology``, ``embedding``, ``probabilities``.
    plugin, distribution, version
        Filled in by the manager.
    """

    name: str
    target: str
    task: str = "annotation"
    summary: str = ""
    higher_is_better: bool = True
    needs: tuple[str, ...] = ("labels",)
    plugin: str = ""
    distribution: str = ""
    version: str = ""

    def __post_init__(self) -> None:
        _check(self, self.target)


@dataclass(frozen=True, slots=True)
class TaskSpec:
    """A benchmark task: what is asked of a model and which capability answers it.

    Parameters
    ----------
    name, target, summary
        Name, the runner ``"package.module:Class"``, a subclass of ``episome.benchmark.Task``, one
        line.
    capability
        The capability that a model needs.
    metrics
        Names of the metrics that are computed.
    plugin, distribution, version
        Filled in by the manager.
    """

    name: str
    target: str
    summary: str = ""
    capability: str = "annotation"
    metrics: tuple[str, ...] = ()
    plugin: str = ""
    distribution: str = ""
    version: str = ""

    def __post_init__(self) -> None:
        _check(self, self.target)


@dataclass(frozen=True, slots=True)
class StudySpec:
    """A study: a task on given data and splits, such as the one of a paper.

    Parameters
    ----------
    name, target, summary, reference
        Name, the definition ``"package.module:function"``, which takes a scale (``"tiny"``,
        ``"small"``, ``"full"``) and returns an ``episome.benchmark.Study``, one line, DOI.
    tasks, datasets, models
        Names of what it runs.
    plugin, distribution, version
        Filled in by the manager.
    """

    name: str
    target: str
    summary: str = ""
    reference: str = ""
    tasks: tuple[str, ...] = ()
    datasets: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    plugin: str = ""
    distribution: str = ""
    version: str = ""

    def __post_init__(self) -> None:
        _check(self, self.target)


@dataclass(frozen=True, slots=True)
class PretextSpec:
    """A self-supervised task that any encoder can be trained on.

    Parameters
    ----------
    name, target, summary, reference
        Name, the task ``"package.module:Class"``, one line, DOI.
    plugin, distribution, version
        Filled in by the manager.
    """

    name: str
    target: str
    summary: str = ""
    reference: str = ""
    plugin: str = ""
    distribution: str = ""
    version: str = ""

    def __post_init__(self) -> None:
        _check(self, self.target)


@dataclass(frozen=True, slots=True)
class SourceSpec:
    """A way to read cells that the host does not know.

    Parameters
    ----------
    name, target, summary
        Name, what makes the source ``"package.module:Class"``, one line. The target is called with
        the address or path, a text, and returns a ``CellSource``.
    schemes, suffixes
        Beginnings of addresses (``"lab:"``, two letters at least) and endings of names
        (``".lab"``) that it reads. What the host reads by itself, such as ``".h5ad"``, stays with
        it.
    plugin, distribution, version
        Filled in by the manager.
    """

    name: str
    target: str
    summary: str = ""
    schemes: tuple[str, ...] = ()
    suffixes: tuple[str, ...] = ()
    plugin: str = ""
    distribution: str = ""
    version: str = ""

    def __post_init__(self) -> None:
        _check(self, self.target)


@dataclass(frozen=True, slots=True)
class ConverterSpec:
    """A way between the files of other programs and model folders: `episome models convert`.

    Parameters
    ----------
    name, target, summary
        Name of the format, ``"package.module:function"``, one line.
    direction
        ``import``: the target takes the path of the file or folder and returns a model.
        ``export``: it takes a model and the path, and writes there. Its other parameters are what
        the command may give: ``genes``, ``labels`` (paths), ``trust``, ``adata``, and those of
        ``--set``.
    plugin, distribution, version
        Filled in by the manager.
    """

    name: str
    target: str
    summary: str = ""
    direction: Literal["import", "export"] = "import"
    plugin: str = ""
    distribution: str = ""
    version: str = ""

    def __post_init__(self) -> None:
        _check(self, self.target)


Spec: TypeAlias = (
    ModelSpec
    | DatasetSpec
    | MetricSpec
    | TaskSpec
    | StudySpec
    | PretextSpec
    | SourceSpec
    | ConverterSpec
)
