"""How each documented command is run in its smallest form, or which test runs it elsewhere.

A row is for all commands that begin with its words (`a.b` is no beginning of `a.b.c`); of several
rows the longest counts. The rows of a story are run in order in one folder, as later commands need
what earlier ones have made.
"""

from __future__ import annotations

CPU = "--device cpu"
ONE_STEP = "--steps 1 --device cpu"
TWO_PROMPTS = f"--every 540 {ONE_STEP}"
RUN = "--device cpu --set optimiser.warmup=0 --set log.trackers=[]"
STEP = f"{RUN} --set stages.0.images=2 --set stages.0.batch=2"
FOLDER = f"{STEP} --set data.sources.1.count=4 --set data.sources.1.distinct=2"
SCENES = f"{STEP} --set data.sources.0.count=4 --set data.sources.0.distinct=2"
THREE = SCENES + "".join(
    f" --set data.sources.{n}.{name}=2" for n in (1, 2) for name in ("count", "distinct")
)
BRIDGE = f"{RUN} --set stages.0.images=64 --set stages.0.batch=32"
DECODER = f"{CPU} --set batch=2 --set workers=1 --set steps=1 --set warmup=0 --set wide_every=1"
SMOKE = f"{RUN} --set stages.0.images=60 --set stages.0.batch=1 --set validation.every=0"
TWO_STAGES = f"{SCENES} --set stages.1.images=2 --set stages.1.batch=2"

STORIES: dict[str, list[tuple[str, str]]] = {
    "pictures": [
        ("lidit generate", ONE_STEP),
        ("lidit fetch", ""),
        ("lidit info", ""),
        ("lidit inspect", ONE_STEP),
        ('lidit inspect "two cats and a dog" --figure', CPU),
        ("lidit encode", CPU),
        ('lidit encode "a cat to the left of a dog"', f"--next 2 {CPU}"),
        ('lidit encode "two cats and (a dog:1.5)" --emphasis', CPU),
        ("lidit expand", f"--max-tokens 2 {CPU}"),
        ("lidit stamp", ""),
    ],
    "judging": [
        ("lidit eval --write prompts.txt", ""),
        ("lidit eval --prompts", ""),
        ("lidit eval stickers --", TWO_PROMPTS),
        ("lidit eval stickers-duo --every", TWO_PROMPTS),
        ("lidit eval stickers-sd --adapter", TWO_PROMPTS),
        ("lidit eval MODEL --prompts newcomer", f"{TWO_PROMPTS} --out newcomers"),
        ("lidit blind before after", ""),
        ("python -m lidit_stickers.emphasis", f"--seeds 1 --weights 1 {CPU}"),
    ],
    "bridges": [
        ("lidit record prompts.txt --model stickers-duo --llm gemma-3-270m --out recipes/", CPU),
        ("lidit train --print-plan recipes/bridge.yaml", ""),
        ("lidit train recipes/bridge.yaml --out", BRIDGE),
        ('lidit generate "a red cat" --model stickers-duo --llm', ONE_STEP),
        ("lidit eval stickers-duo --llm", TWO_PROMPTS),
    ],
    "recipes": [
        ("lidit train recipes/smoke.yaml --out runs/smoke", SMOKE),
        ("lidit train recipes/lora.yaml --print-plan", ""),
        ("lidit train recipes/lora.yaml --out runs/lora", FOLDER),
        ("lidit train recipes/lora.yaml --out runs/dora", FOLDER),
        ('lidit generate "what your captions say" --lora runs/lora', ONE_STEP),
        ("lidit train recipes/finetune.yaml", FOLDER),
        ("lidit generate --model runs/mine", ONE_STEP),
        ("lidit train recipes/stickers-smollm2.yaml", TWO_STAGES),
        ("lidit train recipes/refiners.yaml", SCENES),
        ("lidit refiner runs/gemma", ""),
        ("lidit train --print-plan recipes/s", ""),
        ("lidit train recipes/stickers-adapter.yaml", SCENES),
    ],
    "weights": [
        ("git show", ""),
        ("python -m lidit_stickers.making.restore", "--captions 1 --time 0.02"),
        ("python -m lidit_stickers.making.train_autoencoder", DECODER),
        ("python -m lidit_stickers.sharpness", "--count 2"),
        (
            "lidit train recipes/stickers-gpu.yaml",
            f"{THREE} --set stages.1.images=2 --set stages.1.batch=2 --set compute.compile=false "
            "--set data.workers=0",
        ),
        ("python -m torch.distributed.run --nproc_per_node 2 -m lidit_core train", THREE),
        (
            "python -m torch.distributed.run --nproc_per_node 2 -m lidit_core train "
            "recipes/stickers-adapter.yaml",
            SCENES,
        ),
        (
            "python -m lidit_stickers.making.train_checkpoint runs/checkpoint",
            "--images 64 --scenes 4",
        ),
        (
            "python -m lidit_stickers.making.draw_checkpoint",
            "--steps 1 --adapter lidit_core/weights/stickers-adapter.safetensors",
        ),
    ],
}

# Words that stand for something, and files that a story starts with under these names.
STAND_FOR = {
    "PROMPT": "a cat",
    "NAME": "stickers",
    "MODEL": "stickers",
    "FILE": "made.safetensors",
    "DIR": "made",
    "runs/stickers-vae.safetensors": "lidit_core/weights/stickers-vae.safetensors",
}

ELSEWHERE = {
    "OMP_NUM_THREADS=1 lidit ablate": "tests/stickers/ablation/test_ablation.py",
    "lidit ablate": "tests/stickers/ablation/test_ablation.py",
    "lidit ablate --print-plan recipes/ablate-adapter.yaml": (
        "tests/stickers/ablation/test_adapters_compared.py"
    ),
    "lidit ablate --print-plan recipes/ablate-full.yaml": (
        "tests/stickers/ablation/test_from_nothing.py"
    ),
    "lidit ablate recipes/ablate-full.yaml": "tests/stickers/ablation/test_from_nothing.py",
    "lidit ablate --print-plan recipes/ablate-halves.yaml": (
        "tests/stickers/ablation/test_halves.py"
    ),
    "lidit ablate --print-plan recipes/ablate-readings.yaml": (
        "tests/stickers/ablation/test_llm_copies.py"
    ),
    "lidit ablate recipes/ablate-adapter.yaml": "tests/stickers/ablation/test_adapters_compared.py",
    "lidit bias": "tests/stickers/test_bias.py",
    "lidit eval --pictures": "tests/eval/test_evaluation.py",
    "lidit eval --prompts evaluation --pictures": "tests/eval/test_evaluation.py",
    "lidit eval my.safetensors": "tests/eval/test_evaluation.py",
    "lidit eval stickers-sd --bridge": "tests/eval/test_bridge_drawn.py",
    "lidit eval runs/ablate": "tests/eval/test_evaluation.py",
    "lidit fetch NAME": "tests/core/llm/test_fetch.py",
    "lidit fetch smollm2 --file": "tests/core/llm/test_fetch.py",
    "lidit VERB --help": "tests/core/cli/test_cli.py",
    "lidit generate --help": "tests/core/cli/test_cli.py",
    'lidit generate "a fox" --lora': "tests/core/cli/test_cli.py",
    'lidit generate "what your captions say" --lora runs/first': (
        "tests/train/test_train_command.py"
    ),
    "lidit train recipes/lora.yaml --out runs/first": "tests/train/test_train_command.py",
    "lidit prompts": "tests/train/prompts/test_prompts.py",
    "lidit record prompts.txt --model": "tests/core/bridge/test_bridge_file.py",
    "lidit refiner CHECKPOINT": "tests/documented/smallest_forms.py",
    "lidit stamp adapter.safetensors": "tests/core/cli/test_stamp.py",
    "lidit train --fields": "tests/train/test_field_list.py",
    "lidit train --print-plan recipes/LI-DiT-1B.yaml": "tests/train/test_train_command.py",
    "lidit train --print-plan recipes/bridge-through.yaml": (
        "tests/train/tasks/bridge/test_bridge_through.py"
    ),
    "lidit train --print-plan recipes/bridge-pairs.yaml": (
        "tests/train/tasks/bridge/test_bridge_pairs.py"
    ),
    "lidit train --print-plan recipes/bridge-add.yaml": (
        "tests/train/tasks/bridge/test_adding_from_pictures.py"
    ),
    "lidit train --print-plan recipes/sdxl-bridge.yaml": (
        "tests/train/tasks/bridge/test_sdxl_bridge.py"
    ),
    "lidit train recipes/sdxl-bridge.yaml": "tests/train/tasks/bridge/test_sdxl_bridge.py",
    "lidit train RECIPE --out DIR --clear-cache": "tests/train/test_checks.py",
    "lidit train RECIPE": "tests/train/test_train_command.py",
    "lidit train recipes/bridge-add.yaml": "tests/train/tasks/bridge/test_adding_from_pictures.py",
    "lidit train recipes/bridge-pairs.yaml": "tests/train/tasks/bridge/test_bridge_pairs.py",
    "lidit train recipes/bridge-through.yaml": "tests/train/tasks/bridge/test_bridge_through.py",
    "lidit train recipes/sd15-adapter.yaml": "tests/train/plan/test_real_checkpoint.py",
    "lidit train recipes/sdxl-adapter.yaml": "tests/train/tasks/test_one_file_base.py",
    "lidit train recipes/smoke.yaml --out runs/held": "tests/train/test_train_command.py",
    "lidit train recipes/smoke.yaml --out runs/smoke --upload": "tests/train/test_upload.py",
    "python -m torch.distributed.run": "tests/train/test_train_command.py",
    "accelerate launch": "tests/train/test_train_command.py",
    "python -m lidit_core": "tests/core/cli/test_cli.py",
    "python -m lidit_stickers.ablation.halves": "tests/stickers/ablation/test_halves.py",
    "python -m lidit_stickers.bridging.branch": "tests/stickers/bridging/test_branch.py",
    "python -m lidit_stickers.bridging.checkpoint": (
        "tests/stickers/bridging/test_bridged_checkpoint.py"
    ),
    "python -m lidit_stickers.ceiling": "tests/stickers/test_commands.py",
    "python -m lidit_stickers.compare": "tests/stickers/test_compare.py",
    "python -m lidit_stickers.evidence": "tests/stickers/ablation/test_evidence.py",
    "python -m lidit_stickers.llm_copies": "tests/stickers/ablation/test_llm_copies.py",
    "python -m lidit_stickers.making.adapter_scores": "tests/stickers/making/test_scores.py",
    "python -m lidit_stickers.making.scores": "tests/stickers/making/test_scores.py",
    "python -m lidit_stickers.making.strip": "tests/stickers/making/test_scores.py",
    "python -m lidit_stickers.making.trigger": "tests/stickers/test_commands.py",
    "python -m lidit_stickers.newcomer": "tests/stickers/test_newcomer.py",
    "python -m lidit_stickers.probe": "tests/stickers/test_probe.py",
    "python -m lidit_stickers.probe.sides": "tests/stickers/test_token_places.py",
    "python -m lidit_stickers.score": "tests/stickers/test_scorer.py",
    "python -m lidit_stickers.scorer.selftest": "tests/stickers/test_scorer.py",
    "python -m lidit_stickers.scorer.unseen": "tests/stickers/test_unseen.py",
    "python -m lidit_stickers.text_gap": "tests/stickers/test_text_gap.py",
    "python -m lidit_stickers.token_places": "tests/stickers/test_token_places.py",
    "python -m lidit_stickers.training_captions": "tests/stickers/test_commands.py",
    "python -m benchmarks.branch_weight": "tests/core/model/test_branch_weight.py",
    "python -m benchmarks.bridge": "tests/train/tasks/bridge/test_bridge_benchmark.py",
    "python -m benchmarks.suite": "tests/test_suite_times.py",
    "python -m benchmarks.throughput": "tests/train/test_throughput.py",
    "python -m benchmarks.training_step": "tests/train/test_benchmarks.py",
    "COMFYUI_PATH=~/ComfyUI ~/ComfyUI/.venv/bin/python -m benchmarks.guidance": (
        "tests/host/lidit/test_guidance_benchmark.py"
    ),
    "pip download": "tests/documented/test_documented_commands.py",
    "python -m zipfile": "tests/documented/test_documented_commands.py",
    "python path/to/": "tests/core/llm/test_fetch.py",
    "python …/lidit_core/fetch.py": "tests/core/llm/test_fetch.py",
    "python tests/kit/llm_families.py": "tests/core/llm/test_llm_families_page.py",
    "python3 run.py": "tests/test_run.py",
    "python3 run.py prove": "tests/test_prove.py",
}

# What no test can or should run, and why.
NEVER = {
    "pip install": "a test reaches no registry; tests/test_run.py installs from a folder",
    "python -m pip install -r requirements.txt": "the same",
    "playwright install": "it fetches a browser",
    "pre-commit install": "it changes the checkout's hooks",
    "hf auth login": "it asks for somebody's token",
    "wandb login": "it asks for somebody's key",
    ".venv/bin/python -m benchmarks": "its numbers need an idle machine; it has no smaller form",
    "python -m benchmarks": "the same",
    "python -m benchmarks.loader": "the same",
    "python -m benchmarks.training_memory": "the same",
    "COMFYUI_PATH=~/ComfyUI ~/ComfyUI/.venv/bin/python -m benchmarks.host": "the same",
    "OMP_NUM_THREADS=1 COMFYUI_PATH=ComfyUI ComfyUI/.venv/bin/python tests/host/kit/time": (
        "it times a fresh installation; tests/host/test_first_run.py takes its steps"
    ),
}
