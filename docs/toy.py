"""LI-DiT (arXiv 2406.11831) in one file: a tiny LLM, a refiner, a painter. Read it downwards.

Only torch; 90 s of one CPU core. Shapes: B samples, L tokens, D the refiner's, painter's width.
"""

import argparse
import time

import torch
import torch.nn.functional as F
from torch import nn

# The world: pictures of 8x8 pixels with two coloured shapes, and captions that say where they are.
COLOURS = ("red", "green", "blue")
SHAPES = {"square": "### ### ###", "ring": "### #.# ###", "cross": ".#. ### .#."}
OBJECTS = [(colour, shape) for colour in COLOURS for shape in SHAPES]
SCENES = [(across, a, b) for across in (True, False) for a in OBJECTS for b in OBJECTS if a != b]
INSTRUCTION, LENGTH = "describe this :".split(), 6
WORDS = [*COLOURS, *SHAPES, *INSTRUCTION, *"left right of above below .".split()]
D = 96


def paint(across, *objects, line):
    """(3, 8, 8): side by side or one above the other, in the first or the second line."""
    picture = torch.zeros(3, 8, 8)
    for place, (colour, shape) in enumerate(objects):
        y, x = (4 * line, 4 * place) if across else (4 * place, 4 * line)
        dots = torch.tensor([[dot == "#" for dot in row] for row in SHAPES[shape].split()])
        picture[COLOURS.index(colour), y : y + 3, x : x + 3] = 2.0 * dots
    return picture


def captions(across, a, b):
    there, back = ("left of", "right of") if across else ("above", "below")
    return [" ".join([*a, there, *b]), " ".join([*b, back, *a])]


def tokens(prompts):
    """Instruction + prompt as numbers (B, L); "." fills up a prompt of fewer words."""
    rows = [INSTRUCTION + (prompt.split() + ["."] * LENGTH)[:LENGTH] for prompt in prompts]
    return torch.tensor([[WORDS.index(word) for word in row] for row in rows])


PICTURES = torch.stack([torch.stack([paint(*s, line=n) for n in (0, 1)]) for s in SCENES])


class Attention(nn.Module):
    """x (B, L, D) reads `source`, or itself; causal: no token sees those after it."""

    def __init__(self, width):
        super().__init__()
        self.q, self.kv, self.out = (nn.Linear(width, n * width) for n in (1, 2, 1))

    def forward(self, x, source=None, causal=False):
        qkv = (self.q(x), *self.kv(x if source is None else source).chunk(2, -1))
        q, k, v = (y.unflatten(-1, (4, -1)).transpose(1, 2) for y in qkv)  # 4 heads
        q, k = (F.rms_norm(y, y.shape[-1:]) for y in (q, k))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=causal)
        return self.out(y.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Attention and feed-forward layers; a vector c (B, D), if any, shifts, scales, gates each."""

    def __init__(self, w, attentions=1):
        super().__init__()
        self.attentions = nn.ModuleList(Attention(w) for _ in range(attentions))
        self.mlp = nn.Sequential(nn.Linear(w, 4 * w), nn.GELU(), nn.Linear(4 * w, w))
        self.modulation = nn.Linear(w, 3 * (attentions + 1) * w)
        nn.init.zeros_(self.modulation.weight), nn.init.zeros_(self.modulation.bias)

    def forward(self, x, *sources, c=None, causal=False):
        layers = [lambda y, a=a, s=s: a(y, s, causal) for a, s in zip(self.attentions, sources)]
        parts = [0, 0, 1] * (len(layers) + 1)
        if c is not None:  # at first all zero: the gates of an untrained block are closed
            parts = self.modulation(F.silu(c))[:, None].chunk(len(parts), -1)
        for i, layer in enumerate([*layers, self.mlp]):
            shift, scale, gate = parts[3 * i : 3 * i + 3]
            x = x + gate * layer(F.layer_norm(x, x.shape[-1:]) * (1 + scale) + shift)
        return x


class LLM(nn.Module):
    """A causal decoder-only LLM, trained on next-word prediction (real ones: lidit_core/llm)."""

    def __init__(self, width=64):
        super().__init__()
        self.words, self.next_word = nn.Embedding(len(WORDS), width), nn.Linear(width, len(WORDS))
        self.places = nn.Parameter(torch.randn(len(INSTRUCTION) + LENGTH, width) / 2)
        self.blocks = nn.ModuleList([Block(width), Block(width)])

    def forward(self, ids):
        x = self.words(ids) + self.places[: ids.shape[1]]
        for block in self.blocks:
            x = block(x, None, causal=True)
        return F.layer_norm(x, x.shape[-1:])  # (B, L, width): the hidden states

    def loss(self, ids):
        rows = ids[torch.randint(len(ids), (64,))]
        return F.cross_entropy(self.next_word(self(rows[:, :-1])).mT, rows[:, 1:])


class DiT(nn.Module):
    """Linguistic token refiner (lidit_core/model/refiners.py), painter (lidit_core/model/dit.py)"""

    def __init__(self, reads="refined words", width=64):
        super().__init__()
        self.reads, self.entry, self.context = reads, nn.Linear(width, D), nn.Linear(width, D)
        self.refiner = Block(D)
        self.time = nn.Sequential(nn.Linear(D, D), nn.SiLU(), nn.Linear(D, 2 * D))
        self.patches, self.pooled = nn.Conv2d(3, D, 4, 4), nn.Linear(D, D)
        self.places = nn.Parameter(torch.randn(4, D) / 2)  # the real one: a convolution
        self.blocks = nn.ModuleList([Block(D, 2), Block(D, 2)])
        self.pixels = nn.Linear(D, 3 * 4 * 4)

    def text(self, states, t):
        """The LLM's states (B, L, its width) -> the tokens that the painter reads, and its time."""
        angles = 1000 * t[:, None] * torch.exp(-9.2 * torch.arange(D // 2) / (D // 2))
        when, text_when = self.time(torch.cat([angles.cos(), angles.sin()], -1)).chunk(2, -1)
        x = self.entry(states)
        if self.reads == "refined words":  # full attention: a word learns of later ones
            x = self.refiner(x, None, c=text_when + self.context(states.mean(1)))
        return x[:, -1:] if self.reads == "last word only" else x[:, len(INSTRUCTION) :], when

    def forward(self, x, t, states):
        """x (n·B, 3, 8, 8): n noisy pictures for each of the B texts; t (B,) -> velocity, like x"""
        text, when, n = *self.text(states, t), len(x) // len(t)
        c = (when + self.pooled(text.mean(1))).repeat(n, 1)
        x, text = self.patches(x).flatten(2).mT + self.places, text.repeat(n, 1, 1)
        for block in self.blocks:  # self-attention, then cross-attention to the text
            x = block(x, None, text, c=c)
        x = self.pixels(F.layer_norm(x, x.shape[-1:])).mT  # (n·B, 48, 4 patches)
        return F.pixel_shuffle(x.unflatten(2, (2, 2)), 4)


def flow_loss(model, states, empty, scenes, n=2):
    """Flow matching (lidit_core/diffusion): predict the velocity from picture to noise."""
    rows, dropped = torch.randint(len(scenes), (64,)), torch.rand(64, 1, 1) < 0.1
    text = torch.where(dropped, empty, states[rows])  # caption dropout: the empty prompt instead
    x = PICTURES[scenes[rows].repeat(n), torch.randint(2, (64 * n,))]
    t, noise = (torch.randn(64) + 1.1).sigmoid(), torch.randn_like(x)  # 1 = noise
    noisy = torch.lerp(x, noise, t.repeat(n)[:, None, None, None])
    return F.mse_loss(model(noisy, t, text), noise - x)


def fit(model, loss, steps, rate):
    optimizer = torch.optim.AdamW(model.parameters(), rate, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, steps, pct_start=0.1)
    for _ in range(steps):
        optimizer.zero_grad(), (value := loss()).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0), optimizer.step(), schedule.step()
    return value.item()


@torch.no_grad()
def sample(model, states, empty, steps=20, guidance=3.0):
    """Euler steps from noise to pictures, with classifier-free guidance."""
    x = torch.randn(len(states), 3, 8, 8, generator=torch.Generator().manual_seed(1))
    both = torch.cat([states, empty.expand_as(states)])
    times = 3 / (2 + 1 / torch.linspace(1, 0, steps + 1))  # most at high noise: text decides there
    for t, following in zip(times[:-1], times[1:]):
        velocity, unguided = model(x.repeat(2, 1, 1, 1), t.expand(2 * len(x)), both).chunk(2)
        x = x + (following - t) * torch.lerp(unguided, velocity, guidance)
    return x


def main(steps):
    torch.manual_seed(0)
    parts = torch.randperm(len(SCENES)).split(120)  # a scene is held out with both its captions
    scenes = dict(zip(("trained", "held-out"), parts))
    prompts = {k: [c for i in part for c in captions(*SCENES[i])] for k, part in scenes.items()}
    scenes = {k: part.repeat_interleave(2) for k, part in scenes.items()}
    llm, ids = LLM(), tokens(prompts["trained"])
    loss = fit(llm, lambda: llm.loss(ids), min(steps, 300), 3e-3)
    llm.requires_grad_(False)  # frozen from here on, with its causal bias
    print(f"The LLM predicts the next word: loss {loss:.2f}, by chance 2.71. Now it is frozen.")
    states, empty = {k: llm(tokens(p)) for k, p in prompts.items()}, llm(tokens([""]))
    ends = llm(tokens([f"red ring left of blue {shape}" for shape in SHAPES]))
    for reads in ("refined words", "unrefined words", "last word only"):
        torch.manual_seed(1)
        model, data = DiT(reads), (states["trained"], empty, scenes["trained"])
        fit(model, lambda m=model, data=data: flow_loss(m, *data), steps, 5e-3)
        print(f"A painter that reads {reads}: {steps} steps, {time.process_time():.0f} s so far")
        spread = model.text(ends, torch.ones(3))[0].std(0).mean(-1).tolist()
        print("  changed by the caption's last word:", *(f"{s:.2f}" for s in spread))
        for kind in states:
            drawings = sample(model, states[kind], empty)
            same = (drawings > 1)[:, None] == (PICTURES[scenes[kind]] > 1)
            right = same.flatten(2).all(2).any(1)  # all 192 values; without the caption at most 1%
            print(f"  drawn right, {kind}: {right.sum()}/{len(right)} = {right.float().mean():.0%}")
        print(f"  {prompts['held-out'][0]} (held out):")
        for row in ((drawings[0] > 1) * torch.tensor([1, 2, 3])[:, None, None]).amax(0):
            print("   ", *(".RGB"[dot] for dot in row))


if __name__ == "__main__":
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=900, help="20 or more")
    main(parser.parse_args().steps)
