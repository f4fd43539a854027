"""Older files that are told their LLMs' weights. Run: pytest tests/core/cli/test_stamp.py"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest
from safetensors import safe_open
from tiny_adapter import trained_adapter
from tiny_lidit import lidit_config, save_lidit_files
from tiny_llm import save_llm

from lidit_core.branches import choose_llms
from lidit_core.checkpoints.lidit import CONFIG_KEY, read_config
from lidit_core.checkpoints.lora import read_lora, write_lora
from lidit_core.checkpoints.refiner import exchange_refiner, read_lidit, read_refiner, save_refiner
from lidit_core.cli import main
from lidit_core.io.tensors import write_metadata
from lidit_core.llm.loading import source_fingerprint
from lidit_core.llmdiff.file import ADAPTER_KEY, read_adapter, write_adapter
from lidit_core.paths import SHIPPED_WEIGHTS
from lidit_core.pipeline import Order, Settings, load_pipeline


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A checkpoint for "one" and "two", and these LLMs."""
    folder = tmp_path_factory.mktemp("model")
    model = save_lidit_files(folder, lidit_config("one", "two"))
    return model, {name: save_llm(folder / name, seed=n) for n, name in enumerate(("one", "two"))}


@pytest.fixture
def older(files, tmp_path):
    """The checkpoint as versions wrote it that knew of no fingerprint; its autoencoder beside."""
    shutil.copytree(files[0].parent, tmp_path / "model")
    path = tmp_path / "model" / files[0].name
    data = json.loads(read_metadata(path)[CONFIG_KEY])
    for llm in data["llms"]:
        del llm["fingerprint"], llm["longest_prompt"]
    write_metadata(path, {CONFIG_KEY: json.dumps(data)})
    return path


def read_metadata(path) -> dict:
    with safe_open(path, "pt") as file:
        return file.metadata()


def tensors_of(path) -> bytes:
    data = path.read_bytes()
    return data[8 + int.from_bytes(data[:8], "little") :]


def stamped(path, llms, *words) -> None:
    given = [word for name, source in llms.items() for word in ("--llm", f"{name}={source}")]
    assert main(["stamp", str(path), *given, *words]) == 0


def test_it_records_and_leaves_the_weights_byte_for_byte(files, older, capsys):
    before = tensors_of(older)
    stamped(older, files[1], "--longest-prompt", "7")
    said = capsys.readouterr().out
    config = read_config(older)
    for spec in config.llms:
        assert spec.fingerprint == source_fingerprint(files[1][spec.name]) != ""
        assert spec.longest_prompt == 7 and spec.fingerprint in said
    assert config.llms[0].fingerprint != config.llms[1].fingerprint
    assert tensors_of(older) == before
    whole = older.read_bytes()
    stamped(older, files[1], "--longest-prompt", "9")  # what is recorded stays
    assert older.read_bytes() == whole


def test_an_older_checkpoint_draws_as_before_and_so_does_a_stamped_one(files, older, caplog):
    def drawn():
        llms = [f"{name}={source}" for name, source in files[1].items()]
        pipeline = load_pipeline(str(older), llms, device="cpu")
        return next(pipeline.pictures([Order("a cat", 1)], Settings(steps=2)))

    before = drawn()
    stamped(older, files[1])
    assert (drawn() == before).all()
    assert "weights" not in caplog.text


def test_the_same_llm_is_recognised_under_another_name(files, older, tmp_path, caplog):
    stamped(older, files[1])
    other = shutil.copytree(files[1]["two"], tmp_path / "another-name")
    assert choose_llms(read_config(older), [str(other)], ()) == {1: str(other)}
    assert not caplog.records


def test_another_llm_under_the_same_name_is_told_once_on_stderr(files, older, tmp_path, caplog):
    stamped(older, files[1])
    wrong = save_llm(tmp_path / "one", seed=9)
    pipeline = load_pipeline(str(older), [str(wrong)], device="cpu")
    for seed in (1, 2):
        next(pipeline.pictures([Order("a cat", seed)], Settings(steps=1)))
    told = [r.message for r in caplog.records if "other weights" in r.message]
    assert len(told) == (2 if len(caplog.records) > 1 else 1) and "the LLM one here" in told[0]


def test_older_refiners_and_stamped_ones_are_exchanged(files, older, tmp_path):
    path = tmp_path / "refiner.safetensors"
    save_refiner(older, "two", path)
    config, weights = read_lidit(older)
    assert read_refiner(path).spec.fingerprint == ""
    _, before = exchange_refiner(config, weights, path)
    stamped(path, {"two": files[1]["two"]})
    refiner = read_refiner(path)
    assert refiner.spec.fingerprint == source_fingerprint(files[1]["two"])
    _, after = exchange_refiner(config, weights, path)
    assert all((before[key] == after[key]).all() for key in before)
    renamed = replace(refiner, spec=replace(refiner.spec, name="another name"))
    stamped(older, files[1])
    assert renamed.branch_of(read_config(older)) == 1


def test_older_loras_fit_a_stamped_checkpoint(files, older, tmp_path):
    import torch

    path, config = tmp_path / "lora.safetensors", read_config(older)
    layer = {"blocks.0.mlp.0": {"A": torch.ones(1, 32), "B": torch.ones(128, 1)}}
    write_lora(path, layer, 1.0, config, longest={"one": 5})
    stamped(older, files[1], "--longest-prompt", "3")
    longer = read_lora(path).lengthened(read_config(older))
    assert [spec.longest_prompt for spec in longer.llms] == [5, 3]
    assert longer.llms[0].fingerprint == read_config(older).llms[0].fingerprint


def test_older_adapters_load_and_are_stamped_without_a_change_of_their_weights(files, tmp_path):
    import torch

    adapter, path = trained_adapter(), tmp_path / "adapter.safetensors"
    write_adapter(path, adapter.state_dict(), adapter.config)
    data = json.loads(read_metadata(path)[ADAPTER_KEY])
    del data["llm"]["fingerprint"], data["llm"]["longest_prompt"]
    write_metadata(path, {ADAPTER_KEY: json.dumps(data)})
    config, before = read_adapter(path)
    assert config.llm.fingerprint == ""
    weights = tensors_of(path)
    stamped(path, {"tiny": files[1]["one"]}, "--longest-prompt", "7")
    config, after = read_adapter(path)
    assert config.llm.fingerprint == source_fingerprint(files[1]["one"])
    assert config.llm.longest_prompt == 7 and tensors_of(path) == weights
    assert all(torch.equal(before[key], after[key]) for key in before)


@pytest.mark.parametrize("name", ["stickers", "stickers-adapter"])
def test_the_shipped_files_are_stamped(name):
    metadata = read_metadata(SHIPPED_WEIGHTS / f"{name}.safetensors")
    (said,) = (json.loads(metadata[key]) for key in (CONFIG_KEY, ADAPTER_KEY) if key in metadata)
    llms = said.get("llms") or [said["llm"]]
    assert all(llm["fingerprint"] and llm["longest_prompt"] for llm in llms)


def test_each_llm_has_its_longest_prompt(files, older):
    stamped(older, files[1], "--longest-prompt", "two=5", "--longest-prompt", "7")
    assert [spec.longest_prompt for spec in read_config(older).llms] == [7, 5]


@pytest.mark.parametrize("words", ["seven", "0", "-3", "two=", "7.5"])
def test_a_wrong_number_of_tokens_is_told(older, words, capsys):
    whole = older.read_bytes()
    assert main(["stamp", str(older), f"--longest-prompt={words}"]) == 2
    assert f"--longest-prompt is {words!r}; expected a number of" in capsys.readouterr().err
    assert older.read_bytes() == whole


def test_what_is_no_such_file_is_told(files, tmp_path, capsys):
    vae = next(files[0].parent.glob("*-vae.safetensors"))
    assert main(["stamp", str(vae)]) == 2
    assert "holds no LI-DiT, refiner or LLMDiff adapter" in capsys.readouterr().err
    assert main(["stamp", str(files[0]), "--llm", "one"]) == 2
    assert "expected NAME=SOURCE" in capsys.readouterr().err
    assert main(["stamp", str(files[0]), "--llm", f"one={tmp_path}"]) == 2
    assert "cannot be read for one" in capsys.readouterr().err
