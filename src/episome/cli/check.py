"""``episome check``: say what a file of cells holds, and what must be mended."""

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
    gene_options,
    run_command,
    state_of,
)

__all__ = ["command"]


@click.command(
    "check",
    epilog=examples(
        "episome check atlas.h5ad",
        "episome check query.h5ad -m my-model --layer counts",
        "episome check query.h5ad -m my-model --shift",
    ),
)
@click.argument("input", type=click.Path(path_type=Path))
@click.option("-m", "--model", type=MODEL, help="Model that the cells are meant for.")
@click.option(
    "--shift",
    is_flag=True,
    help="Run the model over the cells, and say how they differ from its training cells and what "
    "that costs.",
)
@click.option("--layer", help="Layer that holds the values; default the first with counts.")
@click.option("--use-raw", is_flag=True, help="Take the values of raw.")
@gene_options
@file_options
@command_options
@click.pass_context
def command(ctx: click.Context, /, **options: Any) -> None:
    """Say what INPUT, a file of cells, holds: values, genes, species, labels, donors.

    Of several modalities (h5mu, 10x files with antibodies or peaks) each is looked at, and how
    their cells are paired; --layer and --use-raw are of the genes. All values are read once. Exit
    code 3 means that something must be mended before a model can use it. INPUT is never changed.
    """
    run_command(ctx, "check", lambda: _check(ctx, options))


def _check(ctx: click.Context, options: dict[str, Any]) -> Outcome:
    from episome.data import check_readable

    check_readable(options["input"])
    if options["model"] is not None:
        from episome.io import read_manifest

        read_manifest(options["model"])

    from episome.errors import InputDataError
    from episome.jobs import CheckRequest, check, describe_input

    request = CheckRequest(**options)
    state = state_of(ctx)
    state.inputs.append(
        describe_input(request.input) if state.json else {"path": str(request.input)}
    )
    result = check(request)
    found = result.inspection.findings
    mend = tuple(f.problem for f in found if f.severity == "must mend")
    lines = [result.inspection.text]
    data = {"inspection": result.inspection.to_json(), "next": list(result.next)}
    if result.shift is not None:
        lines.append(result.shift.text)
        data["shift"] = result.shift.to_json()
    return Outcome(
        text="\n".join([*lines, *(f"  next: {line}" for line in result.next)]),
        warnings=[
            {"code": f.problem.code, "message": str(f.problem)}
            for f in found
            if f.severity == "doubtful"
        ],
        data=data,
        error=InputDataError(mend) if mend else None,
    )
