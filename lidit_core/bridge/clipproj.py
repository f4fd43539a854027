"""Projections of the ClipProj format: others' maps from a small LLM's states to a larger one's.

Written from the format's contract (github.com/nicolab28/ComfyUI-ClipProj). A file is safetensors:

    mean_in, std_in    (X,)    of the states of one block
    mean_out, std_out  (C,)    of the larger LLM's
    W                  (X, C)  ridge, on the standardised states, token by token
    mlp.N.weight/bias          linear layers with GELU between them, on the same states
    sink_out           (C,)    optional: the first row of every prompt, which never varies

Ridge and layers are added; a file has one of them or both.

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
READ, WRITTEN = "mean_in", "mean_out"  # which say how wide the LLM and the rows are
VECTORS = {
    READ: READ,
    "std_in": READ,
    WRITTEN: WRITTEN,
    "std_out": WRITTEN,
}  # what each is as wide as
SINK, LAYERS, MLP = "sink_out", "mlp.", re.compile(r"mlp\.(\d+)\.(weight|bias)")
TAGS = "minimax_token_tags"  # of the model that the format was made for: 1 = a token of text
DEEPEST, BUDGET = 64, 32768


class Projection(nn.Module):
    """Maps standardised states (B, L, X) to rows (B, L, C), token by token."""

    mean_in: Tensor
    std_in: Tensor
    mean_out: Tensor
    std_out: Tensor
    W: Tensor | None
    sink_out: Tensor | None

    def __init__(self, tensors: Mapping[str, Tensor], layers: nn.Sequential | None) -> None:
        super().__init__()
        for name in (*VECTORS, WEIGHT, SINK):
            given = tensors.get(name)
            self.register_buffer(name, None if given is None else given.float())
        self.mlp = layers

    def forward(self, hidden: Tensor) -> Tensor:
        entered = (hidden.float() - self.mean_in) / self.std_in
        rows = entered @ self.W if self.W is not None else torch.zeros_like(self.mean_out)
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
        return len(self.projection.mean_out)

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
    found = set(names)
    return set(VECTORS) <= found and (WEIGHT in found or any(map(_in_layers, found)))


def _in_layers(name: str) -> bool:
    return name.startswith(LAYERS)


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
    lacking = sorted(set(VECTORS) - set(tensors)) or [f"both {WEIGHT} and {LAYERS}N.weight"]
    check(
        is_clipproj(tensors),
        f"{path} lacks {', '.join(lacking)} and is no ClipProj projection; fetch it again",
    )
    _check_shapes(tensors, path)
    read = len(tensors[READ])
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
    device = loaded.projection.mean_in.device
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
    sides = {**VECTORS, SINK: WRITTEN}
    wanted: dict[str, tuple[int, ...]] = {n: (tensors[side].numel(),) for n, side in sides.items()}
    wanted[WEIGHT] = (*wanted[READ], *wanted[WRITTEN])
    for name, shape in wanted.items():
        found = tensors.get(name)
        check(
            found is None or (tuple(found.shape) == shape and found.is_floating_point()),
            f"{path} has {name} of shape {found is not None and tuple(found.shape)}; expected "
            f"numbers {shape} by its {READ} and {WRITTEN}: fetch it again",
        )
    bad = [n for n, t in tensors.items() if t.is_floating_point() and not t.isfinite().all()]
    check(not bad, f"{path} holds numbers that are not finite in {bad[:1]}; fetch it again")
    still = bool((tensors["std_in"] == 0).any())
    check(not still, f"{path} has a std_in of 0, by which nothing can be divided; fetch it again")


def _layers(tensors: Mapping[str, Tensor], path: str | Path) -> nn.Sequential | None:
    """The linear layers that the keys name, in their order, with GELU between them."""
    found = {name: t for name, t in tensors.items() if _in_layers(name)}
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
    width, made = len(tensors[READ]), []
    for n in places:
        weight, bias = found[f"mlp.{n}.weight"].float(), found.get(f"mlp.{n}.bias")
        fits = weight.shape[1] == width and (bias is None or tuple(bias.shape) == weight.shape[:1])
        _check_fits(fits, n, weight, width, path)
        layer = nn.Linear(width, weight.shape[0], bias is not None, device="meta")
        state = {"weight": weight} if bias is None else {"weight": weight, "bias": bias.float()}
        layer.load_state_dict(state, assign=True)
        made += [nn.GELU(), layer] if made else [layer]
        width = weight.shape[0]
    last, written = f"mlp.{places[-1]}", len(tensors[WRITTEN])
    check(
        width == written,
        f"{path} has {last} of {width} numbers; expected {written} by its {WRITTEN}: fetch it "
        "again",
    )
    return nn.Sequential(*made)


def _check_fits(fits: bool, place: int, weight: Tensor, width: int, path: str | Path) -> None:
    if not fits:
        raise LiDiTError(
            f"{path} has mlp.{place}.weight of shape {tuple(weight.shape)}, or a bias that is "
            f"another; expected (…, {width}) after the layer before it: fetch it again"
        )
