"""The command group: commands are imported when they run, and listed without importing them."""

from __future__ import annotations

import difflib
import importlib
import shutil
from collections.abc import Sequence
from typing import Any

import click

from episome.cli._command import global_options
from episome.cli._errors import guarded, pipe_noticed

__all__ = ["COMMANDS", "App", "app"]

#: Columns below which click no longer wraps its help by itself.
CLICK_MINIMUM = 52

#: Name of a command -> where it is, and its line in ``episome --help``.
COMMANDS: dict[str, tuple[str, str]] = {
    "annotate": ("episome.cli.annotate:command", "Annotate cells with a model folder."),
    "audit": ("episome.cli.audit:command", "Find cells whose label is likely wrong."),
    "benchmark": (
        "episome.cli.benchmark:command",
        "Compare models on the same held-out cells.",
    ),
    "check": ("episome.cli.check:command", "Say what a file of cells holds, and what to mend."),
    "completion": (
        "episome.cli.completion:command",
        "Print the script that completes commands in a shell.",
    ),
    "corpus": ("episome.cli.corpus:command", "Make one shuffled store on disk of many cells."),
    "data": (
        "episome.cli.data:command",
        "Say which cells a file holds, or write them in another form.",
    ),
    "demo": ("episome.cli.demo:command", "Train and annotate real data that needs no download."),
    "doctor": ("episome.cli.doctor:command", "Show versions, plugins, resources and folders."),
    "embed": ("episome.cli.embed:command", "Write the vector that a model gives every cell."),
    "evaluate": (
        "episome.cli.evaluate:command",
        "Score the calls of a model on labelled cells.",
    ),
    "explain": ("episome.cli.explain:command", "Write the genes behind the calls of a model."),
    "help": ("episome.cli.help:command", "Explain exit codes, or a command."),
    "impute": (
        "episome.cli.impute:command",
        "Write the expression that a model expects of every cell.",
    ),
    "models": (
        "episome.cli.models:command",
        "List, check, describe and share the folders of models.",
    ),
    "plugins": ("episome.cli.plugins:command", "List plugins, and what failed to load and why."),
    "predict-modality": (
        "episome.cli.predict_modality:command",
        "Write another modality of every cell, predicted from its RNA.",
    ),
    "pretrain": ("episome.cli.pretrain:command", "Train an encoder on cells without labels."),
    "report": ("episome.cli.report:command", "Write one page on what another command wrote."),
    "rerun": ("episome.cli.rerun:command", "Repeat a run from its record, and compare."),
    "serve": ("episome.cli.serve:command", "Serve a local page for files of cells."),
    "train": ("episome.cli.train:command", "Train a model on labelled cells."),
    "tune": ("episome.cli.tune:command", "Search for the settings of a model on held-out cells."),
}


class App(click.Group):
    """A group that knows its commands by name and asks the plugins for more only when needed."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = "episome",
        complete_var: str | None = None,
        standalone_mode: bool = True,  # noqa: FBT001, FBT002 - click's signature
        windows_expand_args: bool = True,  # noqa: FBT001, FBT002 - click's signature
        **extra: Any,
    ) -> Any:
        """Run; every error ends in one message, one JSON object where asked for, and a code."""
        run = super().main
        if not standalone_mode:
            return run(args, prog_name, complete_var, standalone_mode=False, **extra)

        def call(arguments: list[str]) -> object:
            return run(
                arguments,
                prog_name,
                complete_var,
                standalone_mode=False,
                windows_expand_args=windows_expand_args,
                **extra,
            )

        raise SystemExit(guarded(call, args))

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        """Read the arguments; help and version are printed here."""
        columns = shutil.get_terminal_size().columns
        if columns < CLICK_MINIMUM:
            kwargs.setdefault("terminal_width", max(columns - 2, 20))
        with pipe_noticed():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        with pipe_noticed():
            return super().invoke(ctx)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands, those of plugins included."""
        self._ask_plugins()
        return sorted({*COMMANDS, *self.commands})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command of the host; ask the plugins for any other."""
        if cmd_name in COMMANDS:
            return _load(COMMANDS[cmd_name][0])
        if cmd_name.startswith("-"):
            return None
        self._ask_plugins()
        return self.commands.get(cmd_name)

    def add_command(self, cmd: click.Command, name: str | None = None) -> None:
        """Add a command of a plugin; the host's own commands stay."""
        wanted = name or cmd.name or ""
        if wanted in COMMANDS or wanted in self.commands:
            from episome.log import get_logger

            text = "a plugin's command %r is ignored: the name is taken [E-P04]"
            get_logger("cli").warning(text, wanted)
            return
        super().add_command(cmd, name)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command, or say which ones have a similar name."""
        name = args[0] if args else ""
        if name and not name.startswith("-") and self.get_command(ctx, name) is None:
            near = difflib.get_close_matches(name, self.list_commands(ctx), n=3, cutoff=0.65)
            hint = f" Did you mean {' or '.join(near)}?" if near else ""
            ctx.fail(f"There is no command {name!r}.{hint}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands from the table, importing none of them."""
        self._ask_plugins()
        rows = {name: text for name, (_, text) in COMMANDS.items()}
        rows |= {n: c.get_short_help_str(70) for n, c in self.commands.items() if not c.hidden}
        with formatter.section("Commands"):
            formatter.write_dl(sorted(rows.items()))

    def _ask_plugins(self) -> None:
        from episome.plugins import add_commands, get_manager

        manager = get_manager()
        if getattr(self, "_asked", None) is not manager:
            self._asked = manager
            self.commands.clear()
            add_commands(self)


def _load(target: str) -> click.Command:
    module, _, name = target.partition(":")
    found: click.Command = getattr(importlib.import_module(module), name)
    return found


def _print_version(ctx: click.Context, _: click.Parameter, value: bool) -> None:  # noqa: FBT001
    if not value or ctx.resilient_parsing:
        return
    import episome

    click.echo(f"episome {episome.__version__}")
    if ctx.params.get("verbose"):
        from episome.plugins import plugin_status

        for status in plugin_status():
            click.echo(f"{status.distribution} {status.version} ({status.status})")
    ctx.exit()


@click.command(
    "episome",
    cls=App,
    context_settings={
        "help_option_names": ["-h", "--help"],
        "auto_envvar_prefix": "EPISOME",
    },
    epilog="Exit codes: `episome help exit-codes`.",
)
@click.option("-v", "--verbose", count=True, is_eager=True, help="Say more.")
@click.option(
    "--version",
    is_flag=True,
    expose_value=False,
    callback=_print_version,
    help="Show the version.",
)
@global_options
@click.pass_context
def app(ctx: click.Context, verbose: int) -> None:
    """Train models for single cells, annotate cells with them, and see how far to trust them."""
    from episome.cli._command import state_of

    state_of(ctx).verbosity += verbose
