"""Gene programmes: files of sets, and which genes of a model they hold."""

from __future__ import annotations

import gzip

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from episome.data import FeatureSpace, GeneProgrammes, read_gmt
from episome.errors import GeneMatchError, InputFileError, UsageError

N = 20
IDS = tuple(f"ENSG{i:011d}" for i in range(N))
SYMBOLS = tuple(f"SYM{chr(65 + i)}" for i in range(N))
FEATURES = FeatureSpace(IDS, {"feature_name": SYMBOLS})


def matched(sets, targets=None, **how):
    options = {"min_share": 0.5, "min_genes": 1} | how
    return GeneProgrammes(sets, targets or {}).matched(FEATURES, **options)


def written(path, text: str):
    path.write_text(text, encoding="utf-8", newline="")
    return path


# --- files -------------------------------------------------------------------------------------

TEXT = "cycle\thttps://here\tMKI67\tTOP2A\nE2F1_Q6\t\tMCM2\t\tPCNA\t\n"
SETS = {"cycle": ["MKI67", "TOP2A"], "E2F1_Q6": ["MCM2", "PCNA"]}


def test_a_file_is_read_with_and_without_compression(tmp_path):
    plain = written(tmp_path / "sets.gmt", TEXT)
    packed = tmp_path / "sets.gmt.gz"
    packed.write_bytes(gzip.compress(TEXT.encode()))

    assert read_gmt(plain) == read_gmt(str(packed)) == SETS
    assert GeneProgrammes.of(str(packed)).sets == SETS


@pytest.mark.parametrize(
    "text",
    [
        TEXT.replace("\n", "\r\n"),
        "\ufeff" + TEXT,
        "\n" + TEXT.replace("\n", "\n\n"),
        TEXT.rstrip("\n"),
        # str.splitlines() would take these for ends of lines.
        TEXT.replace("https://here", "a\x0bb\x1cc\u2028d\x85e"),
    ],
    ids=["windows", "byte order mark", "empty lines", "no last newline", "other marks"],
)
def test_forms_of_the_same_file_are_read_alike(tmp_path, text):
    assert read_gmt(written(tmp_path / "sets.gmt", text)) == SETS


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", r"it holds no set.*E-F22"),
        (b"\n\n", r"it holds no set.*E-F22"),
        (b"cycle\thttps://here\n", r"1 of 1, first: cycle.*fewer than three fields.*E-F22"),
        (TEXT.encode() + b"just words\n", r"1 of 3, first: just words.*E-F22"),
        (b"cycle\t\xff\xfe\tMKI67\n", r"cannot be read.*E-F22"),
        (gzip.compress(TEXT.encode()), r"cannot be read.*E-F22"),
    ],
    ids=["empty", "blank", "no genes", "one bad line", "no text", "gzip without its ending"],
)
def test_a_file_of_something_else_is_refused(tmp_path, content, text):
    path = tmp_path / "sets.gmt"
    path.write_bytes(content)

    with pytest.raises(InputFileError, match=text):
        read_gmt(path)


@pytest.mark.parametrize(
    "content",
    [TEXT.encode(), gzip.compress(TEXT.encode())[:-9], b"\x1f\x8b" + b"\x00" * 30],
    ids=["not compressed", "cut off", "broken"],
)
def test_a_compressed_file_that_is_none_is_refused(tmp_path, content):
    path = tmp_path / "sets.gmt.gz"
    path.write_bytes(content)

    with pytest.raises(InputFileError, match=r"cannot be read.*E-F22"):
        GeneProgrammes.from_gmt(path)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(InputFileError, match=r"does not exist.*nothing\.gmt.*E-F07"):
        GeneProgrammes.from_gmt(tmp_path / "nothing.gmt")


def test_a_name_with_other_genes_is_refused_in_another_file_and_in_the_same(tmp_path):
    one = written(tmp_path / "one.gmt", TEXT)
    two = written(tmp_path / "two.gmt", "cycle\t\tMKI67\tCDK1\n")
    both = written(tmp_path / "both.gmt", TEXT + "cycle\t\tMKI67\tCDK1\n")

    with pytest.raises(UsageError, match=r"'cycle' is there twice.*two\.gmt.*E-U107"):
        GeneProgrammes.from_gmt(one, two)
    # Or the later line would take the place of the other, and say nothing.
    with pytest.raises(UsageError, match=r"'cycle' is there twice.*both\.gmt.*E-U107"):
        GeneProgrammes.from_gmt(both)


def test_a_name_with_the_same_genes_may_come_again(tmp_path):
    one = written(tmp_path / "one.gmt", TEXT)
    two = written(tmp_path / "two.gmt", "cycle\t\tTOP2A\tMKI67\nother\t\tCDK1\n")

    found = GeneProgrammes.from_gmt(one, two)

    assert set(found.sets) == {"cycle", "E2F1_Q6", "other"}
    assert len(found) == 3


# --- matching ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "genes",
    [
        SYMBOLS[2:6],
        IDS[2:6],
        tuple(f"{i}.{k}" for k, i in enumerate(IDS[2:6], 1)),
        (SYMBOLS[2], IDS[3], f"{IDS[4]}.12", SYMBOLS[5]),
        (*SYMBOLS[2:6], SYMBOLS[2]),
        (*SYMBOLS[2:6], IDS[2]),
    ],
    ids=["symbols", "identifiers", "versions", "mixed", "one twice", "one by two names"],
)
def test_genes_are_found_by_any_of_their_names(genes):
    assert matched({"set": genes}).columns == {"set": (2, 3, 4, 5)}


def test_sets_that_name_the_same_genes_in_other_ways_are_both_found():
    found = matched({"by symbol": SYMBOLS[2:6], "by identifier": IDS[2:6]})

    assert found.columns == {"by symbol": (2, 3, 4, 5), "by identifier": (2, 3, 4, 5)}
    assert found.n_genes == 4


def test_a_factor_named_by_symbol_is_found_where_sets_hold_identifiers():
    """Its column is another set's gene by then, under another name."""
    found = matched({f"{SYMBOLS[3]}_Q6": IDS[4:8], "other_set": IDS[2:5]})

    assert found.targets == {f"{SYMBOLS[3]}_Q6": 3}


def test_shares_and_numbers_of_genes_are_least_ones():
    """The published code keeps what is at most its tolerance: those it should leave out."""
    sets = {
        "whole": SYMBOLS[:6],
        "half": (*SYMBOLS[:3], "X1", "X2", "X3"),
        "less": (*SYMBOLS[:2], "X1", "X2", "X3"),
        "small": SYMBOLS[:2],
    }

    assert set(matched(sets).columns) == {"whole", "half", "small"}
    assert set(matched(sets, min_share=1.0).columns) == {"whole", "small"}
    assert set(matched(sets, min_share=0.0).columns) == set(sets)
    assert set(matched(sets, min_genes=3).columns) == {"whole", "half"}
    found = matched(sets, min_share=0.5, min_genes=3)
    assert found.dropped == {
        "less": "2 of 5 genes are there",
        "small": "2 of 2 genes are there",
    }
    assert found.text == "2 of 4 gene programmes are used; they hold 6 genes"


def test_a_programme_of_exactly_the_least_share_is_kept():
    # 0.55 * 20 is 11.000000000000002.
    genes = [*SYMBOLS[:11], *(f"X{i}" for i in range(9))]

    assert set(matched({"set": genes}, min_share=0.55).columns) == {"set"}


def test_no_programme_left_says_what_was_found():
    with pytest.raises(
        GeneMatchError, match=r"none of 1 gene programmes.*set: 0 of 2 genes.*E-G29"
    ):
        matched({"set": ["X1", "X2"]})
    with pytest.raises(GeneMatchError, match=r"none of 0 gene programmes.*E-G29"):
        matched({})


def test_a_factor_is_what_stands_before_the_first_underscore():
    name = f"{SYMBOLS[2]}_TARGET_GENES_V1"

    found = matched({name: SYMBOLS[1:6], "nothing_here": SYMBOLS[1:4]})

    assert found.targets == {name: 2}
    # It stays a gene of the set: only the task that asks for it may not show it.
    assert found.columns == {name: (1, 2, 3, 4, 5), "nothing_here": (1, 2, 3)}


def test_all_sets_of_a_factor_are_kept():
    """The published code keeps the last of them."""
    sets = {f"{SYMBOLS[0]}_01": SYMBOLS[1:4], f"{SYMBOLS[0]}_02": SYMBOLS[5:9]}

    found = matched(sets)

    assert found.columns == {f"{SYMBOLS[0]}_01": (1, 2, 3), f"{SYMBOLS[0]}_02": (5, 6, 7, 8)}
    assert set(found.targets.values()) == {0}


def test_a_given_target_goes_before_the_name():
    name = f"{SYMBOLS[2]}_Q6"

    found = matched({name: SYMBOLS[1:6]}, {name: IDS[9]})

    assert found.targets == {name: 9}
    assert found.columns == {name: (1, 2, 3, 4, 5)}


@settings(max_examples=40)
@given(
    sets=st.dictionaries(
        st.sampled_from([f"{SYMBOLS[i]}_{j}" for i in range(5) for j in range(3)]),
        st.lists(st.integers(0, N + 5), min_size=1, max_size=12),
        min_size=1,
        max_size=6,
    ),
    share=st.sampled_from([0.0, 0.5, 0.9, 1.0]),
    least=st.integers(0, 4),
    kind=st.sampled_from(["symbols", "identifiers"]),
)
def test_matching_follows_its_rules_whatever_the_sets(sets, share, least, kind):
    names = SYMBOLS if kind == "symbols" else IDS
    by_name = {k: [names[i] if i < N else f"X{i}" for i in of] for k, of in sets.items()}
    wanted = {}
    for name, of in sets.items():
        inside = {i for i in of if i < N}
        enough = len(inside) >= least and len(inside) / len(set(of)) >= share
        if enough:
            wanted[name] = tuple(sorted(inside))

    if not wanted:
        with pytest.raises(GeneMatchError, match="E-G29"):
            matched(by_name, min_share=share, min_genes=least)
        return
    found = matched(by_name, min_share=share, min_genes=least)

    assert found.columns == wanted
    assert set(found.dropped) == set(sets) - set(wanted)
    assert found.targets == {k: SYMBOLS.index(k.partition("_")[0]) for k in wanted}
    assert found.n_genes == len({c for of in wanted.values() for c in of})


# --- plain data --------------------------------------------------------------------------------

_NAMES = st.text("ABCab1_ \u00e4", min_size=1, max_size=6)


@given(
    sets=st.dictionaries(_NAMES, st.lists(_NAMES, max_size=4), max_size=4),
    own=st.lists(st.booleans(), min_size=4, max_size=4),
)
def test_plain_data_restore_the_programmes(sets, own):
    targets = {name: "GENE" for name, has in zip(sets, own, strict=False) if has}
    programmes = GeneProgrammes(sets, targets)

    again = GeneProgrammes.of(programmes.plain)

    assert again == programmes
    assert again.plain == programmes.plain


def test_programmes_of_any_form_are_the_same(tmp_path):
    programmes = GeneProgrammes(SETS)
    path = written(tmp_path / "sets.gmt", TEXT)

    assert GeneProgrammes.of(programmes) is programmes
    for form in (path, str(path), SETS, programmes.plain):
        assert GeneProgrammes.of(form) == programmes
    other = written(tmp_path / "other.gmt", "more\t\tCDK1\n")
    assert GeneProgrammes.of([path, str(other)]).sets == SETS | {"more": ["CDK1"]}
    with pytest.raises(InputFileError, match="E-F07"):
        GeneProgrammes.of(["MKI67", "TOP2A"])
    assert GeneProgrammes.of({"one": "MKI67"}) == GeneProgrammes({"one": ["MKI67"]})


# --- recorded numbers of the published code ----------------------------------------------------


def test_programmes_are_encoded_as_recorded_and_shares_are_least_ones(golden):
    case = golden("06b_ssl_gene_programme_masks")
    sets = case.meta["programmes"]
    features = FeatureSpace(tuple(case.meta["var_names"]))
    programmes = GeneProgrammes(sets)

    found = programmes.matched(features, min_share=0.0, min_genes=1)

    for name, row in zip(sets, case["encoded_programmes"], strict=True):
        at = features.ids.index(name)
        assert found.targets[name] == at
        assert list(found.columns[name]) == np.flatnonzero(row).tolist()
    # Their share counts absent names as often as they stand there, ours once.
    inside = case["encoded_programmes"].sum(1)
    listed = np.array([len(of) for of in sets.values()])
    np.testing.assert_allclose(inside / listed, case["present_fraction"])
    for tolerance in (60, 90, 100):
        share = np.array([len(set(of)) for of in sets.values()])
        kept = programmes.matched(features, min_share=tolerance / 100, min_genes=1).columns
        assert set(kept) == {
            n for n, s in zip(sets, inside / share, strict=True) if s >= tolerance / 100
        }
        # Defect of theirs: sets are kept whose share is at most the tolerance.
        assert (
            case[f"tf_programmes_kept_tol{tolerance}"] == (inside / listed <= tolerance / 100)
        ).all()
    best = [n for n, s in zip(sets, inside / listed, strict=True) if s == 1]
    assert set(best) <= set(programmes.matched(features, min_share=0.9, min_genes=1).columns)
    assert not case["tf_programmes_kept_tol90"][[list(sets).index(n) for n in best]].any()
