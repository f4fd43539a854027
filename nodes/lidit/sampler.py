"""The host's KSampler with a guidance interval."""

from __future__ import annotations

from comfy.samplers import KSampler
from comfy_api.latest import io

import nodes

from ...host.lidit.guidance import guided_between
from ...host.lidit.model import config_of_model
from ...host.lidit.shift import shifted_for
from ...host.lidit.told import describe_prompts
from ...host.node_notes import report, ui_notes
from ...host.samplers import sampled_latent
from ..schema import schema


class LiDiTSampler(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="LiDiTSampler",
            display_name="LI-DiT Sampler",
            category="LI-DiT/sampling",
            search_aliases="KSampler, sampler, guidance interval, 采样器, サンプラー",
            description="KSampler, set as the sticker weights like it, with a guidance interval.",
            inputs=[
                io.Model.Input("model", tooltip="A LI-DiT"),
                io.Conditioning.Input("positive", tooltip="What the picture shows"),
                io.Conditioning.Input(
                    "negative", tooltip="What it avoids; an empty prompt is fine"
                ),
                io.Latent.Input("latent_image", tooltip="Empty, or a picture to start from"),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=True,
                    tooltip="Decides the noise; the same seed gives the same picture",
                ),
                io.Int.Input("steps", default=20, min=1, max=10000, tooltip="More take longer"),
                io.Float.Input(
                    "cfg",
                    default=3.0,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    round=0.01,
                    tooltip="How closely the prompt is followed; 1 leaves the negative prompt out",
                ),
                io.Combo.Input(
                    "sampler_name",
                    options=KSampler.SAMPLERS,
                    default="euler",
                    tooltip="How each step is taken",
                ),
                io.Combo.Input(
                    "scheduler",
                    options=KSampler.SCHEDULERS,
                    default="simple",
                    tooltip="How noise levels are spread over the steps",
                ),
                io.Float.Input(
                    "denoise",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Less than 1 keeps part of the latent picture",
                ),
                io.Float.Input(
                    "guidance_start",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Share of the sampling after which guidance begins; 0 = at once",
                ),
                io.Float.Input(
                    "guidance_end",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Share after which guidance ends; steps outside cost half",
                ),
            ],
            outputs=[io.Latent.Output(display_name="latent", tooltip="For the VAE to decode")],
        )

    @classmethod
    def execute(
        cls,
        model,
        positive,
        negative,
        latent_image,
        seed,
        steps,
        cfg,
        sampler_name,
        scheduler,
        denoise,
        guidance_start,
        guidance_end,
    ) -> io.NodeOutput:
        config = config_of_model(model)
        report(describe_prompts(positive, negative, config))
        model = shifted_for(model, config, sampled_latent(model, latent_image))
        guided = guided_between(model, guidance_start, guidance_end)
        how = (seed, steps, cfg, sampler_name, scheduler, positive, negative, latent_image)
        (latent,) = nodes.common_ksampler(guided, *how, denoise=denoise)
        return io.NodeOutput(latent, ui=ui_notes())
