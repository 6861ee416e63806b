"""What the rows run, and what they keep a user from deciding."""

from __future__ import annotations

import pytest

from taudl_dist.errors import UsageError
from taudl_dist.reproduce import TABLES

SELECTIONS = [
    ("table4", (), ["jcc", "pctd"], "all"),
    ("table4", ("pctd",), ["pctd"], "one"),
    ("table5", ("best", "pctd"), ["pctd", "best"], "in the table's order"),
    ("table6", ("best*",), ["best-0", "best-10", "best-20", "best-30", "best-50"], "a pattern"),
    ("table6", ("*-0", "best-50"), ["paper-0", "best-0", "best-50"], "two patterns"),
]


@pytest.mark.parametrize("case", SELECTIONS, ids=[case[3] for case in SELECTIONS])
def test_selection(case):
    table, patterns, names, _ = case
    assert [row.name for row in TABLES[table].select(patterns)] == names


def test_a_pattern_that_fits_nothing_is_refused():
    with pytest.raises(
        UsageError, match="--rows bset: no such row in table5, which has pctd, paper, official-code, best"
    ):
        TABLES["table5"].select(["best", "bset"])


def test_every_row_resolves_to_the_losses_of_its_recipe(make_experiment):
    for name, table in TABLES.items():
        experiment = make_experiment(name)
        for row in table.rows:
            loss = experiment.config(row, seed=3).loss
            assert loss.joint_labels == (row.recipe == "jcc")
            assert (loss.ccta_weight > 0) == (row.recipe in ("paper", "official-code", "best"))
            assert (loss.mutual_weight > 0) == (row.recipe == "best")
            for setting, value in row.settings.get("loss", {}).items():
                assert getattr(loss, setting) == value


def test_settings_of_the_recipes_and_of_the_rows_are_decided():
    common = {"recipe", "seed", "loss.ccta_weight", "loss.joint_labels", "loss.detach_numerator", "loss.pctd_reduction"}
    assert common <= TABLES["table2"].decided
    assert "loss.sigma" not in TABLES["table2"].decided
    assert {"loss.sigma", "loss.num_neighbours"} <= TABLES["parameters"].decided
