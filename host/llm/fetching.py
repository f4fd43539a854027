"""A demo LLM that the loader names and that is not here: what is told of it, and its fetching."""

from __future__ import annotations

from ...lidit_core.llm.demo_llms import DEMO_LLMS, DemoLLM, MissingLLM
from ...lidit_core.llm.fetch import fetch, paste_line
from ...lidit_core.llm.gguf.convert import check_packages
from ..folders import plain_name
from .files import is_here, llm_source


def offers() -> dict[str, str]:
    """Size, source and licence of every demo LLM, by its name in the loader's list."""
    return {llm.name: llm.offer for llm in DEMO_LLMS}


def present_source(name: str, may_fetch: bool) -> str:
    """What `locate` takes for an LLM of the loader's list, which is fetched first if it may be.

    Raises:
        MissingLLM: a demo LLM is not here and may not be fetched.
        LiDiTError: any other is not here, or the fetching failed.
    """
    llm = _missing(name)
    if llm is not None:
        if not may_fetch:
            raise MissingLLM(_how_to_get(llm))
        check_packages()
        fetch(llm)
    return llm_source(name)


def _missing(name: str) -> DemoLLM | None:
    name = plain_name(name)
    found = next((llm for llm in DEMO_LLMS if llm.name == name), None)
    return None if found is None or is_here(name) else found


def _how_to_get(llm: DemoLLM) -> str:
    accepted = " and accept its licence" if llm.terms else ""
    return (
        f"the LLM {llm.name} is not on this machine; set this node's switch 'fetch' and run again "
        f"to fetch it{accepted} ({llm.offer}), or paste into a terminal: {paste_line(llm.name)}"
    )
