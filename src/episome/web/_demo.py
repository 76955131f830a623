"""Files to try the page with, made in a process of their own: ``python -m episome.web._demo``."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from episome.data import stratified_halves
from episome.jobs import demo_cells

__all__ = ["main"]


def main(argv: list[str] | None = None) -> None:
    """Write cells to train on, and others to annotate."""
    (folder,) = map(Path, sys.argv[1:] if argv is None else argv)
    cells, labels_key = demo_cells()
    codes = np.unique(cells.obs[labels_key].astype(str), return_inverse=True)[1]
    reference, query = stratified_halves(codes, test_size=0.3)
    cells[reference].write_h5ad(folder / "demo-reference.h5ad")
    cells[query].write_h5ad(folder / "demo-query.h5ad")


if __name__ == "__main__":
    main()
