"""Capability `explanation`: which genes a model's calls rest on."""

from __future__ import annotations

import numbers
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import (
    TYPE_CHECKING,
    Any,
    Literal,
    NamedTuple,
    TypeAlias,
    cast,
)

import numpy as np
import pandas as pd
from scipy import sparse

from episome.data import clean_labels, require_choice
from episome.errors import Problem, UsageError, near_names, warn
from episome.inference import Attribution, as_csr, attribution
from episome.models._arguments import as_rows
from episome.models._calls import Answering
from episome.models._cell_genes import cell_table, no_cells

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray

    from episome.data import CellSource, FeatureSpace, Query
    from episome.nn import CSRParts

__all__ = ["ExplanationMixin"]

Cells: TypeAlias = "AnnData | str | Path | CellSource | None"
Attribute: TypeAlias = "Callable[[dict[str, Any]], CSRParts]"

PREDICTION = "prediction"
SECOND = "second"
#: Entries of a table of groups and genes above which it is refused; 2 GB.
MAX_TABLE = 250_000_000


class ExplanationMixin(Answering):
    """What every model with attributions does the same way; mixed in before ``EpisomeModel``.

    The core is a network, or an ``episome.inference.ExplainingCore``.
    """

    def explain(
        self,
        adata: Cells = None,
        *,
        groupby: str | Sequence[object] | NDArray[Any] | pd.Series | None = None,
        of: str | None = None,
        against: str | None = None,
        method: Literal["auto", "native", "gradient"] = "auto",
        indices: Sequence[int] | None = None,
        normalize: bool = False,
        batch_size: int | None = None,
        **query: Any,
    ) -> sparse.csr_matrix | pd.DataFrame:
        """Return how much every gene counts for the call of every cell, or its mean over groups.

        Parameters
        ----------
        adata
            Query, as for ``predict``; ``None`` takes the training cells.
        groupby
            ``None``: one row per cell. A column of the query's ``obs``, one value per cell of the
            query, or ``"prediction"``: the label that ``predict`` gives, whether or not ``obs``
            has a column of that name. Cells without a value are left out.
        of
            Class that genes speak for or against; default the call of every cell: its largest
            score before calibration.
        against
            What the score is compared with. ``None``: the mean of all classes (of TabNet's masks
            nothing: they say what is read). ``"second"``: the runner-up of every cell, the
            largest score but that of `of`. The name of a class: that one; cells that are called
            so themselves have a row of zeros unless `of` is given.
        method
            ``"native"``: what the model says itself: masks times decisions for TabNet,
            coefficients times values for linear models, exactly the difference of the scores but
            for the intercepts. ``"gradient"``: value times gradient of the score, for networks;
            signed. ``"auto"``: as the model prefers; with `of` or `against`, gradients where what
            the model says itself is of no class, as masks are not.
        indices
            Rows of the query; default all.
        normalize
            Divide the attributions of every cell by the sum of their absolute values.
        batch_size
            Cells at a time.
        **query
            ``layer``, ``use_raw``, ``input_kind``, ``min_gene_overlap``, ``duplicates``.

        Returns
        -------
        Without ``groupby`` CSR float32 of shape (n_cells, n_genes), columns in the order of
        ``model.features``; else a frame of means, rows groups, columns gene identifiers. Cells
        with none of the model's genes have a row of zeros.

        Raises
        ------
        UsageError
            The model gives no attributions (E-U12) or no calls (E-U13), there is no such column
            (E-U04), or groups do not fit the cells (E-U50) or memory (E-U51). What the model says
            itself is of no class (E-U86); `of` or `against` is none of its classes (E-U87).
        """
        how, prepared = self._attribution(method, of, against), self.prepare(adata, **query)
        run = how.run
        if groupby is None:
            return self._gene_matrix(run, prepared, indices, batch_size, normalize=normalize)
        groups = self._groups(groupby, prepared, adata, indices, batch_size=batch_size, **query)
        blocks = self._attributed(run, prepared, indices, batch_size, normalize=normalize)
        sums, start = groups.zeros(len(self.features)), 0
        for _, block in blocks:
            _add(sums, groups.indicator(start, block.shape[0]), block)
            start += block.shape[0]
        means = (sums / groups.n_cells[:, None]).astype(np.float32)
        names = pd.Index(groups.names, name="group", dtype=object)
        return pd.DataFrame(means, names, list(self.features.ids))

    def top_genes(
        self,
        adata: Cells = None,
        groupby: str | Sequence[object] | NDArray[Any] | pd.Series | None = PREDICTION,
        k: int = 20,
        *,
        of: str | None = None,
        against: str | None = None,
        method: Literal["auto", "native", "gradient"] = "auto",
        weight: Literal["auto", "expression", "none"] = "auto",
        indices: Sequence[int] | None = None,
        batch_size: int | None = None,
        **query: Any,
    ) -> pd.DataFrame:
        """Return the genes that count most for the cells of every group.

        Parameters
        ----------
        adata, indices, batch_size, **query
            As for :meth:`explain`.
        groupby
            As for :meth:`explain`; ``None`` takes all cells as one group, ``"all"``.
        k
            Genes of every group at most.
        of, against, method
            As for :meth:`explain`: ``of="B cell"`` lists what speaks for B cells in every group,
            ``against="second"`` what tells the calls from their runners-up.
        weight
            ``"expression"``: a gene scores by the mean over cells of its attribution times its
            normalised log1p value; ``"none"``: by its mean attribution; ``"auto"``: by expression
            where attributions do not hold the value already, as masks do not.

        Returns
        -------
        One row per group and gene, best first: ``group``, ``n_cells`` (of the group), ``rank``
        (from 1), ``gene`` (identifier), ``gene_name`` (symbol where the model knows one, else the
        identifier), ``score``, ``share`` (of the cells in which the gene counts at all),
        ``mean_expression`` (normalised log1p). Genes that score zero or less are not listed.

        Raises
        ------
        UsageError
            As for :meth:`explain`; ``k`` below one (E-U22), an unknown weight (E-U30).
        """
        require_choice("weight", weight, ("auto", "expression", "none"))
        _require_genes(k)
        how, prepared = self._attribution(method, of, against), self.prepare(adata, **query)
        if weight == "auto":
            weight = "none" if how.holds_values else "expression"
        groups = self._groups(groupby, prepared, adata, indices, batch_size=batch_size, **query)
        width, start = len(self.features), 0
        score, counted, expression = (groups.zeros(width) for _ in range(3))
        for batch, block in self._attributed(how.run, prepared, indices, batch_size):
            member = groups.indicator(start, block.shape[0])
            start += block.shape[0]
            x = as_csr(batch["X"], width)
            _add(score, member, block.multiply(x) if weight == "expression" else block)
            _add(counted, member, block.astype(bool))
            _add(expression, member, x)
        means = [table / groups.n_cells[:, None] for table in (score, counted, expression)]
        table = _top_table(groups, self.features, k, *means)
        silent = [name for name in groups.names if name not in set(table["group"])]
        if silent:
            warn(
                Problem(
                    "E-U56",
                    "groups in which no gene speaks for the call",
                    where="top_genes()",
                    count=len(silent),
                    total=len(groups.names),
                    examples=silent,
                    why="attributions of their cells are zero or negative throughout",
                    fix='method="gradient", or a model that was trained longer',
                )
            )
        return table

    def cell_genes(
        self,
        adata: Cells = None,
        k: int = 10,
        *,
        of: str | None = None,
        against: str | None = None,
        method: Literal["auto", "native", "gradient"] = "auto",
        weight: Literal["auto", "expression", "none"] = "auto",
        indices: Sequence[int] | None = None,
        batch_size: int | None = None,
        progress: Callable[[int, int], None] | None = None,
        **query: Any,
    ) -> pd.DataFrame:
        """Return the genes that count most for the call of every cell, batch by batch.

        Parameters
        ----------
        adata, of, against, method, indices, batch_size, **query
            As for :meth:`explain`.
        k
            Genes of every cell at most.
        weight
            As for :meth:`top_genes`.
        progress
            Called with ``(cells done, cells)`` after every batch.

        Returns
        -------
        One row per cell and gene, cells in the given order, the best gene first: ``cell``,
        ``rank`` (from 1), ``gene``, ``gene_name``, ``score``, ``expression`` (normalised log1p).
        Genes that score zero or less are not listed.

        Raises
        ------
        UsageError
            As for :meth:`top_genes`.
        """
        require_choice("weight", weight, ("auto", "expression", "none"))
        _require_genes(k)
        how, prepared = self._attribution(method, of, against), self.prepare(adata, **query)
        if weight == "auto":
            weight = "none" if how.holds_values else "expression"
        rows = as_rows(indices)
        names = prepared.source.obs_names
        names = names if rows is None else names[rows]
        parts, start = [], 0
        for batch, block in self._attributed(how.run, prepared, indices, batch_size):
            x = as_csr(batch["X"], len(self.features))
            scores = sparse.csr_matrix(block.multiply(x)) if weight == "expression" else block
            here = names[start : start + scores.shape[0]]
            parts.append(cell_table(here, scores, x, self.features, k))
            start += scores.shape[0]
            if progress is not None:
                progress(start, len(names))
        return pd.concat(parts or [no_cells()], ignore_index=True)

    def explain_errors(
        self,
        adata: Cells,
        labels_key: str,
        cell_type: str | None = None,
        k: int = 20,
        *,
        method: Literal["auto", "native", "gradient"] = "auto",
        indices: Sequence[int] | None = None,
        batch_size: int | None = None,
        **query: Any,
    ) -> pd.DataFrame:
        """Return the genes that tell rightly called cells of a type from mis-called ones.

        For every type and every class that its cells are mis-called, both kinds of cells are asked
        the same: how much does each gene speak for the type, against the wrong class? Genes are
        ranked by what rightly called cells have more of: those that carry the right calls and that
        mis-called cells lack, and those that draw mis-called cells to the wrong class.

        Parameters
        ----------
        adata
            Labelled query, as for ``predict``; not modified. ``None`` takes the training cells.
        labels_key
            Column of ``obs`` with the true types, by the names of the model's classes. Cells of
            other names, or of none, are left out.
        cell_type
            One type; default all that have cells of both kinds.
        k
            Genes of every pair of classes at most.
        method, indices, batch_size, **query
            As for :meth:`explain`.

        Returns
        -------
        One row per type, wrong class and gene, types in the order of the classes, wrong classes
        by their number of cells: ``type``, ``called``, ``n_right``, ``n_wrong`` (cells),
        ``rank`` (from 1), ``gene``, ``gene_name``, ``right`` and ``wrong`` (mean attribution of
        rightly and mis-called cells), ``difference`` (right less wrong, above zero),
        ``expression_right``, ``expression_wrong`` (means, normalised log1p). No rows where there
        are no errors, or no right call to compare with.

        Raises
        ------
        UsageError
            As for :meth:`explain`; ``k`` below one (E-U22); `cell_type` is none of the model's
            classes (E-U87); no cell has a label of the model's classes (E-U88).
        """
        from episome.models._errors_explained import error_table

        _require_genes(k)
        prepared = self.prepare(adata, **query)
        how: dict[str, Any] = {"indices": indices, "batch_size": batch_size}
        calls = self._calls(prepared, adata, **how, **query)
        truth = prepared.source.obs_column(labels_key)
        rows = as_rows(indices)
        truth = truth if rows is None else truth.iloc[rows]
        numbers = np.arange(len(truth)) if rows is None else rows
        only = None if cell_type is None else self._class_code("cell_type", cell_type)

        def means(of: int, against: int, cells: NDArray[np.int64]) -> NDArray[np.float64]:
            """Return mean attributions and values of the chosen cells, (2, n_genes)."""
            part = attribution(self.module, method, of=of, against=against)
            width = len(self.features)
            sums = np.zeros((2, width))
            chosen = cast("Sequence[int]", numbers[cells])
            for batch, block in self._attributed(part.run, prepared, chosen, batch_size):
                for row, values in zip(sums, (block, as_csr(batch["X"], width)), strict=True):
                    row += np.asarray(values.astype(np.float64).sum(axis=0)).ravel()
            return sums / len(cells)

        return error_table(
            truth,
            calls,
            names=self._class_names("labels_key"),
            only=only,
            k=k,
            features=self.features,
            means=means,
            column=labels_key,
        )

    def _attribution(
        self,
        method: Literal["auto", "native", "gradient"],
        of: str | None = None,
        against: str | None = None,
    ) -> Attribution:
        """Return the core's function; refuse an untrained model and a core that has none."""
        self._require_trained()
        require_choice("method", method, ("auto", "native", "gradient"))
        code = None if of is None else self._class_code("of", of)
        other: int | Literal["second"] | None = None
        if against is not None:
            other = "second" if against == SECOND else self._class_code("against", against)
        if code is not None and code == other:
            raise UsageError(
                "E-U87",
                f"of and against are both {of!r}",
                why="nothing tells a class from itself",
                fix='another class, or against="second"',
            )
        return attribution(self.module, method, of=code, against=other)

    def _class_names(self, where: str) -> tuple[str, ...]:
        """Names of the classes; refuse a model that has none."""
        if self.labels is None:
            raise UsageError(
                "E-U13",
                f"{type(self).__name__} does not annotate cells",
                where=where,
                fix="use an annotator",
            )
        return tuple(map(str, self.labels.names))

    def _class_code(self, argument: str, name: str) -> int:
        names = self._class_names(f"{argument}={name!r}")
        if name not in names:
            close = near_names(str(name), names)
            raise UsageError(
                "E-U87",
                f"{argument}={name!r} is none of the model's {len(names)} classes",
                examples=close or names,
                fix="pass the name of a class, as model.labels.names has it",
            )
        return names.index(name)

    def _gene_matrix(
        self,
        run: Attribute,
        prepared: Query,
        indices: Sequence[int] | None,
        batch_size: int | None,
        **how: bool,
    ) -> sparse.csr_matrix:
        """Return a value of every gene for every cell, CSR float32 (n_cells, n_genes)."""
        parts = self._attributed(run, prepared, indices, batch_size, **how)
        blocks = [block for _, block in parts]
        if not blocks:
            return sparse.csr_matrix((0, len(self.features)), dtype=np.float32)
        return sparse.vstack(blocks, format="csr")

    def _attributed(
        self,
        run: Attribute,
        prepared: Query,
        indices: Sequence[int] | None,
        batch_size: int | None,
        *,
        normalize: bool = False,
        blank_empty: bool = True,
    ) -> Iterator[tuple[dict[str, Any], sparse.csr_matrix]]:
        """Yield every batch and its attributions, CSR float32 (B, n_genes), in the given order."""
        width = len(self.features)
        batches = self.predictor().batches(prepared, rows=as_rows(indices), batch_size=batch_size)
        for batch in batches:
            block = as_csr(run(batch), width).astype(np.float32, copy=False)
            scale = (~batch["empty"] if blank_empty else np.ones(block.shape[0])).astype(
                np.float32
            )
            if normalize:
                total = np.asarray(abs(block).sum(axis=1), dtype=np.float32).ravel()
                scale = np.divide(scale, total, out=np.zeros_like(scale), where=total > 0)
            if (scale != 1).any():
                block = sparse.csr_matrix(sparse.diags(scale) @ block)
            block.eliminate_zeros()
            yield batch, block

    def _groups(
        self,
        groupby: str | Sequence[object] | NDArray[Any] | pd.Series | None,
        prepared: Query,
        adata: Cells,
        indices: Sequence[int] | None,
        **predict: Any,
    ) -> Groups:
        rows = as_rows(indices)
        if groupby is None:
            n_cells = prepared.source.n_obs if rows is None else len(rows)
            return Groups(np.zeros(n_cells, dtype=np.int64), ("all",) if n_cells else ())
        if isinstance(groupby, str) and groupby == PREDICTION:
            return Groups.of(self._calls(prepared, adata, indices=indices, **predict))
        if isinstance(groupby, str):
            values = prepared.source.obs_column(groupby)
        else:
            values = _per_cell(groupby, prepared.source.obs_names)
        return Groups.of(values if rows is None else values.iloc[rows])

    def _calls(self, prepared: Query, adata: Cells, **predict: Any) -> pd.Series:
        """Labels of the cells by ``predict``, categories in the order of the classes."""
        labels, model = self.labels, cast("Any", self)
        if labels is None:
            raise UsageError(
                "E-U13",
                f"{type(self).__name__} does not annotate cells",
                where='groupby="prediction"',
                fix="pass a column of obs as groupby",
            )
        calls = model.predict(None if adata is None else prepared.source, **predict)
        known = [*labels.names, labels.unlabeled]
        return pd.Series(
            pd.Categorical(calls, categories=[*known, *sorted(set(calls) - set(known))])
        )


class Groups(NamedTuple):
    """Cells by group.

    Parameters
    ----------
    codes
        Group of every cell, -1 for none, int64 (n_cells,).
    names
        Names of the groups; each has a cell.
    """

    codes: NDArray[np.int64]
    names: tuple[str, ...]

    @classmethod
    def of(cls, values: pd.Series) -> Groups:
        """Group by values: in the order of categories or numbers, else of the text."""
        if not (
            isinstance(values.dtype, pd.CategoricalDtype)
            or pd.api.types.is_numeric_dtype(values.dtype)
        ):
            text = pd.Series(clean_labels(values, unlabeled="keep"), dtype=object)
            values = text.mask(values.isna().to_numpy())
        codes, found = pd.factorize(values, sort=True)
        names = clean_labels(pd.Series(found, dtype=object))
        return cls(codes.astype(np.int64), tuple(map(str, names)))

    @property
    def n_cells(self) -> NDArray[np.int64]:
        """Cells of every group."""
        return np.bincount(self.codes[self.codes >= 0], minlength=len(self.names))

    def zeros(self, n_genes: int) -> NDArray[np.float64]:
        """Return a table of zeros, (n_groups, n_genes).

        Raises
        ------
        UsageError
            It would not fit into memory (E-U51).
        """
        if len(self.names) * n_genes > MAX_TABLE:
            raise UsageError(
                "E-U51",
                f"{len(self.names):,} groups of {n_genes:,} genes",
                where="groupby",
                why="the table of means would fill the memory, as one of cell names does",
                fix="group by a column of fewer values, or leave groupby out for a sparse matrix",
            )
        return np.zeros((len(self.names), n_genes))

    def indicator(self, start: int, n: int) -> sparse.csr_matrix:
        """Return the membership of `n` cells from `start` on, (n_groups, n)."""
        codes = self.codes[start : start + n]
        member = np.flatnonzero(codes >= 0)
        ones = np.ones(len(member))
        return sparse.csr_matrix((ones, (codes[member], member)), shape=(len(self.names), n))


def _require_genes(k: int) -> None:
    if not isinstance(k, numbers.Integral) or k < 1:
        raise UsageError("E-U22", f"k={k!r}", fix="pass a whole number of at least 1")


def _add(sums: NDArray[np.float64], member: sparse.csr_matrix, block: sparse.csr_matrix) -> None:
    """Add the rows of a block to the sums of their groups."""
    product = sparse.coo_matrix(member @ block)
    sums[product.row, product.col] += product.data


def _per_cell(
    groupby: Sequence[object] | NDArray[Any] | pd.Series, obs_names: pd.Index
) -> pd.Series:
    """Return groups given as values: a series by cell name, anything else by position."""
    if not isinstance(groupby, pd.Series):
        values = pd.Series(list(groupby), dtype=object)
    elif isinstance(groupby.index, pd.RangeIndex) or groupby.index.equals(obs_names):
        values = groupby
    else:
        known = groupby.index.is_unique and obs_names.isin(groupby.index).all()
        values = groupby.reindex(obs_names) if known else groupby.iloc[:0]
    if len(values) != len(obs_names):
        raise UsageError(
            "E-U50",
            "the groups do not fit the cells of the query",
            where="groupby",
            count=len(groupby),
            total=len(obs_names),
            fix="pass one value per cell of the query, or a series with the query's cell names",
        )
    return values


def _top_table(
    groups: Groups,
    features: FeatureSpace,
    k: int,
    score: NDArray[np.float64],
    share: NDArray[np.float64],
    expression: NDArray[np.float64],
) -> pd.DataFrame:
    order = [np.argsort(-row, kind="stable")[:k] for row in score]
    best = [genes[row[genes] > 0] for row, genes in zip(score, order, strict=True)]
    nothing = np.empty(0, dtype=np.int64)
    group = np.repeat(np.arange(len(best)), [len(genes) for genes in best])
    gene = np.concatenate([*best, nothing])
    return pd.DataFrame(
        {
            "group": np.array(groups.names, dtype=object)[group],
            "n_cells": groups.n_cells[group],
            "rank": np.concatenate([*(np.arange(len(genes)) + 1 for genes in best), nothing]),
            "gene": np.array(features.ids, dtype=object)[gene],
            "gene_name": np.array(features.symbols, dtype=object)[gene],
            "score": score[group, gene],
            "share": share[group, gene],
            "mean_expression": expression[group, gene],
        }
    ).astype({"group": "str", "gene": "str", "gene_name": "str"})
