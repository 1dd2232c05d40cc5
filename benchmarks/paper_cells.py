"""What `benchmarks/paper.py` measures: its cells, in the order in which they matter."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from itertools import product

import dode
from dode.solvers import Solver

# The solvers of the paper's tables. On the two networks without EDM's scalings its Euler would be DDIM, and its Heun is not meant for them.
_EPSILON = ("ddim", "pndm", "ipndm", "dpm-solver-2", "dpm-solver-3", "deis")
SOLVERS: dict[str, tuple[str, ...]] = {
    "fashion": _EPSILON,
    "fashion-flow": _EPSILON,
    "fashion-edm": ("edm-euler", "edm-heun", "ddim", "ipndm", "dpm-solver-2", "dpm-solver-3", "deis"),
}
_NAMED: dict[str, Solver] = {
    "dpm-solver-2": dode.solver("dpm-solver", order=2),
    "dpm-solver-3": dode.solver("dpm-solver", order=3),
    "edm-euler": dode.solver("edm", method="euler"),
    "edm-heun": dode.solver("edm", method="heun"),
}
BUDGETS = (5, 6, 8, 10, 15, 20, 25, 50)
# What is measured at the two largest, each of which costs as much as all smaller ones.
_FEW_LARGE = ("ddim", "dpm-solver-2", "deis", "edm-euler", "edm-heun")
EFFORT_SOLVER = "deis"
PEERS = ("unipc", "dpm-solver++")
SEARCHED = ("gits", "oss")
SCALES = (2, 5, 10, 20, 30)
BATCHES = (1, 2, 5, 10, 20, 50, 100, 200)
SEEDS = (0, 1, 2, 3)
FORMS = ("difference", "scale", "two weights", "two differences")
# Where the ablations are made: network, solver, budgets.
ABLATED = (("fashion", "ddim", (5, 10)), ("fashion", "deis", (10,)), ("fashion-edm", "edm-euler", (10,)))


@dataclass(frozen=True)
class Cell:
    """A way to sample, which is a row of the results.

    Attributes:
        part: "main", "efforts", "peers", "searched", "scale", "batch", "form" or "reference".
        network, solver, nfe: what samples.
        method: "base"; "D" (the paper's); an effort; "best grid"; "gits" or "oss".
        scale, batch, seed: of the paper's method: its teacher's, its fitting samples and their noise.
        form: what is fitted in a row; see `directions_of`.
        images: measure the Frechet distance too.
    """

    part: str
    network: str
    solver: str
    method: str
    nfe: int
    scale: int = 10
    batch: int = 100
    seed: int = 0
    form: str = "difference"
    images: bool = True

    @property
    def key(self) -> tuple[str, ...]:
        """What tells it from others, as text."""
        return tuple(str(getattr(self, f.name)) for f in fields(self))

    def __str__(self) -> str:
        changed = [f"{f.name} {getattr(self, f.name)}" for f in fields(self)[5:] if getattr(self, f.name) != f.default]
        return f"{self.network} {self.solver} {self.method} {self.nfe}{''.join(', ' + text for text in changed)}"


def solver_of(name: str) -> Solver:
    """A solver by its name in the tables."""
    return _NAMED.get(name) or dode.solver(name)


def cells(networks: Sequence[str], solvers: Sequence[str], budgets: Sequence[int]) -> Iterator[Cell]:
    """All of them, the ones that matter most first; none twice."""
    done: set[Cell] = set()
    for cell in _in_order(networks):
        known = cell.part == "reference" or (cell.nfe in budgets and cell.solver in (*solvers, *PEERS))
        if known and cell not in done:
            done.add(cell)
            yield cell


def _in_order(networks: Sequence[str]) -> Iterator[Cell]:
    yield from (Cell("reference", network, "", "reference", 0) for network in networks)
    for nfe in (5, 10):
        yield from _main(networks, nfe)
        yield from _efforts(networks, nfe, ("fast", "balanced"))
    yield from _main(networks, 20)
    for nfe in (5, 10):
        yield from _peers(networks, nfe)
    yield from _main(networks, 8)
    yield from _ablations(networks)
    for nfe in (8, 20):
        yield from _efforts(networks, nfe, ("fast", "balanced"))
    yield from _main(networks, 15)
    yield from _peers(networks, 8)
    yield from _efforts(networks, 5, ("thorough",))
    for nfe in (25, 50):
        yield from _main(networks, nfe, _FEW_LARGE)
    yield from _main(networks, 6)
    yield from _peers(networks, 6)
    yield from _efforts(networks, 6, ("fast", "balanced"))
    yield from _efforts(networks, 15, ("fast", "balanced"))
    yield from _peers(networks, 20)
    yield from _efforts(networks, 10, ("thorough",))
    for nfe in (25, 50):
        yield from _main(networks, nfe)


def _main(networks: Sequence[str], nfe: int, solvers: Sequence[str] | None = None) -> Iterator[Cell]:
    for network in networks:
        for solver, method in product(SOLVERS[network], ("base", "D")):
            if solvers is None or solver in solvers:
                yield Cell("main", network, solver, method, nfe)


def _efforts(networks: Sequence[str], nfe: int, efforts: Sequence[str]) -> Iterator[Cell]:
    for network, effort in product(networks, efforts):
        yield Cell("efforts", network, EFFORT_SOLVER, effort, nfe)


def _peers(networks: Sequence[str], nfe: int) -> Iterator[Cell]:
    for network in networks:
        yield from (Cell("peers", network, solver, "best grid", nfe) for solver in PEERS)
        yield from (Cell("searched", network, solver, grid, nfe) for grid, solver in product(SEARCHED, ("ddim", "unipc")))


def _ablations(networks: Sequence[str]) -> Iterator[Cell]:
    """All but the paper's own settings, which are cells of the main table."""
    for network, solver, budgets in ABLATED:
        for nfe in budgets if network in networks else ():
            one = Cell("main", network, solver, "D", nfe)
            yield from (replace(one, part="form", form=form) for form in FORMS if form != one.form)
            yield from (replace(one, part="scale", scale=scale) for scale in SCALES if scale != one.scale)
            for seed, batch in product(SEEDS, BATCHES):
                if (seed, batch) != (one.seed, one.batch):
                    yield replace(one, part="batch", batch=batch, seed=seed, images=seed == 0)
