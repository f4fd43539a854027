"""What was read, cut and left out is text on our nodes and in the history. Run: see conftest.py"""

from __future__ import annotations

import re

import pytest
from workflow_kit import Api, changed, graph, need_llms, node_of, only_picture

LLMS = ("SmolLM2-135M-Instruct", "gemma-3-270m")
PROMPT = "a (cat:1.3) to the left of a red balloon on a blue background"
LONG = "a cat " * 60  # more tokens than are read


@pytest.fixture
def api() -> Api:
    """A graph with our own nodes for its text and its sampler."""
    api = graph("text_to_image")
    need_llms(api)
    sampler = api[node_of(api, "KSampler")]
    sampler["class_type"] = "LiDiTSampler"
    sampler["inputs"] |= {"guidance_start": 0.0, "guidance_end": 1.0, "steps": 3}
    api[sampler["inputs"]["positive"][0]]["class_type"] = "LiDiTTextEncode"
    return changed(api, "LiDiTTextEncode", text=PROMPT)


def told(server, api: Api, kind: str) -> str:
    """What a node of this kind says below its widgets, which the history has too."""
    run = server.draw(api)
    only_picture(run)
    node = node_of(api, kind)
    (text,) = server.outputs(run.prompt_id)[node]["text"]
    if node in run.texts:  # else it did not run again
        lines = [line.removesuffix(".") for line in run.texts[node][-1].splitlines()]
        assert set(text.splitlines()[:3]) <= set(lines)
    return text


def test_text_encode_tells_tokens_span_and_what_is_read_otherwise(server, api):
    text = told(server, api, "LiDiTTextEncode")
    assert re.match(rf"{LLMS[0]}, after block -3, template short\n\d+ of 96 tokens used; ", text)
    assert re.search(r"the prompt is \d+ to \d+\n", text)
    assert text.endswith("note: a weight such as (word:1.3) is read as plain text")


def test_text_encode_tells_what_was_cut(server, api):
    text = told(server, changed(api, "LiDiTTextEncode", text=LONG), "LiDiTTextEncode")
    assert "96 of 96 tokens used" in text and re.search(r"only the first 96 of \d+ tokens", text)


def test_a_stock_encoders_note_goes_when_it_no_longer_holds(server, api):
    """ComfyUI leaves a node's text until another comes."""
    api = changed(graph("text_to_image"), "KSampler", steps=2)
    need_llms(api)
    encoder = api[node_of(api, "KSampler")]["inputs"]["positive"][0]
    shown = []
    for text in ("a (cat:1.3)", "a cat", "a dog"):
        api[encoder]["inputs"]["text"] = text
        shown.append(server.draw(api).texts.get(encoder, [""])[-1])
    assert "a weight such as (word:1.3) is read as plain text" in shown[0]
    assert shown[1:] == ["What was noted here before no longer holds.", ""]


def test_what_was_cut_stands_first_on_the_node(server, api):
    """Its box shows three lines, and the rest when it is scrolled."""
    run = server.draw(changed(api, "LiDiTTextEncode", text=LONG + "and a dog"))
    lines = run.texts[api[node_of(api, "LiDiTSampler")]["inputs"]["positive"][0]][-1].splitlines()
    assert lines[0].startswith("only the first 96 of") and lines[1].startswith(LLMS[0])


@pytest.mark.parametrize("result", [False, True])
def test_notes_stand_before_a_report_and_behind_a_result(pack, result):
    run = pack.module("host.node_notes").NodeRun(
        report="written", result=result, notes={"cut": (1, "it was cut")}
    )
    assert run.text == ("written\nit was cut" if result else "it was cut\nwritten")


def test_the_sampler_tells_which_llms_read_and_which_are_left_out(server, api):
    text = told(server, changed(api, "LiDiTSampler", seed=5), "LiDiTSampler")
    assert re.search(
        rf"^positive prompt, read by: {LLMS[0]} \(\d+ tokens\); left out: {LLMS[1]}$", text, re.M
    )


def test_the_sampler_keeps_what_was_noted_while_it_ran(server, api):
    text = told(server, changed(api, "LiDiTTextEncode", text=LONG), "LiDiTSampler")
    assert "longer" in text.splitlines()[-1] or "96 tokens" in text


def test_the_model_loader_names_its_branches(server, api):
    from workflow_kit import forget_all

    forget_all(server)
    text = told(server, api, "LiDiTModelLoader")
    assert re.fullmatch(rf"\d+ MB of weights\nbranches: 1 {LLMS[0]}, 2 {LLMS[1]}", text)


def test_a_weight_of_0_is_told_where_it_is_set(server):
    api = changed(graph("two_llms"), "LiDiTCollaborativeRefiner", weight_2=0.0)
    need_llms(api)
    run = server.draw(changed(api, "LiDiTSampler", steps=3))
    only_picture(run)
    history = server.outputs(run.prompt_id)
    texts = {api[i]["class_type"]: history[i]["text"][0] for i in history if "text" in history[i]}
    assert texts["LiDiTCollaborativeRefiner"].endswith(f"; left out: {LLMS[1]}")
    assert f"; left out: {LLMS[1]}" in texts["LiDiTSampler"]


@pytest.mark.parametrize("middle, said", [(0.5, False), (1.0, True)])
def test_sliders_that_name_no_part_of_a_model_are_told(server, api, middle, said):
    """ComfyUI takes a merge's first slider for weights whose names begin with none of them."""
    loader = node_of(api, "LiDiTModelLoader")
    sliders = {"input": 0.5, "middle": middle, "out": 0.5}
    models = {"model1": [loader, 0], "model2": [loader, 0]}
    api["merged"] = {"class_type": "ModelMergeBlocks", "inputs": models | sliders}
    api[node_of(api, "LiDiTSampler")]["inputs"]["model"] = ["merged", 0]
    text = told(server, api, "LiDiTSampler")
    assert ("middle=1 name no part of this LI-DiT" in text) == said
    assert ("input=0.5 holds in their place" in text) == said


def test_llmdiff_encode_tells_its_tokens(server):
    api = graph("llmdiff")
    need_llms(api)
    run = server.draw(changed(api, "KSampler", steps=2))
    assert run.ending == "execution_success"
    history = server.outputs(run.prompt_id)
    encoders = [i for i, node in api.items() if node["class_type"] == "LLMDiffEncode"]
    assert encoders
    for node in encoders:
        assert re.search(r"\d+ of 77 tokens used; ", history[node]["text"][0])


def test_what_is_kept_as_a_file_is_told_where_it_lies(server, api):
    """In the history, and on the node, where ComfyUI shows no text of its own."""
    (server.base / "input" / "prompts.txt").write_text("a cat\na dog\n")
    loader = node_of(api, "LiDiTLLMLoader")
    plain = {k: v for k, v in api[loader]["inputs"].items() if k != "custom_template"}
    text = {"clip": [loader, 0], "text": "a cat"}
    save = {"conditioning": ["2", 0], "filename_prefix": "conditioning/told"}
    record = {"clip": [loader, 0], "prompts": "prompts.txt", "name": "told"}
    run = server.draw(
        {
            loader: {**api[loader], "inputs": plain},
            "2": {"class_type": "CLIPTextEncode", "inputs": text},
            "saving": {"class_type": "LiDiTSaveConditioning", "inputs": save},
            "recording": {"class_type": "LiDiTRecordConditioning", "inputs": record},
        }
    )
    assert run.ending == "execution_success", run.events[-1]
    history = server.outputs(run.prompt_id)
    for node, words in (("saving", r"told_00001_\.safetensors, \d+ KiB, in .*conditioning"),
                        ("recording", r"2 prompts in .*told")):  # fmt: skip
        (text,) = history[node]["text"]
        assert re.fullmatch(words, text.splitlines()[-1])
        assert run.texts[node][-1] == text.replace("\n", ".\n")
