"""A scene as a phrase, a sentence, a command, a question, a list or several sentences."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from ..request import SceneRequest
from .phrases import Phrase
from .words import Words

OPENING_SHARE = 0.3


def scene(
    request: SceneRequest, groups: list[Phrase], words: Words, rng: Random, inside: bool = False
) -> str:
    """All groups in one phrase, and where they are.

    Args:
        inside: a sentence follows on both sides, so that the phrase begins with a group.
    """
    texts = [group.text for group in groups]
    if request.relation is not None:
        forms = words.relations[request.relation]
        forms = [form for form in forms if form[0] == "{"] if inside else forms
        return rng.choice(forms).format(a=texts[0], b=texts[1])
    if request.place is not None:
        place = rng.choice(words.places[request.place])
        return f"{texts[0]} {place}" if inside or rng.random() < 0.7 else f"{place} {texts[0]}"
    if len(texts) == 2 and rng.random() < 0.8:
        return rng.choice(words.pairs).format(a=texts[0], b=texts[1])
    comma, last = rng.choice(words.lists)
    return comma.join(texts[:-1]) + (last if len(texts) > 1 else "") + texts[-1]


def _with_ground(
    text: str, request: SceneRequest, words: Words, rng: Random, inside: bool = False
) -> str:
    if request.background is None:
        return text
    forms = [form for form in words.backgrounds if form.startswith("{scene}") or not inside]
    return rng.choice(forms).format(scene=text, bg=request.background)


def _ground(request: SceneRequest, words: Words, rng: Random) -> list[str]:
    """The background in a sentence of its own."""
    if request.background is None:
        return []
    return [rng.choice(words.grounds).format(bg=request.background)]


def as_phrase(request: SceneRequest, groups: list[Phrase], words: Words, rng: Random) -> list[str]:
    text = scene(request, groups, words, rng)
    if rng.random() < OPENING_SHARE and request.relation is None:
        text = rng.choice(words.openings) + text
    return [_with_ground(text, request, words, rng)]


def as_sentence(
    request: SceneRequest, groups: list[Phrase], words: Words, rng: Random
) -> list[str]:
    """A statement, a command or a question; the background inside it or beside it."""
    forms = (*words.sentences, *words.commands, *words.questions)
    text, beside = scene(request, groups, words, rng, inside=True), []
    if rng.random() < 0.6:
        text = _with_ground(text, request, words, rng, inside=True)
    else:
        beside = _ground(request, words, rng)
    sentence = rng.choice(forms).format_map({"scene": text, "is": groups[0].verb})
    return _shuffled([sentence, *beside], rng)


def as_list(request: SceneRequest, groups: list[Phrase], words: Words, rng: Random) -> list[str]:
    """Comma by comma, as tags; a relation keeps its phrase."""
    texts = [group.text for group in groups]
    if request.relation or request.place:
        texts = [scene(request, groups, words, rng)]
    ground = [f"{request.background} background"] if request.background else []
    return [rng.choice((", ", ", ", "; ", " | ")).join(_shuffled([*texts, *ground], rng))]


def as_story(request: SceneRequest, groups: list[Phrase], words: Words, rng: Random) -> list[str]:
    """A sentence for each group, then one for where they are; the background anywhere."""
    told = [
        rng.choice(words.introductions).format_map({"a": group.text, "is": group.verb})
        for group in _shuffled(groups, rng)
    ]
    if request.relation is not None:
        x, y = groups
        form = rng.choice(words.statements[request.relation])
        told.append(form.format_map({"x": x.noun, "y": y.noun, "is": x.verb}))
    if request.place is not None:
        there = rng.choice(words.places[request.place])
        told.append(f"The {groups[0].noun} {groups[0].verb} {there}.")
    for sentence in _ground(request, words, rng):
        told.insert(rng.choice((0, len(told))), sentence)
    return told


def _shuffled(members: list, rng: Random) -> list:
    return rng.sample(members, len(members))


Form = Callable[[SceneRequest, list[Phrase], Words, Random], list[str]]
FORMS: dict[Form, float] = {as_phrase: 0.4, as_sentence: 0.3, as_list: 0.1, as_story: 0.2}
