"""``episome doctor``: versions, plugins, resources and folders, for issue reports; and codes."""

from __future__ import annotations

import difflib
import os
import platform
import shutil
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from episome.cli._codes import CODES, explain
from episome.cli._command import Outcome, command_options, examples, run_command
from episome.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["command"]

_PACKAGES = (
    *("episome", "anndata", "click", "h5py", "lightning", "numba", "numpy", "pandas", "pluggy"),
    *("pyarrow", "safetensors", "scanpy", "scikit-learn", "scipy", "scvi-tools", "torch"),
)
_VARIABLES = ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "PYTHONPATH")


@click.command("doctor", epilog=examples("episome doctor", "episome doctor --explain E-D05"))
@click.option("--explain", "code", metavar="CODE", help="Say what a code of a message means.")
@command_options
@click.pass_context
def command(ctx: click.Context, code: str | None) -> None:
    """Show versions, plugins, resources and folders, or explain a code."""
    run_command(ctx, "doctor", lambda: _diagnosis() if code is None else explanation(code))


def explanation(code: str) -> Outcome:
    """Return what a code of a message means; one that is none is an error (E-U03)."""
    wanted = code.strip().strip("[]").upper()
    text = explain(wanted)
    if text is None:
        near = difflib.get_close_matches(wanted, CODES, n=3)
        raise UsageError(
            "E-U03",
            f"there is no code {code!r}",
            fix=f"did you mean {' or '.join(near)}" if near else "copy it from the message",
        )
    return Outcome(text=f"{wanted}: {text}", data={"code": wanted, "explanation": text})


def _diagnosis() -> Outcome:
    data = {
        "system": {"python": platform.python_version(), "platform": platform.platform()},
        "packages": _versions(),
        "plugins": _plugins(),
        "damaged": _damaged(),
        "resources": _resources(),
        "folders": _folders(),
        "environment": _environment(),
    }
    return Outcome(text=_text(data), data=data)


def _versions() -> dict[str, str]:
    from episome.cli._errors import versions

    found = versions(_PACKAGES)
    return {name: found.get(name, "not installed") for name in _PACKAGES}


def _plugins() -> list[dict[str, Any]]:
    from episome.plugins import plugin_status

    return [asdict(status) for status in plugin_status()]


def _damaged() -> list[str]:
    from episome.plugins import get_manager

    return list(get_manager().damaged)


def _resources() -> dict[str, int]:
    from episome.resources import available_memory, cpu_count, memory_limit

    return {
        "cores": cpu_count(),
        "memory_limit": memory_limit(),
        "memory_available": available_memory(),
    }


def _folders() -> dict[str, Any]:
    from episome.settings import home_folder

    folder = home_folder()
    return {
        "cache": str(folder),
        "cache_size": _size(folder),
        "disk_free": shutil.disk_usage(folder).free,
    }


def _size(folder: Path) -> int:
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file() and not p.is_symlink())


def _environment() -> dict[str, str]:
    names = [n for n in os.environ if n.startswith("EPISOME_") or n in _VARIABLES]
    return {name: os.environ[name] for name in sorted(names)}


def _about(plugin: dict[str, Any]) -> list[str]:
    """Return what became of a plugin, why, and where to read on."""
    from episome.plugins import SLOW_IMPORT

    lines = [f"  {plugin['id']} ({plugin['distribution']} {plugin['version']}) {plugin['status']}"]
    if plugin["reason"]:
        code = plugin["code"]
        lines[0] += f": {plugin['reason']}" + (f" [{code}]" if code else "")
        lines += [f"    see: episome doctor --explain {code}"] if code else []
    if plugin["seconds"] > SLOW_IMPORT:
        lines.append(f"    its import took {plugin['seconds']:.1f} s")
    return [*lines, *(f"    {note} [E-P03]" for note in plugin["notes"])]


def _text(data: dict[str, Any]) -> str:
    lines = [f"python {data['system']['python']}, {data['system']['platform']}", "", "packages"]
    lines += [f"  {name} {version}" for name, version in data["packages"].items()]
    lines += ["", "plugins"]
    for plugin in data["plugins"]:
        lines += _about(plugin)
    lines += [f"  damaged metadata, skipped: {line} [E-P14]" for line in data["damaged"]]
    if not data["plugins"]:
        lines.append("  none")
    resources, folders = data["resources"], data["folders"]
    lines += ["", "resources", f"  cores {resources['cores']}"]
    lines.append(
        f"  memory {_gib(resources['memory_available'])} free of {_gib(resources['memory_limit'])}"
    )
    lines += ["", "folders", f"  cache {folders['cache']} ({_gib(folders['cache_size'])})"]
    lines.append(f"  disk free there {_gib(folders['disk_free'])}")
    if data["environment"]:
        lines += ["", "environment"]
        lines += [f"  {name}={value}" for name, value in data["environment"].items()]
    return "\n".join(lines)


def _gib(size: int) -> str:
    return f"{size / 2**30:.2f} GiB"
