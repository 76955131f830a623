"""The whole of a model's confidence: fitted on calibration cells, kept in its folder."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy import sparse
from scipy.special import softmax

from episome.confidence import Confidence, TypeSpace, fit_confidence, reliability
from episome.errors import ModelFileError


def cells(n=1500, n_classes=3, sharpness=2.5, seed=0):
    """Logits that are too sharp, the truth, and values in which types differ."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 1.5, (n, n_classes))
    shares = softmax(logits, axis=1)
    codes = (shares.cumsum(axis=1) > rng.random((n, 1))).argmax(axis=1)
    values = rng.poisson(1 + 4 * np.eye(n_classes, 30)[codes]).astype(np.float32)
    return logits * sharpness, codes, sparse.csr_matrix(np.log1p(values))


@pytest.fixture(scope="module")
def fitted():
    logits, codes, values = cells()
    space = TypeSpace.fit(values[:700], codes[:700], np.arange(30))
    return fit_confidence(
        logits[700:],
        codes[700:],
        source="held out",
        space=space,
        distances=space.distances(values[700:]),
    )


def test_what_was_too_sure_is_as_sure_as_it_is_right(fitted):
    logits, codes, _ = cells(6000, seed=1)

    found = fitted.map.probabilities(logits)

    gap = abs(found.max(axis=1).mean() - (found.argmax(axis=1) == codes).mean())
    assert gap < 0.03
    assert fitted.facts["after"]["ece"] < 0.5 * fitted.facts["before"]["ece"]
    assert fitted.facts["after"]["nll"] < fitted.facts["before"]["nll"]
    assert fitted.facts["before"]["accuracy"] == pytest.approx(
        fitted.facts["after"]["accuracy"], abs=0.01
    )


def test_sets_hold_their_rate_on_new_cells(fitted):
    logits, codes, _ = cells(6000, seed=2)

    sets = fitted.scores.sets(fitted.map.probabilities(logits), 0.1)

    assert sets[np.arange(6000), codes].mean() == pytest.approx(0.9, abs=0.03)


def test_parts_give_the_same_back_by_way_of_json(fitted):
    tensors, plain = fitted.to_parts()

    back = Confidence.from_parts(tensors, json.loads(json.dumps(plain)), n_classes=3)

    logits, _, values = cells(50, seed=3)
    shares = fitted.map.probabilities(logits)
    assert np.array_equal(back.map.probabilities(logits), shares)
    assert np.array_equal(back.scores.sets(shares, 0.1), fitted.scores.sets(shares, 0.1))
    assert np.array_equal(back.novelty.score(shares, values), fitted.novelty.score(shares, values))
    assert back.facts == fitted.facts
    assert back.is_calibrated


def test_a_model_that_nobody_calibrated_says_so_and_changes_nothing():
    logits, _, _ = cells(20)
    tensors, plain = Confidence().to_parts()

    back = Confidence.from_parts(tensors, plain, n_classes=3)

    assert not back.is_calibrated
    assert plain["calibrated"] is False
    assert np.allclose(back.map.probabilities(logits), softmax(logits, axis=1), atol=1e-6)


def test_tables_of_other_classes_are_refused(fitted):
    tensors, plain = fitted.to_parts()
    tensors["map/x"] = np.zeros((2, 5), dtype=np.float32)

    with pytest.raises(ModelFileError, match="E-M06"):
        Confidence.from_parts(tensors, plain, n_classes=3)
    tensors["map/x"] = np.full((3, 5), np.nan, dtype=np.float32)
    with pytest.raises(ModelFileError, match="E-M06"):
        Confidence.from_parts(tensors, plain, n_classes=3)


def test_bins_hold_as_many_cells_each():
    sure = np.linspace(0.5, 1.0, 100)

    table = reliability(sure, np.arange(100) % 2 == 0, n_bins=10)

    assert table["n_cells"] == [10] * 10
    assert table["confidence"] == sorted(table["confidence"])
    assert np.allclose(table["accuracy"], 0.5)
