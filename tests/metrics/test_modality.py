"""Scores of a predicted modality, against scipy, scikit-learn and recorded ones."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse, stats
from sklearn.metrics import r2_score, roc_auc_score

from episome.errors import UsageError
from episome.metrics import (
    ModalityScores,
    cell_scores,
    difficult_features,
    feature_scores,
    modality_scores,
)
from episome.metrics import _modality as modality


def matrices(seed: int, n: int = 23, width: int = 9, holes: float = 0.0):
    """Predicted and measured values, some of them tied; one constant feature and one cell."""
    rng = np.random.default_rng(seed)
    measured = rng.poisson(rng.gamma(1.0, 4.0, width), (n, width)).astype(float)
    measured[:, 0] = 3.0
    measured[1] = 3.0
    predicted = np.round(np.log1p(measured) + rng.normal(0, 0.7, (n, width)), 1)
    predicted[:, 2] = 0.5
    predicted[3] = 0.5
    measured[rng.random((n, width)) < holes] = np.nan
    return predicted, measured


def by_hand(said, true, kind):
    """Score of one vector by scipy, by the documented rules."""
    known = ~np.isnan(true)
    said, true = said[known], true[known]
    if kind == "mse":
        return ((said - true) ** 2).mean() if len(true) else np.nan
    if len(true) == 0 or np.ptp(true) == 0:
        return np.nan
    if np.ptp(said) == 0:
        return 0.0
    return getattr(stats, f"{kind}r")(said, true).statistic


@given(seed=st.integers(0, 10_000), holes=st.sampled_from([0.0, 0.2, 0.7]))
def test_the_three_ways_are_those_of_scipy(seed, holes):
    predicted, measured = matrices(seed, holes=holes)

    found = modality_scores(predicted, measured)

    for kind in ("pearson", "spearman", "mse"):
        cells = [by_hand(p, t, kind) for p, t in zip(predicted, measured, strict=True)]
        features = [by_hand(p, t, kind) for p, t in zip(predicted.T, measured.T, strict=True)]
        flat = by_hand(predicted.ravel(), measured.ravel(), kind)
        assert found[f"{kind}_cells"] == pytest.approx(np.nanmean(cells), abs=1e-9)
        assert found[f"{kind}_features"] == pytest.approx(np.nanmean(features), abs=1e-9)
        assert found[f"{kind}_flat"] == pytest.approx(flat, abs=1e-9)
        if kind == "pearson":
            assert found["n_constant_cells"] == np.isnan(cells).sum()
            assert found["n_constant_features"] == np.isnan(features).sum()
    assert found["n_not_measured"] == np.isnan(measured).sum()
    assert (found["n_cells"], found["n_features"]) == measured.shape


@given(seed=st.integers(0, 10_000), cuts=st.lists(st.integers(0, 23), max_size=5))
def test_blocks_of_cells_add_up_to_the_whole(seed, cuts):
    predicted, measured = matrices(seed, holes=0.1)
    # Differences that are small beside the values must not cancel.
    predicted, measured = predicted + 1e6, measured + 1e6
    ends = [0, *sorted(cuts), len(measured)]
    streamed = ModalityScores(measured.shape[1])

    for start, end in zip(ends, ends[1:], strict=False):
        streamed.add(predicted[start:end], measured[start:end])

    wanted = modality_scores(predicted, measured)
    same = pytest.approx({k: wanted[k] for k in streamed.scores}, abs=1e-9, nan_ok=True)
    assert streamed.scores == same
    assert set(wanted) - set(streamed.scores) == {"spearman_features", "spearman_flat", "auroc"}


@given(seed=st.integers(0, 10_000), entries=st.integers(1, 60))
def test_sparse_matrices_in_any_blocks_give_what_dense_ones_do(seed, entries):
    predicted, measured = matrices(seed)
    wanted, table = modality_scores(predicted, measured), feature_scores(predicted, measured)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(modality, "ENTRIES", entries)
        for kind in (sparse.csr_matrix, sparse.csc_matrix, sparse.csr_array):
            assert modality_scores(predicted, kind(measured)) == pytest.approx(
                wanted, abs=1e-9, nan_ok=True
            )
        blocked = feature_scores(sparse.csr_matrix(predicted), sparse.csr_matrix(measured))
        pd.testing.assert_frame_equal(blocked, table, check_exact=False, rtol=1e-9, atol=1e-9)


def test_a_sparse_matrix_is_never_dense_as_a_whole(monkeypatch):
    predicted, measured = matrices(0, n=200)
    monkeypatch.setattr(modality, "ENTRIES", 90)
    largest = [0]
    plain = sparse.csr_matrix.toarray

    def toarray(self, *args, **kwargs):
        largest[0] = max(largest[0], self.shape[0] * self.shape[1])
        return plain(self, *args, **kwargs)

    monkeypatch.setattr(sparse.csr_matrix, "toarray", toarray)
    monkeypatch.setattr(sparse.csc_matrix, "toarray", toarray)
    modality_scores(predicted, sparse.csr_matrix(measured))

    # A column of 200 cells is the least that ranks need.
    assert largest[0] == 200


def test_scores_are_the_recorded_ones_of_the_study(golden):
    case = golden("10b_evaluation_metrics")
    predicted, observed = case["proteins_predicted"], case["proteins_observed"]

    cells, found = cell_scores(predicted, observed), modality_scores(predicted, observed)

    for kind in ("pearson", "spearman", "mse"):
        case.check(f"proteins/{kind}_per_cell", cells[kind].to_numpy())
        case.check(f"proteins/{kind}_flat", np.array(found[f"{kind}_flat"]))
        assert found[f"{kind}_cells"] == pytest.approx(cells[kind].mean())


def test_the_mean_of_every_feature_scores_by_cell_and_not_by_feature():
    rng = np.random.default_rng(0)
    mean = np.array([0.5, 2.0, 4.0, 6.0])
    measured = mean + rng.normal(0, 0.5, (100, 4))

    found = modality_scores(np.broadcast_to(mean, measured.shape), measured)

    assert found["pearson_features"] == found["spearman_features"] == 0.0
    assert found["pearson_cells"] > 0.9
    assert found["pearson_flat"] > 0.9
    assert found["n_constant_features"] == 0


@given(seed=st.integers(0, 1000))
def test_shuffled_cells_have_no_correlation_by_feature(seed):
    rng = np.random.default_rng(seed)
    measured = rng.normal(size=(2000, 5)) + np.arange(5)
    shuffled = measured[rng.permutation(2000)]

    found = modality_scores(shuffled, measured)

    assert abs(found["pearson_features"]) < 0.06
    assert abs(found["spearman_features"]) < 0.06
    assert found["pearson_flat"] > 0.5


@given(seed=st.integers(0, 1000))
def test_auroc_is_that_of_scikit_learn(seed):
    predicted, measured = matrices(seed, n=40)
    there = measured > 0
    mixed = there.any(axis=0) & ~there.all(axis=0)

    found = feature_scores(predicted, measured)["auroc"].to_numpy()

    assert (np.isfinite(found) == mixed).all()
    for j in np.flatnonzero(mixed):
        assert found[j] == pytest.approx(roc_auc_score(there[:, j], predicted[:, j]))


def test_negative_values_have_no_auroc():
    predicted, measured = matrices(0)

    assert np.isnan(modality_scores(predicted, measured - 1.0)["auroc"])


def test_the_table_of_features_by_hand():
    predicted, measured = matrices(0, n=60, holes=0.1)
    names = [f"CD{i}" for i in range(9)]

    table = feature_scores(predicted, measured, names)

    assert list(table.index) == names
    for j, name in enumerate(names):
        known = ~np.isnan(measured[:, j])
        said, true, row = predicted[known, j], measured[known, j], table.loc[name]
        assert row["n_cells"] == known.sum()
        assert row["mean"] == pytest.approx(true.mean())
        assert row["sd"] == pytest.approx(true.std(ddof=1))
        assert row["share_nonzero"] == pytest.approx((true != 0).mean())
        assert row["mse"] == pytest.approx(((said - true) ** 2).mean())
        if j == 0 and np.ptp(true) == 0:
            assert row[["pearson", "spearman", "r2"]].isna().all()
        elif j != 2:
            interval = stats.pearsonr(said, true).confidence_interval()
            assert row["pearson_low"] == pytest.approx(interval.low)
            assert row["pearson_high"] == pytest.approx(interval.high)
            assert row["r2"] == pytest.approx(r2_score(true, said))
    assert (table.loc["CD2", "pearson"], table.loc["CD2", "status"]) == (0.0, "not predictable")


def test_every_status_is_given():
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(400, 5))
    predicted = truth.copy()
    truth[:, 1] = 0.2 * truth[:, 1] + rng.normal(size=400)  # r of 0.2
    truth[:, 2] = rng.normal(size=400)
    truth[:, 3] = 7.0
    truth[9:, 4] = np.nan

    table = feature_scores(predicted, truth)

    wanted = ["predictable", "weak", "not predictable", "constant", "too few cells"]
    assert list(table["status"]) == wanted
    assert table.loc[0, ["pearson_low", "pearson_high"]].tolist() == pytest.approx([1.0, 1.0])


def test_three_cells_leave_everything_open():
    table = feature_scores(np.array([[0.0], [1], [3]]), np.array([[0.0], [2], [3]]))

    assert (table.loc[0, "pearson_low"], table.loc[0, "pearson_high"]) == (-1.0, 1.0)


def test_cells_without_a_prediction_are_counted_and_left_out():
    predicted, measured = matrices(0)
    kept = np.arange(len(measured)) != 5
    with_hole = predicted.copy()
    with_hole[5] = np.nan

    found = modality_scores(with_hole, measured)
    wanted = modality_scores(predicted[kept], measured[kept])

    assert found["n_not_predicted"] == 9
    for name in ("pearson_features", "spearman_flat", "mse_cells", "auroc"):
        assert found[name] == pytest.approx(wanted[name])


def test_large_matrices_are_ranked_by_drawn_entries(monkeypatch):
    predicted, measured = matrices(0, n=400)
    whole = modality_scores(predicted, measured)["spearman_flat"]
    monkeypatch.setattr(modality, "RANKED", 2000)
    monkeypatch.setattr(modality, "ENTRIES", 500)

    drawn = modality_scores(predicted, measured)["spearman_flat"]

    assert drawn != whole
    assert drawn == pytest.approx(whole, abs=0.05)
    assert drawn == modality_scores(predicted, measured)["spearman_flat"]


def test_difficult_features_are_those_that_no_model_predicts():
    names = ["easy", "for one", "for none", "constant"]
    first = pd.DataFrame({"pearson": [0.95, 0.95, 0.5, np.nan]}, index=names)
    second = pd.DataFrame({"pearson": [0.92, 0.3, 0.8, np.nan]}, index=names)

    found = difficult_features({"a": first, "b": second.iloc[::-1]})

    assert list(found) == ["for none"]
    assert list(difficult_features([first, second], below=0.7)) == []
    with pytest.raises(UsageError, match="not the same.*E-U45"):
        difficult_features([first, second.iloc[:2]])
    with pytest.raises(UsageError, match="no tables.*E-U43"):
        difficult_features([])


@pytest.mark.parametrize(
    ("predicted", "measured", "match"),
    [
        (
            np.zeros((3, 2)),
            np.zeros((2, 3)),
            r"is \(3, 2\) and measured \(2, 3\).*E-U41",
        ),
        (np.zeros(3), np.zeros(3), "E-U41"),
        (np.zeros((0, 2)), np.zeros((0, 2)), "nothing to score.*E-U43"),
        (np.zeros((2, 1)), np.array([[np.inf], [1.0]]), "infinite values were measured.*E-U44"),
    ],
)
def test_what_cannot_be_scored_is_refused(predicted, measured, match):
    for function in (modality_scores, feature_scores, cell_scores):
        with pytest.raises(UsageError, match=match):
            function(predicted, measured)


def test_names_and_widths_have_to_fit():
    with pytest.raises(UsageError, match=r"1 names for 2 features.*E-U41"):
        feature_scores(np.eye(2), np.eye(2), ["a"])
    with pytest.raises(UsageError, match=r"3 features are expected.*E-U41"):
        ModalityScores(3).add(np.eye(2), np.eye(2))
