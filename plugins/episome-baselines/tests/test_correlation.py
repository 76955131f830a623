"""`CorrelationClassifier` against a slow account of the same rule, cell by cell."""

from __future__ import annotations

import anndata
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import sparse
from scipy.special import softmax
from scipy.stats import rankdata, spearmanr

from episome.data import simulate_cells
from episome.errors import UsageError
from episome.models import TrainingCells
from episome_baselines import CorrelationClassifier
from episome_baselines.correlation import class_profiles, grouped, marker_genes, pair_markers
from episome_baselines.correlation_core import correlate, ranks_above_zero, standard_ranks

N_TRAIN = 160


def cells(n_types=4, fold_change=1.6, seed=0):
    everything = simulate_cells(
        230, 60, n_types=n_types, n_donors=6, fold_change=fold_change, seed=seed
    )
    return everything[:N_TRAIN].copy(), everything[N_TRAIN:].copy()


def logged(adata) -> np.ndarray:
    """The host's rule, written out."""
    counts = adata.X.toarray().astype(np.float64)
    return np.log1p(counts / counts.sum(1, keepdims=True) * 1e4)


def fitted(adata, **kwargs):
    adata = adata.copy()
    CorrelationClassifier.setup_anndata(adata, labels_key="cell_type")
    model = CorrelationClassifier(adata, **kwargs)
    model.train()
    return model


# -- the slow account ----------------------------------------------------------------------------


def slow_genes(means, n_markers, classes) -> list[int]:
    found = set()
    for i in classes:
        for j in classes:
            higher = means[i] - means[j]
            top = np.argsort(-higher, kind="stable")[:n_markers]
            found |= {int(g) for g in top if higher[g] > 0}
    return sorted(found)


def slow_scores(cell, profiles, of_class, genes, classes, quantile) -> np.ndarray:
    found = []
    for c in classes:
        rho = [spearmanr(cell[genes], p[genes]).statistic for p in profiles[of_class == c]]
        found.append(np.quantile(np.nan_to_num(rho), quantile))
    return np.array(found)


def slow_call(cell, profiles, of_class, means, n_markers, *, quantile=0.8, tolerance=0.05):
    """Distances to the best, each of the round that decided about the class."""
    classes = list(range(len(means)))
    said = np.zeros(len(means))
    while True:
        genes = slow_genes(means, n_markers, classes)
        scores = slow_scores(cell, profiles, of_class, genes, classes, quantile)
        scores = scores - scores.max()
        said[classes] = scores
        left = [c for c, s in zip(classes, scores, strict=True) if s >= -tolerance]
        if len(left) == 1 or len(left) == len(classes):
            return said
        classes = left


@pytest.mark.parametrize("n_profiles", [1, 4])
@pytest.mark.parametrize(("quantile", "tolerance"), [(0.8, 0.05), (0.5, 0.2), (1.0, 0.0)])
def test_scores_equal_the_slow_account(n_profiles, quantile, tolerance):
    train, query = cells()
    model = fitted(
        train, n_profiles=n_profiles, n_markers=8, quantile=quantile, tolerance=tolerance
    )
    core, values = model.module, logged(train)
    codes = train.obs["cell_type"].cat.codes.to_numpy()
    means = np.array([values[codes == c].mean(0) for c in range(4)])
    profiles = np.zeros((len(core.arrays["classes"]), 60))
    profiles[:, core.arrays["genes"]] = core.arrays["profiles"]
    wanted = np.array(
        [
            slow_call(
                cell, profiles, core.arrays["classes"], means, 8,
                quantile=quantile, tolerance=tolerance,
            )
            for cell in logged(query)
        ]
    )  # fmt: skip

    got = model.predict_proba(query, calibrated=False).to_numpy()

    assert core.arrays["genes"].tolist() == slow_genes(means, 8, range(4))
    np.testing.assert_allclose(got, softmax(model.fit_["scale"] * wanted, axis=1), atol=1e-4)
    assert (got.argmax(axis=1) == wanted.argmax(axis=1)).all()


def near_types(seed: int) -> anndata.AnnData:
    """Two types that differ in two genes, and a third far from both."""
    rng = np.random.default_rng(seed)
    mean = np.full((3, 60), 3.0)
    mean[:2, :25] = mean[2, 25:50] = 6.0
    mean[0, 50], mean[1, 51] = 9.0, 9.0
    codes = np.arange(150) % 3
    found = anndata.AnnData(sparse.csr_matrix(rng.poisson(mean[codes]).astype(np.float32)))
    found.obs["cell_type"] = np.array(["near a", "near b", "far"])[codes]
    found.var_names = [f"ENSG{i:011d}" for i in range(60)]
    return found


def test_refinement_tells_near_types_apart_by_their_own_genes():
    train, query = near_types(0), near_types(1)
    truth = query.obs["cell_type"].astype(str).to_numpy()
    plain = fitted(train, n_markers=25, n_profiles=1, tolerance=0.0).predict(query)

    refined = fitted(train, n_markers=25, n_profiles=1, tolerance=0.1).predict(query)

    assert (refined == truth).mean() > (plain == truth).mean()


def test_profiles_are_means_of_groups_of_the_class():
    train, _ = cells()
    values = logged(train).astype(np.float32)
    codes = train.obs["cell_type"].cat.codes.to_numpy().astype(np.int64)
    known = TrainingCells(sparse.csr_matrix(values), codes, None, 4, 0)

    profiles, classes = class_profiles(known, np.arange(60), 50)
    means, one_each = class_profiles(known, np.arange(60), 1)

    sizes = np.bincount(codes)
    assert (np.bincount(classes) <= np.ceil(np.sqrt(sizes))).all()
    assert (np.bincount(classes) > 1).all()
    assert one_each.tolist() == [0, 1, 2, 3]
    wanted = np.array([values[codes == c].mean(0) for c in range(4)])
    np.testing.assert_allclose(means, wanted, atol=1e-5)
    inside = [
        (profiles[classes == c].min(0) <= wanted[c] + 1e-5).all()
        and (profiles[classes == c].max(0) >= wanted[c] - 1e-5).all()
        for c in range(4)
    ]
    assert all(inside)


def test_groups_are_those_that_are_apart_and_the_same_each_time():
    rng = np.random.default_rng(0)
    centres = np.array([[0, 0], [30, 0], [0, 30]])
    points = np.concatenate([c + rng.normal(size=(20, 2)) for c in centres])
    same = np.zeros((5, 2))

    groups = grouped(points, 3, np.random.default_rng(1))

    assert np.array_equal(groups, grouped(points, 3, np.random.default_rng(1)))
    assert groups.max() <= 2
    assert grouped(same, 3, rng).tolist() == [0] * 5


@pytest.mark.parametrize(("n_classes", "wanted"), [(2, 333), (8, 148), (164, 25), (1, 500)])
def test_number_of_markers_follows_singler(n_classes, wanted):
    assert pair_markers(n_classes) == wanted


def test_markers_of_a_pair_are_higher_in_its_first_class():
    values = np.array([[5, 0, 1, 1], [0, 4, 1, 0.0]], dtype=np.float32)
    known = TrainingCells(sparse.csr_matrix(values), np.array([0, 1]), None, 2, 0)

    genes, places, starts = marker_genes(known, 2)

    assert genes.tolist() == [0, 1, 3]
    pairs = [genes[places[a:b]].tolist() for a, b in zip(starts, starts[1:], strict=False)]
    assert pairs == [[], [0, 3], [1], []]


# -- ranks ---------------------------------------------------------------------------------------

matrices = arrays(
    np.float32,
    st.tuples(st.integers(1, 6), st.integers(1, 12)),
    elements=st.integers(-2, 5).map(float),
)


@given(matrices)
def test_ranks_equal_those_of_scipy_with_ties(values):
    wanted = rankdata(values, axis=1)

    above, length = ranks_above_zero(sparse.csr_matrix(values))

    centred = wanted - wanted.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(length, np.linalg.norm(centred, axis=1), atol=1e-7)
    has_zero = (values == 0).any(axis=1)
    for i in np.flatnonzero(has_zero):
        of_zero = wanted[i][values[i] == 0][0]
        np.testing.assert_allclose(above.toarray()[i], wanted[i] - of_zero, atol=1e-9)


@given(matrices, st.integers(0, 1000))
def test_correlations_equal_those_of_scipy(values, seed):
    profiles = np.random.default_rng(seed).normal(size=(3, values.shape[1]))
    wanted = np.zeros((len(values), 3))
    for i, cell in enumerate(values):
        for j, profile in enumerate(profiles):
            if np.ptp(cell) > 0:
                wanted[i, j] = spearmanr(cell, profile).statistic

    got = correlate(sparse.csr_matrix(values), standard_ranks(profiles))

    np.testing.assert_allclose(got, wanted, atol=1e-9)


@pytest.fixture(scope="module")
def model():
    return fitted(cells()[0], n_markers=8)


@given(
    counts=arrays(np.int64, (5, 60), elements=st.integers(0, 20)),
    factor=st.integers(2, 50),
    power=st.floats(0.3, 3.0),
)
def test_a_monotone_change_of_a_cell_changes_no_score(model, counts, factor, power):
    genes = model.module.arrays["genes"]
    plain = sparse.csr_matrix(counts[:, genes].astype(np.float32))
    scaled = sparse.csr_matrix((counts[:, genes] * factor).astype(np.float32))
    bent = sparse.csr_matrix((counts[:, genes].astype(np.float64) ** power) + 0.0)

    wanted = model.module.scores(plain)

    assert np.array_equal(model.module.scores(scaled), wanted)
    assert np.array_equal(model.module.scores(bent), wanted)


def test_cells_without_a_chosen_gene_or_all_alike_get_equal_shares(model):
    _, query = cells()
    odd = query[:3].copy()
    odd.X = sparse.csr_matrix(np.stack([np.zeros(60), np.ones(60), odd.X.toarray()[2]]))

    found = model.predict_proba(odd, calibrated=False).to_numpy()

    assert np.isfinite(found).all()
    np.testing.assert_allclose(found[:2], 0.25, atol=1e-6)
    assert found[2].max() > 0.3


def test_many_blocks_give_what_one_gives(model, monkeypatch):
    _, query = cells()
    values = sparse.csr_matrix(logged(query).astype(np.float32))[:, model.module.arrays["genes"]]
    whole = model.module.scores(values)

    monkeypatch.setattr("episome_baselines.correlation_core.BLOCK", 7)
    monkeypatch.setattr("episome_baselines.correlation_core.KEPT_BYTES", 0)

    np.testing.assert_allclose(model.module.scores(values), whole, atol=1e-12)
    assert model.module.scores(values[:0]).shape == (0, 4)


def test_two_classes_and_a_class_of_one_cell_train():
    train, query = cells(n_types=2)
    codes = train.obs["cell_type"].cat.codes.to_numpy()
    train = train[[*np.flatnonzero(codes == 0), np.flatnonzero(codes == 1)[0]]].copy()

    found = fitted(train).predict_proba(query)

    assert found.shape == (70, 2)
    assert np.isfinite(found.to_numpy()).all()


def test_genes_that_never_differ_leave_all_classes_alike():
    train = anndata.AnnData(
        sparse.csr_matrix(np.ones((40, 6), np.float32)),
        obs={"cell_type": ["a", "b"] * 20},
    )
    train.var_names = ["CD3D", "CD19", "LYZ", "NKG7", "GNLY", "MS4A1"]

    found = fitted(train).predict_proba(train, calibrated=False)

    np.testing.assert_allclose(found, 0.5)


@pytest.mark.parametrize(
    "kwargs", [{"n_profiles": 0}, {"n_markers": 0}, {"quantile": 1.5}, {"tolerance": -0.1}]
)
def test_numbers_out_of_range_are_refused(kwargs):
    train, _ = cells()
    CorrelationClassifier.setup_anndata(train, labels_key="cell_type")

    with pytest.raises(UsageError, match=rf"{next(iter(kwargs))}=.*E-U31"):
        CorrelationClassifier(train, **kwargs)
