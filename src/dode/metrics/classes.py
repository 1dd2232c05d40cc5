"""The inception score (Salimans et al. 2016, arXiv 1606.03498): how sure a classifier is of each image, and how varied it finds them,

    exp( mean_i KL(p(class | image i) || p(class)) ) = exp( mean_i sum_c p_ic log p_ic - sum_c q_c log q_c ),      q = mean_i p_i

between 1 and the number of classes. All that is kept of the images are the sums of p and of p log p, by group.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dode.metrics.intervals import GROUPS, Places, enough_for_groups, jackknife
from dode.schedules import Array
from dode.statistics import Figure


@dataclass(frozen=True, eq=False)
class ClassSums:
    """Sums over any number of images, by group.

    Attributes:
        counts: (GROUPS,) images.
        probabilities: (GROUPS, classes) sum of p.
        certainties: (GROUPS,) sum of p log p.
    """

    counts: Array
    probabilities: Array
    certainties: Array

    @classmethod
    def of(cls, logits: Array, first: int = 0) -> ClassSums:
        """Those of logits (n, classes), of which the first is the image at place `first`."""
        wide = np.asarray(logits, np.float64)
        wide = wide - wide.max(1, keepdims=True)
        log_p = wide - np.log(np.exp(wide).sum(1, keepdims=True))
        p = np.exp(log_p)
        groups = (first + np.arange(len(wide))) % GROUPS
        found = cls(np.zeros(GROUPS), np.zeros((GROUPS, wide.shape[1])), np.zeros(GROUPS))
        np.add.at(found.counts, groups, 1)
        np.add.at(found.probabilities, groups, p)
        np.add.at(found.certainties, groups, (p * log_p).sum(1))
        return found

    def merged(self, other: ClassSums) -> ClassSums:
        """Those of both sets."""
        return ClassSums(
            self.counts + other.counts, self.probabilities + other.probabilities, self.certainties + other.certainties
        )


def inception_score(sums: ClassSums) -> Figure:
    """The score of all images at once, and its interval by leaving out groups of them, none with fewer than 20.

    Publications give the mean of ten tenths of the images, which is lower: the score of few images is biased down, and at the most
    their number.
    """
    groups = np.arange(GROUPS)
    possible = enough_for_groups(int(sums.counts.sum()))
    left_out = [_score(sums, groups[groups != g]) for g in groups] if possible else []
    return jackknife(_score(sums, groups), left_out, log=True)


def _score(sums: ClassSums, groups: Places) -> float:
    count = sums.counts[groups].sum()
    q = sums.probabilities[groups].sum(0) / count
    varied = (q * np.log(np.where(q > 0, q, 1.0))).sum()
    return float(np.exp(sums.certainties[groups].sum() / count - varied))
