"""The wide English grammar: one request in any of the ways that people would ask for it."""

from __future__ import annotations

import re
from random import Random

from lidit_core.errors import LiDiTError

from ..kinds import Noun
from ..request import SceneRequest
from .filler import fill_with_story, fill_with_tags, length
from .nouns import TRAINED_NOUNS
from .phrases import phrase
from .sentences import FORMS
from .trained import TRAINED
from .words import Words

LENGTHS = {None: 0.5, (14, 35): 0.25, (35, 80): 0.25}  # tokens to be reached; None: just the facts
LONGEST = 84  # tokens as `filler.length` estimates them, so that 96 hold every caption
TAG_SHARE = 0.4  # of the filled captions that are filled with tags
TRIES = 50
LOWER_SHARE = 0.15  # of captions without capitals


def word(
    request: SceneRequest,
    rng: Random,
    words: Words = TRAINED,
    nouns: dict[str, tuple[Noun, ...]] = TRAINED_NOUNS,
    target: int | None = None,
) -> str:
    """One wording of the request.

    Args:
        target: tokens to be reached at least with praise and story; None draws a number.
    Raises:
        LiDiTError: the request and the target do not fit into `LONGEST` tokens.
    """
    for _ in range(TRIES):
        text = _try(request, rng, words, nouns, _target(rng) if target is None else target)
        if length(text) <= LONGEST:
            return text
    raise LiDiTError(f"a wording of {target} tokens: expected at most {LONGEST}; ask for fewer")


def _try(request: SceneRequest, rng: Random, words: Words, nouns, target: int) -> str:
    groups = [phrase(item, nouns[item.kind], words, rng) for item in request.items]
    form = rng.choices(tuple(FORMS), tuple(FORMS.values()))[0]
    facts = form(request, groups, words, rng)
    if target and rng.random() < TAG_SHARE:
        text = fill_with_tags(" ".join(facts), target, words, rng)
    else:
        text = " ".join(fill_with_story(facts, target, words, rng))
    text = re.sub(r",+([,.?!;|])", r"\1", text)  # a comma behind attributes may meet another
    return text.lower() if rng.random() < LOWER_SHARE else text


def _target(rng: Random) -> int:
    """A number of tokens; 0 where the facts are enough."""
    bounds = rng.choices(tuple(LENGTHS), tuple(LENGTHS.values()))[0]
    return rng.randint(*bounds) if bounds else 0
