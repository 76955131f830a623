"""Rows of the catalogue of bad inputs: what comes in, what happens, and the test that shows it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True)
class Row:
    """One line of the catalogue."""

    what: str
    outcome: str
    shows: Callable[[Path], None]


class Catalogue(dict[str, Row]):
    """Rows by their id; every module of rows holds one.

    Parameters
    ----------
    test
        Name of the test that runs them.
    """

    def __init__(self, test: str) -> None:
        super().__init__()
        self.test = test

    def row(self, name: str, what: str, outcome: str):
        """Say which row of the catalogue a function shows."""

        def add(function: Callable[[Path], None]) -> Callable[[Path], None]:
            assert name not in self
            self[name] = Row(what, outcome, function)
            return function

        return add


def marked(rows: Catalogue, open_rows: Mapping[str, str]) -> list[object]:
    """Ids for ``parametrize``; open rows must fail, and only by what they assert."""
    return [
        pytest.param(
            name,
            marks=pytest.mark.xfail(strict=True, raises=AssertionError, reason=open_rows[name]),
        )
        if name in open_rows
        else name
        for name in sorted(rows)
    ]


def ids(letter: str, last: int) -> set[str]:
    """Ids of a section of the catalogue."""
    return {f"{letter}{n:02d}" for n in range(1, last + 1)}
