"""The page of `benchmarks/paper.py` from its results: tables, two plots, and which of the paper's conclusions hold."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import altair as alt
import jinja2
import numpy as np
import pandas as pd
from paper_bench import FINE
from paper_cells import ABLATED, BATCHES, BUDGETS, FORMS, PEERS, SCALES, SOLVERS, Cell, cells
from paper_findings import FEW_CALLS, SAME, ablation, conclusions, winners, worse
from paper_tables import NAMES, as_table, geometric, paired, short, where

TEMPLATE = Path(__file__).parent / "paper_results.md.jinja"
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


def write_page(folder: Path, page: Path) -> None:
    """The page, and its plots beside the results."""
    found = pd.read_csv(folder / "results.csv", keep_default_na=False, na_values=[""])
    runs = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    titles = {"fid": "Frechet distance", "error": "end-point error"}
    pairs = paired(found)
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
        same=SAME,
        conclusions=list(conclusions(found)),
        by_solver=_by_solver(few),
        worse=worse(few),
        reference=_reference(found),
        plots={
            what: _plot(found, what, title, folder / f"{what}.svg").relative_to(page.parent) for what, title in titles.items()
        },
        pairs=list(_pairs(found)),
        winners=winners(found),
        peers=list(_peers(found)),
        ablations=list(_ablations(found)),
        time=_time(found),
        rate=(sampled.samples * sampled.nfe / sampled.sample_seconds).median(),
    )
    page.write_text(text, encoding="utf-8")


def _by_solver(few: pd.DataFrame) -> str:
    networks = list(SOLVERS)
    solvers = list(dict.fromkeys(name for names in SOLVERS.values() for name in names))

    def cell(solver: str, network: str) -> str:
        ratio = few[(few.solver == solver) & (few.network == network)].fid_ratio.dropna()
        return "" if ratio.empty else f"{geometric(ratio):.2f} ({ratio.max():.2f} to {ratio.min():.2f})"

    rows = [[NAMES[solver], *(cell(solver, network) for network in networks)] for solver in solvers]
    return as_table(["", *(f"`{name}`" for name in networks)], rows)


def _reference(found: pd.DataFrame) -> str:
    """What a distance means: photographs against photographs, the reference's samples, and the arithmetic."""
    own = found[found.part == "reference"]
    rows = []
    for what in own.what.unique():
        shown = [_reference_cell(own[where(own, what=what, network=network)]) for network in SOLVERS]
        rows.append([what, *shown])
    return as_table(["", *(f"`{name}`" for name in SOLVERS)], rows)


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
        distances = [[NAMES[solver], *(_pair(own, solver, nfe) for nfe in budgets)] for solver in solvers]
        errors = [[NAMES[solver], *(_error_pair(own, solver, nfe) for nfe in budgets)] for solver in solvers]
        yield network, as_table(heads, distances), as_table(heads, errors)


def _pair(own: pd.DataFrame, solver: str, nfe: int) -> str:
    base, distilled = (_value(own, "fid", solver=solver, nfe=nfe, method=method) for method in ("base", "D"))
    if base is None or distilled is None:
        return "" if base is None else f"{short(base)} → "
    one, other = short(base), short(distilled)
    if distilled < base * (1 - SAME):
        other = f"**{other}**"
    elif distilled > base * (1 + SAME):
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
            found_here = own[where(own, part=part, solver=solver, method=method)]
            if len(found_here):
                rows.append([title, *(_both(found_here[found_here.nfe == nfe]) for nfe in budgets)])
        yield network, as_table(["calls", *map(str, budgets)], rows)


def _peer_rows() -> Iterable[tuple[str, str, str, str]]:
    for effort in ("fast", "balanced", "thorough"):
        yield "efforts", "deis", effort, f"`{effort}`"
    for solver in PEERS:
        yield "peers", solver, "best grid", f"{NAMES[solver]}, best grid"
    for grid in ("gits", "oss"):
        for solver in ("ddim", "unipc"):
            yield "searched", solver, grid, f"{NAMES[solver]}, {grid.upper()}-style grid"


def _best(main: pd.DataFrame, method: str, nfe: int) -> str:
    """The least Frechet distance and the least error, and whose they are."""
    cells = main[(main.method == method) & (main.nfe == nfe)].dropna(subset=["fid", "error"])
    if cells.empty:
        return ""
    fid, error = (cells.nsmallest(1, what).iloc[0] for what in ("fid", "error"))
    return f"{short(fid.fid)}, {NAMES[fid.solver]} ({error.error:.1e}, {NAMES[error.solver]})"


def _both(cell: pd.DataFrame) -> str:
    if cell.empty or np.isnan(cell.fid.iloc[0]):
        return ""
    return f"{short(cell.fid.iloc[0])} ({cell.error.iloc[0]:.1e})"


def _ablations(found: pd.DataFrame) -> Iterable[tuple[str, str]]:
    """A title and its table."""
    made = found[found.part == "scale"]
    places = [(n, s, nfe) for n, s, budgets in ABLATED for nfe in budgets if where(made, network=n, solver=s, nfe=nfe).any()]
    heads = ["", *(f"{NAMES[solver]}, {nfe} calls, `{network}`" for network, solver, nfe in places)]
    for part, title, values in (
        ("scale", "Teacher scale: into how many parts it cuts a step of the student", SCALES),
        ("batch", "Fitting samples; the errors are those of four sets of noise", BATCHES),
        ("form", "Parametrisation: what is fitted in a row", FORMS),
    ):
        table = ablation(found, part)
        rows = []
        for value in values:
            cells = [table[where(table, network=n, solver=s, nfe=nfe, value=value)] for n, s, nfe in places]
            rows.append([_FORMS.get(str(value), str(value)), *map(_ablation_cell, cells)])
        yield title, as_table(heads, rows)


def _ablation_cell(own: pd.DataFrame) -> str:
    errors = ", ".join(f"{error:.2e}" for error in own.sort_values("seed").error)
    fid = own.fid.dropna()
    return f"{short(fid.iloc[0])}; {errors}" if len(fid) else errors


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
    return as_table(["calls", "5", "10", "20"], rows)


def _value(own: pd.DataFrame, what: str, **keys: Any) -> float | None:
    found = own[where(own, **keys)][what].dropna()
    return None if found.empty else float(found.iloc[0])


def _plot(found: pd.DataFrame, what: str, title: str, path: Path) -> Path:
    """Against the calls, on two logarithmic axes: a panel a network, a colour a solver, D- drawn through and its base dashed."""
    own = found[(found.part == "main") & found[what].notna()]
    own = own[own.groupby(["network", "solver", "nfe"]).method.transform("nunique") == 2].replace(
        {"solver": NAMES, "method": {"D": "D-"}}
    )
    calls = sorted(own.nfe.unique())
    x = alt.X("nfe:Q", title="network calls", axis=alt.Axis(values=[int(n) for n in calls], grid=False))
    lines = alt.Legend(symbolType="stroke", symbolStrokeColor="black", symbolStrokeWidth=2, symbolSize=400)
    chart = (
        alt.Chart(own[["network", "solver", "method", "nfe", what]])
        .mark_line(point={"size": 18})
        .encode(
            x=x.scale(type="log", domain=[calls[0] * 0.9, calls[-1] * 1.1], nice=False),
            y=alt.Y(f"{what}:Q", title=title).scale(
                type="log", domain=[own[what].min() * 0.8, own[what].max() * 1.2], nice=False
            ),
            color=alt.Color("solver:N", title=None),
            strokeDash=alt.StrokeDash("method:N", title=None, sort=["D-", "base"], legend=lines),
            facet=alt.Facet("network:N", title=None, columns=3, sort=list(SOLVERS)),
        )
        .properties(width=260, height=260)
        .configure(background="white")
    )
    chart.save(path)
    return path
