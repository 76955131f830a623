"""`Predictor`: the one way from cells to numbers, streaming, without scvi-tools or Lightning."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from episome.confidence import (
    Confidence,
    RollUp,
    as_logits,
    classes_within,
    restricted,
    softened,
)
from episome.data import FeatureSpace, GeneImportance, InputRule, Labels, Query, prepare_query
from episome.errors import Problem, UsageError, warn
from episome.inference._calls import CallLimits, calls_frame
from episome.inference._device import pick_device
from episome.inference._ensemble import EnsembleCore
from episome.inference._folders import (
    core_from_folder,
    folder_confidence,
    folder_features,
    folder_importance,
    folder_labels,
    folder_rule,
)
from episome.inference._importance import mean_importance
from episome.inference._outputs import (
    class_probabilities,
    columns_of,
    require_outputs,
    to_numpy,
    without,
    without_values,
)
from episome.io import (
    ModelFolder,
    is_ensemble,
    read_ensemble_folder,
    read_manifest,
    read_model_folder,
)
from episome.log import get_logger
from episome.nn import DenseBuffers, host_batch, normalized_batch
from episome.ontology import nearest_ontology

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray
    from scipy import sparse

    from episome.data import CellSource
    from episome.inference._cores import BatchSource, Core, RunningCore
    from episome.ontology import CellOntology

logger = get_logger(__name__)

DEFAULT_BATCH_SIZE = 1024


class Predictor:
    """Run a core over any source of cells in batches of bounded memory.

    Parameters
    ----------
    core
        The core; moved to ``device`` and never trained here.
    features
        Genes of the model.
    rule
        Its input convention.
    labels
        Its classes; ``None`` for a model that does not annotate.
    device
        Where to run; default where the core is.
    importance
        How much the calls rest on every gene, where that is known.
    confidence
        What makes probabilities of the core's outputs; default as they are.
    """

    def __init__(
        self,
        core: RunningCore,
        *,
        features: FeatureSpace,
        rule: InputRule,
        labels: Labels | None = None,
        device: str | torch.device | None = None,
        importance: GeneImportance | None = None,
        confidence: Confidence | None = None,
    ) -> None:
        self.importance, self.confidence = importance, confidence or Confidence()
        self.core, self.features, self.rule, self.labels = core, features, rule, labels
        if device is not None:
            core.to(device)
        self._device = torch.device(core.device if device is None else device)
        self._run = core.inference()
        self._dense = DenseBuffers()
        self._rollup: RollUp | None = None
        self._possible: dict[tuple[str, ...], NDArray[np.bool_]] = {}

    @classmethod
    def from_folder(
        cls,
        path: str | Path | ModelFolder,
        *,
        device: str | torch.device = "auto",
        core_cls: type[Core] | None = None,
    ) -> Predictor:
        """Restore a predictor from the folder of a model or an ensemble; it runs no code of it.

        Parameters
        ----------
        path
            The folder; or the parts of a model's, as they were read.
        device
            ``"auto"`` takes a GPU when there is one.
        core_cls
            Class of the core; default what the installed plugin registers for the folder's model.

        Raises
        ------
        ModelFileError
            See ``read_model_folder``; also when labels and weights disagree (E-M13).
        PluginError
            The plugin is not installed (E-P01).
        """
        core: RunningCore
        if not isinstance(path, ModelFolder) and is_ensemble(read_manifest(path)):
            members = read_ensemble_folder(path).members
            folder, whole = members[0], read_ensemble_folder(path)
            confidence = folder_confidence(whole.tensors, whole.manifest, folder)
            weights = [folder_importance(m) for m in members]
            core = EnsembleCore([core_from_folder(m, core_cls) for m in members])
        else:
            folder = path if isinstance(path, ModelFolder) else read_model_folder(path)
            confidence = folder_confidence(folder.tensors, folder.manifest, folder)
            weights = [folder_importance(folder)]
            core = core_from_folder(folder, core_cls)
        return cls(
            core,
            features=folder_features(folder),
            rule=folder_rule(folder),
            labels=folder_labels(folder),
            device=pick_device(device),
            importance=mean_importance(weights),
            confidence=confidence,
        )

    def prepare(self, data: AnnData | str | Path | CellSource, **kwargs: Any) -> Query:
        """Check and align a query; the keywords are those of ``episome.data.prepare_query``."""
        kwargs.setdefault("importance", self.importance)
        return prepare_query(data, self.features, self.rule, **kwargs)

    def stream(
        self,
        query: BatchSource,
        *,
        rows: NDArray[np.int64] | None = None,
        batch_size: int | None = None,
        hidden: sparse.csr_matrix | None = None,
        outputs: Iterable[str] | None = None,
    ) -> Iterator[dict[str, NDArray[Any]]]:
        """Yield outputs batch by batch, in the order of the query.

        Each is a dictionary with ``ind_x`` (row numbers), ``empty`` (cells with none of the
        model's genes) and what the core gives: ``probabilities`` (from logits by softmax),
        ``latent``, ... ``hidden``: see :meth:`batches`. ``outputs`` are those that are wanted: a
        core may leave out others that would take long.
        """
        softer = self._temperature(query)
        wanted = None if outputs is None else frozenset(outputs)
        for batch in self.batches(query, rows=rows, batch_size=batch_size, hidden=hidden):
            if wanted is not None:
                batch["outputs"] = wanted
            out = {k: self._kept(to_numpy(v)) for k, v in self._run(batch).items()}
            if "logits" in out:
                out["probabilities"] = class_probabilities(out)
            require_outputs(out, len(batch["empty"]), self.labels, self.core)
            if "probabilities" in out:
                out |= self._sure(out, batch, softer)
            yield {**out, "ind_x": batch["ind_x"].cpu().numpy(), "empty": batch["empty"]}

    def _kept(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return an output that the next batch does not overwrite."""
        return values.copy() if self._dense.holds(values) else values

    def _temperature(self, query: BatchSource) -> float:
        """Return what confidence is lowered by where the query lacks genes."""
        shift, report = self.confidence.shift, getattr(query, "alignment", None)
        if shift is None or report is None:
            return 1.0
        found = report.report.weight
        return shift.temperature(1.0 - (report.report.overlap if found is None else found))

    def _sure(
        self, out: dict[str, NDArray[Any]], batch: dict[str, Any], softer: float
    ) -> dict[str, NDArray[Any]]:
        """Calibrate: what the core said itself stays as ``raw_probabilities``."""
        raw, found = out["probabilities"], self.confidence
        if not found.is_calibrated or len(raw) == 0:
            return {"raw_probabilities": raw}
        logits = out["logits"] if "logits" in out else as_logits(raw)
        shares = found.map.probabilities(logits)
        sure = {"raw_probabilities": raw, "probabilities": softened(shares, softer)}
        if found.novelty is not None:
            values = columns_of(batch["X"], found.novelty.space.genes, len(self.features))
            sure["novelty"] = found.novelty.score(shares, values, picked=True)
        return sure

    def batches(
        self,
        query: BatchSource,
        *,
        rows: NDArray[np.int64] | None = None,
        batch_size: int | None = None,
        hidden: sparse.csr_matrix | None = None,
    ) -> Iterator[dict[str, Any]]:
        """Yield normalised batches on the device, in the form that the core's prediction reads.

        Beside the keys of the loader each holds ``empty``: a boolean array of the cells with none
        of the model's genes. Entries of ``hidden``, boolean CSR (n_rows, n_genes) in the order of
        ``rows``, are zero; sizes of cells stay what they are. On the host a dense batch is
        overwritten by the next one.
        """
        start = 0
        loader = query.loader(
            rows, batch_size=DEFAULT_BATCH_SIZE if batch_size is None else batch_size
        )
        with torch.no_grad():
            for batch in loader:
                if hidden is not None:
                    batch["X"] = without(batch["X"], hidden[start : start + batch["X"].shape[0]])
                    start += batch["X"].shape[0]
                held: dict[str, Any] = host_batch(batch)
                moved = {k: v.to(self._device) for k, v in held.items()}
                ready = normalized_batch(
                    moved,
                    target_sum=self.rule.target_sum,
                    n_features=len(self.features),
                    input_format=self.core.inference_format,
                    buffers=self._dense,
                )
                yield {**ready, "empty": without_values(batch["X"])}

    def collect(
        self,
        query: Query,
        keys: Iterable[str],
        *,
        rows: NDArray[np.int64] | None = None,
        batch_size: int | None = None,
    ) -> dict[str, NDArray[Any]]:
        """Return chosen outputs of all cells, stacked; empty arrays for an empty query."""
        keys = [*keys, "empty"]
        parts: dict[str, list[NDArray[Any]]] = {k: [] for k in keys}
        for out in self.stream(query, rows=rows, batch_size=batch_size, outputs=keys):
            for key in keys:
                if key not in out:
                    raise UsageError(
                        "E-U12",
                        f"the model gives no {key!r}",
                        why=f"it gives {sorted(set(out) - {'ind_x', 'empty'})}",
                        fix="use a model with that capability",
                    )
                parts[key].append(out[key])
        return {k: np.concatenate(v) if v else self._nothing(k) for k, v in parts.items()}

    def _nothing(self, key: str) -> NDArray[Any]:
        if key == "empty":
            return np.empty(0, dtype=bool)
        if key == "novelty":
            return np.empty(0, dtype=np.float32)
        width = len(self.labels) if "probabilities" in key and self.labels else 0
        return np.empty((0, width), dtype=np.float32)

    def predict_proba(
        self,
        query: Query,
        *,
        rows: NDArray[np.int64] | None = None,
        batch_size: int | None = None,
        calibrated: bool = True,
        restrict_to: Sequence[str] = (),
    ) -> pd.DataFrame:
        """Return class probabilities; rows are cells, columns classes in the model's order."""
        labels = self.require_labels()
        key = "probabilities" if calibrated else "raw_probabilities"
        out = self.collect(query, [key], rows=rows, batch_size=batch_size)
        names = query.source.obs_names if rows is None else query.source.obs_names[rows]
        found = restricted(out[key], self.possible(restrict_to)) if restrict_to else out[key]
        return pd.DataFrame(found, index=names, columns=list(labels.names))

    def annotate(
        self,
        query: Query,
        *,
        rows: NDArray[np.int64] | None = None,
        batch_size: int | None = None,
        limits: CallLimits | None = None,
    ) -> pd.DataFrame:
        """Return one row of calls per cell; see ``calls_frame`` for the columns."""
        parts = list(self.calls(query, rows=rows, batch_size=batch_size, limits=limits))
        return pd.concat(parts) if parts else self.no_calls(limits=limits)

    def calls(
        self,
        query: Query,
        *,
        rows: NDArray[np.int64] | None = None,
        batch_size: int | None = None,
        limits: CallLimits | None = None,
    ) -> Iterator[pd.DataFrame]:
        """Yield the calls of every batch, in the order of the query."""
        self.require_labels()
        names = query.source.obs_names
        for out in self.stream(query, rows=rows, batch_size=batch_size):
            yield self._frame(out, names[out["ind_x"]], limits)

    def no_calls(self, *, limits: CallLimits | None = None) -> pd.DataFrame:
        """Return the table of no cells; limits that the model does not allow are refused."""
        nothing = np.empty((0, len(self.require_labels())), dtype=np.float32)
        out = {"probabilities": nothing, "empty": np.empty(0, dtype=bool)}
        return self._frame(out, pd.Index([], dtype=object), limits)

    def _frame(
        self, out: Mapping[str, NDArray[Any]], names: pd.Index, limits: CallLimits | None
    ) -> pd.DataFrame:
        return calls_frame(
            out["probabilities"],
            out["empty"],
            self.require_labels(),
            names,
            novelty=out.get("novelty"),
            confidence=self.confidence,
            limits=limits,
            roll=self.rollup if limits is not None and limits.roll_up is not None else None,
            possible=self.possible(limits.restrict_to) if limits and limits.restrict_to else None,
        )

    @property
    def rollup(self) -> RollUp:
        """Terms above the classes.

        Raises
        ------
        UsageError
            The model has no classes (E-U13), or none with a term (E-L42).
        """
        if self._rollup is None:
            labels = self.require_labels()
            self._rollup = RollUp.of(labels.names, labels.term_ids, self._ontology())
            terms = self._rollup.term_ids
            if alone := [n for n, t in zip(labels.names, terms, strict=False) if not t]:
                warn(
                    Problem(
                        "E-L44",
                        "classes without a term of the Cell Ontology",
                        where="the model",
                        count=len(alone),
                        total=len(labels),
                        examples=alone[:3],
                        why="their calls stay as they are: sure enough, or ambiguous",
                        fix="train with ontology_term_key= or own_terms=",
                    )
                )
            if above := self._rollup.classes_above():
                said = "; ".join(f"{name} above {', '.join(of[:3])}" for name, of in above[:3])
                logger.info(
                    "%d of %d classes are above others in the Cell Ontology: %s. With status "
                    "rolled_up such a label means the type or one below it; label_raw has the "
                    "most probable class",
                    len(above),
                    len(labels),
                    said,
                )
        return self._rollup

    def possible(self, types: Sequence[str]) -> NDArray[np.bool_]:
        """Return which classes are of some types, bool (n_classes,); see ``classes_within``.

        Raises
        ------
        UsageError
            The model has no classes (E-U13), or none of a type (E-L43).
        """
        labels, asked = self.require_labels(), tuple(types)
        if asked not in self._possible:
            self._possible[asked] = classes_within(
                labels.names, labels.term_ids, asked, self._ontology()
            )
        return self._possible[asked]

    def _ontology(self) -> CellOntology:
        labels = self.require_labels()
        return nearest_ontology(labels.ontology_release, labels.own_terms)

    def require_labels(self) -> Labels:
        """Return the classes.

        Raises
        ------
        UsageError
            The model has none (E-U13).
        """
        if self.labels is None:
            raise UsageError(
                "E-U13", "the model does not annotate cells", fix="use a model with labels"
            )
        return self.labels
