"""A small random LI-DiT and prompts for it, as the host sees them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from tiny_lidit import lidit_config, randomise

from lidit_core.checkpoints.lidit import load_lidit, save_lidit
from lidit_core.model.config import LiDiTConfig
from lidit_core.model.dit import LiDiT
from lidit_core.text.spec import LLMSpec
from lidit_train.recipe import Lora
from lidit_train.tasks.lidit.lora import add_lora, save_lora

WIDTHS = {"alpha": 24, "beta": 40}  # of the two LLMs' states

FEW = 1e-5  # what rounding may change


def small_config(**changes) -> LiDiTConfig:
    llms = tuple(LLMSpec(name, width) for name, width in WIDTHS.items())
    return replace(lidit_config(*WIDTHS, shift=3.0), **{"llms": llms, **changes})


def save_small(path: Path, seed: int = 0, scale: float = 0.2, **changes) -> Path:
    config = small_config(**changes)
    save_lidit(randomise(LiDiT(config), seed, scale), config, path)
    return path


def save_noisy_lora(
    checkpoint: Path, path: Path, std: float, base: str = "small", **changes
) -> Path:
    """A LoRA of every linear layer, as if trained.

    Args:
        changes: fields of its recipe that differ.
    """
    model = load_lidit(checkpoint)
    torch.manual_seed(0)
    layers = ("blocks", "text_side", "pooled_text", "final_layer")
    adapter = add_lora(model, replace(Lora(4, 8.0, layers), **changes))
    with torch.no_grad():
        for parameter in adapter.parameters():
            if not parameter.any():  # what is zero before training
                parameter.normal_(std=std)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_lora(adapter, model.config, path, base=base)
    return path


def save_hypernetwork(path: Path, widths: Sequence[int], std: float) -> Path:
    """A random hypernetwork, as for SD1.5, whose text is 768 wide."""
    torch.manual_seed(0)

    def part(width: int) -> dict[str, torch.Tensor]:
        return {
            f"linear.{i}.{name}": torch.randn(shape) * std
            for i, (out, into) in enumerate(((2 * width, width), (width, 2 * width)))
            for name, shape in (("weight", (out, into)), ("bias", (out,)))
        }

    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({width: [part(width), part(width)] for width in widths}, path)
    return path


class Kit:
    """Builds what the nodes exchange, out of the pack's own classes."""

    def __init__(self, pack, host, checkpoint: Path) -> None:
        self.pack, self.host, self.checkpoint = pack, host, checkpoint
        self.cond = pack.module("host.lidit.conditioning")
        self.text = pack.module("lidit_core.model.prompt_text")
        self.keys = pack.module("host.keys")
        self.model = pack.module("host.lidit.model")
        self.states = pack.module("lidit_core.text.states")
        self.shift = pack.module("lidit_core.model.shift")
        self.core = pack.module("lidit_core.checkpoints.lidit")

    def load(self, **changes):
        return self.model.load_model(self.checkpoint, **changes)

    def read(self, llm: str = "alpha", length: int = 9, seed: int = 0, rows: int = 1):
        """One LLM's states of a prompt of this many tokens, four of them the instruction's."""
        g = torch.Generator().manual_seed(seed)
        roles = torch.full((rows, length), self.states.PROMPT, dtype=torch.int32)
        roles[:, :4] = self.states.INSTRUCTION
        hidden = torch.randn(rows, length, WIDTHS[llm], generator=g)
        return self.states.LLMStates(hidden, roles)

    def prompt(self, llm: str = "alpha", length: int = 9, seed: int = 0, rows: int = 1) -> list:
        """CONDITIONING with one entry."""
        read = self.text.BranchText(llm, self.read(llm, length, seed, rows))
        return [self.cond.entry_of(self.text.PromptText((read,)))]

    def sample(self, model, positive, negative=None, latent=None, **changes) -> torch.Tensor:
        """What the stock KSampler gives."""
        settings = {"seed": 5, "steps": 4, "cfg": 3.0, "sampler_name": "euler"}
        settings |= {"scheduler": "simple", "denoise": 1.0, **changes}
        latent = latent or empty()
        negative = negative or self.prompt(length=6, seed=99)
        node = self.host.nodes.KSampler()
        with torch.inference_mode():
            (out,) = node.sample(
                model, positive=positive, negative=negative, latent_image=latent, **settings
            )
        return out["samples"]

    def stock(self, node_id: str, **inputs):
        """The first output of one of the host's own nodes."""
        node = self.host.nodes.NODE_CLASS_MAPPINGS[node_id]
        with torch.inference_mode():
            return getattr(node(), node.FUNCTION)(**inputs)[0]

    def stock_v3(self, node_id: str, **inputs):
        """The first output of one of the host's own nodes in the newer form."""
        with torch.inference_mode():
            return self.host.nodes.NODE_CLASS_MAPPINGS[node_id].execute(**inputs).args[0]


def empty(batch: int = 1, height: int = 4, width: int = 4) -> dict:
    return {"samples": torch.zeros(batch, 16, height, width)}


def close(a: torch.Tensor, b: torch.Tensor, limit: float = FEW) -> bool:
    return a.shape == b.shape and (a - b).abs().max().item() <= limit * b.abs().max().item()


def fuse(kit, first, *others, weights=(), fusion="as trained"):
    given = {f"conditioning_{n}": other for n, other in enumerate(others, start=2)}
    given |= {f"weight_{n}": 1.0 for n in range(1, 5)}
    given |= {f"weight_{n}": weight for n, weight in enumerate(weights, start=1)}
    (out,) = kit.pack.run("LiDiTCollaborativeRefiner", conditioning_1=first, fusion=fusion, **given)
    return out


def counted(kit, model, positive, negative, **changes) -> tuple[torch.Tensor, list[int]]:
    """The latent, and the batch of every call of the diffusion model."""
    from comfy.patcher_extension import WrappersMP

    calls = []

    def count(executor, x, *args, **kwargs):
        calls.append(len(x))
        return executor(x, *args, **kwargs)

    watched = model.clone()
    watched.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "count", count)
    return kit.sample(watched, positive, negative, **changes), calls
