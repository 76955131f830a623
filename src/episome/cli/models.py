"""``episome models``: model folders on this machine and on the hub."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from episome.cli._command import Outcome, command_options, examples, run_command, state_of

if TYPE_CHECKING:
    from episome.jobs import ModelFacts

__all__ = ["command"]

#: Classes that are shown of a model.
SHOWN = 20


@click.group(
    "models",
    invoke_without_command=True,
    epilog=examples("episome models", "episome models pull my-lab/lung-annotator"),
)
@command_options
@click.pass_context
def command(ctx: click.Context) -> None:
    """List, check, describe and share the folders of models.

    Models that were pulled from the Hugging Face hub are in the cache, and every command takes
    them by their name (-m owner/name). Only pull and push open a connection.
    """
    if ctx.invoked_subcommand is None:
        run_command(ctx, "models", lambda: _listed(()))


# -- list ----------------------------------------------------------------------------------------


@command.command("list", epilog=examples("episome models list", "episome models list . --json"))
@click.argument("folders", nargs=-1, type=click.Path(path_type=Path))
@command_options
@click.pass_context
def list_command(ctx: click.Context, folders: tuple[Path, ...]) -> None:
    """List the models in the cache, and those in FOLDERS."""
    run_command(ctx, "models list", lambda: _listed(folders))


def _listed(folders: tuple[Path, ...]) -> Outcome:
    from episome.jobs import models_list

    found = models_list(folders)
    text = "\n".join(line for facts in found for line in _line(facts))
    nothing = "no model is in the cache; `episome models pull owner/name` brings one"
    return Outcome(
        text=text or nothing,
        data={"models": [asdict(f) for f in found]},
    )


def _line(facts: ModelFacts) -> list[str]:
    if facts.error:
        return [f"{facts.name}  cannot be used: {facts.error}"]
    several = f", {facts.n_members} members" if facts.n_members > 1 else ""
    lines = [
        f"{facts.name}  {facts.model} ({facts.plugin or 'no plugin'}:{facts.spec or '-'}{several})"
        f"  {facts.created[:10]}  {_size(facts.n_bytes)}"
    ]
    return lines if facts.hub is None else [*lines, f"    commit {facts.hub['commit']}"]


def _size(n_bytes: float) -> str:
    return f"{n_bytes / 1e6:,.1f} MB"


# -- show ----------------------------------------------------------------------------------------


@command.command(
    "show", epilog=examples("episome models show my-model", "episome models show my-model --json")
)
@click.argument("model")
@click.option("--card", is_flag=True, help="Print the text of its card.")
@command_options
@click.pass_context
def show_command(ctx: click.Context, model: str, card: bool) -> None:  # noqa: FBT001
    """Show what MODEL, a folder or a name in the cache, is; its files are verified."""
    run_command(ctx, "models show", lambda: _shown(model, card=card))


def _shown(model: str, *, card: bool) -> Outcome:
    from episome.jobs import missing_of_card, model_details

    found = model_details(model)
    facts, manifest = found.facts, found.manifest
    missing = missing_of_card(model)
    if card:
        return Outcome(text=found.card, data={"card": found.card})
    sure = manifest.get("confidence", {})
    lines = [*_line(facts), f"  {found.n_genes:,} features, such as {', '.join(found.genes[:3])}"]
    if found.labels:
        names = ", ".join(found.labels[:SHOWN])
        more = f", and {len(found.labels) - SHOWN} more" if len(found.labels) > SHOWN else ""
        lines.append(f"  {len(found.labels)} classes: {names}{more}")
    if sure.get("calibrated"):
        lines.append(
            f"  calibrated on {sure['n_cells']:,} cells, error {sure['after']['ece']:.3f}; "
            f"accuracy on them {sure['after']['accuracy']:.3f}"
        )
    lines.append(f"  card: {'complete' if not missing else 'lacks ' + ', '.join(missing)}")
    return Outcome(
        text="\n".join(lines),
        data={
            "model": asdict(facts),
            "classes": list(found.labels),
            "ontology_term_ids": list(found.term_ids),
            "n_genes": found.n_genes,
            "input": manifest["input"],
            "fit": manifest.get("fit", {}),
            "provenance": manifest["provenance"],
            "card_lacks": missing,
        },
    )


# -- verify --------------------------------------------------------------------------------------


@command.command(
    "verify",
    epilog=examples("episome models verify my-model", "episome models verify owner/name --json"),
)
@click.argument("model")
@command_options
@click.pass_context
def verify_command(ctx: click.Context, model: str) -> None:
    """Compare every byte of MODEL, a folder or a name in the cache, with its checksums."""
    run_command(ctx, "models verify", lambda: _verified(model))


def _verified(model: str) -> Outcome:
    from episome.jobs import models_verify

    files = models_verify(model)
    return Outcome(
        text=f"{model}\n  {len(files)} files are as they were sealed", data={"files": files}
    )


# -- card ----------------------------------------------------------------------------------------


def _metric(_: click.Context, __: click.Parameter, values: tuple[str, ...]) -> dict[str, float]:
    found = {}
    for text in values:
        name, _sign, number = text.partition("=")
        try:
            found[name.strip()] = float(number)
        except ValueError:
            name = ""
        if not name.strip():
            msg = f"{text!r} is not NAME=NUMBER"
            raise click.BadParameter(msg)
    return found


@command.command(
    "card",
    epilog=examples(
        "episome models card my-model",
        "episome models card my-model --license bsd-3-clause --training-data 'Lung atlas, CC BY' "
        "--intended-use 'Types of lung cells' --limits 'Adults alone' --evaluation scores.json",
    ),
)
@click.argument("model")
@click.option("--license", metavar="ID", help="Licence of the weights, such as bsd-3-clause.")
@click.option("--training-data", metavar="TEXT", help="What it was trained on, and whose it is.")
@click.option("--intended-use", metavar="TEXT", help="What it is for.")
@click.option("--limits", metavar="TEXT", help="What it is not for, and where it is wrong.")
@click.option("--data-license", metavar="ID", help="Licence of the training data.")
@click.option("--tissue", "tissues", multiple=True, help="Of the training cells; may be repeated.")
@click.option("--assay", "assays", multiple=True, help="Of the training cells; may be repeated.")
@click.option("--citation", metavar="TEXT", help="How to cite the model.")
@click.option(
    "--evaluation",
    type=click.Path(path_type=Path),
    metavar="JSON",
    help="What `episome evaluate -o scores.json` said of this model.",
)
@click.option(
    "--metric",
    "metrics",
    multiple=True,
    callback=_metric,
    metavar="NAME=NUMBER",
    help="A score, for models that evaluate does not score; may be repeated.",
)
@click.option(
    "--tested-on",
    type=click.Path(path_type=Path, exists=True),
    metavar="FILE",
    help="File that the scores are of: its digest goes into the card.",
)
@click.option("--check", is_flag=True, help="Write nothing; exit with 4 where it is not complete.")
@click.option("--overwrite", is_flag=True, help="Replace a card whose text was changed by hand.")
@command_options
@click.pass_context
def card_command(ctx: click.Context, /, **options: Any) -> None:
    """Write the card of MODEL, README.md of its folder, from what the folder knows.

    What was said before stays unless it is said anew. The card lists what it lacks before the
    model can be pushed.
    """
    run_command(ctx, "models card", lambda: _card(options))


def _card(options: dict[str, Any]) -> Outcome:
    from episome.jobs import (
        file_digest,
        require_complete_card,
        write_model_card,
    )
    from episome.models import CardStatements

    model, tested = options.pop("model"), options.pop("tested_on")
    how = {k: options.pop(k) for k in ("evaluation", "overwrite")}
    if options.pop("check"):
        require_complete_card(model)
        return Outcome(text=f"the card of {model} is complete", data={"card_lacks": []})
    if tested is not None:
        options["data_digest"] = file_digest(tested)
    said = CardStatements(**{k: v for k, v in options.items() if v})
    card, missing = write_model_card(model, said, **how)
    verdict = f"it lacks {', '.join(missing)}" if missing else "it is complete"
    return Outcome(
        text=f"{card}\n  {verdict}",
        outputs=[{"path": str(card)}],
        data={"card_lacks": missing},
    )


# -- convert -------------------------------------------------------------------------------------


@command.command(
    "convert",
    epilog=examples(
        "episome models convert weights.ckpt --from sctab --genes var.parquet -o my-model",
        "episome models convert scvi-folder --from linear-scvi --data cells.h5ad --trust -o mine",
        "episome models convert mine --to linear-scvi-export --data cells.h5ad -o scvi-folder",
    ),
)
@click.argument("source", type=click.Path(path_type=Path))
@click.option("--from", "from_", metavar="FORMAT", help="Format of SOURCE, of another program.")
@click.option("--to", metavar="FORMAT", help="Format to write, of another program.")
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(path_type=Path),
    help="What is written: with --from a model folder.",
)
@click.option(
    "--genes",
    type=click.Path(path_type=Path, exists=True),
    help="Genes of the inputs in their order, where SOURCE does not hold them.",
)
@click.option(
    "--labels",
    type=click.Path(path_type=Path, exists=True),
    help="Classes of the outputs in their order, likewise.",
)
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    help="File of the model's cells, for formats that need them.",
)
@click.option(
    "--set",
    "settings_",
    multiple=True,
    metavar="KEY=VALUE",
    help="Another argument of the converter; may be repeated.",
)
@click.option(
    "--trust",
    is_flag=True,
    help="Read files whose loading may run code. Only for files that you made.",
)
@click.option("--overwrite", is_flag=True, help="Replace an existing output.")
@command_options
@click.pass_context
def convert_command(ctx: click.Context, /, **options: Any) -> None:
    """Turn SOURCE, a model of another program, into a model folder, or the other way.

    Plugins know the formats; `episome models convert SOURCE -o OUT` without one lists them.
    """
    run_command(ctx, "models convert", lambda: _converted(options))


def _converted(options: dict[str, Any]) -> Outcome:
    from episome import plugins
    from episome.cli.train import given_settings
    from episome.errors import UsageError
    from episome.jobs import ConvertModelRequest, converter_of, models_convert

    given = [options["from_"], options["to"]]
    if sum(map(bool, given)) != 1:
        known = [f"--{_word(s.direction)} {n}" for n, s in sorted(plugins.converters().items())]
        raise UsageError(
            "E-U140",
            "both --from and --to are given" if all(given) else "no format is given",
            why=f"known are {', '.join(known) or 'none'}",
            fix="pass one of them",
        )
    direction = "import" if options["from_"] else "export"
    converter_of(options["from_"] or options["to"], direction)
    arguments: dict[str, object] = {
        k: str(options[k]) for k in ("genes", "labels") if options[k] is not None
    }
    more, of_training = given_settings({"settings_": options["settings_"]})
    if of_training:
        raise UsageError(
            "E-U26",
            "--set of a training",
            why="nothing is trained",
            fix="leave train. and plan. out",
        )
    arguments |= more
    if options["trust"]:
        arguments["trust"] = True
    request = ConvertModelRequest(
        options["source"],
        options["output"],
        options["from_"] or options["to"],
        direction,
        arguments,
        options["data"],
        options["overwrite"],
    )
    found = models_convert(request)
    classes = f", {found.n_classes:,} classes" if found.n_classes else ""
    return Outcome(
        text=f"{found.output}\n  {found.model}: {found.n_genes:,} genes{classes}",
        inputs=[{"path": str(request.source)}],
        outputs=[{"path": str(found.output)}],
        data={"model": found.model, "n_genes": found.n_genes, "n_classes": found.n_classes},
    )


def _word(direction: str) -> str:
    return "from" if direction == "import" else "to"


# -- pull and push -------------------------------------------------------------------------------


@command.command(
    "pull",
    epilog=examples(
        "episome models pull my-lab/lung-annotator",
        "episome models pull my-lab/lung-annotator --revision v2 -o lung",
    ),
)
@click.argument("name")
@click.option("--revision", default="main", show_default=True, help="Branch, tag or commit.")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="Folder to write; default the cache."
)
@click.option(
    "--overwrite", is_flag=True, help="Replace another commit, or a folder that is there."
)
@command_options
@click.pass_context
def pull_command(ctx: click.Context, /, **options: Any) -> None:
    """Fetch the model NAME (owner/name) from the Hugging Face hub, and verify it.

    Only files that its manifest names are fetched, of one commit; nothing of them is run. HF_TOKEN
    and HF_ENDPOINT are read as by every program of the hub.
    """
    run_command(ctx, "models pull", lambda: _pulled(options))


def _pulled(options: dict[str, Any]) -> Outcome:
    from episome.jobs import models_pull

    found = models_pull(**options)
    again = "\n  it was there already" if found.known else ""
    return Outcome(
        text=f"{found.path}\n  {found.name}, commit {found.commit or 'not known'}, "
        f"{_size(found.n_bytes)}{again}\n  next: episome annotate query.h5ad -m "
        f"{options['output'] or found.name} -o calls.csv",
        outputs=[{"path": str(found.path)}],
        data={"name": found.name, "commit": found.commit, "known": found.known},
    )


@command.command(
    "push",
    epilog=examples(
        "episome models push my-model my-lab/lung-annotator",
        "episome models push my-model my-lab/lung-annotator --dry-run",
    ),
)
@click.argument("model")
@click.argument("name")
@click.option("--private", is_flag=True, help="A new one is seen by you alone.")
@click.option("--dry-run", is_flag=True, help="Check everything, and open no connection.")
@command_options
@click.pass_context
def push_command(ctx: click.Context, /, **options: Any) -> None:
    """Put MODEL on the Hugging Face hub as NAME (owner/name).

    Its files are verified, and its card has to be complete: licence, training data, intended use,
    limits, and scores with the digest of their data.
    """
    run_command(ctx, "models push", lambda: _pushed(ctx, options))


def _pushed(ctx: click.Context, options: dict[str, Any]) -> Outcome:
    from episome.jobs import models_push

    state_of(ctx).inputs.append({"path": options["model"]})
    found = models_push(**options)
    said = "would be" if options["dry_run"] else "are"
    return Outcome(
        text=f"{found.url}\n  {len(found.files)} files {said} there",
        outputs=[] if options["dry_run"] else [{"path": found.url}],
        data={"name": found.name, "commit": found.commit, "files": list(found.files),
              "dry_run": options["dry_run"]},
    )  # fmt: skip


# -- rm ------------------------------------------------------------------------------------------


@command.command(
    "rm", epilog=examples("episome models rm owner/name", "episome models rm owner/name --json")
)
@click.argument("name")
@command_options
@click.pass_context
def rm_command(ctx: click.Context, name: str) -> None:
    """Remove the model NAME (owner/name) from the cache. Folders of your own are never removed."""
    run_command(ctx, "models rm", lambda: _removed(name))


def _removed(name: str) -> Outcome:
    from episome.jobs import models_remove

    size = models_remove(name)
    return Outcome(text=f"{name}\n  {_size(size)} are free again", data={"n_bytes": size})
