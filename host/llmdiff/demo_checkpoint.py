"""The demo checkpoint (lidit_core.demo.checkpoint) as the host's MODEL, CLIP and VAE."""

from __future__ import annotations

from pathlib import Path

import comfy.model_base
import comfy.model_management as management
import comfy.model_patcher
import comfy.sd
import comfy.supported_models_base
import torch
from comfy.supported_models_base import ClipTarget
from torch import Tensor, nn

from ...lidit_core.bridge.layout import RowMaker, word_rows
from ...lidit_core.checkpoints.lidit import read_config
from ...lidit_core.demo.bag_of_words import BagOfWords
from ...lidit_core.demo.checkpoint import TEXT_PREFIX, DemoConfig, read_demo_checkpoint
from ...lidit_core.io.tensors import HOST_PREFIX, check_tensors
from ...lidit_core.model.config import LatentFormat
from ...lidit_core.model.latents import with_colours_of
from ...lidit_core.paths import SHIPPED_WEIGHTS
from ...lidit_core.shipped import SHIPPED_MODELS
from ...lidit_core.unet.families import host_config
from ...lidit_core.unet.shape import read_shape
from ..lidit.files import vae_of
from ..lidit.model import PREDICTIONS, HostLatents


class DemoKind(comfy.supported_models_base.BASE):
    """What the host asks of a model's kind."""

    unet_extra_config: dict = {}
    supported_inference_dtypes = [torch.float32]

    def __init__(self, config: DemoConfig, unet: dict) -> None:
        super().__init__(unet)
        self.prediction = config.prediction
        self.latent_format = HostLatents(with_preview(config.latent))

    def model_type(self, state_dict, prefix=""):
        return PREDICTIONS[self.prediction]


def with_preview(latent: LatentFormat) -> LatentFormat:
    """The same with the preview colours of a shipped LI-DiT that paints in these latents."""
    shipped = SHIPPED_WEIGHTS / SHIPPED_MODELS["stickers"].file
    if latent.rgb_factors or not shipped.is_file():
        return latent
    other = read_config(shipped).latent
    return with_colours_of(other, latent) if other.name == latent.name else latent


class BagOfWordsClip(nn.Module):
    """The weak text encoder as the host's text model."""

    def __init__(self, config: DemoConfig, **_) -> None:
        super().__init__()
        self.encoder: BagOfWords = config.text_encoder()
        self.dtypes = {torch.float32}

    def reset_clip_options(self) -> None:
        """Do nothing: the encoder has no options."""

    def set_clip_options(self, options: dict) -> None:
        """Do nothing: the encoder has no options."""

    def bridge_rows(self) -> RowMaker:
        """What its rows stand for, which a bridge has to know."""
        return word_rows(self.encoder.buckets, self.encoder.length)

    def get_input_embeddings(self) -> nn.Module:
        return self.encoder.words

    def load_sd(self, state: dict):
        return self.encoder.load_state_dict(state, strict=False)

    def encode_token_weights(self, tokens: dict) -> tuple[Tensor, None]:
        ids = [[token for token, _ in row] for row in tokens["words"]]
        device = self.encoder.words.weight.device
        return self.encoder(torch.tensor(ids, device=device)).cpu(), None


def words_tokenizer(config: DemoConfig) -> type:
    """The host makes the tokenizer of a class."""
    encoder = config.text_encoder(device="meta")

    class Words:
        def __init__(self, embedding_directory=None, tokenizer_data=None) -> None:
            pass

        def tokenize_with_weights(self, text: str, return_word_ids: bool = False, **_) -> dict:
            return {"words": [[(token, 1.0) for token in encoder.tokenize(text)]]}

        def state_dict(self) -> dict:
            return {}

    return Words


def load_demo_checkpoint(path: Path):
    """Load the (MODEL, CLIP, VAE) of a demo checkpoint's file.

    Raises:
        LiDiTError: it is another kind of file, or damaged.
    """
    config, tensors = read_demo_checkpoint(path)
    return open_model(path), _clip(path, config, tensors), vae_of(config, path)


def open_model(path: Path, disable_dynamic: bool = False) -> comfy.model_patcher.ModelPatcher:
    """The MODEL; hosts call it again where they need a copy of the weights."""
    config, tensors = read_demo_checkpoint(path)
    kind = DemoKind(config, host_config(read_shape(path)))
    kind.set_inference_dtype(torch.float32, None)
    device = management.get_torch_device()
    model = comfy.model_base.BaseModel(kind, kind.model_type({}), device=None)
    expected = {k: v for k, v in tensors.items() if k.startswith(HOST_PREFIX)}
    found = {f"{HOST_PREFIX}{k}": v for k, v in model.diffusion_model.state_dict().items()}
    if found:  # empty where the host makes weights later
        check_tensors(expected, found, f"the demo checkpoint {path}")
    patcher = comfy.model_patcher.ModelPatcher(
        model, load_device=device, offload_device=management.unet_offload_device()
    )
    model.load_model_weights(dict(expected), HOST_PREFIX)
    patcher.cached_patcher_init = (open_model, (path,))
    return patcher


def open_text_patcher(path: Path, disable_dynamic: bool = False):
    """The patcher of the CLIP, for hosts that need a copy of the weights."""
    return _clip(path, *read_demo_checkpoint(path)).patcher


def _clip(path: Path, config: DemoConfig, tensors: dict[str, Tensor]):
    target = ClipTarget(words_tokenizer(config), lambda **options: BagOfWordsClip(config))
    clip = comfy.sd.CLIP(target, model_options={"dtype": torch.float32})
    own = {k.removeprefix(TEXT_PREFIX): v.float() for k, v in tensors.items()
           if k.startswith(TEXT_PREFIX)}  # fmt: skip
    clip.load_sd(own)
    clip.patcher.cached_patcher_init = (open_text_patcher, (path,))
    return clip
