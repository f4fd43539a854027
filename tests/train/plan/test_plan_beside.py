"""What a plan counts beside the model: the vision encoder, maps, masks, held-out pictures.

Run: pytest tests/train/plan/test_plan_beside.py
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from PIL import Image
from real_cost import real_cost
from safetensors import safe_open
from safetensors.torch import save_file
from tiny_training import ENCODERS, make_world, recipe_of, run, save_encoder
from torch.utils.flop_counter import FlopCounterMode

from lidit_core.model.presets import find_preset
from lidit_core.model.vae import TinyAutoencoder
from lidit_train.data.autoencoders.find import AutoencoderFile
from lidit_train.data.latent_cache import MASKS
from lidit_train.data.prepare import Opened
from lidit_train.data.vision.encoder import VisionEncoder
from lidit_train.loop.parallel import accelerator_for
from lidit_train.plan.autoencoder_size import autoencoder_size, recipe_autoencoder
from lidit_train.plan.cache_sizes import Count
from lidit_train.plan.hardware import DEVICES
from lidit_train.plan.vision_size import vision_size
from lidit_train.recipe import Place, Recipe, Source
from lidit_train.run import begin_run
from lidit_train.tasks.lidit.places import PositionHead
from lidit_train.tasks.lidit.plan.cost import model_cost, place_cost
from lidit_train.tasks.lidit.plan.memory import HELD, SEEING, VALIDATION
from lidit_train.tasks.lidit.plan.plan import Plan, make_plan
from lidit_train.tasks.lidit.plan.text import plan_text
from lidit_train.tasks.lidit.start import configuration

GPU = DEVICES["H100"]
PICTURES = 12  # of the world
STAGES = [{"images": 16, "batch": 4, "resolution": 32}]


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> tuple[Path, dict[str, str]]:
    folder = tmp_path_factory.mktemp("world")
    save_encoder(folder / "encoder")
    return folder, make_world(folder, "one")


def plan_of(recipe: Recipe, device=GPU, pictures: int | None = PICTURES) -> Plan:
    config = configuration(recipe.model, recipe.stages)
    counts = [Count(pictures, pictures)] * len(recipe.data.sources) if pictures else None
    return make_plan(recipe, config, counts=counts, device=device)


@pytest.mark.parametrize("family", ENCODERS)
def test_a_vision_encoder_takes_what_is_counted(tmp_path, family):
    folder = save_encoder(tmp_path, family)
    encoder = VisionEncoder(folder, grain=16)
    planned = vision_size(folder, 16, 64)
    assert planned.weights == sum(p.nbytes for p in encoder.model.parameters())
    with FlopCounterMode(display=False) as counter:
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
            encoder.encode(torch.zeros(1, 3, 64, 64, dtype=torch.uint8))
    assert planned.forward == counter.get_total_flops() > 0


def test_an_encoder_takes_time_and_memory_while_it_fills_the_cache_or_all_the_time(world):
    def plan(latents: bool, aligned: bool = True) -> Plan:
        alignment = {"encoder": str(world[0] / "encoder"), "block": 1, "hidden": 32}
        more = {"alignment": alignment} if aligned else {}
        recipe = recipe_of(world[0], "one", stages=STAGES, cache={"latents": latents}, **more)
        return plan_of(recipe)

    size = vision_size(world[0] / "encoder", 16, 32)
    speed = GPU.share * GPU.peak("float32")
    cached, without = plan(latents=True), plan(latents=True, aligned=False)
    assert cached.caching - without.caching == pytest.approx(PICTURES * size.forward / speed)
    assert cached.memory.at(SEEING) > size.weights and without.memory.at(SEEING) == 0
    read = plan(latents=False)
    assert read.memory.at(SEEING) == 0
    assert size.weights in [part.bytes for part in read.memory.parts if part.when == HELD]
    more = read.stages[0].image_flops - plan(latents=False, aligned=False).stages[0].image_flops
    map_alone = cached.stages[0].image_flops - without.stages[0].image_flops
    assert more == map_alone + size.forward


@pytest.mark.parametrize("side", [64, 512, 1024])
def test_no_more_pictures_are_encoded_at_once_than_the_plan_counts(world, side):
    """Autoencoder and vision encoder are given a large batch, as a step without caches does."""
    batch = torch.zeros(40 if side == 64 else 9, 3, side, side, dtype=torch.uint8)
    vae = Opened(AutoencoderFile(Path("not-read")), "cpu")
    vae.model = TinyAutoencoder()
    vae.model.taesd_encoder = torch.nn.AvgPool2d(8)  # soon done; how many it is given is counted
    grain = side // 2  # few tokens, for the same reason
    vision = VisionEncoder(world[0] / "encoder", grain)
    given: dict[str, list[int]] = {"vae": [], "vision": []}
    vae.model.taesd_encoder.register_forward_pre_hook(lambda _, x: given["vae"].append(len(x[0])))
    vision.model.register_forward_pre_hook(
        lambda _, __, named: given["vision"].append(len(named["pixel_values"])), with_kwargs=True
    )
    vae.encode(batch)
    vision.encode(batch)
    size = vision_size(world[0] / "encoder", grain, side)
    tiny = autoencoder_size(large=False, half=False)
    planned = {
        "vae": tiny.pictures(side, len(batch)) / (tiny.encoding * side**2),
        "vision": size.pictures(side, len(batch)) / size.picture,
    }
    for name, most in planned.items():
        assert max(given[name]) == most and sum(given[name]) == len(batch), name


def operations(run) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
            run()
    return counter.get_total_flops()


def test_an_autoencoder_takes_the_operations_that_are_counted(tmp_path):
    light = TinyAutoencoder(["encoder.1", "encoder.4", "encoder.13"]).initialise()
    save_file(light.state_dict(), tmp_path / "light.safetensors")
    latent = find_preset("stickers").latent
    size = recipe_autoencoder(str(tmp_path / "light.safetensors"), latent, None, half=False)
    assert size.flops(64) == operations(lambda: light.encode(torch.zeros(1, 3, 64, 64)))
    shipped = recipe_autoencoder("shipped", latent, None, half=False)
    assert 0 < shipped.flops(64) < size.flops(64) < autoencoder_size(False, False).flops(64)
    absent = recipe_autoencoder(str(tmp_path / "no.safetensors"), latent, None, half=False)
    assert absent == autoencoder_size(False, False)


def test_stable_diffusions_autoencoder_is_counted_as_itself_in_a_folder_or_a_file(tmp_path):
    diffusers = pytest.importorskip("diffusers")
    with torch.device("meta"):
        model = diffusers.AutoencoderKL(
            block_out_channels=(128, 256, 512, 512),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=2,
        )
    size = autoencoder_size(large=True, half=False)
    for side in (128, 256):
        shown = torch.empty(1, 3, side, side, device="meta")
        assert size.flops(side) == operations(partial(model.encode, shown))
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "config.json").write_text("{}")
    whole = {"first_stage_model.encoder.down.0.block.0.conv1.weight": torch.zeros(128, 128, 3, 3)}
    save_file(whole, tmp_path / "file.safetensors")
    latent = find_preset("stickers").latent
    for name in ("folder", "file.safetensors"):
        assert recipe_autoencoder(str(tmp_path / name), latent, None, half=False) == size, name


def test_a_grid_before_the_first_step_alone_takes_its_memory(world):
    def plan(**validation) -> Plan:
        drawn = {"prompts": ["a cat"], **validation}
        return plan_of(recipe_of(world[0], "one", stages=STAGES, validation=drawn))

    at_start = plan(every=0, at_start=True).memory.at(VALIDATION)
    assert at_start == plan(every=1).memory.at(VALIDATION) > 0
    assert plan(every=0).memory.at(VALIDATION) == 0


def test_what_a_folder_adds_to_the_caches_is_shown_for_1000_pictures_and_never_as_nothing(world):
    drawn = {"kind": "stickers", "path": "en", "count": 40, "distinct": 20}

    def plan(*sources: dict) -> Plan:
        recipe = recipe_of(world[0], "one", stages=STAGES, data={"sources": list(sources)})
        return plan_of(recipe, pictures=None)

    def rows(plan: Plan) -> dict[str, str]:
        return {line[2:46].rstrip(): line[46:] for line in plan_text(plan).splitlines()}

    folder = {"kind": "folder", "path": "not-there"}
    known, both, alone = plan(drawn), plan(drawn, folder), plan(folder)
    assert both.caching == known.caching > 0 == known.caching_thousand == alone.caching
    assert both.caching_thousand == alone.caching_thousand > known.caching * 1000 / 41
    filling = "filling the caches once, at most"
    assert "not known" in rows(alone)[filling] and "1,000" in rows(alone)[filling]
    assert "not known" in rows(both)[filling] and "not known" not in rows(known)[filling]
    latents = "latents of pictures at 32 px"
    assert "40 of" in rows(known)[latents] and "those not known" not in rows(known)[latents]
    assert "40 of" in rows(both)[latents] and "those not known" in rows(both)[latents]
    assert "not known" in rows(alone)[latents] and "each" in rows(alone)[latents]
    for plan_, open_ in ((known, False), (both, True), (alone, True)):
        assert ("without what is not known" in plan_text(plan_)) == open_


def test_the_loss_of_places_keeps_and_computes_what_is_counted(world):
    placed = PositionHead(Place(), 32)
    x = torch.randn(1, 12, 32, requires_grad=True)
    real = real_cost(lambda: placed(x, 3), placed.parameters())
    planned = place_cost(Place(), 32, 12)
    assert planned.forward == real.forward > 0 and planned.backward == real.backward
    assert planned.saved == pytest.approx(real.saved, rel=0.1)
    half = place_cost(Place(), 32, 12, mixed=True)
    assert half.saved >= 4 * 12 * 32  # the normalised tokens are float32 under autocast too
    recipe = recipe_of(world[0], "one", stages=STAGES)
    plans = [plan_of(replace(recipe, place=place)) for place in (None, Place(block=0))]
    assert plans[1].memory.training > plans[0].memory.training
    assert plans[1].stages[0].image_flops > plans[0].stages[0].image_flops


def test_as_many_passes_are_planned_as_a_run_makes(world):
    folder, llms = world
    validation = {"every": 2, "at_start": True, "held_out": 0.25, "times": 3}
    recipe = recipe_of(folder, "one", stages=STAGES, validation=validation)
    made = begin_run(recipe, folder / "held", accelerator_for(recipe.compute, "cpu"), llms)
    held = made.trainer.validator.measure.args  # of the partial: the learner
    assert held
    loss = made.trainer.validator.measure.func.__self__
    once = sum(len(batch.samples) for batch in loss.held_out.batches)
    plan = plan_of(recipe)
    assert plan.samples == once * (1 + recipe.steps // 2)
    load = plan.stages[-1].load
    config = configuration(recipe.model, recipe.stages)
    forward = model_cost(config, load.subsets[0][1]).whole.forward
    assert plan.measuring == pytest.approx(
        plan.samples * forward / (GPU.share * GPU.peak("float32"))
    )
    assert f"{plan.samples:,} passes" in plan_text(plan)
    without = plan_of(replace(recipe, validation=replace(recipe.validation, held_out=0.0)))
    assert plan.seconds - without.seconds == pytest.approx(plan.measuring)
    assert "held-out" not in plan_text(without)
    unknown = plan_of(recipe, pictures=None)
    assert unknown.samples is None and "for each 1,000 of them" in plan_text(unknown)


def test_masks_take_the_room_that_is_planned(world):
    folder, llms = world
    masked = Path(shutil.copytree(folder / "pictures", folder / "masked"))
    for picture in masked.glob("*.png"):
        Image.new("L", Image.open(picture).size, 200).save(picture.with_suffix(".mask.png"))
    source = {"kind": "folder", "path": str(masked), "mask": "mask.png"}
    changes = {"stages": STAGES, "data": {"sources": [source]}}
    run(folder, "masked-run", llms, **changes)
    taken = 0
    for file in (folder / "masked-run" / "cache" / "latents").glob("*.safetensors"):
        with safe_open(file, "pt") as opened:
            taken += opened.get_tensor(MASKS).nbytes
    plan = plan_of(recipe_of(folder, "one", **changes))
    (masks,) = [cached for cached in plan.caches if cached.name.startswith("masks")]
    assert masks.bytes == taken > 0 and masks.files == 0
    plain = plan_of(replace(plan.recipe, data=replace(plan.recipe.data, sources=(
        Source("folder", str(masked)),))))  # fmt: skip
    assert plan.disk - plain.disk == taken
    each = plan.memory.training - plain.memory.training
    assert each > 0  # the weights of a micro batch's latent pixels
