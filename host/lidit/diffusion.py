"""LI-DiT as the host calls a diffusion model."""

from __future__ import annotations

from typing import Any

from comfy.patcher_extension import WrapperExecutor, WrappersMP, get_all_wrappers
from torch import Tensor, nn

from ...lidit_core.errors import LiDiTError
from ...lidit_core.model.dit import LiDiT, LiDiTBlock, run_block
from ...lidit_core.model.text_side import TextContext
from ..attention import attend
from ..keys import TEXT
from .conds import ModelText


class HostLiDiT(LiDiT):
    """The same model with the host's layers, attention, wrappers and block patches."""

    dtype = None  # the host's: what weights are stored in, which need not be what is computed in

    def __init__(self, config, dtype=None, device=None, operations=nn) -> None:
        super().__init__(config, operations, dtype, device)
        self.dtype = dtype

    def forward(
        self,
        x: Tensor,
        timestep: Tensor,
        context: Tensor | None = None,
        control: Any = None,
        transformer_options: dict = {},  # noqa: B006  (the host's own signature)
        **conditions,
    ) -> Tensor:
        """x (B, C, H, W) in the dtype to compute in; timestep (B,) in [0, 1000]."""
        wrappers = get_all_wrappers(WrappersMP.DIFFUSION_MODEL, transformer_options)
        executor = WrapperExecutor.new_class_executor(self._paint, self, wrappers)
        return executor.execute(x, timestep, context, control, transformer_options, **conditions)

    def _paint(self, x, timestep, context=None, control=None, transformer_options={}, **conditions):  # noqa: B006
        text = conditions.get(TEXT)
        if not isinstance(text, ModelText):
            raise LiDiTError(
                "the model was given no LLM states; connect a prompt that was encoded with a CLIP "
                "from the LI-DiT LLM loader to the sampler"
            )
        host = HostCall(transformer_options, len(self.blocks))
        return super().forward(
            x, timestep, text.states, text.options, host.attention, host.run_block
        )


class HostCall:
    """What the host wants to be asked during one call of the model."""

    def __init__(self, transformer_options: dict, blocks: int) -> None:
        self.options = transformer_options
        self.options.pop("block_index", None)  # the last step's; the refiners are in no block
        self.replaced = transformer_options.get("patches_replace", {}).get("dit", {})
        self.options["total_blocks"] = blocks
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
        patch = self.replaced.get(("double_block", index))
        if patch is None:
            return run_block(index, block, x, c, text, attention)

        def original(args: dict) -> dict:
            img = run_block(index, block, args["img"], args["vec"], text, attention)
            return {"img": img, "txt": args["txt"]}

        given = {"img": x, "txt": text.tokens, "vec": c, "pe": None, "attn_mask": text.bias}
        given["transformer_options"] = self.options
        return patch(given, {"original_block": original})["img"]
