"""Checks of what the methods of each capability return."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from episome import settings
from episome.testing._check import check, require, same
from episome.testing._subject import as_mudata

if TYPE_CHECKING:
    from episome.testing._subject import Subject


@check("annotation", advice="give logits, or probabilities whose rows sum to one")
def check_probabilities_are_probabilities(subject: Subject) -> None:
    """Rows sum to one over all classes, and the label is the largest."""
    model: Any = subject.trained
    found = model.predict_proba(subject.query)
    require(isinstance(found, pd.DataFrame), "predict_proba returns no frame")
    require(list(found.columns) == list(model.labels.names), "its columns are not the classes")
    require(list(found.index) == list(subject.query.obs_names), "its rows are not the cells")
    values = found.to_numpy()
    inside = (values >= 0).all() and (values <= 1 + 1e-6).all()
    require(inside and np.allclose(values.sum(axis=1), 1, atol=1e-4), "rows do not sum to one")
    best = np.array(model.labels.names, dtype=object)[values.argmax(axis=1)]
    require((model.predict(subject.query) == best).all(), "the label is not the largest")


@check("annotation", advice="leave annotate() to the host")
def check_calls_have_the_columns(subject: Subject) -> None:
    """``annotate`` returns a row of calls per cell with the host's columns."""
    from episome.inference import CALL_COLUMNS

    model: Any = subject.trained
    calls = model.annotate(subject.query)
    require(list(calls.columns) == list(CALL_COLUMNS), f"columns {list(calls.columns)}")
    require(list(calls.index) == list(subject.query.obs_names), "its rows are not the cells")
    best = model.predict_proba(subject.query).max(axis=1)
    agrees = np.allclose(calls["confidence"], best, atol=1e-6)
    require(agrees, "the confidence is not the probability of the label")


@check("annotation", advice="depend on settings.seed alone, so that members differ by it")
def check_an_ensemble_averages_its_members(subject: Subject) -> None:
    """Members are averaged, and the first member is the model of the seed."""
    reference = subject.data()
    cls: Any = subject.cls
    cls.setup_anndata(reference, labels_key="cell_type")
    with settings.using_seed(0):
        ensemble = cls.ensemble(reference, n_models=2)
        ensemble.train(**subject.quick())
    raw = {"calibrated": False}
    members = [m.predict_proba(subject.query, **raw).to_numpy() for m in ensemble.members]
    got = ensemble.predict_proba(subject.query, **raw).to_numpy()
    same({"p": got}, {"p": np.mean(members, axis=0)}, "an ensemble against its members' mean")
    alone: Any = subject.trained
    same(
        {"p": alone.predict_proba(subject.query, **raw).to_numpy()},
        {"p": members[0]},
        "the first member against the model of its seed",
    )


@check("annotation", advice="train on all types alike; see the class weights of the host")
def check_separable_types_are_learnt(subject: Subject) -> None:
    """Types that differ plainly are told apart better than by chance."""
    from episome.data import simulate_cells

    adata = simulate_cells(300, 60, n_types=3, n_donors=5, fold_change=6.0, depth=2000.0, seed=0)
    reference, rest = adata[:200].copy(), adata[200:]
    cls: Any = subject.cls
    with settings.using_seed(0):
        cls.setup_anndata(reference, labels_key="cell_type")
        model = cls(reference)
        epochs = {"max_epochs": 30, "batch_size": 32} if subject.is_network else {}
        model.train(**epochs)
    found = model.predict(rest)
    share = float((found == rest.obs["cell_type"].to_numpy().astype(str)).mean())
    floor = rest.obs["cell_type"].value_counts(normalize=True).max()
    learns = "floor" not in (subject.spec.tags if subject.spec else ())
    text = f"accuracy {share:.2f}, where the largest type alone gives {floor:.2f}"
    require(share > floor + 0.2 or not learns, text)


@check("explanation", advice="give attributions over all model genes, one row per cell")
def check_explanations_have_the_shape(subject: Subject) -> None:
    """``explain`` gives a row of finite numbers per cell and per group, a column per gene."""
    from scipy import sparse

    model: Any = subject.trained
    cells = model.explain(subject.query)
    shape = (subject.query.n_obs, len(model.features))
    require(sparse.issparse(cells) and cells.shape == shape, f"explain gives {cells.shape}")
    require(np.isfinite(cells.data).all(), "attributions are not finite")
    require(cells.nnz > 0, "every attribution is zero")
    groups = model.explain(subject.query, groupby="prediction")
    require(list(groups.columns) == list(model.features.ids), "its columns are not the genes")
    top = model.top_genes(subject.query, k=3)
    require({"group", "rank", "gene", "score"} <= set(top.columns), "columns of top_genes")


@check("explanation", advice="explain by what the query holds, whatever the order of its genes")
def check_explanations_follow_the_gene(subject: Subject) -> None:
    """Permuted genes and other batches change no attribution."""
    model: Any = subject.trained
    wanted = model.explain(subject.query).toarray()
    order = np.random.default_rng(0).permutation(subject.query.n_vars)
    got = model.explain(subject.query[:, order], batch_size=9).toarray()
    same({"a": got}, {"a": wanted}, "explanations of permuted genes")


@check("embedding", advice='return {"latent": tensor of shape (B, n_latent)} from the core')
def check_embeddings_have_the_shape(subject: Subject) -> None:
    """The embedding is float32, a row per cell, and differs between cells."""
    model: Any = subject.trained
    found = model.get_latent_representation(subject.query)
    require(isinstance(found, np.ndarray) and found.dtype == np.float32, "no float32 array")
    require(found.ndim == 2 and len(found) == subject.query.n_obs, f"its shape is {found.shape}")
    require(found.std(axis=0).max() > 0, "every cell has the same embedding")


@check("reconstruction", advice='set mean_scale to "log1p" or "proportion", as `mean` is')
def check_expected_expression_has_the_shape(subject: Subject) -> None:
    """Expected expression is not negative, and its rows sum to the library size."""
    model: Any = subject.trained
    found = model.get_normalized_expression(subject.query, library_size=1e4)
    require(list(found.columns) == list(model.features.ids), "its columns are not the genes")
    require(list(found.index) == list(subject.query.obs_names), "its rows are not the cells")
    values = found.to_numpy()
    require((values >= 0).all(), "negative expression is expected")
    require(np.allclose(values.sum(axis=1), 1e4, rtol=1e-3), "rows do not sum to the library")
    genes = list(model.features.ids[2:5])
    part = model.get_normalized_expression(subject.query, gene_list=genes, library_size=1e4)
    require(np.allclose(part, found[genes], rtol=1e-4), "gene_list gives other values")


@check("reconstruction", advice="read nothing but the batch's X; the host hides what is masked")
def check_masked_entries_are_not_seen(subject: Subject) -> None:
    """What is expected of a masked gene does not depend on its counts."""
    model: Any = subject.trained
    query = subject.query
    hidden = np.zeros(query.shape, dtype=bool)
    hidden[:, 3] = True
    # Two genes trade their counts where both are hidden: sizes of cells stay what they are.
    hidden[:, 4] = True
    other = query.copy()
    x = other.X.toarray()
    x[:, [3, 4]] = x[:, [4, 3]]
    other.X = type(query.X)(x)
    ask = model.get_normalized_expression
    first = ask(query, mask=hidden, return_numpy=True)
    second = ask(other, mask=hidden, return_numpy=True)
    same({"e": second}, {"e": first}, "masked genes with other counts")
    require(not np.allclose(first, ask(query, return_numpy=True)), "the mask has no effect")


@check("translation", advice='return {"target": tensor of shape (B, n_targets)} from the core')
def check_predicted_modality_has_the_shape(subject: Subject) -> None:
    """The predicted modality is AnnData with the cells of the query and the target's features."""
    import anndata

    model: Any = subject.trained
    found = model.predict_modality(subject.query)
    names = list(subject.data(10).mod["prot"].var_names)
    require(isinstance(found, anndata.AnnData), "it is no AnnData")
    require(list(found.obs_names) == list(subject.query.obs_names), "its rows are not the cells")
    require(list(found.var_names) == names, "its columns are not the features of the target")
    require(np.isfinite(found.X).all(), "predictions are not finite")


@check("translation", advice="take the cells from the host's data module, which pairs by name")
def check_modalities_are_paired_by_name(subject: Subject) -> None:
    """Modalities in other orders of the cells give the same model."""
    data = subject.data()
    order = np.random.default_rng(0).permutation(data.n_obs)
    turned = as_mudata({"rna": data.mod["rna"], "prot": data.mod["prot"][order].copy()})
    got = subject.ask(subject.train(turned), subject.query)
    same(got, subject.answers, "modalities in other orders", exact=True)


@check("translation", advice="use predict_modality() of the host, which reads the RNA of MuData")
def check_mudata_is_read_as_its_rna(subject: Subject) -> None:
    """MuData as a query gives what its RNA gives."""
    data = subject.data(30, seed=1)
    model: Any = subject.trained
    wanted = model.predict_modality(data.mod["rna"]).X
    alone = as_mudata({"rna": data.mod["rna"]})
    for query in (data, alone):
        same({"m": model.predict_modality(query).X}, {"m": wanted}, "MuData", exact=True)
