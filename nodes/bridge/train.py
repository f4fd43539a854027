"""BRIDGE, CLIPs of LLMs, MODEL and a recording -> a BRIDGE that has learnt through the model."""

from __future__ import annotations

from comfy_api.latest import io

from ...host.bridge.training.learning import Options
from ...host.bridge.training.recordings import (
    NOTHING,
    added_to,
    find_added_to,
    find_recording,
    recordings,
)
from ...host.bridge.training.run import Connected, Recordings, fingerprint, train_bridge
from ...host.node_notes import ui_notes
from ...lidit_core.errors import check
from ..inputs import BridgeType, other_llms, taken_llms
from ..schema import schema


class LiDiTTrainBridge(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="LiDiTTrainBridge",
            display_name="LI-DiT Train Bridge",
            category="LI-DiT/training",
            search_aliases="train LLM text encoder, distill text encoder, fine-tune bridge, "
            "桥接训练, ブリッジ学習",
            advanced="clip_3, clip_4, trajectory, points, lowest_cfg, highest_cfg, save_every, "
            "checkpointing, add_to, blocks",
            description="Trains a bridge further through a model, without pictures: the model is "
            "to see under the bridge's conditioning what it sees under its own text encoder's. "
            "A run that was stopped goes on.",
            inputs=[
                BridgeType.Input("bridge", tooltip="From LI-DiT Bridge Loader; it is not changed"),
                io.Clip.Input(
                    "clip", tooltip="The LLM that the bridge reads, as for LI-DiT Bridge"
                ),
                *other_llms(),
                io.Model.Input(
                    "model",
                    tooltip="The model that the bridge is for, from Load Checkpoint or Load "
                    "Diffusion Model. It is loaded once more for the training, and is not changed",
                ),
                io.Latent.Input(
                    "latent_image", tooltip="An empty latent, in the size that is drawn in training"
                ),
                io.Combo.Input(
                    "recording",
                    options=recordings(),
                    tooltip="The recording of the model's own text encoder, in output/recordings",
                ),
                io.String.Input(
                    "name",
                    default="my-bridge",
                    tooltip="Name of the new file in models/bridges",
                ),
                io.Int.Input("steps", default=250, min=1, max=100_000, tooltip="Training steps"),
                io.Int.Input(
                    "prompts",
                    default=16,
                    min=1,
                    max=1024,
                    tooltip="Prompts per step; more take time, not GPU memory",
                ),
                io.Float.Input(
                    "learning_rate",
                    default=1e-4,
                    min=0.0,
                    max=1.0,
                    step=1e-6,
                    tooltip="Learning rate of AdamW",
                ),
                io.Int.Input(
                    "trajectory",
                    default=10,
                    min=1,
                    max=1000,
                    tooltip="Sampling steps of each picture drawn in training, by the recorded "
                    "conditioning",
                ),
                io.Int.Input(
                    "points",
                    default=5,
                    min=1,
                    max=1000,
                    tooltip="At how many of those steps the bridge learns",
                ),
                io.Float.Input(
                    "lowest_cfg",
                    default=1.0,
                    min=1.0,
                    max=100.0,
                    step=0.1,
                    tooltip="Each trajectory draws its cfg between this and highest_cfg. For "
                    "models that draw with cfg 1, such as FLUX, set both to 1",
                ),
                io.Float.Input(
                    "highest_cfg",
                    default=7.0,
                    min=1.0,
                    max=100.0,
                    step=0.1,
                    tooltip="See lowest_cfg",
                ),
                io.Int.Input(
                    "save_every",
                    default=25,
                    min=1,
                    max=100_000,
                    tooltip="Steps after which the run is kept, to go on from after a crash; on "
                    "Cancel it is kept at once",
                ),
                io.Boolean.Input(
                    "checkpointing",
                    default=True,
                    tooltip="Less memory, as each block of the model is computed twice",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=False,
                    tooltip="Seed of noise, order and points; another seed starts another run",
                ),
                io.Combo.Input(
                    "add_to",
                    options=added_to(),
                    default=NOTHING,
                    optional=True,
                    tooltip="For a bridge that adds to the checkpoint's own CLIP: the recording of "
                    "that CLIP. recording is then of the encoder that it learns from, of the same "
                    "prompts",
                ),
                io.Int.Input(
                    "blocks",
                    default=0,
                    min=0,
                    max=1000,
                    optional=True,
                    tooltip="After so many of the model's blocks its hidden state is compared, "
                    "and the rest of it is not computed for the gradient; 0: its prediction is "
                    "compared",
                ),
            ],
            outputs=[BridgeType.Output(display_name="bridge", tooltip="For LI-DiT Bridge")],
            is_output_node=True,
        )

    @classmethod
    def validate_inputs(cls, recording: str, add_to: str = NOTHING) -> bool:
        return True  # a recording that is not there gets its sentence when the node runs

    @classmethod
    def fingerprint_inputs(cls, recording: str, name: str, add_to: str = NOTHING, **_) -> str:
        return fingerprint(recording, name, add_to)

    @classmethod
    def execute(cls, bridge, clip, model, latent_image, recording, name, **asked) -> io.NodeOutput:
        folders = Recordings(find_recording(recording), find_added_to(asked.pop("add_to", NOTHING)))
        checkpointing = asked.pop("checkpointing")
        clips = taken_llms(clip, asked)
        samples = latent_image["samples"]
        check(
            not samples.is_nested,
            "this latent holds several kinds of latents at once, as of video with sound; expected "
            "one of pictures or video alone",
        )
        given = Connected(bridge, clips, model, {**latent_image, "samples": samples[:1]})
        trained = train_bridge(given, folders, name, Options(**asked), checkpointing)
        return io.NodeOutput(trained, ui=ui_notes())
