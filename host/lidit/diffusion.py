"""LI-DiT as the host calls a diffusion model."""

from __future__ import annotations

import math
from typing import Any

from comfy.patcher_extension import WrapperExecutor, WrappersMP, get_all_wrappers
from torch import Tensor, nn

from ...lidit_core.errors import LiDiTError
from ...lidit_core.model.config import LiDiTConfig
from ...lidit_core.model.dit import LiDiT, LiDiTBlock
from ...lidit_core.model.text_side import TextContext
from ..attention import attend
from ..keys import TEXT
from .conds import ModelText
from .patches import PatchedAttention, check_patches

UNET_PARTS = ("input_blocks", "middle_block", "output_blocks", "model_channels")


class NoSuchPart(LiDiTError, AttributeError, KeyError):
    """A node asked for what other models have; who only looks whether it is there is told no."""

    def __init__(self, part: str) -> None:
        super().__init__(
            f"a node asks this model for {part!r}, a part of a U-Net that a LI-DiT, a transformer, "
            "does not have; take that node out (FreeU and Self-Attention Guidance are such nodes)"
            if part in UNET_PARTS
            else f"a node asks this model for {part!r}, which a LI-DiT does not have: the node is "
            "for a model of another kind; take it out"
        )

    __str__ = Exception.__str__  # KeyError's would put it in quotes


def check_alone(control: Any, gligen: Any = None) -> None:
    """Refuse a ControlNet or what one gave, and GLIGEN: of a conditioning, and at a step."""
    if control is not None:
        raise LiDiTError("a ControlNet is connected, and none exists for LI-DiT; take it out")
    if gligen is not None:
        raise LiDiTError(
            "GLIGENTextBoxApply is connected, and no GLIGEN exists for LI-DiT; take it out, or say "
            "in the prompt what is where, or use Conditioning (Set Area)"
        )


class NoUNet(dict):
    """The host's description of a U-Net, for a model that is none."""

    def __missing__(self, part: str):
        raise NoSuchPart(part)


class HostLiDiT(LiDiT):
    """The same model with the host's layers, attention, wrappers and block patches."""

    def __init__(self, config, dtype=None, device=None, operations=nn) -> None:
        super().__init__(config, operations, dtype, device)
        self.dtype = dtype
        self.in_channels = self.channels  # stock nodes read it

    @property
    def dtype(self):
        """The host's dtype: what weights are stored in, which need not be what is computed in."""
        return self._stored_dtype

    @dtype.setter
    def dtype(self, dtype) -> None:
        self._stored_dtype = dtype

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name.startswith("_"):
                raise
            raise NoSuchPart(name) from None

    def forward(
        self,
        x: Tensor,
        timestep: Tensor,
        context: Tensor | None = None,
        control: Any = None,
        transformer_options: dict = {},  # noqa: B006  (the host's own signature)
        **conditions,
    ) -> Tensor:
        """Predict from x (B, C, H, W), in the dtype to compute in, and timestep (B,), 0 to 1000."""
        wrappers = get_all_wrappers(WrappersMP.DIFFUSION_MODEL, transformer_options)
        if wrappers:  # they may write into it, and in float32 it is the sampler's own
            x = x.clone()
        executor = WrapperExecutor.new_class_executor(self._paint, self, wrappers)
        return executor.execute(x, timestep, context, control, transformer_options, **conditions)

    def _paint(self, x, timestep, context=None, control=None, transformer_options={}, **conditions):  # noqa: B006
        text = conditions.get(TEXT)
        if not isinstance(text, ModelText):
            raise LiDiTError(
                "the model was given no LLM states; connect a prompt that was encoded with a CLIP "
                "from the LI-DiT LLM loader to the sampler"
            )
        if len(text) != len(x):
            raise LiDiTError(
                f"a node runs the model on {len(x)} pictures at once, and there are {len(text)} "
                "prompts; take out the node that divides or repeats the batch"
            )
        check_alone(control)
        host = HostCall(transformer_options, self.config, x)
        return super().forward(
            x, timestep, text.states, text.options, host.attention, host.run_block
        )


class HostCall:
    """What the host wants to be asked during one call of the model."""

    def __init__(self, transformer_options: dict, config: LiDiTConfig, x: Tensor) -> None:
        check_patches(transformer_options, config.depth)
        self.options = transformer_options
        self.options.pop("block_index", None)  # the last step's; the refiners are in no block
        self.replaced = transformer_options.get("patches_replace", {}).get("dit", {})
        self.blocks = config.depth
        rows, columns = (math.ceil(side / config.patch) for side in x.shape[-2:])
        self.grid = (len(x), config.width, rows, columns)
        self.options["total_blocks"] = config.depth
        self.options["block_type"] = "double"

    def attention(
        self, q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None = None
    ) -> Tensor:
        return attend(q, k, v, heads, mask, self.options)

    def run_block(
        self, index: int, block: LiDiTBlock, x: Tensor, c: Tensor, text: TextContext, attention
    ) -> Tensor:
        """A block, or what another node put in its place (the host's skip-layer guidance)."""
        self.options["block_index"] = index
        to_itself, to_text = (
            PatchedAttention(name, index, self.blocks, self.options, self.grid)
            for name in ("attn1", "attn2")
        )
        patch = self.replaced.get(("double_block", index))
        if patch is None:
            return block(x, c, text, to_itself, to_text)

        def original(args: dict) -> dict:
            img = block(args["img"], args["vec"], text, to_itself, to_text)
            return {"img": img, "txt": args["txt"]}

        given = {"img": x, "txt": text.tokens, "vec": c, "pe": None, "attn_mask": text.bias}
        given["transformer_options"] = self.options
        return patch(given, {"original_block": original})["img"]
