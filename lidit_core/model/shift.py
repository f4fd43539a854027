"""Flow's shift of times by the size of the picture.

A larger picture tells as much of itself through more noise, so its times are shifted further: by
the square root of the ratio of pixels after Esser et al. 2024 (SD3), arXiv 2403.03206, section
5.3.2. Here the shift is given at two sizes; that law is one line through them among others.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import check


@dataclass(frozen=True)
class ShiftAt:
    """The shift of pictures of one area."""

    size: int  # side of the square of that area, pixels
    shift: float

    def __post_init__(self) -> None:
        for name in ("size", "shift"):
            value = getattr(self, name)
            check(value > 0, f"a model's shifts have {name}={value}; expected more than 0")


def check_shifts(shifts: Sequence[ShiftAt], prediction: str) -> None:
    """Raise unless there are none, or flow's at two sizes."""
    sizes = [at.size for at in shifts]
    check(
        not sizes or (len(sizes) == 2 and sizes[0] != sizes[1]),
        f"the model has shifts at the sizes {sizes}; expected two sizes that differ, or none",
    )
    check(
        not sizes or prediction == "flow",
        f"the model has shifts and predicts {prediction}; they are of flow's times: leave them out",
    )


def interpolated_shift(shifts: Sequence[ShiftAt], width: int, height: int) -> float:
    """The shift at a width and height in pixels, from those at two sizes.

    Its logarithm is a line in the logarithm of the number of pixels, which goes on beyond both.
    """
    first, last = shifts
    part = (math.log(width * height) / 2 - math.log(first.size)) / math.log(last.size / first.size)
    return first.shift * (last.shift / first.shift) ** part
