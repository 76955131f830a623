"""Defaults of training, by the number of cells."""

from __future__ import annotations

from episome.train import bounded_epochs

#: The paper's sizes are for millions of cells; below this a batch of 8,192 would be a few updates.
LARGE = 500_000
_MEDIUM, _FEW = 50_000, 2_000


def pretraining(n_cells: int) -> dict[str, object]:
    """Return the defaults of pretraining; for many cells those of the paper.

    Parameters
    ----------
    n_cells
        Training cells.
    """
    if n_cells >= LARGE:
        return {
            "max_epochs": bounded_epochs(n_cells, cells=200_000_000, at_least=10, at_most=200),
            "batch_size": 8192,
            "plan_kwargs": {
                "lr": 1e-3,
                "weight_decay": 0.01,
                "lr_schedule": "step",
                "lr_decay": 0.9**0.5,  # 0.9 every two epochs, as published
            },
            "gradient_clip_val": 1.0,
        }
    return {
        "max_epochs": bounded_epochs(n_cells, cells=2_000_000, at_least=20, at_most=200),
        "batch_size": 1024 if n_cells >= _MEDIUM else 256,
        "plan_kwargs": {"lr": 1e-3, "weight_decay": 0.01, "lr_schedule": "cosine"},
        "gradient_clip_val": 1.0,
    }


#: A head alone takes larger steps than a whole network, by what is frozen.
_FASTER = {"none": 1.0, "shallow": 3.0, "all": 10.0}


def classifying(n_cells: int, freeze: str = "none") -> dict[str, object]:
    """Return the defaults of a classifier; for many cells those of the paper.

    Parameters
    ----------
    n_cells
        Training cells.
    freeze
        What of the encoder is not trained: the fewer layers learn, the larger is the rate.
    """
    if n_cells >= LARGE:
        return {
            "max_epochs": 50,
            "batch_size": 16_384,
            "plan_kwargs": {
                "lr": 9e-4 * _FASTER[freeze],
                "weight_decay": 0.05,
                "lr_schedule": "step",
                "lr_decay": 0.9**0.5,
            },
            "gradient_clip_val": 1.0,
        }
    return {
        "max_epochs": bounded_epochs(n_cells, cells=200_000, at_least=10, at_most=100),
        # Some hundreds of updates also where there are some hundreds of cells.
        "batch_size": 1024 if n_cells >= _MEDIUM else 128 if n_cells >= _FEW else 32,
        "plan_kwargs": {
            "lr": 1e-3 * _FASTER[freeze],
            "weight_decay": 0.05,
            "lr_schedule": "cosine",
        },
        "gradient_clip_val": 1.0,
    }
