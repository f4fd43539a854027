"""Run by each of several processes: says how much of every weight lies where, as JSON.

python shard_probe.py RECIPE OUT NAME=LLM
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from lidit_train.loop.parallel import accelerator_for, local
from lidit_train.recipe_file import read_recipe
from lidit_train.run import begin_run, end_together

recipe, out = read_recipe(sys.argv[1]), Path(sys.argv[2])
accelerator = accelerator_for(recipe.compute, "cpu")
trainer = begin_run(recipe, out, accelerator, dict([sys.argv[3].split("=", 1)])).trainer
_, batch = next(iter(trainer.loader))
trainer.train_step(batch, trainer.no_losses())
held = {"weights": 0, "optimiser": 0, "average": 0, "all": 0}
for p in trainer.learner.parameters():
    held["all"] += p.numel()
    held["weights"] += local(p).numel()
for optimiser in trainer.optimisers:
    for state in optimiser.state.values():
        held["optimiser"] += sum(local(v).numel() for v in state.values() if v.ndim)
held["average"] = sum(local(v).numel() for v in trainer.ema.weights.values())
print(json.dumps(held))
end_together(accelerator, trainer)
