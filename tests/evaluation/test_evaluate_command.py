"""`taudl evaluate` and `taudl embed` as a user types them."""

import json

import pytest

from taudl_dist import tracking
from taudl_dist.cli import main


@pytest.fixture
def logged(monkeypatch):
    """What reaches the tracked run."""
    calls = []

    def log(*args, **options):
        assert all(path.is_file() for path in options["artifacts"])
        calls.append((args, options))

    monkeypatch.setattr(tracking, "log_evaluation", log)
    return calls


@pytest.fixture
def unlabelled(tmp_path, picture):
    """A dataset of training tracklets alone."""
    from data_tools.shards import ImportTracklet, write_dataset

    def tracklets():
        for camera in ("cam1", "cam2"):
            for label, colour in enumerate(((230, 40, 40), (40, 200, 60), (50, 60, 220))):
                frames = [(f, picture(colour, brightness=1, seed=10 * label + f)) for f in range(4)]
                yield ImportTracklet(camera=camera, split="train", name=f"{label}", frames=frames)

    return str(write_dataset(tmp_path / "unlabelled", tracklets(), settings={}, source={}))


def test_without_query_and_gallery_there_is_a_report_all_the_same(unlabelled, run, tmp_path, capsys, logged):
    report = tmp_path / "report.html"
    command = ["evaluate", "--data", unlabelled, "--model", str(run), "--report", str(report)]
    assert main([*command, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert {"label_free/reciprocity", "label_free/effective_rank", "dataset_digest", "model_digest"} <= printed.keys()
    assert "rank1" not in printed
    assert [entry["num_tracklets"] for entry in printed["label_free"]["cameras"]] == [3, 3]
    ((_, metrics), options), = logged  # fmt: skip
    assert metrics == printed
    names = ["report.html", "camera-pairs.png", "losses.png", "map.png", "activation-maps.png", "tracklets.png"]
    assert [path.name for path in options["artifacts"]] == names
    assert main(command[:-2]) == 0
    out = capsys.readouterr().out
    assert "6 training tracklets, cameras: 2" in out
    assert "reciprocity" in out


def test_label_free_beside_a_ranking(dataset, run, capsys, logged):
    assert main(["evaluate", "--data", str(dataset.path), "--model", str(run), "--label-free", "--tracklets", "4"]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[0].split()[0] == "R1"
    assert "4 training tracklets, cameras: 2" in out
    ((_, metrics), _), = logged  # fmt: skip
    assert {"rank1", "label_free/reciprocity"} <= metrics.keys()


@pytest.mark.parametrize(
    "flag", [["--baselines"], ["--rerank"], ["--protocol", "mars"], ["--average-precision", "step"]]
)
def test_what_a_ranking_alone_can_honour(unlabelled, run, flag, capsys, logged):
    assert main(["evaluate", "--data", unlabelled, "--model", str(run), *flag]) == 2
    assert flag[0] in capsys.readouterr().err
    assert logged == []


WRONG_LABEL_FREE = [
    ["--tracklets", "4"],  # of a report that was not asked for
    ["--tracklets", "-1", "--label-free"],
]


@pytest.mark.parametrize("flags", WRONG_LABEL_FREE)
def test_wrong_usage_of_label_free(dataset, run, flags, capsys, logged):
    assert main(["evaluate", "--data", str(dataset.path), "--model", str(run), *flags]) == 2
    assert "--tracklets" in capsys.readouterr().err
    assert logged == []


def test_json_goes_to_stdout_and_to_the_run(dataset, run, tmp_path, capsys, logged):
    report = tmp_path / "report.html"
    command = [
        "evaluate",
        "--data",
        str(dataset.path),
        "--model",
        str(run),
        "--json",
        "--baselines",
        "--report",
        str(report),
    ]
    assert main(command) == 0
    printed = json.loads(capsys.readouterr().out)
    names = {"rank1", "rank5", "rank10", "rank20", "mAP", "mINP", "num_valid_queries", "dataset_digest", "model_digest"}
    assert names <= printed.keys()
    assert report.is_file()
    ((folder, metrics), options), = logged  # fmt: skip
    assert (folder, metrics) == (run, printed)
    assert options["dataset_digest"] == dataset.digest
    assert options["artifacts"][0] == report
    assert "cmc.png" in [path.name for path in options["artifacts"]]
    assert "label_free" not in printed


def test_table(dataset, run, capsys, logged):
    assert main(["evaluate", "--data", str(dataset.path), "--model", str(run), "--metric", "cosine"]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[0].split() == ["R1", "R5", "R10", "R20", "mAP", "mINP"]
    assert "cosine distance" in out
    assert logged[0][1]["artifacts"] == []


def test_several_datasets_give_mean_and_deviation(dataset, run, capsys, logged):
    pairs = ["--data", str(dataset.path), str(dataset.path), "--model", str(run), str(run)]
    assert main(["evaluate", *pairs, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["rank1_std"] == 0
    assert printed["rank1"] == printed["splits"][0]["rank1"] == printed["splits"][1]["rank1"]
    assert len(logged) == 2
    assert main(["evaluate", *pairs, "--rerank"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()[1:]] == [
        "1",
        "2",
        "mean",
        "deviation",
        "in",
    ]


@pytest.mark.parametrize(
    "wrong",
    [
        ["--data", "a", "b"],
        ["--protocol", "vipers"],
        ["--report", "r.html", "--rerank"],
        ["--data", "a", "b", "--model", "c", "d", "--label-free"],
    ],
)
def test_wrong_usage_of_several_and_of_protocols(dataset, run, wrong, logged):
    assert main(["evaluate", "--data", str(dataset.path), "--model", str(run), *wrong]) == 2
    assert logged == []


@pytest.mark.parametrize("wrong", [["--metric", "manhattan"], ["--frames", "-1"], []])
def test_wrong_usage(dataset, run, wrong, logged):
    needed = ["--data", str(dataset.path)] + (["--model", str(run)] if wrong else [])
    assert main(["evaluate", *needed, *wrong]) == 2
    assert logged == []


def test_no_such_run(dataset, tmp_path, capsys):
    assert main(["evaluate", "--data", str(dataset.path), "--model", str(tmp_path / "nowhere")]) == 1
    assert "no model.safetensors there" in capsys.readouterr().err


def test_a_file_that_cannot_be_written_is_refused_before_the_work(dataset, run, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("taudl_dist.dataset.open_dataset", lambda *_: pytest.fail("worked"))
    needed = ["--data", str(dataset.path), "--model", str(run)]
    (tmp_path / "file").touch()
    for command, flag in (("evaluate", "--report"), ("embed", "--out")):
        assert main([command, *needed, flag, str(tmp_path)]) == 1
        assert f"{flag} {tmp_path}: found a folder" in capsys.readouterr().err
        assert main([command, *needed, flag, str(tmp_path / "file" / "page")]) == 1
        assert "its folder cannot be made" in capsys.readouterr().err


def test_embed(dataset, run, tmp_path, capsys):
    out = tmp_path / "features.parquet"
    command = ["embed", "--data", str(dataset.path), "--model", str(run), "--out", str(out), "--split", "train"]
    assert main([*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["num_tracklets"] == 8
    assert main(command) == 0  # the same again: nothing to do
    assert main([*command, "--frames", "2"]) == 1
    assert "--overwrite" in capsys.readouterr().err
