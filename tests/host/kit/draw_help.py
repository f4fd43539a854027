"""Draws the pictures of the help pages: web/docs/NODE/use.jpg, each node in use on the real canvas.

    python tests/host/kit/draw_help.py HOST_FOLDER [NODE …]

Run by the host's Python, with both demo LLMs and the weights that ship. Each workflow is opened in
a browser and run, then the part of it is taken that shows the node among its neighbours.
"""

from __future__ import annotations

import io
import json
import sys
import tempfile
from pathlib import Path

from help_pages import DOCS, SHOWN, drawn_from
from host_browser import Browser
from host_server import HostServer
from PIL import Image
from workflow_kit import (
    NAMES,
    WORKFLOWS,
    Api,
    forget_all,
    give_files,
    read,
    write_refiner,
)

KEPT = {  # nodes of a graph that no workflow has: prompts kept as files
    "LiDiTSaveConditioning": (1, 2, 3),
    "LiDiTLoadConditioning": (4, 5, 6),
    "LiDiTRecordConditioning": (1, 7),
}
FOREIGN = {"LiDiTLLMFromCLIP": (1, 2, 3)}  # the same of another loader's LLM
BRIDGED = {
    "LiDiTBridgeLoader": (1, 2, 3, 5),
    "LiDiTBridge": (1, 2, 3, 4, 5),
    "LiDiTTrainBridge": (1, 2, 4, 6, 7),
}  # of another model's CLIP
INSPECTED = {  # of a graph that is run: figures of a prompt and its picture
    "LiDiTAttentionMaps": (7, 8),
    "LiDiTInspectRefiners": (9, 10),
    "LiDiTContinuePrompt": (1, 11),
}
PLACES = {  # of its nodes on the canvas: left, top, width, height; the others stand far left
    7: (0, 0, 290, 190),
    8: (330, 0, 640, 190),
    9: (0, 400, 290, 200),
    10: (330, 400, 640, 400),
    1: (0, 1000, 290, 260),
    11: (330, 1000, 640, 260),
}
FOREIGN_FILE = "qwen_3_4b.safetensors"
FOREIGN_CHECKPOINT = "sd_xl_base_1.0.safetensors"
BRIDGE_FILE = "sdxl-from-smollm2.safetensors"
PROMPTS = "prompts.txt"  # a file to record
RECORDED = "sdxl"  # a recording
WIDTH = 760  # of a picture, in pixels
LEFT, TOP = 120, 110  # of the canvas beside the frontend's own bars, in pixels of the page
SHOW = """([ids, left, top, wide, high]) => {
    const nodes = app.graph._nodes.filter(node => ids.includes(Number(node.id)))
    const low = [0, 1].map(i => Math.min(...nodes.map(node => node.pos[i])) - [16, 62][i])
    const high_ = [0, 1].map(i => Math.max(...nodes.map(node => node.pos[i] + node.size[i])) + 16)
    const ds = app.canvas.ds
    ds.scale = Math.min(1, wide / (high_[0] - low[0]), high / (high_[1] - low[1]))
    ds.offset[0] = left / ds.scale - low[0]
    ds.offset[1] = top / ds.scale - low[1]
    app.canvas.setDirty(true, true)
    return [(high_[0] - low[0]) * ds.scale, (high_[1] - low[1]) * ds.scale]
}"""
SETTINGS = {  # nothing lies on the canvas but the workflow
    "Comfy.TutorialCompleted": True,
    "Comfy.Minimap.Visible": False,
    "Comfy.Graph.CanvasInfo": False,
    "Comfy.VueNodes.Enabled": False,
}


def run_workflow(server: HostServer, browser: Browser, number: int) -> None:
    """Open it and press Run; its pictures and texts then stand on its nodes."""
    ui, api = read(NAMES[number - 1])
    give_files(server, api)
    forget_all(server)  # a node whose result is known tells nothing
    browser.open(ui)
    run_open(server, browser, NAMES[number - 1])


def run_open(server: HostServer, browser: Browser, name: str) -> None:
    before = set(server.get("/history"))
    browser.run()
    (entry,) = server.wait_for_new(before)
    if entry["status"]["status_str"] != "success":
        raise SystemExit(f"{name}: {entry['status']['messages'][-1]}")
    browser.page.wait_for_timeout(2500)


def kept_prompts(server: HostServer) -> Api:
    """A graph that keeps a prompt and draws with it, once the prompt is kept."""
    first = read(NAMES[0])[1]
    loader = {"class_type": "LiDiTLLMLoader", "inputs": {**first["1"]["inputs"]}}
    del loader["inputs"]["custom_template"]
    prompt = {"clip": ["1", 0], "text": first["3"]["inputs"]["text"]}
    save = {"conditioning": ["2", 0], "filename_prefix": "conditioning/prompt"}
    graph = {
        "1": loader,
        "2": {"class_type": "LiDiTTextEncode", "inputs": prompt},
        "3": {"class_type": "LiDiTSaveConditioning", "inputs": save},
    }
    run = server.draw(graph)
    if run.ending != "execution_success":
        raise SystemExit(run.error)
    (file,) = (server.base / "output" / "conditioning").iterdir()
    kept = f"conditioning/{file.name} [output]"
    sampler = {
        **first["7"]["inputs"],
        "positive": ["4", 0],
        "negative": ["4", 0],
        "model": ["5", 0],
    }
    del sampler["latent_image"]
    record = {"clip": ["1", 0], "prompts": PROMPTS, "name": "my-encoder"}
    return {
        **graph,
        "4": {"class_type": "LiDiTLoadConditioning", "inputs": {"file": kept}},
        "5": {"class_type": "LiDiTModelLoader", "inputs": first["5"]["inputs"]},
        "6": {"class_type": "KSampler", "inputs": sampler},
        "7": {"class_type": "LiDiTRecordConditioning", "inputs": record},
    }


def foreign_llm() -> Api:
    """Another loader's LLM, read as ours; for the picture its file need only be listed."""
    file = {"clip_name": FOREIGN_FILE, "type": "lumina2", "device": "default"}
    read_as = {"clip": ["1", 0], "template": "short", "layer": "-3", "token_budget": 96}
    read_as |= {"llm_name": "Qwen3-4B"}
    return {
        "1": {"class_type": "CLIPLoader", "inputs": file},
        "2": {"class_type": "LiDiTLLMFromCLIP", "inputs": read_as},
        "3": {"class_type": "LiDiTTextEncode", "inputs": {"clip": ["2", 0], "text": "a cat"}},
    }


def bridged() -> Api:
    """An LLM as a checkpoint's CLIP; for the picture the files need only be listed."""
    loader = {**read(NAMES[0])[1]["1"]["inputs"]}
    del loader["custom_template"]
    given = {"bridge": ["2", 0], "clip": ["1", 0], "encoder": ["4", 1], "strength": 1.0}
    given["model"] = ["4", 0]
    size = {"width": 512, "height": 512, "batch_size": 1}
    learnt = {"bridge": ["2", 0], "clip": ["1", 0], "model": ["4", 0], "latent_image": ["6", 0]}
    learnt |= {"recording": RECORDED, "name": "sdxl-from-smollm2-through"}
    return {
        "1": {"class_type": "LiDiTLLMLoader", "inputs": loader},
        "2": {"class_type": "LiDiTBridgeLoader", "inputs": {"bridge_name": BRIDGE_FILE}},
        "3": {"class_type": "LiDiTBridge", "inputs": given},
        "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": FOREIGN_CHECKPOINT}},
        "5": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["3", 0], "text": "an owl"}},
        "6": {"class_type": "EmptyLatentImage", "inputs": size},
        "7": {"class_type": "LiDiTTrainBridge", "inputs": learnt},
    }


def inspected() -> Api:
    """A prompt, its picture, and figures of both."""
    first = read(NAMES[0])[1]
    loader = {**first["1"]["inputs"]}
    del loader["custom_template"]
    prompt = {"clip": ["1", 0], "text": "two cats and a dog"}
    model, read_as = ["3", 0], ["2", 0]
    drawn = {**first["7"]["inputs"], "model": model, "positive": read_as, "negative": ["6", 0]}
    size = {"width": 128, "height": 128, "batch_size": 1}
    maps = {"model": model, "conditioning": read_as, "samples": ["5", 0], "vae": ["3", 1]}
    figure = {"model": model, "conditioning": read_as, "figure": "refiner attention", "time": 0.5}
    return {
        "1": {"class_type": "LiDiTLLMLoader", "inputs": loader},
        "2": {"class_type": "LiDiTTextEncode", "inputs": prompt},
        "3": {"class_type": "LiDiTModelLoader", "inputs": first["5"]["inputs"]},
        "4": {"class_type": "EmptyLatentImage", "inputs": size},
        "5": {"class_type": "KSampler", "inputs": {**drawn, "latent_image": ["4", 0]}},
        "6": {"class_type": "LiDiTTextEncode", "inputs": {**prompt, "text": ""}},
        "7": {"class_type": "LiDiTAttentionMaps", "inputs": {**maps, "steps": 8}},
        "8": {"class_type": "PreviewImage", "inputs": {"images": ["7", 0]}},
        "9": {"class_type": "LiDiTInspectRefiners", "inputs": figure},
        "10": {"class_type": "PreviewImage", "inputs": {"images": ["9", 0]}},
        "11": {"class_type": "LiDiTContinuePrompt", "inputs": {**prompt, "max_tokens": 24}},
    }


def take(browser: Browser, ids: tuple[int, ...]) -> Image.Image:
    """What the canvas shows of these nodes."""
    room = browser.page.viewport_size
    space = [room["width"] - LEFT - 60, room["height"] - TOP - 60]
    width, height = browser.page.evaluate(SHOW, [list(ids), LEFT, TOP, *space])
    browser.page.wait_for_timeout(900)
    clip = {"x": LEFT, "y": TOP, "width": width, "height": height}
    return Image.open(io.BytesIO(browser.page.screenshot(clip=clip))).convert("RGB")


def draw_all(server: HostServer, browser: Browser, names: list[str]) -> None:
    for number in sorted({SHOWN[name][0] for name in names}):
        run_workflow(server, browser, number)
        for name in (n for n in names if SHOWN[n][0] == number):
            keep(take(browser, SHOWN[name][1]), name)


def draw_graph(
    browser: Browser,
    graph: Api,
    shown: dict[str, tuple[int, ...]],
    server: HostServer | None = None,
) -> None:
    """Open a graph in the browser and keep a picture of its nodes for each help page.

    Args:
        server: runs the graph before the pictures are taken; None = it is not run.
    """
    browser.page.reload()  # for lists of files that were written since
    browser.page.wait_for_timeout(6000)
    ui = browser.from_api(graph, "help")
    if server:
        for node in ui["nodes"]:
            left, top, wide, high = PLACES.get(node["id"], (-3000, 400 * node["id"], 300, 300))
            node["pos"], node["size"] = [left, top], [wide, high]
    browser.open(ui)
    if server:
        run_open(server, browser, "help")
    for name, ids in shown.items():
        keep(take(browser, ids), name)


def keep(picture: Image.Image, name: str) -> None:
    picture.thumbnail((WIDTH, 2 * WIDTH), Image.Resampling.LANCZOS)
    made = {"quality": 80, "optimize": True, "comment": drawn_from(name)}
    picture.save(DOCS / name / "use.jpg", **made)


def main(host: str, *names: str) -> None:
    sys.path.append(str(WORKFLOWS.parent))
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        for name in ("custom_nodes", "input", "user/default"):
            (base / name).mkdir(parents=True)
        (base / "user" / "default" / "comfy.settings.json").write_text(json.dumps(SETTINGS))
        write_refiner(base / "models" / "diffusion_models")  # before the browser lists files
        (base / "custom_nodes" / "lidit").symlink_to(WORKFLOWS.parent, target_is_directory=True)
        (base / "input" / PROMPTS).write_text("a cat\na dog\n")
        (base / "output" / "recordings" / RECORDED).mkdir(parents=True)
        (base / "output" / "recordings" / RECORDED / "recording.json").touch()
        (base / "models" / "text_encoders").mkdir()
        (base / "models" / "text_encoders" / FOREIGN_FILE).touch()
        for kind, file in (("bridges", BRIDGE_FILE), ("checkpoints", FOREIGN_CHECKPOINT)):
            (base / "models" / kind).mkdir()
            (base / "models" / kind / file).touch()
        with HostServer(Path(host), base, "lidit") as server:
            chosen = list(names or (*SHOWN, *KEPT, *FOREIGN, *BRIDGED, *INSPECTED))
            kept = {name: ids for name, ids in KEPT.items() if name in chosen}
            foreign = {name: ids for name, ids in FOREIGN.items() if name in chosen}
            bridges = {name: ids for name, ids in BRIDGED.items() if name in chosen}
            graph = kept_prompts(server) if kept else {}
            with Browser(server.url) as browser:
                graphs = ((kept, graph), (foreign, foreign_llm()), (bridges, bridged()))
                for shown, api in graphs:
                    if shown:
                        draw_graph(browser, api, shown)
                if figures := {n: ids for n, ids in INSPECTED.items() if n in chosen}:
                    draw_graph(browser, inspected(), figures, server)
                draw_all(server, browser, [name for name in chosen if name in SHOWN])


if __name__ == "__main__":
    main(*sys.argv[1:])
