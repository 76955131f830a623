"""``episome help``: exit codes, the schemas of answers, or the help of a command."""

from __future__ import annotations

import json

import click

from episome.cli._command import Outcome, command_options, examples, run_command
from episome.errors import EXIT_CODES

__all__ = ["command"]

TOPIC, ANSWERS = "exit-codes", "answers"


@click.command("help", epilog=examples("episome help exit-codes", "episome help doctor"))
@click.argument("topic", required=False)
@command_options
@click.pass_context
def command(ctx: click.Context, topic: str | None) -> None:
    """Explain exit codes (TOPIC exit-codes), or a command (TOPIC is its name).

    TOPIC answers gives the JSON schemas of what commands answer with --json.
    """
    known = {TOPIC: _codes, ANSWERS: _answers}
    run_command(ctx, "help", known.get(topic or "", lambda: _help(ctx, topic)))


def _codes() -> Outcome:
    lines = [f"{code:>3}  {text}" for code, text in sorted(EXIT_CODES.items())]
    data = {"exit_codes": {str(code): text for code, text in EXIT_CODES.items()}}
    return Outcome(text="\n".join(lines), data=data)


def _answers() -> Outcome:
    from episome.cli._answers import answer_schema, answered_commands

    schemas = {name: answer_schema(name) for name in answered_commands()}
    return Outcome(text=json.dumps(schemas, indent=1), data={"schemas": schemas})


def _help(ctx: click.Context, topic: str | None) -> Outcome:
    root = ctx.find_root()
    group = root.command
    if topic is None or not isinstance(group, click.Group):
        return _shown(root)
    name, found, _ = group.resolve_command(root, [topic])
    if found is None:  # resolve_command raises for a name it does not know
        return _shown(root)
    return _shown(click.Context(found, info_name=name, parent=root))


def _shown(ctx: click.Context) -> Outcome:
    text = ctx.get_help()
    return Outcome(text=text, data={"help": text})
