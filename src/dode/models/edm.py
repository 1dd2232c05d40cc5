"""Networks of EDM, `net(x, sigma, class_labels)` with what they say of themselves, and the pickles of NVlabs/edm and NVlabs/edm2.

Such a pickle holds a dictionary whose 'ema' is the averaged network. Its classes travel as text: each object is a call of
`torch_utils.persistence._reconstruct_persistent_obj` with the source of a module, the name of a class in it and the object's state. Reading
one therefore runs code. That code imports `torch_utils` and `dnnlib`, of the repository that wrote the file; where they cannot be imported,
modules of these names stand in for them while the file is read.

Karras et al. 2022, arXiv 2206.00364; Karras et al. 2024, arXiv 2312.02696.
"""

from __future__ import annotations

import hashlib
import importlib
import io
import math
import pickle
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from dode.defaults import usual_defaults
from dode.foreign import first_line, printable
from dode.models.diffusers import Adapted, inner_network
from dode.models.wrappers import OneHotLabels
from dode.schedules import EDM

# What these networks say of themselves, those of edm2 too.
_FACTS = ("img_channels", "img_resolution", "label_dim")
# Between which noise levels EDM samples where the network allows (Karras et al. 2022, table 1).
_SIGMA_MIN, _SIGMA_MAX = 0.002, 80.0
# The layout of `meta` that both repositories write.
_VERSION = 6


def is_edm_network(net: Any) -> bool:
    """Whether a network says of itself what EDM's do; what compiles it or spreads it over devices is looked through."""
    return all(hasattr(inner_network(net), fact) for fact in _FACTS)


def schedule_of(net: Any) -> EDM:
    """The noise levels at which EDM samples with a network: 0.002 to 80, within its own `sigma_min` and `sigma_max`."""
    inner = inner_network(net)
    low, high = getattr(inner, "sigma_min", 0.0), getattr(inner, "sigma_max", math.inf)
    return EDM(max(_SIGMA_MIN, float(low)), min(_SIGMA_MAX, float(high)))


def adapt(net: Any) -> Adapted:
    """A network of EDM made ready for `Denoiser`, with the prediction "edm": class labels are integers.

    The null class, all zeros, is there for networks that were trained to do without labels (`label_dropout`). Others never saw it.
    """
    inner = inner_network(net)
    classes, size = int(inner.label_dim or 0), int(inner.img_resolution)
    shape = (int(inner.img_channels), size, size)
    if not classes:
        return Adapted(net, shape, None, False)
    parts = inner.modules() if isinstance(inner, nn.Module) else (inner,)
    null = any(bool(getattr(part, "label_dropout", 0)) for part in parts)
    return Adapted(OneHotLabels(net, classes, null=null), shape, {"class_labels": classes} if null else None, False)


@usual_defaults()
def read_network(path: Path) -> nn.Module:
    """The averaged network in a pickle: on the host, float32, evaluation mode, no gradients. Runs the code in the file.

    Half-precision weights are how edm2 stores a network; it computes in what its `use_fp16` says, and gives float32.

    Args:
        path: of a file that the caller trusts.

    Raises:
        ValueError: it cannot be read, or holds no such network; in one line with its path.
        ImportError: the code in it needs a module that is not there.
    """
    try:
        with path.open("rb") as file, _names_importable():
            content = _Reader(file).load()
    except (Exception, SystemExit) as error:  # whatever the code in it raises
        raise _unreadable(path, error) from error
    if not isinstance(content, Mapping):
        raise ValueError(
            f"{path} must hold a dictionary with the network as 'ema', as EDM saves it, got {type(content).__name__}"
        )
    if "ema" not in content:
        keys = ", ".join(map(str, content)) or "nothing"
        raise ValueError(f"{path} has no 'ema', which is the network in what EDM saves: it has {printable(keys)}")
    net = content["ema"]
    for part in net.modules() if isinstance(net, nn.Module) else ():
        if isinstance(part, _Unmade):
            raise _unreadable(path, part.error) from part.error
    if not isinstance(net, nn.Module) or not is_edm_network(net):
        missing = ", ".join(fact for fact in _FACTS if not hasattr(net, fact)) or "forward"
        raise ValueError(f"'ema' in {path} is a {printable(type(net).__name__)}, no network of EDM: it has no {missing}")
    return net.float().requires_grad_(False).eval()


def _unreadable(path: Path, error: BaseException) -> Exception:
    if isinstance(error, OSError) and error.filename == str(path):
        return error
    if isinstance(error, ModuleNotFoundError):
        name = printable(error.name)
        return ImportError(f"the code in {path} needs {name}: put the repository that wrote the file on the path (PYTHONPATH)")
    return ValueError(f"{path} cannot be read as a pickled network: {first_line(error)}")


class _Reader(pickle.Unpickler):
    """With tensors on the host, wherever they were."""

    def find_class(self, module: str, name: str) -> Any:
        return _storage if (module, name) == ("torch.storage", "_load_from_bytes") else super().find_class(module, name)


def _storage(content: bytes) -> Any:
    return torch.load(io.BytesIO(content), map_location="cpu", weights_only=False)


@contextmanager
def _names_importable() -> Iterator[None]:
    """`torch_utils` and `dnnlib` can be imported while the block runs: those of the repository where it is on the path."""
    standing_in = {} if _repository_importable() else _stand_ins()
    before = {name: sys.modules.get(name) for name in standing_in}
    sys.modules.update(standing_in)
    try:
        yield
    finally:
        for name, module in before.items():
            if module is None:
                sys.modules.pop(name, None)
            else:
                sys.modules[name] = module


def _repository_importable() -> bool:
    try:
        found = [importlib.import_module(name) for name in ("torch_utils.persistence", "dnnlib")]
    except Exception:  # modules of these names may be anyone's
        return False
    return hasattr(found[0], "_reconstruct_persistent_obj") and hasattr(found[1], "EasyDict")


def _stand_ins() -> dict[str, ModuleType]:
    """What pickled networks use of the repository's modules, by their names."""
    parts: dict[str, dict[str, Any]] = {
        "torch_utils": {},
        "torch_utils.persistence": {"persistent_class": lambda made: made, "_reconstruct_persistent_obj": _rebuilt},
        "torch_utils.misc": {"constant": _constant, "const_like": _constant_like},
        "dnnlib": {"EasyDict": _Fields},
        "dnnlib.util": {"EasyDict": _Fields},
    }
    modules = {name: ModuleType(name) for name in parts}
    for name, module in modules.items():
        vars(module).update(parts[name])
        package, _, last = name.rpartition(".")
        if package:
            setattr(modules[package], last, module)
        else:
            module.__path__ = []  # so that what else is asked for in it is missed by its name
    return modules


def _rebuilt(meta: Mapping[str, Any]) -> Any:
    """An object from the text of its class and its state.

    What stands beside the network, the loss for one, may be of modules that are not here, and nobody needs it: an object that cannot be
    made leaves word of that in its place.
    """
    try:
        if meta["type"] != "class" or meta["version"] != _VERSION:
            raise ValueError(
                f"it has objects of the kind {meta['type']!r} in version {meta['version']!r}, not 'class' in {_VERSION}"
            )
        made = getattr(_module_of(meta["module_src"]), meta["class_name"])
        instance = made.__new__(made)
        state = _Fields(meta["state"] or {})
        if hasattr(instance, "__setstate__"):
            instance.__setstate__(state)
        else:
            vars(instance).update(state)
    except (Exception, SystemExit) as error:
        return _Unmade(error)
    return instance


def _module_of(source: str) -> ModuleType:
    """The module of a text: one for each text, and it stays, since classes are looked up by their modules' names (torch.compile does)."""
    name = f"_edm_{hashlib.sha256(source.encode()).hexdigest()[:16]}"
    if name not in sys.modules:
        module = sys.modules[name] = ModuleType(name)
        try:
            exec(compile(source, f"<{name}>", "exec", dont_inherit=True), vars(module))
        except BaseException:
            del sys.modules[name]
            raise
    return sys.modules[name]


class _Unmade(nn.Module):
    """In the place of an object that could not be made."""

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error = error


class _Fields(dict[str, Any]):
    """A dictionary whose keys are attributes too."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value

    def __delattr__(self, name: str) -> None:
        del self[name]


def _constant(value: Any, shape: Any = None, dtype: Any = None, device: Any = None, **_: Any) -> Tensor:
    tensor = torch.as_tensor(value, dtype=dtype or torch.get_default_dtype(), device=device or "cpu")
    return tensor if shape is None else tensor.expand(tuple(shape))


def _constant_like(like: Tensor, value: Any, shape: Any = None, dtype: Any = None, device: Any = None, **_: Any) -> Tensor:
    return _constant(value, shape, dtype or like.dtype, device or like.device)
