"""Place a protein's atoms around its C-alpha trace in few network calls, and measure how well that goes.

    python -m examples.proteins distil                      # makes the tableaux of this folder
    python -m examples.proteins measure --out runs/proteins # tables and pictures
    python -m examples.proteins time
    python -m examples.proteins place --nfe 6 -- trace.pdb -o all.pdb --skip-fix-structure

What follows the last "--" goes to cgback's own program as it is.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import dode
from examples.proteins import distil, measure, network, residues
from examples.proteins.dropin import few_calls, seconds

TABLEAUX = Path(__file__).parent / "tableaux"


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m examples.proteins", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", default="M", choices=list(network.LAYERS), help="which of cgback's models")
    commands = parser.add_subparsers(dest="command", required=True)
    making = commands.add_parser("distil", help="choose the best undistilled solver, and distil one")
    making.add_argument("--nfe", type=int, nargs="+", default=[4, 6, 8])
    making.add_argument("--solver", default="ddim", help="which solver is distilled")
    making.add_argument("--grid", help="where it stops; found by the distillation unless it is named")
    making.add_argument("--effort", default="balanced")
    making.add_argument("--samples", type=int, default=64, help="fitting samples")
    making.add_argument("--tried", type=int, default=24, help="residues on which undistilled solvers are tried")
    making.add_argument("--budget", type=int, default=3000, help="network evaluations of one sample, times the number of calls")
    making.add_argument("--out", type=Path, default=TABLEAUX, help="folder for the tableaux")
    making.add_argument("--force", action="store_true", help="overwrite those of the same numbers of calls")
    measuring = commands.add_parser("measure", help="errors, bond lengths and time, as tables and pictures")
    measuring.add_argument("--tableaux", type=Path, default=TABLEAUX)
    measuring.add_argument("--residues", type=int, default=16, help="of each of the measured proteins")
    measuring.add_argument("--checked", type=int, default=2, help="of these, for the error of the reference itself")
    measuring.add_argument("--reference", type=int, default=400, help="calls that are taken for the truth")
    measuring.add_argument("--own", type=int, nargs="+", default=[20], help="steps of cgback's own sampler, beside the others")
    measuring.add_argument("--out", type=Path, required=True, help="folder for the results, made if it is not there")
    placing = commands.add_parser("place", help="run cgback itself with a distilled solver")
    placing.add_argument("--tableaux", type=Path, default=TABLEAUX)
    placing.add_argument("--nfe", type=int, default=6)
    placing.add_argument("arguments", nargs="*", metavar="-- ARGUMENTS", help="of cgback, beginning with the file")
    timing = commands.add_parser("time", help="processor time of cgback's 20 steps and of the distilled solvers")
    timing.add_argument("--tableaux", type=Path, default=TABLEAUX)
    timing.add_argument("--protein", default="enterotoxin")
    timing.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    try:
        {"distil": run_distil, "measure": run_measure, "place": run_place, "time": run_time}[args.command](args)
    except (ValueError, OSError, ImportError) as error:
        parser.exit(2, f"{parser.prog}: {error}\n")


def run_distil(args: argparse.Namespace) -> None:
    """The best undistilled solver for each number of calls, and a distilled one."""
    files = [args.out / f"{name}-{args.size.lower()}.json" for name in ("undistilled", "distilled")]
    kept = [list(dode.TableauSet.load(file)) if file.exists() else [] for file in files]
    there = {tableau.nfe for tableau in kept[1]} & set(args.nfe)
    if there and not args.force:
        raise FileExistsError(f"{files[1]} has tableaux of {min(there)} calls already: --force overwrites them")
    args.out.mkdir(parents=True, exist_ok=True)
    denoiser, known = network.load(args.size), residues.fitted()
    best = distil.best_undistilled(denoiser, known[-args.tried :], args.nfe)
    options = {"effort": args.effort, "samples": args.samples, "grid": args.grid}
    made = []
    for calls, (tableau, error) in zip(args.nfe, best, strict=True):
        print(f"best undistilled: {tableau.title}, {error:.3g} square angstrom", flush=True)
        chosen = known[: -args.tried]
        made.append(distil.distilled(denoiser, args.solver, calls, chosen, budget=args.budget * calls, **options))
        print(made[-1], flush=True)
    fresh = ([tableau for tableau, _ in best], [result.tableau for result in made])
    for file, old, tableaux in zip(files, kept, fresh, strict=True):
        others = [tableau for tableau in old if tableau.nfe not in args.nfe]
        dode.TableauSet.of([*others, *tableaux]).save(file, overwrite=True)
        print(f"wrote {file}")


def run_measure(args: argparse.Namespace) -> None:
    """Tables and pictures."""
    from examples.proteins.report import write

    denoiser = network.load(args.size)
    sets = [dode.TableauSet.load(args.tableaux / f"{name}-{args.size.lower()}.json") for name in ("undistilled", "distilled")]
    places = measure.stretches(args.residues)
    samples = measure.sampled(denoiser, measure.runs(denoiser, *sets, args.reference), places, args.checked)
    samples |= measure.sampled_by_cgback(network.read_model(args.size), places, args.own)
    for file in write(args.out, samples, places):
        print(f"wrote {file}")


def run_place(args: argparse.Namespace) -> None:
    """cgback's own program."""
    from cgback.backmapper_app import main as cgback

    tableau = dode.TableauSet.load(args.tableaux / f"distilled-{args.size.lower()}.json").pick(args.nfe)
    sys.argv = ["cgback", "--model", args.size, *args.arguments]
    with few_calls(tableau):
        cgback()


def run_time(args: argparse.Namespace) -> None:
    """What a protein takes."""
    tableaux = dode.TableauSet.load(args.tableaux / f"distilled-{args.size.lower()}.json")
    for way, taken in seconds(network.read_model(args.size), tableaux, args.protein, args.repeats).items():
        print(f"{way}: {taken:.2f} s")


if __name__ == "__main__":
    main()
