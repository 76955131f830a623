"""Tutorials run from beginning to end, as they were executed for the documentation."""

from __future__ import annotations

from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path

import nbformat
import pytest

PLACE = Path(__file__).parents[1] / "docs" / "tutorials"
NAMES = sorted(p.stem for p in PLACE.glob("*.ipynb"))
#: Packages that a tutorial needs and that are not always there.
NEEDS = {"census_to_corpus": "tiledbsoma", "cite_seq_muon": "muon"}


def executed(name: str) -> nbformat.NotebookNode:
    spec = spec_from_file_location("execute", PLACE / "execute.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.execute(PLACE / f"{name}.ipynb")


def outputs(notebook: nbformat.NotebookNode) -> list[bool]:
    return [bool(c.outputs) for c in notebook.cells if c.cell_type == "code"]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_tutorial_runs(name):
    if (package := NEEDS.get(name)) and find_spec(package) is None:
        pytest.skip(f"{package} is not installed")

    found = executed(name)

    assert any(outputs(found))


@pytest.mark.parametrize("name", NAMES)
def test_a_tutorial_is_kept_executed(name):
    notebook = nbformat.read(PLACE / f"{name}.ipynb", as_version=4)

    counts = [c.execution_count for c in notebook.cells if c.cell_type == "code"]
    assert counts == list(range(1, len(counts) + 1))
    assert any(outputs(notebook))
    found = [o for c in notebook.cells for o in c.get("outputs", ())]
    assert not [o for o in found if o.output_type == "error"]
    # bars that move are for terminals
    texts = "".join(o.text for o in found if o.output_type == "stream")
    assert not set(texts) & set("\x1b\r\u2501\u2588")


def test_every_tutorial_is_in_the_documentation():
    page = (PLACE / "index.md").read_text()

    assert [n for n in NAMES if f"\n{n}\n" not in page] == []
    assert len(NAMES) >= 12
