"""examples/proteins: cgback's real network, wrapped, distilled in miniature, measured, and in cgback's own program."""

from __future__ import annotations

import csv
import sys
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import torch

import dode

pytest.importorskip("cgback")
ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from examples.proteins import __main__ as program  # noqa: E402
from examples.proteins import geometry, network, residues  # noqa: E402
from examples.proteins.dropin import few_calls  # noqa: E402

# float32 through three layers of a network.
ROUNDING = 2e-5


@pytest.fixture(scope="module")
def denoiser() -> dode.Denoiser:
    return network.load("S")


@pytest.fixture(scope="module")
def few() -> residues.Residues:
    return residues.read("enterotoxin")[:6]


@pytest.fixture
def noise(few: residues.Residues) -> torch.Tensor:
    return torch.randn(len(few), network.ATOMS, 3, generator=torch.Generator().manual_seed(0))


def test_the_schedule_is_the_networks_own(denoiser: dode.Denoiser) -> None:
    own = denoiser.net.model.scheduler.alpha_bars.double().numpy()
    times = [*(np.arange(1, 20) / 20), denoiser.schedule.t_max]
    np.testing.assert_allclose(denoiser.schedule.alpha(times) ** 2, own, atol=1e-6)
    assert denoiser.schedule.t_min == 1 / 20


def test_another_schedule_is_refused() -> None:
    with pytest.raises(ValueError, match="not the cosine schedule"):
        network.schedule_of(torch.cumprod(1 - torch.linspace(1e-4, 0.3, 20), dim=0))


@pytest.mark.parametrize("size", network.LAYERS)
def test_checkpoints_hold_no_code(size: str) -> None:
    name = f"protein-carbon-alpha-cutoff-008-steps-020-layers-{network.LAYERS[size]:03}-hidden-128.pt"
    found = torch.serialization.get_unsafe_globals_in_checkpoint(resources.files("cgback") / "checkpoints" / name)
    assert set(found) <= {"numpy.dtype", "numpy.ndarray", "numpy._core.multiarray._reconstruct"}


def test_a_residue_is_placed_alike_in_any_company(denoiser: dode.Denoiser, few: residues.Residues, noise: torch.Tensor) -> None:
    together = denoiser(noise, 0.5, **few.condition)
    alone = denoiser(noise[2:3], 0.5, **few[2:3].condition)
    torch.testing.assert_close(together[2:3], alone, atol=ROUNDING, rtol=0)


def test_it_is_cgbacks_network_with_the_origin_at_the_c_alpha(denoiser: dode.Denoiser, noise: torch.Tensor) -> None:
    """cgback's own takes the mean of the nodes for the origin: one residue, moved so that its mean is there."""
    one = residues.read("enterotoxin")[3:4]
    real = one.features.any(dim=-1)
    nodes = torch.cat([noise[:1], one.trace], dim=1)[real]
    mean = nodes.mean(dim=0)
    model, t = denoiser.net.model, torch.tensor([0.5])
    hidden = model.features_embedding(torch.cat([one.features[real], t.expand(len(nodes), 1)], dim=-1))
    with torch.no_grad():
        theirs = model.egnn(hidden, nodes, network.edges_of(real))[1][: int(one.moved.sum())]
        mine = denoiser.net(noise[:1] - mean, t, one.features, one.trace - mean)[one.moved]
    torch.testing.assert_close(mine + mean, theirs, atol=ROUNDING, rtol=0)


def test_turning_the_trace_turns_the_atoms(denoiser: dode.Denoiser, few: residues.Residues, noise: torch.Tensor) -> None:
    turn = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(1)))[0]
    turn = turn * torch.linalg.det(turn)
    turned = {"features": few.features, "trace": few.trace @ turn.T}
    torch.testing.assert_close(
        denoiser(noise @ turn.T, 0.5, **turned), denoiser(noise, 0.5, **few.condition) @ turn.T, atol=1e-4, rtol=0
    )


def test_a_fine_run_makes_a_protein(denoiser: dode.Denoiser, few: residues.Residues, noise: torch.Tensor) -> None:
    tableau = dode.solver("dpm-solver++").tableau(denoiser.schedule, 16, "mixed")
    x = dode.sample(denoiser, tableau, noise, **few.condition)
    assert x[~few.moved].abs().max() < 1e-5
    off = geometry.differences(x, few)
    assert max(off[bond].abs().max().item() for bond in ("N-CA", "CA-C", "C-O")) < 0.15
    assert geometry.wrong_hands(x, few) == 0
    assert geometry.wrong_hands(-x, few) == int(few.moved[:, geometry.CB].sum())


def test_the_crystal_has_the_bonds_of_proteins() -> None:
    for name in (*residues.FITTED, *residues.MEASURED):
        chain = residues.read(name)
        lengths = geometry.bond_lengths(chain.crystal, chain)
        means = {bond: lengths[bond].mean().item() for bond in geometry.BONDS}
        # Engh and Huber 1991, table 3.
        expected = {"N-CA": 1.458, "CA-C": 1.525, "C-O": 1.231, "CA-CB": 1.53, "C-N": 1.329}
        assert all(abs(means[bond] - length) < 0.02 for bond, length in expected.items()), means
        assert geometry.wrong_hands(chain.crystal, chain) == 0
        assert geometry.clashes(chain.crystal[:20], chain[:20]) == 0


def test_a_chain_without_a_c_alpha_is_refused(tmp_path: Path) -> None:
    system = residues.system_of("enterotoxin")
    system.heavy_coordinates[4, 1] = np.nan
    with pytest.MonkeyPatch.context() as patch, pytest.raises(ValueError, match="1 residues have no C-alpha atom"):
        patch.setattr(residues, "system_of", lambda name: system)
        residues.read("enterotoxin")


def test_cgback_samples_with_the_tableau(denoiser: dode.Denoiser) -> None:
    system = residues.system_of("enterotoxin")
    graph, known = residues.graph_of(system), residues.read("enterotoxin")
    tableau = dode.solver("ddim").tableau(denoiser.schedule, 2, "log-snr")
    theirs = type(denoiser.net.model).sample
    torch.manual_seed(3)
    with few_calls(tableau):
        made = denoiser.net.model.sample(graph, verbose=False)
    assert type(denoiser.net.model).sample is theirs
    torch.manual_seed(3)
    x = dode.sample(denoiser, tableau, torch.randn(len(known), network.ATOMS, 3), **known.condition)
    torch.testing.assert_close(made.xw[made.mask[:, 0].bool()], x[known.moved], atol=ROUNDING, rtol=0)
    torch.testing.assert_close(residues.unpacked(made)["trace"], known.trace)


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["examples.proteins", *arguments])
    program.main()


def test_distil_and_measure_from_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept, out = tmp_path / "kept", tmp_path / "out"
    distil = ("--size", "S", "distil", "--nfe", "3", "--effort", "fast", "--samples", "8", "--tried", "2", "--budget", "100")
    run(monkeypatch, *distil, "--out", str(kept))
    run(
        monkeypatch,
        *("--size", "S", "measure", "--tableaux", str(kept), "--residues", "3", "--checked", "1"),
        *("--reference", "12", "--own", "1", "--out", str(out)),
    )
    lines = {(line["sampler"], line["calls"]): line for line in csv.DictReader((out / "proteins.csv").open())}
    assert float(lines["distilled", "3"]["error"]) > 0
    assert float(lines["cgback (DDPM)", "1"]["N-CA"]) > 0
    assert (out / "proteins.png").stat().st_size > 10_000
    assert "| distilled | 3 |" in (out / "proteins.md").read_text()
    with pytest.raises(SystemExit) as stopped:
        run(monkeypatch, *distil, "--out", str(kept))
    assert stopped.value.code == 2


def test_cgbacks_program_runs_with_the_shipped_tableaux(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = (residues.STRUCTURES / "enterotoxin.pdb").read_text().splitlines()
    trace = [line for line in lines if line.startswith("ATOM") and line[12:16].strip() == "CA"][:8]
    (tmp_path / "trace.pdb").write_text("\n".join([*trace, "END", ""]))
    monkeypatch.chdir(tmp_path)
    run(monkeypatch, "place", "--nfe", "4", "--", "trace.pdb", "-o", "all.pdb", "--skip-fix-structure")
    placed = residues.read("all.pdb")
    assert not placed.crystal[placed.moved].isnan().any()
    assert geometry.differences(placed.crystal, placed)["CA-C"].abs().max() == 0
    assert (placed.crystal[:, geometry.C].norm(dim=-1) - 1.525).abs().max() < 0.2
