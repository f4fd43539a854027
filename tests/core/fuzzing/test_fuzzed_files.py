"""Hostile files end in a sentence. Run: pytest tests/core/fuzzing/test_fuzzed_files.py"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from fuzz import Spoilt, demand, spoilt_file
from tiny_adapter import new_adapter
from tiny_lidit import lidit_config, save_lidit_files
from tiny_llm import save_llm

from lidit_core.checkpoints import lora, refiner
from lidit_core.checkpoints.lidit import CONFIG_KEY, read_lidit
from lidit_core.cli.info import describe
from lidit_core.llmdiff import file as llmdiff
from lidit_core.llmdiff.config import TokenRefiner
from lidit_core.pipeline import load_pipeline


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    save_llm(folder / "a")
    save_lidit_files(folder, lidit_config("a", "b"))
    refiner.save_refiner(folder / "model.safetensors", "a", folder / "refiner.safetensors")
    layers = {"blocks.0.mlp.0": {"A": torch.randn(2, 32), "B": torch.randn(128, 2)}}
    written = folder / "lora.safetensors"
    lora.write_lora(written, layers, 2.0, lidit_config("a"), "base", {"a": 3})
    for name, changes in {"plain": {}, "refined": {"refiner": TokenRefiner(1, 16, 2)}}.items():
        made = new_adapter("sdxl", timestep_gates=name == "refined", **changes)
        llmdiff.write_adapter(folder / f"{name}.safetensors", made.state_dict(), made.config)
    return folder


def test_checkpoints(folder):
    def use(made: Spoilt) -> None:
        describe(str(made.path))
        load_pipeline(str(made.path), [f"a={folder / 'a'}"], "cpu")

    def make(rng):
        return spoilt_file(rng, folder / "model.safetensors", CONFIG_KEY, folder)

    demand("checkpoint", make, use)


def test_refiners(folder):
    config, weights = read_lidit(folder / "model.safetensors")

    def make(rng):
        branch = rng.choice((None, 0, 1, 2, -1))
        return spoilt_file(rng, folder / "refiner.safetensors", refiner.REFINER_KEY, folder), branch

    def use(made) -> None:
        refiner.exchange_refiner(config, weights, made[0].path, made[1])

    demand("refiner", make, use)


def test_loras(folder):
    def make(rng):
        strength = rng.choice((1.0, 0.0, -1.0, 1e300))
        return spoilt_file(rng, folder / "lora.safetensors", lora.LORA_KEY, folder), strength

    def use(made) -> None:
        lora.load_with_loras(folder / "model.safetensors", [(made[0].path, made[1])])

    demand("lora", make, use)


@pytest.mark.parametrize("kind", ["plain", "refined"])
def test_adapters(folder, kind):
    def use(made: Spoilt) -> None:
        llmdiff.read_adapter_config(made.path)
        llmdiff.load_adapter(made.path)

    def make(rng):
        return spoilt_file(rng, folder / f"{kind}.safetensors", llmdiff.ADAPTER_KEY, folder)

    demand(f"{kind} adapter", make, use)
