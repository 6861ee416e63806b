"""`taudl import`: a subcommand for each benchmark, with the options of its own."""

import inspect
import json
from dataclasses import fields

import pytest
from PIL import Image

from data_tools.benchmarks import IMPORTERS, importer
from taudl_dist import cli
from taudl_dist.commands.import_ import BENCHMARKS
from taudl_dist.errors import UsageError


@pytest.fixture
def copy(tmp_path):
    root = tmp_path / "Market-1501-v15.09.15"
    for folder, name in (("bounding_box_train", "0002_c1s1_000451_03"), ("query", "0001_c1s1_001051_00"),
                         ("bounding_box_test", "0001_c3s1_000151_00")):  # fmt: skip
        (root / folder).mkdir(parents=True)
        Image.new("RGB", (8, 16)).save(root / folder / f"{name}.jpg")
    return root


def test_every_importer_takes_what_its_command_offers():
    assert list(BENCHMARKS) == list(IMPORTERS)
    for name, kind in BENCHMARKS.items():
        offered = {field.name for field in fields(kind)} - {"json"}
        taken = inspect.signature(importer(name)).parameters
        assert offered == set(taken)
        for field in fields(kind):
            default = taken[field.name].default if field.name in taken else inspect.Parameter.empty
            assert default is inspect.Parameter.empty or default == field.default


def test_what_is_printed(copy, tmp_path, capsys):
    command = ["import", "market1501", str(copy.parent), str(tmp_path / "out"), "--allow-mismatch"]
    assert cli.main(command) == 0
    printed = capsys.readouterr()
    assert "gallery        1 tracklets        1 images" in printed.out
    assert "warning: this copy of Market-1501 is not the complete one" in printed.err
    assert cli.main([*command[:3], str(tmp_path / "again"), *command[4:], "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["splits"]["query"] == {"tracklets": 1, "frames": 1} and printed["counts"]["train images"] == 1


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["imagenet", "ROOT", "OUT"], 2, "Available subcommands: cuhk03, market1501"),
        (["market1501", "ROOT", "OUT", "--duplication", "0.1"], 2, "--duplication"),  # another benchmark's option
        (["mars", "ROOT", "OUT", "--gallery", "all"], 2, "without-queries"),
        (["mars", "ROOT", "OUT"], 2, "found no bbox_train there"),
        (["market1501", "ROOT", "OUT"], 1, "Look for missing or extra files, or pass --allow-mismatch"),
        (["market1501", "ROOT/nowhere", "OUT"], 2, "no such folder"),
    ],
)
def test_failures(copy, capsys, words, code, message):
    words = [word.replace("ROOT", str(copy)).replace("OUT", str(copy.parent / "out")) for word in words]
    assert cli.main(["import", *words]) == code
    printed = capsys.readouterr()
    assert message in printed.err and printed.out == ""
    assert not (copy.parent / "out").exists()


def test_names_of_benchmarks():
    with pytest.raises(UsageError, match="unknown; expected one of cuhk03, market1501, dukemtmcreid, mars"):
        importer("imagenet")
