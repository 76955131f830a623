"""What is accepted with a warning, in the one form of messages."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from episome.data import FeatureSpace, InputRule, check_classes, prepare_query, simulate_cells
from episome.errors import EpisomeWarning


def labels(*names: str) -> np.ndarray:
    return np.array([*(["A"] * 5), *(["B"] * 5), *names], dtype=object)


def codes_of(recorded: pytest.WarningsRecorder) -> set[str]:
    return {w.message.code for w in recorded if isinstance(w.message, EpisomeWarning)}


@pytest.mark.parametrize("name", ["", "nan", "NA", "-"])
def test_labels_that_look_like_none_stay_classes_with_a_warning(name: str) -> None:
    with pytest.warns(EpisomeWarning, match="E-L02"):
        classes = check_classes(labels(name, name), "unknown", "obs")

    assert name in classes


def test_labels_of_the_unlabelled_category_are_counted() -> None:
    with pytest.warns(EpisomeWarning, match=r"3 of 13.*E-L06"):
        classes = check_classes(labels("unknown", "unknown", "unknown"), "unknown", "obs")

    assert classes == ["A", "B"]


def test_labels_that_differ_by_blanks_warn_and_stay_apart() -> None:
    with pytest.warns(EpisomeWarning, match="E-L11"):
        assert "A " in check_classes(labels("A ", "A "), "unknown", "obs")


def test_clean_labels_warn_of_nothing(recwarn: pytest.WarningsRecorder) -> None:
    check_classes(labels(), "unknown", "obs")

    assert codes_of(recwarn) == set()


@pytest.mark.parametrize(
    ("name", "warns"), [("gene_{}", True), ("feature{}", True), ("GENE{}", False), ("CD{}", False)]
)
def test_placeholder_genes_warn_in_training_and_query(
    name: str, warns: bool, recwarn: pytest.WarningsRecorder
) -> None:
    var = pd.DataFrame(index=[name.format(i) for i in range(20)])

    space = FeatureSpace.from_var(var)
    in_training = codes_of(recwarn)
    recwarn.clear()
    space.align(var)

    assert in_training == codes_of(recwarn) == ({"E-G14"} if warns else set())


def test_repeated_cell_names_of_a_query_warn_and_keep_their_order() -> None:
    query = simulate_cells(20, 30)
    query.obs_names = ["same"] * 20
    space = FeatureSpace.from_var(query.var)

    with pytest.warns(EpisomeWarning, match=r"19 of 20.*E-L15"):
        prepared = prepare_query(query, space, InputRule())

    assert prepared.source.n_obs == 20
