"""What a LI-DiT gains from its captions. Run: pytest tests/stickers/test_text_gap.py"""

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
from lidit_core.llm.locate import available
from lidit_core.model.refiners import BranchOptions
from lidit_core.model.text_side import TextOptions
from lidit_core.pipeline import Pipeline, load_pipeline
from lidit_stickers import text_gap
from lidit_stickers.scenes.grammar import captions
from lidit_stickers.scenes.heldout import is_held_out
from lidit_stickers.scenes.scenes import render
from lidit_stickers.text_gap import (
    LiDiTDenoiser,
    TextGap,
    chosen_llms,
    denoiser_errors,
    held_out_scenes,
    text_gaps,
)

ROOT = Path(__file__).resolve().parents[2]
TIMES = (0.5, 0.95)


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> tuple[Path, list[str]]:
    """A random LI-DiT with two branches, and where their LLMs are."""
    folder = tmp_path_factory.mktemp("model")
    model = save_lidit_files(folder, lidit_config("one", "two"))
    return model, [f"one={save_llm(folder / 'one')}", f"two={save_llm(folder / 'two')}"]


def opened(files: tuple[Path, list[str]]) -> Pipeline:
    return load_pipeline(str(files[0]), files[1], device="cpu")


def errors_by_hand(pipeline: Pipeline, count: int, t: float) -> torch.Tensor:
    """(count, 2): z = (1 - t) x + t e, and the velocity e - x; one scene after the other."""
    config, rows = pipeline.model.config, []
    for n, (caption, scene) in enumerate(held_out_scenes(count)):
        pixels = torch.tensor(render(scene, 32)).permute(2, 0, 1)[None] / 255
        x = (pipeline.vae.encode(pixels) - config.latent.mean[0]) / config.latent.std[0]
        e = torch.randn(x.shape[1:], generator=torch.Generator().manual_seed(text_gap.SEED + n))
        said = [
            pipeline.model((1 - t) * x + t * e, torch.tensor([1000 * t]), pipeline.encode([text]))
            for text in (caption, "")
        ]
        rows.append(torch.stack([(v - (e - x)).square().mean() for v in said]))
    return torch.stack(rows)


class WithoutGates(LiDiTDenoiser):
    """Every gate of the refiner is 1, as the node's and the documents' gating off."""

    def say(self, z, timestep, text):
        options = TextOptions({0: BranchOptions(gated=False)})
        return self.pipeline.model(z, timestep, text, options=options)


@pytest.mark.font
@pytest.mark.llm
def test_weights_that_were_trained_with_gates_make_ruins_without() -> None:
    """As *LI-DiT Prompt Refiner* says of gating: tens of times the error."""
    if not available("SmolLM2-135M-Instruct"):
        pytest.skip("SmolLM2-135M-Instruct is not on this machine; get it with `lidit fetch`")
    pipeline, scenes = load_pipeline("stickers", device="cpu"), held_out_scenes(8)
    gated, ungated = (
        denoiser_errors(model(pipeline), scenes, TIMES)[..., 0].mean(1)
        for model in (LiDiTDenoiser, WithoutGates)
    )
    assert (ungated > 20 * gated).all()


@pytest.mark.font
@torch.no_grad()
def test_the_errors_are_those_of_a_direct_computation(files, monkeypatch) -> None:
    monkeypatch.setattr(text_gap, "BATCH", 2)
    pipeline = opened(files)
    for found, t in zip(text_gaps(pipeline, 5, TIMES), TIMES, strict=True):
        captioned, empty = errors_by_hand(pipeline, 5, t).double().unbind(-1)
        assert found.time == t
        assert found.captioned == pytest.approx(float(captioned.mean()), rel=1e-5)
        assert found.empty == pytest.approx(float(empty.mean()), rel=1e-5)
        assert abs(found.gap) > 1e-4
        assert found.gap == pytest.approx(float((empty - captioned).mean()), rel=1e-3)
        variance = float((empty - captioned - found.gap).square().sum() / 4)
        assert found.standard_error == pytest.approx((variance / 5) ** 0.5, rel=1e-3)


@pytest.mark.font
@torch.no_grad()
def test_a_model_that_does_not_read_has_no_gap(files) -> None:
    pipeline = opened(files)
    for layer in [*(b.cross_attn.proj for b in pipeline.model.blocks), pipeline.model.pooled_text]:
        layer.weight.zero_()
    for found in text_gaps(pipeline, 2, TIMES):
        assert found.captioned > 0 and found.gap == found.standard_error == 0


def test_no_scene_is_one_of_training() -> None:
    """All are held out, all differ, and a longer list begins with the shorter."""
    scenes = held_out_scenes(1100)
    assert scenes[:40] == held_out_scenes(40) and len({str(scene) for _, scene in scenes}) == 1100
    assert len({text for text, _ in scenes}) == 1080
    requests = {c.text: c.request for c in text_gap.evaluation_prompts()}
    assert all(is_held_out(requests[text]) for text, _ in scenes)
    assert not {text for text, _ in scenes} & {c.text for c in captions(2000, seed=1)}


def test_branches_are_chosen(files) -> None:
    """By number, with their LLMs where --llm says; else under their names."""
    model, llms = files
    assert chosen_llms(str(model), llms, []) == llms
    assert chosen_llms(str(model), llms, [1]) == llms[1:]
    assert chosen_llms(str(model), llms[:1], [1, 0]) == ["two=two", llms[0]]
    with pytest.raises(LiDiTError, match="no branch 2; expected 0 to 1"):
        chosen_llms(str(model), llms, [2])


@pytest.mark.parametrize(
    ("count", "times", "told"),
    [(1, TIMES, "expected --count 2 or more"), (2, (0.0,), "time 0.0"), (2, (1.5,), "time 1.5")],
)
def test_a_mistake_is_one_sentence(files, count, times, told) -> None:
    with pytest.raises(LiDiTError, match=told) as caught:
        text_gaps(opened(files), count, times)
    assert "\n" not in str(caught.value)


def test_a_table_has_a_line_a_time() -> None:
    assert text_gap.table([TextGap(0.85, 0.25, 0.375, 0.0625)]).splitlines() == [
        "t      with caption  other     gap       standard error",
        "0.85   0.250000      0.375000  0.125000  0.062500",
    ]


def test_relations_are_turned_round() -> None:
    """By words alone; every scene has one, and none is drawn as the turned caption says."""
    assert text_gap.turned("a cat left of a dog") == "a cat right of a dog"
    assert text_gap.turned("below a hat, a bee") == "above a hat, a bee"
    scenes = held_out_scenes(200, text_gap.related_prompts())
    assert all(text_gap.turned(text_gap.turned(text)) == text for text, _ in scenes)
    captions_of = {c.text: c.request for c in text_gap.evaluation_prompts()}
    assert all(captions_of[text].relation for text, _ in scenes)


@pytest.mark.font
@torch.no_grad()
def test_a_model_that_reads_no_words_has_no_gap_of_relations(files) -> None:
    pipeline = opened(files)
    assert all(abs(found.gap) > 0 for found in text_gaps(pipeline, 3, TIMES, related=True))
    for block in pipeline.model.blocks:
        block.cross_attn.proj.weight.zero_()
    pipeline.model.pooled_text.weight.zero_()
    assert all(found.gap == 0 for found in text_gaps(pipeline, 3, TIMES, related=True))


@pytest.mark.font
def test_the_documented_command_runs(files) -> None:
    """As the documents have it, with a tiny model and two scenes."""
    documents = [ROOT / "README.md", *ROOT.glob("docs/**/*.md")]
    text = "\n".join(path.read_text(encoding="utf-8") for path in documents)
    commands = re.findall(r"python -m (lidit_stickers\.text_gap [^\n`]+)", text)
    assert any("--turned" in words for words in commands)
    model, llms = files
    for words in commands:
        changed = re.sub(r"(?<=--model )\S+", str(model), words).split()
        command = [sys.executable, "-m", *changed, "--llm", llms[0], "--count", "2"]
        ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        times = re.findall(r"0\.\d+", words.partition("--times ")[2])
        lines = ended.stdout.splitlines()[1:]
        assert [line.split()[0] for line in lines] == times
        for line in lines:
            captioned, other, gap = map(float, line.split()[1:4])
            assert gap == pytest.approx(other - captioned, abs=2e-6)
