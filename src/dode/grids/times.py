"""Times that a grid may have: strictly decreasing within a schedule's, apart, and whole where the network wants that."""

from __future__ import annotations

import numpy as np

from dode.schedules import Array, NoiseSchedule

# Neighbouring times are apart by this share of the schedule's whole range at least, and their log-SNR by as much: solvers divide by both.
CLOSEST = 1e-8


def checked_times(times: Array, schedule: NoiseSchedule, what: str = "the grid") -> Array:
    """The times if they decrease strictly within the schedule's, not too close to each other; ValueError otherwise."""
    if times.ndim != 1 or len(times) < 2:
        raise ValueError(f"{what} needs at least 2 times, got {times.size}")
    if not np.isfinite(times).all():
        raise ValueError(f"{what} has times that are not finite")
    if (np.diff(times) >= 0).any():
        k = int(np.argmax(np.diff(times) >= 0))
        raise ValueError(
            f"{what} must decrease strictly, got {times[k]:g} then {times[k + 1]:g}: take fewer steps or another grid"
        )
    if times[0] > schedule.t_max or times[-1] < schedule.t_clean:
        raise ValueError(
            f"{what} leaves the schedule's times {schedule.t_max:g} .. {schedule.t_clean:g}: got {times[0]:g} .. {times[-1]:g}"
        )
    if times[-2] < schedule.t_min:
        raise ValueError(f"{what} would ask the network at t = {times[-2]:g}, below its lowest time {schedule.t_min:g}")
    with np.errstate(invalid="ignore"):
        change = np.diff(schedule.log_snr(times))
    close = (-np.diff(times) < CLOSEST * (schedule.t_max - schedule.t_clean)) | (change < CLOSEST)
    if close.any():
        k = int(np.argmax(close))
        raise ValueError(
            f"{what} has times too close to tell apart, {times[k]:.12g} then {times[k + 1]:.12g}: take fewer steps or another grid"
        )
    return times


def whole_times(times: Array, schedule: NoiseSchedule, what: str = "the grid") -> Array:
    """Decreasing times with those at which the network may be asked moved to the nearest whole ones that all differ.

    None is above the first time's own whole one, and none below `t_min`; a time below `t_min`, that of the result, stays.

    Raises:
        ValueError: there are more times than whole ones.
    """
    asked = len(times) - (times[-1] < schedule.t_min)
    highest = float(rounded(times[0]))
    check_room(asked, schedule.t_min, highest, what)
    return np.append(nearest_whole(times[:asked], schedule.t_min, highest), times[asked:])


def nearest_whole(times: Array, lowest: float, highest: float) -> Array:
    """The whole numbers in [lowest, highest], decreasing strictly, that are nearest to decreasing times; there must be enough."""
    # Where t_i falls by 1 at least, t_i + i does not rise, and rounding it keeps that: the nearest ones are those of an isotonic fit.
    index = np.arange(len(times))
    return np.clip(rounded(_never_rising(times + index)), lowest + max(len(times) - 1, 0), highest) - index


def rounded(values: Array) -> Array:
    """The nearest whole numbers; halves go down, where less noise is left for the last step."""
    return np.ceil(values - 0.5) + 0.0  # no negative zero


def _never_rising(values: Array) -> Array:
    """The nearest numbers, by least squares, that do not rise: neighbours out of order share their mean."""
    blocks: list[tuple[float, int]] = []
    for value in values:
        mean, count = float(value), 1
        while blocks and blocks[-1][0] < mean:
            other, many = blocks.pop()
            mean, count = (mean * count + other * many) / (count + many), count + many
        blocks.append((mean, count))
    return np.repeat([mean for mean, _ in blocks], [count for _, count in blocks]) if blocks else values


def check_room(asked: int, lowest: float, highest: float, what: str) -> None:
    """ValueError unless there are so many whole times."""
    most = round(highest - lowest) + 1
    if asked > most:
        raise ValueError(
            f"{what} asks the network at {asked} times, and from {highest:g} down to {lowest:g} there are {most} whole ones: "
            "take fewer evaluations"
        )
