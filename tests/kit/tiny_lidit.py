"""Tiny random LI-DiTs, states for them, a checkpoint for the LLMs of `tiny_llm`, and `Looks`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from lidit_core.checkpoints.lidit import save_lidit
from lidit_core.checkpoints.lora_styles import KOHYA, PREFIX
from lidit_core.io.tensors import write_safetensors
from lidit_core.model.config import LatentFormat, LiDiTConfig
from lidit_core.model.dit import LiDiT
from lidit_core.model.vae import TinyAutoencoder
from lidit_core.text.spec import LLMSpec
from lidit_core.text.states import INSTRUCTION, PROMPT, LLMStates, stack_states
from lidit_core.text.templates import find_template

# of them `item` in inference mode alone, else the first
SYNCHRONISING = ("_local_scalar_dense", "item", "nonzero", "is_nonzero", "equal", "masked_select")
LLM_WIDTH = 24  # of the random states
RANK = 3  # of random LoRAs
STYLES = (
    "plain",
    "peft",
    "kohya",
    "kohya-dora",
    "dora-columns",
    "loha",
    "loha-dora",
    "oft",
    "diff",
)


def lidit_config(*llms: str, **changes) -> LiDiTConfig:
    """A LI-DiT of width 32 for LLMs of width 32; 32-pixel pictures in 3 steps."""
    template = find_template("short")
    specs = (LLMSpec(name, 32, template=template, token_budget=24) for name in llms)
    fields = {
        "depth": 2,
        "width": 32,
        "heads": 4,
        "llms": tuple(specs),
        "latent": LatentFormat("tiny", mean=(0.1,), std=(2.0,)),
        "native_size": 32,
        "steps": 3,
        "guidance": 2.0,
    }
    return LiDiTConfig(**{**fields, **changes})


@torch.no_grad()
def randomise(module: torch.nn.Module, seed: int = 0, scale: float = 0.15) -> torch.nn.Module:
    """Random weights everywhere, so that nothing is multiplied by a zero-initialised gate."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
    return module


def save_lidit_files(folder: Path, config: LiDiTConfig) -> Path:
    """A random checkpoint and, beside it, the autoencoder that it names."""
    vae = TinyAutoencoder()
    torch.manual_seed(1)
    write_safetensors(folder / f"{config.latent.name}-vae.safetensors", vae_weights(vae), {})
    save_lidit(randomise(LiDiT(config)), config, folder / "model.safetensors")
    return folder / "model.safetensors"


def vae_weights(vae: TinyAutoencoder) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in vae.initialise().state_dict().items()}


def random_states(
    *lengths: int, instruction: int = 2, width: int = LLM_WIDTH, seed: int = 0
) -> LLMStates:
    """Random states of prompts of these lengths, instruction included, padded to the longest."""
    g = torch.Generator().manual_seed(seed)
    rows = []
    for length in lengths:
        roles = torch.full((1, length), PROMPT, dtype=torch.int32)
        roles[:, :instruction] = INSTRUCTION
        rows.append(LLMStates(torch.randn(1, length, width, generator=g), roles))
    return stack_states(rows)


def random_lidit(llms: int = 2, **changes) -> LiDiT:
    config = lidit_config(*(f"llm {i}" for i in range(llms)), **changes)
    config = replace(config, llms=tuple(LLMSpec(llm.name, LLM_WIDTH) for llm in config.llms))
    return randomise(LiDiT(config)).eval()


def random_texts(llms: int = 2, *lengths: int) -> dict[int, LLMStates]:
    return {i: random_states(*(lengths or (6,)), seed=i) for i in range(llms)}


def random_noise(batch: int, height: int, width: int) -> torch.Tensor:
    return torch.randn(batch, 16, height, width, generator=torch.Generator().manual_seed(3))


def styled(style: str, weights: Mapping[str, Tensor], std: float = 0.1) -> dict[str, Tensor]:
    """The tensors of a file of this style for a LI-DiT's blocks."""
    torch.manual_seed(0)
    chosen = [k for k, v in weights.items() if k.startswith("blocks.") and v.ndim == 2]
    tensors: dict[str, Tensor] = {}
    for key in chosen:
        name = key.removesuffix(".weight")
        kohya = KOHYA + name.replace(".", "_")
        before = kohya if style.startswith("kohya") or style == "loha" else PREFIX + name
        parts = _parts(style, weights[key], std)
        tensors |= {before + end: tensor.contiguous() for end, tensor in parts.items()}
    return tensors


def _parts(style: str, weight: Tensor, std: float) -> dict[str, Tensor]:
    rows, columns = weight.shape
    a, b = torch.randn(RANK, columns) * std, torch.randn(rows, RANK) * std
    alpha = {".alpha": torch.tensor(2.0)}
    lengths = weight.float().norm(dim=1, keepdim=True) * (1 + std * torch.randn(rows, 1))
    if style == "plain":
        return {".lora_A.weight": a, ".lora_B.weight": b, **alpha}
    if style == "peft":
        return {".lora_A.default.weight": a, ".lora_B.default.weight": b}
    if style in ("kohya", "kohya-dora"):
        dora = {".dora_scale": lengths} if style == "kohya-dora" else {}
        return {".lora_down.weight": a, ".lora_up.weight": b, **alpha, **dora}
    if style == "dora-columns":
        across = weight.float().norm(dim=0, keepdim=True) * (1 + std * torch.randn(1, columns))
        return {".lora_A.weight": a, ".lora_B.weight": b, ".dora_scale": across}
    if style == "oft":
        return {".oft_blocks": torch.randn(rows // 8, 8, 8) * std, ".alpha": torch.tensor(1.5)}
    if style == "diff":
        return {".diff": b @ a, ".diff_b": torch.randn(rows) * std}
    more = {".dora_scale": lengths} if style == "loha-dora" else {}
    c, d = torch.randn(RANK, columns), torch.randn(rows, RANK)
    loha = {".hada_w1_a": b, ".hada_w1_b": a, ".hada_w2_a": d, ".hada_w2_b": c}
    return {**loha, **alpha, **more}


class Looks(TorchDispatchMode):
    """Notes every operation after which Python waits for what a tensor holds."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        if name in SYNCHRONISING:
            self.seen.append(name)
        return function(*args, **(kwargs or {}))
