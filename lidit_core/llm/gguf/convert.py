"""GGUF, converted once: safetensors, config and tokenizer in the user cache."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import logging
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from ...errors import LiDiTError, check, first_line
from ..compat import transformers_version
from ..fetch import install_line
from ..storage import GGML, by_block, class_of
from .config import FACTORS
from .header import MAGIC, Header, joined_header
from .tokenizer import CHECKED, make_sound
from .vocabulary import vocabulary_of
from .write import check_serves, seconds, write_folder

log = logging.getLogger(__name__)
GGUF_NEEDS = ("gguf", "accelerate", "sentencepiece")  # what transformers reads them with
ONE_AT_A_TIME = threading.Lock()  # `foreign` changes what every thread sees
TOKENIZER_FILES = (".json", ".jinja", ".model")  # and config.json, which is read with them
WEIGHTS = ".safetensors"
SCRATCH = ".converting-"  # how the folder begins that a conversion works in
ABANDONED = 24 * 3600  # seconds after which such a folder is thrown away
EDGE, SAMPLE, SAMPLES = 1 << 20, 1 << 16, 64  # bytes of a file that its digest is made from
NOTE = "converted.from"  # the file that says what a copy was made from; no `.json`, see `recheck`
VERSION = 2  # of the converter: raise it when the same file comes to give other numbers


def check_packages() -> None:
    """Raise a LiDiTError with the line to paste where a package that reads GGUF files lacks."""
    lacking = [name for name in GGUF_NEEDS if importlib.util.find_spec(name) is None]
    if lacking:
        raise LiDiTError(
            f"reading GGUF files needs {' and '.join(lacking)}, which this Python lacks; run: "
            f"{install_line(*lacking)}"
        )


def content_digest(parts: Sequence[Path]) -> str:
    """SHA-256 of the files' sizes, edges and samples all over them: quick, by content alone."""
    digest = hashlib.sha256()
    for part in parts:
        size = part.stat().st_size
        with part.open("rb") as file:
            digest.update(str(size).encode() + file.read(EDGE))
            for i in range(1, SAMPLES):
                file.seek(size * i // SAMPLES)
                digest.update(file.read(SAMPLE))
            file.seek(max(0, size - EDGE))
            digest.update(file.read(EDGE))
    return digest.hexdigest()


def copy_name(stem: str, content: str) -> str:
    """The folder of a file's copy: by its content, and by the converter that makes it."""
    both = hashlib.sha256(f"{VERSION} {content}".encode()).hexdigest()
    return f"{stem}-{both[:8]}"


def older_copy_name(stem: str, content: str) -> str:
    """The folder of the copy that the first converter made, in float32."""
    return f"{stem}-{content[:8]}"


def convert(parts: Sequence[Path], folder: Path) -> None:
    """Convert one GGUF (its parts in order) into a Hugging Face model folder.

    Everything is written beside and moved in at the end, config.json last, so that a folder with
    a config.json is complete.

    Args:
        parts: the files of a llama.cpp split, or pieces of one file.
    """
    check_gguf(parts)
    with ONE_AT_A_TIME:
        if (folder / "config.json").is_file():  # another thread did it meanwhile
            return
        folder.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(folder)
        with tempfile.TemporaryDirectory(dir=folder, prefix=SCRATCH) as scratch:
            _convert(parts, folder, Path(scratch))


def recheck(parts: Sequence[Path], folder: Path) -> None:
    """Check, once, the tokenizer of a copy that was converted before such checks were made.

    It is mended, or the GGUF is converted again. Where it cannot be checked it stays as it is.
    """
    with ONE_AT_A_TIME:
        if (folder / CHECKED).is_file():
            return
        log.info("checking the tokenizer of %s, once", folder.name)
        try:
            with tempfile.TemporaryDirectory(dir=folder, prefix=SCRATCH) as scratch:
                _recheck(parts, folder, Path(scratch))
            return
        except LiDiTError as error:
            log.info("%s is converted again: %s", parts[0].name, first_line(error))
            (folder / "config.json").unlink()
        except Exception as error:  # a damaged GGUF, no gguf package, a folder of read-only files
            log.warning("the tokenizer in %s is not checked: %s", folder, first_line(error))
            return
    convert(parts, folder)


def _recheck(parts: Sequence[Path], folder: Path, work: Path) -> None:
    out = work / "out"
    out.mkdir()
    for file in folder.iterdir():
        if file.suffix in TOKENIZER_FILES:
            shutil.copy2(file, out)
    before = {file.name: file.read_bytes() for file in out.iterdir()}
    with _joined(parts, work) as files:
        try:
            said = vocabulary_of(joined_header(files))
        except LiDiTError as error:  # a damaged GGUF says nothing against its copy
            raise OSError(str(error)) from error
    make_sound(out, said, parts[0].name)
    names = {file.name for file in out.iterdir()}
    _move(out, {n for n in names if before.get(n) != (out / n).read_bytes()}, folder, CHECKED)
    for name in before.keys() - names:
        (folder / name).unlink()


def outdated(parts: Sequence[Path], folder: Path) -> bool:
    """Whether the first converter read this GGUF otherwise than it is read now.

    It dropped every scaling of the rotary embedding, and gave random numbers to what lacked.
    """
    if (folder / NOTE).is_file() or not all(_magic(part) == MAGIC for part in parts):
        return False  # pieces of one file are packaged demo LLMs, which were read rightly
    try:
        header = joined_header(parts, brief=True)
    except (LiDiTError, OSError):
        return False
    scaled = header.own().get("rope.scaling.type", "none") != "none"
    return scaled or any(name in header.tensors for name in FACTORS)


def discard(folder: Path) -> None:
    """Throw away a copy, config.json first, so that it is made again."""
    with ONE_AT_A_TIME:
        for name in ("config.json", CHECKED, NOTE):
            (folder / name).unlink(missing_ok=True)


def _convert(parts: Sequence[Path], folder: Path, work: Path) -> None:
    out, name = work / "out", parts[0].name
    with _joined(parts, work) as files:
        header = joined_header(files)
        _check_whole(header, name)
        check_serves(header, name)
        _announce(header, name, folder)
        out.mkdir()
        try:
            write_folder(header, files[0], out, name)
        except LiDiTError:
            raise
        except ImportError as error:
            line = install_line(*([error.name] if error.name else GGUF_NEEDS))
            raise LiDiTError(
                f"reading {name} needs a package ({first_line(error)}); run: {line}"
            ) from error
        except Exception as error:  # the readers meet a damaged file with errors of any kind
            raise LiDiTError(
                f"GGUF file {name} cannot be converted ({first_line(error)}); it may be cut short "
                f"or of a kind that transformers {transformers_version()} does not read, so get it "
                "again, update transformers or use safetensors"
            ) from error
    _write_note(out, parts, header)
    names = {file.name for file in out.iterdir()}
    for file in folder.iterdir():  # of an earlier conversion
        if file.suffix in (*TOKENIZER_FILES, WEIGHTS) and file.name not in names:
            file.unlink()
    _move(out, names, folder, "config.json")


def _check_whole(header: Header, name: str) -> None:
    count = header.fields.get("split.tensors.count")
    check(
        count in (None, 0, len(header.tensors)),
        f"{name} and its splits hold {len(header.tensors)} tensors and should hold {count}; put "
        "all of them there, of one LLM",
    )


def _announce(header: Header, name: str, folder: Path) -> None:
    """Say what the conversion will take, and refuse it where the disk has no room for it."""
    values = sum(info.count for info in header.tensors.values())
    needed, free = 2 * values, shutil.disk_usage(folder).free
    check(
        needed < free,
        f"converting {name} takes {needed / 1e9:.1f} GB in {folder}, whose disk has "
        f"{free / 1e9:.1f} GB left; make room there, or set LIDIT_CACHE to a folder elsewhere",
    )
    time = sum(seconds(header))
    took = f"{time / 60:.0f} minutes" if time > 90 else f"{max(time, 1):.0f} seconds"
    log.info("%s is converted to safetensors, once: %.1f GB on disk, about %s", name,
             needed / 1e9, took)  # fmt: skip


def _write_note(out: Path, parts: Sequence[Path], header: Header) -> None:
    """Note what the copy was made from, and how its small files are, which a user may change."""
    small = [f for f in out.iterdir() if f.suffix != WEIGHTS]
    files = {f.name: [f.stat().st_size, f.stat().st_mtime_ns] for f in small}
    note = {"version": VERSION, "source": content_digest(parts), "files": files}
    note["storage"] = _classes(header)
    (out / NOTE).write_text(json.dumps(note), encoding="utf-8")


def copy_identity(folder: Path) -> list | None:
    """What tells a copy's LLM from others: its GGUF, and files changed since it was made.

    None for folders that are no such copy. Asked once a prompt.
    """
    try:
        with open(folder / NOTE, encoding="utf-8") as file:
            note = json.load(file)
        changed = [
            [name, stat.st_size, stat.st_mtime_ns]
            for name, known in sorted(note["files"].items())
            if [(stat := os.stat(folder / name)).st_size, stat.st_mtime_ns] != known
        ]
        return ["gguf", note["version"], note["source"], *changed]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def copy_storage(folder: Path, parts: Sequence[Path]) -> list[str] | None:
    """The class of numbers in which a GGUF holds each block of its copy in a folder.

    None for a folder that is no copy; [] where neither its note nor the GGUF says it.
    """
    if not any((folder / name).is_file() for name in (NOTE, CHECKED)):
        return None
    try:
        said = json.loads((folder / NOTE).read_text(encoding="utf-8")).get("storage")
        if isinstance(said, list):
            return [str(one) for one in said]
    except (OSError, ValueError, AttributeError):
        pass  # an older copy
    try:  # of a file in pieces the first alone has the header
        return _classes(joined_header([p for p in parts if _magic(p) == MAGIC], brief=True))
    except (LiDiTError, OSError, IndexError):
        return []


def _classes(header: Header) -> list[str]:
    tensors = header.tensors.values()
    return by_block((one.name, one.shape, class_of(GGML.get(one.kind, ""))) for one in tensors)


def _move(out: Path, names: set[str], folder: Path, last: str) -> None:
    for name in sorted(names, key=lambda name: (name == last, name)):
        os.replace(out / name, folder / name)


def _remove_abandoned(folder: Path) -> None:
    """Throw away what conversions left that were killed; one that still runs is younger."""
    for scratch in folder.glob(f"{SCRATCH}*"):
        with contextlib.suppress(OSError):
            if time.time() - scratch.stat().st_mtime > ABANDONED:
                shutil.rmtree(scratch)


def check_gguf(parts: Sequence[Path]) -> None:
    """Raise a LiDiTError unless these files together are one whole GGUF."""
    if (magic := _magic(parts[0])) != MAGIC:
        raise LiDiTError(f"{parts[0]} begins with {magic!r}, not b'GGUF'; give a GGUF file")


def _magic(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(4)


@contextlib.contextmanager
def _joined(parts: Sequence[Path], work: Path) -> Iterator[list[Path]]:
    """The whole file or all its splits, in a folder of their own where the system links to them.

    transformers would read a tokenizer_config.json beside the file, be it another LLM's or left by
    an earlier conversion; so a chat template was lost.
    """
    alone = work / "gguf"
    alone.mkdir()
    if len(parts) == 1 or all(_magic(part) == MAGIC for part in parts):
        yield [_linked(part, alone) for part in parts]
        return
    whole = alone / "joined.gguf"
    with whole.open("wb") as out:
        for part in parts:
            with part.open("rb") as file:
                shutil.copyfileobj(file, out, 1 << 22)
    yield [whole]


def _linked(part: Path, alone: Path) -> Path:
    link = alone / part.name
    try:
        link.symlink_to(part.resolve())
    except OSError:  # Windows lets few users
        return part
    return link
