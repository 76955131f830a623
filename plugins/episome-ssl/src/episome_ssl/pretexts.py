"""Pretext tasks by their registered names, built for the genes of a model."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from episome import plugins
from episome.data import GeneProgrammes
from episome.errors import UsageError, did_you_mean
from episome.log import get_logger
from episome.nn import PretextSetting, PretextTask

if TYPE_CHECKING:
    from episome.data import FeatureSpace, Programmes

logger = get_logger(__name__)


def task_class(name: str) -> type[PretextTask]:
    """Return the class of a registered pretext task.

    Parameters
    ----------
    name
        Of the task.

    Raises
    ------
    UsageError
        No plugin registers it (E-U108).
    """
    known = plugins.pretext_tasks()
    if name not in known:
        raise UsageError(
            "E-U108",
            f"there is no pretext task {name!r}",
            where="pretext",
            fix=did_you_mean(str(name), known) or f"use one of {', '.join(sorted(known))}",
        )
    spec = known[name]
    return cast("type[PretextTask]", plugins.load_object(spec.target, plugin=spec.plugin))


def build_task(
    name: str,
    features: FeatureSpace,
    n_latent: int,
    *,
    options: Mapping[str, Any],
    programmes: Programmes | None,
) -> PretextTask:
    """Build a pretext task for the genes of a model.

    Parameters
    ----------
    name
        Of the task.
    features
        Genes of the model.
    n_latent
        Width of the embedding.
    options
        Of the task.
    programmes
        Gene programmes, for the tasks that need some.

    Raises
    ------
    UsageError
        There is no such task (E-U108), it needs programmes (E-U109), or it cannot be built with
        these options (E-U31).
    GeneMatchError
        No programme has enough genes of the model (E-G29).
    """
    cls = task_class(name)
    if cls.needs_programmes and programmes is None:
        raise UsageError(
            "E-U109",
            f"the pretext task {name!r} needs gene programmes",
            where="programmes",
            why="none come with the package: MSigDB and others have licences of their own",
            fix='programmes="sets.gmt", the path of a GMT file, or {name: [genes]}',
        )
    if programmes is not None and not cls.needs_programmes:
        raise UsageError(
            "E-U109",
            f"the pretext task {name!r} reads no gene programmes",
            where="programmes",
            fix='leave them out, or take pretext="programme_mask"',
        )
    setting = PretextSetting(len(features), n_latent, genes=tuple(features.ids))
    if programmes is not None and cls.needs_programmes:
        found = GeneProgrammes.of(programmes).matched(features)
        logger.info("%s", found.text)
        setting = PretextSetting(
            len(features), n_latent, tuple(features.ids), found.columns, found.targets
        )
    try:
        return cls.build(setting, **options)
    except (TypeError, ValueError) as error:
        raise UsageError(
            "E-U31",
            f"the pretext task {name!r} cannot be built with {dict(options)}",
            why=str(error),
            fix=f"its options are {', '.join(_options_of(cls)) or 'none'}",
        ) from error


def _options_of(cls: type[PretextTask]) -> list[str]:
    """Names of the options of a task, those of its bases too."""
    found: dict[str, None] = {}
    for base in cls.__mro__:
        parameters = inspect.signature(base.__init__).parameters.values()
        found |= {p.name: None for p in parameters if p.kind is p.KEYWORD_ONLY}
        if base is PretextTask or not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break
    return list(found)
