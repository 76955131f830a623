"""Peaks are mapped by overlap, proteins by name; what is missing is not measured."""

from __future__ import annotations

import os
from pathlib import Path

import anndata
import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from episome.data import (
    AnnDataSource,
    MatchedSource,
    TargetScale,
    map_peaks,
    match_features,
    read_peaks,
)
from episome.data._builds import LENGTHS, possible_builds, said_of_builds
from episome.errors import EpisomeWarning, GeneMatchError, InputDataError, UsageError

# -- names ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["chr1:100-200", "chr1_100_200", "chr1-100-200", "1:100-200", "CHR1:100-200", " 1-100-200 "]
    + ["chr1:100_200", "chr1:1,00-2,00"],
)
def test_every_way_to_write_a_place_is_read(name):
    peaks = read_peaks([name])

    assert (peaks.chromosomes, peaks.starts.tolist(), peaks.ends.tolist()) == (
        ("1",),
        [100],
        [200],
    )


def test_chromosomes_keep_what_is_not_chr():
    names = ["chr1_KI270706v1_random_10_20", "GL000194.1-10-20", "MT:5-9", "chrM:5-9", "chr:1-2"]

    peaks = read_peaks(names)

    assert peaks.chromosomes == ("1_ki270706v1_random", "gl000194.1", "m", "chr")
    assert peaks.codes.tolist() == [0, 1, 2, 2, 3]
    assert peaks.names == tuple(names)
    assert len(peaks) == 5


@pytest.mark.parametrize(
    "wrong",
    ["CD3", "chr1:100", "chr1:200-100", "chr1:5-5", "chr1:1-99999999999999", "", "chr1:a-b"],
)
def test_names_that_are_no_places_are_refused(wrong):
    with pytest.raises(
        InputDataError, match=r"no places in a genome.*1 of 2.*chr1:100-200.*E-G32"
    ):
        read_peaks(["chr1:1-2", wrong])


# -- overlaps ------------------------------------------------------------------------------------


def naive(ours, theirs):
    """Every pair, one by one."""
    columns = []
    for chromosome, start, end in theirs:
        bases = [min(end, e) - max(start, s) if c == chromosome else 0 for c, s, e in ours]
        best = int(np.argmax(bases)) if bases else -1
        columns.append(best if bases and bases[best] > 0 else -1)
    return columns


def names_of(places):
    return [f"chr{c}:{s}-{e}" for c, s, e in places]


peaks_of = st.lists(
    st.tuples(st.integers(1, 3), st.integers(0, 60), st.integers(1, 40)).map(
        lambda p: (p[0], p[1], p[1] + p[2])
    ),
    min_size=1,
    max_size=25,
)


@settings(max_examples=200, deadline=None)
@given(ours=peaks_of, theirs=peaks_of)
def test_peaks_go_where_comparing_all_pairs_puts_them(ours, theirs):
    found = map_peaks(names_of(ours), names_of(theirs), min_overlap=0)

    expected = naive(ours, theirs)
    assert found.columns.tolist() == expected
    assert found.measured.tolist() == [i in expected for i in range(len(ours))]


@settings(max_examples=100, deadline=None)
@given(ours=peaks_of, theirs=peaks_of)
def test_reports_count_what_comparing_all_pairs_counts(ours, theirs):
    found = map_peaks(names_of(ours), names_of(theirs), min_overlap=0)

    columns = naive(ours, theirs)
    touch = np.array(
        [[a[0] == b[0] and a[1] < b[2] and b[1] < a[2] for b in theirs] for a in ours]
    )
    got = np.array([columns.count(i) for i in range(len(ours))])
    exact = {i for t, i in enumerate(columns) if i >= 0 and ours[i] == theirs[t]}
    report = found.report
    assert report.n_measured == (got > 0).sum() == report.n_exact + report.n_overlapped
    assert report.n_exact == len(exact)
    assert report.n_split == (got > 1).sum()
    assert report.n_merged == (touch.sum(axis=0) > 1).sum()
    assert report.n_missing == (~touch.any(axis=1)).sum()
    assert report.n_taken == (touch.any(axis=1) & (got == 0)).sum()
    assert report.n_left_out == (~touch.any(axis=0)).sum()
    assert report.n_measured + report.n_taken + report.n_missing == report.n_ours
    assert report.share == pytest.approx((got > 0).mean())


@settings(max_examples=50, deadline=None)
@given(ours=peaks_of, theirs=peaks_of, seed=st.integers(0, 2**32 - 1))
def test_counts_are_moved_and_none_is_lost_or_doubled(ours, theirs, seed):
    counts = sparse.csr_matrix(np.random.default_rng(seed).poisson(1.0, (4, len(theirs))))
    before = counts.copy()
    found = map_peaks(names_of(ours), names_of(theirs), min_overlap=0)

    moved = found.apply(counts)

    expected = np.zeros((4, len(ours)))
    for t, place in enumerate(naive(ours, theirs)):
        if place >= 0:
            expected[:, place] += counts[:, [t]].toarray().ravel()
    assert moved.dtype == np.float32
    assert np.array_equal(moved.toarray(), expected)
    assert not moved.toarray()[:, ~found.measured].any()
    assert (counts != before).nnz == 0
    for place in range(len(ours)):
        assert np.array_equal(found.sources_of(place), np.flatnonzero(found.columns == place))


def test_the_same_peaks_map_to_themselves_however_they_are_written():
    names = [f"chr{c}:{s}-{s + 50}" for c in (1, 2, "X") for s in range(0, 1000, 100)]
    order = np.random.default_rng(0).permutation(len(names))
    theirs = [names[i].replace("chr", "").replace(":", "_").replace("-", "_") for i in order]

    found = map_peaks(names, theirs)

    assert np.array_equal(found.columns, order)
    assert found.measured.all()
    assert (
        found.report.text
        == "30 of the model's 30 peaks are found by overlap (100.0%); 30 are the same"
    )


def test_peaks_that_touch_do_not_overlap():
    found = map_peaks(["1:10-20", "1:20-30"], ["1:20-25", "1:30-40"], min_overlap=0)

    assert found.columns.tolist() == [1, -1]


def test_a_peak_between_two_goes_to_the_first_where_both_share_as_much():
    assert map_peaks(["1:20-30", "1:0-10"], ["1:5-25"]).columns.tolist() == [0]
    assert map_peaks(["1:0-10", "1:20-31"], ["1:4-26"]).columns.tolist() == [0]


def test_a_peak_whose_counts_a_neighbour_gets_is_not_measured():
    found = map_peaks(["1:0-100", "1:110-130"], ["1:0-130"])

    assert found.measured.tolist() == [True, False]
    assert (found.report.n_taken, found.report.n_merged) == (1, 1)
    assert "1 count as not measured, as a neighbour gets the counts" in found.report.text


def test_a_peak_over_a_whole_chromosome_costs_no_more_than_what_it_overlaps():
    ours = ["1:0-200000000", *(f"1:{i * 100}-{i * 100 + 50}" for i in range(20_000))]
    theirs = [f"1:{i * 100 + 10}-{i * 100 + 60}" for i in range(20_000)]

    found = map_peaks(ours, theirs, min_overlap=0)

    assert (found.columns == 0).all()
    assert found.report.n_taken == 20_000


def test_counts_that_were_not_measured_stay_so():
    found = map_peaks(["1:0-100", "1:200-300"], ["1:0-50", "1:50-100", "1:200-300"])

    moved = found.apply(sparse.csr_matrix([[np.nan, 2.0, 3.0]]))

    assert np.isnan(moved[0, 0])
    assert moved[0, 1] == 3


def test_values_of_other_peaks_are_refused():
    found = map_peaks(["1:0-100"], ["1:0-100"])

    with pytest.raises(UsageError, match=r"have 2 features, and 1 were matched.*E-U41"):
        found.apply(sparse.csr_matrix(np.ones((1, 2))))


# -- builds --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "builds"),
    [
        (["chr1:248956500-248956600"], ("hg19",)),
        (["chr17:83000000-83000100"], ("hg38", "mm10", "mm39")),
        (["chr17:83000000-83000100", "chr22:1-2"], ("hg38",)),
        (["chr1:195300000-195300100", "chr19:60000000-60000100"], ("mm10",)),
        (["chr4:156600000-156600100", "chr17:95000000-95200000"], ("mm39",)),
        (["20:100-200"], ("hg19", "hg38")),
        (["chr1:100-200"], ("hg19", "hg38", "mm10", "mm39")),
        (["chr1:249300000-249300100"], ()),
        (["GL000194.1:100-200"], ()),
    ],
)
def test_builds_are_those_whose_chromosomes_are_long_enough(names, builds):
    assert read_peaks(names).builds == builds


@pytest.mark.parametrize("build", LENGTHS)
def test_peaks_at_the_ends_of_all_chromosomes_tell_the_build(build):
    names = [f"chr{c}:{n - 500}-{n}" for c, n in LENGTHS[build].items()]

    assert read_peaks(names).builds == (build,)


def test_no_peaks_are_of_no_build():
    none = np.zeros(0, dtype=np.int64)

    assert possible_builds((), none, none) == ()
    assert said_of_builds(()) == "no build that is known here"


def test_peaks_of_another_build_are_refused_with_a_guess_of_both():
    human = [f"chr{c}:{n - 500}-{n}" for c, n in LENGTHS["hg38"].items()]
    mouse = [f"chr{c}:{n - 500}-{n}" for c, n in LENGTHS["mm10"].items()]

    with pytest.raises(GeneMatchError, match=r"0 of 24.*are of hg38, and these of mm10") as caught:
        map_peaks(human, mouse, where="query.h5mu")

    text = str(caught.value)
    assert "in query.h5mu" in text
    assert "different builds" in text
    assert "lower min_overlap (now 0.3)" in text
    assert "E-G31" in text
    assert caught.value.problems[0].details == {"builds": ["hg38"], "their_builds": ["mm10"]}


def test_several_builds_that_fit_are_said():
    with pytest.raises(
        GeneMatchError, match=r"are of hg19 or hg38, and these of hg19, hg38, mm10 or mm39\."
    ):
        map_peaks(["chr22:100-200", "chr3:7-9"], ["chr3:300-400"])


def test_sets_without_a_common_chromosome_say_so():
    with pytest.raises(GeneMatchError, match=r"no chromosome is in both \(1 against contig1\)"):
        map_peaks(["chr1:0-100"], ["contig1:0-100"])


def test_the_share_that_is_enough_can_be_chosen():
    ours = [f"1:{i}00-{i}50" for i in range(1, 5)]

    assert map_peaks(ours, ours[:1], min_overlap=0.25).report.share == 0.25
    with pytest.raises(GeneMatchError, match="1 of 4"):
        map_peaks(ours, ours[:1])


def test_peaks_of_a_real_set_find_themselves_moved_by_some_bases():
    folder = os.environ.get("EPISOME_TEST_DATA")
    path = Path(folder or ".") / "data" / "multiome_mop_snare.h5ad"
    if not folder or not path.exists():
        pytest.skip("EPISOME_TEST_DATA has no such file: the real sets are elsewhere")
    with h5py.File(path) as file:
        peaks = read_peaks([n.decode() for n in file["uns/atac_names"][:]])
        counts = anndata.io.read_elem(file["obsm/atac"])[:500]
    shown = np.array(peaks.chromosomes)[peaks.codes]
    moved = [
        f"{c}:{s + 20}-{e + 20}" for c, s, e in zip(shown, peaks.starts, peaks.ends, strict=True)
    ]

    found = map_peaks(peaks, moved)

    assert peaks.builds == ("mm10",)
    assert found.report.share > 0.97
    same = found.columns == np.arange(len(peaks))
    assert same.mean() > 0.97
    assert found.apply(counts).sum() == counts[:, found.columns >= 0].sum()


# -- panels --------------------------------------------------------------------------------------


def test_proteins_are_found_under_the_names_of_other_kits():
    ours = ["CD3", "HLA-DR_TotalSeqB", "IgG1_control", "CD45RA"]
    theirs = ["cd45ra-TotalSeqA", "CD3_TotalSeqB", "HLA.DR", "IgG1-control_TotalSeqB", "CD99"]

    found = match_features("protein", ours, theirs, where="query")

    assert found.columns.tolist() == [3, 0, 1, 2, -1]
    assert found.measured.all()
    assert found.report == (
        "4 of the model's 4 proteins are in query; 1 proteins unknown to the model are left out"
    )


def test_the_exact_name_goes_before_a_like_one():
    found = match_features("protein", ["CD3", "CD4"], ["cd3", "CD3", "CD4"])

    assert found.columns.tolist() == [-1, 0, 1]
    assert found.ambiguous == ()


@pytest.mark.parametrize(
    ("ours", "theirs", "ambiguous"),
    [
        (["CD3", "CD4"], ["cd3", "Cd3", "CD4"], ("cd3", "Cd3")),
        (["CD3_TotalSeqA", "CD3_TotalSeqB", "CD4"], ["CD3", "CD4"], ("CD3",)),
        (["CD3", "CD4"], ["CD3", "CD3", "CD4"], ("CD3", "CD3")),
        (["CD3", "CD3_TotalSeqB", "CD4"], ["CD3", "cd3", "CD4"], ("cd3",)),
    ],
)
def test_what_could_be_one_of_several_is_left_out_and_said(ours, theirs, ambiguous):
    with pytest.warns(EpisomeWarning, match="E-G33"):
        found = match_features("protein", ours, theirs)

    assert found.ambiguous == ambiguous
    assert {found.columns[i] for i, t in enumerate(theirs) if t in ambiguous} == {-1}
    assert "more than one could be meant" in found.report
    assert found.measured[ours.index("CD4")]


def test_missing_proteins_are_nan_and_never_zero():
    with pytest.warns(
        EpisomeWarning, match=r"that the model predicts are missing.*1 of 3.*CD8"
    ) as w:
        found = match_features("protein", ["CD4", "CD8", "CD19"], ["CD19", "CD4"])
    counts = sparse.csr_matrix([[5.0, 0.0], [0.0, 7.0]])

    values = found.apply(counts).toarray()

    assert w[0].filename == __file__
    np.testing.assert_array_equal(values, [[0, np.nan, 5], [7, np.nan, 0]])
    np.testing.assert_array_equal(
        found.apply(counts, missing="zero").toarray(), [[0, 0, 5], [7, 0, 0]]
    )
    assert found.missing == ("CD8",)
    assert found.share == pytest.approx(2 / 3)
    assert "1 were not measured: CD8" in found.report
    with pytest.raises(UsageError, match="E-U30"):
        found.apply(counts, missing="none")


def test_peaks_of_another_panel_are_mapped_by_overlap():
    with pytest.warns(EpisomeWarning, match=r"peaks that the model predicts are missing.*E-G33"):
        found = match_features("atac", ["chr1:0-100", "chr1:500-600"], ["1_50_90", "1_90_95"])

    assert found.columns.tolist() == [0, 0]
    assert found.report == found.peaks.text
    counts = sparse.csr_matrix([[2.0, 3.0]])
    assert found.apply(counts).toarray().tolist() == [[5, 0]]
    np.testing.assert_array_equal(found.apply(counts, missing="nan").toarray(), [[5, np.nan]])


def test_panels_without_a_common_feature_are_refused():
    with pytest.raises(
        GeneMatchError, match=r"0 of 1.*knows CD3, the data has CD4.*E-G31"
    ) as none:
        match_features("protein", ["CD3"], ["CD4"])
    with pytest.raises(GeneMatchError, match=r"1 of 2.*lower min_overlap \(now 0.6\).*E-G31"):
        match_features("protein", ["CD3", "CD4"], ["CD4"], min_overlap=0.6)
    with pytest.raises(GeneMatchError, match="E-G31"):
        match_features("atac", ["chr1:0-100"], ["chr2:0-100"])
    with pytest.raises(InputDataError, match="E-G32"):
        match_features("atac", ["chr1:0-100"], ["CD3"])
    with pytest.raises(UsageError, match=r"kind 'rna'.*E-U30"):
        match_features("rna", ["CD3"], ["CD3"])

    assert "min_overlap" not in str(none.value)


@settings(max_examples=60, deadline=None)
@given(
    ours=st.lists(st.sampled_from(["CD1", "CD2", "CD3", "CD4", "CD5"]), unique=True, min_size=1),
    theirs=st.lists(st.sampled_from(["CD1", "cd2_TotalSeqB", "CD3", "CD9"]), unique=True),
    seed=st.integers(0, 2**32 - 1),
)
@pytest.mark.filterwarnings("ignore::episome.errors.EpisomeWarning")
def test_every_measured_protein_keeps_its_own_values(ours, theirs, seed):
    plain = [t.replace("cd2_TotalSeqB", "CD2") for t in theirs]
    counts = np.random.default_rng(seed).poisson(3.0, (3, len(theirs))).astype(np.float32)
    if not set(ours) & set(plain):
        with pytest.raises(GeneMatchError):
            match_features("protein", ours, theirs)
        return

    values = match_features("protein", ours, theirs).apply(sparse.csr_matrix(counts)).toarray()

    for i, name in enumerate(ours):
        expected = counts[:, plain.index(name)] if name in plain else np.full(3, np.nan)
        np.testing.assert_array_equal(values[:, i], expected)


def test_another_panel_is_scaled_as_the_training_cells_were():
    ours = anndata.AnnData(np.random.default_rng(0).poisson(5.0, (30, 3)).astype(np.float32))
    ours.var_names = ["CD4", "CD8", "CD19"]
    theirs = ours[:, [2, 0]].copy()
    theirs.var_names = ["cd19_TotalSeqB", "CD4_TotalSeqB"]
    scale = TargetScale.fit("clr", AnnDataSource(ours))
    with pytest.warns(EpisomeWarning, match="E-G33"):
        match = match_features("protein", list(ours.var_names), list(theirs.var_names))

    source = MatchedSource(AnnDataSource(theirs), match)
    values = scale.apply(source.read(slice(0, 30))).toarray()

    whole = scale.apply(ours.X).toarray()
    assert (source.n_vars, list(source.var.index)) == (3, ["CD4", "CD8", "CD19"])
    assert source.notes == (match.report,)
    np.testing.assert_array_equal(values[:, [0, 2]], whole[:, [0, 2]])
    assert np.isnan(values[:, 1]).all()
