"""What the host asks of a model with a capability, as types."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from anndata import AnnData
    from numpy.typing import NDArray


@runtime_checkable
class SupportsAnnotation(Protocol):
    """A model that names the type of every cell."""

    def predict(self, adata: Any = None, **kwargs: Any) -> Any: ...
    def predict_proba(self, adata: Any = None, **kwargs: Any) -> pd.DataFrame: ...
    def annotate(self, adata: Any = None, **kwargs: Any) -> pd.DataFrame: ...


@runtime_checkable
class SupportsEmbedding(Protocol):
    """A model that gives every cell a vector."""

    def get_latent_representation(
        self, adata: Any = None, **kwargs: Any
    ) -> NDArray[np.float32]: ...


@runtime_checkable
class SupportsReconstruction(Protocol):
    """A model that gives the expression that it expects."""

    def get_normalized_expression(self, adata: Any = None, **kwargs: Any) -> Any: ...


@runtime_checkable
class SupportsTranslation(Protocol):
    """A model that predicts another modality."""

    def predict_modality(self, adata: Any = None, **kwargs: Any) -> AnnData: ...


@runtime_checkable
class SupportsExplanation(Protocol):
    """A model that says on which genes its calls rest."""

    def explain(self, adata: Any = None, **kwargs: Any) -> Any: ...


#: The type that a model with a capability has, by its name.
CAPABILITIES: dict[str, type] = {
    "annotation": SupportsAnnotation,
    "embedding": SupportsEmbedding,
    "reconstruction": SupportsReconstruction,
    "translation": SupportsTranslation,
    "explanation": SupportsExplanation,
}
