"""A graph for any of the host's nodes, built from what the host says of its inputs and outputs.

The node stands where its outputs belong: a MODEL before the sampler, a CONDITIONING between the
prompt and the sampler, and so on.
"""

from __future__ import annotations

import copy
from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from node_benches import (
    FILES,
    FROM_FILES,
    LATENT,
    PARTS,
    SAMPLER,
    SAVE,
    SHOWN,
    SUPPLIED,
    TRIED,
    Bench,
    Link,
    advanced,
)
from node_sockets import Socket, sockets_of
from node_widgets import NOTHING_SET, WIDGETS, moved, widget
from workflow_kit import Api, changed

REDRAWN = 0.5  # of the noise, for a latent that a node has changed
OURS = ("MODEL", "CLIP", "CONDITIONING", "LATENT")
CHOOSER, CHOSEN = "KSampler", ("sampler_name", "scheduler")
CHOICE_STEPS = 10  # of a method or schedule, which may be right in enough steps alone
DRAWS_WITH = ("SAMPLER", "SIGMAS", "GUIDER", "NOISE")

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

    @cached_property
    def _is_stock(self) -> set[str]:
        return set(self.stock)

    def sockets(self, node: str) -> list[Socket]:
        """Its inputs; a stock node has no choice of files but of those that the benches save."""
        sockets = sockets_of(self.info[node]["input"])
        return [s.without_files(FILES) if node in self._is_stock else s for s in sockets]

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

    @property
    def choices(self) -> list[str]:
        """`KSampler, ddpm` and so on: the sampler with each of its methods and schedules."""
        known = {socket.name: socket.choices for socket in self.sockets(CHOOSER)}
        return [f"{CHOOSER}, {choice}" for name in CHOSEN for choice in known[name]]

    @cached_property
    def givers(self) -> dict[str, Link]:
        """By type, the node that gives it with the fewest others before it, and its output."""
        found: dict[str, Link] = {k: [node, 0] for k, node in PREFERRED.items()}
        known = {*SUPPLIED, *found, *NOTHING_SET}
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
    bench: Bench
    api: Api
    asked: Counter = field(default_factory=Counter)

    def add(self, kind: str, name: str | None = None, /, **inputs: Any) -> str:
        """Its id."""
        name = name or f"{kind}{len(self.api)}"
        self.api[name] = {"class_type": kind, "inputs": inputs}
        return name

    def place(
        self, kind: str, name: str | None = None, everything: bool = False, aside: bool = False
    ) -> str:
        """A node whose inputs all have what they need; its id.

        Raises:
            Lacking: one of them cannot have it.

        Args:
            everything: give optional inputs that are links something too, where that is possible.
            aside: set widgets, optional ones too, to other values than their defaults.
        """
        inputs = {}
        for socket in self.nodes.sockets(kind):
            is_widget = socket.kind in WIDGETS
            try:
                given = everything and socket.kind not in FROM_FILES
                if socket.required or (aside if is_widget else given):
                    inputs[socket.name] = self.value(socket, aside and is_widget)
            except Lacking:
                if socket.required:
                    raise
        return self.add(kind, name, **inputs)

    def value(self, socket: Socket, aside: bool = False) -> Any:
        """What a widget has by default, or beside it, or a link to what gives the type."""
        name = socket.name.split(".")[-1]
        if socket.kind == "COMBO" and not socket.choices:
            raise Lacking(name)
        if socket.kinds[0] in WIDGETS:
            value = widget(name, socket, self.bench.side)
            return moved(name, socket, value) if aside else value
        for kind in socket.kinds:
            if (link := self.link(kind, name)) is not None:
                return link
        raise Lacking(socket.kind)

    def link(self, kind: str, name: str) -> Link | None:
        """To an output of this type: another one for the second input of a node."""
        given = self.bench.sources().get(kind)
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


@dataclass
class Trial:
    """A graph with the node in it, and the same without, where a picture is drawn."""

    api: Api
    plain: Api | None


def trial(
    bench: Bench, nodes: Nodes, node: str, everything: bool = False, aside: bool = False
) -> Trial:
    """Put a node on what the bench draws with; see `Graph.place`.

    Raises:
        Lacking: one of its inputs cannot be supplied.
    """
    gives, takes = nodes.outputs(node), nodes.takes(node)
    shows, latents = "IMAGE" in gives, "LATENT" in gives and "CONDITIONING" not in gives
    samples = latents and ("GUIDER" in takes or {"MODEL", "CONDITIONING"} <= takes)
    changes = latents and {"LATENT"} == takes & set(OURS) and not samples
    graph = Graph(nodes, bench, bench.upstream(draws="LATENT" in takes and (shows or changes)))
    graph.place(node, TRIED, everything, aside)
    picture = _connected(bench, gives, samples, changes, shows)
    if picture is None:
        if not nodes.info[node]["output_node"]:
            graph.add("PreviewAny", SHOWN, source=[TRIED, 0])
        return Trial(_needed(graph.api), None)
    plain = bench.api
    if changes:
        plain = changed(plain, "KSampler", latent_image=["25", 0], denoise=REDRAWN)
        plain = {**bench.upstream(draws=True), **plain}
    return Trial(_needed({**graph.api, **picture}), _needed(plain))


def trial_of_choice(bench: Bench, nodes: Nodes, choice: str) -> Trial:
    """A method or schedule of `Nodes.choices` in the place of the bench's."""
    chosen = choice.removeprefix(f"{CHOOSER}, ")
    sockets = (socket for socket in nodes.sockets(CHOOSER) if socket.name in CHOSEN)
    name = next(socket.name for socket in sockets if chosen in socket.choices)
    plain = changed(bench.api, CHOOSER, steps=CHOICE_STEPS)
    return Trial(changed(plain, CHOOSER, **{name: chosen}), plain)


def _connected(
    bench: Bench, gives: list[str], samples: bool, changes: bool, shows: bool
) -> Api | None:
    """The drawing graph with the node's outputs where they belong; None where none does."""
    links = {kind: [[TRIED, n] for n, k in enumerate(gives) if k == kind] for kind in set(gives)}
    api = bench.api
    if shows:
        shown = changed(api, "SaveImage", images=links["IMAGE"][0])
        return {SAVE: shown[SAVE]}
    if samples:
        api = changed(api, "VAEDecode", samples=links["LATENT"][0])
        return changed(api, "SaveLatent", samples=links["LATENT"][0])
    if not set(links) & {*OURS, *DRAWS_WITH}:
        return None
    api = copy.deepcopy(api)
    if "CLIP" in links:
        api = changed(api, bench.reads, clip=links["CLIP"][0])
    if set(links) & set(DRAWS_WITH):
        api = advanced(api)
    for name in {SAMPLER, *PARTS} & api.keys():
        inputs = api[name]["inputs"]
        if "MODEL" in links and "model" in inputs:
            inputs["model"] = links["MODEL"][0]
        if "positive" in inputs:
            inputs |= zip(("positive", "negative"), links.get("CONDITIONING", ()))
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
