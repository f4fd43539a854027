"""What the host's memory manager holds of an LLM of the LLM loader."""

from __future__ import annotations

import torch
from torch import nn

from ...lidit_core.llm.loading import LLM
from ...lidit_core.llm.locate import locate
from ...lidit_core.text.prompt_encoder import file_identity
from .files import model_name
from .reader import LLMSettings, PromptReader
from .weights import move_the_rest, pageable


class LLMHolder(PromptReader, nn.Module):
    """The LLM under the host's memory manager, which sets attributes that transformers protects."""

    def __init__(self, llm: LLM, settings: LLMSettings):
        nn.Module.__init__(self)
        PromptReader.__init__(self, llm, settings, model_name(llm.name))
        self.transformer = pageable(llm.module)
        self.files = file_identity(locate(settings.source))  # those that were read
        self.dtypes = {llm.dtype}
        self.device = torch.device("cpu")  # the host's: where the weights were loaded to last
        self.manual_cast_dtype = None  # the host's

    def load_sd(self, state: dict):
        return self.load_state_dict(state, strict=False)

    def weights_identity(self) -> list:
        return [*self.files, self.settings.dtype == "fp8_e4m3fn"]

    def settle(self, device: torch.device) -> None:
        """Move what the host's loads leave: also where it takes back room for another prompt."""
        move_the_rest(self, device)
