"""The terms that an LLM's maker passes on to what was trained on its states."""

from __future__ import annotations

from collections.abc import Iterable

TERMS_KEY = "terms"  # of a file's metadata
TERMS = {  # by a part of the LLM's name
    "gemma": "Gemma is provided under and subject to the Gemma Terms of Use found at "
    "https://ai.google.dev/gemma/terms",
}


def terms_for(llms: Iterable[str]) -> dict[str, str]:
    """The metadata with the terms that makers of these LLMs pass on; empty where none does."""
    names = [name.lower() for name in llms]
    found = [terms for part, terms in TERMS.items() if any(part in name for name in names)]
    return {TERMS_KEY: "\n".join(found)} if found else {}
