"""Scores of gene sets: those of scanpy but for the draw of controls, in blocks or at once."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import scanpy as sc

import episome
from episome import inference
from episome.data import simulate_cells
from episome.errors import EpisomeWarning, GeneMatchError, UsageError
from episome.inference import GeneSetScores, _gene_sets, read_gene_sets
from episome.jobs import AnnotateRequest, annotate


@pytest.fixture(scope="module")
def cells():
    found = simulate_cells(500, 600, n_types=4, n_donors=4, fold_change=3.0, seed=0)
    found.var["feature_name"] = [f"SYM{i}" for i in range(found.n_vars)]
    return found


@pytest.fixture(scope="module")
def model(cells):
    model_cls = episome.get_model("centroid")
    reference = cells.copy()
    model_cls.setup_anndata(reference, labels_key="cell_type")
    model = model_cls(reference)
    model.train()
    return model


def test_scores_are_those_of_scanpy(cells, model):
    genes = [str(g) for g in cells.var_names[:12]]
    theirs = cells.copy()
    sc.pp.normalize_total(theirs, target_sum=1e4)
    sc.pp.log1p(theirs)
    sc.tl.score_genes(theirs, genes, random_state=0, use_raw=False)

    ours = GeneSetScores(model.prepare(cells), {"a": genes}).frame()

    assert list(ours.columns) == ["score_a"]
    assert ours.index.equals(cells.obs_names)
    found = np.corrcoef(ours["score_a"], theirs.obs["score"])[0, 1]
    assert found > 0.95


def test_blocks_and_logarithms_change_nothing(cells, model, monkeypatch):
    sets = {"a": ["GENE3", "GENE17"], "b": ["SYM5", "SYM40", "SYM41"]}
    whole = GeneSetScores(model.prepare(cells), sets).frame()

    monkeypatch.setattr(_gene_sets, "_BLOCK", 37)
    blocks = GeneSetScores(model.prepare(cells), sets)
    pd.testing.assert_frame_equal(blocks.frame(), whole, atol=1e-6)
    pd.testing.assert_frame_equal(blocks.frame(100, 250), whole.iloc[100:250], atol=1e-6)
    names = GeneSetScores(model.prepare(cells), {"b": ["GENE5", "GENE40", "GENE41"]}).frame()
    np.testing.assert_allclose(names["score_b"].mean(), whole["score_b"].mean(), atol=0.1)


def test_genes_that_are_not_there_are_said(cells, model):
    with pytest.warns(EpisomeWarning, match="1 of 2, first: nothing.*E-G28"):
        GeneSetScores(model.prepare(cells), {"a": ["GENE3", "nothing"]})
    with pytest.raises(GeneMatchError, match="E-G27"):
        GeneSetScores(model.prepare(cells), {"a": ["nothing"]})


@pytest.mark.parametrize("text", ["a", "=GENE1", "a=", "a= , "])
def test_texts_that_are_no_sets_are_refused(text):
    with pytest.raises(UsageError, match="E-U104"):
        read_gene_sets([text])


def test_sets_are_read_and_names_come_once():
    assert read_gene_sets(["a=X, Y", "b=Z"]) == {"a": ("X", "Y"), "b": ("Z",)}
    with pytest.raises(UsageError, match="comes twice.*E-U104"):
        read_gene_sets(["a=X", "a=Y"])


@pytest.mark.parametrize("suffix", [".csv", ".h5ad"])
@pytest.mark.parametrize("part", [None, 64])
def test_scores_stand_beside_the_calls(cells, model, tmp_path, monkeypatch, suffix, part):
    import anndata

    from episome.jobs import _streamed

    model.save(tmp_path / "m")
    cells.write_h5ad(tmp_path / "q.h5ad")
    wanted = GeneSetScores(model.prepare(cells), {"a": ["GENE3", "GENE17"]}).frame()
    if part is not None:
        monkeypatch.setattr(_streamed, "PART", part)
    out = tmp_path / f"calls{suffix}"

    annotate(AnnotateRequest(tmp_path / "q.h5ad", tmp_path / "m", out, scores=("a=GENE3,GENE17",)))

    table = pd.read_csv(out, index_col=0) if suffix == ".csv" else anndata.read_h5ad(out).obs
    name = "score_a" if suffix == ".csv" else "episome_score_a"
    np.testing.assert_allclose(table[name], wanted["score_a"], atol=1e-4)
    assert "GeneSetScores" in dir(inference)
