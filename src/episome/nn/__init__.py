"""Torch parts that more than one method uses; names are imported on first use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from episome._lazy import lazy_names

if TYPE_CHECKING:
    from episome.nn._attribution import input_gradients
    from episome.nn._core import TorchCore
    from episome.nn._counts import (
        negative_binomial_log_likelihood,
        zero_inflated_log_likelihood,
    )
    from episome.nn._csr import CSRParts
    from episome.nn._entmax import entmax15, entmax15_sort, sparsemax, sparsemax_sort
    from episome.nn._folded import FoldedTabNet
    from episome.nn._mask_csr import explanation_csr, gene_mask_csr
    from episome.nn._masked import (
        MaskedAutoencoder,
        masked_count_error,
        masked_error,
        output_error,
        times_genes,
    )
    from episome.nn._masks import GeneMask, MeasuredMask, RandomMask, TableMask
    from episome.nn._norm import GhostBatchNorm, reestimate_batch_norm
    from episome.nn._normalize import (
        DenseBuffers,
        host_batch,
        log_normalize,
        normalized_batch,
        with_format,
    )
    from episome.nn._pretext import PretextBatch, PretextOutput, PretextSetting, PretextTask
    from episome.nn._restore import restored_counts
    from episome.nn._shift import shift_expression
    from episome.nn._tabnet import TabNet, TabNetOutput
    from episome.nn._tabnet_core import TabNetCore
    from episome.nn._tabnet_decoder import (
        TabNetDecoder,
        hidden_value_loss,
        hidden_value_scale,
    )
    from episome.nn._tabnet_state import rename_reference_state

__all__ = [
    "CSRParts",
    "DenseBuffers",
    "FoldedTabNet",
    "GeneMask",
    "GhostBatchNorm",
    "MaskedAutoencoder",
    "MeasuredMask",
    "PretextBatch",
    "PretextOutput",
    "PretextSetting",
    "PretextTask",
    "RandomMask",
    "TabNet",
    "TabNetCore",
    "TabNetDecoder",
    "TabNetOutput",
    "TableMask",
    "TorchCore",
    "entmax15",
    "entmax15_sort",
    "explanation_csr",
    "gene_mask_csr",
    "reestimate_batch_norm",
    "hidden_value_loss",
    "hidden_value_scale",
    "host_batch",
    "input_gradients",
    "log_normalize",
    "masked_count_error",
    "masked_error",
    "negative_binomial_log_likelihood",
    "normalized_batch",
    "output_error",
    "rename_reference_state",
    "restored_counts",
    "shift_expression",
    "sparsemax",
    "sparsemax_sort",
    "times_genes",
    "with_format",
    "zero_inflated_log_likelihood",
]

_HOME = {
    "host_batch": "_normalize",
    "input_gradients": "_attribution",
    "log_normalize": "_normalize",
    "negative_binomial_log_likelihood": "_counts",
    "normalized_batch": "_normalize",
    "with_format": "_normalize",
    "CSRParts": "_csr",
    "DenseBuffers": "_normalize",
    "FoldedTabNet": "_folded",
    "GeneMask": "_masks",
    "MaskedAutoencoder": "_masked",
    "MeasuredMask": "_masks",
    "RandomMask": "_masks",
    "TableMask": "_masks",
    "masked_count_error": "_masked",
    "masked_error": "_masked",
    "output_error": "_masked",
    "times_genes": "_masked",
    "PretextBatch": "_pretext",
    "PretextOutput": "_pretext",
    "PretextSetting": "_pretext",
    "PretextTask": "_pretext",
    "GhostBatchNorm": "_norm",
    "TabNet": "_tabnet",
    "TabNetCore": "_tabnet_core",
    "TabNetDecoder": "_tabnet_decoder",
    "hidden_value_loss": "_tabnet_decoder",
    "hidden_value_scale": "_tabnet_decoder",
    "TabNetOutput": "_tabnet",
    "TorchCore": "_core",
    "entmax15": "_entmax",
    "entmax15_sort": "_entmax",
    "explanation_csr": "_mask_csr",
    "gene_mask_csr": "_mask_csr",
    "reestimate_batch_norm": "_norm",
    "rename_reference_state": "_tabnet_state",
    "restored_counts": "_restore",
    "shift_expression": "_shift",
    "sparsemax": "_entmax",
    "sparsemax_sort": "_entmax",
    "zero_inflated_log_likelihood": "_counts",
}

__getattr__, __dir__ = lazy_names(__name__, _HOME)
