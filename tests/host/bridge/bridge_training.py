"""What a bridge learns through a model in the host, for tests of it."""

from __future__ import annotations

import torch
from bridge_encoders import host_encoder, record
from bridge_files import LEARNING, TEXTS
from bridge_models import host_model, latent

SHORT = {"steps": 1, "prompts": 1, "trajectory": 1, "points": 1}


def loaded_model(kind: str):
    """A MODEL that knows how it was loaded, as those of the host's loaders do."""
    model = host_model(kind)
    model.cached_patcher_init = (lambda kind, disable_dynamic=False: host_model(kind), (kind,))
    return model


def recorded(bench, kind: str) -> str:
    """The recording's name."""
    return record(bench.pack, bench.host, host_encoder(kind), f"through-{kind}", TEXTS).name


def train(bench, kind: str, name: str, **given):
    """What the node makes of a bridge with random weights."""
    given = {"model": None, "bridge": None, "recording": None, **LEARNING, **given}
    model = given["model"] = given["model"] or loaded_model(kind)
    given["bridge"] = given["bridge"] or bench.bridge(kind)[1]
    given["recording"] = given["recording"] or recorded(bench, kind)
    given = {"clip": bench.llm(), "latent_image": latent(model), **given, "name": name}
    return bench.pack.run("LiDiTTrainBridge", **given)[0]


def same_weights(one, other) -> bool:
    pair = one.bridge.state_dict(), other.bridge.state_dict()
    return all(torch.equal(weight, pair[1][name]) for name, weight in pair[0].items())


def better(bench, kind: str) -> str:
    """The recording of an encoder with other weights."""
    clip = host_encoder(kind, seed=1)
    return record(bench.pack, bench.host, clip, f"better-{kind}", TEXTS).name
