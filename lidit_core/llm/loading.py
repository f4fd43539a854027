"""Loading an LLM, cut after the block that is wanted; safetensors or GGUF only."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

import torch
from torch import nn

from ..errors import LiDiTError, check, first_line
from ..progress import tell
from .blocks import EVERY_BLOCK, Block, kept_blocks, plain_block, tap_indices
from .compat import check_transformers, read_tokenizer
from .decoder.build import build, decoder_blocks, text_config
from .decoder.checkpoint import Checkpoint, checkpoint_files
from .decoder.fingerprints import decoder_fingerprint, files_fingerprint
from .decoder.one_block import Embedded
from .encoders import is_encoder
from .fetch import install_line
from .gguf.convert import copy_storage
from .hub import model_folder
from .locate import LLMSource, locate, whole_ggufs
from .single.file import check_vocabulary
from .storage import by_block, class_of, of_blocks
from .words import check_words

DTYPES = (torch.float32, torch.bfloat16)


class Tokenizer(Protocol):
    """What is asked of an LLM's tokenizer beside its tokens, as transformers' classes have it."""

    bos_token_id: int | None
    eos_token_id: int | None

    def decode(self, token_ids: Sequence[int]) -> str: ...


@dataclass(frozen=True)
class LLM:
    """A tokenizer and a decoder, or an encoder, without its last blocks and its head.

    `module` is a plain `nn.Module` that a host may wrap, cast, place and offload.
    """

    name: str
    module: nn.Module
    tokenizer: Tokenizer
    block: Block  # as asked for: an index into `hidden_states`, several, or one of `EVERY_BLOCK`
    blocks: int  # blocks that are loaded
    width: int  # channels of a hidden state
    context: int  # tokens that the LLM can read
    placed: torch.device | None = None  # where inputs go if the weights lie elsewhere
    taps: tuple[int, ...] = ()  # the indices of several blocks, in the order asked for
    fingerprint: str = ""  # of its weights, see `fingerprint.py`; "" = not known
    storage: str = ""  # the class of numbers that they lie in, see `storage.py`; "" = not known

    @property
    def state_width(self) -> int:
        """Channels of the states: `width` times the blocks, the embeddings too where it is all."""
        read = self.blocks + 1 if self.block in EVERY_BLOCK else len(self.taps) or 1
        return self.width * read

    @property
    def dtype(self) -> torch.dtype:
        return cast(Embedded, self.module).get_input_embeddings().weight.dtype

    @property
    def device(self) -> torch.device:
        """The device that inputs go to."""
        return self.placed or cast(Embedded, self.module).get_input_embeddings().weight.device

    @property
    def vocabulary(self) -> int:
        """The number of tokens that the LLM knows."""
        return cast(Embedded, self.module).get_input_embeddings().weight.shape[0]

    def check_tokens(self, ids: Iterable[int]) -> None:
        """Refuse tokens that the LLM lacks: PyTorch has an IndexError for them, a GPU an abort."""
        largest = max(ids, default=0)
        check(
            largest < self.vocabulary,
            f"the tokenizer of {self.name} gives token {largest}, and its LLM has "
            f"{self.vocabulary}; load the LLM with the tokenizer that belongs to it",
        )


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


def expected_bytes(source: str | Path, block: Block, dtype: torch.dtype) -> int | None:
    """Bytes of the weights that `load_llm` will hold, by the headers of the files alone.

    None where that is not known before: of a GGUF that is not converted yet, or of the hub.
    """
    found = locate(source)
    if not found.converted or found.folder is None:
        return None
    config = text_config(found.folder, found.name)
    kept = kept_blocks(plain_block(block), config.num_hidden_layers, found.name)
    files = Checkpoint(checkpoint_files(found.folder)).files
    other = "decoder." if is_encoder(config) else None  # the half that is not read
    read = [n for n in files if _is_read(n, kept) and not (other and n.startswith(other))]
    shapes = (files[name].get_slice(name).get_shape() for name in read)
    return sum(map(math.prod, shapes)) * dtype.itemsize


def _is_read(name: str, kept: int) -> bool:
    """Whether a tensor of this name is among the embeddings, the first blocks and the last norm."""
    numbered = re.search(r"\.(?:layers?|h|blocks?)\.(\d+)\.", f".{name}")
    if numbered:
        return int(numbered[1]) < kept
    return any(part in name for part in ("embed", "wte", "norm", "ln_f", "shared"))


@torch.inference_mode(False)
def load_llm(
    source: str | Path,
    block: Block = -3,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    device_map: str | dict | None = None,
    computes_on: torch.device | str | None = None,
    one_block: bool | None = False,
) -> LLM:
    """Load the tokenizer and the first blocks of an LLM.

    Args:
        source: see `locate`; a GGUF file is converted on first use.
        block: index into transformers' `hidden_states` (0 would be the embeddings, -1 the last
            block; always without the final norm), several in a tuple, whose states then lie side
            by side, "all", or "differences": what each block adds because of the tokens before,
            see `text/differences.py`.
        dtype: float32 or bfloat16; by default whichever suits the device.
        device: where the LLM goes; by default the CPU. With a `device_map` it only chooses dtype.
        device_map: "auto", or module names with their device ("cuda:0", "cpu"): spreads the LLM
            over GPUs and the CPU through accelerate. It never goes to disk.
        computes_on: where it will run, if a host moves it there from `device`; chooses dtype and
            the weights' layout.
        one_block: on a CPU, whether the weights stay in the files and each block's are read when
            it runs; None = where memory has no room for all.
    """
    place = intended_device(device, device_map)
    runs_on = torch.device(computes_on or place)
    dtype = dtype or default_dtype(runs_on)
    if dtype not in DTYPES:
        raise LiDiTError(f"dtype of an LLM is {dtype}; expected float32 or bfloat16, so choose one")
    check_transformers()
    found = locate(source)
    tell(f"reading {found.name}", 0)
    folder = model_folder(found)
    config = text_config(folder, found.name)
    total = config.num_hidden_layers
    block = plain_block(block)
    taps, kept = tap_indices(block, total, found.name), kept_blocks(block, total, found.name)
    tokenizer = load_tokenizer(folder, found.name)
    files = [found.weights] if found.weights else checkpoint_files(folder)
    one_block = one_block if place.type == "cpu" and not device_map else False
    module = build(config, kept, files, dtype, found.name, one_block)
    decoder = cast(Embedded, module)
    if found.weights:  # whose tokenizer came from elsewhere
        rows = decoder.get_input_embeddings().weight.shape[0]
        check_vocabulary(tokenizer, rows, found.name)
    embeddings = decoder.get_input_embeddings().weight
    known = decoder_fingerprint(embeddings, decoder_blocks(module)[0])
    if embeddings.is_meta:  # one block at a time
        known, placed = files_fingerprint(folder, files, found.name), place
    else:
        module, placed = dispatch(module, device_map) if device_map else (module.to(place), None)
    if placed is None and runs_on.type == "cpu":
        lay_out_for_cpu(module)
    context = getattr(config, "max_position_embeddings", None) or 1 << 20
    width = config.hidden_size
    storage = of_blocks(_stored_blocks(found, folder, files), kept)
    return LLM(
        found.name, module, tokenizer, block, kept, width, context, placed, taps, known, storage
    )


def source_fingerprint(source: str | Path) -> str:
    """The fingerprint of an LLM on this machine, of which a few rows are read.

    "" where it is not there, not converted yet, or cannot be read, of which its load tells.
    """
    return _of_files(
        source, lambda found, folder, files: files_fingerprint(folder, files, found.name)
    )


def source_storage(source: str | Path, block: Block) -> str:
    """The class of numbers that an LLM on this machine is stored in, by the headers of its files.

    "" where it is not there, not converted yet, or cannot be read, of which its load tells.
    """

    def storage(found: LLMSource, folder: Path, files: list[Path]) -> str:
        classes = _stored_blocks(found, folder, files)
        return of_blocks(classes, kept_blocks(plain_block(block), len(classes), found.name))

    return _of_files(source, storage)


def _of_files(source: str | Path, read: Callable[[LLMSource, Path, list[Path]], str]) -> str:
    """What is read of an LLM's folder and the files with its weights; "" where that fails."""
    try:
        found = locate(source)
        if found.folder is None or not found.converted:
            return ""
        files = [found.weights] if found.weights else checkpoint_files(found.folder)
        return read(found, found.folder, files)
    except LiDiTError:
        return ""


def _stored_blocks(found: LLMSource, folder: Path, files: list[Path]) -> list[str]:
    """The class of each block: of a copy that of its GGUF, whose numbers it has in 16 bits."""
    copied = copy_storage(folder, found.parts or whole_ggufs(folder))
    if copied is not None:
        return copied
    handles = Checkpoint(files).files
    slices = ((n, handle.get_slice(n)) for n, handle in handles.items() if "vis" not in n)
    return by_block((name, one.get_shape(), class_of(one.get_dtype())) for name, one in slices)


def lay_out_for_cpu(module: nn.Module) -> None:
    """Keep each Linear's weight as (in, out) in memory, under its usual shape (out, in).

    For the 20 or so tokens of a prompt, MKL's product with the usual layout uses one thread and
    took 885 us for 576 x 1536 on two cores; with this one it took 278 us (397 to 625 on one).
    """
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            layer.weight.data = layer.weight.data.t().contiguous().t()


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
    check_words(tokenizer, name, folder)
    return tokenizer


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
