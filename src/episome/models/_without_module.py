"""`WithoutModule`: a model of scvi-tools by inheritance, with a module of one's own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scvi.model.base import BaseMinifiedModeModelClass

if TYPE_CHECKING:
    from anndata import AnnData


class WithoutModule(BaseMinifiedModeModelClass):
    """Stands before a model of scvi-tools, whose constructor would build its own module.

    ``class Mine(EpisomeModel, WithoutModule, SCVI)``: scvi-tools' methods are inherited, and its
    constructor, which on some versions takes no registry, is not called.

    Parameters
    ----------
    adata, registry
        Of every model.
    """

    def __init__(
        self, adata: AnnData | None = None, registry: dict[str, object] | None = None
    ) -> None:
        BaseMinifiedModeModelClass.__init__(self, adata, registry)
