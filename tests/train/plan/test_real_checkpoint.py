"""An adapter on a checkpoint as people own it, and its plan. Run: python3 run.py prove checkpoints

SD1.5 with random weights in one file: float16, 2.1 GB, LDM's layout. It takes that of disk.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from processes import ROOT, watched
from tiny_training import pictures

from lidit_core.llm.demo_llms import SMOLLM2
from lidit_core.llm.locate import available
from lidit_core.llmdiff.file import load_adapter
from lidit_core.unet.families import FAMILIES
from lidit_train.plan.hardware import DEVICES, THIS_CPU
from lidit_train.recipe_file import read_recipe
from lidit_train.tasks.adapter.plan import TEXT_ENCODERS, AdapterPlan, make_adapter_plan
from lidit_train.tasks.adapter.target import adapter_target

pytest.importorskip("diffusers")
from diffusers import AutoencoderKL  # noqa: E402
from one_file import random_clip, write_one_file  # noqa: E402

RECIPE = ROOT / "recipes" / "sd15-adapter.yaml"
REAL = pytest.mark.skipif(
    not os.environ.get("LIDIT_REAL_SIZES"),
    reason="minutes and GB: python3 run.py prove checkpoints",
)
PICTURES = 4
OFF = 0.15  # of the plan
IMPORTS = """
import torch, accelerate, torch.distributed.fsdp
import transformers.models.clip.modeling_clip, transformers.models.llama.modeling_llama
from diffusers import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from lidit_core.cli import main
from lidit_train import run
from lidit_train.tasks.adapter.task import AdapterTask
"""
TRAINED = """
learner = AdapterTask.learner
def begun(self, ready):
    told["filled"] = most["RssAnon"]
    most["RssAnon"] = 0
    return learner(self, ready)
AdapterTask.learner = begun
assert main(sys.argv[1:]) == 0
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Iterator[Path]:
    """A folder with the checkpoint and some pictures, which is deleted."""
    scratch = Path(tempfile.mkdtemp(dir=os.environ.get("LIDIT_SCRATCH")))
    pictures(scratch / "pictures", PICTURES, (640, 640))
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float16)
    try:
        vae = AutoencoderKL(
            block_out_channels=[128, 256, 512, 512],
            down_block_types=["DownEncoderBlock2D"] * 4,
            up_block_types=["UpDecoderBlock2D"] * 4,
            layers_per_block=2,
            latent_channels=4,
        )
        clip = random_clip(768, layers=12, inner=3072).half()
        assert sum(p.numel() for p in clip.parameters()) == TEXT_ENCODERS["sd15"]
        write_one_file(scratch / "sd15.safetensors", FAMILIES["sd15"], vae, clip)
    finally:
        torch.set_default_dtype(before)
    yield scratch
    shutil.rmtree(scratch, ignore_errors=True)


def changes(folder: Path, side: int) -> list[str]:
    """The checkpoint and the pictures, and how short the run is."""
    return [
        f"adapter.base={folder / 'sd15.safetensors'}",
        f"data.sources.0.path={folder / 'pictures'}",
        "adapter.modes=[replace, add]",
        f"stages=[{{images: 4, batch: 2, resolution: {side}}}]",
        "hardware.device=this CPU",
        "data.workers=0",
    ]


def plan_of(folder: Path, side: int) -> AdapterPlan:
    recipe = read_recipe(RECIPE, changes(folder, side))
    return make_adapter_plan(recipe, adapter_target(recipe.adapter), folder, DEVICES[THIS_CPU])


@REAL
@pytest.mark.parametrize("side", [256, 384])
def test_an_adapter_on_one_file_takes_what_is_planned(world, side):
    if not available(SMOLLM2.name):
        pytest.skip("SmolLM2 is not here: lidit fetch smollm2")
    size = (world / "sd15.safetensors").stat().st_size
    assert size == pytest.approx(2.13e9, rel=0.01)
    plan, out = plan_of(world, side), world / f"run-{side}"
    settings = [word for change in changes(world, side) for word in ("--set", change)]
    words = ["train", str(RECIPE), "--out", str(out), "--device", "cpu", *settings]
    found = watched(TRAINED, *words, imports=IMPORTS)
    vae = plan.autoencoder
    phases = {
        "filling the cache": (found["filled"], vae.weights + vae.pictures(side, PICTURES)),
        "training": (found["RssAnon"], sum(plan.memory().values())),
    }
    off = {}
    for name, (measured, planned) in phases.items():
        taken = measured - found["before"]
        off[name] = planned / taken - 1
        told = f"{taken / 1e9:.2f} GB measured, {planned / 1e9:.2f} planned ({off[name]:+.1%})"
        print(f"{side} pixels, {name}: {told}")
    print({name: f"{part / 1e9:.2f}" for name, part in plan.memory().items()})
    adapter = load_adapter(out / "final.safetensors")
    assert adapter.config.modes == ("replace", "add")
    assert all(p.isfinite().all() for p in adapter.parameters())
    assert max(map(abs, off.values())) <= OFF
