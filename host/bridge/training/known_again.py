"""Whether a run of before is the one that is asked for, by what each is of; see `about.py`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

COLLECTION = "recorded prompts"  # which texts, beside `prompts`, how many of them a step has

# By their names here, what a run is of that older versions did not write down.
HASHED = {
    "weights": "weights in the model's file",
    "patches": "LoRAs, patches or loading options of the model",
    "llms": "LLMs",
    "recorded": "recorded conditioning",
    COLLECTION: "prompts in the recording",
    "latent's numbers": "numbers in the latent",
}
LATENT, DRAWN = "latent", "latent drawn at"  # the shape of the one connected, and the sides drawn


def difference(found: Mapping[str, Any], about: Mapping[str, Any]) -> str:
    """What a run of before was of otherwise, for a sentence; "" where it is the same run.

    What its version did not write down is not compared, see `untold`.
    """
    if LATENT in found:  # older versions drew it as it was given, whatever it was made for
        found = {DRAWN: found[LATENT][2:], **found}
    found = {"blocks": 0, **found}  # older versions compared predictions alone
    names = [*about, *(("adds to",) if "adds to" in found else ())]
    for name in names:
        if name in HASHED and name in found and found[name] != about[name]:
            return f"with other {HASHED[name]}"
        if name not in HASHED and found.get(name) != about.get(name):
            return f"with {name} {found.get(name)!r}, and here it is {about.get(name)!r}"
    return ""


def untold(found: Mapping[str, Any], what: str) -> str:
    """A sentence on a run of before that does not say all; "" for one that does.

    Args:
        what: the file that says what it is of.
    """
    missing = [words for name, words in HASHED.items() if name not in found]
    if not missing:
        return ""
    return (
        f"{what} is of an older version, which did not keep what it was trained with, and is taken "
        f"for this run's; if it had other {', or other '.join(missing)}, choose another name"
    )
