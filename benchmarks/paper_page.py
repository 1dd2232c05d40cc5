"""The page of `benchmarks/paper.py` from its results: tables, two plots, and which of the paper's conclusions hold."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import altair as alt
import jinja2
import numpy as np
import pandas as pd
from paper_bench import FINE
from paper_cells import ABLATED, BATCHES, BUDGETS, FORMS, PEERS, SCALES, SOLVERS, Cell, cells

TEMPLATE = Path(__file__).parent / "paper_results.md.jinja"
FEW_CALLS = 10
_PLACE = ["network", "nfe"]
_NAMES = {"ddim": "DDIM", "pndm": "PNDM", "ipndm": "iPNDM", "dpm-solver-2": "DPM-Solver-2", "dpm-solver-3": "DPM-Solver-3"} | {
    "deis": "DEIS",
    "edm-euler": "EDM Euler",
    "edm-heun": "EDM Heun",
    "unipc": "UniPC-3",
    "dpm-solver++": "DPM-Solver++ 2M",
}
_FORMS = {
    "difference": "lambda (O_k - O_{k-1}): the paper's",
    "scale": "lambda O_k: the output scaled",
    "two weights": "lambda O_k + mu O_{k-1}: two free weights",
    "two differences": "lambda (O_k - O_{k-1}) + mu (O_{k-1} - O_{k-2})",
}
_PARTS = {"main": "base and D-", "efforts": "efforts", "peers": "peers", "searched": "searched grids"} | {
    "scale": "teacher scale",
    "batch": "fitting samples",
    "form": "parametrisation",
}
# A ratio that is nearer to 1 than that is no difference: about twice what chance in 10,000 samples moves a Frechet distance by.
_SAME = 0.02


def write_page(folder: Path, page: Path) -> None:
    """The page, and its plots beside the results."""
    found = pd.read_csv(folder / "results.csv", keep_default_na=False, na_values=[""])
    runs = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    titles = {"fid": "Frechet distance", "error": "end-point error"}
    pairs = _paired(found)
    few = pairs[pairs.nfe <= FEW_CALLS]
    sampled = found[found.sample_seconds.notna() & (found.part == "main")]
    template = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True).from_string(
        TEMPLATE.read_text(encoding="utf-8")
    )
    text = template.render(
        run=runs[-1],
        missing=_missing(found),
        seconds=sum(run["seconds"] for run in runs),
        samples=int(found.samples.max()),
        paired=int(found.paired.max()),
        fine=FINE,
        few=FEW_CALLS,
        same=_SAME,
        conclusions=[*_conclusions(pairs), *_of_ablations(found), _against_grids(found)],
        by_solver=_by_solver(few),
        worse=_worse(few),
        reference=_reference(found),
        plots={
            what: _plot(found, what, title, folder / f"{what}.svg").relative_to(page.parent) for what, title in titles.items()
        },
        pairs=list(_pairs(found)),
        winners=_winners(found),
        peers=list(_peers(found)),
        ablations=list(_ablations(found)),
        time=_time(found),
        rate=(sampled.samples * sampled.nfe / sampled.sample_seconds).median(),
    )
    page.write_text(text, encoding="utf-8")


def _conclusions(pairs: pd.DataFrame) -> Iterable[tuple[str, str, str]]:
    """What the paper says of base and D-, what is found, and whether it holds."""
    few = pairs[pairs.nfe <= FEW_CALLS]
    yield "D- beats its base at few calls", _share(few, "fid"), _verdict(few, "fid")
    yield "it follows the fine path more closely: the end point is nearer", _share(few, "error"), _verdict(few, "error")
    medians = pairs.groupby("nfe").fid_ratio.median().dropna()
    shown = ", ".join(f"{nfe}: {ratio:.2f}" for nfe, ratio in medians.items())
    shrinks = 1 - medians.iloc[-1] < (1 - medians).max() / 2
    yield "the gain shrinks as calls grow", f"median FID ratio by calls: {shown}", "yes" if shrinks else "no"


def _worse(few: pd.DataFrame) -> str:
    worse = few[few.fid_ratio > 1 + _SAME].sort_values("fid_ratio", ascending=False)
    return ", ".join(f"{_NAMES[r.solver]} at {r.nfe} on `{r.network}` ({r.fid_ratio:.2f})" for r in worse.itertuples())


def _share(pairs: pd.DataFrame, what: str) -> str:
    ratio = pairs[f"{what}_ratio"].dropna()
    name = "FID" if what == "fid" else "error"
    return (
        f"{name} lower in {(ratio < 1 - _SAME).sum()}, the same (to {_SAME:.0%}) in {(abs(ratio - 1) <= _SAME).sum()}, higher in "
        f"{(ratio > 1 + _SAME).sum()} of {len(ratio)} pairs at {FEW_CALLS} calls or fewer; median ratio {ratio.median():.2f}"
    )


def _verdict(pairs: pd.DataFrame, what: str) -> str:
    ratio = pairs[f"{what}_ratio"].dropna()
    share = float((ratio < 1 - _SAME).mean())
    return "yes" if share > 0.9 else "mostly" if share > 0.7 else "partly" if share > 0.3 else "no"


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


def _winners(found: pd.DataFrame) -> str:
    """At each network and budget with peers: the least distance and error of all, and the best D-."""
    found = found[found.part.isin(["main", "efforts", "peers", "searched"]) & found.fid.notna() & found.error.notna()]
    places = found[found.part == "peers"].groupby(_PLACE).size().index
    rows = []
    for network, nfe in places:
        own = found[_where(found, network=network, nfe=nfe)]
        cells = []
        for what in ("fid", "error"):
            for cell in (own.nsmallest(1, what).iloc[0], own[own.method == "D"].nsmallest(1, what).iloc[0]):
                cells.append(f"{_short(cell[what]) if what == 'fid' else f'{cell[what]:.1e}'}, {_name_of(cell)}")
        rows.append([f"`{network}`, {nfe}", *cells])
    return _table(["", "least FID", "best D-", "least error", "best D-"], rows)


def _name_of(cell: pd.Series) -> str:
    if cell.part == "efforts":
        return f"`{cell.method}`"
    solver = _NAMES[cell.solver]
    return {"D": f"D-{solver}", "gits": f"{solver}, GITS-style", "oss": f"{solver}, OSS-style"}.get(cell.method, solver)


def _of_ablations(found: pd.DataFrame) -> Iterable[tuple[str, str, str]]:
    """What each ablation comes to, relative to the paper's own settings, over all places where it was made."""
    scale, batch, form = (_relative(_ablation(found, part), part) for part in ("scale", "batch", "form"))
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


def _relative(table: pd.DataFrame, part: str) -> pd.DataFrame:
    """Error and FID by value, over those of the paper's setting at the same place: geometric means over places and seeds."""
    keys = ["network", "solver", "nfe"]
    usual = table[table.part == "main"][[*keys, "error", "fid"]]
    both = table[table.part != "main"].merge(usual, on=keys, suffixes=("", "_usual"))
    both = both.assign(error=both.error / both.error_usual, fid=both.fid / both.fid_usual)
    order = {"scale": SCALES, "batch": BATCHES, "form": FORMS}[part]
    found = both.groupby("value")[["error", "fid"]].agg(lambda values: _geometric(values.dropna()))
    found.loc[Cell.__dataclass_fields__[part].default] = 1.0
    return found.loc[[value for value in order if value in found.index]]


def _listed(values: pd.Series) -> str:
    return ", ".join(f"{name}: {value:.2f}" for name, value in values.items())


def _by_solver(few: pd.DataFrame) -> str:
    networks = list(SOLVERS)
    solvers = list(dict.fromkeys(name for names in SOLVERS.values() for name in names))

    def cell(solver: str, network: str) -> str:
        ratio = few[(few.solver == solver) & (few.network == network)].fid_ratio.dropna()
        return "" if ratio.empty else f"{_geometric(ratio):.2f} ({ratio.max():.2f} to {ratio.min():.2f})"

    rows = [[_NAMES[solver], *(cell(solver, network) for network in networks)] for solver in solvers]
    return _table(["", *(f"`{name}`" for name in networks)], rows)


def _reference(found: pd.DataFrame) -> str:
    """What a distance means: photographs against photographs, the reference's samples, and the arithmetic."""
    own = found[found.part == "reference"]
    rows = []
    for what in own.what.unique():
        shown = [_reference_cell(own[_where(own, what=what, network=network)]) for network in SOLVERS]
        rows.append([what, *shown])
    return _table(["", *(f"`{name}`" for name in SOLVERS)], rows)


def _missing(found: pd.DataFrame) -> tuple[int, str]:
    """How many cells were not measured, and which."""
    known = {tuple(map(str, row)) for row in found[list(Cell.__dataclass_fields__)].itertuples(index=False)}
    every = cells(tuple(SOLVERS), tuple({name for names in SOLVERS.values() for name in names}), BUDGETS)
    missing = Counter((cell.part, cell.nfe) for cell in every if cell.part != "reference" and cell.key not in known)
    parts = dict.fromkeys(part for part, _ in missing)
    texts = [
        f"{_PARTS[part]} at {', '.join(f'{nfe} ({n})' for (p, nfe), n in sorted(missing.items()) if p == part)}"
        for part in parts
    ]
    return missing.total(), "; ".join(texts)


def _reference_cell(part: pd.DataFrame) -> str:
    """Several rows of one name are two sets of photographs."""
    shown = []
    for row in part.itertuples():
        if not np.isnan(row.fid):
            spread = "" if np.isnan(row.fid_spread) else f" ± {row.fid_spread:.1g}"
            shown.append(f"FID {row.fid:.3g}{spread}")
        if not np.isnan(row.error):
            shown.append(f"error {row.error:.1e}, median {row.median:.1e}")
        if not np.isnan(row.recognised):
            shown.append(f"recognised {row.recognised:.1%}")
    return "; ".join(shown)


def _pairs(found: pd.DataFrame) -> Iterable[tuple[str, str, str]]:
    """A network, the table of its Frechet distances, and that of its errors."""
    main = found[found.part == "main"]
    for network, solvers in SOLVERS.items():
        own = main[main.network == network]
        budgets = sorted(own[own.method == "D"].nfe.unique())
        heads = ["calls", *map(str, budgets)]
        distances = [[_NAMES[solver], *(_pair(own, solver, nfe) for nfe in budgets)] for solver in solvers]
        errors = [[_NAMES[solver], *(_error_pair(own, solver, nfe) for nfe in budgets)] for solver in solvers]
        yield network, _table(heads, distances), _table(heads, errors)


def _pair(own: pd.DataFrame, solver: str, nfe: int) -> str:
    base, distilled = (_value(own, "fid", solver=solver, nfe=nfe, method=method) for method in ("base", "D"))
    if base is None or distilled is None:
        return "" if base is None else f"{_short(base)} → "
    one, other = _short(base), _short(distilled)
    if distilled < base * (1 - _SAME):
        other = f"**{other}**"
    elif distilled > base * (1 + _SAME):
        one = f"**{one}**"
    return f"{one} → {other}"


def _error_pair(own: pd.DataFrame, solver: str, nfe: int) -> str:
    base, ratio, low, high = (
        _value(own, "error", solver=solver, nfe=nfe, method="base"),
        *(_value(own, name, solver=solver, nfe=nfe, method="D") for name in ("ratio", "ratio_low", "ratio_high")),
    )
    if base is None or ratio is None or low is None or high is None:
        return "" if base is None else f"{base:.1e}"
    return f"{base:.1e} × {ratio:.2g} ({low:.2g} to {high:.2g})"


def _peers(found: pd.DataFrame) -> Iterable[tuple[str, str]]:
    """A network and its table."""
    for network in SOLVERS:
        own = found[found.network == network]
        budgets = sorted(own[own.part.isin(["efforts", "peers", "searched"])].nfe.unique())
        rows = []
        for title, method in (("best base", "base"), ("best D-", "D")):
            rows.append([title, *(_best(own[own.part == "main"], method, nfe) for nfe in budgets)])
        for part, solver, method, title in _peer_rows():
            found_here = own[_where(own, part=part, solver=solver, method=method)]
            if len(found_here):
                rows.append([title, *(_both(found_here[found_here.nfe == nfe]) for nfe in budgets)])
        yield network, _table(["calls", *map(str, budgets)], rows)


def _peer_rows() -> Iterable[tuple[str, str, str, str]]:
    for effort in ("fast", "balanced", "thorough"):
        yield "efforts", "deis", effort, f"`{effort}`"
    for solver in PEERS:
        yield "peers", solver, "best grid", f"{_NAMES[solver]}, best grid"
    for grid in ("gits", "oss"):
        for solver in ("ddim", "unipc"):
            yield "searched", solver, grid, f"{_NAMES[solver]}, {grid.upper()}-style grid"


def _best(main: pd.DataFrame, method: str, nfe: int) -> str:
    """The least Frechet distance and the least error, and whose they are."""
    cells = main[(main.method == method) & (main.nfe == nfe)].dropna(subset=["fid", "error"])
    if cells.empty:
        return ""
    fid, error = (cells.nsmallest(1, what).iloc[0] for what in ("fid", "error"))
    return f"{_short(fid.fid)}, {_NAMES[fid.solver]} ({error.error:.1e}, {_NAMES[error.solver]})"


def _both(cell: pd.DataFrame) -> str:
    if cell.empty or np.isnan(cell.fid.iloc[0]):
        return ""
    return f"{_short(cell.fid.iloc[0])} ({cell.error.iloc[0]:.1e})"


def _ablations(found: pd.DataFrame) -> Iterable[tuple[str, str]]:
    """A title and its table."""
    made = found[found.part == "scale"]
    places = [(n, s, nfe) for n, s, budgets in ABLATED for nfe in budgets if _where(made, network=n, solver=s, nfe=nfe).any()]
    heads = ["", *(f"{_NAMES[solver]}, {nfe} calls, `{network}`" for network, solver, nfe in places)]
    for part, title, values in (
        ("scale", "Teacher scale: into how many parts it cuts a step of the student", SCALES),
        ("batch", "Fitting samples; the errors are those of four sets of noise", BATCHES),
        ("form", "Parametrisation: what is fitted in a row", FORMS),
    ):
        table = _ablation(found, part)
        rows = []
        for value in values:
            cells = [table[_where(table, network=n, solver=s, nfe=nfe, value=value)] for n, s, nfe in places]
            rows.append([_FORMS.get(str(value), str(value)), *map(_ablation_cell, cells)])
        yield title, _table(heads, rows)


def _ablation_cell(own: pd.DataFrame) -> str:
    errors = ", ".join(f"{error:.2e}" for error in own.sort_values("seed").error)
    fid = own.fid.dropna()
    return f"{_short(fid.iloc[0])}; {errors}" if len(fid) else errors


def _ablation(found: pd.DataFrame, part: str) -> pd.DataFrame:
    """The rows of an ablation with the paper's own settings, which are in the main table."""
    own = found[found.part == part]
    places = set(zip(own.network, own.solver, own.nfe, strict=True))
    main = found[(found.part == "main") & (found.method == "D")]
    main = main[[(r.network, r.solver, r.nfe) in places for r in main.itertuples()]]
    both = pd.concat([own, main])
    return both.assign(value=both[part]).dropna(subset=["error"])


def _time(found: pd.DataFrame) -> str:
    fits = found[found.cost.notna() & found.made_seconds.notna() & found.part.isin(["main", "efforts"])]
    rows = []
    for method, title in (("D", "the paper's"), ("fast", "`fast`"), ("balanced", "`balanced`"), ("thorough", "`thorough`")):
        own = fits[fits.method == method]
        parts = [own[own.nfe == nfe] for nfe in (5, 10, 20)]
        if len(own):
            rows.append(
                [title, *("" if c.empty else f"{c.cost.median():,.0f}; {c.made_seconds.median():.1f} s" for c in parts)]
            )
    return _table(["calls", "5", "10", "20"], rows)


def _paired(found: pd.DataFrame) -> pd.DataFrame:
    """A row for each base with its D-."""
    main = found[found.part == "main"]
    keys = ["network", "solver", "nfe"]
    both = main[main.method == "base"].merge(main[main.method == "D"], on=keys, suffixes=("_base", "_d"))
    return both.assign(fid_ratio=both.fid_d / both.fid_base, error_ratio=both.error_d / both.error_base)


def _value(own: pd.DataFrame, what: str, **keys: Any) -> float | None:
    found = own[_where(own, **keys)][what].dropna()
    return None if found.empty else float(found.iloc[0])


def _where(table: pd.DataFrame, **keys: Any) -> pd.Series:
    return pd.concat([table[name] == value for name, value in keys.items()], axis=1).all(axis=1)


def _geometric(values: pd.Series) -> float:
    return float(np.exp(np.log(values).mean()))


def _short(value: float) -> str:
    """Three digits."""
    return f"{value:.3g}" if value < 1000 else f"{value:.0f}"


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|", *(f"| {' | '.join(row)} |" for row in rows)]
    return "\n".join(lines)


def _plot(found: pd.DataFrame, what: str, title: str, path: Path) -> Path:
    """Against the calls, on two logarithmic axes: a panel a network, a colour a solver, D- drawn through and its base dashed."""
    own = found[(found.part == "main") & found[what].notna()].replace({"solver": _NAMES, "method": {"D": "D-"}})
    chart = (
        alt.Chart(own[["network", "solver", "method", "nfe", what]])
        .mark_line(point=True)
        .encode(
            x=alt.X("nfe:Q", title="network calls").scale(type="log"),
            y=alt.Y(f"{what}:Q", title=title).scale(type="log"),
            color=alt.Color("solver:N", title=None),
            strokeDash=alt.StrokeDash("method:N", title=None, sort=["D-", "base"]),
            facet=alt.Facet("network:N", title=None, columns=3),
        )
        .properties(width=260, height=260)
        .configure(background="white")
    )
    chart.save(path)
    return path
