"""A bridge in the host's nodes with a box for each of two encoders. Run: see conftest.py"""

from __future__ import annotations

import pytest
import torch
from bridge_encoders import PROMPTS, check_same, entries_of, host_encoder, names
from bridge_files import node

SDXL = {"width": 64, "height": 64, "crop_w": 0, "crop_h": 0, "target_width": 64}
SDXL |= {"target_height": 64}


def boxes(kind: str, first: str, second: str) -> tuple[str, dict]:
    """A node of the host with a box for each of two encoders, and its inputs."""
    if kind == "sdxl":
        return "CLIPTextEncodeSDXL", {**SDXL, "text_g": first, "text_l": second}
    return "CLIPTextEncodeFlux", {"clip_l": first, "t5xxl": second, "guidance": 3.5}


@pytest.mark.parametrize("kind", ["sdxl", "flux"])
def test_nodes_with_two_boxes_go_on_working(bench, host, kind):
    bridge, own = bench.bridge(kind)[1], host_encoder(kind)
    clip, nothing = bench.clip(bridge), bench.clip(bridge, encoder=own, strength=0.0)
    text = PROMPTS[0]
    for first, second in ((text, text), (text, ""), ("", text), (PROMPTS[3], PROMPTS[1])):
        name, given = boxes(kind, first, second)
        theirs = node(host, name, clip=own, **given)
        check_same(node(host, name, clip=nothing, **given), theirs)
        if first and second and first != second:
            if kind == "flux":
                continue
            with pytest.raises(bench.error, match="boxes hold different prompts"):
                node(host, name, clip=clip, **given)
            continue
        found = node(host, name, clip=clip, **given)
        assert torch.equal(found[0][0], entries_of(clip, text)[0][0])
        assert names(found[0][1]) == set(theirs[0][1])
    name, given = boxes(kind, "", "")
    check_same(node(host, name, clip=clip, **given), node(host, name, clip=own, **given))


def test_each_of_flux_two_boxes_is_read(bench, host):
    """Rows of the second one's prompt, and the pooled vector of the first one's, as FLUX's own."""
    own = host_encoder("flux")
    bridge, adds = bench.bridge("flux")[1], bench.bridge("flux", add=True)[1]
    new = bench.bridge("flux", trained=False, add=True, name="flux-new")[1]
    name, given = boxes("flux", "owl, book, (castle:1.2)", PROMPTS[0])
    check_same(node(host, name, clip=bench.clip(new, encoder=own), **given),
               node(host, name, clip=own, **given))  # fmt: skip
    for clip in (
        bench.clip(bridge),
        bench.clip(bridge, encoder=own, strength=0.4),
        bench.clip(adds, encoder=own),
    ):
        ((sequence, values),) = node(host, name, clip=clip, **given)
        first, second = (entries_of(clip, given[box])[0] for box in ("clip_l", "t5xxl"))
        assert torch.equal(sequence, second[0])
        assert torch.equal(values["pooled_output"], first[1]["pooled_output"])
        assert not torch.equal(values["pooled_output"], second[1]["pooled_output"])
        assert values["guidance"] == 3.5
    with pytest.raises(bench.error, match="boxes hold different prompts"):
        node(host, name, clip=bench.clip(bench.bridge("sdxl")[1]), **given)
