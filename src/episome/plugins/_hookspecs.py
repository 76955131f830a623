"""The hooks a plugin may implement; all of them collect, none wins.

A new argument is added at the end: pluggy lets an implementation ask for fewer.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
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

PROJECT = "episome"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def episome_register_models() -> Iterable[ModelSpec]:
    """Return the models of the plugin."""
    return ()


@hookspec
def episome_register_datasets() -> Iterable[DatasetSpec]:
    """Return the data sets of the plugin."""
    return ()


@hookspec
def episome_register_metrics() -> Iterable[MetricSpec]:
    """Return the metrics of the plugin."""
    return ()


@hookspec
def episome_register_tasks() -> Iterable[TaskSpec]:
    """Return the benchmark tasks of the plugin."""
    return ()


@hookspec
def episome_register_studies() -> Iterable[StudySpec]:
    """Return the studies of the plugin."""
    return ()


@hookspec
def episome_register_pretext_tasks() -> Iterable[PretextSpec]:
    """Return the self-supervised tasks of the plugin."""
    return ()


@hookspec
def episome_register_sources() -> Iterable[SourceSpec]:
    """Return the cell sources of the plugin."""
    return ()


@hookspec
def episome_register_converters() -> Iterable[ConverterSpec]:
    """Return the formats of other programs that the plugin reads or writes."""
    return ()


@hookspec
def episome_cli(app: object) -> None:
    """Add commands to the command line, a ``click.Group``.

    Called only when help is asked for or a command is unknown. The host's own commands stay.
    """


@hookspec
def episome_before_train(model: object, run: object) -> None:
    """Notice that training is about to start."""


@hookspec
def episome_after_train(model: object, run: object) -> None:
    """Notice that training has ended."""


@hookspec
def episome_after_evaluate(result: object) -> None:
    """Notice that an evaluation has ended."""
