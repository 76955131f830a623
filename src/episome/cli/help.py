"""``episome help``: exit codes, or the help of a command."""

from __future__ import annotations

import json

import click

from episome.cli._command import Outcome, command_options, examples, run_command
from episome.errors import EXIT_CODES

__all__ = ["command"]

TOPIC, SCHEMA = "exit-codes", "json-schema"


@click.command("help", epilog=examples("episome help exit-codes", "episome help doctor"))
@click.argument("topic", required=False)
@command_options
@click.pass_context
def command(ctx: click.Context, topic: str | None) -> None:
    """Explain exit codes (TOPIC exit-codes), or a command (TOPIC is its name).

    TOPIC json-schema prints the schema of what commands answer with --json.
    """
    run_command(ctx, "help", lambda: _topic(ctx, topic))


def _topic(ctx: click.Context, topic: str | None) -> Outcome:
    if topic == TOPIC:
        return _codes()
    return _schema() if topic == SCHEMA else _help(ctx, topic)


def _schema() -> Outcome:
    from episome.cli import answer_schema

    found = answer_schema()
    return Outcome(text=json.dumps(found, indent=1), data={"help": SCHEMA, "schema": found})


def _codes() -> Outcome:
    lines = [f"{code:>3}  {text}" for code, text in sorted(EXIT_CODES.items())]
    data = {"exit_codes": {str(code): text for code, text in EXIT_CODES.items()}}
    return Outcome(text="\n".join(lines), data=data)


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
