"""The host's own nodes make a data set with our CLIP and VAE and train a LoRA of our MODEL."""

from __future__ import annotations

from typing import Any

import pytest
from conftest import Host
from workflow_kit import Api, changed, is_picture, node_of, only_picture, same

TRAINING = {
    "batch_size": 1, "grad_accumulation_steps": 1, "steps": 4, "learning_rate": 3e-3, "rank": 4,
    "optimizer": "AdamW", "loss_function": "MSE", "seed": 1, "training_dtype": "fp32",
    "lora_dtype": "fp32", "quantized_backward": False, "algorithm": "LoRA",
    "gradient_checkpointing": True, "checkpoint_depth": 1, "offloading": False,
    "existing_lora": "[None]", "bucket_mode": False, "bypass_mode": False,
}  # fmt: skip


def with_training(api: Api, picture: str, caption: str) -> Api:
    """The same drawing by the model with a LoRA that the run trains on one captioned picture."""
    llm, model = node_of(api, "LiDiTLLMLoader"), node_of(api, "LiDiTModelLoader")
    data = {"images": ["80", 0], "vae": [model, 1], "clip": [llm, 0], "texts": ["81", 0]}
    training = {"model": [model, 0], "latents": ["82", 0], "positive": ["82", 1], **TRAINING}
    loading = {"model": [model, 0], "lora": ["83", 0], "strength_model": 1.0, "bypass": False}
    added = {
        "80": {"class_type": "LoadImage", "inputs": {"image": picture}},
        "81": {"class_type": "PrimitiveString", "inputs": {"value": caption}},
        "82": {"class_type": "MakeTrainingDataset", "inputs": data},
        "83": {"class_type": "TrainLoraNode", "inputs": training},
        "84": {"class_type": "LoraModelLoader", "inputs": loading},
    }
    return changed({**api, **added}, "KSampler", model=["84", 0])


def test_a_data_set_is_made_and_the_lora_trained_on_it_changes_the_picture(
    server: Any, api: Api, host: Host
):
    lacking = {"MakeTrainingDataset", "TrainLoraNode"} - server.get("/object_info").keys()
    if lacking or tuple(map(int, host.version.split(".")[:2])) < (0, 33):
        pytest.skip("needs ComfyUI 0.33: its data set and LoRA training nodes")
    plain = only_picture(server.draw(api))
    server.upload("sticker.png", plain, host.base)
    trained = only_picture(server.draw(with_training(api, "sticker.png", "a red car")))
    assert is_picture(trained) and not same(plain, trained)
