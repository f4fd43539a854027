"""Image tokens taught where they are, and text where things lie.

Run: pytest tests/train/tasks/test_places.py
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_training import make_world, recipe_of, run

from lidit_core.checkpoints.lidit import read_lidit
from lidit_core.errors import LiDiTError
from lidit_core.model.text_side import TextContext
from lidit_train.recipe import Layout, Place
from lidit_train.tasks.lidit.layout import TextLayout, centres
from lidit_train.tasks.lidit.places import Placed, places
from lidit_train.tasks.task import open_task

LEFT_AND_RIGHT = torch.tensor([[[1, 0, 2]], [[2, 0, 1]]])  # (B, 1 row, 3 columns)


def test_places_are_rows_and_columns_in_the_order_of_the_tokens() -> None:
    wanted = [[-1, -1], [-1, 0], [-1, 1], [1, -1], [1, 0], [1, 1]]
    assert places(2, 3, torch.device("cpu")).tolist() == wanted


def test_tokens_that_know_their_place_have_no_error_and_others_two_thirds() -> None:
    torch.manual_seed(0)
    placed = Placed(Place(), width=16)
    noise = torch.randn(4, 9 * 7, 14)
    blind = torch.cat([noise, torch.zeros(4, 63, 2)], dim=-1)
    told = torch.cat([noise, 20 * places(9, 7, noise.device).expand(4, -1, -1)], dim=-1)
    for tokens, least, most in ((blind, 0.6, 1.0), (told, 0.0, 0.1)):
        optimiser = torch.optim.Adam(placed.parameters(), lr=0.05)
        for _ in range(300):
            error = placed(tokens, rows=9)
            optimiser.zero_grad()
            error.mean().backward()
            optimiser.step()
        assert error.shape == (4,) and least <= error.mean().item() <= most


def test_centres_are_means_of_the_places_of_a_class() -> None:
    where, shown = centres(torch.tensor([[[0, 0, 1], [3, 3, 1]]]), classes=4)
    assert where[0].tolist() == [[-1.0, -0.5], [0.0, 1.0], [0.0, 0.0], [1.0, -0.5]]
    assert shown.tolist() == [[1.0, 1.0, 0.0, 1.0]]


def _text(says_the_side: bool) -> TextContext:
    """Two samples of two tokens, thing 1 and thing 2, with their sides, and one that is masked."""
    torch.manual_seed(0)
    things = torch.eye(16)[:2].expand(2, 2, 16).clone() * 4
    if says_the_side:
        things[:, :, 8] = torch.tensor([[-4.0, 4.0], [4.0, -4.0]])
    tokens = torch.cat([things, 50 * torch.randn(2, 1, 16)], dim=1)
    bias = torch.tensor([0.0, 0.0, -1e4]).expand(2, 1, 1, 3)
    return TextContext(tokens, bias, None, tokens.mean(1))


def _taught(text: TextContext) -> torch.Tensor:
    layout = TextLayout(Layout(), width=16, classes=3)
    optimiser = torch.optim.Adam(layout.parameters(), lr=0.02)
    for _ in range(400):
        error = layout(text, LEFT_AND_RIGHT)
        optimiser.zero_grad()
        error.mean().backward()
        optimiser.step()
    return error


def test_tokens_that_say_the_side_have_no_error_and_others_that_of_the_mean() -> None:
    assert _taught(_text(says_the_side=True)).tolist() == pytest.approx([0, 0], abs=0.02)
    # of two things on the one side or the other, and the ground between that is always there
    assert _taught(_text(says_the_side=False)).tolist() == pytest.approx([2 / 3, 2 / 3], abs=0.02)


def test_what_is_masked_is_not_read() -> None:
    layout, text = TextLayout(Layout(), width=16, classes=3), _text(says_the_side=True)
    text.tokens.requires_grad_()
    layout(text, LEFT_AND_RIGHT).sum().backward()
    assert text.tokens.grad is not None
    assert text.tokens.grad[:, :2].any() and not text.tokens.grad[:, 2].any()


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> tuple[Path, dict[str, str]]:
    folder = tmp_path_factory.mktemp("world")
    return folder, make_world(folder, "one")


def test_the_map_is_trained_and_is_no_part_of_the_file(world) -> None:
    folder, llms = world
    run(folder, "without", llms)
    run(folder, "with", llms, place={"weight": 0.5, "block": 0})
    (_, without), (_, taught) = (
        read_lidit(folder / out / "final.safetensors") for out in ("without", "with")
    )
    assert without.keys() == taught.keys()
    assert any(not torch.equal(without[name], taught[name]) for name in without)


def test_a_block_that_is_not_there_is_one_sentence(world) -> None:
    folder, _ = world
    with pytest.raises(LiDiTError, match="place is read after block 9; expected one of 0 to"):
        open_task(recipe_of(folder, "one", place={"block": 9}))


def test_a_recipe_of_layout_without_content_is_one_sentence(world) -> None:
    folder, _ = world
    with pytest.raises(LiDiTError, match="has layout and no content, whose classes it places"):
        open_task(recipe_of(folder, "one", layout={"weight": 0.2}))
