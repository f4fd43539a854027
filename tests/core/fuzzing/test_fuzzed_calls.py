"""Hostile calls of the library. Run: pytest tests/core/fuzzing/test_fuzzed_calls.py"""

from __future__ import annotations

from random import Random
from types import SimpleNamespace

import pytest
import torch
from fuzz import demand, odd
from tiny_lidit import (
    lidit_config,
    random_lidit,
    random_noise,
    random_states,
    random_texts,
    save_lidit_files,
)
from tiny_llm import save_llm

from lidit_core.diffusion.sampling import initial_noise, sample
from lidit_core.errors import LiDiTError
from lidit_core.pipeline import Order, Settings, load_pipeline
from lidit_core.text.states import LLMStates

MODEL = random_lidit()


def states(rng: Random):
    """The states of a text, or of none that there can be."""
    good = random_states(*[6] * rng.choice((1, 2, 2, 2, 3)), width=rng.choice((24, 24, 24, 7)))
    bare = SimpleNamespace(hidden=good.hidden, roles=good.roles)
    return rng.choice((good, good, good, good, good.hidden, bare, None, [good], "a frog"))


def texts(rng: Random):
    good = random_texts(2, *[6] * rng.choice((2, 2, 2, 1)))
    kinds = (good, good, states(rng), [good[0]], {0: states(rng)}, {5: good[0]}, {"a": good[0]},
             {0: good[0], 1: states(rng)}, {}, None, odd(rng), {-1: good[0]},
             {None: good[0], 0: good[1]})  # fmt: skip
    return rng.choice(kinds)


def noise(rng: Random):
    good = random_noise(2, 4, 4)
    return rng.choice((good, good, good, good[0], good[:, :3], good[..., :0], good.bfloat16(),
                       good.long(), good.tolist(), None, odd(rng), good[:0],
                       good.double()))  # fmt: skip


def test_samples():
    def make(rng: Random) -> dict:
        made = {"noise": random_noise(2, 4, 4), "positive": random_texts(2, 6, 6),
                "negative": random_texts(2, 6, 6), "steps": 1, "guidance": 2.0}  # fmt: skip
        new = {"noise": noise, "positive": texts, "negative": texts, "steps": odd, "guidance": odd,
               "begin": odd, "options": odd}  # fmt: skip
        for name in rng.sample(sorted(new), rng.choice((1, 1, 2))):
            made[name] = new[name](rng)
        if isinstance(made["steps"], int) and made["steps"] > 99:
            made["steps"] = 2
        return made

    def use(made: dict) -> None:
        assert torch.isfinite(sample(MODEL, **made)).all() or made["guidance"] > 1e30

    demand("sample", make, use)


def test_models():
    half = random_lidit().bfloat16()

    def make(rng: Random) -> tuple:
        time = rng.choice((torch.tensor([3.0, 900.0]), torch.tensor([3.0]), torch.tensor(3.0), 3.0,
                           5, None, torch.zeros(2, 2), torch.tensor([1, 2]), odd(rng)))  # fmt: skip
        return rng.random() < 0.5, noise(rng), time, texts(rng)

    demand("model", make, lambda made: (half if made[0] else MODEL)(*made[1:]))


def test_states():
    def make(rng: Random) -> tuple:
        good = random_states(6, 6)
        kinds = (odd(rng), good.hidden[0], good.hidden.long(), good.roles.float(), None)
        weights = torch.rand(2, 6)
        emphasis = (None, weights, 0 * weights, weights / 0, -weights, weights.log() - 1e30, *kinds)
        given = rng.choice((good.hidden, *kinds)), rng.choice((good.roles, *kinds))
        return *given, rng.choice(emphasis)

    def use(made: tuple) -> None:
        hidden, roles, emphasis = made
        states = {0: LLMStates(hidden, roles, emphasis=emphasis)}
        assert torch.isfinite(MODEL(random_noise(2, 4, 4), torch.ones(2), states)).all()

    demand("states", make, use)


def test_pictures(tmp_path):
    llm, model = save_llm(tmp_path / "llm"), save_lidit_files(tmp_path, lidit_config("llm"))
    drawn = load_pipeline(str(model), [str(llm)], "cpu")

    (encoder,) = drawn.encoders.values()
    for prompts in ("a frog", [None], [3]):
        with pytest.raises(LiDiTError, match="expected a list of texts"):
            encoder.encode(prompts)

    def order(rng: Random):
        prompt = "a frog" if rng.random() < 0.7 else odd(rng)
        return Order(prompt, odd(rng) if rng.random() < 0.5 else 3)

    def make(rng: Random) -> tuple:
        orders = rng.choice((["a frog"], "a frog", None, odd(rng), [None], order, order, order))
        fields = {"steps": 1, "size": (16, 16)}
        for name in rng.sample(("negative", "steps", "guidance", "size"), rng.choice((0, 1, 1, 2))):
            fields[name] = (odd(rng), 16) if rng.random() < 0.2 else odd(rng)
        fields["steps"] = (
            1 if fields["steps"] in (1 << 40, 10**400, 1 << 63, 10**7) else fields["steps"]
        )
        return orders, fields, rng.random()

    def use(made: tuple) -> None:
        orders, fields, seed = made
        orders = [order(Random(seed))] if orders is order else orders
        for picture in drawn.pictures(orders, Settings(**fields)):
            assert picture.dtype == torch.uint8

    demand("pictures", make, use)


@pytest.mark.parametrize("seeds", [[1 << 70], ["a"], [None], [1.5], 3])
def test_noise_needs_seeds(seeds):
    with pytest.raises(LiDiTError, match="expected"):
        initial_noise(seeds, 16, 4, 4)
