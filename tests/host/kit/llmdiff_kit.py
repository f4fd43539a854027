"""Small random U-Nets of SD1.5's and SDXL's block structure, adapters for them, and prompts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from lidit_core.llmdiff.adapter import LLMDiffAdapter
from lidit_core.llmdiff.config import AdaptedLayer, AdapterConfig
from lidit_core.llmdiff.file import write_adapter
from lidit_core.text.spec import LLMSpec
from lidit_core.text.templates import find_template
from lidit_core.unet.families import UNetShape, cross_attention_layers, host_config

SHAPES = {  # the families' own, a tenth as wide
    "sd15": UNetShape(32, (1, 2, 4, 4), (2, 2, 2, 2), (1, 1, 1, 0), 1, 768, num_heads=8),
    "sdxl": UNetShape(32, (1, 2, 4), (2, 2, 2), (0, 2, 10), 10, 96, True, 2816, head_width=64),
}
LAYERS = {"sd15": 16, "sdxl": 70}
LLM, BLOCKS, WIDTH = "tiny", 3, 16  # of a prompt that no LLM has read
FP8 = torch.float8_e4m3fn


def adapter_config(family: str = "sd15", **changes) -> AdapterConfig:
    shape = SHAPES[family]
    layers = [AdaptedLayer(x.name, x.width, x.heads) for x in cross_attention_layers(shape)]
    llm = LLMSpec(LLM, WIDTH, "differences", find_template("short"))
    pooled = 1280 if shape.adm else 0
    config = AdapterConfig(family, tuple(layers), shape.context_width, llm, BLOCKS, pooled)
    return replace(config, **changes)


def random_adapter(config: AdapterConfig, seed: int = 0) -> LLMDiffAdapter:
    """Weights everywhere, and gates of which none is 0 or 1."""
    generator = torch.Generator().manual_seed(seed)
    adapter = LLMDiffAdapter(config).requires_grad_(False)
    for name, weight in adapter.named_parameters():
        noise = torch.randn(weight.shape, generator=generator)
        scale = weight.shape[-1] ** -0.5 if weight.ndim > 1 else 0.2
        weight.copy_(noise * scale + (1 if name.endswith(("norm.weight", "a1", "a2")) else 0))
    return adapter


def save_adapter(path: Path, seed: int = 0, trained: bool = True, **changes) -> Path:
    config = adapter_config(**changes)
    adapter = random_adapter(config, seed)
    adapter = adapter if trained else adapter.initialise()
    write_adapter(path, adapter.state_dict(), config)
    return path


class DiffKit:
    """Builds what the nodes exchange, out of the pack's own classes and the host's."""

    def __init__(self, pack, host, folder: Path) -> None:
        self.pack, self.host, self.folder = pack, host, folder
        self.cond = pack.module("host.llmdiff.conditioning")
        self.states = pack.module("lidit_core.text.states")
        reading = pack.module("host.keys").reading_of
        template = pack.module("lidit_core.text.templates").find_template("short")
        self.reading_of = lambda: reading("differences", template)

    def unet(self, family="sd15", kind="eps", channels=4, dtype=torch.float32, cast=None):
        """A MODEL with random weights."""
        import comfy.model_base
        import comfy.model_patcher
        import comfy.supported_models as known

        base = {"sd15": known.SD15, "sdxl": known.SDXL}[family]
        types = comfy.model_base.ModelType

        class Config(base):
            def model_type(self, state_dict, prefix=""):
                return {"eps": types.EPS, "v": types.V_PREDICTION}[kind]

        config = Config(host_config(replace(SHAPES[family], in_channels=channels)))
        config.set_inference_dtype(dtype, cast)
        model = config.get_model({}, device=torch.device("cpu"))
        fill(model.diffusion_model)
        cpu = torch.device("cpu")
        return comfy.model_patcher.ModelPatcher(model, load_device=cpu, offload_device=cpu)

    def adapter(self, name: str = "a", **changes) -> Path:
        return save_adapter(self.folder / f"{name}.safetensors", **changes)

    def apply(self, model, path: Path, mode="add", strength=1.0, start=0.0, end=1.0):
        return self.pack.module("host.llmdiff.apply").with_adapter(
            model, path, mode, strength, start, end
        )

    def reading(self, length=9, seed=0, llm=LLM, width=WIDTH, blocks=BLOCKS):
        """What an LLM has read, of which four tokens are the instruction's."""
        generator = torch.Generator().manual_seed(seed)
        roles = torch.full((1, length), self.states.PROMPT, dtype=torch.int32)
        roles[:, :4] = self.states.INSTRUCTION
        hidden = torch.randn(1, length, (blocks + 1) * width, generator=generator)
        read = self.states.LLMStates(hidden, roles)
        return self.cond.LLMText(llm, read, self.reading_of(), length - 4)

    def prompt(self, length=9, seed=0, own=None, **changes) -> list:
        """CONDITIONING with the checkpoint's own text beside it, or none."""
        reading = self.reading(length, seed, **changes)
        entries = [self.cond.blank("SD1.5")] if own is None else own
        return self.cond.joined(entries, reading)

    def no_text(self, width: int = 768) -> list:
        """Plain CONDITIONING whose text is zeros, as an LLMDiff Encode's own is."""
        return [[torch.zeros(1, 77, width), {"pooled_output": torch.zeros(1, 1280)}]]

    def own(self, family="sd15", seed=0) -> list:
        """The checkpoint's own text, as its CLIP would give it."""
        generator = torch.Generator().manual_seed(1000 + seed)
        text = torch.randn(1, 77, SHAPES[family].context_width, generator=generator)
        return [[text, {"pooled_output": torch.randn(1, 1280, generator=generator)}]]

    def sample(self, model, positive, negative=None, latent=None, **changes) -> torch.Tensor:
        """What the stock KSampler gives."""
        how = {"seed": 5, "steps": 2, "cfg": 1.0, "sampler_name": "euler", "scheduler": "normal"}
        how |= changes
        latent, negative = latent or empty(), negative or positive
        with torch.inference_mode():
            (out,) = self.host.nodes.common_ksampler(
                model, positive=positive, negative=negative, latent=latent, **how
            )
        return out["samples"]

    def stock(self, node_id: str, **inputs):
        """The first output of one of the host's own nodes."""
        node = self.host.nodes.NODE_CLASS_MAPPINGS[node_id]
        with torch.inference_mode():
            return getattr(node(), node.FUNCTION)(**inputs)[0]


def fill(module: torch.nn.Module) -> None:
    """Weights at which activations neither vanish nor grow."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, weight in module.named_parameters():
            noise = torch.randn(weight.shape, generator=generator)
            if weight.ndim > 1:
                noise *= (weight[0].numel()) ** -0.5
            else:
                noise = 0.1 * noise + (1 if "norm" in name and name.endswith("weight") else 0)
            weight.copy_(noise.to(weight.dtype))


def empty(batch: int = 1, height: int = 8, width: int = 8) -> dict:
    return {"samples": torch.zeros(batch, 4, height, width)}


def distance(a: torch.Tensor, b: torch.Tensor) -> float:
    """Relative; nan where one is not finite."""
    return ((a - b).norm() / b.norm()).item()


def watched(model) -> tuple:
    """The MODEL, and the arguments of every call of its diffusion model from now on."""
    from comfy.patcher_extension import WrappersMP

    calls = []

    def note(executor, x, t, c_concat=None, c_crossattn=None, control=None, options={}, **conds):  # noqa: B006
        calls.append({"x": x, "t": t, "context": c_crossattn, **conds})
        return executor(x, t, c_concat, c_crossattn, control, options, **conds)

    changed = model.clone()
    changed.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "note", note)
    return changed, calls


def sentence(raised) -> str:
    """What an error of ours tells, on one line."""
    told = str(raised.value)
    assert type(raised.value).__name__ == "LiDiTError" and "\n" not in told
    return told


def noted(caplog, words: str) -> list[str]:
    """The notes that hold these words."""
    return [r.getMessage() for r in caplog.records if words in r.getMessage()]


def controlnet(family: str) -> tuple:
    """The host's CONTROL_NET over random weights, and what each call of it reads."""
    import comfy.cldm.cldm
    import comfy.controlnet
    import comfy.ops

    config = {k: v for k, v in host_config(SHAPES[family]).items() if k != "out_channels"}
    ours = {"hint_channels": 3, "operations": comfy.ops.disable_weight_init}
    network = comfy.cldm.cldm.ControlNet(**config, **ours, dtype=torch.float32).eval()
    fill(network)
    read, forward = [], network.forward

    def note(x, hint, timesteps, context, **given):
        read.append({"context": context, **given})
        return forward(x, hint, timesteps, context, **given)

    network.forward = note
    return comfy.controlnet.ControlNet(network, load_device=torch.device("cpu")), read
