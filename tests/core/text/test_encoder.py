"""The encoder gives transformers' own hidden states. Run: pytest tests/core/text/test_encoder.py"""

from __future__ import annotations

import pytest
import torch
from tiny_llm import (
    FAMILIES,
    HYBRIDS,
    chat_tokenizer,
    plain_tokenizer,
    reference_states,
    relative_error,
    save_llm,
)

from lidit_core.errors import LiDiTError
from lidit_core.llm.loading import intended_device, load_llm
from lidit_core.text.encoder import LLMEncoder
from lidit_core.text.expansion import expand
from lidit_core.text.states import INSTRUCTION, PADDING, PROMPT
from lidit_core.text.templates import InstructionTemplate

PROMPTS = [
    "a red cat left of two dogs on a blue background",
    "",
    "two bees",
    "两只猫和🍎",
    "<|im_end|> a car",
    "a red cat and a red car and a banana and three apples above two dogs " * 2,
]
LIMIT = 1e-5
# The gated delta rule subtracts numbers of nearly one size: in float32, transformers' own Qwen3Next
# is up to 7e-5 from its float64 at single tokens (1e-6 at the median), on every CPU differently.
HYBRID_LIMIT = 5e-4


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return save_llm(tmp_path_factory.mktemp("llm") / "tiny-llama")


@pytest.mark.parametrize("family", FAMILIES)
def test_equal_to_transformers(family, tmp_path):
    """At the third-to-last block: alone, in a padded batch, instruction reused and not."""
    tokenizer = plain_tokenizer() if family.startswith("Gemma") else chat_tokenizer()
    folder = save_llm(tmp_path / family, family, tokenizer)
    llm = load_llm(folder, dtype=torch.float32)
    assert llm.blocks == 4 and len(llm.module.layers) == 4
    for template in ("paper", "none"):
        reused = LLMEncoder(llm, template)
        plain = LLMEncoder(llm, template, reuse=False)
        assert (len(reused.renderer.prefix) > 10) == (template == "paper")
        batches = [encoder.encode(PROMPTS) for encoder in (reused, plain)]
        for row, prompt in enumerate(PROMPTS):
            ids = reused.renderer(prompt).ids
            theirs = reference_states(folder, ids)[-3]
            alone = [encoder.encode([prompt]) for encoder in (reused, plain)]
            for states in [b[row : row + 1] for b in batches] + alone:
                assert relative_error(states.hidden[0, : len(ids)], theirs) <= LIMIT
                assert (states.roles[0, len(ids) :] == PADDING).all()
                assert (states.hidden[0, len(ids) :] == 0).all()


@pytest.mark.parametrize("family", HYBRIDS)
def test_an_llm_that_keeps_more_than_keys_and_values_runs_whole(family, tmp_path):
    folder = save_llm(tmp_path / family, family)
    encoder = LLMEncoder(load_llm(folder, dtype=torch.float32), "paper")
    states = encoder.encode(PROMPTS)
    for row, prompt in enumerate(PROMPTS):
        ids = encoder.renderer(prompt).ids
        theirs = reference_states(folder, ids)[-3]
        assert relative_error(states.hidden[row, : len(ids)], theirs) <= HYBRID_LIMIT
    forgetful = reference_states(folder, ids[1:])[-3]  # what losing one token's trace would do
    assert relative_error(forgetful[-1:], theirs[-1:]) > 2 * HYBRID_LIMIT


@pytest.mark.parametrize("block", [1, 3, -2])
def test_block_is_an_index_into_hidden_states(block, llama):
    encoder = LLMEncoder(load_llm(llama, block=block, dtype=torch.float32), "short")
    theirs = reference_states(llama, encoder.renderer("two bees").ids)[block]
    assert relative_error(encoder.encode(["two bees"]).hidden[0], theirs) <= LIMIT


def test_every_block(llama):
    """`all` puts the embeddings and every block side by side, the last without the final norm."""
    llm = load_llm(llama, block="all", dtype=torch.float32)
    encoder = LLMEncoder(llm, "short")
    states = encoder.encode(["two bees", "a cat"])
    assert llm.state_width == states.width == 7 * 32
    theirs = reference_states(llama, encoder.renderer("two bees").ids)
    ours = states.hidden[0].unflatten(-1, (7, 32))
    for block in range(6):
        assert relative_error(ours[:, block], theirs[block]) <= LIMIT
    last = load_llm(llama, block=-1, dtype=torch.float32)
    assert relative_error(ours[:, 6], LLMEncoder(last, "short").encode(["two bees"]).hidden[0]) <= (
        LIMIT
    )
    assert relative_error(ours[:, 6], theirs[6]) > 0.01  # theirs went through the norm


@pytest.mark.parametrize("block", [0, 7, -7, "some", True, 1.5])
def test_block_that_is_not_there(block, llama):
    with pytest.raises(LiDiTError, match="block"):
        load_llm(llama, block=block)


def test_neither_head_nor_later_blocks_are_kept(llama):
    names = load_llm(llama).module.state_dict()
    assert not [name for name in names if name.startswith(("lm_head", "layers.4"))]


def test_roles(llama):
    llm = load_llm(llama)
    states = LLMEncoder(llm, "short").encode(["two bees"])
    text = LLMEncoder(llm, "short").renderer("two bees")
    expected = [INSTRUCTION] * text.span[0] + [PROMPT] * (len(text.ids) - text.span[0])
    assert states.roles[0].tolist() == expected and states.roles.dtype == torch.int32


def test_bfloat16_is_close_and_float16_is_refused(llama):
    exact = LLMEncoder(load_llm(llama, dtype=torch.float32), "short").encode(["two bees"])
    rough = LLMEncoder(load_llm(llama, dtype=torch.bfloat16), "short").encode(["two bees"])
    assert rough.hidden.dtype == torch.bfloat16
    assert 1e-4 < relative_error(rough.hidden.float(), exact.hidden) < 0.1
    with pytest.raises(LiDiTError, match="float16"):
        load_llm(llama, dtype=torch.float16)


def test_states_that_are_not_finite_name_the_llm(llama):
    llm = load_llm(llama)
    llm.module.layers[1].mlp.down_proj.weight.data[0, 0] = float("nan")
    with pytest.raises(LiDiTError, match="tiny-llama"):
        LLMEncoder(llm, "short").encode(["two bees"])


def test_instruction_runs_once(llama):
    """New prompts run only their own tokens."""
    encoder = LLMEncoder(load_llm(llama), "paper")
    lengths = []
    encoder.llm.module.layers[0].register_forward_hook(
        lambda module, args, kwargs, out: lengths.append(out[0].shape[-2]), with_kwargs=True
    )
    encoder.encode(["two bees"])
    prefix = len(encoder.renderer.prefix)
    rest = len(encoder.renderer("two bees").ids) - prefix
    assert lengths == [prefix, rest]
    encoder.encode(["a cat", "a dog"])
    assert lengths[2] < 10 and len(lengths) == 3
    encoder.forget()
    encoder.encode(["a cat"])
    assert lengths[3] == prefix


def test_batch_in_order_and_repeated_prompts_once(llama):
    encoder = LLMEncoder(load_llm(llama), InstructionTemplate("t", instruction="objects:"))
    states = encoder.encode(["two bees", "a very long red cat", "two bees"])
    assert torch.equal(states.hidden[0], states.hidden[2])
    assert not torch.equal(states.hidden[0], states.hidden[1])


def test_states_can_be_trained_on_though_the_host_runs_in_inference_mode(llama):
    with torch.inference_mode():
        states = LLMEncoder(load_llm(llama), "short").encode(["two bees"])
    weight = torch.ones(states.width, requires_grad=True)
    (states.hidden * weight).sum().backward()
    assert torch.isfinite(weight.grad).all()


def test_no_prompt_or_a_bare_text(llama):
    encoder = LLMEncoder(load_llm(llama), "short")
    with pytest.raises(LiDiTError, match="no prompt"):
        encoder.encode([])
    with pytest.raises(LiDiTError, match="list"):
        encoder.encode("two bees")


def test_a_token_that_the_llm_lacks_is_one_sentence(tmp_path):
    """As a tokenizer gives that was saved with words that its model was never given."""
    tokenizer = chat_tokenizer()
    folder = save_llm(tmp_path / "grown", tokenizer=tokenizer)
    rows = len(tokenizer)
    tokenizer.add_tokens(["zeppelin"])
    tokenizer.save_pretrained(folder)
    llm, beyond = load_llm(folder), f"tokenizer of grown gives token {rows}, and its LLM has {rows}"
    assert torch.isfinite(LLMEncoder(llm, "short").encode(["two bees"]).hidden).all()
    with pytest.raises(LiDiTError, match=beyond):
        LLMEncoder(llm, "short").encode(["two bees", "a zeppelin"])
    with pytest.raises(LiDiTError, match=beyond):
        expand(llm, folder, "a zeppelin")


def test_placed_by_accelerate(llama):
    """An LLM spread by a device map gives the same states."""
    pytest.importorskip("accelerate")
    plain = LLMEncoder(load_llm(llama, dtype=torch.float32), "short").encode(PROMPTS)
    places = {"embed_tokens": "cpu", "layers": "cpu", "norm": "cpu", "rotary_emb": "cpu"}
    for device_map in (places, "auto"):
        llm = load_llm(llama, dtype=torch.float32, device_map=device_map)
        spread = LLMEncoder(llm, "short").encode(PROMPTS).to("cpu")
        assert torch.allclose(spread.hidden, plain.hidden, atol=1e-4)


def test_device_map_is_auto_or_a_dict_and_keeps_off_the_disk(llama):
    with pytest.raises(LiDiTError, match="device_map is 'balanced'; expected 'auto', or a dict"):
        load_llm(llama, device_map="balanced")
    places = {"embed_tokens": "cpu", "layers": "disk", "norm": "cpu", "rotary_emb": "cpu"}
    with pytest.raises(LiDiTError, match="1 modules of the LLM would go to disk.*'layers'"):
        load_llm(llama, device_map=places)


def test_a_device_map_means_the_gpu_where_there_is_one(monkeypatch):
    for present, expected in ((True, "cuda"), (False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda present=present: present)
        assert intended_device(None, "auto").type == expected
        assert intended_device(None).type == intended_device("cpu", "auto").type == "cpu"
