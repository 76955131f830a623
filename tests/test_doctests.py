"""The examples in docstrings run as they stand there, and links between files lead somewhere."""

from __future__ import annotations

import doctest
import importlib
import re
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = [ROOT / "src", *sorted(p for p in ROOT.glob("plugins/*/src"))]
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)#\s]+)(?:#[^)]*)?\)")


def with_examples() -> list[str]:
    found = []
    for source in SOURCES:
        for file in sorted(source.rglob("*.py")):
            examples = doctest.DocTestParser().get_examples(file.read_text(encoding="utf-8"))
            # What is marked needs files of the reader.
            if not all(doctest.SKIP in example.options for example in examples):
                parts = file.relative_to(source).with_suffix("").parts
                found.append(".".join(p for p in parts if p != "__init__"))
    return found


@pytest.mark.parametrize("name", with_examples())
def test_examples_of_docstrings_run(name, monkeypatch, tmp_path):
    package = name.split(".")[0]
    if find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module(name)

    result = doctest.testmod(module, optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)

    assert result.attempted
    assert not result.failed


@pytest.mark.parametrize(
    "page",
    sorted(
        p
        for pattern in ("*.md", "plugins/*/README.md", "pipelines/*.md", "docs/**/*.md")
        for p in ROOT.glob(pattern)
        if "_build" not in p.parts
    ),
    ids=lambda p: str(p.relative_to(ROOT)),
)
def test_links_to_files_lead_somewhere(page):
    # Sphinx looks after those of its own pages; these are read on their own, too.
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.S)
    targets = {t for t in LINK.findall(text) if "://" not in t and not t.startswith("mailto:")}

    assert [t for t in sorted(targets) if not (page.parent / t).exists()] == []
