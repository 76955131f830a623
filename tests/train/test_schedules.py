"""Settings of small references."""

from __future__ import annotations

import pytest

from episome.train import (
    bounded_epochs,
    check_plan_kwargs,
    small_reference_dropout,
    small_reference_training,
)


@pytest.mark.parametrize(("n_cells", "epochs"), [(0, 9), (100, 9), (250, 4), (400, 2), (10**6, 2)])
def test_bounded_epochs_see_as_many_cells_as_they_are_told(n_cells, epochs):
    assert bounded_epochs(n_cells, cells=1_000, at_least=2, at_most=9) == epochs


@pytest.mark.parametrize(
    ("n_cells", "epochs"),
    [(0, 100), (1, 100), (500, 100), (800, 62), (1_250, 40), (4_999, 40), (5_000, 40),
     (10_000, 20), (20_000, 10), (25_000, 8), (10**6, 8)],
)  # fmt: skip
def test_epochs_of_small_references_follow_the_number_of_cells(n_cells, epochs):
    found = small_reference_training(n_cells, batch_size=64, lr=1e-2, weight_decay=0.05)

    assert found["max_epochs"] == epochs


def test_training_of_small_references_is_what_it_is_told():
    found = small_reference_training(
        19_999, batch_size=64, lr=1e-2, weight_decay=0.05, weight_average=0.99, max_epochs=7
    )

    assert found == {
        "max_epochs": 7,
        "batch_size": 64,
        "plan_kwargs": {
            "lr": 1e-2,
            "weight_decay": 0.05,
            "lr_schedule": "cosine",
            "weight_average": 0.99,
        },
        "early_stopping": False,
        "refit": True,
    }
    check_plan_kwargs(found["plan_kwargs"])


def test_training_without_average_does_not_name_it_and_large_references_are_not_refitted():
    found = small_reference_training(20_000, batch_size=128, lr=1e-3, weight_decay=1.0)

    assert found["plan_kwargs"] == {"lr": 1e-3, "weight_decay": 1.0, "lr_schedule": "cosine"}
    assert (found["batch_size"], found["refit"]) == (128, False)


@pytest.mark.parametrize(
    ("n_genes", "dropout"),
    [(0, 0.0), (150, 0.0), (151, 0.007), (300, 0.5), (499, 0.699), (500, 0.7), (5_000, 0.7),
     (5_001, 0.85), (60_000, 0.85)],
)  # fmt: skip
def test_dropout_spares_the_genes_of_a_panel(n_genes, dropout):
    found = small_reference_dropout(n_genes, dropout=0.7, dropout_of_many=0.85, genes_to_keep=150)

    assert found == dropout


def test_a_transcriptome_of_which_many_genes_are_kept_spares_them_too():
    assert small_reference_dropout(
        6_000, dropout=0.7, dropout_of_many=0.85, genes_to_keep=3_000
    ) == pytest.approx(0.5)
