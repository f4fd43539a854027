#!/usr/bin/env python3
"""Sets everything up in one step, then does what you ask. Needs Python 3.10 or newer, nothing else.

    python3 run.py generate "a cat to the left of a dog"    draws a picture
    python3 run.py test                                     runs the tests, also in ComfyUI
    python3 run.py lint                                     checks style, imports and types
    python3 run.py prove hosts                              runs a long proof, see docs/proofs.md
    python3 run.py setup                                    only sets up
    python3 run.py fetch gemma3                             any other verb goes to `lidit`

The first run makes the virtual environment `.venv` beside this file, installs PyTorch (the CPU
build where there is no NVIDIA GPU; a PyTorch that is already in `.venv` stays as it is) and this
project, and fetches the small demo LLM into the user cache. Later runs start at once.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
WINDOWS = os.name == "nt"
PYTHON = VENV / ("Scripts/python.exe" if WINDOWS else "bin/python")
STAMP = VENV / "lidit-setup.json"  # what was installed, written last
CONSTRAINTS = ROOT / "constraints.txt"
DEMO_LLM = "smollm2"  # the one that the shipped weights and the tests need
SHIPPED = ("stickers", "stickers-duo")  # the models that read it

TYPE_CHECKER = "pyright"
TYPE_ERRORS = ROOT / "pyright-errors.txt"  # how many `lint` still lets pass
HIDING = re.compile(r"#\s*(type:\s*ignore|pyright:)|\bcast\(\s*[\"']?Any\b")  # silences it

TORCH_WITHOUT_CUDA = "https://download.pytorch.org/whl/cpu"  # several GB smaller


class SetupError(Exception):
    """One sentence: what failed and what to do."""


def say(text: str) -> None:
    print(f"[run.py] {text}", flush=True)


def call(words: list[str | Path], remedy: str, **options) -> None:
    if subprocess.call([str(word) for word in words], **options) != 0:
        raise SetupError(remedy)


def pip_install(words: list[str], **options) -> None:
    quiet = [] if sys.stdout.isatty() else ["--quiet", "--quiet"]
    call(
        [PYTHON, "-m", "pip", "install", "--disable-pip-version-check", *quiet, *words],
        "pip could not install (see above); check the connection, then run the same command again",
        **options,
    )


def make_venv() -> None:
    if PYTHON.exists():
        return
    try:
        import ensurepip  # noqa: F401  (Debian leaves it out of python3)
    except ImportError:
        raise SetupError(
            "this Python cannot make virtual environments; on Debian and Ubuntu install "
            "python3-venv (sudo apt install python3-venv), then run the same command again"
        ) from None
    say(f"making the virtual environment {VENV}")
    call([sys.executable, "-m", "venv", "--clear", VENV], "python -m venv failed (see above)")


def has_nvidia_gpu() -> bool:
    tool = shutil.which("nvidia-smi")
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return tool is not None and subprocess.call([tool], **quiet) == 0


def has_torch() -> bool:
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.call([str(PYTHON), "-c", "import torch"], **quiet) == 0


def torch_would_bring_cuda() -> bool:
    """Whether pip, as it is set up, would download NVIDIA's packages; True where it cannot say."""
    words = [PYTHON, "-m", "pip", "install", "--dry-run", "--quiet", "--report", "-"]
    words += ["--disable-pip-version-check", "-c", CONSTRAINTS, "torch"]
    answer = subprocess.run([str(word) for word in words], capture_output=True, text=True)
    try:
        packages = json.loads(answer.stdout)["install"]
    except (ValueError, KeyError):
        return True
    names = [package["metadata"]["name"].lower() for package in packages]
    return any(name.startswith(("nvidia", "cuda", "triton")) for name in names)


def pins(gpu: bool, own_torch: bool) -> list[str]:
    """pip's words for the versions to install, ours but for a PyTorch that was there before."""
    lines = [] if gpu else CONSTRAINTS.read_text().splitlines()
    if own_torch:
        ask = "from importlib.metadata import version; print('torch==' + version('torch'))"
        theirs = subprocess.check_output([str(PYTHON), "-c", ask], text=True).strip()
        lines = [theirs, *(line for line in lines if not line.startswith("torch=="))]
    chosen = VENV / "lidit-constraints.txt"
    chosen.write_text("\n".join(lines) + "\n")
    return ["-c", str(chosen)]


def install_torch(gpu: bool) -> None:
    """Install PyTorch where there is none."""
    if gpu:
        say("installing PyTorch for the NVIDIA GPU (several GB)")
        pip_install(["torch>=2.4"])
        return
    say("installing PyTorch for the CPU (about 200 MB)")
    env = dict(os.environ)
    if platform.system() == "Linux" and torch_would_bring_cuda():
        given = env.get("PIP_EXTRA_INDEX_URL", "")
        env["PIP_EXTRA_INDEX_URL"] = f"{given} {TORCH_WITHOUT_CUDA}".strip()
    pip_install(["-c", str(CONSTRAINTS), "torch"], env=env)


def fingerprint() -> str:
    """Changes when what is to be installed changes, or another Python is used."""
    digest = hashlib.sha256(sys.version.encode())
    for name in ("pyproject.toml", "constraints.txt"):
        digest.update((ROOT / name).read_bytes())
    return digest.hexdigest()


def installed_extras() -> set[str]:
    """The extras that are installed already, by the present pyproject.toml and this Python."""
    try:
        stamp = json.loads(STAMP.read_text())
    except (OSError, ValueError):
        return set()
    up_to_date = PYTHON.exists() and stamp["fingerprint"] == fingerprint()
    return set(stamp["extras"]) if up_to_date else set()


def set_up(extras: set[str]) -> None:
    """Install the project with these extras, unless that is done."""
    present = installed_extras()
    if extras <= present:
        return
    make_venv()
    gpu, own_torch = has_nvidia_gpu(), has_torch()
    if not own_torch:
        install_torch(gpu)
    wanted = sorted(extras | present)
    say(f"installing LI-DiT and what it needs ({', '.join(wanted)})")
    pip_install([*pins(gpu, own_torch), "-e", f"{ROOT}[{','.join(wanted)}]"])
    STAMP.write_text(json.dumps({"fingerprint": fingerprint(), "extras": wanted}))


def fetch_demo_llm() -> None:
    """Fetch the demo LLM unless it is in the user cache; shows its size and licence first."""
    sys.path.insert(0, str(ROOT))
    from lidit_core.llm import fetch

    if not fetch.is_complete(fetch.find_demo(DEMO_LLM)):
        say("fetching the demo LLM")
        call([PYTHON, fetch.__file__, DEMO_LLM], "the demo LLM is not there yet (see above)")


def needs_demo_llm(words: list[str]) -> bool:
    """Whether a shipped model reads the demo LLM in this command."""
    options = [word.split("=")[0] for word in words]
    if {"-h", "--help", "--llm"} & set(options):
        return False
    values = [*words[1:], ""]  # what follows each word
    models = [
        word.partition("=")[2] if "=" in word else value
        for word, option, value in zip(words, options, values)
        if option == "--model"
    ]
    return all(model in SHIPPED for model in models[-1:])


def run_tests(words: list[str]) -> int:
    """The library's tests, and where they passed, the nodes' in every ComfyUI there is."""
    files = (ROOT / "tests" / name for name in ("library.py", "hosts.py"))
    return any(subprocess.call([str(PYTHON), str(file), *words], cwd=ROOT) for file in files)


def lint() -> int:
    ruff = [str(PYTHON), "-m", "ruff"]
    checked = subprocess.call([*ruff, "check", "."], cwd=ROOT)
    checked = checked or subprocess.call([*ruff, "format", "--check", "."], cwd=ROOT)
    return checked or lint_imports() or lint_types()


def lint_imports(root: Path = ROOT) -> int:
    """Check the contracts in `.importlinter`: who may import whom.

    ComfyUI loads the pack under a name of its own, so a copy is made under the name `pack`.
    """
    with tempfile.TemporaryDirectory() as folder:
        pack = Path(folder) / "pack"
        for name in ("host", "nodes", "lidit_core", "lidit_train", "lidit_eval", "lidit_stickers"):
            ignored = shutil.ignore_patterns("weights", "__pycache__")
            shutil.copytree(root / name, pack / name, ignore=ignored)
        shutil.copy(root / "__init__.py", pack)
        checker = "from importlinter.cli import lint_imports_command as check; check()"
        words = [str(PYTHON), "-c", checker, "--no-cache", "--no-logo"]
        return subprocess.call(words, cwd=root, env={**os.environ, "PYTHONPATH": folder})


def count_type_errors(report: dict, sources: Iterable[str]) -> int:
    """The errors of pyright's report, and the comments and casts in these texts that hide some."""
    found = sum(told["severity"] == "error" for told in report["generalDiagnostics"])
    return found + sum(len(HIDING.findall(text)) for text in sources)


def lint_types() -> int:
    """Check that there are no more type errors than were allowed so far.

    ComfyUI's modules are not in `.venv`; an import that is missing there is not reported.
    """
    words = [str(PYTHON), "-m", TYPE_CHECKER, "--pythonpath", str(PYTHON), "--outputjson"]
    answer = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    try:
        report = json.loads(answer.stdout)
    except ValueError:
        reason = (answer.stderr or answer.stdout).strip().splitlines()[-1:]
        say(f"pyright does not run ({''.join(reason)}); delete {STAMP}, then lint again")
        return 1
    folders = json.loads((ROOT / "pyrightconfig.json").read_text())["include"]
    files = [file for folder in folders for file in (ROOT / folder).rglob("*.py")]
    found = count_type_errors(report, (file.read_text(encoding="utf-8") for file in files))
    allowed = int(TYPE_ERRORS.read_text())
    if found > allowed:
        for told in (t for t in report["generalDiagnostics"] if t["severity"] == "error"):
            line = told["range"]["start"]["line"] + 1
            print(f"{told['file']}:{line}: {told['message'].splitlines()[0]}")
        say(f"{found} type errors, and {TYPE_ERRORS.name} allows {allowed}; mend the new ones")
    elif found < allowed:
        say(f"{found} type errors; {TYPE_ERRORS.name}, now {allowed}, can be lowered to that")
    return int(found > allowed)


def do(verb: str, words: list[str]) -> int:
    """Set up what the verb needs and run it; returns its exit status."""
    for_tests = verb in ("test", "lint", "prove")
    set_up({"standalone", "test"} if for_tests else {"standalone"})
    if verb == "setup":
        return 0
    if verb == "lint":
        return lint()
    if verb == "prove":
        return subprocess.call([str(PYTHON), str(ROOT / "tests" / "prove.py"), *words], cwd=ROOT)
    if verb == "test" or verb in ("generate", "encode") and needs_demo_llm(words):
        fetch_demo_llm()
    if verb == "test":
        return run_tests(words)
    return subprocess.call([str(PYTHON), "-m", "lidit_core", verb, *words])


def main() -> int:
    words = sys.argv[1:]
    if not words or words[0] in ("-h", "--help"):
        print(__doc__)
        return 0
    if sys.version_info < (3, 10):
        say(f"Python {platform.python_version()} is too old; run me with Python 3.10 or newer")
        return 2
    try:
        return do(words[0], words[1:])
    except SetupError as error:
        say(str(error))
        return 2
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
