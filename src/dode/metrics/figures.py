"""The figures of a set of images against another one, with their intervals."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

from dode.metrics.classes import inception_score
from dode.metrics.frechet import Moments, frechet_distance
from dode.metrics.gathering import Gathering, Statistics
from dode.metrics.intervals import enough_for_groups, jackknife
from dode.metrics.kernel import distance_of
from dode.metrics.manifold import NEIGHBOURS, share_inside
from dode.statistics import Figure

# Samples that Frechet distances of publications have, at the least.
RECOMMENDED = 10_000


class FewSamples(UserWarning):
    """There are fewer samples than a Frechet distance needs."""


def image_figures(
    gathered: Gathering | Statistics, against: Gathering | Statistics, *, paired: bool = False
) -> dict[str, Figure]:
    """The figures of images, named as in `dode.report.results.METRICS`.

    Args:
        gathered: the images.
        against: what they are compared with.
        paired: image i of both comes from the same noise. The kernel distance then leaves out those pairs.

    Returns:
        "fid", and where they can be had "kid" (both have features), "inception_score" (of `gathered`; the extractor has logits),
        "precision" and "recall" (both have features of more than 3 images).

    Raises:
        ValueError: fewer than 2 images, features of other extractors, or `paired` with different numbers of images.

    Warns:
        FewSamples: as `enough` says, of the smaller set.
    """
    one, other = (each.statistics() if isinstance(each, Gathering) else each for each in (gathered, against))
    _check(one, other, paired)
    counts = [each.count for each in (one, other) if each.count is not None]
    if few := enough(min(counts, default=RECOMMENDED), len(one.mean)):
        warnings.warn(few, FewSamples, stacklevel=2)
    found = {"fid": frechet_figure(one, other)}
    fewest = min(len(one.features), len(other.features))
    if fewest > 1:
        found["kid"] = distance_of(one.features, other.features, one.kernel_sums, other.kernel_sums, paired=paired)
    if one.classes is not None:
        found["inception_score"] = inception_score(one.classes)
    if fewest > NEIGHBOURS:
        found["precision"] = share_inside(one.features, other.features, other.radii)
        found["recall"] = share_inside(other.features, one.features, one.radii)
    return found


def frechet_figure(one: Statistics, other: Statistics) -> Figure:
    """The Frechet distance, and its interval by leaving out groups of the kept samples. Of a set without features the chance is not
    known, and not in the interval; without features of `one` there is none.

    The distance of finite samples is biased up, about as 1 / samples: the interval is about the mean of distances of so many samples,
    not about the distance that infinitely many would have.
    """
    value = _distance(one, other)
    if not _divisible(one):
        return jackknife(value, [])
    if (one.count, len(one.features)) == (other.count, len(other.features)):
        return jackknife(
            value,
            [_distance(*each) for each in zip(_without_groups(one), _without_groups(other))],
            shares=[_share(one)],
            log=True,
        )
    left_out = [[_distance(each, other) for each in _without_groups(one)]]
    if _divisible(other):
        left_out.append([_distance(one, each) for each in _without_groups(other)])
    return jackknife(value, *left_out, shares=[_share(one), _share(other)], log=True)


def _distance(one: Statistics | Moments, other: Statistics | Moments) -> float:
    return frechet_distance(one.mean, one.covariance, other.mean, other.covariance)


def _divisible(found: Statistics) -> bool:
    return found.count is not None and enough_for_groups(len(found.features))


def _without_groups(found: Statistics) -> Iterator[Moments]:
    assert found.moments is not None
    return found.moments.without_groups(found.features)


def _share(found: Statistics) -> float:
    return len(found.features) / found.count if found.count else 1.0


def enough(n: int, features: int) -> str:
    """An empty string where n samples are enough for a Frechet distance of so many features, else one line that says what is wrong."""
    if n <= features:
        return (
            f"{n:,} samples for {features:,} features: their covariance is singular, and a Frechet distance is mostly bias: take more "
            f"than {features:,}, and {RECOMMENDED:,} to compare with other work"
        )
    if n < RECOMMENDED:
        return (
            f"{n:,} samples: a Frechet distance is biased up, about as 1 / samples: compare it at equal numbers of samples "
            f"alone, and take {RECOMMENDED:,} to compare with other work"
        )
    return ""


def _check(one: Statistics, other: Statistics, paired: bool) -> None:
    if len(one.mean) != len(other.mean):
        raise ValueError(
            f"images have {len(one.mean)} features, what they are compared with {len(other.mean)}: use the same extractor for both"
        )
    if one.extractor and other.extractor and one.extractor != other.extractor:
        raise ValueError(
            "the images and what they are compared with were looked at by different extractors: use the same for both"
        )
    if paired and (one.count != other.count or len(one.features) != len(other.features)):
        raise ValueError(f"pairs need as many images on either side, got {one.count} and {other.count}")
