"""More fixed lists of prompts: the held-out requests in other words, at length, in two languages.

No list ever changes. What is asked for contains a combination that the rule of `heldout` keeps out
of training, as in `evaluation`; the words of `wordings.kept` are kept out besides.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from random import Random

from .evaluation import CATEGORIES, evaluation_prompts, held_out_requests
from .scenes import english
from .scenes.grammar import Caption
from .scenes.kinds import KINDS
from .scenes.request import SceneRequest
from .scenes.wordings import chinese, wide
from .scenes.wordings.kept import KEPT

PARAPHRASES = 50  # a category
LONG, LONG_TOKENS = 100, (46, 78)  # prompts, and about how many tokens they have
MIXED = 60
NOUNS = {key: kind.nouns for key, kind in KINDS.items()}  # as in the fixed prompts


def _chosen(rng: Random, count: int) -> list[tuple[str, SceneRequest]]:
    """Draw `count` requests with their categories, evenly from all."""
    pools = {name: rng.sample(r, len(r)) for name, r in held_out_requests(rng).items()}
    return [(name, pools[name].pop()) for name in (CATEGORIES * count)[:count]]


def _captions(
    chosen: list[tuple[str, SceneRequest]], word: Callable[[SceneRequest], str]
) -> tuple[Caption, ...]:
    return tuple(Caption(word(request), "en", request, name) for name, request in chosen)


@lru_cache(maxsize=1)
def paraphrases() -> list[Caption]:
    """300 prompts of the six categories in words that no training caption is made of."""
    rng = Random("paraphrases 1")
    chosen = _chosen(rng, PARAPHRASES * len(CATEGORIES))
    chosen.sort(key=lambda pair: CATEGORIES.index(pair[0]))
    return list(_captions(chosen, lambda r: wide.word(r, rng, KEPT, NOUNS, target=0)))


@lru_cache(maxsize=1)
def _long_requests() -> list[tuple[str, SceneRequest]]:
    return _chosen(Random("long prompts 1"), LONG)


@lru_cache(maxsize=1)
def long_prompts() -> list[Caption]:
    """100 prompts of 30 to 90 tokens, every other one in words that are kept from training."""
    rng, captions = Random("long wordings 1"), []
    for i, (category, request) in enumerate(_long_requests()):
        words = {"words": KEPT, "nouns": NOUNS} if i % 2 else {}
        text = wide.word(request, rng, target=rng.randint(*LONG_TOKENS), **words)
        captions.append(Caption(text, "en", request, category))
    return captions


@lru_cache(maxsize=1)
def long_prompts_in_short() -> list[Caption]:
    """What the long prompts ask for, in the short wordings of the fixed prompts."""
    rng = Random("short wordings 1")
    return list(_captions(_long_requests(), lambda request: english.word(request, rng)))


@lru_cache(maxsize=1)
def mixed_prompts() -> list[Caption]:
    """60 held-out requests with Chinese and English in a sentence."""
    rng = Random("mixed prompts 1")
    chosen = [request for _, request in _chosen(rng, MIXED)]
    return [Caption(chinese.mixed(request, rng), "mixed", request, "mixed") for request in chosen]


@lru_cache(maxsize=1)
def half_prompts() -> list[Caption]:
    """The fixed prompts' requests of two things or a background, half in English, half in Chinese.

    Things and background take the languages by turns, so that nobody knows what is asked for who
    reads one of them.
    """
    rng, known = Random("halves 1"), evaluation_prompts()
    whole = [c for c in known if len(c.request.items) + bool(c.request.background) > 1]
    texts = [chinese.halves(c.request, rng, bool(n % 2)) for n, c in enumerate(whole)]
    told = zip(texts, whole, strict=True)
    each = {text: Caption(text, "mixed", c.request, c.category) for text, c in told}
    return list(each.values())
