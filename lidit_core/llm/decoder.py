"""The decoder of an LLM: its configuration, cut to the blocks that are read, and built."""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from ..errors import LiDiTError, first_line
from .compat import dtype_argument
from .weights import Checkpoint, checkpoint_files

FINAL_NORMS = ("norm", "final_layernorm", "final_layer_norm", "ln_f", "norm_f", "embedding_norm")


class _EmptyOnMeta(TorchFunctionMode):
    """Creates uninitialised tensors, hence all large parameters, on the meta device.

    Unlike `torch.device("meta")` it leaves computed buffers (rotary frequencies) real. Random
    values for parameters without memory are not drawn, which takes a while even there.
    """

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is torch.empty:
            kwargs = {**kwargs, "device": "meta"}
        if func is torch.Tensor.normal_ and args[0].is_meta:
            return args[0]
        return func(*args, **kwargs)


def text_config(folder: Path, name: str):
    """The configuration of the text tower, which is the whole of a text-only LLM."""
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except (ValueError, KeyError, OSError) as error:
        raise LiDiTError(
            f"the configuration of {name} in {folder} cannot be read ({first_line(error)}); "
            "expected a decoder-only LLM that transformers knows"
        ) from error
    quantised = getattr(config, "quantization_config", None)
    if quantised:
        method = quantised.get("quant_method") if isinstance(quantised, dict) else quantised
        raise LiDiTError(
            f"the weights of {name} are quantised in a way that is not read ({method}); give a "
            "GGUF file or the weights as bfloat16"
        )
    config = config.get_text_config(decoder=True)
    if getattr(config, "is_encoder_decoder", False) or not hasattr(config, "num_hidden_layers"):
        raise LiDiTError(f"{name} is a {config.model_type}; expected a decoder-only LLM")
    if getattr(config, "hidden_size_per_layer_input", 0):
        raise LiDiTError(
            f"{name} is a {config.model_type}, whose blocks have embeddings of their own and "
            "cannot be cut, which is not supported; choose an LLM of another kind"
        )
    return config


def truncated(config, kept: int):
    """A copy of the configuration with the first `kept` blocks; per-block lists are cut along."""
    total = config.num_hidden_layers
    config = copy.deepcopy(config)
    for key, value in list(config.to_dict().items()):
        if isinstance(value, list) and len(value) == total and hasattr(config, key):
            setattr(config, key, value[:kept])
    config.num_hidden_layers = kept
    return config


def build(config, folder: Path, dtype: torch.dtype) -> nn.Module:
    """The decoder with the weights of `folder`, in eval mode, its final norm taken out."""
    module = empty_model(config)
    norm = final_norm(module)
    wanted = {k: v for k, v in module.state_dict().items() if not k.startswith(norm + ".")}
    checkpoint = Checkpoint(checkpoint_files(folder))
    missing = checkpoint.missing(wanted)
    if missing:  # transformers may know how to make them from others, as it fuses experts
        module = _converted_by_transformers(config, folder, dtype, missing)
    setattr(module, norm, nn.Identity())
    if not missing:
        module.load_state_dict(checkpoint.read(wanted, dtype), strict=True, assign=True)
    return module.eval().requires_grad_(False)


def empty_model(config, kind=None) -> nn.Module:
    """What a configuration makes, on the meta device but for what is computed.

    Args:
        kind: one of transformers' Auto classes; by default that of decoders alone.
    """
    from transformers import AutoModel

    with _EmptyOnMeta():
        return (kind or AutoModel).from_config(config, trust_remote_code=False)


def _converted_by_transformers(
    config, folder: Path, dtype: torch.dtype, missing: list[str]
) -> nn.Module:
    from transformers import AutoModel

    options = {dtype_argument(): dtype, "output_loading_info": True, "local_files_only": True,
               "use_safetensors": True}  # fmt: skip
    error = None
    try:
        module, report = AutoModel.from_pretrained(folder, config=config, **options)
        missing = sorted(report["missing_keys"])
    except (RuntimeError, ValueError, OSError) as failed:
        error = failed
    if error or missing:
        raise LiDiTError(
            f"the checkpoint in {folder} lacks {len(missing)} tensors, the first {missing[0]}; "
            "expected a whole one, so download it again"
        ) from error
    return module


def final_norm(module: nn.Module) -> str:
    """The name of the norm after the last block."""
    for name in FINAL_NORMS:
        if isinstance(getattr(module, name, None), nn.Module):
            return name
    raise LiDiTError(
        f"{type(module).__name__} has no final norm under a known name ({', '.join(FINAL_NORMS)}); "
        "expected a decoder-only LLM of the usual layout"
    )
