"""What an adapter is trained for, a U-Net of some shape and an LLM, before either is loaded."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from lidit_core.demo.checkpoint import read_demo_config
from lidit_core.errors import LiDiTError
from lidit_core.llm.hub import model_folder
from lidit_core.llm.locate import check_present, locate
from lidit_core.llmdiff.config import AdaptedLayer, AdapterConfig, block_of
from lidit_core.model.config import LatentFormat
from lidit_core.shipped import find_base
from lidit_core.text.spec import LLMSpec
from lidit_core.text.templates import find_template
from lidit_core.unet.families import FAMILIES, UNetShape, cross_attention_layers
from lidit_core.unet.shape import unet_shape

from ...recipe import Adapter
from .unet_file import find_unet
from .unet_names import SIZE_WIDTH

LATENTS = {  # of the families' autoencoders: Stable Diffusion's scale 0.18215, SDXL's 0.13025
    "sd15": LatentFormat("SD1.5", channels=4, std=(1 / 0.18215,)),
    "sdxl": LatentFormat("SDXL", channels=4, std=(1 / 0.13025,)),
}
NATIVE = {"sd15": 512, "sdxl": 1024}  # pixels
WIDTHS = ("hidden_size", "d_model")  # of a config.json: most LLMs' name, and that of T5's kind
BLOCKS = ("num_hidden_layers", "num_layers")


@dataclass(frozen=True)
class AdapterTarget:
    """The U-Net, the adapter that fits it, and the latents that the U-Net reads."""

    base: Path
    shape: UNetShape
    adapter: AdapterConfig
    latent: LatentFormat
    native_size: int  # pixels
    asked: str = ""  # prediction, "eps" or "v"; "" = as the checkpoint says
    patch: int = 1  # latent pixels that sides must be multiples of, for as often as it halves them


@dataclass(frozen=True)
class UNetTarget:
    """A U-Net, and the latents that it reads."""

    base: Path
    shape: UNetShape
    latent: LatentFormat
    native_size: int  # pixels
    asked: str  # prediction, "eps" or "v"; "" = as the checkpoint says

    @property
    def patch(self) -> int:
        """Latent pixels that sides must be multiples of, for as often as the U-Net halves them."""
        return 2 ** (len(self.shape.channel_mult) - 1)


def unet_target(name: str, prediction: str) -> UNetTarget:
    """Read what a recipe names, but no weight.

    A family's name in the place of a checkpoint is enough for a plan.
    """
    base = find_base(name)
    shape = FAMILIES.get(name) or _shape(base)
    demo = read_demo_config(base) if base.is_file() else None
    known = demo is not None or shape.family in LATENTS
    if not known:
        raise LiDiTError(
            f"{base} is a U-Net of another family than SD1.5 and SDXL; expected one of these, or "
            "the stickers' demo checkpoint"
        )
    return UNetTarget(
        base,
        shape,
        demo.latent if demo else LATENTS[shape.family],
        demo.native_size if demo else NATIVE[shape.family],
        prediction or (demo.prediction if demo else ""),
    )


def adapter_target(recipe: Adapter) -> AdapterTarget:
    """Read what the recipe names, but no weight."""
    unet = unet_target(recipe.base, recipe.prediction)
    config = _config(recipe, unet.shape)
    latents = unet.latent, unet.native_size, unet.asked, unet.patch
    return AdapterTarget(unet.base, unet.shape, config, *latents)


def pooled_width(shape: UNetShape) -> int:
    """The width of the pooled text that a U-Net reads beside the sizes: SDXL's 1280, or 0."""
    return shape.adm - 6 * SIZE_WIDTH if shape.adm else 0


def _shape(base: Path) -> UNetShape:
    file = find_unet(base)
    return unet_shape(file.shapes, file.config, file.layout, f"the U-Net of {base}")


def _config(recipe: Adapter, shape: UNetShape) -> AdapterConfig:
    spec, blocks = _llm(recipe)
    layers = tuple(AdaptedLayer(x.name, x.width, x.heads) for x in cross_attention_layers(shape))
    return AdapterConfig(
        family=shape.family,
        layers=layers,
        context_width=shape.context_width,
        llm=spec,
        blocks=blocks,
        pooled_width=pooled_width(shape),
        modes=recipe.modes,
        form=recipe.form,
        refiner=recipe.refiner,
        timestep_gates=recipe.timestep_gates,
    )


def _llm(recipe: Adapter) -> tuple[LLMSpec, int]:
    """The LLM and the number of its blocks, by its config.json."""
    check_present(recipe.llm)
    found = locate(recipe.llm)
    path = model_folder(found) / "config.json"
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        data = data.get("text_config", data)
        width, blocks = (_said(data, *names) for names in (WIDTHS, BLOCKS))
    except (OSError, ValueError, AttributeError, KeyError) as error:
        raise LiDiTError(
            f"{path} does not say how wide the LLM is and how many blocks it has ({error!r}); "
            "expected hidden_size and num_hidden_layers, as LLMs have them"
        ) from error
    template, budget = find_template(recipe.template), recipe.token_budget
    block = block_of(recipe.form)
    return LLMSpec(found.name, width, block, template, budget, longest_prompt=0), blocks


def _said(data: dict, name: str, t5: str) -> int:
    return data[name] if name in data else data[t5]
