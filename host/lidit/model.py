"""A LI-DiT checkpoint as the host's MODEL."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import comfy.latent_formats
import comfy.model_base
import comfy.model_management as management
import comfy.model_patcher
import comfy.supported_models_base
import comfy.utils
import torch
from comfy.patcher_extension import CallbacksMP, WrappersMP
from torch import Tensor

from ...lidit_core.checkpoints.lidit import CONFIG_TENSOR, config_tensor, read_lidit
from ...lidit_core.checkpoints.refiner import branch_places, exchange_refiner, read_refiner
from ...lidit_core.errors import LiDiTError
from ...lidit_core.io.tensors import HOST_PREFIX
from ...lidit_core.model.config import LatentFormat, LiDiTConfig
from ...lidit_core.model.latents import denormalise, normalise
from ..entries import readable
from ..keys import HIDDEN, TEXT
from ..patching.names import name_weights
from ..patching.patches import check_storage, name_owner, watch_patches
from .branches import model_text
from .conditioning import text_of
from .conds import CONDText
from .diffusion import HostLiDiT, NoUNet, check_alone
from .merges import NAME, check_lidit_weights
from .patches import names_of_attention, reads_tokens
from .sampling_checks import CHECKS_KEY, checked_sampling
from .schedule import check_finite, check_prediction, model_timestep
from .told import tell_unread

WEIGHT_DTYPES = {
    "default": None,  # as the host decides from the file and the device
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "fp8_e4m3fn": torch.float8_e4m3fn,
    "fp8_e5m2": torch.float8_e5m2,
}
PREDICTIONS = {
    "flow": comfy.model_base.ModelType.FLOW,
    "eps": comfy.model_base.ModelType.EPS,
    "v": comfy.model_base.ModelType.V_PREDICTION,
}


# what nodes set on a patcher, as its clone() copies it; not what belongs to its weights
CARRIED = (
    *("patches", "patches_uuid", "object_patches", "weight_wrapper_patches", "model_options"),
    *("force_cast_weights", "attachments", "additional_models", "callbacks", "wrappers"),
    *("injections", "skip_injection", "hook_patches", "forced_hooks", "hook_mode"),
)
Refiners = tuple[tuple[str, int], ...]  # files, each with the branch that it takes


class HostLatents(comfy.latent_formats.LatentFormat):
    """The checkpoint's latent format, with the colours that its previews are drawn in."""

    def __init__(self, format: LatentFormat) -> None:
        self.format = format
        self.latent_channels = format.channels
        self.spacial_downscale_ratio = format.downsampling
        self.latent_rgb_factors = [list(row) for row in format.rgb_factors] or None
        self.latent_rgb_factors_bias = list(format.rgb_bias) or None

    def process_in(self, latent: Tensor) -> Tensor:
        if latent.shape[1] != self.format.channels:
            raise LiDiTError(
                f"the latent has {latent.shape[1]} channels; this model paints in "
                f"{self.format.name} with {self.format.channels}: encode the picture with the VAE "
                "of the model's own loader"
            )
        return normalise(latent, self.format)

    def process_out(self, latent: Tensor) -> Tensor:
        return denormalise(latent, self.format)


class HostConfig(comfy.supported_models_base.BASE):
    """What the host asks of a model's kind."""

    unet_extra_config: dict[str, Any] = {}
    # float16 does not hold what some LLMs' states and a deep residual stream reach
    supported_inference_dtypes = [torch.bfloat16, torch.float32]

    def __init__(self, config: LiDiTConfig) -> None:
        self.config = config
        super().__init__({"config": config})
        self.unet_config = NoUNet(self.unet_config)
        self.latent_format = HostLatents(config.latent)
        native = (config.native_size, config.native_size)  # a schedule knows of no latent
        flow = config.prediction == "flow"
        self.sampling_settings = {"shift": config.shift_at(*native)} if flow else {}
        # not measured on a GPU: in proportion to the width, as the host's factors of other DiTs
        self.memory_usage_factor = config.width / 1152

    def model_type(self, state_dict, prefix=""):
        return PREDICTIONS[self.config.prediction]

    def inpaint_model(self) -> bool:
        return False

    def get_model(self, state_dict, prefix="", device=None) -> "HostModel":
        return HostModel(self, self.model_type(state_dict), device)

    def process_unet_state_dict_for_saving(self, state_dict):
        """The host's saving nodes write metadata of their own, so ours goes in as a tensor."""
        saved = super().process_unet_state_dict_for_saving(state_dict)
        return {**saved, HOST_PREFIX + CONFIG_TENSOR: config_tensor(self.config)}


class HostModel(comfy.model_base.BaseModel):
    """Turns CONDITIONING into the text that the diffusion model reads."""

    source: tuple[str | Path, str, Refiners] | None = None  # what `load_model` was given
    levels_known = False  # whether the sigmas of the sampling that runs were looked at

    def __init__(self, host_config: HostConfig, model_type, device=None) -> None:
        super().__init__(host_config, model_type, device=device, unet_model=HostLiDiT)
        self.memory_usage_factor_conds = (TEXT,)
        self.own_sampling = (self.model_sampling,)  # in a tuple: nodes exchange the other one only

    def extra_conds(self, **values) -> dict:
        check_alone(values.get("control"), values.get("gligen"))  # before they look for c_crossattn
        out = super().extra_conds(**values)
        out.pop("c_crossattn", None)
        text = text_of(values.get("cross_attn"), values)
        patched = bool(self.current_patcher and self.current_patcher.patches)
        kind = values.get("prompt_type", "")
        read = model_text(text, self.model_config.config, kind, patched)
        tell_unread(values)
        if reads_tokens(self._transformer_options()):
            read = replace(read, unpadded=True)
        return {**out, TEXT: CONDText(read.to(values["device"]))}

    def _transformer_options(self) -> dict[str, Any]:
        """What nodes have set for the sampling that begins."""
        patcher = self.current_patcher
        return patcher.model_options.get("transformer_options", {}) if patcher else {}

    def process_timestep(self, timestep: Tensor, **kwargs) -> Tensor:
        """The timestep in LI-DiT's unit, whatever unit a node's schedule has."""
        check_prediction(self.model_sampling, self.model_config.config.prediction)
        own = self.own_sampling[0]
        return model_timestep(self.model_sampling, timestep, own, self.levels_known)

    def process_latent_out(self, latent: Tensor) -> Tensor:
        """The sampler's result; one with NaN in it would be a black picture without a word."""
        check_finite(latent, self.manual_cast_dtype or self.get_dtype())
        return super().process_latent_out(latent)

    def extra_conds_shapes(self, **values) -> dict:
        """Shapes of an entry's text as it is, asked for before memory is freed for sampling."""
        states = values.get(HIDDEN)
        if not states:
            return {}
        with readable():
            rows = max(s.shape[0] for s in states.values())
            return {TEXT: [rows, 1, sum(s.shape[1] for s in states.values())]}


def load_model(
    path: str | Path,
    weight_dtype: str = "default",
    refiners: Refiners = (),
    disable_dynamic: bool = False,
) -> comfy.model_patcher.ModelPatcher:
    """A checkpoint, with the refiners of some files in place of its own, as a MODEL."""
    config, weights = read_lidit(path)
    for file, branch in refiners:
        config, weights = exchange_refiner(config, weights, file, branch)
    patcher = build_model(config, weights, weight_dtype, disable_dynamic)
    patcher.model.source = (path, weight_dtype, refiners)
    patcher.cached_patcher_init = (load_model, patcher.model.source)
    return patcher


def build_model(
    config: LiDiTConfig,
    weights: Mapping[str, Tensor],
    weight_dtype: str = "default",
    disable_dynamic: bool = False,
) -> comfy.model_patcher.ModelPatcher:
    """Checked weights as a MODEL, as the host's own loader of diffusion models does it."""
    device = management.get_torch_device()
    check_storage(WEIGHT_DTYPES[weight_dtype], device, "weight_dtype")
    host_config = HostConfig(config)
    dtype = WEIGHT_DTYPES[weight_dtype] or management.unet_dtype(
        model_params=sum(math.prod(w.shape) for w in weights.values()),
        supported_dtypes=list(host_config.supported_inference_dtypes),
        weight_dtype=comfy.utils.weight_dtype(dict(weights)),
    )
    cast = management.unet_manual_cast(dtype, device, host_config.supported_inference_dtypes)
    host_config.set_inference_dtype(dtype, cast)
    patcher_kind = comfy.model_patcher.ModelPatcher
    if not disable_dynamic:
        patcher_kind = getattr(comfy.model_patcher, "CoreModelPatcher", patcher_kind)
    model = host_config.get_model(weights)
    patcher = patcher_kind(
        model, load_device=device, offload_device=management.unet_offload_device()
    )
    dynamic = hasattr(patcher, "is_dynamic") and patcher.is_dynamic()
    model.load_model_weights(dict(weights), **({"assign": True} if dynamic else {}))
    name_owner(model.diffusion_model, config)
    watch_patches(patcher, NAME)
    name_weights(patcher, names_of_attention(config))
    patcher.add_wrapper_with_key(WrappersMP.SAMPLER_SAMPLE, CHECKS_KEY, checked_sampling)
    patcher.add_callback_with_key(CallbacksMP.ON_PRE_RUN, CHECKS_KEY, check_lidit_weights)
    return patcher


def with_refiner(
    model: comfy.model_patcher.ModelPatcher, file: str, branch: int | None = None
) -> comfy.model_patcher.ModelPatcher:
    """The same checkpoint with one branch's refiner taken from a file.

    The model is built anew, as a branch of another LLM has other shapes; what nodes set on the
    given one is carried over, patches of the exchanged refiner's weights excepted.

    Raises:
        LiDiTError: it does not fit, or a node has tied something to the given model's modules.

    Args:
        branch: see `exchange_refiner`.
    """
    config = config_of_model(model)
    if model.model.source is None:
        raise LiDiTError(
            "this LI-DiT was not read from a file; connect one from the LI-DiT model loader"
        )
    path, weight_dtype, refiners = model.model.source
    branch = read_refiner(file).branch_of(config, branch)
    fresh = load_model(path, weight_dtype, (*refiners, (file, branch)))
    copied = model.clone()
    if _is_bound(copied) or copied.load_device != fresh.load_device:
        raise LiDiTError(
            "this MODEL was compiled, put on another device or given a LoRA in bypass mode, which "
            "the exchanged refiner would not have; put the refiner loader directly after the model "
            "loader, and those nodes after it"
        )
    for name in CARRIED:
        setattr(fresh, name, getattr(copied, name))
    _drop_patches(fresh, tuple(f"diffusion_model.{p}" for p in branch_places(branch).values()))
    return fresh


def _is_bound(patcher: comfy.model_patcher.ModelPatcher) -> bool:
    """Whether nodes have tied something to the modules as they are."""
    compiled = patcher.wrappers.get(WrappersMP.APPLY_MODEL, {}).get("torch.compile")
    return bool(compiled or patcher.injections or patcher.additional_models.get("multigpu"))


def _drop_patches(patcher: comfy.model_patcher.ModelPatcher, prefixes: tuple[str, ...]) -> None:
    """Drop the patches of all weights whose names begin so."""
    for patches in (
        patcher.patches,
        patcher.weight_wrapper_patches,
        *patcher.hook_patches.values(),
    ):
        for key in [key for key in patches if key.startswith(prefixes)]:
            del patches[key]


def config_of_model(model: comfy.model_patcher.ModelPatcher) -> LiDiTConfig:
    """The configuration of a MODEL, if it is a LI-DiT."""
    host_config = getattr(model.model, "model_config", None)
    if not isinstance(host_config, HostConfig):
        raise LiDiTError(
            f"this model is {type(model.model).__name__}, not a LI-DiT; connect one from the "
            "LI-DiT model loader"
        )
    return host_config.config
