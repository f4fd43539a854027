"""Weights of words, against the host's own parser and through its nodes. Run: see conftest.py"""

from __future__ import annotations

import random

import pytest
import torch
from clip_kit import fresh_loader, save_llms
from model_kit import close, fuse
from tiny_lidit import lidit_config, randomise

from lidit_core.checkpoints.lidit import save_lidit
from lidit_core.model.dit import LiDiT

PIECES = ("(", "(", ")", ")", "\\", "[", "]", ":", "1.3", "0", ".5", "e1", "a", " cat", "猫", "\n")
MARKED = "two cats and (a dog:1.6)"
PLAIN = "two cats and a dog"


def test_marks_are_read_as_the_hosts_parser_reads_them(pack, host):
    from comfy.sd1_clip import escape_important, token_weights, unescape_important

    read_emphasis = pack.module("lidit_core.text.emphasis").read_emphasis
    draw, weighty = random.Random(17), 0
    for _ in range(5000):
        prompt = "".join(draw.choice(PIECES) for _ in range(draw.randint(0, 24)))
        theirs = token_weights(escape_important(prompt), 1.0)
        pieces = [(unescape_important(text), weight) for text, weight in theirs]
        ours = read_emphasis(prompt)
        assert ours.text == "".join(text for text, _ in pieces), prompt
        assert list(ours.weights) == [w for text, w in pieces for _ in text], prompt
        weighty += not ours.plain
    assert weighty > 500


@pytest.fixture(scope="module")
def reader(kit, tmp_path_factory):
    """A LI-DiT that reads two of the tiny LLMs, as a MODEL."""
    config = lidit_config("Llama", "Gemma3Text")
    path = tmp_path_factory.mktemp("reader") / "reader.safetensors"
    save_lidit(randomise(LiDiT(config), scale=0.2), config, path)
    return kit.model.load_model(path)


@pytest.fixture
def load(pack, host):
    save_llms(host)
    return fresh_loader(pack)


def encode(pack, clip, text, **options):
    return pack.run("LiDiTTextEncode", clip=clip, text=text, **options)


def test_it_is_off_and_a_weight_of_1_is_nothing(pack, load):
    clip = load()
    keys = pack.module("host.keys")
    (((_, off),), info) = encode(pack, clip, MARKED)
    assert keys.EMPHASIS not in off and "(word:1.3) is read as plain text" in info
    ((plain, _),) = encode(pack, clip, PLAIN)[0]
    for text in (PLAIN, "two cats and (a dog:1)", "(two cats:1) and a dog"):
        ((hidden, values),) = encode(pack, clip, text, emphasis=True)[0]
        assert torch.equal(hidden, plain) and keys.EMPHASIS not in values


def test_weights_lie_on_the_words_of_every_llm(kit, pack, load, reader, caplog):
    read = {}
    for family in ("Llama", "Gemma3Text"):
        clip = load(family)
        given, info = encode(pack, clip, MARKED, emphasis=True)
        ((_, values),) = given
        ((plain, _),) = encode(pack, clip, PLAIN)[0]
        assert torch.equal(hidden := values["lidit_hidden"]["0"], plain)
        weights = values[kit.keys.EMPHASIS]["0"]
        assert weights.shape == hidden.shape[:2]
        assert set(weights.unique().tolist()) >= {1.0, torch.tensor(1.6).item()}
        assert "weights of its tokens: 1, " in info and "plain text" not in info
        read[family] = given, encode(pack, clip, PLAIN)[0]
    assert "no effect" not in caplog.text
    (one, one_plain), (two, two_plain) = read.values()
    plain = kit.sample(reader, fuse(kit, one_plain, two_plain), two_plain)
    both = kit.sample(reader, fuse(kit, one, two), two_plain)
    assert not close(both, plain, 1e-3)
    assert not close(kit.sample(reader, fuse(kit, one, two_plain), two_plain), both, 1e-3)
    # weights of a prompt stay with it: as the negative one they do something else
    assert not close(kit.sample(reader, one_plain, one), kit.sample(reader, one, one_plain), 1e-3)


def test_weights_survive_saving_and_a_fusion(kit, pack, load, reader, host):
    one = encode(pack, load(), MARKED, emphasis=True)[0]
    two = encode(pack, load("Gemma3Text"), PLAIN)[0]
    duo = fuse(kit, one, two)
    assert list(duo[0][1][kit.keys.EMPHASIS]) == ["0"]
    pack.run("LiDiTSaveConditioning", conditioning=duo, filename_prefix="conditioning/weights")
    (path,) = (host.base / "output" / "conditioning").glob("weights_*")
    (again,) = pack.run("LiDiTLoadConditioning", file=f"conditioning/{path.name} [output]")
    expected = kit.sample(reader, duo, two)
    assert torch.equal(kit.sample(reader, again, two), expected)
    assert not close(
        kit.sample(reader, fuse(kit, two, one), two), kit.sample(reader, two, two), 1e-3
    )


@pytest.mark.parametrize("text", ["(two cats:1.3)", "((two cats))"])
def test_a_weight_over_the_whole_text_is_told(kit, pack, load, caplog, text):
    given, info = encode(pack, load(), text, emphasis=True)
    assert kit.keys.EMPHASIS not in given[0][1]
    assert "over the whole prompt has no effect" in info
    assert "over the whole prompt has no effect" in caplog.text


def test_a_weight_below_0_gets_one_sentence(pack, load):
    with pytest.raises(Exception, match="'a dog' the weight -1; expected 0"):
        encode(pack, load(), "two cats and (a dog:-1)", emphasis=True)


def test_a_multiplied_conditioning_is_told_with_any_number_of_llms(kit, model, caplog):
    if "ConditioningMultiply" not in kit.host.nodes.NODE_CLASS_MAPPINGS:
        pytest.skip("this ComfyUI has no ConditioningMultiply")
    duo = fuse(kit, kit.prompt(seed=1), kit.prompt("beta", seed=2))
    multiplied = kit.stock("ConditioningMultiply", conditioning=duo, multiplier=0.4)
    assert close(kit.sample(model, multiplied), kit.sample(model, duo), 1e-3)
    assert "multiplied the states of alpha by 0.4, which has no effect" in caplog.text
    assert "switch on emphasis in LI-DiT Text Encode" in caplog.text
