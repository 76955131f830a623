"""`InputRule`: what the values of a model's input are and how counts become its scale."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Literal

import numpy as np
from scipy import sparse

from episome.data._values import InputKind, ValueReport, check_values
from episome.errors import InputDataError
from episome.log import get_logger

logger = get_logger(__name__)

DEFAULT_TARGET_SUM = 1e4
#: Share by which the sum of a query may differ from the model's.
SAME_SCALE = 0.02


@dataclass(frozen=True, slots=True)
class InputRule:
    """The recorded input convention of a model.

    Parameters
    ----------
    input_kind
        ``"counts"``: every cell becomes ``log1p(target_sum * x / library)`` on the device.
        ``"log1p"``: values enter as they are. ``"embedding"``: those of ``obsm_key`` do.
    size_factor
        Genes that make up the library size: the model's (``"model_genes"``) or all of the data's.
    target_sum
        Library size after scaling.
    obsm_key
        Array of ``obsm`` that is read instead of a matrix of genes.
    organisms
        Organisms of the training cells, as these named them; saved beside the rule, and no part
        of what two rules are compared by.
    """

    input_kind: InputKind | Literal["embedding"] = "counts"
    size_factor: Literal["model_genes", "all_genes"] = "model_genes"
    target_sum: float = DEFAULT_TARGET_SUM
    obsm_key: str | None = None
    organisms: tuple[str, ...] = field(default=(), compare=False, repr=False)

    def to_json(self) -> dict[str, object]:
        """Return the rule as plain data for the manifest, without the organisms."""
        return {k: v for k, v in asdict(self).items() if v is not None and k != "organisms"}


@dataclass(frozen=True, slots=True)
class QueryKind:
    """How the values of one query reach a model's scale.

    ``unlog`` takes ``expm1`` first; ``normalise`` scales by the library and takes ``log1p``.
    """

    unlog: bool
    normalise: bool
    note: str


def query_kind(
    rule: InputRule, report: ValueReport, wanted: Literal["auto", "counts", "log1p"] = "auto"
) -> QueryKind:
    """Decide how a query's values are brought to the model's scale.

    Parameters
    ----------
    rule
        The model's convention.
    report
        What the values of the query are.
    wanted
        What the caller says they are.

    Returns
    -------
    A :class:`QueryKind`; its note is one line for the log.

    Raises
    ------
    InputDataError
        The values are no counts and no log1p, or a log1p query meets a counts model and its row
        sums do not prove that ``expm1`` gives back proportional counts (E-D07).
    """
    if rule.input_kind == "embedding":
        return QueryKind(unlog=False, normalise=False, note="vectors are used as they are")
    kind = check_values(report, wanted)
    if rule.input_kind == "log1p":
        if kind == "log1p":
            return _log_query(rule, report)
        return QueryKind(
            unlog=False,
            normalise=True,
            note=f"counts are scaled to {rule.target_sum:g} and log1p is taken",
        )
    if kind == "counts":
        return QueryKind(
            unlog=False, normalise=True, note="counts are normalised by the model's rule"
        )
    if report.expm1_row_sum is None:
        raise InputDataError(
            "E-D07",
            "log1p values are given to a model of counts",
            where=report.where,
            why=f"{report.evidence}, and the sums of expm1 differ between cells, so the values "
            "cannot be turned back for sure",
            fix=report.elsewhere
            or "pass the layer that holds counts: layer= (--layer) or use_raw=True (--use-raw)",
        )
    return QueryKind(
        unlog=True,
        normalise=True,
        note=f"log1p values are turned back (expm1 sums to {report.expm1_row_sum:.6g} in every "
        "cell)",
    )


def _log_query(rule: InputRule, report: ValueReport) -> QueryKind:
    """Use log1p values as they are, or bring them to the model's scale where sums prove theirs."""
    found = report.expm1_row_sum
    if found is None or abs(found / rule.target_sum - 1.0) < SAME_SCALE:
        return QueryKind(unlog=False, normalise=False, note="log1p values are used as they are")
    return QueryKind(
        unlog=True,
        normalise=True,
        note=f"log1p values are brought from a scale of {found:.6g} to the model's "
        f"{rule.target_sum:.6g} (expm1 of every cell sums to the first)",
    )


def unlog(block: sparse.csr_matrix) -> sparse.csr_matrix:
    """Return ``expm1`` of a CSR block, in float32, without touching the block."""
    data = np.expm1(block.data.astype(np.float64)).astype(np.float32)
    return sparse.csr_matrix((data, block.indices, block.indptr), shape=block.shape)
