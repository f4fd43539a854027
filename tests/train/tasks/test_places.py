"""Image tokens that are taught where they are. Run: pytest tests/train/tasks/test_places.py"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_training import make_world, recipe_of, run

from lidit_core.checkpoints.lidit import read_lidit
from lidit_core.errors import LiDiTError
from lidit_train.recipe import Place
from lidit_train.tasks.lidit.places import PositionHead, places
from lidit_train.tasks.task import open_task


def test_places_are_rows_and_columns_in_the_order_of_the_tokens() -> None:
    wanted = [[-1, -1], [-1, 0], [-1, 1], [1, -1], [1, 0], [1, 1]]
    assert places(2, 3, torch.device("cpu")).tolist() == wanted


def test_tokens_that_know_their_place_have_no_error_and_others_two_thirds() -> None:
    torch.manual_seed(0)
    placed = PositionHead(Place(), width=16)
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
