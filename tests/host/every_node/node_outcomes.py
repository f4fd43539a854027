"""What becomes of a node of the host on a LI-DiT: a picture, a sentence, or a fault."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import websocket
from host_server import Refused, Run
from node_graphs import LATENT, SAMPLER, SAVE, Api, Lacking, Nodes, Trial, trial
from node_table import ALL_INPUTS
from PIL import Image
from safetensors.torch import load_file

SAME = 0.05  # of 255, mean absolute: what rounding may change
FAR = 35.0  # a picture in pieces
FLAT = 4.0  # a standard deviation, of a picture with nothing on it
TAKEN_BACK = "What was noted here before no longer holds."

# what no stock node gives without a file that does not exist for a LI-DiT, by type or widget
LACKING = {
    "CONTROL_NET": "a ControlNet; none exists for a LI-DiT",
    "control_net_name": "a ControlNet; none exists for a LI-DiT",
    "CLIP_VISION": "the file of a CLIP that reads pictures",
    "CLIP_VISION_OUTPUT": "the file of a CLIP that reads pictures",
    "STYLE_MODEL": "a style model of Flux",
    "GLIGEN": "a GLIGEN file for SD1.5",
    "PHOTOMAKER": "a PhotoMaker file for SDXL",
    "MODEL_PATCH": "a patch file for one of the models that have such",
    "LATENT_UPSCALE_MODEL": "an upscaler of another model's latents",
    "OPTICAL_FLOW": "a model of optical flow",
    "hypernetwork_name": "a hypernetwork for SD1.5",
    "latent": "a saved latent",
    "folder": "a folder of pictures to train on",
    "folder_name": "a folder of pictures to train on",
}
# files of nodes for models of video, sound, 3-D or detection, which end in errors of their own
# where they are given a VAE, a latent or a model of pictures, whichever it is
OTHER_KINDS = {
    f"comfy_extras.nodes_{name}"
    for name in (
        *("wan", "lt", "lt_audio", "hunyuan", "hunyuan3d", "cosmos", "kandinsky5", "audio"),
        *("minimax_h3", "seedvr", "sam3", "sdpose", "rtdetr", "wanmove", "scail", "ar_video"),
        *("trellis2", "triposplat"),
    )
}
UNSHOWN = ("StableCascade_SuperResolutionControlnet",)  # its picture has 16 channels
# why the picture is far from the one without the node
WHY_FAR = {
    "CLIPMergeAdd": "an LLM added to itself",
    "CLIPMergeSubtract": "an LLM less itself",
    "ModelMergeAdd": "a model added to itself",
    "ModelMergeSubtract": "a model less itself",
    "SamplerLMS": "a rule of order 4, which is right from about 20 steps",
    "SamplerDPMAdaptative": "the noise of the last sigma above 0 stays, less with more steps",
    "SamplerLCMUpscale": "wrong with every flow model, as it adds noise in the way of eps models",
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


class Trier:
    """Puts nodes into graphs and runs them in a host."""

    def __init__(self, server: Any, nodes: Nodes) -> None:
        self.server, self.nodes = server, nodes
        self.plain: dict[str, Image.Image] = {}  # by graph

    def outcomes(self, node: str) -> Iterator[tuple[str, Outcome]]:
        """By row: with the required inputs, and with all that can be supplied where it differs."""
        try:
            required = trial(self.nodes, node)
        except Lacking as lacking:
            yield node, self._lacks(lacking.args[0])
            return
        yield node, self._outcome(node, required)
        everything, name = trial(self.nodes, node, everything=True), node + ALL_INPUTS
        if everything != required and name not in TOO_SLOW:
            yield name, self._outcome(name, everything)

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
            return Outcome("runs" + noted(run))
        return self._drawn(name, run, self._without(attempt.plain))

    def _without(self, api: Api) -> Image.Image:
        """The picture of a graph without the node."""
        graph = json.dumps(api)
        if graph not in self.plain:
            self.plain[graph] = self.server.draw(api).pictures[SAVE][0]
        return self.plain[graph]

    def _error(self, name: str, run: Run) -> Outcome:
        (told,) = run.of_type("execution_error")
        words = told["exception_message"].strip()
        if "/custom_nodes/" in told["exception_type"]:  # of the pack, whose errors are sentences
            return Outcome(f"refused: {words}", is_fault="\n" in words)
        node = name.removesuffix(ALL_INPUTS)
        ended = node if told["node_id"] == SAMPLER else told["node_type"]  # it, or what it is given
        known = self.nodes.info[ended]["python_module"] in OTHER_KINDS or node in UNSHOWN
        kind = told["exception_type"].split(".")[-1]
        text = f"ComfyUI's own error: {kind}: {' '.join(words.split())}"
        return Outcome(text, is_fault=not known)

    def _drawn(self, name: str, run: Run, plain: Image.Image) -> Outcome:
        picture, more = run.pictures[SAVE][0], noted(run)
        if not all(latent.isfinite().all() for latent in self._latents(run)):
            return Outcome("a latent that is not finite", is_fault=True)
        if picture.size != plain.size:
            return Outcome("a picture of another size" + more)
        if np.asarray(picture.convert("L"), np.float32).std() < FLAT:
            return Outcome("a picture with nothing on it", is_fault=True)
        a, b = (np.asarray(each.convert("RGB"), np.float32) for each in (picture, plain))
        distance = float(np.abs(a - b).mean())
        if distance <= SAME:
            return Outcome("the same picture" + more)
        why = WHY_FAR.get(name.removesuffix(ALL_INPUTS))
        told = f"another picture ({distance:.0f})" + (f", {why}" if why else "") + more
        return Outcome(told, is_fault=distance > FAR and why is None)

    def _latents(self, run: Run) -> list[Any]:
        """What was saved."""
        shown = [data["output"] for data in run.of_type("executed") if data["node"] == LATENT]
        places = [place for output in shown for place in (output or {}).get("latents", [])]
        folder = self.server.base / "output"
        files = [folder / place["subfolder"] / place["filename"] for place in places]
        return [load_file(file)["latent_tensor"] for file in files]


def noted(run: Run) -> str:
    """The notes that a run put on its nodes; of those that only differ in their first word, one."""
    lines = [line for told in run.texts.values() for text in told for line in text.splitlines()]
    notes = {line.partition(" ")[2]: line for line in lines if line != TAKEN_BACK}
    return f"; noted: {'; '.join(notes.values())}" if notes else ""
