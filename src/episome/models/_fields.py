"""scvi-tools fields that register what the host's data room found, without touching the data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from scvi.data.fields import LabelsWithUnlabeledObsField, LayerField

from episome.data import FeatureSpace, InputRule, Labels, clean_labels

if TYPE_CHECKING:
    from anndata import AnnData


class ExpressionField(LayerField):
    """The expression matrix, its genes and the input convention of the model.

    The state registry holds ``column_names`` (the genes after duplicates were joined), other names
    of the genes and the input rule, and the organisms that the cells name, if they do.
    """

    INPUT_KEY = "input"
    ORGANISMS_KEY = "organisms"
    OTHER_NAMES_KEY = "other_names"

    def __init__(
        self,
        registry_key: str,
        layer: str | None,
        *,
        use_raw: bool = False,
        obsm_key: str | None = None,
        features: FeatureSpace | None = None,
        rule: InputRule | None = None,
    ) -> None:
        super().__init__(registry_key, layer, is_count_data=False, correct_data_format=False)
        self._use_raw, self._features, self._rule = use_raw, features, rule
        self._obsm_key = obsm_key

    def validate_field(self, adata: AnnData) -> None:
        """Check that the layer is there; the host has looked at what is registered with genes."""
        if self._obsm_key is None and self._features is None:
            super().validate_field(adata)

    def get_field_data(self, adata: AnnData) -> object:
        """Return the matrix; ``raw`` or an array of ``obsm`` where that was asked for."""
        if self._obsm_key is not None and self._obsm_key in adata.obsm:
            return adata.obsm[self._obsm_key]
        if self._use_raw and adata.raw is not None:
            return adata.raw.X
        return super().get_field_data(adata)

    def register_field(self, adata: AnnData) -> dict[str, object]:
        """Register the genes and the input convention."""
        features, rule = self._features, self._rule
        if features is None or rule is None:
            msg = "an ExpressionField without genes can only be transferred"
            raise RuntimeError(msg)
        return {
            self.N_OBS_KEY: int(adata.n_obs),
            self.N_VARS_KEY: len(features),
            self.COLUMN_NAMES_KEY: np.array(features.ids, dtype=object),
            self.OTHER_NAMES_KEY: {
                k: np.array(v, dtype=object) for k, v in features.other.items()
            },
            self.INPUT_KEY: rule.to_json(),
            **({self.ORGANISMS_KEY: list(rule.organisms)} if rule.organisms else {}),
        }

    def transfer_field(
        self, state_registry: dict[str, object], adata_target: AnnData, **kwargs: object
    ) -> dict[str, object]:
        """Keep the model's genes: the host aligns every query to them before it is used."""
        return {**state_registry, self.N_OBS_KEY: int(adata_target.n_obs)}


class LabelsField(LabelsWithUnlabeledObsField):
    """Labels as clean strings; the unlabelled category is the last code and no class.

    A query needs no label column: absent or unknown labels get the unlabelled code.
    """

    TERMS_KEY, RELEASE_KEY = "ontology_term_ids", "ontology_release"

    def __init__(
        self,
        registry_key: str,
        obs_key: str,
        unlabeled_category: str,
        labels: Labels | None = None,
    ) -> None:
        super().__init__(registry_key, obs_key, unlabeled_category)
        self._labels = labels

    def validate_field(self, adata: AnnData) -> None:
        """Accept objects without the column."""

    def register_field(self, adata: AnnData) -> dict[str, object]:
        """Write ``obs["_scvi_labels"]`` and return the classes in their order."""
        if self._labels is None:
            msg = "a LabelsField without classes can only be transferred"
            raise RuntimeError(msg)
        return self._write(adata, self._labels)

    def transfer_field(
        self, state_registry: dict[str, object], adata_target: AnnData, **kwargs: object
    ) -> dict[str, object]:
        """Write the codes of the model's classes."""
        return self._write(adata_target, labels_from_state(state_registry))

    def _write(self, adata: AnnData, labels: Labels) -> dict[str, object]:
        key = self._original_attr_key
        if key in adata.obs.columns:
            values = clean_labels(
                adata.obs[key], unlabeled_category=labels.unlabeled, unlabeled="keep"
            )
            codes = labels.codes(values)
        else:
            codes = np.full(adata.n_obs, len(labels), dtype=np.int64)
        adata.obs[self.attr_key] = codes
        return {
            self.CATEGORICAL_MAPPING_KEY: np.array(
                [*labels.names, labels.unlabeled], dtype=object
            ),
            self.ORIGINAL_ATTR_KEY: key,
            self.UNLABELED_CATEGORY: labels.unlabeled,
            self.TERMS_KEY: np.array(labels.term_ids, dtype=object),
            self.RELEASE_KEY: labels.ontology_release,
        }


def labels_from_state(state: dict[str, Any]) -> Labels:
    """Classes recorded in a state registry."""
    names = tuple(str(n) for n in state[LabelsField.CATEGORICAL_MAPPING_KEY][:-1])
    terms = state.get(LabelsField.TERMS_KEY, np.array([""] * len(names), dtype=object))
    return Labels(
        names,
        tuple(str(t) for t in terms),
        str(state[LabelsField.UNLABELED_CATEGORY]),
        str(state.get(LabelsField.RELEASE_KEY, "")),
    )


def rule_from_state(state: Mapping[str, Any]) -> InputRule:
    """Input rule recorded in a state registry; registries of before name no organisms."""
    organisms = tuple(map(str, state.get(ExpressionField.ORGANISMS_KEY, ())))
    return InputRule(**state[ExpressionField.INPUT_KEY], organisms=organisms)


def features_from_state(state: dict[str, Any]) -> FeatureSpace:
    """Genes recorded in a state registry."""
    other = {
        k: tuple(map(str, v)) for k, v in state.get(ExpressionField.OTHER_NAMES_KEY, {}).items()
    }
    return FeatureSpace(tuple(map(str, state[ExpressionField.COLUMN_NAMES_KEY])), other)
