"""Ctrl-C and SIGTERM: both stop a command as `KeyboardInterrupt`, so that what cleans up after the one does after the other."""

from __future__ import annotations

import signal
import sys
from types import FrameType

# What is said of each.
_WORDS = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}
# While these are imported C++ calls Python, and what is raised there aborts the process. Seconds until they are looked at again.
_NATIVE, _AGAIN = ("numpy", "torch"), 0.02
# Not on Windows.
_ALARM = (signal.SIGALRM,) if hasattr(signal, "SIGALRM") else ()
_heard: list[int] = []


def listen() -> None:
    """From now on a signal raises KeyboardInterrupt, and is remembered: libraries turn what is raised while they are imported into
    errors of their own. One that comes while PyTorch is imported waits for the end of that. One that the caller of the process wants
    ignored stays ignored."""
    for number in _WORDS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _stop)


def heard() -> bool:
    """A signal has come."""
    return bool(_heard)


def ended() -> tuple[str, int] | None:
    """What to say and the exit code, 128 + the signal, where one has come; it is not to be disturbed by others."""
    for number in (*_WORDS, *_ALARM):
        signal.signal(number, signal.SIG_IGN)
    return (_WORDS[signal.Signals(_heard[0])], 128 + _heard[0]) if _heard else None


def _stop(number: int, frame: FrameType | None) -> None:
    _heard.append(number)
    _raise_when_it_can_be(number, frame)


def _raise_when_it_can_be(number: int, frame: FrameType | None) -> None:
    for alarm in _ALARM if _importing() else ():
        signal.signal(alarm, _raise_when_it_can_be)
        signal.setitimer(signal.ITIMER_REAL, _AGAIN)
        return
    raise KeyboardInterrupt


def _importing() -> bool:
    specs = (getattr(sys.modules.get(name), "__spec__", None) for name in _NATIVE)
    return any(getattr(spec, "_initializing", False) for spec in specs)
