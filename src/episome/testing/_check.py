"""What a check is, and how checks are collected."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from episome.errors import EpisomeError
    from episome.testing._subject import Subject

TOLERANCE = 1e-5


class NotHere(Exception):
    """A check that this machine cannot make; it counts as skipped, with the reason."""


class CheckFailure(AssertionError):
    """A model does not keep the contract; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that the host promises of every model, and how it is seen.

    Parameters
    ----------
    name
        Name of the function, ``check_...``; stable, exemptions refer to it.
    run
        Raises :class:`CheckFailure` (or anything else) where the promise is not kept.
    capabilities
        The check is run on models with one of these; empty: on every model.
    base
        ``"network"``: on models that Lightning trains; ``""``: on every model.
    advice
        What an author does about a failure.
    summary
        What is promised, one sentence.
    """

    name: str
    run: Callable[[Subject], None]
    capabilities: frozenset[str]
    base: str
    advice: str
    summary: str

    def applies(self, subject: Subject) -> bool:
        """Whether the check says something about a model."""
        wanted = not self.capabilities or bool(self.capabilities & set(subject.capabilities))
        return wanted and (self.base != "network" or subject.is_network)


#: Every check, in the order in which they run: cheap ones first.
CHECKS: list[Check] = []


def check(
    *capabilities: str, base: str = "", advice: str
) -> Callable[[Callable[[Subject], None]], Callable[[Subject], None]]:
    """Add a function to :data:`CHECKS`; its first line says what is promised."""

    def add(function: Callable[[Subject], None]) -> Callable[[Subject], None]:
        summary = (function.__doc__ or "").strip().splitlines()[0]
        CHECKS.append(
            Check(function.__name__, function, frozenset(capabilities), base, advice, summary)
        )
        return function

    return add


# -- what checks say -----------------------------------------------------------------------------


def require(condition: object, what: str) -> None:
    """Fail with a text unless a condition holds."""
    if not condition:
        raise CheckFailure(what)


def same(
    got: dict[str, np.ndarray], wanted: dict[str, np.ndarray], what: str, *, exact: bool = False
) -> None:
    """Fail unless two answers are the same, to 1e-5 of the largest value where not ``exact``."""
    for name, expected in wanted.items():
        values = got[name]
        require(
            values.shape == expected.shape,
            f"{what}: the {name} have shape {values.shape}, not {expected.shape}",
        )
        require(np.isfinite(values).all(), f"{what}: {name} that are not finite")
        difference = float(np.abs(values - expected).max(initial=0.0))
        limit = 0.0 if exact else TOLERANCE * max(1.0, float(np.abs(expected).max(initial=0.0)))
        require(
            difference <= limit,
            f"{what}: {name} differ by {difference:.2g} (at most {limit:g})",
        )


def refuses(
    cls: type[EpisomeError], call: Callable[[], object], what: str, *, code: str = ""
) -> None:
    """Fail unless a call raises an error of the family, with a message that says what to do."""
    try:
        call()
    except cls as error:
        require(all(p.code and p.text for p in error.problems), f"{what}: the message is empty")
        require(
            not code or code in {p.code for p in error.problems},
            f"{what}: refused with {error.code}, not {code}",
        )
        return
    msg = f"{what} is accepted; {cls.__name__} is expected"
    raise CheckFailure(msg)
