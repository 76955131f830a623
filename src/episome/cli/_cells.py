"""What the commands share that run a model over cells and write what it gives."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from episome.cli._command import (
    NO_DIFFERENCE,
    Outcome,
    made_before,
    raw_choice,
    remembered,
    state_of,
)

if TYPE_CHECKING:
    import pandas as pd

    from episome.jobs import QueryRequest, Run

    Request = TypeVar("Request", bound=QueryRequest)

__all__ = ["asked", "described", "keep_answer", "output_of", "report_of", "report_options"]


F = TypeVar("F", bound=Callable[..., Any])


def report_options(function: F) -> F:
    """Add ``--report`` and ``--no-report``."""
    for option in (
        click.option(
            "--no-report", is_flag=True, help="Write no report, unless --report says where."
        ),
        click.option(
            "--report",
            type=click.Path(path_type=Path, dir_okay=False),
            metavar="FILE.html",
            help="Where the report goes; default beside the output, calls.html for calls.csv.",
        ),
    ):
        function = option(function)
    return function


def report_of(options: dict[str, Any], output: Path | None) -> Path | None:
    """Return where the report goes; ``None`` for none.

    A place that nobody asked for is not fought over: where a file is there, it stays.
    """
    from episome.errors import Problem, warn
    from episome.io import report_place

    wanted: Path | None = options["report"]
    if wanted is not None or options["no_report"] or output is None:
        return wanted
    place = report_place(output)
    if place.exists() and not options["overwrite"]:
        warn(
            Problem(
                "E-F41",
                "no report is written",
                where=str(place),
                why="a file of this name is there",
                fix="say where the report goes (--report), or leave it out (--no-report)",
            )
        )
        return None
    return place


def output_of(options: dict[str, Any], default: str) -> Path | None:
    """Return the file that is written; ``None`` for standard output."""
    return None if options["output"] == Path("-") else options["output"] or Path(default)


def asked(
    name: str,
    options: dict[str, Any],
    output: Path | None,
    kinds: Sequence[str],
    *,
    files: Sequence[Path] = (),
) -> tuple[Run | None, Outcome | None]:
    """Look at paths before anything heavy is imported, and for an answer of before.

    Parameters
    ----------
    name
        Of the command.
    options
        Of the command.
    output
        Of :func:`output_of`.
    kinds
        Endings that the output may have.
    files
        What the command reads beside the paths of its options.
    """
    from episome.data import check_inputs
    from episome.io import check_output, read_manifest

    raw_choice(options)
    check_inputs(options["input"])
    read_manifest(options["model"])
    if output is None:
        return None, None
    run = _run(name, output, options, files)
    if before := made_before(run, overwrite=options["overwrite"]):
        return run, before
    check_output(output, overwrite=options["overwrite"], kinds=kinds, source=options["input"])
    return run, None


def _run(name: str, output: Path, options: dict[str, Any], files: Sequence[Path]) -> Run:
    from episome.jobs import Run

    read = ("input", "model", "gene_map", "split")
    other = {k: v for k, v in options.items() if k not in {*read, "output", *NO_DIFFERENCE}}
    return Run(name, output, other, [*(options[k] for k in read), *files])


@contextlib.contextmanager
def described(
    ctx: click.Context,
    options: dict[str, Any],
    kind: type[Request],
    output: Path | None,
    label: str,
) -> Iterator[tuple[Request, Callable[[int, int], None]]]:
    """Give the request of a command, and what shows its progress.

    Parameters
    ----------
    ctx, options
        Of the command.
    kind
        Class of the request.
    output
        Of :func:`output_of`.
    label
        What progress is called.
    """
    from episome.cli._ui import progress
    from episome.jobs import describe_input
    from episome.resources import set_threads

    other = {"output", "threads", "auto_raw", "no_report"}
    taken = {k: v for k, v in options.items() if k not in other}
    request = kind(**{**taken, "output": output, "use_raw": raw_choice(options)})
    set_threads(options["threads"])
    state = state_of(ctx)
    state.inputs.append(
        describe_input(request.input) if state.json else {"path": str(request.input)}
    )
    visible = state.progress and state.verbosity >= 0
    with progress(None, label, unit="cells", enabled=visible) as bar:
        yield request, lambda done, total: bar.update(done, total=total)


def keep_answer(
    ctx: click.Context,
    run: Run | None,
    output: Path | None,
    table: pd.DataFrame | None,
    text: Sequence[str],
    data: dict[str, Any],
) -> Outcome:
    """Return what a command answers, and keep it; a table goes to standard output.

    Parameters
    ----------
    ctx
        Of the command.
    run, output
        Of :func:`asked` and :func:`output_of`.
    table
        What is written where there is no file.
    text
        Lines of the answer.
    data
        The same for ``--json``.
    """
    state = state_of(ctx)
    if output is None:
        if table is not None and state.stdout is not None and not state.json:
            state.stdout.write(table.to_csv(index_label="cell"))
            return Outcome()
        return Outcome(data=data)
    lines = "\n".join([str(output), *(f"  {line}" for line in text)])
    return remembered(run, Outcome(text=lines, outputs=[{"path": str(output)}], data=data))
