"""The inputs of the host's nodes, from what the host says of them, in either of its forms."""

from __future__ import annotations

from collections.abc import Container, Iterator
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import Any

FILES = {".bin", ".ckpt", ".gguf", ".latent", ".pt", ".pth", ".safetensors", ".sft"}
FILES |= {".flac", ".gif", ".glb", ".jpg", ".json", ".mp3", ".mp4", ".png", ".txt", ".wav", ".webp"}
FOLDERS = ("folder", "folder_name")  # inputs that list the folders which lie in the host's `input`
GROW, CHOICE, LIKE = "COMFY_AUTOGROW_V3", "COMFY_DYNAMICCOMBO_V3", "COMFY_MATCHTYPE_V3"


@dataclass(frozen=True)
class Socket:
    """One input of a node, of which the host gives a type and options."""

    name: str
    kind: str
    options: dict[str, Any]
    choices: tuple = ()
    required: bool = True

    @property
    def kinds(self) -> list[str]:
        """The types that fit."""
        return [kind.strip() for kind in self.kind.split(",")]

    def without_files(self, known: Container[str]) -> Socket:
        """The same without choices that hang on what happens to be saved on a machine.

        Args:
            known: the files that stay choices.
        """
        if self.name in FOLDERS:
            return replace(self, choices=())
        return replace(self, choices=tuple(c for c in self.choices if c in known or not is_file(c)))


def is_file(choice: Any) -> bool:
    return isinstance(choice, str) and PurePath(choice).suffix.lower() in FILES


def sockets_of(inputs: dict[str, Any], before: str = "") -> Iterator[Socket]:
    """The inputs, those that a choice or a row of inputs brings among them."""
    for part in ("required", "optional"):
        for name, (kind, *rest) in (inputs.get(part) or {}).items():
            options = (rest or [{}])[0]
            if isinstance(kind, list):
                kind, options = "COMBO", {**options, "options": kind}
            choices = tuple(options.get("options", ())) if kind == "COMBO" else ()
            socket = Socket(before + name, kind, options, choices, part == "required")
            yield from _opened(socket)


def _opened(socket: Socket) -> Iterator[Socket]:
    """A socket, or those that stand for it."""
    name, template = socket.name, socket.options.get("template", {})
    if socket.kind == CHOICE:
        first = socket.options["options"][0]
        yield replace(socket, kind="COMBO", choices=(first["key"],))
        yield from sockets_of(first["inputs"], f"{name}.")
    elif socket.kind == LIKE:
        yield replace(socket, kind=template["allowed_types"])
    elif socket.kind == GROW:
        names = template.get("names") or [f"{template['prefix']}{n}" for n in range(2)]
        ((_, (kind, *_)),) = (
            template["input"].get("required") or template["input"]["optional"]
        ).items()
        least = template.get("min", 0)
        for n, each in enumerate(names[: max(1, least)]):
            yield Socket(f"{name}.{each}", kind, {}, (), socket.required and n < least)
    else:
        yield socket
