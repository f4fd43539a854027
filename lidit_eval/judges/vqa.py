"""DPG-Bench's protocol (Hu et al. 2024, arXiv 2403.05135) with a model that users name.

Every fact of a prompt is a question, answered by a model for visual question answering of
transformers. A fact holds where the answer is yes and what it depends on holds; the score is the
share of facts that hold. The published scores are by mPLUG-large; others are comparable with
scores by the same model alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from PIL import Image

from lidit_core.errors import LiDiTError, check

from ..benchmarks.dpg import Question
from ..benchmarks.item import PromptItem
from .judge import Judge, Verdict
from .pretrained import edition_of, open_pretrained

YES = "yes"


class VQAJudge(Judge):
    """Judges by answers to questions.

    Raises:
        LiDiTError: the model cannot be loaded, or an item has no questions.
    """

    measures: tuple[str, ...] = ("facts",)
    tells = "facts"

    def __init__(self, source: str, items: Sequence[PromptItem], device: str) -> None:
        for item in items:
            _questions(item)
        self.name, self.device = f"vqa:{source}", device
        self.model, self.processor = open_pretrained("VisualQuestionAnswering", source, device)
        self.edition = edition_of(self.model)

    def judge(self, picture: np.ndarray, item: PromptItem) -> Verdict:
        image, questions = Image.fromarray(picture), _questions(item)
        answers = {n: says_yes(self._answer(image, q.text)) for n, q in questions.items()}
        holds = what_holds(questions, answers)
        fails = [questions[n].text for n, held in holds.items() if not held]
        return Verdict({"facts": sum(holds.values()) / len(holds)}, "not: " + " ".join(fails))

    @torch.no_grad()
    def _answer(self, image: Image.Image, question: str) -> str:
        given = self.processor(images=image, text=question, return_tensors="pt").to(self.device)
        if self.model.can_generate():
            written = self.model.generate(**given, max_new_tokens=8, do_sample=False)
            text = self.processor.batch_decode(written, skip_special_tokens=True)[0]
        else:
            text = self.model.config.id2label[self.model(**given).logits.argmax(-1).item()]
        return text


def says_yes(answer: str) -> bool:
    """Whether an answer's first word is yes: a model that writes may go on, as "Yes, there is."."""
    return re.findall(r"\w+", answer.lower())[:1] == [YES]


def _questions(item: PromptItem) -> Mapping[int, Question]:
    check(
        isinstance(item.asked, dict) and bool(item.asked),
        f"the prompt {item.prompt[:80]!r} has no questions; expected DPG-Bench's prompts with its "
        "dpg_bench.csv beside their folder (--prompts dpg-bench:prompts)",
    )
    assert isinstance(item.asked, dict)
    return item.asked


def what_holds(questions: Mapping[int, Question], answers: Mapping[int, bool]) -> dict[int, bool]:
    """Tell of each fact whether it holds: it and all that it depends on are answered by yes.

    Raises:
        LiDiTError: a question depends on one that there is not.
    """
    for number, question in questions.items():
        missing = [need for need in question.needs if need not in questions]
        if missing:
            raise LiDiTError(
                f"question {number} ({question.text!r}) depends on question {missing[0]}, and "
                "there is none; expected whole items of dpg_bench.csv"
            )
    holds = dict(answers)
    for number, question in questions.items():
        holds[number] = holds[number] and all(holds[need] for need in question.needs)
    return holds
