"""The parts of a batch that a process takes at once."""

import pytest
import torch

from lidit_core.text.states import PADDING, PROMPT, LLMStates
from lidit_train.batch import Batch

LENGTHS = [5, 40, 0, 38, 7, 12, 39]


def states(lengths: list[int]) -> LLMStates:
    """Random states, of so many tokens a row, padded to the longest."""
    made = torch.Generator().manual_seed(len(lengths))
    roles = torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None]
    hidden = torch.randn(len(lengths), max(lengths), 3, generator=made) * roles[..., None]
    return LLMStates(hidden, torch.where(roles, PROMPT, PADDING).int())


def batch(*lengths: list[int]) -> Batch:
    """Samples that are known by their time, with texts of such lengths by branch."""
    rows = len(LENGTHS)
    return Batch(
        torch.randn(rows, 2, 4, 4),
        torch.randn(rows, 2, 4, 4),
        torch.arange(rows) / 10,
        {i: states(each) for i, each in enumerate(lengths)},
        captions=[f"caption {row}" for row in range(rows)],
        used={0: LENGTHS},
        seeds=range(rows),
    )


def test_captions_of_like_length_are_padded_to_their_own_longest():
    parts = list(batch(LENGTHS).micro_batches(3))
    assert [part.used[0] for part in parts] == [[0, 5, 7], [12, 38, 39], [40]]
    assert [part.states[0].roles.shape[1] for part in parts] == [7, 39, 40]


def test_the_texts_of_all_branches_count():
    parts = list(batch(LENGTHS, LENGTHS[::-1]).micro_batches(4))  # 44, 52, 7, 76, 7, 52, 44
    first, second = ([round(10 * t) for t in part.time.tolist()] for part in parts)
    assert (sorted(first), sorted(second)) == ([0, 2, 4, 6], [1, 3, 5])


@pytest.mark.parametrize("size", [1, 2, 3, 6])
def test_every_sample_is_in_one_part_with_what_is_its_own(size):
    whole = batch(LENGTHS, LENGTHS[::-1])
    found = []
    for part in whole.micro_batches(size):
        assert 0 < len(part) <= size
        for row, time in enumerate(part.time.tolist()):
            number = round(10 * time)
            assert torch.equal(part.x[row], whole.x[number])
            assert torch.equal(part.noise[row], whole.noise[number])
            assert part.captions[row] == whole.captions[number]
            assert part.seeds[row] == number
            for branch, text in part.states.items():
                read, length = whole.states[branch], text.rows.each[row].seen
                assert text.rows.each[row] == read.rows.each[number]
                assert torch.equal(text.hidden[row, :length], read.hidden[number, :length])
            found.append(number)
    assert sorted(found) == list(range(len(LENGTHS)))


@pytest.mark.parametrize("size", [0, 7, 9])
def test_a_batch_that_fits_is_taken_as_it_is(size):
    whole = batch(LENGTHS)
    assert [part is whole for part in whole.micro_batches(size)] == [True]


def test_a_batch_without_text_keeps_its_order():
    times = [part.time.tolist() for part in batch().micro_batches(4)]
    assert sum(times, []) == pytest.approx([row / 10 for row in range(7)])
