"""Finding plugins in the metadata of installed distributions, and importing one safely."""

from __future__ import annotations

import ast
import contextlib
import importlib.metadata
import importlib.util
import io
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from episome.log import get_logger

GROUP = "episome"
API_VERSION = (1, 0)
SLOW_IMPORT = 1.0

_log = get_logger("plugins")


@dataclass(frozen=True, slots=True)
class Found:
    """An entry point and the distribution it comes from."""

    id: str
    module: str
    distribution: str
    version: str


def find(group: str = GROUP) -> tuple[list[Found], list[str]]:
    """Return the entry points of the group by id, and a line for each damaged distribution.

    A distribution that is on the path twice counts once, as for the interpreter: the first wins.
    """
    found: dict[tuple[str, str], Found] = {}
    damaged: list[str] = []
    seen: set[str] = set()
    for distribution in importlib.metadata.distributions():
        try:
            text = distribution.read_text("entry_points.txt") or ""
            if not re.search(rf"^\s*\[\s*{re.escape(group)}\s*\]", text, flags=re.MULTILINE):
                continue
            name = distribution.metadata["Name"]
            key = re.sub(r"[-_.]+", "-", name).lower()
            if key in seen:
                continue
            seen.add(key)
            for entry in distribution.entry_points.select(group=group):
                item = Found(entry.name, entry.value.strip(), name, distribution.version)
                found[(item.id, key)] = item
        except Exception as error:  # noqa: BLE001 - whatever is wrong with one, the others count
            damaged.append(f"{_where(distribution)}: {last_line(error)}")
    return [found[key] for key in sorted(found)], damaged


def _where(distribution: importlib.metadata.Distribution) -> str:
    path = getattr(distribution, "_path", None)
    return Path(path).name if path is not None else "a distribution"


def last_line(error: BaseException) -> str:
    """Return the last line that a traceback of the error would end with."""
    text = str(error).strip().splitlines()
    name = type(error).__name__
    return f"{name}: {text[-1]}" if text else name


def declared_api(module: str) -> tuple[int, int] | None:
    """Read ``EPISOME_API`` from a module's source without importing it; None if not literal."""
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return None
    tree = ast.parse(Path(spec.origin).read_bytes())
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else []
        if isinstance(node, ast.AnnAssign):
            targets = [node.target]
        names = [t.id for t in targets if isinstance(t, ast.Name)]
        value = getattr(node, "value", None)
        if "EPISOME_API" in names and value is not None:
            with contextlib.suppress(ValueError):
                return as_api(ast.literal_eval(value))
    return None


def as_api(value: object) -> tuple[int, int] | None:
    """Return a version as ``(major, minor)``, or None when it is not one."""
    if (
        isinstance(value, (tuple, list))
        and len(value) == 2
        and all(isinstance(v, int) and not isinstance(v, bool) for v in value)
    ):
        return value[0], value[1]
    return None


def is_compatible(api: tuple[int, int]) -> bool:
    """Whether a plugin for this version of the interface can be used by this host."""
    return api[0] == API_VERSION[0] and api[1] <= API_VERSION[1]


@contextlib.contextmanager
def quiet(plugin: str) -> Iterator[None]:
    """Put what a plugin prints on standard output into the log."""
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            yield
    finally:
        for line in printed.getvalue().splitlines():
            _log.debug("%s printed: %s", plugin, line)


def import_plugin(found: Found) -> tuple[ModuleType, float]:
    """Import the module of an entry point; return it and the seconds it took."""
    start = time.perf_counter()
    with quiet(found.id):
        module = importlib.import_module(found.module.partition(":")[0])
    seconds = time.perf_counter() - start
    if seconds > SLOW_IMPORT:
        _log.info("plugin %s took %.1f s to import", found.id, seconds)
    return module, seconds
