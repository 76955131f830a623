"""A split that was written to a file decides which cells train."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy import sparse

from episome.data import AnnDataSource, read_split, simulate_cells, split_by_groups
from episome.errors import InputDataError, UsageError
from episome.jobs import (
    CorpusRequest,
    SplitRequest,
    TrainRequest,
    corpus_build,
    corpus_split,
    train,
)
from episome.models import Ensemble, LinearClassifier, LogisticRegression, load


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Cells, the corpus of them, and its split by donor."""
    folder = tmp_path_factory.mktemp("split")
    cells = simulate_cells(400, 40, n_types=3, n_donors=8, seed=0)
    labels = cells.obs["cell_type"].astype(str).to_numpy()
    labels[:20] = "unknown"
    cells.obs["cell_type"] = labels
    cells.write_h5ad(folder / "cells.h5ad")
    corpus_build(
        CorpusRequest(
            inputs=(folder / "cells.h5ad",),
            output=folder / "cells.corpus",
            labels_key="cell_type",
            donor_keys=("donor_id",),
        )
    )
    corpus_split(SplitRequest(corpus=folder / "cells.corpus", output=folder / "split.json"))
    return folder


def donors_of(source, rows):
    return set(source.obs_column("donor_id").to_numpy()[rows])


@pytest.mark.parametrize("kind", ["corpus", "memory"])
def test_the_donors_of_the_file_train_and_validate(made, kind):
    split = made / "split.json"
    if kind == "corpus":
        cells = LinearClassifier.setup_source(made / "cells.corpus", "cell_type")
        source = cells.source
    else:
        cells = simulate_cells(400, 40, n_types=3, n_donors=8, seed=0)
        source = AnnDataSource(cells)
        split = made / "memory.json"
        split.write_text(json.dumps(split_by_groups(source, ["donor_id"])))
        LinearClassifier.setup_anndata(cells, labels_key="cell_type")
    parts = json.loads(split.read_text())["parts"]
    model = LinearClassifier(cells)

    model.train(max_epochs=1, refit=False, datasplitter_kwargs={"split": split})

    assert donors_of(source, model.train_indices_) == set(parts["train"]["groups"])
    assert donors_of(source, model.validation_indices_) == set(parts["validation"]["groups"])
    assert donors_of(source, model.test_indices_) == set(parts["test"]["groups"])
    labels = source.obs_column("cell_type").astype(str).to_numpy()
    assert "unknown" not in labels[model.train_indices_]


def test_the_job_takes_the_file(made, tmp_path):
    request = TrainRequest(
        method="linear",
        input=made / "cells.corpus",
        output=tmp_path / "m",
        setup={"labels_key": "cell_type"},
        train={
            "max_epochs": 1,
            "refit": False,
            "datasplitter_kwargs": {"split": str(made / "split.json")},
        },
    )

    train(request)

    kept = json.loads((made / "split.json").read_text())["parts"]
    assert load(tmp_path / "m").fit_["n_validation"] <= kept["validation"]["n_obs"]


@pytest.mark.parametrize("kind", ["corpus", "memory"])
def test_what_is_fitted_at_once_learns_from_training_and_validation_cells(made, tmp_path, kind):
    cells = simulate_cells(400, 40, n_types=3, n_donors=8, seed=0)
    source, split = AnnDataSource(cells), tmp_path / "split.json"
    if kind == "corpus":
        prepared = LogisticRegression.setup_source(made / "cells.corpus", "cell_type")
        source, split = prepared.source, made / "split.json"
        model = LogisticRegression(prepared)
    else:
        split.write_text(json.dumps(split_by_groups(source, ["donor_id"])))
        LogisticRegression.setup_anndata(cells, labels_key="cell_type")
        model = LogisticRegression(cells)
    parts = read_split(split, source)

    model.train(datasplitter_kwargs={"split": split})

    taken = np.sort(np.concatenate([parts.train, parts.validation]))
    usable = model.training_codes() >= 0
    np.testing.assert_array_equal(model.train_indices_, taken[usable[taken]])
    np.testing.assert_array_equal(model.test_indices_, parts.test[usable[parts.test]])
    assert len(model.validation_indices_) == 0
    assert model.fit_["split_sha256"] == parts.digest


def test_the_test_cells_of_a_split_are_never_looked_at(tmp_path):
    """A model of cells whose test part was exchanged is the same model."""
    cells = simulate_cells(400, 40, n_types=3, n_donors=8, seed=0)
    split = tmp_path / "split.json"
    split.write_text(json.dumps(split_by_groups(AnnDataSource(cells), ["donor_id"])))
    test = read_split(split, AnnDataSource(cells)).test
    others = cells.copy()
    counts = others.X.toarray()
    counts[test] = counts[test[::-1]] * 3
    others.X = sparse.csr_matrix(counts)
    names = np.roll(cells.obs["cell_type"].astype(str).to_numpy()[test], 7)
    others.obs["cell_type"] = others.obs["cell_type"].astype(str)
    others.obs.iloc[test, others.obs.columns.get_loc("cell_type")] = names
    models = []

    for adata in (cells, others):
        LogisticRegression.setup_anndata(adata, labels_key="cell_type", donor_key="donor_id")
        models.append(LogisticRegression(adata))
        models[-1].train(datasplitter_kwargs={"split": split})

    states = [{**m.module.state()[0], **m.confidence_.to_parts()[0]} for m in models]
    assert states[0].keys() == states[1].keys()
    for name, values in states[0].items():
        np.testing.assert_array_equal(values, states[1][name], err_msg=name)
    np.testing.assert_array_equal(models[0].gene_weights_, models[1].gene_weights_)


@pytest.mark.parametrize(
    ("splitter", "text"),
    [
        ({"sampling": "balanced"}, r"sampling \(--sampling\).*without epochs.*E-U16"),
        ({"drop_last": True}, r"does not know drop_last\. .*E-U16"),
        ({"split": "s.json", "external_indexing": [[0]]}, r"both.*E-U27"),
    ],
)
def test_what_is_fitted_at_once_draws_no_batches(splitter, text):
    cells = simulate_cells(60, 20, n_types=2, seed=1)
    LogisticRegression.setup_anndata(cells, labels_key="cell_type")

    with pytest.raises(UsageError, match=text):
        LogisticRegression(cells).train(datasplitter_kwargs=splitter)


def test_members_that_are_fitted_at_once_have_the_cells_of_the_first(made):
    cells = LogisticRegression.setup_source(made / "cells.corpus", "cell_type")
    ensemble = LogisticRegression.ensemble(cells, n_models=2)

    ensemble.train(datasplitter_kwargs={"split": made / "split.json"})

    first, second = ensemble.members
    np.testing.assert_array_equal(first.train_indices_, second.train_indices_)


def test_a_split_of_other_cells_is_refused(made):
    cells = simulate_cells(400, 40, n_types=3, n_donors=9, seed=1)
    LinearClassifier.setup_anndata(cells, labels_key="cell_type")

    with pytest.raises(InputDataError, match="E-L38"):
        LinearClassifier(cells).train(datasplitter_kwargs={"split": made / "split.json"})


def test_a_file_and_lists_of_rows_exclude_each_other(made):
    cells = simulate_cells(60, 20, n_types=2, seed=1)
    LinearClassifier.setup_anndata(cells, labels_key="cell_type")
    both = {"split": made / "split.json", "external_indexing": [np.arange(40)]}

    with pytest.raises(UsageError, match="E-U27"):
        LinearClassifier(cells).train(datasplitter_kwargs=both)


def test_the_parts_of_a_file_stay_apart_in_members_too(made):
    cells = LinearClassifier.setup_source(made / "cells.corpus", "cell_type")
    ensemble = Ensemble([LinearClassifier(cells), LinearClassifier(cells)])

    ensemble.train(max_epochs=1, datasplitter_kwargs={"split": made / "split.json"})

    for member in ensemble.members:
        assert member.fit_["refit"] is False
        assert member.fit_["n_cells"] == len(member.train_indices_)
        assert (member.test_indices_ == ensemble.members[0].test_indices_).all()


def test_a_refit_can_be_asked_for(made):
    model = LinearClassifier(LinearClassifier.setup_source(made / "cells.corpus", "cell_type"))

    model.train(max_epochs=1, refit=True, datasplitter_kwargs={"split": made / "split.json"})

    assert model.fit_["n_cells"] == len(model.train_indices_) + len(model.validation_indices_)
