"""What the host's nodes are tried on: graphs that draw, and what a node's inputs come from.

All graphs have the same ids for what reads the prompts, samples, decodes and saves. What a tried
node is given comes from nodes of their own, so that no circle closes.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workflow_kit import EMPTY as EMPTY_LATENT
from workflow_kit import Api, changed, graph

Link = list  # a node's id and the number of its output
TRIED, SHOWN = "30", "31"  # ids of what is tried, and of what shows a value
LLM, MODEL, POSITIVE, NEGATIVE, EMPTY, SAMPLER, DECODE, SAVE, LATENT = "123456789"
OWN_POSITIVE, OWN_NEGATIVE, CHECKPOINT = "13", "14", "10"  # of a U-Net
PARTS = ("noise", "guider", "sampler", "sigmas")  # of a sampler; ids of theirs
LORA = "lora.safetensors"  # in models/loras, for a second LI-DiT
HYPERNETWORK = "hypernetwork.pt"  # in models/hypernetworks, for SD1.5
CONTROLNET = "controlnet.pth"  # in models/controlnet, for the U-Net that ships
VISION = "vision.pth"  # in models/clip_vision, a CLIP ViT-L
STYLE = "style.pth"  # in models/style_models, for SD1.5
GLIGEN = "gligen.pth"  # in models/gligen, for SD1.5
PHOTOMAKER = "photomaker.pth"  # in models/photomaker
# what widgets may name; other files are a machine's own
FILES = (LORA, HYPERNETWORK, CONTROLNET, VISION, STYLE, GLIGEN, PHOTOMAKER)
# types that come of these files alone, which an input has only where it must
FROM_FILES = ("CLIP_VISION", "CLIP_VISION_OUTPUT")
STEPS = 4
SUPPLIED = ("MODEL", "CLIP", "VAE", "CONDITIONING", "LATENT", "GUIDER", "SIGMAS")
DOCS = Path(__file__).resolve().parents[3] / "docs"


@dataclass(frozen=True)
class Bench:
    """A graph that draws, into which nodes are put."""

    api: Api
    second: dict[str, Any]  # the node that gives another MODEL
    clip: Link
    reads: str  # the kind of node that reads a prompt with this CLIP
    table: Path | None = None  # of what happens; None = only to compare with
    ours: bool = True  # whether the model is, as opposed to one of the host's that we add to

    @property
    def side(self) -> int:
        """Pixels of the picture's sides."""
        return self.api[EMPTY]["inputs"]["width"]

    def sources(self) -> dict[str, list[Link]]:
        """By type, what a node's inputs are connected to: another one for a second input."""
        models = [self.api[SAMPLER]["inputs"]["model"], ["22", 0]]
        vae, prompts = self.api[DECODE]["inputs"]["vae"], [["23", 0], ["24", 0]]
        rest = ([["25", 0], ["29", 0]], [["27", 0]], [["28", 0]])
        return dict(zip(SUPPLIED, (models, [self.clip], [vae], prompts, *rest)))

    def upstream(self, draws: bool) -> Api:
        """The nodes that `sources` names.

        Args:
            draws: the latent is a drawn one instead of an empty one.
        """
        prompts, latent = (
            {"positive": ["23", 0], "negative": ["24", 0]},
            {"latent_image": ["26", 0]},
        )
        api = advanced(changed(self.api, "KSampler", **prompts))
        drawn = changed(self.api, "KSampler", **prompts, **latent)[SAMPLER]
        seed = drawn["inputs"]["seed"]
        another = changed({"29": drawn}, "KSampler", seed=seed + 1)["29"]
        above = {name: node for name, node in self.api.items() if name not in (SAMPLER, DECODE)}
        return {
            **{name: node for name, node in above.items() if name not in (SAVE, LATENT)},
            "22": self.second,
            "23": self.api[POSITIVE],
            "24": self.api[NEGATIVE],
            "25": drawn if draws else self.api[EMPTY],
            "26": self.api[EMPTY],
            "27": api["guider"],
            "28": api["sigmas"],
            "29": another if draws else self.api[EMPTY],
        }


def node(kind: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs}


def saving_latents(api: Api) -> Api:
    """The same in few steps, and the latent is saved, too."""
    api = changed(api, "KSampler", steps=STEPS)
    return {**api, LATENT: node("SaveLatent", samples=[SAMPLER, 0], filename_prefix="tried")}


def lidit() -> Bench:
    """The newcomer's workflow; its second model has a LoRA."""
    api = saving_latents(graph("text_to_image"))
    lora = node("LoraLoaderModelOnly", model=[MODEL, 0], lora_name=LORA, strength_model=1.0)
    return Bench(api, lora, [LLM, 0], "CLIPTextEncode", DOCS / "stock-nodes.md")


def llmdiff() -> Bench:
    """The checkpoint that ships, with its adapter; that of the second model is weaker."""
    own = unet().api
    loader = next(n for n in graph("llmdiff").values() if n["class_type"] == "LiDiTLLMLoader")
    adapter = next(n for n in graph("llmdiff").values() if n["class_type"] == "LLMDiffApply")
    adapter = node("LLMDiffApply", **{**adapter["inputs"], "model": [CHECKPOINT, 0]})
    api = changed(own, "KSampler", model=[MODEL, 0]) | {LLM: loader, MODEL: adapter}
    api |= {OWN_POSITIVE: own[POSITIVE], OWN_NEGATIVE: own[NEGATIVE]}
    for name, joins in ((POSITIVE, OWN_POSITIVE), (NEGATIVE, OWN_NEGATIVE)):
        text = own[name]["inputs"]["text"]
        reads = {"clip": [LLM, 0], "base": "SD1.5", "conditioning": [joins, 0]}
        api[name] = node("LLMDiffEncode", text=text, **reads)
    weaker = node("LLMDiffApply", **{**adapter["inputs"], "strength": 0.5})
    return Bench(
        api, weaker, [LLM, 0], "LLMDiffEncode", DOCS / "stock-nodes-llmdiff.md", ours=False
    )


def unet() -> Bench:
    """The same checkpoint alone: a U-Net of the host's."""
    api = saving_latents(graph("text_to_image")) | {CHECKPOINT: node("LLMDiffDemoCheckpoint")}
    api = {name: each for name, each in api.items() if name not in (LLM, MODEL)}
    api = changed(api, "KSampler", model=[CHECKPOINT, 0])
    api = changed(api, "VAEDecode", vae=[CHECKPOINT, 2])
    api = changed(api, "CLIPTextEncode", clip=[CHECKPOINT, 1])
    api = changed(api, EMPTY_LATENT, width=64, height=64)
    again = node(
        "ModelSamplingDiscrete", model=[CHECKPOINT, 0], sampling="v_prediction", zsnr=False
    )
    return Bench(api, again, [CHECKPOINT, 1], "CLIPTextEncode")


def advanced(api: Api) -> Api:
    """The same with the sampler whose parts are nodes; they draw the same picture."""
    old = api[SAMPLER]["inputs"]
    guided = {name: old[name] for name in ("model", "positive", "negative", "cfg")}
    spaced = {name: old[name] for name in ("model", "scheduler", "steps", "denoise")}
    api = copy.deepcopy(api) | {
        "noise": node("RandomNoise", noise_seed=old["seed"]),
        "guider": node("CFGGuider", **guided),
        "sampler": node("KSamplerSelect", sampler_name=old["sampler_name"]),
        "sigmas": node("BasicScheduler", **spaced),
    }
    links = {name: [name, 0] for name in PARTS}
    api[SAMPLER] = node("SamplerCustomAdvanced", **links, latent_image=old["latent_image"])
    return api
