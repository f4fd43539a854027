"""`--dtype` of the command line. Run: pytest tests/core/cli/test_dtype_option.py"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from tiny_lidit import lidit_config, save_lidit_files
from tiny_llm import save_llm

from lidit_core import pipeline
from lidit_core.cli import main
from lidit_core.cli.inspect import FIGURES
from lidit_core.dtypes import DTYPES, torch_dtype
from lidit_core.io.pictures import read_settings

PROMPT = "two red cats"


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> list[str]:
    """The words that name a model and its LLM."""
    folder = tmp_path_factory.mktemp("model")
    model = save_lidit_files(folder, lidit_config("one"))
    return ["--model", str(model), "--llm", str(save_llm(folder / "one"))]


@pytest.fixture
def lidit(files, tmp_path, monkeypatch):
    """Runs a command in an empty folder, and gives the dtype of the model that it has loaded."""
    loaded, own = [], pipeline.load_with_loras
    monkeypatch.chdir(tmp_path)

    def load(*args):
        loaded.append(own(*args))
        return loaded[-1]

    monkeypatch.setattr(pipeline, "load_with_loras", load)

    def run(verb: str, *words: str) -> torch.dtype:
        assert main([verb, PROMPT, *files, "--device", "cpu", *words]) == 0
        return loaded[-1].dtype

    return run


@pytest.mark.parametrize("name", DTYPES)
def test_generate_draws_in_it_and_its_picture_tells(lidit, files, name):
    assert lidit("generate", "--dtype", name, "--out", "a.png") == torch_dtype(name)
    default = name == "float32"
    assert read_settings("a.png").get("dtype") == (None if default else name)
    own = pipeline.load_pipeline(files[1], files[3:], "cpu", dtype=torch_dtype(name))
    (expected,) = own.pictures([pipeline.Order(PROMPT, 0)])
    with Image.open("a.png") as picture:
        assert picture.tobytes() == expected.numpy().tobytes()
    assert lidit("generate", "--out", "b.png") == torch.float32
    assert (Path("a.png").read_bytes() == Path("b.png").read_bytes()) == default


@pytest.mark.parametrize("figure", FIGURES)
def test_inspect_looks_into_it(lidit, figure):
    words = ["--figure", figure, "--dtype"]
    assert lidit("inspect", "--out", "a.png") == torch.float32
    for name in ("bf16", "float16"):
        assert lidit("inspect", *words, name, "--out", f"{name}.png") == torch_dtype(name)
        with Image.open(f"{name}.png") as picture:
            assert picture.width > 90


@pytest.mark.parametrize("verb", ["generate", "inspect"])
def test_another_name_is_refused_with_those_that_there_are(verb, capsys):
    with pytest.raises(SystemExit) as ended:
        main([verb, PROMPT, "--dtype", "fp8"])
    told = capsys.readouterr().err
    assert ended.value.code == 2 and "invalid choice: 'fp8'" in told
    assert all(name in told.splitlines()[-1] for name in DTYPES)
