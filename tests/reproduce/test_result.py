"""Means, deviations and differences, against sums written out here; and what the tables show."""

from __future__ import annotations

import json
import math

import pytest

from taudl_dist.reproduce import result, summarise, text
from taudl_dist.reproduce.picture import duplication_curves
from taudl_dist.reproduce.result import by_seed, contrast, number
from tests.reproduce.conftest import fake_dataset

NUMBERS = [
    ((), None, None, "nothing measured"),
    ((40.0,), 40.0, None, "one seed has no deviation"),
    ((40.0, 44.0), 42.0, math.sqrt(8.0), "two"),
    ((1.0, 2.0, 6.0), 3.0, math.sqrt((4 + 1 + 9) / 2), "three"),
]


@pytest.mark.parametrize("case", NUMBERS, ids=[case[3] for case in NUMBERS])
def test_mean_and_deviation(case):
    values, mean, deviation, _ = case
    found = number(values, published=50.0)
    assert (found.mean, found.deviation) == (mean, pytest.approx(deviation) if deviation else None)
    assert found.difference == (None if mean is None else mean - 50.0)
    assert number(values).difference is None


def test_a_seed_is_the_mean_of_its_splits_and_counts_when_all_are_there(make_experiment, outcomes_of):
    splits = [fake_dataset(f"prid{split}", benchmark="prid2011", split=split) for split in (0, 1)]
    experiment = make_experiment("table3", *splits, rows=("best",), seeds=(0, 1, 2))
    values = {(0, 0): 0.4, (0, 1): 0.6, (1, 0): 0.2, (1, 1): None, (2, 0): 0.1, (2, 1): 0.3}
    outcomes = outcomes_of(experiment, lambda job: values[job.seed, job.dataset.info["settings"]["split"]])
    found = by_seed(outcomes, rates=["rank1"], num_splits=2)
    assert found == {0: {"rank1": pytest.approx(50.0)}, 2: {"rank1": pytest.approx(20.0)}}
    block = summarise(experiment, outcomes).blocks[0]
    line = block.lines[-1]
    assert (line.seeds, line.failed, line.numbers["rank1"].mean) == (2, 1, pytest.approx(35.0))
    assert line.numbers["rank1"].difference == pytest.approx(35.0 - 49.4)
    assert block.rates == ("rank1", "rank5", "rank20")  # the paper has no mAP of PRID2011


def test_a_contrast_compares_within_a_seed():
    more = {0: {"mAP": 30.0}, 1: {"mAP": 50.0}, 3: {"mAP": 9.0}}
    less = {0: {"mAP": 28.0}, 1: {"mAP": 51.0}, 2: {"mAP": 0.0}}
    found = contrast("a - b", more, less, rates=["mAP"], printed={"mAP": 11.5})
    assert (found.seeds, found.above) == (2, {"mAP": 1})
    assert found.numbers["mAP"].mean == pytest.approx(0.5)
    assert found.numbers["mAP"].deviation == pytest.approx(math.sqrt(2) * 1.5)
    assert found.numbers["mAP"].published == 11.5


def test_a_benchmark_of_the_paper(make_experiment, outcomes_of):
    market = fake_dataset("market", benchmark="market1501")
    experiment = make_experiment("table2", market, seeds=(0, 1))
    values = {"paper": (0.60, 0.62), "official-code": (0.5, 0.5), "best": (0.70, 0.72)}
    found = summarise(experiment, outcomes_of(experiment, lambda job: values[job.row.name][job.seed]))
    assert found.is_complete
    lines = {line.name: line for line in found.blocks[0].lines}
    assert len(lines) == 11 + 3  # every other method of the table, and TAUDL three times
    assert lines["PUL [13]"].seeds is None
    assert lines["PUL [13]"].numbers["rank1"].published == 44.7
    best = lines["best"].numbers["rank1"]
    assert (best.mean, best.published) == (pytest.approx(71.0), 63.7)
    rows = {row[0]: row[1:] for row in text.table(found.blocks[0])}
    assert rows[""] == ["seeds", "R1", "published", "difference", "mAP", "published", "difference"]
    assert rows["PUL [13]"] == ["published", "-", "44.7", "-", "-", "20.1", "-"]
    assert rows["TAUDL (recipe best)"] == ["2", "71.0 +- 1.4", "63.7", "+7.3", "71.0 +- 1.4", "41.2", "+29.8"]


def test_data_without_published_numbers_says_so(make_experiment, outcomes_of):
    experiment = make_experiment("table5")
    found = summarise(experiment, outcomes_of(experiment, lambda _: 0.25), remarks=["steps 3"])
    assert text.table(found.blocks[0])[:2] == [["", "seeds", "R1", "mAP"], ["CCTA off", "1", "25.0", "25.0"]]
    assert text.contrasts(found.blocks[0])[0] == ["", "seeds", "R1", "above 0", "mAP", "above 0"]
    for shown in (text.as_text(found), text.as_markdown(found)):
        assert "the paper has no numbers of it" in shown
        assert "steps 3" in shown
    assert [line.seeds for line in found.blocks[0].lines] == [1, 1, 1, 1]


def test_what_failed_is_listed_and_the_rest_is_shown(make_experiment, outcomes_of):
    experiment = make_experiment("table4", seeds=(0, 1))
    found = summarise(experiment, outcomes_of(experiment, lambda job: None if job.row.name == "jcc" else 0.5))
    assert not found.is_complete
    assert len(found.failures) == 2
    assert found.failures[0] == "jcc on corpus, seed 0: no luck"
    rows = text.table(found.blocks[0])
    assert rows[1][:3] == ["JCC", "0 (2 failed)", "-"]
    assert rows[2][:3] == ["PCTD", "2", "50.0 +- 0.0"]
    assert found.blocks[0].contrasts == ()
    assert "jcc on corpus, seed 1: no luck" in text.as_text(found)


def test_a_table_that_has_not_begun_is_shown_too(make_experiment):
    found = summarise(make_experiment("table6"), [])
    assert not found.is_complete
    assert text.as_text(found).startswith("Table 6.")


def test_json_holds_differences_and_single_runs(make_experiment, outcomes_of):
    market = fake_dataset("market", benchmark="market1501")
    experiment = make_experiment("table4", market)
    values = {"jcc": 0.20, "pctd": 0.50}
    found = json.loads(
        json.dumps(text.as_json(summarise(experiment, outcomes_of(experiment, lambda job: values[job.row.name]))))
    )
    block = found["blocks"][0]
    assert block["lines"][1]["numbers"]["rank1"]["difference"] == pytest.approx(50.0 - 52.1)
    assert block["contrasts"][0]["numbers"]["rank1"]["mean"] == pytest.approx(30.0)
    assert block["contrasts"][0]["numbers"]["rank1"]["published"] == pytest.approx(34.6)
    assert found["runs"][0]["rank1"] == 0.2


def test_several_datasets_have_a_block_each(make_experiment, outcomes_of):
    data = [fake_dataset("a"), fake_dataset("market", benchmark="market1501"), fake_dataset("b")]
    experiment = make_experiment("table4", *data)
    found = summarise(experiment, outcomes_of(experiment, lambda _: 0.1))
    assert [block.name for block in found.blocks] == ["a", "market1501", "b"]
    assert [block.is_published for block in found.blocks] == [False, True, False]
    assert isinstance(found, result.Result)


def test_a_picture_shows_two_points_or_more(make_experiment, outcomes_of):
    mars = [fake_dataset(f"mars{share}", benchmark="mars", duplication=share) for share in (0.0, 0.1, 0.5)]
    experiment = make_experiment("table6", *mars, seeds=(0, 1))
    found = summarise(experiment, outcomes_of(experiment, lambda job: 0.5 - (job.row.duplication or 0.0) / 5))
    assert (duplication_curves("table6", found.blocks[0]) or b"").startswith(b"\x89PNG")
    assert duplication_curves("table6", summarise(experiment, []).blocks[0]) is None
    other = make_experiment("table4")
    assert duplication_curves("table4", summarise(other, outcomes_of(other, lambda _: 0.5)).blocks[0]) is None
