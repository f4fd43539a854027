"""The LLMDiff adapter at real sizes: ``"$COMFYUI_PYTHON" -m benchmarks.llmdiff`` with COMFYUI_PATH.

Which layers of SD1.5's and SDXL's U-Nets are found, how large an adapter for them is, and by how
much the adapter lengthens a step of SD1.5. Random weights; takes some minutes and 8 GB.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from .host import filled, load_host, ratio

TOKENS = 77  # of the checkpoint's own text, and as many of the LLM's
SIDE = 64  # of the latent
LLM = ("SmolLM2-135M-Instruct", 576, 30)  # name, width, blocks
LAYERS = {"sd15": 16, "sdxl": 70}
LIMIT = 1.35  # of a step with the adapter by one without


def adapter_config(module, family: str):
    config, families = module("lidit_core.llmdiff.config"), module("lidit_core.unet.families")
    shape = families.FAMILIES[family]
    found = families.cross_attention_layers(shape)
    layers = tuple(config.AdaptedLayer(x.name, x.width, x.heads) for x in found)
    template = module("lidit_core.text.templates").find_template("none")
    spec = module("lidit_core.model.config").LLMSpec(LLM[0], LLM[1], "differences", template)
    pooled = 1280 if shape.adm else 0
    return config.AdapterConfig(family, layers, shape.context_width, spec, LLM[2], pooled)


def found_in_host(module, family: str) -> int:
    """Layers of the host's real-size U-Net, built without weights, that the adapter fits."""
    import torch
    from comfy import ops
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

    families = module("lidit_core.unet.families")
    kind = families.host_config(families.FAMILIES[family])
    unet = UNetModel(**kind, device="meta", dtype=torch.float32, operations=ops.disable_weight_init)
    found = module("host.llmdiff.unet").found_layers(unet)
    fits = tuple(layer.layer for layer in found) == adapter_config(module, family).layers
    return len(found) if fits else 0


def numbers(module, family: str) -> int:
    adapter = module("lidit_core.llmdiff.adapter").LLMDiffAdapter
    made = adapter(adapter_config(module, family), device="meta")
    return sum(p.numel() for p in made.parameters())


def model(module):
    """SD1.5 as the host's MODEL, float32."""
    import comfy.model_patcher
    import comfy.supported_models
    import torch

    families = module("lidit_core.unet.families")
    config = comfy.supported_models.SD15(families.host_config(families.FAMILIES["sd15"]))
    config.set_inference_dtype(torch.float32, None)
    cpu = torch.device("cpu")
    made = config.get_model({}, device=cpu)
    filled(made.diffusion_model)
    return comfy.model_patcher.ModelPatcher(made, load_device=cpu, offload_device=cpu)


def step_against_base(module, mode: str, rounds: int) -> float:
    """A sampling of one step, with the adapter by without, alternately."""
    import torch

    import nodes

    base = model(module)
    config = adapter_config(module, "sd15")
    adapter = filled(module("lidit_core.llmdiff.adapter").LLMDiffAdapter(config))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "adapter.safetensors"
        module("lidit_core.llmdiff.file").write_adapter(path, adapter.state_dict(), config)
        adapted = module("host.llmdiff.apply").with_adapter(base, path, mode, 1.0, 0.0, 1.0)
    text = prompt(module, config)
    latent = {"samples": torch.zeros(1, 4, SIDE, SIDE)}

    def sample(patcher):
        with torch.inference_mode():
            nodes.common_ksampler(patcher, 1, 1, 1.0, "euler", "normal", text, text, latent)

    return ratio(lambda: sample(adapted), lambda: sample(base), rounds)


def prompt(module, config) -> list:
    """77 tokens of the checkpoint's own and 77 of the LLM's."""
    import torch

    states, conditioning = module("lidit_core.text.states"), module("host.llmdiff.conditioning")
    hidden = torch.randn(1, TOKENS, config.states_width)
    roles = torch.full((1, TOKENS), states.PROMPT, dtype=torch.int32)
    reading = module("host.keys").reading_of(config.llm.block, config.llm.template)
    read = conditioning.LLMText(config.llm.name, states.LLMStates(hidden, roles), reading, TOKENS)
    own = [[torch.randn(1, TOKENS, 768), {"pooled_output": None}]]
    return conditioning.joined(own, read)


def main() -> int:
    """1 where a limit is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    module, missed = load_host(), False
    for family, wanted in LAYERS.items():
        found, size = found_in_host(module, family), numbers(module, family)
        missed |= found != wanted
        print(f"{family}: {found} of {wanted} layers fitted, {size:,} numbers with {LLM[0]}")
    for mode in ("add", "replace"):
        measured = step_against_base(module, mode, rounds)
        missed |= measured > LIMIT
        print(f"a step of SD1.5, mode {mode}, by one without: {measured:.3f}   limit {LIMIT}")
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
