"""Everything that training needs computed once: LLM states of captions, latents of scenes.

``python -m stickers.prepare states`` and ``… latents`` write into runs/data; what exists is kept.
With ``--branch`` or ``--scenes`` only a part, so that training can begin before all is there.
"""

from __future__ import annotations

import argparse
import logging
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from lidit_core.checkpoint import load_vae
from lidit_core.config import LiDiTConfig, LLMSpec
from lidit_core.paths import SHIPPED_WEIGHTS
from lidit_core.presets import find_preset
from lidit_core.states import LLMStates, stack_states
from lidit_core.text import LLMEncoder, load_llm
from lidit_core.vae import TinyAutoencoder
from lidit_train.autoencoder import untrained_autoencoder
from lidit_train.data import CaptionStates, LatentSet, load_states, save_states
from lidit_train.state import load_state

from .grammar import Caption, captions
from .scenes import Scene, content, place, render
from .train_autoencoder import RECIPE as AUTOENCODER
from .train_autoencoder import linear_encoder

log = logging.getLogger(__name__)

ENGLISH, CHINESE = 18_000, 2_000  # captions
READS_CHINESE = (False, True)  # by branch: SmolLM2, Gemma 3
SHIPPED = SHIPPED_WEIGHTS / "stickers-vae.safetensors"
CHUNK = 250  # captions encoded between two lines of the log


@lru_cache(maxsize=1)
def training_captions() -> list[Caption]:
    """The fixed list whose order gives every caption its index."""
    return captions(ENGLISH, seed=1) + captions(CHINESE, seed=2, language="zh")


def encode_captions(spec: LLMSpec, texts: list[str], device: str) -> LLMStates:
    """States of all texts from one LLM, computed in float32 and kept in bfloat16."""
    llm = load_llm(spec.name, block=spec.block, dtype=torch.float32, device=device)
    encoder = LLMEncoder(llm, spec.template, spec.token_budget)
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    parts = []
    for start in range(0, len(order), CHUNK):
        chunk = [texts[i] for i in order[start : start + CHUNK]]
        parts.append(encoder.encode(chunk).to("cpu", torch.bfloat16))
        log.info("%s: %d of %d captions", spec.name, start + len(chunk), len(texts))
    back = torch.tensor(order).argsort()
    return stack_states(parts)[back]


def states_path(data: Path, branch: int) -> Path:
    return data / f"states-{branch}.safetensors"


def prepare_states(config: LiDiTConfig, branch: int, data: Path, device: str) -> None:
    """One LLM's states of every training caption; the last row is the empty prompt."""
    texts = [caption.text for caption in training_captions()] + [""]
    save_states(encode_captions(config.llms[branch], texts, device), states_path(data, branch))


def caption_states(data: Path, branches: tuple[int, ...]) -> CaptionStates:
    """The prepared states of some branches."""
    english = torch.tensor([caption.language == "en" for caption in training_captions()])
    readable = torch.stack([english | reads for reads in READS_CHINESE], dim=1)
    return CaptionStates({i: load_states(states_path(data, i)) for i in branches}, readable)


def scenes(size: int, first: int, count: int) -> list[tuple[int, Scene]]:
    """Training scenes of a size from number ``first``: caption index, and what to draw."""
    chosen = training_captions()
    order = np.random.default_rng(7).permutation(len(chosen))
    indices = [int(order[n % len(chosen)]) for n in range(first, first + count)]
    return [
        (i, place(chosen[i].request, np.random.default_rng([size, n])))
        for n, i in enumerate(indices, start=first)
    ]


@torch.no_grad()
def prepare_latents(
    vae: TinyAutoencoder, config: LiDiTConfig, size: int, count: int, path: Path, batch=50
) -> None:
    """Latents of scenes, with their captions and what each of the model's patches shows."""
    vae = vae.to(memory_format=torch.channels_last)
    patches = size // config.latent.downsampling // config.patch
    numbered = scenes(size, 0, count)
    latents = []
    for first in range(0, count, batch):
        pictures = [render(scene, size) for _, scene in numbered[first : first + batch]]
        x = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 255
        x = x.contiguous(memory_format=torch.channels_last)
        latents.append(vae.encode(x).to(torch.bfloat16))
        if first % 2000 == 0:
            log.info("%d px: %d of %d scenes", size, first, count)
    indices = torch.tensor([i for i, _ in numbered])
    shown = torch.from_numpy(np.stack([content(scene, patches) for _, scene in numbered]))
    LatentSet(torch.cat(latents), indices, shown).save(path)


def autoencoder(folder: Path) -> TinyAutoencoder:
    """The autoencoder that a run has by now, or the shipped one; their encoders are the same."""
    state = load_state(folder / "state.pt")
    if state is None and SHIPPED.is_file():
        return load_vae(SHIPPED)
    vae = untrained_autoencoder(AUTOENCODER, linear_encoder())
    if state is not None:
        vae.load_state_dict(state["ema"]["weights"])
    return vae.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("states", "latents"))
    parser.add_argument("--data", type=Path, default=Path("runs/data"))
    parser.add_argument("--vae", type=Path, default=Path("runs/vae"))
    parser.add_argument("--branch", type=int, nargs="*", default=[0, 1], help="LLMs to encode with")
    parser.add_argument("--scenes", nargs="*", default=["64:48000", "128:40000"], help="size:count")
    parser.add_argument("--device", default="cpu", help="of the LLMs")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    if options.what == "states":
        for branch in options.branch:
            if not states_path(options.data, branch).exists():
                prepare_states(find_preset("stickers"), branch, options.data, options.device)
        return
    for pair in options.scenes:
        size, count = map(int, pair.split(":"))
        path = options.data / f"latents-{size}.safetensors"
        if not path.exists():
            prepare_latents(autoencoder(options.vae), find_preset("stickers"), size, count, path)


if __name__ == "__main__":
    main()
