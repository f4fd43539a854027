"""A LI-DiT checkpoint -> MODEL and VAE."""

from __future__ import annotations

from comfy_api.latest import io

from ...host.folders import fingerprint
from ...host.lidit import files as models
from ...host.lidit import model
from ...host.lidit.told import describe_before, describe_model
from ...host.node_notes import report, ui_notes
from ..schema import schema


class LiDiTModelLoader(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="LiDiTModelLoader",
            display_name="LI-DiT Model Loader",
            category="LI-DiT/loaders",
            search_aliases="load diffusion model, load checkpoint, UNET loader, stickers, "
            "加载模型, モデル読み込み",
            advanced="weight_dtype",
            description="Loads a LI-DiT and its VAE. The model's own refiners read the prompt.",
            inputs=[
                io.Combo.Input(
                    "model_name",
                    options=models.checkpoints(),
                    tooltip="Weights that come with this pack, or files in models/diffusion_models",
                ),
                io.Combo.Input(
                    "weight_dtype",
                    options=list(model.WEIGHT_DTYPES),
                    default="default",
                    tooltip="What weights are stored in; fp8 halves the memory and costs detail",
                ),
            ],
            outputs=[
                io.Model.Output(display_name="model", tooltip="For any sampler"),
                io.Vae.Output(display_name="vae", tooltip="The autoencoder this model paints with"),
            ],
        )

    @classmethod
    def validate_inputs(cls, model_name: str) -> bool:
        return True  # a name that is not there gets its sentence when the node runs

    @classmethod
    def fingerprint_inputs(cls, model_name: str, weight_dtype: str) -> str:
        return fingerprint(model_name, models.find_file, models.autoencoders_beside)

    @classmethod
    def execute(cls, model_name: str, weight_dtype: str) -> io.NodeOutput:
        path = models.find_file(model_name)
        report(describe_before(path))
        patcher = model.load_model(path, weight_dtype)
        config = model.config_of_model(patcher)
        report(describe_model(patcher, config))
        return io.NodeOutput(patcher, models.vae_of(config, path), ui=ui_notes())
