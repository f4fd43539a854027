"""The recipe of each run: the same for all variants, but for the text side and the seed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lidit_core.io.records import read_record
from lidit_train.recipe import Recipe

from .variants import Ablation, Variant

CACHE, TRUNK, RUNS = "cache", "trunk", "runs"  # in the ablation's folder


def run_folder(out: Path, variant: str, seed: int) -> Path:
    return out / RUNS / f"{variant}-{seed}"


def fork_fields(ablation: Ablation, variant: Variant, seed: int, trunk: str) -> dict[str, Any]:
    """The recipe of one run as plain data, without the caches' place.

    Args:
        trunk: that it is forked from; "" where all starts from nothing, and for adapters, which
            stand beside their base.
    """
    if ablation.adapter:
        adapter = {**ablation.adapter, **variant.adapter}
        return {**ablation.fork, "trains": "adapter", "adapter": adapter, "seed": seed}
    changes = {
        "llms": [asdict(spec) for spec in ablation.specs(variant)],
        "refiner": asdict(variant.refiner),
    }
    model = {"checkpoint": trunk, "fresh_text": True, "changes": changes}
    if ablation.model:
        model = {**ablation.model, "changes": {**ablation.model.get("changes", {}), **changes}}
    return {**ablation.fork, "model": model, "seed": seed}


def fork_recipe(
    ablation: Ablation,
    variant: Variant,
    seed: int,
    trunk: str,
    out: Path,
    llms: Mapping[str, str] | None = None,
) -> Recipe:
    """The recipe of one run, whose caches all runs share.

    Args:
        llms: where the LLMs of adapters are that are not found under their names.
    """
    fields = fork_fields(ablation, variant, seed, trunk)
    if ablation.adapter:
        llm = fields["adapter"].get("llm", "")
        fields["adapter"] = {**fields["adapter"], "llm": (llms or {}).get(llm, llm)}
    return with_cache(fields, out)


def with_cache(fields: dict[str, Any], out: Path) -> Recipe:
    """A recipe whose caches lie in the ablation's folder unless it names another."""
    cache = {"folder": str((out / CACHE).absolute()), **fields.get("cache", {})}
    return read_record(Recipe, {**fields, "cache": cache}, "the ablation's recipe")
