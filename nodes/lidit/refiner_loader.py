"""MODEL and a refiner file -> the model with that branch's refiner exchanged."""

from __future__ import annotations

from comfy_api.latest import io

from ...host.folders import fingerprint
from ...host.lidit import files as models
from ...host.lidit.model import with_refiner
from ..inputs import BRANCHES, branch_chosen
from ..schema import schema


class LiDiTRefinerLoader(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="LiDiTRefinerLoader",
            display_name="LI-DiT Prompt Refiner Loader",
            category="LI-DiT/loaders",
            search_aliases="refiner loader, exchange LLM, adapter, other LLM, 更换 LLM, LLM 交換",
            advanced="branch",
            description="Another LLM for the same LI-DiT: exchanges one branch's refiner.",
            inputs=[
                io.Model.Input("model", tooltip="From the LI-DiT model loader"),
                io.Combo.Input(
                    "refiner_name",
                    display_name="refiner",
                    options=models.refiners(),
                    tooltip="A file that `lidit refiner` wrote, in models/diffusion_models",
                ),
                io.Combo.Input(
                    "branch",
                    options=BRANCHES,
                    default=BRANCHES[0],
                    optional=True,
                    tooltip="Whose place it takes, counted as the model lists its LLMs; by name "
                    "where the model knows the file's LLM or has one branch only",
                ),
            ],
            outputs=[
                io.Model.Output(
                    display_name="model", tooltip="The same model; the new LLM reads for it"
                )
            ],
        )

    @classmethod
    def validate_inputs(cls, refiner_name: str) -> bool:
        return True

    @classmethod
    def fingerprint_inputs(cls, model, refiner_name: str, **_) -> str:
        return fingerprint(refiner_name, models.find_file, models.autoencoders_beside)

    @classmethod
    def execute(cls, model, refiner_name: str, branch: str = BRANCHES[0]) -> io.NodeOutput:
        file = str(models.find_file(refiner_name))
        return io.NodeOutput(with_refiner(model, file, branch_chosen(branch)))
