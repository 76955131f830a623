"""``episome demo``: train and annotate real data that needs no download."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from episome.cli._command import Outcome, command_options, examples, run_command, state_of

__all__ = ["command"]


@click.command("demo", epilog=examples("episome demo", "episome demo -o /tmp/demo --json"))
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    default=Path("episome-demo"),
    show_default=True,
    help="Folder for models, calls and pictures.",
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--threads", type=click.IntRange(1), help="Processor threads; default all.")
@command_options
@click.pass_context
def command(ctx: click.Context, output: Path, seed: int, threads: int | None) -> None:
    """Train on 490 blood cells that come with scanpy, annotate 210 others, and say how well."""
    run_command(ctx, "demo", lambda: _demo(ctx, output, seed, threads))


def _demo(ctx: click.Context, output: Path, seed: int, threads: int | None) -> Outcome:
    from episome import settings
    from episome.cli._ui import Progress, note, progress
    from episome.jobs import demo
    from episome.resources import set_threads

    state = state_of(ctx)
    visible = state.progress and state.verbosity >= 0
    if visible:
        note("loading (the first start takes a while)")
    bar: Progress

    def report(model: str, done: int, total: int, metrics: Any) -> None:
        f1 = metrics.get("validation_f1_macro")
        shown = f"{model}: epoch {done} of at most {total}" if total > 1 else model
        bar.update(done / total, shown + (f", validation macro F1 {f1:.3f}" if f1 else ""))

    with settings.using_seed(seed), progress(1, "training", enabled=visible) as bar:
        set_threads(threads)
        result = demo(output, progress=report)
    return Outcome(
        text=_text(result),
        outputs=[{"path": str(s.folder)} for s in result.scores],
        metrics={
            s.model: {"accuracy": s.accuracy.value, "macro_f1": s.macro_f1.value}
            for s in result.scores
        },
        data={
            "n_train": result.n_train,
            "n_test": result.n_test,
            "seed": result.seed,
            "commands": list(result.commands),
        },
    )


def _text(result: Any) -> str:
    width = max(len(s.model) for s in result.scores)
    lines = [
        "pbmc68k_reduced (bundled with scanpy), the log1p values of raw; counts are not in it.",
        f"{result.n_train} cells to train on, {result.n_test} held out, {result.n_genes} genes, "
        f"{result.n_classes} classes; stratified split, seed {result.seed}.",
        "",
        f"{'model':<{width}}  accuracy (95 % interval)  macro F1 (95 % interval)  seconds",
    ]
    lines += [
        f"{s.model:<{width}}  {s.accuracy!s:<24}  {s.macro_f1!s:<24}  {s.seconds:>7.1f}"
        for s in result.scores
    ]
    lines += [
        "",
        f"With {result.n_train} training cells a linear model is expected to win; networks are "
        "made for far larger references.",
        "",
        f"Written to {result.output}: for each model model/, calls.csv and confusion.png.",
        "",
        "The same by hand, then on your own files:",
        *(f"  {c}" for c in result.commands),
    ]
    return "\n".join(lines)
