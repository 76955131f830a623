"""`WithoutModule`: a model of scvi-tools by inheritance, with a module of one's own."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from scvi.model.base import BaseMinifiedModeModelClass, RNASeqMixin

if TYPE_CHECKING:
    import pandas as pd
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

    def differential_expression(self, *args: Any, **kwargs: Any) -> pd.DataFrame:
        """Do what scvi-tools' method of a model of genes does, with samples of its own.

        Parameters
        ----------
        *args, **kwargs
            Of scvi-tools' ``differential_expression``.
        """
        # It asks `get_normalized_expression` for samples; the host's draws none by default, and
        # has other arguments.
        own: dict[str, Any] = self.__dict__
        own["get_normalized_expression"] = partial(RNASeqMixin.get_normalized_expression, self)
        try:
            found: pd.DataFrame = super().differential_expression(*args, **kwargs)
        finally:
            del own["get_normalized_expression"]
        return found
