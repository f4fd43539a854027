"""Everything that training needs computed once: LLM states of captions, latents of scenes.

``python -m stickers.prepare states`` and ``… latents`` write into runs/data; what exists is kept.
With ``--branch`` or ``--scenes`` only a part, so that training can begin before all is there. What
is interrupted goes on where it stopped.
"""

from __future__ import annotations

import argparse
import functools
import logging
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from lidit_core.checkpoint import load_vae
from lidit_core.config import LiDiTConfig, LLMSpec
from lidit_core.errors import LiDiTError, exit_status
from lidit_core.paths import SHIPPED_WEIGHTS
from lidit_core.presets import find_preset
from lidit_core.states import LLMStates, stack_states
from lidit_core.text import LLMEncoder, load_llm
from lidit_core.vae import TinyAutoencoder
from lidit_train.autoencoder import untrained_autoencoder
from lidit_train.data import CaptionStates, LatentSet, in_pieces, load_states, save_states
from lidit_train.state import load_state

from .grammar import Caption, captions
from .scenes import Scene, content, place, render
from .train_autoencoder import RECIPE as AUTOENCODER
from .train_autoencoder import linear_encoder

log = logging.getLogger(__name__)

ENGLISH, CHINESE = 18_000, 2_000  # captions
READS_CHINESE = (False, True)  # by branch: SmolLM2, Gemma 3
SHIPPED = SHIPPED_WEIGHTS / "stickers-vae.safetensors"
CHUNK = 250  # captions encoded, or 20 times as many scenes drawn, before they are kept


@functools.lru_cache(maxsize=1)
def training_captions() -> list[Caption]:
    """The fixed list whose order gives every caption its index."""
    return captions(ENGLISH, seed=1) + captions(CHINESE, seed=2, language="zh")


def encode_captions(spec: LLMSpec, texts: list[str], path: Path, device: str = "cpu") -> None:
    """Save the states of all texts from one LLM, computed in float32 and kept in bfloat16."""
    llm = load_llm(spec.name, block=spec.block, dtype=torch.float32, device=device)
    encoder = LLMEncoder(llm, spec.template, spec.token_budget)
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))

    def encode(first: int, last: int) -> dict[str, torch.Tensor]:
        states = encoder.encode([texts[i] for i in order[first:last]]).to("cpu", torch.bfloat16)
        return {"hidden": states.hidden, "roles": states.roles}

    with in_pieces(path, (spec, texts), len(texts), CHUNK, encode) as pieces:
        back = torch.tensor(order).argsort()
        save_states(stack_states([LLMStates(**piece) for piece in pieces])[back], path)


def states_path(data: Path, branch: int) -> Path:
    return data / f"states-{branch}.safetensors"


def prepare_states(config: LiDiTConfig, branch: int, data: Path, device: str) -> None:
    """One LLM's states of every training caption; the last row is the empty prompt."""
    texts = [caption.text for caption in training_captions()] + [""]
    encode_captions(config.llms[branch], texts, states_path(data, branch), device)


def caption_states(data: Path, branches: tuple[int, ...]) -> CaptionStates:
    """The prepared states of some branches."""
    english = torch.tensor([caption.language == "en" for caption in training_captions()])
    readable = torch.stack([english | reads for reads in READS_CHINESE], dim=1)
    states = {i: load_states(states_path(data, i)) for i in branches}
    for branch, found in states.items():
        if len(found) != len(readable) + 1:
            raise LiDiTError(
                f"{states_path(data, branch)} holds {len(found)} captions' states and there are "
                f"{len(readable)} captions and the empty one; delete it and prepare states again"
            )
    return CaptionStates(states, readable)


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
def encode_scenes(vae: TinyAutoencoder, drawn: Sequence[Scene], size: int) -> torch.Tensor:
    """Latents (N, C, size / 8, size / 8) of some scenes, bfloat16."""
    x = torch.from_numpy(np.stack([render(scene, size) for scene in drawn])).permute(0, 3, 1, 2)
    x = (x.float() / 255).contiguous(memory_format=torch.channels_last)
    return vae.encode(x).to(torch.bfloat16)


def prepare_latents(
    vae: TinyAutoencoder, config: LiDiTConfig, size: int, count: int, path: Path, batch=50
) -> None:
    """Latents of scenes, with their captions and what each of the model's patches shows."""
    vae = vae.to(memory_format=torch.channels_last)
    patches = size // config.latent.downsampling // config.patch
    indices, drawn = zip(*scenes(size, 0, count))

    def encode(first: int, last: int) -> dict[str, torch.Tensor]:
        starts = range(first, last, batch)
        parts = [encode_scenes(vae, drawn[n : min(n + batch, last)], size) for n in starts]
        return {"latents": torch.cat(parts)}

    with in_pieces(path, (size, drawn), count, 20 * CHUNK, encode) as pieces:
        shown = torch.from_numpy(np.stack([content(scene, patches) for scene in drawn]))
        latents = torch.cat([piece["latents"] for piece in pieces])
        LatentSet(latents, torch.tensor(indices), shown).save(path)


def autoencoder(folder: Path) -> TinyAutoencoder:
    """The autoencoder that a run has by now, or the shipped one; their encoders are the same."""
    state = load_state(folder / "state.pt")
    if state is None and SHIPPED.is_file():
        return load_vae(SHIPPED)
    vae = untrained_autoencoder(AUTOENCODER, linear_encoder())
    if state is not None:
        vae.load_state_dict(state["ema"]["weights"])
    return vae.eval()


def size_and_count(text: str) -> tuple[int, int]:
    """``128:60000`` -> 60,000 scenes of 128 pixels."""
    if not re.fullmatch(r"[1-9]\d*:[1-9]\d*", text):
        raise LiDiTError(f"--scenes has {text!r}; expected SIZE:COUNT, as 128:60000")
    size, count = text.split(":")
    return int(size), int(count)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("states", "latents"))
    parser.add_argument("--data", type=Path, default=Path("runs/data"))
    parser.add_argument("--vae", type=Path, default=Path("runs/vae"))
    parser.add_argument("--branch", type=int, nargs="*", default=[0, 1], help="LLMs to encode with")
    parser.add_argument(
        "--scenes", nargs="*", default=["128:60000"], help="SIZE:COUNT of each file"
    )
    parser.add_argument("--device", default="cpu", help="of the LLMs")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    if options.what == "states":
        for branch in options.branch:
            if not states_path(options.data, branch).exists():
                prepare_states(find_preset("stickers"), branch, options.data, options.device)
        return
    for pair in options.scenes:
        size, count = size_and_count(pair)
        path = options.data / f"latents-{size}.safetensors"
        if not path.exists():
            prepare_latents(autoencoder(options.vae), find_preset("stickers"), size, count, path)


if __name__ == "__main__":
    sys.exit(exit_status("prepare", main))
