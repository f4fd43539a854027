"""The pack's nodes, in the order in which a workflow meets them."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io


class LiDiTExtension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """Every node; imported here, so that what they need loads with the first of them."""
        from ..host.exceptions import name_plainly
        from ..host.folders import register
        from .bridge.apply import LiDiTBridge
        from .bridge.loader import LiDiTBridgeLoader
        from .bridge.train import LiDiTTrainBridge
        from .checked import checking_inputs
        from .conditioning.load import LiDiTLoadConditioning
        from .conditioning.record import LiDiTRecordConditioning
        from .conditioning.save import LiDiTSaveConditioning
        from .lidit.attention_maps import LiDiTAttentionMaps
        from .lidit.collaborative_refiner import LiDiTCollaborativeRefiner
        from .lidit.inspect_refiners import LiDiTInspectRefiners
        from .lidit.labelled_grid import LiDiTLabelledGrid
        from .lidit.linguistic_refiner import LiDiTLinguisticTokenRefiner
        from .lidit.model_loader import LiDiTModelLoader
        from .lidit.reading_grid import LiDiTReadingGrid
        from .lidit.refiner_loader import LiDiTRefinerLoader
        from .lidit.sampler import LiDiTSampler
        from .lidit.text_encode import LiDiTTextEncode
        from .llm.continue_prompt import LiDiTContinuePrompt
        from .llm.expand_prompt import LiDiTExpandPrompt
        from .llm.from_clip import LiDiTLLMFromCLIP
        from .llm.instruction_template import LiDiTInstructionTemplate
        from .llm.loader import LiDiTLLMLoader
        from .llmdiff.apply import LLMDiffApply
        from .llmdiff.demo_checkpoint import LLMDiffDemoCheckpoint
        from .llmdiff.encode import LLMDiffEncode

        name_plainly()
        register()  # the folders that the nodes list, before any of them does
        nodes = [
            LiDiTLLMLoader,
            LiDiTLLMFromCLIP,
            LiDiTInstructionTemplate,
            LiDiTTextEncode,
            LiDiTLinguisticTokenRefiner,
            LiDiTCollaborativeRefiner,
            LiDiTModelLoader,
            LiDiTRefinerLoader,
            LiDiTSampler,
            LiDiTReadingGrid,
            LiDiTLabelledGrid,
            LLMDiffDemoCheckpoint,
            LLMDiffEncode,
            LLMDiffApply,
            LiDiTSaveConditioning,
            LiDiTLoadConditioning,
            LiDiTRecordConditioning,
            LiDiTExpandPrompt,
            LiDiTBridgeLoader,
            LiDiTBridge,
            LiDiTTrainBridge,
            LiDiTAttentionMaps,
            LiDiTInspectRefiners,
            LiDiTContinuePrompt,
        ]
        return [checking_inputs(node) for node in nodes]
