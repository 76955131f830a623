"""``episome train``: train a model on labelled cells."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from episome.cli._command import (
    NO_DIFFERENCE,
    Outcome,
    State,
    command_options,
    examples,
    file_options,
    machine_options,
    made_before,
    raw_choice,
    remembered,
    run_command,
    state_of,
    value_options,
)
from episome.errors import UsageError, with_option

if TYPE_CHECKING:
    from episome.jobs import Run, TrainRequest
    from episome.plugins import ModelSpec

__all__ = ["command"]

set_option = click.option(
    "--set",
    "settings_",
    multiple=True,
    metavar="KEY=VALUE",
    help="Argument of the model; train.KEY=VALUE: of its training, plan.KEY=VALUE: of the "
    "optimiser. May be repeated.",
)
#: Arguments of a model that have an option of their own.
_OF_MODEL = ("preset", "init", "markers")
#: Arguments of a training that are objects, or have another form here; what to do instead.
_NO_TEXT = {
    **dict.fromkeys(("callbacks", "logger", "plugins", "profiler"), "train in Python"),
    **dict.fromkeys(("datamodule", "progress", "checkpoint_dir"), "leave it out"),
    "plan_kwargs": "use --set plan.KEY=VALUE",
    "datasplitter_kwargs": "use --split or --sampling",
    "shuffle_set_split": "use --split",
    "resume": "use --resume",
    "accelerator": "use --device",
    "devices": "use --devices",
    "seed": "use --seed",
    "sampling": "use --sampling",
    "split": "use --split",
    # Every process would wait for others that nobody starts.
    "num_nodes": "train in Python, where a launcher starts the processes",
}


@click.command(
    "train",
    epilog=examples(
        "episome train sctab atlas.h5ad --labels-key cell_type --donor-key donor_id -o my-model",
        "episome train auto atlas.h5ad --labels-key cell_type --donor-key donor_id -o my-model",
        "episome train logreg cells.h5ad --labels-key type --labels-file labels.csv -o my-model",
        "episome train markers cells.h5ad --markers markers.csv -o my-model",
        "episome train crossmodal cite.h5mu --batch-key batch -o my-model",
    ),
)
@click.argument("method")
@click.argument("input", type=click.Path(path_type=Path))
@click.option(
    "--labels-key",
    help="Column of obs with the cell types; for annotators, but those that a table of markers is "
    "enough for.",
)
@click.option(
    "-o", "--output", required=True, type=click.Path(path_type=Path), help="Folder of the model."
)
@click.option(
    "--ontology-term-key",
    help="Column of obs with the Cell Ontology terms of the labels; default "
    "<labels-key>_ontology_term_id. Other labels are looked up by name.",
)
@click.option(
    "--own-terms",
    type=click.Path(path_type=Path),
    help="JSON file of terms of your own below the Cell Ontology: "
    '{"LAB:1": {"label": "my T cell", "parents": ["CL:0000084"]}}.',
)
@click.option("--donor-key", multiple=True, help="Column of the donor; may be given twice.")
@click.option("--rna-modality", help="Name of the RNA in a file of several modalities.")
@click.option("--target-modality", help="Name of the modality that is to be predicted.")
@click.option("--target-layer", help="Layer of the modality that is to be predicted.")
@click.option("--batch-key", help="Column of a covariate that the model conditions on.")
@click.option(
    "--obsm-key",
    help="Array of obsm to learn from instead of genes; METHOD embedding:KEY says the same.",
)
@value_options
@click.option(
    "--duplicates",
    type=click.Choice(["error", "sum"]),
    default="error",
    show_default=True,
    help="What to do with genes of one name.",
)
@click.option(
    "--labels-file",
    type=click.Path(path_type=Path),
    help="Table of labels, joined by barcode (first column), never by position; cells that it "
    "does not name take no part.",
)
@click.option(
    "--unlabeled",
    type=click.Choice(["error", "keep", "drop"]),
    default="error",
    show_default=True,
    help="What to do with cells without a label.",
)
@click.option(
    "--markers",
    type=click.Path(path_type=Path),
    help="Table of marker genes (csv or tsv with the columns cell_type and gene, or gmt), for "
    "models that take one.",
)
@click.option("--preset", help="Size preset of the model, where it has some.")
@click.option("--max-epochs", type=click.IntRange(1), help="Passes over the cells.")
@click.option("--batch-size", type=click.IntRange(1), help="Cells per update.")
@click.option(
    "--refit/--no-refit",
    default=None,
    help="After the run with validation, train again on all labelled cells; networks decide by "
    "the size of the reference.",
)
@click.option(
    "--augment",
    type=click.Choice(["donor"]),
    help="Add differences between training donors to training cells (networks; --donor-key).",
)
@click.option(
    "--sampling",
    metavar="balanced|COLUMN",
    help="Draw cells with replacement: every class alike, or by a column of numbers (networks).",
)
@click.option(
    "--split",
    type=click.Path(path_type=Path),
    help="File of `episome corpus split`: which cells train, and which choose the epoch; models "
    "without epochs are fitted on both. Its test cells are not looked at.",
)
@click.option(
    "--ensemble",
    "n_models",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Train so many models that differ by their seed, and average their probabilities.",
)
@set_option
@click.option(
    "--models",
    help="Names that METHOD auto compares, separated by commas; default all installed annotators.",
)
@click.option(
    "--time-budget",
    type=click.FloatRange(0, min_open=True),
    default=600.0,
    show_default=True,
    help="Seconds that METHOD auto may compare; the training of the best comes on top.",
)
@click.option(
    "--strategy",
    type=click.Choice(["auto", "ddp", "fsdp"]),
    default="auto",
    show_default=True,
    help="How several devices share the work (networks).",
)
@click.option(
    "--devices",
    type=click.IntRange(1),
    help="GPUs, or processes on the CPU, with --strategy ddp; the batch size is that of all.",
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option(
    "--init",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    metavar="FOLDER",
    help="Model folder whose encoder is the start, as `episome pretrain` writes; for models that "
    "can start from one.",
)
@click.option(
    "--resume",
    type=click.Choice(["auto", "never"]),
    default="auto",
    show_default=True,
    help="Go on from what the same command left when it was interrupted, or start anew "
    "(networks).",
)
@machine_options
@click.option(
    "--backed",
    is_flag=True,
    help="Leave the cells in the file (h5ad, h5mu, zarr) and read them while training; done by "
    "itself where they would not fit into memory.",
)
@click.option("--dry-run", is_flag=True, help="Check everything, set up the model, and stop.")
@click.option("--overwrite", is_flag=True, help="Replace an existing folder.")
@file_options
@command_options
@click.pass_context
def command(ctx: click.Context, /, **options: Any) -> None:
    """Train METHOD on INPUT, an h5ad file, a folder of them or a corpus, and save a model folder.

    INPUT of methods that predict another modality is an h5mu file.

    METHOD is a name that `episome plugins` lists, or auto: the installed annotators are compared
    on held-out cells, and the best is trained.
    """
    run_command(ctx, "train", lambda: train_command(ctx, options), long=True)


def train_command(ctx: click.Context, options: dict[str, Any], *, verb: str = "train") -> Outcome:
    """Train as the options say, and return the answer of the command of that name."""
    from episome import plugins
    from episome.data import check_inputs
    from episome.io import check_model_output

    auto = options["method"] == "auto"
    if options["models"] is not None and not (auto and _listed(options["models"])):
        raise UsageError(
            "E-U76",
            "--models names no model" if auto else f"--models is given to {options['method']}",
            why="it says which models METHOD auto compares",
            fix="leave it out, or: train auto ... --models NAME,NAME",
        )
    spec = None if auto else plugins.get_spec(options["method"])
    wanted = verb == "train" and _wants_labels(spec)
    if (wanted or options["labels_file"]) and not options["labels_key"]:
        raise click.MissingParameter(ctx=ctx, param_hint="'--labels-key'", param_type="option")
    raw_choice(options)
    check_inputs(options["input"])
    dry = options.pop("dry_run")
    run = None if dry else _run(verb, options)
    if run is not None and (before := made_before(run, overwrite=options["overwrite"])):
        return before
    check_model_output(options["output"], overwrite=options["overwrite"])
    model, train_settings = given_settings(options)

    from episome.cli._ui import progress
    from episome.jobs import TrainRequest, describe_input, device_arguments, train
    from episome.resources import set_threads

    train_arguments = device_arguments(options["device"])
    names = ("max_epochs", "batch_size", "refit", "augment", "sampling")
    said = {n: options[n] for n in names if options[n] is not None}
    if auto and (said or train_settings):
        name = f"--{next(iter(said)).replace('_', '-')}" if said else "--set"
        raise UsageError(
            "E-U76",
            f"{name} is a setting of one model",
            where="auto",
            why="every candidate is taken as it comes",
            fix="leave it out, or name the model",
        )
    train_arguments |= said
    splitter = {"sampling": train_arguments.pop("sampling", None)}
    splitter["split"] = None if options["split"] is None else str(options["split"])
    if any(splitter.values()):
        train_arguments["datasplitter_kwargs"] = {k: v for k, v in splitter.items() if v}
    if options["strategy"] != "auto":
        train_arguments["strategy"] = options["strategy"]
    if options["devices"] is not None:
        train_arguments["devices"] = options["devices"]
    train_arguments = with_settings(train_arguments, train_settings)
    request = TrainRequest(
        method=options["method"],
        input=options["input"],
        output=options["output"],
        setup=setup_arguments(options),
        labels_file=options["labels_file"],
        model=model,
        train=train_arguments,
        n_models=options["n_models"],
        overwrite=options["overwrite"],
        seed=options["seed"],
        max_memory=options["max_memory"],
        trust=options["trust"],
        backed=options["backed"],
        resume=options["resume"],
        models=_listed(options["models"] or ""),
        time_budget=options["time_budget"],
    )
    set_threads(options["threads"])
    state = state_of(ctx)
    state.inputs.append(
        describe_input(request.input) if state.json else {"path": str(request.input)}
    )
    if dry:
        return _planned(request)
    with (
        progress(None, "training", unit="epochs", enabled=_visible(ctx)) as bar,
        _resumable(state, request),
    ):
        result = train(
            request,
            progress=lambda done, total, m: bar.update(done, _shown(m, total), total=total),
        )
    metrics = {k: v for k, v in result.fit.items() if str(k).startswith("validation")}
    outcome = Outcome(
        text=_text(result),
        outputs=[{"path": str(result.output)}],
        metrics=metrics,
        data={
            "model": result.model,
            "n_cells": result.n_cells,
            "n_genes": result.n_genes,
            "n_classes": result.n_classes,
            "input_kind": result.input_kind,
            "notes": list(result.notes),
            "fit": dict(result.fit),
        },
    )
    return remembered(run, outcome)


def _planned(request: TrainRequest) -> Outcome:
    from episome.jobs import train_plan

    plan = train_plan(request)
    classes = f", {len(plan.labels)} classes" if plan.labels else ""
    size = f"; {plan.n_parameters:,} parameters" if plan.n_parameters else ""
    lines = [
        "nothing is trained or written (--dry-run)",
        f"  {plan.model} would be trained on {plan.n_cells:,} cells, {plan.n_genes:,} genes "
        f"({plan.input_kind}){classes}{size}",
        *(f"  {note}" for note in plan.notes),
    ]
    return Outcome(text="\n".join(lines), data={"dry_run": True, **asdict(plan)})


@contextlib.contextmanager
def _resumable(state: State, request: TrainRequest) -> Iterator[None]:
    """Remember of a command that is interrupted whether it would go on."""
    from episome.jobs import run_folder
    from episome.train import holds_work

    try:
        yield
    except BaseException:
        state.resumable = holds_work(run_folder(request.output))
        raise


def _wants_labels(spec: ModelSpec | None) -> bool:
    """Whether labelled cells are needed: an annotator that is not tagged ``unlabelled``."""
    if spec is None:
        return True
    return "annotation" in spec.capabilities and "unlabelled" not in spec.tags


def _listed(names: str) -> tuple[str, ...]:
    return tuple(filter(None, names.replace(" ", "").split(",")))


def _run(verb: str, options: dict[str, Any]) -> Run:
    from episome.jobs import Run

    read = ("input", "labels_file", "own_terms", "markers", "split", "init")
    no_difference = {"output", "resume", *NO_DIFFERENCE}
    other = {k: v for k, v in options.items() if k not in {*read, *no_difference}}
    return Run(verb, options["output"], other, [options[k] for k in read])


def setup_arguments(options: dict[str, Any]) -> dict[str, object]:
    """Return the arguments of a set-up that were given on the command line."""
    # What was not asked for is left to the set-up of the model, which may not know it.
    setup: dict[str, object] = {}
    if options["input_kind"] != "auto":
        setup["input_kind"] = options["input_kind"]
    if options.get("duplicates", "error") != "error":
        setup["duplicates"] = options["duplicates"]
    if options["allow_fractional"]:
        setup["allow_fractional"] = True
    names = ("labels_key", "layer", "rna_modality", "target_modality", "target_layer")
    more = ("ontology_term_key", "batch_key", "obsm_key")
    setup |= {name: options[name] for name in (*names, *more) if options.get(name)}
    if options.get("unlabeled", "error") != "error":
        setup["unlabeled"] = options["unlabeled"]
    if raw := raw_choice(options):
        setup["use_raw"] = raw
    if options["nan"] != "error":
        setup["nan"] = options["nan"]
    if options["donor_key"]:
        keys = list(options["donor_key"])
        setup["donor_key"] = keys if len(keys) > 1 else keys[0]
    if options.get("own_terms"):
        setup["own_terms"] = _json_file(options["own_terms"])
    return setup


def _json_file(path: Path) -> dict[str, Any]:
    from episome.errors import InputFileError

    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputFileError(
            "E-F22", "the file is no JSON", where=str(path), why=str(error)[:200]
        ) from error
    if not isinstance(found, dict):
        raise InputFileError("E-F22", "the JSON is no object", where=str(path))
    return found


def given_settings(options: dict[str, Any]) -> tuple[dict[str, object], dict[str, object]]:
    """Return the arguments of a model and of its training.

    Those of ``--set``, and of the model what has an option of its own.
    """
    found: dict[str, dict[str, object]] = {"model": {}, "train": {}, "plan": {}}
    for pair in options["settings_"]:
        name, equals, value = pair.partition("=")
        kind, dot, key = name.partition(".")
        kind, key = (kind, key) if dot else ("model", name)
        if not equals or kind not in found or not key.isidentifier():
            raise UsageError(
                "E-U26",
                f"--set {pair!r} is no KEY=VALUE",
                fix="for example --set n_steps=3, --set train.train_size=0.8, --set plan.lr=0.01",
            )
        if kind == "train" and key in _NO_TEXT:
            raise UsageError(
                "E-U26",
                f"--set {name} cannot be given so",
                fix=_NO_TEXT[key],
            )
        # Of --set twice the last counts, as of any option.
        if kind == "model" and key in _OF_MODEL and options.get(key):
            raise UsageError("E-U26", f"{name} is given twice", fix="give it once")
        found[kind][key] = json_value(value)
    model, train = found["model"], found["train"]
    model |= {name: str(options[name]) for name in _OF_MODEL if options.get(name)}
    if found["plan"]:
        train["plan_kwargs"] = found["plan"]
    return model, train


def with_settings(named: dict[str, object], settings: dict[str, object]) -> dict[str, object]:
    """Return the arguments of a training: those with options of their own, and --set."""
    if twice := sorted({*named} & {*settings}):
        raise UsageError(
            "E-U26",
            f"--set train.{twice[0]} is given beside {with_option(twice[0])}",
            fix="give one of them",
        )
    return {**named, **settings}


def json_value(text: str) -> object:
    """Return what JSON a text is, else the text."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def _visible(ctx: click.Context) -> bool:
    state = state_of(ctx)
    return state.progress and state.verbosity >= 0


def _shown(metrics: dict[str, float], total: int) -> str:
    parts = [f"of at most {total}"]
    names = {"train_loss": "loss", "validation_f1_macro": "validation macro F1"}
    if "validation_f1_macro" not in metrics:
        names["validation_loss"] = "validation loss"
    parts += [f"{label} {metrics[k]:.3f}" for k, label in names.items() if k in metrics]
    return ", ".join(parts)


def _text(result: Any) -> str:
    from episome import plugins

    n_models = int(result.fit.get("n_models", 1))
    what = result.model if n_models == 1 else f"{n_models} models of {result.model}"
    classes = f", {result.n_classes} classes" if result.n_classes else ""
    lines = [
        str(result.output),
        f"  {what} trained on {result.n_cells:,} cells, {_inputs(result)}{classes}",
        *_held_out(result.fit),
        *(f"  {note}" for note in result.notes),
        *_compared(result.fit),
    ]
    if result.n_classes:
        lines.append(f"  next: episome annotate query.h5ad -m {result.output} -o calls.csv")
    elif "translation" in plugins.get_spec(result.model).capabilities:
        lines.append(
            f"  next: episome predict-modality query.h5ad -m {result.output} -o predicted.h5ad"
        )
    elif "embedding" in plugins.get_spec(result.model).capabilities:
        lines.append(f"  next: episome embed query.h5ad -m {result.output} -o embedding.csv")
    else:
        lines.append(f'  next, in Python: model = episome.models.load("{result.output}")')
    return "\n".join(lines)


def _inputs(result: Any) -> str:
    if result.input_kind == "embedding":
        return f"{result.n_genes:,} dimensions of an embedding"
    return f"{result.n_genes:,} genes ({result.input_kind})"


def _compared(fit: Any) -> list[str]:
    """Return the table of the models that were compared."""
    if "auto" not in fit:
        return []
    found = fit["auto"]
    lines = [f"  chosen: {found['reason']} ({found['held_out']})"]
    width = max(len(row["model"]) for row in found["table"])
    head = f"{'model':<{width}}  macro F1 (95 % interval)  accuracy    ECE  seconds"
    lines.append(f"  {head}")
    for row in found["table"]:
        if row["macro_f1"] is not None:
            shown = (
                f"{row['macro_f1']:8.3f} ({row['low']:.3f} to {row['high']:.3f})  "
                f"{row['accuracy']:8.3f}  {row['ece']:5.3f}  {row['seconds']:7.1f}"
            )
        else:
            shown = " " * 52
        lines.append(f"  {row['model']:<{width}}  {shown}  {row['reason']}")
    return lines


def _held_out(fit: Any) -> list[str]:
    """Return what held-out cells say of the fit."""
    name = "validation_f1_macro" if "validation_f1_macro" in fit else "validation_loss"
    if name not in fit or "n_validation" not in fit:
        return []
    label = "macro F1" if name == "validation_f1_macro" else "loss"
    how = "as --split says" if fit["split_by"] == "given" else f"by {fit['split_by']}"
    lines = [
        f"  validation {label} {fit[name]:.3f} on {fit['n_validation']:,} cells, held out {how}"
    ]
    if fit.get("refit"):
        lines.append(
            "  the saved model was then trained once more, on these cells too (see --refit)"
        )
    return lines
