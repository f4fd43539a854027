"""The U-Net of SD1.5 or SDXL that an adapter is trained on: diffusers', read from any layout."""

from __future__ import annotations

import copy
import hashlib
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

import torch
from torch import Tensor, nn

from lidit_core.errors import LiDiTError
from lidit_core.io.tensors import HOST_PREFIX, check_tensors, fill, write_safetensors
from lidit_core.unet.families import UNetShape
from lidit_core.unet.shape import UNET_KEY, unet_shape

from .unet_file import UNetFile, find_unet
from .unet_names import SIZE_WIDTH, diffusers_config, names

if TYPE_CHECKING:
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

log = logging.getLogger(__name__)

VAE_SCALE = 8  # pixels of a latent pixel
V_PRED = "v_pred"  # an empty tensor of this name marks a checkpoint that predicts v
PREDICTIONS = {"epsilon": "eps", "v_prediction": "v"}  # diffusers' -> ours
BUILT = {  # fields of diffusers' configuration that no tensor tells, as we and the host build them
    "act_fn": "silu",
    "addition_time_embed_dim": SIZE_WIDTH,
    "center_input_sample": False,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-5,
    "norm_num_groups": 32,
    "resnet_time_scale_shift": "default",
}


class DiffusersAttention(Protocol):
    """diffusers' attention layer, as far as it is used."""

    to_q: nn.Linear

    def set_processor(self, processor: Callable[..., Tensor]) -> None: ...


def cross_attention(unet: nn.Module, layer: str) -> DiffusersAttention:
    """The cross-attention of a layer by diffusers' name."""
    return cast(DiffusersAttention, unet.get_submodule(f"{layer}.attn2"))


def blocks_of(unet: UNet2DConditionModel) -> list[nn.Module]:
    """The repeated parts of a U-Net, in order."""
    return cast("list[nn.Module]", [*unet.down_blocks, unet.mid_block, *unet.up_blocks])


def checkpoint_blocks(unet: UNet2DConditionModel) -> None:
    """Compute its activations again in the backward pass."""
    unet.enable_gradient_checkpointing()
    unet.train()  # diffusers checkpoints only then; no layer of it behaves otherwise


def first_blocks(unet: UNet2DConditionModel, count: int) -> UNet2DConditionModel:
    """A U-Net of the same weights that ends after its first blocks, the middle one being the last.

    What it says is the hidden state there.
    """
    head, down = copy.copy(unet), list(unet.down_blocks)
    parts = {
        "down_blocks": nn.ModuleList(down[:count]),
        "mid_block": unet.mid_block if count > len(down) else None,
        "up_blocks": nn.ModuleList(),
        "conv_norm_out": None,
        "conv_out": nn.Identity(),
    }
    head._modules = {**unet._modules, **parts}
    return head


def predicted(
    unet: UNet2DConditionModel,
    z: Tensor,
    t: Tensor,
    context: Tensor,
    seen: Tensor | None = None,
    pooled: Tensor | None = None,
) -> Tensor:
    """What a U-Net says of noisy latents (B, C, h, w) at timesteps (B,).

    Args:
        seen: (B, K) bool, which of the context (B, K, width) is read; None = all.
        pooled: SDXL's pooled text (B, width); None where the U-Net reads none.
    """
    extra = {}
    if pooled is not None:
        extra["added_cond_kwargs"] = {"text_embeds": pooled, "time_ids": _sizes(z)}
    return unet(z, t, context, encoder_attention_mask=seen, **extra).sample


def _sizes(z: Tensor) -> Tensor:
    """SDXL's sizes (B, 6): the picture's own, no crop, and as it is."""
    height, width = (VAE_SCALE * side for side in z.shape[-2:])
    return z.new_tensor([height, width, 0, 0, height, width]).expand(len(z), 6)


@dataclass(frozen=True)
class BaseUNet:
    """diffusers' U-Net with the weights of a file, and what that file is."""

    unet: UNet2DConditionModel  # in eval mode
    shape: UNetShape
    prediction: str  # "eps" or "v"
    zero_snr: bool  # trained with a last step of pure noise (arXiv 2305.08891)
    file: UNetFile

    @property
    def family(self) -> str:
        return self.shape.family

    def identity(self) -> str:
        """SHA-256 of the file's U-Net, the same in both layouts; not of the rest of the file."""
        tensors, digest = self.file.tensors(), hashlib.sha256()
        for ldm, diffusers in sorted(names(self.shape).items()):
            tensor = tensors[ldm if self.file.layout == "ldm" else diffusers].contiguous()
            digest.update(f"{ldm} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            digest.update(tensor.flatten().view(torch.uint8).numpy().data)
        return digest.hexdigest()


def read_unet(
    path: str | Path, prediction: str = "", dtype: torch.dtype = torch.float32
) -> BaseUNet:
    """A U-Net in LDM's layout (a whole checkpoint or the U-Net alone) or in diffusers'.

    Args:
        path: a .safetensors file, a diffusers folder, or the `unet` folder in it.
        prediction: "eps" or "v"; "" = as the file or the scheduler beside it says, otherwise eps.
    """
    file = find_unet(path)
    what = f"the U-Net of {path}"
    _check_built(file.config or {}, what)
    shape = unet_shape(file.shapes, file.config, file.layout, what)
    predicted = _prediction(file, prediction)
    to_diffusers = names(shape) if file.layout == "ldm" else {}
    tensors = {to_diffusers.get(name, name): value for name, value in file.tensors().items()}
    unet = fill(build_unet(shape, device="meta"), tensors, what, dtype)
    zero_snr = "ztsnr" in file.marks or bool(file.scheduler.get("rescale_betas_zero_snr"))
    return BaseUNet(unet, shape, predicted, zero_snr, file)


def tell_schedule(base: BaseUNet, learner: str) -> None:
    """Warn of a U-Net whose own schedule is another than that of the training."""
    if base.zero_snr:
        log.warning(
            "%s was trained with a last step of pure noise; %s is trained on the plain schedule, "
            "whose last step keeps a trace of the picture",
            base.file.path.name,
            learner,
        )


def build_unet(shape: UNetShape, device: torch.device | str = "cpu") -> UNet2DConditionModel:
    """diffusers' U-Net, with random weights."""
    try:
        from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
    except ImportError as error:
        raise LiDiTError(
            "a U-Net of SD1.5 or SDXL is trained on with diffusers, which is not installed; "
            "install it with: python -m pip install diffusers"
        ) from error
    with torch.device(device):
        return UNet2DConditionModel(**diffusers_config(shape))


def write_ldm(
    unet: UNet2DConditionModel,
    path: str | Path,
    metadata: Mapping[str, str],
    extra_tensors: Mapping[str, Tensor] | None = None,
    dtype: torch.dtype | None = None,
) -> None:
    """Write diffusers' U-Net as `model.diffusion_model.…`, which ComfyUI and `read_unet` read.

    Args:
        metadata: more of it; the U-Net's configuration is added.
        extra_tensors: by their whole names; ``{V_PRED: torch.tensor([])}`` marks a model of v.
        dtype: of the U-Net's tensors; None = as they are.
    """
    state = unet.state_dict()
    shape = unet_shape(_shapes(state), unet.config, "diffusers")
    to_diffusers = names(shape)
    check_tensors(state, build_unet(shape, device="meta").state_dict(), "the U-Net")
    tensors = {
        f"{HOST_PREFIX}{ldm}": state[diffusers].to(dtype) for ldm, diffusers in to_diffusers.items()
    }
    config = json.dumps(diffusers_config(shape))
    write_safetensors(path, {**tensors, **(extra_tensors or {})}, {**metadata, UNET_KEY: config})


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def _check_built(config: Mapping[str, Any], what: str) -> None:
    for name, value in BUILT.items():
        if config.get(name) not in (None, value):
            raise LiDiTError(
                f"{what} is configured with {name}={config[name]!r}; expected {value!r}, as in "
                "SD1.5 and SDXL"
            )


def _prediction(file: UNetFile, asked: str) -> str:
    if asked not in ("", *PREDICTIONS.values()):
        raise LiDiTError(f"the prediction {asked!r} is not known; expected 'eps', 'v' or ''")
    if edm := sorted(mark for mark in file.marks if mark.startswith("edm")):
        raise LiDiTError(
            f"{file.path} was trained in EDM's way ({edm[0]}), on which no adapter is trained; "
            "give a model that predicts eps or v"
        )
    if asked or V_PRED in file.marks:
        return asked or "v"
    named = file.scheduler.get("prediction_type", "epsilon")
    if named not in PREDICTIONS:
        raise LiDiTError(
            f"the scheduler beside {file.path} has prediction_type {named!r}; expected one of "
            f"{', '.join(PREDICTIONS)}"
        )
    return PREDICTIONS[named]
