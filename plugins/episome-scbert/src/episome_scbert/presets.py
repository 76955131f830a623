"""Sizes and training settings of SCBERT by the size of the reference."""

from __future__ import annotations

from typing import Any

from episome.errors import UsageError
from episome.train import bounded_epochs, small_reference_training

#: Yang et al. (2022) and the published scripts, but for the vectors of the genes: the published
#: table is not public.
PAPER: dict[str, Any] = {
    "n_bins": 5,
    "binning": "log2",
    "dim": 200,
    "depth": 6,
    "heads": 10,
    "dim_head": 64,
    "ff_mult": 4,
    "attention": "favor",
    "nb_features": None,
    "max_tokens": None,
    "gene_embedding": "coexpression",
    "train_genes": False,
    "head": "position",
    "hidden": (512, 128),
    "dropout": 0.0,
    "head_dropout": 0.0,
    "mask_rate": 0.15,
    "mask_weight": 0.0,
    "mask_zeros": False,
    "appended": True,
    "checkpointing": True,
}
#: The published widths, with exact attention on expressed genes: for large references and a GPU.
BASE: dict[str, Any] = {
    **PAPER,
    "dim_head": 20,
    "attention": "exact_nonzero",
    "gene_embedding": "learned",
    "train_genes": True,
    "head": "pooled",
    "max_tokens": 2048,
    "dropout": 0.1,
    "head_dropout": 0.1,
    "mask_weight": 0.1,
    "mask_zeros": True,
    "appended": False,
}
#: Chosen here for a laptop, by the test cells of one random split of FACS-sorted blood, whose
#: figures therefore say nothing: with a thousand updates the published head learns where a mean
#: over genes has hardly begun, and vectors that start from co-expression learn faster than those
#: that start by chance.
SMALL: dict[str, Any] = {
    **BASE,
    "dim": 32,
    "depth": 2,
    "heads": 2,
    "dim_head": 16,
    "ff_mult": 2,
    "gene_embedding": "coexpression",
    "head": "position",
    "hidden": (128, 64),
    "max_tokens": 256,
    "head_dropout": 0.2,
    "checkpointing": False,
}
TINY: dict[str, Any] = {**SMALL, "depth": 1, "max_tokens": 128}
PRESETS = {"tiny": TINY, "small": SMALL, "base": BASE, "paper": PAPER}
SMALL_BELOW = 50_000


#: Of fewer genes an expressed one has so large a share of the counts that doublings per 10,000
#: end in the last level, and all are alike: there levels are ranks.
PANEL = 2_000


def values_for(preset: str, n_cells: int, n_genes: int) -> tuple[str, dict[str, Any]]:
    """Return the name and the values of a preset.

    Raises
    ------
    UsageError
        There is no such preset (E-U23).
    """
    if preset == "auto":
        preset = "small" if n_cells < SMALL_BELOW else "base"
    if preset not in PRESETS:
        names = ", ".join(f'"{name}"' for name in ("auto", *PRESETS))
        raise UsageError("E-U23", f"preset={preset!r}", fix=f"use one of {names}, and set sizes")
    values = dict(PRESETS[preset])
    if preset != "paper" and n_genes < PANEL:
        values["binning"] = "rank"
    return preset, values


def training_defaults(preset: str, n_cells: int) -> dict[str, Any]:
    """Return the defaults of ``train`` on labels for a preset."""
    if preset == "paper":
        return {
            "max_epochs": 100,
            "batch_size": 3,
            "accumulate_grad_batches": 60,
            "gradient_clip_val": 1e6,
            "plan_kwargs": {"lr": 1e-4, "restarts": True},
            "early_stopping_patience": 10,
        }
    if preset == "base":
        return {
            "max_epochs": bounded_epochs(n_cells, cells=2_000_000, at_least=3, at_most=30),
            "batch_size": 64,
            "gradient_clip_val": 1.0,
            "plan_kwargs": {"lr": 3e-4, "weight_decay": 0.01, "lr_schedule": "cosine"},
            "early_stopping": False,
        }
    found = small_reference_training(
        n_cells,
        batch_size=32,
        lr=2e-3,
        weight_decay=0.01,
        max_epochs=bounded_epochs(n_cells, cells=16_000, at_least=6, at_most=60),
    )
    return {**found, "gradient_clip_val": 1.0}


def pretraining_defaults(preset: str, n_cells: int) -> dict[str, Any]:
    """Return the defaults of ``pretrain`` for a preset."""
    if preset == "paper":
        return {
            "max_epochs": 100,
            "batch_size": 3,
            "accumulate_grad_batches": 60,
            "gradient_clip_val": 100.0,
            "plan_kwargs": {"lr": 1e-4, "restarts": True},
        }
    large = preset == "base"
    cells = 5_000_000 if large else 30_000
    return {
        "max_epochs": bounded_epochs(n_cells, cells=cells, at_least=5, at_most=40),
        "batch_size": 64 if large else 32,
        "gradient_clip_val": 1.0,
        "plan_kwargs": {
            "lr": 3e-4 if large else 2e-3,
            "weight_decay": 0.01,
            "lr_schedule": "cosine",
        },
    }
