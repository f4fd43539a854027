"""Reports go into the documents. Run: pytest tests/stickers/ablation/test_evidence.py"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from lidit_core.errors import LiDiTError
from lidit_stickers.evidence.__main__ import EVIDENCE, KIND, asked_with, main
from lidit_stickers.making.tables import block, read

ROOT = Path(__file__).resolve().parents[3]
CHANGED = ["score.every=3", "seeds=[0, 1]"]
DOCUMENT = (
    "above\n<!-- evidence: ablation -->\nold\n<!-- end of evidence -->\n"
    "<!-- evidence: bias -->\nold\n<!-- end of evidence -->\n"
    "<!-- evidence: gates -->\nold gates\n<!-- end of evidence -->\nbelow\n"
)


def written(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def evaluated(folder: Path, weights: str, guidance: float) -> None:
    about = {"model": f"final.safetensors ({weights})", "cfg": guidance}
    written(folder / "evaluation.json", json.dumps(about))


@pytest.fixture
def runs(tmp_path) -> Path:
    """Reports of an ablation and of bias; of the gates only one of both guidances."""
    runs = tmp_path / "runs"
    written(
        runs / "ablate" / "ablation.md", "# Ablations\n\nWeights 0123.\n\n## Prompts: long\n\n|"
    )
    written(runs / "ablate" / "ablation.json", json.dumps({"changes": CHANGED}))
    written(runs / "bias" / "bias.md", "# Positional bias\n\n| a |\n")
    written(runs / "bias" / "bias.svg", "<svg/>")
    written(runs / "timeless-3" / "against.md", "\n# Against full-3\n\n| x |\n")
    evaluated(runs / "timeless-3", "89ab", 3.0)
    evaluated(runs / "full-3", "4567", 3.0)
    return runs


def test_what_is_through_is_written_and_the_rest_stays(runs, tmp_path, capsys):
    document = tmp_path / "docs" / "document.md"
    written(document, DOCUMENT)
    main(["--runs", str(runs), "--write", str(document)])
    told = capsys.readouterr().out
    assert "ablation, bias written" in told
    assert "not there yet: halves, forms, readings, gates" in told
    text = document.read_text(encoding="utf-8")
    assert text.startswith("above\n") and text.endswith(
        "old gates\n<!-- end of evidence -->\nbelow\n"
    )
    asked = '--out runs/ablate --set score.every=3 --set "seeds=[0, 1]"`'
    assert f"recipes/ablate.yaml {asked}:\n\nWeights 0123.\n\n**Prompts: long**" in text
    assert "![bias](bias.svg)\n\n| a |\n<!-- end" in text and "old\n" not in text
    assert (document.parent / "bias.svg").read_text() == "<svg/>"
    evaluated(runs / "timeless-1", "cdef", 1.0)
    evaluated(runs / "full-1", "4567", 1.0)
    written(runs / "timeless-1" / "against.md", "\n# Against full-1\n\n| y |\n")
    main(["--runs", str(runs), "--write", str(document)])
    text = document.read_text(encoding="utf-8")
    for this, guidance, table in (("89ab", 3.0, "| x |"), ("cdef", 1.0, "| y |")):
        models = f"final.safetensors ({this}) (*this*) and final.safetensors (4567) (*other*)"
        assert f"{models}, guidance {guidance}:\n\n{table}" in text


def test_a_mistake_leaves_every_document_as_it_is(runs, tmp_path):
    document, other = tmp_path / "document.md", tmp_path / "other.md"
    written(document, DOCUMENT)
    written(other, "nothing")
    with pytest.raises(LiDiTError, match="other.md marks no table; expected"):
        main(["--runs", str(runs), "--write", str(document), str(other)])
    with pytest.raises(LiDiTError, match="name the folder of the runs with --runs"):
        main(["--runs", str(tmp_path / "none"), "--write", str(document)])
    assert document.read_text() == DOCUMENT


def test_a_table_whose_command_is_not_known_is_not_written(runs, tmp_path):
    """One of before does not say its --set; without it the command above gives another table."""
    document = tmp_path / "document.md"
    written(document, DOCUMENT)
    (runs / "ablate" / "ablation.json").write_text("{}")
    with pytest.raises(LiDiTError, match="does not say what was changed by --set") as caught:
        main(["--runs", str(runs), "--write", str(document)])
    assert "start that again" in str(caught.value) and document.read_text() == DOCUMENT


def test_dots_stand_after_what_was_changed(runs):
    file = runs / "ablate" / "ablation.md"
    assert asked_with("lidit ablate x …", file).endswith(' --set "seeds=[0, 1]" …')
    assert asked_with("lidit bias …", runs / "bias" / "bias.md") == "lidit bias …"


def test_the_documents_have_a_place_for_all_evidence():
    found = []
    for name in ("docs/results.md", "docs/llmdiff.md"):
        text = read(ROOT / name, tuple(EVIDENCE), KIND)
        found += [name for _, name, _ in block(KIND).findall(text)]
    assert sorted(found) == sorted(EVIDENCE)
    documents = "".join(path.read_text("utf-8") for path in (ROOT / "docs").glob("*.md"))
    folders = {re.sub("/.*", "", file) for each in EVIDENCE.values() for file in each.files}
    assert all(f"--out runs/{folder}" in documents for folder in folders)
