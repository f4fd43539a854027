"""GenEval's classes, as detectors call them. Run: pytest tests/eval/test_class_names.py"""

from __future__ import annotations

import pytest
from tiny_detector import save_detector

from lidit_core.errors import LiDiTError
from lidit_eval.benchmarks.item import PromptItem
from lidit_eval.judges.class_names import classes_of
from lidit_eval.judges.detector import DetectorJudge

# evaluation/object_names.txt of GenEval, its lines in order.
GENEVAL = """person,bicycle,car,motorcycle,airplane,bus,train,truck,boat,traffic light,fire hydrant,
stop sign,parking meter,bench,bird,cat,dog,horse,sheep,cow,elephant,bear,zebra,giraffe,backpack,
umbrella,handbag,tie,suitcase,frisbee,skis,snowboard,sports ball,kite,baseball bat,baseball glove,
skateboard,surfboard,tennis racket,bottle,wine glass,cup,fork,knife,spoon,bowl,banana,apple,
sandwich,orange,broccoli,carrot,hot dog,pizza,donut,cake,chair,couch,potted plant,bed,dining table,
toilet,tv,laptop,computer mouse,tv remote,computer keyboard,cell phone,microwave,oven,toaster,sink,
refrigerator,book,clock,vase,scissors,teddy bear,hair drier,toothbrush""".replace("\n", "")
CLASSES = GENEVAL.split(",")

# What id2label of detectors calls them: DETR's (and YOLOS's, Mask2Former's), and RT-DETR's.
COCO = GENEVAL.replace("computer mouse,tv remote,computer keyboard", "mouse,remote,keyboard")
DARKNET = COCO
for ours, theirs in {
    ",motorcycle,airplane,": ",motorbike,aeroplane,",
    ",couch,potted plant,": ",sofa,pottedplant,",
    ",dining table,toilet,tv,": ",diningtable,toilet,tvmonitor,",
}.items():
    assert ours in DARKNET
    DARKNET = DARKNET.replace(ours, theirs)
GAPS = {0: "N/A", 12: "N/A", 26: "N/A", 29: "N/A", 30: "N/A"}  # some of DETR's 91 labels


@pytest.mark.parametrize("names", [COCO, DARKNET, GENEVAL, COCO.title(), COCO.replace(" ", "_")])
def test_all_80_classes_are_those_of_the_same_number(names):
    assert len(CLASSES) == len(set(CLASSES)) == 80
    labels = dict(enumerate(names.split(",")))
    assert classes_of(labels, CLASSES) == dict(enumerate(CLASSES))


def test_labels_that_nobody_asks_for_keep_their_names():
    labels = {**GAPS, 1: "person", 74: "mouse"}
    assert classes_of(labels, ["computer mouse"]) == {**labels, 74: "computer mouse"}


def asks(*classes: str) -> PromptItem:
    include = [{"class": name, "count": 1} for name in classes]
    return PromptItem("a photo", "x", {"tag": "x", "include": include, "prompt": "a photo"})


def test_what_coco_names_otherwise_is_found(tmp_path):
    """Whatever a detector of the three finds is found under GenEval's name."""
    from test_judges import noise

    source = save_detector(tmp_path, {0: "mouse", 1: "remote", 2: "keyboard"})
    wanted = ["computer mouse", "tv remote", "computer keyboard"]
    judge = DetectorJudge(source, [asks(*wanted)], "cpu")
    right = [judge.judge(noise(), asks(name)).scores["correct"] for name in wanted]
    assert any(right)


def test_a_class_that_the_detector_has_not_is_told_at_the_beginning(tmp_path):
    source = save_detector(tmp_path, {0: "mouse", 1: "cat"})
    DetectorJudge(source, [asks("cat", "computer mouse")], "cpu")
    sentence = "has no class for dog, toilet, which the prompts ask for; expected one that"
    with pytest.raises(LiDiTError, match=sentence):
        DetectorJudge(source, [asks("toilet", "cat"), asks("dog")], "cpu")
    unwanted = asks("cat")
    unwanted.asked["exclude"] = [{"class": "dog", "count": 1}]
    with pytest.raises(LiDiTError, match="has no class for dog"):
        DetectorJudge(source, [unwanted], "cpu")
