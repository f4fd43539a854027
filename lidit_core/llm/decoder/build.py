"""The decoder of an LLM: its configuration, cut to the blocks that are read, and built."""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol, cast

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ...errors import LiDiTError, check, first_line
from ...progress import told
from ..compat import dtype_argument
from ..encoders import BERTS, T5S, class_of, is_encoder, options_of, reading_half
from .audit import check_blocks, check_config, check_stated, check_unread, check_widths
from .checkpoint import Checkpoint, checkpoint_files
from .one_block import exceeds_memory, read_as_it_runs
from .stored import Stored


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

    check_stated(folder, name)
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        quantised = getattr(config, "quantization_config", None)
        config = config if is_encoder(config) else config.get_text_config(decoder=True)
        kind = config.model_type  # which what stands in a tower's place may lack
    except Exception as error:  # what a config.json says can raise about every kind
        raise LiDiTError(
            f"the configuration of {name} in {folder} cannot be read ({first_line(error)}); "
            "expected an LLM that transformers knows"
        ) from error
    if quantised:
        method = quantised.get("quant_method") if isinstance(quantised, dict) else quantised
        raise LiDiTError(
            f"the weights of {name} are quantised in a way that is not read ({method}); give a "
            "GGUF file or the weights as bfloat16"
        )
    _check_kind(config, kind, name)
    return config


def _check_kind(config, kind: str, name: str) -> None:
    both = getattr(config, "is_encoder_decoder", False) and not is_encoder(config)
    if both or not hasattr(config, "num_hidden_layers"):
        raise LiDiTError(
            f"{name} is a {kind}; expected a decoder-only LLM, or an encoder of the "
            f"kinds {', '.join((*BERTS, *T5S))}"
        )
    if getattr(config, "hidden_size_per_layer_input", 0):
        raise LiDiTError(
            f"{name} is a {kind}, whose blocks have embeddings of their own and "
            "cannot be cut, which is not supported; choose an LLM of another kind"
        )


def truncated(config, kept: int):
    """A copy of the configuration with the first `kept` blocks; per-block lists are cut along.

    Which code computes attention is for transformers to choose: a file may name code to download.
    """
    total = config.num_hidden_layers
    config = copy.deepcopy(config)
    for key, value in list(config.to_dict().items()):
        if isinstance(value, list) and len(value) == total and hasattr(config, key):
            setattr(config, key, value[:kept])
    try:
        config.num_hidden_layers = kept
    except NotImplementedError as error:
        raise LiDiTError(
            f"a {config.model_type} cannot be cut after {kept} blocks ({first_line(error)}); "
            "expected a decoder-only LLM"
        ) from error
    config.output_attentions = config.output_hidden_states = False
    for key in ("_attn_implementation", "_experts_implementation"):
        if hasattr(config, key):
            setattr(config, key, None)
    return config


def build(
    config,
    kept: int,
    files: list[Path],
    dtype: torch.dtype,
    name: str,
    one_block: bool | None = False,
) -> nn.Module:
    """The decoder's first `kept` blocks with the weights of `files`, in eval mode.

    Args:
        config: of the whole decoder.
        name: how sentences call the LLM.
        one_block: whether its blocks are read as they run; None = where memory has no room.

    Raises:
        LiDiTError: a tensor is missing, misshapen, stored in a way that is not read, or not read.
    """
    checkpoint = Checkpoint(files)
    check_config(config, kept, checkpoint, name)
    total, config = config.num_hidden_layers, truncated(config, kept)
    module = empty_model(config, name)
    check(
        "input_ids" in inspect.signature(module.forward).parameters,
        f"{name} is a {config.model_type}, which does not read token ids; expected a decoder-only "
        "LLM",
    )
    place = f"{blocks_name(module)}."
    ignored = getattr(module, "_keys_to_ignore_on_load_unexpected", None) or ()
    wanted = dict(module.state_dict())
    if missing := checkpoint.missing(wanted):
        # transformers may know how to make them from others, as it fuses experts
        check_blocks(config, checkpoint.files, checkpoint.prefix(wanted) + place, total, name)
        check_widths(checkpoint, name)
        module, unread = _converted_by_transformers(config, files, dtype, missing, name)
        names = [n[n.find(place) :] for n in unread if place in n]
        check_unread(names, set(), place, kept, ignored, name)
    else:
        prefix = checkpoint.prefix(wanted)
        read = {prefix + key for key in wanted}
        check_blocks(config, checkpoint.files, prefix + place, total, name)
        stored = checkpoint.stored(wanted)
        read |= {n for n in checkpoint.files if _describes(n, read)}
        check_unread(checkpoint.files, read, prefix + place, kept, ignored, name)
        size = sum(math.prod(one.shape) for one in stored.values()) * dtype.itemsize
        if exceeds_memory(size, name) if one_block is None else one_block:
            read_as_it_runs(module, stored, checkpoint.paths, dtype, place)
        else:
            state = _read(stored, dtype, f"loading {size / 1e6:,.0f} MB of weights")
            module.load_state_dict(state, strict=True, assign=True)
    return module.eval().requires_grad_(False)


def _read(stored: Mapping[str, Stored], dtype: torch.dtype, what: str) -> dict[str, Tensor]:
    return {key: one.read(dtype) for key, one in told(what, stored.items())}


def _describes(name: str, read: set[str]) -> bool:
    """Whether a tensor lies beside a weight that is read, where `stored` has looked at it."""
    return name.rpartition(".")[0] + ".weight" in read and not name.endswith(".bias")


def empty_model(config, name: str, kind=None) -> nn.Module:
    """What a configuration makes, on the meta device but for what is computed.

    Args:
        kind: one of transformers' Auto classes; by default that of decoders alone.
    """
    from transformers import AutoModel

    known = getattr(AutoModel, "_model_mapping", None)
    check(
        kind is not None or known is None or type(config) in known,
        f"{name} is a {config.model_type}, of which transformers has no decoder that runs alone; "
        "choose an LLM of another kind",
    )
    try:
        with _EmptyOnMeta():
            if kind is not None:
                return kind.from_config(config, trust_remote_code=False)
            options = {"trust_remote_code": False, **options_of(config)}
            return reading_half(class_of(config).from_config(config, **options), config)
    except Exception as error:  # whatever a model's class makes of strange values
        raise LiDiTError(
            f"no {config.model_type} can be made of the config.json of {name} "
            f"({first_line(error)}); expected what its maker wrote, so download it again"
        ) from error


def _converted_by_transformers(
    config, files: list[Path], dtype: torch.dtype, missing: list[str], name: str
) -> tuple[nn.Module, list[str]]:
    """The decoder, and the tensors that nothing was made of."""
    folder = files[0].parent
    check(
        (folder / "config.json").is_file() and files == checkpoint_files(folder),
        f"{files[0]} lacks {len(missing)} tensors of {name}, the first {missing[0]}; expected a "
        "whole LLM of its kind, so get it again, or give it as a model folder",
    )
    options = {dtype_argument(): dtype, "output_loading_info": True, "local_files_only": True,
               "use_safetensors": True, **options_of(config)}  # fmt: skip
    error = None
    try:
        module, report = class_of(config).from_pretrained(folder, config=config, **options)
        module = reading_half(module, config)
        missing = sorted(map(str, report["missing_keys"] or report.get("mismatched_keys", ())))
    except Exception as failed:
        error = failed
    if error or missing:
        raise LiDiTError(
            f"the checkpoint in {folder} lacks {len(missing)} tensors, the first {missing[0]}; "
            "expected a whole one, so download it again"
        ) from error
    return module, sorted(report["unexpected_keys"])


class DecoderConfig(Protocol):
    """What is read of an LLM's configuration."""

    num_hidden_layers: int
    model_type: str


def blocks_name(module: nn.Module) -> str:
    """The name of the list of the decoder's blocks."""
    count = cast(DecoderConfig, module.config).num_hidden_layers
    depth = 1 if is_encoder(module.config) else 0  # dots in the name: BERT's are encoder.layer
    for name, part in module.named_modules():
        if isinstance(part, nn.ModuleList) and len(part) == count and name.count(".") <= depth:
            return name
    raise LiDiTError(
        f"{type(module).__name__} has no list of {count} blocks; expected a decoder-only LLM of "
        "the usual layout"
    )


def decoder_blocks(module: nn.Module) -> nn.ModuleList:
    """The decoder's blocks, in the order of execution."""
    return cast(nn.ModuleList, module.get_submodule(blocks_name(module)))
