"""What becomes of a node of the host on a model: a picture, a sentence, or a fault."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import websocket
from host_server import OUR_ERRORS, Refused, Run
from node_benches import LATENT, SAVE, Bench, unet
from node_graphs import Lacking, Nodes, Trial, trial, trial_of_choice
from node_table import ALL_INPUTS, MOVED, node_of
from PIL import Image
from safetensors.torch import load_file
from workflow_kit import Api

SAME = 0.05  # of 255, mean absolute: what rounding may change
FAR = 35.0  # a picture in pieces
FLAT = 4.0  # a standard deviation, of a picture with nothing on it
SAME_PICTURE = "the same picture"
OURS = "/custom_nodes/"  # in the path of what belongs to the pack
# what they tell on themselves is what they loaded or read, wherever they are the first to
REPORTING = ("LiDiTLLMLoader", "LiDiTModelLoader", "LLMDiffDemoCheckpoint", "LLMDiffEncode")
TAKEN_BACK = "What was noted here before no longer holds"

# what no stock node gives without a file of other models, by type or widget
LACKING = {
    "MODEL_PATCH": "a patch file for one of the models that have such",
    "LATENT_UPSCALE_MODEL": "an upscaler of another model's latents",
    "OPTICAL_FLOW": "a model of optical flow",
    "latent": "a saved latent",
    "folder": "a folder of pictures to train on",
    "folder_name": "a folder of pictures to train on",
}
# why the picture is far from the one without the node
WHY_FAR = {
    "HyperTile": "every block attends in tiles, where a U-Net's largest alone do",
    "LatentRotate": "turned",
    "CLIPMergeAdd": "an LLM added to itself",
    "CLIPMergeSubtract": "an LLM less itself",
    "ModelMergeAdd": "a model added to itself",
    "ModelMergeSubtract": "a model less itself",
    **dict.fromkeys(
        ("KSampler, lms", "KSampler, ipndm_v", "SamplerLMS"),
        "a rule of order 4, which is right from about 20 steps",
    ),
}
# why a node does nothing whose values were moved
WHY_IDLE = {
    "TorchCompileModel": "compiled otherwise, to the same numbers",
    "VAEEncodeForInpaint": "the mask is the whole picture, and cannot grow",
}
TOO_SLOW = ("LoraSave" + ALL_INPUTS,)  # minutes on a CPU
# not for an ordinary test run: compiled, or of 1024 x 1024 pixels
SLOW = (
    *("TorchCompileModel", "EmptyChromaRadianceLatentImage", "EmptyHiDreamO1LatentImage"),
    "SD_4XUpscale_Conditioning",
)


@dataclass(frozen=True)
class Outcome:
    """What a row of the table says, and whether it should not be so."""

    text: str
    is_fault: bool = False
    is_idle: bool = False  # whether the node did nothing


class Trier:
    """Puts nodes on a bench and runs them in a host."""

    def __init__(self, server: Any, nodes: Nodes, bench: Bench) -> None:
        self.server, self.nodes, self.bench = server, nodes, bench
        self.plain: dict[str, Image.Image] = {}  # by graph

    def outcomes(self, node: str) -> Iterator[tuple[str, Outcome]]:
        """By row: with the required inputs, and with all that can be supplied where it differs.

        What does nothing so is tried with other values than the defaults.
        """
        if node in self.nodes.choices:
            yield node, self._outcome(node, trial_of_choice(self.bench, self.nodes, node))
            return
        try:
            required = trial(self.bench, self.nodes, node)
        except Lacking as lacking:
            yield node, self._lacks(lacking.args[0])
            return
        attempts = {node: required}
        everything = trial(self.bench, self.nodes, node, everything=True)
        if everything != required and node + ALL_INPUTS not in TOO_SLOW:
            attempts[node + ALL_INPUTS] = everything
        idle = None
        for name, attempt in attempts.items():
            outcome = self._outcome(name, attempt)
            idle = name if outcome.is_idle else idle
            yield name, outcome
        if idle and (moved := self._named(self.bench, idle + MOVED)) != attempts[idle]:
            yield idle + MOVED, self._outcome(idle + MOVED, moved)

    def _named(self, bench: Bench, name: str) -> Trial:
        """What is drawn for a row."""
        if name in self.nodes.choices:
            return trial_of_choice(bench, self.nodes, name)
        return trial(bench, self.nodes, node_of(name), ALL_INPUTS in name, MOVED in name)

    def _lacks(self, what: str) -> Outcome:
        reason = LACKING.get(what, f"{what}, which no stock node gives")
        return Outcome(f"not tried: it needs {reason}", what not in LACKING)

    def _outcome(self, name: str, attempt: Trial) -> Outcome:
        try:
            run = self.server.draw(attempt.api)
        except Refused as refused:
            return Outcome(f"not queued: {refused}", is_fault=True)
        except websocket.WebSocketTimeoutException:
            self.server.post("/interrupt", {})
            return Outcome("does not end", is_fault=True)
        if run.ending != "execution_success":
            return self._error(name, run)
        if attempt.plain is None:
            return Outcome("runs" + noted(run, attempt.api))
        return self._drawn(name, run, attempt)

    def _without(self, api: Api) -> Image.Image:
        """The picture of a graph without the node."""
        graph = json.dumps(api)
        if graph not in self.plain:
            self.plain[graph] = self.server.draw(api).pictures[SAVE][0]
        return self.plain[graph]

    def _error(self, name: str, run: Run) -> Outcome:
        (told,) = run.of_type("execution_error")
        words = told["exception_message"].strip()
        if (
            told["exception_type"].split(".")[-1] in OUR_ERRORS
        ):  # an error of the pack, which is a sentence
            return Outcome(f"refused: {words}", is_fault="\n" in words)
        kind = told["exception_type"].split(".")[-1]
        text = f"ComfyUI's own error: {kind}: {' '.join(words.split())}"
        in_ours = OURS in told["traceback"][-1]
        return Outcome(text, is_fault=in_ours or self._works_on_a_unet(name))

    def _works_on_a_unet(self, name: str) -> bool:
        """Whether the node draws with a model that is the host's own."""
        return self.server.draw(self._named(unet(), name).api).ending == "execution_success"

    def _drawn(self, name: str, run: Run, attempt: Trial) -> Outcome:
        picture, more = run.pictures[SAVE][0], noted(run, attempt.api)
        plain = self._without(attempt.plain)
        if not all(latent.isfinite().all() for latent in self._latents(run)):
            return Outcome("a latent that is not finite", is_fault=True)
        if picture.size != plain.size:
            return Outcome("a picture of another size" + more)
        away = distance(picture, plain)
        if away <= SAME and (count := len(run.pictures[SAVE])) > 1:
            return Outcome(f"{SAME_PICTURE}, of {count}{more}")
        if away <= SAME:
            return self._idle(name, more)
        is_far = away > FAR or is_flat(picture)
        known = WHY_FAR.get(name, WHY_FAR.get(node_of(name)))
        why = known if self.bench.ours or is_far else None
        if is_far and why is None and (MOVED in name or not self.bench.ours):
            why = self._far_on_a_unet(name)
        told = f"another picture ({away:.0f})" + (f", {why}" if why else "") + more
        return Outcome(told, is_fault=is_far and why is None)

    def _idle(self, name: str, noted: str) -> Outcome:
        """What is said of the same picture: with values moved, why nothing else is seen."""
        if MOVED not in name or noted:
            return Outcome(SAME_PICTURE + noted, is_idle=True)
        why = WHY_IDLE.get(node_of(name))
        if why is None:
            away = self._away_on_a_unet(name)
            why = self._so_too if away is not None and away <= SAME else None
        return Outcome(f"{SAME_PICTURE}, {why}" if why else SAME_PICTURE, why is None)

    def _far_on_a_unet(self, name: str) -> str | None:
        """What is to be said where the node changes the host's own picture as much."""
        away = self._away_on_a_unet(name)
        return f"{self._so_too} ({away:.0f})" if away is not None and away > FAR else None

    @property
    def _so_too(self) -> str:
        return "and so on a U-Net" if self.bench.ours else "and so without the adapter"

    def _away_on_a_unet(self, name: str) -> float | None:
        """How far the host's own picture is from the one without the node; None where none is."""
        attempt = self._named(unet(), name)
        run = self.server.draw(attempt.api)
        if run.ending != "execution_success" or attempt.plain is None:
            return None
        picture, plain = run.pictures[SAVE][0], self._without(attempt.plain)
        return distance(picture, plain) if picture.size == plain.size else None

    def _latents(self, run: Run) -> list[Any]:
        """What was saved."""
        shown = [data["output"] for data in run.of_type("executed") if data["node"] == LATENT]
        places = [place for output in shown for place in (output or {}).get("latents", [])]
        folder = self.server.base / "output"
        files = [folder / place["subfolder"] / place["filename"] for place in places]
        return [load_file(file)["latent_tensor"] for file in files]


def distance(a: Image.Image, b: Image.Image) -> float:
    """Mean absolute difference, 0 to 255."""
    a, b = (np.asarray(each.convert("RGB"), np.float32) for each in (a, b))
    return float(np.abs(a - b).mean())


def is_flat(picture: Image.Image) -> bool:
    """Whether nothing is on it."""
    return bool(np.asarray(picture.convert("L"), np.float32).std() < FLAT)


def noted(run: Run, api: Api) -> str:
    """The notes that a run put on its nodes; of those that only differ in their first word, one.

    What loaders and LLMDiff Encode tell is left out: it comes where a graph is the first to load
    or to read something.
    """
    shown = {i: told for i, told in run.texts.items() if api[i]["class_type"] not in REPORTING}
    texts = [text for told in shown.values() for text in told]
    lines = [line.removesuffix(".") for text in texts for line in text.splitlines()]
    notes = {line.partition(" ")[2]: line for line in lines if line != TAKEN_BACK}
    return f"; noted: {'; '.join(notes.values())}" if notes else ""
