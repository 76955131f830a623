"""Checks of set-up: what it writes, what it refuses, what it takes from the data."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from episome.errors import InputDataError, LabelError, UsageError
from episome.testing._check import check, refuses, require, same
from episome.testing._fingerprint import fingerprint

if TYPE_CHECKING:
    from episome.testing._subject import Subject


@check(advice="register fields with an AnnDataManager, and write nothing else into the object")
def check_training_data_are_not_modified(subject: Subject) -> None:
    """Set-up and training leave everything but scvi-tools' documented keys as it was."""
    data = subject.data()
    before = [fingerprint(part) for part in subject.parts(data)]
    subject.train(data)
    after = [fingerprint(part) for part in subject.parts(data)]
    require(after == before, "set-up or training changed the training data")


@check(advice="end setup_anndata with manager.register_fields and cls.register_manager")
def check_data_are_held_by_a_manager(subject: Subject) -> None:
    """The model holds an ``AnnDataManager`` of its data, with the expression under "X"."""
    from scvi.data import AnnDataManager

    data = subject.data(40)
    model = subject.set_up(data)
    require(isinstance(model.adata_manager, AnnDataManager), "there is no AnnDataManager")
    require(model.adata is data, "the model holds another object")
    require("X" in model.adata_manager.data_registry, 'no field is registered under "X"')


@check(advice="pass **kwargs of the set-up to the host's, which knows what scvi-tools hands on")
def check_unknown_arguments_of_set_up_are_refused(subject: Subject) -> None:
    """A misspelt argument of the set-up is refused, and leaves nothing behind."""
    data = subject.data(40)
    refuses(UsageError, lambda: subject.set_up(data, lable_key="x"), "lable_key=", code="E-U24")
    _left_nothing(subject, data)


@check(advice="check all data before the first field is registered")
def check_a_refused_set_up_leaves_nothing_behind(subject: Subject) -> None:
    """Refused training data have no new columns and no new keys."""
    data = subject.data(40)
    rna = subject.rna(data)
    rna.X = rna.X.copy()
    rna.X.data[3] = np.nan
    refuses(InputDataError, lambda: subject.set_up(data), "NaN in training data", code="E-D01")
    _left_nothing(subject, data)


def _left_nothing(subject: Subject, data: Any) -> None:
    holders = [data, *subject.parts(data)]
    left = [c for h in holders for c in (*h.obs, *h.uns) if str(c).startswith("_scvi")]
    require(not left, f"the refused set-up left {left[:3]} behind")


@check("annotation", "embedding", "reconstruction", advice="use the host's setup_anndata")
def check_views_are_refused_at_set_up(subject: Subject) -> None:
    """A view is refused at set-up, with the line that copies it; it stays a view."""
    if subject.translates:
        return
    view = subject.data()[:50]
    refuses(UsageError, lambda: subject.set_up(view), "a view", code="E-U29")
    require(view.is_view, "the refused view became a copy")


@check(
    "annotation", "embedding", "reconstruction", advice="call super().__init__(adata, registry)"
)
def check_data_of_the_schema_need_no_set_up(subject: Subject) -> None:
    """Data with CELLxGENE columns are set up by the constructor."""
    if subject.translates:
        return
    data = subject.data(60)
    model = subject.cls(data)
    require(model.adata is data, "the model holds another object")
    require(model.setup_args["donor_key"], "the donors of the schema are not used")


@check("annotation", advice="use the labels that the host registered, self.labels")
def check_one_class_is_refused(subject: Subject) -> None:
    """A single class is refused at set-up."""
    single = subject.data(20)
    single.obs["cell_type"] = "only"
    refuses(LabelError, lambda: subject.set_up(single), "a single class", code="E-L03")


@check("annotation", advice="use the labels that the host registered, self.labels")
def check_missing_labels_are_refused_or_left_out(subject: Subject) -> None:
    """Missing labels are refused; on request those cells take no part in training."""
    missing = subject.data()
    missing.obs.loc[missing.obs_names[:30], "cell_type"] = None
    refuses(LabelError, lambda: subject.set_up(missing), "missing labels", code="E-L01")
    require("_scvi_labels" not in missing.obs, "a refused set-up left keys behind")
    model: Any = subject.set_up(missing, unlabeled="keep")
    model.train(**subject.quick())
    require(len(_labels(model)) == 3, "the missing label became a class")
    used = np.concatenate([model.train_indices_, model.validation_indices_])
    require(not (used < 30).any(), "cells without a label were trained on")


def _labels(model: Any) -> list[str]:
    return list(model.labels.names)


@check(advice="read values through self.prepare(), which looks at all of them")
def check_values_that_are_no_expression_are_refused(subject: Subject) -> None:
    """NaN, infinite and negative values are refused in training data and in queries."""
    for value, code in ((np.nan, "E-D01"), (np.inf, "E-D03"), (-1.0, "E-D04")):
        data, query = subject.data(40), subject.query.copy()
        for adata in (subject.rna(data), query):
            adata.X = adata.X.copy()
            adata.X.data[5] = value
        refuses(InputDataError, partial(subject.set_up, data), f"a value {value}", code=code)
        ask = partial(subject.ask, subject.trained, query)
        refuses(InputDataError, ask, f"a value {value} in a query", code=code)


@check(advice="read values through self.prepare(), which looks at all of them")
def check_a_matrix_of_zeros_is_refused(subject: Subject) -> None:
    """A query of nothing but zeros is refused."""
    zero = subject.query.copy()
    zero.X = sparse.csr_matrix(zero.shape, dtype=np.float32)
    ask = partial(subject.ask, subject.trained, zero)
    refuses(InputDataError, ask, "a matrix of zeros", code="E-D13")


@check(advice="pass input_kind of the set-up to the host's")
def check_log_values_given_as_counts_are_refused(subject: Subject) -> None:
    """Logarithms that are said to be counts are refused at set-up."""
    data = subject.data(40)
    rna = subject.rna(data)
    rna.X = rna.X.log1p()
    refuses(
        InputDataError,
        lambda: subject.set_up(data, input_kind="counts"),
        "log1p given as counts",
        code="E-D07",
    )


@check(advice="leave normalisation to the host: batches come normalised by the recorded rule")
def check_normalised_queries_answer_as_their_counts(subject: Subject) -> None:
    """A query that was normalised as usual gives what its counts give."""
    query, model = subject.query, subject.trained
    if model.input_rule.input_kind != "counts":
        return
    counts = query.X.toarray().astype(np.float64)
    size = counts.sum(axis=1, keepdims=True)
    logged = type(query)(
        sparse.csr_matrix(np.log1p(1e4 * counts / size).astype(np.float32)),
        obs=query.obs,
        var=query.var,
    )
    got, wanted = subject.ask(model, logged), subject.answers
    for name, values in wanted.items():
        require(
            np.allclose(got[name], values, rtol=1e-3, atol=1e-3),
            f"{name} of log1p values differ by {np.abs(got[name] - values).max():.2g}",
        )


@check("annotation", advice="never read labels of a query")
def check_labels_of_a_query_change_nothing(subject: Subject) -> None:
    """Labels of a query, absent, unknown or missing, change no call."""
    import pandas as pd

    query, model = subject.query, subject.trained
    require("cell_type" not in query.obs, "the kit's query must have no labels")
    for value in ("never seen", None, 7):
        labelled = query.copy()
        labelled.obs["cell_type"] = pd.Series(
            [value] * query.n_obs, index=query.obs_names, dtype=object
        )
        same(subject.ask(model, labelled), subject.answers, f"labels {value!r}", exact=True)
