"""The demo checkpoint's weak text encoder. Run: pytest tests/core/demo/test_bag_of_words.py"""

from __future__ import annotations

import torch

from lidit_core.demo.bag_of_words import LENGTH, NOTHING, BagOfWords

TEXT = "a red cat left of two blue dogs"


@torch.no_grad()
def test_a_text_is_a_set_of_words_whose_order_is_lost_to_attention():
    encoder = BagOfWords(8)
    first, second = encoder.read([TEXT, "a blue cat left of two red dogs"])
    assert first.shape == (LENGTH, 8) and not torch.equal(first, second)
    query = torch.randn(5, 8)
    read = [(query @ tokens.T).softmax(-1) @ tokens for tokens in (first, second)]
    torch.testing.assert_close(*read)  # attention, which knows no places


def test_words_share_few_numbers():
    encoder = BagOfWords(8, buckets=5)
    words = "cat dog bee apple banana car red blue green two three left right".split()
    ids = {encoder.tokenize(word)[0] for word in words}
    assert len(ids) <= 5 and ids <= set(range(1, 6))
    assert encoder.words.num_embeddings == 6  # and one for what follows the last word


def test_a_words_number_is_the_same_everywhere():
    ids = BagOfWords().tokenize("Cat, dog! CAT")
    assert ids[0] == ids[2] and ids[3:] == [NOTHING] * (LENGTH - 3)
    assert BagOfWords(buckets=16).tokenize("cat dog apple")[:3] == [9, 14, 1]  # in every file


def test_every_prompt_has_one_length():
    encoder = BagOfWords()
    for text in ("", "cat", "cat " * 100, "红猫"):
        assert len(encoder.tokenize(text)) == LENGTH
    assert set(encoder.tokenize("")) == {NOTHING} and NOTHING not in encoder.tokenize("cat " * 100)
    assert encoder.read(["", "cat " * 100]).shape == (2, LENGTH, 64)
    longer = BagOfWords(length=77)
    assert longer.tokenize("cat dog")[:LENGTH] == encoder.tokenize("cat dog")
    assert longer.read(["", "cat " * 100]).shape == (2, 77, 64)
