"""The sentences under a table name what differs from the paper, and nothing that does not."""

from __future__ import annotations

from taudl_dist.reproduce.published import published
from taudl_dist.reproduce.remarks import _SAID, remarks
from tests.reproduce.conftest import fake_dataset


def test_the_paper_s_own_settings_need_no_remark(make_experiment):
    market = fake_dataset("market", benchmark="market1501")
    experiment = make_experiment("table2", market, rows=("paper",), steps=3000, model={"weights": "imagenet"})
    assert remarks(experiment) == [
        "3,000 steps (the paper states no number; the released code takes 3,000 on market1501)"
    ]


def test_every_setting_that_differs_is_named(make_experiment):
    settings = {
        "model": {"name": "small"},
        "batch": {"images": 64, "height": 128, "width": 64},
        "optim": {"lr": 1e-3},
        "loss": {"sigma": 3.0, "num_neighbours": 5},
        "steps": 400,
    }
    found = "\n".join(remarks(make_experiment("table5", "corpus", **settings)))
    for part in (
        "network small",
        "random weights",
        "256 features",
        "64 images",
        "128 pixels high",
        "64 pixels wide",
        "0.001",
    ):
        assert part in found
    for part in (
        "sigma 3",
        "K = 5",
        "400 steps",
        "no published numbers",
        "labels come from SSTT",
        "recipe best is not Eq. 1-4 as printed: loss.",
    ):
        assert part in found
    assert "lambda" not in found  # decided by the rows


def test_what_is_particular_about_the_data(make_experiment):
    subset = fake_dataset("market", benchmark="market1501", identities=200)
    subset.info["source"] = {"mismatches": ["query: found 1, expected 2"]}
    found = remarks(make_experiment("table4", subset, fake_dataset("prid", benchmark="prid2011", split=3)))
    assert "market1501: only the first 200 training identities" in found
    marked = fake_dataset("np", benchmark="cuhk03", boxes="labelled")
    assert any("marked by hand" in remark for remark in remarks(make_experiment("table4", marked)))
    assert "market1501: this copy's counts are not those of the complete benchmark" in found
    assert "prid2011: 1 of the 10 splits that published numbers average" in found
    assert "prid2011: no published numbers in this table" in found


def test_cut_duplications_are_not_those_of_the_paper(make_experiment):
    mars = [fake_dataset(f"mars{d}", benchmark="mars", duplication=d) for d in (0.0, 0.1)]
    assert not any("cutting" in remark for remark in remarks(make_experiment("table6", *mars)))
    assert any("cutting" in remark for remark in remarks(make_experiment("table6", "corpus")))


def test_every_setting_of_the_paper_has_a_sentence():
    assert published()["settings"].keys() == _SAID.keys()
