"""What a LI-DiT computes in, from Python. Run: pytest tests/core/diffusion/test_dtypes.py"""

from __future__ import annotations

import pytest
import torch
from tiny_lidit import lidit_config, random_lidit, random_noise, random_texts, save_lidit_files
from tiny_llm import save_llm

from lidit_core.checkpoints.lidit import load_lidit
from lidit_core.checkpoints.lora import load_with_loras
from lidit_core.diffusion import sampling
from lidit_core.dtypes import check_dtype
from lidit_core.errors import LiDiTError
from lidit_core.io.tensors import read_safetensors, write_safetensors
from lidit_core.pipeline import Order, Pipeline, load_pipeline
from lidit_core.text.states import LLMStates

HALF = (torch.bfloat16, torch.float16)
ORDERS = [Order("two red cats", 3), Order("a dog", 4)]
# What pictures may be off by, the largest and the mean of numbers in 0 to 255 that deviate by 31.
# Of twelve pictures measured they were 3 and 0.30 in bfloat16, 1 and 0.05 in float16.
OFF = {torch.bfloat16: (6, 0.6), torch.float16: (2, 0.1)}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    model = save_lidit_files(folder, lidit_config("one", "two"))
    return str(model), [f"{name}={save_llm(folder / name)}" for name in ("one", "two")]


def drawn(pipeline: Pipeline) -> torch.Tensor:
    return torch.stack(list(pipeline.pictures(ORDERS))).float()


@pytest.fixture(scope="module")
def exact(files) -> torch.Tensor:
    return drawn(load_pipeline(*files, device="cpu"))


@pytest.mark.parametrize("dtype", HALF)
def test_pictures_of_half_the_memory_differ_but_little(files, exact, dtype):
    pipeline = load_pipeline(*files, device="cpu", dtype=dtype)
    off = (drawn(pipeline) - exact).abs()
    largest, mean = OFF[dtype]
    assert 0 < off.max() <= largest and off.mean() <= mean
    assert {weight.dtype for weight in pipeline.model.parameters()} == {dtype}
    assert {weight.dtype for weight in pipeline.vae.parameters()} == {torch.float32}
    whole = load_pipeline(*files, device="cpu").encoders
    assert {i: of.dtype for i, of in pipeline.encoders.items()} == {
        i: of.dtype for i, of in whole.items()
    }


def test_float32_is_the_default_whatever_a_file_holds(files, exact, tmp_path):
    """Weights that are stored in bfloat16 are computed with as the same numbers in float32."""
    assert torch.equal(drawn(load_pipeline(*files, device="cpu", dtype=torch.float32)), exact)
    tensors, metadata = read_safetensors(files[0])
    vae = files[0].replace("model.safetensors", "tiny-vae.safetensors")
    found = []
    for name, dtype in (("small", torch.bfloat16), ("large", torch.float32)):
        path = tmp_path / name / "model.safetensors"
        stored = {k: v.bfloat16().to(dtype) for k, v in tensors.items()}
        write_safetensors(path, stored, metadata)
        write_safetensors(path.with_name("tiny-vae.safetensors"), *read_safetensors(vae))
        pipeline = load_pipeline(str(path), files[1], device="cpu")
        assert pipeline.model.dtype == torch.float32
        found.append(drawn(pipeline))
    assert torch.equal(*found) and not torch.equal(found[0], exact)


@pytest.mark.parametrize("guidance", [1.0, 3.0])
@pytest.mark.parametrize("dtype", HALF)
def test_latents_stay_float32_and_the_model_alone_computes_in_the_dtype(
    monkeypatch, dtype, guidance
):
    model, seen, steps = random_lidit(2).to(dtype), [], []
    model.register_forward_pre_hook(lambda _, args: seen.append(args[0].dtype))
    own = sampling.euler_step

    def step(prediction, z, output, *times):
        steps.append((z.dtype, output.dtype))
        return own(prediction, z, output, *times)

    monkeypatch.setattr(sampling, "euler_step", step)
    texts = random_texts(2, 5, 4)
    latents = sampling.sample(model, random_noise(2, 8, 8), texts, texts, 3, guidance)
    assert set(seen) == {dtype} and steps == [(torch.float32, torch.float32)] * 3
    assert latents.dtype == torch.float32 and not torch.equal(latents, latents.to(dtype).float())


@pytest.mark.parametrize("dtype", ["bf16", None, 16, torch.int8, torch.float64, torch.float8_e5m2])
def test_another_dtype_is_one_sentence(files, dtype):
    calls = (
        lambda: load_pipeline(*files, device="cpu", dtype=dtype),
        lambda: load_lidit(files[0], dtype),
        lambda: load_with_loras(files[0], [], dtype),
    )
    for call in calls:
        with pytest.raises(LiDiTError, match=r"dtype is .*; expected torch.float32, torch.bf"):
            call()


def test_a_device_without_the_dtype_is_told(monkeypatch):
    def zeros(*size, dtype, device):
        raise TypeError("BFloat16 is not supported on MPS\nand more")

    monkeypatch.setattr(torch, "zeros", zeros)
    check_dtype(torch.float32, "mps")  # which every device has
    with pytest.raises(LiDiTError, match=r"mps does not compute in torch.bfloat16 \(BFloat16 is"):
        check_dtype(torch.bfloat16, "mps")


def test_numbers_beyond_float16_name_the_dtype(files, tmp_path):
    """Normed afterwards, such numbers are a picture in the others."""
    tensors, metadata = read_safetensors(files[0])
    tensors["patch_embedder.weight"] *= 1e6
    path = tmp_path / "model.safetensors"
    write_safetensors(path, tensors, metadata)
    vae = files[0].replace("model.safetensors", "tiny-vae.safetensors")
    write_safetensors(tmp_path / "tiny-vae.safetensors", *read_safetensors(vae))
    for dtype in (torch.float32, torch.bfloat16):
        drawn(load_pipeline(str(path), files[1], device="cpu", dtype=dtype))
    pipeline = load_pipeline(str(path), files[1], device="cpu", dtype=torch.float16)
    with pytest.raises(LiDiTError, match="not finite numbers .* in float16, .* choose bf16 or"):
        drawn(pipeline)


def test_states_of_a_large_llm_are_read_in_each(files):
    """An LLM's states exceed float16; the refiners make them smaller first."""
    texts = {
        i: LLMStates(states.hidden * 1e5, states.roles) for i, states in random_texts().items()
    }
    exact, *found = (
        sampling.sample(random_lidit().to(dtype), random_noise(1, 8, 8), texts, texts, 2)
        for dtype in (torch.float32, *HALF)
    )
    assert all((each - exact).abs().max() < 0.1 * exact.abs().max() for each in found)
