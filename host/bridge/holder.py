"""What the host's memory manager holds of a bridge's CLIP, and how that encodes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from comfy import model_management
from torch import Tensor, nn

from ...lidit_core.bridge.clipproj import LoadedProjection, projected
from ...lidit_core.bridge.encode import POOLED, OwnEntry, added, conditioning
from ...lidit_core.bridge.file import LoadedBridge
from ...lidit_core.errors import LiDiTError
from ...lidit_core.io.conditioning import Entry
from ...lidit_core.text.emphasis import EmphasisedPrompt, read_emphasis
from ..keys import MODEL_CONDS
from ..llm.reader import HostCLIP
from ..llm.weights import move_the_rest
from ..node_notes import note
from .drawing import ForBridge
from .files import Loaded, adds, llms_of, module_of, parts_pooled, reads_weights
from .mixing import OwnEncoder, mixed
from .readers import read
from .tokens import TEXT, one_text, pair_of, texts_of, unescaped


@dataclass(frozen=True)
class Wiring:
    """What is connected to a bridge."""

    loaded: Loaded
    clips: list[HostCLIP]  # in the order of the bridge's LLMs
    encoder: OwnEncoder | None = None
    strength: float = 1.0


class BridgeHolder(nn.Module):
    """A bridge as the host's text model. The LLMs and the encoder are CLIPs with their own."""

    def __init__(self, wiring: Wiring) -> None:
        super().__init__()
        self.wiring, self.bridge = wiring, module_of(wiring.loaded)
        self.dtypes = {torch.float32}
        self.device = torch.device("cpu")  # the host's: where the weights were loaded to last

    def load_sd(self, state: dict):
        return self.load_state_dict(state, strict=False)

    def reset_clip_options(self) -> None:
        """Do nothing: nothing is kept from one prompt to the next."""

    def set_clip_options(self, options: dict) -> None:
        if options.get("layer") is not None:
            raise LiDiTError(
                f"CLIP Set Last Layer asks for layer {options['layer']} of a bridge, which writes "
                "what it was trained on; connect that node to the encoder that is recorded"
            )

    def generate(self, *_, **__) -> None:
        """Refuse what the host's nodes for writing text ask for."""
        raise LiDiTError(
            "this CLIP is a bridge and writes no text; connect the LLM's own CLIP to LI-DiT Expand "
            "Prompt"
        )

    def encode_token_weights(self, tokens: dict) -> tuple[Tensor, Tensor | None, dict]:
        """Sequence, pooled vector, and what else an entry of CONDITIONING holds."""
        texts, encoder = texts_of(tokens), self.wiring.encoder
        if encoder is not None and self.wiring.strength == 0:
            return _given(encoder.entry(texts))
        pair = pair_of(texts) if parts_pooled(self.wiring.loaded) else None
        if pair is None:
            return _given(self._entry(texts, one_text(texts)))
        (sequence, values), (_, others) = (self._entry({TEXT: text}, text) for text in pair)
        return _given((sequence, {**values, POOLED: others[POOLED]}))

    def _entry(self, texts: Mapping[str, str | None], text: str) -> Entry:
        """What is written of one prompt.

        Args:
            texts: of the boxes that it was given in.
        """
        wiring, adding = self.wiring, adds(self.wiring.loaded)
        if wiring.encoder is None or not (adding or wiring.strength < 1):
            return self._written(text)
        own = wiring.encoder.entry(texts)
        if self._is_empty(text):
            return own
        self._tell_tokens(text)
        if adding:
            return self._added(texts, text, own)
        return mixed(own, self._written(text), wiring.strength)

    def _is_empty(self, text: str) -> bool:
        """Whether a prompt is empty to the encoder that the bridge writes for."""
        loaded = self.wiring.loaded
        return isinstance(loaded, LoadedBridge) and loaded.is_empty(self._prompt(text).text)

    def _tell_tokens(self, text: str) -> None:
        """Tell of a prompt in which the encoder reads other tokens than the bridge has rows for."""
        loaded, encoder = self.wiring.loaded, self.wiring.encoder
        if encoder is None or not isinstance(loaded, LoadedBridge):
            return
        if not encoder.reads_as(loaded.rows, self._prompt(text), text):
            note(
                "the encoder reads embeddings in this prompt, or is another than the bridge was "
                "trained for; the bridge takes their names for text, and its rows may lie beside "
                "those that were meant"
            )

    def _added(self, texts: Mapping[str, str | None], text: str, own: Entry) -> Entry:
        """The encoder's entry with what the bridge adds."""
        wiring, loaded = self.wiring, self.wiring.loaded
        assert isinstance(loaded, LoadedBridge) and wiring.encoder is not None  # as `adds` says
        prompt = self._prompt(text)
        plain = own if prompt.plain else wiring.encoder.entry(texts, weighted=False)
        students = self._read(prompt.text)
        ours = added(loaded, prompt, students, OwnEntry(own, plain), wiring.strength)
        return own if _same_tensors(ours, own) else self._compared(ours)

    def _prompt(self, text: str) -> EmphasisedPrompt:
        """The text that the LLMs read, and the weights of its characters where those are read."""
        loaded = self.wiring.loaded
        if reads_weights(loaded):
            return read_emphasis(text, below_0=True)
        return EmphasisedPrompt(text if isinstance(loaded, LoadedProjection) else unescaped(text))

    def _written(self, text: str) -> Entry:
        """What the bridge makes of a prompt."""
        loaded, prompt = self.wiring.loaded, self._prompt(text)
        if isinstance(loaded, LoadedProjection):
            return self._compared(projected(loaded, *self._read(prompt.text)))
        if loaded.is_empty(prompt.text):
            return conditioning(loaded, prompt, [])
        return self._compared(conditioning(loaded, prompt, self._read(prompt.text)))

    def _compared(self, entry: Entry) -> Entry:
        """An entry that is not the encoder's own, which a sampler compares with its model."""
        return entry[0], {**entry[1], MODEL_CONDS: ForBridge(self.wiring.loaded)}

    def _read(self, text: str) -> list:
        """What the LLMs make of a prompt; the bridge then lies where it computes."""
        pairs = zip(llms_of(self.wiring.loaded), self.wiring.clips)
        students = [read(spec, clip, text) for spec, clip in pairs]
        move_the_rest(self, self.device)
        return students


def _same_tensors(ours: Entry, own: Entry) -> bool:
    """Whether a bridge has added nothing to what an encoder wrote."""
    pairs = [(ours[0], own[0]), (ours[1].get(POOLED), own[1].get(POOLED))]
    return all(a is b or torch.equal(a, b) for a, b in pairs)


def _given(entry: Entry) -> tuple[Tensor, Tensor | None, dict]:
    device = model_management.intermediate_device()
    sequence, values = entry
    moved = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in values.items()}
    return sequence.to(device), moved.pop(POOLED, None), moved
