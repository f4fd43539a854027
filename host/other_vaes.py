"""A VAE and a model that do not belong together, whose latents have as many channels: told.

Latents carry no name, and by their numbers another VAE's cannot be told from noise, from sums or
from busy pictures. What the workflow connects is known, as long as loaders of the host give it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import folder_paths
from safetensors import safe_open

from ..lidit_core.paths import SHIPPED_WEIGHTS
from .node_notes import note, nothing_to_note
from .queued import Graph, kind_of, readers, running_node, sources

# the host's, which give no VAE of a LI-DiT: no checkpoint that they read holds one
CHECKPOINTS = ("CheckpointLoaderSimple", "CheckpointLoader", "unCLIPCheckpointLoader",
               "ImageOnlyCheckpointLoader")  # fmt: skip
TINY = "taesd_decoder.1.weight"  # in every file of an autoencoder that a LI-DiT here is drawn with
MODELS = ("MODEL", "GUIDER")
ALONE = "UNETLoader"  # the host's loader of diffusion models, which knows no LI-DiT


def tell_other_vae(latent: str, starts_from_latent: bool) -> None:
    """Tell of another model's VAE that decodes what the running sampler draws, or made its start.

    Of latents that the pack has the autoencoder of: others may be read by several files.

    Args:
        latent: the name of the sampler's latents.
        starts_from_latent: whether what the sampler is given shows in what it draws.
    """
    graph, sampler = running_node() if _known(latent) else ({}, "")
    for told in _others(graph, _vaes_along(graph, sampler, readers)):
        note(
            f"the VAE of {told} decodes what this sampler draws in the latents of {latent}, and "
            "makes another picture of it; connect the VAE of LI-DiT Model Loader"
        )
    for told in _others(graph, _makers(graph, sampler)) if starts_from_latent else ():
        note(
            f"this sampler starts from latents of {told}, and this LI-DiT paints in those of "
            f"{latent}, in which they are another picture; encode the picture with the VAE of "
            "LI-DiT Model Loader"
        )


def tell_other_latents(latent: str) -> None:
    """Tell of latents that another model or VAE made, on the node that decodes them with ours."""
    graph, node = running_node() if _known(latent) else ({}, "")
    for told in _others(graph, _makers(graph, node)):
        note(
            f"these latents are of {told}, and this VAE is that of {latent}, which makes another "
            "picture of them; connect the VAE that belongs to them"
        )
    nothing_to_note()


def _makers(graph: Graph, node: str) -> set[str]:
    """The loaders of what made the latents that a node is given."""
    return {*_vaes_along(graph, node, sources), *_models_before(graph, node)}


def _others(graph: Graph, loaders: Iterable[str]) -> list[str]:
    """What loaders of other models for certain load, as sentences call it, each once."""
    return sorted({_other(graph, loader) for loader in loaders} - {""})


def _known(latent: str) -> bool:
    return (SHIPPED_WEIGHTS / f"{latent}-vae.safetensors").is_file()


def _models_before(graph: Graph, node: str) -> Iterator[str]:
    """The loaders of the models that drew a node's latents, the nearest samplers'."""
    known = {node}
    ahead: list[tuple[str, tuple[str, ...]]] = [(node, ("LATENT",))]
    while ahead:
        here, kinds = ahead.pop()
        for other in {other for kind in kinds for other in sources(graph, here, kind)} - known:
            known.add(other)
            models = any(True for kind in MODELS for _ in sources(graph, other, kind))
            ahead.append((other, MODELS if models else kinds))
            if kinds == MODELS and not models:
                yield other


def _vaes_along(
    graph: Graph, node: str, neighbours: Callable[[Graph, str, str], Iterator[str]]
) -> Iterator[str]:
    """The loaders of the VAEs that latents pass on their way from or to a sampler."""
    known, ahead = {node}, [node]
    while ahead:
        for other in neighbours(graph, ahead.pop(), "LATENT"):
            if other in known or any(True for kind in MODELS for _ in sources(graph, other, kind)):
                continue  # another sampler's latents are its own
            known.add(other)
            ahead.append(other)
            yield from sources(graph, other, "VAE")


def _other(graph: Graph, loader: str) -> str:
    """What a loader loads, if it is another model's for certain; "" otherwise."""
    kind, inputs = kind_of(graph, loader), graph.get(loader, {}).get("inputs", {})
    fields = {"VAELoader": "vae_name", ALONE: "unet_name"} | dict.fromkeys(CHECKPOINTS, "ckpt_name")
    name = inputs.get(fields.get(kind))
    if not isinstance(name, str):
        return ""
    if kind == "VAELoader" and (path := folder_paths.get_full_path("vae", name)):
        if not path.endswith(".safetensors"):
            return ""
        with safe_open(path, "pt") as file:
            if TINY in file.keys():
                return ""
    return repr(name)
