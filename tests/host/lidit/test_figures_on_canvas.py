"""Figures of attention, gates and states as nodes. Run: see conftest.py"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from clip_kit import fresh_loader, save_llms
from model_kit import fuse
from tiny_lidit import lidit_config, save_lidit_files

PROMPT = "two red cats"
FILE = "figures/model.safetensors"
LATENT = torch.randn(1, 16, 4, 6, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def drawn(pack, host):
    """A LI-DiT with registers and its VAE, what a tiny LLM reads of a prompt, and its library."""
    folder = host.base / "models" / "diffusion_models" / "figures"
    folder.mkdir()
    config = lidit_config("tiny Llama")
    config = replace(config, refiner=replace(config.refiner, registers=2))
    path = save_lidit_files(folder, config)
    save_llms(host)
    clip = fresh_loader(pack)("Llama")
    model, vae = pack.run("LiDiTModelLoader", model_name=FILE, weight_dtype="float32")
    prompt, _ = pack.run("LiDiTTextEncode", clip=clip, text=PROMPT)
    own = pack.module("lidit_core.checkpoints.lidit").load_lidit(path)
    return {"model": model, "vae": vae, "conditioning": prompt, "own": own, "clip": clip}


def maps(pack, drawn, **changes) -> torch.Tensor:
    given = {name: drawn[name] for name in ("model", "vae", "conditioning")}
    given |= {"samples": {"samples": LATENT}, "steps": 2, **changes}
    return pack.run("LiDiTAttentionMaps", **given)[0]


def refiners(pack, drawn, **changes) -> torch.Tensor:
    given = {name: drawn[name] for name in ("model", "conditioning")}
    given |= {"figure": "refiner attention", "time": 0.25, **changes}
    return pack.run("LiDiTInspectRefiners", **given)[0]


def states_of(pack, drawn) -> dict:
    text = pack.module("host.lidit.conditioning").text_of(*drawn["conditioning"][0])
    return {0: text.branches[0].states}


@torch.no_grad()
def test_the_maps_are_those_of_the_library_at_the_same_noise_levels(pack, drawn):
    """The latent is noised by hand, and the library's model is run without the host."""
    import comfy.sample

    words = pack.module("lidit_core.figures.words")
    tokens = pack.module("lidit_core.figures.tokens")
    noted = pack.module("lidit_core.figures.attention").NotedAttention()
    own, text = drawn["own"], states_of(pack, drawn)
    noise = comfy.sample.prepare_noise(LATENT, 0)
    clean = pack.module("lidit_core.model.latents").normalise(LATENT, own.config.latent)
    shifted = pack.module("host.lidit.shift").shifted_for(drawn["model"], own.config, LATENT)
    schedule = shifted.get_model_object("model_sampling")
    for share in (0.25, 0.75):
        t = float(schedule.percent_to_sigma(share))

        def run(index, block, x, c, text, attention):
            return block(x, c, text, attention, noted)

        x = (1 - t) * clean + t * noise
        own(x, torch.tensor([1000 * t]), text, run_block=run)
    first, last = text[0].rows.first, text[0].roles.shape[1]
    assert noted.mean().shape == (6, 2 + last - first)
    places = tokens.TokenPlaces.from_json(drawn["conditioning"][0][1]["lidit_places"]["0"], last)
    found = words.word_maps(noted.mean(), (2, 3), "tiny Llama", places.words(), 2 - first)
    picture = drawn["vae"].decode(LATENT)[0].clamp(0, 1).mul(255).round().byte()
    seen = words.Seen(picture, tuple(found))
    assert [word.word for word in seen.words] == PROMPT.split()
    expected = pack.module("lidit_core.figures.sheets").words_sheet(seen)
    image = maps(pack, drawn)
    assert image.shape[1:] == expected.shape
    assert (image[0] * 255 - expected.float()).abs().max() <= 3


@pytest.mark.parametrize(
    ("choice", "figure"),
    [
        ("refiner attention", "refiner"),
        ("gates over time", "gates"),
        ("similarity of states", "similarity"),
    ],
)
def test_figures_of_the_refiners_are_the_librarys(pack, drawn, choice, figure):
    core = pack.module("lidit_core.figures.refiners")
    tokens = pack.module("lidit_core.figures.tokens")
    text = states_of(pack, drawn)
    told, length = drawn["conditioning"][0][1]["lidit_places"]["0"], text[0].roles.shape[1]
    places = {0: tokens.TokenPlaces.from_json(told, length)}
    assert "".join(places[0].labels(length)) == PROMPT.replace(" ", "")
    read = core.ReadPrompt(drawn["own"].text_side, text, places)
    sheet, _ = pack.module("lidit_core.figures.sheets").refiner_figure(read, figure, 0.25)
    image = refiners(pack, drawn, figure=choice)
    assert image.shape[1:] == sheet.shape
    assert (image[0] * 255 - sheet.float()).abs().max() <= 2


def test_what_nodes_set_shows_in_the_figure(pack, drawn):
    how = {"refiner": "by LLM name", "attention": "causal", "gating": "as trained"}
    (causal,) = pack.run(
        "LiDiTLinguisticTokenRefiner", conditioning=drawn["conditioning"], strength=0.5, **how
    )
    plain, changed = (
        refiners(pack, drawn, conditioning=c, figure="gates over time")
        for c in (drawn["conditioning"], causal)
    )
    assert not torch.equal(plain, changed)
    assert not torch.equal(maps(pack, drawn), maps(pack, drawn, conditioning=causal))


def test_a_prompt_without_the_places_of_its_tokens_has_their_numbers(pack, drawn, caplog):
    """As older versions kept it."""
    ((first, values),) = drawn["conditioning"]
    older = [[first, {k: v for k, v in values.items() if k != "lidit_places"}]]
    image = maps(pack, drawn, conditioning=older)
    assert "does not say which words the tokens of" in caplog.text
    assert image.shape[2] >= maps(pack, drawn).shape[2]
    assert not torch.equal(refiners(pack, drawn, conditioning=older), refiners(pack, drawn))


def test_two_llms_have_a_figure_each(pack, drawn, kit, model, caplog):
    """Five and three tokens of theirs are the prompt's; neither says which words they are."""
    both = fuse(kit, kit.prompt("alpha", 9), kit.prompt("beta", 7))
    image = maps(pack, drawn, model=model, conditioning=both)
    assert image.shape == (1, 2 * (32 + 14), 6 * 48, 3)  # the picture and eight cells
    assert "the tokens of alpha, beta are" in caplog.text
    two = refiners(pack, drawn, model=model, conditioning=both)
    alone = refiners(pack, drawn, model=model, conditioning=kit.prompt("alpha", 9))
    assert two.shape[1] > alone.shape[1]
    removed = fuse(kit, kit.prompt("alpha", 9), kit.prompt("beta", 7), weights=(1.0, 0.0))
    assert torch.equal(refiners(pack, drawn, model=model, conditioning=removed), alone)


def test_weights_of_words_are_read_with_the_words(pack, drawn):
    (weighted, _) = pack.run(
        "LiDiTTextEncode", clip=drawn["clip"], text="two (red:1e6) cats", emphasis=True
    )
    plain, lit = maps(pack, drawn), maps(pack, drawn, conditioning=weighted)
    assert plain.shape == lit.shape  # as many words, without their marks


@pytest.mark.parametrize(
    ("node", "changes", "sentence"),
    [
        (maps, {"samples": {"samples": LATENT * 0}}, "samples is an empty latent"),
        (maps, "twice", "conditioning holds 2 prompts; a figure shows one"),
        (refiners, "twice", "conditioning holds 2 prompts; a figure shows one"),
        (refiners, {"conditioning": [[torch.zeros(1, 77, 8), {}]]}, "encoded by another text enc"),
        (refiners, "zeroed", "no LLM has read a token of this prompt"),
        (maps, "zeroed", "no LLM has read a word of this prompt"),
    ],
)
def test_mistakes_end_in_a_sentence(pack, drawn, kit, node, changes, sentence):
    if changes == "twice":
        changes = {"conditioning": drawn["conditioning"] * 2}
    if changes == "zeroed":
        zeroed = kit.stock("ConditioningZeroOut", conditioning=drawn["conditioning"])
        changes = {"conditioning": zeroed}
    with pytest.raises(Exception, match=sentence):
        node(pack, drawn, **changes)
