"""What tokens know of their place. Run: pytest tests/stickers/test_token_places.py"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_lidit import lidit_config, save_lidit_files
from tiny_llm import save_llm

from lidit_core.errors import LiDiTError
from lidit_core.pipeline import Pipeline, load_pipeline
from lidit_stickers.probe.sides import captions, known_sides, token_of
from lidit_stickers.token_places import KnownColumns, explained, known_columns, table

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> tuple[Path, str]:
    """A random LI-DiT of large pictures, and where its LLM is."""
    folder = tmp_path_factory.mktemp("model")
    config = lidit_config("one", native_size=160, position_dilation=2)
    return save_lidit_files(folder, config), f"one={save_llm(folder / 'one')}"


def opened(files: tuple[Path, str]) -> Pipeline:
    return load_pipeline(str(files[0]), [files[1]], device="cpu")


def test_what_features_tell_is_explained_and_what_they_do_not_is_not() -> None:
    torch.manual_seed(0)
    places = torch.randint(0, 9, (30, 40))
    noise = torch.randn(30, 40, 6)
    told = torch.cat([noise, 3 - 0.5 * places[..., None]], dim=-1)
    assert explained(told, places, 20) == pytest.approx(1, abs=1e-4)
    assert abs(explained(noise, places, 20)) < 0.05


@pytest.mark.font
def test_a_border_that_reaches_no_inner_token_tells_it_nothing(files) -> None:
    pipeline = opened(files)
    rows = known_columns(pipeline, 6, (1.0,))
    assert [(row.time, row.block) for row in rows] == [(1.0, 0), (1.0, 1)]
    for conv in (pipeline.model.wide_position.conv1, pipeline.model.wide_position.conv2):
        torch.nn.init.normal_(conv.weight)
        torch.nn.init.ones_(conv.bias)
    told = known_columns(pipeline, 6, (1.0,))[0]
    pipeline.model.position.requires_grad_(False)
    for module in (pipeline.model.position, pipeline.model.wide_position):
        module.conv2.weight.data.zero_()
    untold = known_columns(pipeline, 6, (1.0,))[0]
    assert told.everywhere > 0.2 > untold.everywhere and untold.inner < 0.1


@pytest.mark.parametrize("count, told", [(2, "expected --count 3 or more")])
def test_a_mistake_is_one_sentence(files, count, told) -> None:
    with pytest.raises(LiDiTError, match=told):
        known_columns(opened(files), count)


def test_small_pictures_have_no_inner_tokens(tmp_path) -> None:
    model = save_lidit_files(tmp_path, lidit_config("one"))
    pipeline = load_pipeline(str(model), [f"one={save_llm(tmp_path / 'one')}"], device="cpu")
    with pytest.raises(LiDiTError, match="2 tokens a side; expected 7 or more"):
        known_columns(pipeline, 3)


def test_a_table_has_a_line_a_block() -> None:
    assert table([KnownColumns(0.98, 3, 0.5, 0.125)]).splitlines() == [
        "t      block  R² everywhere  inner tokens",
        "0.98   3      0.500          0.125",
    ]


@pytest.mark.font
@pytest.mark.parametrize(
    "module, begin",
    [
        ("lidit_stickers.token_places", "t      block"),
        ("lidit_stickers.probe.sides", "read      R²"),
    ],
)
def test_the_documented_command_runs(files, module, begin) -> None:
    """As the documents have it, with a tiny model and three scenes."""
    text = "\n".join(p.read_text(encoding="utf-8") for p in ROOT.glob("docs/**/*.md"))
    words = re.findall(rf"python -m ({re.escape(module)} [^\n`]+)", text)
    changed = re.sub(r"(?<=--model )\S+", str(files[0]), words[0]).split()
    command = [sys.executable, "-m", *changed, "--llm", files[1], "--count", "3"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(begin)


def test_captions_of_sides_name_two_things_and_the_side_of_the_first() -> None:
    every = captions(180)
    assert len({caption for caption, *_ in every}) == 180
    for caption, first, second, side in every[:20]:
        where = "left" if side < 0 else "right"
        assert caption == f"a {first} to the {where} of a {second}"
    with pytest.raises(LiDiTError, match="--count is 181; expected 3 to 180"):
        captions(181)


def test_the_token_of_a_noun_is_the_one_that_holds_its_last_character(files) -> None:
    pipeline = load_pipeline(files[0], [files[1]])
    ((caption, first, second, _), *_) = captions(3)
    (row,) = pipeline.encoders[0].encode_rows([caption], offsets=True)
    assert row.offsets is not None
    for end in (2 + len(first), len(caption)):
        start, stop = row.offsets[token_of(row, end) - row.span[0]].tolist()
        assert start < end <= stop
    assert [found.read for found in known_sides(pipeline, 6)] == ["states", "refined"]
