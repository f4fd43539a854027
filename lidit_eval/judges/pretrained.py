"""Models of transformers that users name as judges."""

from __future__ import annotations

import hashlib
from typing import Any

from torch import nn

from lidit_core.errors import LiDiTError, first_line


def open_pretrained(task: str, source: str, device: str) -> tuple[Any, Any]:
    """A model and its processor.

    Args:
        task: of transformers' Auto classes, such as "ObjectDetection".
        source: a folder, or ``hub:owner/name``, which is downloaded.
    Raises:
        LiDiTError: it cannot be loaded.
    """
    import transformers

    hub = source.startswith("hub:")
    where, options = source.removeprefix("hub:"), {"local_files_only": not hub}
    try:
        model = getattr(transformers, f"AutoModelFor{task}").from_pretrained(where, **options)
        processor = transformers.AutoProcessor.from_pretrained(where, **options)
    except (OSError, ValueError, RuntimeError, KeyError, ImportError) as error:
        raise LiDiTError(
            f"{source} cannot be loaded as a judge ({first_line(error)}); expected a folder of "
            f"transformers, or hub:owner/name, with a model for {task}"
        ) from error
    return model.to(device).eval(), processor


def edition_of(*models: nn.Module) -> str:
    """A hash of models' weights, of 64 numbers of each: what one name holds may change."""
    digest = hashlib.sha256()
    for model in models:
        for name, weight in sorted(model.state_dict().items()):
            few = weight.flatten()[:: max(1, weight.numel() // 64)][:64]
            digest.update(f"{name} {tuple(weight.shape)} ".encode())
            digest.update(few.double().cpu().numpy().tobytes())
    return digest.hexdigest()[:12]
