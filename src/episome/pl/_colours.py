"""Colours that are told apart with any colour vision, and in grey."""

from __future__ import annotations

#: After Okabe and Ito (2008), then Tol; the last is for what has no name.
COLOURS = (
    "#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9", "#f0e442", "#332288",
    "#117733", "#882255", "#44aa99", "#999933", "#aa4499", "#661100", "#6699cc", "#888888",
)  # fmt: skip
