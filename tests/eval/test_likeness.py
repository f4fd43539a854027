"""Judges by a CLIP or SigLIP, tiny and random. Run: pytest tests/eval/test_likeness.py"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from test_judges import SMALL, noise, save_clip

from lidit_core.cli import main
from lidit_eval import items
from lidit_eval.benchmarks.item import PromptItem
from lidit_eval.judges.likeness import LikenessJudge, QualityJudge, TwoTowers


@pytest.fixture(scope="module")
def siglip(tmp_path_factory) -> Path:
    """A tiny SigLIP whose tokenizer is a word list."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import (
        PreTrainedTokenizerFast,
        SiglipConfig,
        SiglipImageProcessor,
        SiglipModel,
        SiglipProcessor,
    )

    folder = tmp_path_factory.mktemp("siglip")
    torch.manual_seed(1)
    words = ["<pad>", "<unk>", "</s>", "a", "cat", "dog", "Good", "Bad", "photo", "."]
    core = Tokenizer(models.WordLevel({w: n for n, w in enumerate(words)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    special = {"pad_token": "<pad>", "unk_token": "<unk>", "eos_token": "</s>"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, **special)
    text = {**SMALL, "vocab_size": len(words), "max_position_embeddings": 8, "projection_size": 16}
    model = SiglipModel(SiglipConfig(text_config=text, vision_config=SMALL))
    with torch.no_grad():
        model.logit_scale.fill_(1.5)
        model.logit_bias.fill_(-3.0)
    model.save_pretrained(folder)
    size = {"height": 32, "width": 32}
    SiglipProcessor(SiglipImageProcessor(size=size), tokenizer).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("clip") / "clip"
    save_clip(folder, {"height": 32, "width": 32})
    return folder


@pytest.fixture(params=["clip", "siglip"])
def towers(request, clip, siglip) -> Path:
    return siglip if request.param == "siglip" else clip


@torch.no_grad()
def embeddings(folder: Path, picture: np.ndarray, text: str) -> tuple[torch.Tensor, torch.Tensor]:
    """By the two halves of the model, each run by itself, on inputs prepared here."""
    from transformers import AutoModel, AutoProcessor

    model = AutoModel.from_pretrained(folder).eval()
    processor = AutoProcessor.from_pretrained(folder)
    pixels = processor.image_processor(picture, return_tensors="pt")["pixel_values"]
    most = model.config.text_config.max_position_embeddings
    ids = processor.tokenizer(text, truncation=True, max_length=most)["input_ids"]
    if model.config.model_type == "siglip":
        ids = ids + [processor.tokenizer.pad_token_id] * (most - len(ids))
        seen = model.vision_model(pixels).pooler_output
        read = model.text_model(torch.tensor([ids])).pooler_output
    else:
        seen = model.visual_projection(model.vision_model(pixels).pooler_output)
        read = model.text_projection(model.text_model(torch.tensor([ids])).pooler_output)
    return seen[0], read[0]


def test_likeness_is_the_cosine_of_both_embeddings(towers):
    judge = LikenessJudge(str(towers), "cpu")
    for seed, text in ((0, "a cat"), (1, "a dog")):
        found = judge.judge(noise(seed), PromptItem(text, "x"))
        expected = torch.cosine_similarity(*embeddings(towers, noise(seed), text), dim=0)
        assert found.scores["cosine"] == pytest.approx(float(expected), abs=1e-5)
        assert found.seen == "" and found == judge.judge(noise(seed), PromptItem(text, "x"))


def test_a_prompt_that_is_too_long_is_cut_and_it_is_said(towers):
    judge = LikenessJudge(str(towers), "cpu")
    long, most = "a cat " * 70, judge.towers.most
    found = judge.judge(noise(), PromptItem(long, "x"))
    tokens = len(judge.towers.processor.tokenizer(long)["input_ids"])
    assert found.seen == f"the prompt's last {tokens - most} tokens were not read"
    expected = torch.cosine_similarity(*embeddings(towers, noise(), long), dim=0)
    assert found.scores["cosine"] == pytest.approx(float(expected), abs=1e-5)


def test_quality_is_clip_iqas(towers):
    """softmax over the two prompts of scale times cosine; the item's prompt does not matter."""
    judge = QualityJudge(str(towers), "cpu")
    cosines = [
        torch.cosine_similarity(*embeddings(towers, noise(), text), dim=0)
        for text in ("Good photo.", "Bad photo.")
    ]
    expected = (torch.stack(cosines) * judge.towers.scale).softmax(0)[0]
    found = judge.judge(noise(), PromptItem("a cat", "x"))
    assert found.scores["CLIP-IQA"] == pytest.approx(float(expected), abs=1e-5)
    assert found == judge.judge(noise(), PromptItem("a dog", "x"))


def test_embeddings_are_those_of_both_halves_at_length_1(towers):
    own = TwoTowers(str(towers), "cpu")
    seen, read = own.embeddings([Image.fromarray(noise(n)) for n in (3, 1)], ["a dog", "a cat"])
    expected = embeddings(towers, noise(1), "a cat")
    for found, other in zip((seen[1], read[1]), expected, strict=True):
        assert torch.allclose(found, torch.nn.functional.normalize(other, dim=0), atol=1e-5)


@pytest.mark.parametrize(("name", "cut"), [("likeness", 2), ("quality", 0)])
def test_a_report_says_how_many_prompts_were_cut(towers, name, cut, tmp_path, monkeypatch):
    """Each prompt once, however many pictures it has; CLIP-IQA reads none. And when it goes on."""
    texts = ("a cat " * 70, "a cat", "a dog " * 70)
    few = [PromptItem(text, "any") for text in texts]
    monkeypatch.setattr(items, "sticker_lists", lambda: {"few": lambda: few})
    for number in range(3):
        for copy in range(2):
            Image.fromarray(noise(copy)).save(tmp_path / f"{number:05d}-{copy:02d}.png")
    words = ["--prompts", "few", "--pictures", str(tmp_path), "--count", "2", "--device", "cpu"]
    sentence = f"\n2 of 3 prompts were longer than likeness:{towers} reads and were cut.\n"
    for _ in range(2):
        judge = ["--judge", f"{name}:{towers}", "--out", str(tmp_path / "out")]
        assert main(["eval", *words, *judge]) == 0
        report = json.loads((tmp_path / "out" / "report.json").read_text())
        assert report["cut_prompts"] == cut
        text = (tmp_path / "out" / "report.md").read_text()
        assert (sentence in text) is bool(cut) and ("were cut" in text) is bool(cut)


@pytest.mark.parametrize("name", ["likeness", "quality"])
def test_such_a_judge_reports_no_failures(towers, name, tmp_path, monkeypatch):
    """A whole evaluation of pictures made elsewhere, by name."""
    monkeypatch.setattr(
        items, "sticker_lists", lambda: {"few": lambda: [PromptItem("a cat", "cats")] * 3}
    )
    for number in range(3):
        Image.fromarray(noise(number)).save(tmp_path / f"{number:05d}.png")
    words = ["--prompts", "few", "--pictures", str(tmp_path), "--device", "cpu"]
    judge = ["--judge", f"{name}:{towers}"]
    for out in ("one", "two"):
        against = ["--against", str(tmp_path / "one")] if out == "two" else []
        assert main(["eval", *words, *judge, "--out", str(tmp_path / out), *against]) == 0
    report = json.loads((tmp_path / "one" / "report.json").read_text())
    assert report["failures"] == [] and "Failures" not in (tmp_path / "one/report.md").read_text()
    assert [score["prompts"] for score in report["scores"]] == [3]
    assert "+0.000" in (tmp_path / "two" / "against.md").read_text()
