"""Encoded prompts kept as files, in ComfyUI. Host's Python: pytest tests/host/conditioning"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from model_kit import fuse


@pytest.fixture
def keep(kit, host):
    """Saves conditioning and loads it again, as a workflow does: the entries, and the file."""

    def run(conditioning: list) -> tuple[list, Path]:
        kit.pack.run("LiDiTSaveConditioning", conditioning=conditioning, filename_prefix=PREFIX)
        folder = host.base / "output" / "conditioning"
        path = max(folder.iterdir(), key=lambda file: file.stat().st_mtime_ns)
        (loaded,) = kit.pack.run("LiDiTLoadConditioning", file=f"conditioning/{path.name} [output]")
        return loaded, path

    return run


PREFIX = "conditioning/prompt"
THEIRS = "conditioning\\theirs\\prompt"


def test_a_prompt_draws_the_same_picture_after_it_was_a_file(kit, model, keep):
    prompt, negative = kit.prompt(length=12, seed=1), kit.prompt(seed=2)
    expected = kit.sample(model, prompt, negative)
    assert torch.equal(kit.sample(model, keep(prompt)[0], keep(negative)[0]), expected)


def test_two_llms_with_weights_and_switches_are_kept(kit, model, keep):
    fused = fuse(kit, kit.prompt(seed=1), kit.prompt("beta", 7, 2), weights=(1.0, 0.5))
    expected = kit.sample(model, fused)
    assert torch.equal(kit.sample(model, keep(fused)[0]), expected)
    assert not torch.equal(kit.sample(model, kit.prompt(seed=1)), expected)


def test_areas_ranges_and_several_entries_are_kept(kit, model, keep):
    left = kit.stock(
        "ConditioningSetArea",
        conditioning=kit.prompt(seed=1),
        width=16,
        height=32,
        x=0,
        y=0,
        strength=0.7,
    )
    late = kit.stock(
        "ConditioningSetTimestepRange", conditioning=kit.prompt(seed=3), start=0.5, end=1.0
    )
    mask = torch.zeros(1, 4, 4)
    mask[:, :2] = 1
    masked = kit.stock(
        "ConditioningSetMask",
        conditioning=kit.prompt(seed=4),
        mask=mask,
        strength=0.5,
        set_cond_area="default",
    )
    together = [*left, *late, *masked]
    expected = kit.sample(model, together)
    loaded, _ = keep(together)
    assert len(loaded) == 3
    assert torch.equal(kit.sample(model, loaded), expected)


def test_other_text_encoders_conditioning_is_kept_too(kit, keep):
    """Of SDXL's kind, and of a kind with a mask and extra keys."""
    values = {"pooled_output": torch.randn(1, 9), "width": 64, "attention_mask": torch.ones(1, 5)}
    loaded, _ = keep([[torch.randn(1, 5, 8), values]])
    assert loaded[0][1]["width"] == 64
    assert torch.equal(loaded[0][1]["pooled_output"], values["pooled_output"])
    assert "model_conds" not in loaded[0][1]


def test_a_loaded_prompt_is_still_refused_by_another_model(kit, keep):
    loaded, _ = keep(kit.prompt())
    conds = loaded[0][1]["model_conds"]
    with pytest.raises(Exception, match="is for a LI-DiT .states of alpha"):
        next(iter(conds.values())).process_cond()


def test_a_file_has_its_states_once_and_the_next_free_number(kit, keep):
    prompt = kit.prompt(length=200)
    (_, first), (_, second) = keep(prompt), keep(prompt)
    assert first != second
    assert first.stat().st_size < 1.2 * prompt[0][0].numel() * 4 + 4000
    choices = kit.pack.module("host.encoded_prompts").choices()
    assert {f"conditioning/{p.name} [output]" for p in (first, second)} <= set(choices)
    folder = kit.host.base / "models" / "conditioning"
    (folder / "mine.safetensors").write_bytes(first.read_bytes())
    (loaded,) = kit.pack.run("LiDiTLoadConditioning", file="mine.safetensors")
    assert torch.equal(loaded[0][0], prompt[0][0])


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"control": object()}, "control is object, which no file holds"),
        ({"hooks": object()}, "cannot be saved with hooks"),
    ],
)
def test_what_cannot_be_kept_is_told(kit, values, sentence):
    prompt = kit.prompt()
    changed = [[prompt[0][0], {**prompt[0][1], **values}]]
    with pytest.raises(Exception, match=sentence):
        kit.pack.run("LiDiTSaveConditioning", conditioning=changed, filename_prefix=PREFIX)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("none.safetensors", "there is no encoded prompt 'none.safetensors'"),
        ("gone.safetensors [output]", "there is no encoded prompt"),
        ("../../secret.safetensors [output]", "leads out of the model folders"),
        ("/etc/passwd", "leads out of the model folders"),
    ],
)
def test_a_file_that_is_not_there_is_told(kit, name, sentence):
    with pytest.raises(Exception, match=sentence):
        kit.pack.run("LiDiTLoadConditioning", file=name)
    assert kit.pack.module("host.encoded_prompts").fingerprint(name) == name


def test_a_prefix_of_windows_is_a_folder_and_one_that_leads_out_a_sentence(kit, host):
    prompt, saved = kit.prompt(), host.base / "output" / "conditioning" / "theirs"
    kit.pack.run("LiDiTSaveConditioning", conditioning=prompt, filename_prefix=THEIRS)
    (file,) = saved.iterdir()
    name = f"conditioning/theirs/{file.name} [output]"
    assert name in kit.pack.module("host.encoded_prompts").choices()
    for prefix in ("../x", "..\\x", "/elsewhere/x"):
        with pytest.raises(Exception, match="^filename_prefix is '.*' *, which leads out") as told:
            kit.pack.run("LiDiTSaveConditioning", conditioning=prompt, filename_prefix=prefix)
        assert "\n" not in str(told.value)


@pytest.mark.parametrize("name", ["赤い\u3000猫", "deux\u00a0chats", "👨\u200d👩\u200d👧"])
def test_names_as_people_give_them_are_taken(kit, keep, host, name):
    """Wide spaces, spaces that do not break, emoji that are joined: none is printable to Python."""
    _, path = keep(kit.prompt())
    file = host.base / "models" / "conditioning" / f"{name}.safetensors"
    file.write_bytes(path.read_bytes())
    assert file.name in kit.pack.module("host.encoded_prompts").choices()
    assert kit.pack.run("LiDiTLoadConditioning", file=file.name)


def test_a_file_is_not_looked_for_where_the_host_was_started(kit, keep, tmp_path, monkeypatch):
    """But in the model folders alone."""
    _, path = keep(kit.prompt())
    (tmp_path / "here.safetensors").write_bytes(path.read_bytes())
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Exception, match="there is no encoded prompt 'here.safetensors'"):
        kit.pack.run("LiDiTLoadConditioning", file="here.safetensors")


def test_a_prompt_of_the_command_line_is_loaded_as_one_of_the_canvas(kit, host, pack):
    """`lidit encode --out` and LI-DiT Text Encode give the same entry, to the bit."""
    from tiny_lidit import lidit_config, save_lidit_files
    from tiny_llm import save_llm

    from lidit_core.cli import main

    llm = host.base / "models" / "llm" / "one"
    if not llm.is_dir():
        save_llm(llm)
    (host.base / "models" / "tiny").mkdir(exist_ok=True)
    config = lidit_config("one")
    model = save_lidit_files(host.base / "models" / "tiny", config)
    out = host.base / "models" / "conditioning" / "typed.safetensors"
    words = ["--model", str(model), "--llm", f"one={llm}", "--device", "cpu", "--out", str(out)]
    assert main(["encode", "two cats and a dog", *words]) == 0
    ((found, values),) = pack.run("LiDiTLoadConditioning", file="typed.safetensors")[0]
    (spec,) = config.llms
    settings = pack.module("host.llm.reader").LLMSettings(
        str(llm),
        pack.module("lidit_core.text.templates").InstructionTemplate.from_json(
            spec.template.to_json()
        ),
        spec.block,
        spec.token_budget,
        "float32",
    )
    clip = pack.module("host.llm.clip").open_clip(settings)
    ((expected, own),), _ = pack.run("LiDiTTextEncode", clip=clip, text="two cats and a dog")
    assert torch.equal(found, expected)
    assert torch.equal(values["pooled_output"], own["pooled_output"])
    told = ("lidit_llm", "lidit_reading", "lidit_used", "lidit_options", "lidit_fusion")
    assert {name: values[name] for name in told} == {name: own[name] for name in told}
    assert torch.equal(values["lidit_roles"]["0"], own["lidit_roles"]["0"])
    assert "model_conds" in values


def test_a_file_in_a_folder_is_listed_as_every_system_saves_it(kit, host, monkeypatch):
    """As on Windows, whose host lists names with backslashes; and a workflow saved there."""
    import folder_paths

    loaded, folder = kit.prompt(), "mine"
    path = host.base / "models" / "conditioning" / folder
    path.mkdir(parents=True, exist_ok=True)
    prompts = kit.pack.module("host.encoded_prompts")
    kept = prompts.save(loaded, PREFIX)
    (path / "one.safetensors").write_bytes(kept.read_bytes())
    for name in (f"{folder}/one.safetensors", f"{folder}\\one.safetensors"):
        (found,) = kit.pack.run("LiDiTLoadConditioning", file=name)
        assert torch.equal(found[0][0], loaded[0][0])
    monkeypatch.setattr(folder_paths, "get_filename_list", lambda _: ["mine\\one.safetensors"])
    assert prompts.choices()[0] == "mine/one.safetensors"
