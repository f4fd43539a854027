"""The LLM makes room for the DiT. Host's Python: pytest tests/host

Where there is no GPU the need is simulated: the host, which never frees the CPU's memory by itself,
is told to make more room than there is, as it does on a GPU before it loads a model.
"""

from __future__ import annotations

import pytest
from clip_kit import fresh_loader, save_llms, states
from model_kit import Kit, save_small


@pytest.fixture(scope="module")
def kit(pack, host, tmp_path_factory) -> Kit:
    save_llms(host)
    return Kit(pack, host, save_small(tmp_path_factory.mktemp("lidit") / "small.safetensors"))


@pytest.fixture
def management():
    from comfy import model_management

    yield model_management
    model_management.unload_all_models()


def loaded(management) -> list:
    return [entry.model for entry in management.current_loaded_models]


def test_the_llm_leaves_when_the_dit_needs_the_room_and_comes_back(kit, pack, management):
    clip, model = fresh_loader(pack)(), kit.load()
    before = states(clip)
    assert loaded(management) == [clip.patcher]
    management.free_memory(1 << 60, clip.patcher.load_device)
    management.load_models_gpu([model])
    assert loaded(management) == [model]
    assert states(clip).equal(before) and loaded(management) == [model]  # from the cache
    states(clip, "a prompt that is new")
    assert clip.patcher in loaded(management)


def test_both_stay_where_there_is_room(kit, pack, management):
    clip, model = fresh_loader(pack)(), kit.load()
    states(clip)
    kit.sample(model, kit.prompt(seed=1))
    assert {id(entry) for entry in loaded(management)} == {id(clip.patcher), id(model)}


def test_the_dit_is_loaded_by_sampling_and_unloaded_by_the_button(kit, management):
    model = kit.load()
    kit.sample(model, kit.prompt(seed=1))
    assert loaded(management) == [model]
    management.unload_all_models()
    assert loaded(management) == []
