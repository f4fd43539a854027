"""Likeness of picture and prompt, and CLIP-IQA, with a CLIP or SigLIP that users name.

Radford et al. 2021 (arXiv 2103.00020), Zhai et al. 2023 (arXiv 2303.15343), Wang et al. 2023
(arXiv 2207.12396). Neither tells hits from failures: two models are compared by them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ..benchmarks.item import PromptItem
from .judge import Judge, Verdict
from .pretrained import edition_of, open_pretrained

GOOD, BAD = "Good photo.", "Bad photo."  # CLIP-IQA's pair for quality as a whole


class TwoTowers:
    """A model that embeds pictures and texts in one space.

    Args:
        source: a folder of transformers, or ``hub:owner/name``.
    Raises:
        LiDiTError: it cannot be loaded.
    """

    def __init__(self, source: str, device: str) -> None:
        self.device = device
        self.model, self.processor = open_pretrained("ZeroShotImageClassification", source, device)
        self.fixed = "siglip" in self.model.config.model_type  # reads its padding, as in training
        self.most = self.model.config.text_config.max_position_embeddings

    @torch.no_grad()
    def cosines(self, picture: np.ndarray, texts: Sequence[str]) -> Tensor:
        """Compute each text's cosine with a picture (H, W, 3) uint8: (texts,) in [-1, 1].

        A text that is too long is cut.
        """
        logits = self._run([Image.fromarray(picture)], texts).logits_per_image[0].float()
        bias = getattr(self.model, "logit_bias", None)
        return (logits if bias is None else logits - bias.float()) / self.scale

    @torch.no_grad()
    def embeddings(
        self, pictures: Sequence[Image.Image], texts: Sequence[str]
    ) -> tuple[Tensor, Tensor]:
        """Embed pictures and texts, (pictures, D) and (texts, D), in rows of length 1.

        A text that is too long is cut.
        """
        found = self._run(pictures, texts)
        seen, read = found.image_embeds, found.text_embeds
        return F.normalize(seen.float(), dim=-1), F.normalize(read.float(), dim=-1)

    def _run(self, pictures: Sequence[Image.Image], texts: Sequence[str]) -> Any:
        given = self.processor(
            text=list(texts), images=list(pictures), return_tensors="pt",
            padding="max_length" if self.fixed else True, truncation=True, max_length=self.most,
        )  # fmt: skip
        if self.fixed:
            given.pop("attention_mask", None)
        return self.model(**given.to(self.device))

    @property
    def scale(self) -> Tensor:
        """What cosines are multiplied by before a softmax."""
        return self.model.logit_scale.float().exp()

    def cut(self, text: str) -> int:
        """Tokens of a text that are not read."""
        return max(0, len(self.processor.tokenizer(text)["input_ids"]) - self.most)


class LikenessJudge(Judge):
    """The cosine of picture and prompt."""

    measures: tuple[str, ...] = ("cosine",)
    tells = ""

    def __init__(self, source: str, device: str) -> None:
        self.name, self.towers = f"likeness:{source}", TwoTowers(source, device)
        self.edition = edition_of(self.towers.model)

    def judge(self, picture: np.ndarray, item: PromptItem) -> Verdict:
        cosine = float(self.towers.cosines(picture, [item.prompt])[0])
        cut = self.cut(item.prompt)
        seen = f"the prompt's last {cut} tokens were not read" if cut else ""
        return Verdict({"cosine": cosine}, seen)

    def cut(self, prompt: str) -> int:
        return self.towers.cut(prompt)


class QualityJudge(Judge):
    """CLIP-IQA: how much more a picture is like a good photo than like a bad one, 0 to 1."""

    measures: tuple[str, ...] = ("CLIP-IQA",)
    tells = ""

    def __init__(self, source: str, device: str) -> None:
        self.name, self.towers = f"quality:{source}", TwoTowers(source, device)
        self.edition = edition_of(self.towers.model)

    def judge(self, picture: np.ndarray, item: PromptItem) -> Verdict:
        likeness = self.towers.cosines(picture, [GOOD, BAD]) * self.towers.scale
        return Verdict({"CLIP-IQA": likeness.softmax(0)[0].item()})
