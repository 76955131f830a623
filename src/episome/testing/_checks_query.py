"""Checks of queries: genes by name, every form of matrix, any order and size of batches."""

from __future__ import annotations

import contextlib
import tempfile
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anndata
import numpy as np
import pandas as pd
from scipy import sparse

from episome.errors import EpisomeError, GeneMatchError, UsageError
from episome.testing._check import check, refuses, require, same
from episome.testing._fingerprint import fingerprint

if TYPE_CHECKING:
    from anndata import AnnData

    from episome.testing._subject import Subject

_BY_NAME = "read every query through self.prepare() and self.predictor(), which align by name"


@check(advice=_BY_NAME)
def check_genes_in_another_order_change_nothing(subject: Subject) -> None:
    """Permuted genes give the same bits."""
    query = subject.query
    order = np.random.default_rng(0).permutation(query.n_vars)
    got = subject.ask(subject.trained, query[:, order])
    same(got, subject.answers, "permuted genes", exact=True)


@check(advice=_BY_NAME)
def check_genes_that_the_model_does_not_know_change_nothing(subject: Subject) -> None:
    """Further genes give the same bits."""
    query = subject.query
    noise = sparse.random(query.n_obs, 20, density=0.3, random_state=0, format="csr").ceil()
    extra = pd.DataFrame(index=[f"EXTRA{i}" for i in range(20)])
    wide = anndata.AnnData(
        sparse.hstack([noise, query.X], format="csr"),
        obs=query.obs,
        var=pd.concat([extra, query.var]),
    )
    same(subject.ask(subject.trained, wide), subject.answers, "extra genes", exact=True)


@check(advice=_BY_NAME)
def check_missing_genes_count_as_zero(subject: Subject) -> None:
    """A query without some genes gives what it gives with zeros in their place."""
    query, model = subject.query, subject.trained
    order = np.random.default_rng(0).permutation(query.n_vars)
    kept = np.sort(order[: int(0.7 * query.n_vars)])
    zeroed = query.X.toarray()
    zeroed[:, np.setdiff1d(order, kept)] = 0
    zeros = anndata.AnnData(sparse.csr_matrix(zeroed), obs=query.obs, var=query.var)
    # Which genes the calls rest on is up to the model: the limit is not what is looked at. Nor is
    # the confidence, which is lowered where genes are missing.
    got = subject.ask_raw(model, query[:, kept], min_gene_overlap=0.0)
    same(subject.ask_raw(model, zeros), got, "missing genes against zeros")


@check(advice=_BY_NAME)
def check_foreign_genes_are_refused(subject: Subject) -> None:
    """A query of other genes is refused, in every capability."""
    foreign = subject.query.copy()
    foreign.var_names = [f"OTHER{i}" for i in range(foreign.n_vars)]
    ask = partial(subject.ask, subject.trained, foreign)
    refuses(GeneMatchError, ask, "a query of foreign genes", code="E-G02")


_FORMS = "read batches of the host, not adata.X"


def _forms(subject: Subject, forms: dict[str, object]) -> None:
    query = subject.query
    for name, matrix in forms.items():
        adata = anndata.AnnData(matrix, obs=query.obs, var=query.var)
        same(subject.ask(subject.trained, adata), subject.answers, name)


@check(advice=_FORMS)
def check_sparse_formats_agree(subject: Subject) -> None:
    """CSR and CSC matrices and arrays give the same."""
    x = subject.query.X
    _forms(
        subject,
        {
            "csc_matrix": sparse.csc_matrix(x),
            "csr_array": sparse.csr_array(x),
            "csc_array": sparse.csc_array(x),
        },
    )


@check(advice=_FORMS)
def check_dense_layouts_agree(subject: Subject) -> None:
    """Dense matrices of either order, and arrays that cannot be written to, give the same."""
    dense = subject.query.X.toarray()
    locked = dense.copy()
    locked.setflags(write=False)
    forms = {"dense": dense, "Fortran order": np.asfortranarray(dense), "read-only": locked}
    _forms(subject, forms)


@check(advice=_FORMS)
def check_types_of_numbers_agree(subject: Subject) -> None:
    """Integers and doubles give what float32 gives."""
    x = subject.query.X
    _forms(
        subject,
        {
            "int64": x.astype(np.int64),
            "float64": x.astype(np.float64),
            "uint16": x.toarray().astype(np.uint16),
        },
    )


@check(advice="never copy or write to a query; a view stays a view")
def check_views_agree_and_stay_views(subject: Subject) -> None:
    """A view gives what its copy gives, and is a view afterwards."""
    query = subject.query
    padded = anndata.concat([query, query], index_unique="-")
    padded.var = query.var
    view = padded[: query.n_obs]
    same(subject.ask(subject.trained, view), subject.answers, "a view")
    require(view.is_view, "prediction turned the caller's view into a copy")


@check(advice=_FORMS)
def check_backed_files_agree(subject: Subject) -> None:
    """A file that stays on disk gives what the object in memory gives, and is not changed."""
    query = subject.query
    with tempfile.TemporaryDirectory() as folder:
        for name in ("csr", "csc"):
            path = Path(folder) / f"{name}.h5ad"
            x = query.X.asformat(name)
            anndata.AnnData(x, obs=query.obs, var=query.var).write_h5ad(path)
            before = path.read_bytes()
            backed = anndata.read_h5ad(path, backed="r")
            same(subject.ask(subject.trained, backed), subject.answers, f"backed {name}")
            backed.file.close()
            same(subject.ask(subject.trained, path), subject.answers, f"the path, {name}")
            require(path.read_bytes() == before, "prediction changed the file")


@check(advice="leave what a cell gets to that cell: no statistics of the batch in prediction")
def check_batch_size_does_not_matter(subject: Subject) -> None:
    """Batches of one, of seven and of all cells give the same."""
    for size in (1, 7, subject.query.n_obs):
        got = subject.ask(subject.trained, subject.query, batch_size=size)
        same(got, subject.answers, f"batch_size={size}")


@check(advice="return rows in the order of the query, and draw nothing at random in prediction")
def check_order_of_cells_is_kept(subject: Subject) -> None:
    """Permuted cells give permuted answers."""
    order = np.random.default_rng(0).permutation(subject.query.n_obs)
    got = subject.ask(subject.trained, subject.query[order])
    same(got, subject.rows(subject.answers, order), "permuted cells")


@check(advice="hand `indices` to the predictor as rows")
def check_indices_choose_cells(subject: Subject) -> None:
    """Rows can be asked for, in any order; rows that are not there are refused."""
    got = subject.ask(subject.trained, subject.query, indices=[7, 2, 2])
    same(got, subject.rows(subject.answers, [7, 2, 2]), "indices")
    ask = partial(subject.ask, subject.trained, subject.query, indices=[10_000])
    refuses(UsageError, ask, "a row that is not there", code="E-U39")


@check(advice="let shapes follow from the batch")
def check_one_cell_is_enough(subject: Subject) -> None:
    """One cell alone gets what it gets among others."""
    got = subject.ask(subject.trained, subject.query[3:4])
    same(got, subject.rows(subject.answers, [3]), "one cell")


@check(advice="let an empty loop give empty arrays of the right width")
def check_a_query_of_no_cells_is_answered(subject: Subject) -> None:
    """No cells give an empty answer of the same columns."""
    model: Any = subject.trained
    got = subject.ask(model, subject.query[:0])
    for name, values in got.items():
        require(len(values) == 0, f"{len(values)} {name} for no cells")
    if subject.annotates:
        full = model.annotate(subject.query[:2])
        calls = model.annotate(subject.query[:0])
        require(list(calls.columns) == list(full.columns), "an empty table has other columns")
        require(len(model.predict(subject.query[:0])) == 0, "an empty prediction")


@check(advice="work on batches, which are copies; write to nothing that the caller passed")
def check_queries_are_not_modified(subject: Subject) -> None:
    """Prediction leaves the query as it was, and no keys in it."""
    query = subject.fresh_query()
    before = fingerprint(query)
    for ask in subject.verbs(subject.trained):
        ask(query)
    require(fingerprint(query) == before, "prediction changed the query")
    left = [c for c in (*query.obs, *query.uns) if str(c).startswith("_scvi")]
    require(not left, f"prediction left {left[:3]} in the query")


@check(advice="read queries through self.prepare() only, or call self.release_queries()")
def check_queries_are_let_go(subject: Subject) -> None:
    """After prediction no store keeps the query alive."""
    import gc
    import weakref

    query = subject.query.copy()
    alive = weakref.ref(query)
    for ask in subject.verbs(subject.trained):
        ask(query)
    del query
    gc.collect()
    require(alive() is None, "a query is kept in memory after its prediction")


@check(advice="change nothing of the model before all checks are through")
def check_a_refused_query_changes_nothing(subject: Subject) -> None:
    """A query that is refused leaves a model that answers the next one as before."""
    foreign = subject.query.copy()
    foreign.var_names = [f"OTHER{i}" for i in range(foreign.n_vars)]
    with contextlib.suppress(EpisomeError):
        subject.ask(subject.trained, foreign)
    got = subject.ask(subject.trained, subject.query)
    same(got, subject.answers, "the query after a refused one", exact=True)


@check(advice="keep nothing of a prediction on the model or its core")
def check_threads_may_predict_at_once(subject: Subject) -> None:
    """Four threads, each with other cells, get what one gets."""
    model, rng = subject.trained, np.random.default_rng(0)
    orders = [rng.permutation(subject.query.n_obs) for _ in range(4)]
    queries = [subject.query[order].copy() for order in orders]
    subject.ask(model, subject.query)
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda q: subject.ask(model, q), queries))
    for order, got in zip(orders, answers, strict=True):
        same(got, subject.rows(subject.answers, order), "four threads at once")


def _blanked(query: AnnData) -> AnnData:
    counts = query.X.toarray()
    counts[0] = 0
    return anndata.AnnData(sparse.csr_matrix(counts), obs=query.obs, var=query.var)


@check("annotation", advice="use annotate() of the host, which knows the cells without counts")
def check_a_cell_without_counts_gets_no_type(subject: Subject) -> None:
    """A cell without counts is unknown, without a confidence; the others are as they were."""
    model: Any = subject.trained
    calls = model.annotate(_blanked(subject.query))
    row = calls.iloc[0]
    require(row["label"] == model.labels.unlabeled, "a cell without counts got a type")
    require(bool(np.isnan(row["confidence"])), "a cell without counts got a confidence")
    rest = model.annotate(subject.query)["label"].iloc[1:]
    require((calls["label"].iloc[1:] == rest).all(), "the calls of other cells changed")
