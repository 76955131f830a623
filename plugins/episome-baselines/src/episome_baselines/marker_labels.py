"""Which labels of cells are which types of a marker table."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from episome.ontology import cell_ontology

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from episome.data import Labels


def type_of_labels(labels: Labels, types: Labels) -> NDArray[np.int64]:
    """Return the type that each label is, or is a kind of.

    Names are compared first, whatever their case; then terms of the Cell Ontology. A label that is
    a kind of several types is the one that is a kind of all the others, where there is one.

    Parameters
    ----------
    labels
        Of cells.
    types
        Of the table.

    Returns
    -------
    int64 (n_labels,), -1 for a label that is no type.
    """
    folded = [name.strip().casefold() for name in types.names]
    place = {name: i for i, name in enumerate(folded) if folded.count(name) == 1}
    terms = [t if t.startswith("CL:") else "" for t in (*types.term_ids, *labels.term_ids)]
    kinds = cell_ontology().child_matrix(terms)
    of_types = kinds[: len(types), : len(types)]
    found = np.full(len(labels), -1, dtype=np.int64)
    for i, name in enumerate(labels.names):
        above = np.flatnonzero(kinds[: len(types), len(types) + i])
        lowest = [t for t in above if of_types[above, t].all()]
        found[i] = place.get(name.strip().casefold(), lowest[0] if len(lowest) == 1 else -1)
    return found
