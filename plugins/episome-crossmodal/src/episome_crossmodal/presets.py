"""Sizes and training settings, by the number of cells and of features."""

from __future__ import annotations

from typing import Any

#: More cells than these: the published sizes; fewer: what held-out cells asked for.
LARGE = 50_000
_FEW = 2_000
# Published: hidden layers of 256, 40 dimensions, dropout 0.1574 in fine-tuning (its code).
PUBLISHED: dict[str, Any] = {
    "hidden": (256, 256),
    "n_latent": 40,
    "decoder": (256, 256),
    "dropout": 0.1574,
    "input_dropout": 0.0,
}
# Not of the paper. Compared on 1,100 training cells that were held out, of one fold of the 10x
# CITE-seq PBMC: hiding genes, and more dropout, were better by far; layers between embedding and
# output made no difference. For peaks on two held-out libraries among the training libraries of
# the SNARE cortex: one layer was better than two.
SMALL: dict[str, Any] = {
    "hidden": (512, 256),
    "n_latent": 64,
    "decoder": (),
    "dropout": 0.5,
    "input_dropout": 0.3,
}


def sizes(n_cells: int, kind: str) -> dict[str, Any]:
    """Return sizes and dropout.

    Parameters
    ----------
    n_cells
        Training cells.
    kind
        What is predicted.
    """
    if n_cells >= LARGE:
        return dict(PUBLISHED)
    return {**SMALL, **({"hidden": (256,)} if kind == "atac" else {})}


def training(n_cells: int) -> dict[str, Any]:
    """Return the defaults of training.

    Parameters
    ----------
    n_cells
        Training cells.
    """
    epochs = int(min(max(400_000 // max(n_cells, 1), 20), 100))
    return {
        "max_epochs": epochs,
        # Some hundreds of updates also where there are some hundreds of cells.
        "batch_size": 1024 if n_cells >= LARGE else 128 if n_cells >= _FEW else 32,
        "early_stopping_patience": 20,
        "plan_kwargs": {
            "lr": 1e-3,
            "weight_decay": 0.01,
            "lr_schedule": "cosine",
            # Genes that few cells express would move as far as the best expressed ones.
            "share_moment": True,
        },
        "gradient_clip_val": 1.0,
    }
