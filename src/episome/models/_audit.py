"""Labels of a reference that are likely wrong: models judge cells that they never saw."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import anndata
import numpy as np
import pandas as pd

from episome import plugins, settings
from episome.confidence import confident_errors, doubt_threshold, label_doubt
from episome.data import (
    AnnDataSource,
    ObsmSource,
    cells_name,
    check_classes,
    class_terms,
    clean_labels,
    combined_column,
    definite_donors,
    labels_with_terms,
    obs_column,
    term_column,
)
from episome.errors import Problem, UsageError, did_you_mean, warn
from episome.log import get_logger, quiet
from episome.models._audit_folds import FEW, Folds, audit_folds
from episome.models._audit_tables import (
    CELL_COLUMNS,
    Evidence,
    cluster_table,
    evidence_genes,
    pair_table,
    relations,
)
from episome.models._distil import annotator_spec
from episome.models._setup import require_columns
from episome.ontology import cell_ontology

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray

    from episome.data import Labels
    from episome.models._annotation import AnnotationMixin

logger = get_logger(__name__)

_LABEL, _DONOR = "_episome_label", "_episome_donor"
_TERM = f"{_LABEL}_ontology_term_id"
#: Arguments of a set-up that the audit answers itself.
_OWN = frozenset({"labels_key", "donor_key", "layer", "use_raw", "unlabeled", "ontology_term_key"})
#: Of the cells of a class at least this share teaches the next round, however doubted it is.
KEPT = 0.5

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True, eq=False)
class AuditPlan:
    """Who will judge which cell; nothing is trained yet.

    Parameters
    ----------
    model
        Name of the model's class.
    classes
        Names of the classes, and how many cells each has.
    folds
        Fold of every cell of the data, int64 (n_cells,); -1 for cells that get no verdict.
    n_folds, n_rounds
        How many.
    held_out_by
        ``"donor"`` or ``"cell"``.
    notes
        What to know beforehand, in sentences.
    """

    model: str
    classes: Mapping[str, int]
    folds: NDArray[np.int64]
    n_folds: int
    n_rounds: int
    held_out_by: str
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Audit:
    """Cells, clusters and pairs of classes whose label is likely wrong, merged or too coarse.

    Parameters
    ----------
    cells
        One row per cell in the order of the data, indexed by cell name: ``label``, ``suggested``
        (the most probable class), ``suggested_ontology_term_id``, ``p_label`` and ``p_suggested``
        (calibrated, by a model that saw neither the cell nor its donor), ``score`` (probability
        that the label names another type), ``rank`` (1: the most doubted), ``fold`` (-1: never
        held out), ``wrong`` (by the threshold), ``relation`` (of the suggestion to the label:
        ``""`` where they are the same, ``"finer"``, ``"coarser"``, ``"same term"``, ``"other
        type"``). Cells without a verdict have NaN.
    clusters
        One row per cluster: ``n_cells``, ``n_judged``, ``label`` and ``label_share`` (the
        commonest), ``suggested`` and ``suggested_share``, ``n_wrong``, ``wrong_share``,
        ``expected_wrong`` (sum of the scores), ``relation``; ``None`` without ``cluster_key``.
    pairs
        One row per label and suggestion that differ, most wrong cells first: ``label``,
        ``suggested``, ``n_label``, ``n_like`` (cells of the label that look like the
        suggestion), ``like_share``, ``n_wrong``, ``auroc`` (how well the two are told apart),
        ``auroc_high`` (end of its 95 % interval), ``relation``, ``verdict`` (``"merged"``: not
        told apart; ``"too coarse"``: cells look like a finer term; ``"wrong labels"``; or
        ``""``).
    genes
        Evidence for the first pairs: ``label``, ``suggested``, ``rank``, ``gene``, ``gene_name``,
        ``score``, ``mean_doubted``, ``mean_label``, ``mean_suggested`` (normalised log1p), and
        ``evidence`` (``"explanation"`` or ``"difference of means"``).
    threshold
        Score from which a cell is called wrong; infinity where none is.
    noise
        Estimated share of labels that are wrong at random.
    plan
        Who judged which cell.
    labels_key
        Column of ``obs`` that was audited.
    """

    cells: pd.DataFrame
    clusters: pd.DataFrame | None
    pairs: pd.DataFrame
    genes: pd.DataFrame
    threshold: float
    noise: float
    plan: AuditPlan
    labels_key: str = "label"
    #: Columns of ``cells``.
    columns: ClassVar[tuple[str, ...]] = CELL_COLUMNS

    @property
    def n_wrong(self) -> int:
        """Number of cells whose label is called wrong."""
        return int(self.cells["wrong"].sum())

    @property
    def expected_false(self) -> float:
        """Expected share of these whose label is right; NaN where there are none."""
        scores = self.cells.loc[self.cells["wrong"], "score"]
        return float((1 - scores).mean())

    @property
    def text(self) -> str:
        """What was found, in one line."""
        judged = int(self.cells["score"].notna().sum())
        said = f"{self.n_wrong:,} of {judged:,} labels look wrong"
        if self.n_wrong:
            said += (
                f" (by the models' own probabilities {self.expected_false:.0%} of these are "
                "right; on real data often twice as many, so look before you change them)"
            )
        counts = self.pairs["verdict"].value_counts()
        for verdict in ("merged", "too coarse"):
            if n := int(counts.get(verdict, 0)):
                said += f"; {n} pair{'s' if n > 1 else ''} of classes {verdict}"
        return said

    def corrected(self, threshold: float | None = None) -> pd.Series:
        """Return labels in which the doubted ones are replaced by what is suggested.

        Parameters
        ----------
        threshold
            Score from which a label is replaced; default the threshold of the audit. Finer and
            coarser terms of a label never replace it.

        Returns
        -------
        Series of text, indexed by cell name, named ``<labels_key>_corrected``; nothing is
        written anywhere.

        Raises
        ------
        UsageError
            A threshold that is no probability (E-U65).
        """
        if threshold is not None and not 0 <= threshold <= 1:
            raise UsageError(
                "E-U65", f"threshold={threshold!r}", fix="pass a probability such as 0.8"
            )
        limit = self.threshold if threshold is None else threshold
        cells = self.cells
        taken = (cells["score"] >= limit) & (cells["relation"] == "other type")
        found = cells["label"].where(~taken, cells["suggested"]).astype(object)
        return found.rename(f"{self.labels_key}_corrected")


def audit(
    adata: AnnData,
    labels_key: str,
    *,
    model: str | type[AnnotationMixin] | None = None,
    donor_key: str | list[str] | None = None,
    cluster_key: str | None = None,
    n_folds: int = 5,
    n_rounds: int = 2,
    false_discoveries: float = 0.1,
    n_pairs: int = 10,
    n_genes: int = 10,
    seed: int | None = None,
    model_kwargs: Mapping[str, Any] | None = None,
    train_kwargs: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
    **setup: Any,
) -> Audit:
    """Rank the cells of a labelled reference by how likely their label is wrong.

    The cells are held out in folds, whole donors where they are known. A model that is trained
    and calibrated without a fold says how probable every class is for its cells. In a second
    round the models learn without the cells that confident learning doubts in the first
    :cite:p:`northcutt2021confident`.

    Parameters
    ----------
    adata
        Labelled cells; not changed.
    labels_key
        Column of ``obs`` with the labels.
    model
        Name or class of an annotator; default an installed one with the tag ``student``.
    donor_key
        Column or columns that name the donor.
    cluster_key
        Column of clusters that somebody made, for a table of them.
    n_folds
        How many parts of the cells are judged in turn; fewer where there are fewer donors.
    n_rounds
        How often; with 1 the models learn from all labels of the other folds.
    false_discoveries
        Expected share of right labels among those that are called wrong; decides the threshold.
    n_pairs, n_genes
        Pairs of classes for which evidence is looked for, and genes of each; 0 for none.
    seed
        Of folds and models; default ``episome.settings.seed``.
    model_kwargs, train_kwargs
        Of the model's class and its ``train``.
    progress
        Called with ``(trainings done, trainings)``.
    **setup
        Of the model's ``setup_anndata``: ``layer``, ``use_raw``, ``obsm_key``,
        ``ontology_term_key``, ``own_terms``, ``unlabeled``, ``input_kind``, ...

    Returns
    -------
    An :class:`Audit`. The order of the cells in ``adata`` changes nothing in it.

    Raises
    ------
    PluginError
        No installed annotator is tagged ``student``, and none is named (E-P14); there is none of
        the name (E-P01).
    UsageError
        The model annotates no cells (E-U12); a column is missing (E-U04) or given twice (E-U32);
        unknown arguments (E-U24); numbers out of range (E-U65, E-U68).
    InputDataError, LabelError
        The cells cannot be used.
    """
    work = _Work(
        adata, labels_key, model, donor_key, cluster_key, n_folds, n_rounds, seed,
        dict(model_kwargs or {}), dict(train_kwargs or {}), setup,
    )  # fmt: skip
    _require_range(false_discoveries, n_pairs, n_genes)
    n_fits = len(np.unique(work.folds.of_cell[work.folds.of_cell >= 0])) * n_rounds
    steps = _Steps(progress, n_fits + bool(n_pairs and n_genes))
    with settings.using_seed(work.seed):
        keep = np.ones(len(work.codes), dtype=bool)
        for _ in range(n_rounds):
            shares = work.out_of_fold(keep, steps)
            doubt = label_doubt(shares, work.codes, work.kin)
            keep = _worth_learning(doubt.wrong, shares, work.codes, work.kin)
        threshold = doubt_threshold(doubt.wrong, false_discoveries)
        cells = work.cell_table(shares, doubt.wrong, threshold)
        pairs = pair_table(cells, shares, work.codes, work.labels.names)
        genes = work.evidence(cells, pairs.head(n_pairs), n_genes, steps)
    clusters = None if cluster_key is None else cluster_table(
        cells, work.in_order(obs_column(adata, cluster_key)), work.labels
    )  # fmt: skip
    found = Audit(
        work.all_cells(cells), clusters, pairs, genes, threshold, doubt.noise, work.plan(),
        labels_key,
    )  # fmt: skip
    logger.info("%s", found.text)
    return found


def audit_plan(
    adata: AnnData,
    labels_key: str,
    *,
    model: str | type[AnnotationMixin] | None = None,
    donor_key: str | list[str] | None = None,
    cluster_key: str | None = None,
    n_folds: int = 5,
    n_rounds: int = 2,
    seed: int | None = None,
    model_kwargs: Mapping[str, Any] | None = None,
    train_kwargs: Mapping[str, Any] | None = None,
    **setup: Any,
) -> AuditPlan:
    """Check everything that an audit needs and say how it would be done.

    Parameters
    ----------
    adata, labels_key, model, donor_key, cluster_key, n_folds, n_rounds, seed
        As for :func:`audit`.
    model_kwargs, train_kwargs, **setup
        As for :func:`audit`.

    Raises
    ------
    EpisomeError
        As :func:`audit` does.
    """
    return _Work(
        adata, labels_key, model, donor_key, cluster_key, n_folds, n_rounds, seed,
        dict(model_kwargs or {}), dict(train_kwargs or {}), setup,
    ).plan()  # fmt: skip


def _require_range(false_discoveries: float, n_pairs: int, n_genes: int) -> None:
    doubt_threshold([], false_discoveries)
    for name, value in (("n_pairs", n_pairs), ("n_genes", n_genes)):
        if value < 0:
            raise UsageError("E-U68", f"{name}={value}", fix="pass a number, 0 for none")


class _Steps:
    """Counts trainings."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self._progress, self._total, self._done = progress, total, 0

    def end(self) -> None:
        """Leave out what is left."""
        if self._done < self._total:
            self._done = self._total - 1
            self.done()

    def done(self) -> None:
        self._done += 1
        if self._progress is not None:
            self._progress(self._done, self._total)


class _Work:
    """The labelled cells in the order of their names, and how models are made for them."""

    def __init__(
        self,
        adata: AnnData,
        labels_key: str,
        model: str | type[AnnotationMixin] | None,
        donor_key: str | list[str] | None,
        cluster_key: str | None,
        n_folds: int,
        n_rounds: int,
        seed: int | None,
        model_kwargs: dict[str, Any],
        train_kwargs: dict[str, Any],
        setup: dict[str, Any],
    ) -> None:
        for name, value, least in (("n_folds", n_folds, 2), ("n_rounds", n_rounds, 1)):
            if value < least:
                raise UsageError("E-U68", f"{name}={value}", fix=f"pass {least} or more")
        self._cls = _class_of(model)
        self._model_kwargs, self._train_kwargs = model_kwargs, train_kwargs
        self.seed = settings.seed if seed is None else seed
        self.n_rounds, self._name = n_rounds, cells_name(adata)
        _require_arguments(self._cls, model_kwargs, train_kwargs, setup)
        require_columns(adata, labels_key, donor_key, cluster_key, setup.get("ontology_term_key"))
        if labels_key in ([donor_key] if isinstance(donor_key, str) else donor_key or []):
            raise UsageError(
                "E-U32",
                f"column {labels_key!r} is given as label and as donor",
                where=f"{self._name}.obs",
                fix="pass the column of donors as donor_key",
            )
        self._names = adata.obs_names
        values = self._read_labels(adata, labels_key, setup)
        order = np.argsort(self._names.to_numpy(dtype=str), kind="stable")
        self._rows = order[values[order] != self.labels.unlabeled]
        self._given = values
        self.codes = self.labels.codes(values[self._rows])
        donors = None if donor_key is None else definite_donors(combined_column(adata, donor_key))
        self._donors = None if donors is None else donors[self._rows]
        self._setup = {k: v for k, v in setup.items() if k not in _OWN}
        self._cells = self._copied(adata, setup)
        with settings.using_seed(self.seed):
            stream = settings.stream_seed("split", bits=32)
        self.folds: Folds = audit_folds(self.codes, self._donors, seed=stream, n_folds=n_folds)
        self._check_cells()
        self.notes = self._said()

    def _read_labels(
        self, adata: AnnData, labels_key: str, setup: Mapping[str, Any]
    ) -> NDArray[np.object_]:
        """Find the classes and their terms; return the label of every cell of the data."""
        blank = str(setup.get("unlabeled_category", "unknown"))
        unlabeled = "error" if setup.get("unlabeled", "error") == "error" else "keep"
        table = f"{self._name}.obs"
        values = clean_labels(
            obs_column(adata, labels_key),
            unlabeled_category=blank,
            unlabeled=unlabeled,  # type: ignore[arg-type]  # one of the two words
            where=table,
        )
        classes = check_classes(values, blank, f"{table}[{labels_key!r}]")
        terms = term_column(adata, labels_key, setup.get("ontology_term_key"))
        own = setup.get("own_terms")
        with quiet():  # the set-up of all cells says how many have a term
            self.labels: Labels = labels_with_terms(
                classes, class_terms(values, terms, classes), unlabeled=blank, own_terms=own
            )
        ontology = cell_ontology().with_terms(own or {})
        children = ontology.child_matrix(self.labels.term_ids)
        self.children = children
        self.kin = children | children.T
        return values

    def _copied(self, adata: AnnData, setup: Mapping[str, Any]) -> AnnData:
        """Copy the values of the labelled cells and the columns that a set-up reads."""
        rows, key = self._rows, setup.get("obsm_key") or self._cls.default_obsm_key
        names = np.asarray(self.labels.names, dtype=object)
        obs = pd.DataFrame({_LABEL: names[self.codes]}, index=self._names[rows])
        if any(self.labels.term_ids):
            obs[_TERM] = np.asarray(self.labels.term_ids, dtype=object)[self.codes]
        if self._donors is not None:
            obs[_DONOR] = [d or "unknown" for d in self._donors]
        for name, column in self._setup.items():
            if name.endswith("_key") and name != "obsm_key" and isinstance(column, str):
                obs[column] = obs_column(adata, column).to_numpy()[rows]
        if key is not None:
            ObsmSource(adata, key)  # refuses what is no such array
            return anndata.AnnData(obs=obs, obsm={key: np.asarray(adata.obsm[key])[rows]})
        use_raw = setup.get("use_raw", False)
        values = AnnDataSource(adata, layer=setup.get("layer"), use_raw=use_raw)
        return anndata.AnnData(values.read(rows), obs=obs, var=values.var.copy())

    def _check_cells(self) -> None:
        """Set up a model with all cells, so that whatever is wrong with them is said at once."""
        with warnings.catch_warnings():
            # What there is to say of the labels was said with the name of their column.
            warnings.filterwarnings("ignore", message=f"(?s).*{_LABEL}")
            model = self._made(self._cells)
        self._is_genes = model.input_rule.obsm_key is None
        self._input_kind = model.input_rule.input_kind
        model.close()

    def _said(self) -> tuple[str, ...]:
        counts = np.bincount(self.codes, minlength=len(self.labels))
        notes = []
        few = [self.labels.names[c] for c in np.flatnonzero(counts < max(self.folds.n, FEW))]
        if few:
            notes.append(
                f"{len(few)} classes have fewer than {max(self.folds.n, FEW)} cells, and little "
                f"can be said of them: {', '.join(few[:5])}"
            )
        never = self.folds.of_cell < 0
        if never.any():
            notes.append(
                f"{int(never.sum())} cells are the only one of their class and get no verdict"
            )
        lost = self._unlearned()
        if lost.any():
            names = sorted({self.labels.names[c] for c in self.codes[lost]})
            notes.append(
                f"{int(lost.sum())} cells get no verdict: no donor of another fold has their "
                f"class ({', '.join(names[:5])})"
            )
        if self.folds.by == "donor" and self._donors is not None:
            alone = int((self._donors == np.array(None)).sum())
            if alone:
                notes.append(
                    f"{alone} cells name no single donor: models that judge them may have seen "
                    "others of the same donor"
                )
        elif self._donors is not None:
            notes.append("there are fewer than two donors: single cells are held out")
        if few or never.any() or lost.any():
            warn(
                Problem(
                    "E-L45",
                    "labels of small classes are hard to judge, or cannot be",
                    where=f"{self._name}.obs",
                    count=int(np.isin(self.codes, np.flatnonzero(counts < FEW)).sum()),
                    total=len(self.codes),
                    examples=few[:3],
                    why="; ".join(notes),
                    fix="give these classes more cells, or cells of more donors",
                )
            )
        return tuple(notes)

    def _unlearned(self) -> NDArray[np.bool_]:
        """Cells of a class that no cell outside their fold has."""
        found = np.zeros(len(self.codes), dtype=bool)
        for fold in np.unique(self.folds.of_cell[self.folds.of_cell >= 0]):
            held = self.folds.of_cell == fold
            found |= held & ~np.isin(self.codes, self.codes[~held])
        return found

    def plan(self) -> AuditPlan:
        counts = np.bincount(self.codes, minlength=len(self.labels))
        of_cell = np.full(len(self._names), -1, dtype=np.int64)
        of_cell[self._rows] = np.where(self._unlearned(), -1, self.folds.of_cell)
        return AuditPlan(
            self._cls.__name__,
            dict(zip(self.labels.names, map(int, counts), strict=True)),
            of_cell,
            self.folds.n,
            self.n_rounds,
            self.folds.by,
            self.notes,
        )

    # --- models -----------------------------------------------------------------------------

    def _made(self, cells: AnnData) -> Any:
        more = {}
        if self._donors is not None:
            more["donor_key"] = _DONOR
        if _TERM in cells.obs:
            more["ontology_term_key"] = _TERM
        self._cls.setup_anndata(cells, labels_key=_LABEL, **more, **self._setup)
        return self._cls(cells, **self._model_kwargs)

    def _trained(self, rows: NDArray[np.int64]) -> Any:
        with quiet():
            model = self._made(self._cells[rows].copy())
            model.train(**self._train_kwargs)
        return model

    def _query(self) -> dict[str, Any]:
        names = ("nan", "allow_fractional")
        given: dict[str, Any] = {k: self._setup[k] for k in names if k in self._setup}
        if self._is_genes:
            given |= {"input_kind": self._input_kind, "duplicates": "sum"}
        return given

    def out_of_fold(self, keep: NDArray[np.bool_], steps: _Steps) -> NDArray[np.float64]:
        """Return calibrated probabilities of models that never saw the cell.

        Float64 (n_cells, n_classes); NaN for cells that are never held out, hold nothing, or are
        of a class that the model of their fold could not learn.
        """
        shares = np.full((len(self.codes), len(self.labels)), np.nan)
        of_cell = self.folds.of_cell
        for fold in np.unique(of_cell[of_cell >= 0]):
            held = np.flatnonzero(of_cell == fold)
            model = self._trained(np.flatnonzero((of_cell != fold) & keep))
            with quiet():
                found = model.predict_proba(self._cells[held].copy(), **self._query())
            model.close()
            known = np.isin(self.labels.names, found.columns)
            table = found.reindex(columns=list(self.labels.names), fill_value=0.0)
            table = table.to_numpy(dtype=np.float64, copy=True)
            table[~known[self.codes[held]]] = np.nan
            shares[held] = table
            steps.done()
        if self._is_genes:
            shares[np.asarray(self._cells.X.sum(axis=1)).ravel() <= 0] = np.nan
        return shares

    # --- tables -----------------------------------------------------------------------------

    def in_order(self, column: pd.Series) -> NDArray[np.object_]:
        """Return a column of the data for the cells of the audit, in their order here."""
        values: NDArray[np.object_] = column.astype(object).to_numpy()[self._rows]
        return values

    def cell_table(
        self, shares: NDArray[np.float64], wrong: NDArray[np.float64], threshold: float
    ) -> pd.DataFrame:
        names = np.asarray(self.labels.names, dtype=object)
        terms = np.asarray(self.labels.term_ids, dtype=object)
        judged = np.isfinite(wrong)
        best = np.where(judged, np.nan_to_num(shares).argmax(axis=1), self.codes)
        relation = relations(self.children, self.codes, best)
        at = np.arange(len(best))
        # Cells of one score are ranked by what their label is given, then by name.
        order = np.lexsort((shares[at, self.codes], -wrong))
        rank = np.empty(len(best), dtype=np.int64)
        rank[order] = np.arange(1, len(best) + 1)
        return pd.DataFrame(
            {
                "label": names[self.codes],
                "suggested": names[best],
                "suggested_ontology_term_id": terms[best],
                "p_label": shares[at, self.codes],
                "p_suggested": np.where(judged, shares[at, best], np.nan),
                "score": wrong,
                "rank": rank,
                "fold": self.folds.of_cell,
                "wrong": judged & (wrong >= threshold) & (relation == "other type"),
                "relation": relation,
            },
            index=self._cells.obs_names,
        )

    def all_cells(self, cells: pd.DataFrame) -> pd.DataFrame:
        """Return the table for all cells of the data, in its order."""
        n = len(self._names)
        found = pd.DataFrame(index=self._names)
        place = np.full(n, -1, dtype=np.int64)
        place[self._rows] = np.arange(len(self._rows))
        left = place < 0
        blanks: dict[str, Any] = {"rank": n, "fold": -1, "wrong": False}
        for name in CELL_COLUMNS:
            column = cells[name].to_numpy()
            blank: Any = blanks.get(name, "" if column.dtype == object else np.nan)
            found[name] = np.where(left, blank, column[place]) if left.any() else column[place]
            found[name] = found[name].astype(column.dtype)
        found.loc[left, "label"] = self._given[left]
        return found

    def evidence(
        self, cells: pd.DataFrame, pairs: pd.DataFrame, n_genes: int, steps: _Steps
    ) -> pd.DataFrame:
        """Return the genes that speak for the suggestions of the first pairs."""
        if not n_genes or pairs.empty or not self._is_genes:
            steps.end()
            return evidence_genes([], n_genes)
        doubted = (cells["label"] != cells["suggested"]).to_numpy()
        sure = np.flatnonzero(~doubted & cells["score"].notna().to_numpy())
        explains = "explanation" in self._cls.capabilities
        if explains:
            model = self._trained(_learnable(sure, self.codes, len(self.labels)))
        else:
            with quiet():
                model = self._made(self._cells.copy())
        with quiet():
            found = Evidence.of_model(model, self._cells, self._query(), explains=explains)
            parts = [found.of_pair(cells, row) for row in pairs.itertuples()]
        model.close()
        steps.done()
        return evidence_genes(parts, n_genes)


def settings_of(model: AnnotationMixin) -> dict[str, Any]:
    """Return the arguments that a model was made with, its data aside."""
    params = model.init_params_
    found = dict(params["non_kwargs"])
    for extra in params["kwargs"].values():
        found |= extra
    return {k: v for k, v in found.items() if k not in {"adata", "registry"}}


def _learnable(
    rows: NDArray[np.int64], codes: NDArray[np.int64], n_classes: int
) -> NDArray[np.int64]:
    """Add the cells of classes that would otherwise be lost."""
    lost = np.setdiff1d(np.arange(n_classes), codes[rows])
    return np.sort(np.concatenate([rows, np.flatnonzero(np.isin(codes, lost))]))


def _worth_learning(
    wrong: NDArray[np.float64],
    shares: NDArray[np.float64],
    codes: NDArray[np.int64],
    kin: NDArray[np.bool_],
) -> NDArray[np.bool_]:
    """Return the cells that the next round learns from: none that confident learning doubts."""
    doubted = confident_errors(shares, codes, kin)
    for code in np.unique(codes):
        members = np.flatnonzero(codes == code)
        most = int(len(members) * (1 - KEPT))
        out = members[doubted[members]]
        if len(out) > most:
            order = out[np.argsort(-wrong[out], kind="stable")]
            doubted[order[most:]] = False
    return ~doubted


def _class_of(model: str | type[AnnotationMixin] | None) -> type[Any]:
    if isinstance(model, type):
        if "annotation" not in getattr(model, "capabilities", ()):
            raise UsageError(
                "E-U12", f"{model.__name__} annotates no cells", fix="pass an annotator: model=..."
            )
        return model
    found: type[Any] = plugins.load_class(annotator_spec(model, argument="model"))
    return found


def _require_arguments(
    cls: type[Any],
    model_kwargs: Mapping[str, Any],
    train_kwargs: Mapping[str, Any],
    setup: Mapping[str, Any],
) -> None:
    """Refuse arguments that the model, its set-up or its training does not take."""
    for what, name, given in (
        ("model_kwargs", "__init__", model_kwargs),
        ("setup", "setup_anndata", setup),
    ):
        known = _arguments_of(cls, name)
        if unknown := [k for k in given if k not in known]:
            raise UsageError(
                "E-U24",
                f"unknown arguments {', '.join(unknown)}",
                where=f"audit() of {cls.__name__} ({what})",
                why=f"it takes {', '.join(known)}" if known else "it takes none",
                fix=did_you_mean(unknown[0], known) or "leave them out, or use one of these",
            )
    cls.check_train_arguments(train_kwargs)


def _arguments_of(cls: type[Any], name: str) -> list[str]:
    """Names that a method takes, those that it hands on to the host's included."""
    found: dict[str, None] = {}
    for base in cls.__mro__:
        if base.__module__.partition(".")[0] == "scvi":
            break
        function = base.__dict__.get(name)
        if function is None:
            continue
        parameters = inspect.signature(getattr(function, "__func__", function)).parameters
        found |= {n: None for n, p in parameters.items() if p.kind is not p.VAR_KEYWORD}
        hands_on = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
        if name == "__init__" or not hands_on:
            break
    return [n for n in found if n not in {"self", "cls", "adata", "registry"}]
