"""The model under test and its small data."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from episome import plugins, settings
from episome.data import simulate_cells
from episome.testing._process import process_state

if TYPE_CHECKING:
    from anndata import AnnData
    from mudata import MuData

    from episome.models import EpisomeModel
    from episome.plugins import ModelSpec

#: Cells and genes of the small data.
N_CELLS, N_GENES, N_QUERY = 150, 60, 40


def synthetic_adata(
    n_cells: int = N_CELLS, n_genes: int = N_GENES, *, n_types: int = 3, seed: int = 0
) -> AnnData:
    """Simulate a few separable types with labels, donors, batches; see ``simulate_cells``."""
    return simulate_cells(n_cells, n_genes, n_types=n_types, n_donors=5, seed=seed)


def synthetic_mudata(
    n_cells: int = N_CELLS, n_genes: int = N_GENES, *, n_types: int = 3, seed: int = 0
) -> MuData:
    """Simulate RNA and eight surface proteins, of which every type has its own.

    Returns
    -------
    MuData with the modalities ``"rna"`` (as :func:`synthetic_adata`) and ``"prot"`` (counts).
    """
    import anndata
    import pandas as pd

    rna = synthetic_adata(n_cells, n_genes, n_types=n_types, seed=seed)
    codes = rna.obs["cell_type"].astype("category").cat.codes.to_numpy()
    mean = np.where(codes[:, None] == np.arange(8) % n_types, 20.0, 2.0)
    counts = np.random.default_rng(seed).poisson(mean).astype(np.float32)
    protein = anndata.AnnData(
        counts,
        obs=pd.DataFrame(index=rna.obs_names),
        var=pd.DataFrame(index=[f"PROT{i}" for i in range(8)]),
    )
    return as_mudata({"rna": rna, "prot": protein})


def as_mudata(parts: Mapping[str, AnnData]) -> MuData:
    """Make MuData without the warning of mudata 0.3 about what 0.4 does."""
    import mudata

    options = getattr(mudata, "set_options", None)
    with options(pull_on_update=False) if options else contextlib.nullcontext():
        return mudata.MuData(dict(parts))


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
        #: What belongs to the process, once scvi-tools is imported and before any training.
        self.process = process_state()

    @property
    def name(self) -> str:
        """Class name."""
        return self.cls.__name__

    @property
    def spec(self) -> ModelSpec | None:
        """What the plugin registered; ``None`` for a class of no plugin."""
        return self.cls.spec()

    @property
    def capabilities(self) -> tuple[str, ...]:
        """Capabilities of the class whose methods it has; see ``check_capabilities_are_kept``."""
        from episome.models import CAPABILITIES

        return tuple(
            c
            for c in self.cls.capabilities
            if c not in CAPABILITIES or issubclass(self.cls, CAPABILITIES[c])
        )

    @property
    def is_network(self) -> bool:
        """Whether Lightning trains it."""
        from episome.models import NetworkModel

        parameters = inspect.signature(self.cls.train).parameters
        return issubclass(self.cls, NetworkModel) or "max_epochs" in parameters

    @property
    def annotates(self) -> bool:
        """Whether it needs labels."""
        return "annotation" in self.capabilities

    @property
    def translates(self) -> bool:
        """Whether it is trained on two modalities."""
        return "translation" in self.capabilities

    # -- data --------------------------------------------------------------------------------

    def data(self, n_cells: int = N_CELLS, **kwargs: Any) -> Any:
        """Training data: AnnData, or MuData for a model of two modalities."""
        make = synthetic_mudata if self.translates else synthetic_adata
        return make(n_cells, **kwargs)

    def rna(self, data: Any) -> AnnData:
        """Return the RNA of training data."""
        found: AnnData = data.mod["rna"] if self.translates else data
        return found

    def parts(self, data: Any) -> list[AnnData]:
        """Return every modality of training data."""
        return list(data.mod.values()) if self.translates else [data]

    @cached_property
    def query(self) -> AnnData:
        """Unlabelled cells in the genes and order of the training data."""
        return self.fresh_query()

    def fresh_query(self) -> AnnData:
        """Return the cells of :attr:`query` as an object that no model has seen."""
        query = synthetic_adata(N_QUERY, seed=1)
        return type(query)(query.X, obs=query.obs[[]], var=query.var)

    # -- models ------------------------------------------------------------------------------

    #: Why the model cannot be trained or asked; the checks that need that are not run then.
    broken: str = ""

    @cached_property
    def trained(self) -> EpisomeModel:
        """A model trained once; checks must not change it."""
        with self._noting("trained"):
            return self.train(self.data())

    @cached_property
    def answers(self) -> dict[str, np.ndarray]:
        """What :attr:`trained` says about :attr:`query`."""
        trained = self.trained
        with self._noting("asked"):
            return self.ask(trained, self.query)

    @contextlib.contextmanager
    def _noting(self, what: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            self.broken = f"the model cannot be {what}: {type(error).__name__}: {error}"
            raise

    def set_up(self, data: Any, **kwargs: Any) -> EpisomeModel:
        """Register the data and build a model."""
        if self.translates:
            self.cls.setup_mudata(data, rna_modality="rna", target_modality="prot", **kwargs)
        elif self.annotates:
            self.cls.setup_anndata(data, labels_key="cell_type", **kwargs)
        else:
            self.cls.setup_anndata(data, **kwargs)
        return self.cls(data)

    def train(self, data: Any, **kwargs: Any) -> EpisomeModel:
        """Set up, build and train with few epochs, from the same seed."""
        with settings.using_seed(0):
            model: Any = self.set_up(data)
            model.train(**{**self.quick(), **kwargs})
        trained: EpisomeModel = model
        return trained

    def quick(self) -> dict[str, Any]:
        """Arguments that make training short, for models that have epochs."""
        return {"max_epochs": 2, "batch_size": 32} if self.is_network else {}

    # -- answers -----------------------------------------------------------------------------

    def ask(self, model: Any, query: Any, **kwargs: Any) -> dict[str, np.ndarray]:
        """Return what a model says about a query, an array by what it is, rows cells."""
        return {
            name: ask(model, query, **kwargs)
            for capability, (name, ask) in _ANSWERS.items()
            if capability in self.capabilities
        }

    def ask_raw(self, model: Any, query: Any, **kwargs: Any) -> dict[str, np.ndarray]:
        """Return what the core of a model says, before its confidence is fitted to the query."""
        found = self.ask(model, query, **kwargs)
        if self.annotates:
            raw = model.predict_proba(query, calibrated=False, **kwargs)
            found[_ANSWERS["annotation"][0]] = raw.to_numpy()
        return found

    def verbs(self, model: Any) -> list[Callable[[Any], object]]:
        """Return every method that answers a query, as the host calls it."""
        asked: list[Callable[[Any], object]] = [lambda query: self.ask(model, query)]
        return [*asked, model.predict, model.annotate] if self.annotates else asked

    def rows(
        self, answers: Mapping[str, np.ndarray], rows: np.ndarray | list[int]
    ) -> dict[str, np.ndarray]:
        """Return chosen rows of answers."""
        return {name: values[rows] for name, values in answers.items()}


#: Name of the answer and how it is asked for, by capability.
_ANSWERS: dict[str, tuple[str, Callable[..., np.ndarray]]] = {
    "annotation": ("probabilities", lambda m, q, **k: m.predict_proba(q, **k).to_numpy()),
    "embedding": ("embedding", lambda m, q, **k: m.get_latent_representation(q, **k)),
    "reconstruction": (
        "expected expression",
        lambda m, q, **k: m.get_normalized_expression(q, return_numpy=True, **k),
    ),
    "translation": (
        "predicted modality",
        lambda m, q, **k: np.asarray(m.predict_modality(q, **k).X),
    ),
}
