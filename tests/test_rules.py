"""The rules of bad input, for cells of any form with any faults at once.

R1: refused before anything is computed, or the result of the clean input with a word on what was
put right. R2: messages of one form. R3: nothing of the caller's is changed, and the model goes on.
R4: the command says what Python says. R5: everything that is wrong is said at once.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import re
import warnings

import anndata
import numpy as np
import pandas as pd
import pytest
from _bad_cells import cells, ensembl_model, labelled, model, named, query, types_of
from _cases import SPARSE, Case, cases
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from episome.errors import EpisomeError, EpisomeWarning, Problem
from episome.models import NearestCentroid
from episome.testing import fingerprint

STEADY = settings(derandomize=True, database=None)


def clean_query(of):
    return named(query(), list(of.features.ids))


@functools.cache
def clean(of) -> pd.DataFrame:
    """What a model says of the clean query, before any fault."""
    return of.predict_proba(clean_query(of), calibrated=False)


def model_for(case: Case):
    return ensembl_model() if case.names == "versions" else model()


def formula(of, counts: np.ndarray) -> np.ndarray:
    """Probabilities of a nearest centroid, in float64, of cells that have counts."""
    values = np.log1p(1e4 * counts / counts.sum(1, keepdims=True))
    values /= np.linalg.norm(values, axis=1, keepdims=True)
    scores = values @ of.module.arrays["centroids"].astype(np.float64).T
    scores *= float(of.module.arrays["scale"][0])
    weights = np.exp(scores - scores.max(1, keepdims=True))
    return weights / weights.sum(1, keepdims=True)


# -- what a message is ---------------------------------------------------------------------------

#: Arrays, tensors, tables and objects as Python prints them.
DUMP = re.compile(r"tensor\(|array\(|<[\w.]+ object at|(?:[-+]?\d+\.\d+(?:e[-+]\d+)?[ ,]+){6}")


def in_form(problem: Problem) -> None:
    """R2: what, where, how many, why, what to do, and a code; nothing internal."""
    text = str(problem)
    assert len(text.splitlines()) <= 6, text
    assert len(text) < 1200, text
    assert re.search(r"\[E-[A-Z]\d\d\]$", text), text
    assert "To fix: " in text, text
    assert problem.what in text
    assert len(problem.examples) == 0 or str(problem.examples[0])[:80] in text
    assert not DUMP.search(text), text


def all_in_form(error: EpisomeError) -> None:
    for problem in error.problems:
        in_form(problem)
    lines = str(error).splitlines()
    assert len(lines) <= 1 + 6 * len(error.problems)
    assert lines[-1].endswith("]")


def outcome(call):
    """Return the result or the error of episome, and the warnings; anything else goes through."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            result = call()
        except EpisomeError as error:
            result = error
    problems = [w.message.problem for w in caught if issubclass(w.category, EpisomeWarning)]
    assert None not in problems
    return result, problems


# -- queries -------------------------------------------------------------------------------------


@settings(STEADY, max_examples=600)
@given(case=cases())
def test_queries_of_any_form_with_any_faults(case):
    of = model_for(case)
    clean(of)
    adata = case.cells()
    before, was_view = fingerprint(adata), adata.is_view

    result, said = outcome(lambda: of.predict_proba(adata, calibrated=False, **case.how))

    assert fingerprint(adata) == before  # R3
    assert adata.is_view == was_view
    for problem in said:
        in_form(problem)
    if case.refused:
        assert isinstance(result, EpisomeError), (case, result)  # R1
        all_in_form(result)
        assert {p.code for p in result.problems} == case.refused, case  # R5
        assert of.predict_proba(clean_query(of), calibrated=False).equals(clean(of))  # R3
    else:
        assert not isinstance(result, EpisomeError), (case, str(result))
        assert {p.code for p in said} == case.warned, case
        right(case, of, result, adata)


def right(case: Case, of, result: pd.DataFrame, adata) -> None:
    """R1: the result is that of the clean input, and says what was put right."""
    counts = case.counts
    full = counts.sum(1) > 0
    assert list(result.index) == list(adata.obs_names)
    atol = 2e-2 if case.dtype == "float16" else 1e-4
    wanted = formula(of, counts[full]) if full.any() else np.empty((0, 3))
    np.testing.assert_allclose(result.to_numpy()[full], wanted, atol=atol)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EpisomeWarning)
        calls = of.annotate(adata, **case.how)
        notes = of.prepare(adata, **case.how).notes
    assert list(calls["label"] == "unknown") == list(~full)
    assert list(calls["confidence"].isna()) == list(~full)
    for text in case.notes:
        assert any(re.search(text, note) for note in notes), (text, notes)


@settings(STEADY, max_examples=100)
@given(case=cases(n_faults=0), other=st.integers(0, 5))
def test_the_form_of_a_query_changes_nothing(case, other):
    """Any two forms of the same values agree to the bit, in any order of genes."""
    of = model()

    result, said = outcome(lambda: of.predict_proba(case.cells(), **case.how))
    again = of.predict_proba(Case(n=case.n, order=other, dtype=case.dtype, form="dense C").cells())

    assert said == []
    np.testing.assert_array_equal(result.to_numpy(), again.to_numpy())


@pytest.mark.parametrize("form", SPARSE)
def test_sparse_float16_is_as_float32(form):
    adata = query(20)
    matrix = getattr(sparse, form.removeprefix("read-only "))(adata.X)
    matrix.data = matrix.data.astype(np.float16)
    asked = anndata.AnnData(matrix, obs=adata.obs, var=adata.var)

    np.testing.assert_array_equal(
        model().predict_proba(asked, calibrated=False),
        model().predict_proba(adata, calibrated=False),
    )


# -- training cells ------------------------------------------------------------------------------

LABELS = {
    "good": set(),
    "missing": {"E-L01"},
    "one class": {"E-L03"},
    "a class for every cell": {"E-L05"},
}


def spoilt_labels(adata, how: str):
    values = types_of(adata)
    if "one class" in how:
        values[:] = "T cell"
    elif "a class for every cell" in how:
        values = np.array([f"c{i}" for i in range(adata.n_obs)], dtype=object)
    if "missing" in how:
        values[:2] = np.nan
    return labelled(values, adata)


def training_cells(case: Case, labels: str):
    adata = case.cells()
    adata.obs["cell_type"] = query(20).obs["cell_type"].to_numpy()
    return spoilt_labels(adata, labels)


@settings(STEADY, max_examples=200)
@given(case=cases(), labels=st.sampled_from(sorted(LABELS)))
def test_training_cells_of_any_form_with_any_faults(case, labels):
    # a view cannot be set up, and what set-up takes besides is tested for itself
    case = dataclasses.replace(case, n=20, view=False)
    adata = training_cells(case, labels)
    before, columns, uns = fingerprint(adata), list(adata.obs.columns), sorted(adata.uns)
    wanted = case.bad_at_set_up | LABELS[labels]

    result, said = outcome(lambda: NearestCentroid.setup_anndata(adata, "cell_type", **case.how))

    assert fingerprint(adata) == before  # R3
    for problem in said:
        in_form(problem)
    if wanted:
        assert isinstance(result, EpisomeError), (case, wanted)
        all_in_form(result)
        assert {p.code for p in result.problems} == wanted, case  # R5
        assert (list(adata.obs.columns), sorted(adata.uns)) == (columns, uns)
    else:
        assert result is None, (case, str(result))
        assert case.warned_at_set_up <= {p.code for p in said}, case


SEVERAL = {
    "small letters, repeated genes": (
        Case(names="case", columns="duplicated"), None, {"E-G08", "E-G11"}
    ),
    "NaN, negative, small letters, repeated genes": (
        Case(names="case", columns="duplicated", stray=("nan", "negative")),
        None,
        {"E-D01", "E-D04", "E-G08", "E-G11"},
    ),
    "NaN, infinity, foreign genes": (
        Case(names="foreign", stray=("inf", "nan")), None, {"E-D01", "E-D03", "E-G02"}
    ),
    "log1p without proof, repeated genes": (
        Case(kind="log1p", columns="duplicated"), None, {"E-D07", "E-G11"}
    ),
    "NaN, repeated genes, missing labels": (
        Case(stray=("nan",), columns="duplicated"), "missing", {"E-D01", "E-G11", "E-L01"}
    ),
    "missing labels, one class": (Case(), "one class, missing", {"E-L01", "E-L03"}),
    "missing labels, a class for every cell": (
        Case(), "a class for every cell, missing", {"E-L01", "E-L05"}
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", sorted(SEVERAL))
def test_several_faults_are_all_named(what):
    """R5: in one error."""
    case, labels, wanted = SEVERAL[what]

    if labels is None:
        result, _ = outcome(lambda: model().predict(case.cells(), **case.how))
    else:
        adata = training_cells(case, labels)
        result, _ = outcome(lambda: NearestCentroid.setup_anndata(adata, "cell_type"))

    all_in_form(result)
    assert {p.code for p in result.problems} == wanted


@pytest.mark.parametrize("n", [0, 1, 3])
def test_too_few_training_cells_are_refused(n):
    adata = cells()[:n].copy()

    result, _ = outcome(lambda: NearestCentroid.setup_anndata(adata, "cell_type"))

    all_in_form(result)
    assert ("E-D32" if n else "E-D31") in {p.code for p in result.problems}


# -- the command ---------------------------------------------------------------------------------


def command(*arguments) -> tuple[int, dict]:
    """Run the program; its exit code and the object it answers with."""
    from click.testing import CliRunner

    from episome.cli import _app

    done = CliRunner().invoke(_app.app, [*map(str, arguments), "--json"])
    (line,) = done.stdout.splitlines()
    return done.exit_code, json.loads(line)


@settings(STEADY, max_examples=25)
@given(case=cases())
def test_the_command_says_what_python_says(case, tmp_path_factory):
    """R4: the same codes, the same text and the same calls."""
    folder = tmp_path_factory.mktemp("rules")
    case = dataclasses.replace(case, place="X", form="dense C", view=False)
    of, path, calls = model_for(case), folder / "q.h5ad", folder / "calls.csv"
    case.cells().write_h5ad(path)
    of.save(folder / "model")
    before = path.read_bytes()
    options = ["--nan", "zero"] if case.nan_is_zero else []

    python, said = outcome(lambda: of.annotate(path, backed=True, **case.how))
    code, found = command("annotate", path, "-m", folder / "model", "-o", calls, *options)

    assert path.read_bytes() == before  # R3
    if case.refused:
        assert (code, calls.exists()) == (python.exit_code, False)
        assert found["error"] == python.to_json()
    else:
        assert code == 0, found
        assert [w["message"] for w in found["warnings"]] == list(map(str, said))
        assert list(pd.read_csv(calls)["label"]) == list(python["label"])
