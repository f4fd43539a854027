"""Another instruction for a model, from Python. Run: pytest -k test_template_swap"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from tiny_lidit import lidit_config, save_lidit_files
from tiny_llm import save_llm

import lidit_core
from lidit_core.errors import LiDiTError
from lidit_core.text.prompt_encoder import PromptEncoder

PROMPT = "two red cats"
TOLD = "stands in for"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    model = save_lidit_files(folder, lidit_config("one", "two"))
    return str(model), [f"{name}={save_llm(folder / name)}" for name in ("one", "two")]


@pytest.mark.parametrize("template", ["none", "a picture of {prompt}"])
def test_every_llm_reads_by_the_template_and_it_is_told(files, template, caplog):
    model, llms = files
    trained = lidit_core.load_pipeline(model, llms, device="cpu").encode([PROMPT])
    assert TOLD not in caplog.text
    found = lidit_core.load_pipeline(model, llms, device="cpu", template=template).encode([PROMPT])
    assert caplog.text.count(TOLD) == 1
    for branch, llm in enumerate(llms):
        spec = lidit_core.read_config(model).llms[branch]
        own = PromptEncoder(llm.partition("=")[2], template, spec.block, spec.token_budget)
        expected = own.encode([PROMPT])
        assert torch.equal(found[branch].hidden, expected.hidden)
        assert torch.equal(found[branch].roles, expected.roles)
        assert found[branch].hidden.shape != trained[branch].hidden.shape


def test_the_models_own_template_is_nothing(files, caplog):
    model, llms = files
    own = lidit_core.read_config(model).llms[0].template
    pipelines = [lidit_core.load_pipeline(model, llms, "cpu", template=t) for t in (None, own)]
    one, other = (pipeline.encode([PROMPT]) for pipeline in pipelines)
    assert all(torch.equal(one[i].hidden, other[i].hidden) for i in one) and TOLD not in caplog.text


@pytest.mark.parametrize("template", ["haiku", 5, "nowhere.json"])
def test_a_template_that_is_none_is_one_sentence(files, template):
    with pytest.raises(LiDiTError) as caught:
        lidit_core.load_pipeline(*files, device="cpu", template=template)
    assert str(template) in str(caught.value) and "\n" not in str(caught.value)


def test_the_documents_name_what_is_there():
    page = Path(__file__).resolve().parents[3] / "docs" / "cli.md"
    (block,) = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    names = re.findall(r"^from lidit_core import (.+)$", block, re.MULTILINE)
    assert len(names) == block.count("import")
    assert all(hasattr(lidit_core, name) for line in names for name in line.split(", "))
    compile(block, str(page), "exec")
