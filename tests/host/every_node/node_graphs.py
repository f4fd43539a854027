"""A graph for any of the host's nodes, built from what the host says of its inputs and outputs.

Each draws with a LI-DiT, and the node stands where its outputs belong: a MODEL before the sampler,
a CONDITIONING between the prompt and the sampler, and so on.
"""

from __future__ import annotations

import copy
from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from node_sockets import Socket, sockets_of
from workflow_kit import Api, changed, read

Link = list  # a node's id and the number of its output
TRIED, LATENT, SHOWN = "30", "9", "31"  # ids of what is tried, saves the latent, shows a value
LLM, LIDIT, POSITIVE, NEGATIVE, EMPTY, SAMPLER, DECODE, SAVE = "12345678"  # of the workflow's
LORA = "lora.safetensors"  # in models/loras; see `sources`
STEPS, SIDE = 4, 128  # of a picture
REDRAWN = 0.5  # of the noise, for a latent that a node has changed
OURS = ("MODEL", "CLIP", "CONDITIONING", "LATENT")
DRAWS_WITH = ("SAMPLER", "SIGMAS", "GUIDER", "NOISE")

# widgets that set how much is computed, or what is drawn; all others keep their defaults
SMALL = {"width": SIDE, "height": SIDE, "target_width": SIDE, "target_height": SIDE}
SMALL |= {"steps": STEPS, "length": 5, "video_frames": 5, "frames_number": 5, "seconds": 1.0}
SMALL |= {"cfg": 3.0, "seed": 4, "noise_seed": 4}
NOTHING_SET = {"INT": 0, "FLOAT": 0.0, "STRING": "", "BOOLEAN": False}
PROMPT = "a cat to the left of a red balloon on a blue background"
# who gives a type, where the first one found gives nothing that has an effect
PREFERRED = {"HOOKS": "CreateHookLora", "NOISE": "RandomNoise", "SAMPLER": "KSamplerSelect"}


class Lacking(Exception):
    """An input that no stock node can give here: its type, or the kind of file that it names."""


@dataclass
class Nodes:
    """The host's own nodes, as it describes them."""

    info: dict[str, Any]  # the host's /object_info

    @cached_property
    def stock(self) -> list[str]:
        """The host's own; those that call a service on the net are not among them in a test."""
        own = ("nodes", "comfy_extras")
        found = self.info.items()
        return sorted(name for name, told in found if told["python_module"].split(".")[0] in own)

    def sockets(self, node: str) -> list[Socket]:
        return list(sockets_of(self.info[node]["input"]))

    def outputs(self, node: str) -> list[str]:
        """Types; a choice that is handed on counts as no type."""
        return [kind if isinstance(kind, str) else "COMBO" for kind in self.info[node]["output"]]

    def takes(self, node: str) -> set[str]:
        return {kind for socket in self.sockets(node) for kind in socket.kinds}

    @property
    def taking(self) -> list[str]:
        """Those that take what a LI-DiT, its LLM or a prompt for it gives."""
        return [node for node in self.stock if self.takes(node) & set(OURS)]

    @property
    def drawing(self) -> list[str]:
        """Those that a LI-DiT may draw with, though they take nothing of it."""
        given = {"CONDITIONING", "LATENT", *DRAWS_WITH}
        rest = set(self.stock) - set(self.taking)
        return [node for node in sorted(rest) if given & set(self.outputs(node))]

    @cached_property
    def givers(self) -> dict[str, Link]:
        """By type, the node that gives it with the fewest others before it, and its output."""
        found: dict[str, Link] = {k: [node, 0] for k, node in PREFERRED.items()}
        known = {*sources(), *found, *NOTHING_SET}
        while True:
            fresh = {}
            for node in self.stock:
                lacking = [s for s in self.sockets(node) if s.required and not _given(s, known)]
                if not lacking and "Deprecated" not in node:
                    for number, kind in enumerate(self.outputs(node)):
                        fresh.setdefault(kind, [node, number])
            fresh = {kind: link for kind, link in fresh.items() if kind not in known}
            if not fresh:
                return found
            found |= fresh
            known |= set(fresh)


def _given(socket: Socket, known: set[str]) -> bool:
    if socket.kind == "COMBO":
        return bool(socket.choices)
    return any(kind in known for kind in socket.kinds)


@dataclass
class Graph:
    """A graph in the making, and how often an input of each type was connected."""

    nodes: Nodes
    api: Api
    asked: Counter = field(default_factory=Counter)

    def add(self, kind: str, name: str | None = None, **inputs: Any) -> str:
        """Its id."""
        name = name or f"{kind}{len(self.api)}"
        self.api[name] = {"class_type": kind, "inputs": inputs}
        return name

    def place(self, kind: str, name: str | None = None, everything: bool = False) -> str:
        """A node whose inputs all have what they need; its id.

        Raises:
            Lacking: one of them cannot have it.

        Args:
            everything: give optional inputs that are links something too, where that is possible.
        """
        inputs = {}
        for socket in self.nodes.sockets(kind):
            try:
                if socket.required or (everything and socket.kind not in (*NOTHING_SET, "COMBO")):
                    inputs[socket.name] = self.value(socket)
            except Lacking:
                if socket.required:
                    raise
        return self.add(kind, name, **inputs)

    def value(self, socket: Socket) -> Any:
        """What a widget has by default, or a link to what gives the type."""
        name, options = socket.name.split(".")[-1], socket.options
        if socket.kind == "COMBO":
            if not socket.choices:
                raise Lacking(name)
            default = options.get("default")
            return default if default in socket.choices else socket.choices[0]
        if socket.kinds[0] in NOTHING_SET:
            return self.widget(name, socket)
        for kind in socket.kinds:
            if (link := self.link(kind, name)) is not None:
                return link
        raise Lacking(socket.kind)

    def widget(self, name: str, socket: Socket) -> Any:
        """What is set where nothing is connected."""
        options = socket.options
        if name in SMALL and not isinstance(options.get("default"), str):
            low, high = options.get("min", 0), options.get("max", SMALL[name])
            return min(max(SMALL[name], low), high)
        default = options.get("default", options.get("min"))
        if socket.kind == "STRING" and options.get("multiline") and not default:
            return PROMPT
        return NOTHING_SET[socket.kinds[0]] if default is None else default

    def link(self, kind: str, name: str) -> Link | None:
        """To an output of this type: another one for the second input of a node."""
        given = sources().get(kind)
        if given is not None:
            count = len(given) - 1
            number = 1 if kind == "CONDITIONING" and "neg" in name else self.asked[kind]
            self.asked[kind] += 1
            return given[min(number, count)]
        if kind not in self.nodes.givers:
            return None
        node, number = self.nodes.givers[kind]
        known = [i for i, each in self.api.items() if each["class_type"] == node and i != TRIED]
        return [known[0] if known else self.place(node), number]


def sources() -> dict[str, list[Link]]:
    """What the node's inputs are connected to: nodes of their own, so that no circle closes."""
    return {
        "MODEL": [[LIDIT, 0], ["22", 0]],
        "CLIP": [[LLM, 0]],
        "VAE": [[LIDIT, 1]],
        "CONDITIONING": [["23", 0], ["24", 0]],
        "LATENT": [["25", 0]],
        "GUIDER": [["27", 0]],
        "SIGMAS": [["28", 0]],
    }


def upstream(draws: bool) -> Api:
    """The nodes that `sources` names.

    Args:
        draws: the latent is a drawn one instead of an empty one.
    """
    _, api = read("text_to_image")
    api = changed(changed(api, "KSampler", steps=STEPS), "CLIPTextEncode", clip=[LLM, 0])
    prompts = {"positive": ["23", 0], "negative": ["24", 0]}
    sampler = api[SAMPLER]["inputs"]
    lora = {"model": [LIDIT, 0], "lora_name": LORA, "strength_model": 1.0}
    guider = {"model": [LIDIT, 0], **prompts, "cfg": sampler["cfg"]}
    sigmas = {"model": [LIDIT, 0], "scheduler": "simple", "steps": STEPS, "denoise": 1.0}
    return {
        LLM: api[LLM],
        LIDIT: api[LIDIT],
        "22": {"class_type": "LoraLoaderModelOnly", "inputs": lora},
        "23": api[POSITIVE],
        "24": api[NEGATIVE],
        "26": api[EMPTY],
        "25": {
            "class_type": "KSampler",
            "inputs": {**sampler, **prompts, "latent_image": ["26", 0]},
        }
        if draws
        else api[EMPTY],
        "27": {"class_type": "CFGGuider", "inputs": guider},
        "28": {"class_type": "BasicScheduler", "inputs": sigmas},
    }


def drawing() -> Api:
    """The newcomer's workflow in few steps, which saves the latent too."""
    _, api = read("text_to_image")
    save = {"samples": [SAMPLER, 0], "filename_prefix": "tried"}
    api = changed(api, "KSampler", steps=STEPS)
    return {**api, LATENT: {"class_type": "SaveLatent", "inputs": save}}


def advanced(api: Api) -> Api:
    """The same with the sampler whose parts are nodes; they draw the same picture."""
    old = api[SAMPLER]["inputs"]
    sigmas = {"scheduler": "simple", "steps": old["steps"], "denoise": old["denoise"]}
    guider = {name: old[name] for name in ("model", "positive", "negative", "cfg")}
    parts = {
        "noise": ("RandomNoise", {"noise_seed": old["seed"]}),
        "guider": ("CFGGuider", guider),
        "sampler": ("KSamplerSelect", {"sampler_name": old["sampler_name"]}),
        "sigmas": ("BasicScheduler", {"model": old["model"], **sigmas}),
    }
    api = copy.deepcopy(api)
    for name, (kind, inputs) in parts.items():
        api[name] = {"class_type": kind, "inputs": inputs}
    links = {name: [name, 0] for name in parts}
    inputs = {**links, "latent_image": old["latent_image"]}
    api[SAMPLER] = {"class_type": "SamplerCustomAdvanced", "inputs": inputs}
    return api


@dataclass
class Trial:
    """A graph with the node in it, and the same without, where a picture is drawn."""

    api: Api
    plain: Api | None


def trial(nodes: Nodes, node: str, everything: bool = False) -> Trial:
    """Put a node on what a LI-DiT draws with.

    Raises:
        Lacking: one of its inputs cannot be supplied.
    """
    gives, takes = nodes.outputs(node), nodes.takes(node)
    shows, latents = "IMAGE" in gives, "LATENT" in gives and "CONDITIONING" not in gives
    samples = latents and ("GUIDER" in takes or {"MODEL", "CONDITIONING"} <= takes)
    changes = latents and {"LATENT"} == takes & set(OURS) and not samples
    graph = Graph(nodes, upstream(draws="LATENT" in takes and (shows or changes)))
    graph.place(node, TRIED, everything)
    picture = _connected(drawing(), gives, samples, changes, shows)
    if picture is None:
        if not nodes.info[node]["output_node"]:
            graph.add("PreviewAny", SHOWN, source=[TRIED, 0])
        return Trial(_needed(graph.api), None)
    plain = drawing()
    if changes:
        plain = changed(plain, "KSampler", latent_image=["25", 0], denoise=REDRAWN)
        plain = {**upstream(draws=True), **plain}
    return Trial(_needed({**graph.api, **picture}), _needed(plain))


def _connected(api: Api, gives: list[str], samples: bool, changes: bool, shows: bool) -> Api | None:
    """The drawing graph with the node's outputs where they belong; None where none does."""
    links = {kind: [[TRIED, n] for n, k in enumerate(gives) if k == kind] for kind in set(gives)}
    if shows:
        shown = changed(api, "SaveImage", images=links["IMAGE"][0])
        return {SAVE: shown[SAVE]}
    if samples:
        api = changed(api, "VAEDecode", samples=links["LATENT"][0])
        return changed(api, "SaveLatent", samples=links["LATENT"][0])
    if not set(links) & {*OURS, *DRAWS_WITH}:
        return None
    if "CLIP" in links:
        api = changed(api, "CLIPTextEncode", clip=links["CLIP"][0])
    if set(links) & set(DRAWS_WITH):
        api = advanced(api)
    for node in api.values():
        if "MODEL" in links and "model" in node["inputs"]:
            node["inputs"]["model"] = links["MODEL"][0]
        if "positive" in node["inputs"]:
            node["inputs"] |= zip(("positive", "negative"), links.get("CONDITIONING", ()))
    sampler = api[SAMPLER]["inputs"]
    if "LATENT" in links:
        sampler["latent_image"] = links["LATENT"][0]
    if changes:
        sampler["denoise"] = REDRAWN
    for kind in set(links) & set(DRAWS_WITH):
        sampler[kind.lower()] = links[kind][0]
    return api


def _needed(api: Api) -> Api:
    """Without the nodes that lead to no end."""
    ends = {TRIED, SAVE, LATENT, SHOWN} & api.keys()
    kept, open_ = set(), list(ends)
    while open_:
        name = open_.pop()
        kept.add(name)
        links = [v for v in api[name]["inputs"].values() if isinstance(v, list)]
        open_ += [link[0] for link in links if link and link[0] in api and link[0] not in kept]
    return {name: node for name, node in api.items() if name in kept}
