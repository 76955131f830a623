"""Sizes and training settings of SCTab by the size of the reference."""

from __future__ import annotations

from episome.errors import UsageError

# Fischer et al. (2024): the authors' script, which the paper's text agrees with.
PAPER: dict[str, object] = {
    "n_d": 128,
    "n_a": 64,
    "n_steps": 1,
    "n_shared": 3,
    "n_independent": 5,
    "virtual_batch_size": 256,
    "gamma": 1.3,
    "momentum": 0.02,
    "mask": "entmax15",
    "lambda_sparse": 1e-5,
    "dropout": 0.0,
    "embedding_dropout": 0.0,
    "input_eps": 1e-5,
    "mask_scale": 1.0,
    "n_top_genes": None,
}
SMALL: dict[str, object] = {
    **PAPER,
    "n_d": 64,
    "n_a": 64,
    "n_shared": 1,
    "n_independent": 1,
    "momentum": 0.1,
    "virtual_batch_size": 128,
}
SMALL_BELOW = 100_000


def values_for(preset: str, n_cells: int) -> tuple[str, dict[str, object]]:
    """Return the name and the sizes of a preset.

    Raises
    ------
    UsageError
        There is no such preset (E-U23).
    """
    if preset == "auto":
        preset = "small" if n_cells < SMALL_BELOW else "paper"
    if preset not in {"paper", "small"}:
        raise UsageError(
            "E-U23", f"preset={preset!r}", fix='use "auto", "paper" or "small" and set single sizes'
        )
    return preset, dict(PAPER if preset == "paper" else SMALL)


def training_defaults(preset: str, n_cells: int) -> dict[str, object]:
    """Return the defaults of ``train`` for a preset."""
    if preset == "paper":
        return {
            "max_epochs": 50,
            "batch_size": 2048,
            "plan_kwargs": {"lr": 5e-3, "weight_decay": 0.05, "lr_schedule": "step", "lr_decay": 0.9},
            "early_stopping_patience": 10,
        }
    return {
        "max_epochs": 60,
        "batch_size": 128,
        "plan_kwargs": {"lr": 1e-2, "weight_decay": 0.05, "lr_schedule": "cosine"},
        "early_stopping_patience": 30,
    }
