"""What is looked at before anything of a plan runs."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import anndata
import pandas as pd

from episome.data import AnnDataSource, check_values, inspect_values
from episome.errors import InputDataError, Problem, UsageError, did_you_mean, warn
from episome.ontology import cell_ontology
from episome_datamix.mixing import aligned, gene_space
from episome_datamix.pools import NO_TYPE, Pool, held_out, pool_of

if TYPE_CHECKING:
    from pathlib import Path

    from episome_datamix.plan import Plan

#: Cells of a source whose values are looked at.
_HEAD = 2048


def require_ready(plan: Plan, base: Path) -> None:
    """Refuse a plan of which some part cannot run, or would say what is not so.

    Values, columns, genes, held-out types, and what corpora and evaluation sets share by name; the
    benchmark also compares the values of all cells, run by run.

    Parameters
    ----------
    plan
        The plan; overlaps that it allows are not looked for.
    base
        Folder that paths are relative to.

    Raises
    ------
    UsageError
        A column is missing (E-U04), or a held-out type is nowhere (E-B07).
    InputDataError
        Something is in a corpus and in an evaluation set (E-L20), values are no counts (E-D07), no
        cell or gene is left (E-B06).
    """
    pools = [pool_of(plan, n, base) for n in plan.corpora]
    targets = [pool_of(plan, n, base, evaluation=True) for n in plan.evaluation]
    for pool in (*pools, *targets):
        pool.types(pool.rows[:1])
        pool.terms(pool.rows[:1])
        pool.donors(pool.rows[:1])
        if plan.target == "reconstruction":
            _require_counts(pool)
    features = gene_space(plan, base)
    for pool in targets:
        # Warns of genes that the pool lacks.
        aligned(features, pool)
    _require_known_types(plan, base, targets)
    _require_no_overlap(plan, base)
    _doubt_donors(pools, targets)


def _require_counts(pool: Pool) -> None:
    """Refuse values after log1p: what is scored would be their logarithm."""
    source = pool.source
    genes = pd.DataFrame(index=source.var.index)
    head = anndata.AnnData(source.read(pool.rows[:_HEAD]), var=genes)
    report = inspect_values(AnnDataSource(head, name=source.where))
    check_values(report, "counts")


def _require_known_types(plan: Plan, base: Path, targets: list[Pool]) -> None:
    """Refuse held-out types that no cell has: a misspelt one would be trained on."""
    if not plan.hold_out:
        return
    whole = dataclasses.replace(plan, hold_out=())
    pools = [pool_of(whole, n, base) for n in plan.corpora] + targets
    names = {str(t) for p in pools for t in p.types(p.rows)} - {NO_TYPE}
    ontology = cell_ontology()
    for one in plan.hold_out:
        found = {p.name: bool(held_out(p, (one,)).any()) for p in pools}
        if not any(found.values()):
            known = sorted(names)
            raise UsageError(
                "E-B07",
                f"no cell is of the type {one!r} that is held out",
                where=plan.name,
                why=f"the types are {', '.join(known[:12])}" if known else "no types are known",
                fix=did_you_mean(one, known) or "name one of these, or a term of the ontology",
            )
        if one in ontology:
            continue
        for pool in pools[: len(plan.corpora)]:
            types = {str(t) for t in pool.types(pool.rows)} - {NO_TYPE}
            alike = sorted(t for t in types if _squeezed(t) == _squeezed(one))
            if alike and not found[pool.name]:
                warn(
                    Problem(
                        "E-B07",
                        f"the corpus {pool.name!r} has no cell of the held-out type {one!r}",
                        where=plan.name,
                        why=f"it has {', '.join(alike)}, which stay in it",
                        fix=f"hold_out = {[one, *alike]}",
                    )
                )


def _squeezed(name: str) -> str:
    """Return a name without case, spaces and signs."""
    return "".join(c for c in name.casefold() if c.isalnum())


def _require_no_overlap(plan: Plan, base: Path) -> None:
    """Refuse cells or donors that are in a corpus and in an evaluation set, by name and study."""
    problems = []
    for kind, of in (("barcode", Pool.names), ("donor", Pool.donors)):
        if kind in plan.allow:
            continue
        seen = {
            n: set(of(p, p.rows)) - {None} for n in plan.corpora for p in [pool_of(plan, n, base)]
        }
        for name in plan.evaluation:
            pool = pool_of(plan, name, base, evaluation=True)
            values = pd.Series(of(pool, pool.rows))
            for corpus, known in seen.items():
                again = values.isin(known)
                if again.any():
                    problems.append(
                        Problem(
                            "E-L20",
                            f"the corpus {corpus!r} and the evaluation set {name!r} share: {kind}",
                            plan.name,
                            int(again.sum()),
                            len(values),
                            [str(v) for v in values[again].unique()[:3]],
                            "a model that knows them is not tested on new ones",
                            "choose cells by where =, or say that it is meant: "
                            f'allow = ["{kind}"]',
                        )
                    )
    if problems:
        raise InputDataError(problems)


def _doubt_donors(pools: list[Pool], targets: list[Pool]) -> None:
    """Warn of donors of one name in a corpus and an evaluation set of different files."""
    for pool in pools:
        mine = _plain_donors(pool)
        for target in targets:
            again = sorted(mine & _plain_donors(target))
            if pool.corpus.of == target.corpus.of or not again:
                continue
            warn(
                Problem(
                    "E-L20",
                    f"the corpus {pool.name!r} and the evaluation set {target.name!r} have donors "
                    "of the same name",
                    count=len(again),
                    total=len(mine),
                    examples=again[:3],
                    why="they count as others, as the files are not said to be of one study",
                    fix="if they are of one study, give both the same dataset =",
                )
            )


def _plain_donors(pool: Pool) -> set[str]:
    """Names of donors without the study."""
    head = f"{pool.corpus.of}/"
    return {str(d).removeprefix(head) for d in pool.donors(pool.rows) if d is not None}
