"""``episome predict-modality``: another modality of every cell, predicted from its RNA."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from episome.cli._cells import asked, described, keep_answer, output_of
from episome.cli._command import (
    MODEL,
    Outcome,
    WithInput,
    cell_options,
    command_options,
    examples,
    file_options,
    gene_options,
    machine_options,
    run_command,
    value_options,
)

if TYPE_CHECKING:
    from episome.jobs import PredictModalityResult

__all__ = ["command"]


@click.command(
    "predict-modality",
    cls=WithInput,
    epilog=examples(
        "episome predict-modality query.h5ad -m my-model -o predicted.h5ad --interval 0.9",
        "episome predict-modality query.h5ad -m my-model -o few.csv --features CD4 --features CD8",
        "episome predict-modality query.h5ad -m to-peaks -o peaks.h5ad --sparse-below 0.05",
    ),
)
@click.argument("input", type=click.Path(path_type=Path))
@click.option(
    "-m",
    "--model",
    required=True,
    type=MODEL,
    help="Folder of the model, or its name on the hub.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, allow_dash=True),
    help="predicted.h5ad (default); for few features .csv, .csv.gz, .tsv, .tsv.gz or .parquet; - "
    "for standard output.",
)
@click.option(
    "--features",
    multiple=True,
    metavar="NAME",
    help="Feature to write, or a file (.txt, .csv, .tsv) with one a line; may be repeated. "
    "Default all that the model predicts.",
)
@click.option(
    "--interval",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    help="Write intervals too, between whose ends the measured value of this share of cells is "
    "to lie: 0.5, 0.8, 0.9 or 0.95.",
)
@click.option(
    "--transform-batch",
    metavar="NAME",
    help="Predict all cells as if they were of this batch of the training cells; default their "
    "own where the model knows it.",
)
@click.option(
    "--sparse-below",
    type=float,
    help="Leave smaller predictions out and write X as a sparse matrix; for many peaks.",
)
@click.option(
    "--modality",
    help="Name of the RNA in a file of several modalities; default the one it had in training.",
)
@value_options
@gene_options
@cell_options
@machine_options
@click.option("--overwrite", is_flag=True, help="Replace an existing file.")
@file_options
@command_options
@click.pass_context
def command(ctx: click.Context, /, **options: Any) -> None:
    """Write another modality of every cell of INPUT, as a model predicts it from the RNA.

    INPUT is a file of cells, also of several modalities, of which the RNA is read; or a corpus, a
    folder of h5ad files or an address, which are read in blocks. The model is one with the
    capability translation. Cells are in the order of INPUT, which is never changed. What the model
    knows of how well it predicts every feature is in var of the h5ad.
    """
    run_command(ctx, "predict-modality", lambda: _predict(ctx, options))


def _predict(ctx: click.Context, options: dict[str, Any]) -> Outcome:
    from episome.io import EXPRESSION_KINDS

    output = output_of(options, "predicted.h5ad")
    files = [Path(word) for word in options["features"]]
    run, before = asked(
        "predict-modality",
        options,
        output,
        EXPRESSION_KINDS,
        files=[p for p in files if p.is_file()],
    )
    if before is not None:
        return before

    from episome.jobs import PredictModalityRequest, predict_modality

    with described(ctx, options, PredictModalityRequest, output, "predicting") as (
        request,
        progress,
    ):
        result = predict_modality(request, progress=progress)
    data = {
        "n_obs": result.n_obs,
        "n_vars": result.n_vars,
        "n_features": result.n_features,
        "n_empty": result.n_empty,
        "kind": result.kind,
        "unit": result.unit,
        "status": dict(result.status),
        "notes": list(result.notes),
    }
    return keep_answer(ctx, run, output, result.predicted, _text(result), data)


def _text(result: PredictModalityResult) -> list[str]:
    kind = "" if result.kind == "other" else f" ({result.kind})"
    lines = [f"{result.n_features:,} features{kind} of {result.n_obs:,} cells"]
    if result.unit:
        lines.append(f"unit: {result.unit}")
    if result.status:
        order = ("predictable", "weak", "not predictable", "constant", "too few cells")
        counts = [f"{result.status[word]:,} {word}" for word in order if word in result.status]
        lines.append(f"features, by cells that were held out of training: {', '.join(counts)}")
    else:
        lines.append("how well they are predicted is not known: nothing was held out to tell")
    if result.n_empty:
        lines.append(f"NaN, without counts of the model's genes: {result.n_empty:,} cells")
    return lines
