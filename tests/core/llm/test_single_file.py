"""An LLM that is one safetensors file. Run: pytest tests/core/llm/test_single_file.py"""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_llm import chat_tokenizer, relative_error, save_llm
from transformers import CONFIG_MAPPING, AutoConfig, AutoModel

from lidit_core.errors import LiDiTError
from lidit_core.llm.decoder.build import empty_model
from lidit_core.llm.loading import load_llm
from lidit_core.llm.locate import locate
from lidit_core.llm.single.file import EMBEDDED, shapes_of
from lidit_core.llm.single.released import RELEASED, Released, candidates, named
from lidit_core.text.encoder import LLMEncoder
from lidit_core.text.prompt_encoder import file_identity


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LIDIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_llm(tmp_path_factory.mktemp("llm") / "tiny", "Qwen3", head_dim=8)


@pytest.fixture
def file(folder, tmp_path):
    """The weights alone, and a folder of their name with what they do not say."""
    beside = tmp_path / "text_encoders" / "qwen_tiny"
    beside.mkdir(parents=True)
    for path in folder.iterdir():
        if path.suffix != ".safetensors":
            shutil.copy2(path, beside)
    return shutil.copy2(folder / "model.safetensors", beside.with_suffix(".safetensors"))


def encoded(source) -> torch.Tensor:
    return LLMEncoder(load_llm(source, dtype=torch.float32), "short").encode(["two bees"]).hidden[0]


def change(file, how, metadata=None) -> None:
    state = load_file(file)
    state = how(state) or state
    save_file({k: v.contiguous() for k, v in state.items()}, file, metadata=metadata)


def test_a_file_with_a_folder_of_its_name(file, folder, cache):
    assert torch.equal(encoded(file), encoded(folder))
    assert load_llm(file).name == "qwen_tiny"


def test_a_file_that_is_alone_among_a_models_files(folder, tmp_path, cache):
    copy = shutil.copytree(folder, tmp_path / "copy")
    assert torch.equal(encoded(copy / "model.safetensors"), encoded(folder))


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16, torch.float8_e4m3fn])
def test_plain_dtypes(file, folder, tmp_path, cache, kind):
    def store(state):
        return {k: v.to(kind) if v.dim() > 1 else v for k, v in state.items()}

    copy = shutil.copytree(folder, tmp_path / "copy")
    change(file, store)
    whole = copy / "model.safetensors"
    change(whole, lambda s: {k: v.float() for k, v in store(s).items()}, {"format": "pt"})
    assert torch.equal(encoded(file), encoded(copy))


def test_scaled_fp8_as_comfyui_has_it(file, folder, tmp_path, cache):
    meant = {}

    def store(state):
        for name in [k for k in state if "_proj.weight" in k]:
            scale = state[name].abs().max() / 448
            packed = (state[name] / scale).to(torch.float8_e4m3fn)
            meant[name] = packed.float() * scale
            state[name] = packed
            layer = name.removesuffix(".weight")
            state[f"{layer}.weight_scale"] = scale
            fields = json.dumps({"format": "float8_e4m3fn"}).encode()
            state[f"{layer}.comfy_quant"] = torch.tensor(list(fields), dtype=torch.uint8)

    copy = shutil.copytree(folder, tmp_path / "copy")
    change(file, store)
    change(copy / "model.safetensors", lambda state: state.update(meant), {"format": "pt"})
    assert relative_error(encoded(file), encoded(copy)) <= 1e-5


def test_the_tokenizer_is_embedded(file, folder, cache):
    for path in file.with_suffix("").glob("tok*"):
        path.unlink()
    data = (folder / "tokenizer.json").read_bytes()
    tensor = torch.tensor(list(data), dtype=torch.uint8)
    change(file, lambda state: state.update({EMBEDDED: tensor}))
    ours, theirs = load_llm(file).tokenizer, chat_tokenizer()
    assert ours("two bees")["input_ids"] == theirs("two bees")["input_ids"]


def test_the_tokenizer_is_named(file, folder, cache):
    for path in file.with_suffix("").glob("*"):
        if path.name != "config.json":
            path.unlink()
    with pytest.raises(LiDiTError, match="holds no tokenizer that is read; put its .*@FOLDER"):
        load_llm(file)
    assert torch.equal(encoded(f"{file}@{folder}"), encoded(folder))
    with pytest.raises(LiDiTError, match="no tokenizer.json; name a model folder"):
        bare = shutil.copytree(file.with_suffix(""), file.with_name("bare"))
        load_llm(f"{file}@{bare}")


def test_a_tokenizer_of_another_llm(file, cache):
    path = file.with_suffix("") / "tokenizer.json"
    data = json.loads(path.read_text())
    plain = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
    data["added_tokens"] += [{**plain, "id": 420 + i, "content": f"<{i}>"} for i in range(99)]
    path.write_text(json.dumps(data))
    with pytest.raises(LiDiTError, match="99 tokens beyond the 420 that the LLM has"):
        load_llm(file)


def test_a_file_that_no_table_knows(file, cache):
    (file.with_suffix("") / "config.json").unlink()
    with pytest.raises(LiDiTError, match="shapes of no LLM that is known .* put its config.json"):
        load_llm(file)


def test_a_file_that_is_no_llm(tmp_path, cache):
    save_file({"text_model.encoder.layers.0.mlp.fc1.weight": torch.ones(4, 4)},
              tmp_path / "clip_l.safetensors")  # fmt: skip
    with pytest.raises(LiDiTError, match="what LLM the file .*clip_l.safetensors holds is not kn"):
        load_llm(tmp_path / "clip_l.safetensors")


def test_identity_changes_with_what_it_is_made_of(file, folder, cache):
    before = file_identity(locate(file))
    load_llm(file)
    assert file_identity(locate(file)) == before
    config = file.with_suffix("") / "config.json"
    config.write_text(config.read_text() + " ")
    other = file_identity(locate(file))
    assert other != before != file_identity(locate(f"{file}@{folder}"))


def short_config(one: Released, folder):
    """The configuration of a released LLM with a block or two, as a release reads it."""
    data = one.config(tied=True)
    kinds = data.get("layer_types")
    data |= {"num_hidden_layers": 1} | ({"layer_types": kinds[:1]} if kinds else {})
    if data["model_type"] not in CONFIG_MAPPING:
        pytest.skip(f"this release of transformers has no {data['model_type']}")
    (folder / "config.json").write_text(json.dumps(data))
    return AutoConfig.from_pretrained(folder)


@pytest.mark.parametrize("one", RELEASED, ids=lambda one: one.name)
def test_released_shapes_are_those_of_the_class(one, tmp_path):
    """What the class makes of an entry has the shapes by which the entry is found."""
    module = empty_model(short_config(one, tmp_path), one.name)
    shapes = {f"model.{k}": tuple(v.shape) for k, v in module.state_dict().items()}
    if one.shapes.pictures:
        shapes["visual.deepstack_merger_list.0.norm.weight"] = (4,)
    assert shapes_of(shapes) == one.shapes
    assert one in candidates(one.shapes, one.blocks)


FILES = {
    "qwen_3_4b": "Qwen3-4B",
    "qwen_3_4b_fp8_scaled": "Qwen3-4B",
    "Qwen3-4B-Instruct-2507": "Qwen3-4B-2507",
    "qwen3_06b_base": "Qwen3-0.6B",
    "qwen_2.5_vl_7b_fp8_scaled": "Qwen2.5-7B",
    "gemma_3_12B_it": "gemma-3-12b",
    "gemma_2_2b_fp16": "gemma-2-2b",
    "llama_3.1_8b_instruct_fp8_scaled": "Llama-3.1-8B",
    "Meta-Llama-3-8B": "Llama-3-8B",
    "llava_llama3_fp8_scaled": "llava-llama-3-8b",
    "mistral_3_small_flux2_bf16": "Mistral-Small-3.2-24B",
    "SmolLM2-135M-Instruct": "SmolLM2-135M",
}


@pytest.mark.parametrize("file", FILES)
def test_files_as_people_have_them_are_found(file):
    (one,) = [one for one in RELEASED if one.name == FILES[file]]
    assert named(candidates(one.shapes, one.blocks), file) == [one]


@pytest.mark.parametrize("name, file", [("Llama-3.1-8B", "text_encoder"), ("Qwen3-4B", "model"),
                                        ("SmolLM2-135M", "smollm-135m")])  # fmt: skip
def test_a_name_that_leaves_it_open_is_not_guessed(name, file):
    (one,) = [one for one in RELEASED if one.name == name]
    assert len(named(candidates(one.shapes, one.blocks), file)) != 1


def test_a_released_llm_by_its_shapes_alone(tmp_path, cache):
    """Random weights of SmolLM2's real shape: equal to the class that the entry names."""
    (one,) = [one for one in RELEASED if one.name == "SmolLM2-135M"]
    (tmp_path / "config.json").write_text(json.dumps(one.config(tied=True)))
    config = AutoConfig.from_pretrained(tmp_path)
    (tmp_path / "config.json").unlink()
    torch.manual_seed(0)
    model = AutoModel.from_config(config).eval()
    for weight in model.parameters():
        weight.data = weight.data.bfloat16().float()
    tokenizer = chat_tokenizer().backend_tokenizer.to_str().encode()
    state = {f"model.{k}": v.bfloat16() for k, v in model.state_dict().items()}
    state[EMBEDDED] = torch.tensor(list(tokenizer), dtype=torch.uint8)
    file = tmp_path / "smollm2_135m_bf16.safetensors"
    save_file(state, file)
    llm = load_llm(file, 3, dtype=torch.float32)
    encoder = LLMEncoder(llm, "short")
    ids = encoder.renderer("two bees").ids
    with torch.no_grad():
        theirs = model(torch.tensor([ids]), output_hidden_states=True).hidden_states[3][0]
    assert relative_error(encoder.encode(["two bees"]).hidden[0], theirs) <= 1e-5
    with pytest.raises(LiDiTError, match="block 31 is not in smollm2_135m_bf16, which has 30"):
        load_llm(file, 31)
