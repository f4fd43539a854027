"""The terms that makers pass on: to what was trained on an LLM's states, and to its tokenizer."""

from __future__ import annotations

import re
from collections.abc import Iterable

TERMS_KEY = "terms"  # of a file's metadata: what holds for all of the file
TOKENIZERS_KEY = "tokenizers"  # there too: the licence of each tokenizer in the file, a line each
GEMMA = (
    "Gemma is provided under and subject to the Gemma Terms of Use found at "
    "https://ai.google.dev/gemma/terms"
)
LLAMA = (
    "Llama 3 is licensed under the Meta Llama 3 Community License, Copyright © Meta Platforms, "
    "Inc. All Rights Reserved. A copy of that agreement has to go along with this file"
)
CLIP = "MIT License, Copyright (c) 2021 OpenAI, https://github.com/openai/CLIP/blob/main/LICENSE"
APACHE = "Apache License 2.0, https://www.apache.org/licenses/LICENSE-2.0"
UNKNOWN = (
    "its licence is not known here; before you pass this file on, look whether that of the text "
    "encoder lets its tokenizer go along"
)
OF_GEMMA = r"gemma(?![-_ ]?4)"  # of which the fourth is under the Apache License
TERMS = {  # by a part of the name of an LLM, of a host's text model or of its class
    rf"{OF_GEMMA}|^(ltxav|lumina|newbie)temodel": GEMMA,
}
TOKENIZERS = {  # by a part of the name of an LLM or of a host's text model; the first that is found
    r"^(clip_)?[lgh]$": CLIP,
    OF_GEMMA: GEMMA,
    r"^llama$|llama[-_ ]?3": LLAMA,
    r"gemma|(?<!pile[-_])t5|qwen|smollm|^(mi|mini)stral3_": APACHE,  # Pile-T5's is Llama's first
    r"^words$": f"none but this library's own: {APACHE}",  # the demo checkpoint's
}


def terms_for(llms: Iterable[str]) -> dict[str, str]:
    """The metadata with the terms that makers of these LLMs pass on; empty where none does."""
    names = [name.lower() for name in llms]
    found = [terms for part, terms in TERMS.items() if any(re.search(part, n) for n in names)]
    return {TERMS_KEY: "\n".join(found)} if found else {}


def tokenizer_terms(names: Iterable[str]) -> dict[str, str]:
    """The metadata with the licences of tokenizers that lie in a file.

    Args:
        names: of the LLMs or a host's text models whose they are, such as clip_l or gemma3_12b.
    """
    lines = [f"{name}: {_licence(name.lower())}" for name in dict.fromkeys(names)]
    return {TOKENIZERS_KEY: "\n".join(lines)}


def _licence(name: str) -> str:
    found = (terms for part, terms in TOKENIZERS.items() if re.search(part, name))
    return next(found, UNKNOWN)
