"""`XGBoostPCA`: boosted trees on principal components."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from episome.data import require_choice, split_cells
from episome.errors import UsageError
from episome.log import get_logger
from episome.models import ArrayClassifierModel, TrainingCells
from episome_baselines.components import fit_components
from episome_baselines.extras import require_extra, require_positive
from episome_baselines.xgboost_core import XGBoostPCACore, n_threads

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray

logger = get_logger(__name__)

#: Training cells from which on ``preset="auto"`` takes the published sizes.
LARGE = 100_000
#: Training cells from which on a fifth of them calibrates the model: every fold is a whole fit.
MAX_FOLDED = 1000
#: Rounds without a smaller loss on inner validation cells after which boosting ends.
PATIENCE = 10
#: Share of the training cells that the number of rounds is chosen on.
INNER_SHARE = 0.1


@dataclass(frozen=True, slots=True)
class Preset:
    """Components and the largest number of rounds."""

    n_components: int
    n_rounds: int


#: ``"paper"`` is that of Fischer et al. (2024), ``"small"`` what a few cores can train.
PRESETS = {"small": Preset(50, 200), "paper": Preset(256, 800)}


class XGBoostPCA(ArrayClassifierModel):
    """Boosted trees on principal components, with the settings of the scTab study.

    Softmax loss over all classes, learning rate 0.05, 75 % of the cells per round, depth 10,
    histograms, cells weighted so that classes count alike. The number of rounds is chosen once, on
    a tenth of the training cells (whole donors where at least four are known): boosting ends
    after ten rounds without a smaller loss there. Every fit, the last one and those that
    calibrate it, then runs that many rounds on all of its cells.

    Needs the extra ``xgboost``.

    Parameters
    ----------
    adata, registry
        As for every model.
    preset
        ``"small"``: 50 components, 200 rounds; ``"paper"``: 256 and 800; ``"auto"``: small below
        100,000 training cells.
    n_components
        Principal components instead of the preset's.
    n_rounds
        Largest number of rounds instead of the preset's.
    n_top_genes
        Variable genes, chosen on training cells; ``None``: all.
    learning_rate
        Of every round (eta).
    max_depth
        Of a tree.
    subsample
        Share of the cells that a round sees.
    early_stopping
        Choose the number of rounds; otherwise all are run.

    Raises
    ------
    MissingDependencyError
        xgboost is not installed (E-P02).
    UsageError
        A value that cannot be (E-U15, E-U22).
    """

    _core_cls = XGBoostPCACore
    _max_folded = MAX_FOLDED

    def __init__(
        self,
        adata: AnnData | None = None,
        registry: dict[str, object] | None = None,
        *,
        preset: Literal["auto", "small", "paper"] = "auto",
        n_components: int | None = None,
        n_rounds: int | None = None,
        n_top_genes: int | None = None,
        learning_rate: float = 0.05,
        max_depth: int = 10,
        subsample: float = 0.75,
        early_stopping: bool = True,
    ) -> None:
        require_extra("xgboost", why="XGBoostPCA is trained and run by it")
        require_choice("preset", preset, ("auto", *PRESETS))
        require_positive(n_components=n_components, n_rounds=n_rounds, max_depth=max_depth)
        _require_share(learning_rate=learning_rate, subsample=subsample)
        super().__init__(adata, registry)
        self.preset, self.n_top_genes, self.early_stopping = preset, n_top_genes, early_stopping
        self._given = n_components, n_rounds
        self._boosting = {"eta": learning_rate, "max_depth": max_depth, "subsample": subsample}
        self._rounds: dict[str, Any] = {}
        self._finish_init(
            self._build_core(), locals(), f"XGBoostPCA of {len(self.labels)} classes"
        )

    def _sizes(self, n_cells: int) -> Preset:
        """Return components and rounds for a number of training cells."""
        name = ("paper" if n_cells >= LARGE else "small") if self.preset == "auto" else self.preset
        preset, (n_components, n_rounds) = PRESETS[name], self._given
        return Preset(n_components or preset.n_components, n_rounds or preset.n_rounds)

    def _settle(self, cells: TrainingCells) -> None:
        # Found once for all fits: one number says too little of the calibration cells to matter.
        largest = self._sizes(len(cells.codes)).n_rounds
        self._rounds = {"n_rounds": largest, "max_rounds": largest}
        if not self.early_stopping:
            return
        split = split_cells(
            cells.codes,
            donors=cells.donors,
            train_size=1 - INNER_SHARE,
            validation_size=INNER_SHARE,
            seed=cells.seed,
        )
        if len(split.validation) == 0:
            logger.info("no cells can be held out to choose the rounds: all %d are run", largest)
            return
        self._rounds |= self._chosen_rounds(cells, split.train, split.validation)
        self._rounds["chosen_by"] = split.by
        logger.info("%(n_rounds)d of at most %(max_rounds)d rounds are run", self._rounds)

    def _chosen_rounds(
        self, cells: TrainingCells, train: NDArray[np.int64], validation: NDArray[np.int64]
    ) -> dict[str, Any]:
        weights = cells.balanced_weights()[cells.codes]
        # Neither the components nor the trees see the cells that choose the rounds.
        arrays = self._arrays(cells, train)
        core = XGBoostPCACore.from_config(self.module.config)
        core.fill(**arrays)
        data = core.components(cells.values)
        booster = self._boost(
            (data[train], cells.codes[train], weights[train]),
            cells,
            self._rounds["max_rounds"],
            held_out=(data[validation], cells.codes[validation], None),
        )
        return {
            "n_rounds": int(booster.best_iteration) + 1,
            "validation_loss": float(booster.best_score),
        }

    def _arrays(
        self, cells: TrainingCells, rows: NDArray[np.int64] | None = None
    ) -> dict[str, NDArray[np.generic]]:
        values = cells.values if rows is None else cells.values[rows]
        n_components = self._sizes(len(cells.codes)).n_components
        found = fit_components(values, n_components, n_top_genes=self.n_top_genes, seed=cells.seed)
        return {"genes": found.genes, "mean": found.mean, "loadings": found.loadings}

    def _fit_core(self, cells: TrainingCells) -> dict[str, object]:
        core = self.module
        core.fill(**self._arrays(cells))
        weights = cells.balanced_weights()[cells.codes]
        data = core.components(cells.values), cells.codes, weights
        core.booster = self._boost(data, cells, self._rounds["n_rounds"])
        n_components, n_genes = core.arrays["loadings"].shape
        return {"n_genes": n_genes, "n_components": n_components, **self._rounds}

    def _boost(
        self,
        data: _Data,
        cells: TrainingCells,
        n_rounds: int,
        *,
        held_out: _Data | None = None,
    ) -> Any:
        import xgboost

        params = {
            **self._boosting,
            "objective": "multi:softprob",
            "num_class": cells.n_classes,
            "tree_method": "hist",
            "seed": cells.seed,
            "nthread": n_threads(),
            "verbosity": 0,
        }
        inner = {}
        if held_out is not None:
            evals = [(_matrix(held_out), "validation")]
            inner = {"evals": evals, "early_stopping_rounds": PATIENCE, "verbose_eval": False}
        return xgboost.train(params, _matrix(data), num_boost_round=n_rounds, **inner)


#: Components (n_cells, n_components), codes (n_cells,), weights (n_cells,) or ``None``.
_Data = tuple[np.ndarray, np.ndarray, np.ndarray | None]


def _matrix(data: _Data) -> Any:
    import xgboost

    components, codes, weights = data
    return xgboost.DMatrix(components, label=codes, weight=weights, nthread=n_threads())


def _require_share(**values: float) -> None:
    for name, value in values.items():
        if not 0 < value <= 1:
            raise UsageError("E-U15", f"{name}={value!r}", fix="pass a number above 0 and up to 1")
