"""One page of HTML that holds all pictures and needs nothing besides."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from random import Random
from typing import Any

PLACE = "/*TRIALS*/"  # in the template, where the data goes


@dataclass(frozen=True)
class Pair:
    """One prompt's pictures by the two models."""

    prompt: str
    first: Path
    second: Path


def page_of(pairs: Sequence[Pair], names: tuple[str, str], seed: int, identity: str) -> str:
    """The page; order and sides are drawn from the seed, and are not to be seen in it.

    Args:
        names: of the two models, shown when all is chosen.
        identity: under which a browser keeps the choices of this page.
    """
    rng = Random(f"blind {seed}")
    chosen = rng.sample(list(pairs), len(pairs))
    trials = [_trial(pair, rng.random() < 0.5) for pair in chosen]
    data = {"names": list(names), "identity": identity, "trials": trials}
    template = files("lidit_eval.blind").joinpath("page.html").read_text(encoding="utf-8")
    assert template.count(PLACE) == 1
    return template.replace(PLACE, json.dumps(data).replace("</", "<\\/"))


def _trial(pair: Pair, swapped: bool) -> dict[str, Any]:
    sides = (pair.second, pair.first) if swapped else (pair.first, pair.second)
    left, right = (_embedded(path) for path in sides)
    return {"prompt": pair.prompt, "left": left, "right": right, "swapped": swapped}


def _embedded(path: Path) -> str:
    """A picture's bytes without its metadata, which name the model."""
    from io import BytesIO

    from PIL import Image

    with Image.open(path) as picture:
        plain = BytesIO()
        picture.convert("RGB").save(plain, format="PNG")
    return "data:image/png;base64," + base64.b64encode(plain.getvalue()).decode("ascii")
