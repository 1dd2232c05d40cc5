"""Train a small diffusion over word embeddings, distil solvers for it, and measure the text that few calls give.

    python -m examples.text --out runs/text

Writes network.safetensors (a training that was interrupted goes on from it, one that is done is not repeated), distilled.json (the
tableaux of all numbers of calls), table.csv, table.md with sampled lines, and text.png.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import torch

import dode
from dode.charts import require_altair
from dode.files import check_writable, write_atomically

from . import corpus
from .measure import Bench, measured
from .network import as_denoiser
from .ngrams import NGrams
from .picture import picture, records, side_by_side, table, write_csv
from .training import Plan, trained

# Real lines that are judged, at the most.
_REAL = 1024
_SHOWN = 6


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    try:
        run(_arguments(arguments))
    except (ImportError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None


def run(args: argparse.Namespace) -> None:
    """Train, distil, measure, write.

    Raises:
        ImportError: the corpus or altair is not installed.
        ValueError: an option that cannot be.
        OSError: a result exists and is not to be overwritten, or cannot be written.
    """
    require_altair()
    if args.solver != "auto":
        dode.solver(args.solver)
    text = corpus.load(args.chapters)
    args.out.mkdir(parents=True, exist_ok=True)
    results = {name: args.out / name for name in ("distilled.json", "table.csv", "table.md", "text.png")}
    for path in results.values():
        check_writable(path, overwrite=args.force)

    vocabulary = corpus.Vocabulary.of(text.network, args.words)
    lines = vocabulary.lines(text.network)
    if len(lines) < args.batch:
        raise ValueError(f"the corpus has {len(lines)} lines of the {args.words} most frequent words: take more --words")
    plan = Plan(args.steps, args.batch, channels=args.channels, layers=args.layers, seed=args.seed)
    net = trained(plan, lines, args.words, args.out / "network.safetensors", _told)
    denoiser = as_denoiser(net)

    began = time.process_time()
    _told(f"distilling {args.solver} for {', '.join(map(str, args.nfe))} calls")
    distilled = dode.distill(denoiser, args.solver, nfe=args.nfe, effort=args.effort, seed=args.seed, held_out=0)
    spent = time.process_time() - began
    distilled.save(results["distilled.json"], overwrite=args.force)

    _told("counting n-grams")
    bench = Bench(net, denoiser, vocabulary, NGrams(map(corpus.written, text.judge)), args.many)
    real = vocabulary.lines(text.held_out, overlapping=False)[:_REAL]
    rows = measured(bench, distilled.tableaux, real, lines=args.lines, tried=args.tried, seed=args.seed, told=_told)

    parameters = sum(each.numel() for each in net.parameters())
    head = (
        f"{len(lines)} lines of {corpus.LENGTH} tokens, {args.words} words; {parameters / 1e6:.1f} M parameters, {args.steps} steps of "
        f"{args.batch} lines; distilled: {args.solver}, {args.effort}, {spent:.0f} s of processor time; torch {torch.__version__}.\n"
    )
    page = "\n".join([head, table(rows), *(f"{side_by_side(rows, nfe, _SHOWN)}" for nfe in args.nfe)])
    write_atomically(results["table.csv"], lambda path: write_csv(rows, path), overwrite=args.force)
    write_atomically(results["table.md"], lambda path: path.write_text(page, encoding="utf-8"), overwrite=args.force)
    chart = picture(records(rows))
    write_atomically(
        results["text.png"], lambda path: chart.save(str(path), format="png", scale_factor=2), overwrite=args.force
    )
    print(table(rows))
    print(f"wrote {', '.join(str(path) for path in results.values())}")


def _arguments(arguments: list[str] | None) -> argparse.Namespace:
    plan = Plan()
    parser = argparse.ArgumentParser(
        prog="python -m examples.text", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("runs/text"), help="folder for the results, made if it is not there")
    parser.add_argument("--nfe", type=int, nargs="+", default=[4, 6, 8], help="numbers of network calls")
    parser.add_argument("--solver", default="auto", help='the solver that is distilled; "auto" tries all')
    parser.add_argument("--effort", default="balanced", choices=("fast", "balanced", "thorough"))
    parser.add_argument("--lines", type=int, default=256, help="lines that are sampled and measured")
    parser.add_argument("--tried", type=int, default=64, help="other noises on which undistilled samplers are chosen")
    parser.add_argument("--many", type=int, default=200, help="calls of the reference")
    parser.add_argument("--chapters", type=int, help="of the corpus, from its beginning; all of them by default")
    parser.add_argument("--words", type=int, default=corpus.WORDS, help="size of the vocabulary")
    parser.add_argument("--steps", type=int, default=plan.steps, help="of the training")
    parser.add_argument("--batch", type=int, default=plan.batch, help="lines in a step of the training")
    parser.add_argument("--channels", type=int, default=plan.channels, help="of the network, a multiple of 4")
    parser.add_argument("--layers", type=int, default=plan.layers, help="of the network")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--force", action="store_true", help="overwrite the results; the network is kept")
    args = parser.parse_args(arguments)
    for name in ("lines", "tried", "many", "words", "steps", "batch", "channels", "layers"):
        if (value := getattr(args, name)) < 1:
            parser.error(f"--{name} must be at least 1, got {value}")
    if args.channels % 4:
        parser.error(f"--channels must be a multiple of 4, got {args.channels}")
    if bad := [nfe for nfe in args.nfe if not 1 <= nfe <= args.many]:
        parser.error(f"--nfe must lie between 1 and the {args.many} calls of the reference, got {bad[0]}")
    return args


def _told(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    main()
