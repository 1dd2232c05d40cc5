"""Another scheduler's configuration as one of `DodeScheduler`, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import diffusers

from dode.models.scheduler_configs import CLASSES, REFUSED, SchedulerConfig, check_exchangeable, class_known

# Keys that say which tables are run; the others are those of the scheduler that a network was saved with.
_OWN = ("scheduler_class", "tableaux", "solver", "solver_options", "grid")
# What diffusers calls a prediction that its class leaves no choice of.
_WORDS = {"flow": "flow_prediction", "v": "v_prediction"}


def translated(given: Any) -> dict[str, Any]:
    """A scheduler, or its configuration, as a configuration of `DodeScheduler`: whole, with the other class's own defaults written out.

    Raises:
        TypeError: neither.
        ValueError: a class whose network has no ODE of a known schedule; the message says which and why.
    """
    config = getattr(given, "config", given)
    if not isinstance(config, Mapping):
        raise TypeError(
            f"a scheduler or its configuration is needed, such as pipe.scheduler.config, got {type(given).__name__}"
        )
    kept = {key: value for key, value in config.items() if not key.startswith("_")}
    if "scheduler_class" in kept:  # one of this class, or made of one
        return kept
    name = _class_of(given, config)
    check_exchangeable(name)
    known = CLASSES[name]
    if known.prediction is not None:
        kept["prediction_type"] = _WORDS.get(known.prediction, known.prediction)
    return {**known.keys, **kept, "scheduler_class": name}


def of_network(given: Any) -> SchedulerConfig:
    """The configuration of the scheduler that a network was saved with, out of any scheduler in its place; errors as `translated`."""
    config = translated(given)
    name = str(config["scheduler_class"])
    # Keys of other classes have defaults of this one, which say nothing.
    read = CLASSES[name].keys if name in CLASSES else config
    kept = {key: value for key, value in config.items() if key in read or key == "variance_type"}
    return SchedulerConfig({key: value for key, value in kept.items() if key not in _OWN} | {"_class_name": name})


def _class_of(given: Any, config: Mapping[str, Any]) -> str:
    """The class that wrote a configuration: in memory it does not say, but has all of that class's keys."""
    if given is not config:
        return class_known(given)
    if "_class_name" in config:
        return str(config["_class_name"])
    keys = {name: _keys(name) for name in (*CLASSES, *REFUSED)}
    whole = {name: found for name, found in keys.items() if found and found <= set(config)}
    # Variants of a class have its keys and a longer name; classes that are refused have those of others by chance.
    return max(whole, key=lambda name: (len(whole[name]), name in CLASSES, -len(name)), default="DDIMScheduler")


def _keys(name: str) -> set[str]:
    """The arguments of a class of diffusers; none where this version, or what it needs, is not there."""
    kind = getattr(diffusers, name, None)
    try:
        return set(kind._get_init_keys(kind)) - {"self", "kwargs"} if kind is not None else set()
    except AttributeError:  # a stand-in for a class whose library is not installed
        return set()
