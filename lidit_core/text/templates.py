"""Instruction templates: the text around a prompt that tells the LLM what to do with it.

Stdlib only. arXiv 2406.11831, Sec. 3.1: an instruction before the prompt makes a decoder-only LLM
represent what the prompt says instead of what comes next.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

from ..errors import LiDiTError, check, first_line, shown

PAPER_INSTRUCTION = (  # arXiv 2406.11831, verbatim; the wording of its system prompt is not given
    "Describe the image by detailing the color, shape, size, texture, quantity, text, "
    "and spatial relationships of the objects:"
)
SUFFIXES = (".json", ".txt")  # of template files


@dataclass(frozen=True)
class InstructionTemplate:
    """The text around a prompt: `system`, then `layout` with the instruction and the prompt."""

    name: str
    system: str = ""  # system text; empty = none, not even the tokenizer's own default
    instruction: str = ""
    layout: str = "{instruction} {prompt}"  # the user's turn; `{prompt}` stands in it exactly once
    keep_tail: bool = True  # keep the tokens after the prompt (end of turn) as prompt tokens
    chat: bool = True  # render through the tokenizer's chat template when it has one

    def __post_init__(self) -> None:
        for field in fields(self):
            kind = {"str": str, "bool": bool}[str(field.type)]
            value = getattr(self, field.name)
            if not isinstance(value, kind):
                raise LiDiTError(
                    f"template field {field.name} is {shown(value)}; expected {field.type}, "
                    "so correct it in the template"
                )
            check(
                kind is bool or _is_text(value),
                f"template field {field.name} is {shown(value)} and holds half of a surrogate "
                "pair, which is no text; take that out of the template",
            )
        if self.layout.count("{prompt}") != 1 or self.layout.count("{instruction}") > 1:
            raise LiDiTError(
                f"template {shown(self.name)} has the layout {shown(self.layout)}; expected "
                "{prompt} exactly once and {instruction} at most once"
            )

    def user_turn(self) -> tuple[str, str]:
        """The user's turn as the text before and after the prompt."""
        before, after = self.layout.split("{prompt}")
        fill = self.instruction
        return before.replace("{instruction}", fill), after.replace("{instruction}", fill)

    def to_json(self) -> str:
        return json.dumps(asdict(self), ensure_ascii=False, sort_keys=True)

    @classmethod
    def from_dict(cls, values: dict) -> InstructionTemplate:
        """Build from plain data; an unknown or missing field raises a LiDiTError."""
        check(
            isinstance(values, dict),
            f"template is {shown(values)}; expected an object of fields with a name",
        )
        known = [field.name for field in fields(cls)]
        unknown = sorted(set(values) - set(known), key=str)
        if unknown:
            raise LiDiTError(
                f"template has the unknown field {shown(unknown[0])}; expected fields among "
                f"{', '.join(known)}, so correct or remove it"
            )
        if "name" not in values:
            raise LiDiTError("template has no field 'name'; give it one")
        return cls(**values)

    @classmethod
    def from_json(cls, text: str, name: str | None = None) -> InstructionTemplate:
        """The inverse of `to_json`; `name` is for text that does not name itself."""
        try:
            values = json.loads(text)
        except (ValueError, RecursionError) as error:  # ValueError: also of numbers too long
            raise LiDiTError(
                f"template is not valid JSON ({first_line(error)}); correct it"
            ) from error
        if not isinstance(values, dict):
            raise LiDiTError(f"template is {text[:40]!r}; expected a JSON object with a name")
        return cls.from_dict({"name": name, **values} if name else values)


def _is_text(value: str) -> bool:
    try:
        return bool(value.encode() or True)
    except UnicodeEncodeError:
        return False


PRESETS = {
    template.name: template
    for template in (
        InstructionTemplate(
            "paper",
            system=(  # LLaVA-1.5's: the paper's LLMs were tuned its way
                "A chat between a curious human and an artificial intelligence assistant. The "
                "assistant gives helpful, detailed, and polite answers to the human's questions."
            ),
            instruction=PAPER_INSTRUCTION,
        ),
        InstructionTemplate("none", layout="{prompt}", chat=False),
        InstructionTemplate("short", instruction="Describe the image by its objects:"),
        InstructionTemplate(
            "long",
            system=(
                "You are an artist's assistant. You read a request for a picture and see the "
                "picture clearly before you describe it, leaving out nothing that was asked for."
            ),
            instruction=(
                "Describe the image that the following request asks for. Name every object and "
                "how many there are of it, its color, shape, size, material and texture, any "
                "text that is to be read, where each object is in relation to the others, the "
                "background, the light, and the style of the whole:"
            ),
        ),
    )
}


def template_from_text(name: str, text: str) -> InstructionTemplate:
    """A template from the text of the user's turn.

    `{prompt}` marks where the prompt goes; without it the prompt follows the text after a space.
    """
    if "{prompt}" in text:
        return InstructionTemplate(name, layout=text)
    return InstructionTemplate(name, instruction=text)


def with_texts(
    template: InstructionTemplate, system: str = "", instruction: str = ""
) -> InstructionTemplate:
    """The template with these texts in place of its own, each unless it is empty.

    An instruction with `{prompt}` in it is the whole of the user's turn.
    """
    template = replace(template, system=system or template.system)
    if "{prompt}" in instruction:
        return replace(template, layout=instruction, instruction="")
    layout = template.layout
    if instruction and "{instruction}" not in layout:
        layout = "{instruction} " + layout
    return replace(template, layout=layout, instruction=instruction or template.instruction)


def read_template(path: str | Path) -> InstructionTemplate:
    """Read a template from a .json file, or from a .txt file with the text of the user's turn.

    The file's stem names the template unless the JSON does.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise LiDiTError(f"template file {path} cannot be read ({error}); check it") from error
    try:
        if path.suffix == ".txt":
            return template_from_text(path.stem, text.strip())
        return InstructionTemplate.from_json(text, name=path.stem)
    except LiDiTError as error:
        raise LiDiTError(f"in {path}: {error}") from error


def find_template(source: str | InstructionTemplate) -> InstructionTemplate:
    """A template by the name of a preset, by its file's path, or from its text.

    Only text with `{prompt}` in it is taken for the template itself.

    Raises:
        LiDiTError: there is none, or its file cannot be read.
    """
    if isinstance(source, InstructionTemplate):
        return source
    if not isinstance(source, str):
        raise LiDiTError(f"a template is {shown(source)}; expected text: its name, file or words")
    if source in PRESETS:
        return PRESETS[source]
    if "{prompt}" in source:
        return template_from_text("custom", source)
    if Path(source).suffix in SUFFIXES:
        return read_template(source)
    raise LiDiTError(
        f"no template is named {shown(source)}; choose one of {', '.join(PRESETS)}, give a .json "
        "or .txt file, or write the text itself with {prompt} in it"
    )
