"""What the host can do with any model, done with ours. Host's Python: pytest tests/host"""

from __future__ import annotations

import gc
import inspect

import pytest
import torch
from conftest import wait_for
from model_kit import close, counted, empty, save_small

CPU = torch.device("cpu")


@pytest.fixture
def model(kit):
    return kit.load()


@pytest.fixture(scope="module", autouse=True)
def extra_nodes(host) -> None:
    """The host's own nodes outside nodes.py."""
    for name in ("nodes_model_merging", "nodes_slg", "nodes_train", "nodes_lora_extract",
                 "nodes_custom_sampler"):  # fmt: skip
        path = host.path / "comfy_extras" / f"{name}.py"
        if path.exists():
            loaded = host.nodes.load_custom_node(str(path), module_parent="comfy_extras")
            assert wait_for(loaded), name


KINDS = [("bfloat16", 0.05), ("fp8_e4m3fn", 0.3), ("fp8_e5m2", 0.6), ("float32", 0.0)]


@pytest.mark.parametrize("kind,limit", KINDS)
def test_every_way_to_store_weights_draws_the_same_picture(kit, model, kind, limit):
    stored = kit.load(weight_dtype=kind)
    kinds = {p.dtype for p in stored.model.diffusion_model.parameters()}
    assert kinds == {kit.model.WEIGHT_DTYPES[kind]}
    reference, picture = (kit.sample(m, kit.prompt(seed=1), cfg=1.0) for m in (model, stored))
    distance = (picture - reference).norm() / reference.norm()
    assert distance <= limit
    assert distance > 0 or kind == "float32"


def lora_for(model, rank: int = 2) -> dict[str, torch.Tensor]:
    """A LoRA on every linear layer, in the file format that trainers write."""
    generator = torch.Generator().manual_seed(0)
    weights = {}
    for name, module in model.model.diffusion_model.named_modules():
        if isinstance(module, torch.nn.Linear):
            out, into = module.weight.shape
            key = f"diffusion_model.{name}"
            weights[f"{key}.lora_up.weight"] = torch.randn(out, rank, generator=generator) * 0.2
            weights[f"{key}.lora_down.weight"] = torch.randn(rank, into, generator=generator) * 0.2
    return weights


def loaded_lora(kit, model, host, strength: float = 1.0):
    """The model with that LoRA, through the host's stock loader."""
    import comfy.utils

    folder = host.base / "models" / "loras"
    folder.mkdir(parents=True, exist_ok=True)
    comfy.utils.save_torch_file(lora_for(model), str(folder / "small.safetensors"))
    node = host.nodes.LoraLoaderModelOnly()
    return node.load_lora_model_only(model, "small.safetensors", strength)[0]


def test_a_lora_reaches_every_layer_and_survives_offloading(kit, model, host):
    plain = kit.sample(model, kit.prompt(seed=1))
    patched = loaded_lora(kit, model, host)
    linears = sum(isinstance(m, torch.nn.Linear) for m in model.model.diffusion_model.modules())
    assert len(patched.patches) == linears
    drawn = kit.sample(patched, kit.prompt(seed=1))
    assert not close(drawn, plain, 1e-2)
    assert torch.equal(kit.sample(model, kit.prompt(seed=1)), plain)
    offloaded, whole = (loaded_lora(kit, kit.load(), host) for _ in range(2))
    expected = forward_loaded(kit, whole)
    assert close(forward_offloaded(kit, offloaded), expected, 1e-4)
    assert not close(forward_loaded(kit, kit.load()), expected, 1e-2)


def forward_loaded(kit, patcher) -> torch.Tensor:
    patcher.patch_model(device_to=CPU)
    try:
        return forward(kit, patcher)
    finally:
        patcher.unpatch_model(CPU)


def forward_offloaded(kit, patcher) -> torch.Tensor:
    """With every weight where the host puts those that do not fit."""
    patcher.load(CPU, lowvram_model_memory=1)
    try:
        assert any(getattr(m, "comfy_patched_weights", False) is False
                   and getattr(m, "comfy_cast_weights", False)
                   for m in patcher.model.diffusion_model.modules())  # fmt: skip
        return forward(kit, patcher)
    finally:
        patcher.detach()


@torch.no_grad()
def forward(kit, patcher) -> torch.Tensor:
    text = kit.pack.module("host.lidit.conds").ModelText(
        {0: kit.read(seed=1)}, kit.pack.module("lidit_core.model.text_side").TextOptions()
    )
    x = torch.randn(1, 16, 4, 4, generator=torch.Generator().manual_seed(1))
    return patcher.model.diffusion_model(x, torch.tensor([600.0]), lidit_text=text)


def test_full_offload_gives_the_same_picture(kit, model):
    expected = forward_loaded(kit, model)
    assert torch.equal(forward_offloaded(kit, kit.load()), expected)
    fp8 = kit.load(weight_dtype="fp8_e4m3fn")
    assert close(forward_offloaded(kit, fp8), forward_loaded(kit, fp8))


@pytest.mark.parametrize("prediction", ["flow", "eps", "v"])
def test_what_the_host_saves_loads_again(kit, host, pack, tmp_path, prediction):
    made = save_small(tmp_path / "made.safetensors", seed=3, prediction=prediction)
    model = kit.model.load_model(made)
    node = host.nodes.NODE_CLASS_MAPPINGS["ModelSave"]()
    node.save(model, f"diffusion_models/{prediction}")
    (saved,) = (host.base / "output" / "diffusion_models").glob(f"{prediction}_*.safetensors")
    again = kit.model.load_model(saved)
    assert kit.model.config_of_model(again) == kit.model.config_of_model(model)
    prompt = kit.prompt(seed=1)
    assert torch.equal(kit.sample(again, prompt), kit.sample(model, prompt))


def test_other_nodes_can_replace_a_block_and_the_attention(kit, model, host):
    from comfy.patcher_extension import WrappersMP  # noqa: F401  (the host has it)

    plain = kit.sample(model, kit.prompt(seed=1))
    skipped = kit.stock_v3(
        "SkipLayerGuidanceDiT",
        model=model,
        scale=3.0,
        start_percent=0.0,
        end_percent=1.0,
        double_layers="1",
        single_layers="",
    )
    assert not close(kit.sample(skipped, kit.prompt(seed=1)), plain, 1e-3)
    watched, seen = model.clone(), []

    def override(function, *args, **kwargs):
        seen.append(args[0].shape)
        return function(*args, **kwargs)

    watched.model_options["transformer_options"]["optimized_attention_override"] = override
    assert close(kit.sample(watched, kit.prompt(seed=1)), plain)
    assert len(seen) == 4 * (2 * 2 + 2)  # steps x (self and cross in each block, and the refiner)


def test_the_model_can_be_made_anew_for_training_and_more_gpus(kit, model):
    if "force_deepcopy" not in inspect.signature(model.clone).parameters:
        pytest.skip("needs ComfyUI 0.33: models that are made anew for each GPU")
    fresh = model.clone(force_deepcopy=True)
    assert fresh.model is not model.model
    assert torch.equal(kit.sample(fresh, kit.prompt(seed=1)), kit.sample(model, kit.prompt(seed=1)))


def test_a_cancelled_run_stops_within_a_step_and_the_next_is_right(kit, model, monkeypatch):
    import comfy.model_management as management
    import comfy.utils
    from comfy.patcher_extension import WrappersMP

    def report(*args, **kwargs):  # as the host's server does at each step
        management.throw_exception_if_processing_interrupted()

    monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", report)

    expected = kit.sample(model, kit.prompt(seed=1))
    interrupted, calls = model.clone(), []

    def cancel(executor, *args, **kwargs):
        calls.append(1)
        if len(calls) == 2:
            management.interrupt_current_processing(True)
        return executor(*args, **kwargs)

    interrupted.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "cancel", cancel)
    with pytest.raises(management.InterruptProcessingException):
        kit.sample(interrupted, kit.prompt(seed=1), steps=20)
    assert len(calls) == 2
    management.interrupt_current_processing(False)
    assert torch.equal(kit.sample(model, kit.prompt(seed=1)), expected)


def test_unloading_leaves_nothing_loaded_and_no_cache_holds_the_model(kit):
    import weakref

    import comfy.model_management as management

    model = kit.load()
    kit.sample(model, kit.prompt(seed=1))
    assert any(loaded.model is not None for loaded in management.current_loaded_models)
    management.unload_all_models()
    assert not management.current_loaded_models
    gone = weakref.ref(model.model)
    del model
    gc.collect()
    assert gone() is None


def version(host) -> tuple[int, ...]:
    return tuple(int(part) for part in host.version.split(".")[:2])


def test_the_hosts_lora_trainer_trains_ours(kit, model, host):
    if "TrainLoraNode" not in host.nodes.NODE_CLASS_MAPPINGS or version(host) < (0, 33):
        pytest.skip("needs ComfyUI 0.33: its LoRA trainer")
    generator = torch.Generator().manual_seed(2)
    latents = [{"samples": torch.randn(1, 16, 4, 4, generator=generator)} for _ in range(2)]
    settings = {
        "batch_size": 1, "grad_accumulation_steps": 1, "steps": 6, "learning_rate": 1e-2,
        "rank": 4, "optimizer": "AdamW", "loss_function": "MSE", "seed": 1,
        "training_dtype": "fp32", "lora_dtype": "fp32", "quantized_backward": False,
        "algorithm": "LoRA", "gradient_checkpointing": True, "checkpoint_depth": 1,
        "offloading": False, "existing_lora": "[None]", "bucket_mode": False,
        "bypass_mode": False,
    }  # fmt: skip
    given = {"model": [model], "latents": latents, "positive": [kit.prompt(seed=s) for s in (1, 2)]}
    node = host.nodes.NODE_CLASS_MAPPINGS["TrainLoraNode"]
    with torch.inference_mode():
        out = node.execute(**given, **{k: [v] for k, v in settings.items()})
    lora, losses = out.args[0], out.args[1]["loss"]
    assert len(losses) == 6 and all(loss == loss for loss in losses)
    import comfy.sd

    trained, _ = comfy.sd.load_lora_for_models(model, None, lora, 1.0, 0)
    assert any("text_side" in key for key in trained.patches), "the refiners are trained too"
    before, after = (kit.sample(m, kit.prompt(seed=1)) for m in (model, trained))
    assert not close(after, before, 1e-3)


def test_nothing_is_left_of_a_drawing_for_the_next(kit, model):
    """The host draws one after the other, with the same objects."""
    one, two = kit.prompt(seed=1), kit.prompt(length=14, seed=2)
    expected = [kit.sample(model, prompt, latent=empty(2)) for prompt in (one, two)]
    again = [kit.sample(model, prompt, latent=empty(2)) for prompt in (two, one)]
    assert torch.equal(again[1], expected[0]) and torch.equal(again[0], expected[1])


def test_a_step_runs_the_model_once(kit, model):
    _, calls = counted(kit, model, kit.prompt(seed=1), kit.prompt(seed=2), steps=7)
    assert calls == [2] * 7


def custom(host, node_id: str, **inputs):
    """The first output of a custom sampling node, which the versions write in different forms."""
    node = host.nodes.NODE_CLASS_MAPPINGS[node_id]
    with torch.inference_mode():
        if hasattr(node, "execute"):
            return node.execute(**inputs).args[0]
        return getattr(node(), node.FUNCTION)(**inputs)[0]


def test_a_chain_of_custom_sampling_nodes_gives_the_stock_samplers_latent(kit, model, host):
    positive, negative = kit.prompt(length=12, seed=1), kit.prompt(seed=2)
    guider = {"model": model, "positive": positive, "negative": negative, "cfg": 3.0}
    schedule = {"model": model, "scheduler": "simple", "steps": 4, "denoise": 1.0}
    parts = {
        "noise": custom(host, "RandomNoise", noise_seed=5),
        "guider": custom(host, "CFGGuider", **guider),
        "sampler": custom(host, "KSamplerSelect", sampler_name="euler"),
        "sigmas": custom(host, "BasicScheduler", **schedule),
    }
    drawn = custom(host, "SamplerCustomAdvanced", **parts, latent_image=empty())["samples"]
    assert torch.equal(drawn, kit.sample(model, positive, negative))
