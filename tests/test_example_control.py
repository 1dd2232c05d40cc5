"""examples/control: the arm and its expert are what they say, and the example runs from end to end."""

from __future__ import annotations

import csv
import math
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

import dode

for library in ("altair", "vl_convert", "gymnasium", "mujoco"):
    pytest.importorskip(library)
sys.path.insert(0, str(Path(__file__).parent.parent))

from examples.control import __main__ as program  # noqa: E402
from examples.control import measuring, policy, reaching  # noqa: E402

TINY = [
    "--calls",
    "2",
    "--episodes",
    "3",
    "--demonstrations",
    "10",
    "--steps",
    "60",
    "--samples",
    "24",
    "--effort",
    "fast",
    "--seed",
    "3",
]


def example(*arguments: str) -> None:
    """Run it as the command line does."""
    program.main([*TINY, *arguments])


@pytest.fixture(scope="module", autouse=True)
def quick() -> Iterator[None]:
    """Few observations and few timed decisions."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measuring, "_OBSERVATIONS", 64)
        patch.setattr(measuring, "_TIMED", 3)
        yield


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the results of a tiny run."""
    folder = tmp_path_factory.mktemp("control")
    example("--out", str(folder))
    return folder


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "control.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_it_writes_tables_pictures_solvers_and_the_network(out: Path) -> None:
    names = {"control.csv", "control.md", "control.svg", "control.png", "distilled-2.json", "policy.safetensors"}
    assert {path.name for path in out.iterdir()} == names
    rows = table(out)
    assert [(row["calls"], row["way"]) for row in rows] == [
        ("100", "DDIM, even grid"),
        ("2", "DDIM, even grid"),
        ("2", "best undistilled"),
        ("2", "distilled"),
    ]
    for row in rows:
        assert all(math.isfinite(float(value)) for name, value in row.items() if name not in ("way", "tableau"))
        assert float(row["return"]) < 0 < float(row["decisions_per_second"])
    # What is in the same episodes from the same noise differs by the difference of the means.
    assert math.isclose(float(rows[3]["against_ddim"]), float(rows[3]["return"]) - float(rows[1]["return"]), abs_tol=1e-9)


def test_distilled_is_no_worse_on_noise_that_nothing_was_fitted_to(out: Path) -> None:
    _, usual, best, distilled = (float(row["chunk_error_mrad"]) for row in table(out))
    # The network is hardly trained, so that all errors are smooth, and a few samples tell.
    assert distilled < best < usual


def test_a_run_with_the_network_of_another_gives_the_same(out: Path, tmp_path: Path) -> None:
    kept = Path(shutil.copy2(out / "policy.safetensors", tmp_path))
    before = kept.stat()
    example("--out", str(tmp_path))
    assert (kept.stat().st_mtime_ns, kept.stat().st_ino) == (before.st_mtime_ns, before.st_ino)
    timed = {"decisions_per_second": ""}
    assert [row | timed for row in table(tmp_path)] == [row | timed for row in table(out)]


def test_the_same_seed_trains_the_same_network() -> None:
    observations, chunks = reaching.demonstrations(2, 0, reaching.Stream.TRAINING)
    first, again, other = (policy.train(observations, chunks, 5, seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["enter.weight"], other["enter.weight"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "control.csv exists"),
        (("--steps", "0"), "a whole number of at least 1 is needed, got '0'"),
        (("--executed", "17"), "--executed must be at most 16, got 17"),
        (("--calls", "two"), "got 'two'"),
        (("--calls", "2,100"), "--calls must be at most 99, got 100"),
    ],
)
def test_bad_input_is_one_line(out: Path, arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit:
        example("--out", str(out), *arguments)
    assert exit.value.code == 2
    assert message in capsys.readouterr().err


def test_a_network_of_other_numbers_is_refused(out: Path, tmp_path: Path) -> None:
    made_with = {"demonstrations": 10, "steps": 60, "seed": 3}
    assert not policy.load(out / "policy.safetensors", made_with).training
    with pytest.raises(ValueError, match="was made with"):
        policy.load(out / "policy.safetensors", made_with | {"steps": 61})
    (tmp_path / "other").write_bytes(b"no tensors")
    with pytest.raises(ValueError, match="holds no network of this example"):
        policy.load(tmp_path / "other", made_with)


@pytest.mark.parametrize("elbow", [-1, 1])
def test_both_elbows_bring_the_fingertip_to_the_target(elbow: int) -> None:
    env = reaching.JointAngles(max_episode_steps=200)
    for seed in range(5):
        observation, _ = env.reset(seed=seed)
        goal = reaching.goal_angles(observation[4:6], elbow, env.angles[0])
        assert np.sign(goal[1]) == elbow
        for _ in range(200):
            observation, *_ = env.step(env.angles + 0.25 * (goal - env.angles))
        assert np.linalg.norm(observation[8:]) < 1e-3


def test_demonstrations_take_both_sides_and_are_of_other_episodes_in_each_stream() -> None:
    seen, chunks = reaching.demonstrations(12, 0, reaching.Stream.TRAINING)
    assert seen.shape == (12, 50, 10) and chunks.shape == (12, 50, 16, 2)
    assert len(set(chunks[:, 0, -1, 1].sign().tolist())) == 2
    others, _ = reaching.demonstrations(12, 0, reaching.Stream.MEASURING)
    assert not torch.isclose(seen[:, 0, 4:6], others[:, 0, 4:6]).all(-1).any()


def test_a_policy_that_knows_the_goal_does_as_well_as_the_expert() -> None:
    """The loop executes chunks from the angles where they begin."""

    def decide(seen: torch.Tensor, number: int) -> torch.Tensor:
        cosines, sines = seen[:, :2].double().numpy(), seen[:, 2:4].double().numpy()
        angles = np.arctan2(sines, cosines)
        sides = (np.random.default_rng(seed).choice([-1, 1]) for seed in range(len(seen)))
        goals = [reaching.goal_angles(row[4:6].double().numpy(), side, at[0]) for row, side, at in zip(seen, sides, angles)]
        return torch.from_numpy(0.25 * (np.array(goals) - angles))[:, None]

    expert = reaching.expert_returns(range(4))
    found, ends = reaching.policy_returns(decide, range(4), executed=1)
    assert found.mean() > expert.mean() - 0.5 and ends.max() < 0.01


def test_one_call_of_ddim_gives_the_network_s_mean() -> None:
    """What v says at pure noise, alpha = 0, is minus the mean of all chunks: one call has no side to choose."""
    network = policy.Network()
    tableau = dode.solver("ddim").tableau(policy.SCHEDULE, 1, "uniform")
    noise, observation = torch.randn(4, 16, 2), torch.zeros(4, 10)
    with torch.no_grad():
        v = network(noise, torch.full((4,), policy.SCHEDULE.t_max), observation)
    x = dode.sample(policy.denoiser_of(network), tableau, noise, observation=observation)
    alpha, sigma = (float(of(policy.SCHEDULE.t_max)) for of in (policy.SCHEDULE.alpha, policy.SCHEDULE.sigma))
    torch.testing.assert_close(x, alpha * noise - sigma * v)
