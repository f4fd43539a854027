"""Which LLMs and templates the canvas offers. Run: see conftest.py"""

from __future__ import annotations

import importlib.util
import os
import shlex
import shutil
import struct
import subprocess
import sys

import pytest
import torch
from conftest import HOST, wait_for
from safetensors.torch import save_file
from tiny_llm import save_llm

SMOLLM2 = "SmolLM2-135M-Instruct"
INPUTS = {
    "template": "short",
    "layer": "-3",
    "token_budget": 96,
    "dtype": "float32",
    "device": "default",
}


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty user cache."""
    monkeypatch.setenv("LIDIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def models(pack, host, cache):
    """The host's models folder without any LLM in it; what was there comes back."""
    names = ("llm", "LLM", "text_encoders", "llm_templates")
    aside = [folder for name in names if (folder := host.base / "models" / name).exists()]
    for folder in aside:
        folder.rename(folder.with_name(folder.name + " aside"))
    for name in names:
        (host.base / "models" / name).mkdir()
    yield host.base / "models"
    for name in names:
        shutil.rmtree(host.base / "models" / name)
    for folder in aside:
        folder.with_name(folder.name + " aside").rename(folder)


@pytest.fixture
def folders(pack):
    return pack.module("host.llm.files")


@pytest.fixture
def error(pack):
    return pack.module("lidit_core.errors").LiDiTError


@pytest.fixture
def demo(pack):
    return pack.module("lidit_core.llm.demo_llms")


def offered(pack, node="LiDiTLLMLoader", name="llm"):
    """What the combo lists, asked as the host asks it."""
    return getattr(pack, node).INPUT_TYPES()["required"][name][1]["options"]


def validated(class_type, **inputs):
    """Errors of one node as the host finds them before a prompt runs: (type, details)."""
    import execution

    prompt = {"1": {"class_type": class_type, "inputs": inputs}}
    _, errors, _ = wait_for(execution.validate_inputs("prompt", prompt, "1", {}))
    return [(found["type"], found["details"]) for found in errors]


def llm_in(folder, *also):
    """What the listing takes for a model folder; nothing reads it."""
    folder.mkdir(parents=True)
    for name in ("config.json", "model.safetensors", *also):
        (folder / name).touch()


def test_our_folders_are_the_hosts(pack, host):
    import folder_paths

    for kind, suffix in {"llm": ".gguf", "llm_templates": ".json"}.items():
        assert folder_paths.get_folder_paths(kind) == [str(host.base / "models" / kind)]
        assert suffix in folder_paths.folder_names_and_paths[kind][1]
        assert (host.base / "models" / kind).is_dir()


def gguf_header(architecture: str) -> bytes:
    """A GGUF without tensors, which says what it is."""
    key, value = b"general.architecture", architecture.encode()
    numbers = [struct.pack("<IQQ", 3, 0, 1), struct.pack("<Q", len(key)), key]
    return b"GGUF" + b"".join([*numbers, struct.pack("<IQ", 8, len(value)), value])


def test_every_place_is_listed(pack, models):
    llm_in(models / "llm" / "Qwen" / "Qwen3-0.6B", "tokenizer.json")
    llm_in(models / "LLM" / "other packs")
    llm_in(models / "text_encoders" / "gemma")
    (models / "text_encoders" / "t5xxl.safetensors").touch()
    (models / "llm" / "GGUF").mkdir()
    (models / "llm" / "GGUF" / "a.Q4_K_M.gguf").write_bytes(gguf_header("llama"))
    (models / "llm" / "GGUF" / "mmproj-a.gguf").write_bytes(gguf_header("clip"))
    (models / "llm" / "GGUF" / "t5.gguf").write_bytes(gguf_header("t5encoder"))
    (models / "llm" / "half" / "config.json").parent.mkdir()
    (models / "llm" / "half" / "config.json").touch()  # no weights: the load says so
    (models / "llm" / "GGUF" / "config.json").touch()  # of the file beside it
    llm_in(models / "llm" / ".hidden")
    listed = ["GGUF/a.Q4_K_M.gguf", "Qwen/Qwen3-0.6B", "half", "other packs", "gemma"]
    assert offered(pack)[:6] == [*listed, SMOLLM2]


def test_a_refresh_finds_what_is_new(pack, models):
    before = offered(pack)
    llm_in(models / "llm" / "new")
    assert offered(pack) == ["new", *before]
    shutil.rmtree(models / "llm" / "new")
    assert offered(pack) == before


def test_extra_model_paths(pack, models, tmp_path):
    import folder_paths

    file = HOST / "utils" / "extra_config.py"  # by its file: other packages are called utils too
    module = importlib.util.spec_from_file_location("extra_config", file)
    extra_config = importlib.util.module_from_spec(module)
    module.loader.exec_module(extra_config)
    config = tmp_path / "extra.yaml"
    config.write_text(f"shared:\n  base_path: {tmp_path}\n  llm: language\n  LLM: Language2\n")
    llm_in(tmp_path / "language" / "extra")
    llm_in(tmp_path / "Language2" / "extra2")
    known = {k: (list(v[0]), v[1]) for k, v in folder_paths.folder_names_and_paths.items()}
    try:
        extra_config.load_extra_path_config(str(config))
        assert {"extra", "extra2"} <= set(offered(pack))
        assert validated("LiDiTLLMLoader", llm="extra", **INPUTS) == []
    finally:
        folder_paths.folder_names_and_paths.clear()
        folder_paths.folder_names_and_paths.update(known)


def test_ours_comes_before_others_of_its_name(folders, models):
    llm_in(models / "llm" / "same")
    llm_in(models / "text_encoders" / "same")
    assert folders.llm_source("same") == str(models / "llm" / "same")


def test_one_folder_under_two_names_is_listed_once(pack, models):
    llm_in(models / "llm" / "a")
    shutil.rmtree(models / "LLM")
    try:
        (models / "LLM").symlink_to(models / "llm", target_is_directory=True)
        assert offered(pack).count("a") == 1
    finally:
        (models / "LLM").unlink()
        (models / "LLM").mkdir()


def test_names_from_windows(pack, models):
    save_llm(models / "llm" / "owner" / "tiny")
    assert validated("LiDiTLLMLoader", llm="owner\\tiny", **INPUTS) == []
    (clip,) = pack.run("LiDiTLLMLoader", llm="owner\\tiny", **INPUTS)
    assert clip.cond_stage_model.name == "tiny"


@pytest.mark.parametrize(
    "name", ["../secrets", "a/../../b", "..\\b", "/etc", "C:\\models\\x", "C:x", "\\\\host\\share"]
)
def test_names_that_lead_out_are_refused(folders, error, models, name):
    with pytest.raises(error, match="leads out of the model folders"):
        folders.llm_source(name)
    with pytest.raises(error, match="leads out of the model folders"):
        folders.template_named(name)


@pytest.mark.parametrize("name", ["LLaMA3-8B", "", ".", "hub:owner/name", "llm"])
def test_an_llm_from_elsewhere_is_named_in_a_sentence(pack, error, models, name):
    """While the node runs: of what is found before, the canvas shows the title alone."""
    assert validated("LiDiTLLMLoader", llm=name, **INPUTS) == []
    with pytest.raises(error) as told:
        pack.run("LiDiTLLMLoader", llm=name, **INPUTS)
    assert f"the LLM {name!r} is not on this machine" in str(told.value)
    assert str(models / "llm") in str(told.value)


def test_the_demo_llms_are_always_offered(pack, models, demo):
    assert set(offered(pack)) == {llm.name for llm in demo.DEMO_LLMS}
    llm_in(models / "llm" / "mine")
    assert offered(pack)[0] == "mine"
    assert pack.LiDiTLLMLoader.INPUT_TYPES()["required"]["llm"][1]["default"] == SMOLLM2


def test_of_each_the_canvas_knows_size_source_and_licence(pack, demo):
    told = pack.LiDiTLLMLoader.INPUT_TYPES()["required"]["llm"][1]
    for llm in demo.DEMO_LLMS:
        offer = told["lidit_offers"][llm.name]
        parts = (f"{llm.download_size / 1e6:.0f} MB", llm.wheels[0].package, llm.licence)
        assert all(part in offer for part in (*parts, llm.licence_url))
        assert offer in told["tooltip"] and offer in pack.LiDiTLLMLoader.DESCRIPTION
    assert "fetched on first use" in told["tooltip"]


@pytest.mark.parametrize("key", ["smollm2", "gemma3"])
def test_its_absence_names_the_switch_and_the_line_to_paste(pack, models, demo, key):
    llm = demo.find_demo(key)
    if pack.module("host.llm.files").is_here(llm.name):
        pytest.skip("the demo LLM is installed as a package here")
    assert validated("LiDiTLLMLoader", llm=llm.name, **INPUTS) == []
    with pytest.raises(demo.MissingLLM) as missing:
        pack.run("LiDiTLLMLoader", llm=llm.name, **INPUTS)
    told, line = str(missing.value).split("paste into a terminal: ")
    assert "switch 'fetch'" in told and llm.offer in told and "\n" not in told
    assert ("accept its licence" in told) == bool(llm.terms)
    python, script, named = shlex.split(line)
    assert python == sys.executable and os.path.isabs(script) and named == key
    done = subprocess.run([python, script], capture_output=True, text=True, timeout=60, cwd="/")
    assert done.returncode == 0 and SMOLLM2 in done.stdout  # without a name it lists them


def test_what_was_fetched_is_listed(pack, models, cache):
    llm_in(cache / "llm" / SMOLLM2)
    llm_in(cache / "llm" / "a-0a1b2c3d")  # converted from a file that is listed itself
    names = offered(pack)
    assert SMOLLM2 in names and "a-0a1b2c3d" not in names
    assert validated("LiDiTLLMLoader", llm=SMOLLM2, **INPUTS) == []


def test_changed_files_load_again(pack, models):
    folder = save_llm(models / "llm" / "tiny")
    before = pack.LiDiTLLMLoader.fingerprint_inputs(llm="tiny", **INPUTS)
    assert pack.LiDiTLLMLoader.fingerprint_inputs(llm="tiny", **INPUTS) == before
    os.utime(folder / "model.safetensors", (1, 1))
    assert pack.LiDiTLLMLoader.fingerprint_inputs(llm="tiny", **INPUTS) != before


def test_a_gguf_does_not_load_again_for_its_conversion(folders, models, cache):
    (cache / "llm" / "mine").mkdir(parents=True)
    (cache / "llm" / "mine" / "mine.gguf").write_bytes(b"GGUF")
    before = folders.llm_fingerprint("mine")
    (cache / "llm" / "mine" / "config.json").write_text("{}")
    assert folders.llm_fingerprint("mine") == before


def test_a_demo_llm_does_not_load_again_for_its_fetching(folders, models, cache, demo):
    if folders.is_here(SMOLLM2):
        pytest.skip("the demo LLM is installed as a package here")
    missing = folders.llm_fingerprint(SMOLLM2)
    file = demo.SMOLLM2.target
    file.parent.mkdir(parents=True)
    with file.open("wb") as gguf:
        gguf.truncate(demo.SMOLLM2.size)
    assert folders.llm_fingerprint(SMOLLM2) == missing
    file.write_bytes(b"GGUF of another size")
    assert folders.llm_fingerprint(SMOLLM2) != missing


def test_a_package_does_not_load_again_for_its_conversion(folders, models, demo, cache):
    pieces = [wheel.piece for wheel in demo.SMOLLM2.wheels if wheel.piece]
    if any(importlib.util.find_spec(piece.split("/")[0]) is None for piece in pieces):
        pytest.skip("needs SmolLM2 as an installed package")
    before = folders.llm_fingerprint(SMOLLM2)
    llm_in(cache / "llm" / SMOLLM2)
    assert before and folders.llm_fingerprint(SMOLLM2) == before


def test_an_llm_without_weights_is_told_when_it_is_loaded(pack, error, models):
    folder = save_llm(models / "llm" / "half")
    (folder / "model.safetensors").unlink()
    with pytest.raises(error, match="half"):
        pack.run("LiDiTLLMLoader", llm="half", **INPUTS)


def test_weights_alone_are_listed_and_told_at_the_load(pack, error, models):
    save_file({"model.layers.0.w.weight": torch.ones(2, 2)}, models / "llm" / "alone.safetensors")
    assert "alone.safetensors" in pack.module("host.llm.files").llm_choices()
    with pytest.raises(error, match="is not known, .* put its config.json"):
        pack.run("LiDiTLLMLoader", llm="alone.safetensors", **INPUTS)


def test_a_file_that_is_no_gguf(pack, error, models):
    (models / "llm" / "broken.gguf").write_bytes(b"nothing of the kind")
    with pytest.raises(error, match="not b'GGUF'"):
        pack.run("LiDiTLLMLoader", llm="broken.gguf", **INPUTS)


@pytest.mark.parametrize(
    "file, name",
    [
        ("SmolLM2-135M-Instruct.Q4_1", "SmolLM2-135M-Instruct"),
        ("gemma-3-270m-q4_k_m", "gemma-3-270m"),
        ("Qwen3-0.6B-BF16", "Qwen3-0.6B"),
        ("Qwen1.5-7B", "Qwen1.5-7B"),
        ("LLaMA3-8B", "LLaMA3-8B"),
        ("m-IQ4_XS", "m"),
    ],
)
def test_a_gguf_is_known_by_the_llms_name(folders, file, name):
    assert folders.model_name(file) == name


def test_templates_from_files(pack, error, models):
    node, folder = "LiDiTInstructionTemplate", models / "llm_templates"
    (folder / "mine.txt").write_text("Paint {prompt} in oil", encoding="utf-8")
    (folder / "sub").mkdir()
    (folder / "sub" / "own.json").write_text('{"instruction": "See:"}', encoding="utf-8")
    (folder / "bad.json").write_text("{", encoding="utf-8")
    assert offered(pack, node, "preset") == [
        *("paper", "none", "short", "long"),
        *("bad.json", "mine.txt", "sub/own.json"),
    ]
    read = [
        pack.run(node, preset=name, system="", instruction="")[0]
        for name in ("mine.txt", "sub\\own.json")
    ]
    assert read[0].user_turn() == ("Paint ", " in oil") and read[1].instruction == "See:"
    with pytest.raises(error, match="bad.json.*not valid JSON"):
        pack.run(node, preset="bad.json", system="", instruction="")
    texts = {"system": "", "instruction": ""}
    assert validated(node, preset="sub\\own.json", **texts) == []
    assert validated(node, preset="gone.txt", **texts) == []
    with pytest.raises(error, match="no template is named 'gone.txt'"):
        pack.run(node, preset="gone.txt", **texts)
    before = pack.LiDiTInstructionTemplate.fingerprint_inputs(preset="mine.txt")
    os.utime(folder / "mine.txt", (1, 1))
    assert pack.LiDiTInstructionTemplate.fingerprint_inputs(preset="mine.txt") != before


def test_own_texts_replace_a_presets(pack):
    def made(preset, system="", instruction=""):
        return pack.run(
            "LiDiTInstructionTemplate", preset=preset, system=system, instruction=instruction
        )[0]

    paper = made("paper")
    assert made("paper", system=" Be brief. ").system == "Be brief."
    assert made("paper", system="Be brief.").instruction == paper.instruction
    assert made("paper", instruction="See:").system == paper.system
    assert made("none", instruction="See:").user_turn() == ("See: ", "")
    assert made("none").user_turn() == ("", "")
    assert made("short", instruction="A {prompt} B").user_turn() == ("A ", " B")
