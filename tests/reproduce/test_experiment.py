"""Which runs a table consists of, how they are named, and which datasets can stand in one table."""

from __future__ import annotations

import dataclasses

import pytest

from taudl_dist.config import resolve
from taudl_dist.errors import UsageError
from taudl_dist.reproduce.experiment import run_name
from tests.reproduce.conftest import fake_dataset

BASE = {"recipe": "pctd", "seed": 1, "steps": 20}
NAMES = [
    ("d", {"out": "elsewhere", "data": "moved", "workers": "4"}, True, "places and workers do not count"),
    ("d", {"tracking": {"uri": "none"}, "checkpoint": {"every": 3}}, True, "nor tracking, nor checkpoints"),
    ("d", {"resume": True, "launcher": "ray", "parallel": {"two_pass": True}}, True, "nor how a step is computed"),
    ("other", {}, False, "another dataset"),
    ("d", {"steps": 21}, False, "another number of steps"),
    ("d", {"seed": 2}, False, "another seed"),
    ("d", {"recipe": "jcc"}, False, "another recipe"),
    ("d", {"loss": {"sigma": 3.0}}, False, "another loss"),
    ("d", {"batch": {"images": 96}}, False, "another batch"),
    ("d", {"model": {"name": "small"}}, False, "another network"),
]


@pytest.mark.parametrize("case", NAMES, ids=[case[3] for case in NAMES])
def test_a_run_is_named_by_what_decides_its_result(case):
    digest, changes, is_same, _ = case
    name = run_name("d", resolve(BASE))
    assert name.startswith("pctd-seed1-")
    assert (run_name(digest, resolve({**BASE, **changes})) == name) == is_same


def test_tables_share_the_runs_they_have_in_common(make_experiment):
    def names(table: str) -> dict[str, str]:
        experiment = make_experiment(table, steps=7)
        return {row.name: run_name("d", experiment.config(row, seed=0)) for row in experiment.rows}

    four, five, six, parameters = (names(table) for table in ("table4", "table5", "table6", "parameters"))
    assert four["pctd"] == five["pctd"]
    assert (five["best"], five["paper"]) == (six["best-0"], six["paper-0"])
    assert parameters["best-sigma-2"] == parameters["best-lambda-0.7"] == five["best"]
    assert len(set(four.values()) | set(five.values())) == 5


def test_jobs_come_one_seed_after_the_other(make_experiment):
    experiment = make_experiment("table4", "a", "b", seeds=(4, 2))
    found = [(job.seed, job.dataset.name, job.row.name) for job in experiment.jobs]
    assert found == [(s, d, r) for s in (4, 2) for d in ("a", "b") for r in ("jcc", "pctd")]


def test_imported_duplications_are_the_rows_of_table6(make_experiment):
    mars = [fake_dataset(f"mars{d}", benchmark="mars", duplication=d) for d in (0.0, 0.1, 0.5)]
    found = [(job.row.name, job.dataset.name) for job in make_experiment("table6", *mars, rows=("best*",)).jobs]
    assert found == [("best-0", "mars0.0"), ("best-10", "mars0.1"), ("best-50", "mars0.5")]
    alone = make_experiment("table6", mars[0], rows=("best*",))
    assert len(alone.jobs) == 5  # the others are cut out of it


def test_data_of_one_name_are_told_apart(make_experiment):
    one, other = fake_dataset("dataset"), fake_dataset("dataset", other=True)
    one.digest, other.digest = "a" * 64, "b" * 64
    assert list(make_experiment("table4", one, other).groups) == ["dataset aaaaaa", "dataset bbbbbb"]


PRID = {"benchmark": "prid2011"}
REFUSED = [
    ("table4", [fake_dataset("a", query=0)], "0 query and 4 gallery tracklets", "nothing to measure"),
    ("table4", [], "0 datasets", "no data"),
    (
        "table3",
        [fake_dataset("a", split=1, **PRID), fake_dataset("b", split=1, **PRID)],
        "both are prid2011",
        "a split twice",
    ),
    ("table4", [fake_dataset("a"), fake_dataset("a")], "both are", "a dataset twice"),
    (
        "table6",
        [fake_dataset("m", benchmark="mars", duplication=0.3)],
        "imported with a duplication of 0.3",
        "no beginning",
    ),
    (
        "table4",
        [fake_dataset("m", benchmark="mars", duplication=d) for d in (0.0, 0.1)],
        "both are mars",
        "duplications",
    ),
]


@pytest.mark.parametrize("case", REFUSED, ids=[case[3] for case in REFUSED])
def test_datasets_that_cannot_stand_in_one_table(case, make_experiment):
    table, datasets, message, _ = case
    experiment = make_experiment(table, "fine")
    with pytest.raises(UsageError, match=message):
        dataclasses.replace(experiment, datasets=tuple(datasets))


def test_settings_that_no_run_could_have_are_refused_before_any_runs(make_experiment):
    with pytest.raises(UsageError, match=r"optim\.lrr is unknown"):
        make_experiment("table4", optim={"lrr": 1.0})
