"""GGUF, converted once: safetensors, config and tokenizer in the user cache."""

from __future__ import annotations

import contextlib
import functools
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
from typing import TYPE_CHECKING

import torch

from ..errors import LiDiTError, first_line
from ..io.tensors import write_safetensors
from ..progress import tell
from .compat import dtype_argument, transformers_version
from .fetch import install_line
from .gguf_tokenizer import CHECKED, make_sound
from .gguf_vocabulary import Vocabulary

if TYPE_CHECKING:
    from transformers import PreTrainedModel

log = logging.getLogger(__name__)
GGUF_NEEDS = ("gguf", "accelerate", "sentencepiece")  # what transformers reads them with
ONE_AT_A_TIME = threading.Lock()  # `_remembering` changes what every thread sees
TOKENIZER_FILES = (".json", ".jinja", ".model")  # and config.json, which is read with them
SCRATCH = ".converting-"  # how the folder begins that a conversion works in
ABANDONED = 24 * 3600  # seconds after which such a folder is thrown away
# shares of a conversion that are done when the file is read, its tensors are unpacked, and its
# tokenizer is made; of Gemma 3 270M's time they were 0.33, 0.66 and 0.92
READ, UNPACKED, TOKENIZED = 0.35, 0.65, 0.9
EDGE, SAMPLE, SAMPLES = 1 << 20, 1 << 16, 64  # bytes of a file that its fingerprint is made from


def check_packages() -> None:
    """Raise a LiDiTError with the line to paste where a package that reads GGUF files lacks."""
    lacking = [name for name in GGUF_NEEDS if importlib.util.find_spec(name) is None]
    if lacking:
        raise LiDiTError(
            f"reading GGUF files needs {' and '.join(lacking)}, which this Python lacks; run: "
            f"{install_line(*lacking)}"
        )


def fingerprint(parts: Sequence[Path]) -> str:
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


def convert(parts: Sequence[Path], folder: Path) -> None:
    """Convert one GGUF (its parts in order) into a Hugging Face model folder, in float32.

    Everything is written beside and moved in at the end, config.json last, so that a folder with
    a config.json is complete. float32 keeps the dequantised numbers exactly.
    """
    check_gguf(parts)
    with ONE_AT_A_TIME:
        if (folder / "config.json").is_file():  # another thread did it meanwhile
            return
        log.info("converting %s to safetensors, once", parts[0].name)
        folder.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(folder)
        with tempfile.TemporaryDirectory(dir=folder, prefix=SCRATCH) as scratch:
            _convert(parts, folder, Path(scratch))


def recheck(parts: Sequence[Path], folder: Path) -> None:
    """Check the tokenizer of a copy that was converted before this was done, once.

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
    with _joined(parts, work) as gguf:
        said = vocabulary(gguf)
    make_sound(out, said, parts[0].name)
    names = {file.name for file in out.iterdir()}
    _move(out, {n for n in names if before.get(n) != (out / n).read_bytes()}, folder, CHECKED)
    for name in before.keys() - names:
        (folder / name).unlink()


def _convert(parts: Sequence[Path], folder: Path, work: Path) -> None:
    with _joined(parts, work) as gguf:
        _write(gguf, work / "out", parts[0].name)
    names = {file.name for file in (work / "out").iterdir()}
    for file in folder.iterdir():  # of an earlier conversion
        if file.suffix in TOKENIZER_FILES and file.name not in names:
            file.unlink()
    _move(work / "out", names, folder, "config.json")


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
    with parts[0].open("rb") as file:
        magic = file.read(4)
    if magic != b"GGUF":
        raise LiDiTError(f"{parts[0]} begins with {magic!r}, not b'GGUF'; give a GGUF file")


@contextlib.contextmanager
def _joined(parts: Sequence[Path], work: Path) -> Iterator[Path]:
    """One whole file, in a folder of its own where the system lets us link to it.

    transformers would read a tokenizer_config.json beside the file, be it another LLM's or left by
    an earlier conversion; so a chat template was lost.
    """
    alone = work / "gguf"
    alone.mkdir()
    if len(parts) == 1:
        link = alone / parts[0].name
        try:
            link.symlink_to(parts[0].resolve())
        except OSError:  # Windows lets few users
            link = parts[0]
        yield link
        return
    whole = alone / "joined.gguf"
    with whole.open("wb") as out:
        for part in parts:
            with part.open("rb") as file:
                shutil.copyfileobj(file, out, 1 << 22)
    yield whole


def _write(gguf: Path, out: Path, name: str) -> None:
    from transformers import AutoTokenizer

    where, what = {"gguf_file": gguf.name}, f"converting {name} to safetensors, once"
    try:
        with _remembering(what):
            module = _dequantised(gguf)
            tell(what, UNPACKED)
            tokenizer = AutoTokenizer.from_pretrained(gguf.parent, **where)
            said = vocabulary(gguf)
    except ImportError as error:
        line = install_line(*([error.name] if error.name else GGUF_NEEDS))
        raise LiDiTError(
            f"reading {gguf.name} needs a package ({first_line(error)}); run: {line}"
        ) from error
    except Exception as error:  # the readers meet a damaged file with errors of any kind
        raise LiDiTError(
            f"GGUF file {gguf.name} cannot be converted ({first_line(error)}); it may be cut short "
            f"or of a kind that transformers {transformers_version()} does not read, so get it "
            "again, update transformers or use safetensors"
        ) from error
    tell(what, TOKENIZED)
    out.mkdir()
    tokenizer.save_pretrained(out)
    write_safetensors(out / "model.safetensors", module.state_dict(), {"format": "pt"})
    with contextlib.suppress(AttributeError):
        delattr(module.config, "quantization_config")
    module.config.save_pretrained(out)
    _for_older_readers(out / "config.json")
    make_sound(out, said, name)


def vocabulary(gguf: Path) -> Vocabulary:
    """What the file's metadata say of its tokenizer."""
    import gguf as package

    fields = package.GGUFReader(str(gguf)).fields  # as transformers asks, for `_remembering`

    def values(key: str) -> list:
        field = fields.get(key)
        if field is None:
            return []
        if package.GGUFValueType.STRING in field.types:
            return [field.parts[i].tobytes().decode("utf-8", "replace") for i in field.data]
        return [field.parts[i].tolist()[0] for i in field.data]

    def value(key: str):
        return next(iter(values(key)), None)

    tokens = values("tokenizer.ggml.tokens")
    roles = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
    special = {role: value(f"tokenizer.ggml.{key}_token_id") for role, key in roles.items()}
    return Vocabulary(
        architecture=value("general.architecture") or "",
        model=value("tokenizer.ggml.model") or "",
        tokens=tokens,
        kinds=values("tokenizer.ggml.token_type") or [1] * len(tokens),
        special={role: i for role, i in special.items() if i is not None and i < len(tokens)},
        adds_bos=value("tokenizer.ggml.add_bos_token"),
        chat_template=value("tokenizer.chat_template"),
    )


def _for_older_readers(path: Path) -> None:
    """Name the rotary bases as transformers 4 does too: it would silently take its defaults."""
    config = json.loads(path.read_text(encoding="utf-8"))
    rope = config.get("rope_parameters") or {}
    full, sliding = (rope.get(kind, {}) for kind in ("full_attention", "sliding_attention"))
    bases = {
        "rope_theta": rope.get("rope_theta", full.get("rope_theta")),
        "rope_local_base_freq": sliding.get("rope_theta"),
    }
    config = {**{key: base for key, base in bases.items() if base is not None}, **config}
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


@contextlib.contextmanager
def _remembering(what: str) -> Iterator[None]:
    """Parse the file once where transformers would three times, and the names once a block.

    Memoises two pure functions of the gguf package; two thirds of the time go there otherwise. How
    far it is, is told as `what`.
    """
    import gguf

    read, dequantize = gguf.GGUFReader, gguf.dequantize
    unpacked, count = 0, 1

    def reader(*args, **kwargs):
        nonlocal count
        tell(what, 0)
        found = read(*args, **kwargs)
        count = max(1, len(found.tensors))
        tell(what, READ)
        return found

    def unpack(*args, **kwargs):
        nonlocal unpacked
        tell(what, READ + (UNPACKED - READ) * unpacked / count)
        unpacked += 1
        return dequantize(*args, **kwargs)

    changes = {
        "GGUFReader": functools.lru_cache(reader),
        "get_tensor_name_map": functools.lru_cache(gguf.get_tensor_name_map),
        "dequantize": unpack,
    }
    originals = {name: getattr(gguf, name) for name in changes}
    try:
        for name, changed in changes.items():
            setattr(gguf, name, changed)
        yield
    finally:
        for name, original in originals.items():
            setattr(gguf, name, original)


def _dequantised(gguf: Path) -> PreTrainedModel:
    """The whole decoder in float32, its head left out."""
    from transformers import AutoModel

    options: dict = {"gguf_file": gguf.name, dtype_argument(): torch.float32}
    try:  # newer transformers would keep the weights packed where it has kernels for them
        from transformers import GgufConfig

        options["quantization_config"] = GgufConfig(dequantize=True)
    except ImportError:
        pass
    return AutoModel.from_pretrained(gguf.parent, **options)
