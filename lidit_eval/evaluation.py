"""One evaluation from its prompts to its report."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from lidit_core import __version__
from lidit_core.dtypes import DEFAULT
from lidit_core.errors import LiDiTError, check
from lidit_core.io.atomic import replacing
from lidit_core.io.hashes import weights_sha256
from lidit_core.pipeline import find_device

from . import pairs, record
from .benchmarks.item import PromptItem
from .benchmarks.layouts import check_count, lay_out
from .drawers import autoencoder_of, model_file
from .drawing import FOLDER, draw_missing, load_picture
from .items import (
    DrawingTask,
    items_of,
    prompts_hash,
    requests_hash,
    step_of_names,
    tasks_of,
)
from .judges.judge import Judge
from .judges.opening import default_judge, open_judge
from .llms import llms_read, told_hashes
from .opening import open_drawer
from .options import complete
from .report import Judged, write_report
from .verdicts import Verdicts


class Evaluation:
    """Draws, judges and reports what the command line asks for; it goes on where it stopped."""

    def __init__(self, args: argparse.Namespace) -> None:
        complete(args)
        self.args, self.folder = args, args.out
        self.items = items_of(args.prompts)
        self.tasks = tasks_of(self.items, args.seed, args.count, args.every)
        check_count(self._benchmark, args.count)
        self.device = find_device(args.device)
        self.judge: Judge = open_judge(self._judge_name(), self.items, self.device)
        self.pictures = args.pictures or args.out / FOLDER
        named = self.pictures, self.tasks, args.count, args.every
        self.step = step_of_names(*named) if args.pictures is not None else 1
        self.sources: dict[str, str] = {}  # where the LLMs are that draw, by the model's names

    def run(self) -> str:
        """Do what is left to do; the report in Markdown."""
        about = self._record()
        if self.args.against is not None:
            check(
                bool(self.judge.measures),
                f"--against {self.args.against} compares scores, and the judge {self.judge.name} "
                "gives none; name one with --judge, see lidit eval --help",
            )
            pairs.check_comparable(about, self.args.against)
        if self.args.size is not None:
            self.judge.check_size(*self.args.size)
        drawn = any(path.exists() for path in map(self._path, self.tasks))
        about = record.begin(self.folder, about, drawn)
        if self.args.pictures is None:
            self._draw(about)
        judged = self.judged()
        self._lay_out()  # pictures that can be read
        text = write_report(self.folder, about, judged, self.judge)
        return text + self._compared(judged)

    def _judge_name(self) -> str:
        return self.args.judge or default_judge(self.args.prompts)

    @property
    def _benchmark(self) -> str:
        return self.args.prompts.partition(":")[0]

    def _record(self) -> dict[str, Any]:
        args = self.args
        about = {
            "lidit": __version__,
            "prompts": args.prompts,
            "prompts_sha256": prompts_hash(self.items),
            "requests_sha256": requests_hash(self.items),
            "every": args.every,
            "count": args.count,
            "judge": self.judge.name,
        }
        if args.pictures is not None:
            step = {record.STEP: self.step} if self.step > 1 else {}  # none in records of before
            return {**about, "pictures": str(args.pictures), **step}
        drawn_with = {k: v for k, v in self._drawn_with().items() if v is not None and v != []}
        return {**about, "seed": args.seed, **drawn_with}

    def _drawn_with(self) -> dict[str, Any]:
        args = self.args
        files = {"model": args.model, "adapter": args.adapter, "bridge": args.bridge}
        named = {name: _named(source) for name, source in files.items() if source}
        self.sources = llms_read(args)  # each stand-in is told once
        return {
            **named,
            "mode": args.mode if args.adapter else None,
            "loras": [[_named(path), strength] for path, strength in args.lora],
            "llms": args.llm,
            record.AUTOENCODER: _autoencoder(args),
            record.LLMS: told_hashes(self.sources, self.device),
            "steps": args.steps,
            "cfg": args.cfg,
            "size": list(args.size) if args.size else None,
            "dtype": args.dtype if args.dtype != DEFAULT else None,  # none in records of before
            "emphasis": args.emphasis or None,  # nor this
        }

    def _draw(self, about: dict[str, Any]) -> None:
        shared = {key: about.get(key) for key in ("model", "steps", "cfg", "size", "lidit")}
        shared |= {key: about[key] for key in ("dtype", "emphasis") if key in about}
        if all(path.exists() for path in map(self._path, self.tasks)):
            return
        llms = [f"{name}={source}" for name, source in self.sources.items()]
        asked = argparse.Namespace(**{**vars(self.args), "llm": llms})
        drawer = open_drawer(asked, self.device)
        self.pictures.mkdir(parents=True, exist_ok=True)
        with tqdm(total=len(self.tasks), unit="picture", disable=None) as bar:
            draw_missing(drawer, self.tasks, self.pictures, self.args.count, shared, bar.update)

    def _path(self, task: DrawingTask) -> Path:
        return self.pictures / task.name(self.args.count, self.step)

    def _lay_out(self) -> None:
        """Copy a benchmark's pictures into the layout of its own evaluator."""
        items: dict[int, tuple[PromptItem, list[Path]]] = {}
        for task in self.tasks:
            items.setdefault(task.index, (task.item, []))[1].append(self._path(task))
        lay_out(self._benchmark, items, self.folder)

    def judged(self) -> list[Judged]:
        """The verdict on every picture, each judged once as it is; all are drawn."""
        verdicts, found = Verdicts(self.folder, self.judge.edition), []
        for task in tqdm(self.tasks, unit="verdict", disable=None):
            path = self._path(task)
            verdict = verdicts.of(path)
            if verdict is None:
                verdict = self.judge.judge(load_picture(path), task.item)
                verdicts.add(path, verdict)
            found.append(Judged(task, path, verdict))
        return found

    def _compared(self, judged: Sequence[Judged]) -> str:
        other = self.args.against
        if other is None:
            return ""
        theirs = self._known(other)
        changes = pairs.compare(judged, theirs, self.judge.measures)
        name = record.names_of(self.folder, other)[1]
        text = f"\n# Against {name}\n\n{pairs.markdown(changes)}"
        with replacing(self.folder / "against.md") as beside:
            beside.write_text(text, encoding="utf-8")
        return text

    def _known(self, folder: Path) -> list[Judged]:
        """The pictures that another evaluation of these prompts has judged."""
        verdicts, count = Verdicts(folder, self.judge.edition).known, self.args.count
        check(
            bool(verdicts),
            f"{folder} has no verdict by the judge {self.judge.name} as it is now; give the "
            "command that made it once more, which judges its pictures anew",
        )
        step = record.step_of(record.read_record_of(folder))
        every = tasks_of(self.items, self.args.seed, count, step)
        names: list[tuple[DrawingTask, str]] = [(task, task.name(count, step)) for task in every]
        return [Judged(task, folder / n, verdicts[n]) for task, n in names if n in verdicts]


def _named(source: str) -> str:
    """The name of a file, or the shipped name, with the file's hash."""
    return f"{Path(source).name} ({weights_sha256(model_file(source))[:12]})"


def _autoencoder(args: argparse.Namespace) -> str | None:
    """The autoencoder with its hash; None where it is not here, of which drawing tells."""
    try:
        file = autoencoder_of(args)
    except LiDiTError:
        return None
    return f"{file.path.name} ({file.identity()[:12]})"
