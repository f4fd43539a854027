"""The LLM as the host's CLIP: what is encoded with it. Run: see conftest.py"""

from __future__ import annotations

import io
import re

import pytest
import torch
from clip_kit import FAMILIES, PROMPT, PROMPTS, find_smollm2, fresh_loader, save_llms, states
from conftest import wait_for

from lidit_core.paths import SHIPPED_WEIGHTS
from lidit_core.text.prompt_encoder import PromptEncoder

STICKERS_VAE = SHIPPED_WEIGHTS / "stickers-vae.safetensors"


@pytest.fixture(scope="module")
def llms(host):
    return save_llms(host)


@pytest.fixture
def load(pack, llms):
    return fresh_loader(pack)


@pytest.fixture
def smollm2():
    return find_smollm2()


@pytest.fixture
def error(pack):
    """The pack's own class: it is not that of `import lidit_core`."""
    return pack.module("lidit_core.errors").LiDiTError


@pytest.mark.parametrize("family", FAMILIES)
def test_states_equal_the_library(pack, load, llms, family):
    clip, library = load(family), PromptEncoder(llms[family], "short", -3, 96, torch.float32)
    for prompt in PROMPTS:
        ((hidden, values),) = pack.run("LiDiTTextEncode", clip=clip, text=prompt)[0]
        expected = library.encode([prompt])
        assert torch.equal(hidden, expected.hidden)
        assert torch.equal(values["lidit_hidden"]["0"], expected.hidden)
        assert torch.equal(values["lidit_roles"]["0"], expected.roles)
        assert values["lidit_llm"] == {"0": family}


@pytest.mark.llm
def test_states_of_a_real_llm_equal_the_library(load, smollm2):
    clip, library = load(smollm2), PromptEncoder(smollm2, "short", -3, 96, torch.float32)
    for prompt in PROMPTS:
        assert torch.equal(states(clip, prompt), library.encode([prompt]).hidden)


def test_every_block(load):
    assert states(load(layer="all")).shape[2] == 7 * 32  # the embeddings and 6 blocks


def test_stock_nodes_encode_with_it(host, pack, load):
    clip = load()
    ours = pack.run("LiDiTTextEncode", clip=clip, text=PROMPT)[0]
    with torch.inference_mode():
        (stock,) = host.nodes.CLIPTextEncode().encode(clip, PROMPT)
    assert torch.equal(stock[0][0], ours[0][0]) and stock[0][1].keys() == ours[0][1].keys()
    pooled = stock[0][1]["pooled_output"]
    torch.testing.assert_close(pooled, stock[0][0].mean(1))
    assert pooled.shape == (1, 32) and pooled.dtype == torch.float32
    text = pack.module("host.lidit.conditioning").text_of(*stock[0])
    assert text.branches[0].llm == "Llama"


def test_the_hosts_training_data_set_is_made_with_it(load):
    import comfy.sd
    import comfy.utils

    reason = "this host has no MakeTrainingDataset"
    nodes_dataset = pytest.importorskip("comfy_extras.nodes_dataset", reason=reason)
    vae = comfy.sd.VAE(sd=comfy.utils.load_torch_file(str(STICKERS_VAE)))
    clip, pictures = load(), [torch.rand(1, 64, 64, 3) for _ in range(2)]
    with torch.inference_mode():
        made = nodes_dataset.MakeTrainingDataset.execute(pictures, [vae], [clip], PROMPTS[:2])
    latents, entries = made.args
    assert len(latents) == len(entries) == 2
    for prompt, ((hidden, values),) in zip(PROMPTS, entries):
        assert torch.equal(hidden, states(clip, prompt)) and "lidit_hidden" in values


def test_conditioning_is_saved_without_pickles(pack, load):
    entries = pack.run("LiDiTTextEncode", clip=load(), text=PROMPT)[0]
    file = io.BytesIO()
    torch.save(entries, file)
    file.seek(0)
    ((hidden, values),) = torch.load(file, weights_only=True)
    assert torch.equal(hidden, entries[0][0]) and values["lidit_llm"] == {"0": "Llama"}
    assert entries[0][1]["model_conds"] and not values["model_conds"]  # which is code


def test_conditioning_may_be_trained_on(load):
    clip = load()
    ((hidden, values),) = clip.encode_from_tokens_scheduled(clip.tokenize(PROMPT))
    with torch.inference_mode():
        ((cached, also),) = clip.encode_from_tokens_scheduled(clip.tokenize(PROMPT))
    tensors = [hidden, values["pooled_output"], cached, also["pooled_output"]]
    assert not any(tensor.is_inference() for tensor in tensors)


def test_templates_on_one_llm(pack, load):
    clip = load()
    (own,) = pack.run("LiDiTInstructionTemplate", preset="none", system="", instruction="objects:")
    encoded = [
        pack.run("LiDiTTextEncode", clip=clip, text=PROMPT, template=template)
        for template in (None, own)
    ]
    lengths = [entries[0][0].shape[1] for entries, _ in encoded]
    assert lengths[1] < lengths[0]
    again = load(custom_template=own)
    assert torch.equal(states(again), encoded[1][0][0][0])
    assert len(clip.cond_stage_model._encoders) == 2


def test_a_few_templates_stay_computed(pack, load):
    clip = load()
    for number in range(7):
        text = f"objects {number}:"
        (template,) = pack.run(
            "LiDiTInstructionTemplate", preset="short", system="", instruction=text
        )
        pack.run("LiDiTTextEncode", clip=clip, text=PROMPT, template=template)
    assert len(clip.cond_stage_model._encoders) == 4


def test_info_says_how_a_prompt_was_read(pack, load):
    clip, text = load(token_budget=5), "three apples and a banana (left:1.3) of a car"
    first, second = (pack.run("LiDiTTextEncode", clip=clip, text=text)[1] for _ in range(2))
    assert "Llama, after block -3, template short" in first
    assert "5 of 5 tokens used; " in first and "only the first 5 of" in first
    words = clip.tokenize(text), clip.encode_from_tokens_scheduled(clip.tokenize(text))[0]
    length = words[1][0].shape[1]
    place = re.search(r"(\d+) with the template, the prompt is (\d+) to (\d+)", first)
    whole, begin, last = map(int, place.groups())
    assert whole == length and last - begin == 4 and last < length
    assert "states 32 wide, float32, computed on cpu" in first and "cached" in second
    assert "note: a weight such as (word:1.3) is read as plain text" in first


def test_a_stock_node_that_cuts_a_prompt_is_told_in_the_log(host, load, caplog):
    clip, node = load(token_budget=5), host.nodes.CLIPTextEncode()
    told = {}
    for text in ("a cat", "three apples and a banana of a car", "(cat:1.3)"):
        caplog.clear()
        with torch.inference_mode():
            node.encode(clip, text)
        told[text] = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    short, long, weighted = told.values()
    assert short == [] and len(long) == 1
    assert re.search(r"only the first 5 of the prompt's \d\d+ tokens are read", long[0])
    assert weighted[-1] == "in the prompt, a weight such as (word:1.3) is read as plain text"


def test_weights_in_a_prompt_are_its_text(load):
    clip = load()
    assert not torch.equal(states(clip, "(cat:1.3)"), states(clip, "cat"))
    assert torch.equal(states(clip, "(cat:1.3)"), states(clip.clone(), "(cat:1.3)"))


@pytest.mark.parametrize("text", ["a cat and a dog ", "a", "猫", "(a", "🍎"])
def test_a_hundred_thousand_characters(pack, load, text):
    prompt = text * (100_000 // len(text))
    entries, info = pack.run("LiDiTTextEncode", clip=load(), text=prompt)
    assert "96 of 96 tokens used" in info and "only the first 96 of" in info
    assert entries[0][0].shape[1] < 200


def test_a_foreign_clip_is_declined(pack, error):
    import comfy.sd
    from comfy.sd1_clip import SD1ClipModel, SD1Tokenizer
    from comfy.supported_models_base import ClipTarget

    clip = comfy.sd.CLIP(ClipTarget(SD1Tokenizer, SD1ClipModel))
    with pytest.raises(error, match="SD1ClipModel.*LI-DiT LLM loader"):
        pack.run("LiDiTTextEncode", clip=clip, text=PROMPT)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"layer": "third"}, "layer is 'third'"),
        ({"layer": "-9"}, "block -9 is not in Llama"),
        ({"token_budget": 0}, "token budget is 0"),
    ],
)
def test_wrong_options(load, error, options, message):
    with pytest.raises(error, match=message):
        states(load(**options))


def test_last_layer_is_chosen_in_the_loader(host, load, error):
    (clip,) = host.nodes.CLIPSetLastLayer().set_last_layer(load(), -2)
    with pytest.raises(error, match="choose the layer in the LLM loader"):
        states(clip)


def test_states_that_are_not_finite_name_the_llm(load, error):
    clip = load()
    clip.cond_stage_model.transformer.layers[0].mlp.down_proj.weight.data.fill_(float("nan"))
    with pytest.raises(error, match="the LLM Llama gave states that are not finite"):
        states(clip)


FOR_OTHER_ENCODERS = {
    "CLIPTextEncodeSDXL": {
        **dict.fromkeys(("width", "height", "target_width", "target_height"), 64),
        **{"crop_w": 0, "crop_h": 0, "text_g": "a cat", "text_l": "a cat"},
    },
    "CLIPTextEncodeSD3": {
        **dict.fromkeys(("clip_l", "clip_g", "t5xxl"), "a cat"),
        "empty_padding": "none",
    },
    "CLIPTextEncodeFlux": {"clip_l": "a cat", "t5xxl": "a cat", "guidance": 3.5},
    "CLIPTextEncodeHunyuanDiT": {"bert": "a cat", "mt5xl": "a cat"},
    "TextEncodeQwenImageEdit": {"prompt": "a cat", "image": torch.zeros(1, 64, 64, 3)},
}


@pytest.mark.parametrize("node_id", FOR_OTHER_ENCODERS)
def test_a_node_for_other_text_encoders_is_declined_in_a_sentence(host, pack, load, node_id):
    for name in ("clip_sdxl", "sd3", "flux", "hunyuan", "qwen"):
        path = host.path / "comfy_extras" / f"nodes_{name}.py"
        assert wait_for(host.nodes.load_custom_node(str(path), module_parent="comfy_extras"))
    node = host.nodes.NODE_CLASS_MAPPINGS[node_id]
    error = pack.module("lidit_core.errors").LiDiTError
    old = getattr(node, "FUNCTION", "EXECUTE_NORMALIZED") != "EXECUTE_NORMALIZED"
    run = getattr(node(), node.FUNCTION) if old else node.execute
    with pytest.raises(error, match="encode the prompt with LI-DiT Text Encode") as told:
        run(clip=load(), **FOR_OTHER_ENCODERS[node_id])
    assert "\n" not in str(told.value) and not str(told.value).startswith("'")


def test_what_the_host_saves_of_an_llm_is_its_weights(host, load):
    from safetensors.torch import load_file

    path = host.path / "comfy_extras" / "nodes_model_merging.py"
    assert wait_for(host.nodes.load_custom_node(str(path), module_parent="comfy_extras"))
    clip, node = load(), host.nodes.NODE_CLASS_MAPPINGS["CLIPSave"]()
    node.output_dir = str(host.base / "output")
    node.save(clip, "clip/lidit")
    (file,) = (host.base / "output" / "clip").glob("lidit*.safetensors")
    saved = load_file(file)
    for name, value in clip.patcher.model.state_dict().items():
        assert torch.equal(saved[name.removeprefix("transformer.")], value), name


def test_a_node_that_wants_text_written_is_told_that_this_llm_only_reads(load, error):
    clip = load()
    if not hasattr(clip, "generate"):
        pytest.skip("this ComfyUI has no nodes that write text")
    with pytest.raises(error, match="writes no text"):
        clip.generate(clip.tokenize(PROMPT))


def test_a_node_that_wants_words_numbered_is_told_that_this_llm_reads_text_alone(load, error):
    """PhotoMaker's, which ended in an IndexError."""
    with pytest.raises(error, match="number of each word, as PhotoMaker.* and an LLM"):
        load().tokenize(PROMPT, return_word_ids=True)


def test_the_node_tells_what_a_load_will_take_before_it(pack, load, monkeypatch):
    from comfy import model_management

    clips = pack.module("host.llm.clip")
    load()  # its files are there
    loader, told = pack.module("nodes.llm.loader"), []
    monkeypatch.setattr(loader, "report", told.append)
    monkeypatch.setattr(clips, "note", told.append)
    clip = load("Qwen2")
    size = sum(weight.nbytes for weight in clip.cond_stage_model.llm.module.parameters())
    assert told[0] == f"loading {size / 1e6:,.0f} MB of weights into RAM" and len(told) == 2
    monkeypatch.setattr(model_management, "get_free_memory", lambda *_, **__: size - 1)
    told.clear()
    load("Qwen2")
    assert "of RAM are free" in told[0] and told[1].startswith("loading")
