"""The names of GenEval's classes in detectors: both are COCO's 80, and some are spelt differently.

GenEval's own evaluator takes classes by their number, so its object_names.txt may call COCO's
mouse a "computer mouse"; DETR, YOLOS, RF-DETR and others have COCO's names, RT-DETR and D-FINE
those of Darknet ("sofa", "tvmonitor").
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

OTHERWISE = {  # GenEval's name -> COCO's or Darknet's, where it is more than spaces
    "airplane": "aeroplane",
    "computer keyboard": "keyboard",
    "computer mouse": "mouse",
    "couch": "sofa",
    "motorcycle": "motorbike",
    "tv": "tvmonitor",
    "tv remote": "remote",
}


def classes_of(labels: Mapping[int, str], asked: Iterable[str]) -> dict[int, str]:
    """What a detector's labels are called in the prompts; its own names where none asks for them.

    Args:
        labels: a detector's names, by their numbers.
        asked: classes, as the prompts name them.
    """
    own, wanted = {_plain(name) for name in labels.values()}, {}
    for name in asked:
        other = OTHERWISE.get(name, name)
        wanted[_plain(name if _plain(name) in own else other)] = name
    return {number: wanted.get(_plain(name), name) for number, name in labels.items()}


def _plain(name: str) -> str:
    """A name without what spellings differ in, such as "potted plant" and "pottedplant"."""
    return "".join(filter(str.isalnum, name.lower()))
