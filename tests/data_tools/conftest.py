"""A tiny corpus: two cameras, coloured people of known size and place, in a few seconds of small video."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

FPS = 10.0
SIZE = (96, 128)  # height, width
WALK = 30  # frames one person is in view
BOX = (20, 40)  # width, height of a person


def run_here(tasks):
    """Stands for `run_beside`."""
    from data_tools.units import UnitResult, unit_steps

    for task in tasks:
        for step in unit_steps(task):
            yield from [(task, step)] if isinstance(step, UnitResult) else [(task, None)] * step


@pytest.fixture(autouse=True)
def units_in_this_process(request, monkeypatch) -> None:
    """Units are made in the process of the test, where they can be disturbed, unless it asks for `beside`."""
    import data_tools.corpus

    if "beside" not in request.fixturenames:
        monkeypatch.setattr(data_tools.corpus, "run_beside", run_here)


@pytest.fixture
def beside() -> None:
    """Units are made in a process beside the test's, as for a user."""


@dataclass(frozen=True)
class Corpus:
    """Folders of a generated corpus; person p of camera c walks in frames p*WALK .. p*WALK+WALK-1."""

    videos: Path
    tracks: Path
    truth: Path
    cameras: list[str]
    num_people: int


def box_of(person: int, frame: int) -> tuple[int, int, int, int]:
    """x, y, width, height in pixels from 0 of the person at that frame of their walk."""
    return 10 + 2 * (frame % WALK), 30 + person % 3, *BOX


def draw(person: int, frame: int) -> np.ndarray:
    """The frame: grey, with one person in a colour of their own."""
    picture = np.full((*SIZE, 3), 90, np.uint8)
    x, y, w, h = box_of(person, frame)
    picture[y : y + h, x : x + w] = [(40 * person) % 256, 255 - (60 * person) % 256, 128]
    return picture


@pytest.fixture
def make_corpus(tmp_path) -> Callable[..., Corpus]:
    from data_tools.video import write_video

    def make(name: str = "corpus", *, cameras: int = 2, people: int = 4, truth_from: int | None = None) -> Corpus:
        """`truth_from`: people from this number on are test people, with ground truth."""
        root = tmp_path / name
        corpus = Corpus(
            root / "videos", root / "tracks", root / "truth", [f"cam{c + 1}" for c in range(cameras)], people
        )
        for folder in (corpus.videos, corpus.tracks):
            folder.mkdir(parents=True)
        for number, camera in enumerate(corpus.cameras):
            walks = [(p + number) % people if truth_from is None else p for p in range(people)]
            frames = (draw(walks[i // WALK], i) for i in range(people * WALK))
            write_video(corpus.videos / f"{camera}.mp4", frames, FPS)
            rows = [(i + 1, walks[i // WALK] + 1, *box_of(walks[i // WALK], i)) for i in range(people * WALK)]
            lines = (f"{f},{t},{x + 1},{y + 1},{w},{h},0.9,-1,-1,-1\n" for f, t, x, y, w, h in rows)
            (corpus.tracks / f"{camera}.txt").write_text("".join(lines))
            if truth_from is not None:
                corpus.truth.mkdir(exist_ok=True)
                lines = (f"{f},{t},{x + 1},{y + 1},{w},{h},1,1,1.0\n" for f, t, x, y, w, h in rows)
                (corpus.truth / f"{camera}.txt").write_text("".join(lines))
        if truth_from is not None:
            start_s = truth_from * WALK / FPS
            ids = [person + 1 for person in range(people)]
            content = {
                "format": "taudl-synth-truth", "version": 1, "seed": 0, "fps": FPS, "test_start_s": start_s,
                "cameras": corpus.cameras, "train_people": ids[:truth_from], "test_people": ids[truth_from:],
            }  # fmt: skip
            (corpus.truth / "truth.json").write_text(json.dumps(content))
        return corpus

    return make


EIGHT = 1769846400.0
"""2026-01-31 08:00 UTC."""
GAP_S = 600.0


@pytest.fixture
def make_recordings(tmp_path) -> Callable[..., Corpus]:
    """Cameras of many files: file f of a camera begins f * GAP_S after eight and shows `people` people, one after the other."""
    from data_tools.video import write_video

    def make(
        name: str = "recordings",
        *,
        cameras: int = 2,
        files: range = range(3),
        people: int = 2,
        per_camera: bool = False,
    ) -> Corpus:
        """`per_camera`: one file of tracks for all files of a camera; else one per file. Ids begin anew in each file."""
        root = tmp_path / name
        corpus = Corpus(
            root / "videos", root / "tracks", root / "truth", [f"cam{c + 1}" for c in range(cameras)], people
        )
        for camera in corpus.cameras:
            (corpus.videos / camera).mkdir(parents=True, exist_ok=True)
            (corpus.tracks / camera).mkdir(parents=True, exist_ok=True)
            through = []
            for position, number in enumerate(files):
                begin = datetime.fromtimestamp(EIGHT + number * GAP_S, UTC).strftime("%Y%m%d_%H%M%S")
                walk = [number * people + frame // WALK for frame in range(people * WALK)]
                write_video(corpus.videos / camera / f"{begin}.mp4", (draw(p, f) for f, p in enumerate(walk)), FPS)
                rows = [(f, p % people + 1, *box_of(p, f)) for f, p in enumerate(walk)]
                through += [(f + position * len(walk), *rest) for f, *rest in rows]
                if not per_camera:
                    (corpus.tracks / camera / f"{begin}.txt").write_text(as_mot(rows))
            if per_camera:
                (corpus.tracks / f"{camera}.txt").write_text(as_mot(through))
        return corpus

    return make


def as_mot(rows: list[tuple]) -> str:
    """Rows of frame, track, x, y, width, height, all from 0."""
    return "".join(f"{f + 1},{t},{x + 1},{y + 1},{w},{h},0.9,-1,-1,-1\n" for f, t, x, y, w, h in rows)
