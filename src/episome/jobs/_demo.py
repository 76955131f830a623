"""Train and annotate real cells that come with scanpy: no download."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from episome import plugins, settings
from episome.data import stratified_halves
from episome.errors import InputFileError, PluginError
from episome.io import ensure_free, write_calls, write_file
from episome.log import get_logger
from episome.metrics import Interval, accuracy, bootstrap, macro_f1

if TYPE_CHECKING:
    from anndata import AnnData

    from episome.models import EpisomeModel
    from episome.plugins import ModelSpec

logger = get_logger(__name__)

LABELS_KEY = "bulk_labels"
HELD_OUT = 0.3
MARKER = "demo.json"


@dataclass(frozen=True, slots=True)
class DemoScore:
    """Scores of one model on the held-out cells."""

    model: str
    folder: Path
    accuracy: Interval
    macro_f1: Interval
    seconds: float


@dataclass(frozen=True, slots=True)
class DemoResult:
    """What the demo did: scores by model, sizes, seed and the commands that do the same."""

    output: Path
    scores: tuple[DemoScore, ...]
    n_train: int
    n_test: int
    n_genes: int
    n_classes: int
    seed: int
    commands: tuple[str, ...]


def demo(
    output: str | Path = "episome-demo",
    *,
    progress: Callable[[str, int, int, Mapping[str, float]], None] | None = None,
) -> DemoResult:
    """Train every installed model tagged ``demo`` on scanpy's ``pbmc68k_reduced`` and annotate.

    The file holds 700 cells and 765 genes: ``X`` is z-scored, ``raw`` is log1p, counts are
    nowhere. The demo runs on the log1p values. 30 % of every class is held out, by
    ``settings.seed``.

    Parameters
    ----------
    output
        Folder for models, calls and pictures; one that an earlier demo made is replaced.
    progress
        Called with ``(model, done, total, metrics)``.

    Returns
    -------
    A :class:`DemoResult`.

    Raises
    ------
    PluginError
        No installed model is tagged ``demo`` (E-P14).
    InputFileError
        ``output`` exists and no demo made it (E-F26).
    """
    output = Path(output)
    specs = [s for s in plugins.models().values() if "demo" in s.tags]
    if not specs:
        raise PluginError(
            "E-P14",
            "no installed model takes part in the demo",
            fix="pip install episome-sctab episome-baselines",
        )
    _require_own_folder(output)
    adata = load_demo_cells()
    codes = np.unique(adata.obs[LABELS_KEY].astype(str), return_inverse=True)[1]
    train, test = stratified_halves(codes, test_size=HELD_OUT)
    reference, held_out = adata[train].copy(), adata[test].copy()
    files = _write_cells(output, reference, held_out)
    scores = tuple(_run(s, reference, held_out, output, progress) for s in specs)
    result = DemoResult(
        output=output,
        scores=scores,
        n_train=len(train),
        n_test=len(test),
        n_genes=reference.n_vars,
        n_classes=len(np.unique(codes)),
        seed=settings.seed,
        commands=_commands(specs, output, files),
    )
    write_file(output / MARKER, _facts(result), overwrite=True)
    return result


def demo_cells() -> tuple[AnnData, str]:
    """Return the cells of the demo, 700 of blood, and the column of their labels.

    They come with scanpy: ``pbmc68k_reduced`` with its log1p values as ``X`` and nothing else.
    """
    return load_demo_cells(), LABELS_KEY


def load_demo_cells() -> AnnData:
    """Return ``pbmc68k_reduced`` with its log1p values as ``X`` and nothing else."""
    import warnings

    import anndata
    import scanpy as sc

    with warnings.catch_warnings():
        # The bundled file is of an old format; anndata says so at every read.
        warnings.simplefilter("ignore")
        source = sc.datasets.pbmc68k_reduced()
    obs = pd.DataFrame({LABELS_KEY: source.obs[LABELS_KEY].astype(str)}, index=source.obs_names)
    var = pd.DataFrame(index=source.raw.var_names)
    return anndata.AnnData(source.raw.X.tocsr(), obs=obs, var=var)


def _require_own_folder(output: Path) -> None:
    if output.exists() and not (output / MARKER).is_file():
        raise InputFileError(
            "E-F26",
            "the output exists already and no demo made it",
            where=str(output),
            fix="choose another folder with -o",
        )
    ensure_free(output, overwrite=True)


def _write_cells(output: Path, reference: AnnData, held_out: AnnData) -> tuple[Path, Path]:
    # The marker comes first: a demo that is stopped half-way can be run again.
    output.mkdir(parents=True, exist_ok=True)
    (output / MARKER).touch()
    unlabelled = held_out.copy()
    unlabelled.obs = unlabelled.obs[[]]
    paths = output / "reference.h5ad", output / "query.h5ad"
    for path, adata in zip(paths, (reference, unlabelled), strict=True):
        write_file(path, adata.write_h5ad, overwrite=True)
    return paths


def _run(
    spec: ModelSpec,
    reference: AnnData,
    held_out: AnnData,
    output: Path,
    progress: Callable[[str, int, int, Mapping[str, float]], None] | None,
) -> DemoScore:
    cls = plugins.load_class(spec)
    adata = reference.copy()
    cls.setup_anndata(adata, labels_key=LABELS_KEY, input_kind="log1p")
    model = cls(adata)
    if progress is not None:
        progress(spec.class_name, 0, 1, {})
        model.train(progress=lambda done, total, m: progress(spec.class_name, done, total, m))
        progress(spec.class_name, 1, 1, {})
    else:
        model.train()
    folder = output / spec.name
    model.save(folder / "model", overwrite=True)
    calls = model.annotate(held_out)
    truth = held_out.obs[LABELS_KEY].to_numpy(dtype=object)
    write_calls(folder / "calls.csv", calls.assign(true_label=truth), overwrite=True)
    called = calls["label"].to_numpy(dtype=object)
    _draw(folder / "confusion.png", truth, called, spec.class_name)
    return DemoScore(
        model=spec.class_name,
        folder=folder,
        accuracy=bootstrap(accuracy, truth, called),
        macro_f1=bootstrap(macro_f1, truth, called),
        seconds=_seconds(model),
    )


def _seconds(model: EpisomeModel) -> float:
    return float(model.fit_.get("seconds", 0.0))


def _draw(path: Path, truth: np.ndarray, called: np.ndarray, name: str) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from episome.pl import confusion

    figure = Figure(figsize=(8.0, 7.0), layout="constrained")
    FigureCanvasAgg(figure)
    confusion(truth, called, ax=figure.subplots(), title=f"{name}, {len(truth):,} held-out cells")
    write_file(path, lambda p: figure.savefig(p, dpi=150), overwrite=True)


def _commands(specs: list[ModelSpec], output: Path, files: tuple[Path, Path]) -> tuple[str, ...]:
    reference, query = files
    name = specs[0].name
    return (
        f"episome train {name} {reference} --labels-key {LABELS_KEY} --input-kind log1p "
        f"-o {output}/my-model",
        f"episome annotate {query} -m {output}/my-model -o {output}/my-calls.csv",
    )


def _facts(result: DemoResult) -> bytes:
    scores = {
        s.model: {
            "accuracy": [s.accuracy.value, s.accuracy.low, s.accuracy.high],
            "macro_f1": [s.macro_f1.value, s.macro_f1.low, s.macro_f1.high],
            "seconds": s.seconds,
        }
        for s in result.scores
    }
    facts = {
        "data": "scanpy.datasets.pbmc68k_reduced, raw (log1p)",
        "labels_key": LABELS_KEY,
        "n_train": result.n_train,
        "n_test": result.n_test,
        "seed": result.seed,
        "scores": scores,
    }
    return (json.dumps(facts, indent=1) + "\n").encode()
