"""A robot arm that decides in one to four network calls: a diffusion policy with DDIM, the best undistilled solver, and a distilled one.

    python -m examples.control --out control

Trains a diffusion policy on demonstrations of a scripted expert (gymnasium's Reacher-v5), tries every number of calls in the same episodes
from the same noise, and writes control.csv, control.md, control.svg and control.png, with the distilled solvers, distilled-N.json. The
network is kept as policy.safetensors, and a further run in the folder goes on from it.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from dode.charts import require_altair
from dode.files import check_writable, write_atomically
from examples.control.measuring import DISTILLED, MANY, Trials, ways
from examples.control.policy import Network, load, save, train
from examples.control.reaching import HORIZON, Stream, demonstrations, expert_returns
from examples.control.tables import as_csv, as_markdown, picture, rows_of

# Seeds of the episodes of two runs are that far apart.
_APART = 10_000


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        "python -m examples.control", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("control"), help="folder for the results, made if it is not there")
    parser.add_argument("--calls", type=_numbers, default=[1, 2, 3, 4], help="network calls of a decision, such as 1,2,4")
    parser.add_argument("--episodes", type=_number, default=100, help="episodes that each way is tried in")
    parser.add_argument(
        "--executed", type=_number, default=HORIZON, help=f"steps from one decision to the next, {HORIZON} at most"
    )
    parser.add_argument("--demonstrations", type=_number, default=1000, help="episodes of the expert to learn from")
    parser.add_argument("--steps", type=_number, default=10_000, help="steps of the training")
    parser.add_argument("--effort", choices=("fast", "balanced", "thorough"), default="balanced", help="of the distillation")
    parser.add_argument(
        "--samples", type=partial(_number, least=8), default=1024, help="chunks that are fitted, and that choose"
    )
    parser.add_argument("--seed", type=partial(_number, least=0), default=0, help="the same seed gives the same returns")
    parser.add_argument("--force", action="store_true", help="replace what is in the folder, also a network of other numbers")
    args = parser.parse_args(argv)
    try:
        run(args)
    except (ValueError, OSError, ImportError) as error:
        parser.exit(2, f"{parser.prog}: {error}\n")


def run(args: argparse.Namespace) -> None:
    """The whole example.

    Raises:
        ValueError: a number that cannot be, or a network in the folder that was made with others.
        OSError: results are there, or cannot be written.
        ImportError: a library of the extras "examples" and "report" is not installed.
    """
    for name, given, most in (
        ("episodes", args.episodes, _APART),
        ("executed", args.executed, HORIZON),
        ("calls", max(args.calls), MANY - 1),
    ):
        if given > most:
            raise ValueError(f"--{name} must be at most {most}, got {given}")
    require_altair()
    args.out.mkdir(parents=True, exist_ok=True)
    results = {kind: args.out / f"control.{kind}" for kind in ("csv", "md", "svg", "png")}
    solvers = {calls: args.out / f"distilled-{calls}.json" for calls in args.calls}
    for path in (*results.values(), *solvers.values()):
        check_writable(path, overwrite=args.force)
    network = _network(args)

    console = Console(stderr=True)
    episodes = range(args.seed * _APART, args.seed * _APART + args.episodes)
    trials = Trials(network, args.executed, episodes, args.seed)
    options = {name: getattr(args, name) for name in ("effort", "samples", "seed")}
    measured = []
    for way in ways(network, args.calls, args.executed, progress=console.is_terminal, **options):
        measured.append(trials.measure(way))
        console.print(f"{way.calls} calls, {way.name}: return {measured[-1].returns.mean():.2f}")
        if way.name == DISTILLED:
            way.tableau.save(solvers[way.calls], overwrite=args.force)

    rows = rows_of(measured)
    table, drawn = as_markdown(rows, expert_returns(episodes)), picture(rows)
    write: dict[str, Any] = {
        "csv": lambda path: path.write_text(as_csv(rows), encoding="utf-8"),
        "md": lambda path: path.write_text(table, encoding="utf-8"),
        "svg": lambda path: drawn.save(path, format="svg"),
        "png": lambda path: drawn.save(path, format="png", scale_factor=2),
    }
    for kind, path in results.items():
        write_atomically(path, write[kind], overwrite=args.force)
    print(table, end="")


def _network(args: argparse.Namespace) -> Network:
    """The network of the folder, trained if it is not there."""
    kept = args.out / "policy.safetensors"
    made_with = {name: getattr(args, name) for name in ("demonstrations", "steps", "seed")}
    if kept.exists():
        try:
            return load(kept, made_with)
        except ValueError:
            if not args.force:
                raise
    network = train(*demonstrations(args.demonstrations, args.seed, Stream.TRAINING), args.steps, args.seed)
    save(network, kept, made_with)
    return network


def _number(text: str, least: int = 1) -> int:
    if not (text.isdecimal() and int(text) >= least):
        raise argparse.ArgumentTypeError(f"a whole number of at least {least} is needed, got {text!r}")
    return int(text)


def _numbers(text: str) -> list[int]:
    return sorted({_number(part) for part in text.split(",")})


if __name__ == "__main__":
    main()
