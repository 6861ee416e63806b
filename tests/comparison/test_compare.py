"""`taudl compare` over run folders: differences, groups, data, files, exit codes."""

from __future__ import annotations

import json
import re
import statistics

import pytest
from PIL import Image

from taudl_dist.cli import main
from taudl_dist.comparison import compare
from taudl_dist.comparison.run import read_run
from tests.evaluation.test_report import Tags


@pytest.fixture
def compared(capsys):
    """Runs the command; the JSON object it printed, its exit code, and stderr."""

    def call(*words):
        code = main(["compare", *map(str, words), "--json"])
        out, err = capsys.readouterr()
        return (json.loads(out) if out else None), code, err

    return call


def test_what_differs_and_nothing_else(write_run, compared):
    result, code, _ = compared(write_run("a"), write_run("b", seed=1, optim={"lr": 0.1}))
    assert code == 0
    assert result["differences"] == {"seed": ["0", "1"], "optim.lr": ["0.00035", "0.1"]}
    assert [run["status"] for run in result["runs"]] == ["finished", "finished"]
    assert result["runs"][0]["numbers"]["loss"] == pytest.approx(2 - 0.385)


def test_equal_runs_differ_in_nothing(write_run, compared):
    assert compared(write_run("a"), write_run("b", workers="1"))[0]["differences"] == {}


def test_seeds_form_a_group(write_run, compared):
    bases = {"a": 2.0, "b": 3.0, "c": 7.0}
    paths = [write_run(name, seed=seed, base=base) for seed, (name, base) in enumerate(bases.items())]
    other = write_run("d", recipe="pctd")
    groups = compared(*paths, other)[0]["groups"]
    assert [(group["name"], group["runs"]) for group in groups] == [("recipe=best", ["a", "b", "c"]), ("d", ["d"])]
    values = list(bases.values())
    assert groups[0]["numbers"]["pctd"] == {
        "mean": pytest.approx(statistics.fmean(values)), "deviation": pytest.approx(statistics.stdev(values)), "count": 3,
    }  # fmt: skip
    assert groups[1]["numbers"]["pctd"]["deviation"] is None


def test_other_data_fails_unless_told(write_run, compared, tmp_path):
    paths = [write_run("a"), write_run("b", digest="f" * 64)]
    out = tmp_path / "c.html"
    result, code, err = compared(*paths, "--out", out)
    assert code == 1
    assert "trained on datasets of 2 digests (dddddddddddd, ffffffffffff)" in err
    assert result["differences"]["dataset digest"] == ["d" * 64, "f" * 64]
    assert not result["has_same_data"]
    assert not out.exists()
    assert compared(*paths, "--out", out, "--allow-other-data")[1] == 0
    assert out.exists()
    assert len(result["groups"]) == 2  # other data is no other seed


def test_evaluations_from_files(write_run, write_evaluation, compared):
    paths = [write_run("a"), write_run("b", seed=1), write_run("c", seed=2)]
    files = [write_evaluation("b", rank1=0.75), write_evaluation("a")]
    result, code, _ = compared(*paths, "--evaluations", *files)
    assert code == 0
    assert [run["numbers"].get("rank1") for run in result["runs"]] == [0.5, 0.75, None]
    assert result["groups"][0]["numbers"]["rank1"] == {
        "mean": 0.625, "deviation": pytest.approx(statistics.stdev([0.5, 0.75])), "count": 2,
    }  # fmt: skip
    assert "num_query" not in result["runs"][0]["numbers"]
    other = write_evaluation("a", digest="0" * 64)
    result, code, err = compared(*paths, "--evaluations", other, files[0])
    assert code == 1 and "evaluated on datasets of 2 digests" in err


def test_running_and_failed_runs(write_run, capsys):
    failed = write_run("died", outcome=None, steps=3)
    unborn = write_run("unborn", outcome=None, steps=0)
    assert main(["compare", str(write_run("a")), str(failed), str(unborn)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["run", "status", "steps", "loss", "pctd", "ccta"]
    assert lines[2].split() == ["a", "finished", "40", "1.615", "2", "1"]
    assert lines[3].split()[:3] == ["died", "failed", "3"]
    assert lines[4].split() == ["unborn", "failed", "0", "-", "-", "-"]
    assert "no setting differs" in lines[-1]


def test_files(write_run, write_evaluation, tmp_path, capsys):
    paths = [write_run("a <1>"), write_run("b", seed=1), write_run("c", recipe="pctd")]
    argv = ["compare", *map(str, paths), "--evaluations", str(write_evaluation("b")), "--out"]
    html, png = tmp_path / "new" / "c.html", tmp_path / "new" / "c.png"
    assert main([*argv, str(html)]) == 0
    page = html.read_text()
    parser = Tags()
    parser.feed(page)
    assert parser.stack == []
    assert not re.search(r"https?://", page)
    for text in ("<h2>Runs</h2>", "<h2>Curves</h2>", "<h2>What differs</h2>", "Groups: mean", "a &lt;1&gt;", "50.0"):
        assert text in page
    assert main([*argv, str(png)]) == 0
    width, height = Image.open(png).size
    assert width > 3 * 400 and height > 300
    assert main([*argv, str(html)]) == 1
    assert "pass --overwrite" in capsys.readouterr().err
    assert main([*argv, str(html), "--overwrite"]) == 0
    assert html.read_text() == page
    assert sorted(path.name for path in png.parent.iterdir()) == ["c.html", "c.png"]


def test_no_picture_of_nothing(write_run, tmp_path, capsys):
    paths = [str(write_run(name, outcome=None, steps=0)) for name in "ab"]
    assert main(["compare", *paths, "--out", str(tmp_path / "c.png")]) == 1
    assert "none of these runs has made a step" in capsys.readouterr().err
    assert main(["compare", *paths, "--out", str(tmp_path / "c.html")]) == 0
    assert not (tmp_path / "c.png").exists()


WRONG = [
    (["RUN", "--out", "c.pdf"], 2, "expected .html or .png"),
    ([], 2, "found neither run folders"),
    (["RUN", "--experiment", "x"], 2, "found both run folders"),
    (["RUN", "--filter", "x"], 2, "--experiment, which is missing"),
    (["RUN", "--overwrite"], 2, "no meaning without --out"),
    (["NOWHERE"], 1, "no run.json in it"),
    (["RUN", "--evaluations", "NOWHERE"], 1, "no such file"),
    (["RUN", "--evaluations", "OTHER"], 1, "none of the runs ended with"),
    (["RUN", "--evaluations", "TEXT"], 1, "expected one JSON object"),
    (["--experiment", "x"], 2, "set MLFLOW_TRACKING_URI"),
    (["--experiment", "x", "--uri", "sqlite:///nowhere/mlflow.db"], 1, "no such file"),
]


@pytest.mark.parametrize("case", WRONG, ids=[" ".join(row[0]) for row in WRONG])
def test_wrong_usage(case, write_run, write_evaluation, tmp_path, monkeypatch, capsys):  # noqa: PLR0917 - fixtures
    words, code, message = case
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "text").write_text("[]")
    places = {
        "RUN": write_run("a"),
        "NOWHERE": tmp_path / "no",
        "OTHER": write_evaluation("z"),
        "TEXT": tmp_path / "text",
    }
    assert main(["compare", *(str(places.get(word, word)) for word in words)]) == code
    assert message in capsys.readouterr().err


def test_groups_of_three_ways_are_named_by_what_parts_them(write_run):
    runs = [
        read_run(write_run(f"{recipe}{lr}{seed}", recipe=recipe, optim={"lr": lr}, seed=seed))
        for recipe in ("pctd", "jcc")
        for lr in (0.1, 0.2)
        for seed in (0, 1)
    ]
    names = [group.name for group in compare(runs).groups]
    assert names == [f"optim.lr={lr} recipe={recipe}" for recipe in ("pctd", "jcc") for lr in (0.1, 0.2)]
