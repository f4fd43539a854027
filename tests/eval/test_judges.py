"""Judges with models of transformers, tiny and random. Run: pytest tests/eval/test_judges.py"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_detector import save_detector
from transformers import (
    BertTokenizerFast,
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPProcessor,
    CLIPTokenizerFast,
    ViltConfig,
    ViltForQuestionAnswering,
    ViltImageProcessor,
    ViltProcessor,
)

from lidit_core.errors import LiDiTError
from lidit_eval.benchmarks.dpg import Question
from lidit_eval.benchmarks.item import PromptItem
from lidit_eval.judges.detector import (
    COLOURS,
    Detections,
    DetectorJudge,
    faults,
    nearest_group,
    relations,
)
from lidit_eval.judges.likeness import LikenessJudge
from lidit_eval.judges.vqa import VQAJudge, what_holds

SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
SMALL |= {"intermediate_size": 16, "image_size": 32, "patch_size": 16}
NAMES = {0: "cat", 1: "dog", 2: "cup"}


def item(include: list[dict], tag: str = "x") -> PromptItem:
    asked = {"tag": tag, "include": include, "prompt": "a cat"}
    return PromptItem("a cat", tag, asked)


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("judges")
    torch.manual_seed(0)
    size = {"height": 32, "width": 32}
    save_detector(folder / "detector", NAMES)
    save_clip(folder / "clip", size)
    _save_vilt(folder / "vilt", size)
    return folder


def save_clip(folder: Path, size: dict) -> None:
    folder.mkdir()
    words = sorted({"a", "photo", "of", "colored", "object", "cat", "dog", "cup", "-", *COLOURS})
    vocabulary = [f"{word}</w>" for word in words] + list(map(chr, range(97, 123)))
    vocabulary += [f"{letter}</w>" for letter in map(chr, range(97, 123)) if letter != "a"]
    vocabulary += ["<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({w: n for n, w in enumerate(vocabulary)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = CLIPTokenizerFast.from_pretrained(folder)
    text = {**SMALL, "vocab_size": len(vocabulary), "max_position_embeddings": 60}
    config = CLIPConfig(text_config=text, vision_config=SMALL, projection_dim=16)
    CLIPModel(config).save_pretrained(folder)
    processor = CLIPImageProcessor(size=size, crop_size=size)
    CLIPProcessor(processor, tokenizer).save_pretrained(folder)


def _save_vilt(folder: Path, size: dict) -> None:
    folder.mkdir()
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "is", "there", "a", "cat", "mat", "?"]
    (folder / "vocab.txt").write_text("\n".join(words))
    tokenizer = BertTokenizerFast(str(folder / "vocab.txt"))
    config = ViltConfig(**SMALL, vocab_size=len(words), max_position_embeddings=20)
    config.id2label, config.label2id = {0: "no", 1: "Yes "}, {"no": 0, "Yes ": 1}
    ViltForQuestionAnswering(config).save_pretrained(folder)
    image = ViltImageProcessor(size={"shortest_edge": 32}, size_divisor=16)
    ViltProcessor(image, tokenizer).save_pretrained(folder)


def noise(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (64, 48, 3), np.uint8)


def test_a_detector_finds_and_is_held_to_the_protocol(models):
    """Random weights find something; the verdict is that of what they found."""
    judge = DetectorJudge(f"{models / 'detector'},{models / 'clip'}", [item([])], "cpu")
    from PIL import Image

    boxes = judge._detect(Image.fromarray(noise()), 0.3)
    assert boxes and set(boxes) <= set(NAMES.values())
    name, found = next(iter(boxes.items()))
    right = judge.judge(noise(), item([{"class": name, "count": len(found)}]))
    assert right.scores == {"correct": 1.0} and f"{len(found)} {name}" in right.seen
    wrong = judge.judge(noise(), item([{"class": name, "count": len(found) + 1}]))
    assert wrong.scores == {"correct": 0.0} and "or more, found" in wrong.seen
    colours = judge._colours(Image.fromarray(noise()), name, found)
    assert len(colours) == len(found) and set(colours) <= set(COLOURS)
    again = judge.judge(noise(), item([{"class": name, "count": 1, "color": colours[0]}]))
    assert again == judge.judge(noise(), item([{"class": name, "count": 1, "color": colours[0]}]))
    assert again.scores == {"correct": 1.0}


def test_a_detector_that_cannot_judge_says_so(models):
    coloured = item([{"class": "cat", "count": 1, "color": "red"}])
    with pytest.raises(LiDiTError, match="names no CLIP, and colours are asked for"):
        DetectorJudge(str(models / "detector"), [coloured], "cpu")
    with pytest.raises(LiDiTError, match="cannot be loaded as a judge"):
        DetectorJudge(str(models / "none"), [item([])], "cpu")
    with pytest.raises(LiDiTError, match="cannot be loaded as a judge"):
        DetectorJudge(str(models / "vilt"), [item([])], "cpu")


def box(x: float, y: float, side: float = 10) -> tuple[float, float, float, float]:
    return x - side / 2, y - side / 2, x + side / 2, y + side / 2


@pytest.mark.parametrize(
    ("x", "y", "expected"),
    [
        (20, 50, {"left of"}),
        (80, 50, {"right of"}),
        (50, 20, {"above"}),
        (50, 80, {"below"}),
        (20, 20, {"left of", "above"}),
        (51, 51, set()),
        (50, 50, set()),
        (20, 40, {"left of"}),
    ],
)
def test_places_are_told_as_geneval_tells_them(x, y, expected):
    assert relations(box(x, y), box(50, 50)) == expected


BOXES = {"cat": [box(20, 50), box(30, 50)], "dog": [box(80, 50)]}
CAT, DOG = {"class": "cat", "count": 1}, {"class": "dog", "count": 1}


@pytest.mark.parametrize(
    ("include", "exclude", "fault"),
    [
        ([CAT, DOG], [], ""),
        ([{**CAT, "count": 3}], [], "expected 3 cat or more, found 2"),
        ([{**CAT, "count": 2}], [{**CAT, "count": 3}], ""),
        ([CAT], [{**CAT, "count": 2}], "expected fewer than 2 cat, found 2"),
        ([{**CAT, "color": "red"}], [], ""),
        ([{**CAT, "color": "blue"}], [], "expected 1 blue cat, found red"),
        ([CAT, {**DOG, "position": ["right of", 0]}], [], ""),
        ([CAT, {**DOG, "position": ["left of", 0]}], [], "expected dog left of it"),
        ([{"class": "cup", "count": 1}, {**DOG, "position": ["left of", 0]}], [], "expected 1 cup"),
    ],
)
def test_faults_are_those_of_geneval(include, exclude, fault):
    found = Detections(BOXES, lambda name, boxes: ["red"] * len(boxes))
    told = list(faults({"include": include, "exclude": exclude}, found))
    assert told == [] if not fault else told[0].startswith(fault)


QUESTIONS = {
    1: Question("is there a cat?", ()),
    2: Question("is there a mat?", ()),
    3: Question("is a cat a mat?", (1, 2)),
    4: Question("is there a cat there?", (3,)),
}


def test_a_fact_needs_what_it_depends_on():
    yes = dict.fromkeys(QUESTIONS, True)
    assert what_holds(QUESTIONS, yes) == yes
    assert what_holds(QUESTIONS, {**yes, 2: False}) == {1: True, 2: False, 3: False, 4: False}
    with pytest.raises(LiDiTError, match="depends on question 9, and there is none"):
        what_holds({1: Question("is it?", (9,))}, {1: True})


def test_questions_are_answered(models):
    judge = VQAJudge(str(models / "vilt"), [PromptItem("x", "dense", QUESTIONS)], "cpu")
    bias = judge.model.classifier[-1].bias
    for number, share in ((1, 1.0), (0, 0.0)):
        with torch.no_grad():
            bias.fill_(-20)
            bias[number] = 20
        verdict = judge.judge(noise(), PromptItem("x", "dense", QUESTIONS))
        assert verdict.scores == {"facts": share}


def test_a_colour_is_that_of_the_phrases_mean_direction():
    """Two phrases far apart whose mean points at the picture, and two that agree beside it."""
    angles = torch.deg2rad(torch.tensor([[60.0, 60.0], [80.0, -80.0]]))
    groups = torch.stack([angles.cos(), angles.sin()], dim=-1)
    seen = torch.tensor([[1.0, 0.0], [0.5, 0.75**0.5]])
    assert nearest_group(seen, groups) == [1, 0]
    assert (groups @ seen[0]).mean(1).argmax() == 0  # by the mean of the cosines it were the other


def test_a_model_of_another_kind_is_one_sentence(models):
    with pytest.raises(LiDiTError, match="cannot be loaded as a judge"):
        LikenessJudge(str(models / "detector"), "cpu")
