"""``episome corpus``: many cells on disk in one folder, shuffled once, with checksums."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from episome.cli._command import (
    NO_DIFFERENCE,
    Outcome,
    command_options,
    examples,
    file_options,
    made_before,
    remembered,
    run_command,
    state_of,
)
from episome.errors import UsageError

if TYPE_CHECKING:
    from episome.jobs import CorpusFacts, CorpusResult, Run

__all__ = ["command"]

#: Options that change the rules of a preset.
RULES = ("primary", "assays", "descendant_of", "min_cells", "min_donors", "min_ancestors")
#: Widest bar of a picture of text, and how many values it shows.
BAR, SHOWN = 30, 12


@click.group(
    "corpus",
    epilog=examples(
        "episome corpus build a.h5ad b.h5ad -o atlas.corpus --labels-key cell_type",
        "episome corpus info atlas.corpus",
    ),
)
def command() -> None:
    """Make one store on disk of many cells, for training on more than fits into memory."""


# -- build ---------------------------------------------------------------------------------------


@command.command(
    "build",
    epilog=examples(
        "episome corpus build a.h5ad b.h5ad -o atlas.corpus --labels-key cell_type "
        "--donor-key donor_id",
        "episome corpus build *.h5ad -o lung.corpus --where 'tissue=lung' --dry-run",
    ),
)
@click.argument("inputs", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "-o", "--output", required=True, type=click.Path(path_type=Path), help="Folder to write."
)
@click.option("--labels-key", metavar="COLUMN", help="Column of obs with labels.")
@click.option(
    "--donor-key",
    "donor_keys",
    multiple=True,
    metavar="COLUMN",
    help="Column of obs with donors; several together name one.",
)
@click.option(
    "--columns",
    metavar="COLUMN,COLUMN",
    help="Further columns to keep; default those of the CELLxGENE schema that all inputs have.",
)
@click.option(
    "--where",
    multiple=True,
    metavar="CONDITION",
    help="Take cells with COLUMN=VALUE, COLUMN=VALUE|VALUE or COLUMN!=VALUE; several must all "
    "hold.",
)
@click.option(
    "--preset",
    type=click.Choice(["cellxgene-human"]),
    help="Rules of a paper for cells in the CELLxGENE schema, printed with what each loses; the "
    "options below change them, and work without it.",
)
@click.option(
    "--primary/--no-primary", default=None, help="Take only cells with is_primary_data, or all."
)
@click.option(
    "--assay", "assays", multiple=True, metavar="NAME", help="Take only this assay; repeatable."
)
@click.option(
    "--descendant-of", metavar="TERM", help="Take only types below this term of the Cell Ontology."
)
@click.option("--min-cells", type=click.IntRange(0), help="Take only types with so many cells.")
@click.option("--min-donors", type=click.IntRange(0), help="Take only types of so many donors.")
@click.option(
    "--min-ancestors",
    type=click.IntRange(0),
    help="Take only types with so many terms above them in the Cell Ontology.",
)
@click.option("--layer", help="Layer that holds the counts; default the first slot with counts.")
@click.option("--use-raw", is_flag=True, help="Take the counts of raw.")
@click.option(
    "--join",
    type=click.Choice(["outer", "inner"]),
    default="outer",
    show_default=True,
    help="outer keeps the genes of any input, inner those that all have.",
)
@click.option(
    "--duplicates",
    type=click.Choice(["error", "sum"]),
    default="error",
    show_default=True,
    help="What to do with genes of one name.",
)
@click.option(
    "--min-gene-overlap",
    type=click.FloatRange(0, 1),
    default=0.5,
    show_default=True,
    help="Smallest share of genes that an input has in common with those before it.",
)
@click.option(
    "--shuffle-seed", type=click.IntRange(0), help="Seed of the order of the cells; default 0."
)
@click.option("--overwrite", is_flag=True, help="Replace a corpus that is there.")
@click.option(
    "--resume",
    type=click.Choice(["auto", "never"]),
    default="auto",
    show_default=True,
    help="auto goes on where the same command was stopped; never starts anew.",
)
@click.option("--dry-run", is_flag=True, help="Check everything, estimate, and write nothing.")
@file_options
@command_options
@click.pass_context
def build(ctx: click.Context, /, **options: Any) -> None:
    """Build a corpus of INPUTS: files of cells with counts, which are never changed.

    Every input is checked as `episome check` does before anything is written. Genes are matched
    by name. Cells are put into a random order once, so that reading them in order is a random
    sample. A run that was stopped goes on when the same command is given again.
    """
    run_command(ctx, "corpus build", lambda: _build(ctx, options))


def _build(ctx: click.Context, options: dict[str, Any]) -> Outcome:
    if options["layer"] and options["use_raw"]:
        raise UsageError(
            "E-U27",
            "--layer and --use-raw are given",
            why="each says where the counts are",
            fix="give one of them",
        )
    run = None if options["dry_run"] else _run(options)
    if run is not None and (before := made_before(run, overwrite=options["overwrite"])):
        return before

    from episome.cli._ui import progress
    from episome.jobs import CorpusRequest, corpus_build

    columns = options.pop("columns")
    listed = None if columns is None else tuple(c.strip() for c in columns.split(",") if c.strip())
    rules = {name: options.pop(name) for name in RULES}
    rules["assays"] = rules["assays"] or None
    request = CorpusRequest(**options, columns=listed, rules=rules)
    state = state_of(ctx)
    visible = state.progress and state.verbosity >= 0
    with progress(None, "corpus", enabled=visible) as bar:
        result = corpus_build(
            request, progress=lambda what, done, n: bar.update(done, f"{what}, of {n:,}")
        )
    return remembered(run, _built(result, request.inputs))


def _run(options: dict[str, Any]) -> Run:
    from episome.jobs import Run

    kept = {*NO_DIFFERENCE, "inputs", "output", "resume", "dry_run"}
    other = {k: v for k, v in options.items() if k not in kept}
    return Run("corpus build", options["output"], other, list(options["inputs"]))


def _built(result: CorpusResult, inputs: tuple[Path, ...]) -> Outcome:
    would = "would take about" if result.output is None else "take"
    lines = [
        str(result.output) if result.output is not None else "nothing is written (--dry-run)",
        f"  {result.n_obs:,} cells, {result.n_vars:,} genes, {would} {_size(result.disk)}",
        *(f"  {note}" for note in result.notes),
    ]
    if result.splits:
        first = result.splits[0]
        lines.append(f"  split by donor: {first}, and {len(result.splits) - 1} nested subsets")
    written = [] if result.output is None else [result.output, *result.splits]
    return Outcome(
        text="\n".join(lines),
        inputs=list(result.inputs) or [{"path": str(p)} for p in inputs],
        outputs=[{"path": str(path)} for path in written],
        data={
            "n_obs": result.n_obs,
            "n_vars": result.n_vars,
            "disk_bytes": result.disk,
            "dry_run": result.output is None,
            "notes": list(result.notes),
        },
    )


def _size(n_bytes: float) -> str:
    for unit in ("bytes", "kB", "MB"):
        if n_bytes < 1000:
            return f"{n_bytes:,.0f} {unit}"
        n_bytes /= 1000
    return f"{n_bytes:,.1f} GB"


# -- info ----------------------------------------------------------------------------------------


@command.command(
    "info",
    epilog=examples("episome corpus info atlas.corpus", "episome corpus info atlas.corpus --json"),
)
@click.argument("corpus", type=click.Path(path_type=Path))
@command_options
@click.pass_context
def info(ctx: click.Context, /, corpus: Path) -> None:
    """Say what CORPUS holds: sizes, inputs, and cells by label, donor and tissue."""
    run_command(ctx, "corpus info", lambda: _info(corpus))


def _info(corpus: Path) -> Outcome:
    from episome.io import read_corpus_manifest

    read_corpus_manifest(corpus)
    from episome.jobs import corpus_info

    facts = corpus_info(corpus)
    return Outcome(
        text=_drawn(facts),
        inputs=[{"path": str(corpus), "n_obs": facts.n_obs, "n_vars": facts.n_vars}],
        data={
            "n_obs": facts.n_obs,
            "n_vars": facts.n_vars,
            "n_stored": facts.n_stored,
            "disk_bytes": facts.disk,
            "columns": list(facts.columns),
            "labels_key": facts.labels_key,
            "donor_keys": list(facts.donor_keys),
            "shuffle_seed": facts.shuffle_seed,
            "sources": facts.inputs,
            "composition": facts.composition,
        },
    )


def _drawn(facts: CorpusFacts) -> str:
    share = facts.n_stored / max(facts.n_obs * facts.n_vars, 1)
    per_cell = facts.disk / max(facts.n_obs, 1)
    lines = [
        f"{facts.path}: {facts.n_obs:,} cells, {facts.n_vars:,} genes, {share:.1%} above zero",
        f"  disk     {_size(facts.disk)}, {_size(per_cell)} a cell",
        f"  order    shuffled with seed {facts.shuffle_seed}",
        f"  labels   {facts.labels_key or 'no column was named'}",
        f"  donors   {' + '.join(facts.donor_keys) or 'no column was named'}",
    ]
    lines += [
        f"  input    {i['name']}: {i['n_kept']:,} of {i['n_obs']:,} cells, "
        f"{i['n_measured']:,} genes"
        for i in facts.inputs
    ]
    for column, counts in facts.composition.items():
        lines += [f"{column}: {len(counts):,} values", *_bars(counts)]
    return "\n".join(lines)


def _bars(counts: Mapping[str, int]) -> list[str]:
    most = list(counts.items())[:SHOWN]
    width = min(max((len(name) for name, _ in most), default=0), 40)
    top = max((n for _, n in most), default=1)
    rows = [
        f"  {name[:width]:<{width}} {n:>12,}  {'#' * max(round(BAR * n / top), 1)}"
        for name, n in most
    ]
    more = len(counts) - len(most)
    return [*rows, *([f"  and {more:,} more"] if more else [])]


# -- verify --------------------------------------------------------------------------------------


@command.command(
    "verify",
    epilog=examples(
        "episome corpus verify atlas.corpus", "episome corpus verify atlas.corpus --json"
    ),
)
@click.argument("corpus", type=click.Path(path_type=Path))
@command_options
@click.pass_context
def verify(ctx: click.Context, /, corpus: Path) -> None:
    """Compare every byte of CORPUS with its checksum, and read every cell.

    Exit code 3 means that something is damaged.
    """
    run_command(ctx, "corpus verify", lambda: _verify(ctx, corpus))


def _verify(ctx: click.Context, corpus: Path) -> Outcome:
    from episome.io import read_corpus_manifest

    read_corpus_manifest(corpus)
    from episome.cli._ui import progress
    from episome.errors import InputFileError
    from episome.jobs import corpus_verify

    state = state_of(ctx)
    state.inputs.append({"path": str(corpus)})
    visible = state.progress and state.verbosity >= 0
    with progress(None, "verifying", unit="MB", enabled=visible) as bar:
        found = corpus_verify(
            corpus, progress=lambda done, total: bar.update(done / 1e6, f"of {total / 1e6:,.0f}")
        )
    if found.problems:
        raise InputFileError(found.problems)
    return Outcome(
        text=f"{corpus}: {found.n_files:,} files, {found.n_obs:,} cells, nothing is damaged",
        data={"n_files": found.n_files, "n_obs": found.n_obs},
    )


# -- split ---------------------------------------------------------------------------------------


def _shares(ctx: click.Context, param: click.Parameter, value: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in value.split(","))
    except ValueError as error:
        text = f"{value!r} is no list of shares, such as 0.7,0.15,0.15"
        raise click.BadParameter(text, ctx, param) from error


def _fractions(ctx: click.Context, param: click.Parameter, value: str) -> tuple[float, ...]:
    return _shares(ctx, param, value) if value.strip() else ()


@command.command(
    "split",
    epilog=examples(
        "episome corpus split atlas.corpus --by donor_id -o split.json",
        "episome corpus split atlas.corpus --by dataset_id --by donor_id --sizes 0.8,0.1,0.1 "
        "--subsets 0.15,0.3,0.5,0.7 -o split.json",
    ),
)
@click.argument("corpus", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="JSON file to write.",
)
@click.option(
    "--by",
    multiple=True,
    metavar="COLUMN",
    help="Column whose values never stand on two sides; several together name one. Default the "
    "donors that the corpus was built with.",
)
@click.option(
    "--sizes",
    default="0.7,0.15,0.15",
    show_default=True,
    callback=_shares,
    metavar="SHARES",
    help="Shares of training, validation and test cells.",
)
@click.option(
    "--labels-key",
    metavar="COLUMN",
    help="Column whose values keep a training cell each; default the labels of the corpus.",
)
@click.option("--seed", type=click.IntRange(0), help="Seed of the draw; default 0.")
@click.option(
    "--subsets",
    default="",
    callback=_fractions,
    metavar="SHARES",
    help="Write besides nested subsets of so many of the training groups, and of the training "
    "cells as a control, such as 0.15,0.3,0.5,0.7.",
)
@click.option("--overwrite", is_flag=True, help="Replace existing files.")
@command_options
@click.pass_context
def split(ctx: click.Context, /, **options: Any) -> None:
    """Split CORPUS into training, validation and test, with no donor on two sides.

    The file holds the donors of every part and a checksum of the rows that follow.
    """
    run_command(ctx, "corpus split", lambda: _split(options))


def _split(options: dict[str, Any]) -> Outcome:
    from episome.io import read_corpus_manifest

    read_corpus_manifest(options["corpus"])
    from episome.jobs import SplitRequest, corpus_split

    request = SplitRequest(**options)
    files = corpus_split(request)
    made = files[request.output]
    rows = [
        f"  {name:<10} {part['n_obs']:>12,} cells ({part['n_obs'] / made['n_obs']:.1%}), "
        f"{len(part['groups']):,} groups"
        for name, part in made["parts"].items()
    ]
    parts = {
        n: {"n_obs": p["n_obs"], "n_groups": len(p["groups"])} for n, p in made["parts"].items()
    }
    subsets = {p.name: {**k["subset"], **_training(k)} for p, k in files.items() if "subset" in k}
    smaller = [
        f"{name}: {kept['n_obs']:,} training cells, {kept['n_groups']:,} groups, "
        f"{kept['n_labels']:,} labels"
        for name, kept in subsets.items()
    ]
    return Outcome(
        text="\n".join([str(request.output), *rows, *smaller]),
        inputs=[{"path": str(request.corpus)}],
        outputs=[{"path": str(path)} for path in files],
        data={
            "parts": parts,
            "sha256": made["sha256"],
            "by": made["by"],
            "seed": made["seed"],
            "subsets": subsets,
        },
    )


def _training(kept: Mapping[str, Any]) -> dict[str, Any]:
    part = kept["parts"]["train"]
    sizes = {"n_obs": part["n_obs"], "n_groups": len(part["groups"]), "n_labels": part["n_labels"]}
    return {"sha256": kept["sha256"], **sizes}
