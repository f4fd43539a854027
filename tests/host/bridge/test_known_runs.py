"""Which runs of a bridge's training are the same, and what its file tells. Run: see conftest.py"""

from __future__ import annotations

import copy
import hashlib
import json
import shutil
from dataclasses import replace

import pytest
import torch
from bridge_encoders import entries_of, host_encoder, record
from bridge_files import TEXTS, spec_of
from bridge_models import lora_of
from bridge_training import SHORT, loaded_model, recorded, same_weights, train

from lidit_core.bridge.file import write_bridge


def patched(clip):
    """An LLM's CLIP with a patch on its weights, as a LoRA sets them."""
    made = copy.copy(clip)
    made.patcher = clip.patcher.clone()
    names = [n for n, w in made.patcher.model.state_dict().items() if w.ndim == 2]
    shape = made.patcher.model.state_dict()[names[-1]].shape
    made.patcher.add_patches({names[-1]: ("diff", (torch.ones(shape),))}, 0.5)
    return made


def with_lora(model, strength: float):
    """A clone with a LoRA, as Load LoRA gives it; the tensors are made anew each time."""
    import comfy.sd

    made, _ = comfy.sd.load_lora_for_models(model, None, lora_of(model), strength, 0.0)
    assert made.patches
    return made


def test_prompts_that_are_cut_are_told(bench, trains, caplog):
    """The LLM loader's own number of tokens is smaller than that of many a bridge."""
    train(bench, "sd15", "read whole", **SHORT)
    assert "what is cut off" not in caplog.text
    train(bench, "sd15", "read in part", clip=bench.llm(token_budget=4), **SHORT)
    assert "prompts have more tokens than" in caplog.text and "token_budget" in caplog.text


@pytest.mark.parametrize("kind", ["sd15"])
def test_what_decides_the_result_is_not_taken_for_the_same_run(bench, trains, kind):
    """LoRAs, what other nodes set, LLMs, what is set on them, and a recording made anew."""
    from comfy_extras.nodes_model_advanced import RescaleCFG

    own = loaded_model(kind)

    def rescaled(by: float):
        return RescaleCFG().patch(with_lora(own, 0.5), by)[0]

    trained = train(bench, kind, "again", model=rescaled(0.7), **SHORT)
    again = train(bench, kind, "again", model=rescaled(0.7), **SHORT)
    assert same_weights(trained, again)
    other = bench.llm(dtype="fp8_e4m3fn")
    given = {
        "LoRAs, patches or loading options": [
            {"model": own},
            {"model": with_lora(own, 0.5)},
            {"model": RescaleCFG().patch(with_lora(own, 0.6), 0.7)[0]},
            {"model": rescaled(0.8)},
        ],
        "LLMs": [{"clip": other}, {"clip": patched(bench.llm())}],
    }
    for words, changes in given.items():
        for change in changes:
            asked = {"model": rescaled(0.7), **change, **SHORT}
            with pytest.raises(bench.error, match=f"again.safetensors in .* with other {words}"):
                train(bench, kind, "again", **asked)
    folder = bench.host.base / "output" / "recordings" / recorded(bench, kind)
    kept = folder.with_name("kept")
    folder.rename(kept)
    try:
        asked = {"model": rescaled(0.7), "recording": folder.name, **SHORT}
        for seed, texts, words in (
            (1, TEXTS, "recorded conditioning"),
            (0, [f"{text} again" for text in TEXTS], "prompts in the recording"),
        ):
            record(bench.pack, bench.host, host_encoder(kind, seed), folder.name, texts)
            with pytest.raises(bench.error, match=f"was trained with other {words}"):
                train(bench, kind, "again", **asked)
            shutil.rmtree(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        kept.rename(folder)


@pytest.mark.parametrize("kind", ["sd15"])
def test_another_file_under_the_same_name_is_another_model(bench, trains, kind, tmp_path):
    file, load = tmp_path / "model.safetensors", loaded_model(kind).cached_patcher_init[0]
    model = loaded_model(kind)
    model.cached_patcher_init = (lambda path, **more: load(kind, **more), (str(file),))
    file.write_bytes(bytes(2_000_000))
    trained = train(bench, kind, "file", model=model, **SHORT)
    assert same_weights(trained, train(bench, kind, "file", model=model, **SHORT))
    file.write_bytes(bytes(1_500_000) + bytes([1]) * 500_000)  # such as a merge of some blocks
    with pytest.raises(bench.error, match="with other weights in the model's file"):
        train(bench, kind, "file", model=model, **SHORT)


@pytest.mark.parametrize("kind", ["sd15"])
def test_a_file_of_an_older_version_is_taken_and_told(bench, trains, monkeypatch, kind):
    """It did not write down LoRAs, LLMs, what was recorded and blocks; all else is compared."""
    told: list[str] = []
    monkeypatch.setattr(bench.pack.module("host.bridge.training.run"), "note", told.append)
    hashed = bench.pack.module("host.bridge.training.known_again").HASHED
    trained = train(bench, kind, "older", **SHORT)
    *before, last = json.loads(trained.stages)
    assert set(hashed) <= set(last)
    weights = hashlib.sha256()  # as it was written then
    for key, tensor in sorted(bench.bridge(kind)[1].bridge.state_dict().items()):
        weights.update(key.encode() + tensor.contiguous().view(torch.uint8).numpy().tobytes())
    assert last["bridge"] == weights.hexdigest()[:16]
    kept = [*before, {k: v for k, v in last.items() if k not in (*hashed, "blocks")}]
    write_bridge(bench.folder / "older.safetensors", replace(trained, stages=json.dumps(kept)))
    assert same_weights(train(bench, kind, "older", **SHORT), trained)
    assert "older.safetensors is of an older version" in told[0] and "\n" not in told[0]
    with pytest.raises(bench.error, match="with seed 3, and here it is 4; choose another name"):
        train(bench, kind, "older", seed=4, **SHORT)
    with pytest.raises(bench.error, match="with blocks 0, and here it is 2; choose another name"):
        train(bench, kind, "older", blocks=2, **SHORT)


@pytest.mark.parametrize("kind", ["sd15", pytest.param("klein", marks=pytest.mark.long)])
def test_a_latent_made_for_another_ratio_is_drawn_as_samplers_do(bench, host, trains, kind):
    """An empty one says what a number of it stood for; Klein's are half as many a side."""
    model = loaded_model(kind)
    wide = {"samples": torch.zeros(1, 4, 16, 16)}
    ratio = model.get_model_object("latent_format").spacial_downscale_ratio
    made = {**wide, "downscale_ratio_spacial": ratio // 2}
    samplers = host.nodes.KSampler().sample(
        model, 0, 1, 1.0, "euler", "simple", *[entries_of(host_encoder(kind), "")] * 2, made
    )[0]["samples"]
    assert samplers.shape[-2:] == (8, 8)
    trained = train(bench, kind, f"halved-{kind}", model=model, latent_image=made, **SHORT)
    assert json.loads(trained.stages)[-1]["latent drawn at"] == [8, 8]
    narrow = {"samples": torch.zeros(1, 4, 8, 8)}
    assert same_weights(
        trained, train(bench, kind, f"narrow-{kind}", model=model, latent_image=narrow, **SHORT)
    )
    with pytest.raises(bench.error, match=r"with latent drawn at \[8, 8\], .* \[16, 16\]"):
        train(bench, kind, f"halved-{kind}", model=model, latent_image=wide, **SHORT)
    *before, last = json.loads(trained.stages)
    kept = [*before, {k: v for k, v in last.items() if k != "latent drawn at"}]  # of an older one
    write_bridge(
        bench.folder / f"halved-{kind}.safetensors", replace(trained, stages=json.dumps(kept))
    )
    with pytest.raises(bench.error, match=r"with latent drawn at \[16, 16\], .* \[8, 8\]"):
        train(bench, kind, f"halved-{kind}", model=model, latent_image=made, **SHORT)


@pytest.mark.parametrize("kind", ["sd15"])
def test_the_file_tells_of_this_run_alone(bench, trains, kind):
    """Not of the bridge that it went on from: its cosine, and what its LLM was stored as."""
    spec = spec_of(bench.llm(), storage="float", longest_prompt=2)
    before = bench.bridge(kind, spec, name="reported")[0]
    report = json.dumps({"bridge": {"cosine": 0.987, "prompts": 20}})
    write_bridge(bench.folder / "reported.safetensors", replace(before, report=report))
    loader = bench.pack.module("host.bridge.files").describe_bridge
    bridge = bench.load("reported.safetensors")
    assert "cosine 0.987 on 20 prompts" in loader(bridge)
    packed = bench.llm(dtype="fp8_e4m3fn")
    trained = train(bench, kind, "told", bridge=bridge, clip=packed, **SHORT)
    read = bench.load("told.safetensors")
    assert "cosine" not in loader(read) and "of the text gap" in loader(read)
    assert read.report == trained.report == ""
    (llm,), reader = read.bridge.config.llms, packed.cond_stage_model.llm
    assert (llm.storage, llm.fingerprint) == ("fp8", reader.fingerprint) and reader.fingerprint
    assert llm.longest_prompt > 2
    (unknown,) = train(bench, kind, "unknown", **SHORT).bridge.config.llms
    assert unknown.longest_prompt is None and unknown.storage == "float"
