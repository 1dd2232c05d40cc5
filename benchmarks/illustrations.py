"""The pictures of the documentation, from runs of its own and from what other benchmarks measured.

    python benchmarks/illustrations.py [--out docs/images]

paths.svg: the paths of teacher, base and distilled on a Gaussian mixture in the plane, which is known exactly.
path-fashion.png: what the bundled network takes for the sample at each call, on the path of the teacher, the base and the distilled.
efforts-NETWORK.svg: error against calls, from docs/benchmarks/efforts-NETWORK.csv.
times.svg: where the tableaux of docs/benchmarks/tableaux ask the network.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import altair as alt
import numpy as np
import pandas as pd
import torch
from common import network
from mixture import Mixture
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

import dode
from dode.distillation import PAPER
from dode.images import to_grid
from dode.noise import standard_noise
from dode.tableau import Tableau

MEASURED = Path(__file__).parent.parent / "docs" / "benchmarks"
SOLVER, NFE, FINE = "ddim", 5, 200
# Okabe and Ito's colours, which the colour-blind can tell apart.
GREY, ORANGE, BLUE, GREEN, PURPLE = "#8a8a8a", "#d55e00", "#0072b2", "#009e73", "#cc79a7"
# Noise of no other use.
SEED = 11


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/images"), help="folder for the pictures")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    path_of_pictures(args.out / "path-fashion.png")
    charts = {"paths": paths(), "times": times()} | {f"efforts-{name}": efforts(name) for name in ("fashion", "fashion-flow")}
    for name, chart in charts.items():
        styled(chart).save(args.out / f"{name}.svg")


def styled(chart: alt.TopLevelMixin) -> alt.TopLevelMixin:
    """On nothing, in greys that can be read on white and on black."""
    return (
        chart.configure(background="transparent", font="sans-serif")  # type: ignore[attr-defined]
        .configure_view(stroke="#8a8a8a55")
        .configure_axis(labelColor="#808080", titleColor="#808080", gridColor="#8a8a8a33", domainColor=GREY, tickColor=GREY)
        .configure_header(labelColor="#808080", titleColor="#808080", labelFontSize=13)
        .configure_legend(labelColor="#808080", titleColor="#808080")
        .configure_title(color="#808080")
    )


def paths() -> alt.TopLevelMixin:
    """Two panels: base and distilled, each over the teacher's paths of the same noises, in grey, and the data."""
    schedule = dode.schedules.VP.linear()
    means = torch.tensor([[1.3, 0.9], [-1.4, 0.7], [0.1, -1.3]], dtype=torch.float64)
    mixture = Mixture(schedule, means=means, std=0.25)
    denoiser = dode.Denoiser(mixture, schedule, shape=(2,), name="plane")
    result = dode.distill(denoiser, SOLVER, nfe=NFE, samples=200, held_out=64, **PAPER)
    print(result)
    noise = standard_noise(SEED, 9, (2,), dtype=torch.float64)
    teacher = walked(denoiser, dode.solver("unipc").tableau(schedule, 60, "log-snr"), noise)
    x, y = (
        alt.X("x:Q", axis=None, scale=alt.Scale(domain=[-2.2, 2.8])),
        alt.Y("y:Q", axis=None, scale=alt.Scale(domain=[-2.2, 2.0])),
    )
    data = alt.Chart(samples_of(mixture, 300)).mark_circle(size=6, color=GREY, opacity=0.35).encode(x=x, y=y)
    fine = alt.Chart(teacher).mark_line(strokeWidth=1.2, color=GREY).encode(x=x, y=y, detail="sample:N", order="k:Q")
    panels = []
    for title, tableau, colour in ((f"{NFE} calls", result.base, ORANGE), (f"{NFE} calls, distilled", result.tableau, BLUE)):
        few = alt.Chart(walked(denoiser, tableau, noise)).encode(x=x, y=y, detail="sample:N", order="k:Q")
        line = few.mark_line(strokeWidth=1.8, color=colour, point=alt.OverlayMarkDef(size=22, color=colour))
        panels.append((data + fine + line).properties(width=350, height=290, title=title))
    return alt.hconcat(*panels)


def walked(denoiser: dode.Denoiser, tableau: Tableau, noise: Tensor) -> pd.DataFrame:
    """The states of a run in the plane, a row each."""
    states = torch.stack(dode.sample(denoiser, tableau, noise, return_trajectory=True).states)
    k, sample = np.meshgrid(np.arange(len(states)), np.arange(len(noise)), indexing="ij")
    x, y = (states[..., i].ravel().numpy().round(3) for i in (0, 1))
    return pd.DataFrame({"k": k.ravel(), "sample": sample.ravel(), "x": x, "y": y})


def samples_of(mixture: Mixture, n: int) -> pd.DataFrame:
    """Data."""
    generator = np.random.default_rng(SEED)
    which = generator.choice(len(mixture.means), n, p=mixture.log_weights.exp().numpy())
    points = mixture.means.numpy()[which] + np.sqrt(mixture.variance) * generator.standard_normal((n, 2))
    return pd.DataFrame(points.round(2), columns=["x", "y"])


def path_of_pictures(out: Path) -> None:
    """D at each call for two noises, and the result; a row for the teacher, the base and the distilled."""
    denoiser, cond = network("fashion")
    result = dode.distill(denoiser, SOLVER, nfe=NFE, samples=32, held_out=16, **PAPER, **cond)
    print(result)
    labels = torch.tensor([7, 5])
    noise = standard_noise(SEED, len(labels), denoiser.shape)
    ticks = [float(t) for t in result.base.times]
    steps = FINE // NFE
    fine = dode.solver(SOLVER).path(denoiser.schedule, NFE).grid.refine(denoiser.schedule, ticks, [steps] * NFE)
    teacher = dode.sample(
        denoiser,
        dode.solver(SOLVER).tableau(denoiser.schedule, grid=list(fine)),
        noise,
        return_trajectory=True,
        class_labels=labels,
    )
    rows = {f"teacher, {FINE} calls": (*teacher.denoised[::steps], teacher.final)}
    for title, tableau in ((f"{SOLVER.upper()}, {NFE} calls", result.base), ("distilled", result.tableau)):
        run = dode.sample(denoiser, tableau, noise, return_trajectory=True, class_labels=labels)
        rows[title] = (*run.denoised, run.final)
    side, gap, left, head, font = 84, 6, 150, 24, ImageFont.load_default(14)
    columns = [*(f"call {k + 1}" for k in range(NFE)), "result"]
    block = len(rows) * (side + gap) + 14
    sheet = Image.new("L", (left + len(columns) * (side + gap), head + len(labels) * block - 14), 255)
    pen = ImageDraw.Draw(sheet)
    for c, title in enumerate(columns):
        pen.text((left + c * (side + gap), 4), title, font=font, fill=60)
    for n in range(len(labels)):
        for r, (title, states) in enumerate(rows.items()):
            top = head + n * block + r * (side + gap)
            pen.text((4, top + side // 2 - 8), title, font=font, fill=60)
            for c, state in enumerate(states):
                picture = to_grid(state[n : n + 1], 1, gap=0).resize((side, side), Image.Resampling.NEAREST)
                sheet.paste(picture, (left + c * (side + gap), top))
    sheet.save(out, optimize=True)


def efforts(name: str) -> alt.TopLevelMixin:
    """Error against calls, undistilled and by effort."""
    kinds = {"best undistilled": GREY, "fast": ORANGE, "balanced": GREEN, "thorough": BLUE}
    table = pd.read_csv(MEASURED / f"efforts-{name}.csv")
    table = table[table["what"].isin(kinds)]
    table["low"], table["high"] = table["error"] - table["standard_error"], table["error"] + table["standard_error"]
    x = alt.X(
        "nfe:Q", title="network calls", scale=alt.Scale(type="log", nice=False), axis=alt.Axis(values=sorted(set(table["nfe"])))
    )
    scale = alt.Scale(type="log", nice=False)
    colour = alt.Color("what:N", title=None, scale=alt.Scale(domain=list(kinds), range=list(kinds.values())))
    base = alt.Chart(table).encode(x=x, color=colour)
    line = base.mark_line(point=True).encode(y=alt.Y("error:Q", title="mean square distance to the reference", scale=scale))
    bar = base.mark_rule(strokeWidth=1.5).encode(y=alt.Y("low:Q", scale=scale), y2="high:Q")
    return (bar + line).properties(width=520, height=300)


def times() -> alt.TopLevelMixin:
    """The calls of a solver on the even grid and those of the learned tableaux, on the axis of log-SNR."""
    schedule = dode.load("fashion").schedule
    rows = []
    for file in sorted((MEASURED / "tableaux" / "fashion").glob("deis-thorough-*.json")):
        learned = Tableau.load(file)
        even = dode.solver("deis").tableau(schedule, learned.nfe, "uniform")
        for kind, tableau in (("even in time", even), ("learned", learned)):
            asked = np.asarray(schedule.log_snr(tableau.times[tableau.rows - tableau.nfe : -1]))
            rows += [{"calls": f"{tableau.nfe} calls", "grid": kind, "log-SNR": value} for value in asked]
    chart = alt.Chart(pd.DataFrame(rows)).mark_point(filled=True, size=60, opacity=1)
    colour = alt.Color("grid:N", scale=alt.Scale(domain=["even in time", "learned"], range=[GREY, BLUE]), legend=None)
    return (
        chart.encode(
            x=alt.X("log-SNR:Q", title="log-SNR at which the network is asked (noise on the left, sample on the right)"),
            y=alt.Y("grid:N", title=None),
            color=colour,
            shape=alt.Shape("grid:N", legend=None),
        )
        .properties(width=620, height=44)
        .facet(row=alt.Row("calls:N", title=None, header=alt.Header(labelAngle=0, labelAlign="left")), spacing=6)
    )


if __name__ == "__main__":
    main()
