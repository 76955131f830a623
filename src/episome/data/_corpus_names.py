"""Names of the inputs of a corpus."""

from __future__ import annotations

from collections.abc import Sequence

#: Column of the cell table with the input of every cell.
INPUT_COLUMN = "corpus_input"


def unique_names(names: Sequence[str]) -> list[str]:
    """Return names of inputs, with a number before those that occur twice."""
    return [f"{i}:{n}" if list(names).count(n) > 1 else n for i, n in enumerate(names)]
