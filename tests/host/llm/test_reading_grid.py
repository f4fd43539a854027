"""A prompt read in every combination, and the pictures side by side. Run: see conftest.py"""

from __future__ import annotations

import os

import pytest
import torch
from clip_kit import PROMPT, fresh_loader, save_llms

AXES = {"instructions": "short\n\n none ", "refiners": "as trained\ncausal attention"}
TWO = "collaborative refiner\nconcatenation\nLLM 2 alone"


@pytest.fixture(scope="module")
def clips(pack, host):
    save_llms(host)
    load = fresh_loader(pack)
    return load("Llama"), load("Qwen2")


def grid(pack, clips, **changes):
    inputs = {"clip": clips[0], "text": PROMPT, "negative": "", "fusions": TWO, **AXES, **changes}
    return pack.run("LiDiTReadingGrid", **{"clip_2": clips[1], **inputs})


def same(one, two) -> bool:
    """Two CONDITIONINGs, down to every tensor."""
    (hidden, values), (others, other_values) = one[0], two[0]
    equal = values.keys() == other_values.keys() and torch.equal(hidden, others)
    return equal and all(_same(values[key], other_values[key]) for key in values)


def _same(a, b) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_same(a[k], b[k]) for k in a)
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


def test_every_combination_is_what_the_single_nodes_give(pack, clips):
    positives, negatives, labels = grid(pack, clips)
    assert len(positives) == len(negatives) == len(set(labels)) == 12
    (template,) = pack.run("LiDiTInstructionTemplate", preset="none", system="", instruction="")
    read = [
        pack.run("LiDiTTextEncode", clip=clip, text=PROMPT, template=template)[0] for clip in clips
    ]
    settings = {"refiner": "by LLM name", "gating": "as trained", "strength": 1.0}
    read = [
        pack.run("LiDiTLinguisticTokenRefiner", conditioning=c, attention="causal", **settings)[0]
        for c in read
    ]
    weights = {f"weight_{n}": 1.0 for n in range(1, 5)}
    both = dict(zip(("conditioning_1", "conditioning_2"), read, strict=True))
    (fused,) = pack.run("LiDiTCollaborativeRefiner", fusion="concatenation", **both, **weights)
    at = labels.index("instruction: none\nrefiner: causal attention\nfusion: concatenation")
    assert same(positives[at], fused) and not same(negatives[at], fused)
    alone = labels.index("instruction: none\nrefiner: causal attention\nfusion: LLM 2 alone")
    assert same(positives[alone], read[1])


def test_weights_of_words_are_read_where_emphasis_is_on(pack, clips):
    """In the prompt and in the negative one, as the single node reads them."""
    marked, asked = "a (red:1.4) cat", {"instructions": "short", "refiners": "as trained"}
    read = {
        on: pack.run("LiDiTTextEncode", clip=clips[0], text=marked, emphasis=on)[0]
        for on in (True, False)
    }
    for on, expected in read.items():
        made = grid(
            pack, clips, text=marked, negative=marked, fusions="LLM 1 alone", emphasis=on, **asked
        )
        assert same(made[0][0], expected) and same(made[1][0], expected)
    assert not same(read[True], read[False])


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"refiners": "as trained\nnone"}, "refiners has 'none'; expected as trained, full"),
        ({"fusions": " \n"}, "fusions is empty; write at least one value"),
        ({"clip_2": None}, "one LLM is connected; connect clip_2, or write LLM 1 alone"),
        ({"instructions": "shrot"}, "shrot"),
    ],
)
def test_what_cannot_be_read_gets_a_sentence(pack, clips, changes, sentence):
    error = pack.module("lidit_core.errors").LiDiTError
    with pytest.raises(error, match=sentence):
        grid(pack, clips, **changes)


def test_it_is_read_anew_once_a_template_has_changed(pack, host):
    """Which no list of files names here, so that the host would not look."""
    file = host.base / "models" / "llm_templates" / "of the grid.txt"
    file.write_text("Paint {prompt}", encoding="utf-8")

    def told() -> str:
        given = {"clip": None, "instructions": f"short\n {file.name}\nshrot"}
        return pack.LiDiTReadingGrid.fingerprint_inputs(**given)

    try:
        before = told()
        assert told() == before
        os.utime(file, (1, 1))
        assert told() != before
    finally:
        file.unlink()
    assert told() != before


def test_one_llm_makes_a_grid_of_its_own(pack, clips):
    positives, _, labels = grid(pack, clips, clip_2=None, fusions="LLM 1 alone")
    assert len(positives) == len(labels) == 4


def test_pictures_stand_below_their_labels_in_rows(pack):
    pictures = [torch.full((1, 128, 128, 3), value) for value in (0.0, 0.5, 1.0)]
    inputs = {"images": pictures, "labels": ["a\nb", "c\nd", "e\nf"], "columns": [2]}
    (sheet,) = pack.run("LiDiTLabelledGrid", **inputs)
    cell = 256 + 2 * 18 + 4
    assert sheet.shape == (1, 12 + 2 * (cell + 12), 12 + 2 * (256 + 12), 3)
    below = 12 + 2 * 18 + 4
    assert sheet[0, below, 12].tolist() == [0.0, 0.0, 0.0]  # the first picture's corner
    assert 0.49 < float(sheet[0, below, 12 + 268, 0]) < 0.51  # the second's, to its right
    assert float(sheet[0, 12 : below - 4, 12:100].min()) < 0.3  # ink of the label
    batch = {**inputs, "images": [torch.cat(pictures)]}
    assert torch.equal(pack.run("LiDiTLabelledGrid", **batch)[0], sheet)
    error = pack.module("lidit_core.errors").LiDiTError
    with pytest.raises(error, match="3 pictures and 2 labels"):
        pack.run("LiDiTLabelledGrid", **{**inputs, "labels": ["a", "b"]})
