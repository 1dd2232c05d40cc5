"""What half precision costs a distillation: the same network in float32, and with its inputs and outputs rounded.

    python benchmarks/half_precision.py fashion [--nfe 5] [--effort balanced] [--kinds float32 float16 bfloat16] [--out docs/benchmarks]

Rounding around a float32 network stands for half-precision hardware, which a processor has not: the same seeds and noises in all
kinds. Errors are mean square end-point distances to a float32 reference on noises that nothing was fitted to or chosen by; "on
itself" by the network that the tableau was fitted with, "in float32" by the float32 one. The network's rounding is the relative error of
an output; the floor is what rounding leaves in the end point of a teacher of 50 calls.
"""

from __future__ import annotations

import torch
from common import REFERENCE_NFE, SEED, Store, network, options, publish
from torch import Tensor, nn

import dode
from dode.conditions import cycle
from dode.denoisers import Denoiser
from dode.distillation.choice import end_errors
from dode.distillation.rounding import rounding_floor, rounding_noise
from dode.noise import standard_noise
from dode.report.reference import unseen_batch

HELD_OUT, FEW, TEACHER = 128, 4, 50
SOLVER = "deis"


class Rounded(nn.Module):
    """A network whose inputs and outputs are rounded to a precision."""

    def __init__(self, net: nn.Module, kind: torch.dtype) -> None:
        super().__init__()
        self.net, self.kind = net, kind

    def forward(self, x: Tensor, t: Tensor, **cond: object) -> Tensor:
        output = self.net(x.to(self.kind).to(x.dtype), t, **cond)
        return getattr(output, "sample", output).to(self.kind).to(x.dtype)


def main() -> None:
    parser = options(__doc__, ("fashion", "fashion-flow"))
    parser.add_argument("--nfe", type=int, default=5)
    parser.add_argument("--effort", default="balanced")
    parser.add_argument("--kinds", nargs="+", default=["float32", "float16", "bfloat16"])
    args = parser.parse_args()
    exact, cond = network(args.network)
    store = Store(args.work / args.network)
    unseen = unseen_batch(exact, cond, HELD_OUT, REFERENCE_NFE, seed=SEED, cache=store.folder)

    def row(kind: str) -> dict[str, float]:
        denoiser = exact if kind == "float32" else exact.replace(net=Rounded(exact.net, getattr(torch, kind)))
        result = dode.distill(denoiser, SOLVER, args.nfe, effort=args.effort, seed=SEED, held_out=0, **cond)
        noise, few = rounding(denoiser, cond)
        return {
            "noise": noise,
            "floor": few,
            "itself": float(end_errors(denoiser, result.tableau, unseen).mean()),
            "exact": float(end_errors(exact, result.tableau, unseen).mean()),
            "evaluations": sum(result.evaluations.values()),
        }

    lines = [
        f"# Half precision on `{args.network}`",
        "",
        f"`python benchmarks/half_precision.py {args.network} --nfe {args.nfe} --effort {args.effort} --out docs/benchmarks`; {SOLVER}, "
        f"NFE {args.nfe}, {args.effort}, {HELD_OUT} held-out noises.",
        "",
        "| inputs and outputs | rounding of an output | floor of the end point | error on itself | error in float32 | evaluations |",
        "|---|---|---|---|---|---|",
    ]
    for kind in args.kinds:
        found = store.get(f"half/{kind}/{args.effort}/{args.nfe}", lambda kind=kind: row(kind))
        lines.append(
            f"| {kind} | {found['noise']:.1e} | {found['floor']:.1e} | {found['itself']:.5f} | {found['exact']:.5f} | "
            f"{found['evaluations']:,} |"
        )
    publish(lines, f"half-precision-{args.network}", args.out)


def rounding(denoiser: Denoiser, cond: dict[str, object]) -> tuple[float, float]:
    """The relative rounding of an output half-way, and the floor of a teacher's end points."""
    assert denoiser.shape is not None
    noise, own = standard_noise(SEED, FEW, denoiser.shape), cycle(cond, 0, FEW)
    teacher = dode.solver(SOLVER).tableau(denoiser.schedule, TEACHER)
    half = dode.sample(denoiser, teacher, noise, return_trajectory=True, **own).states[TEACHER // 2]
    return rounding_noise(denoiser, [half], [teacher.points[TEACHER // 2]], own), rounding_floor(denoiser, teacher, noise, own)


if __name__ == "__main__":
    main()
