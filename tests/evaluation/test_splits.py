"""Mean and deviation over splits, on numbers worked out by hand."""

import json

import pytest

from taudl_dist.errors import UsageError
from taudl_dist.evaluation.splits import combine, table, warn_of_another_split
from taudl_dist.training.run_folder import FORMAT, VERSION


def result(split, rank1, *, protocol="prid2011"):
    return {"split": split, "rank1": rank1, "protocol": protocol, "num_valid_queries": 89, "num_skipped_queries": 0}


def test_mean_deviation_and_counts():
    combined = combine([result(0, 0.2), result(1, 0.4), result(2, 0.6)], rates=["rank1"])
    assert combined["rank1"] == pytest.approx(0.4)
    assert combined["rank1_std"] == pytest.approx(0.2)  # of a sample: divided by n - 1
    assert (combined["num_valid_queries"], combined["num_results"]) == (267, 3)
    assert [split["rank1"] for split in combined["splits"]] == [0.2, 0.4, 0.6]
    lines = table(combined, rates={"rank1": "R1"}).splitlines()
    assert [line.split()[-1] for line in lines[:-1]] == ["R1", "20.0", "40.0", "60.0", "40.0", "20.0"]
    assert lines[-1].endswith("protocol prid2011, 3 results, 3 of the 10 splits that published numbers average")


def test_seeds_of_one_dataset():
    combined = combine([result(None, 0.2, protocol="mars"), result(None, 0.4, protocol="mars")], rates=["rank1"])
    assert table(combined, rates={"rank1": "R1"}).endswith("protocol mars, 2 results")


WRONG = [
    ("another benchmark", [result(0, 0.1), result(1, 0.1, protocol="ilids-vid")], "ilids-vid, prid2011"),
    ("a split twice", [result(0, 0.1), result(0, 0.1), result(1, 0.1)], "some appear more often"),
]


@pytest.mark.parametrize(("results", "message"), [row[1:] for row in WRONG], ids=[row[0] for row in WRONG])
def test_means_that_would_mean_nothing(results, message):
    with pytest.raises(UsageError, match=message):
        combine(results, rates=["rank1"])


@pytest.mark.parametrize(
    ("digest", "protocol", "warns"), [("b", "prid2011", True), ("a", "prid2011", False), ("b", "mars", False)]
)
def test_a_run_of_another_split_is_suspect(tmp_path, capsys, digest, protocol, warns):
    warn_of_another_split(tmp_path, digest, protocol)  # weights that tell nothing of their training
    record = {
        "format": FORMAT,
        "version": VERSION,
        "dataset": {"digest": "a"},
        "mlflow": None,
        "outcome": None,
        "attempts": [],
    }
    (tmp_path / "run.json").write_text(json.dumps(record))
    warn_of_another_split(tmp_path, digest, protocol)
    assert capsys.readouterr().err.count("was trained on the dataset a and is tested on b") == warns
