"""Batches of cells, and how the values of a query reach a model's scale."""

from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from episome.data import CellLoader, FeatureSpace, InputRule, prepare_query
from episome.data import _keys as keys
from episome.errors import InputDataError, UsageError
from episome.nn import host_batch, normalized_batch

GENES = tuple(f"G{i}" for i in range(20))
SPACE = FeatureSpace(GENES)
COUNTS = np.random.default_rng(0).poisson(1.0, (50, 26)).astype(np.float32) + np.eye(
    50, 26, dtype=np.float32
)
NAMES = [*GENES, *(f"EXTRA{i}" for i in range(6))]


def cells(values=COUNTS, names=NAMES):
    return anndata.AnnData(sparse.csr_matrix(values), var=pd.DataFrame(index=list(names)))


def scaled(values, target=1e4):
    return values / values.sum(1, keepdims=True) * target


def inputs(query) -> np.ndarray:
    """What a core would see of the whole query."""
    batch = query.loader(batch_size=len(COUNTS)).batch(np.arange(query.source.n_obs))
    ready = normalized_batch(
        host_batch(batch), target_sum=query.rule.target_sum, n_features=len(GENES)
    )
    return ready["X"].numpy()


# -- kinds of values -----------------------------------------------------------------------------


@pytest.mark.parametrize("size_factor", ["model_genes", "all_genes"])
def test_counts_are_scaled_over_the_genes_of_the_rule(size_factor):
    genes = COUNTS if size_factor == "all_genes" else COUNTS[:, :20]
    wanted = np.log1p(COUNTS[:, :20] / genes.sum(1, keepdims=True) * 1e4)

    got = inputs(prepare_query(cells(), SPACE, InputRule("counts", size_factor)))

    np.testing.assert_allclose(got, wanted, rtol=1e-5)


def test_extra_genes_change_nothing_with_the_models_genes_as_library():
    rule = InputRule("counts", "model_genes")

    narrow = inputs(prepare_query(cells(COUNTS[:, :20], GENES), SPACE, rule))

    assert np.array_equal(inputs(prepare_query(cells(), SPACE, rule)), narrow)


@pytest.mark.parametrize("size_factor", ["model_genes", "all_genes"])
def test_log1p_turned_back_equals_the_counts(size_factor):
    rule = InputRule("counts", size_factor)
    logged = cells(np.log1p(scaled(COUNTS, 3e3)))

    query = prepare_query(logged, SPACE, rule)

    assert query.kind.unlog
    assert "turned back" in query.notes[1]
    np.testing.assert_allclose(
        inputs(query), inputs(prepare_query(cells(), SPACE, rule)), rtol=1e-4, atol=1e-5
    )


def test_log1p_that_cannot_be_turned_back_is_refused():
    logged = np.log1p(scaled(COUNTS))
    logged[4] *= 0.9

    with pytest.raises(InputDataError, match=r"the sums of expm1 differ.*use_raw=True.*E-D07"):
        prepare_query(cells(logged), SPACE, InputRule("counts"))


def test_log1p_model_takes_log1p_values_as_they_are():
    logged = np.log1p(scaled(COUNTS)).astype(np.float32)

    query = prepare_query(cells(logged), SPACE, InputRule("log1p"))

    assert np.array_equal(inputs(query), logged[:, :20])
    assert "size_factor" not in next(iter(query.loader()))


def test_log1p_model_brings_counts_to_its_scale_over_all_genes():
    rule = InputRule("log1p", "model_genes", 2e3)
    wanted = np.log1p(scaled(COUNTS, 2e3))[:, :20]

    np.testing.assert_allclose(inputs(prepare_query(cells(), SPACE, rule)), wanted, rtol=1e-5)


def test_what_the_caller_says_is_checked():
    with pytest.raises(InputDataError, match="E-D07"):
        prepare_query(
            cells(np.log1p(scaled(COUNTS))), SPACE, InputRule("counts"), input_kind="counts"
        )
    with pytest.raises(UsageError, match=r"input_kind='raw'.*\"log1p\".*E-U30"):
        prepare_query(cells(), SPACE, InputRule("counts"), input_kind="raw")


def test_small_counts_given_as_log1p_are_taken_at_the_callers_word():
    query = prepare_query(cells(), SPACE, InputRule("log1p"), input_kind="log1p")

    assert np.array_equal(inputs(query), COUNTS[:, :20])


def test_an_empty_query_needs_no_values():
    query = prepare_query(cells()[:0], SPACE, InputRule("counts"))

    assert list(query.loader()) == []


def test_a_query_of_another_type_is_refused():
    with pytest.raises(UsageError, match=r"cells cannot be read from a DataFrame.*E-U07"):
        prepare_query(pd.DataFrame(), SPACE, InputRule("counts"))


# -- batches -------------------------------------------------------------------------------------


def loader(**kwargs) -> CellLoader:
    query = prepare_query(cells(), SPACE, InputRule("counts"))
    return CellLoader(query.source, query.alignment, rule=query.rule, kind=query.kind, **kwargs)


def order_of(batches) -> list[int]:
    return [int(r) for batch in batches for r in batch["ind_x"]]


def test_batch_keys_are_those_of_scvi_tools():
    from scvi import REGISTRY_KEYS

    assert keys.X_KEY == REGISTRY_KEYS.X_KEY
    assert keys.LABELS_KEY == REGISTRY_KEYS.LABELS_KEY
    assert keys.BATCH_KEY == REGISTRY_KEYS.BATCH_KEY
    assert keys.INDICES_KEY == REGISTRY_KEYS.INDICES_KEY
    assert keys.SIZE_FACTOR_KEY == REGISTRY_KEYS.SIZE_FACTOR_KEY


def test_batches_hold_the_rows_that_they_name():
    labels = np.arange(50) * 2

    for batch in loader(labels=labels, batch_size=7, shuffle=True):
        rows = batch["ind_x"]
        assert np.array_equal(batch["X"].toarray(), COUNTS[rows, :20])
        assert np.array_equal(batch["labels"], labels[rows])
        np.testing.assert_allclose(batch["size_factor"], COUNTS[rows, :20].sum(1))


def test_without_shuffling_the_order_is_the_sources():
    batches = list(loader(batch_size=20))

    assert order_of(batches) == list(range(50))
    assert [len(b["ind_x"]) for b in batches] == [20, 20, 10]


def test_shuffled_order_follows_seed_and_epoch():
    first, again, other = (loader(shuffle=True, seed=s, batch_size=8) for s in (0, 0, 1))

    assert order_of(first) == order_of(again) != order_of(other)
    assert sorted(order_of(first)) == list(range(50))
    again.set_epoch(1)
    assert order_of(first) != order_of(again)
    again.set_epoch(0)
    assert order_of(first) == order_of(again)


@pytest.mark.parametrize(
    ("n", "drop_last", "sizes"),
    [(50, True, [20, 20]), (50, False, [20, 20, 10]), (40, True, [20, 20]), (7, True, [7])],
)
def test_drop_last_leaves_out_a_smaller_batch_but_never_the_only_one(n, drop_last, sizes):
    found = loader(rows=np.arange(n), batch_size=20, drop_last=drop_last)

    assert [len(b["ind_x"]) for b in found] == sizes
    assert len(found) == len(sizes)


def test_only_the_chosen_rows_are_visited():
    rows = np.array([9, 3, 30])

    assert order_of(loader(rows=rows)) == [9, 3, 30]


# -- going on ------------------------------------------------------------------------------------


@pytest.mark.parametrize("shuffle", [True, False])
def test_an_epoch_goes_on_with_the_next_batch(shuffle):
    whole = order_of(loader(batch_size=8, shuffle=shuffle))
    left = loader(batch_size=8, shuffle=shuffle)
    batches = iter(left)
    done = [next(batches) for _ in range(3)]
    state = left.state_dict()

    other = loader(batch_size=8, shuffle=shuffle)
    other.load_state_dict(state)

    assert state == {"epoch": 0, "batches": 3}
    assert order_of(done) + order_of(other) == whole
    assert len(other) == 7  # of an epoch, however much of it is done
    assert order_of(other) == whole  # the next iteration is a whole one again


def test_a_state_of_a_later_epoch_has_its_order():
    first = loader(batch_size=8, shuffle=True)
    first.set_epoch(4)
    whole = order_of(first)

    other = loader(batch_size=8, shuffle=True)
    other.load_state_dict({"epoch": 4, "batches": 2})

    assert order_of(other) == whole[16:]
