"""How much calls rest on every gene: from attributions of training cells, kept in the folder."""

from __future__ import annotations

import numpy as np
import pytest

from episome import inference
from episome.data import simulate_cells
from episome.errors import GeneMatchError, ModelFileError
from episome.inference import Predictor, gene_importance, mean_importance
from episome.models import LogisticRegression, NearestCentroid, load


@pytest.fixture(scope="module")
def trained():
    adata = simulate_cells(200, 40, n_types=3, fold_change=4.0, depth=800.0, seed=1)
    LogisticRegression.setup_anndata(adata, labels_key="cell_type")
    model = LogisticRegression(adata)
    model.train()
    return model


def test_weights_are_the_mean_absolute_attributions_of_training_cells(trained):
    found = trained.gene_importance
    labels = trained.adata.obs["cell_type"].astype(str).to_numpy()
    attributions = np.abs(trained.explain().toarray())
    means = np.stack([attributions[labels == c].mean(axis=0) for c in found.classes])

    assert found.weights.shape == (3, 40)
    assert np.allclose(found.weights, means / means.sum(axis=1, keepdims=True), atol=1e-6)


def test_masks_are_weighed_by_the_values_they_let_through(toy):
    model = toy.trained()
    run = inference.attribution(model.module)

    class Core(type(model.module)):
        attributions_hold_values = False
        preferred_attribution = "native"

        def explaining(self):
            return lambda batch: (batch["X"] != 0).float()

    core = Core.from_config(model.module.config)
    core.load_state_dict(model.module.state_dict())
    core.eval()
    predictor = Predictor(
        core, features=model.features, rule=model.input_rule, labels=model.labels
    )
    codes = model.training_codes()
    rows = np.arange(len(codes))

    found = gene_importance(predictor, model.training_query(), codes, rows, seed=0)

    values = np.concatenate(
        [
            inference.as_csr(b["X"], len(model.features)).toarray()
            for b in predictor.batches(model.training_query())
        ]
    )
    mean = np.stack([values[codes == c].mean(axis=0) for c in range(len(model.labels))])
    assert run.holds_values
    assert np.allclose(found.weights, mean / mean.sum(axis=1, keepdims=True), atol=1e-5)


def test_classes_count_alike_however_many_cells_they_have(trained, monkeypatch):
    monkeypatch.setattr("episome.inference._importance.N_CELLS", 30)
    codes = trained.training_codes()
    rows = inference._importance._evenly(codes, np.arange(len(codes)), 3, seed=0)

    assert np.bincount(codes[rows]).tolist() == [10, 10, 10]
    assert (np.diff(rows) > 0).all()


def test_weights_are_in_the_folder_and_come_back(trained, tmp_path):
    trained.save(tmp_path / "m")

    back, alone = load(tmp_path / "m"), Predictor.from_folder(tmp_path / "m")

    assert np.array_equal(back.gene_importance.weights, trained.gene_importance.weights)
    assert np.array_equal(alone.importance.weights, trained.gene_importance.weights)


def test_weights_of_other_shape_are_refused(trained, tmp_path):
    trained.gene_weights_, kept = trained.gene_weights_[:, :-1], trained.gene_weights_
    trained.save(tmp_path / "m")
    trained.gene_weights_ = kept

    for read in (load, Predictor.from_folder):
        with pytest.raises(ModelFileError, match="E-M06"):
            read(tmp_path / "m")


def test_a_core_that_attributes_nothing_has_no_weights(trained, tmp_path):
    adata = trained.adata.copy()
    NearestCentroid.setup_anndata(adata, labels_key="cell_type")
    model = NearestCentroid(adata)
    model.train()
    model.save(tmp_path / "m")

    assert model.gene_importance is None
    assert load(tmp_path / "m").gene_importance is None


def test_the_weights_of_an_ensemble_are_the_mean_of_its_members(trained):
    one = trained.gene_importance
    other = inference.mean_importance([one])

    assert other is one
    assert mean_importance([one, None]) is None
    assert mean_importance([one, one]).weights == pytest.approx(one.weights, abs=1e-7)


def test_the_genes_that_matter_are_missed_and_the_others_are_not(trained):
    query = simulate_cells(60, 40, n_types=3, fold_change=4.0, depth=800.0, seed=1)
    order = np.argsort(-trained.gene_importance.weights.mean(axis=0))
    without_best, without_rest = query[:, np.sort(order[16:])], query[:, np.sort(order[:24])]

    with pytest.raises(GeneMatchError, match="the genes on which the model's calls rest") as error:
        trained.predict(without_best)
    trained.predict(without_best, min_gene_overlap=0.01)
    report = trained.prepare(without_rest, min_gene_overlap=0.1).alignment.report

    assert error.value.code == "E-G03"
    assert set(error.value.problems[0].details["lost"]) == set(trained.labels.names)
    assert report.weight > 0.5
