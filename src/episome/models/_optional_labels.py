"""`OptionalLabels`: annotators that can also be set up without labels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from episome.errors import UsageError
from episome.models._base import EpisomeModel

if TYPE_CHECKING:
    from anndata import AnnData

    from episome.models._annotation import AnnotationMixin

    _Model = AnnotationMixin
else:
    _Model = object


class OptionalLabels(_Model):
    """The set-up of an annotator that needs no labels; mixed in before the others."""

    @classmethod
    def setup_anndata(  # type: ignore[override]  # labels come first
        cls,
        adata: AnnData,
        labels_key: str | None = None,
        *,
        layer: str | None = None,
        use_raw: bool | Literal["auto"] = False,
        donor_key: str | list[str] | None = None,
        ontology_term_key: str | None = None,
        own_terms: Mapping[str, Mapping[str, Any]] | None = None,
        unlabeled_category: str = "unknown",
        unlabeled: Literal["error", "keep", "drop"] = "error",
        input_kind: Literal["auto", "counts", "log1p"] = "auto",
        size_factor: Literal["model_genes", "all_genes"] = "model_genes",
        duplicates: Literal["error", "sum"] = "error",
        allow_fractional: bool = False,
        nan: Literal["error", "zero"] = "error",
        **kwargs: Any,
    ) -> None:
        """Register training data, with labels or without; see the class.

        Parameters
        ----------
        adata
            Training cells.
        labels_key
            Column of ``obs`` with the cell types; default none.
        layer, use_raw, donor_key, input_kind, size_factor, duplicates, allow_fractional, nan
            As for every model.
        ontology_term_key, own_terms, unlabeled_category, unlabeled
            As for every annotator; only with ``labels_key``.

        Raises
        ------
        InputDataError, LabelError, UsageError
            The data cannot be used; all reasons are named.
        """
        values: dict[str, Any] = {
            "layer": layer,
            "use_raw": use_raw,
            "donor_key": donor_key,
            "input_kind": input_kind,
            "size_factor": size_factor,
            "duplicates": duplicates,
            "allow_fractional": allow_fractional,
            "nan": nan,
        }
        of_labels = {
            "ontology_term_key": (ontology_term_key, None),
            "own_terms": (own_terms, None),
            "unlabeled_category": (unlabeled_category, "unknown"),
            "unlabeled": (unlabeled, "error"),
        }
        if labels_key is not None:
            given: dict[str, Any] = {name: value for name, (value, _) in of_labels.items()}
            super().setup_anndata(adata, labels_key, **values, **given, **kwargs)
            return
        if said := [name for name, (value, default) in of_labels.items() if value != default]:
            raise UsageError(
                "E-U24",
                f"arguments without a meaning: {', '.join(said)}",
                where="setup_anndata()",
                why="they are about labels, and no column of labels is given",
                fix="pass labels_key=, or leave them out",
            )
        # The set-up of a model without labels, of this class.
        EpisomeModel.setup_anndata.__func__(  # type: ignore[attr-defined]
            cls, adata, **values, **kwargs
        )
