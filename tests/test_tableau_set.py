"""Sets of tableaux: kept to the last bit, picked by the number of evaluations, and read from whatever holds them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mixture import mixture_denoiser
from typer.testing import CliRunner

import dode
from dode.cli import app
from dode.distillation import PAPER
from dode.held import read_held
from dode.report.cells import wanted_cells

SCHEDULE = dode.schedules.VP.linear()
DENOISER = mixture_denoiser(SCHEDULE)
NOISE = torch.randn(4, *DENOISER.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def table(nfe: int, schedule: Any = SCHEDULE) -> dode.Tableau:
    return dode.solver("unipc").tableau(schedule, nfe)


@pytest.fixture(scope="module")
def made() -> dode.DistilledSet:
    return dode.distill(DENOISER, "deis", (2, 4), samples=8, validation=0, held_out=0, **PAPER)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    dode.TableauSet.of([table(nfe) for nfe in (6, 3, 4)]).save(tmp_path / "set.json")
    return tmp_path / "set.json"


def test_a_file_keeps_all_to_the_last_bit(made: dode.DistilledSet, tmp_path: Path) -> None:
    made.save(tmp_path / "made.json")
    found = dode.TableauSet.load(tmp_path / "made.json")
    assert found.nfe == made.nfe == (2, 4)
    for result in made:
        kept = found[result.tableau.nfe]
        assert kept == result.tableau and not kept.changed
        assert all(np.array_equal(getattr(kept, name), getattr(result.tableau, name)) for name in ("a", "b", "times"))
        assert torch.equal(dode.sample(DENOISER, found, NOISE, nfe=kept.nfe), dode.sample(DENOISER, result.tableau, NOISE))
    found.save(tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == (tmp_path / "made.json").read_bytes()


def test_it_is_in_order_and_says_what_it_has(file: Path) -> None:
    found = dode.TableauSet.load(file)
    assert found.nfe == (3, 4, 6) and [tableau.nfe for tableau in found] == [3, 4, 6] and len(found) == 3
    assert found.listed == "3, 4 and 6" and str(found.nfe) in repr(found)
    assert found.cite() == found[3].cite()


def test_one_is_picked(file: Path) -> None:
    found = dode.TableauSet.load(file)
    assert found.pick(4) == found[4] == table(4)
    with pytest.raises(ValueError, match=r"no tableau of 5 evaluations: there are 3, 4 and 6"):
        found.pick(5)
    with pytest.raises(KeyError, match=r"no tableau of 5 evaluations: there are 3, 4 and 6"):
        found[5]
    with pytest.raises(ValueError, match=r"there are tableaux of 3, 4 and 6 evaluations: say which with nfe"):
        dode.sample(DENOISER, found, NOISE)
    single = dode.TableauSet.of(table(4))
    assert single.pick() == table(4)
    with pytest.raises(ValueError, match=r"no tableau of 5 evaluations: there is one of 4"):
        single.pick(5)


def test_what_makes_a_set(made: dode.DistilledSet) -> None:
    assert dode.TableauSet.of(made).nfe == made.tableaux.nfe == (2, 4)
    mixed = dode.TableauSet.of([made[2], table(3), dode.TableauSet.of(table(5))])
    assert mixed.nfe == (2, 3, 5) and dode.TableauSet.of(mixed) is mixed
    for wrong in ("deis.json", 3, [3], None):
        with pytest.raises(TypeError, match="tableaux, sets of them or results of distill"):
            dode.TableauSet.of(wrong)
    with pytest.raises(ValueError, match="at least one"):
        dode.TableauSet(())
    with pytest.raises(ValueError, match="two tableaux of 4 evaluations"):
        dode.TableauSet.of([table(4), dode.solver("ddim").tableau(SCHEDULE, 4)])
    with pytest.raises(ValueError, match="several schedules"):
        dode.TableauSet.of([table(4), table(5, dode.schedules.VP.scaled_linear())])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data.pop("format"), "is not a tableau, nor a set of them"),
        (lambda data: data.update(version=2), "damaged set of tableaux: version"),
        (lambda data: data.update(tableaux=[]), "damaged set of tableaux: tableaux"),
        (lambda data: data.update(tableaux={}), "damaged set of tableaux: tableaux"),
        (lambda data: data.update(more=1), "unknown key 'more'"),
        (lambda data: data["tableaux"][1].pop("times"), "tableau 2: 'times' is missing"),
        (lambda data: data["tableaux"][1]["a"][0].append(1.0), "tableau 2: a"),
        (lambda data: data["tableaux"].append(data["tableaux"][0]), "two tableaux of 3 evaluations"),
        (lambda data: data["tableaux"][0].update(schedule="other"), "several schedules"),
    ],
)
def test_a_bad_file_is_one_line(file: Path, change: Any, message: str) -> None:
    data = json.loads(file.read_text())
    change(data)
    file.write_text(json.dumps(data))
    with pytest.raises(ValueError, match=r"set\.json") as caught:
        dode.TableauSet.load(file)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_what_is_no_file(tmp_path: Path, file: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.json does not exist"):
        dode.TableauSet.load(tmp_path / "none.json")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"empty has neither tableaux\.json nor scheduler_config\.json"):
        dode.TableauSet.load(tmp_path / "empty")
    with pytest.raises(ValueError, match=r"TableauSet\.load reads files of several"):
        dode.Tableau.load(file)
    with pytest.raises(FileExistsError, match=r"set\.json exists"):
        dode.TableauSet.load(file).save(file)


def test_all_forms_are_read_alike(file: Path, tmp_path: Path) -> None:
    table(4).save(tmp_path / "one.json")
    assert dode.TableauSet.load(tmp_path / "one.json").pick() == table(4)
    (tmp_path / "folder").mkdir()
    file.rename(tmp_path / "folder" / "tableaux.json")
    assert dode.TableauSet.load(tmp_path / "folder").nfe == (3, 4, 6)


def test_of_a_scheduler_whole_runs_are_taken(tmp_path: Path) -> None:
    pytest.importorskip("diffusers")
    from dode.integrations.diffusers import DodeScheduler

    middle = dode.solver("ddim").tableau(SCHEDULE, grid=[500.0, 250.0, -1.0])
    several = dode.TableauSet.of([table(2), table(4)])
    DodeScheduler.from_tableaux([*several, middle], {"_class_name": "DDIMScheduler"}).save_pretrained(tmp_path / "many")
    assert len(read_held(tmp_path / "many").tableaux) == 3
    assert dode.TableauSet.load(tmp_path / "many").pick(2) == table(2)
    assert DodeScheduler.from_tableaux(several, {"_class_name": "DDIMScheduler"}).held == [2, 4]
    DodeScheduler.from_solver("ddim").save_pretrained(tmp_path / "any")
    with pytest.raises(ValueError, match="any: it runs a solver as it is, and holds no tableaux"):
        dode.TableauSet.load(tmp_path / "any")


def test_a_changed_file_warns_when_it_runs(file: Path) -> None:
    data = json.loads(file.read_text())
    data["tableaux"][1]["b"][0][0] += 1e-3
    file.write_text(json.dumps(data))
    found = dode.TableauSet.load(file)
    assert [tableau.changed for tableau in found] == [False, True, False]
    dode.sample(DENOISER, found, NOISE, nfe=3)
    with pytest.warns(UserWarning, match="changed after it was made"):
        dode.sample(DENOISER, found, NOISE, nfe=4)
    assert "changed after it was made" in CliRunner().invoke(app, ["show", str(file)]).stdout


def test_a_comparison_takes_the_budgets_that_it_compares(file: Path) -> None:
    def cells(tableaux: Any, *budgets: int) -> list[tuple[str, int]]:
        wanted = wanted_cells(SCHEDULE, ["ddim"] if budgets else [], budgets, [], [], tableaux)
        return [(each.cell.method, each.cell.nfe) for each in wanted if each.tableau is not None]

    assert cells([file], 4, 5, 6) == [("set.json", 4), ("set.json", 6)]
    assert cells([file]) == [("set.json", 3), ("set.json", 4), ("set.json", 6)]
    assert cells({"mine": dode.TableauSet.load(file)}, 3) == [("mine", 3)]
    assert cells([table(7)], 3) == [("tableau 1", 7)]  # one alone is what was asked for
    with pytest.raises(ValueError, match=r"set\.json has none .* that are compared: it has 3, 4 and 6"):
        cells([file], 5)
    with pytest.raises(ValueError, match=r"set\.json is given twice"):
        cells([file, file])


def test_show_of_several_says_what_each_was_fitted_for(made: dode.DistilledSet, tmp_path: Path) -> None:
    made.save(tmp_path / "made.json")
    shown = CliRunner().invoke(app, ["show", str(tmp_path / "made.json"), "--numbers"], env={"COLUMNS": "150"}).stdout
    assert shown.startswith("calls held: 2, 4\nfitted for:\n  model: ") and shown.count("fitted for:") == 1
    assert "predicts: " in shown and "fitting samples: 8" in shown
    assert shown.count("x_next =") == 2
    other = replace(made[4].tableau, meta={**made[4].tableau.meta, "fitted_for": {"guidance_scale": 3.0}})
    dode.TableauSet.of([made[2], other]).save(tmp_path / "two.json")
    shown = CliRunner().invoke(app, ["show", str(tmp_path / "two.json")], env={"COLUMNS": "150"}).stdout
    assert "2 calls fitted for:" in shown and "4 calls fitted for:\n  guidance scale: 3\n" in shown
