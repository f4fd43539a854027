"""GenEval's protocol (Ghosh et al. 2023, arXiv 2310.11513, section 3) with models that users name.

A detector of transformers finds the objects, a CLIP names their colours. Both are the user's
choice, so a score is comparable with others by the same two models alone; the published ones are
by Mask2Former (Swin-S) and CLIP ViT-L/14, and `--judge none` leaves pictures for those.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from lidit_core.errors import check

from ..benchmarks.item import PromptItem
from .class_names import classes_of
from .judge import Judge, Verdict
from .likeness import TwoTowers
from .pretrained import edition_of, open_pretrained

THRESHOLD, WHEN_COUNTING = 0.3, 0.9  # of a detection's score
MOST = 16  # objects of a class
CLOSE = 0.1  # share of two objects' sizes by which their centres must be apart
COLOURS = (
    *("red", "orange", "yellow", "green", "blue"),
    *("purple", "pink", "brown", "black", "white"),
)
PHRASES = ("a photo of a {c} {o}", "a photo of a {c}-colored {o}", "a photo of a {c} object")

PixelBox = tuple[float, float, float, float]  # left, top, right, bottom, pixels


@dataclass(frozen=True)
class Detections:
    """Objects of a picture: boxes of each class, the surest first."""

    boxes: Mapping[str, Sequence[PixelBox]]
    colours: Any  # (class, boxes) -> a colour of each


class DetectorJudge(Judge):
    """Judges by detected objects, their number, colours and places.

    Args:
        source: MODEL, or MODEL,CLIP where colours are asked for.
    Raises:
        LiDiTError: a model cannot be loaded, the items are not GenEval's, or the detector has no
            such class as they ask for.
    """

    measures: tuple[str, ...] = ("correct",)
    tells = "correct"

    def __init__(self, source: str, items: Sequence[PromptItem], device: str) -> None:
        detector, _, clip = source.partition(",")
        asked = [_asked(item) for item in items]
        coloured = any("color" in each for item in asked for each in item.get("include", ()))
        check(
            bool(clip) or not coloured,
            f"the judge detector:{source} names no CLIP, and colours are asked for; expected "
            "detector:MODEL,CLIP",
        )
        self.name, self.device = f"detector:{source}", device
        self.detector, self.processor = open_pretrained("ObjectDetection", detector, device)
        wanted = {wish["class"] for each in asked for wish in _wishes(each)}
        self.names = classes_of(self.detector.config.id2label, wanted)
        unknown = sorted(wanted - {*self.names.values()})
        check(
            not unknown,
            f"the detector {detector} has no class for {', '.join(unknown)}, which the prompts ask "
            "for; expected one that was trained on COCO, as GenEval's classes are COCO's",
        )
        self.clip = TwoTowers(clip, device) if clip else None
        used = (self.clip.model,) if self.clip is not None else ()
        self.edition = edition_of(self.detector, *used)

    def judge(self, picture: np.ndarray, item: PromptItem) -> Verdict:
        image, asked = Image.fromarray(picture), _asked(item)
        threshold = WHEN_COUNTING if asked.get("tag") == "counting" else THRESHOLD
        boxes = self._detect(image, threshold)
        wrong = list(
            faults(asked, Detections(boxes, lambda o, found: self._colours(image, o, found)))
        )
        seen = ", ".join(f"{len(found)} {name}" for name, found in boxes.items()) or "nothing"
        return Verdict({"correct": float(not wrong)}, "; ".join(wrong) or seen)

    @torch.no_grad()
    def _detect(self, image: Image.Image, threshold: float) -> dict[str, list[PixelBox]]:
        given = self.processor(images=image, return_tensors="pt").to(self.device)
        output, size = self.detector(**given), [image.size[::-1]]
        found = self.processor.post_process_object_detection(output, threshold, size)[0]
        boxes: dict[str, list[PixelBox]] = {}
        for number in found["scores"].argsort(descending=True).tolist():
            of_class = boxes.setdefault(self.names[found["labels"][number].item()], [])
            if len(of_class) < MOST:
                of_class.append(tuple(found["boxes"][number].tolist()))
        return boxes

    def _colours(self, image: Image.Image, name: str, boxes: Sequence[PixelBox]) -> list[str]:
        """The colour of each box: that whose phrases CLIP finds nearest."""
        assert self.clip is not None  # as checked at the beginning
        texts = [phrase.format(c=c, o=name) for c in COLOURS for phrase in PHRASES]
        crops = [image.crop(box) for box in map(_at_least_a_pixel, boxes)]
        seen, read = self.clip.embeddings(crops, texts)
        groups = read.view(len(COLOURS), len(PHRASES), -1)
        return [COLOURS[number] for number in nearest_group(seen, groups)]


def nearest_group(seen: Tensor, groups: Tensor) -> list[int]:
    """The group of texts that each picture is nearest to, by the direction of the group's mean.

    So GenEval's classifier has it; the mean of the cosines would favour texts that agree.

    Args:
        seen: (pictures, D), of length 1.
        groups: (groups, texts, D), of length 1.
    """
    means = F.normalize(groups.mean(1), dim=-1)
    return (seen @ means.T).argmax(1).tolist()


def _at_least_a_pixel(box: PixelBox) -> PixelBox:
    left, top, right, bottom = box
    return left, top, max(right, left + 1), max(bottom, top + 1)


def _asked(item: PromptItem) -> dict[str, Any]:
    asked: Any = item.asked
    check(
        isinstance(asked, dict) and isinstance(asked.get("include"), list),
        f"the prompt {item.prompt!r} says nothing of objects; a detector judges GenEval's prompts "
        "(--prompts geneval:FILE)",
    )
    return asked


def _wishes(asked: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """What must be there, and what must not be there so often."""
    return [*asked.get("include", ()), *asked.get("exclude", ())]


def faults(asked: Mapping[str, Any], found: Detections) -> Iterator[str]:
    """What a picture lacks or has too much of; nothing where it is right.

    Args:
        asked: GenEval's include, all of which must hold, and exclude, none of which may.
    """
    groups: list[Sequence[PixelBox] | None] = []
    for wanted in asked.get("include", ()):
        count, name = wanted["count"], wanted["class"]
        boxes = list(found.boxes.get(name, ()))[:count]
        wrong = _first_fault(wanted, boxes, groups, found)
        groups.append(None if wrong else boxes)
        if wrong:
            yield wrong
    for unwanted in asked.get("exclude", ()):
        number = len(found.boxes.get(unwanted["class"], ()))
        if number >= unwanted["count"]:
            yield f"expected fewer than {unwanted['count']} {unwanted['class']}, found {number}"


def _first_fault(wanted: Mapping[str, Any], boxes, groups, found: Detections) -> str:
    count, name = wanted["count"], wanted["class"]
    if len(boxes) < count:
        return f"expected {count} {name} or more, found {len(boxes)}"
    if "color" in wanted:
        colours = found.colours(name, boxes)
        if colours.count(wanted["color"]) < count:
            return f"expected {count} {wanted['color']} {name}, found {', '.join(colours)}"
    if "position" in wanted:
        relation, place = wanted["position"]
        target = groups[place]
        if target is None:
            return f"nothing for {name} to be {relation}"
        if not all(relation in relations(box, other) for box in boxes for other in target):
            return f"expected {name} {relation} it"
    return ""


def relations(box: PixelBox, other: PixelBox) -> set[str]:
    """The sides of another box on which one clearly lies: left of, right of, above, below."""
    first, second = (np.asarray(each, np.float64).reshape(2, 2) for each in (box, other))
    offset = first.mean(0) - second.mean(0)
    sizes = np.abs(np.diff(first, axis=0)[0]) + np.abs(np.diff(second, axis=0)[0])
    clear = np.maximum(np.abs(offset) - CLOSE * sizes, 0) * np.sign(offset)
    if (np.abs(clear) < 1e-3).all():
        return set()
    x, y = clear / np.linalg.norm(offset)
    named = {"left of": x < -0.5, "right of": x > 0.5, "above": y < -0.5, "below": y > 0.5}
    return {name for name, holds in named.items() if holds}
