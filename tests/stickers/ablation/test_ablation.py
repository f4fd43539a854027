"""`lidit ablate` from file to table. Run: pytest tests/stickers/ablation/test_ablation.py"""

from __future__ import annotations

import json
import re
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from accelerate import Accelerator
from filelock import FileLock
from tiny_ablation import CLAIMS, NAMES, VARIANTS, ablate, make_ablation_world, tiny, written
from tiny_llm import save_llm

from lidit_core.cli import main
from lidit_core.errors import LiDiTError
from lidit_core.io.hashes import sha256
from lidit_core.llm.blocks import default_taps
from lidit_stickers.ablation import running
from lidit_stickers.ablation.recipes import fork_recipe
from lidit_stickers.ablation.running import LOCK, left
from lidit_stickers.ablation.variants import Ablation, read_ablation
from lidit_train.data.fetching import Fetcher
from lidit_train.data.prepare import prepare
from lidit_train.loop.trainer import Trainer
from lidit_train.tasks.task import open_task

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    return make_ablation_world(tmp_path_factory.mktemp("world"))


def figures(out: Path) -> dict[str, bytes]:
    """Every run's errors and scores."""
    return {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*.npy")}


@pytest.fixture(scope="module")
def whole(world, tmp_path_factory) -> Path:
    """An ablation that nothing disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    assert ablate(world, written(folder, tiny(world)), "--out", str(folder / "out")) == 0
    return folder / "out"


@pytest.mark.font
def test_every_variant_is_trained_measured_and_told(world, whole):
    told = json.loads((whole / "ablation.json").read_text())
    assert told["seeds"] == [0, 1] and set(told["runs"]) == {"full", "none", "both"}
    for run in told["runs"].values():
        assert np.array(run["gaps"]).shape == (2, 2) and len(run["nearest"]) == 2
    gaps = {name: np.array(run["gaps"]) for name, run in told["runs"].items()}
    assert np.abs(gaps["full"] - gaps["none"]).max() > 0
    assert np.abs(gaps["full"][0] - gaps["full"][1]).max() > 0  # a seed is another run
    by_hand = 100 * (gaps["full"] - gaps["none"]).mean() / abs(gaps["full"].mean())
    assert told["claims"][0]["gap"] == pytest.approx(by_hand, rel=1e-6)
    table = (whole / "ablation.md").read_text()
    trunk = sha256(world / "model.safetensors")
    assert told["trunk_sha256"] == trunk and f"Weights {trunk[:12]}, autoencoder" in table
    assert "learnt on 9 pictures" in table and ", 1 of 1: it helps." in table
    assert "| Table 2 | it helps | full | none | 2 against 1 |" in table
    assert "2 degrees of freedom" in table
    assert not list(whole.rglob("checkpoints"))


@pytest.mark.font
def test_two_processes_share_the_runs(world, whole, tmp_path):
    """What one has in hand is left to it, and taken up where it was let go."""
    file = written(tmp_path, tiny(world, seeds=[0], variants=VARIANTS[:2], claims=CLAIMS[:1]))
    out = tmp_path / "out"
    first, second = (out / "runs" / name / "errors.npy" for name in ("full-0", "none-0"))
    first.parent.mkdir(parents=True)
    with ThreadPoolExecutor(1) as pool:
        with FileLock(first.parent / LOCK):
            ended = pool.submit(ablate, world, file, "--out", str(out))
            while not second.with_name("nearest.npy").exists() and not ended.done():
                time.sleep(0.05)
            assert second.exists() and not first.exists() and not ended.done()
        assert ended.result() == 0 and (out / "ablation.md").exists()
    assert figures(out) == {name: figures(whole)[name] for name in figures(out)} != {}


class Killed(Exception): ...


@pytest.mark.font
def test_a_seeds_table_is_there_whoever_had_its_runs(world, whole, tmp_path, monkeypatch):
    """Two processes have each a part of the runs; the table waits for no later seed."""
    file, out = written(tmp_path, tiny(world)), tmp_path / "out"
    for name in ("full-0", "both-0"):
        shutil.copytree(whole / "runs" / name, out / "runs" / name)
    original = running.train

    def only_the_first_seed(recipe, *args, **kwargs):
        if recipe.seed:
            raise Killed
        return original(recipe, *args, **kwargs)

    monkeypatch.setattr(running, "train", only_the_first_seed)
    with FileLock(out / "runs" / "both-0" / LOCK), pytest.raises(Killed):
        ablate(world, file, "--out", str(out))
    told, expected = (json.loads((o / "ablation.json").read_text()) for o in (out, whole))
    assert told["seeds"] == [0] and told["trunk_sha256"] == expected["trunk_sha256"]
    for name, run in told["runs"].items():
        assert run["gaps"] == expected["runs"][name]["gaps"][:1]


LATER = [pytest.param(moment, marks=pytest.mark.long) for moment in ("never", "errors", "score")]


@pytest.mark.font
@pytest.mark.parametrize("moment", ["training", *LATER])
def test_killed_anywhere_it_goes_on_and_two_runs_give_the_same_numbers(
    world, whole, tmp_path, monkeypatch, moment
):
    """In the middle of a run, after it, and while its pictures are judged."""
    file = written(tmp_path, tiny(world, seeds=[0], variants=VARIANTS[:2], claims=CLAIMS[:1]))
    out = tmp_path / "out"
    if moment != "never":
        with monkeypatch.context() as broken:
            _break(broken, moment)
            with pytest.raises(Killed):
                ablate(world, file, "--out", str(out))
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.npy")}
    assert ablate(world, file, "--out", str(out)) == 0
    found, expected = figures(out), figures(whole)
    assert len(found) == 4
    assert found == {name: expected[name] for name in found}
    assert {path: path.stat().st_mtime_ns for path in before} == before  # nothing is done again


@pytest.mark.font
def test_a_run_whose_figures_alone_are_there_is_not_done_again(world, whole, tmp_path):
    """On a new machine, or where the models took too much room."""
    file, out = written(tmp_path, tiny(world)), tmp_path / "out"
    for run in (whole / "runs").iterdir():
        (out / "runs" / run.name).mkdir(parents=True)
        for name in ("asked.json", "errors.npy", "nearest.npy"):
            shutil.copy2(run / name, out / "runs" / run.name / name)
    assert ablate(world, file, "--out", str(out)) == 0
    assert (out / "ablation.md").read_text() == (whole / "ablation.md").read_text()
    assert not list(out.rglob("final.safetensors"))


def _break(patch: pytest.MonkeyPatch, moment: str) -> None:
    """Raise in the second run, at its third step or verdict, or before its errors are kept."""
    calls, limit = [0], {"training": 5, "errors": 2, "score": 5}[moment]

    def counted(original):
        def call(*args, **kwargs):
            calls[0] += 1
            if calls[0] == limit:
                raise Killed
            return original(*args, **kwargs)

        return call

    from lidit_stickers.ablation import measuring
    from lidit_stickers.judging import StickerJudge

    places = {
        "training": (Trainer, "train_step"),
        "errors": (measuring, "scene_errors"),
        "score": (StickerJudge, "judge"),
    }
    owner, name = places[moment]
    patch.setattr(owner, name, counted(getattr(owner, name)))


@pytest.mark.long
@pytest.mark.font
def test_a_trunk_of_its_own_is_trained_once(world, tmp_path, capsys):
    data = tiny(world, seeds=[0], score={"every": 0}, claims=[])
    del data["checkpoint"]
    llm = {"name": "one", "width": 32, "token_budget": 24, "template": {"name": "bare"}}
    shape = {"depth": 2, "width": 32, "heads": 2, "llms": [llm], "refiner": {"blocks": 0}}
    stages = [{"images": 8, "batch": 4, "resolution": 64}]
    model = {"preset": "stickers", "changes": shape}
    data["trunk"] = {**data["fork"], "model": model, "stages": stages}
    file = written(tmp_path, data)
    assert main(["ablate", "--print-plan", file, "--out", str(tmp_path / "out")]) == 0
    assert "the trunk" in capsys.readouterr().out
    assert ablate(world, file, "--out", str(tmp_path / "out")) == 0
    trunk = tmp_path / "out" / "trunk" / "final.safetensors"
    made = trunk.stat().st_mtime_ns
    assert "One seed tells nothing" in capsys.readouterr().out
    shutil.rmtree(tmp_path / "out" / "runs" / "none-0")
    assert ablate(world, file, "--out", str(tmp_path / "out")) == 0
    assert trunk.stat().st_mtime_ns == made


@pytest.mark.font
def test_a_folder_holds_no_two_ablations(world, whole, tmp_path, capsys):
    data = tiny(world)
    data["fork"]["stages"][0]["images"] = 20
    assert ablate(world, written(tmp_path, data), "--out", str(whole)) == 2
    assert "holds a run with another recipe than is asked for now" in capsys.readouterr().err
    data = tiny(world)
    data["variants"].append({"name": "more", "says": "later", "reads": ["two"]})
    assert [v.name for v, _ in left(read_ablation(written(tmp_path, data)), whole)] == ["more"] * 2


def batches(ablation: Ablation, variant, seed: int, world: Path, out: Path):
    """What each step of a run trains on, beside what its LLMs say."""
    trunk = str(world / "model.safetensors")
    recipe = fork_recipe(ablation, variant, seed, trunk, out)
    task, llms = open_task(recipe), {name: str(world / name) for name in NAMES}
    ready = prepare(recipe, task.spec, out, Accelerator(cpu=True), llms, task.checkpoint)
    fetcher = Fetcher(recipe, ready, lambda count: slice(None))
    for plan in ready.schedule:
        got = fetcher[plan]
        yield plan.rows, got.texts, got.zeroed.tolist(), got.latents, got.time, got.noise


@pytest.mark.font
def test_chance_depends_on_step_and_seed_alone(world, tmp_path):
    """All variants of the shipped file see the same scenes, captions, times and noise."""
    shipped = yaml.safe_load((ROOT / "recipes" / "ablate.yaml").read_text())
    data = tiny(world, variants=shipped["variants"], claims=[])
    one, two = data["readings"]["one"], data["readings"]["two"]
    taps = {**one, "block": [1, 3, -2]}
    data["readings"] = {"smollm2": one, "smollm2-plain": {**one, "template": "{prompt}"},
                        "smollm2-taps": taps, "gemma": two, "minilm": two}  # fmt: skip
    data["fork"]["stages"][0]["focus"] = {"low": 0.6, "high": 0.9, "share": 0.5}
    ablation = read_ablation(written(tmp_path, data))
    assert len(ablation.variants) >= 13
    first = list(batches(ablation, ablation.variants[0], 0, world, tmp_path))
    assert len(first) == 3 and len({tuple(step[1]) for step in first}) > 1
    for variant in ablation.variants[1:]:
        found = batches(ablation, variant, 0, world, tmp_path)
        for ours, theirs in zip(found, first, strict=True):
            assert ours[:3] == theirs[:3], variant.name
            assert all(torch.equal(a, b) for a, b in zip(ours[3:], theirs[3:])), variant.name
    other = list(batches(ablation, ablation.variants[0], 1, world, tmp_path))
    assert not torch.equal(first[0][4], other[0][4]) and first[0][0] != other[0][0]


BAD = [
    ({"seeds": []}, "no seeds"),
    ({"seeds": [1, 1]}, "seeds repeat"),
    ({"reference": "nobody"}, "reference is 'nobody'; expected one of the variants full"),
    ({"trunk": {"seed": 1}}, "begins with checkpoint and trunk; expected"),
    ({"checkpoint": ""}, "begins with nothing that it names"),
    ({"gap": {"scenes": 1}}, "gap.scenes is 1"),
    ({"gap": {"times": [0]}}, "gap.times has 0"),
    ({"score": {"prompts": "poems"}}, "score.prompts is 'poems'"),
    ({"score": {"every": 1080}}, "score.every is 1080, and evaluation has 1080 prompts"),
    ({"also": [{"prompts": "long", "every": 100}]}, "and long has 100 prompts"),
    ({"claims": [{"says": "x", "this": "full", "other": "y"}]}, "is on 'y'"),
    ({"claims": [{"says": "x", "this": "full", "other": "none", "paper": [1]}]}, "1 scores"),
    ({"variants": [{"name": "A b", "says": "", "reads": ["one"]}]}, "called 'A b'"),
    ({"variants": [{"name": "full", "says": "", "reads": ["six"]}]}, "reads 'six'"),
    ({"variants": [{"name": "full", "says": "", "reads": []}]}, "reads nothing"),
    ({"fork": {"seed": 3}}, "fork has seed"),
    ({"speed": 3}, "unknown field"),
]


@pytest.mark.parametrize(("changes", "told"), BAD)
def test_a_mistake_is_one_sentence(world, tmp_path, changes, told):
    file = written(tmp_path, tiny(world, **changes))
    with pytest.raises(LiDiTError, match=re.escape(told)) as caught:
        read_ablation(file)
    assert "\n" not in str(caught.value)


def test_several_layers_are_read_where_none_is_named(world, tmp_path):
    """`block: taps`, as a recipe of the trainer has it."""
    data = tiny(world)
    deep = save_llm(tmp_path / "deep", num_hidden_layers=12)
    data["readings"]["one"] |= {"name": str(deep), "block": "taps"}
    ablation = read_ablation(written(tmp_path, data))
    assert ablation.readings["one"].spec().block == default_taps(12)


@pytest.mark.font
def test_an_llm_that_is_not_there_is_told_before_any_run(world, tmp_path, capsys):
    out, llm = tmp_path / "out", f"one={world / 'one'}"
    assert main(["ablate", written(tmp_path, tiny(world)), "--llm", llm, "--out", str(out)]) == 2
    told = capsys.readouterr().err
    assert "variant both reads two, which is not on this machine" in told and "--llm two=" in told
    assert not out.exists()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "--out is missing"),
        (["--out", "x", "--llm", "one"], "NAME=SOURCE"),
        (
            ["--out", "x", "--llm", "One=y"],
            "of no LLM that is read here; expected NAME=",
        ),
        (["--print-plan", "--llm", "three=y"], "NAME one of one, two"),
    ],
)
def test_a_command_that_lacks_something_says_so(world, tmp_path, capsys, words, told):
    assert main(["ablate", written(tmp_path, tiny(world)), *words]) == 2
    assert told in capsys.readouterr().err
