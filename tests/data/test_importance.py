"""Weights of genes: what a query without some of them loses, and when it is refused."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from episome.data import FeatureSpace, GeneImportance
from episome.errors import EpisomeWarning, GeneMatchError, ModelFileError

GENES = ("A", "B", "C", "D", "E", "F", "G", "H")


def table(names) -> pd.DataFrame:
    return pd.DataFrame(index=pd.Index(list(names), dtype=object))


def weights(**rows) -> GeneImportance:
    """Weights of a few genes by class; the others weigh nothing."""
    totals = np.zeros((len(rows), len(GENES)))
    for row, genes in enumerate(rows.values()):
        for gene, weight in genes.items():
            totals[row, GENES.index(gene)] = weight
    return GeneImportance.of(totals, tuple(rows))


def test_shares_sum_to_one_for_every_class_that_is_known():
    found = weights(T={"A": 3, "B": 1}, unseen={})

    assert found.weights.dtype == np.float32
    assert found.weights.sum(axis=1).tolist() == [1.0, 0.0]


def test_what_is_lost_is_said_by_class_and_the_worst_is_first():
    found = weights(T={"A": 3, "B": 1}, B={"C": 1}, NK={"A": 1, "C": 1}, unseen={})
    has_a = np.array([g != "A" for g in GENES])

    lost = found.lost(has_a)

    assert list(lost) == ["T", "NK", "B"]
    assert list(lost.values()) == [0.75, 0.5, 0.0]


def test_many_genes_without_those_that_matter_are_refused_with_the_types_that_lose_most():
    heavy = weights(T={"A": 9, "B": 1}, B={"A": 6, "C": 4})

    with pytest.raises(GeneMatchError, match=r"25% of the model's weight; .* T 90%, B 60%"):
        FeatureSpace(GENES).align(table(GENES[1:]), importance=heavy)


def test_the_limit_is_the_one_of_genes():
    heavy = weights(T={"A": 9, "B": 1}, B={"A": 6, "C": 4})

    with pytest.warns(EpisomeWarning, match=r"88% of the model's genes with 25% of its weight"):
        found = FeatureSpace(GENES).align(
            table(GENES[1:]), importance=heavy, min_gene_overlap=0.25
        )

    assert found.report.weight == pytest.approx(0.25)
    assert found.report.lost == pytest.approx({"T": 0.9, "B": 0.6})
    assert "75.0% of the model's weight (most: T 90%, B 60%)" in found.report.text


def test_genes_that_weigh_nothing_may_be_missing_up_to_the_share_of_genes():
    light = weights(T={"A": 1}, B={"B": 1})

    with pytest.warns(EpisomeWarning, match=r"50% of the model's genes with 100% of its weight"):
        FeatureSpace(GENES).align(table(GENES[:4]), importance=light)
    with pytest.raises(GeneMatchError, match="E-G03"):
        FeatureSpace(GENES).align(table(GENES[:3]), importance=light)


def test_without_weights_the_report_has_none():
    report = FeatureSpace(GENES).align(table(GENES)).report

    assert report.weight is None
    assert report.lost is None


@pytest.mark.parametrize(
    "table",
    [np.full((2, 3), 0.5, np.float32), np.array([[-1.0, 2.0]]), np.array([[np.nan, 1.0]])],
)
def test_tables_of_a_folder_that_are_no_shares_are_refused(table):
    with pytest.raises(ModelFileError, match="E-M06"):
        GeneImportance(table, ("T",)).require_shape(1, 2)
