"""Labels read off embeddings: the same votes for every model, and nothing learned of the query."""

from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import pytest

from episome import get_model
from episome.errors import LabelError, UsageError
from episome.models import LabelTransfer, label_transfer

#: Five cells of three types on a line.
SPACE = np.array([[0.0], [1.0], [2.0], [10.0], [11.0]])
LABELS = np.array(["a", "a", "b", "b", "c"])


def called(query, **options) -> list[str]:
    names = pd.Index([f"q{i}" for i in range(len(query))])
    return list(LabelTransfer(SPACE, LABELS, **options).calls(np.array(query), names)["label"])


# --- by hand -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("k", "wanted"),
    [
        (1, ["a", "b", "c"]),
        (3, ["a", "a", "b"]),  # the last has one c, then b at 10 and at 2
        (5, ["a", "a", "b"]),  # two a and two b: the nearest of them decides
    ],
)
def test_votes_of_few_cells_by_hand(k, wanted):
    assert called([[0.2], [1.6], [11.4]], k=k) == wanted


def test_shares_are_those_of_the_votes():
    votes = LabelTransfer(SPACE, LABELS, k=3)

    found = votes.calls(np.array([[0.2], [11.4]]), pd.Index(["x", "y"]))

    assert votes.classes == ("a", "b", "c")
    np.testing.assert_allclose(found["confidence"], [2 / 3, 2 / 3], atol=1e-5)
    assert list(found.index) == ["x", "y"]
    np.testing.assert_allclose(votes.shares(np.array([[11.4]])), [[0, 2 / 3, 1 / 3]], atol=1e-5)


def test_no_nearest_cell_is_left_out():
    """The published code drops the nearest, as if it were the cell itself."""
    reference = np.array([[0.0], [0.1], [5.0], [5.1]])
    labels = np.array(["near", "other", "far", "far"])

    votes = LabelTransfer(reference, labels, k=1)

    assert list(votes.calls(np.array([[0.01]]), pd.Index(["q"]))["label"]) == ["near"]


@pytest.mark.parametrize("turned", [False, True])
def test_ties_go_to_the_nearest_whatever_the_names_and_the_order(turned):
    reference, labels = np.array([[1.0], [-3.0]]), np.array(["z", "a"])
    if turned:
        reference, labels = reference[::-1], labels[::-1]
    votes = LabelTransfer(reference, labels, k=2)

    found = votes.calls(np.array([[0.0], [-2.5]]), pd.Index(["q", "r"]))

    assert list(found["label"]) == ["z", "a"]


def test_votes_by_distance_count_by_their_inverse():
    reference = np.array([[1.0], [4.0], [4.0]])
    labels = np.array(["one", "two", "two"])
    query, names = np.array([[0.0]]), pd.Index(["q"])

    uniform = LabelTransfer(reference, labels, k=3).calls(query, names)
    weighted = LabelTransfer(reference, labels, k=3, weights="distance").calls(query, names)

    assert (uniform["label"].item(), weighted["label"].item()) == ("two", "one")
    assert weighted["confidence"].item() == pytest.approx(1 / (1 + 2 / 4))


def test_directions_are_compared_where_that_is_asked_for():
    reference, labels = np.array([[1.0, 0.0], [0.0, 1.0]]), np.array(["right", "up"])
    query, names = np.array([[9.0, 8.0], [0.1, 0.9]]), pd.Index(["q", "r"])

    votes = LabelTransfer(reference, labels, k=1, metric="cosine")

    assert list(votes.calls(query, names)["label"]) == ["right", "up"]


@pytest.mark.parametrize("k", [1, 2, 7])
def test_one_neighbour_of_the_reference_itself_returns_its_labels(k):
    rng = np.random.default_rng(0)
    space, labels = rng.normal(size=(80, 5)), rng.choice(list("abcd"), 80)
    votes = LabelTransfer(space, labels, k=k, weights="uniform" if k == 1 else "distance")

    found = votes.calls(space, pd.Index(range(80)).astype(str))

    # By inverse distance a neighbour at distance zero decides alone.
    assert list(found["label"]) == list(labels)


def test_more_votes_than_cells_and_words_that_are_none_are_refused():
    with pytest.raises(UsageError, match=r"k=50 of \d+ reference cells.*E-U22"):
        called([[0.0]], k=50)
    with pytest.raises(UsageError, match=r"weights='dist'.*uniform.*distance.*E-U30"):
        called([[0.0]], weights="dist")
    with pytest.raises(UsageError, match=r"metric='angle'.*E-U30"):
        called([[0.0]], metric="angle")


def test_no_query_has_no_calls():
    assert called(np.empty((0, 1))) == []
    assert called(np.empty((0, 1)), method="probe") == []


# --- a probe -----------------------------------------------------------------------------------


def test_a_probe_is_a_regression_on_dimensions_standardised_by_the_reference():
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    rng = np.random.default_rng(1)
    space = rng.normal(size=(90, 4)) * [1, 1000, 0.01, 1]
    labels = np.where(space[:, 2] > 0, "up", "down")
    query = rng.normal(size=(30, 4)) * [1, 1000, 0.01, 1]

    probe = LabelTransfer(space, labels, method="probe")

    known = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(space, labels)
    np.testing.assert_allclose(probe.shares(query), known.predict_proba(query), atol=1e-4)
    # Nothing is learned of the query: a cell alone is called as among others.
    np.testing.assert_allclose(probe.shares(query[:1]), probe.shares(query)[:1], atol=1e-6)


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"k": 0}, UsageError, r"k=0.*E-U22"),
        ({"k": -2}, UsageError, r"E-U22"),
        ({"method": "tree"}, UsageError, r"method='tree'.*E-U30"),
    ],
)
def test_options_that_cannot_be_are_refused(options, error, text):
    with pytest.raises(error, match=text):
        LabelTransfer(SPACE, LABELS, **options)


def test_a_probe_of_one_label_is_refused_and_votes_are_not():
    with pytest.raises(LabelError, match=r"one label only.*E-L03"):
        LabelTransfer(SPACE, np.full(5, "a"), method="probe")
    votes = LabelTransfer(SPACE, np.full(5, "a"))
    assert list(votes.calls(SPACE, pd.Index(list("vwxyz")))["label"]) == ["a"] * 5


# --- of models ---------------------------------------------------------------------------------


def prepared(name, toy):
    adata = toy.cells(300)
    cls = get_model(name)
    cls.setup_anndata(adata)
    if name == "pca":
        model = cls(adata, n_components=5)
        model.train()
    else:
        model = cls(adata, hidden=(16,), n_latent=5)
        model.train(max_epochs=3, accelerator="cpu")
    return model


@pytest.fixture(scope="module", params=["pca", "ssl"])
def embedding(request, toy):
    """Embeddings of two plugins, learned without labels."""
    return prepared(request.param, toy)


def test_every_embedding_is_read_by_the_same_votes(embedding, toy):
    reference, query = toy.cells(200), toy.query()
    spaces = [embedding.get_latent_representation(a) for a in (reference, query)]
    labels = reference.obs["cell_type"].to_numpy(dtype=str)

    for options in ({"k": 1}, {"k": 5}, {"k": 9, "weights": "distance"}):
        found = embedding.zero_shot_predict(query, reference, "cell_type", **options)
        wanted = LabelTransfer(spaces[0], labels, **options).calls(spaces[1], query.obs_names)
        pd.testing.assert_frame_equal(found, wanted)
    probe = LabelTransfer(spaces[0], labels, method="probe").calls(spaces[1], query.obs_names)
    pd.testing.assert_frame_equal(
        embedding.linear_probe(query, reference, "cell_type"), probe, rtol=1e-4
    )


def test_one_vote_on_the_reference_itself_is_its_own_label(embedding, toy):
    reference = toy.cells(150)

    found = embedding.zero_shot_predict(reference, reference, "cell_type", k=1)

    assert list(found["label"]) == list(reference.obs["cell_type"])
    np.testing.assert_allclose(found["confidence"], 1, atol=1e-6)


def test_permuted_cells_and_genes_change_no_call(embedding, toy):
    reference, query = toy.cells(200), toy.query()
    order = np.random.default_rng(0).permutation(query.n_obs)

    plain = embedding.zero_shot_predict(query, reference, "cell_type")
    turned = embedding.zero_shot_predict(
        query[order].copy()[:, ::-1].copy(), reference[::-1].copy(), "cell_type"
    )

    assert list(turned["label"]) == list(plain["label"].iloc[order])
    assert list(turned.index) == list(query.obs_names[order])


@pytest.mark.parametrize("method", ["zero_shot_predict", "linear_probe"])
def test_cells_without_a_label_take_no_part(embedding, toy, method):
    reference, query = toy.cells(200), toy.query()
    before = query.obs.copy()
    some = reference.copy()
    values = some.obs["cell_type"].astype(object).to_numpy(copy=True)
    values[:60] = "unknown"
    values[60:90] = None
    some.obs["cell_type"] = values

    found = getattr(embedding, method)(query, some, "cell_type")

    wanted = getattr(embedding, method)(query, reference[90:].copy(), "cell_type")
    pd.testing.assert_frame_equal(found, wanted, rtol=1e-4)
    assert "unknown" not in set(found["label"])
    assert query.obs.equals(before)
    named = some.copy()
    named.obs["cell_type"] = named.obs["cell_type"].where(
        named.obs["cell_type"] != "unknown", "nobody knows"
    )
    again = getattr(embedding, method)(
        query, named, "cell_type", unlabeled_category="nobody knows"
    )
    pd.testing.assert_frame_equal(again, wanted, rtol=1e-4)


def test_a_query_needs_no_labels(embedding, toy):
    query = toy.query()
    bare = anndata.AnnData(query.X.copy(), obs=query.obs[[]].copy(), var=query.var.copy())

    found = embedding.zero_shot_predict(bare, toy.cells(200), "cell_type")

    assert found.equals(embedding.zero_shot_predict(query, toy.cells(200), "cell_type"))


def test_references_that_cannot_be_are_refused(embedding, toy):
    reference, query = toy.cells(100), toy.query()
    nameless = reference.copy()
    nameless.obs["cell_type"] = "unknown"

    with pytest.raises(UsageError, match="E-U04"):
        embedding.zero_shot_predict(query, reference, "nothing")
    with pytest.raises(LabelError, match=r"no cell of the reference has a label.*E-L03"):
        embedding.zero_shot_predict(query, nameless, "cell_type")
    with pytest.raises(UsageError, match="E-U22"):
        embedding.zero_shot_predict(query, reference, "cell_type", k=0)
    one = reference[reference.obs["cell_type"] == "type 0"].copy()
    with pytest.raises(LabelError, match=r"one label only.*E-L03"):
        embedding.linear_probe(query, one, "cell_type")


def test_what_hands_labels_on_can_be_kept(embedding, toy):
    reference, query = toy.cells(200), toy.query()

    known = label_transfer(embedding, reference, "cell_type", k=5)

    found = known.calls(embedding.get_latent_representation(query), query.obs_names)
    assert found.equals(embedding.zero_shot_predict(query, reference, "cell_type"))
    assert (found["label"] == query.obs["cell_type"].to_numpy()).mean() > 0.6
