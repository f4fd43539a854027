"""The ablation that ships, recipes/ablate.yaml.

Run: pytest tests/stickers/ablation/test_shipped_ablation.py
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from lidit_core.cli import main
from lidit_stickers.ablation.recipes import fork_recipe
from lidit_stickers.ablation.variants import read_ablation
from lidit_train.tasks.task import open_task

ROOT = Path(__file__).resolve().parents[3]
SHIPPED = ROOT / "recipes" / "ablate.yaml"
PAPER = {  # T2I-CompBench, Tables 2, 3, 5 and 6; by the variant that stands for the row
    "plain-none": 38.72,
    "none": 48.41,
    "plain-full": 54.02,
    "full": 56.79,
    "plain-causal": 45.84,
    "plain-one": 48.25,
    "plain-ungated": 53.47,
    "concatenated": 58.32,
    "collaborative": 60.31,
}
TABLE_3 = {  # where T5 and Qwen1.5 were trained anew beside each other
    "minilm-none": 48.82,
    "minilm": 49.52,
    "plain-none": 38.11,
    "plain-full": 53.81,
}


def test_the_shipped_file_is_whole_and_is_the_papers():
    """Each claim's scores are those of the paper's tables, and all variants are used."""
    ablation = read_ablation(SHIPPED)
    assert ablation.seeds == (0, 1) and ablation.gap.scenes == 1000 and ablation.score.every == 1
    used = {name for claim in ablation.claims for name in (claim.this, claim.other)}
    assert set(ablation.names) - used == {"gemma"}
    assert {claim.table for claim in ablation.claims} == {"2", "3", "5", "6", ""}
    for claim in ablation.claims:
        scores = TABLE_3 if {claim.this, claim.other} & {"minilm", "minilm-none"} else PAPER
        expected = (scores[claim.this], scores[claim.other]) if claim.table else ()
        assert claim.paper == expected, claim.says
    for variant in ablation.variants:
        recipe = fork_recipe(ablation, variant, 0, "stickers", Path("."))
        open_task(recipe).check_files()


def test_table_2_is_the_clean_one_and_what_it_cannot_tell_is_announced():
    """The tuned LLM in all of its rows, the last of which adds another one.

    The paper's pairing is another file's.
    """
    ablation = read_ablation(SHIPPED)
    named = {n for c in ablation.claims if c.table == "2" for n in (c.this, c.other)}
    read = {v.name: ablation.llms(v) for v in ablation.variants if v.name in named}
    assert all(llms[0] == "SmolLM2-135M-Instruct" for llms in read.values())
    assert [name for name, llms in read.items() if len(llms) > 1] == ["collaborative"]
    head = " ".join(re.findall(r"^# (.+)", SHIPPED.read_text(), re.MULTILINE))
    assert "Table 2 is the clean one" in head and "recipes/ablate-full.yaml" in head
    announced = head.partition("Announced beforehand: ")[2]
    assert announced.startswith("Table 6 on English may be too small to see")
    assert "recipes/ablate-halves.yaml" in announced
    told = (ROOT / "docs" / "evaluation.md").read_text(encoding="utf-8")
    assert "Its Table 2 is the clean one" in " ".join(told.split())


def test_the_plan_tells_hours(capsys):
    """The command of the documents."""
    assert main(["ablate", "--print-plan", "recipes/ablate.yaml"]) == 0
    told = capsys.readouterr().out
    assert "32 runs of 48,000 images (16 variants, 2 seeds), of which 32 are left" in told
    hours = float(re.search(r"([\d.]+) hours", told)[1])
    assert 0.5 < hours < 500
    assert all(f"  {name} " in told for name in read_ablation(SHIPPED).names)


def test_it_starts_as_people_type_it():
    command = [sys.executable, "-m", "lidit_core", "ablate", "--help"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "recipes/ablate.yaml" in ended.stdout
