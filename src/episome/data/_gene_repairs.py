"""Names of genes put right where the right one is certain: affixes, dates, case, a table."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import pandas as pd

from episome.errors import InputFileError, UsageError
from episome.log import get_logger

if TYPE_CHECKING:
    from numpy.typing import NDArray

logger = get_logger(__name__)

GeneMap: TypeAlias = "Mapping[str, str] | pd.DataFrame | str | Path"

#: Share of the names that must have a prefix or suffix for it to be taken off.
SHARED = 0.9
_ASSEMBLY = re.compile(r"^((?:GRC[hm]3[6-9]|hg(?:18|19|38)|mm(?:9|10|39)|T2T|hs1)[_:-]+)(?=\S)")
_ENSEMBL_PART = re.compile(r"^(.+?)[_|:;](ENS[A-Z]*G\d{6,})(?:\.\d+)?$")
_ENSEMBL_FIRST = re.compile(r"^(ENS[A-Z]*G\d{6,})(?:\.\d+)?[_|:;](.+)$")
_MADE_UNIQUE = re.compile(r"^(.+)[-.](\d{1,3})$")
_MONTHS = {"mar": ("MARCH", "MARCHF"), "sep": ("SEPT", "SEPTIN"), "dec": ("DEC", "DELEC")}
_NUMBER_OF_MONTH = {"03": "mar", "09": "sep", "12": "dec"}
_DAY_MONTH = re.compile(r"^(\d{1,2})[-/ ](mar|sep|sept|dec)[a-z]*$", re.I)
_MONTH_DAY = re.compile(r"^(mar|sep|sept|dec)[a-z]*[-/ ](\d{1,2})$", re.I)
_ISO = re.compile(r"^\d{4}-(03|09|12)-(\d{2})(?: 00:00:00)?$")


@dataclass(frozen=True, slots=True)
class Repair:
    """One way to put names right.

    Parameters
    ----------
    what
        What was done, in words.
    names
        The names after it, as alternatives: each is as long as the list of names, and empty where
        the repair has nothing to say.
    one_gene
        Whether equal names before it stand for one gene; two dates may have been two genes.
    """

    what: str
    names: tuple[NDArray[np.object_], ...]
    one_gene: bool = True


def repairs(
    names: NDArray[np.object_], *, gene_map: Mapping[str, str] | None, upper: bool
) -> list[Repair]:
    """Return the repairs that apply to some of the names, the surest first.

    Parameters
    ----------
    names
        Clean names.
    gene_map
        The user's own table, from their name to the model's.
    upper
        Read names in capitals, as those of human genes are.
    """
    found = []
    if gene_map:
        mapped = np.array([gene_map.get(n, "") for n in names], dtype=object)
        found.append(Repair("translated by the table", (mapped,)))
    found += _affixes(names)
    dates = [_of_date(n) for n in names]
    if any(dates):
        pairs = [d or ("", "") for d in dates]
        old, new = (np.array(column, dtype=object) for column in zip(*pairs, strict=True))
        found.append(Repair("read as genes, not dates", (new, old), one_gene=False))
    if upper:
        found.append(Repair("read in capitals", (_upper(names),)))
    return [r for r in found if any((column != "").any() for column in r.names)]


def _affixes(names: NDArray[np.object_]) -> list[Repair]:
    found = []
    prefixed = [m for n in names if (m := _ASSEMBLY.match(n))]
    if len(prefixed) > SHARED * len(names) and len({m[1] for m in prefixed}) == 1:
        prefix = prefixed[0][1]
        bare = np.array([n.removeprefix(prefix) if n.startswith(prefix) else "" for n in names])
        found.append(Repair(f"freed of the prefix {prefix!r}", (bare.astype(object),)))
    for pattern, text in ((_ENSEMBL_PART, "symbol and"), (_ENSEMBL_FIRST, "Ensembl and")):
        both = [pattern.match(n) for n in names]
        if sum(m is not None for m in both) > SHARED * len(names):
            columns = tuple(
                np.array([m[i] if m else "" for m in both], dtype=object) for i in (1, 2)
            )
            other = "Ensembl identifier" if text.startswith("symbol") else "symbol"
            found.append(Repair(f"split into {text} {other}", columns))
    return found


def _of_date(name: str) -> tuple[str, str] | None:
    """Return the older and the newer symbol that a spreadsheet turned into a date."""
    if m := _DAY_MONTH.match(name):
        day, month = int(m[1]), m[2]
    elif m := _MONTH_DAY.match(name):
        day, month = int(m[2]), m[1]
    elif m := _ISO.match(name):
        day, month = int(m[2]), _NUMBER_OF_MONTH[m[1]]
    else:
        return None
    old, new = _MONTHS[month[:3].casefold()]
    return f"{old}{day}", f"{new}{day}"


def _upper(names: NDArray[np.object_]) -> NDArray[np.object_]:
    # C1ORF112 is written C1orf112.
    capitals = [re.sub(r"ORF(?=\d)", "orf", n.upper()) for n in names]
    return np.array(capitals, dtype=object)


def look_like_dates(names: NDArray[np.object_]) -> NDArray[np.bool_]:
    """Whether each name is a date that a spreadsheet made of a gene."""
    return np.array([_of_date(n) is not None for n in names], dtype=bool)


def made_unique(names: NDArray[np.object_]) -> NDArray[np.object_]:
    """Return the name before a number was added to tell duplicates apart, else ``""``.

    ``TBCE-1`` was ``TBCE`` where both stand in the list.
    """
    known = set(names)
    found = [_MADE_UNIQUE.match(n) for n in names]
    return np.array([m[1] if m and m[1] in known else "" for m in found], dtype=object)


def read_gene_map(table: GeneMap) -> dict[str, str]:
    """Return a user's table as a mapping from their names to the model's.

    Parameters
    ----------
    table
        A mapping, a frame or the path of a csv or tsv file: the first column is the name in the
        data, the second the name to use. Names that stand for several others, or that several
        stand for, are left out: which is meant is not certain.

    Raises
    ------
    UsageError
        It has not two columns (E-U38).
    InputFileError
        There is no such file (E-F07).
    """
    if isinstance(table, str | Path):
        path = Path(table)
        if not path.is_file():
            raise InputFileError("E-F07", "there is no such file", where=str(path))
        table = pd.read_csv(path, sep=None, engine="python", dtype=str, keep_default_na=False)
    if isinstance(table, pd.DataFrame):
        if table.shape[1] < 2:
            raise UsageError(
                "E-U38",
                f"the table of genes has {table.shape[1]} column",
                where="gene_map",
                fix="pass two columns: the name in the data, the name to use",
            )
        pairs = table.iloc[:, :2].astype(str)
    else:
        pairs = pd.DataFrame({"theirs": list(table), "ours": list(table.values())}, dtype=str)
    pairs = pairs.set_axis(["theirs", "ours"], axis=1).apply(lambda c: c.str.strip())
    pairs = pairs[(pairs != "").all(axis=1)].drop_duplicates()
    one = ~(pairs["theirs"].duplicated(keep=False) | pairs["ours"].duplicated(keep=False))
    logger.info(
        "gene_map: %s of %s pairs are one to one and used", f"{one.sum():,}", f"{len(pairs):,}"
    )
    return dict(zip(pairs["theirs"][one], pairs["ours"][one], strict=True))
