"""``episome help``: exit codes, a code, the schemas of answers, or the help of a command."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

import click

from episome.cli._command import Outcome, command_options, examples, run_command
from episome.errors import EXIT_CODES

__all__ = ["command"]

TOPIC, ANSWERS = "exit-codes", "answers"


@click.command(
    "help",
    epilog=examples(
        "episome help exit-codes", "episome help E-G03", "episome help models convert"
    ),
)
@click.argument("topic", nargs=-1)
@command_options
@click.pass_context
def command(ctx: click.Context, topic: tuple[str, ...]) -> None:
    """Explain exit codes (TOPIC exit-codes), the code of a message, or a command by its name.

    TOPIC answers gives the JSON schemas of what commands answer with --json.
    """
    run_command(ctx, "help", lambda: _about(ctx, topic))


def _about(ctx: click.Context, topic: Sequence[str]) -> Outcome:
    known = {TOPIC: _codes, ANSWERS: _answers}
    if len(topic) == 1 and topic[0] in known:
        return known[topic[0]]()
    if len(topic) == 1 and re.match(r"\[?E-", topic[0], re.I):
        from episome.cli.doctor import explanation

        return explanation(topic[0])
    return _help(ctx.find_root(), topic)


def _codes() -> Outcome:
    lines = [f"{code:>3}  {text}" for code, text in sorted(EXIT_CODES.items())]
    data = {"exit_codes": {str(code): text for code, text in EXIT_CODES.items()}}
    return Outcome(text="\n".join(lines), data=data)


def _answers() -> Outcome:
    from episome.cli._answers import answer_schema, answered_commands

    schemas = {name: answer_schema(name) for name in answered_commands()}
    return Outcome(text=json.dumps(schemas, indent=1), data={"schemas": schemas})


def _help(ctx: click.Context, topic: Sequence[str]) -> Outcome:
    for word in topic:
        if not isinstance(ctx.command, click.Group):
            break  # what follows a command is not looked at, as with --help
        # raises for a name it does not know, and says which are near
        _, found, _ = ctx.command.resolve_command(ctx, [word])
        if found is None:
            break
        ctx = click.Context(found, info_name=word, parent=ctx)
    text = ctx.get_help()
    return Outcome(text=text, data={"help": text})
