"""What a folder of a whole pipeline says of itself, read and refused before weights, PyTorch or diffusers are loaded."""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from dode.foreign import printable
from dode.models.scheduler_configs import SchedulerConfig, check_exchangeable
from dode.reading import failing_as, read_json

# What a network is asked with once its inputs are there; other parts make these inputs.
_ALONE = ("unet", "transformer", "scheduler", "vae", "vqvae", "movq")
# Libraries whose classes a part may be of. Others would be imported because a file says so.
_LIBRARIES = ("diffusers", "transformers")
# What an error says to give for a network, and nobody can for a pipeline.
_INSTEAD = re.compile(r"[;:] give (schedule|prediction)=.*$")


@dataclass(frozen=True)
class PipelineIndex:
    """A model_index.json.

    Attributes:
        folder: where it is.
        name: the pipeline's class.
        parts: the library and class of each part that is there.
    """

    folder: Path
    name: str
    parts: Mapping[str, tuple[str, str]]

    @property
    def needs_more(self) -> str | None:
        """A part without which its network says nothing, such as a text encoder; None where the network can be asked alone."""
        return next((name for name in self.parts if name not in _ALONE), None)

    def check(self, *, allow_pickle: bool = False) -> None:
        """Refuse what cannot be driven, as far as the folder says.

        Raises:
            ImportError: a library is not installed; the message says which extra to install.
            ValueError: a scheduler that is no ODE of a known schedule, a prediction that is not known, parts of other libraries, or
                weights in pickles.
        """
        path = self.folder / "scheduler" / "scheduler_config.json"
        with failing_as(path):
            _check_scheduler(path)
        for part, (library, kind) in self.parts.items():
            # A module of a pipeline of diffusers has a bare name, and is never imported by it.
            if library not in _LIBRARIES and (library in sys.modules or _installed(library)):
                raise ValueError(
                    f"{self.folder}: its part {printable(part)} is {printable(kind)} of the library {printable(library)}, which is not "
                    "imported because a file says so: make the pipeline in a function, package.module:function"
                )
        for part in () if allow_pickle else self.parts:
            pickled = next(iter(sorted((self.folder / part).glob("*.bin"))), None)
            if pickled is not None and not any((self.folder / part).glob("*.safetensors")):
                raise ValueError(f"{pickled} is a pickle, which is not read: save the pipeline as safetensors")
        require(*{library for library, _ in self.parts.values() if library in _LIBRARIES})


def read_index(folder: Path) -> PipelineIndex | None:
    """That of a folder; None where it has none.

    Raises:
        ValueError: it is damaged, in one line with its path.
    """
    path = folder / "model_index.json"
    if not path.is_file():
        return None
    content = read_json(path)
    with failing_as(path):
        name = content.get("_class_name")
        if not isinstance(name, str) or not name.isidentifier():
            raise ValueError("its _class_name is not that of a pipeline of diffusers: make the pipeline in a function")
        return PipelineIndex(folder, name, {key: _part(key, value) for key, value in content.items() if _is_part(value)})


def require(*libraries: str) -> None:
    """Raise ImportError, with the extra to install, where a library that pipelines need is not there."""
    for library in ("diffusers", *libraries):
        if not _installed(library):
            raise ImportError(f"pipelines need {library}: pip install dode[diffusers]")


def _check_scheduler(path: Path) -> None:
    """Raise ValueError unless a scheduler's network has an ODE of a known schedule, and a prediction that is known."""
    from dode.models.slots import slot_of

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they are given where the pipeline is driven
        config = SchedulerConfig.read(path)
    check_exchangeable(config.name)
    try:
        slot_of(config)
    except ValueError as error:
        raise ValueError(_INSTEAD.sub("", str(error))) from None


def _installed(library: str) -> bool:
    if library in sys.modules:
        return sys.modules[library] is not None
    try:
        return find_spec(library.split(".")[0]) is not None
    except (ImportError, ValueError):
        return False


def _is_part(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and value != [None, None]


def _part(key: str, value: list[Any]) -> tuple[str, str]:
    library, kind = value
    if not (isinstance(library, str) and isinstance(kind, str)):
        raise ValueError(f"{printable(key)} must name a library and a class")
    return library, kind
