"""Train the bundled classifier of Fashion-MNIST, which judges samples of the network `fashion`.

    python training/train_classifier.py --out src/dode/models/fashion_classifier.safetensors

Cross-entropy with label smoothing 0.05, AdamW, one-cycle learning rate, random horizontal flips. Ten epochs take about seven
minutes on one core, so a run that is interrupted is simply started again.
"""

import argparse
from pathlib import Path

import fashion_mnist
import torch
import torch.nn.functional as F
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from safetensors.torch import save_file
from torch import Tensor, nn

from dode.models.classifier import FashionClassifier


def main() -> None:
    args = parse_arguments()
    torch.manual_seed(args.seed)
    if args.threads:
        torch.set_num_threads(args.threads)
    images, labels = fashion_mnist.load("train", args.data)
    net = FashionClassifier().to(memory_format=torch.channels_last)
    train(net, images, labels, args.epochs, args.batch_size, args.lr)

    args.out.parent.mkdir(parents=True, exist_ok=True)
    weights = {name: value.contiguous() for name, value in net.half().state_dict().items()}
    save_file(weights, args.out)
    # The accuracy of what was saved: after the rounding to half precision.
    share = accuracy(net.float(), *fashion_mnist.load("test", args.data))
    print(f"wrote {args.out} ({args.out.stat().st_size / 1e3:.0f} kB), test accuracy {share:.2%}")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="the safetensors file to write")
    parser.add_argument("--data", type=Path, default=fashion_mnist.DEFAULT_FOLDER, help="folder of the IDX files")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch-size", type=int, default=108)
    parser.add_argument("--lr", type=float, default=4e-3, help="peak learning rate")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0 leaves PyTorch's choice")
    return parser.parse_args()


def train(net: nn.Module, images: Tensor, labels: Tensor, epochs: int, batch_size: int, lr: float) -> None:
    steps_per_epoch = len(images) // batch_size
    optimizer = torch.optim.AdamW(net.parameters(), lr=lr, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=epochs * steps_per_epoch)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    net.train()
    with Progress(*columns) as progress:
        bar = progress.add_task("training", total=epochs * steps_per_epoch)
        for epoch in range(epochs):
            total = torch.zeros(())
            for index in torch.randperm(len(images))[: steps_per_epoch * batch_size].split(batch_size):
                loss = training_step(net, optimizer, images[index], labels[index])
                schedule.step()
                total += loss
                progress.advance(bar)
            progress.console.print(f"epoch {epoch + 1} loss {total / steps_per_epoch:.4f}")


def training_step(net: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, label: Tensor) -> Tensor:
    flipped = torch.rand(len(x), 1, 1, 1) < 0.5
    x = torch.where(flipped, x.flip(3), x).contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = net(x)
    loss = F.cross_entropy(logits.float(), label, label_smoothing=0.05)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.detach()


@torch.inference_mode()
def accuracy(net: nn.Module, images: Tensor, labels: Tensor, batch_size: int = 1000) -> float:
    net.eval()
    parts = zip(images.split(batch_size), labels.split(batch_size), strict=True)
    return sum(int((net(x).argmax(1) == label).sum()) for x, label in parts) / len(images)


if __name__ == "__main__":
    main()
