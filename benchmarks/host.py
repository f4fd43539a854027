"""LI-DiT in the host, timed: ``"$COMFYUI_PYTHON" -m benchmarks.host`` with COMFYUI_PATH set.

Ratios of what is run alternately in one process, as absolute times swing. Takes about ten minutes
and 10 GB on two CPU cores.
"""

from __future__ import annotations

import argparse
import importlib
import os
import statistics
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TOKENS = 300  # of text
SIDE = 64  # of the latent
STEPS = 20
MORE = 0.2  # milliseconds of a step that the pack may add to what the host itself takes


def load_host() -> Callable[[str], types.ModuleType]:
    """Import the host on the CPU; what is returned imports a module of the pack."""
    host = os.environ.get("COMFYUI_PATH") or str(Path.home() / "ComfyUI")
    if not (Path(host) / "comfy").is_dir():
        sys.exit(f"no ComfyUI in {host}; set COMFYUI_PATH to its folder")
    sys.path.insert(0, host)
    sys.argv = ["main.py", "--cpu"]
    importlib.import_module("comfy.options").enable_args_parsing()
    pack = types.ModuleType("lidit_pack")
    pack.__path__ = [str(ROOT)]
    sys.modules["lidit_pack"] = pack
    return lambda name: importlib.import_module(f"lidit_pack.{name}")


def seconds(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def ratio(ours: Callable, theirs: Callable, rounds: int) -> float:
    """Median over rounds of the one's time by the other's, each round both."""
    ours(), theirs()
    return statistics.median(seconds(ours) / seconds(theirs) for _ in range(rounds))


def steps_of_both(module, lengths: tuple[int, ...]) -> tuple[Callable, Callable]:
    """A step of LI-DiT-1B and one of PixArt-Σ: float32, 64x64 latents, 300 text tokens."""
    import torch
    from comfy import ops
    from comfy.ldm.pixart.pixartms import PixArtMS

    layers = {"operations": ops.disable_weight_init, "dtype": torch.float32, "device": "cpu"}
    config = module("lidit_core.model.presets").find_preset("LI-DiT-1B")
    ours = filled(module("host.lidit.diffusion").HostLiDiT(config, **layers))
    theirs = filled(
        PixArtMS(in_channels=4, model_max_length=TOKENS, micro_condition=False, **layers)
    )
    x, t = torch.randn(1, 16, SIDE, SIDE), torch.tensor([500.0])
    text = text_of(module, {i: (n, 4096) for i, n in enumerate(lengths)})
    context = torch.randn(1, TOKENS, 4096)

    def call_ours():
        with torch.inference_mode():
            ours(x, t, lidit_text=text)

    def call_theirs():
        with torch.inference_mode():
            theirs(x[:, :4], t, context)

    return call_ours, call_theirs


def filled(model):
    """Small random weights: the host's layers come uninitialised."""
    import torch

    for parameter in model.parameters():
        torch.nn.init.normal_(parameter.data, std=0.01)
    return model.eval()


def text_of(module, sizes: dict[int, tuple[int, int]], rows: int = 1):
    """Random states by branch: tokens and width."""
    import torch

    states = module("lidit_core.text.states")
    return module("host.lidit.conds").ModelText(
        {
            i: states.LLMStates(
                torch.randn(rows, length, width),
                torch.full((rows, length), states.PROMPT, dtype=torch.int32),
            )
            for i, (length, width) in sizes.items()
        },
        module("lidit_core.model.text_side").TextOptions(),
    )


def sampling_of_stickers(module, rounds: int) -> tuple[float, float]:
    """KSampler with the stickers' sizes; see `sampling_by_calls`."""
    import torch

    config = module("lidit_core.model.presets").find_preset("stickers")
    dit, model_module = module("lidit_core.model.dit"), module("host.lidit.model")
    patcher = model_module.build_model(config, filled(dit.LiDiT(config)).state_dict())
    conditioning = module("host.lidit.conditioning")
    texts = module("lidit_core.model.prompt_text")

    def prompt(length: int):
        states = text_of(module, {0: (length, 576)}).states[0]
        read = texts.BranchText("SmolLM2-135M-Instruct", states)
        return [conditioning.entry_of(texts.PromptText((read,)))]

    side = config.native_size // config.latent.downsampling
    latent = {"samples": torch.zeros(1, 16, side, side)}
    positive, negative = prompt(34), prompt(34)
    bare, text = patcher.model.diffusion_model, text_of(module, {0: (34, 576)}, rows=2)
    x, t = torch.randn(2, 16, side, side), torch.tensor([500.0, 500.0])

    def calls():
        bare(x, t, lidit_text=text)

    return sampling_by_calls(patcher, positive, negative, latent, calls, rounds)


def sampling_of_flux(rounds: int) -> tuple[float, float]:
    """The same for the host's own Flux, as deep and as wide: what the host itself takes."""
    import torch
    from comfy import model_patcher, supported_models

    cpu, tokens = torch.device("cpu"), 34
    sizes = {"hidden_size": 160, "num_heads": 5, "axes_dim": [8, 12, 12], "mlp_ratio": 4.0}
    depth = {"depth": 7, "depth_single_blocks": 0, "patch_size": 2}
    channels = {"in_channels": 16, "out_channels": 16, "vec_in_dim": 576, "context_in_dim": 576}
    more = {"theta": 10_000, "qkv_bias": True, "guidance_embed": False, "txt_ids_dims": []}
    config = supported_models.Flux({"image_model": "flux", **sizes, **depth, **channels, **more})
    config.set_inference_dtype(torch.float32, None)
    model = config.get_model({}, device=cpu)
    bare = filled(model.diffusion_model)
    positive, negative = (
        [[torch.randn(1, tokens, 576), {"pooled_output": torch.randn(1, 576)}]] for _ in range(2)
    )
    x, t, context, pooled = (
        torch.randn(2, *shape) for shape in ((16, 16, 16), (), (tokens, 576), (576,))
    )
    return sampling_by_calls(
        model_patcher.ModelPatcher(model, load_device=cpu, offload_device=cpu),
        positive,
        negative,
        {"samples": torch.zeros(1, 16, 16, 16)},
        lambda: bare(x, t, context, pooled),
        rounds,
    )


def sampling_by_calls(
    patcher, positive, negative, latent, call: Callable, rounds: int
) -> tuple[float, float]:
    """20 guided steps of KSampler by as many bare calls with both prompts at once.

    Returns:
        the ratio, and the milliseconds of a step of KSampler outside of the model: medians.
    """
    import torch

    import nodes

    def sample():
        with torch.inference_mode():
            how = (1, STEPS, 3.0, "euler", "simple", positive, negative, latent)
            nodes.common_ksampler(patcher, *how)

    def calls():
        with torch.inference_mode():
            for _ in range(STEPS):
                call()

    return ratio(sample, calls, rounds), outside(patcher.model.diffusion_model, sample, rounds)


def outside(model, sample: Callable[[], object], rounds: int) -> float:
    """Milliseconds of each of a sampling's steps that pass outside of the model: the median."""
    inside, forward = [], model.forward

    def timed(*args, **kwargs):
        began = time.perf_counter()
        out = forward(*args, **kwargs)
        inside.append(time.perf_counter() - began)
        return out

    def left() -> float:
        inside.clear()
        return (seconds(sample) - sum(inside)) * 1000 / STEPS

    model.forward = timed
    try:
        return statistics.median(left() for _ in range(rounds))
    finally:
        del model.forward


def operations(call: Callable[[], object], least: float = 0.01) -> dict[str, float]:
    """The share of a call's time that each of torch's operations takes, from `least` on."""
    from torch.profiler import ProfilerActivity, profile

    call()
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        call()
    times = {event.key: event.self_cpu_time_total for event in profiled.key_averages()}
    whole = sum(times.values())
    shares = {name: time / whole for name, time in times.items() if time >= least * whole}
    return dict(sorted(shares.items(), key=lambda each: -each[1]))


def print_operations(module, lengths: tuple[int, ...]) -> None:
    for name, call in zip(("LI-DiT-1B", "PixArt-Σ"), steps_of_both(module, lengths)):
        shares = ", ".join(f"{each} {share:.3f}" for each, share in operations(call).items())
        print(f"{name}, {seconds(call):.2f} s a step: {shares}")


def main() -> int:
    """1 where a limit is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    told = "print what torch's operations take of a step with two LLMs, and nothing else"
    parser.add_argument("--operations", action="store_true", help=told)
    asked = parser.parse_args()
    rounds = asked.rounds
    module = load_host()
    half = (TOKENS // 2, TOKENS // 2)
    if asked.operations:
        print_operations(module, half)
        return 0
    stickers, flux = sampling_of_stickers(module, rounds), sampling_of_flux(rounds)
    rows = (
        ("20 sampling steps / 20 bare calls, stickers", stickers[0], None),
        ("The same for the host's own Flux, as wide", flux[0], None),
        ("Outside of the model, ms a step, stickers", stickers[1], flux[1] + MORE),
        ("The same for the host's own Flux", flux[1], None),
        ("LI-DiT-1B / PixArt-Σ, two LLMs", ratio(*steps_of_both(module, half), rounds), 1.0),
        ("LI-DiT-1B / PixArt-Σ, one LLM", ratio(*steps_of_both(module, (TOKENS,)), rounds), 1.0),
    )
    for what, measured, limit in rows:
        if limit is None:
            print(f"{what:45} {measured:8.3f}   to compare with")
            continue
        verdict = "holds" if measured <= limit else "MISSED"
        print(f"{what:45} {measured:8.3f}   limit {limit:5.2f}   {verdict}")
    return int(any(limit is not None and measured > limit for _, measured, limit in rows))


if __name__ == "__main__":
    sys.exit(main())
