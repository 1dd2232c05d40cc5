"""TensorFlow's Inception of 2015, the network of published Frechet distances, by torch-fidelity's module and weights in a file."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dode.defaults import usual_defaults
from dode.foreign import first_line

# As torch-fidelity calls them: what the last layer sees, and what its weights make of that without the bias.
_FEATURES, _LOGITS = "2048", "logits_unbiased"


class Inception(nn.Module):
    """Images (n, 3, height, width) in [-1, 1] to features (n, 2048) and logits (n, 1008); they are rounded to bytes first, as in files."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features, logits = self.network(((images + 1) * 127.5).round().to(torch.uint8))
        return features, logits


def load_inception(path: Path) -> Inception:
    """The network with the weights of a file, in evaluation mode.

    Args:
        path: .pth or .safetensors with the weights in the names of torch-fidelity, such as its
            `weights-inception-2015-12-05-6726825d.pth`. Nothing but tensors is read from it.

    Raises:
        FileNotFoundError: there is no such file.
        ImportError: torch-fidelity is not there.
        ValueError: the file has something else.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist: name a file with the weights of Inception")
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    except ImportError as error:
        raise ImportError(f"Inception needs torch-fidelity ({error}): pip install torch-fidelity") from error
    weights = _weights(path)
    try:
        # It unpickles the file that it is given: one of nothing but these tensors.
        with tempfile.TemporaryDirectory() as folder, usual_defaults(), torch.random.fork_rng(devices=[]):
            copy = Path(folder) / "inception.pth"
            torch.save(weights, copy)
            network = FeatureExtractorInceptionV3(
                "inception-v3-compat", [_FEATURES, _LOGITS], feature_extractor_weights_path=str(copy)
            )
    except (RuntimeError, KeyError, ValueError) as error:
        raise ValueError(f"{path} has no weights of torch-fidelity's Inception: {first_line(error)}") from error
    return Inception(network).requires_grad_(False).eval()


def _weights(path: Path) -> dict[str, Any]:
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever foreign bytes do to a reader
        raise ValueError(f"{path} cannot be read as weights: {first_line(error)}") from error
    if not isinstance(found, dict) or not all(isinstance(value, Tensor) for value in found.values()):
        raise ValueError(f"{path} must hold weights by name, got {type(found).__name__}")
    return found
