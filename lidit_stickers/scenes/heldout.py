"""The rule for combinations that are never trained on, so that generalisation can be measured.

A combination is held out when the first four bytes of SHA-256 over its written form, read as a
big-endian fraction of 2**32, lie below the share of its sort:

    pair        "187:pair:<kind>+<kind>", kinds in alphabetical order      15 %
    background  "187:background:<kind>+<background>"                       12 %
    count       "187:count:<kind>+<2|3|4>"                                 12 %
    colour      "187:colour:<kind>+<colour>", never the natural colour     20 %

187 is the salt, of the first 300, that spreads them most evenly over kinds, colours and numbers.

A scene that contains one such combination is held out, whatever else it contains. The rule also
binds the drawing: a background left open by the caption is chosen among the others.

For a kind outside the data set, the newcomer of a fine-tune, the share of each sort is a third and
the salt 32, which keeps two backgrounds, the number four and 18 of the 64 partners from training.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from itertools import combinations

from .kinds import BACKGROUNDS, KINDS, KNOWN_KINDS
from .request import Item, SceneRequest

SALT = 187
SHARES = {"pair": 0.15, "background": 0.12, "count": 0.12, "colour": 0.20}
NEWCOMER_SALT, NEWCOMER_SHARE = 32, 1 / 3


@lru_cache(maxsize=None)
def _chosen(sort: str, first: str, second: str) -> bool:
    """Whether the combination is held out."""
    newcomer = any(name in KNOWN_KINDS and name not in KINDS for name in (first, second))
    salt, share = (NEWCOMER_SALT, NEWCOMER_SHARE) if newcomer else (SALT, SHARES[sort])
    digest = hashlib.sha256(f"{salt}:{sort}:{first}+{second}".encode()).digest()
    return int.from_bytes(digest[:4], "big") / 2**32 < share


def pair_held_out(first: str, second: str) -> bool:
    """Whether two kinds (in any order) are never trained on in one scene."""
    return first != second and _chosen("pair", *sorted((first, second)))


def background_held_out(kind: str, background: str) -> bool:
    """Whether the kind is never trained on before that background."""
    return _chosen("background", kind, background)


def count_held_out(kind: str, count: int) -> bool:
    """Whether the kind is never trained on in that number (one is always trained on)."""
    return count > 1 and _chosen("count", kind, str(count))


def colour_held_out(kind: str, colour: str) -> bool:
    """Whether the kind is never trained on in that colour."""
    return colour != KNOWN_KINDS[kind].natural and _chosen("colour", kind, colour)


def allowed_backgrounds(kinds: tuple[str, ...]) -> tuple[str, ...]:
    """The backgrounds that training may put behind these kinds; all six if the rule leaves none."""
    allowed = tuple(
        name for name in BACKGROUNDS if not any(background_held_out(kind, name) for kind in kinds)
    )
    return allowed or tuple(BACKGROUNDS)


def is_held_out(request: SceneRequest) -> bool:
    """Whether the rule keeps this scene out of training."""
    if any(pair_held_out(a, b) for a, b in combinations(request.kinds, 2)):
        return True
    background = request.background or allowed_backgrounds(request.kinds)[0]
    return any(_item_held_out(item, background) for item in request.items)


def _item_held_out(item: Item, background: str) -> bool:
    return (
        background_held_out(item.kind, background)
        or count_held_out(item.kind, item.count)
        or (item.colour is not None and colour_held_out(item.kind, item.colour))
    )
