"""Fingerprints of LLMs: of a decoder in memory, and of files of which a few rows are read."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from ...errors import LiDiTError
from ..fingerprint import fingerprint, tokens
from .build import decoder_blocks, empty_model, text_config, truncated
from .checkpoint import Checkpoint
from .one_block import Embedded

NORM = "norm.weight"  # how the names of a block's norms end, in small letters


def decoder_fingerprint(embeddings: Tensor, block: nn.Module) -> str:
    """The fingerprint of a decoder in memory; "" where its weights are no plain numbers."""
    norms = {k: v for k, v in block.named_parameters() if k.lower().endswith(NORM)}
    if not all(_plain(weight) for weight in (embeddings, *norms.values())):
        return ""
    rows = embeddings.detach()[tokens(len(embeddings))]
    return fingerprint(rows.float(), norms)


def _plain(weight: Tensor) -> bool:
    known = type(weight) in (Tensor, nn.Parameter)
    return known and weight.is_floating_point() and not weight.is_meta


def files_fingerprint(folder: Path, files: Iterable[Path], name: str) -> str:
    """The fingerprint of an LLM's files, from some rows; "" where they cannot be read.

    Args:
        folder: with its config.json.
        files: its weights.
        name: how sentences call it.
    """
    try:
        module = empty_model(truncated(text_config(folder, name), 1), name)
        checkpoint = Checkpoint(list(files))
        wanted = dict(module.state_dict())
        prefix = checkpoint.prefix(wanted)
        embeddings = cast(Embedded, module).get_input_embeddings().weight
        table = next(k for k, v in module.named_parameters() if v is embeddings)
        block = decoder_blocks(module)[0]
        place = next(k for k, v in module.named_modules() if v is block)
        names = [k for k, _ in block.named_parameters() if k.lower().endswith(NORM)]
        norms = {k: checkpoint.files[f"{prefix}{place}.{k}"] for k in names}
        norms = {k: f.get_tensor(f"{prefix}{place}.{k}") for k, f in norms.items()}
        table = checkpoint.place(prefix + table)
        rows = checkpoint.files[table].get_slice(table)
        few = [rows[i : i + 1].float() for i in tokens(rows.get_shape()[0])]
    except (LiDiTError, StopIteration, KeyError):
        return ""
    return fingerprint(torch.cat(few), norms)
