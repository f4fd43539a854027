"""Lists of files where folders hold what cannot be looked at: no node is lost. Host's Python."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tiny_llm import save_llm

LONGER_THAN_A_NAME = "x" * 300  # looked at through a link it is an OSError, as others' files are
KINDS = ("llm", "LLM", "text_encoders", "llm_templates", "llmdiff", "conditioning", "bridges",
         "diffusion_models")  # fmt: skip
NAMES = ("a", "a.gguf", "a.safetensors", "a.txt", "a.json", "config.json")


def litter(folder: Path) -> list[Path]:
    """Links that lead nowhere, to themselves and to what cannot be looked at, and odd files."""
    made = []
    for name in NAMES:
        for kind, target in {"gone": "none", "self": None, "odd": LONGER_THAN_A_NAME}.items():
            link = folder / f"{kind}-{name}"
            link.symlink_to(target or link.name)
            made.append(link)
    for name in ("folder.gguf", "folder.safetensors", "folder.txt"):
        (folder / name).mkdir()
        made.append(folder / name)
    within = folder / "within"
    within.mkdir()
    (within / "config.json").symlink_to(LONGER_THAN_A_NAME)
    (within / "model.safetensors").symlink_to(LONGER_THAN_A_NAME)
    return [*made, *within.iterdir(), within]


@pytest.fixture
def littered(pack, host, tmp_path, monkeypatch):
    """The host's folders and the user cache, with litter; everything goes afterwards."""
    cache = tmp_path / "cache"
    monkeypatch.setenv("LIDIT_CACHE", str(cache))
    split = cache / "llm" / "half" / "half-00001-of-00003.gguf"
    odd = cache / "llm" / "odd" / "config.json"
    for file in (split, odd):
        file.parent.mkdir(parents=True)
    split.write_bytes(b"GGUF")
    odd.symlink_to(LONGER_THAN_A_NAME)
    folders = [host.base / "models" / kind for kind in KINDS]
    folders += [host.base / "output" / "recordings", host.base / "output" / "conditioning"]
    folders += [host.base / "input"]
    made = []
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
        made += litter(folder)
    yield
    for path in made:
        path.unlink() if path.is_symlink() else path.rmdir()


def test_every_node_is_there_whatever_lies_in_the_folders(pack, littered):
    listed = {name: node.INPUT_TYPES() for name, node in pack.classes.items()}
    assert len(listed) > 20
    llms = listed["LiDiTLLMLoader"]["required"]["llm"][1]["options"]
    assert "half" in llms  # what lacks of it is told when it is loaded
    with pytest.raises(pack.module("lidit_core.errors").LiDiTError, match="2 lack in .*half"):
        pack.module("host.llm.clip").open_clip(
            pack.module("host.llm.reader").LLMSettings(
                pack.module("host.llm.files").llm_source("half")
            )
        )


def test_damaged_weights_of_the_pack_hide_no_node(pack, monkeypatch, tmp_path):
    """As half an unpacking leaves them."""
    files = pack.module("host.llmdiff.files")
    monkeypatch.setattr(files, "SHIPPED_WEIGHTS", tmp_path)
    (tmp_path / "cut.safetensors").write_bytes(b"version https://git-lfs")
    assert "cut.safetensors" not in files.adapters()


def test_what_macos_lays_beside_files_is_no_llm(pack, host):
    """On a disk of another system each file has a ._NAME."""
    folder = save_llm(host.base / "models" / "llm" / "from a Mac")
    beside = [folder / f"._{name}" for name in os.listdir(folder)]
    beside.append(folder.with_name("._from a Mac.safetensors"))
    for file in beside:
        file.write_bytes(b"\x00\x05\x16\x07")
    (folder / "model.safetensors").rename(folder / "weights.safetensors")
    inputs = {"template": "short", "layer": "-1", "token_budget": 8, "dtype": "float32"}
    try:
        listed = pack.module("host.llm.files").llm_choices()
        assert "from a Mac" in listed and not [name for name in listed if "._" in name]
        assert pack.run("LiDiTLLMLoader", llm="from a Mac", device="cpu", **inputs)
    finally:
        for file in [*folder.iterdir(), *beside[-1:]]:
            file.unlink()
        folder.rmdir()


@pytest.mark.parametrize(
    ("node", "put", "folder"),
    [
        ("LiDiTLoadConditioning", "file", "conditioning"),
        ("LiDiTRecordConditioning", "prompts", "input"),
    ],
)
def test_an_empty_list_says_what_to_put_where(pack, host, monkeypatch, tmp_path, node, put, folder):
    import folder_paths

    monkeypatch.setattr(folder_paths, "get_filename_list", lambda _: [])
    monkeypatch.setattr(folder_paths, "get_input_directory", lambda: str(tmp_path))
    monkeypatch.setattr(folder_paths, "get_output_directory", lambda: str(tmp_path))
    (only,) = pack.classes[node].INPUT_TYPES()["required"][put][1]["options"]
    assert only.startswith("(") and folder in only
    others = {"clip": None, "name": "x"} if put == "prompts" else {}
    with pytest.raises(pack.module("lidit_core.errors").LiDiTError, match=f"{folder}.*press R"):
        pack.run(node, **others, **{put: only})


def test_another_pack_may_take_the_name_of_our_folder(pack, host, tmp_path, monkeypatch):
    import folder_paths

    folders = pack.module("host.llm.files")
    ours, theirs = host.base / "models" / "llm" / "of ours", tmp_path / "of theirs"
    known = folder_paths.folder_names_and_paths
    monkeypatch.setitem(known, "llm", ([str(tmp_path)], {".gguf"}))
    try:
        for folder in (ours, theirs):
            folder.mkdir(parents=True)
            (folder / "config.json").touch()
        assert {"of ours", "of theirs"} <= set(folders.llm_choices())
    finally:
        (ours / "config.json").unlink()
        ours.rmdir()
