"""The error family of episome and the one form of its messages.

Every message to a user, from Python, the command line, ``--json`` or the page, is made here:
what is wrong, where, how many of how many, which first, why it matters, what to do, and a code.
"""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NoReturn

__all__ = [
    "Collector",
    "EpisomeError",
    "EpisomeWarning",
    "GeneMatchError",
    "InputDataError",
    "InputFileError",
    "LabelError",
    "MissingDependencyError",
    "ModelFileError",
    "ModelMismatchError",
    "PluginError",
    "Problem",
    "RemoteError",
    "ResourceError",
    "TrainingError",
    "UntrustedModelError",
    "UsageError",
    "did_you_mean",
    "near_names",
    "raise_problems",
    "warn",
    "with_option",
]

MAX_PROBLEMS = 50
MAX_EXAMPLES = 3
#: Arguments of Python that have an option on the command line, where it is called otherwise.
_OPTIONS = {"n_models": "--ensemble"}
#: Those whose option is called like them.
_SAME_OPTIONS = frozenset(
    ("allow_fractional", "augment", "batch_key", "batch_size", "devices", "donor_key")
    + ("duplicates", "input_kind", "labels_key", "layer", "markers", "max_epochs", "nan")
    + ("obsm_key", "ontology_term_key", "own_terms", "preset", "refit", "sampling", "split")
    + ("strategy", "unlabeled", "use_raw")
)


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong, in the form every surface shows.

    Parameters
    ----------
    code
        Stable identifier such as ``"E-D01"``; codes are versioned and never reused.
    what
        What is wrong, a noun phrase without a full stop.
    where
        File, slot or column.
    count, total
        How many of how many; either may be left out.
    examples
        Names of the first ones; at most three are shown.
    why
        Why it matters, one clause.
    fix
        The exact keyword or command that repairs it.
    """

    code: str
    what: str
    where: str | None = None
    count: int | None = None
    total: int | None = None
    examples: Sequence[object] = ()
    why: str | None = None
    fix: str | None = None
    details: Mapping[str, object] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """The message, without the code."""
        # what is not there is not *in* its own path
        joint = ": " if self.what.startswith("there is no such") else " in "
        what = self.what if self.where is None else f"{self.what}{joint}{self.where}"
        facts = []
        if self.count is not None:
            facts.append(
                f"{self.count:,}" + (f" of {self.total:,}" if self.total is not None else "")
            )
        if self.examples:
            shown = ", ".join(str(e)[:80] for e in list(self.examples)[:MAX_EXAMPLES])
            facts.append(f"first: {shown}")
        head = what + (": " + ", ".join(facts) if facts else "")
        sentences = [head, self.why, f"To fix: {self.fix}" if self.fix else None]
        return " ".join(s.rstrip(".") + "." for s in sentences if s)

    def __str__(self) -> str:
        return f"{self.text} [{self.code}]"


class EpisomeError(Exception):
    """Base of every error that episome raises on purpose.

    Parameters
    ----------
    problem
        A :class:`Problem`, a sequence of them, or the code of a new one built from the keywords.
    what, where, count, total, examples, why, fix, details
        Fields of the problem when ``problem`` is a code.
    """

    exit_code = 1

    def __init__(
        self,
        problem: Problem | Sequence[Problem] | str,
        what: str | None = None,
        *,
        where: str | None = None,
        count: int | None = None,
        total: int | None = None,
        examples: Sequence[object] = (),
        why: str | None = None,
        fix: str | None = None,
        details: Mapping[str, object] | None = None,
    ) -> None:
        if isinstance(problem, str):
            problem = Problem(
                problem,
                what or "",
                where,
                count,
                total,
                tuple(examples),
                why,
                fix,
                dict(details or {}),
            )
        self.problems: tuple[Problem, ...] = (
            (problem,) if isinstance(problem, Problem) else tuple(problem)[:MAX_PROBLEMS]
        )
        super().__init__(_join(self.problems))

    @property
    def code(self) -> str:
        """Code of the first problem."""
        return self.problems[0].code

    @property
    def fix(self) -> str | None:
        """What to do about the first problem."""
        return self.problems[0].fix

    def __str__(self) -> str:
        return _join(self.problems)

    def to_json(self) -> dict[str, object]:
        """Return the error as the object that ``--json`` prints."""
        return {
            "code": self.code,
            "class": type(self).__name__,
            "message": str(self),
            "fix": self.fix,
            "details": {k: v for p in self.problems for k, v in p.details.items()},
        }

    def __reduce__(self) -> tuple[object, ...]:
        return (type(self), (self.problems,))


def _join(problems: Sequence[Problem]) -> str:
    if len(problems) == 1:
        return str(problems[0])
    return f"{len(problems)} problems:\n" + "\n".join(f"- {p}" for p in problems)


class UsageError(EpisomeError, ValueError):
    """A wrong argument or combination of arguments."""

    exit_code = 2


class InputDataError(EpisomeError, ValueError):
    """The content of the data cannot be used."""

    exit_code = 3


class GeneMatchError(InputDataError):
    """Too few of the model's genes are in the data."""


class LabelError(InputDataError):
    """The labels cannot be used."""


class InputFileError(EpisomeError, OSError):
    """A file cannot be read or written."""

    exit_code = 3


class ModelFileError(EpisomeError, ValueError):
    """A model folder is damaged, incomplete or of another format."""

    exit_code = 4


class ModelMismatchError(ModelFileError):
    """The model folder belongs to another class or does not fit the call."""


class UntrustedModelError(ModelFileError):
    """The file would run code when it is loaded."""


class PluginError(EpisomeError, RuntimeError):
    """A plugin is missing, broken, or breaks its contract."""

    exit_code = 5


class MissingDependencyError(EpisomeError, ModuleNotFoundError):
    """An optional package is not installed; the message names the extra."""

    exit_code = 5


class ResourceError(EpisomeError, RuntimeError):
    """Memory, disk, device or time is not enough."""

    exit_code = 6


class RemoteError(EpisomeError, ConnectionError):
    """A network or registry could not be reached."""

    exit_code = 7


class TrainingError(EpisomeError, RuntimeError):
    """Training diverged and could not be recovered."""

    exit_code = 8


class EpisomeWarning(UserWarning):
    """Something was repaired or looks wrong; the run goes on.

    Parameters
    ----------
    problem
        What it is, kept as ``warning.problem``; its code is ``warning.code``.
    """

    def __init__(self, problem: Problem | str) -> None:
        super().__init__(str(problem))
        self.problem = problem if isinstance(problem, Problem) else None
        self.code = None if self.problem is None else self.problem.code


def warn(problem: Problem, *, stacklevel: int = 3) -> None:
    """Warn of a problem in the one form of messages."""
    warnings.warn(EpisomeWarning(problem), stacklevel=stacklevel)


def raise_problems(cls: type[EpisomeError], problems: Iterable[Problem]) -> None:
    """Raise ``cls`` with all ``problems`` at once; do nothing when there are none."""
    found = tuple(problems)
    if found:
        _raise(cls, found)


def _raise(cls: type[EpisomeError], found: tuple[Problem, ...]) -> NoReturn:
    raise cls(found)


def near_names(name: str, names: Iterable[object], *, n: int = 3) -> list[str]:
    """Return the names that are spelled like one that there is not, the nearest first.

    Parameters
    ----------
    name
        What was asked for.
    names
        Those that there are; case counts only where it tells them apart.
    n
        How many at most.

    Examples
    --------
    >>> near_names("cell_typo", ["donor_id", "cell_type"])
    ['cell_type']
    """
    known = list(dict.fromkeys(map(str, names)))
    near = difflib.get_close_matches(name, known, n=n)
    if near:
        return near
    folded = {k.casefold(): k for k in known}
    return [folded[k] for k in difflib.get_close_matches(name.casefold(), folded, n=n)]


def did_you_mean(name: str, names: Iterable[object]) -> str:
    """Return what to do about a name that there is not; empty where nothing is near.

    Parameters
    ----------
    name, names
        Of :func:`near_names`.

    Examples
    --------
    >>> did_you_mean("Cell_Type", ["donor_id", "cell_type"])
    'did you mean `cell_type`'
    """
    near = [f"`{found}`" for found in near_names(name, names)]
    return f"did you mean {' or '.join(near)}" if near else ""


def with_option(argument: str) -> str:
    """Return an argument with the option of the command line that gives it, if there is one.

    Parameters
    ----------
    argument
        Name of an argument of a model, of its set-up or of its training.

    Examples
    --------
    >>> with_option("max_epochs"), with_option("n_steps")
    ('max_epochs (--max-epochs)', 'n_steps')
    """
    same = f"--{argument.replace('_', '-')}" if argument in _SAME_OPTIONS else None
    option = _OPTIONS.get(argument, same)
    return argument if option is None else f"{argument} ({option})"


class Collector:
    """Problems of several checks of the same data, raised as one error.

    Examples
    --------
    >>> found = Collector()
    >>> with found.collecting():
    ...     raise InputDataError("E-D01", "NaN values")
    >>> with found.collecting():
    ...     raise LabelError("E-L03", "one class")
    >>> len(found.problems)
    2
    """

    def __init__(self) -> None:
        self._errors: list[InputDataError] = []

    @property
    def problems(self) -> tuple[Problem, ...]:
        """What was found, in the order of the checks."""
        return tuple(p for error in self._errors for p in error.problems)

    @contextmanager
    def collecting(self) -> Iterator[None]:
        """Keep the :class:`InputDataError` of the block for later; others go on their way."""
        try:
            yield
        except InputDataError as error:
            self._errors.append(error)

    def raise_all(self) -> None:
        """Raise everything as one error of the class of the first; nothing where all is well."""
        if len(self._errors) == 1:
            raise self._errors[0]
        if self._errors:
            raise type(self._errors[0])(self.problems)


EXIT_CODES: dict[int, str] = {
    0: "ok",
    1: "a bug in episome (a crash report is written)",
    2: "usage: a wrong option or argument",
    3: "input data or file",
    4: "model folder",
    5: "plugin",
    6: "resource: memory, disk, device",
    7: "network",
    8: "training diverged",
    9: "a quality gate was not met",
    130: "stopped by Ctrl-C",
    141: "the reader of the output went away",
    143: "stopped by SIGTERM",
}
