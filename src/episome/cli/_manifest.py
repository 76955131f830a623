"""The record of a run: what was asked for, of what, with what, and what came of it."""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from episome.cli._config import config_text, merged_config
from episome.errors import InputFileError
from episome.log import get_logger

__all__ = [
    "FILE",
    "arguments_of",
    "described_files",
    "described_output",
    "keep_beside",
    "read_run",
    "states_of_files",
    "write_run",
]

FORMAT = 1
FILE, CONFIG, LOG = "manifest.json", "config.toml", "log.jsonl"
_MAX_BYTES = 64 << 20


def arguments_of(ctx: click.Context) -> list[str]:
    """Return the words that give the command again, whatever its values came from."""
    words, last = ctx.command_path.split()[1:], []
    for param in ctx.command.params:
        name = param.name or ""
        source = ctx.get_parameter_source(name)
        value = ctx.params.get(name)
        if not param.expose_value or source in (None, ParameterSource.DEFAULT) or value is None:
            continue
        if getattr(param, "metavar", None) == "GIB":
            value = value / 2**30
        if isinstance(param, click.Argument):
            last += [_text(v) for v in (value if param.nargs != 1 else [value])]
        elif isinstance(param, click.Option) and param.is_flag:
            words += [param.opts[-1]] if value else param.secondary_opts[-1:]
        else:
            many = isinstance(param, click.Option) and param.multiple
            for one in value if many else [value]:
                words += [param.opts[-1], _text(one)]
    return [*words, "--", *last] if last else words


def described_files(ctx: click.Context) -> list[dict[str, Any]]:
    """Return the files and folders among the values of a command that are there, digested."""
    from episome.jobs import input_digest

    return [{"path": _text(p), "sha256": input_digest(p)} for p in _files(ctx)]


def states_of_files(ctx: click.Context) -> dict[Path, list[list[object]]]:
    """Return sizes and times of the same files, to see later whether one was changed."""
    from episome.jobs import file_state

    return {path: file_state(path) for path in _files(ctx)}


def _files(ctx: click.Context) -> list[Path]:
    """Return the files and folders among the values of a command that are there, each once."""
    found = {}
    for name, value in ctx.params.items():
        values = value if isinstance(value, (list, tuple)) else [value]
        for path in (v for v in values if isinstance(v, Path) and name != "output"):
            if path.exists():
                found[str(path)] = path
    return list(found.values())


def described_output(path: Path) -> dict[str, Any]:
    """Return an output with its digest: of a model that of its weights, else of the bytes."""
    from episome.jobs import output_digest

    kind, digest = output_digest(path)
    return {"path": _text(path), "kind": kind, "digest": digest}


def write_run(folder: Path, ctx: click.Context, facts: Mapping[str, Any]) -> Path:
    """Write what is known of a run into its folder.

    Parameters
    ----------
    folder
        It is there, and holds the log.
    ctx
        Of the command.
    facts
        Inputs, outputs, answer and times.
    """
    from episome.io import write_file

    write_file(folder / CONFIG, (config_text(merged_config(ctx)) + "\n").encode(), overwrite=True)
    return write_file(folder / FILE, _record(ctx, facts), overwrite=True)


def keep_beside(output: Path, ctx: click.Context, facts: Mapping[str, Any]) -> Path | None:
    """Write what is known of a run beside its output; ``None`` where another file is there.

    Parameters
    ----------
    output
        File or folder that the run wrote.
    ctx, facts
        As :func:`write_run`.
    """
    from episome.io import record_beside, write_file

    place = record_beside(output)
    try:
        if place.exists():
            read_run(place)
    except InputFileError as error:
        get_logger("cli").warning("the record of the run is not kept: %s", error)
        return None
    return write_file(place, _record(ctx, facts), overwrite=True)


def _record(ctx: click.Context, facts: Mapping[str, Any]) -> bytes:
    from episome import settings
    from episome.cli._command import dumps
    from episome.cli._errors import versions
    from episome.plugins import plugin_status

    seed = ctx.params.get("seed")
    manifest = {
        "format": FORMAT,
        "arguments": arguments_of(ctx),
        "config": merged_config(ctx),
        "seed": settings.seed if seed is None else seed,
        "device": ctx.params.get("device"),
        "versions": {**versions(), **{s.distribution: s.version for s in plugin_status()}},
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "peak_memory": _peak_memory(),
        **facts,
    }
    return (json.dumps(json.loads(dumps(manifest)), indent=1) + "\n").encode()


def read_run(path: Path) -> dict[str, Any]:
    """Read the record of a run: the file, its folder, or what is beside an output.

    Raises
    ------
    InputFileError
        It is none (E-F34).
    """
    from episome.io import record_beside

    of_output = record_beside(path)
    file = of_output if of_output.is_file() else path / FILE if path.is_dir() else path
    try:
        size = file.stat().st_size
        found = json.loads(file.read_text(encoding="utf-8")) if size < _MAX_BYTES else {}
        words = found["arguments"]
        good = found["format"] == FORMAT and all(isinstance(w, str) for w in words)
        _ = found["inputs"], found["outputs"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _no_run(file, f"{type(error).__name__}: {error}") from error
    if not good:
        raise _no_run(file, "it is of another format")
    kept: dict[str, Any] = found
    return kept


def _no_run(file: Path, why: str) -> InputFileError:
    return InputFileError(
        "E-F34",
        "the file is no record of a run",
        where=str(file),
        why=why[:200],
        fix="pass the output of a long command with its record (OUTPUT.run.json), or a folder of "
        "--run-folder",
    )


def _text(value: Any) -> str:
    """Return a value as a word; the home folder is not told."""
    if not isinstance(value, Path):
        return str(value)
    try:
        return f"~/{value.relative_to(Path.home())}"
    except (ValueError, RuntimeError):
        return str(value)


def _peak_memory() -> int:
    """Bytes that the process held at most; 0 where the system does not tell."""
    if sys.platform == "win32":
        return 0
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
