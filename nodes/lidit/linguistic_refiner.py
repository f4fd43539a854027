"""CONDITIONING -> CONDITIONING: how the model's linguistic token refiner reads it."""

from __future__ import annotations

from comfy_api.latest import io

from ...host.lidit.fusion import read_by
from ...host.node_notes import ui_notes
from ...lidit_core.model.refiners import BranchOptions
from ..inputs import BRANCHES, branch_chosen
from ..schema import schema

ATTENTION = {"as trained": None, "full": True, "causal": False}
GATING = {"as trained": None, "on": True, "off": False}


class LiDiTLinguisticTokenRefiner(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="LiDiTLinguisticTokenRefiner",
            display_name="LI-DiT Prompt Refiner",
            category="LI-DiT/conditioning",
            search_aliases="linguistic token refiner, refiner, causal attention, "
            "token refiner, 提示词精炼, リファイナー",
            description="Chooses and switches the small part of the model that undoes the LLM's "
            "causal bias (the paper's linguistic token refiner; no second model as in SDXL). It "
            "runs inside the model at every step; without this node it runs as trained.",
            inputs=[
                io.Conditioning.Input("conditioning", tooltip="One LLM's prompt"),
                io.Combo.Input(
                    "refiner",
                    options=BRANCHES,
                    default=BRANCHES[0],
                    tooltip="Which refiner of the model reads it, counted as the model lists them",
                ),
                io.Combo.Input(
                    "attention",
                    options=list(ATTENTION),
                    default="as trained",
                    tooltip="Full: every token sees every other. Causal: only those before it "
                    "(the paper's Table 3)",
                ),
                io.Combo.Input(
                    "gating",
                    options=list(GATING),
                    default="as trained",
                    tooltip="Off: every gate is 1 (the paper's Table 5). Only for weights trained "
                    "without gates; others give ruins, their error is tens of times as large",
                ),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=0.0,
                    max=4.0,
                    step=0.05,
                    tooltip="Scales both gates of every refiner block; 0 is no refiner",
                ),
            ],
            outputs=[
                io.Conditioning.Output(
                    display_name="conditioning", tooltip="For a sampler or the other refiner"
                )
            ],
        )

    @classmethod
    def execute(cls, conditioning, refiner, attention, gating, strength) -> io.NodeOutput:
        options = BranchOptions(ATTENTION[attention], GATING[gating], strength)
        branch = branch_chosen(refiner)
        entries = [read_by(entry, branch, options) for entry in conditioning]
        return io.NodeOutput(entries, ui=ui_notes())
