"""``episome report``: one page on what another command wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from episome.cli._command import (
    MODEL,
    Outcome,
    command_options,
    examples,
    file_options,
    run_command,
    state_of,
)

__all__ = ["command"]


@click.command(
    "report",
    epilog=examples(
        "episome report calls.csv -m my-model --input query.h5ad",
        "episome report annotated.h5ad -m my-model",
        "episome report scores.json -o scores-of-mine.html",
        "episome report my-model",
        "episome report runs/one",
    ),
)
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Report, .html or .md; default the name of RUN with .html.",
)
@click.option(
    "-i",
    "--input",
    type=click.Path(path_type=Path),
    help="Cells that were annotated: for maps, composition and shift; default those that the "
    "record of the run names, or RUN itself where it is an h5ad.",
)
@click.option(
    "-m",
    "--model",
    type=MODEL,
    help="Folder of the model: for its calibration and its genes; default that of the record.",
)
@click.option(
    "--labels-key",
    metavar="COLUMN",
    help="Column of obs that calls are compared with; default the one that agrees most.",
)
@click.option("--layer", help="Layer of the cells that holds the values; default X.")
@click.option("--use-raw", is_flag=True, help="Take the values of raw.")
@click.option("--study", help="Of results of `episome benchmark run`; default all.")
@click.option("--overwrite", is_flag=True, help="Replace an existing report.")
@file_options
@command_options
@click.pass_context
def command(ctx: click.Context, /, **options: Any) -> None:
    """Write one self-contained page on RUN, what another command wrote.

    RUN is the table or h5ad of annotate or audit, the .json of evaluate, the folder of a model,
    the results of benchmark run, or the folder of --run-folder. The page opens offline, prints
    well, and holds its numbers as JSON.
    """
    run_command(ctx, "report", lambda: _report(ctx, options))


def _report(ctx: click.Context, options: dict[str, Any]) -> Outcome:
    from episome.jobs import ReportRequest, report

    state_of(ctx).inputs.append({"path": str(options["run"])})
    result = report(ReportRequest(**options))
    return Outcome(
        text=f"{result.output}\n  {result.kind}: {', '.join(result.sections)}",
        outputs=[{"path": str(result.output)}],
        data={"kind": result.kind, "sections": list(result.sections)},
    )
