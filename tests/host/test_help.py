"""Help pages and translations say what the nodes are now, in every language. Run: see conftest.py

Where a node changed: translate what is named here in `locales/`, then write the rest anew, see
`kit/help_pages.py`.
"""

from __future__ import annotations

import ast
import re
from functools import cache

import pytest
from conftest import PACK_NAME
from help_pages import (
    DOCS,
    HEADINGS,
    LANGUAGES,
    LOCALES,
    ROOT,
    drawn_from,
    english,
    paths,
    translations,
    with_tables,
)
from PIL import Image

PICTURES = 3 << 19  # bytes of all help pages' pictures
FOREIGN = [language for language in LANGUAGES if language != "en"]
LETTERS = {"zh": "[\u4e00-\u9fff]", "ja": "[\u3040-\u30ff\u4e00-\u9fff]"}


def page_of(node: str, language: str) -> str:
    return (DOCS / node / f"{language}.md").read_text(encoding="utf-8")


def text_at(texts: dict, path: str) -> str:
    for key in path.split("."):
        texts = texts[key]
    return texts


def test_the_languages_are_these():
    assert {folder.name for folder in LOCALES.iterdir()} == set(LANGUAGES)


def test_the_english_texts_are_the_nodes_own(pack):
    assert translations("en") == {name: english(node) for name, node in pack.classes.items()}


@pytest.mark.parametrize("language", FOREIGN)
def test_every_text_is_translated_and_none_is_left_over(language):
    own, told = translations("en"), translations(language)
    texts = {path for path in paths(own) if "." in path}
    translated = set(paths(told))
    assert translated - texts == set(), "no longer in the nodes"
    assert texts - translated == set(), "not translated"
    sentences = [p for p in texts if p.endswith((".tooltip", ".description"))]
    same = [p for p in sentences if not re.search(LETTERS[language], text_at(told, p))]
    assert [p for p in same if p != "LiDiTSampler.inputs.model.tooltip"] == []


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_frontend_shows_a_text_as_it_stands(language):
    """Its library gives {…}, @ and | meanings of their own."""
    told = translations(language)
    assert [p for p in paths(told) if re.search(r"[{}@|]", text_at(told, p) or "")] == []


@pytest.mark.parametrize("language", LANGUAGES)
def test_values_to_be_written_are_named_in_every_language(pack, language):
    grid = pack.module("host.llm.reading_grid")
    inputs = translations(language)["LiDiTReadingGrid"]["inputs"]
    for name, values in (("refiners", grid.REFINERS), ("fusions", grid.FUSIONS)):
        assert [value for value in values if value not in inputs[name]["tooltip"]] == []


@pytest.mark.parametrize("language", FOREIGN)
def test_what_fetching_takes_and_accepts_is_told_in_every_language(language):
    own, told = (
        translations(name)["LiDiTLLMLoader"]["inputs"]["llm"]["tooltip"]
        for name in ("en", language)
    )
    facts = re.findall(r"\d+ MB|Apache-[\d.]+\d|https://[\w./-]+\w", own)
    assert len(facts) == 7  # two LLMs: download, disk, licence and its place
    assert [fact for fact in facts if fact not in told] == []


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_node_has_a_page_with_its_inputs_choices_and_outputs(pack, language):
    texts = translations(language)
    for name, node in pack.classes.items():
        page = page_of(name, language)
        assert page == with_tables(page, node, texts[name], language), f"{name}: write it anew"
        assert page.startswith(f"# {texts[name]['display_name']}\n")


def test_no_page_is_left_of_a_node_that_is_gone(pack):
    assert {path.stem for path in DOCS.iterdir()} == set(pack.classes)
    known = {f"{language}.md" for language in LANGUAGES} | {"use.jpg"}
    for name in pack.classes:
        assert {path.name for path in (DOCS / name).iterdir()} == known
        assert (DOCS / f"{name}.md").read_text(encoding="utf-8") == page_of(name, "en")


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_page_shows_its_node_in_use(pack, language):
    for name in pack.classes:
        (shown,) = re.findall(r"!\[.+?\]\((.+?)\)", page_of(name, language))
        with Image.open(DOCS / shown) as picture:
            assert picture.format == "JPEG" and min(picture.size) >= 160
            drawn = picture.info["comment"].decode()
            assert drawn == drawn_from(name), "the picture is of before: see draw_help.py"
    assert sum(path.stat().st_size for path in DOCS.rglob("*.jpg")) < PICTURES


@cache
def sentences() -> list[str]:
    """Every text that stands in the pack's code."""
    files = [f for room in ("nodes", "host", "lidit_core") for f in (ROOT / room).rglob("*.py")]
    trees = [ast.parse(file.read_text(encoding="utf-8")) for file in files]
    constants = (n for tree in trees for n in ast.walk(tree) if isinstance(n, ast.Constant))
    return [node.value for node in constants if isinstance(node.value, str)]


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_errors_that_a_page_explains_are_real(pack, language):
    troubles = HEADINGS[language][2]
    explained = {
        (name, error)
        for name in pack.classes
        for error in re.findall(r"^- `(.+?)`", page_of(name, language).split(troubles)[1], re.M)
    }
    assert len(explained) > len(pack.classes)
    assert [e for e in explained if not any(e[1] in sentence for sentence in sentences())] == []


@pytest.mark.parametrize("language", LANGUAGES)
def test_what_cannot_be_done_today_stands_where_it_is_met(language):
    for name in ("LiDiTLLMLoader", "LiDiTModelLoader"):
        page = page_of(name, language)
        for word in ("LLMDiff", "lidit train", "Windows", "macOS", "GPU", "ai.google.dev/gemma"):
            assert word in page, f"{name}, {language}: {word}"


def test_the_host_serves_pages_pictures_and_translations(server, pack):
    served = server.get("/i18n")
    for language in LANGUAGES:
        told = translations(language)
        assert {n: served[language]["nodeDefs"][n] for n in told} == told
    for name in pack.classes:
        for file in (f"{name}/en.md", f"{name}/zh.md", f"{name}/ja.md", f"{name}/use.jpg"):
            assert (
                server.fetch(f"/extensions/{PACK_NAME}/docs/{file}") == (DOCS / file).read_bytes()
            )
