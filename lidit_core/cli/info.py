"""Show what a checkpoint, a preset or a picture is: configuration, parameters, settings.

A checkpoint's configuration is read from its own metadata; a preset's parameters are counted on
PyTorch's meta device, so even LI-DiT-10B needs no memory.
"""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "show a checkpoint, a preset or a picture's settings"

EXAMPLES = """\
examples:
  lidit info                    the presets and the shipped models
  lidit info stickers           the shipped weights
  lidit info LI-DiT-10B         a preset: the paper's larger model
  lidit info picture.png        how a picture was drawn
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "what", nargs="?", metavar="FILE|PRESET", help="a .safetensors, a .png, or a preset's name"
    )


def run(args: argparse.Namespace) -> int:
    print(_overview() if args.what is None else describe(args.what))
    return 0


def describe(what: str) -> str:
    """The text for a picture, a shipped model, a preset or a checkpoint file."""
    import json

    from ..checkpoints.lidit import read_config
    from ..io.pictures import read_settings
    from ..model.presets import PRESETS, find_preset
    from ..paths import SHIPPED_WEIGHTS
    from ..shipped import SHIPPED_MODELS, find_model

    if Path(what).suffix.lower() == ".png":
        return json.dumps(read_settings(what), indent=2, ensure_ascii=False)
    shipped = what in SHIPPED_MODELS and (SHIPPED_WEIGHTS / SHIPPED_MODELS[what].file).is_file()
    if what in PRESETS and not shipped:
        return _table(f"preset {what}", find_preset(what))
    if "." not in Path(what).name and what not in SHIPPED_MODELS:
        find_preset(what)  # neither a file's name nor a preset: say which there are
    path, _ = find_model(what)
    config = read_config(path)  # says what is wrong with the path
    return _table(f"{path.name} ({path.stat().st_size / 2**20:.1f} MiB)", config)


def _overview() -> str:
    from ..model.presets import PRESETS
    from ..shipped import SHIPPED_MODELS

    return f"presets: {', '.join(PRESETS)}\nshipped models: {', '.join(SHIPPED_MODELS)}"


def count_parameters(config) -> int:
    """How many numbers a LI-DiT of this configuration has; nothing is allocated."""
    from ..model.dit import LiDiT

    return sum(p.numel() for p in LiDiT(config, device="meta").parameters())


def _table(title: str, config) -> str:
    from ..io.terms import terms_for
    from ..llm.blocks import shown_block

    latent, refiner = config.latent, config.refiner
    rows = {
        "parameters": f"{count_parameters(config) / 1e6:,.1f} million",
        "blocks": f"{config.depth} of width {config.width} with {config.heads} heads",
        "patch": f"{config.patch} latent pixels, {config.patch * latent.downsampling} pixels",
        "latent": f"{latent.name}: {latent.channels} channels, 1/{latent.downsampling} of a side",
        "prediction": config.prediction,
        "native size": f"{config.native_size} pixels",
        "made for": f"{config.steps} steps, guidance {config.guidance:g}",
        "token refiner": f"{refiner.blocks} blocks, "
        f"{'full' if refiner.full_attention else 'causal'} attention, {_gates(refiner)}",
        "fusion": f"by {refiner.fusion}, {refiner.collaborative_blocks} collaborative block(s)",
    }
    if refiner.registers:
        until = "kept as keys" if refiner.registers_kept else "left out after both refiners"
        rows["registers"] = f"{refiner.registers} before each LLM's tokens, {until}"
    if any(spec.taps > 1 for spec in config.llms):
        rows["layers"] = f"mixed by {refiner.mix}"
    lines = [title, *(f"  {name:<14} {value}" for name, value in rows.items())]
    for spec in config.llms:
        lines.append(
            f"  {'LLM':<14} {spec.name}: {spec.width} wide, block {shown_block(spec.block)}, "
            f"template {spec.template.name!r}, up to {spec.token_budget} tokens{_trained_on(spec)}"
        )
        text = " ".join(f"{spec.template.system} {spec.template.instruction}".split())
        lines.append(f"  {'':<14} {text!r}" if text else f"  {'':<14} no instruction")
        lines += [f"  {'':<14} its terms hold too: {t}" for t in terms_for([spec.name]).values()]
    return "\n".join(lines)


def _gates(refiner) -> str:
    if not refiner.gated:
        return "not gated"
    return "gated" if refiner.gates == "time" else "gates that do not read the time"


def _trained_on(spec) -> str:
    known = spec.longest_prompt is not None
    return f", trained on prompts of at most {spec.longest_prompt}" if known else ""
