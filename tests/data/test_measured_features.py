"""Which features of another modality were measured in which cells."""

from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from episome.data import AnnDataSource, measured_features, pair_sources
from episome.errors import InputDataError


def source(values: np.ndarray, names: list[str] | None = None) -> AnnDataSource:
    obs = pd.DataFrame(index=names or [f"c{i}" for i in range(len(values))])
    var = pd.DataFrame(index=[f"P{i}" for i in range(values.shape[1])])
    return AnnDataSource(anndata.AnnData(values.astype(np.float32), obs=obs, var=var))


def table(values: np.ndarray, **kwargs) -> np.ndarray:
    """What is measured, cells by features."""
    found = measured_features(source(values), **kwargs)
    if found is None:
        return np.ones(values.shape, dtype=bool)
    return found.measured[found.codes]


def test_what_is_nan_was_not_measured():
    values = np.random.default_rng(0).poisson(3.0, (60, 5)).astype(float)
    values[:20, 1] = np.nan
    values[40:, 3:] = np.nan

    np.testing.assert_array_equal(table(values), ~np.isnan(values))
    assert measured_features(source(np.nan_to_num(values))) is None


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_any_patterns_of_nan_are_found(data):
    n, p = data.draw(st.integers(1, 30)), data.draw(st.integers(1, 6))
    patterns = data.draw(
        st.lists(st.lists(st.booleans(), min_size=p, max_size=p), min_size=1, max_size=4)
    )
    chosen = data.draw(st.lists(st.integers(0, len(patterns) - 1), min_size=n, max_size=n))
    missing = np.array(patterns)[chosen]
    values = np.where(missing, np.nan, 1.0 + np.arange(n)[:, None])

    np.testing.assert_array_equal(table(values), ~missing)


def test_a_feature_that_is_zero_in_a_batch_was_not_measured_where_others_have_it():
    rng = np.random.default_rng(0)
    values = rng.poisson(3.0, (200, 4)).astype(float)
    batches = np.repeat([0, 1], 100)
    values[batches == 1, 2] = 0
    # So rare that a batch may lack it by chance.
    values[:, 3] = 0
    values[:6, 3] = 1

    found = table(values, batches=batches)

    assert not found[batches == 1, 2].any()
    assert found[batches == 0].all()
    assert found[:, [0, 1, 3]].all()
    assert table(values).all()


def test_cells_without_the_modality_measured_nothing():
    values = np.ones((10, 3))
    present = np.arange(10) < 6

    wanted = np.repeat(present[:, None], 3, axis=1)
    np.testing.assert_array_equal(table(values, present=present), wanted)


def test_nan_anywhere_are_no_panels():
    rng = np.random.default_rng(0)
    values = np.where(rng.random((3000, 40)) < 0.3, np.nan, 1.0)

    with pytest.raises(InputDataError, match=r"hundreds of patterns.*E-D01"):
        measured_features(source(values))


def test_a_pair_keeps_the_cells_that_the_second_lacks():
    rng = np.random.default_rng(0)
    first, second = rng.poisson(2.0, (6, 3)), rng.poisson(2.0, (4, 2)) + 1
    pair = pair_sources(
        {
            "rna": source(first),
            "prot": source(second, ["c4", "c1", "elsewhere", "c0"]),
        },
        keep="first",
    )

    assert pair.n_obs == 6
    assert pair.present["prot"].tolist() == [True, True, False, False, True, False]
    found = pair.sources["prot"].read(np.array([4, 2, 0, 1])).toarray()
    np.testing.assert_array_equal(found, [second[0], [0, 0], second[3], second[1]])
    whole = pair.sources["prot"].read(slice(0, 6)).toarray()
    np.testing.assert_array_equal(whole[~pair.present["prot"]], 0)
    assert pair.sources["prot"].obs_names.tolist()[:2] == ["c0", "c1"]
    common = pair_sources({"rna": source(first), "prot": source(second, ["c4", "c1", "x", "c0"])})
    assert common.obs_names.tolist() == ["c0", "c1", "c4"]
    assert common.present == {}
