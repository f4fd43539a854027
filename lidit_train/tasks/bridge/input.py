"""What a bridge reads in training: a recording, its teacher, and LLMs."""

from __future__ import annotations

import json
import logging
from dataclasses import replace

from lidit_core.bridge.config import BridgeConfig, TeacherSpec
from lidit_core.bridge.file import load_bridge
from lidit_core.bridge.recorded import ALIKE, RecordedPrompts, form
from lidit_core.errors import LiDiTError, check
from lidit_core.io.conditioning import distance
from lidit_core.llm.hub import model_folder
from lidit_core.llm.locate import check_present, locate
from lidit_core.paths import at_home
from lidit_core.text.spec import LLMSpec
from lidit_core.text.templates import find_template

from ...recipe import BridgeOptions

log = logging.getLogger(__name__)


def llm_specs(recipe: BridgeOptions) -> tuple[LLMSpec, ...]:
    """The LLMs that the bridge reads, by their config.json.

    Raises:
        LiDiTError: one is not there.
    """
    return tuple(_llm(recipe, source) for source in recipe.llms)


def _llm(recipe: BridgeOptions, source: str) -> LLMSpec:
    check_present(source)
    found = locate(source)
    path = model_folder(found) / "config.json"
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        width = int(data.get("text_config", data)["hidden_size"])
    except (OSError, ValueError, AttributeError, KeyError, TypeError) as error:
        raise LiDiTError(
            f"{path} does not say how wide the LLM is ({error!r}); expected hidden_size, as "
            "decoder-only LLMs have it"
        ) from error
    template, budget = find_template(recipe.template), recipe.token_budget
    return LLMSpec(found.name, width, recipe.block, template, budget, longest_prompt=0)


def bridge_config(options: BridgeOptions, dtype: str, teacher: TeacherSpec) -> BridgeConfig:
    """The bridge that a recipe trains.

    Args:
        dtype: in which the LLMs' states are kept.
        teacher: whose conditioning it writes.
    """
    return BridgeConfig(
        llm_specs(options),
        teacher,
        dtype,
        width=options.width,
        heads=options.heads,
        refiner_blocks=options.refiner_blocks,
        collaborative_blocks=options.collaborative_blocks,
        blocks=options.blocks,
        residual=options.residual,
        base=options.base,
        overlap=options.overlap,
        seeds=options.seeds,
        add=bool(options.add),
    )


def resumed_config(options: BridgeOptions, dtype: str, prompts: RecordedPrompts) -> BridgeConfig:
    """The configuration of the bridge that a recipe goes on from.

    Args:
        dtype: in which the LLMs' states are kept.
    Raises:
        LiDiTError: its LLMs are others than the recipe's, or it writes what the recording is not.
    """
    path, folder = at_home(options.checkpoint), prompts.recording.folder
    file = load_bridge(path)
    config = file.bridge.config
    check_begun(options, config)
    written = prompts.written
    check(
        form(config.teacher, file.rows) == form(written.spec, written.rows),
        f"the bridge {path} writes rows of {config.teacher.name}, {config.teacher.width} wide, and "
        f"{folder} holds those of {written.spec.name}, {written.spec.width} wide, laid out "
        "otherwise; expected a recording of the encoder that the bridge was trained for",
    )
    far = distance(file.empty, prompts.empty)
    if far > ALIKE:
        log.warning(
            "%s is not of the text encoder that the bridge %s learnt from: its empty prompt is "
            "%.2g off; name that one's recording, or let the bridge go on to this one",
            (prompts.own or prompts).recording.folder,
            path,
            far,
        )
    return replace(config, dtype=dtype)


def check_recorded(prompts: RecordedPrompts) -> None:
    """Refuse a recording whose prompts are not what its layout says."""
    _ = prompts.empty, prompts.target(0)


def check_begun(options: BridgeOptions, config: BridgeConfig) -> None:
    """Refuse other LLMs than those of the bridge that a recipe goes on from, or that it adds to an
    encoder where the recipe names none, or the other way round."""
    path = at_home(options.checkpoint)
    named = [locate(source).name for source in options.llms]
    known = [llm.name for llm in config.llms]
    check(
        named in ([], known),
        f"the recipe's bridge has llms {', '.join(named)}, and its checkpoint {path} reads "
        f"{', '.join(known)}; name these in this order, or leave llms out",
    )
    check(
        config.add == bool(options.add),
        f"the bridge {path} adds to an encoder, whose recording is lacking; name it as bridge.add"
        if config.add
        else f"the bridge {path} adds to no encoder, and the recipe has bridge.add; leave it out",
    )
