"""``episome completion``: the script that completes commands in a shell."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from episome.cli._command import Outcome, command_options, examples, run_command

__all__ = ["command"]

SHELLS = ("bash", "zsh", "fish")
#: Variable by which a shell asks the program.
VARIABLE = "_EPISOME_COMPLETE"
_WHERE = {
    "bash": 'eval "$(episome completion bash)"  # in ~/.bashrc',
    "zsh": 'eval "$(episome completion zsh)"  # in ~/.zshrc',
    "fish": "episome completion fish | source  # in ~/.config/fish/config.fish",
}


@click.command(
    "completion",
    epilog=examples("episome completion bash > ~/.episome-complete", _WHERE["bash"]),
)
@click.argument("shell", type=click.Choice(SHELLS))
@command_options
@click.pass_context
def command(ctx: click.Context, shell: str) -> None:
    """Print the script that completes commands, options and files in SHELL."""
    run_command(ctx, "completion", lambda: _script(ctx, shell))


def _script(ctx: click.Context, shell: str) -> Outcome:
    found = get_completion_class(shell)
    assert found is not None  # click knows the three
    text = found(ctx.find_root().command, {}, "episome", VARIABLE).source()
    return Outcome(text=text, data={"shell": shell, "script": text, "use": _WHERE[shell]})
