"""The tables of published counts agree with themselves, and a copy that differs is refused by name."""

import pytest

from data_tools.benchmarks import counts
from data_tools.benchmarks.counts import check_counts
from taudl_dist.errors import UserError

IMAGE_SETS = {
    "market": (counts.MARKET1501, 3262),
    "duke": (counts.DUKEMTMCREID, 2196),
    "cuhk03 detected": (counts.CUHK03["detected"], 1534),
    "cuhk03 labelled": (counts.CUHK03["labelled"], 1533),
}


@pytest.mark.parametrize("name", IMAGE_SETS)
def test_cameras_add_up(name):
    table, tracklets = IMAGE_SETS[name]
    assert sum(table["train tracklets per camera"]) == tracklets
    for part in ("train", "query", "test"):
        key = f"{part} images per camera"
        assert key not in table or sum(table[key]) == table[f"{part} images"]


def test_parts_add_up():
    market = counts.MARKET1501
    parts = ("junk (-1)", "distractors (0000)", "people")
    assert sum(market[f"test images of {part}"] for part in parts) == market["test images"]
    assert market["train images"] + market["test images"] == 32_668  # the paper's Table 1 leaves the queries out
    for boxes, table in counts.CUHK03.items():
        images = table["train images"] + table["query images"] + table["test images"]
        assert images == counts.CUHK03_CLASSIC[boxes]["images"]
    mars = counts.MARS
    assert sum(mars["train tracklets per camera"]) == mars["train tracklets"]
    assert sum(mars["train identities per camera"]) == 1955
    assert mars["train images"] + mars["test images"] == 1_191_003  # Table 1
    assert len(counts.PRID2011_LEFT_OUT) == 200 - counts.PRID2011["identities"]


FOUND = {"images": 5, "per camera": [2, 3], "more": 1}


@pytest.mark.parametrize("expected", [{}, {"images": 5}, {"images": (4, 5), "per camera": [2, 3]}])
def test_equal_counts(expected):
    assert check_counts("Set", FOUND, expected, allow_mismatch=False) == []


@pytest.mark.parametrize(
    ("expected", "message"),
    [
        ({"images": 6}, "images: found 5, expected 6"),
        ({"images": (6, 7)}, "images: found 5, expected 6 or 7"),
        ({"images": 5, "per camera": [2, 2]}, "per camera: found [2, 3], expected [2, 2]"),
    ],
)
def test_other_counts(expected, message, capsys):
    with pytest.raises(UserError) as error:
        check_counts("Set", FOUND, expected, allow_mismatch=False)
    assert str(error.value).startswith(f"this copy of Set is not the complete one: {message}. Look for missing")
    assert check_counts("Set", FOUND, expected, allow_mismatch=True) == [message]
    assert capsys.readouterr().err == f"warning: this copy of Set is not the complete one: {message}\n"
