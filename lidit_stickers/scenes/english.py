"""English wordings of scene requests: a finite grammar."""

from __future__ import annotations

from random import Random

from .kinds import KNOWN_KINDS, Noun
from .request import Item, SceneRequest

NUMBERS = {2: ("two", "two", "2"), 3: ("three", "three", "3"), 4: ("four", "four", "4")}
SIZE_WORDS = {"small": ("small", "little", "tiny"), "big": ("big", "large", "huge")}
OPENINGS = ("a picture of ", "a sticker of ", "a drawing of ", "an image of ", "draw ")
BACKGROUND_WORDS = (
    "{scene} on a {bg} background",
    "{scene} on a {bg} background",
    "{scene}, {bg} background",
    "{scene} against a {bg} background",
    "{scene} with a {bg} background",
    "{scene} on {bg}",
    "{scene} in front of a {bg} background",
    "on a {bg} background, {scene}",
    "a {bg} background with {scene}",
)
PAIR_WORDS = ("{a} and {b}", "{a} and {b}", "{a} with {b}", "{a} together with {b}")
RELATION_WORDS = {
    "left of": (
        "{a} to the left of {b}",
        "{a} left of {b}",
        "{a} on the left of {b}",
        "{a} on the left and {b} on the right",
        "on the left {a}, on the right {b}",
        "{b} to the right of {a}",
    ),
    "right of": (
        "{a} to the right of {b}",
        "{a} right of {b}",
        "{a} on the right of {b}",
        "{a} on the right and {b} on the left",
        "on the right {a}, on the left {b}",
        "{b} to the left of {a}",
    ),
    "above": (
        "{a} above {b}",
        "{a} over {b}",
        "{a} on top of {b}",
        "{a} at the top and {b} at the bottom",
        "{b} below {a}",
        "{b} with {a} above",
    ),
    "below": (
        "{a} below {b}",
        "{a} under {b}",
        "{a} beneath {b}",
        "{a} at the bottom and {b} at the top",
        "{b} above {a}",
        "{b} with {a} below",
    ),
}


def word(request: SceneRequest, rng: Random, unseen: bool = False) -> str:
    """One wording of the request; `unseen` takes synonyms that training never uses."""
    terse = rng.random() < 0.15
    phrases = [_phrase(item, rng, terse, unseen) for item in request.items]
    if request.relation is not None:
        scene = rng.choice(RELATION_WORDS[request.relation]).format(a=phrases[0], b=phrases[1])
    elif len(phrases) == 1:
        scene = phrases[0]
    elif len(phrases) == 2:
        scene = rng.choice(PAIR_WORDS).format(a=phrases[0], b=phrases[1])
    else:
        scene = f"{', '.join(phrases[:-1])} and {phrases[-1]}"
    if not terse and not scene.startswith("on the ") and rng.random() < 0.3:
        scene = rng.choice(OPENINGS) + scene
    if request.background is not None:
        scene = _background(scene, request.background, rng)
    return scene[0].upper() + scene[1:] + "." if rng.random() < 0.15 else scene


def _background(scene: str, background: str, rng: Random) -> str:
    """The scene with its background; a scene that opens with a place keeps the opening."""
    words = BACKGROUND_WORDS
    if scene.startswith(("on the ", *OPENINGS)):
        words = tuple(w for w in words if w.startswith("{scene}"))
    return rng.choice(words).format(scene=scene, bg=background)


def _phrase(item: Item, rng: Random, terse: bool, unseen: bool) -> str:
    """Noun phrase: "a small red car", "three apples", tersely "red car"."""
    kind = KNOWN_KINDS[item.kind]
    singular, plural = _pick(kind.unseen if unseen else kind.nouns, rng)
    words = [] if item.size is None else [rng.choice(SIZE_WORDS[item.size])]
    words += [] if item.colour is None else [item.colour]
    words.append(singular if item.count == 1 else plural)
    text = " ".join(words)
    if item.count > 1:
        return f"{rng.choice(NUMBERS[item.count])} {text}"
    if terse:
        return text
    return f"{'an' if text[0] in 'aeiou' else 'a'} {text}"


def _pick(nouns: tuple[Noun, ...], rng: Random) -> Noun:
    """The plain name half of the time, a synonym otherwise."""
    return nouns[0] if rng.random() < 0.5 else rng.choice(nouns)
