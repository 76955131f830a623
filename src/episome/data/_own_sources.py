"""Paths and addresses that are read by a source of their own, and not as an AnnData object."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from episome import plugins
from episome.data._corpus_source import CorpusSource
from episome.data._read_kind import is_soma, registered_source
from episome.data._soma import SomaSource
from episome.data._source import CellSource
from episome.errors import EpisomeError, PluginError, UsageError
from episome.io import is_corpus

if TYPE_CHECKING:
    from episome.plugins import SourceSpec


def has_own_source(path: str | Path) -> bool:
    """Whether the cells of a path are read where they are, whatever is asked for.

    Parameters
    ----------
    path
        A corpus, a SOMA experiment, or what a plugin reads; anything else is none of these.

    Examples
    --------
    >>> has_own_source("no-such-folder")
    False
    """
    return registered_source(path) is not None or is_corpus(path) or is_soma(path)


def own_source(
    path: str | Path,
    *,
    layer: str | None = None,
    use_raw: bool | Literal["auto"] = False,
) -> CellSource | None:
    """Return the source of a corpus, a SOMA experiment or what a plugin reads.

    Parameters
    ----------
    path
        Path or address.
    layer
        Layer of an experiment, default ``"raw"``; nothing else has some.
    use_raw
        None of these has ``raw``; ``"auto"`` looks for it in vain.

    Returns
    -------
    The source; ``None`` for anything else.

    Raises
    ------
    UsageError
        A place of values is named that there is not (E-U27).
    PluginError
        The source of a plugin cannot be made (E-P02) or is none (E-P06), or two plugins read the
        path (E-P03).
    """
    if (spec := registered_source(path)) is not None:
        what = f"what {spec.plugin} reads"
        refuse_place(what, "its address says which values are read", layer=layer, use_raw=use_raw)
        return _of_plugin(spec, str(path))
    if is_corpus(path):
        why = "a corpus holds counts, and nothing beside them"
        refuse_place("a corpus", why, layer=layer, use_raw=use_raw)
        return CorpusSource(path)
    if is_soma(path):
        why = "an experiment has layers, and no raw"
        refuse_place("a SOMA experiment", why, layer=None, use_raw=use_raw)
        return SomaSource(path) if layer is None else SomaSource(path, layer=layer)
    return None


def refuse_place(
    what: str, why: str, *, layer: str | None, use_raw: bool | Literal["auto"]
) -> None:
    """Refuse a place of values that there is not.

    Raises
    ------
    UsageError
        E-U27.
    """
    if layer is not None or use_raw is True:
        raise UsageError(
            "E-U27",
            f"`{'layer' if layer is not None else 'use_raw'}` is given for {what}",
            why=why,
            fix="leave it out; `episome corpus build --layer` chooses what goes into a corpus",
        )


def _of_plugin(spec: SourceSpec, address: str) -> CellSource:
    make = plugins.load_object(spec.target, plugin=spec.plugin)
    try:
        source: object = make(address)
    except EpisomeError:
        raise
    except Exception as error:
        raise PluginError(
            "E-P02",
            f"{spec.target} cannot open {address!r}",
            where=f"plugin {spec.plugin}",
            why=f"{type(error).__name__}: {error}",
            fix="look whether the address is right, or tell the authors of the plugin",
        ) from error
    if not isinstance(source, CellSource):
        raise PluginError(
            "E-P06",
            f"{spec.target} returned a {type(source).__name__}, and no CellSource",
            where=f"plugin {spec.plugin}",
            why="a source has n_obs, n_vars, obs_names, var, where, obs_column and read",
            fix="tell the authors of the plugin",
        )
    return source
