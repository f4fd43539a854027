"""Judges with models of transformers, tiny and random. Run: pytest tests/eval/test_judges.py"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
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
    YolosConfig,
    YolosForObjectDetection,
    YolosImageProcessor,
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
from lidit_eval.judges.likeness import LikenessJudge, QualityJudge, TwoTowers
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
    config = YolosConfig(**{**SMALL, "image_size": [32, 32]}, num_detection_tokens=6)
    config.id2label, config.label2id = NAMES, {v: k for k, v in NAMES.items()}
    detector = YolosForObjectDetection(config)
    with torch.no_grad():
        detector.class_labels_classifier.layers[-1].bias[-1] = -20  # never "no object"
        for parameter in detector.parameters():
            parameter.mul_(8)
    detector.save_pretrained(folder / "detector")
    YolosImageProcessor(size=size, do_pad=False).save_pretrained(folder / "detector")
    _save_clip(folder / "clip", size)
    _save_vilt(folder / "vilt", size)
    return folder


def _save_clip(folder: Path, size: dict) -> None:
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


@pytest.fixture(params=["clip", "siglip"])
def towers(request, models, siglip) -> Path:
    return siglip if request.param == "siglip" else models / "clip"


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


def test_a_colour_is_that_of_the_phrases_mean_direction():
    """Two phrases far apart whose mean points at the picture, and two that agree beside it."""
    angles = torch.deg2rad(torch.tensor([[60.0, 60.0], [80.0, -80.0]]))
    groups = torch.stack([angles.cos(), angles.sin()], dim=-1)
    seen = torch.tensor([[1.0, 0.0], [0.5, 0.75**0.5]])
    assert nearest_group(seen, groups) == [1, 0]
    assert (groups @ seen[0]).mean(1).argmax() == 0  # by the mean of the cosines it were the other


def test_embeddings_are_those_of_both_halves_at_length_1(towers):
    from PIL import Image

    own = TwoTowers(str(towers), "cpu")
    seen, read = own.embeddings([Image.fromarray(noise(n)) for n in (3, 1)], ["a dog", "a cat"])
    expected = embeddings(towers, noise(1), "a cat")
    for found, other in zip((seen[1], read[1]), expected, strict=True):
        assert torch.allclose(found, torch.nn.functional.normalize(other, dim=0), atol=1e-5)


@pytest.mark.parametrize("name", ["likeness", "quality"])
def test_such_a_judge_reports_no_failures(towers, name, tmp_path, monkeypatch):
    """A whole evaluation of pictures made elsewhere, by name."""
    from PIL import Image

    from lidit_core.cli import main
    from lidit_eval import items

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


def test_a_model_of_another_kind_is_one_sentence(models):
    with pytest.raises(LiDiTError, match="cannot be loaded as a judge"):
        LikenessJudge(str(models / "detector"), "cpu")
