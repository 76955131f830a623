"""`CensusSource`: cells of a query of the CELLxGENE Census."""

from __future__ import annotations

import re
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from episome import settings
from episome.data._read_names import first_line
from episome.data._soma import SomaSource
from episome.data._soma_open import require_tiledbsoma
from episome.errors import MissingDependencyError, RemoteError, UsageError

if TYPE_CHECKING:
    from tiledbsoma.options import SOMATileDBContext

_ADDRESS = re.compile(
    r"census:(?P<organism>[^@?]+)(@(?P<release>[^?]+))?(\?(?P<filter>.+))?", re.S
)


class CensusSource(SomaSource):
    """Cells of the CELLxGENE Census that meet a filter; read over the network, in blocks.

    A network that is trained for many epochs reads its cells as often. ``episome corpus build``
    reads them once and leaves them on disk. Where a path is taken,
    ``"census:homo_sapiens@2025-01-30?tissue_general == 'lung'"`` stands for a query.

    Parameters
    ----------
    organism
        ``"homo_sapiens"`` or another that the release holds.
    obs_value_filter, var_value_filter
        Which cells and genes are read, see :class:`SomaSource`.
    census_version
        Release. ``"stable"`` and ``"latest"`` are looked up when the source is made; the release
        that they stand for is what is opened and what ``notes`` name.
    is_primary_data
        Leave out cells that are in the Census more than once.
    layer
        ``"raw"`` or ``"normalized"``.
    uri
        Address or folder of a copy of a release, instead of the one on the network.
    context
        Of ``tiledbsoma``.

    Attributes
    ----------
    census_version
        The release that was opened.

    Raises
    ------
    MissingDependencyError
        ``cellxgene-census`` is not installed (E-P02).
    UsageError
        There is no such release or organism (E-U30), or a filter cannot be read (E-U93).
    RemoteError
        The Census cannot be reached (E-N01).
    InputDataError
        No cell meets the filter (E-D57).

    Examples
    --------
    >>> lung = "tissue_general == 'lung' and disease == 'normal'"
    >>> source = CensusSource(obs_value_filter=lung, census_version="2025-01-30")  # doctest: +SKIP
    >>> model = SCTab(source)  # doctest: +SKIP
    """

    def __init__(
        self,
        organism: str = "homo_sapiens",
        *,
        obs_value_filter: str | None = None,
        var_value_filter: str | None = None,
        census_version: str = "stable",
        is_primary_data: bool = True,
        layer: str = "raw",
        uri: str | None = None,
        context: SOMATileDBContext | None = None,
    ) -> None:
        census, self.census_version = _open(census_version, uri, context)
        name = organism.strip().lower().replace(" ", "_")
        data = census["census_data"]
        if name not in data:
            raise UsageError(
                "E-U30",
                f"organism={organism!r}",
                where=f"Census {self.census_version}",
                fix=f"use one of {', '.join(sorted(data))}",
            )
        super().__init__(
            data[name],
            layer=layer,
            obs_filter=obs_value_filter,
            var_filter=var_value_filter,
            is_primary_data=is_primary_data,
        )
        self._again = partial(
            CensusSource,
            organism,
            obs_value_filter=obs_value_filter,
            var_value_filter=var_value_filter,
            census_version=self.census_version,
            is_primary_data=is_primary_data,
            layer=layer,
            uri=uri,
            context=context,
        )
        self._census = census  # is closed with what is opened from it
        asked = "" if obs_value_filter is None else f", {obs_value_filter}"
        line = f"Census {self.census_version}, {name}: {self.n_obs:,} cells{asked}"
        self.notes = (line, *self.notes)


def of_address(address: str) -> CensusSource:
    """Return the source of ``census:ORGANISM``, ``@RELEASE`` and ``?FILTER`` behind it.

    Raises
    ------
    UsageError
        The address has another form (E-U94); see :class:`CensusSource` too.
    """
    found = _ADDRESS.fullmatch(address.strip())
    if found is None:
        raise UsageError(
            "E-U94",
            f"{address!r} is no query of the Census",
            fix="census:ORGANISM@RELEASE?FILTER, for example "
            "census:homo_sapiens@2025-01-30?tissue_general == 'lung'",
        )
    release = found["release"] or "stable"
    return CensusSource(
        found["organism"], census_version=release.strip(), obs_value_filter=found["filter"]
    )


def _open(version: str, uri: str | None, context: SOMATileDBContext | None) -> tuple[Any, str]:
    """Open a release, and say which it is."""
    if uri is None:
        settings.require_online("the Census", "pass uri= with the folder of a copy")
    require_tiledbsoma()
    if find_spec("cellxgene_census") is None:
        raise MissingDependencyError(
            "E-P02",
            "the Census is read by cellxgene-census, which is not installed",
            fix='pip install "episome[census]"',
        )
    import cellxgene_census

    try:
        if uri is not None:
            return cellxgene_census.open_soma(uri=uri, context=context), uri
        found = cellxgene_census.get_census_version_description(version)
        release = str(found["release_build"])
        return cellxgene_census.open_soma(census_version=release, context=context), release
    except OSError as error:  # of requests too
        raise RemoteError(
            "E-N01",
            "the Census cannot be reached",
            where=uri or f"release {version}",
            why=first_line(error),
            fix="look at the connection, or pass uri= with the folder of a copy",
        ) from error
    except ValueError as error:
        raise UsageError(
            "E-U30",
            f"census_version={version!r}",
            why=first_line(error),
            fix='use "stable", "latest" or a release such as "2025-01-30", see '
            "cellxgene_census.get_census_version_directory()",
        ) from error
