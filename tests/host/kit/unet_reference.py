"""Run by the Python that trains: a U-Net's file, and what diffusers makes of what it is fed."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[2] / "kit"), str(Path(__file__).parents[3])]

import torch  # noqa: E402
from safetensors.torch import save_file  # noqa: E402
from tiny_unet import TINY, predict, random_inputs, random_unet  # noqa: E402

from lidit_train.tasks.adapter.unet import write_ldm  # noqa: E402


def main(name: str, folder: Path) -> None:
    unet, inputs = random_unet(TINY[name]), random_inputs(TINY[name])
    write_ldm(unet, folder / "unet.safetensors", {})
    known = {**inputs, "expected": predict(unet, inputs)}
    if "time_ids" in inputs:  # the host is fed one vector
        sizes = unet.add_time_proj(inputs["time_ids"].flatten()).unflatten(0, (2, 6)).flatten(1)
        known["y"] = torch.cat((inputs["text_embeds"], sizes), dim=1)
    save_file(known, folder / "known.safetensors")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
