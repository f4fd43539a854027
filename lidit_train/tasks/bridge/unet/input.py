"""What a U-Net reads through which a bridge learns: whose conditioning, latents of which sizes."""

from __future__ import annotations

from lidit_core.bridge.config import TeacherSpec
from lidit_core.errors import check

from ....recipe import Recipe
from ...adapter.target import UNetTarget, pooled_width


def check_read(unet: UNetTarget, teacher: TeacherSpec) -> None:
    """Refuse a U-Net that reads another conditioning than an encoder writes."""
    width, pooled = unet.shape.context_width, pooled_width(unet.shape)
    check(
        teacher.width == width and pooled in (0, teacher.pooled),
        f"the U-Net of bridge.through.base {unet.base} reads rows of {width} and a pooled vector "
        f"of {pooled}, and {teacher.name} writes {teacher.width} and {teacher.pooled}; expected "
        "the checkpoint whose text encoder was recorded",
    )


def check_blocks(unet: UNetTarget, blocks: int) -> None:
    """Refuse a hidden state that there is not, or that the conditioning does not reach.

    Args:
        blocks: after which it is compared; 0 = none is.
    """
    depths = (*unet.shape.transformer_depth, unet.shape.transformer_depth_middle)
    first = next((n for n, depth in enumerate(depths, 1) if depth), 0)
    check(
        blocks == 0 or first <= blocks <= len(depths),
        f"the recipe's bridge.through has blocks={blocks}, and of the U-Net of {unet.base} block "
        f"{first} is the first that reads text and {len(depths)} its middle; expected a number "
        f"from {first} to {len(depths)}, or 0 for the prediction",
    )


def latent_shapes(recipe: Recipe, unet: UNetTarget) -> list[tuple[int, int, int]]:
    """The shapes of square pictures' latents, (C, h, w), by stage.

    Raises:
        LiDiTError: a resolution is not one that the U-Net draws.
    """
    latent, grain = unet.latent, unet.patch * unet.latent.downsampling
    sides = [stage.resolution or unet.native_size for stage in recipe.stages]
    for side in sides:
        check(
            side % grain == 0,
            f"a stage has resolution={side}, and the U-Net of {unet.base} draws multiples of "
            f"{grain} pixels; expected one of these",
        )
    each = [side // latent.downsampling for side in sides]
    return [(latent.channels, side, side) for side in each]
