"""What a checkpoint says of one of its LLMs: `LLMSpec`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ..errors import check, shown
from ..llm.blocks import EVERY_BLOCK, plain_block, taps_in
from ..llm.fingerprint import same_llm
from .templates import InstructionTemplate, find_template


def place_of(llms: Sequence[LLMSpec], name: str, fingerprint: str) -> int | None:
    """The place of one of these LLMs, by its name, or else by its weights; None = none of them."""
    names = [spec.name for spec in llms]
    if name in names:
        return names.index(name)
    alike = [place for place, spec in enumerate(llms) if spec.is_read_by(fingerprint)]
    return alike[0] if len(alike) == 1 else None


@dataclass(frozen=True)
class LLMSpec:
    """The LLM that a branch was trained on, and how its states are made."""

    name: str  # as the LLM's own card names it
    width: int  # numbers in a hidden state of one block
    block: int | str | tuple[int, ...] = -3  # whose output is read; -3 = third to last (paper);
    # several are taps, whose states are mixed; or see `load_llm`
    template: InstructionTemplate = field(default_factory=lambda: find_template("paper"))
    token_budget: int = 256  # tokens of a prompt that are read; a longer one is cut, and it is said
    longest_prompt: int | None = None  # tokens of the longest prompt trained on; None = not known
    fingerprint: str = ""  # of the weights trained on, see `llm/fingerprint.py`; "" = not known
    storage: str = ""  # the class of numbers that those were stored in, see `llm/storage.py`

    def __post_init__(self) -> None:
        llm = f"LLM {shown(self.name)}"
        check(self.width > 0, f"{llm} has width {self.width}; expected 1 or more")
        object.__setattr__(self, "block", plain_block(self.block))
        check(
            isinstance(self.block, (int, tuple)) or self.block in EVERY_BLOCK,
            f"{llm} is read at block {shown(self.block)}; expected a number, several, 'all' "
            "or 'differences'",
        )
        check(
            self.token_budget > 0,
            f"{llm} has a budget of {self.token_budget} tokens; expected 1 or more",
        )
        check(
            self.longest_prompt is None or self.longest_prompt >= 0,
            f"{llm} has longest_prompt={self.longest_prompt}; expected 0 or more "
            "tokens, or null where it is not known",
        )

    def is_read_by(self, fingerprint: str) -> bool | None:
        """Whether an LLM of this fingerprint is the one trained on; None = not known."""
        return same_llm(self.fingerprint, fingerprint)

    def weights_note(self, name: str, fingerprint: str) -> str:
        """A sentence on an LLM of this branch's name whose weights are others; "" for any other.

        Args:
            name, fingerprint: of the LLM that reads.
        """
        if name != self.name or self.is_read_by(fingerprint) is not False:
            return ""
        return (
            f"the LLM {name} here has other weights than the one that this was trained on, as a "
            "base model and its instruct version have; pictures may be worse: get the LLM of that "
            "name from where its model card says"
        )

    def storage_note(self, name: str, storage: str) -> str:
        """A sentence on an LLM stored in another class of numbers than the one trained on.

        "" for one stored alike, and where either is not known.

        Args:
            name, storage: of the LLM that reads.
        """
        if not (self.storage and storage) or self.storage == storage:
            return ""
        return (
            f"the LLM {name} is stored as {storage} here and this was trained on what it says "
            f"stored as {self.storage}, so that pictures may be worse: load it as {self.storage}"
        )

    @property
    def taps(self) -> int:
        """How many blocks' states are mixed; 1 where one is read."""
        return taps_in(self.block)

    @property
    def state_width(self) -> int:
        """Numbers in the states of one token."""
        return self.width * self.taps

    def length_note(self, used: int) -> str:
        """A sentence on a prompt that is longer than all that were trained on; "" for any other.

        Args:
            used: tokens of the prompt that are read, the template's not counted.
        """
        if self.longest_prompt is None or used <= self.longest_prompt:
            return ""
        return (
            f"{used} tokens are read by {self.name}, and these weights were trained on prompts of "
            f"at most {self.longest_prompt}; what lies beyond may break the picture: shorten the "
            "prompt, or use weights that were trained on longer ones"
        )
