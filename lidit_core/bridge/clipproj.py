"""Projections of the ClipProj format: others' maps from a small LLM's states to a larger one's.

Written from the format's contract (github.com/nicolab28/ComfyUI-ClipProj). A file is safetensors:

    W                  (X, C)  ridge, on the standardised states of one block, token by token
    mean_in, std_in    (X,)    of those states
    mean_out, std_out  (C,)    of the larger LLM's
    sink_out           (C,)    optional: the first row of every prompt, which never varies
    mlp.N.weight/bias          optional: linear layers with GELU between them, added to the ridge

``tap`` in the metadata is the block whose output is read, counted from 1; the prompt is read
without a template. Everything else in the metadata is for people. Files of the format's older form,
`.pt`, can run code when they are opened and are not read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ..errors import LiDiTError, check, listed, shown
from ..io.conditioning import Entry
from ..io.tensors import read_safetensors
from ..text.spec import LLMSpec
from ..text.templates import find_template
from .rows import StudentTokens

WEIGHT, TAP = "W", "tap"
SOURCE = "source_model"  # of the metadata: the LLM, as whoever made the file called it
VECTORS = {"mean_in": 0, "std_in": 0, "mean_out": 1, "std_out": 1}  # which side of W each fits
SINK, MLP = "sink_out", re.compile(r"mlp\.(\d+)\.(weight|bias)")
TAGS = "minimax_token_tags"  # of the model that the format was made for: 1 = a token of text
DEEPEST, BUDGET = 64, 32768


class Projection(nn.Module):
    """Standardised states (B, L, X) -> rows (B, L, C), token by token."""

    mean_in: Tensor
    std_in: Tensor
    mean_out: Tensor
    std_out: Tensor
    W: Tensor
    sink_out: Tensor | None

    def __init__(self, tensors: Mapping[str, Tensor], layers: nn.Sequential | None) -> None:
        super().__init__()
        for name in (WEIGHT, *VECTORS):
            self.register_buffer(name, tensors[name].float())
        sink = tensors.get(SINK)
        self.register_buffer(SINK, None if sink is None else sink.float())
        self.mlp = layers

    def forward(self, hidden: Tensor) -> Tensor:
        entered = (hidden.float() - self.mean_in) / self.std_in
        rows = entered @ self.W
        if self.mlp is not None:
            rows = rows + self.mlp(entered)
        rows = rows * self.std_out + self.mean_out
        if self.sink_out is not None:
            rows = torch.cat([self.sink_out.expand(len(rows), 1, -1), rows[:, 1:]], dim=1)
        return rows


@dataclass(frozen=True)
class LoadedProjection:
    """A projection, and the LLM that it reads: by its width, as few files name one."""

    projection: Projection
    llm: LLMSpec
    about: Mapping[str, str]  # the file's metadata

    @property
    def width(self) -> int:
        return self.projection.W.shape[1]

    def name_note(self, name: str) -> str:
        """A sentence on an LLM of another name than the file says that it was made for, or "".

        Letters and digits of the last part alone are compared, and one name may hold the other.

        Args:
            name: of the LLM that reads.
        """
        told = self.about.get(SOURCE, "")
        pair = [_letters(told), _letters(name)]
        if not all(pair) or pair[0] in pair[1] or pair[1] in pair[0]:
            return ""
        return (
            f"this projection was made for {told}, and {name} reads here, which is as wide; unless "
            "that is the same LLM under another name, load the one that it was made for"
        )


def _letters(name: str) -> str:
    """The letters and digits of a name's last part, in lower case."""
    last = name.replace("\\", "/").rstrip("/").rpartition("/")[2]
    return "".join(filter(str.isalnum, last.lower()))


def is_clipproj(names) -> bool:
    """Whether a file with tensors of these names is one."""
    return {WEIGHT, *VECTORS} <= set(names)


def load_clipproj(path: str | Path) -> LoadedProjection:
    """Read a projection; it computes in float32.

    Raises:
        LiDiTError: the file is a `.pt`, is damaged or holds something else.
    """
    check(
        Path(path).suffix.lower() not in (".pt", ".pth"),
        f"{path} is a .pt, which can run code when it is opened; expected a .safetensors: its "
        "maker's to_safetensors.py converts it",
    )
    tensors, metadata = read_safetensors(path)
    check(
        is_clipproj(tensors),
        f"{path} lacks {', '.join(sorted({WEIGHT, *VECTORS} - set(tensors)))} and is no ClipProj "
        "projection; fetch it again",
    )
    _check_shapes(tensors, path)
    read = tensors[WEIGHT].shape[0]
    llm = LLMSpec(
        metadata.get(SOURCE) or f"an LLM that is {read} wide",
        read,
        _tap(tensors, metadata, path),
        find_template("none"),
        BUDGET,
    )
    return LoadedProjection(Projection(tensors, _layers(tensors, path)).eval(), llm, metadata)


@torch.no_grad()
def projected(loaded: LoadedProjection, student: StudentTokens) -> Entry:
    """The entry of one prompt: a row for each of the LLM's tokens, on the projection's device."""
    device = loaded.projection.W.device
    rows = loaded.projection(student.states.hidden.to(device))
    return rows, {TAGS: torch.ones(rows.shape[1], dtype=torch.int64, device=device)}


def _tap(tensors: Mapping[str, Tensor], metadata: Mapping[str, str], path: str | Path) -> int:
    told = metadata.get(TAP, "")
    if TAP in tensors and tensors[TAP].numel() == 1:
        told = str(int(tensors[TAP]))
    check(
        told.isdecimal() and 0 < int(told) < 1000,
        f"{path} has tap={shown(told)}; expected the number of a block, from 1: fetch it again",
    )
    return int(told)


def _check_shapes(tensors: Mapping[str, Tensor], path: str | Path) -> None:
    weight = tensors[WEIGHT]
    check(
        weight.ndim == 2 and weight.is_floating_point(),
        f"{path} has W of shape {tuple(weight.shape)}; expected numbers (in, out): fetch it again",
    )
    for name, side in {**VECTORS, SINK: 1}.items():
        found = tuple(tensors[name].shape) if name in tensors else (weight.shape[side],)
        check(
            found == (weight.shape[side],),
            f"{path} has {name} of shape {found}; expected ({weight.shape[side]},) by its W: fetch "
            "it again",
        )
    bad = [n for n, t in tensors.items() if t.is_floating_point() and not t.isfinite().all()]
    check(not bad, f"{path} holds numbers that are not finite in {bad[:1]}; fetch it again")
    still = bool((tensors["std_in"] == 0).any())
    check(not still, f"{path} has a std_in of 0, by which nothing can be divided; fetch it again")


def _layers(tensors: Mapping[str, Tensor], path: str | Path) -> nn.Sequential | None:
    """The linear layers that the keys name, in their order, with GELU between them."""
    found = {n: t for n, t in tensors.items() if n.startswith("mlp.")}
    if not found:
        return None
    named = [MLP.fullmatch(name) for name in found]
    places = sorted({int(match[1]) for match in named if match})
    check(
        all(named)
        and len(places) <= DEEPEST
        and all(f"mlp.{n}.weight" in found for n in places)
        and all(t.ndim == 2 for n, t in found.items() if n.endswith("weight")),
        f"{path} has an MLP of {listed(sorted(found), 5)}; expected mlp.N.weight and "
        "mlp.N.bias: fetch it again",
    )
    width, made = tensors[WEIGHT].shape[0], []
    for n in places:
        weight, bias = found[f"mlp.{n}.weight"].float(), found.get(f"mlp.{n}.bias")
        fits = weight.shape[1] == width and (bias is None or tuple(bias.shape) == weight.shape[:1])
        _check_fits(fits, n, weight, width, path)
        layer = nn.Linear(width, weight.shape[0], bias is not None, device="meta")
        state = {"weight": weight} if bias is None else {"weight": weight, "bias": bias.float()}
        layer.load_state_dict(state, assign=True)
        made += [nn.GELU(), layer] if made else [layer]
        width = weight.shape[0]
    last = f"mlp.{places[-1]}"
    check(
        width == tensors[WEIGHT].shape[1],
        f"{path} has {last} of {width} numbers; expected {tensors[WEIGHT].shape[1]} by its W: "
        "fetch it again",
    )
    return nn.Sequential(*made)


def _check_fits(fits: bool, place: int, weight: Tensor, width: int, path: str | Path) -> None:
    if not fits:
        raise LiDiTError(
            f"{path} has mlp.{place}.weight of shape {tuple(weight.shape)}, or a bias that is "
            f"another; expected (…, {width}) after the layer before it: fetch it again"
        )
