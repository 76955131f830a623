"""The rooms of the host keep to the import table of ``docs/architecture.md``."""

from __future__ import annotations

import ast
import contextlib
import io
import re
import sys
from pathlib import Path

import grimp
import pytest
from importlinter import cli as linter

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "episome"

BASE = ("errors", "settings", "log", "resources", "_lazy")
PACKAGES = {p.parents[2].name: p.parent for p in ROOT.glob("plugins/*/src/*/__init__.py")}

#: Bottom to top. Room -> (rooms it may import, or None for every one below; packages it never
#: reaches). The base rooms are below all others.
TABLE: dict[str, tuple[set[str] | None, set[str]]] = {
    "plugins": (set(), {"torch", "scvi", "lightning"}),
    "io": ({"plugins"}, {"scvi", "lightning"}),
    "ontology": (set(), {"torch", "scvi", "lightning"}),
    "nn": (set(), {"scvi", "lightning"}),
    "metrics": ({"ontology"}, {"scvi", "lightning"}),
    "data": ({"plugins", "io", "ontology", "nn"}, {"scvi", "lightning"}),
    "confidence": ({"ontology", "metrics"}, {"torch", "scvi", "lightning"}),
    "inference": (None, {"scvi", "lightning"}),
    "train": ({"plugins", "io", "ontology", "nn", "metrics", "data"}, {"scvi"}),
    "pl": ({"io", "metrics", "ontology"}, {"scvi", "lightning"}),
    "report": ({"metrics", "ontology", "pl", "io"}, {"scvi", "lightning"}),
    "models": (None, set()),
    "benchmark": (None, set()),
    "testing": (None, set()),
    "jobs": (None, set()),
    "web": (None, set()),
    "cli": (None, set()),
}

#: What the lowest rooms may import beyond the standard library and the base.
ALLOWED_PACKAGES = {"base": {"platformdirs", "threadpoolctl"}, "plugins": {"pluggy"}}


def exists(room: str) -> bool:
    return (SOURCE / f"{room}.py").exists() or (SOURCE / room / "__init__.py").exists()


def forbidden_rooms(room: str) -> list[str]:
    """Rooms that a room may not import directly."""
    order = list(TABLE)
    allowed = TABLE[room][0]
    if allowed is None:
        allowed = set(order[: order.index(room)])
    return [r for r in order if r != room and r not in allowed and exists(r)]


def contract(name: str, **fields: str | list[str]) -> str:
    lines = [f"[importlinter:contract:{re.sub(r'[^a-z]+', '-', name.lower())}]", f"name = {name}"]
    for key, value in fields.items():
        shown = value if isinstance(value, str) else "".join(f"\n    {v}" for v in value)
        lines.append(f"{key} = {shown}")
    return "\n".join(lines) + "\n"


def contracts() -> str:
    rooms = [r for r in TABLE if exists(r)]
    parts = [
        "[importlinter]\nroot_package = episome\ninclude_external_packages = True\n"
        "exclude_type_checking_imports = True\n",
        contract(
            "rooms import downwards",
            type="layers",
            layers=[
                *(f"({r})" for r in reversed(TABLE)),
                "(resources)",
                "settings",
                "log",
                "errors",
                "_lazy",
            ],
            containers="episome",
            exhaustive="True",
            exhaustive_ignores=["_version", "__main__"],
        ),
    ]
    for room in rooms:
        if forbidden := forbidden_rooms(room):
            parts.append(
                contract(
                    f"{room} imports only what its row allows",
                    type="forbidden",
                    source_modules=f"episome.{room}",
                    forbidden_modules=[f"episome.{r}" for r in forbidden],
                    allow_indirect_imports="True",
                )
            )
        if never := TABLE[room][1]:
            parts.append(
                contract(
                    f"{room} never reaches {' '.join(sorted(never))}",
                    type="forbidden",
                    source_modules=f"episome.{room}",
                    forbidden_modules=sorted(never),
                )
            )
    return "\n".join(parts)


def check(config: str, folder: Path) -> tuple[int, str]:
    path = folder / "contracts.ini"
    path.write_text(config, encoding="utf-8")
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        code = linter.lint_imports(config_filename=str(path), no_cache=True)
    return code, printed.getvalue()


def test_rooms_keep_to_the_import_table(tmp_path):
    code, text = check(contracts(), tmp_path)

    assert code == linter.EXIT_STATUS_SUCCESS, text


def test_a_forbidden_import_is_found(tmp_path):
    wrong = contract(
        "wrong",
        type="forbidden",
        source_modules="episome.plugins",
        forbidden_modules="pluggy",
    )
    config = contracts().split("\n\n")[0] + "\n" + wrong

    code, text = check(config, tmp_path)

    assert code != linter.EXIT_STATUS_SUCCESS
    assert "pluggy" in text


@pytest.fixture(scope="module")
def graph():
    return grimp.build_graph(
        "episome",
        include_external_packages=True,
        exclude_type_checking_imports=True,
        cache_dir=None,
    )


@pytest.mark.parametrize("room", [*BASE, "plugins"])
def test_lowest_rooms_import_only_what_their_row_names(room, graph):
    top = f"episome.{room}"
    modules = {m for m in graph.modules if m == top or m.startswith(f"{top}.")}
    imported = {i for m in modules for i in graph.find_modules_directly_imported_by(m)}

    outside = {i.partition(".")[0] for i in imported} - {"episome"} - set(sys.stdlib_module_names)
    inside = {i.split(".")[1] for i in imported if i.startswith("episome.")} - {room}

    assert outside <= ALLOWED_PACKAGES.get(room, ALLOWED_PACKAGES["base"])
    assert inside <= set(BASE)


def test_data_reaches_nn_from_the_loader_only(graph):
    if not exists("data") or not exists("nn"):
        pytest.skip("the rooms data and nn do not exist yet")
    importers = {
        m
        for m in graph.modules
        if m.startswith("episome.data")
        and any(i.startswith("episome.nn") for i in graph.find_modules_directly_imported_by(m))
    }

    assert all("loader" in m for m in importers)


def imports_of(path: Path) -> set[str]:
    """Top-level packages and ``episome`` modules that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


@pytest.mark.parametrize("plugin", sorted(PACKAGES))
def test_plugins_never_import_each_other(plugin):
    others = {folder.name for name, folder in PACKAGES.items() if name != plugin}

    for path in PACKAGES[plugin].rglob("*.py"):
        assert not {m.partition(".")[0] for m in imports_of(path)} & others, path


@pytest.mark.parametrize("plugin", sorted(PACKAGES))
def test_plugins_import_public_names_of_the_host_only(plugin):
    for path in PACKAGES[plugin].rglob("*.py"):
        host = [m for m in imports_of(path) if m.partition(".")[0] == "episome"]
        assert not [m for m in host if any(part.startswith("_") for part in m.split("."))], path


def method_names() -> set[str]:
    """Spec names, classes and packages of the plugins in this repository, read from their text."""
    names = set()
    for package in PACKAGES.values():
        names.add(package.name)
        text = (package / "plugin.py").read_text(encoding="utf-8")
        names |= set(re.findall(r"name=\"([a-z0-9-]+)\"", text))
        names |= set(re.findall(r"\"([A-Z]\w+)\"", text))
        names |= set(re.findall(r":([A-Z]\w+)\"", text))
        names |= set(re.findall(r"_spec\(\s*\"([a-z0-9-]+)\"", text))
    return names


def code_strings_and_names(path: Path) -> set[str]:
    """Names and strings of a module's code; examples in docstrings and help may name a method.

    Names in lower case are left out: ``functional.linear`` is no model called ``linear``, which
    only a string could name. What stands under ``if TYPE_CHECKING:`` is for type checkers and
    left out.
    """
    tree = ast.parse(path.read_bytes())
    skipped: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            skipped |= {id(n) for n in ast.walk(node)}
    found = set()
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Name | ast.Attribute):
            name = node.id if isinstance(node, ast.Name) else node.attr
            found |= {name} if name != name.lower() or "_" in name else set()
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.add(node.value)
    return found


def test_method_names_are_found():
    assert {"sctab", "SCTab", "episome_sctab", "logreg", "majority"} <= method_names()


#: Spec names that are words of their own as well: a package, an option of a command.
WORDS = {"scvi", "markers"}


def test_host_names_no_method():
    wrong = {
        str(path.relative_to(ROOT)): sorted(used)
        for path in SOURCE.rglob("*.py")
        if (used := code_strings_and_names(path) & (method_names() - WORDS))
    }

    assert not wrong


def test_words_of_their_own_are_not_looked_up_as_models():
    asked = re.compile(
        rf"(get_spec|get_model|load_class)\(\s*[\"'](\w+:)?({'|'.join(WORDS)})[\"']"
    )

    assert asked.search('plugins.get_spec("scvi")')
    assert not [p for p in SOURCE.rglob("*.py") if asked.search(p.read_text(encoding="utf-8"))]
