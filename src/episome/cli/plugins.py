"""``episome plugins``: what is installed, and what failed to load and why."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from episome.cli._command import Outcome, command_options, examples, run_command

if TYPE_CHECKING:
    from episome.plugins import ModelSpec, PluginStatus

__all__ = ["command"]


@click.command("plugins", epilog=examples("episome plugins", "episome plugins --json"))
@command_options
@click.pass_context
def command(ctx: click.Context) -> None:
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
        api = ".".join(map(str, plugin.api)) if plugin.api else "-"
        lines.append(
            f"{plugin.id}  {plugin.distribution} {plugin.version}  API {api}  {plugin.status}"
        )
        if plugin.reason:
            lines.append(f"    {plugin.reason}" + (f" [{plugin.code}]" if plugin.code else ""))
        lines += [f"    {note} [E-P03]" for note in plugin.notes]
        own = {n: s for n, s in specs.items() if _owns(plugin, s)}
        width = max((len(n) for n in own), default=0)
        lines += [f"    {n:<{width}}  {s.class_name}: {s.summary}" for n, s in own.items()]
    lines += [f"damaged metadata, skipped: {line} [E-P14]" for line in damaged]
    return "\n".join(lines)


def _owns(plugin: PluginStatus, spec: ModelSpec) -> bool:
    return (plugin.id, plugin.distribution) == (spec.plugin, spec.distribution)
