"""Who may import whom, by the contracts of `.importlinter`. Run: pytest tests/source"""

from __future__ import annotations

import configparser
import importlib.util
import shutil
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CODE = ("host", "nodes", "lidit_core", "lidit_train", "lidit_eval", "lidit_stickers")
CONTRACTS = configparser.ConfigParser()
CONTRACTS.read(ROOT / ".importlinter", encoding="utf-8")
BREACHES = {  # a contract: the file, and the line in it, that break it
    "packages": ("lidit_train/recipe/fields.py", "import lidit_stickers.source"),
    "pack": ("host/lidit/conds.py", "from ...lidit_train.recipe import Recipe"),
    "apart": ("nodes/inputs.py", "import lidit_train.recipe"),
    "comfyui": ("lidit_core/text/cache.py", "import comfy.model_management"),
    "circles": ("lidit_core/model/layers.py", "from .refiners import Branch"),
    "transformers": ("lidit_core/model/dit.py", "from transformers import AutoModel"),
    "gguf": ("lidit_core/llm/locate.py", "from gguf import GGUFReader"),
    "diffusers": ("lidit_train/loop/trainer.py", "import diffusers"),
    "pipeline": ("host/lidit/files.py", "from ...lidit_core.pipeline import Pipeline"),
    "model": ("lidit_core/model/config.py", "from ..llm.locate import available"),
    "bridge": ("lidit_core/bridge/rows.py", "from .model import Bridge"),
    "core": ("lidit_core/text/renderer.py", "from ..model.vae import WIDTH"),
    "eval": ("lidit_eval/items.py", "from .report import Judged"),
    "train": ("lidit_train/recipe/fields.py", "from ..batch import Batch"),
    "host": ("host/lidit/conds.py", "from ..llm.weights import pageable"),
    "ablation": ("lidit_stickers/ablation/recipes.py", "from .running import left"),
    "bridging": ("lidit_stickers/bridging/variants.py", "from .report import Compared"),
    "patching": ("host/patching/names.py", "from .sliders import idle_sliders"),
    "bias": ("lidit_stickers/bias/measuring.py", "from .figures import Bias"),
    "stickers": ("lidit_stickers/scenes/scenes.py", "from ..source import StickerSource"),
}


@pytest.fixture(scope="module")
def checker():
    """`run.py`, whose `lint` checks the contracts, with the Python of these tests."""
    spec = importlib.util.spec_from_file_location("setup_script", ROOT / "run.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.PYTHON = Path(sys.executable)
    return module


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    """The code and its contracts, to be changed."""
    folder = tmp_path_factory.mktemp("tree")
    for name in CODE:
        ignored = shutil.ignore_patterns("weights", "__pycache__")
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    for name in ("__init__.py", ".importlinter"):
        shutil.copy(ROOT / name, folder)
    return folder


def test_every_contract_is_kept(checker):
    assert checker.lint_imports() == 0


def test_every_contract_has_a_line_that_breaks_it():
    assert {name.rpartition(":")[2] for name in CONTRACTS.sections()[1:]} == set(BREACHES)


@pytest.mark.parametrize("contract", BREACHES)
def test_one_line_breaks_a_contract(contract, tree, checker, capfd):
    name, line = BREACHES[contract]
    path = tree / name
    before = path.read_text(encoding="utf-8")
    try:
        path.write_text(f"{before}\n{line}\n", encoding="utf-8")
        assert checker.lint_imports(tree) == 1
    finally:
        path.write_text(before, encoding="utf-8")
    title = CONTRACTS[f"importlinter:contract:{contract}"]["name"]
    told = " ".join(capfd.readouterr().out.split())
    assert f"{title} BROKEN" in told
