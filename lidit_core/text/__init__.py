"""The text side: from a prompt to the hidden states of a decoder-only LLM (paper, Sec. 3.1)."""

from .cache import MEMORY, StateCache
from .encoder import LLMEncoder
from .loading import LLM, load_llm
from .locate import available, check_present, installed_llms, locate
from .prompt_encoder import PromptEncoder, PromptInfo
from .templates import PRESETS, InstructionTemplate, find_template

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
    "check_present",
    "find_template",
    "installed_llms",
    "load_llm",
    "locate",
]
