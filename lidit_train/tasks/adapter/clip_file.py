"""The text encoders that lie in one checkpoint with their U-Net, in the layouts people have.

SD1.5 has CLIP-L under ``cond_stage_model``, SDXL has it and OpenCLIP's bigG under ``conditioner``.
Their sizes are those of their tensors; heads are 64 wide in all of them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from lidit_core.errors import check, listed
from lidit_core.io.prompts import without_halves
from lidit_core.io.tensors import opened

from .clip_tokenizer import clip_tokenizer

if TYPE_CHECKING:
    from transformers import CLIPTextConfig, CLIPTokenizer

HEAD = 64
PLACES = (  # where CLIP-L may be, and where bigG is
    ("cond_stage_model.transformer.", "conditioner.embedders.0.transformer."),
    ("conditioner.embedders.1.model.",),
)
FIRST = "text_model.embeddings.token_embedding.weight", "token_embedding.weight"
OPEN_CLIP = {  # names of OpenCLIP's parts and transformers'
    "token_embedding.weight": "embeddings.token_embedding.weight",
    "positional_embedding": "embeddings.position_embedding.weight",
    "ln_final.": "final_layer_norm.",
    "transformer.resblocks.": "encoder.layers.",
    ".ln_1.": ".layer_norm1.",
    ".ln_2.": ".layer_norm2.",
    ".mlp.c_fc.": ".mlp.fc1.",
    ".mlp.c_proj.": ".mlp.fc2.",
    ".attn.out_proj.": ".self_attn.out_proj.",
}


@dataclass(frozen=True)
class Encoder:
    """A text encoder with the tokenizer that it reads with."""

    tokenizer: CLIPTokenizer
    model: nn.Module
    padding: int | None = None  # stands after a text's end token; None = what the tokenizer puts

    @property
    def filled_with(self) -> int:
        """The id that stands after a text's end token."""
        return int(self.ids([""])[0, -1])

    def ids(self, texts: Sequence[str]) -> Tensor:
        """Token ids (B, 77)."""
        length = self.tokenizer.model_max_length
        ids = self.tokenizer(
            [without_halves(text) for text in texts],
            padding="max_length",
            max_length=length,
            truncation=True,
            return_tensors="pt",
        ).input_ids
        if self.padding is None:
            return ids
        ended = (ids == self.tokenizer.eos_token_id).cumsum(1) > 0
        after = torch.cat([ended.new_zeros(len(ids), 1), ended[:, :-1]], dim=1)
        return ids.masked_fill(after, self.padding)


def encoders_in(path: Path, both: bool) -> bool:
    """Whether a file holds the text encoders of its U-Net; ``both``: SDXL's two."""
    with opened(path) as file:
        names = set(file.keys())
    return all(_place(names, number) is not None for number in range(1 + both))


def _place(names: set[str], number: int) -> str | None:
    found = (place for place in PLACES[number] if place + FIRST[number] in names)
    return next(found, None)


def read_encoders(path: Path, both: bool) -> list[Encoder]:
    """CLIP-L, and bigG where the U-Net reads both, in float32 or as the file has them."""
    found = []
    with opened(path) as file:
        names = set(file.keys())
        for number in range(1 + both):
            place = _place(names, number)
            assert place is not None  # `encoders_in` has been asked
            own = {k.removeprefix(place): file.get_tensor(k) for k in names if k.startswith(place)}
            found.append(_large(own, path) if number else _small(own, path))
    return found


def _small(tensors: Mapping[str, Tensor], path: Path) -> Encoder:
    from transformers import CLIPTextModel

    own = {k.removeprefix("text_model."): v for k, v in tensors.items()}
    model = CLIPTextModel(_config(own, "quick_gelu"))
    return Encoder(clip_tokenizer(), _filled(model, own, path))


def _large(tensors: Mapping[str, Tensor], path: Path) -> Encoder:
    from transformers import CLIPTextModelWithProjection

    own = _from_open_clip(tensors)
    model = CLIPTextModelWithProjection(_config(own, "gelu"))
    return Encoder(clip_tokenizer(), _filled(model, own, path), padding=0)


def _from_open_clip(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename tensors as transformers does; OpenCLIP has queries, keys and values in one matrix."""
    own = {}
    for name, tensor in tensors.items():
        for theirs, ours in OPEN_CLIP.items():
            name = name.replace(theirs, ours)
        if packed := re.fullmatch(r"(.*)\.attn\.in_proj_(weight|bias)", name):
            for kind, part in zip("qkv", tensor.chunk(3)):
                own[f"{packed[1]}.self_attn.{kind}_proj.{packed[2]}"] = part
        elif name == "text_projection":
            own["text_projection.weight"] = tensor.T
        elif name not in ("logit_scale",):
            own[name] = tensor
    return own


def _config(own: Mapping[str, Tensor], act: str) -> CLIPTextConfig:
    from transformers import CLIPTextConfig

    vocabulary, width = own["embeddings.token_embedding.weight"].shape
    layers = {name.split(".")[2] for name in own if name.startswith("encoder.layers.")}
    projection = own.get("text_projection.weight")
    end = vocabulary - 1
    return CLIPTextConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=own["encoder.layers.0.mlp.fc1.weight"].shape[0],
        projection_dim=width if projection is None else projection.shape[0],
        num_hidden_layers=len(layers),
        num_attention_heads=max(1, width // HEAD),
        max_position_embeddings=own["embeddings.position_embedding.weight"].shape[0],
        hidden_act=act,
        bos_token_id=end - 1,
        eos_token_id=end,
        pad_token_id=end,
    )


def _filled(model: nn.Module, own: Mapping[str, Tensor], path: Path) -> nn.Module:
    """Put the tensors in, whether this transformers nests them under text_model or not."""
    wanted = model.state_dict()
    nested = any(name.startswith("text_model.") for name in wanted)
    plain = ("text_projection.weight",)
    put = {k if k in plain or not nested else f"text_model.{k}": v for k, v in own.items()}
    put = {k: v.to(torch.float32) for k, v in put.items() if not k.endswith("position_ids")}
    lacking = sorted({k for k in wanted if not k.endswith("position_ids")} - put.keys())
    check(
        not lacking,
        f"the text encoder in {path} lacks {listed(lacking, 3)}; fetch the file again",
    )
    model.load_state_dict(put, strict=False)
    return model
