"""Which attributions a core gives, and how."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, runtime_checkable

from episome.errors import UsageError
from episome.inference._ensemble import EnsembleCore
from episome.inference._outputs import as_csr
from episome.nn import CSRParts, TorchCore, input_gradients, with_format

if TYPE_CHECKING:
    from scipy import sparse

    from episome.inference._cores import RunningCore

AttributionKind: TypeAlias = Literal["native", "gradient"]


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
    core: RunningCore, kind: Literal["auto", "native", "gradient"] = "auto"
) -> Attribution:
    """Return how the calls of a core are attributed to genes.

    Parameters
    ----------
    core
        The core, or an ensemble, whose attributions are the mean of its members'.
    kind
        ``"native"``: what the core says itself (masks, coefficients); ``"gradient"``: value times
        gradient, for networks; ``"auto"``: the core's ``preferred_attribution``, else native
        where there is one.

    Raises
    ------
    UsageError
        The core has none of that kind (E-U12).
    """
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
    raise UsageError(
        "E-U12",
        f"{type(core).__name__} gives no attributions" + ("" if kind == "auto" else f" ({kind})"),
        fix="use a network, or a model with masks or coefficients of its own",
    )


def gives_attributions(core: RunningCore) -> bool:
    """Whether :func:`attribution` has an answer for the core."""
    if isinstance(core, EnsembleCore):
        return all(gives_attributions(m) for m in core.members)
    return isinstance(core, ExplainingCore | TorchCore)


def _gradients(core: TorchCore) -> Callable[[dict[str, Any]], sparse.csr_matrix]:
    width = int(core.config["n_features"])  # type: ignore[call-overload]  # plain JSON

    def run(batch: dict[str, Any]) -> sparse.csr_matrix:
        x = with_format(batch["X"], core.inference_format, "dense", n_features=width)
        return as_csr(CSRParts.from_dense(input_gradients(core, x)), width)

    return run


def _of_ensemble(core: EnsembleCore, kind: Literal["auto", "native", "gradient"]) -> Attribution:
    parts = [attribution(m, kind) for m in core.members]
    if len({(p.kind, p.holds_values) for p in parts}) > 1:
        raise UsageError(
            "E-U12",
            "members of the ensemble attribute their calls in different ways",
            why=f"they give {', '.join(sorted({p.kind for p in parts}))}",
            fix='method="gradient" where all members are networks, or ask one member',
        )
    width = int(core.config["n_features"])

    def run(batch: dict[str, Any]) -> sparse.csr_matrix:
        total = sum(core.each([p.run for p in parts], batch))
        return as_csr(total / len(parts), width)

    return Attribution(parts[0].kind, run, parts[0].holds_values)
