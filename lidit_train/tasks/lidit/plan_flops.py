"""Floating-point operations of LI-DiT by a written formula: 2 for each multiply-add.

Matrix products, convolutions and attention are counted, nothing else. With D the width, C an
LLM's width, L its tokens in the refiners and K the text tokens kept over all branches, N image
tokens, p²c numbers in a patch, a picture's forward pass takes

    refiner of a branch    2·L·C·D + 2·L·C + 2·(C·D + D²) + 2·(256·D + D²), and a block
                           24·L·D² + 4·L²·D + 4·D²
    collaborative block    20·L·D² + 4·M·D² + 4·L·M·D + 12·D², M tokens of the other branches
    pooling, conditioning  2·K·D + 2·D² + 2·(256·D + D²)
    patches, position      2·N·p²c·D + 36·N·D²
    block of the DiT       28·N·D² + 4·N²·D + 4·K·D² + 4·N·K·D + 18·D²
    final layer            2·N·D·p²c + 4·D²

A backward pass takes the same again for the gradient of each operand that needs one: twice the
forward pass where weights learn and a gradient passes through, once where they are frozen.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass, replace

from lidit_core.model.config import LiDiTConfig
from lidit_core.model.layers import FREQUENCIES

from ...plan.workload import Sizes
from .trained import Trained, everything, linear_layers, weight_shapes

LAYER, ATTENTION, MEAN, UNREAD = "layer", "attention", "mean", "unread"
# of what a gradient is wanted: weight and input, both operands, the input, nothing


@dataclass(frozen=True)
class Product:
    """A product of one picture's forward pass."""

    name: str  # of its layer
    flops: int
    kind: str = LAYER
    from_data: bool = False  # its input never needs a gradient


def forward_flops(config: LiDiTConfig, sizes: Sizes) -> int:
    """Of one picture; a batch takes so much for each."""
    return sum(product.flops for product in products(config, sizes))


def training_flops(
    config: LiDiTConfig,
    sizes: Sizes,
    trained: Trained | None = None,
    checkpointing: bool = False,
    classes: int = 0,
) -> int:
    """Of one picture, forward and backward.

    Args:
        checkpointing: the DiT's blocks run forward twice.
        classes: of the map that learns content, 0 = none.
    """
    trained = trained or everything()
    layers, flows = linear_layers(config), _Flow(config, trained)
    total = 3 * 2 * sizes.tokens * config.width * classes
    for product in products(config, sizes):
        again = checkpointing and product.name.startswith("blocks.") and flows(product.name)
        total += product.flops * (1 + again + _backward(product, trained, flows))
        if trained.adapted(product.name) and product.name in layers:
            rows = product.flops // (2 * layers[product.name][0] * layers[product.name][1])
            total += (3 + again) * 2 * rows * trained.rank(product.name) * sum(layers[product.name])
    return total


def muon_flops(config: LiDiTConfig, trained: Trained) -> int:
    """Of one step of Muon on the blocks' matrices, for any batch (lidit_train.loop.muon).

    Five iterations, each x·xᵀ, its square and their product with x: 4·r²·c + 2·r³, r <= c.
    """
    total = 0
    for name, (rows, *columns) in weight_shapes(config).items():
        if columns and "blocks." in name and trained.weight(name):
            r, c = sorted((rows, columns[0]))
            total += 5 * (4 * r * r * c + 2 * r**3)
    return total


class _Flow:
    """Whether a gradient passes back through the input of a layer."""

    def __init__(self, config: LiDiTConfig, trained: Trained) -> None:
        layers = [f"{name}." for name in linear_layers(config) if trained.adapted(name)]
        self.learning = [*filter(trained.weight, weight_shapes(config)), *layers]
        self.text = self._any("text_side.")
        self.context = self._any("text_side.", "t_embedder.", "pooled_text.")

    @functools.cache  # noqa: B019 - lives as long as one sum
    def _any(self, *places: str) -> bool:
        return any(name.startswith(places) for name in self.learning)

    def __call__(self, layer: str) -> bool:
        if layer.startswith("text_side.linguistic."):
            return self._any(".".join(layer.split(".")[:3]) + ".")
        if layer.startswith("text_side."):
            return self._fused(layer)
        if layer.startswith(("patch_embedder", "position")):
            return self._any("patch_embedder.", "position.")
        if layer.startswith("t_embedder"):
            return self._any("t_embedder.")
        if layer == "pooled_text" or layer.endswith(".kv"):
            return self.text
        return self.context if layer.endswith("modulation.linear") else bool(self.learning)

    def _fused(self, layer: str) -> bool:
        """In the collaborative refiner, whose first block reads a branch's own tokens for q."""
        _, _, _, branch, n, *_, last = layer.split(".")
        own = f"text_side.linguistic.{branch}.", f"text_side.collaborative.branches.{branch}."
        if layer.endswith("modulation.linear"):
            return self._any(own[0])
        return self._any(*own) if last == "q" and n == "0" else self.text


def _backward(product: Product, trained: Trained, flows: _Flow) -> int:
    """How often the forward's operations come again in the backward pass."""
    through = flows(product.name) and not product.from_data
    if product.kind == UNREAD:
        return 0
    if product.kind == ATTENTION:
        return 2 * through
    return through + (product.kind == LAYER and trained.weight(f"{product.name}.weight"))


def products(config: LiDiTConfig, sizes: Sizes) -> Iterator[Product]:
    """Every product of one picture's forward pass, in its order."""
    fused = config.refiner.fusion == "refiner" and len(sizes.text) > 1
    fused = fused and config.refiner.collaborative_blocks > 0
    gated = config.refiner.gated and config.refiner.blocks > 0
    for i, text in sizes.text.items():
        yield from _refiner(config, i, text.read, reads_c=fused or gated)
    if fused:
        for i, text in sizes.text.items():
            others = sum(other.read for j, other in sizes.text.items() if j != i)
            yield from _collaborative(config, i, text.read, others)
    yield from _conditioning(config, sizes)
    yield from _patches(config, sizes.tokens)
    for index in range(config.depth):
        yield from _block(f"blocks.{index}", config.width, sizes.tokens, sizes.kept)
    patch = config.patch**2 * config.latent.channels
    yield _layer("final_layer.modulation.linear", 1, config.width, 2 * config.width)
    yield _layer("final_layer.linear", sizes.tokens, config.width, patch)


def _layer(name: str, rows: int, n_in: int, n_out: int, from_data: bool = False) -> Product:
    return Product(name, 2 * rows * n_in * n_out, from_data=from_data)


def _attention(name: str, queries: int, keys: int, width: int) -> Product:
    """Scores and their product with the values."""
    return Product(name, 4 * queries * keys * width, ATTENTION)


def _two_layers(name: str, n_in: int, width: int, from_data: bool) -> Iterator[Product]:
    yield _layer(f"{name}.in_layer", 1, n_in, width, from_data)
    yield _layer(f"{name}.out_layer", 1, width, width)


def _feed_forward(name: str, rows: int, width: int) -> Iterator[Product]:
    yield _layer(f"{name}.0", rows, width, 4 * width)
    yield _layer(f"{name}.2", rows, 4 * width, width)


def _self_attention(name: str, rows: int, width: int) -> Iterator[Product]:
    yield _layer(f"{name}.qkv", rows, width, 3 * width)
    yield _attention(name, rows, rows, width)
    yield _layer(f"{name}.proj", rows, width, width)


def _cross_attention(name: str, rows: int, keys: int, width: int) -> Iterator[Product]:
    yield _layer(f"{name}.q", rows, width, width)
    yield _layer(f"{name}.kv", keys, width, 2 * width)
    yield _attention(name, rows, keys, width)
    yield _layer(f"{name}.proj", rows, width, width)


def _refiner(config: LiDiTConfig, branch: int, tokens: int, reads_c: bool) -> Iterator[Product]:
    """Args: reads_c: a block reads the context vector c, so that it gets a gradient."""
    name, width = f"text_side.linguistic.{branch}", config.width
    llm, raw = config.llms[branch].width, not config.refiner.entry_norm
    mean = Product(f"{name}.entry_norm", 2 * tokens * llm, MEAN, from_data=raw)
    maps = (
        mean,
        *_two_layers(f"{name}.t_embedder", FREQUENCIES, width, from_data=True),
        *_two_layers(f"{name}.c_embedder", llm, width, from_data=raw),
    )
    yield from (maps if reads_c else (replace(p, kind=UNREAD) for p in maps))
    yield _layer(f"{name}.entry", tokens, llm, width, from_data=raw)
    for n in range(config.refiner.blocks):
        block = f"{name}.blocks.{n}"
        if config.refiner.gated:
            yield _layer(f"{block}.gates.linear", 1, width, 2 * width)
        yield from _self_attention(f"{block}.self_attn", tokens, width)
        yield from _feed_forward(f"{block}.mlp", tokens, width)


def _collaborative(config: LiDiTConfig, branch: int, tokens: int, others: int):
    for n in range(config.refiner.collaborative_blocks):
        name = f"text_side.collaborative.branches.{branch}.{n}"
        yield _layer(f"{name}.modulation.linear", 1, config.width, 6 * config.width)
        yield from _cross_attention(f"{name}.cross_attn", tokens, others, config.width)
        yield from _feed_forward(f"{name}.mlp", tokens, config.width)


def _conditioning(config: LiDiTConfig, sizes: Sizes) -> Iterator[Product]:
    yield Product("pooled_text", 2 * sizes.kept * config.width, MEAN)
    yield from _two_layers("t_embedder", FREQUENCIES, config.width, from_data=True)
    yield _layer("pooled_text", 1, config.width, config.width)


def _patches(config: LiDiTConfig, tokens: int) -> Iterator[Product]:
    patch = config.patch**2 * config.latent.channels
    yield _layer("patch_embedder", tokens, patch, config.width, from_data=True)
    for name in ("position.conv1", "position.conv2"):
        yield _layer(name, tokens, 9 * config.width, config.width)


def _block(name: str, width: int, tokens: int, kept: int) -> Iterator[Product]:
    yield _layer(f"{name}.modulation.linear", 1, width, 9 * width)
    yield from _self_attention(f"{name}.self_attn", tokens, width)
    yield from _cross_attention(f"{name}.cross_attn", tokens, kept, width)
    yield from _feed_forward(f"{name}.mlp", tokens, width)
