"""Recordings of text encoders in ComfyUI. Host's Python: pytest tests/host/conditioning"""

from __future__ import annotations

import inspect

import pytest
import torch
from clip_kit import fresh_loader, save_llms

PROMPTS = [f"{n} red cats on a blue background" for n in range(70)] + ["猫", "(word:1.3) x"]


@pytest.fixture
def given(host):
    folder = host.base / "input"
    (folder / "many.txt").write_text("\n".join(PROMPTS) + "\n", encoding="utf-8")
    return host.base / "output" / "recordings"


@pytest.fixture(params=["an LLM", "the demo checkpoint's text encoder"])
def clip(request, pack, host):
    if request.param == "an LLM":
        save_llms(host)
        return fresh_loader(pack)()
    return pack.run("LLMDiffDemoCheckpoint")[1]


def entries_of(clip, text: str) -> list:
    with torch.inference_mode():
        return clip.encode_from_tokens_scheduled(clip.tokenize(text))


def test_a_recording_holds_what_the_node_would_have_encoded(pack, clip, given, request):
    name = request.node.callspec.params["clip"].replace(" ", "-").replace("'", "")
    pack.run("LiDiTRecordConditioning", clip=clip, prompts="many.txt", name=name)
    found = pack.module("lidit_core.io.recording").open_recording(given / name)
    recorded = list(found.prompts())
    assert [prompt.text for prompt in recorded] == PROMPTS
    for number in (0, 69, 70, 71):
        (expected,) = entries_of(clip, PROMPTS[number])
        ((sequence, values),) = recorded[number].entries
        assert torch.equal(sequence, expected[0].to(torch.bfloat16).cpu())
        pooled = expected[1].get("pooled_output")
        assert pooled is None or torch.equal(
            values["pooled_output"], pooled.to(torch.bfloat16).cpu()
        )


def test_one_that_was_cancelled_goes_on(pack, host, clip, given, monkeypatch, request):
    from comfy import model_management

    name = "stopped " + str(abs(hash(request.node.name)))
    told, stops = [], [66]

    class Bar:
        def __init__(self, total: int) -> None:
            assert total == len(PROMPTS)

        def update(self, count: int) -> None:
            told.append(count)
            if sum(told) in stops:
                model_management.interrupt_current_processing()

    monkeypatch.setattr("comfy.utils.ProgressBar", Bar)
    with pytest.raises(model_management.InterruptProcessingException):
        pack.run("LiDiTRecordConditioning", clip=clip, prompts="many.txt", name=name)
    found = pack.module("lidit_core.io.recording").open_recording(given / name)
    assert found.missing() == [1]
    told.clear()
    stops.clear()
    pack.run("LiDiTRecordConditioning", clip=clip, prompts="many.txt", name=name)
    assert found.missing() == [] and len(list(found.prompts())) == len(PROMPTS)


def test_it_runs_again_once_its_files_have_changed(pack, host, given):
    """The host holds a node that ran for done as long as this stays the same."""
    asked = {"clip": None, "prompts": "again.txt", "name": "again"}
    file, told = host.base / "input" / "again.txt", []

    def look() -> None:
        told.append(pack.LiDiTRecordConditioning.fingerprint_inputs(**asked))

    look()  # there is no such file yet, and that is no error
    file.write_text("a cat\n", encoding="utf-8")
    clip = pack.run("LLMDiffDemoCheckpoint")[1]
    pack.run("LiDiTRecordConditioning", **asked | {"clip": clip})
    look()
    assert told[0] != told[1]
    look()
    assert told[1] == told[2]
    file.write_text("a cat\na dog\n", encoding="utf-8")
    look()
    (given / "again" / "00000.safetensors").unlink()
    look()
    assert len(set(told[2:])) == 3


def test_every_node_that_lists_files_is_asked_whether_they_have_changed(pack):
    from comfy_api.latest import io

    lists, silent = [], io.ComfyNode.fingerprint_inputs.__func__
    for name, node in pack.classes.items():
        combos = {put.id for put in node.define_schema().inputs if put.get_io_type() == "COMBO"}
        if combos & inspect.signature(node.validate_inputs).parameters.keys():
            lists.append(name)
            assert node.fingerprint_inputs.__func__ is not silent, name
    assert len(lists) == 9, lists


@pytest.mark.parametrize(
    ("prompts", "name", "sentence"),
    [
        ("none.txt", "x", "the prompts file .* cannot be read"),
        ("../secret.txt", "x", "leads out of the model folders"),
        ("many.txt", "", "the recording has no name"),
        ("many.txt", "../x", "leads out of the model folders"),
        ("many.txt", "a\0b", "characters that no file's name has"),
    ],
)
def test_mistakes_are_told(pack, host, given, prompts, name, sentence):
    save_llms(host)
    clip = fresh_loader(pack)()
    with pytest.raises(Exception, match=sentence):
        pack.run("LiDiTRecordConditioning", clip=clip, prompts=prompts, name=name)
