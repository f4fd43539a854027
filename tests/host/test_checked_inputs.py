"""Values in the place of links and choices, in every node of the pack: one sentence each.

Host's Python.
"""

from __future__ import annotations

import shutil

import pytest
import torch

WIDGETS = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"}


@pytest.mark.parametrize("value", [1.5, 1 << 63, "x" * 5000, True, [3, "a"]])
def test_a_value_where_a_link_belongs_is_a_sentence(pack, value):
    errors = pack.module("lidit_core.errors")
    tried = 0
    for name, node in pack.classes.items():
        inputs = {put.id: put.get_io_type() for put in node.define_schema().inputs}
        for link in (put for put, kind in inputs.items() if kind not in WIDGETS):
            given = dict.fromkeys(inputs) | {link: value}
            with pytest.raises(
                errors.LiDiTError, match=f"^{link} is .*no output of a node"
            ) as told:
                pack.run(name, **given)
            assert len(str(told.value)) < 500
            tried += 1
    assert tried > 15


@pytest.fixture
def many_files(host):
    """As many LLMs and templates as a collector has."""
    folders = [host.base / "models" / kind / "many" for kind in ("llm", "llm_templates")]
    for number in range(40):
        llm = folders[0] / f"an LLM with a rather long name {number}"
        llm.mkdir(parents=True)
        for name in ("config.json", "model.safetensors"):
            (llm / name).touch()
    folders[1].mkdir(parents=True)
    for number in range(40):
        (folders[1] / f"a template with a rather long name {number}.txt").write_text("{prompt}")
    yield
    for folder in folders:
        shutil.rmtree(folder)


@pytest.mark.parametrize("value", [float("inf"), "\x00", "3rd", {"a": 1}, None, 0.0])
def test_a_value_that_no_list_holds_is_a_sentence(pack, many_files, value):
    """A file's name gets its sentence from the node itself, which looks for it when it runs."""
    errors = pack.module("lidit_core.errors")
    tried = 0
    for name, node in pack.classes.items():
        plain = {put.id: getattr(put, "default", None) for put in node.define_schema().inputs}
        combos = {p.id: p for p in node.define_schema().inputs if p.get_io_type() == "COMBO"}
        others = {p: c.options[0] for p, c in combos.items() if c.options}
        for choice in combos:
            with pytest.raises(errors.LiDiTError) as told:
                pack.run(name, **plain | others | {choice: value})
            assert len(str(told.value)) < 500
            tried += 1
    assert tried > 12


def test_what_the_system_refuses_is_a_sentence(pack, host):
    """As of a folder that cannot be written; nobody may be root, so here a file is in its place."""
    errors = pack.module("lidit_core.errors")
    (host.base / "output" / "taken").touch()
    prompt = [[torch.zeros(1, 2, 4), {}]]
    with pytest.raises(errors.LiDiTError, match="^the system refused.*taken.*give another") as told:
        pack.run("LiDiTSaveConditioning", conditioning=prompt, filename_prefix="taken/deeper/x")
    assert isinstance(told.value.__cause__, OSError) and "\n" not in str(told.value)
