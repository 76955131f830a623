"""Scales of what is predicted: muon's numbers, learned from training cells and nothing else."""

from __future__ import annotations

import json
import os
import warnings
from pathlib import Path

import anndata
import h5py
import muon
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture

from episome.data import AnnDataSource, ScaledSource, TargetScale
from episome.data._background import background_means
from episome.errors import EpisomeWarning, InputDataError, ModelFileError, UsageError

NAMES = ["none", "log1p", "binary", "tfidf", "clr", "clr_cells", "dsb"]
N_CELLS, N_FEATURES = 120, 24


def counts(seed: int = 0, n: int = N_CELLS) -> np.ndarray:
    """Counts of cells of very different depth; every feature is seen."""
    rng = np.random.default_rng(seed)
    rates = rng.gamma(1.0, 2.0, (n, 1)) * rng.gamma(0.5, 2.0, N_FEATURES) + 0.05
    found = rng.poisson(rates).astype(np.float32)
    found[0] += 1
    return found


def droplets() -> np.ndarray:
    return np.random.default_rng(9).poisson(1.5, (80, N_FEATURES)).astype(np.float32)


def source(values) -> AnnDataSource:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return AnnDataSource(anndata.AnnData(values))


def fitted(name, values, rows=None, **kwargs) -> TargetScale:
    if name == "dsb":
        kwargs.setdefault("empty", droplets())
    return TargetScale.fit(name, source(values), rows, **kwargs)


def scaled(name, values, rows=None, **kwargs) -> np.ndarray:
    return fitted(name, values, rows, **kwargs).apply(values).toarray()


def muons(name, values, **kwargs) -> np.ndarray:
    """What muon makes of all cells, in float64."""
    adata = anndata.AnnData(sparse.csr_matrix(np.asarray(values, dtype=np.float64)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if name == "tfidf":
            muon.atac.pp.tfidf(adata, **kwargs)
        elif name == "dsb":
            empty = anndata.AnnData(droplets().astype(np.float64))
            empty.obs_names = [f"empty{i}" for i in range(empty.n_obs)]
            muon.prot.pp.dsb(adata, empty, random_state=0, **kwargs)
        else:
            adata.X = adata.X.tocsc() if name == "clr" else adata.X
            muon.prot.pp.clr(adata, axis=1 if name == "clr_cells" else 0)
    return adata.X.toarray() if sparse.issparse(adata.X) else adata.X


# -- muon ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["tfidf", "clr", "clr_cells"])
def test_all_training_cells_are_scaled_as_muon_scales_them(name):
    values = counts()

    np.testing.assert_allclose(scaled(name, values), muons(name, values), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    "options",
    [
        {"log_tf": False},
        {"log_idf": False},
        {"log_tf": False, "log_idf": False, "log_tfidf": True},
        {"scale_factor": 1.0},
        {"scale_factor": 0},
    ],
)
def test_options_of_tfidf_are_muons(options):
    values = counts()

    found = scaled("tfidf", values, options=options)

    np.testing.assert_allclose(found, muons("tfidf", values, **options), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "theirs"),
    [
        ({}, {}),
        ({"denoise": False}, {"denoise_counts": False}),
        ({"scale": "mean_subtract"}, {"scale_factor": "mean_subtract"}),
        ({"pseudocount": 3}, {"pseudocount": 3}),
    ],
)
def test_dsb_of_all_training_cells_is_muons(options, theirs):
    values = counts()

    found = scaled("dsb", values, options=options)

    np.testing.assert_allclose(found, muons("dsb", values, **theirs), rtol=1e-5, atol=2e-6)


def test_dsb_with_isotype_controls_is_muons():
    values = counts()

    found = scaled("dsb", values, controls=["3", "11"])

    expected = muons("dsb", values, isotype_controls=["3", "11"])
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("seed", range(3))
def test_backgrounds_are_those_of_mixtures_fitted_cell_by_cell(seed):
    rng = np.random.default_rng(seed)
    values = np.where(rng.random((40, 30)) < 0.7, rng.normal(0, 1, (40, 30)), rng.normal(6, 2))

    found = background_means(values, seed=seed)

    expected = []
    for cell in values[:, :, None]:
        models = [
            GaussianMixture(2, covariance_type=c, init_params="random", random_state=seed)
            for c in ("tied", "full")
        ]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            one, two = (m.fit(cell) for m in models)
        best = one if one.bic(cell) < two.bic(cell) else two
        expected.append(best.means_.min())
    np.testing.assert_allclose(found, expected, rtol=1e-8)


def test_proteins_of_a_real_set_are_scaled_as_muon_scales_them(real):
    values = real("citeseq_pbmc10k.h5ad", "protein_counts")[:2000]

    for name in ("clr", "clr_cells"):
        np.testing.assert_allclose(scaled(name, values), muons(name, values), rtol=1e-6, atol=1e-6)


def test_peaks_of_a_real_set_are_scaled_as_muon_scales_them(real):
    values = real("multiome_mop_snare.h5ad", "atac")[:1500]
    values = values[:, np.flatnonzero(np.asarray(values.sum(axis=0)).ravel() > 0)]

    found = fitted("tfidf", values).apply(values)

    adata = anndata.AnnData(values.astype(np.float64))
    muon.atac.pp.tfidf(adata)
    expected = sparse.csr_matrix(adata.X)
    expected.sort_indices()
    assert np.array_equal(found.indices, expected.indices)
    np.testing.assert_allclose(found.data, expected.data, rtol=1e-6)


@pytest.fixture
def real():
    """Read an array of ``obsm`` of a real file; skips where there is none."""

    def read(name, key):
        folder = os.environ.get("EPISOME_TEST_DATA")
        path = Path(folder or ".") / "data" / name
        if not folder or not path.exists():
            pytest.skip("EPISOME_TEST_DATA has no such file: the real sets are elsewhere")
        with h5py.File(path) as file:
            return anndata.io.read_elem(file[f"obsm/{key}"])

    return read


# -- our own oracle ------------------------------------------------------------------------------


def test_tfidf_is_its_formula():
    values = counts().astype(np.float64)

    shares = values / np.maximum(values.sum(axis=1, keepdims=True), 1) * 1e4
    expected = np.log1p(shares) * np.log1p(N_CELLS / values.sum(axis=0))

    np.testing.assert_allclose(scaled("tfidf", values), expected, rtol=1e-6)


def test_clr_is_its_formula_in_either_direction():
    values = counts().astype(np.float64)

    for name, axis in (("clr", 0), ("clr_cells", 1)):
        means = np.exp(np.log1p(values).mean(axis=axis, keepdims=True))
        np.testing.assert_allclose(scaled(name, values), np.log1p(values / means), rtol=1e-6)


def test_plain_scales_are_what_they_say():
    values = counts()

    assert np.array_equal(scaled("none", values), values)
    assert np.array_equal(scaled("binary", values), values > 0)
    np.testing.assert_allclose(scaled("log1p", values), np.log1p(values), rtol=1e-6)


def test_dsb_without_denoising_is_its_formula():
    values, logs = counts(), np.log(droplets().astype(np.float64) + 10)

    expected = (np.log(values.astype(np.float64) + 10) - logs.mean(axis=0)) / logs.std(
        axis=0, ddof=1
    )

    found = scaled("dsb", values, options={"denoise": False})
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


# -- what is fitted, and on what -----------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_cells_that_are_not_trained_on_change_nothing(name):
    values, rows = counts(), np.arange(0, N_CELLS, 2)
    other = values.copy()
    other[1::2] = np.random.default_rng(5).poisson(400.0, other[1::2].shape)

    one, two = fitted(name, values, rows), fitted(name, other, rows)

    assert one.to_json() == two.to_json()
    assert one.arrays.keys() == two.arrays.keys()
    assert all(np.array_equal(one.arrays[k], two.arrays[k]) for k in one.arrays)
    assert np.array_equal(one.apply(values[rows]).toarray(), two.apply(other[rows]).toarray())
    assert one.n_cells == len(rows)


@pytest.mark.parametrize("name", NAMES)
def test_the_order_of_the_training_cells_changes_nothing(name):
    values = counts()
    order = np.random.default_rng(1).permutation(N_CELLS)

    one, two = fitted(name, values), fitted(name, values, order)

    for key, array in one.arrays.items():
        assert np.array_equal(array, two.arrays[key]), key


@pytest.mark.parametrize("name", NAMES)
def test_a_cell_is_scaled_alike_in_any_block_and_form(name):
    values = counts()
    scale = fitted(name, values)
    whole = scale.apply(values).toarray()

    parts = np.vstack([scale.apply(values[i : i + 1]).toarray() for i in range(N_CELLS)])
    forms = [sparse.csc_matrix(values), sparse.csr_array(values), values.astype(np.int64)]

    np.testing.assert_allclose(parts, whole, rtol=1e-6, atol=1e-7)
    for form in forms:
        assert np.array_equal(scale.apply(form).toarray(), whole)


@pytest.mark.parametrize("name", NAMES)
def test_nothing_given_is_changed(name):
    values = sparse.csr_matrix(counts())
    before = values.copy()
    scale = fitted(name, values)

    scale.apply(values)

    assert (values != before).nnz == 0
    assert values.has_canonical_format


@pytest.mark.parametrize("name", NAMES)
def test_cells_without_counts_have_finite_values(name):
    values = counts()
    values[7] = 0
    scale = fitted(name, values)

    found = scale.apply(np.zeros((2, N_FEATURES))).toarray()

    assert np.isfinite(found).all()
    assert scale.keeps_zero == (name != "dsb")
    assert not found.any() or not scale.keeps_zero


def test_a_peak_that_no_training_cell_has_counts_as_rare_as_one_count():
    values = counts()
    values[:, 4] = 0
    values[3, 4], rows = 6, np.arange(10, N_CELLS)

    scale = fitted("tfidf", values, rows)

    assert scale.arrays["idf"][4] == pytest.approx(np.log1p(len(rows)))
    assert np.isfinite(scale.apply(values).toarray()).all()


def test_blocks_of_cells_add_up(monkeypatch):
    values = counts()
    whole = {name: fitted(name, values) for name in NAMES}
    monkeypatch.setattr("episome.data._target_fit.block_rows_for", lambda _: 7)

    for name, scale in whole.items():
        for key, array in fitted(name, values).arrays.items():
            np.testing.assert_allclose(array, scale.arrays[key], rtol=1e-9, atol=1e-12)


# -- not measured --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_nan_stays_nan_and_nothing_else_becomes_it(name):
    values = counts()
    gone = np.random.default_rng(2).random(values.shape) < 0.2
    gone[:3] = False
    values[gone] = np.nan

    found = scaled(name, values)

    assert np.array_equal(np.isnan(found), gone)


@pytest.mark.parametrize("name", ["tfidf", "clr_cells", "dsb"])
def test_a_cell_is_scaled_as_one_of_a_panel_without_what_it_lacks(name):
    values = counts()
    values[60:, 15:] = np.nan
    options = {"options": {"denoise": False}} if name == "dsb" else {}

    found = scaled(name, values, **options)[60:, :15]

    whole = fitted(name, values, **options)
    small = values[:, :15]
    empty = {"empty": droplets()[:, :15]} if name == "dsb" else {}
    scale = TargetScale.fit(name, source(small), **empty, **options)
    assert np.allclose(list(scale.arrays.values()), [a[:15] for a in whole.arrays.values()])
    np.testing.assert_allclose(found, scale.apply(small[60:]).toarray(), rtol=1e-6)


def test_nan_takes_no_part_in_geometric_means():
    values = counts()
    values[40:, 3] = np.nan

    found = fitted("clr", values).arrays["geometric_mean"]

    expected = np.exp(np.nanmean(np.log1p(values.astype(np.float64)), axis=0))
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_background_of_a_cell_is_that_of_its_measured_proteins():
    values = np.random.default_rng(0).normal(size=(5, 20))
    values[:, 12:] += 5
    part = values.copy()
    part[:, ::3] = np.nan

    found = background_means(part)

    kept = ~np.isnan(part[0])
    np.testing.assert_allclose(found, background_means(values[:, kept]), rtol=1e-10)
    part[2, 1:] = np.nan
    assert np.isnan(background_means(part)[2])


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), share=st.floats(0, 0.6), name=st.sampled_from(NAMES[:-1]))
def test_sparse_and_dense_formulas_agree_with_holes_anywhere(seed, share, name):
    rng = np.random.default_rng(seed)
    values = rng.poisson(rng.gamma(0.5, 3, (12, 5))).astype(np.float64)
    values[0] += 1
    holes = rng.random(values.shape) < share
    holes[0] = False
    values[holes] = np.nan

    found = scaled(name, values)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # the mean of a cell without values
        np.testing.assert_allclose(found, _naive(name, values), rtol=1e-5, atol=1e-6)


def _naive(name, x):
    if name == "none":
        return x
    if name == "log1p":
        return np.log1p(x)
    if name == "binary":
        return np.where(np.isnan(x), np.nan, x > 0)
    if name == "tfidf":
        tf = np.log1p(1e4 * x / np.maximum(np.nansum(x, axis=1, keepdims=True), 1))
        return tf * np.log1p((~np.isnan(x)).sum(axis=0) / np.nansum(x, axis=0))
    axis = 0 if name == "clr" else 1
    return np.log1p(x / np.exp(np.nanmean(np.log1p(x), axis=axis, keepdims=True)))


# -- folders and sources -------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_a_scale_is_kept_exactly(name):
    values = counts()
    scale = fitted(name, values, controls=["3"] if name == "dsb" else ())

    plain = json.loads(json.dumps(scale.to_json()))
    back = TargetScale.from_json(plain, scale.arrays)

    assert back.to_json() == scale.to_json()
    assert np.array_equal(back.apply(values).toarray(), scale.apply(values).toarray())
    assert back.unit == scale.unit != ""


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"name": "tfidff"}, "no scale 'tfidff'"),
        ({"n_features": "24"}, "'24' features"),
        ({"n_features": 25}, "'mean' is missing, of another shape"),
        ({"options": {"seed": 0}}, "options of 'dsb' are"),
        (
            {"options": {"pseudocount": -1, "scale": "standardize", "denoise": True, "seed": 0}},
            "value that it cannot have",
        ),
        ({"controls": [99]}, "controls are no features"),
        ({"controls": [1, 2]}, "'noise_mean'"),
    ],
)
def test_a_damaged_scale_is_refused(change, match):
    scale = fitted("dsb", counts())

    with pytest.raises(ModelFileError, match=rf"{match}.*E-M06"):
        TargetScale.from_json({**scale.to_json(), **change}, scale.arrays)


def test_arrays_that_are_missing_or_not_finite_are_refused():
    scale = fitted("tfidf", counts())

    for arrays in ({}, {"idf": scale.arrays["idf"] * np.nan}):
        with pytest.raises(ModelFileError, match="'idf' is missing.*E-M06"):
            TargetScale.from_json(scale.to_json(), arrays)


def test_a_source_gives_scaled_values():
    values, rows = counts(), np.array([5, 3, 5])
    under = source(values)
    scale = TargetScale.fit("clr", under)

    over = ScaledSource(under, scale)

    assert np.array_equal(over.read(rows).toarray(), scale.apply(values[rows]).toarray())
    assert (over.n_obs, over.n_vars, over.scale) == (N_CELLS, N_FEATURES, scale)
    assert over.notes == ("values are CLR of every feature across cells",)
    with pytest.raises(UsageError, match="fitted on 24 features, and there are 3.*E-U113"):
        ScaledSource(source(values[:, :3]), scale)


# -- refusals ------------------------------------------------------------------------------------


COUNT_SCALES = ["log1p", "tfidf", "clr", "clr_cells", "dsb"]


@pytest.mark.parametrize("name", [*COUNT_SCALES, "binary"])
def test_negative_values_are_refused_where_counts_are_wanted(name):
    values = counts()
    scale = fitted(name, values)
    values[4, 2] = -1

    with pytest.raises(InputDataError, match=r'negative values.*scale "none".*E-D04'):
        fitted(name, values)
    with pytest.raises(InputDataError, match=r"negative values.*: 1 of.*E-D04"):
        scale.apply(values)


def test_scaled_values_are_taken_as_they_are_where_that_is_asked_for():
    values = counts() - 3.5

    assert np.array_equal(scaled("none", values), values)


@pytest.mark.parametrize("name", COUNT_SCALES)
def test_log1p_values_are_not_scaled_twice(name):
    with pytest.raises(InputDataError, match=r"scaled twice.*E-D07"):
        fitted(name, np.log1p(counts()))


@pytest.mark.parametrize("name", NAMES)
def test_infinite_values_are_refused(name):
    values = counts()
    scale = fitted(name, values)
    values[4, 2] = np.inf

    with pytest.raises(InputDataError, match="E-D03"):
        fitted(name, values)
    with pytest.raises(InputDataError, match="E-D03"):
        scale.apply(values)


def test_counts_that_are_not_integers_are_used_with_a_warning():
    values = counts() * 7.5

    with pytest.warns(EpisomeWarning, match=r"not integers.*E-D10") as caught:
        TargetScale.fit("clr", source(values))

    assert caught[0].filename == __file__


def test_cells_to_compare_with_are_checked_too():
    values = counts()
    scale = fitted("log1p", values)

    scale.check(source(values), np.arange(3))
    scale.check(source(np.zeros((2, N_FEATURES))))

    with pytest.raises(InputDataError, match="E-D07"):
        scale.check(source(np.log1p(values)))
    with pytest.raises(UsageError, match="E-U113"):
        scale.check(source(values[:, 1:]))
    with pytest.raises(UsageError, match=r"24 features, and there are 2.*match_features.*E-U113"):
        scale.apply(values[:, :2])


@pytest.mark.parametrize(
    ("name", "kwargs", "error", "match"),
    [
        ("tfidff", {}, UsageError, r"no scale 'tfidff'.*did you mean `tfidf`.*E-U30"),
        ("clr", {"options": {"axis": 1}}, UsageError, r"no option 'axis'.*none.*E-U113"),
        ("tfidf", {"options": {"log_tff": True}}, UsageError, r"did you mean `log_tf.*E-U113"),
        ("tfidf", {"options": {"log_tf": 1}}, UsageError, r"log_tf=1 is of the wrong.*E-U113"),
        ("tfidf", {"options": {"log_tfidf": True}}, UsageError, r"both False.*E-U113"),
        ("tfidf", {"options": {"scale_factor": -1}}, UsageError, r"scale_factor=-1.*E-U113"),
        ("dsb", {"empty": None}, UsageError, r'needs empty=.*"clr" does without.*E-U113'),
        ("clr", {"empty": droplets()}, UsageError, r"of no use for 'clr'.*E-U113"),
        ("dsb", {"options": {"pseudocount": 0}}, UsageError, r"pseudocount=0.*E-U113"),
        ("dsb", {"options": {"scale": "sd"}}, UsageError, r"scale='sd'.*E-U113"),
        ("dsb", {"options": {"seed": 0.5}}, UsageError, r"seed=0.5.*E-U113"),
        ("dsb", {"controls": ["IgG1"]}, UsageError, r"controls that are no features.*E-U113"),
        (
            "dsb",
            {"controls": ["3"], "options": {"denoise": False}},
            UsageError,
            r"controls are only used to denoise.*E-U113",
        ),
        ("dsb", {"empty": droplets()[:, 1:]}, UsageError, r"have 23 features.*E-U113"),
        ("dsb", {"empty": -droplets()}, InputDataError, r"negative.*E-D04"),
        ("dsb", {"empty": droplets()[:0]}, InputDataError, r"no empty droplets.*E-D32"),
        (
            "dsb",
            {"empty": np.ones((4, N_FEATURES))},
            InputDataError,
            r"alike in all empty droplets.*24 of 24.*mean_subtract.*E-D62",
        ),
        (
            "dsb",
            {"empty": np.full((4, N_FEATURES), np.nan)},
            InputDataError,
            r"no empty droplet measured.*24 of 24.*E-D61",
        ),
        ("dsb", {"rows": np.array([0])}, InputDataError, r"too few training cells.*E-D32"),
        ("clr", {"rows": np.array([], dtype=np.int64)}, InputDataError, r"no cells.*E-D31"),
        ("clr", {"rows": np.array([500])}, UsageError, "E-U39"),
    ],
)
def test_what_does_not_fit_a_scale_is_refused(name, kwargs, error, match):
    with pytest.raises(error, match=match):
        fitted(name, counts(), **kwargs)


def test_one_protein_cannot_be_denoised():
    with pytest.raises(UsageError, match=r'two features or more.*"denoise": False.*E-U113'):
        TargetScale.fit("dsb", source(counts()[:, :1]), empty=droplets()[:, :1])


def test_all_zero_is_refused():
    with pytest.raises(InputDataError, match="E-D13"):
        fitted("tfidf", np.zeros((4, N_FEATURES)))


@pytest.mark.parametrize("name", ["tfidf", "clr", "dsb"])
def test_features_that_no_training_cell_measured_are_named(name):
    values = counts()
    values[20:, 5] = np.nan

    with pytest.raises(InputDataError, match=r"no training cell measured.*1 of 24.*: 5.*E-D61"):
        fitted(name, values, np.arange(20, N_CELLS))


def test_controls_are_named_with_or_without_the_suffix_of_a_kit():
    adata = anndata.AnnData(counts())
    adata.var_names = [f"P{i}_TotalSeqB" for i in range(N_FEATURES)]
    kwargs = {"empty": droplets(), "options": {"seed": 1}}

    one, two = (
        TargetScale.fit("dsb", AnnDataSource(adata), controls=[c], **kwargs)
        for c in ("P3", "P3_TotalSeqB")
    )

    assert one.controls == two.controls == (3,)
