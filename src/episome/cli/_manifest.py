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

__all__ = ["FILE", "arguments_of", "described_files", "described_output", "read_run", "write_run"]

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
    from episome.jobs import file_digest

    found = {}
    for name, value in ctx.params.items():
        values = value if isinstance(value, (list, tuple)) else [value]
        for path in (v for v in values if isinstance(v, Path) and name != "output"):
            if path.exists():
                found[str(path)] = file_digest(path)
    return [{"path": _text(Path(p)), "sha256": digest} for p, digest in found.items()]


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
    from episome.cli._command import dumps
    from episome.cli._errors import versions
    from episome.io import write_file
    from episome.plugins import plugin_status

    manifest = {
        "format": FORMAT,
        "arguments": arguments_of(ctx),
        "config": merged_config(ctx),
        "versions": {**versions(), **{s.distribution: s.version for s in plugin_status()}},
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "peak_memory": _peak_memory(),
        **facts,
    }
    write_file(folder / CONFIG, (config_text(merged_config(ctx)) + "\n").encode(), overwrite=True)
    text = json.dumps(json.loads(dumps(manifest)), indent=1)
    return write_file(folder / FILE, (text + "\n").encode(), overwrite=True)


def read_run(path: Path) -> dict[str, Any]:
    """Read the record of a run: the file, or its folder.

    Raises
    ------
    InputFileError
        It is none (E-F34).
    """
    file = path / FILE if path.is_dir() else path
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
        fix="pass manifest.json of a folder that --run-folder made",
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
