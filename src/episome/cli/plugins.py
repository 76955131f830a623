"""``episome plugins``: what is installed, what failed to load and why; a start for a new one."""

from __future__ import annotations

import importlib
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from episome.cli._command import Outcome, command_options, examples, run_command

if TYPE_CHECKING:
    from episome.plugins import ModelSpec, PluginStatus

__all__ = ["command"]

TASKS = ("annotation", "embedding", "reconstruction", "translation")

#: What a plugin registers beside models: the function of ``episome.plugins`` that lists it.
KINDS = ("datasets", "metrics", "tasks", "studies", "pretext_tasks", "sources", "converters")

#: Commands of the group that are imported when they run.
LATER = {
    "check": ("episome.cli.plugins_check:command", "Check that a model keeps the contract."),
}


class Plugins(click.Group):
    """A group that lists its commands without importing those of other files."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands."""
        return sorted({*self.commands, *LATER})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command; import it where it is in another file."""
        if cmd_name not in LATER:
            return super().get_command(ctx, cmd_name)
        module, _, name = LATER[cmd_name][0].partition(":")
        found: click.Command = getattr(importlib.import_module(module), name)
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands."""
        rows = {name: text for name, (_, text) in LATER.items()}
        rows |= {n: c.get_short_help_str(70) for n, c in self.commands.items()}
        with formatter.section("Commands"):
            formatter.write_dl(sorted(rows.items()))


@click.group(
    "plugins",
    cls=Plugins,
    invoke_without_command=True,
    epilog=examples("episome plugins", "episome plugins new my-method --task annotation"),
)
@command_options
@click.pass_context
def command(ctx: click.Context) -> None:
    """List plugins, their models, and what failed to load and why; or start a new one."""
    if ctx.invoked_subcommand is None:
        run_command(ctx, "plugins", _listing)


# -- list ----------------------------------------------------------------------------------------


@command.command("list", epilog=examples("episome plugins list", "episome plugins list --json"))
@command_options
@click.pass_context
def list_command(ctx: click.Context) -> None:
    """List plugins, their models, and what failed to load and why."""
    run_command(ctx, "plugins", _listing)


def _listing() -> Outcome:
    from episome.plugins import get_manager, models, plugin_status

    status = plugin_status()
    damaged = list(get_manager().damaged)
    specs = models()
    return Outcome(
        text=_text(status, specs, damaged),
        data={
            "plugins": [asdict(s) for s in status],
            "models": [{"id": name, **asdict(spec)} for name, spec in specs.items()],
            "damaged": damaged,
        },
    )


def _text(status: list[PluginStatus], specs: dict[str, ModelSpec], damaged: list[str]) -> str:
    if not status and not damaged:
        return "No plugin is installed. To get some: pip install episome-sctab episome-baselines"
    lines = []
    for plugin in status:
        lines += _head(plugin)
        own = {n: s for n, s in specs.items() if _owns(plugin, s)}
        width = max((len(n) for n in own), default=0)
        lines += [f"    {n:<{width}}  {s.class_name}: {s.summary}" for n, s in own.items()]
    lines += [f"damaged metadata, skipped: {line} [E-P14]" for line in damaged]
    return "\n".join(lines)


def _head(plugin: PluginStatus) -> list[str]:
    """Return the line of a plugin, and what is wrong with it."""
    api = ".".join(map(str, plugin.api)) if plugin.api else "-"
    lines = [f"{plugin.id}  {plugin.distribution} {plugin.version}  API {api}  {plugin.status}"]
    if plugin.reason:
        lines.append(f"    {plugin.reason}" + (f" [{plugin.code}]" if plugin.code else ""))
    return [*lines, *(f"    {note} [E-P03]" for note in plugin.notes)]


def _owns(plugin: PluginStatus, spec: Any) -> bool:
    return (plugin.id, plugin.distribution) == (spec.plugin, spec.distribution)


# -- show ----------------------------------------------------------------------------------------


@command.command(
    "show", epilog=examples("episome plugins show sctab", "episome plugins show logreg --json")
)
@click.argument("name")
@command_options
@click.pass_context
def show_command(ctx: click.Context, name: str) -> None:
    """Show all that is known of NAME, a plugin or a model.

    A plugin is named by its id or its distribution.
    """
    run_command(ctx, "plugins show", lambda: _shown(name))


def _shown(name: str) -> Outcome:
    from episome import plugins

    status = plugins.plugin_status()
    found = [s for s in status if name in (s.id, s.distribution)]
    spec = None if found else plugins.get_spec(name)
    found = found or [s for s in status if _owns(s, spec)]
    registered = {kind: _of(getattr(plugins, kind)(), found) for kind in ("models", *KINDS)}
    if spec is not None:
        registered["models"] = {n: s for n, s in registered["models"].items() if s == spec}
    data = {k: [{"id": n, **asdict(s)} for n, s in of.items()] for k, of in registered.items()}
    lines = [line for f in found for line in _details(f)]
    return Outcome(
        text="\n".join([*lines, *_registered(registered)]),
        data={"plugins": [asdict(f) for f in found], "registered": data},
    )


def _of(specs: dict[str, Any], found: list[PluginStatus]) -> dict[str, Any]:
    return {n: s for n, s in specs.items() if any(_owns(f, s) for f in found)}


def _details(plugin: PluginStatus) -> list[str]:
    rows = {"hooks": ", ".join(plugin.hooks), "import": f"{plugin.seconds:.4f} s"}
    return [*_head(plugin), *_rows(rows)]


def _registered(registered: dict[str, dict[str, Any]]) -> list[str]:
    """Return what a plugin registers, every kind under a heading."""
    lines = []
    for name, spec in registered["models"].items():
        rows = {
            "capabilities": ", ".join(spec.capabilities),
            "modalities": ", ".join(spec.modalities),
            "tags": ", ".join(spec.tags),
            "needs": ", ".join(spec.needs),
            "reference": spec.reference,
            "class": spec.target,
            "core": spec.core,
        }
        lines += ["", f"model {name}: {spec.summary}", *_rows(rows)]
    for kind in KINDS:
        if specs := registered[kind]:
            lines += ["", kind.replace("_", " ")]
            lines += [f"    {n}  {s.target}: {s.summary}" for n, s in specs.items()]
    return lines


def _rows(rows: dict[str, str]) -> list[str]:
    return [f"    {name:<12}  {text}" for name, text in rows.items() if text]


# -- new -----------------------------------------------------------------------------------------


@command.command(
    "new",
    epilog=examples(
        "episome plugins new my-method --task annotation",
        "episome plugins new my-method --task translation -o src --json",
    ),
)
@click.argument("name")
@click.option(
    "--task", required=True, type=click.Choice(TASKS), help="What the model is to answer."
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    default=Path(),
    help="Folder in which the package's own folder is made; default the current one.",
)
@command_options
@click.pass_context
def new_command(ctx: click.Context, name: str, task: str, output: Path) -> None:
    """Write a package episome-NAME with a model that works, as a start for your own.

    It holds the model, a data set, a metric, a command, tests and a page. Nothing that exists is
    replaced.
    """
    run_command(ctx, "plugins new", lambda: _new(name, task, output))


def _new(name: str, task: str, output: Path) -> Outcome:
    from episome.jobs import NewPluginRequest, new_plugin

    made = new_plugin(NewPluginRequest(name=name, task=task, folder=output))
    steps = [
        f"cd {made.folder}",
        'pip install -e ".[test]"',
        f"episome plugins show {name}",
        "python -m pytest",
    ]
    lines = [
        str(made.folder),
        *(f"  {path}" for path in made.files),
        "next:",
        *(f"  {step}" for step in steps),
    ]
    return Outcome(
        text="\n".join(lines),
        outputs=[{"path": str(made.folder / path)} for path in made.files],
        data={
            "folder": str(made.folder),
            "name": made.name,
            "distribution": made.distribution,
            "module": made.module,
            "class_name": made.class_name,
            "task": made.task,
            "next": steps,
        },
    )
