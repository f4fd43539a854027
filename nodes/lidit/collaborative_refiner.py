"""Up to four CONDITIONINGs, one an LLM -> one that fuses them."""

from __future__ import annotations

from comfy_api.latest import io

from ...host.lidit.fusion import fused
from ...host.lidit.told import describe_fused
from ...host.node_notes import report, ui_notes
from ..schema import schema

MOST = 4
FUSION = {"as trained": None, "collaborative refiner": "refiner", "concatenation": "concatenation"}


def _weight(n: int) -> io.Float.Input:
    return io.Float.Input(
        f"weight_{n}",
        default=1.0,
        min=0.0,
        max=16.0,
        step=0.05,
        tooltip=f"How much LLM {n} counts beside the others: 1 as trained, 0 removes it, values "
        "between fade it out",
    )


class LiDiTCollaborativeRefiner(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        others = [
            io.Conditioning.Input(
                f"conditioning_{n}", optional=True, tooltip=f"The prompt as LLM {n} reads it"
            )
            for n in range(2, MOST + 1)
        ]
        return schema(
            node_id="LiDiTCollaborativeRefiner",
            display_name="LI-DiT Combine LLMs",
            category="LI-DiT/conditioning",
            search_aliases="collaborative refiner, refiner, two LLMs, fusion, dual CLIP, "
            "合并 LLM, LLM 結合",
            advanced="weight_3, weight_4",
            description="Lets several LLMs read one prompt together (the paper's collaborative "
            "refiner). The fusion runs inside the model at every step. The first one's area, "
            "mask, range and hooks win.",
            inputs=[
                io.Conditioning.Input("conditioning_1", tooltip="The prompt as LLM 1 reads it"),
                *others,
                io.Combo.Input(
                    "fusion",
                    options=list(FUSION),
                    default="as trained",
                    tooltip="The collaborative refiner, or plain concatenation (paper's Table 6)",
                ),
                *[_weight(n) for n in range(1, MOST + 1)],
            ],
            outputs=[io.Conditioning.Output(display_name="conditioning", tooltip="For a sampler")],
        )

    @classmethod
    def execute(cls, conditioning_1, fusion, **rest) -> io.NodeOutput:
        numbers = [n for n in range(2, MOST + 1) if rest.get(f"conditioning_{n}") is not None]
        given = [conditioning_1, *(rest[f"conditioning_{n}"] for n in numbers)]
        weights = [rest[f"weight_{n}"] for n in (1, *numbers)]
        entries = fused(given, weights, FUSION[fusion])
        report(describe_fused(entries))
        return io.NodeOutput(entries, ui=ui_notes())
