"""Plugins: how methods, data sets, metrics and commands become part of the host.

A plugin names its light module in the entry-point group ``episome``, sets ``EPISOME_API`` there,
and implements hooks with :data:`hookimpl` that return specs. Nothing heavy is imported until an
object is used.
"""

from __future__ import annotations

from episome.plugins._discovery import SLOW_IMPORT
from episome.plugins._hookspecs import hookimpl
from episome.plugins._manager import (
    API_VERSION,
    PluginManager,
    PluginStatus,
    add_commands,
    after_evaluate,
    after_train,
    before_train,
    converters,
    datasets,
    get_manager,
    get_spec,
    load_class,
    load_core,
    load_object,
    metrics,
    models,
    plugin_status,
    pretext_tasks,
    reset_manager,
    sources,
    spec_of_class,
    studies,
    tasks,
)
from episome.plugins._specs import (
    ConverterSpec,
    DatasetSpec,
    MetricSpec,
    ModelSpec,
    PretextSpec,
    SourceSpec,
    StudySpec,
    TaskSpec,
)

__all__ = [
    "API_VERSION",
    "ConverterSpec",
    "DatasetSpec",
    "MetricSpec",
    "ModelSpec",
    "PluginManager",
    "PluginStatus",
    "PretextSpec",
    "SLOW_IMPORT",
    "SourceSpec",
    "StudySpec",
    "TaskSpec",
    "add_commands",
    "after_evaluate",
    "after_train",
    "before_train",
    "converters",
    "datasets",
    "get_manager",
    "get_spec",
    "hookimpl",
    "load_class",
    "load_core",
    "load_object",
    "metrics",
    "models",
    "plugin_status",
    "pretext_tasks",
    "reset_manager",
    "sources",
    "spec_of_class",
    "studies",
    "tasks",
]
