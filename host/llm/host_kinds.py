"""The LLMs of ComfyUI's own loaders that are read, each one's name, and its chat template.

A CLIP knows neither its file nor its LLM's name. It knows which class runs it, and the sizes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from ...lidit_core.errors import LiDiTError, check

# Chat templates render one user turn, and a system turn before it, as the LLMs' own do.
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] }}"
    "{{ '<|im_end|>\n' }}{% endfor %}"
)
QWEN3 = CHATML.replace(  # which replies without thinking
    "m['content']", "('<think>\n\n</think>\n\n' if m['role'] == 'assistant' else '') + m['content']"
)
QWEN25 = (
    "{% if messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}{% endif %}" + CHATML
)
LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}{{ '<|start_header_id|>' + m['role'] }}"
    "{{ '<|end_header_id|>\n\n' + m['content'] | trim + '<|eot_id|>' }}{% endfor %}"
)
GEMMA3 = (
    "{{ bos_token }}{% set first = namespace(text='') %}{% for m in messages %}"
    "{% if m['role'] == 'system' %}{% set first.text = m['content'] + '\n\n' %}{% else %}"
    "{{ '<start_of_turn>' + {'assistant': 'model'}.get(m['role'], m['role']) + '\n' }}"
    "{{ first.text + m['content'] | trim + '<end_of_turn>\n' }}{% set first.text = '' %}"
    "{% endif %}{% endfor %}"
)
MISTRAL3 = (
    "{{ bos_token }}{% if messages[0]['role'] != 'system' %}"
    "{{ '[SYSTEM_PROMPT]You are Mistral Small 3.[/SYSTEM_PROMPT]' }}{% endif %}"
    "{% for m in messages %}{% if m['role'] == 'system' %}"
    "{{ '[SYSTEM_PROMPT]' + m['content'] + '[/SYSTEM_PROMPT]' }}"
    "{% elif m['role'] == 'assistant' %}{{ m['content'] + '</s>' }}{% else %}"
    "{{ '[INST]' + m['content'] + '[/INST]' }}{% endif %}{% endfor %}"
)


@dataclass(frozen=True)
class LLMSizes:
    """What tells LLMs of one class apart."""

    width: int  # channels of a hidden state
    blocks: int  # all of the LLM's, also where the file holds its first ones alone
    vocabulary: int

    def __str__(self) -> str:
        return f"{self.width} wide with {self.blocks} blocks and {self.vocabulary} tokens"


@dataclass(frozen=True)
class LLMKind:
    """LLMs of one architecture that the host runs as transformers does."""

    label: str
    chat: str  # the chat template
    released: dict[str, LLMSizes] = field(default_factory=dict)  # by name
    otherwise: str = ""  # names of those that the host runs with other positions than trained
    whole: int | None = None  # blocks of the LLM whose first ones the host may hold


LLAMA = LLMKind(
    "Llama 3",
    LLAMA3,
    {"llava-llama-3-8b-v1_1": LLMSizes(4096, 32, 128320)},
    otherwise=r"llama[-_ ]?3[._][1-9]",
)
MISTRAL = LLMKind(
    "Mistral Small 3",
    MISTRAL3,
    {"Mistral-Small-3.2-24B-Instruct-2506": LLMSizes(5120, 40, 131072)},
    whole=40,
)
QWEN25_OF_3B = LLMKind("Qwen 2.5", QWEN25, {"Qwen2.5-VL-3B-Instruct": LLMSizes(2048, 36, 151936)})
QWEN25_OF_7B = LLMKind("Qwen 2.5", QWEN25, {"Qwen2.5-VL-7B-Instruct": LLMSizes(3584, 28, 152064)})
QWEN = LLMKind(
    "Qwen 3",
    QWEN3,
    {
        "Qwen3-0.6B": LLMSizes(1024, 28, 151936),
        "Qwen3-Embedding-0.6B": LLMSizes(1024, 28, 151669),
        "Ovis2.5-2B": LLMSizes(2048, 28, 151936),
        "Qwen3-4B": LLMSizes(2560, 36, 151936),
        "Qwen3-8B": LLMSizes(4096, 36, 151936),
    },
    otherwise=r"2507",
)
QWEN_VL = LLMKind(
    "Qwen 3 VL",
    CHATML,
    {
        "Qwen3-VL-4B-Instruct": LLMSizes(2560, 36, 151936),
        "Qwen3-VL-8B-Instruct": LLMSizes(4096, 36, 151936),
        "Qwen3-VL-32B-Instruct": LLMSizes(5120, 64, 151936),
    },
    whole=64,
)
GEMMA = LLMKind(
    "Gemma 3",
    GEMMA3,
    {
        "gemma-3-4b-it": LLMSizes(2560, 34, 262208),
        "gemma-3-12b-it": LLMSizes(3840, 48, 262208),
    },
)
KINDS = {  # by the class of the host that runs it
    "Llama2": LLAMA,
    "Mistral3Small24B": MISTRAL,
    "Qwen25_3B": QWEN25_OF_3B,
    "Qwen25_7BVLI": QWEN25_OF_7B,
    **dict.fromkeys(("Qwen3_06B", "Qwen3_06B_ACE15", "Qwen3_4B", "Qwen3_8B", "Ovis25_2B"), QWEN),
    "Qwen3VL": QWEN_VL,
    **dict.fromkeys(("Gemma3_4B", "Gemma3_4B_Vision", "Gemma3_12B"), GEMMA),
}
REFUSED = {  # whose states in the host are others than those that LI-DiTs are trained on
    "Gemma2_2B": "Gemma 2 without the soft limit on its attention",
    "Ministral3_3B": "Ministral 3 without the stretched positions (YaRN) that it was trained with",
}


def kind_of(transformer: object) -> LLMKind:
    """The kind of LLM that a text model of the host runs, told by its class or a base of it.

    Raises:
        LiDiTError: the host runs it otherwise than transformers, or that is not known.
    """
    names = [base.__name__ for base in type(transformer).__mro__]
    refused = next((REFUSED[name] for name in names if name in REFUSED), None)
    kind = next((KINDS[name] for name in names if name in KINDS), None)
    if kind is not None and refused is None:
        return kind
    what = refused or f"{names[0]} in a way of its own"
    raise LiDiTError(
        f"ComfyUI runs {what}, so its states are not those that LI-DiTs are trained on; load this "
        "LLM with the LI-DiT LLM loader"
    )


def told_name(kind: LLMKind, sizes: LLMSizes) -> str:
    """The one released LLM of this kind and these sizes; "" where none or several have them."""
    named = [name for name, released in kind.released.items() if released == sizes]
    return named[0] if len(named) == 1 else ""


def label_of(kind: LLMKind, sizes: LLMSizes) -> str:
    """What an LLM is called that is no released one: no checkpoint asks for such a name."""
    return f"{kind.label} ({sizes})"


def check_name(name: str, kind: LLMKind, sizes: LLMSizes) -> None:
    """Refuse a name that cannot be this LLM's."""
    check(
        not (kind.otherwise and re.search(kind.otherwise, name, re.IGNORECASE)),
        f"llm_name is {name!r}, whose positions ComfyUI does not run as it was trained; load it "
        "with the LI-DiT LLM loader",
    )
    known = {name: s for kind in KINDS.values() for name, s in kind.released.items()}.get(name)
    check(
        known in (None, sizes),
        f"llm_name is {name!r}, which is {known}, and this CLIP holds one that is {sizes}; correct "
        "the name, or leave it empty",
    )
    check(
        bool(name) or sizes.vocabulary != 128256 or kind is not LLAMA,
        "this CLIP holds a Llama 3 or one of 3.1 or later, whose sizes are the same and of which "
        "ComfyUI runs the first alone as it was trained; if it is that, write its name into "
        "llm_name",
    )
