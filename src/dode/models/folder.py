"""What a folder of diffusers says, read and refused before weights, PyTorch or diffusers are loaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from dode.models.scheduler_configs import SchedulerConfig
from dode.models.traits import Traits, traits_of
from dode.models.weights import Stored, check_size, find_weights
from dode.reading import checked, failing_as, read_json

if TYPE_CHECKING:
    from dode.schemas import DodeJson


class Folder(NamedTuple):
    """A folder with a network.

    Attributes:
        place: of the network's own configuration and weights.
        config: the network's configuration.
        traits: what it says.
        space_to_depth: the network works on images with this factor of space moved into channels.
        scheduler: None where there is none.
        scheduler_path: where it is; the folder where there is none.
        stored: the weights.
    """

    place: Path
    config: Mapping[str, Any]
    traits: Traits
    space_to_depth: int
    scheduler: SchedulerConfig | None
    scheduler_path: Path
    stored: Stored


def read_folder(folder: Path, shape: Callable[[int], tuple[int, ...] | None], *, allow_pickle: bool = False) -> Folder:
    """Read a diffusers folder, or a folder of a network alone.

    Args:
        folder: with unet/ or transformer/ and scheduler/, or with config.json.
        shape: of a sample in the network's own layout where the caller knows, by the factor of space moved into channels.
        allow_pickle: take weights from a .bin file if there are no others.

    Raises:
        FileNotFoundError: a file that is needed is not there.
        ValueError: a file that is damaged, or says what is not understood; in one line, with its path.
    """
    from dode.schemas import NetworkFile

    places = [folder / "unet", folder / "transformer", folder]
    place = next((place for place in places if (place / "config.json").is_file()), None)
    if place is None:
        raise FileNotFoundError(f"{folder} has neither unet/config.json nor transformer/config.json nor config.json")
    extra = _dode_json(folder / "dode.json")
    candidates = [folder / "scheduler" / "scheduler_config.json", folder / "scheduler_config.json"]
    scheduler_path = next((path for path in candidates if path.is_file()), None)
    scheduler = None if scheduler_path is None else SchedulerConfig.read(scheduler_path)
    config = read_json(place / "config.json")
    with failing_as(place / "config.json"):
        network = checked(NetworkFile, config)
        traits = traits_of(
            config,
            null_class=extra.null_class,
            learned_variance=scheduler is not None and scheduler.learned_variance,
            shape=shape(extra.space_to_depth),
        )
        if traits.channels % extra.space_to_depth**2:
            raise ValueError(
                f"a sample of {traits.channels} channels cannot have space_to_depth {extra.space_to_depth}, as dode.json says"
            )
    stored = find_weights(place, allow_pickle=allow_pickle)
    with failing_as(place / "config.json"):
        check_size(traits.kind, network, stored)
    return Folder(place, config, traits, extra.space_to_depth, scheduler, scheduler_path or folder, stored)


def _dode_json(path: Path) -> DodeJson:
    from dode.schemas import DodeJson

    content = read_json(path) if path.is_file() else {}
    with failing_as(path):
        return checked(DodeJson, content)
