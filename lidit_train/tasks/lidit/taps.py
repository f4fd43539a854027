"""Several layers of an LLM where a recipe names none: `block: taps`."""

from __future__ import annotations

from typing import Any

from lidit_core.errors import LiDiTError
from lidit_core.llm.blocks import default_taps
from lidit_core.llm.decoder.build import text_config
from lidit_core.llm.locate import locate

TAPS = "taps"  # the word for them


def with_taps(config: dict[str, Any]) -> dict[str, Any]:
    """A model's configuration with the numbers of blocks where an LLM's block is `taps`.

    Raises:
        LiDiTError: an LLM whose block is that is not on this machine under its name.
    """
    llms = config.get("llms")
    if not isinstance(llms, list):
        return config
    return {**config, "llms": [_numbered(llm) for llm in llms]}


def _numbered(llm: Any) -> Any:
    if not isinstance(llm, dict) or llm.get("block") != TAPS:
        return llm
    name = str(llm.get("name", ""))
    found = locate(name)
    if found.folder is None or not found.converted:
        raise LiDiTError(
            f"the recipe reads block: {TAPS} of {name}, whose number of blocks is known where it "
            "is on this machine as safetensors; write the blocks as numbers, as [3, 6, 9]"
        )
    total = text_config(found.folder, found.name).num_hidden_layers
    return {**llm, "block": list(default_taps(total))}
