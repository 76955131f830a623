"""What a matrix holds, by a scan of all of it."""

from __future__ import annotations

import anndata
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from episome.data import (
    AnnDataSource,
    InputRule,
    check_values,
    doubtful_values,
    inspect_values,
    simulate_cells,
)
from episome.data._rule import query_kind
from episome.errors import InputDataError


def report_of(matrix):
    return inspect_values(
        AnnDataSource(anndata.AnnData(sparse.csr_matrix(np.asarray(matrix, dtype=np.float32))))
    )


def counts(n_cells=40, n_genes=12, seed=0):
    return np.random.default_rng(seed).poisson(2.0, (n_cells, n_genes)).astype(np.float32) + 1


def log1p(values, target=1e4):
    return np.log1p(values / values.sum(1, keepdims=True) * target)


def test_counts_are_counts():
    report = report_of(counts())

    assert report.kind == "counts"
    assert report.n_fractional == 0
    assert check_values(report) == check_values(report, "counts") == "counts"


def test_log1p_is_proven_by_equal_row_sums():
    report = report_of(log1p(counts(), 5e3))

    assert report.kind == "log1p"
    assert report.expm1_row_sum == pytest.approx(5e3, rel=1e-3)
    assert "expm1 of every cell sums to 5000" in report.evidence


def test_log1p_without_equal_row_sums_is_not_proven():
    values = log1p(counts())
    values[3] *= 1.1

    report = report_of(values)

    assert report.kind == "log1p"
    assert report.expm1_row_sum is None


def test_counts_before_log1p_values_spoil_the_proof():
    # 20,000 cells are read in two blocks, the first of which holds integers only
    values = np.tile(log1p(counts(1)), (20_000, 1))
    values[:16_384] = counts(1)

    assert report_of(values).expm1_row_sum is None


def test_log1p_given_as_counts_is_refused_with_the_evidence():
    with pytest.raises(
        InputDataError, match=r'values are not integers.*input_kind="log1p".*E-D07'
    ):
        check_values(report_of(log1p(counts())), "counts")


def codes(report, **kwargs):
    return [p.code for p in doubtful_values(report, **kwargs)]


def test_fractional_counts_are_counts_with_a_word():
    report = report_of(counts() * np.linspace(20, 31, 40)[:, None] + 0.25)

    assert report.kind == "fractional"
    assert check_values(report) == "counts"
    assert codes(report) == ["E-D10"]
    assert codes(report, allow_fractional=True) == []
    assert "allow_fractional=True" in doubtful_values(report)[0].fix


def test_good_counts_and_log1p_are_not_doubted():
    assert codes(report_of(counts())) == []
    assert codes(report_of(log1p(counts()))) == []


def test_integers_of_one_sum_were_rescaled():
    values = np.full((30, 12), 100)
    values[:, 0] += np.arange(30)
    values[:, 1] -= np.arange(30)

    assert codes(report_of(values)) == ["E-D09"]
    assert report_of(values).form == "normalised"


def test_normalised_values_without_a_logarithm_say_that_cells_have_one_sum():
    values = counts() / counts().sum(1, keepdims=True) * 1e4

    report = report_of(values)

    assert report.form == "normalised"
    assert "every cell sums to 10000" in report.evidence


def test_log1p_of_log1p_is_doubted():
    report = report_of(np.log1p(log1p(counts())))

    assert codes(report) == ["E-D11"]
    assert report.form == "log1p twice"


def test_a_proven_logarithm_of_small_sums_is_not_doubted():
    assert codes(report_of(log1p(counts(), 10))) == []


def test_cells_without_counts_are_counted_as_doubtful():
    values = counts()
    values[:3] = 0

    (problem,) = doubtful_values(report_of(values))

    assert (problem.code, problem.count, problem.total) == ("E-D12", 3, 40)


def test_presence_alone_is_doubted():
    report = report_of(counts() > 2)

    assert codes(report) == ["E-D15"]
    assert report.form == "binary"


@pytest.mark.parametrize(
    ("dtype", "value", "wanted"),
    [
        (np.float16, 2048, ["E-D16"]),
        (np.float16, 2047, []),
        (np.uint8, 255, ["E-D17"]),
        (np.uint8, 254, []),
        (np.uint16, 65535, ["E-D17"]),
        (np.float32, 2**24 + 2, ["E-D18"]),
        (np.float32, 2**24, []),
        (np.int64, 2**25, ["E-D18"]),
    ],
)
def test_what_a_type_cannot_hold_is_doubted(dtype, value, wanted):
    values = counts().astype(dtype)
    values[0, 0] = value

    report = inspect_values(AnnDataSource(anndata.AnnData(values)))

    assert codes(report) == wanted


def test_empty_cells_are_counted_and_leave_the_proof_alone():
    values = log1p(counts())
    values[[0, 7]] = 0

    report = report_of(values)

    assert report.n_empty_cells == 2
    assert report.expm1_row_sum is not None


def test_a_matrix_of_zeros_is_refused():
    with pytest.raises(InputDataError, match=r"40 of 40.*E-D13"):
        check_values(report_of(counts() * 0))


@pytest.mark.parametrize(
    ("value", "code"), [(np.nan, "E-D01"), (np.inf, "E-D03"), (-np.inf, "E-D03"), (-1, "E-D04")]
)
@pytest.mark.parametrize("row", [0, 19_999])
def test_one_bad_value_anywhere_is_found_and_named(value, code, row):
    values = np.ones((20_000, 3), dtype=np.float32)
    values[row, 1] = value

    with pytest.raises(InputDataError) as caught:
        check_values(report_of(values))

    assert [p.code for p in caught.value.problems] == [code]
    assert f"first: cell {row} gene 1 = {value:g}" in str(caught.value)
    assert caught.value.problems[0].count == 1


def test_every_kind_of_bad_value_is_reported_at_once():
    values = counts()
    values[0, 0], values[1, 1], values[2, 2] = np.nan, np.inf, -3

    with pytest.raises(InputDataError) as caught:
        check_values(report_of(values))

    assert [p.code for p in caught.value.problems] == ["E-D01", "E-D03", "E-D04"]


def test_a_stored_nan_of_a_sparse_matrix_is_found():
    matrix = sparse.csr_matrix(np.eye(5, dtype=np.float32))
    matrix.data[4] = np.nan

    assert inspect_values(AnnDataSource(anndata.AnnData(matrix))).n_nan == 1


@given(st.integers(0, 1000), st.booleans())
def test_report_does_not_depend_on_the_order_of_cells(seed, logged):
    values = log1p(counts(seed=seed)) if logged else counts(seed=seed)
    order = np.random.default_rng(seed).permutation(len(values))

    first, second = report_of(values), report_of(values[order])

    assert first.kind == second.kind == ("log1p" if logged else "counts")
    assert first.n_fractional == second.n_fractional
    assert first.expm1_row_sum == pytest.approx(second.expm1_row_sum) if logged else True


def test_log_values_of_another_scale_are_brought_to_the_models():
    counts = simulate_cells(30, 20, depth=500.0).X.toarray()
    shares = counts / counts.sum(axis=1, keepdims=True)
    rule = InputRule("log1p", target_sum=1e4)

    def kind(scale):
        values = np.log1p(scale * shares).astype(np.float32)
        adata = anndata.AnnData(sparse.csr_matrix(values))
        return query_kind(rule, inspect_values(AnnDataSource(adata)))

    same, other = kind(1e4), kind(1e6)

    assert not same.unlog
    assert not same.normalise
    assert other.unlog
    assert other.normalise
    assert "from a scale of 1e+06 to the model's 10000" in other.note
