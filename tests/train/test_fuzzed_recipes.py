"""Hostile recipes end in a sentence. Run: pytest tests/train/test_fuzzed_recipes.py"""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest
import yaml
from fuzz import demand, odd, spoilt, spoilt_text
from tiny_training import fields

from lidit_core.errors import LiDiTError
from lidit_train.recipe_file import field_names, read_recipe

WHOLE = {
    "adapter": {"base": "a", "llm": "b", "refiner": {"blocks": 1}},
    "content": {"block": 0},
    "contrast": {"weight": 0.1},
    "lora": {"rank": 2},
    "loss": {"weighting": "min-snr", "error": "huber"},
    "validation": {"prompts": ["a cat", {"text": "a dog", "size": [64, 32]}]},
    "hardware": {"count": 1},
}
TEXTS = ("2001-99-99", "0x_", "1:99:99", "!!python/none x", "!!binary '?'", "*a", "&a [*a]",
         "[" * 3000, "{" * 3000, "9" * 6000, "\0", "\t", "!!timestamp x", "!!int x", ".nan", ".inf",
         "<<: 3", "!!set {a}", "!!omap [a: 1]", "- - -", "'", "|", "%YAML 9.9", "😀",
         "x: y", "? [a]")  # fmt: skip


SOURCE = {
    "mask": "alpha",
    "outside": 0.5,
    "loss_weight": 0.5,
    "prefix": "x,",
    "tag_orders": 4,
    "keep_tags": 1,
    "least": {"score": 4.7},
    "most": {"score": 9},
    "without": ["urls", "tags"],
}


def recipe_text(rng: Random) -> str:
    whole = {**fields(Path("x")), **WHOLE}
    whole["data"]["sources"][0] |= SOURCE
    data = spoilt(rng, whole)
    if rng.random() < 0.3:
        data[rng.choice(("seed", "trains", 3, "", None))] = odd(rng)
    text = yaml.safe_dump(data)
    how = rng.choice(("fields", "fields", "text", "line", "bare"))
    if how == "text":
        return spoilt_text(rng, text, ":-{}[]&*!|>'\"#%@\n\t 0e.")
    if how == "line":
        lines = text.splitlines()
        at = rng.randrange(len(lines))
        lines[at] = f"{lines[at].split(':')[0]}: {rng.choice(TEXTS)}"
        return "\n".join(lines)
    return rng.choice(TEXTS) if how == "bare" else text


def changed(rng: Random) -> str:
    """A word of `--set`."""
    odd_places = ("data.sources.0.path", "stages.9.batch", "stages.-1.batch", "", ".", "=")
    places = (*field_names(), *odd_places, "seed.x", "data.sources", "model.changes.llms.0")
    place = rng.choice(places)
    return rng.choice((f"{place}={rng.choice(TEXTS)}", f"{place}={odd(rng)}", place))


def test_recipes(tmp_path):
    path = tmp_path / "recipe.yaml"

    def make(rng: Random) -> tuple[str, list[str]]:
        return recipe_text(rng), [changed(rng) for _ in range(rng.choice((0, 0, 1, 2)))]

    def use(made: tuple[str, list[str]]) -> None:
        text, changes = made
        path.write_bytes(text.encode("utf-8", "surrogatepass"))
        read_recipe(path, changes)

    demand("recipe", make, use)


def laughs(levels: int) -> str:
    """A text whose last line stands for 8 to the power of so many values."""
    lines = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 8)}]" for n in range(1, levels)]
    return "\n".join(lines)


@pytest.mark.parametrize("text", ["model: &a {changes: *a}", laughs(12), "stages: &a [*a]"])
def test_a_recipe_without_end_is_refused_in_a_moment(tmp_path, text):
    (tmp_path / "recipe.yaml").write_text(text)
    with pytest.raises(LiDiTError, match="write out what its & and \\* stand for"):
        read_recipe(tmp_path / "recipe.yaml")
