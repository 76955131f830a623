"""`annotate` with a prefix, the columns of the schema and the vote of clusters."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from episome.errors import UsageError
from episome.inference import CALL_COLUMNS, VOTE_COLUMNS, cluster_votes
from episome.io import SCHEMA_COLUMNS
from episome.testing import fingerprint


@pytest.fixture
def clustered(query):
    query.obs["leiden"] = pd.Categorical((np.arange(query.n_obs) % 4).astype(str))
    query.obs.iloc[:3, query.obs.columns.get_loc("leiden")] = None
    return query


def test_columns_are_those_that_were_asked_for(model, clustered):
    before = fingerprint(clustered)

    found = model.annotate(clustered, prefix="mine_", cellxgene=True, cluster_key="leiden")

    names = [f"mine_{c}" for c in (*CALL_COLUMNS, *VOTE_COLUMNS)]
    assert list(found.columns) == [*names, *SCHEMA_COLUMNS]
    plain = model.annotate(clustered)
    assert list(plain.columns) == list(CALL_COLUMNS)
    pd.testing.assert_frame_equal(plain.add_prefix("mine_"), found[names[: len(CALL_COLUMNS)]])
    assert fingerprint(clustered) == before


def test_votes_are_those_of_the_calls_whatever_the_batches(model, clustered):
    whole = model.annotate(clustered, cluster_key="leiden")
    wanted = cluster_votes(whole["label"], clustered.obs["leiden"], classes=model.labels.names)

    pd.testing.assert_frame_equal(whole[list(VOTE_COLUMNS)], wanted)
    pd.testing.assert_frame_equal(
        model.annotate(clustered, cluster_key="leiden", batch_size=7), whole
    )
    assert whole["cluster_label"].iloc[:3].tolist() == [""] * 3


def test_chosen_rows_vote_among_themselves(model, clustered):
    rows = np.arange(10, 30)

    found = model.annotate(clustered, cluster_key="leiden", indices=rows)

    alone = model.annotate(clustered[rows].copy(), cluster_key="leiden")
    pd.testing.assert_frame_equal(found, alone)


def test_filtered_calls_have_no_vote_and_no_type(model, clustered):
    found = model.annotate(clustered, min_confidence=1.0, cluster_key="leiden", cellxgene=True)

    lost = found["status"] == "ambiguous"
    assert lost.any()
    assert (found["cell_type"][lost] == "unknown").all()
    assert (found["cell_type_ontology_term_id"][lost] == "unknown").all()


def test_repeated_cell_names_keep_their_order(model, clustered):
    twice = clustered[np.repeat(np.arange(20), 2)].copy()

    found = model.annotate(twice, cluster_key="leiden", cellxgene=True)

    assert found.index.tolist() == twice.obs_names.tolist()
    assert (found.iloc[::2].to_numpy() == found.iloc[1::2].to_numpy()).mean() > 0.7
    assert found["label"].iloc[::2].tolist() == found["label"].iloc[1::2].tolist()


def test_a_column_that_is_not_there_is_named(model, query):
    with pytest.raises(UsageError, match=r"louvain.*E-U04"):
        model.annotate(query, cluster_key="louvain")
