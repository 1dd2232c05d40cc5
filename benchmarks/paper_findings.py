"""What the results of `benchmarks/paper.py` say: which of the paper's conclusions hold, and who is best."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd
from paper_cells import BATCHES, FORMS, SCALES, Cell
from paper_tables import NAMES, as_table, geometric, paired, short, where

# What few calls are.
FEW_CALLS = 10
# A ratio that is nearer to 1 than that is no difference: about twice what chance in 10,000 samples moves a Frechet distance by.
SAME = 0.02
_PLACE = ["network", "nfe"]


def conclusions(found: pd.DataFrame) -> Iterable[tuple[str, str, str]]:
    """What the paper says, what is found, and whether it holds."""
    yield from _of_pairs(paired(found))
    yield from _of_ablations(found)
    yield _against_grids(found)


def _of_pairs(pairs: pd.DataFrame) -> Iterable[tuple[str, str, str]]:
    few = pairs[pairs.nfe <= FEW_CALLS]
    yield "D- beats its base at few calls", _share(few, "fid"), _verdict(few, "fid")
    yield "it follows the fine path more closely: the end point is nearer", _share(few, "error"), _verdict(few, "error")
    medians = pairs.groupby("nfe").fid_ratio.median().dropna()
    shown = ", ".join(f"{nfe}: {ratio:.2f}" for nfe, ratio in medians.items())
    shrinks = 1 - medians.iloc[-1] < (1 - medians).max() / 2
    yield "the gain shrinks as calls grow", f"median FID ratio by calls: {shown}", "yes" if shrinks else "no"


def _share(pairs: pd.DataFrame, what: str) -> str:
    ratio = pairs[f"{what}_ratio"].dropna()
    name = "FID" if what == "fid" else "error"
    return (
        f"{name} lower in {(ratio < 1 - SAME).sum()}, the same (to {SAME:.0%}) in {(abs(ratio - 1) <= SAME).sum()}, higher in "
        f"{(ratio > 1 + SAME).sum()} of {len(ratio)} pairs at {FEW_CALLS} calls or fewer; median ratio {ratio.median():.2f}"
    )


def _verdict(pairs: pd.DataFrame, what: str) -> str:
    ratio = pairs[f"{what}_ratio"].dropna()
    share = float((ratio < 1 - SAME).mean())
    return "yes" if share > 0.9 else "mostly" if share > 0.7 else "partly" if share > 0.3 else "no"


def _of_ablations(found: pd.DataFrame) -> Iterable[tuple[str, str, str]]:
    """What each ablation comes to, relative to the paper's own settings, over all places where it was made."""
    scale, batch, form = (_relative(ablation(found, part), part) for part in ("scale", "batch", "form"))
    enough = scale.error[10] < 1.1 * scale.error.min()
    yield (
        "a finer teacher helps, and scale 10 is enough",
        f"error over that at scale 10: {_listed(scale.error)}",
        "yes" if enough and scale.error[2] > 1.1 else "partly" if enough else "no",
    )
    yield (
        "100 samples are enough, and far fewer do",
        f"error over that with 100: {_listed(batch.error)}",
        "yes" if abs(batch.error[200] - 1) < 0.05 and batch.error[10] < 1.1 else "partly",
    )
    yield (
        "one lambda on the difference, whose weights sum to one, is the right parametrisation",
        f"error over the paper's: {_listed(form.error)}; FID over the paper's: {_listed(form.fid)}",
        "yes" if form[["error", "fid"]].min().min() > 0.95 else "of forms with one number" if form.error["scale"] > 1 else "no",
    )


def ablation(found: pd.DataFrame, part: str) -> pd.DataFrame:
    """The rows of an ablation with the paper's own settings, which are in the main table."""
    own = found[found.part == part]
    places = set(zip(own.network, own.solver, own.nfe, strict=True))
    main = found[(found.part == "main") & (found.method == "D")]
    main = main[[(r.network, r.solver, r.nfe) in places for r in main.itertuples()]]
    both = pd.concat([own, main])
    return both.assign(value=both[part]).dropna(subset=["error"])


def _relative(table: pd.DataFrame, part: str) -> pd.DataFrame:
    """Error and FID by value, over those of the paper's setting at the same place: geometric means over places and seeds."""
    keys = ["network", "solver", "nfe"]
    usual = table[table.part == "main"][[*keys, "error", "fid"]]
    both = table[table.part != "main"].merge(usual, on=keys, suffixes=("", "_usual"))
    both = both.assign(error=both.error / both.error_usual, fid=both.fid / both.fid_usual)
    order = {"scale": SCALES, "batch": BATCHES, "form": FORMS}[part]
    found = both.groupby("value")[["error", "fid"]].agg(lambda values: geometric(values.dropna()))
    found.loc[Cell.__dataclass_fields__[part].default] = 1.0
    return found.loc[[value for value in order if value in found.index]]


def _listed(values: pd.Series) -> str:
    return ", ".join(f"{name}: {value:.2f}" for name, value in values.items())


def _against_grids(found: pd.DataFrame) -> tuple[str, str, str]:
    """The best D- against undistilled solvers on grids that were chosen or searched for the network."""
    found = found[found.fid.notna() & found.error.notna()]
    chosen = found[found.part.isin(["peers", "searched"])]
    distilled = found[(found.part == "main") & (found.method == "D")]
    ratios = (distilled.groupby(_PLACE)[["fid", "error"]].min() / chosen.groupby(_PLACE)[["fid", "error"]].min()).dropna()
    wins = (ratios < 1).sum()
    return (
        "(not in the paper) the best D- beats the best undistilled solver on a grid chosen for the network",
        f"FID lower in {wins.fid}, error lower in {wins.error} of {len(ratios)} places, a network and a number of calls",
        "yes" if min(wins) == len(ratios) else "no" if max(wins) <= len(ratios) / 2 else "partly",
    )


def worse(few: pd.DataFrame) -> str:
    worse = few[few.fid_ratio > 1 + SAME].sort_values("fid_ratio", ascending=False)
    return ", ".join(f"{NAMES[r.solver]} at {r.nfe} on `{r.network}` ({r.fid_ratio:.2f})" for r in worse.itertuples())


def winners(found: pd.DataFrame) -> str:
    """At each network and budget with peers: the least distance and error of all, and the best D-."""
    found = found[found.part.isin(["main", "efforts", "peers", "searched"]) & found.fid.notna() & found.error.notna()]
    places = found[found.part == "peers"].groupby(_PLACE).size().index
    rows = []
    for network, nfe in places:
        own = found[where(found, network=network, nfe=nfe)]
        cells = []
        for what in ("fid", "error"):
            for cell in (own.nsmallest(1, what).iloc[0], own[own.method == "D"].nsmallest(1, what).iloc[0]):
                cells.append(f"{short(cell[what]) if what == 'fid' else f'{cell[what]:.1e}'}, {_name_of(cell)}")
        rows.append([f"`{network}`, {nfe}", *cells])
    return as_table(["", "least FID", "best D-", "least error", "best D-"], rows)


def _name_of(cell: pd.Series) -> str:
    if cell.part == "efforts":
        return f"`{cell.method}`"
    solver = NAMES[cell.solver]
    return {"D": f"D-{solver}", "gits": f"{solver}, GITS-style", "oss": f"{solver}, OSS-style"}.get(cell.method, solver)
