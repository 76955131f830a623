"""The model under test and its small data."""

from __future__ import annotations

import inspect
from functools import cached_property
from typing import TYPE_CHECKING

from episome import plugins, settings
from episome.data import simulate_cells

if TYPE_CHECKING:
    import numpy as np
    from anndata import AnnData

    from episome.models import EpisomeModel


def synthetic_adata(
    n_cells: int = 150, n_genes: int = 60, *, n_types: int = 3, seed: int = 0
) -> AnnData:
    """Simulate a few separable types with labels, donors, batches; see ``simulate_cells``."""
    return simulate_cells(n_cells, n_genes, n_types=n_types, n_donors=5, seed=seed)


class Subject:
    """A model class with lazily made data and one trained instance that checks share.

    Parameters
    ----------
    model
        Class, or name of an installed model.
    """

    def __init__(self, model: type[EpisomeModel] | str) -> None:
        self.cls: type[EpisomeModel] = (
            plugins.load_class(plugins.get_spec(model)) if isinstance(model, str) else model
        )

    @property
    def name(self) -> str:
        """Class name."""
        return self.cls.__name__

    @cached_property
    def query(self) -> AnnData:
        """Unlabelled cells in the genes and order of the training data."""
        query = synthetic_adata(40, seed=1)
        return type(query)(query.X, obs=query.obs[[]], var=query.var)

    @cached_property
    def trained(self) -> EpisomeModel:
        """A model trained once; checks must not change it."""
        return self.train(synthetic_adata())

    @cached_property
    def probabilities(self) -> np.ndarray:
        """Class probabilities of :attr:`query`."""
        found: np.ndarray = self.trained.predict_proba(self.query).to_numpy()
        return found

    def set_up(self, adata: AnnData, **kwargs: object) -> EpisomeModel:
        """Register the data and build a model."""
        self.cls.setup_anndata(adata, labels_key="cell_type", **kwargs)
        return self.cls(adata)

    def train(self, adata: AnnData, **kwargs: object) -> EpisomeModel:
        """Set up, build and train with few epochs, from the same seed."""
        with settings.using_seed(0):
            model = self.set_up(adata)
            model.train(**{**self.quick(), **kwargs})
        return model

    def quick(self) -> dict[str, object]:
        """Arguments that make training short, for models that have epochs."""
        parameters = inspect.signature(self.cls.train).parameters
        return {"max_epochs": 2, "batch_size": 32} if "max_epochs" in parameters else {}
