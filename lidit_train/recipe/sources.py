"""The sources of a recipe's captioned pictures, and the shapes that they are brought to."""

from __future__ import annotations

from dataclasses import dataclass, field

from lidit_core.errors import check, shown

from ..ranges import in_range, one_of

LANGUAGES = ("en", "zh", "mixed")  # of sticker scenes
KINDS = ("folder", "table", "shards", "stickers", "recording")
MOST_ORDERS = 1000  # of a caption's tags
WITHOUT = ("urls", "tags")  # kinds of captions that a source may do without


@dataclass(frozen=True)
class Source:
    """Some captioned pictures.

    kind "folder": picture files below ``path``, each with caption files of the same stem;
    "table": a metadata.jsonl, CSV or parquet file whose rows name pictures beside it;
    "shards": tar files in the WebDataset layout, ``path`` a folder, a file or a glob;
    "stickers": scenes drawn on the fly, ``path`` their language, one of LANGUAGES;
    "recording": what a text encoder makes of prompts, for a bridge, ``path`` its folder.
    """

    kind: str  # how its pictures lie
    path: str  # of the folder, table or shards; of stickers the language
    captions: dict[str, float] = field(default_factory=lambda: {"txt": 1.0})
    # extensions (folder, shards) or columns (table) of the captions, and how often each is read
    image: str = ""  # table: the column of the picture's path; "" = file_name or image
    weight: float = 1.0  # pictures drawn from it, in relation to its number of pictures
    branches: tuple[int, ...] = ()  # that read its language; () = all
    count: int = 0  # stickers: scenes to draw from
    distinct: int = 0  # stickers: different captions among them
    mask: str = ""  # what the loss counts: "alpha", the picture's alpha channel; or a grey picture,
    # white where it counts: by its extension (folder, shards; "mask.png" is cat.mask.png beside
    # cat.png, "-mask.png" cat-mask.png), or by its column (table); "" = all of it
    outside: float = 0.0  # weight in the loss of what is black in the mask
    loss_weight: float = 1.0  # of its pictures; below 1 for pictures that only keep what is known
    prefix: str = ""  # stands before every caption: a trigger word, as "ohwx,"
    default_caption: str = ""  # of pictures that have none, as "ohwx dog"; "" = they are left out
    tag_orders: int = 0  # in which a caption's comma-separated tags are read, the written one among
    # them; which one is drawn at every sample. Cached, each is read by the LLMs. 0 = as written
    keep_tags: int = 0  # first tags that keep their places
    least: dict[str, float] = field(default_factory=dict)
    # columns (table) or fields of the .json beside a picture, and the least number in each that a
    # picture must have, as {aesthetic: 4.7} (paper); those below it or without one are left out
    most: dict[str, float] = field(default_factory=dict)  # the same with the largest number
    without: tuple[str, ...] = ()  # kinds of captions that are not read: "urls", with an address of
    # the web; "tags", bare lists of tags. A picture that has no other caption is left out.

    def __post_init__(self) -> None:
        called = f"source {shown(self.path)}"
        one_of("a source's kind", self.kind, KINDS)
        check(
            self.weight > 0 and all(w > 0 for w in self.captions.values()) and bool(self.captions),
            f"{called} has weight {self.weight} and captions {shown(self.captions)}; expected "
            "weights above 0 and one caption or more",
        )
        check(
            self.kind != "shards" or self.mask[:1] not in ("-", "_"),
            f"{called} has mask={shown(self.mask)}; expected the extension of masks in shards, as "
            "mask.png, or alpha",
        )
        in_range(self, called, "outside", low=0, high=1)
        in_range(self, called, "loss_weight", low=0)
        check(
            bool(self.mask) or not self.outside,
            f"{called} has outside={self.outside:g} and no mask; name one, or leave outside away",
        )
        in_range(self, called, "tag_orders", low=0, high=MOST_ORDERS)
        in_range(self, called, "keep_tags", low=0)
        check(
            not self.keep_tags or self.tag_orders > 1,
            f"{called} has keep_tags={self.keep_tags} and tag_orders={self.tag_orders}; expected 2 "
            "orders or more for tags to be kept in, or no keep_tags",
        )
        for kind in self.without:
            one_of(f"a kind of captions that {called} is without", kind, WITHOUT)
        if self.kind == "stickers":
            self._refuse_of_stickers("mask", "least", "most", "without", "default_caption")
            one_of("a sticker source's path, its language,", self.path, LANGUAGES)
            in_range(self, f"sticker {called}", "count", "distinct", low=1)

    def _refuse_of_stickers(self, *names: str) -> None:
        """Refuse fields of pictures that lie in files."""
        for name in names:
            check(
                not getattr(self, name),
                f"sticker source {shown(self.path)} has {name}={shown(getattr(self, name))}, which "
                "is for pictures in files; leave it out",
            )


@dataclass(frozen=True)
class Buckets:
    """Shapes that pictures are brought to; a batch holds one shape only (paper)."""

    longest: float = 2.0  # longer side / shorter side of the longest bucket
    step: int = 64  # pixels by which the sides of two buckets differ
    limit: float = 4.0  # pictures longer than this are left out rather than cropped so far

    def __post_init__(self) -> None:
        in_range(self, "buckets", "step", "limit", low=1)
        in_range(self, "buckets", "longest", low=1, high=100)


@dataclass(frozen=True)
class Data:
    """Captioned pictures, and how they are read."""

    sources: tuple[Source, ...]  # of captioned pictures, by number for the stages
    buckets: Buckets = Buckets()
    caption_dropout: float = 0.1  # share of samples that read the empty prompt instead
    text_zeroing: float = 0.01  # share of samples without any text token
    workers: int = 0  # processes that read ahead; 0 = none
    smallest: int = 32  # pictures with a shorter side than this are left out, pixels

    def __post_init__(self) -> None:
        check(bool(self.sources), "the recipe's data has no sources; expected one or more")
        in_range(self, "data", "caption_dropout", low=0, high=1)
        in_range(self, "data", "text_zeroing", low=0, high=1 - self.caption_dropout)
        in_range(self, "data", "workers", low=0)
        in_range(self, "data", "smallest", low=1)
