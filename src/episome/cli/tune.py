"""``episome tune``: search for the settings of a model on held-out cells."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from episome.cli._command import (
    Outcome,
    command_options,
    examples,
    file_options,
    machine_options,
    raw_choice,
    run_command,
    state_of,
    value_options,
)
from episome.cli.train import (
    given_settings,
    json_value,
    set_option,
    setup_arguments,
    with_settings,
)
from episome.errors import UsageError

if TYPE_CHECKING:
    from episome.jobs import TuneResult
    from episome.models import TuningSpace

__all__ = ["command"]


@click.command(
    "tune",
    epilog=examples(
        "episome tune sctab atlas.h5ad --labels-key cell_type --donor-key donor_id -o tuned",
        "episome tune logreg cells.h5ad --labels-key type --space model.n_top_genes=500,2000 "
        "--trials 3 -o tuned",
    ),
)
@click.argument("method")
@click.argument("input", type=click.Path(path_type=Path))
@click.option("--labels-key", required=True, help="Column of obs with the cell types.")
@click.option(
    "-o", "--output", required=True, type=click.Path(path_type=Path), help="Folder of the model."
)
@click.option("--donor-key", multiple=True, help="Column of the donor; may be given twice.")
@click.option(
    "--trials",
    "n_trials",
    type=click.IntRange(2),
    default=12,
    show_default=True,
    help="Settings that are tried; the first are the defaults.",
)
@click.option(
    "--time-budget",
    type=click.FloatRange(0, min_open=True),
    metavar="SECONDS",
    help="No new setting is tried after them; the last training comes on top.",
)
@click.option(
    "--space",
    "spaces",
    multiple=True,
    metavar="NAME=VALUES",
    help="What is tried: model.X, train.X or plan.X, with values (a,b,c) or a range (low..high); "
    "default the model's own.",
)
@click.option(
    "--workers",
    "n_workers",
    type=click.IntRange(1),
    help="Settings that are tried at a time; default one per core or GPU.",
)
@set_option
@click.option("--max-epochs", type=click.IntRange(1), help="Passes over the cells.")
@value_options
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@machine_options
@click.option("--overwrite", is_flag=True, help="Replace an existing folder.")
@file_options
@command_options
@click.pass_context
def command(ctx: click.Context, /, **options: Any) -> None:
    """Try settings of METHOD on held-out cells of INPUT, and train it with the best on all.

    Cells are held out by donor where there are three donors or more. The settings are tried on
    one part, the best third of them on a second, and so on. Needs the extra: episome[tune].
    """
    run_command(ctx, "tune", lambda: _tune(ctx, options), long=True)


def _tune(ctx: click.Context, options: dict[str, Any]) -> Outcome:
    from episome.cli._ui import progress
    from episome.jobs import TuneRequest, describe_input, device_arguments, tune
    from episome.resources import set_threads

    raw_choice(options)
    train: dict[str, object] = dict(device_arguments(options["device"]))
    if options["max_epochs"] is not None:
        train["max_epochs"] = options["max_epochs"]
    model, train_settings = given_settings(options)
    request = TuneRequest(
        method=options["method"],
        input=options["input"],
        output=options["output"],
        setup=setup_arguments(options),
        space=_space(options["spaces"]) or None,
        n_trials=options["n_trials"],
        time_budget=options["time_budget"],
        n_workers=options["n_workers"],
        model=model,
        train=with_settings(train, train_settings),
        overwrite=options["overwrite"],
        seed=options["seed"],
        max_memory=options["max_memory"],
        trust=options["trust"],
    )
    set_threads(options["threads"])
    state = state_of(ctx)
    state.inputs.append(
        describe_input(request.input) if state.json else {"path": str(request.input)}
    )
    visible = state.progress and state.verbosity >= 0
    with progress(None, "trying settings", unit="settings", enabled=visible) as bar:
        result = tune(request, progress=lambda done, total: bar.update(done, f"of {total}"))
    rows = result.table.astype(object).where(result.table.notna(), None)
    return Outcome(
        text=_text(result),
        outputs=[{"path": str(result.output)}],
        metrics={"macro_f1": float(result.table.set_index("reason").loc["chosen", "macro_f1"])},
        data={
            "chosen": result.chosen,
            "reason": result.reason,
            "held_out": result.held_out,
            "table": rows.to_dict("records"),
        },
    )


def _space(given: tuple[str, ...]) -> TuningSpace:
    """Read ``model.X=a,b,c`` and ``plan.X=low..high``."""
    from episome.models import Between

    space: dict[str, Any] = {}
    for pair in given:
        name, equals, text = pair.partition("=")
        if not equals or not text:
            raise UsageError(
                "E-U26",
                f"--space {pair!r} is no NAME=VALUES",
                fix="for example --space plan.lr=0.001..0.01 or --space model.n_steps=1,3",
            )
        low, dots, high = text.partition("..")
        if dots:
            ends = json_value(low), json_value(high)
            numbers = [e for e in ends if isinstance(e, int | float) and not isinstance(e, bool)]
            if len(numbers) < 2 or not 0 < numbers[0] < numbers[1]:
                raise UsageError(
                    "E-U26",
                    f"--space {pair!r} is no range",
                    fix="pass two numbers above zero, the smaller first: plan.lr=0.001..0.01",
                )
            space[name] = Between(float(numbers[0]), float(numbers[1]))
        else:
            space[name] = tuple(json_value(v) for v in text.split(","))
    return space


def _text(result: TuneResult) -> str:
    chosen = ", ".join(f"{k}={v}" for k, v in result.chosen.items()) or "the defaults"
    lines = [
        str(result.output),
        f"  chosen: {chosen}",
        f"  {result.reason} ({result.held_out})",
        "  macro F1 (95 % interval)  parts  seconds  settings",
    ]
    for row in result.table.to_dict("records"):
        set_to = {k: v for k, v in row.items() if "." in str(k) and v == v}
        shown = ", ".join(f"{k}={v}" for k, v in set_to.items()) or "the defaults"
        if row["macro_f1"] == row["macro_f1"]:
            score = f"{row['macro_f1']:8.3f} ({row['low']:.3f} to {row['high']:.3f})"
        else:
            score, shown = " " * 25, f"{shown}: {row['reason']}"
        lines.append(f"  {score}  {row['parts']:5d}  {row['seconds']:7.1f}  {shown}")
    lines.append(f"  next: episome annotate query.h5ad -m {result.output} -o calls.csv")
    return "\n".join(lines)
