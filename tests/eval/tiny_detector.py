"""A tiny detector with random weights that finds a few of anything."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import YolosConfig, YolosForObjectDetection, YolosImageProcessor

SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
SIZES |= {"intermediate_size": 16, "image_size": [32, 32], "patch_size": 16}


def save_detector(folder: Path, names: dict[int, str]) -> str:
    """The folder of a detector that calls its classes so."""
    torch.manual_seed(0)
    config = YolosConfig(**SIZES, num_detection_tokens=6)
    config.id2label, config.label2id = names, {name: number for number, name in names.items()}
    model = YolosForObjectDetection(config)
    with torch.no_grad():
        model.class_labels_classifier.layers[-1].bias[-1] = -20  # never "no object"
        for parameter in model.parameters():
            parameter.mul_(8)
    model.save_pretrained(folder)
    size = {"height": 32, "width": 32}
    YolosImageProcessor(size=size, do_pad=False).save_pretrained(folder)
    return str(folder)
