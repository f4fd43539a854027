"""The collection of prompts, from a small WordNet. Run: pytest tests/train/prompts"""

from __future__ import annotations

import json
import random
import re
import shlex
from collections import Counter
from pathlib import Path

import pytest
from tiny_bridge import Following, Windowed
from tiny_llm import chat_tokenizer, plain_tokenizer

from lidit_core.bridge.teacher import write_teacher
from lidit_core.cli import main
from lidit_core.errors import LiDiTError
from lidit_train.prompts import command
from lidit_train.prompts.collection import LONGEST, SHORTEST, Lists, collect, pieces
from lidit_train.prompts.coverage import coverage
from lidit_train.prompts.phrases import KINDS, Phrases, Supply
from lidit_train.prompts.titles import titles
from lidit_train.prompts.wordnet import adjectives, descriptions, examples, nouns

LICENCE = "  1 This software and database is provided  \n"
ANIMAL, FEELING, ARTIFACT = 5, 12, 6
NOUNS = [  # word, lexicographers' file, senses tagged, pointers
    ("cat", ANIMAL, 3, "@"), ("Felis", ANIMAL, 2, "@"), ("joy", FEELING, 5, "@"),
    ("fire_engine", ARTIFACT, 1, "@ ~"), ("dog", ANIMAL, 7, "@"), ("rotter", ANIMAL, 1, "@ ;u"),
    ("boat", ARTIFACT, 0, "@"),
]  # fmt: skip


def write_wordnet(folder: Path, more: int = 0) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    words = [*NOUNS, *((f"thing{chr(97 + n // 26)}{chr(97 + n % 26)}", ARTIFACT, 0, "@")
                       for n in range(more))]  # fmt: skip
    _write(folder, "noun", words)
    _write(folder, "verb", [("run", 38, 2, "@")])
    _write(folder, "adj", [("soft(a)", 0, 2, "&"), ("never_tagged", 0, 0, "&"), ("wet", 0, 4, "&")])
    return folder


def _write(folder: Path, kind: str, words) -> None:
    index, data = LICENCE, LICENCE
    for number, (word, file, tagged, pointers) in enumerate(words):
        marks, offset = pointers.split(), f"{number:08}"
        lemma = word.partition("(")[0].lower()
        index += f"{lemma} n 1 {len(marks)} {pointers} 1 {tagged} {offset}  \n"
        linked = " ".join(f"{mark} 00000001 n 0000" for mark in marks)
        gloss = f'what it means (of {lemma}); "the {lemma} was there"'
        data += f"{offset} {file:02} n 01 {word} 0 {len(marks):03} {linked} | {gloss}  \n"
    (folder / f"index.{kind}").write_text(index)
    (folder / f"data.{kind}").write_text(data)


def test_nouns_are_things_the_often_tagged_first_without_names_and_insults(tmp_path):
    folder = write_wordnet(tmp_path)
    assert nouns(folder) == ["dog", "cat", "fire engine", "boat"]
    assert adjectives(folder) == ["wet", "soft"]
    assert descriptions(folder) == [
        f"a {noun}, what it means" for noun in ("boat", "cat", "dog", "fire engine")
    ]
    told = examples(folder)
    assert "the run was there" in told and "the rotter was there" not in told


def test_titles_are_read_from_pictures(tmp_path):
    for name, title in (("b/1.svg", "Red_Fox"), ("2.svg", "red fox"), ("3.svg", "%$ 1")):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"<svg><metadata><dc:title> {title} </dc:title></metadata></svg>")
    assert titles(tmp_path) == ["red fox"]


LISTS = Lists([f"noun{n}" for n in range(60)], ["soft", "wet"], ["red fox", "owl"])


def test_equal_seeds_give_equal_lines_and_others_others():
    first = collect(LISTS, 300, 4)
    assert collect(LISTS, 300, 4) == first != collect(LISTS, 300, 5)
    assert len(set(first)) == 300
    assert all(SHORTEST <= pieces(line) <= LONGEST for line in first)


def test_every_noun_comes_before_one_comes_again():
    used = Counter(re.findall(r"noun\d+", " ".join(collect(LISTS, 400, 0))))
    assert set(used) >= set(LISTS.nouns) and min(used[noun] for noun in LISTS.nouns) >= 5


def test_all_kinds_of_prompts_are_drawn():
    chance = random.Random(1)
    phrases = Phrases(chance, Supply(["cat"], chance), Supply(["wet"], chance))
    drawn = {kind: [getattr(phrases, kind)() for _ in range(30)] for kind in KINDS}
    assert set(drawn) == {"tags", "sentence", "style", "story"}
    assert all(", " in line for line in drawn["tags"])
    assert all(line.endswith(".") and line.count(". ") >= 1 for line in drawn["story"])
    assert all("\n" not in line for lines in drawn.values() for line in lines)


def test_lists_that_are_too_short_are_told(monkeypatch):
    monkeypatch.setattr("lidit_train.prompts.collection.TRIES", 1)
    with pytest.raises(LiDiTError, match=r"give \d+ different prompts and 900 were asked for"):
        collect(Lists(["cat"], ["wet"]), 900, 0)


def test_shares_are_of_ids_and_of_tokens():
    def tokenise(text: str) -> list[int]:
        return [ord(letter) for letter in text]

    row = coverage(tokenise, Counter({ord("a"): 5, ord("b"): 4}), "other", ["aab", "c"])
    assert row.ids == 3 and row.prompts == 2
    assert row.of_ids == (2 / 3, 1 / 3, 0.0)
    assert row.of_tokens == (3 / 4, 2 / 4, 0.0)


@pytest.fixture
def lists(tmp_path):
    svg = tmp_path / "svg"
    svg.mkdir()
    (svg / "1.svg").write_text("<svg><dc:title>red fox</dc:title></svg>")
    others = tmp_path / "others.txt"
    others.write_text("a red cat\ntwo dogs on a blue background\n")
    chat_tokenizer().save_pretrained(tmp_path / "llm")
    (tmp_path / "recording").mkdir()
    write_teacher(tmp_path / "recording", Windowed().teacher)
    places = {
        "/usr/share/wordnet": write_wordnet(tmp_path / "wordnet", more=200),
        "/usr/share/openclipart/svg": svg,
        "SmolLM2-135M-Instruct": tmp_path / "llm",
        "ComfyUI/output/recordings/sdxl": tmp_path / "recording",
        "others.txt": others,
        "prompts.txt": tmp_path / "prompts.txt",
    }
    return {name: str(path) for name, path in places.items()}


def test_the_commands_of_the_help_run(lists, capsys):
    examples = re.findall(r"^ +lidit (prompts .*)$", command.EXAMPLES, re.M)
    assert len(examples) == 4
    for example in examples:
        words = [lists.get(word, word) for word in shlex.split(example)]
        assert main([*words, *(["--count", "500"] if "--wordnet" in words else [])]) == 0
    assert len(Path(lists["prompts.txt"]).read_text().splitlines()) == 500
    shown = capsys.readouterr().out
    assert "| ids seen 5× |" in shown and re.search(r"\| others \| 2 \| \d+ \|", shown)


def test_a_recordings_ids_are_those_of_its_rows_of_text(tmp_path):
    """Without start, end and padding; of two encoders' rows the second's ids are others."""
    prompt = "a red cat and two dogs"
    core = plain_tokenizer().backend_tokenizer
    own = core.encode(prompt, add_special_tokens=False).ids
    for name, teacher in (("one", Windowed()), ("two", Following())):
        (tmp_path / name).mkdir()
        write_teacher(tmp_path / name, teacher.teacher)
    assert command._tokeniser(str(tmp_path / "one"))(prompt) == own
    more = Windowed().teacher.spec.vocabulary
    both = [*own, *(id + more for id in own)]
    assert command._tokeniser(str(tmp_path / "two"))(prompt) == both


def test_two_collections_are_the_same_bytes(lists):
    words = ["--wordnet", lists["/usr/share/wordnet"], "--count", "200"]
    made = []
    for _ in range(2):
        assert main(["prompts", lists["prompts.txt"], *words]) == 0
        made.append(Path(lists["prompts.txt"]).read_bytes())
    assert made[0] == made[1]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "neither --wordnet nor --covers is given"),
        (["--wordnet", "nowhere"], "expected the folder of WordNet's files"),
        (["--wordnet", "{wordnet}", "--count", "0"], "--count is 0; expected 1 or more"),
        (["--wordnet", "{wordnet}", "--titles", "nowhere"], "no SVG file below"),
        (["--covers", "{llm}"], "names no file"),
        (["--covers", "{empty}", "{others}"], "is no tokenizer"),
        (["--covers", "{damaged}", "{others}"], "teacher.safetensors"),
    ],
)
def test_mistakes_are_told(lists, tmp_path, capsys, words, sentence):
    Path(lists["prompts.txt"]).write_text("a cat\n")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "tokenizer.json").write_text(json.dumps({"no": 1}))
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "teacher.safetensors").write_bytes(b"no")
    places = {
        "{damaged}": str(tmp_path / "damaged"),
        "{wordnet}": lists["/usr/share/wordnet"],
        "{llm}": lists["SmolLM2-135M-Instruct"],
        "{empty}": str(tmp_path / "empty"),
        "{others}": lists["others.txt"],
    }
    assert main(["prompts", lists["prompts.txt"], *(places.get(w, w) for w in words)]) == 2
    told = capsys.readouterr().err
    assert sentence in told and told.count("\n") == 1
