"""Settings that small references want: a set number of updates, and dropout of genes."""

from __future__ import annotations

__all__ = ["bounded_epochs", "small_reference_dropout", "small_reference_training"]

#: References of fewer cells are trained once more, the validation cells among them.
REFIT_BELOW = 20_000
#: More genes are those of a transcriptome, fewer those of a panel.
MANY_GENES = 5_000


def bounded_epochs(n_cells: int, *, cells: int, at_least: int, at_most: int) -> int:
    """Return the epochs in which about ``cells`` cells are seen, between two bounds.

    Parameters
    ----------
    n_cells
        Number of training cells.
    cells
        How many are to be seen over all epochs.
    at_least, at_most
        Bounds of the epochs.
    """
    return min(max(round(cells / max(n_cells, 1)), at_least), at_most)


def small_reference_training(
    n_cells: int,
    *,
    batch_size: int,
    lr: float,
    weight_decay: float,
    weight_average: float | None = None,
    max_epochs: int | None = None,
) -> dict[str, object]:
    """Return the defaults of ``train`` for a small reference.

    The number of epochs is set beforehand, the learning rate falls to zero over all of them, and
    references of fewer than 20,000 cells learn from every cell at the end.

    Parameters
    ----------
    n_cells
        Number of training cells.
    batch_size, lr, weight_decay
        As for ``train`` and its ``plan_kwargs``.
    weight_average
        Decay of the running average of the weights; ``None``: the last weights.
    max_epochs
        Default hundreds of updates for few cells, minutes for the largest.
    """
    plan: dict[str, object] = {
        "lr": lr,
        "weight_decay": weight_decay,
        "lr_schedule": "cosine",
    }
    if weight_average is not None:
        plan["weight_average"] = weight_average
    return {
        "max_epochs": _epochs(n_cells) if max_epochs is None else max_epochs,
        "batch_size": batch_size,
        "plan_kwargs": plan,
        # The learning rate falls to zero over all epochs: a run is not cut short.
        "early_stopping": False,
        "refit": n_cells < REFIT_BELOW,
    }


def _epochs(n_cells: int) -> int:
    if n_cells < 5_000:
        return bounded_epochs(n_cells, cells=50_000, at_least=40, at_most=100)
    return bounded_epochs(n_cells, cells=200_000, at_least=8, at_most=40)


def small_reference_dropout(
    n_genes: int, *, dropout: float, dropout_of_many: float, genes_to_keep: int
) -> float:
    """Return the share of input genes that is hidden in training, by the number of genes.

    A panel of few genes cannot spare as many of them as a transcriptome can.

    Parameters
    ----------
    n_genes
        Number of genes.
    dropout
        Largest share for up to 5,000 genes.
    dropout_of_many
        Largest share for more.
    genes_to_keep
        About so many genes are left at least.

    Returns
    -------
    A share in [0, 1), rounded to three digits.
    """
    most = dropout_of_many if n_genes > MANY_GENES else dropout
    spared = 1.0 - genes_to_keep / max(n_genes, 1)
    return round(min(most, max(spared, 0.0)), 3)
