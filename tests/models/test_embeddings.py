"""Models named ``embedding:KEY``: annotators of vectors that another model made."""

import json

import anndata
import numpy as np
import pandas as pd
import pytest

import episome
from episome.errors import GeneMatchError, InputDataError, PluginError, UsageError
from episome.inference import Predictor
from episome.models import LogisticRegression, MajorityClass, load
from episome.plugins import get_spec

KEY = "X_vectors"


def cells_with_vectors(n_obs: int = 240, width: int = 6, seed: int = 0) -> anndata.AnnData:
    """Three types around three points; the genes say nothing."""
    rng = np.random.default_rng(seed)
    codes = np.arange(n_obs) % 3
    centres = 3.0 * np.eye(3, width) - 1.0
    adata = anndata.AnnData(rng.poisson(1.0, (n_obs, 20)).astype(np.float32))
    adata.obs["kind"] = np.array(["a", "b", "c"])[codes]
    adata.obsm[KEY] = (centres[codes] + rng.normal(0, 0.5, (n_obs, width))).astype(np.float32)
    return adata


def bare(adata: anndata.AnnData) -> anndata.AnnData:
    """The vectors alone: no labels and no matrix."""
    return anndata.AnnData(obs=adata.obs[[]].copy(), obsm={KEY: adata.obsm[KEY]})


@pytest.fixture(scope="module")
def model() -> LogisticRegression:
    """A trained linear probe."""
    adata = cells_with_vectors()
    cls = episome.get_model(f"embedding:{KEY}:logreg")
    cls.setup_anndata(adata, labels_key="kind")
    trained = cls(adata)
    trained.train()
    return trained


def test_vectors_are_learned_and_genes_are_not_read(model: LogisticRegression) -> None:
    query = cells_with_vectors(seed=1)
    assert (model.predict(query) == query.obs["kind"].to_numpy()).mean() > 0.95
    assert list(model.predict(bare(query))) == list(model.predict(query))
    assert model.confidence_.is_calibrated


def test_the_scale_of_a_dimension_changes_no_call() -> None:
    adata, query = cells_with_vectors(), cells_with_vectors(seed=1)
    calls = []
    for factor in (1.0, 1000.0):
        one, two = adata.copy(), query.copy()
        one.obsm[KEY] = one.obsm[KEY] * np.array([factor, 1, 1, 1, 1, 1], np.float32)
        two.obsm[KEY] = two.obsm[KEY] * np.array([factor, 1, 1, 1, 1, 1], np.float32)
        LogisticRegression.setup_anndata(one, labels_key="kind", obsm_key=KEY)
        model = LogisticRegression(one)
        model.train()
        calls.append(model.predict_proba(two).to_numpy())
    np.testing.assert_allclose(calls[0], calls[1], atol=2e-3)


def test_a_folder_says_what_it_reads(model: LogisticRegression, tmp_path) -> None:
    query = cells_with_vectors(seed=1)
    model.save(tmp_path / "m")
    manifest = json.loads((tmp_path / "m" / "manifest.json").read_text())
    assert manifest["input"]["obsm_key"] == KEY
    assert manifest["model"]["class"] == "LogisticRegression"
    for found in (
        load(tmp_path / "m"),
        type(model).load(tmp_path / "m", adata=cells_with_vectors()),
    ):
        assert list(found.predict(query)) == list(model.predict(query))
    predictor = Predictor.from_folder(tmp_path / "m")
    assert list(predictor.annotate(predictor.prepare(bare(query)))["label"]) == list(
        model.predict(query)
    )
    assert f"obsm['{KEY}']" in (tmp_path / "m" / "README.md").read_text()


def test_from_the_command_line(tmp_path) -> None:
    from click.testing import CliRunner

    from episome.cli._app import app as main

    cells_with_vectors().write_h5ad(tmp_path / "cells.h5ad")
    query = cells_with_vectors(seed=1)
    query.write_h5ad(tmp_path / "query.h5ad")
    run = CliRunner().invoke
    file, folder = str(tmp_path / "cells.h5ad"), str(tmp_path / "m")
    done = run(
        main, ["train", f"embedding:{KEY}:logreg", file, "--labels-key", "kind", "-o", folder]
    )
    assert done.exit_code == 0, done.output
    calls = str(tmp_path / "calls.csv")
    done = run(main, ["annotate", str(tmp_path / "query.h5ad"), "-m", folder, "-o", calls])
    assert done.exit_code == 0, done.output
    done = run(main, ["check", str(tmp_path / "query.h5ad"), "-m", folder, "--json"])
    answer = json.loads(done.stdout)
    assert answer["ok"], answer


@pytest.mark.parametrize(
    ("change", "error", "code"),
    [
        (lambda a: a.obsm.pop(KEY), InputDataError, "E-D47"),
        (lambda a: a.obsm.update({KEY: a.obsm[KEY][:, :3]}), GeneMatchError, "E-G22"),
        (lambda a: a.obsm.update({KEY: a.obsm[KEY] * np.nan}), InputDataError, "E-D01"),
    ],
    ids=["no such array", "another length", "nan"],
)
def test_vectors_that_do_not_fit_are_refused(
    model: LogisticRegression, change, error, code: str
) -> None:
    query = cells_with_vectors(seed=1)
    change(query)
    with pytest.raises(error) as caught:
        model.predict(query)
    assert code in str(caught.value)


def test_columns_of_a_frame_are_matched_by_name() -> None:
    adata, query = cells_with_vectors(), cells_with_vectors(seed=1)
    names = [f"PC{i}" for i in range(6)]
    for part in (adata, query):
        part.obsm[KEY] = pd.DataFrame(part.obsm[KEY], index=part.obs_names, columns=names)
    LogisticRegression.setup_anndata(adata, labels_key="kind", obsm_key=KEY)
    model = LogisticRegression(adata)
    model.train()
    wanted = model.predict_proba(query)
    turned = query.copy()
    turned.obsm[KEY] = turned.obsm[KEY].iloc[:, ::-1]
    np.testing.assert_allclose(model.predict_proba(turned), wanted, atol=1e-6)
    array = query.copy()
    array.obsm[KEY] = query.obsm[KEY].to_numpy()
    np.testing.assert_allclose(model.predict_proba(array), wanted, atol=1e-6)
    other = query.copy()
    other.obsm[KEY] = query.obsm[KEY].set_axis([f"z{i}" for i in range(6)], axis=1)
    with pytest.raises(GeneMatchError, match=r"6 of 6, first: z0.*E-G22"):
        model.predict(other)


def test_the_cell_with_nan_is_named(model: LogisticRegression) -> None:
    query = cells_with_vectors(seed=1)
    query.obsm[KEY][3, 4] = np.nan
    with pytest.raises(InputDataError, match=r"1 of 240, first: 3\..*E-D01"):
        model.predict(query)


def test_two_places_of_the_values_are_refused(model: LogisticRegression) -> None:
    adata = cells_with_vectors()
    adata.layers["counts"] = adata.X
    with pytest.raises(UsageError, match="E-U27"):
        model.predict(adata, layer="counts")
    with pytest.raises(UsageError, match="E-U27"):
        LogisticRegression.setup_anndata(adata, "kind", obsm_key=KEY, layer="counts")


def test_models_of_genes_say_that_they_are(model: LogisticRegression) -> None:
    with pytest.raises(UsageError, match="E-U74"):
        MajorityClass.setup_anndata(cells_with_vectors(), "kind", obsm_key=KEY)


def test_neighbours_vote_among_the_vectors_as_they_are() -> None:
    adata, query = cells_with_vectors(), cells_with_vectors(seed=1)
    cls = episome.get_model(f"embedding:{KEY}")
    cls.setup_anndata(adata, labels_key="kind")
    trained = cls(adata)
    trained.train()
    assert (trained.predict(query) == query.obs["kind"].to_numpy()).mean() > 0.95
    np.testing.assert_allclose(
        trained.get_latent_representation(query), query.obsm[KEY], atol=1e-6
    )


def test_names() -> None:
    assert get_spec("embedding:X_pca").obsm_key == "X_pca"
    assert get_spec("embedding:X_pca:logreg").class_name == "LogisticRegression"
    first = episome.get_model("embedding:X_pca:logreg")
    assert first is episome.get_model("embedding:X_pca:logreg")
    assert issubclass(first, LogisticRegression)
    for name in ("embedding:", "embedding:X_pca:nobody", "embedding:X_pca:majority"):
        with pytest.raises(PluginError, match="E-P01"):
            get_spec(name)
