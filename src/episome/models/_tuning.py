"""What of a model is worth trying, and in which range."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True, slots=True)
class Between:
    """Numbers from ``low`` to ``high``, every order of magnitude as likely as another.

    Parameters
    ----------
    low, high
        Above zero.
    """

    low: float
    high: float

    def draw(self, rng: np.random.Generator) -> float:
        """Return one of three digits."""
        found = math.exp(rng.uniform(math.log(self.low), math.log(self.high)))
        return float(f"{found:.3g}")


#: Settings by name: ``model.X`` of the constructor, ``train.X`` of ``train``, ``plan.X`` of its
#: ``plan_kwargs``; values to choose from, or a range.
TuningSpace: TypeAlias = Mapping[str, Sequence[object] | Between]
