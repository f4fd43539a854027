"""The pack's nodes, in the order in which a workflow meets them."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io


class LiDiTExtension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """Every node; imported here, so that what they need loads with the first of them."""
        from ..host.folders import register
        from .collaborative_refiner import LiDiTCollaborativeRefiner
        from .instruction_template import LiDiTInstructionTemplate
        from .linguistic_refiner import LiDiTLinguisticTokenRefiner
        from .llm_loader import LiDiTLLMLoader
        from .llmdiff_apply import LLMDiffApply
        from .llmdiff_checkpoint import LLMDiffDemoCheckpoint
        from .llmdiff_encode import LLMDiffEncode
        from .model_loader import LiDiTModelLoader
        from .refiner_loader import LiDiTRefinerLoader
        from .sampler import LiDiTSampler
        from .text_encode import LiDiTTextEncode

        register()  # the folders that the nodes list, before any of them does
        return [
            LiDiTLLMLoader,
            LiDiTInstructionTemplate,
            LiDiTTextEncode,
            LiDiTLinguisticTokenRefiner,
            LiDiTCollaborativeRefiner,
            LiDiTModelLoader,
            LiDiTRefinerLoader,
            LiDiTSampler,
            LLMDiffDemoCheckpoint,
            LLMDiffEncode,
            LLMDiffApply,
        ]
