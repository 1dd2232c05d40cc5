"""A small classifier of Fashion-MNIST: says what class a sample looks like, and gives the features of Frechet distances."""

from __future__ import annotations

from torch import Tensor, nn


class FashionClassifier(nn.Module):
    """Four convolutions with batch normalisation, the mean over positions (128 features), one linear layer; 242,000 numbers.

    Images: (batch, 1, 28, 28) in [-1, 1], as the bundled network makes them. `training/train_classifier.py` trains it.
    """

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *_convolution(1, 32),
            nn.MaxPool2d(2),
            *_convolution(32, 64),
            nn.MaxPool2d(2),
            *_convolution(64, 128),
            *_convolution(128, 128),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
        self.head = nn.Linear(128, classes)

    def features(self, x: Tensor) -> Tensor:
        """What the last layer sees: (batch, 128), at least 0.

        Args:
            x: (batch, 1, 28, 28) in [-1, 1].

        Raises:
            ValueError: another shape.
        """
        if x.ndim != 4 or x.shape[1:] != (1, 28, 28):
            raise ValueError(f"the Fashion-MNIST classifier takes images (batch, 1, 28, 28), got {tuple(x.shape)}")
        features: Tensor = self.body(x)
        return features

    def forward(self, x: Tensor) -> Tensor:
        """Logits of the classes: (batch, classes)."""
        logits: Tensor = self.head(self.features(x))
        return logits


def _convolution(inputs: int, outputs: int) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
