"""A judge of text: a character n-gram model, smoothed as by Witten and Bell (1991), https://doi.org/10.1109/18.87000.

    P(c | h) = (count(h c) + kinds(h) P(c | h')) / (count(h) + kinds(h))         h' is h without its first character

kinds(h) is how many different characters followed h. Below the empty context all characters are equally likely.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable

import numpy as np

from dode.schedules import Array

ORDER = 6


class NGrams:
    """The model.

    Args:
        texts: what it is fitted to.
        order: characters of the longest n-gram, >= 1.

    Raises:
        ValueError: no text.
    """

    def __init__(self, texts: Iterable[str], order: int = ORDER) -> None:
        self.order = order
        self._followers: defaultdict[str, Counter[str]] = defaultdict(Counter)
        for text in texts:
            for i, character in enumerate(text):
                for start in range(max(0, i - order + 1), i + 1):
                    self._followers[text[start:i]][character] += 1
        if not self._followers:
            raise ValueError("there is no text to fit an n-gram model to: give more of it")
        self._counts = {context: sum(each.values()) for context, each in self._followers.items()}
        # One more for a character that is not known.
        self._uniform = 1 / (len(self._followers[""]) + 1)

    def probability(self, character: str, context: str) -> float:
        """P(character | context); of the context its last `order` - 1 characters count."""
        context = context[max(0, len(context) - self.order + 1) :]
        p = self._uniform
        for start in range(len(context), -1, -1):
            h = context[start:]
            if h not in self._counts:
                break
            kinds = len(self._followers[h])
            p = (self._followers[h][character] + kinds * p) / (self._counts[h] + kinds)
        return p

    def bits(self, lines: Iterable[str]) -> Array:
        """-log2 P of each line over its characters, (lines,)."""
        return np.array(
            [-sum(math.log2(self.probability(c, line[:i])) for i, c in enumerate(line)) / len(line) for line in lines],
            np.float64,
        )
