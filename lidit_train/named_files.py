"""A run that goes on reads the files that its recipe names again: they have to be those of before.

A checkpoint, an autoencoder or a recording that was replaced under its name would be one part of
what is written in the end, and the other would be weights that have learnt from the one of before.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from lidit_core.bridge.teacher import NAME as TEACHER
from lidit_core.errors import check, shown
from lidit_core.io.atomic import replacing
from lidit_core.io.hashes import sampled_sha256
from lidit_core.io.recording import NAME as RECORDING
from lidit_core.io.recording import PROBES
from lidit_core.paths import at_home

from .recipe import Recipe

FILES = "files.json"  # in the run's folder
NAMED = (  # fields of a recipe
    *("model.checkpoint", "model.pixart", "model.vae", "alignment.encoder"),
    *("adapter.base", "adapter.text_encoders", "adapter.start"),
    *("bridge.checkpoint", "bridge.add", "bridge.through.base"),
)
WEIGHTS = (".safetensors", ".bin", ".ckpt", ".json")


def keep_hashes(recipe: Recipe, out: Path) -> None:
    """Write down in a run's folder which files its recipe names now."""
    with replacing(out / FILES) as beside:
        beside.write_text(json.dumps(_hashes(recipe), indent=1) + "\n", encoding="utf-8")


def check_hashes(recipe: Recipe, out: Path) -> None:
    """Refuse to go on with a run whose files were replaced since.

    A field that names another file than before is the recipe's own change, of which its run tells.
    Runs of older versions kept no hashes, and are not compared.

    Raises:
        LiDiTError: there is another file under the name of one.
    """
    if not (out / FILES).is_file():
        return
    before, now = json.loads((out / FILES).read_text(encoding="utf-8")), _hashes(recipe)
    for field, (path, digest) in now.items():
        named, known = before.get(field, (path, digest))
        check(
            named != path or known == digest,
            f"{field} is {shown(path)}, and what lies there is not what the run in {out} began "
            "with; put that back to go on with it, or begin another with another --out",
        )


def _hashes(recipe: Recipe) -> dict[str, list[str]]:
    """The path and a hash of every file or folder that a recipe names, by its field."""
    found = {}
    for field, path in _paths(asdict(recipe)):
        digest = hashlib.sha256()
        for file in _files_of(at_home(path)):
            digest.update(sampled_sha256(file).encode())
            found[field] = [path, digest.hexdigest()]
    return found


def _paths(recipe: dict) -> Iterator[tuple[str, str]]:
    for field in NAMED:
        value = recipe
        for name in field.split("."):
            value = (value or {}).get(name)
        if value:
            yield field, str(value)
    for number, source in enumerate(recipe["data"]["sources"]):
        if source["kind"] == "recording":
            yield f"data.sources.{number}.path", source["path"]


def _files_of(path: Path) -> list[Path]:
    """A file, or what tells a folder of weights or a recording from others; () of plain names."""
    if path.is_file():
        return [path]
    if (path / RECORDING).is_file():
        return [path / n for n in (RECORDING, PROBES, TEACHER) if (path / n).is_file()]
    if (path / "config.json").is_file() or (path / "model_index.json").is_file():
        return sorted(f for f in path.rglob("*") if f.suffix in WEIGHTS and f.is_file())
    return []
