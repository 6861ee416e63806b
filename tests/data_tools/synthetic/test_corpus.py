"""The corpus on disk: complete, readable by the project's own readers, and the same bytes for the same flags."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from data_tools.synthetic.corpus import make_corpus
from data_tools.synthetic.settings import FPS, HEIGHT, WIDTH, WorldSettings
from data_tools.tracks import read_tracks
from data_tools.video import iter_frames, probe
from taudl_dist import cli
from taudl_dist.errors import UserError

SETTINGS = WorldSettings(seed=5, num_cameras=2, num_people=4, seconds=20)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("synthetic") / "world"
    make_corpus(out, SETTINGS, workers=2)
    return out


def _bytes(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_files(corpus: Path):
    expected = {f"{folder}/{name}" for folder, name in [
        ("videos", "cam1.mp4"), ("videos", "cam2.mp4"), ("tracks", "cam1.txt"), ("tracks", "cam2.txt"),
        ("truth", "cam1.txt"), ("truth", "cam2.txt"), ("truth", "truth.json"),
    ]}  # fmt: skip
    assert set(_bytes(corpus)) == expected
    assert [path.name for path in corpus.parent.iterdir()] == ["world"]


def test_videos_and_tracks_are_readable(corpus: Path):
    video = probe(corpus / "videos" / "cam1.mp4")
    assert (video.num_frames, video.width, video.height, video.fps) == (20 * FPS, WIDTH, HEIGHT, FPS)
    tracks = read_tracks(corpus / "tracks", fps=FPS)
    assert set(tracks["camera"].to_pylist()) == {"cam1", "cam2"}
    assert tracks["frame"].to_numpy().max() < 20 * FPS
    for name, most in (("x2", WIDTH), ("y2", HEIGHT)):
        assert tracks[name].to_numpy().max() <= most + 0.01


def test_truth_names_the_people_where_they_are(corpus: Path):
    header = json.loads((corpus / "truth" / "truth.json").read_text())
    assert header["format"] == "taudl-synth-truth"
    assert (header["train_people"], header["test_people"]) == ([1, 2], [3, 4])
    background = np.median([frame for _, frame in iter_frames(corpus / "videos" / "cam1.mp4")], axis=0)
    rows = np.loadtxt(corpus / "truth" / "cam1.txt", delimiter=",")
    is_training = np.isin(rows[:, 1], header["train_people"])
    assert (is_training == ((rows[:, 0] - 1) / FPS < header["test_start_s"])).all()
    wide = rows[(rows[:, 4] > 30) & (rows[:, 8] > 0.9)]
    number, x, y, width, height = wide[len(wide) // 2, [0, 2, 3, 4, 5]].astype(int)
    (_, frame), = iter_frames(corpus / "videos" / "cam1.mp4", wanted=np.array([number - 1]))  # fmt: skip
    light = np.median(frame / np.maximum(background, 1), axis=(0, 1))  # it changes with time
    change = np.abs(frame - light * background).mean(axis=-1)
    assert change[y : y + height, x : x + width].mean() > 2 * change.mean()


@pytest.mark.slow
def test_the_same_flags_give_the_same_bytes(corpus: Path, tmp_path: Path):
    make_corpus(tmp_path / "again", SETTINGS, workers=1)
    assert _bytes(tmp_path / "again") == _bytes(corpus)


def test_an_output_that_is_not_empty_is_refused(tmp_path: Path):
    (tmp_path / "mine").write_text("precious")
    with pytest.raises(UserError, match="not an empty folder"):
        make_corpus(tmp_path, SETTINGS, workers=1)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_a_failure_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def interrupted(*_args: object, **_kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("data_tools.synthetic.corpus._render_cameras", interrupted)
    with pytest.raises(KeyboardInterrupt):
        make_corpus(tmp_path / "world", SETTINGS, workers=1)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--people", "1"], "--people 1: expected at least 2"),
        (["--seconds", "5"], "a crossing takes up to"),
        (["--workers", "-1"], "--workers -1"),
        (["--noise.miss-rate", "2"], "noise.miss_rate is 2"),
    ],
)
def test_wrong_usage(flags: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert cli.main(["synth", "--out", str(tmp_path / "world"), *flags]) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not list(tmp_path.iterdir())
