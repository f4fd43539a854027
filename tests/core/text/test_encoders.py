"""Encoders in an LLM's place. Run: pytest tests/core/text/test_encoders.py"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_llm import ENCODER_BLOCKS as BLOCKS
from tiny_llm import ENCODERS, WIDTH, save_encoder
from transformers import AutoModelForTextEncoding

from lidit_core.errors import LiDiTError
from lidit_core.llm.compat import can_reuse
from lidit_core.llm.decoder.build import decoder_blocks
from lidit_core.llm.loading import expected_bytes, load_llm, source_fingerprint
from lidit_core.llm.locate import available, locate, stated_width
from lidit_core.llm.writer import writer
from lidit_core.text.encoder import LLMEncoder
from lidit_core.text.prompt_encoder import PromptEncoder

PROMPTS = ["a red cat left of two dogs on a blue background", "", "two bees"]
LIMIT = 1e-5
MINILM = "all-MiniLM-L6-v2"


@pytest.fixture(scope="module", params=ENCODERS)
def folder(request, tmp_path_factory) -> Path:
    return save_encoder(tmp_path_factory.mktemp("encoder") / request.param, request.param)


@torch.no_grad()
def streams(folder: Path, ids: list[int]) -> tuple[list[torch.Tensor], list]:
    """What enters and leaves each block (L, C) of transformers' own whole model, and its blocks."""
    model = AutoModelForTextEncoding.from_pretrained(folder).float().eval()
    stack = model.encoder
    blocks = stack.block if hasattr(stack, "block") else stack.layer
    taken = []

    def take(_, args, out):
        states = out[0] if isinstance(out, tuple) else out
        taken.extend([args[0][0], states[0]] if not taken else [states[0]])

    hooks = [block.register_forward_hook(take) for block in blocks]
    model(input_ids=torch.tensor([ids]))
    for hook in hooks:
        hook.remove()
    return taken, list(blocks)


@torch.no_grad()
def token_alone(block, x: torch.Tensor) -> torch.Tensor:
    """The block on a text of this one token."""
    out = block(x[None, None], attention_mask=None)
    return (out[0] if isinstance(out, tuple) else out).flatten()


def literal(folder: Path, ids: list[int]) -> torch.Tensor:
    """block(x in context) - block(x alone), token by token, after x_0: (L, T + 1, C)."""
    taken, blocks = streams(folder, ids)
    states = [taken[0]]
    for block, before, after in zip(blocks, taken, taken[1:]):
        states.append(torch.stack([a - token_alone(block, b) for b, a in zip(before, after)]))
    return torch.stack(states, 1)


def close(ours: torch.Tensor, theirs: torch.Tensor) -> bool:
    return bool((ours - theirs).abs().max() <= LIMIT * theirs.abs().max())


@pytest.mark.parametrize("block", [1, -3, -1, (1, -2)])
def test_states_are_those_of_transformers_own_model(folder, block):
    """Alone and in a padded batch: nothing of a text is taken from another."""
    encoder = LLMEncoder(load_llm(folder, block, torch.float32), "short")
    batch = encoder.encode(PROMPTS)
    for row, prompt in enumerate(PROMPTS):
        ids = list(encoder.renderer(prompt).ids)
        taken, _ = streams(folder, ids)
        wanted = [taken[b if b > 0 else b + BLOCKS + 1] for b in encoder.llm.taps or (block,)]
        alone = encoder.encode([prompt]).hidden[0]
        for ours in (batch.hidden[row, : len(ids)], alone):
            assert close(ours, torch.cat(wanted, -1))


def test_differences_are_the_formulas_token_by_token(folder):
    llm = load_llm(folder, "differences", torch.float32)
    encoder = LLMEncoder(llm, "short")
    batch = encoder.encode(PROMPTS)
    for row, prompt in enumerate(PROMPTS):
        ids = list(encoder.renderer(prompt).ids)
        theirs = literal(folder, ids)
        assert theirs[:, 1:].norm(dim=-1).min() > 1e-3  # the first token sees the others too
        ours = batch.hidden[row, : len(ids)].unflatten(-1, (BLOCKS + 1, WIDTH))
        assert close(ours, theirs)
        assert (batch.hidden[row, len(ids) :] == 0).all()
    every = LLMEncoder(load_llm(folder, "all", torch.float32), "short", differences=True)
    assert torch.equal(every.encode(PROMPTS).hidden, batch.hidden)


def test_a_text_begins_and_ends_as_its_tokenizer_has_it(folder):
    encoder = LLMEncoder(load_llm(folder, -1, torch.float32), "none")
    for prompt in PROMPTS:
        assert list(encoder.renderer(prompt).ids) == encoder.llm.tokenizer(prompt)["input_ids"]
    cut = LLMEncoder(encoder.llm, "none", token_budget=2)
    end = encoder.llm.tokenizer("")["input_ids"][-1]
    assert cut.renderer(PROMPTS[0]).ids[-1] == end and cut.renderer(PROMPTS[0]).used == 2
    assert not can_reuse(encoder.llm.module, 8)


@pytest.mark.parametrize("block", [-2, "differences"])
def test_read_one_block_at_a_time(folder, block):
    whole = load_llm(folder, block, torch.float32)
    parts = load_llm(folder, block, torch.float32, one_block=True)
    expected = LLMEncoder(whole, "short").encode(PROMPTS).hidden
    assert close(LLMEncoder(parts, "short").encode(PROMPTS).hidden, expected)
    filled = [not next(block.parameters()).is_meta for block in decoder_blocks(parts.module)]
    assert filled.count(True) == 1
    assert parts.fingerprint == whole.fingerprint == source_fingerprint(folder) != ""


def test_what_is_known_of_it_before_it_is_loaded(folder):
    llm = load_llm(folder, -2, torch.float32)
    assert llm.blocks == BLOCKS - 1 and stated_width(locate(folder)) == llm.width == WIDTH
    held = sum(p.numel() * 4 for p in llm.module.parameters())
    assert held <= expected_bytes(folder, -2, torch.float32) <= 1.2 * held
    other = save_encoder(folder.parent / "other", folder.name, seed=1)
    assert source_fingerprint(other) != llm.fingerprint


def test_cached_apart_by_what_is_read(folder, tmp_path):
    readers = [PromptEncoder(folder, "short", b, disk_cache=tmp_path) for b in ("differences", -1)]
    first, second = (reader.encode(["two bees"]).hidden for reader in readers)
    assert first.shape[-1] == WIDTH * (BLOCKS + 1) and second.shape[-1] == WIDTH
    again = PromptEncoder(folder, "short", "differences", disk_cache=tmp_path)
    assert torch.equal(again.encode(["two bees"]).hidden, first) and not again.loaded


def test_an_encoder_writes_no_text(folder):
    llm = load_llm(folder, -1, torch.float32)
    with pytest.raises(LiDiTError, match="has no class that writes text; choose an LLM"):
        with writer(llm, folder):
            pass


@pytest.mark.parametrize("kind", ["Bert", "T5"])
def test_files_that_lack_a_tensor_are_one_sentence(kind, tmp_path):
    folder = save_encoder(tmp_path / kind, kind)
    path = folder / "model.safetensors"
    left = load_file(path)
    gone = next(name for name in left if "encoder" in name and "1" in name)
    save_file({k: v for k, v in left.items() if k != gone}, path, {"format": "pt"})
    with pytest.raises(LiDiTError, match="lacks 1 tensors, the first"):
        load_llm(folder, -1)


@pytest.mark.llm
def test_minilm(tmp_path):
    """The real one: its states are transformers' own, its differences the formulas."""
    if not available(MINILM):
        pytest.skip(f"{MINILM} is not on this machine; docs/llmdiff.md says where to get it")
    folder = locate(MINILM).folder
    for block in (-1, "differences"):
        encoder = LLMEncoder(load_llm(MINILM, block, torch.float32), "none")
        ids = list(encoder.renderer("two bees").ids)
        ours = encoder.encode(["two bees"]).hidden[0]
        if block == -1:
            assert close(ours, streams(folder, ids)[0][-1])
        else:
            assert close(ours.unflatten(-1, (7, 384)), literal(folder, ids))
