"""The reasons for which every source leaves pictures out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from . import TAG_LIST, WITH_URL
from .reading import EMPTY, MISSING, NO_CAPTION, NOT_UTF8, TAGS, TOO_LARGE, UNREADABLE, URL

if TYPE_CHECKING:
    from ...recipe import Data  # which loads torch: processes that only read pictures go without


def faults(
    sizes: np.ndarray,
    lengths: np.ndarray,
    data: Data,
    places: str,
    filtered: Sequence[str] = (),
    default: str = "",
) -> dict[str, np.ndarray]:
    """The pictures that are left out, by reason; a picture has one reason, or none.

    Args:
        sizes: (N, 2) width and height, or what stands in their place.
        lengths: (N, K) of each picture's captions, or what stands in their place.
        places: where captions were looked for.
        filtered: of each picture the reason of the source's filters, or ""; () = of none.
        default: the caption of those that have none; "" = they are left out.
    Returns:
        Of each reason (N,) bool.
    """
    short, long = np.sort(sizes.astype(np.int64), axis=1).T
    most, limit = Image.MAX_IMAGE_PIXELS or np.inf, data.buckets.limit
    wordless, worst = lengths.max(axis=1) <= 0, lengths.min(axis=1)
    if default:
        wordless &= ~uncaptioned(lengths)
    found = {
        "is not there": short == MISSING[0],
        "cannot be read": short == UNREADABLE[0],
        f"is larger than {most} pixels": (short == TOO_LARGE[0]) | (short * long > most),
        f"has a side shorter than {data.smallest} pixels": short < data.smallest,
        f"is longer than {limit:g} times its shorter side": long > limit * short,
        "has a caption that is neither UTF-8 nor UTF-16": wordless & (worst == NOT_UTF8),
        "has an empty caption": wordless & (worst == EMPTY),
        f"has a caption {WITH_URL}": wordless & (worst == URL),
        f"has a caption {TAG_LIST}": wordless & (worst == TAGS),
        f"has no caption (looked for {places})": wordless & (worst == NO_CAPTION),
    }
    for reason in dict.fromkeys(reason for reason in filtered if reason):
        found[reason] = np.array([other == reason for other in filtered])
    told = np.zeros(len(sizes), bool)
    for reason, mask in found.items():
        found[reason] = mask & ~told
        told |= mask
    return found


def uncaptioned(lengths: np.ndarray) -> np.ndarray:
    """The pictures with no caption or empty ones alone, (N,) bool; see `faults`."""
    return (lengths.max(axis=1) <= 0) & (lengths.min(axis=1) >= EMPTY)
