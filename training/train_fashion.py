"""Train the bundled networks on Fashion-MNIST.

    python training/train_fashion.py --out runs/fashion
    python training/train_fashion.py --objective flow --unconditional --widths 48 96 --out runs/fashion-flow
    python training/train_fashion.py --objective edm --widths 48 96 --out runs/fashion-edm

`fashion` is class-conditional and predicts epsilon; `fashion-flow` is unconditional, smaller, and learns flow matching; `fashion-edm`
is class-conditional, as small, and stands inside the scalings of EDM. The network is a diffusers `UNet2DModel` on 2 x 2 space-to-depth
images (4, 14, 14): a quarter of the positions, so a step costs a quarter, and Gaussian noise is the same in either layout. Class 10 is
the null class of classifier-free guidance. Loss of epsilon: mean square with min-SNR-5 weights (Hang et al. 2023, arXiv 2303.09556),
1000 linear betas 1e-4..0.02. Loss of flow matching: mean square of eps - x_0 at logit-normal times (Esser et al. 2024, arXiv
2403.03206, section 3.1). Loss of EDM: mean square in the units of the raw output, at log-normal sigmas (Karras et al. 2022, arXiv
2206.00364, section 5 and table 1).

The run can be interrupted at any time; the same command goes on from its last checkpoint. At the end `--out` holds a
diffusers folder (unet/, scheduler/, model_index.json) with the averaged weights in half precision.
"""

import argparse
import copy
import json
import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import fashion_mnist
import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler, EDMEulerScheduler, FlowMatchEulerDiscreteScheduler, SchedulerMixin, UNet2DModel
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn

CLASSES = ("T-shirt/top", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
NULL_CLASS = 10
# The standard deviation of the pixels in [-1, 1].
SIGMA_DATA = 0.7


def main() -> None:
    args = parse_arguments()
    torch.manual_seed(args.seed)
    images, labels = fashion_mnist.load("train", args.data)
    images = F.pixel_unshuffle(images, 2).to(args.device)
    labels = labels.to(args.device)

    objective = OBJECTIVES[args.objective]
    net = build_network(tuple(args.widths), conditional=not args.unconditional).to(args.device)
    average = copy.deepcopy(net).requires_grad_(False)
    optimizer = torch.optim.AdamW(net.parameters(), lr=args.lr, betas=(0.9, 0.99), weight_decay=0.0)

    args.out.mkdir(parents=True, exist_ok=True)
    checkpoint = args.out / "checkpoint.pt"
    first = resume(checkpoint, net, average, optimizer)

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns) as progress:
        bar = progress.add_task("training", total=args.steps, completed=first)
        running = math.nan
        for step in range(first, args.steps):
            # The seed of a step depends on the step alone, so a resumed run sees the batches of an unbroken one.
            generator = torch.Generator(args.device).manual_seed(args.seed * 1_000_003 + step)
            for group in optimizer.param_groups:
                group["lr"] = args.lr * learning_rate_factor(step, args.steps)
            loss = training_step(net, optimizer, images, labels, objective, args.batch_size, generator)
            update_average(average, net, step)
            running = loss if math.isnan(running) else 0.99 * running + 0.01 * loss
            progress.update(bar, completed=step + 1, description=f"loss {running:.4f}")
            if (step + 1) % args.save_every == 0 or step + 1 == args.steps:
                save_checkpoint(checkpoint, step + 1, net, average, optimizer)
                print(f"step {step + 1} loss {running:.4f}", flush=True)

    export(average, args.objective, args.out)
    print(f"wrote {args.out}")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the checkpoint and of the finished network")
    parser.add_argument("--data", type=Path, default=fashion_mnist.DEFAULT_FOLDER, help="folder of the IDX files")
    parser.add_argument("--objective", choices=OBJECTIVES, default="epsilon")
    parser.add_argument("--unconditional", action="store_true", help="a network without class labels")
    parser.add_argument("--widths", type=int, nargs=2, default=(64, 128), help="channels of the two levels")
    parser.add_argument("--steps", type=int, default=11_000)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--lr", type=float, default=1e-3, help="peak learning rate (warm-up, then cosine to zero)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save-every", type=int, default=250, help="steps between checkpoints")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser.parse_args()


def build_network(widths: tuple[int, int] = (64, 128), *, conditional: bool = True) -> UNet2DModel:
    return UNet2DModel(
        sample_size=14,
        in_channels=4,
        out_channels=4,
        block_out_channels=widths,
        layers_per_block=1,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=32,
        norm_num_groups=16,
        num_class_embeds=len(CLASSES) + 1 if conditional else None,
    )


class Question(NamedTuple):
    """What a network is asked in training, and the answer: noisy states, network times, targets, weights of the samples."""

    x: Tensor
    t: Tensor
    target: Tensor
    weight: Tensor


def epsilon_question(x0: Tensor, generator: torch.Generator) -> Question:
    alphas_cumprod = DDPMScheduler(num_train_timesteps=1000).alphas_cumprod.to(x0.device)
    t = torch.randint(len(alphas_cumprod), (len(x0),), generator=generator, device=x0.device)
    eps = torch.randn(x0.shape, generator=generator, device=x0.device)
    abar = alphas_cumprod[t][:, None, None, None]
    snr = alphas_cumprod[t] / (1 - alphas_cumprod[t])
    return Question(abar.sqrt() * x0 + (1 - abar).sqrt() * eps, t, eps, snr.clamp(max=5) / snr)


def flow_question(x0: Tensor, generator: torch.Generator) -> Question:
    share = torch.randn(len(x0), generator=generator, device=x0.device).sigmoid()
    eps = torch.randn(x0.shape, generator=generator, device=x0.device)
    s = share[:, None, None, None]
    return Question((1 - s) * x0 + s * eps, 1000 * share, eps - x0, torch.ones_like(share))


def edm_question(x0: Tensor, generator: torch.Generator) -> Question:
    sigmas = torch.exp(1.2 * torch.randn(len(x0), generator=generator, device=x0.device) - 1.2)
    eps = torch.randn(x0.shape, generator=generator, device=x0.device)
    sigma = sigmas[:, None, None, None]
    scale = (sigma**2 + SIGMA_DATA**2).sqrt()  # of the noisy image; c_in is its inverse
    x = x0 + sigma * eps
    c_skip, c_out = (SIGMA_DATA / scale) ** 2, sigma * SIGMA_DATA / scale
    return Question(x / scale, sigmas.log() / 4, (x0 - c_skip * x) / c_out, torch.ones_like(sigmas))


OBJECTIVES: dict[str, Callable[[Tensor, torch.Generator], Question]] = {
    "epsilon": epsilon_question,
    "flow": flow_question,
    "edm": edm_question,
}


def training_step(
    net: UNet2DModel,
    optimizer: torch.optim.Optimizer,
    images: Tensor,
    labels: Tensor,
    objective: Callable[[Tensor, torch.Generator], Question],
    batch_size: int,
    generator: torch.Generator,
    null_share: float = 0.1,
) -> float:
    """One step on a random batch; returns the unweighted loss."""
    device = images.device
    index = torch.randint(len(images), (batch_size,), generator=generator, device=device)
    x0, label = images[index], labels[index]
    drop = torch.rand(batch_size, generator=generator, device=device) < null_share
    condition = {"class_labels": torch.where(drop, NULL_CLASS, label)} if net.config.num_class_embeds else {}
    x, t, target, weight = objective(x0, generator)

    with torch.autocast(device.type, dtype=torch.bfloat16):
        prediction = net(x, t, **condition).sample
    error = (prediction.float() - target).square().mean(dim=(1, 2, 3))
    loss = (error * weight).mean()

    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(net.parameters(), 1.0)
    optimizer.step()
    return float(error.detach().mean())


def learning_rate_factor(step: int, steps: int, warm_up: int = 300) -> float:
    return min(1.0, (step + 1) / warm_up) * 0.5 * (1 + math.cos(math.pi * step / steps))


@torch.no_grad()
def update_average(average: nn.Module, net: nn.Module, step: int) -> None:
    """Exponential moving average of the weights; its memory grows with the run until 0.999."""
    decay = min(0.999, (step + 1) / (step + 10))
    torch._foreach_lerp_(list(average.parameters()), list(net.parameters()), 1 - decay)


def resume(checkpoint: Path, net: nn.Module, average: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Load the checkpoint if there is one; returns the step to go on from."""
    if not checkpoint.exists():
        return 0
    state = torch.load(checkpoint, weights_only=True)
    net.load_state_dict(state["net"])
    average.load_state_dict(state["average"])
    optimizer.load_state_dict(state["optimizer"])
    return int(state["step"])


def save_checkpoint(checkpoint: Path, step: int, net: nn.Module, average: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    state = {
        "step": step,
        "net": net.state_dict(),
        "average": average.state_dict(),
        "optimizer": optimizer.state_dict(),
    }
    temporary = checkpoint.with_suffix(".tmp")
    torch.save(state, temporary)
    os.replace(temporary, checkpoint)


SCHEDULERS: dict[str, Callable[[], SchedulerMixin]] = {
    "epsilon": lambda: DDPMScheduler(num_train_timesteps=1000, clip_sample=False),
    "flow": lambda: FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000),
    "edm": lambda: EDMEulerScheduler(sigma_data=SIGMA_DATA),
}


def export(average: UNet2DModel, objective: str, out: Path) -> None:
    """Write the diffusers folder (half-precision safetensors, the training schedule, the index), and dode.json."""
    temporary = out / "export.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    copy.deepcopy(average).half().save_pretrained(temporary / "unet")
    scheduler = SCHEDULERS[objective]()
    scheduler.save_pretrained(temporary / "scheduler")
    parts = {"scheduler": ["diffusers", type(scheduler).__name__], "unet": ["diffusers", "UNet2DModel"]}
    # diffusers has no pipeline for pictures of a class by a flow or by EDM.
    index = {"_class_name": "DDPMPipeline" if objective == "epsilon" else "DiffusionPipeline", **parts}
    (temporary / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")
    extra: dict[str, object] = {"space_to_depth": 2}
    if average.config.num_class_embeds:
        extra |= {"null_class": NULL_CLASS, "classes": CLASSES}
    (temporary / "dode.json").write_text(json.dumps(extra, indent=2) + "\n")
    for part in temporary.iterdir():
        target = out / part.name
        shutil.rmtree(target, ignore_errors=True)
        os.replace(part, target)
    temporary.rmdir()


if __name__ == "__main__":
    main()
