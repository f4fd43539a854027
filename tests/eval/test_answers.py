"""What counts as yes to a question about a picture. Run: pytest tests/eval/test_answers.py"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import (
    BertTokenizerFast,
    BlipConfig,
    BlipForQuestionAnswering,
    BlipImageProcessor,
    BlipProcessor,
)

from lidit_eval.benchmarks.dpg import Question
from lidit_eval.benchmarks.item import PromptItem
from lidit_eval.judges.vqa import VQAJudge, says_yes

SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
SMALL |= {"intermediate_size": 16, "image_size": 32, "patch_size": 16}


@pytest.mark.parametrize(
    ("answer", "yes"),
    [("yes", True), ("Yes.", True), ("yes, on a mat", True), ("no", False), ("", False),
     ("yesterday", False), ("no, yes", False)],
)  # fmt: skip
def test_an_answer_is_its_first_word(answer, yes):
    assert says_yes(answer) == yes


def test_a_model_that_writes_its_answers_is_heard(tmp_path):
    """BLIP, which after its answer goes on to the limit."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "is", "there", "a", "cat", "?"]
    words += ["yes", "no"]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    tokenizer = BertTokenizerFast(str(tmp_path / "vocab.txt"))
    text = {**SMALL, "vocab_size": len(words), "bos_token_id": 2, "sep_token_id": 3}
    text |= {"eos_token_id": 3, "pad_token_id": 0, "encoder_hidden_size": 16}
    model = BlipForQuestionAnswering(BlipConfig(text_config=text, vision_config=SMALL))
    size = {"height": 32, "width": 32}
    BlipProcessor(BlipImageProcessor(size=size), tokenizer).save_pretrained(tmp_path)
    question = PromptItem("x", "dense", {1: Question("is there a cat?", ())})
    picture = np.zeros((48, 64, 3), np.uint8)
    bias = model.text_decoder.cls.predictions.bias
    for answer, share in (("yes", 1.0), ("no", 0.0)):
        with torch.no_grad():
            bias.fill_(-20)
            bias[words.index(answer)] = 20
        model.save_pretrained(tmp_path)
        judge = VQAJudge(str(tmp_path), [question], "cpu")
        assert judge.judge(picture, question).scores == {"facts": share}
