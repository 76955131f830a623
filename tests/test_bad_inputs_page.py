"""The catalogue of bad inputs as a whole: every row has its test, and the page is written of it.

``EPISOME_WRITE_PAGES=1`` writes ``docs/user_guide/bad_inputs.md`` anew.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import os
import re
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest
from _catalogue import Catalogue, Row, ids

TESTS = Path(__file__).parent
PAGE = TESTS.parent / "docs" / "user_guide" / "bad_inputs.md"


@dataclass(frozen=True)
class Section:
    """A part of the catalogue, and the modules that hold its rows."""

    title: str
    letter: str
    last: int
    modules: tuple[str, ...]

    @functools.cached_property
    def found(self) -> list[ModuleType]:
        """Modules of rows."""
        return [importlib.import_module(m) for m in self.modules]

    @property
    def later(self) -> dict[str, str]:
        """Rows without a test, and why."""
        return {n: why for module in self.found for n, why in module.LATER.items()}

    @property
    def open(self) -> dict[str, str]:
        """Rows that do not hold yet, and why."""
        return {n: why for m in self.found for n, why in getattr(m, "OPEN", {}).items()}

    def names(self) -> list[str]:
        """Ids of all rows, in order."""
        return sorted({*self.later, *(n for m in self.found for n in m.CATALOGUE)})

    def catalogue(self, name: str) -> Catalogue:
        """The one module's rows that hold a row."""
        (found,) = (m.CATALOGUE for m in self.found if name in m.CATALOGUE)
        return found


SECTIONS = [
    Section("Values", "D", 40, ("test_bad_values", "test_bad_forms")),
    Section("Genes", "G", 20, ("test_bad_genes",)),
    Section("Labels and cells", "L", 20, ("test_bad_labels",)),
    Section("Modalities", "U", 10, ("test_bad_modalities",)),
    Section("Files", "F", 29, ("test_bad_files",)),
    Section("Model folders", "M", 20, ("test_bad_folders",)),
    Section("Training", "T", 20, ("test_bad_training",)),
    Section("Plugins", "P", 15, ("test_bad_plugins",)),
    Section("Command line", "C", 15, ("test_bad_commands",)),
    Section("The page", "W", 18, ("test_bad_page",)),
]
SECTIONS = [s for s in SECTIONS if all((TESTS / f"{m}.py").is_file() for m in s.modules)]

#: Open rows of all sections. It may only go down.
N_OPEN = 2


# -- the rows ------------------------------------------------------------------------------------


@pytest.mark.parametrize("section", SECTIONS, ids=lambda s: s.letter)
def test_every_row_has_its_test(section):
    rows = ids(section.letter, section.last)
    shown = {n for module in section.found for n in module.CATALOGUE}

    assert rows - shown <= set(section.later)
    assert not shown & set(section.later)
    assert {n.rstrip("bcd") for n in section.names()} <= rows
    assert all(section.later.values())


def test_every_module_of_rows_is_in_a_section():
    modules = {p.stem for p in TESTS.glob("test_bad_*.py") if "CATALOGUE" in p.read_text("utf-8")}

    assert modules - {Path(__file__).stem} == {m for s in SECTIONS for m in s.modules}


def test_open_rows_are_counted():
    found = {n for section in SECTIONS for n in section.open}

    assert all(n in m.CATALOGUE for s in SECTIONS for m in s.found for n in getattr(m, "OPEN", {}))
    assert len(found) == N_OPEN, sorted(found)


# -- the page ------------------------------------------------------------------------------------


def page() -> str:
    """What bad input gets, as a page of the documentation."""
    lines = [
        "# What bad input gets",
        "",
        "Nothing is read wrong without a word: input is refused before anything is computed, put",
        "right in a copy with a line in the report, or used with a warning that names counts. The",
        "caller's object is never changed. A row is a test of its name, from which this page is",
        "written. Rows that say *later* have no test yet, and the last column is empty. Rows",
        "that say *not yet* have a test that shows that they do not hold so far: something is",
        "done there in another way than is wanted, and no value is read wrong.",
    ]
    for section in SECTIONS:
        lines += ["", f"## {section.title}", "", "| Id | Input | What happens | Codes | Test |"]
        lines.append("|---|---|---|---|---|")
        lines += [_line(section, name) for name in section.names()]
    return "\n".join([*lines, ""])


def _line(section: Section, name: str) -> str:
    if name in section.later:
        return f"| {name} | {section.later[name]} | later |  |  |"
    catalogue = section.catalogue(name)
    shown: Row = catalogue[name]
    outcome = f"not yet: {shown.outcome}" if name in section.open else shown.outcome
    codes = re.findall(r"E-[A-Z]\d+", inspect.getsource(shown.shows))
    names = ", ".join(f"`{c}`" for c in dict.fromkeys(codes))
    return f"| {name} | {shown.what} | {outcome} | {names} | `{catalogue.test}[{name}]` |"


def test_the_page_is_up_to_date():
    if os.environ.get("EPISOME_WRITE_PAGES"):
        PAGE.parent.mkdir(exist_ok=True)
        PAGE.write_text(page(), encoding="utf-8")

    assert PAGE.read_text(encoding="utf-8") == page(), "run it again with EPISOME_WRITE_PAGES=1"
