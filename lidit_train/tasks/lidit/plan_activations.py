"""What autograd keeps of a forward pass for the backward one, in bytes, by a written formula.

With c bytes a number (4, or 2 under autocast to bfloat16), n = batch · N · D numbers in a tensor
at the model's width, and k = batch · K · D for the text tokens, a block of the DiT keeps

    self-attention   (16 + 8c)·n    norm's input and output, modulated, q k v, norms of q and k,
                                    q and k, attention's output, its projection
    cross-attention  (12 + 4c)·n + (4 + 3c)·k, and c·n more without autocast
    feed-forward     (8 + 10c)·n    norm's input and output, modulated, 4 before and 4 after GELU,
                                    its projection

and a refiner's block (16 + 18c) numbers for each of its tokens. Norms compute in float32 under
autocast too. A layer whose weights are frozen does not keep its input. The float32 figures are
checked against autograd (tests/train/plan/test_activations.py); those under autocast follow from
torch's lists of operations and were not measured.
"""

from __future__ import annotations

from dataclasses import dataclass

from lidit_core.model.config import LiDiTConfig

from ...plan.workload import Sizes
from .trained import Trained, linear_layers

NORM = 4  # bytes a number in which norms compute
BATCH_TENSORS = 6  # like the latents: clean, noise, noisy, target, prediction, its patches
MODULATION = 13  # vectors of a DiT block: after SiLU, nine, and three times 1 + scale


@dataclass(frozen=True)
class Activations:
    """Bytes kept for the backward pass of one micro batch."""

    text: int  # of the refiners
    blocks: int  # of the DiT's blocks
    rest: int  # of patches, position, final layer, the loss and the batch itself

    @property
    def total(self) -> int:
        return self.text + self.blocks + self.rest


def saved_activations(
    config: LiDiTConfig,
    sizes: Sizes,
    batch: int,
    trained: Trained,
    compute: int = 4,
    checkpointing: bool = False,
    classes: int = 0,
    contrast: bool = False,
) -> Activations:
    """Bytes kept of a micro batch.

    Args:
        compute: bytes of a number that a linear layer computes with.
        checkpointing: a block keeps its input, and one block at a time everything.
        classes: of the map that learns content, 0 = none.
        contrast: every sample has another one's velocity beside its own target.
    """
    saved = _Saved(config, batch, trained, compute)
    names = [f"blocks.{i}" for i in range(config.depth)]
    blocks = [saved.block(name, sizes.tokens, sizes.kept) for name in names]
    if checkpointing:
        kept = config.depth * saved.numbers(sizes.tokens) * compute
        blocks = [kept, max(blocks)]
    shared = saved.numbers(sizes.kept) * compute  # every block's keys and values are made of them
    rest = saved.image(sizes.tokens) + saved.loss(sizes.tokens, classes, contrast)
    return Activations(saved.text(sizes), sum(blocks) + shared, rest)


class _Saved:
    def __init__(self, config: LiDiTConfig, batch: int, trained: Trained, compute: int) -> None:
        self.config, self.batch, self.trained, self.c = config, batch, trained, compute
        self.layers = linear_layers(config)

    def numbers(self, rows: int) -> int:
        """In a tensor of so many rows a sample, at the model's width."""
        return self.batch * rows * self.config.width

    def _input(self, layer: str, rows: int, numbers: int | None = None) -> int:
        """A layer's input, where its weights learn, and the inner vectors of its LoRA."""
        kept = self.trained.learns(layer) * self.c * (numbers or self.numbers(rows))
        inner = self.trained.rank(layer)
        return kept + inner * self.batch * rows * self.c

    def _norm(self, rows: int, output: bool) -> int:
        """A LayerNorm's input with mean and deviation, and its output where it is modulated."""
        return NORM * self.numbers(rows) * (1 + output) + 8 * self.batch * rows

    def _head_norm(self, name: str, rows: int) -> int:
        """An RMSNorm of every head: what it computes in float32, and its roots."""
        frozen = self.c == NORM and not self.trained.weight(f"{name}.weight")
        roots = 4 * self.batch * rows * self.config.heads
        return roots + (0 if frozen else NORM * self.numbers(rows))

    def _attended(self, rows: int) -> int:
        """Attention's output and the logarithms of its sums."""
        return self.c * self.numbers(rows) + 4 * self.batch * rows * self.config.heads

    def _self_attention(self, name: str, rows: int, normed: bool) -> int:
        n = self.c * self.numbers(rows)
        kept = self._input(f"{name}.qkv", rows) + 3 * n + self._attended(rows)
        if normed:
            norms = ("query_norm", "key_norm")
            kept += 2 * n + sum(self._head_norm(f"{name}.norm.{norm}", rows) for norm in norms)
        return kept

    def _cross_attention(self, name: str, rows: int, keys: int, normed: bool) -> int:
        """Without the input that keys and values are made of."""
        n, k = self.c * self.numbers(rows), self.c * self.numbers(keys)
        kept = self._input(f"{name}.q", rows) + n + 2 * k + self._attended(rows)
        if normed:
            kept += k + n * (self.c == NORM)
            kept += self._head_norm(f"{name}.norm.query_norm", rows)
            kept += self._head_norm(f"{name}.norm.key_norm", keys)
        return kept

    def _feed_forward(self, name: str, rows: int) -> int:
        inner = 4 * self.numbers(rows)
        return (
            self._input(f"{name}.0", rows)
            + self.c * inner
            + self._input(f"{name}.2", rows, numbers=inner)
        )

    def block(self, name: str, tokens: int, kept: int) -> int:
        """A block of the DiT; every gate keeps what it multiplies."""
        vectors = NORM * MODULATION * self.batch * self.config.width
        return (
            3 * self._norm(tokens, output=True)
            + self._self_attention(f"{name}.self_attn", tokens, normed=True)
            + self._cross_attention(f"{name}.cross_attn", tokens, kept, normed=True)
            + self._feed_forward(f"{name}.mlp", tokens)
            + 3 * self.c * self.numbers(tokens)
            + vectors
        )

    def text(self, sizes: Sizes) -> int:
        """Of the refiners whose weights learn, and the branches that read those."""
        learning = any(self.trained.learns(name) for name in self.layers if "text_side" in name)
        kept = sum(self._refiner(i, text.read) for i, text in sizes.text.items())
        if not learning or len(sizes.text) < 2 or self.config.refiner.fusion != "refiner":
            return kept
        for i, text in sizes.text.items():
            others = sum(other.read for j, other in sizes.text.items() if j != i)
            kept += self._collaborative(i, text.read, others)
        return kept

    def _refiner(self, branch: int, tokens: int) -> int:
        name, refiner = f"text_side.linguistic.{branch}", self.config.refiner
        if not self.trained.learns(f"{name}.entry"):
            return 0
        states = self.batch * tokens * self.config.llms[branch].width
        normed = refiner.entry_norm and self.trained.weight(f"{name}.entry_norm.weight")
        kept = NORM * states * normed + self._input(f"{name}.entry", tokens, numbers=states)
        for n in range(refiner.blocks):
            block = f"{name}.blocks.{n}"
            kept += 2 * self._norm(tokens, output=False)
            kept += self._self_attention(f"{block}.self_attn", tokens, refiner.qk_norm)
            kept += self._feed_forward(f"{block}.mlp", tokens)
            kept += 2 * self.c * self.numbers(tokens) * refiner.gated
        return kept

    def _collaborative(self, branch: int, tokens: int, others: int) -> int:
        kept = 0
        for n in range(self.config.refiner.collaborative_blocks):
            name = f"text_side.collaborative.branches.{branch}.{n}"
            kept += 2 * self._norm(tokens, output=True) + self._norm(others, output=False)
            kept += self._input(f"{name}.cross_attn.kv", others)
            kept += self._cross_attention(
                f"{name}.cross_attn", tokens, others, self.config.refiner.qk_norm
            )
            kept += self._feed_forward(f"{name}.mlp", tokens) + 2 * self.c * self.numbers(tokens)
        return kept

    def image(self, tokens: int) -> int:
        """Patches, position and final layer."""
        n = self.c * self.numbers(tokens)
        position = 3 * n if self.trained.weight("position.conv1.weight") else 0
        return (
            position + self._norm(tokens, output=True) + self._input("final_layer.linear", tokens)
        )

    def loss(self, tokens: int, classes: int, contrast: bool) -> int:
        """The batch's latents, the loss, and the content's logits with their logarithms."""
        latents = self.batch * tokens * self.config.patch**2 * self.config.latent.channels
        content = classes and 8 * self.batch * tokens * classes + self.c * self.numbers(tokens)
        return 4 * (BATCH_TENSORS + contrast) * latents + content
