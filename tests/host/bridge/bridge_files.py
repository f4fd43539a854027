"""Bridges and projections with random weights, in the host's folder, over what was recorded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from bridge_encoders import PROMPTS, REAL, host_encoder, record
from clip_kit import fresh_loader, save_llms
from safetensors.torch import save_file
from tiny_bridge import randomised

from lidit_core.bridge.config import BridgeConfig
from lidit_core.bridge.file import LoadedBridge, write_bridge
from lidit_core.bridge.model import Bridge
from lidit_core.bridge.rows import student_tokens
from lidit_core.bridge.teacher import read_teacher
from lidit_core.text.encoder import pad_states
from lidit_core.text.spec import LLMSpec
from lidit_core.text.templates import find_template

LLM = "Llama"
TEXTS = [f"{n} {PROMPTS[n % 2]}" for n in range(24)]  # to learn from, some held out
RATE = 2e-4 if REAL else 1e-3  # of rows of 4096 numbers a step moves more
LEARNING = {  # what the node that trains a bridge is given
    **{"steps": 4, "prompts": 2, "trajectory": 4, "points": 2, "learning_rate": RATE},
    **{"lowest_cfg": 1.0, "highest_cfg": 4.0, "save_every": 25, "checkpointing": True, "seed": 3},
}
TRAINED = {"dtype": "bf16"}  # what `lidit train` writes, unless a recipe says otherwise
SIZES = {"width": 32, "heads": 2, "blocks": 1, "refiner_blocks": 1}


def spec_of(clip: Any, **changes: Any) -> LLMSpec:
    """The LLM of a CLIP as a bridge would record it."""
    reader = clip.cond_stage_model
    fields = {"width": reader.llm.width, "block": -3, "template": find_template("short")}
    return LLMSpec(**{"name": reader.name, **fields, "token_budget": 96, **changes})


class Bench:
    """LLMs as CLIPs of our loader, and files of bridges in the host."""

    def __init__(self, pack: Any, host: Any) -> None:
        save_llms(host)
        self.pack, self.host, self.load_llm = pack, host, fresh_loader(pack)
        self.error = pack.module("lidit_core.errors").LiDiTError

    def llm(self, family: str = LLM, **options: Any):
        return self.load_llm(family, **options)

    @property
    def folder(self) -> Path:
        return self.host.base / "models" / "bridges"

    def bridge(
        self,
        kind: str,
        *llms: LLMSpec,
        name: str = "",
        trained: bool = True,
        own: Any = None,
        **changes: Any,
    ):
        """A bridge to one of the host's encoders, from its file; and what its node makes of it.

        Args:
            own: the encoder, where the host has none of this kind.
        """
        own = own or host_encoder(kind)
        folder = record(self.pack, self.host, own, f"for-{kind}", ["a cat", "a dog"])
        teacher = read_teacher(folder)
        llms = llms or (spec_of(self.llm()),)
        made = Bridge(BridgeConfig(llms, teacher.spec, **{**TRAINED, **SIZES, **changes}))
        made = randomised(made) if trained else made.initialise().eval()
        if "resampler.queries.seeds" in made.state_dict():
            made.resampler.queries.seeds.copy_(teacher.seeds)
        made.base.fixed.zero_()
        loaded = LoadedBridge(made, teacher.rows, teacher.empty)
        file = f"{name or kind}{'-adds' if made.config.add else ''}.safetensors"
        write_bridge(self.folder / file, loaded)
        return loaded, self.load(file)

    def load(self, file: str):
        return self.pack.run("LiDiTBridgeLoader", bridge_name=file)[0]

    def clip(
        self,
        bridge: Any,
        *clips: Any,
        encoder: Any = None,
        strength: float = 1.0,
        model: Any = None,
    ):
        """The CLIP of LI-DiT Bridge."""
        first, *others = clips or (self.llm(),)
        named = {f"clip_{n}": clip for n, clip in enumerate(others, 2)}
        given = {"clip": first, "encoder": encoder, "strength": strength, "model": model, **named}
        return self.pack.run("LiDiTBridge", bridge=bridge, **given)[0]

    def training_graph(self, name: str) -> dict[str, dict]:
        """A graph in which a bridge of this name learns through the demo checkpoint and draws."""
        own = self.pack.run("LLMDiffDemoCheckpoint")[1]
        folder = record(self.pack, self.host, own, "through-demo", TEXTS)
        self.bridge("demo", own=own)
        loader = {"llm": "tiny/Llama", "template": "short", "layer": "-3", "token_budget": 96}
        drawn = {"seed": 1, "steps": 2, "cfg": 4.0, "sampler_name": "euler", "scheduler": "normal"}
        learnt = {**LEARNING, "steps": 8, "recording": folder.name, "name": name}
        of = {"model": ["1", 0], "latent_image": ["4", 0]}
        read = {"positive": ["7", 0], "negative": ["8", 0]}
        graph = {
            "1": ("LLMDiffDemoCheckpoint", {}),
            "2": ("LiDiTLLMLoader", {**loader, "dtype": "auto", "device": "default"}),
            "3": ("LiDiTBridgeLoader", {"bridge_name": "demo.safetensors"}),
            "4": ("EmptyLatentImage", {"width": 64, "height": 64, "batch_size": 1}),
            "5": ("LiDiTTrainBridge", {"bridge": ["3", 0], "clip": ["2", 0], **of, **learnt}),
            "6": ("LiDiTBridge", {"bridge": ["5", 0], "clip": ["2", 0], "strength": 1.0}),
            "7": ("CLIPTextEncode", {"text": TEXTS[0], "clip": ["6", 0]}),
            "8": ("CLIPTextEncode", {"text": "", "clip": ["6", 0]}),
            "9": ("KSampler", {**of, **read, **drawn, "denoise": 1.0}),
            "10": ("VAEDecode", {"samples": ["9", 0], "vae": ["1", 2]}),
            "11": ("PreviewImage", {"images": ["10", 0]}),
        }
        return {n: {"class_type": kind, "inputs": put} for n, (kind, put) in graph.items()}

    def projection(
        self, width: int, tap: int, written: int = 12, sink: bool = True, source: str = LLM
    ) -> str:
        """A file of the ClipProj format with an MLP, in the host's folder; its name."""
        generator = torch.Generator().manual_seed(5)
        shapes = {"W": (width, written), "mean_in": (width,), "mean_out": (written,)}
        shapes |= {"mlp.0.weight": (18, width), "mlp.0.bias": (18,)}
        shapes |= {"mlp.2.weight": (written, 18), "mlp.2.bias": (written,)}
        shapes |= {"sink_out": (written,)} if sink else {}
        made = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
        made |= {"std_in": torch.full((width,), 2.0), "std_out": torch.full((written,), 0.5)}
        about = {"tap": str(tap), "cos_test": "0.9", "source_model": source}
        save_file(made, self.folder / "theirs.safetensors", about)
        return "theirs.safetensors"


def students(clip, text: str) -> list:
    """What an LLM makes of a prompt, without the nodes for bridges."""
    prompts = clip.cond_stage_model.prompts(None, text)
    rows = prompts.encode_rows([text], offsets=True)
    return [student_tokens(pad_states(rows), rows, [len(text)])]


def node(host, name: str, **inputs):
    """A node of the host, run as its executor does."""
    made = host.nodes.NODE_CLASS_MAPPINGS.get(name) or _extra(name)
    with torch.inference_mode():
        if hasattr(made, "execute"):
            found = made.execute(**inputs)
            return getattr(found, "args", found)[0]
        return getattr(made(), made.FUNCTION)(**inputs)[0]


def _extra(name: str):
    from comfy_extras import nodes_clip_sdxl, nodes_flux, nodes_hooks

    for module in (nodes_clip_sdxl, nodes_flux, nodes_hooks):
        if hasattr(module, name):
            return getattr(module, name)
    raise KeyError(name)
