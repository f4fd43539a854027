"""Names that no file has: whatever reads a file says so in one sentence."""

from __future__ import annotations

import re

import pytest
from fuzz import not_a_sentence

from lidit_core.bridge.file import load_bridge
from lidit_core.checkpoints.lidit import read_lidit
from lidit_core.checkpoints.lora import read_lora
from lidit_core.checkpoints.refiner import read_refiner
from lidit_core.errors import LiDiTError
from lidit_core.io.conditioning import read_encoded
from lidit_core.io.pictures import read_settings
from lidit_core.io.prompts import read_prompts
from lidit_core.io.recording import open_recording
from lidit_core.llm.locate import locate
from lidit_core.llmdiff.file import load_adapter, read_adapter_config
from lidit_core.pipeline import load_pipeline
from lidit_core.text.templates import find_template, read_template

NAMES = {"half a character": "\ud800", "zero byte": "a\0b", "too long": "x" * 5000}
READERS = (
    *(load_bridge, read_lidit, read_lora, read_refiner, read_encoded, read_settings),
    *(read_prompts, open_recording, locate, load_adapter, read_adapter_config, load_pipeline),
    *(find_template, read_template),
)


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
@pytest.mark.parametrize("ending", ["", ".safetensors", ".gguf", ".txt", "/model"])
@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.__name__)
def test_a_name_that_no_file_has_gets_a_sentence(reader, name, ending):
    with pytest.raises(LiDiTError) as told:
        reader(name + ending)
    assert not_a_sentence(str(told.value)) == ""


def test_a_sentence_keeps_both_ends_of_what_is_long():
    told = str(LiDiTError(f"the name {'x' * 500}y is too long; expected less"))
    assert re.fullmatch(r"the name x{60}\.\.\.x{19}y is too long; expected less", told)
