"""Builds of genomes, told from where peaks are."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

_HUMAN = (*(str(i) for i in range(1, 23)), "x", "y")
_MOUSE = (*(str(i) for i in range(1, 20)), "x", "y")

# fmt: off
#: Lengths of the chromosomes of every build, in bases.
LENGTHS: dict[str, dict[str, int]] = {
    "hg19": dict(zip(_HUMAN, (
        249250621, 243199373, 198022430, 191154276, 180915260, 171115067, 159138663, 146364022,
        141213431, 135534747, 135006516, 133851895, 115169878, 107349540, 102531392, 90354753,
        81195210, 78077248, 59128983, 63025520, 48129895, 51304566, 155270560, 59373566,
    ), strict=True)),
    "hg38": dict(zip(_HUMAN, (
        248956422, 242193529, 198295559, 190214555, 181538259, 170805979, 159345973, 145138636,
        138394717, 133797422, 135086622, 133275309, 114364328, 107043718, 101991189, 90338345,
        83257441, 80373285, 58617616, 64444167, 46709983, 50818468, 156040895, 57227415,
    ), strict=True)),
    "mm10": dict(zip(_MOUSE, (
        195471971, 182113224, 160039680, 156508116, 151834684, 149736546, 145441459, 129401213,
        124595110, 130694993, 122082543, 120129022, 120421639, 124902244, 104043685, 98207768,
        94987271, 90702639, 61431566, 171031299, 91744698,
    ), strict=True)),
    "mm39": dict(zip(_MOUSE, (
        195154279, 181755017, 159745316, 156860686, 151758149, 149588044, 144995196, 130127694,
        124359700, 130530862, 121973369, 120092757, 120883175, 125139656, 104073951, 98008968,
        95294699, 90720763, 61420004, 169476592, 91455967,
    ), strict=True)),
}
# fmt: on


def possible_builds(
    chromosomes: Sequence[str], codes: NDArray[np.int64], ends: NDArray[np.int64]
) -> tuple[str, ...]:
    """Return the builds in which peaks can be: on chromosomes that they have, before their ends.

    Parameters
    ----------
    chromosomes
        Names, in small letters and without ``chr``.
    codes
        Chromosome of every peak.
    ends
        Last base of every peak.

    Returns
    -------
    Names of builds; none where no build fits, and where no chromosome is one of theirs.
    """
    last = np.zeros(len(chromosomes), dtype=np.int64)
    np.maximum.at(last, codes, ends)
    numbered = {
        c: int(end)
        for c, end in zip(chromosomes, last, strict=True)
        if any(c in lengths for lengths in LENGTHS.values()) and end
    }
    if not numbered:
        return ()
    return tuple(
        build
        for build, lengths in LENGTHS.items()
        if all(end <= lengths.get(c, 0) for c, end in numbered.items())
    )


def said_of_builds(builds: Sequence[str]) -> str:
    """Return possible builds in words."""
    if not builds:
        return "no build that is known here"
    return builds[0] if len(builds) == 1 else f"{', '.join(builds[:-1])} or {builds[-1]}"
