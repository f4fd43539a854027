"""Loading a decoder-only LLM, cut after the block that is wanted; safetensors or GGUF only."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from ..errors import LiDiTError, first_line
from ..fetch import install_line
from .blocks import EVERY_BLOCK, kept_blocks
from .compat import check_transformers, dtype_argument, read_tokenizer
from .gguf import convert
from .locate import HUB, Source, locate
from .weights import Checkpoint, checkpoint_files

FINAL_NORMS = ("norm", "final_layernorm", "final_layer_norm", "ln_f", "norm_f", "embedding_norm")
DTYPES = (torch.float32, torch.bfloat16)


@dataclass(frozen=True)
class LLM:
    """A tokenizer and a decoder without its last blocks, final norm and head.

    `module` is a plain `nn.Module` that a host may wrap, cast, place and offload.
    """

    name: str
    module: nn.Module
    tokenizer: object
    block: int | str  # as asked for: an index into `hidden_states`, or one of `EVERY_BLOCK`
    blocks: int  # blocks that are loaded
    width: int  # channels of a hidden state
    context: int  # tokens that the LLM can read
    placed: torch.device | None = None  # where inputs go if accelerate spread the module

    @property
    def state_width(self) -> int:
        """Channels of the states: `width`, times blocks + 1 where all blocks are asked for."""
        return self.width * (self.blocks + 1) if self.block in EVERY_BLOCK else self.width

    @property
    def dtype(self) -> torch.dtype:
        return self.module.get_input_embeddings().weight.dtype

    @property
    def device(self) -> torch.device:
        """Where inputs go."""
        return self.placed or self.module.get_input_embeddings().weight.device


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


def default_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where the device computes fast in it, else float32."""
    if device.type == "cuda":
        fast = torch.cuda.get_device_capability(device) >= (8, 0)
    elif device.type == "cpu":
        probe = getattr(torch.cpu, "_is_amx_tile_supported", None)
        fast = bool(probe and probe())
    else:
        fast = False
    return torch.bfloat16 if fast else torch.float32


def intended_device(
    device: torch.device | str | None, device_map: str | dict | None = None
) -> torch.device:
    """The device as given; where none is, the CPU, or with a `device_map` the GPU if there is one.

    Raises:
        LiDiTError: a `device_map` that is neither None, "auto" nor a dict.
    """
    if not (device_map is None or device_map == "auto" or isinstance(device_map, dict)):
        raise LiDiTError(
            f"device_map is {device_map!r}; expected 'auto', or a dict of module names and their "
            "devices"
        )
    spread = device_map is not None and torch.cuda.is_available()
    return torch.device(device or ("cuda" if spread else "cpu"))


@torch.inference_mode(False)
def load_llm(
    source: str | Path,
    block: int | str = -3,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    device_map: str | dict | None = None,
    computes_on: torch.device | str | None = None,
) -> LLM:
    """Load the tokenizer and the first blocks of an LLM.

    Args:
        source: see `locate`; a GGUF file is converted on first use.
        block: index into transformers' `hidden_states` (0 would be the embeddings, -1 the last
            block; always without the final norm), "all", or "differences": what each block adds
            because of the tokens before, see `text/differences.py`.
        dtype: float32 or bfloat16; by default whichever suits the device.
        device: where the LLM goes; by default the CPU. With a `device_map` it only chooses dtype.
        device_map: "auto", or module names with their device ("cuda:0", "cpu"): spreads the LLM
            over GPUs and the CPU through accelerate. It never goes to disk.
        computes_on: where it will run, if a host moves it there from `device`; chooses dtype and
            the weights' layout.
    """
    device = intended_device(device, device_map)
    computes_on = torch.device(computes_on or device)
    dtype = dtype or default_dtype(computes_on)
    if dtype not in DTYPES:
        raise LiDiTError(f"dtype of an LLM is {dtype}; expected float32 or bfloat16, so choose one")
    check_transformers()
    found = locate(source)
    folder = model_folder(found)
    config = text_config(folder, found.name)
    total = config.num_hidden_layers
    kept = kept_blocks(block, total, found.name)
    tokenizer = load_tokenizer(folder, found.name)
    module = build(truncated(config, kept), folder, dtype)
    module, placed = dispatch(module, device_map) if device_map else (module.to(device), None)
    if placed is None and computes_on.type == "cpu":
        lay_out_for_cpu(module)
    context = getattr(config, "max_position_embeddings", None) or 1 << 20
    width = config.hidden_size
    return LLM(found.name, module, tokenizer, block, kept, width, context, placed)


def lay_out_for_cpu(module: nn.Module) -> None:
    """Keep each Linear's weight as (in, out) in memory, under its usual shape (out, in).

    For the 20 or so tokens of a prompt, MKL's product with the usual layout uses one thread and
    took 885 us for 576 x 1536 on two cores; with this one it took 278 us (397 to 625 on one).
    """
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            layer.weight.data = layer.weight.data.t().contiguous().t()


def model_folder(found: Source) -> Path:
    """The model folder of a located LLM, converted or downloaded first where need be."""
    if found.folder is None:
        return download(found.repo)
    if not found.converted:
        convert(found.parts, found.folder)
    return found.folder


def downloaded_commit(repo: str) -> str | None:
    """The commit of the newest copy of a hub model on this machine; None where there is none."""
    from huggingface_hub import try_to_load_from_cache

    try:
        config = try_to_load_from_cache(repo, "config.json")
    except ValueError:  # no name of a repository; the download says so
        return None
    return Path(config).parent.name if isinstance(config, str) else None


def download(repo: str) -> Path:
    """Fetch a model from the hub; only ever called for a source that begins with `hub:`."""
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(repo, allow_patterns=["*.json", "*.safetensors", "*.model",
                                                            "*.txt", "*.jinja"]))  # fmt: skip
    except Exception as error:
        raise LiDiTError(
            f"{HUB}{repo} cannot be downloaded ({first_line(error)}); check the name and the "
            "connection, or give a model folder"
        ) from error


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


def load_tokenizer(folder: Path, name: str):
    """The fast tokenizer of a model folder, with its chat template."""
    try:
        tokenizer = read_tokenizer(folder)
    except Exception as error:  # transformers raises about every kind here
        raise LiDiTError(
            f"{name} has no tokenizer that can be read in {folder} ({first_line(error)}); put "
            "its tokenizer.json and tokenizer_config.json there"
        ) from error
    if not tokenizer.is_fast:
        raise LiDiTError(
            f"the tokenizer of {name} gives no offsets; expected a fast one, so add its "
            "tokenizer.json"
        )
    return tokenizer


def build(config, folder: Path, dtype: torch.dtype) -> nn.Module:
    """The decoder with the weights of `folder`, in eval mode, its final norm taken out."""
    from transformers import AutoModel

    with _EmptyOnMeta():
        module = AutoModel.from_config(config, trust_remote_code=False)
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


def dispatch(module: nn.Module, device_map: str | dict) -> tuple[nn.Module, torch.device]:
    """Spread a loaded decoder over GPUs and the CPU; returns it and the device for its inputs."""
    try:
        from accelerate import dispatch_model, infer_auto_device_map
    except ImportError as error:
        line = install_line("accelerate")
        raise LiDiTError(f"device_map needs accelerate; leave it out, or run: {line}") from error
    if isinstance(device_map, str):
        blocks = getattr(module, "_no_split_modules", None)
        device_map = infer_auto_device_map(module, no_split_module_classes=blocks)
    on_disk = [name for name, place in device_map.items() if place == "disk"]
    if on_disk:
        raise LiDiTError(
            f"{len(on_disk)} modules of the LLM would go to disk, the first {on_disk[0]!r}; "
            "expected GPUs and CPU memory to hold it, so free some, or take a smaller LLM"
        )
    places = [torch.device(place) for place in device_map.values()]
    main = next((place for place in places if place.type != "cpu"), torch.device("cpu"))
    return dispatch_model(module, device_map, main_device=main), main
