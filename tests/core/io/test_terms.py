"""Files trained on an LLM's states carry its terms. Run: pytest tests/core/io/test_terms.py"""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest
import torch
from safetensors import safe_open
from tiny_adapter import trained_adapter
from tiny_bridge import config, maker, spec
from tiny_lidit import lidit_config, save_lidit_files

from lidit_core.bridge.file import LoadedBridge, write_bridge
from lidit_core.bridge.model import Bridge
from lidit_core.bridge.teacher import Teacher, read_teacher, write_teacher
from lidit_core.checkpoints.lora import write_lora
from lidit_core.checkpoints.refiner import save_refiner
from lidit_core.cli import main
from lidit_core.errors import LiDiTError
from lidit_core.io.tensors import write_metadata
from lidit_core.io.terms import TERMS_KEY, TOKENIZERS_KEY, tokenizer_terms
from lidit_core.llmdiff.file import write_adapter

GEMMA, OTHER = "google_Gemma-3-4b-it", "another"


def checkpoint(path, llm):
    save_lidit_files(path.parent, lidit_config("first", llm)).replace(path)


def refiner(path, llm):
    whole = path.with_name("whole.safetensors")
    checkpoint(whole, llm)
    save_refiner(whole, llm, path)


def lora(path, llm):
    layers = {"blocks.0.mlp.0": {"A": torch.ones(1, 4), "B": torch.ones(4, 1)}}
    write_lora(path, layers, 1.0, lidit_config(llm))


def adapter(path, llm):
    made = trained_adapter()
    named = replace(made.config, llm=replace(made.config.llm, name=llm))
    write_adapter(path, made.state_dict(), named)


def bridge(path, llm):
    written(path, config(spec(), spec(llm)))


def bridge_to(path, llm):
    """One that learnt to write an LLM's states."""
    made = config()
    written(path, replace(made, teacher=replace(made.teacher, name=llm)))


def bridge_to_a_hosts(path, llm):
    """One that learnt to write what a host's encoder makes, whose class names no LLM."""
    made, part = config(), {GEMMA: "gemma3_12b", OTHER: "qwen3_4b"}[llm]
    written(path, replace(made, teacher=replace(made.teacher, name="TEModel_", tokenizers=(part,))))


def recording_of_a_hosts(path, llm):
    """What is known of such an encoder beside its recording."""
    spec = config().teacher
    part = {GEMMA: "gemma2_2b", OTHER: "t5xxl"}[llm]
    spec = replace(spec, name="TEModel_", tokenizers=(part,))
    made = Teacher(spec, maker(), torch.zeros(spec.vocabulary, 128, dtype=torch.bfloat16))
    write_teacher(path.parent, made).replace(path)
    read = read_teacher_of(path)
    assert read.spec == spec


def read_teacher_of(path):
    folder = path.with_suffix("")
    folder.mkdir()
    shutil.copy(path, folder / "teacher.safetensors")
    return read_teacher(folder)


def written(path, configuration):
    made = Bridge(configuration)
    weights = {k: torch.zeros_like(v) for k, v in made.state_dict().items()}
    empty = torch.zeros(1, 8, 20), {"pooled_output": torch.zeros(1, 6)}
    write_bridge(path, LoadedBridge(made, maker(), empty), weights)


def terms_in(path) -> str | None:
    with safe_open(path, "pt") as file:
        return file.metadata().get(TERMS_KEY)


WRITERS = [checkpoint, refiner, lora, adapter, bridge, bridge_to]
WRITERS += [bridge_to_a_hosts, recording_of_a_hosts]


@pytest.mark.parametrize("write", WRITERS)
def test_what_was_trained_on_gemmas_states_carries_its_terms(tmp_path, write):
    for llm in (GEMMA, OTHER):
        write(tmp_path / f"{llm}.safetensors", llm)
    assert "https://ai.google.dev/gemma/terms" in terms_in(tmp_path / f"{GEMMA}.safetensors")
    assert terms_in(tmp_path / f"{OTHER}.safetensors") is None


def test_older_files_get_them_when_stamped(tmp_path):
    path = tmp_path / "model.safetensors"
    checkpoint(path, GEMMA)
    with safe_open(path, "pt") as file:
        older = {k: v for k, v in file.metadata().items() if k != TERMS_KEY}
    write_metadata(path, older)
    assert main(["stamp", str(path)]) == 0
    assert "gemma/terms" in terms_in(path)


@pytest.mark.parametrize(
    ("name", "licence"),
    [
        *((name, "MIT License, Copyright (c) 2021 OpenAI") for name in ("clip_l", "clip_g", "l")),
        *((name, "Apache License 2.0") for name in ("t5xxl", "umt5xxl", "google_flan-t5-xl")),
        *((name, "Apache License 2.0") for name in ("qwen25_7b", "Qwen3-0.6B", "mistral3_24b")),
        *((name, "Apache License 2.0") for name in ("SmolLM2-135M-Instruct", "gemma4", "words")),
        *((name, "Gemma Terms of Use") for name in ("gemma3_12b", "t5gemma", "gemma-3-270m")),
        *((name, "Meta Llama 3 Community License") for name in ("llama", "Meta-Llama-3-8B")),
        *((name, "is not known here") for name in ("jina_clip_2", "hydit_clip", "pile_t5xl")),
        *((name, "is not known here") for name in ("TinyLlama-1.1B", "SDXLClipModel")),
    ],
)
def test_a_tokenizer_says_its_licence(name, licence):
    (told,) = tokenizer_terms([name]).values()
    assert told.startswith(f"{name}: ") and licence in told


def test_a_bridges_file_says_the_licences_of_its_tokenizers(tmp_path):
    """As its teacher's do; one of before knows the LLM's name, or a class of the host's alone."""
    made, path = config(), tmp_path / "bridge.safetensors"
    told = {}
    for name, parts in {
        "SD1ClipModel": ("clip_l",), "gemma-3-270m": (), "LTXAVTEModel_": (), "LuminaTEModel_": (),
    }.items():  # fmt: skip
        written(path, replace(made, teacher=replace(made.teacher, name=name, tokenizers=parts)))
        with safe_open(path, "pt") as file:
            told[name] = file.metadata().get(TOKENIZERS_KEY), file.metadata().get(TERMS_KEY)
    assert told["SD1ClipModel"][0].startswith("clip_l: MIT License") and not told["SD1ClipModel"][1]
    assert "Gemma Terms" in told["gemma-3-270m"][0]
    assert "is not known here" in told["LTXAVTEModel_"][0]
    assert all("gemma/terms" in told[name][1] for name in [*told][1:])


def test_names_of_tokenizers_are_as_many_as_layouts():
    with pytest.raises(LiDiTError, match="tokenizers=.* and 1 layouts; expected 1 or none"):
        replace(config().teacher, tokenizers=("clip_l", "t5xxl"))
