"""The modality that a model predicts, in its training cells: fields, panels, sources on disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anndata
import numpy as np
import pandas as pd
from scipy import sparse
from scvi.data.fields import LayerField

from episome.data import (
    CellSource,
    FeatureSpace,
    GenePanels,
    NanAsZero,
    PairedCells,
    PreparedCells,
    ScaledSource,
    ScannedSource,
    TargetScale,
    as_mudata,
    combined_column,
    definite_donors,
    file_modalities,
    in_memory,
    measured_features,
    modalities_of,
    open_source,
    pair_sources,
    parts_of,
    read_any,
)
from episome.errors import UsageError
from episome.models._fields import features_from_state, rule_from_state
from episome.models._setup import SOURCE

if TYPE_CHECKING:
    from anndata import AnnData
    from mudata import MuData
    from numpy.typing import NDArray

    from episome.models._base import EpisomeModel

TARGET = "target"


class TargetField(LayerField):
    """The features of the modality that is predicted, and what they are.

    Parameters
    ----------
    registry_key, layer
        Of ``LayerField``.
    features
        Names; ``None`` where a set-up is transferred.
    values
        Kind of the values, as a scan of all of them found; see ``episome.data.ValueReport``.
    """

    KIND_KEY, VALUES_KEY = "kind", "values"

    def __init__(
        self,
        registry_key: str,
        layer: str | None,
        *,
        features: FeatureSpace | None = None,
        values: str = "",
    ) -> None:
        super().__init__(registry_key, layer, is_count_data=False, correct_data_format=False)
        self._features, self._values = features, values

    def validate_field(self, adata: AnnData) -> None:
        """Check that the layer is there; the host has looked at what is registered."""
        if self._features is None:
            super().validate_field(adata)

    def register_field(self, adata: AnnData) -> dict[str, object]:
        """Register the names of the features."""
        if self._features is None:
            msg = "a TargetField without features can only be transferred"
            raise RuntimeError(msg)
        return {
            self.N_OBS_KEY: int(adata.n_obs),
            self.N_VARS_KEY: len(self._features),
            self.COLUMN_NAMES_KEY: np.array(self._features.ids, dtype=object),
            self.KIND_KEY: self._features.modality,
            self.VALUES_KEY: self._values,
        }

    def transfer_field(
        self, state_registry: dict[str, object], adata_target: AnnData, **kwargs: object
    ) -> dict[str, object]:
        """Keep the features of the model."""
        return {**state_registry, self.N_OBS_KEY: int(adata_target.n_obs)}


@dataclass(frozen=True, slots=True, eq=False)
class MeasuredTarget:
    """Measured values of another modality, by the rows of the RNA.

    Parameters
    ----------
    source
        Values; cells without the modality have none.
    present
        Which cells have it, bool (n_obs,).
    panels
        Which features were measured in which cells; ``None``: all in all.
    """

    source: CellSource
    present: NDArray[np.bool_]
    panels: GenePanels | None

    @classmethod
    def of(
        cls,
        source: CellSource,
        present: NDArray[np.bool_] | None,
        batches: NDArray[np.int64] | None = None,
    ) -> MeasuredTarget:
        """Look at all values once; see ``episome.data.measured_features``.

        Parameters
        ----------
        source, present
            See above; ``None``: all cells have it.
        batches
            Batch of every cell.
        """
        there = np.ones(source.n_obs, dtype=bool) if present is None else present
        return cls(source, there, measured_features(source, batches, there))

    def lacking(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the features that some of these cells were not measured for.

        Parameters
        ----------
        rows
            Cells that have the modality.
        """
        if self.panels is None:
            return np.empty(0, dtype=np.int64)
        here = self.panels.measured[np.unique(self.panels.codes[rows])]
        return np.flatnonzero(~here.all(axis=0))

    def on(self, scale: TargetScale | None) -> CellSource:
        """Return the values on a scale; what was not measured is zero."""
        scaled = self.source if scale is None else ScaledSource(self.source, scale)
        return NanAsZero(scaled)

    def dense(self, rows: NDArray[np.int64], scale: TargetScale | None) -> NDArray[np.float32]:
        """Return some cells as float32 (n_rows, n_features); NaN where nothing was measured."""
        found: NDArray[np.float32] = self.on(scale).read(rows).toarray().astype(np.float32)
        if self.panels is not None:
            found[~self.panels.measured[self.panels.codes[rows]]] = np.nan
        return found


def paired_cells(
    data: MuData | Mapping[str, Any] | str | Path, modalities: Sequence[str], **layers: str | None
) -> PairedCells:
    """Open two modalities where they are and pair their cells by name.

    Parameters
    ----------
    data
        MuData; a file of it, which is read in blocks; or by the name of the modality anything that
        ``episome.data.open_source`` takes.
    modalities
        Name of the RNA, and of the other.
    **layers
        Layer to read, by modality.

    Returns
    -------
    All cells of the RNA; see ``pair_sources(keep="first")``.
    """
    name = Path(data).name if isinstance(data, str | Path) else "mdata"
    sources: dict[str, CellSource] = {}
    for modality in modalities:
        layer = layers.get(modality)
        if isinstance(data, Mapping):
            if modality not in data:
                raise UsageError(
                    "E-U60",
                    f"modality {modality!r} is missing",
                    where="setup_source()",
                    why=f"the modalities are {', '.join(map(str, data))}",
                    fix="name them rna_modality= and target_modality=",
                )
            source = open_source(data[modality], layer=layer, backed=True)
        else:
            source = open_source(data, layer=layer, backed=True, modality=modality)
        sources[modality] = source if in_memory(source) else ScannedSource(source)
    return pair_sources(sources, name=name, keep="first")


def modality_names(data: object) -> list[str]:
    """Return the names of the modalities of an object, a file or sources by name."""
    if isinstance(data, Mapping):
        return [str(m) for m in data]
    if isinstance(data, str | Path):
        return file_modalities(data) or modalities_of(read_any(data))
    return list(parts_of(data))


def prepared_pairs(
    cls: type[EpisomeModel],
    paired: PairedCells,
    modalities: tuple[str, str],
    setup: dict[str, Any],
) -> PreparedCells:
    """Set paired cells up where they are; see ``EpisomeModel.setup_source``.

    Parameters
    ----------
    cls
        The model.
    paired
        Of :func:`paired_cells`.
    modalities
        Name of the RNA, and of the other.
    setup
        Of ``setup_mudata``.
    """
    rna, target = modalities
    source = paired.sources[rna]
    keys = [setup.get("donor_key"), setup.get("batch_key")]
    wanted = [k for key in keys if key for k in ([key] if isinstance(key, str) else key)]
    obs = pd.DataFrame(
        {k: source.obs_column(k).array for k in dict.fromkeys(wanted)},
        index=pd.RangeIndex(source.n_obs).astype(str),
    )
    nothing = pd.DataFrame(index=pd.Index([], dtype=str))
    empty = sparse.csr_matrix((len(obs), 0), dtype=np.float32)
    stand_in = as_mudata(
        {
            rna: anndata.AnnData(empty, obs=obs, var=nothing),
            target: anndata.AnnData(empty.copy(), obs=obs[[]], var=nothing.copy()),
        }
    )
    given = {**setup, "rna_modality": rna, "target_modality": target, SOURCE: paired}
    cls.setup_mudata(stand_in, **given)
    manager = cls._setup_adata_manager_store.pop(stand_in.uns["_scvi_uuid"])
    registry = {k: v for k, v in manager.registry.items() if k != "_scvi_uuid"}
    state = registry["field_registries"]["X"]["state_registry"]
    donor_key = setup.get("donor_key")
    donors = None
    if donor_key is not None:
        donors = definite_donors(combined_column(stand_in.mod[rna], donor_key))
    return PreparedCells(
        source,
        features_from_state(state),
        rule_from_state(state),
        np.zeros(source.n_obs, dtype=np.int64),
        donors,
        cls.__name__,
        registry,
        {target: paired.sources[target]},
        paired.present.get(target),
    )


def features_of(state: Mapping[str, Any], kind: str) -> FeatureSpace:
    """Return the features of a target from its state registry.

    Parameters
    ----------
    state
        Of a :class:`TargetField`.
    kind
        What they are, where the registry does not say so.
    """
    found = features_from_state(dict(state))
    return replace(found, modality=str(state.get(TargetField.KIND_KEY, kind)))
