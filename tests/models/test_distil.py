"""A small annotator learns the calls of a large one, and says what was lost."""

from __future__ import annotations

import numpy as np
import pytest
from _toy import cells, trained

from episome import plugins
from episome.errors import InputDataError, PluginError, UsageError
from episome.models import Ensemble, LogisticRegression, NearestCentroid, distil, load


@pytest.fixture(scope="module")
def teacher():
    return trained(cells(300), max_epochs=20)


def test_the_student_gives_the_teachers_calls(teacher):
    unlabelled = cells(300, seed=0)
    before = unlabelled.copy()
    del unlabelled.obs["cell_type"]

    found = distil(teacher, unlabelled, donor_key="donor_id", seed=0)

    assert type(found.model).__name__ == "LinearClassifier"
    assert found.model.is_trained_
    assert found.held_out_by == "donor"
    assert found.n_train + found.n_test == 300
    assert found.agreement > 0.9
    assert found.agreement_f1 > 0.9
    assert np.isnan([found.teacher_f1, found.student_f1, found.teacher_ece]).all()
    assert found.speed_up > 0
    assert "called alike" in found.text
    assert list(unlabelled.obs) == [c for c in before.obs if c != "cell_type"]
    assert (unlabelled.X != before.X).nnz == 0


def test_with_labels_both_are_scored(teacher):
    adata = cells(300)
    student = distil(
        teacher, adata, student="centroid", labels_key="cell_type", seed=0, held_out=0.4
    )

    assert isinstance(student.model, NearestCentroid)
    truth = adata.obs["cell_type"].astype(str)
    assert 0.8 < student.teacher_f1 <= 1
    assert 0.8 < student.student_f1 <= 1
    assert 0 <= student.student_ece < 0.5
    assert "macro F1" in student.text
    assert set(student.model.labels.names) <= set(truth)


def test_an_ensemble_and_a_folder_are_teachers(tmp_path):
    reference, adata = cells(300), cells(200)
    LogisticRegression.setup_anndata(reference, labels_key="cell_type")
    teacher = LogisticRegression(reference)
    teacher.train()
    teacher.save(tmp_path / "teacher")
    one = distil(tmp_path / "teacher", adata, student="centroid", seed=0)
    two = distil(Ensemble([teacher, teacher]), adata, student="centroid", seed=0)

    assert one.agreement == two.agreement


def test_what_was_lost_is_kept_with_the_student(teacher, tmp_path):
    found = distil(teacher, cells(200), student="centroid", seed=0)
    found.model.save(tmp_path / "student")

    kept = load(tmp_path / "student").fit_["distilled"]
    assert kept["agreement"] == found.agreement
    assert kept["teacher"] == "ToyModel"


def test_values_may_be_in_a_layer(teacher):
    adata = cells(200)
    adata.layers["counts"] = adata.X.copy()
    adata.X = np.zeros(adata.shape, dtype=np.float32)

    found = distil(teacher, adata, student="logreg", layer="counts", seed=0)

    assert isinstance(found.model, LogisticRegression)
    assert found.agreement > 0.8


def test_without_a_student_it_says_what_to_install(teacher, monkeypatch):
    monkeypatch.setattr(plugins, "models", dict)

    with pytest.raises(PluginError, match=r"tagged `student`.*episome-baselines.*E-P14"):
        distil(teacher, cells(60))


def test_a_student_must_annotate(teacher):
    with pytest.raises(UsageError, match=r"pca annotates no cells.*E-U12"):
        distil(teacher, cells(60), student="pca")


def test_a_share_and_columns_are_checked(teacher):
    with pytest.raises(UsageError, match=r"held_out=1.*E-U22"):
        distil(teacher, cells(60), held_out=1)
    with pytest.raises(UsageError, match="E-U04"):
        distil(teacher, cells(60), labels_key="no_such")


def test_one_type_teaches_nothing(teacher):
    adata = cells(300)
    alike = teacher.predict(adata) == "type 0"

    with pytest.raises(InputDataError, match=r"calls all cells alike.*E-L41"):
        distil(teacher, adata[np.asarray(alike)].copy())
