"""Adapters of each form, on decoders and encoders. Run: pytest tests/host/llmdiff"""

from __future__ import annotations

import pytest
import torch
from clip_kit import PROMPT, fresh_loader, save_llms
from llmdiff_kit import DiffKit, adapter_config, distance, random_adapter
from tiny_llm import save_encoder

from lidit_core.llmdiff.config import block_of
from lidit_core.llmdiff.file import write_adapter
from lidit_core.text.spec import LLMSpec
from lidit_core.text.templates import find_template

LLMS = {"Llama": 6, "Bert": 4, "T5": 4}  # and their blocks
WIDTH = 32
EXPANDS = {"edited": "", "expand": True, "seed": 0, "instruction": "", "max_tokens": 8,
           "temperature": 0.0, "top_p": 1.0}  # fmt: skip
LAYERS = {"last": "-1", "direct": "all", "consecutive": "all"}


@pytest.fixture(scope="module")
def kit(pack, host, tmp_path_factory) -> DiffKit:
    """An adapter of each form for each LLM."""
    save_llms(host)
    for kind in ("Bert", "T5"):
        folder = host.base / "models" / "llm" / "tiny" / kind
        if not folder.is_dir():
            save_encoder(folder, kind)
    path = host.base / "models" / "llmdiff" / "forms"
    path.mkdir(parents=True, exist_ok=True)
    for llm, blocks in LLMS.items():
        for form in LAYERS:
            spec = LLMSpec(llm, WIDTH, block_of(form), find_template("short"), 96)
            config = adapter_config(llm=spec, blocks=blocks, form=form)
            write_adapter(path / f"{llm} {form}.safetensors", random_adapter(config).state_dict(),
                          config)  # fmt: skip
    return DiffKit(pack, host, tmp_path_factory.mktemp("forms"))


@pytest.fixture
def load(kit, pack):
    return fresh_loader(pack)


@pytest.fixture(scope="module")
def model(kit):
    return kit.unet()


def encode(pack, clip, text=PROMPT) -> list:
    return pack.run("LLMDiffEncode", clip=clip, text=text, base="SD1.5")[0]


def apply(pack, model, llm: str, form: str, mode: str = "replace"):
    inputs = {"adapter_name": f"forms/{llm} {form}.safetensors", "mode": mode, "strength": 1.0}
    return pack.run("LLMDiffApply", model=model, **inputs, start_percent=0.0, end_percent=1.0)[0]


@pytest.mark.parametrize("form", LAYERS)
@pytest.mark.parametrize("llm", LLMS)
def test_from_prompt_to_picture(pack, load, kit, model, llm, form):
    """What the node gives is what the library reads, and the picture follows the prompt."""
    from lidit_core.llm.loading import load_llm
    from lidit_core.text.encoder import LLMEncoder

    clip = load(llm, layer=LAYERS[form])
    prompt = encode(pack, clip)
    source = load_llm(clip.cond_stage_model.settings.source, block_of(form), torch.float32)
    (row,) = LLMEncoder(source, "short", 96).encode_rows([PROMPT])
    assert distance(prompt[0][1]["llmdiff_states"]["0"][0], row.hidden) < 1e-5
    for mode in ("add", "replace"):
        changed = apply(pack, model, llm, form, mode)
        a, b = (kit.sample(changed, p) for p in (prompt, encode(pack, clip, "a dog")))
        assert torch.isfinite(a).all() and distance(a, b) > 1e-4


@pytest.mark.parametrize("form", LAYERS)
def test_a_reading_at_another_layer_names_the_layer_to_set(pack, load, kit, model, form):
    other = "all" if LAYERS[form] == "-1" else "-1"
    wrong, right = (encode(pack, load(layer=layer)) for layer in (other, LAYERS[form]))
    changed = apply(pack, model, "Llama", form)
    with pytest.raises(ValueError, match=f"layer to {LAYERS[form]}") as told:
        kit.sample(changed, wrong)
    assert "\n" not in str(told.value) and f"the form {form}" in str(told.value)
    assert torch.isfinite(kit.sample(changed, right)).all()


def test_other_layers_are_refused_when_they_are_encoded(pack, load):
    with pytest.raises(ValueError, match="'s layer to 'all', or to -1 for an adapter of the form"):
        encode(pack, load(layer="-3"))


@pytest.mark.parametrize("kind", ["Bert", "T5"])
def test_an_encoder_serves_any_text_encode_node_and_writes_no_text(pack, load, kind):
    clip = load(kind, layer="-1")
    with torch.inference_mode():
        states = clip.encode_from_tokens(clip.tokenize(PROMPT))
    assert states.shape[-1] == WIDTH and torch.isfinite(states).all()
    with pytest.raises(ValueError, match="choose an LLM that was tuned for chat"):
        pack.run("LiDiTExpandPrompt", clip=clip, text="a cat", **EXPANDS)
