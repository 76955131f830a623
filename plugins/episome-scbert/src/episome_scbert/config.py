"""The configuration of a core: its names, what they are by default, and what is possible."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from episome_scbert.favor import STABILIZERS
from episome_scbert.tokens import BINNINGS

ATTENTIONS = ("exact_nonzero", "favor")
HEADS = ("pooled", "position")
GENE_EMBEDDINGS = ("learned", "coexpression", "table")

#: Every option of a core beside its genes and classes.
DEFAULTS: dict[str, Any] = {
    # Tokens: levels above zero, and how values become levels.
    "n_bins": 5,
    "binning": "log2",
    # Sizes.
    "dim": 64,
    "depth": 2,
    "heads": 4,
    "dim_head": 16,
    "ff_mult": 4,
    # Attention: exact on expressed genes, or by random features on all.
    "attention": "exact_nonzero",
    "nb_features": None,
    "stabilizer": "head",
    "appended": False,
    "attend_appended": False,
    "max_tokens": None,
    "redraw_every": 1000,
    # Vectors of the genes: what they start from, their width, and whether they are trained.
    "gene_embedding": "learned",
    "gene_width": None,
    "train_genes": True,
    # Heads.
    "head": "pooled",
    "hidden": (128, 128),
    "dropout": 0.0,
    "head_dropout": 0.0,
    # Hidden genes: share, weight in the training by labels, and whether unexpressed ones too.
    "mask_rate": 0.15,
    "mask_weight": 0.0,
    "mask_zeros": False,
    "checkpointing": False,
}
_POSITIVE = ("n_bins", "dim", "depth", "heads", "dim_head", "ff_mult")
_CHOICES = {
    "binning": BINNINGS,
    "attention": ATTENTIONS,
    "stabilizer": STABILIZERS[:2],
    "gene_embedding": GENE_EMBEDDINGS,
    "head": HEADS,
}
_SHARES = ("dropout", "head_dropout")


def checked(n_features: int, n_classes: int, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the whole configuration as plain data.

    Raises
    ------
    TypeError
        There is no such option.
    ValueError
        A value is impossible.
    """
    if unknown := sorted(set(options) - set(DEFAULTS)):
        msg = f"there is no option {', '.join(unknown)}."
        raise TypeError(msg)
    c = {**DEFAULTS, **options}
    for name in _POSITIVE:
        _require_whole(name, c[name])
    for name in ("nb_features", "max_tokens", "gene_width"):
        if c[name] is not None:
            _require_whole(name, c[name])
    for name, known in _CHOICES.items():
        if c[name] not in known:
            msg = f"{name} is {c[name]!r}; use one of {', '.join(known)}."
            raise ValueError(msg)
    for name in _SHARES:
        if not 0 <= c[name] < 1:
            msg = f"{name} is {c[name]}; it must be at least 0 and below 1."
            raise ValueError(msg)
    if not 0 < c["mask_rate"] < 1:
        msg = f"mask_rate is {c['mask_rate']}; some genes have to be hidden, and some seen."
        raise ValueError(msg)
    if not c["mask_weight"] >= 0:
        msg = f"mask_weight is {c['mask_weight']}; it must be 0 or more."
        raise ValueError(msg)
    if len(c["hidden"]) != 2:
        msg = f"hidden is {c['hidden']!r}; name two widths."
        raise ValueError(msg)
    for width in c["hidden"]:
        _require_whole("hidden", width)
    if (c["appended"] or c["attend_appended"]) and c["attention"] != "favor":
        msg = "there is an appended token only where all genes are in the sequence: 'favor'."
        raise ValueError(msg)
    c["hidden"] = [int(w) for w in c["hidden"]]
    c["gene_width"] = c["gene_width"] or c["dim"]
    return {"n_features": n_features, "n_classes": n_classes, **c}


def _require_whole(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        msg = f"{name} is {value!r}; it must be a whole number of at least 1."
        raise ValueError(msg)


def encoder_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keywords of :class:`episome_scbert.layers.Encoder`."""
    same = ("dim", "depth", "heads", "dim_head", "ff_mult", "nb_features", "stabilizer")
    more = ("dropout", "checkpointing")
    return {"kind": config["attention"], **{k: config[k] for k in (*same, *more)}}
