"""The text side: from a prompt to the hidden states of a decoder-only LLM (paper, Sec. 3.1)."""

from .cache import MEMORY, StateCache
from .encoder import LLMEncoder
from .facade import PromptEncoder, PromptInfo
from .loading import LLM, load_llm
from .locate import available, locate
from .templates import PRESETS, InstructionTemplate, find_template, read_templates

__all__ = [
    "LLM",
    "MEMORY",
    "PRESETS",
    "InstructionTemplate",
    "LLMEncoder",
    "PromptEncoder",
    "PromptInfo",
    "StateCache",
    "available",
    "find_template",
    "load_llm",
    "locate",
    "read_templates",
]
