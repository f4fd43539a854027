"""What one model makes of the same requests with their facts early and late, or in turn."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lidit_core.checkpoints.lidit import read_config
from lidit_core.errors import check
from lidit_core.io.arrays import kept_array
from lidit_core.paths import at_home
from lidit_core.pipeline import load_pipeline
from lidit_core.shipped import SHIPPED_MODELS, find_model
from lidit_eval.command import evaluate
from lidit_eval.drawing import load_picture
from lidit_eval.items import items_of, prompts_hash
from lidit_eval.record import NAME, read_record_of
from lidit_eval.report import Judged

from ..many_facts import early_prompts, late_prompts
from ..scenes.grammar import Caption
from ..scenes.scenes import place
from ..scorer.facts import facts
from ..scorer.report import candidates
from ..scorer.scorer import FoundScene, read
from ..text_gap import SEED, TIMES, scene_errors

NOISES = 2  # pictures of each prompt, and noises of each scene
HELD, ERRORS = "held.npy", "errors.npy"
LISTS = "early", "late", "pairs", "pairs-reversed"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class BiasOptions:
    """How models are measured."""

    out: Path
    every: int = 1  # only every Nth request
    llms: tuple[str, ...] = ()  # ``NAME=SOURCE``
    device: str | None = None


@dataclass(frozen=True, eq=False)
class BiasMeasurements:
    """One model's figures; what is asked for holds (1) or not (0), by the forced choice."""

    early: np.ndarray  # (requests, NOISES, 2): number and colour, said before the noun
    late: np.ndarray  # the same, said last
    errors: np.ndarray  # (requests, 2): mean squared errors with the early words and the late
    pairs: np.ndarray  # (requests, NOISES, 4): each pair by its place; NaN where there is none
    turned: np.ndarray  # the same requests with the last pair first, by the place in their words
    model: str = ""  # its file, with how the SHA-256 begins


def measure(name: str, model: str, asked: BiasOptions) -> BiasMeasurements:
    """Draw and read all that is missing.

    Args:
        name: of the model's folders.
        model: a shipped name or a file, which may be gone once all of its figures are there.
    """
    if is_left_alone(name, model, asked):
        log.warning("there is no file %s: its figures in %s are taken", model, asked.out)
        held = (np.load(asked.out / f"{name}-{which}" / HELD) for which in LISTS)
    else:
        llms = _llms_of(model, asked.llms)
        held = (_held(name, model, llms, which, asked) for which in LISTS)
    early, late, pairs, turned = held
    folder = asked.out / f"{name}-early"
    errors = kept_array(folder / ERRORS, lambda: _errors(model, llms, asked))
    drawn_by = read_record_of(folder)["model"]
    return BiasMeasurements(early, late, errors, pairs, turned, drawn_by)


def is_left_alone(name: str, model: str, asked: BiasOptions) -> bool:
    """Whether a model's file is gone and all of its figures are there, of what is asked for now.

    Raises:
        LiDiTError: they are of another model, of other requests, or of several models.
    """
    first, *_ = folders = [asked.out / f"{name}-{which}" for which in LISTS]
    needed = first / ERRORS, *(folder / each for folder in folders for each in (HELD, NAME))
    if _is_there(model) or not all(path.is_file() for path in needed):
        return False
    drawn_by = read_record_of(first).get("model", "")
    for folder, which in zip(folders, LISTS):
        expected = {"model": drawn_by, "prompts": which, "every": asked.every, "count": NOISES}
        expected["prompts_sha256"] = prompts_hash(items_of(which))
        record = read_record_of(folder)
        for key, value in expected.items():
            check(
                record.get(key) == value,
                f"{folder} has figures of {key}={record.get(key)!r}, expected {value!r}, and there "
                f"is no file {model} to draw anew; put it back, or name another folder with --out",
            )
    file = Path(model).name
    check(
        drawn_by.startswith(f"{file} ("),
        f"{first} has figures of {drawn_by}, and there is no file {model}; put it back, or name "
        "another folder with --out",
    )
    return True


def _is_there(model: str) -> bool:
    return model in SHIPPED_MODELS or at_home(model).exists()


def llm_names(model: str) -> list[str]:
    """The names of the LLMs that read for a model: a shipped name's own, or all of a file's."""
    path, named = find_model(model)
    return list(named) or [spec.name for spec in read_config(path).llms]


def _llms_of(model: str, given: Sequence[str]) -> list[str]:
    """All LLMs that read for the model, with the given sources; none where none of them is given.

    Which LLMs read is the model's own, wherever they are.
    """
    sources = {name: source for name, _, source in (text.partition("=") for text in given)}
    names = llm_names(model)
    if not sources.keys() & {*names}:
        return []
    return [f"{name}={sources.get(name, name)}" for name in names]


def _held(name: str, model: str, llms: Sequence[str], which: str, asked: BiasOptions) -> np.ndarray:
    """What holds in one list's pictures, drawn by `lidit eval`: (requests, NOISES, facts)."""
    folder = asked.out / f"{name}-{which}"
    words = [model, "--prompts", which, "--judge", "none", "--out", str(folder)]
    words += ["--count", str(NOISES), "--every", str(asked.every)]
    words += [word for llm in llms for word in ("--llm", llm)]
    words += ["--device", asked.device] if asked.device else []
    drawn = evaluate(*words)
    return kept_array(folder / HELD, lambda: read_all(drawn, which == "pairs-reversed"))


def read_all(drawn: Sequence[Judged], turned: bool) -> np.ndarray:
    """Read pictures; the facts of each, in the order in which its words state them."""
    captions = [_caption(each) for each in drawn]
    kinds = candidates(captions)
    rows = [
        _facts(read(load_picture(each.path), 0.0, kinds), caption, turned)
        for each, caption in zip(drawn, captions)
    ]
    width = max(map(len, rows))
    padded = [row + [np.nan] * (width - len(row)) for row in rows]
    return np.array(padded).reshape(-1, NOISES, width)


def _caption(drawn: Judged) -> Caption:
    assert isinstance(drawn.task.item.asked, Caption)  # as in all of these lists
    return drawn.task.item.asked


def _facts(scene: FoundScene, caption: Caption, turned: bool) -> list[float]:
    """Number and colour of a lone group; of several the colour of each, which needs its kind."""
    held = facts(scene, caption.request)
    items = caption.request.items
    names = [f"{item.colour} {item.kind}" for item in items]
    if len(items) == 1:
        names = [f"{items[0].count} {items[0].kind}", *names]
    return [float(held[name]) for name in (names[::-1] if turned else names)]


def _errors(model: str, llms: Sequence[str], asked: BiasOptions) -> np.ndarray:
    """The error on a drawing of each request, with early words and with late: (requests, 2).

    It is the mean over times and noises.
    """
    pipeline = load_pipeline(model, llms, asked.device)
    wordings = []
    for captions in (early_prompts(), late_prompts()):
        chosen = captions[:: asked.every]
        scenes = [
            (caption.text, place(caption.request, np.random.default_rng([SEED, n])))
            for n, caption in enumerate(chosen)
        ]
        found = scene_errors(pipeline, scenes * NOISES, TIMES)[..., 0]  # (times, scenes)
        wordings.append(found.mean(0).view(NOISES, -1).mean(0))
    return np.stack([each.double().numpy() for each in wordings], axis=-1)
