"""A linear probe of what LLMs understood. Run: pytest tests/stickers/test_probe.py"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_llm import save_encoder, save_llm

from lidit_core.errors import LiDiTError
from lidit_core.llm.loading import load_llm
from lidit_core.text.encoder import LLMEncoder
from lidit_core.text.states import PROMPT
from lidit_stickers.evaluation import evaluation_prompts
from lidit_stickers.llm_copies import RANDOM
from lidit_stickers.probe.__main__ import main
from lidit_stickers.probe.facts import (
    COLOURS,
    FACTS,
    KIND_NAMES,
    ORDERS,
    asked,
    first,
    kinds,
    learnt,
    numbers,
)
from lidit_stickers.probe.readings import (
    GEMMA,
    MINILM,
    READINGS,
    SMOLLM2,
    bag_of_words,
    mean_states,
)
from lidit_stickers.probe.ridge import Probe

ROOT = Path(__file__).resolve().parents[2]
FEW = ["--captions", "120", "--every", "60"]


def test_facts_are_what_a_caption_asks_for():
    by_text = {c.text: c for c in evaluation_prompts()}
    bus = by_text["A bus to the left of a lemon on a purple background."]
    order = first(bus)
    assert order is not None and numbers(bus) is None
    assert KIND_NAMES[int(order.argmax())] == "bus" and KIND_NAMES[int(order.argmin())] == "lemon"
    assert {KIND_NAMES[i] for i in kinds(bus).nonzero().flatten()} == {"bus", "lemon"}
    owls = numbers(by_text["three owls"])
    assert owls is not None and int(owls.argmax()) + 1 == 3 and first(by_text["three owls"]) is None
    (said,) = [f.target(by_text["a blue background with a red key"]) for f in FACTS[2:3]]
    assert said is not None and [COLOURS[i] for i in said.nonzero().flatten()] == ["red"]


def test_a_probe_finds_what_is_there_and_nothing_where_nothing_is():
    """Features that hold a caption's facts on a line, and features that are noise."""
    known, asked = learnt(400), evaluation_prompts()[::6]
    make = torch.Generator().manual_seed(0)
    mixing = {fact.name: torch.randn(64, 200, generator=make) for fact in FACTS}
    for fact in FACTS:

        def told(captions, fact=fact):
            targets = [fact.target(c) for c in captions]
            rows = [torch.zeros(64) if t is None else t for t in targets]
            rows = torch.stack([torch.nn.functional.pad(r, (0, 64 - len(r))) for r in rows])
            return rows @ mixing[fact.name] + 0.1 * torch.randn(len(rows), 200, generator=make)

        share = Probe(fact, known, told(known)).share(asked, told(asked))
        assert share is not None and share.mean > 0.9, fact.name
        noise = [torch.randn(len(c), 200, generator=make) for c in (known, asked)]
        blind = Probe(fact, known, noise[0]).share(asked, noise[1])
        assert blind is not None and blind.mean < 0.75, fact.name


def test_words_without_their_order_tell_half_of_what_stands_first():
    """Whichever kinds the captions of training happen to name first."""
    known, pairs = learnt(300), asked(4)[ORDERS]
    assert len(pairs) == 90
    for one, other in zip(pairs[::2], pairs[1::2]):
        assert torch.equal(first(one), -first(other)) and one.text != other.text
    texts = [caption.text for caption in known + pairs]
    words = bag_of_words(texts[:300], texts).split([300, 90])
    (fact,) = [fact for fact in FACTS if fact.name == "what stands first"]
    share = Probe(fact, known, words[0]).share(pairs, words[1])
    assert share is not None and share.right == 45


def test_a_mean_state_is_that_of_the_block_over_the_prompts_tokens(tmp_path):
    folder = save_llm(tmp_path / "llm", num_hidden_layers=22)
    readings = [r for r in READINGS if r.llm == SMOLLM2]
    texts = ["a red cat", "two bees on a blue background"]
    found = mean_states(readings, texts, {SMOLLM2: str(folder)})
    for reading in readings[1:]:  # the embeddings are no block
        encoder = LLMEncoder(load_llm(folder, reading.block, torch.float32), "none")
        for row, text in enumerate(texts):
            (states,) = encoder.encode_rows([text])
            mean = states.hidden[states.roles == PROMPT].mean(0)
            torch.testing.assert_close(found[reading.name][row], mean, rtol=1e-4, atol=1e-4)


def test_the_command_in_its_smallest_form(tmp_path, capsys):
    llms = []
    for name, make in ((SMOLLM2, save_llm), (GEMMA, save_llm), (MINILM, save_encoder)):
        depth = {"num_hidden_layers": 22} if name == SMOLLM2 else {}
        llms += ["--llm", f"{name}={make(tmp_path / name, **depth)}"]
    runs = {reading.name: {"gaps": [[0.1]]} for reading in READINGS}
    runs |= {"gemma": {"gaps": [[0.25, 0.75]]}, "random": {"gaps": [[0.5], [1.0]]}}
    gaps = {"runs": runs, "trunk_sha256": "0123456789abcdef"}
    (tmp_path / "ablation.json").write_text(json.dumps(gaps))
    told = ["--gaps", str(tmp_path / "ablation.json")]
    main(["--out", str(tmp_path / "out"), *FEW, *llms, *told])
    report = (tmp_path / "out" / "probe.md").read_text()
    assert capsys.readouterr().out == report
    assert all(f"| {reading.says} |" in report for reading in READINGS)
    (gemma,) = [line for line in report.splitlines() if "Gemma" in line]
    assert gemma.endswith("| 0.50000 |")
    (random,) = [line for line in report.splitlines() if "random weights" in line]
    assert random.endswith("| 0.75000 |")
    copied = tmp_path / "out" / RANDOM  # of the LLM that was named
    assert load_llm(copied, -1, torch.float32).blocks == 22
    assert "forked from 0123456789ab." in report
    made = json.loads((tmp_path / "out" / "probe.json").read_text())
    words = made["readings"][0]["found"]["held-out combinations"]["kinds"]
    assert words["count"] == 18 and made["record"]["llms"][MINILM]
    main(["--out", str(tmp_path / "again"), *FEW, *llms, *told])
    assert (tmp_path / "again" / "probe.json").read_text() == json.dumps(made, indent=1) + "\n"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--captions", "3"], "--captions is 3; expected 100 or more"),
        (["--every", "0"], "--every is 0"),
        (["--llm", "x"], "of no LLM that is read here; expected NAME=SOURCE"),
        (["--gaps", "nowhere.json"], "--gaps nowhere.json cannot be read"),
    ],
)
def test_a_mistake_is_one_sentence(tmp_path, words, told):
    with pytest.raises(LiDiTError, match=told) as caught:
        main(["--out", str(tmp_path), *words])
    assert "\n" not in str(caught.value)


def test_gaps_of_another_ablation_are_refused(tmp_path):
    """Such as recipes/ablate.yaml's, whose `gemma` and `minilm` have a refiner."""
    told = {"runs": {name: {"gaps": [[0.5]]} for name in ("gemma", "minilm", "plain-none")}}
    (tmp_path / "ablation.json").write_text(json.dumps(told))
    words = ["--readings", "gemma", "minilm", "--gaps", str(tmp_path / "ablation.json")]
    with pytest.raises(LiDiTError, match="has no variant bag-of-words, random, .*readings.yaml"):
        main(["--out", str(tmp_path / "out"), *words])
    assert not (tmp_path / "out").exists()


def test_too_shallow_an_llm_is_one_sentence(tmp_path):
    folder = save_llm(tmp_path / "llm")
    with pytest.raises(LiDiTError, match="reading block-10 is of block 10, and llm has 6"):
        main(["--out", str(tmp_path), *FEW, "--llm", f"{SMOLLM2}={folder}"])


def test_it_starts_as_people_type_it():
    command = [sys.executable, "-m", "lidit_stickers.probe", "--help"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "python -m lidit_stickers.probe --out runs/probe" in ended.stdout
