"""The structured description of a scene: what a caption says, free of wording and placement."""

from __future__ import annotations

from dataclasses import dataclass

from lidit_core.errors import LiDiTError

from .kinds import BACKGROUNDS, KNOWN_KINDS

RELATIONS = ("left of", "right of", "above", "below")
SIZES = ("small", "big")
PLACES = ("middle", "left", "right", "top", "bottom")  # of a lone object
MAX_OBJECTS = 4

# An evaluation's `requests_sha256` hashes the repr of requests, so these classes keep their names.


@dataclass(frozen=True)
class Item:
    """One group of equal objects in a request."""

    kind: str
    colour: str | None = None
    count: int = 1
    size: str | None = None  # "small", "big" or None

    def __post_init__(self) -> None:
        if self.kind not in KNOWN_KINDS:
            known = ", ".join(KNOWN_KINDS)
            raise LiDiTError(f"no kind {self.kind!r}: expected one of {known}; pick one")
        if self.size not in (None, *SIZES):
            raise LiDiTError(f"size {self.size!r}: expected one of {SIZES}; pick one or none")


@dataclass(frozen=True)
class SceneRequest:
    """What a caption says about a picture; the relation reads "items[0] is <relation> items[1]"."""

    items: tuple[Item, ...]
    relation: str | None = None
    background: str | None = None  # None: any
    place: str | None = None  # of the one object there is; None: anywhere

    def __post_init__(self) -> None:
        total = sum(item.count for item in self.items)
        if not 1 <= total <= MAX_OBJECTS or any(item.count < 1 for item in self.items):
            raise LiDiTError(
                f"a scene of {total} objects: expected 1 to {MAX_OBJECTS}; change the counts"
            )
        if self.background is not None and self.background not in BACKGROUNDS:
            raise LiDiTError(
                f"background {self.background!r}: expected one of {tuple(BACKGROUNDS)}; pick one"
            )
        if self.relation is not None and (self.relation not in RELATIONS or len(self.items) != 2):
            raise LiDiTError(
                f"relation {self.relation!r} of {len(self.items)} groups: expected one of "
                f"{RELATIONS} between exactly two; change either"
            )

        if self.place is not None and (self.place not in PLACES or total != 1):
            raise LiDiTError(
                f"place {self.place!r} of {total} objects: expected one of {PLACES} of one object; "
                "change either"
            )

    @property
    def total(self) -> int:
        """Number of objects."""
        return sum(item.count for item in self.items)

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds, one per group."""
        return tuple(item.kind for item in self.items)
