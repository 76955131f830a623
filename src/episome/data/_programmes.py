"""Sets of genes: files of them, and which genes of a model they hold."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import pandas as pd

from episome.errors import GeneMatchError, InputFileError, UsageError

if TYPE_CHECKING:
    from episome.data._features import FeatureSpace

#: Gene programmes of any form: see :meth:`GeneProgrammes.of`.
Programmes: TypeAlias = "GeneProgrammes | Mapping[str, Sequence[str]] | Sequence[Any] | str | Path"


def read_gmt(path: str | Path) -> dict[str, list[str]]:
    """Read a file of gene sets: a line each, with the name, a description and the genes.

    Parameters
    ----------
    path
        A ``.gmt`` file, or one compressed with gzip.

    Raises
    ------
    InputFileError
        It is missing (E-F07), or is no such file (E-F22).
    UsageError
        A name is there twice, with other genes (E-U107).
    """
    path = Path(path)
    if not path.is_file():
        raise InputFileError(
            "E-F07", "the file does not exist", where=str(path), fix="pass the path of a .gmt file"
        )
    try:
        held = path.read_bytes()
        text = (gzip.decompress(held) if path.suffix == ".gz" else held).decode("utf-8-sig")
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise InputFileError(
            "E-F22",
            "the gene sets cannot be read",
            where=str(path),
            why=str(error)[:200],
            fix="pass a text file, or one compressed with gzip",
        ) from error
    # Not by splitlines(): descriptions may hold other marks that it takes for ends of lines.
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    fields = [line.split("\t") for line in lines if line.strip()]
    short = [f[0] for f in fields if len(f) < 3]
    if short or not fields:
        raise InputFileError(
            "E-F22",
            "the gene sets cannot be read",
            where=str(path),
            count=len(short),
            total=len(fields),
            examples=[s[:60] for s in short],
            why="a line has fewer than three fields" if fields else "it holds no set",
            fix="a line is the name of a set, a description and its genes, separated by tabs",
        )
    found: dict[str, list[str]] = {}
    for name, _, *genes in fields:
        _add(found, name.strip(), [g.strip() for g in genes if g.strip()], str(path))
    return found


def _add(found: dict[str, list[str]], name: str, genes: list[str], where: str) -> None:
    """Keep a set; a name that is there is refused, unless its genes are the same."""
    if set(found.get(name, genes)) != set(genes):
        raise UsageError(
            "E-U107",
            f"the gene set {name!r} is there twice, with other genes",
            where=where,
            fix="rename one of them, or pass one file",
        )
    found[name] = genes


@dataclass(frozen=True, slots=True)
class MatchedProgrammes:
    """Programmes by the columns of a model's genes.

    Parameters
    ----------
    columns
        Ascending columns of the genes of every programme that is kept, by its name.
    targets
        Column of the gene that a programme is named after, for those where it is a gene of the
        model.
    dropped
        Programmes that are left out, and why.
    n_genes
        Genes of the model that are in a programme.
    """

    columns: Mapping[str, tuple[int, ...]]
    targets: Mapping[str, int]
    dropped: Mapping[str, str]
    n_genes: int

    @property
    def text(self) -> str:
        """One line for the log."""
        return (
            f"{len(self.columns):,} of {len(self.columns) + len(self.dropped):,} gene programmes "
            f"are used; they hold {self.n_genes:,} genes"
        )


@dataclass(frozen=True, slots=True)
class GeneProgrammes:
    """Named sets of genes, such as those of a file of MSigDB.

    Parameters
    ----------
    sets
        Symbols or identifiers of the genes, by the name of the programme.
    targets
        Gene that a programme is asked for, by its name; default what stands before the first
        underscore of the name, as in ``E2F1_TARGET_GENES``.

    Examples
    --------
    >>> programmes = GeneProgrammes({"E2F1_Q6": ["MCM2", "E2F1"], "cycle": ["MKI67"]})
    >>> programmes.target_of("E2F1_Q6"), len(programmes)
    ('E2F1', 2)
    """

    sets: Mapping[str, Sequence[str]]
    targets: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def from_gmt(cls, *paths: str | Path) -> GeneProgrammes:
        """Read files of gene sets.

        Parameters
        ----------
        *paths
            Files in the GMT format; names of sets must not repeat.

        Raises
        ------
        InputFileError
            A file is missing (E-F07) or none of gene sets (E-F22).
        UsageError
            A name is there twice, with other genes (E-U107).
        """
        found: dict[str, list[str]] = {}
        for path in paths:
            for name, genes in read_gmt(path).items():
                _add(found, name, genes, str(path))
        return cls(found)

    @classmethod
    def of(cls, given: Programmes) -> GeneProgrammes:
        """Return programmes of any form: themselves, files, a mapping, or :attr:`plain` data."""
        if isinstance(given, GeneProgrammes):
            return given
        if isinstance(given, str | Path):
            return cls.from_gmt(given)
        if isinstance(given, Mapping):
            # One gene as a word is that gene, not its letters.
            return cls({k: [v] if isinstance(v, str) else v for k, v in given.items()})
        rows: list[Any] = list(given)
        if rows and all(isinstance(r, str | Path) for r in rows):
            return cls.from_gmt(*rows)
        sets = {str(name): [str(g) for g in genes] for name, _, genes in rows}
        return cls(sets, {str(name): str(t) for name, t, _ in rows if t})

    @property
    def plain(self) -> list[list[object]]:
        """Name, target where one was given, and genes of every programme: plain data."""
        return [[name, self.targets.get(name), list(of)] for name, of in self.sets.items()]

    def __len__(self) -> int:
        """Return the number of programmes."""
        return len(self.sets)

    def target_of(self, name: str) -> str:
        """Return the gene that a programme is asked for."""
        return self.targets.get(name, name.partition("_")[0])

    def matched(
        self, features: FeatureSpace, *, min_share: float = 0.5, min_genes: int = 5
    ) -> MatchedProgrammes:
        """Look for the genes of all programmes among those of a model.

        Names are matched as genes of a query are: symbols or identifiers, with or without
        versions.

        Parameters
        ----------
        features
            Genes of the model.
        min_share, min_genes
            Programmes with a smaller share of their genes, or fewer of them, are left out.

        Raises
        ------
        GeneMatchError
            No programme is left (E-G29).
        """
        wanted = [self.target_of(name) for name in self.sets]
        names = list(dict.fromkeys([*(g for of in self.sets.values() for g in of), *wanted]))
        column = self._columns(features, names)
        columns, targets, dropped = {}, {}, {}
        for name, target in zip(self.sets, wanted, strict=True):
            genes = dict.fromkeys(self.sets[name])
            inside = {column[g] for g in genes if g in column}
            at = column.get(target)
            # A quotient, as a product may be above the number: 0.55 * 20 is more than 11.
            if len(inside) < min_genes or not genes or len(inside) / len(genes) < min_share:
                dropped[name] = f"{len(inside)} of {len(genes)} genes are there"
            else:
                columns[name] = tuple(sorted(inside))
                if at is not None:
                    targets[name] = at
        if not columns:
            raise GeneMatchError(
                "E-G29",
                f"none of {len(self.sets):,} gene programmes has enough of the model's genes",
                where="programmes",
                examples=[f"{k}: {v}" for k, v in dropped.items()][:3],
                why=f"at least {min_genes} genes and {min_share:.0%} of a programme are wanted",
                fix="use programmes of the same species and kind of names",
            )
        held = {c for of in columns.values() for c in of}
        return MatchedProgrammes(columns, targets, dropped, len(held))

    @staticmethod
    def _columns(features: FeatureSpace, names: list[str]) -> dict[str, int]:
        """Column of every name that is a gene of the model; a gene may have several."""
        if not names:
            return {}
        found = features.match(
            pd.DataFrame(index=names), duplicates="sum", where="programmes"
        ).columns
        # A query holds a gene once, and what was found by one kind of names is not looked for by
        # another; sets, and the symbols they are named after, may name it in both.
        found = np.where(found < 0, features.find(names), found)
        return {n: c for n, c in zip(names, found.tolist(), strict=True) if c >= 0}
