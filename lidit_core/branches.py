"""The choice of an LLM for each branch of a model, and the prompt encoders of all branches."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from .bridged import BridgedPrompts, is_bridge, written_for
from .errors import LiDiTError, check
from .llm.blocks import EVERY_BLOCK
from .llm.loading import source_fingerprint
from .llm.locate import available, check_present, locate, stated_width
from .model.config import LiDiTConfig
from .text.prompt_encoder import PromptEncoder
from .text.spec import LLMSpec, place_of

log = logging.getLogger(__name__)


def choose_llms(config: LiDiTConfig, given: Sequence[str], named: Sequence[str]) -> dict[int, str]:
    """Choose an LLM for each branch, as a source for `lidit_core.llm.locate`.

    Args:
        given: what the user passes, each ``SOURCE`` or ``NAME=SOURCE`` with the name of a branch;
            a bare source is told by its own name, and the file of a bridge by the LLM for which it
            writes. Branches without one are left out.
        named: taken where nothing is given; where that is empty too, every branch.
    """
    names = [spec.name for spec in config.llms]
    if not given:
        return {config.branch(name): name for name in named or names}
    chosen = {}
    for text in given:
        name, source = _served(text, config.llms)
        branch = config.branch(name)
        if branch in chosen:
            raise LiDiTError(
                f"two LLMs are given for {name}, {chosen[branch]!r} and {source!r}; expected one "
                "--llm for each LLM that this LI-DiT was trained on, so leave one out"
            )
        chosen[branch] = source
    return dict(sorted(chosen.items()))


def named_sources(given: Sequence[str], names: Iterable[str]) -> dict[str, str]:
    """Read ``NAME=SOURCE`` of each LLM of which a command is told where it is.

    Args:
        names: of the LLMs that are read.
    Raises:
        LiDiTError: one has no name, or a name that nothing reads.
    """
    known = sorted({*names})
    for text in given:
        check(
            "=" in text and text.partition("=")[0] in known,
            f"--llm {text!r} is of no LLM that is read here; expected NAME=SOURCE, NAME one of "
            f"{', '.join(known)}",
        )
    return dict(text.split("=", 1) for text in given)


def _served(text: str, llms: Sequence[LLMSpec]) -> tuple[str, str]:
    """The branch that a ``SOURCE`` or ``NAME=SOURCE`` serves, and the source."""
    names = [spec.name for spec in llms]
    name, equals, source = text.partition("=")
    if equals and name in names:
        return name, source
    if equals and not available(text):
        raise LiDiTError(
            f"--llm {text!r} is for {name!r}, and this LI-DiT was trained on {', '.join(names)}; "
            "write one of these before the ="
        )
    if is_bridge(text):
        return _bridged_branch(text, names), text
    return text if text in names else _branch_name(text, llms), text


def _bridged_branch(source: str, names: Sequence[str]) -> str:
    name = written_for(source)
    check(
        name in names,
        f"the bridge {source} writes states of {name}, and this LI-DiT was trained on "
        f"{', '.join(names)}; expected a bridge for one of these",
    )
    return name


def _branch_name(source: str, llms: Sequence[LLMSpec]) -> str:
    found, names = locate(source).name, [spec.name for spec in llms]
    known = found in names or not any(spec.fingerprint for spec in llms)
    place = place_of(llms, found, "" if known else source_fingerprint(source))
    if place is not None:
        return names[place]
    if len(names) == 1:
        log.warning("the LLM %s stands in for %s, which the model was trained on", found, names[0])
        return names[0]
    raise LiDiTError(
        f"the LLM {found!r} is none of {', '.join(names)}, which this LI-DiT was trained on; if it "
        f"is one of them under another name, say so: --llm {names[0]}={source}"
    )


def open_encoders(
    config: LiDiTConfig,
    chosen: Mapping[int, str],
    device: str,
    cache: Path | None = None,
    spread: bool = False,
) -> dict[int, PromptEncoder]:
    """A prompt encoder for every chosen branch, set up as the branch was trained.

    Nothing is loaded before a prompt.

    Args:
        cache: folder of states that outlive the process.
        spread: share each LLM out over all GPUs and the CPU's memory, through accelerate.
    """
    for branch, source in chosen.items():
        if not is_bridge(source):
            check_present(source)
            check_width(config.llms[branch], source)
    return {
        branch: _open_encoder(config.llms[branch], source, device, cache, spread)
        for branch, source in chosen.items()
    }


def check_width(spec: LLMSpec, source: str) -> None:
    """Refuse an LLM whose config.json states another width than the branch was trained on."""
    found = locate(source)
    width = stated_width(found)
    if spec.block not in EVERY_BLOCK and width not in (None, spec.width):
        raise LiDiTError(
            f"the LLM {found.name} is {width} wide and this branch was trained on {spec.name} "
            f"({spec.width} wide); give that LLM, or leave the branch out"
        )


def _open_encoder(
    spec: LLMSpec, source: str, device: str, cache: Path | None, spread: bool
) -> PromptEncoder:
    made = (spec.template, spec.block, spec.token_budget)
    map_ = "auto" if spread else None
    if is_bridge(source):
        return BridgedPrompts(source, spec, device, map_, cache)
    return PromptEncoder(source, *made, device=device, device_map=map_, disk_cache=cache)
