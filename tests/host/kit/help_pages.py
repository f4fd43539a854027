"""The parts of help pages and translations that follow from the nodes, and what a language lacks.

    python tests/host/kit/help_pages.py HOST_FOLDER

writes, by the host's Python, `locales/en/nodeDefs.json`, the tables of inputs and outputs in every
`web/docs/NODE/LANGUAGE.md`, and `web/docs/NODE.md`, the English page for all other languages.
Everything else in the pages and in the other languages' files is written by hand.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from load_probe import OF_FILES, started_host
from workflow_kit import NAMES, read

ROOT = Path(__file__).resolve().parents[3]
DOCS, LOCALES = ROOT / "web" / "docs", ROOT / "locales"
HEADINGS = {  # inputs, outputs, troubles; then the tables' words: two columns fit beside the canvas
    "en": ("Inputs", "Outputs", "When something goes wrong", "name", "meaning", "default", ". "),
    "zh": ("输入", "输出", "出了问题怎么办", "名称", "说明", "默认值", "。"),
    "ja": ("入力", "出力", "うまくいかないとき", "名前", "説明", "既定値", "。"),
}
LANGUAGES = tuple(HEADINGS)
SHOWN = {  # in the picture of a help page: the workflow's number, and its nodes
    "LiDiTLLMLoader": (1, (1, 3, 4)),
    "LiDiTInstructionTemplate": (1, (1, 2, 3)),
    "LiDiTTextEncode": (1, (3, 4, 10)),
    "LiDiTModelLoader": (1, (5, 6, 7, 8, 9)),
    "LiDiTLinguisticTokenRefiner": (3, (4, 8, 9, 10, 11)),
    "LiDiTCollaborativeRefiner": (3, (8, 9, 10, 11)),
    "LiDiTSampler": (3, (12, 13, 14, 15)),
    "LiDiTRefinerLoader": (5, (1, 2, 3, 6)),
    "LiDiTReadingGrid": (6, (1, 2, 3, 4, 5)),
    "LiDiTLabelledGrid": (6, (6, 7, 8, 9)),
    "LLMDiffDemoCheckpoint": (8, (1, 2, 3, 4, 5, 24)),
    "LLMDiffEncode": (8, (2, 3, 4, 5, 6, 7)),
    "LLMDiffApply": (8, (6, 7, 8, 9)),
    "LiDiTExpandPrompt": (9, (1, 5, 6, 8)),
}
SEED_CONTROL = "control_after_generate"  # the widget that a frontend adds below a seed
Texts = dict[str, Any]


def inputs_of(node: type) -> dict[str, tuple[Any, dict[str, Any]]]:
    """The inputs' types, or a combo's choices, and options, in their order."""
    given = node.GET_NODE_INFO_V1()["input"]
    pairs = [*given.get("required", {}).items(), *given.get("optional", {}).items()]
    return {name: (spec[0], spec[1] if len(spec) > 1 else {}) for name, spec in pairs}


def choices(name: str, kind: Any, options: dict[str, Any]) -> list[str]:
    """What a combo offers, but for files, which each machine has."""
    if kind != "COMBO" and not isinstance(kind, list):
        return []
    offered = kind if isinstance(kind, list) else options["options"]
    return [] if name in OF_FILES else [str(choice) for choice in offered]


def english(node: type) -> Texts:
    """What a node's schema says, in the form of the host's translations."""
    schema = node.GET_SCHEMA()
    inputs = {}
    for put in schema.inputs:
        inputs[put.id] = {"name": put.display_name or put.id, "tooltip": put.tooltip}
        if getattr(put, "control_after_generate", None):
            inputs[SEED_CONTROL] = {"name": "control after generate"}
    outputs = {
        str(i): {"name": put.display_name, "tooltip": put.tooltip}
        for i, put in enumerate(schema.outputs)
    }
    texts = {"display_name": schema.display_name, "description": schema.description}
    return {**texts, "inputs": inputs, "outputs": outputs}


def translations(language: str) -> dict[str, Texts]:
    return json.loads((LOCALES / language / "nodeDefs.json").read_text(encoding="utf-8"))


def drawn_from(name: str) -> str:
    """What the picture of a node's help page shows; it is kept in the picture.

    The node's inputs and outputs, and a hash of the part of a workflow that it was taken from.
    """
    texts = translations("en")[name]
    outputs = [put["name"] for put in texts["outputs"].values()]
    told = f"{name}: {', '.join(texts['inputs'])}; {', '.join(outputs)}"
    if name not in SHOWN:
        return told
    number, ids = SHOWN[name]
    parts = ("type", "title", "pos", "size", "widgets_values")
    nodes = [node for node in read(NAMES[number - 1])[0]["nodes"] if node["id"] in ids]
    seen = json.dumps([[node.get(part) for part in parts] for node in nodes])
    return f"{told}; {hashlib.sha256(seen.encode()).hexdigest()[:12]}"


def paths(texts: dict[str, Any], at: str = "") -> Iterator[str]:
    """Every text's place: `LiDiTSampler.inputs.seed.name`."""
    for key, value in texts.items():
        yield from paths(value, f"{at}{key}.") if isinstance(value, dict) else (f"{at}{key}",)


def tables(node: type, texts: Texts, language: str) -> str:
    """The two sections of a page that follow from the node."""
    inputs, outputs, _, name, meaning, default, stop = HEADINGS[language]
    rows = [
        _row(texts["inputs"][put]["name"], put, texts["inputs"][put]["tooltip"] + stop, facts)
        for put, (kind, options) in inputs_of(node).items()
        for facts in [_facts(put, kind, options, default)]
    ]
    given = [
        _row(text["name"], text["name"], text["tooltip"] + stop, put.io_type)
        for text, put in zip(texts["outputs"].values(), node.GET_SCHEMA().outputs, strict=True)
    ]
    head = f"| {name} | {meaning} |\n|---|---|\n"
    parts = [(title, lines) for title, lines in ((inputs, rows), (outputs, given)) if lines]
    return "".join(f"## {title}\n\n{head}" + "\n".join(lines) + "\n\n" for title, lines in parts)


def _row(shown: str, put: str, tooltip: str, facts: str) -> str:
    """What the node shows, what a saved workflow has where that is another word, and what it is."""
    return f"| **{shown}**{'' if shown == put else f' ({put})'} | {tooltip}*{facts}* |"


def _facts(put: str, kind: Any, options: dict, default: str) -> str:
    """The choices of a combo, or the type; then the default where there is one."""
    offered = ", ".join(choices(put, kind, options))
    facts = offered or ("COMBO" if isinstance(kind, list) else str(kind))
    value = json.dumps(options.get("default", ""), ensure_ascii=False).strip('"')
    value = "" if put in OF_FILES else value.replace("\\n", ", ")
    return f"{facts}; {default}: {value}" if value else facts


def with_tables(page: str, node: type, texts: Texts, language: str) -> str:
    """A page with these two sections anew, before its section of troubles."""
    _, _, troubles, *_ = HEADINGS[language]
    head, found, rest = page.partition(f"## {troubles}\n")
    assert found, f"a page lacks the section {troubles}"
    above = re.split(r"^## ", head, maxsplit=1, flags=re.M)[0]
    return f"{above}{tables(node, texts, language)}{found}{rest}"


def write(nodes: dict[str, type]) -> None:
    own = json.dumps({name: english(node) for name, node in nodes.items()}, indent=1)
    (LOCALES / "en" / "nodeDefs.json").write_text(own + "\n", encoding="utf-8")
    for language in LANGUAGES:
        told = translations(language)
        for name, node in nodes.items():
            path = DOCS / name / f"{language}.md"
            page = with_tables(path.read_text(encoding="utf-8"), node, told[name], language)
            path.write_text(page, encoding="utf-8")
            if language == "en":
                (DOCS / f"{name}.md").write_text(page, encoding="utf-8")


def main(host: str) -> None:
    nodes = started_host(host)
    known = set(nodes.NODE_CLASS_MAPPINGS)
    assert asyncio.run(nodes.load_custom_node(str(ROOT)))
    write({k: v for k, v in nodes.NODE_CLASS_MAPPINGS.items() if k not in known})


if __name__ == "__main__":
    main(*sys.argv[1:])
