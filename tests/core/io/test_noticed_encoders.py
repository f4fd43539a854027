"""What recordings notice of an encoder: another one beside an attention sink, and overflow.

Run: pytest tests/core/io/test_noticed_encoders.py
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_llm import plain_tokenizer, save_encoder, save_llm
from transformers import AutoTokenizer, T5EncoderModel

from lidit_core.bridge.recorded import ALIKE as OF_EMPTY
from lidit_core.bridge.ridge import Statistics, Sums
from lidit_core.errors import LiDiTError
from lidit_core.io.conditioning import distance, strange_numbers
from lidit_core.io.recording import ALIKE, PROBED, record
from lidit_core.text.prompt_encoder import PromptEncoder

PROMPTS = [f"{n} red cats" for n in range(70)]
INF, NAN = float("inf"), float("nan")


def rows(seed: int = 0, count: int = 20) -> torch.Tensor:
    return torch.randn(1, count, 64, generator=torch.Generator().manual_seed(seed))


def with_sink(others: torch.Tensor, length: float = 24792.0) -> torch.Tensor:
    """The rows of SmolLM2's size behind one of the length that its first has at block -3."""
    first = torch.nn.functional.normalize(rows(9, 1), dim=-1) * length
    return torch.cat([first, others / others.norm(dim=-1, keepdim=True) * 600], dim=1)


@pytest.mark.parametrize("share", [0.02, 0.07, 0.3])
def test_rows_that_changed_are_seen_beside_a_sink(share):
    before = rows()
    after = before + share * before.norm(dim=-1, keepdim=True) * torch.nn.functional.normalize(
        rows(1), dim=-1
    )
    far = distance((with_sink(before), {}), (with_sink(after), {}))
    assert far == pytest.approx(share, rel=0.1)
    assert far > ALIKE and (far > OF_EMPTY) == (share > OF_EMPTY)


def test_a_change_of_the_whole_is_seen_as_before():
    """What the relative distance of the whole shows, a row by row mean may not."""
    before = with_sink(rows())
    after = before.clone()
    after[:, 0] *= 1.02  # of the sink alone
    assert distance((before, {}), (after, {})) == pytest.approx(0.02, rel=0.05)
    assert distance((before, {}), (before, {})) == 0


def test_rounding_is_no_change():
    """Not of short rows either, nor of those that are filled up with zeros."""
    before = with_sink(rows())
    before[:, 3] *= 1e-3
    before[:, 10:] = 0
    noise = 1e-3 * 600 * torch.nn.functional.normalize(rows(2, 21), dim=-1)
    noise[:, 10:] = 0
    assert distance((before, {}), (before + noise, {})) < ALIKE
    assert distance((before, {}), (before.to(torch.bfloat16), {})) < ALIKE
    nothing = torch.zeros(1, 4, 8)
    assert distance((nothing, {}), (nothing, {})) == 0
    assert distance((nothing, {}), (nothing + 1, {})) > 1


@pytest.mark.parametrize("number", [NAN, INF, -INF])
def test_what_is_not_finite_is_far_from_everything(number):
    fine, odd = rows(), rows()
    odd[0, 3, 3] = number
    for pair in ((fine, odd), (odd, fine), (odd, odd)):
        assert distance(*((x, {}) for x in pair)) == INF
        assert distance(*((fine, {"pooled_output": x[0, 3:4]}) for x in pair)) == INF
    assert strange_numbers((fine, {})) == 0
    assert strange_numbers((odd, {"states": [{"0": odd}], "mask": torch.ones(1, 3).long()})) == 2


def encoder_of(folder: Path):
    """What a tiny LLM makes of prompts, as `lidit record` reads it; nothing is cached."""
    reader = PromptEncoder(folder, "none", -3, 64)

    def encode(text: str):
        reader.caches.memory.clear()
        return [(reader.encode_rows([text])[0].hidden[None], {})]

    return encode, reader


def test_another_llm_behind_an_attention_sink_is_noticed(tmp_path):
    """As a LoRA that leaves the first row alone; the whole's distance is far below the limit."""
    encode, reader = encoder_of(save_llm(tmp_path / "llm", tokenizer=plain_tokenizer()))
    module = reader.encoder().llm.module
    with torch.no_grad():
        module.embed_tokens.weight[1] *= 10000  # of the start token
    before = [encode(text)[0] for text in PROBED]
    record(encode, PROMPTS, tmp_path / "recording")
    record(encode, PROMPTS, tmp_path / "recording")
    lengths = before[1][0][0].norm(dim=-1)
    assert lengths[0] > 30 * lengths[1:].max()
    with torch.no_grad():
        for layer in module.layers:
            for map_ in (layer.self_attn.v_proj, layer.mlp.down_proj):
                map_.weight += 0.2 * map_.weight.std() * torch.randn_like(map_.weight)
    after = [encode(text)[0] for text in PROBED]
    for (one, _), (other, _) in zip(before, after):
        assert (one - other).norm() / one.norm() < ALIKE
    with pytest.raises(LiDiTError, match="is not the one that .* was begun with"):
        record(encode, PROMPTS, tmp_path / "recording")


def t5_of(folder: Path, dtype: torch.dtype):
    """A tiny T5 whose states float16 does not hold, as those of T5-XXL."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = T5EncoderModel.from_pretrained(folder).eval()
    with torch.no_grad():
        model.encoder.block[1].layer[1].DenseReluDense.wo.weight *= 1e6
    model.to(dtype)

    @torch.no_grad()
    def encode(text: str):
        ids = tokenizer(text, return_tensors="pt").input_ids
        return [(model(input_ids=ids).last_hidden_state, {})]

    return encode


def test_an_encoder_that_overflows_is_refused_and_leaves_a_recording_as_it_is(tmp_path):
    folder, out = save_encoder(tmp_path / "t5", "T5"), tmp_path / "recording"
    of_bf16, of_fp16 = (t5_of(folder, dtype) for dtype in (torch.bfloat16, torch.float16))
    sentence = "gives [0-9]+ numbers of prompt '.*' that are not finite; .* in another dtype"
    with pytest.raises(LiDiTError, match=sentence):
        record(of_fp16, PROMPTS, out)
    assert not out.exists() or list(out.iterdir()) == []

    def stopped(text: str):
        if text == PROMPTS[-1]:
            raise KeyboardInterrupt
        return of_bf16(text)

    with pytest.raises(KeyboardInterrupt):
        record(stopped, PROMPTS, out)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    with pytest.raises(LiDiTError, match=sentence):
        record(of_fp16, PROMPTS, out)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    record(of_bf16, PROMPTS, out)


def test_one_prompt_that_is_not_finite_is_named_and_its_shard_not_written(tmp_path):
    def encode(text: str):
        pooled = torch.tensor([[NAN if text == PROMPTS[66] else 1.0, 2.0]])
        return [(rows(), {"pooled_output": pooled})]

    with pytest.raises(LiDiTError, match=f"gives 1 numbers of prompt '{PROMPTS[66]}'"):
        record(encode, PROMPTS, tmp_path)
    assert sorted(path.name for path in tmp_path.glob("0*")) == ["00000.safetensors"]


def test_what_is_learnt_from_is_finite():
    """A recording of before may hold other numbers."""
    x, groups = rows()[0], torch.zeros(20, dtype=torch.int64)
    odd = x.clone()
    odd[2, 2] = NAN
    with pytest.raises(LiDiTError, match="means and deviations .* 1 numbers that are not finite"):
        Statistics(64, 1).add(odd, groups)
    for pair in ((x, odd), (odd, x)):
        with pytest.raises(LiDiTError, match="a ridge is solved from holds 1 numbers"):
            Sums(64, 64, 1).add(*pair, groups)
