"""What the features of a modality are, and what names of proteins mean."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from episome.data._gene_names import look_like_genes
from episome.data._keys import FEATURE_KINDS, GENE_EXPRESSION

if TYPE_CHECKING:
    import pandas as pd

ModalityKind: TypeAlias = Literal["rna", "protein", "atac", "other"]

#: Columns in which 10x and others say what a feature is.
TYPE_COLUMNS = ("feature_types", "feature_type")
TYPES: dict[str, ModalityKind] = {
    **dict.fromkeys(FEATURE_KINDS, "other"),
    GENE_EXPRESSION: "rna",
    "Antibody Capture": "protein",
    "Peaks": "atac",
}
#: Names of modalities in MuData made of one AnnData object.
SHORT = {"rna": "rna", "protein": "prot", "atac": "atac"}
#: Words in the name of a modality, in the order in which they are tried.
_WORDS: dict[ModalityKind, frozenset[str]] = {
    "other": frozenset(
        {"hto", "hash", "hashing", "hashtag", "hashtags", "cmo", "crispr", "guide", "guides"}
        | {"gdo", "sgrna", "grna", "airr", "tcr", "bcr", "vdj"}
    ),
    "protein": frozenset(
        {"prot", "protein", "proteins", "adt", "ab", "antibody", "antibodies", "cite", "surface"}
    ),
    "atac": frozenset({"atac", "peak", "peaks", "chromatin", "accessibility"}),
    "rna": frozenset({"rna", "gex", "gene", "genes", "mrna", "expression", "transcriptome"}),
}
_PEAK = re.compile(r"^\w[\w.]*[:_-]\d+[_-]\d+$")


# -- kinds ---------------------------------------------------------------------------------------


def modality_kind(name: str, var: pd.DataFrame) -> ModalityKind:
    """Say what the features of a modality are.

    What ``var["feature_types"]`` says counts first, then names such as ``chr1:100-200``, then the
    name of the modality, then the names of the features.

    Parameters
    ----------
    name
        Name of the modality.
    var
        Its table of features.
    """
    column = next((c for c in TYPE_COLUMNS if c in var.columns), None)
    types = [] if column is None else var[column].astype(str).value_counts().index[:1]
    for said in types:
        if said in TYPES:
            return TYPES[said]
    names = [str(n) for n in var.index]
    if share_of_peaks(names) > 0.5:
        return "atac"
    by_word = kind_by_word(name)
    if by_word is not None:
        return by_word
    if names and sum(bool(_KIT.search(n)) for n in names) > 0.5 * len(names):
        return "protein"
    return "rna" if look_like_genes(names) else "other"


def share_of_peaks(names: Sequence[str]) -> float:
    """Return the share of names that are places in a genome, such as ``chr1:100-200``."""
    sample = names[:: max(len(names) // 5_000, 1)]
    return sum(bool(_PEAK.match(n)) for n in sample) / max(len(sample), 1)


def kind_by_word(name: str) -> ModalityKind | None:
    words = set(re.split(r"[\W_\d]+", name.casefold()))
    return next((kind for kind, known in _WORDS.items() if words & known), None)


# -- proteins ------------------------------------------------------------------------------------

#: What kits and pipelines write behind the name of an antibody.
_KIT = re.compile(r"[_. -](?:TotalSeq[_. -]?[A-D]?|Total[A-D]|TS[A-D])$", re.I)
_CONTROL_WORD = re.compile(
    r"isotype|(?:^|[\W_])iso[\W_]?(?:ctrl|control)|(?:^|[\W_])(?:(?:negative|neg)[\W_]?)?(?:ctrl|control)"
    r"[\W_]?\d*$",
    re.I,
)
# IgG, IgD and IgM alone are also what antibodies of a panel bind to: a subclass or an animal has
# to say that the antibody itself is meant.
_ANIMAL = r"(?:(?:(?:armenian|syrian)[\W_]*)?hamster|mouse|rat|rabbit|goat)"
_CONTROL = re.compile(
    rf"^(?:{_ANIMAL}[\W_]*Ig[ADEGMY](?:\d?[a-c]?)|(?:human[\W_]*|[mr])?IgG\d[a-c]?)"
    r"(?:[\W_]*(?:kappa|lambda|[κλk]))?$",
    re.I,
)
_HASHTAG = re.compile(
    r"(?:^|[\W_])(?:hto|hash[\W_]?tag|sample[\W_]?tag|cmo(?=[\W_]?\d))(?![a-z]{2})", re.I
)


@dataclass(frozen=True, slots=True)
class ProteinNames:
    """Names of the proteins of a panel, without what kits write behind them.

    Parameters
    ----------
    names
        One for each name given, in the same order.
    controls
        Those of isotype and negative controls.
    hashtags
        Those of antibodies that name the sample.
    notes
        Lines of the input report.
    """

    names: tuple[str, ...]
    controls: tuple[str, ...]
    hashtags: tuple[str, ...]
    notes: tuple[str, ...]


def protein_names(names: Iterable[object]) -> ProteinNames:
    """Take blanks and the suffix of a kit off names of proteins, and find the controls.

    Parameters
    ----------
    names
        Names such as ``CD3_TotalSeqB``; names that differ stay different.

    Returns
    -------
    :class:`ProteinNames`, with as many names in the same order.

    Examples
    --------
    >>> protein_names(["CD3_TotalSeqB", "IgG1_control_TotalSeqB"]).names
    ('CD3', 'IgG1_control')
    >>> protein_names(["CD3_TotalSeqB", "IgG1_control_TotalSeqB"]).controls
    ('IgG1_control',)
    """
    given = [str(n) for n in names]
    plain = _shortened(given, str.strip)
    short = _shortened(plain, lambda n: _KIT.sub("", n) or n)
    hashtags = tuple(n for n in short if _HASHTAG.search(n))
    controls = tuple(
        n for n in short if n not in hashtags and (_CONTROL.match(n) or _CONTROL_WORD.search(n))
    )
    freed, cut, kept = _n_changed(given, plain), _n_changed(plain, short), _n_with_suffix(short)
    said = [
        (freed, f"{freed:,} names were freed of blanks"),
        (cut, f"{cut:,} names lose the suffix of a kit"),
        (kept, f"{kept:,} keep their suffix: without it two would be one"),
        (len(controls), f"{len(controls):,} isotype or negative controls: {_some(controls)}"),
        (len(hashtags), f"{len(hashtags):,} hashing tags: {_some(hashtags)}"),
    ]
    return ProteinNames(tuple(short), controls, hashtags, tuple(text for n, text in said if n))


def protein_key(name: str) -> str:
    """Return what two names of one protein have in common, however kits and programs write it."""
    plain = name.strip()
    return re.sub(r"[\W_]+", "-", (_KIT.sub("", plain) or plain).casefold()).strip("-")


def _shortened(names: list[str], shorter: Callable[[str], str]) -> list[str]:
    """Shorten names, except where two different ones would become one."""
    short = [shorter(n) for n in names]
    while True:
        owners: dict[str, set[str]] = {}
        for before, after in zip(names, short, strict=True):
            owners.setdefault(after, set()).add(before)
        several = {after for after, before in owners.items() if len(before) > 1}
        if not several:
            return short
        short = [b if a in several else a for b, a in zip(names, short, strict=True)]


def _n_changed(before: list[str], after: list[str]) -> int:
    return sum(b != a for b, a in zip(before, after, strict=True))


def _n_with_suffix(names: list[str]) -> int:
    return sum(bool(_KIT.search(n)) for n in names)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:6]) + (", ..." if len(names) > 6 else "")
