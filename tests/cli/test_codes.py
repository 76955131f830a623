"""Every code that the program can say is explained."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from episome.cli._codes import CODES, FAMILIES, explain

ROOT = Path(__file__).parents[2]
SOURCES = [*ROOT.glob("src/**/*.py"), *ROOT.glob("plugins/*/src/**/*.py")]
SAID = {
    code
    for path in SOURCES
    if path.name != "_codes.py"
    for code in re.findall(r'"(E-[A-Z]\d+)"', path.read_text(encoding="utf-8"))
}


def test_codes_are_found():
    assert {"E-D01", "E-M03", "E-T01"} <= SAID


def test_every_code_has_a_text_of_its_own():
    assert sorted(SAID - set(CODES)) == []


def test_no_text_is_of_a_code_that_nobody_says():
    assert sorted(set(CODES) - SAID) == ["E-P04"]  # said in a line of the log


@pytest.mark.parametrize("code", sorted(CODES))
def test_explanations_say_the_family_and_the_exit_code(code):
    text = explain(code)

    assert text.startswith(CODES[code])
    assert f"About {FAMILIES[code[2]][0]}. Exit code" in text
    assert CODES[code].endswith(".")
