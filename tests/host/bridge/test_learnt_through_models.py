"""A bridge that learns in ComfyUI, through the host's own models. Run: see conftest.py"""

from __future__ import annotations

import inspect
import json
import shutil

import pytest
import torch
from bridge_encoders import REAL, WIDTHS, check_same, entries_of, host_encoder
from bridge_files import TEXTS
from bridge_models import host_model
from bridge_training import SHORT, better, loaded_model, recorded, same_weights, train
from workflow_kit import only_picture

from lidit_core.bridge.file import load_bridge

OTHERS = [pytest.param(kind, marks=pytest.mark.long) for kind in ("sd15", "flux", "sd3")]
KINDS = ["sdxl", "pixart", *OTHERS]
STATES = [
    pytest.param(kind, blocks, marks=pytest.mark.long)
    for kind, blocks in (("sd15", 2), ("sdxl", 8), ("flux", 1), ("flux", 2), ("sd3", 1))
]


@pytest.mark.parametrize("kind", KINDS)
def test_a_bridge_learns_through_every_model_of_the_host(bench, trains, kind):
    own = host_encoder(kind)
    trained = train(bench, kind, f"learnt-{kind}", steps=12)
    (stage,) = json.loads(trained.stages)[1:]
    gain = stage["after"]["text gap kept"] - stage["before"]["text gap kept"]
    assert gain > (0.01 if REAL else 0.02)  # as RATE is smaller then
    assert stage["after"]["held-out loss"] < stage["before"]["held-out loss"]
    told = bench.pack.module("host.bridge.files").describe_bridge(trained)
    assert f"keeps {stage['after']['text gap kept']:.3f} of the text gap" in told
    read = load_bridge(bench.folder / f"learnt-{kind}.safetensors")
    assert same_weights(read, trained)
    assert same_weights(bench.bridge(kind)[1], bench.load(f"{kind}.safetensors"))
    check_same(entries_of(bench.clip(trained), ""), entries_of(own, ""))


@pytest.mark.parametrize("kind", KINDS)
def test_less_memory_gives_the_same_gradient(bench, trains, kind):
    """Blocks that are computed once more give what they gave, but for rounding."""
    kept, again = (
        json.loads(train(bench, kind, f"kept-{kind}-{on}", steps=2, checkpointing=on).stages)[-1]
        for on in (False, True)
    )
    assert kept["before"] == again["before"] and kept["after"] != kept["before"]
    for name, value in kept["after"].items():
        assert again["after"][name] == pytest.approx(value, rel=1e-3), name


@pytest.mark.parametrize("kind, blocks", [("pixart", 1), *STATES])
def test_a_bridge_learns_from_a_hidden_state(bench, trains, kind, blocks):
    """Which the model's prediction, that is measured, follows."""
    trained = train(bench, kind, f"state-{kind}-{blocks}", steps=12, blocks=blocks)
    (stage,) = json.loads(trained.stages)[1:]
    assert stage["blocks"] == blocks
    gain = stage["after"]["text gap kept"] - stage["before"]["text gap kept"]
    assert gain > (0.01 if REAL else 0.02)  # as RATE is smaller then
    with pytest.raises(bench.error, match="blocks is 99 and .* has [1-9][0-9]*; expected no more"):
        train(bench, kind, f"none-{kind}", blocks=99, **SHORT)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_hidden_state_that_reads_no_text_is_refused(bench, trains, checkpointing):
    """The first block of SD1.5's U-Net is a residual one; at the second it reads text."""
    with pytest.raises(bench.error, match="blocks is 1, and .* reads no conditioning by then"):
        train(bench, "sd15", "none", blocks=1, checkpointing=checkpointing, **SHORT)


def test_a_pass_ends_at_the_state_that_is_asked_for(bench):
    """Blocks are counted as they run; the state is what the block gives in the whole pass."""
    states_of = bench.pack.module("host.bridge.training.hidden_states").hidden_states
    blocks_of = bench.pack.module("host.bridge.training.gradients").blocks_of
    model = host_model("sd15").model.eval()
    made: list[torch.Tensor] = []
    for block in blocks_of(model.diffusion_model, in_lists=True):
        block.register_forward_hook(lambda *each: made.append(each[2]))
    text = torch.randn(1, 77, WIDTHS["sd15"])

    def run() -> torch.Tensor:
        return model.apply_model(torch.ones(1, 4, 8, 8), torch.ones(1), c_crossattn=text)

    with torch.inference_mode():
        run()
        whole = list(made)
        for count in (1, 2, len(whole)):
            made.clear()
            (state,) = states_of(model, count, run)
            assert len(made) == count and torch.equal(state, whole[count - 1])
        made.clear()
        run()
    assert len(made) == len(whole) > 4  # and nothing of it stays


@pytest.mark.parametrize("kind", ["sdxl"])
def test_a_bridge_that_adds_to_an_encoder_learns_what_another_knows(bench, trains, kind):
    """From nothing added, whose gradient is not nothing; the encoder's empty prompt stays."""
    own, new = host_encoder(kind), bench.bridge(kind, trained=False, add=True, name="new")[1]
    given = {"recording": better(bench, kind), "add_to": recorded(bench, kind)}
    trained = train(bench, kind, "adding", bridge=new, steps=12, learning_rate=1e-2, **given)
    stage = json.loads(trained.stages)[-1]
    assert stage["from"] == f"better-{kind}" and stage["adds to"] == f"through-{kind}"
    assert stage["after"]["held-out loss"] < 0.98 * stage["before"]["held-out loss"]
    moved = new.bridge.state_dict()
    for name, weight in trained.bridge.resampler.state_dict().items():
        if name in ("out.weight", "out_pooled.weight"):
            assert not torch.equal(weight, moved[f"resampler.{name}"]), name
    clip = bench.clip(bench.load("adding.safetensors"), encoder=own)
    check_same(entries_of(clip, ""), entries_of(own, ""))
    assert not torch.equal(entries_of(clip, TEXTS[0])[0][0], entries_of(own, TEXTS[0])[0][0])


def test_a_recording_of_another_encoder_is_noted(bench, trains, monkeypatch):
    told: list[str] = []
    monkeypatch.setattr(bench.pack.module("host.bridge.training.run"), "note", told.append)
    train(bench, "sd15", "same", **SHORT)
    assert told == []
    train(bench, "sd15", "another", recording=better(bench, "sd15"), **SHORT)
    assert "better-sd15 is not of the text encoder that this bridge learnt from" in told[0]


class Stopped:
    """The host's Cancel, after a step; how many steps were shown."""

    def __init__(self, monkeypatch, after: int) -> None:
        import latent_preview

        self.shown, self.after = [], after
        monkeypatch.setattr(latent_preview, "prepare_callback", lambda *_: self)

    def __call__(self, step, picture, x, steps) -> None:
        from comfy import model_management

        assert picture.shape == x.shape and not picture.requires_grad
        self.shown.append(step)
        model_management.interrupt_current_processing(step + 1 == self.after)


@pytest.mark.long
@pytest.mark.parametrize("kind", ["sd15"])
def test_a_run_that_was_stopped_goes_on_to_the_same_bits(bench, trains, monkeypatch, kind):
    from comfy import model_management

    whole = train(bench, kind, "whole")
    stopped = Stopped(monkeypatch, 3)
    with pytest.raises(model_management.InterruptProcessingException):
        train(bench, kind, "stopped")
    assert stopped.shown == [0, 1, 2] and not (bench.folder / "stopped.safetensors").exists()
    with pytest.raises(
        bench.error, match="unfinished run with steps 4, and here it is 5; put that"
    ):
        train(bench, kind, "stopped", steps=5)
    stopped = Stopped(monkeypatch, 0)
    again = train(bench, kind, "stopped")
    assert stopped.shown == [3] and same_weights(whole, again)
    figures = [json.loads(made.stages)[-1] for made in (whole, again)]
    assert figures[0] == figures[1]
    assert not list((bench.host.base / "output" / "bridges").glob("*"))
    stopped = Stopped(monkeypatch, 0)
    assert same_weights(train(bench, kind, "stopped"), whole) and not stopped.shown
    with pytest.raises(bench.error, match="stopped.safetensors in models/bridges that was trained"):
        train(bench, kind, "stopped", seed=4)


def test_it_runs_again_once_its_file_is_gone_or_the_recording_another(bench, host):
    """The host holds a node that ran for done as long as this stays the same."""
    name = recorded(bench, "sd15")
    index = host.base / "output" / "recordings" / name / "recording.json"
    file, told = bench.folder / "known.safetensors", []

    def look(recording: str = name) -> None:
        asked = {"recording": recording, "name": "known", "steps": 4, "bridge": None}
        told.append(bench.pack.LiDiTTrainBridge.fingerprint_inputs(**asked))

    look("nowhere")
    look()
    file.touch()
    look()
    look()
    assert told[2] == told.pop()
    index.write_bytes(index.read_bytes() + b"\n")
    look()
    file.unlink()
    look()
    assert len(set(told)) == len(told) == 5


def test_an_older_host_is_told_so(bench):
    if "force_deepcopy" in inspect.signature(host_model("sd15").clone).parameters:
        pytest.skip("this host loads a model a second time")
    with pytest.raises(bench.error, match="update to 0.33.0 or later, or train with `lidit train`"):
        train(bench, "sd15", "older")


def test_what_cannot_be_trained_is_told_in_a_sentence(bench, trains):
    other = {"recording": recorded(bench, "sdxl")}
    cut = bench.host.base / "output" / "recordings" / "through-cut-short"
    shutil.copytree(cut.parent / recorded(bench, "sd15"), cut)
    (cut / "00000.safetensors").unlink()
    model = loaded_model("sd15")
    model.cached_patcher_init = None
    ridge = bench.bridge("sd15", residual="none", name="ridge")[1]
    adds = bench.bridge("sd15", add=True)[1]
    asked = {
        "no bridge that learns, but LoadedProjection": {
            "bridge": bench.load(bench.projection(32, 3))
        },
        "a ridge alone, of which nothing is learnt": {"bridge": ridge},
        "SD1ClipModel writes, and add_to is none; choose there": {"bridge": adds},
        "adds to nothing; set add_to to none": {"add_to": recorded(bench, "sd15")},
        "no recording 'elsewhere' in output": {"bridge": adds, "add_to": "elsewhere"},
        "load it by ComfyUI's Load Checkpoint or": {"model": model},
        "connect the model that the bridge was trained for": {"model": loaded_model("sdxl")},
        "choose the recording of the encoder that the": other,
        "lacks 1 of its 1 files": {"recording": cut.name},
        "no recording 'nowhere' in output/recordings": {"recording": "nowhere"},
        "run Record Conditioning with the model's own": {
            "recording": "(record a text encoder with Record Conditioning)"
        },
        "points is 5 and a trajectory has 4 steps": {"points": 5},
        "lowest_cfg is 4 and highest_cfg 2": {"lowest_cfg": 4.0, "highest_cfg": 2.0},
    }
    for sentence, given in asked.items():
        with pytest.raises(bench.error, match=sentence):
            train(bench, "sd15", "never", **given)
    with pytest.raises(bench.error, match="has no name"):
        train(bench, "sd15", " / ")
    assert not (bench.folder / "never.safetensors").exists()


def test_a_folder_that_cannot_be_written_is_told_before_the_training(bench, trains, monkeypatch):
    """Nobody may be root, so here a file is in the folder's place."""
    (bench.folder / "taken").touch()
    begun = Stopped(monkeypatch, 0)
    with pytest.raises(bench.error, match="the system refused.*taken"):
        train(bench, "sd15", "taken/learnt")
    assert not begun.shown


def test_through_the_demo_checkpoint_as_a_graph(bench, trains, server):
    """By the host's own executor: previews while it learns, and a picture by what has learnt."""
    run = server.draw(bench.training_graph("graph"))
    assert run.ending == "execution_success", run.error
    assert only_picture(run) is not None
    (told,) = server.outputs(run.prompt_id)["5"]["text"]
    assert "graph.safetensors in models/bridges: text gap kept" in told
    assert run.previews >= 8
    assert [m["value"] for m in run.of_type("progress") if m["node"] == "5"][-1] == 8
