"""Which attributions a core gives, and how."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, runtime_checkable

import numpy as np
import torch

from episome.errors import UsageError
from episome.inference._ensemble import EnsembleCore
from episome.inference._outputs import as_csr, to_numpy
from episome.nn import CSRParts, TorchCore, input_gradients, with_format

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from scipy import sparse

    from episome.inference._cores import RunningCore

AttributionKind: TypeAlias = Literal["native", "gradient"]
AttributionMethod: TypeAlias = Literal["auto", "native", "gradient"]
#: Batch, class of every cell, class it is compared with (or the mean of all) -> (B, n_genes).
Between: TypeAlias = Callable[
    [dict[str, Any], "NDArray[np.int64]", "NDArray[np.int64] | None"], "sparse.csr_matrix"
]


@runtime_checkable
class ExplainingCore(Protocol):
    """A core that says in its own way which genes its decisions rest on.

    ``attributions_hold_values`` says whether an attribution already contains the value of the
    gene, as a coefficient times the value does and a mask does not.
    """

    attributions_hold_values: bool

    def explaining(self) -> Callable[[dict[str, Any]], Any]:
        """Return a function from a batch to its attributions, sparse, over all model genes."""
        ...


@runtime_checkable
class ContrastingCore(Protocol):
    """An :class:`ExplainingCore` whose attributions are of a class: the score of one over another.

    Coefficients times values are of a class; the masks of TabNet, which say what was read and not
    for which class, are not.
    """

    def contrasting(self) -> Callable[[dict[str, Any], Any, Any], Any]:
        """Return a function from a batch, classes and others to attributions.

        Classes are int64 (B,), one for every cell; others too, or ``None`` for the mean of all
        classes. The attributions of a cell add up to the difference of the two scores but for
        what depends on no gene.
        """
        ...


@dataclass(frozen=True, slots=True)
class Attribution:
    """A function from a batch to attributions.

    Parameters
    ----------
    kind
        ``"native"`` or ``"gradient"``.
    run
        Batch in the form that the core's prediction reads -> CSR (B, n_genes).
    holds_values
        Whether the attributions already contain the value of the gene.
    """

    kind: AttributionKind
    run: Callable[[dict[str, Any]], sparse.csr_matrix]
    holds_values: bool


def attribution(
    core: RunningCore,
    kind: AttributionMethod = "auto",
    *,
    of: int | None = None,
    against: int | Literal["second"] | None = None,
) -> Attribution:
    """Return how the calls of a core, or its scores of a class, are attributed to genes.

    Parameters
    ----------
    core
        The core, or an ensemble, whose attributions are the mean of its members'.
    kind
        ``"native"``: what the core says itself (masks, coefficients); ``"gradient"``: value times
        gradient, for networks; ``"auto"``: the core's ``preferred_attribution``, else native
        where there is one. With ``of`` or ``against``, ``"auto"`` is native only where that is of
        a class (:class:`ContrastingCore`).
    of
        Code of a class; default the call of every cell: its largest score before calibration.
    against
        What the score is compared with: the code of a class, ``"second"`` for the class with the
        largest score but that of ``of``, ``None`` for the mean of all classes.

    Raises
    ------
    UsageError
        The core has none of that kind (E-U12), or that kind knows no classes (E-U86).
    """
    if of is not None or against is not None:
        return _contrast(core, kind, of, against)
    if isinstance(core, EnsembleCore):
        return _of_ensemble(core, kind)
    wanted = kind
    if kind == "auto":
        native = isinstance(core, ExplainingCore)
        wanted = getattr(core, "preferred_attribution", "native" if native else "gradient")
    if wanted == "native" and isinstance(core, ExplainingCore):
        width, run = int(core.config["n_features"]), core.explaining()
        return Attribution(
            "native", lambda b: as_csr(run(b), width), core.attributions_hold_values
        )
    if wanted == "gradient" and isinstance(core, TorchCore):
        return Attribution("gradient", _gradients(core), holds_values=True)
    raise _none_of(core, kind)


def gives_attributions(core: RunningCore) -> bool:
    """Whether :func:`attribution` has an answer for the core."""
    if isinstance(core, EnsembleCore):
        return all(gives_attributions(m) for m in core.members)
    return isinstance(core, ExplainingCore | TorchCore)


def _none_of(core: RunningCore, kind: AttributionMethod) -> UsageError:
    return UsageError(
        "E-U12",
        f"{type(core).__name__} gives no attributions" + ("" if kind == "auto" else f" ({kind})"),
        fix="use a network, or a model with masks or coefficients of its own",
    )


def _gradients(core: TorchCore) -> Callable[[dict[str, Any]], sparse.csr_matrix]:
    width, dense = int(core.config["n_features"]), _dense(core)  # type: ignore[call-overload]  # plain JSON

    def run(batch: dict[str, Any]) -> sparse.csr_matrix:
        return as_csr(CSRParts.from_dense(input_gradients(core, dense(batch))), width)

    return run


def _dense(core: TorchCore) -> Callable[[dict[str, Any]], torch.Tensor]:
    """Return what reads the values of a batch as a dense tensor."""
    width, given = int(core.config["n_features"]), core.inference_format  # type: ignore[call-overload]  # plain JSON

    def read(batch: dict[str, Any]) -> torch.Tensor:
        x: torch.Tensor = with_format(batch["X"], given, "dense", n_features=width)
        return x

    return read


def _of_ensemble(core: EnsembleCore, kind: AttributionMethod) -> Attribution:
    parts = [attribution(m, kind) for m in core.members]
    _require_alike({(p.kind, p.holds_values) for p in parts})
    width = int(core.config["n_features"])

    def run(batch: dict[str, Any]) -> sparse.csr_matrix:
        total = sum(core.each([p.run for p in parts], batch))
        return as_csr(total / len(parts), width)

    return Attribution(parts[0].kind, run, parts[0].holds_values)


def _require_alike(kinds: set[tuple[AttributionKind, bool]]) -> None:
    if len(kinds) > 1:
        raise UsageError(
            "E-U12",
            "members of the ensemble attribute their calls in different ways",
            why=f"they give {', '.join(sorted({kind for kind, _ in kinds}))}",
            fix='method="gradient" where all members are networks, or ask one member',
        )


# --- one class against another --------------------------------------------------------------


def _contrast(
    core: RunningCore,
    kind: AttributionMethod,
    of: int | None,
    against: int | Literal["second"] | None,
) -> Attribution:
    found, between = _between(core, kind)
    scores = core.inference()

    def run(batch: dict[str, Any]) -> sparse.csr_matrix:
        n = len(batch["empty"])
        if of is not None and against != "second":
            classes = np.full(n, of, dtype=np.int64)
            return between(batch, classes, None if against is None else np.full(n, against))
        with torch.no_grad():
            out = scores(batch)
        table = to_numpy(out["logits"] if "logits" in out else out["probabilities"])
        classes = np.full(n, of) if of is not None else table.argmax(axis=1)
        others: NDArray[np.int64] | None = None
        if against == "second":
            others = _runner_up(table, classes)
        elif against is not None:
            others = np.full(n, against, dtype=np.int64)
        return between(batch, classes, others)

    return Attribution(found, run, holds_values=True)


def _runner_up(table: NDArray[np.floating], classes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the class with the largest score but the given one of every cell."""
    rest = np.array(table, dtype=np.float64)
    rest[np.arange(len(rest)), classes] = -np.inf
    second: NDArray[np.int64] = rest.argmax(axis=1)
    return second


def _between(core: RunningCore, kind: AttributionMethod) -> tuple[AttributionKind, Between]:
    """Return what attributes the score of one class over another, and its kind."""
    if isinstance(core, EnsembleCore):
        return _between_of_ensemble(core, kind)
    width = int(core.config["n_features"])
    if kind != "gradient" and isinstance(core, ContrastingCore):
        run = core.contrasting()
        return "native", lambda batch, a, b: as_csr(run(batch, a, b), width)
    if kind != "native" and isinstance(core, TorchCore):
        dense, device = _dense(core), torch.device(core.device)

        def gradients(
            batch: dict[str, Any], a: NDArray[np.int64], b: NDArray[np.int64] | None
        ) -> sparse.csr_matrix:
            classes = torch.as_tensor(a, device=device)
            others = None if b is None else torch.as_tensor(b, device=device)
            found = input_gradients(core, dense(batch), classes, others)
            return as_csr(CSRParts.from_dense(found), width)

        return "gradient", gradients
    if isinstance(core, ExplainingCore):
        raise UsageError(
            "E-U86",
            f"the attributions of {type(core).__name__} itself are of no class",
            where="of=, against=",
            why="they say what a call rests on, and not for which class it speaks",
            fix='method="gradient" or "auto" for a network, or leave out of and against',
        )
    raise _none_of(core, kind)


def _between_of_ensemble(
    core: EnsembleCore, kind: AttributionMethod
) -> tuple[AttributionKind, Between]:
    parts = [_between(m, kind) for m in core.members]
    _require_alike({(k, True) for k, _ in parts})
    width = int(core.config["n_features"])

    def run(
        batch: dict[str, Any], a: NDArray[np.int64], b: NDArray[np.int64] | None
    ) -> sparse.csr_matrix:
        # The call and the runner-up are those of the whole: members may differ in both.
        runs = [lambda held, f=between: f(held, a, b) for _, between in parts]
        return as_csr(sum(core.each(runs, batch)) / len(parts), width)

    return parts[0][0], run
