"""A bridge's conditioning mixed with that of the checkpoint's own encoder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...lidit_core.bridge.encode import POOLED
from ...lidit_core.bridge.layout import AnyRows
from ...lidit_core.bridge.recorded import ALIKE
from ...lidit_core.errors import LiDiTError, check
from ...lidit_core.io.conditioning import Entry, distance
from ...lidit_core.text.emphasis import EmphasisedPrompt
from ..node_notes import note
from .files import Loaded, writes_of
from .model_encoder import within
from .tokens import TEXT


@dataclass(frozen=True)
class OwnEncoder:
    """The CLIP that a checkpoint came with."""

    clip: Any

    def entry(self, texts: Mapping[str, str | None], weighted: bool = True) -> Entry:
        """Encode the texts of a node's boxes as the host's own node would.

        Args:
            weighted: False = the same tokens, each with the weight 1.
        """
        clip, tokens = self.clip, self._tokens(texts)
        if not weighted:
            tokens = {name: _unweighted(chunks) for name, chunks in tokens.items()}
        found = clip.encode_from_tokens(tokens, return_pooled=True, return_dict=True)
        return found.pop("cond"), found

    def reads_as(self, rows: AnyRows, prompt: EmphasisedPrompt, text: str) -> bool:
        """Whether its tokens of a text are those that a bridge's rows stand for.

        Embeddings are none of these, and ComfyUI parts a text at each.

        Args:
            prompt: the same text without the marks that the encoder reads.
        """
        found = [_ids(chunks) for chunks in self.clip.tokenize(text).values()]
        wanted = (
            (maker(prompt.text, prompt.pieces).ids - maker.layout.first_id).tolist()
            for maker in rows.makers
        )
        return all(within(ids, found) for ids in wanted)

    def _tokens(self, texts: Mapping[str, str | None]) -> dict:
        tokens = self.clip.tokenize(texts[TEXT] or "")
        for name, text in texts.items():
            if name in tokens:
                tokens[name] = [] if text is None else self.clip.tokenize(text)[name]
        return self._filled(tokens)

    def _filled(self, tokens: dict) -> dict:
        """SDXL's two encoders with as many chunks each, as the host's node fills them up."""
        pair = [tokens[name] for name in ("l", "g") if name in tokens]
        longest = max(map(len, pair), default=0)
        for name in ("l", "g") if len(pair) == 2 else ():
            while len(tokens[name]) < longest:
                tokens[name] += self.clip.tokenize("")[name]
        return tokens


def _ids(chunks: list) -> tuple:
    """The tokens of all chunks; of what is no number of the vocabulary None."""
    pieces = [piece[0] for chunk in chunks for piece in chunk]
    return tuple(id if isinstance(id, int) else None for id in pieces)


def _unweighted(chunks: list) -> list:
    return [[(piece[0], 1.0, *piece[2:]) for piece in chunk] for chunk in chunks]


def check_encoder(loaded: Loaded, encoder: OwnEncoder) -> None:
    """Refuse an encoder whose conditioning a bridge does not write, by that of the empty prompt.

    Of one of the same tokenizer and sizes, as Flan-T5 has T5's, a note tells.
    """
    own, values = encoder.entry({TEXT: ""})
    target = writes_of(loaded)
    check(
        own.ndim == 3 and own.shape[-1] == target.width,
        f"the encoder here writes rows of {own.shape[-1]} and this bridge those of "
        f"{target.name} ({target.width}); connect the text encoder of the checkpoint that "
        "the bridge was trained for",
    )
    kept = getattr(loaded, "empty", None)
    if kept is None:
        return
    far = distance(kept, (own, values))
    if far > ALIKE:
        note(
            f"the encoder here is not the one that this bridge learnt from, or is stored in fewer "
            f"bits: its empty prompt is {far:.2g} off, and rounding makes {ALIKE:g} at most; what "
            "is drawn may be worse, so load the one that was recorded, or a bridge for this one"
        )


def mixed(own: Entry, ours: Entry, strength: float) -> Entry:
    """Mix the encoder's own entry (0) and the bridge's (1); what else it gives is its own."""
    sequence = _between(own[0], ours[0], strength)
    values = {**ours[1], **own[1]}
    pooled, other = own[1].get(POOLED), ours[1].get(POOLED)
    if isinstance(pooled, Tensor) and isinstance(other, Tensor):
        values[POOLED] = _between(pooled, other, strength)
    return sequence, values


def _between(own: Tensor, ours: Tensor, strength: float) -> Tensor:
    if own.shape != ours.shape:
        raise LiDiTError(
            f"the encoder here writes {tuple(own.shape)} of this prompt and the bridge "
            f"{tuple(ours.shape)}, as it reads more than plain text, or is another; leave out "
            "embeddings, mix with the text encoder that the bridge was trained for, or set "
            "strength to 1"
        )
    return torch.lerp(own.float(), ours.to(own.device).float(), strength).to(own.dtype)
