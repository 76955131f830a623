"""Where the value of an option comes from: the command line, environment, a file, or nowhere."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from episome.errors import UsageError

__all__ = ["config_text", "merged_config", "read_config"]

#: Bytes that a file of settings may have.
MAX_BYTES = 1 << 20
#: Depth of the tables of a file.
MAX_DEPTH = 3
_ORIGINS = {
    ParameterSource.COMMANDLINE: "flag",
    ParameterSource.ENVIRONMENT: "environment",
    ParameterSource.DEFAULT_MAP: "file",
}


def read_config(ctx: click.Context, _: click.Parameter, value: Path | None) -> None:
    """Take the settings of a TOML file as what options are that are not given.

    Keys at the top and in the table of the command are options of it, with hyphens or underscores;
    tables of other commands are left alone, so that one file may serve many.

    Raises
    ------
    UsageError
        It cannot be read (E-U120), or holds what is no option of the command, or a value that the
        option cannot have (E-U121).
    """
    if value is None or ctx.resilient_parsing:
        return
    text, found = _parsed(value)
    known = _options(ctx.command)
    defaults: dict[str, Any] = {}
    for key, setting, line in _settings(ctx, found, text):
        name = key.replace("_", "-")
        if name not in known:
            raise UsageError(
                "E-U121",
                f"{key!r} is no option of {ctx.command_path}",
                where=f"{value}, line {line}",
                examples=_near(name, known),
                fix=f"`{ctx.command_path} --help` lists them",
            )
        defaults[known[name].name or ""] = _converted(
            ctx, known[name], setting, f"{value}, line {line}"
        )
    ctx.default_map = {**(ctx.default_map or {}), **defaults}


def merged_config(ctx: click.Context) -> dict[str, dict[str, Any]]:
    """Return the value of every option of a command, and its origin.

    Origins are ``flag``, ``environment``, ``file`` and ``default``, in this order of precedence.
    """
    found = {}
    for key, param in _options(ctx.command).items():
        name = param.name or ""
        source = ctx.get_parameter_source(name)
        origin = "default" if source is None else _ORIGINS.get(source, "default")
        found[key] = {"value": _as_given(param, ctx.params.get(name)), "origin": origin}
    return found


def _options(command: click.Command) -> dict[str, click.Parameter]:
    """Return what a command takes, by the names on the command line without dashes."""
    found = {}
    for param in command.params:
        if param.expose_value:
            names = [o.lstrip("-") for o in param.opts] if isinstance(param, click.Option) else []
            found[max(names, key=len, default=param.name or "")] = param
    return found


def _as_given(param: click.Parameter, value: Any) -> Any:
    """Return a value as the command line takes it."""
    if isinstance(value, Mapping):
        return [f"{k}={v}" for k, v in value.items()]
    if value is not None and getattr(param, "metavar", None) == "GIB":
        return value / 2**30
    return value


def config_text(config: Mapping[str, Mapping[str, Any]]) -> str:
    """Return a configuration as TOML that ``--config`` reads; what is not set is a comment."""
    lines = []
    for name, entry in config.items():
        value = entry["value"]
        shown = "" if value is None else _toml(value)
        comment = f"  # {entry['origin']}"
        lines.append(f"# {name} ={comment}" if value is None else f"{name} = {shown}{comment}")
    return "\n".join(lines)


def _toml(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(_toml(v) for v in value)}]"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (int, float)):
        return repr(value)
    return json.dumps(str(value), ensure_ascii=False)


def _parsed(path: Path) -> tuple[str, dict[str, Any]]:
    try:
        size = path.stat().st_size
        text = path.read_text(encoding="utf-8") if size <= MAX_BYTES else ""
        found = tomllib.loads(text)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise UsageError(
            "E-U120",
            "the file of settings cannot be read",
            where=str(path),
            why=str(error).splitlines()[0][:200] or type(error).__name__,
            fix="pass a TOML file (--config), such as `batch-size = 512`",
        ) from error
    if size > MAX_BYTES or _depth(found) > MAX_DEPTH:
        raise UsageError(
            "E-U120",
            "the file of settings is too large" if size > MAX_BYTES else "its tables are too deep",
            where=str(path),
            why=f"a file has at most {MAX_BYTES:,} bytes, and tables in {MAX_DEPTH} levels",
            fix="pass a TOML file of settings (--config)",
        )
    return text, found


def _depth(value: Any) -> int:
    if not isinstance(value, dict):
        return 0
    return 1 + max((_depth(v) for v in value.values()), default=0)


def _settings(
    ctx: click.Context, found: Mapping[str, Any], text: str
) -> Iterator[tuple[str, Any, int]]:
    """Yield key, value and line of the settings of a command: those at the top, then its own."""
    # episome corpus build: the tables [corpus] and [corpus.build]
    path = ctx.command_path.split()[1:]
    table: Any = found
    for level, name in enumerate(["", *path]):
        table = table.get(name) if name and isinstance(table, dict) else table
        if not isinstance(table, dict):
            return
        header = ".".join(path[:level])
        for key, value in table.items():
            if isinstance(value, dict):
                _require_command(ctx, [*path[:level], key], _line(text, key, header))
            else:
                yield key, value, _line(text, key, header)


def _require_command(ctx: click.Context, path: list[str], line: int) -> None:
    command: click.Command | None = ctx.find_root().command
    for name in path:
        command = command.get_command(ctx, name) if isinstance(command, click.Group) else None
    if command is None:
        raise UsageError(
            "E-U121",
            f"[{'.'.join(path)}] is no command",
            where=f"the file of settings, line {line}",
            fix="tables are named as commands, such as [annotate] or [corpus.build]",
        )


def _line(text: str, key: str, header: str) -> int:
    """Return the line of a key, or of a table, below its header; 1 where it is not found."""
    lines = text.splitlines()
    start = 0
    if header:
        at = rf"\s*\[\s*{re.escape(header)}\s*\]"
        start = next((i for i, line in enumerate(lines) if re.match(at, line)), 0)
    is_key = re.compile(rf"""\s*(\[[^\]]*)?["']?{re.escape(key)}["']?\s*[=\].]""")
    found = (i for i, line in enumerate(lines[start:], start) if is_key.match(line))
    return next(found, 0) + 1


def _near(name: str, known: Mapping[str, object]) -> list[str]:
    from episome.errors import near_names

    return near_names(name, known)


def _converted(ctx: click.Context, param: click.Parameter, value: Any, where: str) -> Any:
    """Return a value if the option can have it."""
    many = param.multiple if isinstance(param, click.Option) else param.nargs != 1
    is_flag = isinstance(param, click.Option) and param.is_flag
    fits = isinstance(value, list) if many else not isinstance(value, list)
    if is_flag and not isinstance(value, bool):
        fits = False
    if not is_flag and isinstance(value, bool):
        fits = False
    text = [str(v) for v in value] if isinstance(value, list) else value
    try:
        if not fits:
            msg = "true or false" if is_flag else "a list" if many else "one value, no list"
            raise click.BadParameter(f"it takes {msg}")  # noqa: EM102 - said below
        param.type_cast_value(ctx, text if is_flag or many else str(text))
    except click.BadParameter as error:
        raise UsageError(
            "E-U121",
            f"{str(value)[:60]!r} is no value of {'/'.join(param.opts)}",
            where=where,
            why=error.message,
            fix=f"`{ctx.command_path} --help` says what it takes",
        ) from error
    return text if is_flag or many else str(text)
