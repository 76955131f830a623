"""What a training needs of memory, and what is done where there is less."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from episome import resources
from episome.errors import Problem, ResourceError, warn
from episome.log import get_logger

if TYPE_CHECKING:
    from episome.train._datamodule import CellDataModule
    from episome.train._plan import CorePlan

logger = get_logger(__name__)

#: Copies of every parameter: weight, gradient, two moments of AdamW, the best epoch.
COPIES = 5
#: Copies of a cell's genes at once (values, normalised, masked, gradient), and of every output.
INPUTS, OUTPUTS = 4, 2
#: Share of the free memory that a batch may take: the estimate is one.
SHARE = 0.8


@dataclass(frozen=True, slots=True)
class Need:
    """Estimated memory of a training.

    Parameters
    ----------
    n_parameters
        Of the network.
    fixed
        Bytes for parameters and what goes with them.
    per_cell
        Bytes for a cell of a batch.
    """

    n_parameters: int
    fixed: int
    per_cell: int

    def of(self, batch_size: int) -> int:
        """Return the bytes with batches of a size."""
        return self.fixed + batch_size * self.per_cell


def training_need(plan: CorePlan) -> Need:
    """Estimate the memory of a training by the sizes of the layers.

    Parameters
    ----------
    plan
        Its network is not run.
    """
    n = sum(p.numel() for p in plan.core.parameters())
    copies = COPIES + (plan.weight_average is not None)
    widths = sum(_width(m) for m in plan.core.modules())
    return Need(n, 4 * copies * n, 4 * (INPUTS * plan.n_features + OUTPUTS * widths))


def fit_memory(plan: CorePlan, data: CellDataModule, device: torch.device) -> None:
    """Say what a training needs, and split its batches where they would not fit.

    Raises
    ------
    ResourceError
        Not even a batch of the fewest cells would fit (E-R01).
    """
    need, have = training_need(plan), free_memory(device)
    room = int(SHARE * have)
    while need.of(data.batch_size // data.parts) > room:
        if not can_halve(plan, data):
            size = data.batch_size // data.parts
            raise _too_large(need.of(size), have, f"a network of {need.n_parameters:,} parameters")
        halve(data, f"about {gigabytes(need.of(data.batch_size // data.parts))} would be needed")
    size = data.batch_size // data.parts
    logger.info(
        "training needs about %s of %s of memory: %s parameters, batches of %d cells with %s "
        "genes, %d cores",
        gigabytes(need.of(size)),
        gigabytes(have),
        f"{need.n_parameters:,}",
        size,
        f"{plan.n_features:,}",
        resources.cpu_count(),
    )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory was not enough, on the host or on the device."""
    if isinstance(error, MemoryError | torch.cuda.OutOfMemoryError):
        return True
    # torch has no class of its own for the host.
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


def can_halve(plan: CorePlan, data: CellDataModule) -> bool:
    """Whether smaller batches are left; a batch norm wants two cells."""
    size = data.batch_size // data.parts
    fewest = 2 if any(_is_norm(m) for m in plan.core.modules()) else 1
    return size // _factor(size) >= fewest and size > 1


def halve(data: CellDataModule, why: str) -> int:
    """Split the batches further: their gradients are added up, so the updates stay.

    Returns
    -------
    Into how many a batch was split: 2, or the smallest number that divides it.
    """
    size = data.batch_size // data.parts
    factor = _factor(size)
    data.parts *= factor
    warn(
        Problem(
            "E-T07",
            f"memory is too small for batches of {size:,} cells",
            why=f"{why}; batches of {size // factor:,} are used, and the gradients of "
            f"{data.parts} of them make one update as before",
            fix="nothing has to be done; a smaller batch_size is faster",
        )
    )
    return factor


def out_of_memory(plan: CorePlan, error: BaseException, device: torch.device) -> ResourceError:
    """Return the error of a training whose smallest batch does not fit (E-R01)."""
    need = training_need(plan)
    said = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
    return _too_large(need.of(1), free_memory(device), said)


def free_memory(device: torch.device) -> int:
    """Return the bytes that a training may still take on a device."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return resources.available_memory()


def gigabytes(n: float) -> str:
    """Return a number of bytes in words."""
    return f"{n / 1e9:,.1f} GB" if n >= 1e8 else f"{n / 1e6:,.1f} MB"


def _too_large(need: int, have: int, what: str) -> ResourceError:
    return ResourceError(
        "E-R01",
        f"the memory is not enough for {what}",
        why=f"about {gigabytes(need)} are needed, {gigabytes(have)} are free",
        fix="choose a smaller preset, fewer genes (n_top_genes), or a machine with more memory",
        details={"need": need, "have": have},
    )


def _width(module: nn.Module) -> int:
    """Return the outputs per cell of a layer that says how many it has."""
    fields: dict[str, Any] = vars(module)
    found = fields.get("out_features", fields.get("num_features", 0))
    return found if isinstance(found, int) else 0


def _is_norm(module: nn.Module) -> bool:
    return isinstance(module, nn.modules.batchnorm._BatchNorm) or "num_features" in vars(module)


def _factor(size: int) -> int:
    """Return the smallest number above one that divides a size."""
    return next((f for f in range(2, size + 1) if size % f == 0), 1)
