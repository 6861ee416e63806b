"""Ground truth beside a corpus: the people that are kept for testing, as query and gallery tracklets.

Only the test half of the time is read, and training tracklets come from before it, so no identity label and no test person
can reach training.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from data_tools.tracks import TRACKS_SCHEMA, read_tracks
from data_tools.video import VideoInfo
from taudl_dist.dataset.schema import SPLITS
from taudl_dist.errors import UserError
from taudl_dist.progress import log

GAP_S = 1.0
"""A person who is out of view for longer comes back as a new visit."""
MIN_VISIBILITY = 0.3

_FORMAT, _VERSION = "taudl-synth-truth", 1


@dataclass(frozen=True, kw_only=True)
class Truth:
    """Where the true boxes lie, when the time for testing begins, and who is tested."""

    folder: Path
    test_start_s: float
    test_people: frozenset[int]


@dataclass(frozen=True, kw_only=True)
class Visit:
    """One person crossing one camera; rows (n,) of the camera's truth table in frame order."""

    person_id: int
    splits: tuple[str, ...]
    rows: np.ndarray


def find_truth(choice: str, tracks: Path) -> Truth | None:
    """The ground truth of a corpus: `none`, a folder, or `auto` for a folder `truth` beside the folder of tracks.

    Raises:
        UserError: a folder was named and holds no readable truth.json.
    """
    if choice == "none":
        return None
    folder = Path(choice) if choice != "auto" else tracks.resolve().parent / "truth"
    file = folder / "truth.json"
    if choice == "auto" and not file.is_file():
        return None
    try:
        content = json.loads(file.read_text())
        truth = _parse(folder, content)
    except FileNotFoundError:
        raise UserError(f"{file}: no such file; give --truth a folder with truth.json in it, or `none`") from None
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise UserError(
            f"{file}: not the truth of a corpus ({error}); expected format {_FORMAT!r} version {_VERSION} with"
            " test_start_s and test_people; make it again, or give --truth none"
        ) from None
    log(
        f"ground truth: {folder} ({len(truth.test_people)} people for testing; training ends at"
        f" {truth.test_start_s:g} s); --truth none leaves it out"
    )
    return truth


def _parse(folder: Path, content: Any) -> Truth:
    if content["format"] != _FORMAT or content["version"] != _VERSION:
        raise ValueError(f"format {content['format']!r} version {content['version']!r}")
    if not math.isfinite(content["test_start_s"]):
        raise ValueError(f"test_start_s {content['test_start_s']}")
    return Truth(
        folder=folder,
        test_start_s=float(content["test_start_s"]),
        test_people=frozenset(int(person) for person in content["test_people"]),
    )


def truth_file(truth: Truth, camera: str) -> Path:
    """The true boxes of a camera, MOTChallenge ground truth whose ids are people.

    Raises:
        UserError: the camera has none.
    """
    path = truth.folder / f"{camera}.txt"
    if not path.is_file():
        raise UserError(f"{path}: no ground truth for camera {camera!r}; add it, or give --truth none")
    return path


def read_truth(truth: Truth, video: VideoInfo, camera: str) -> tuple[pa.Table, list[Visit]]:
    """The usable true boxes of a camera after test_start_s (TRACKS_SCHEMA; track = person), and the visits among them."""
    path = truth_file(truth, camera)
    if not path.read_text().strip():
        return TRACKS_SCHEMA.empty_table(), []
    table = read_tracks(path, format="mot", camera=camera, fps=video.fps)
    person, time_s = table["track"].to_numpy(), table["time_s"].to_numpy()
    hidden = _hidden(path)
    is_hidden = np.array([pair in hidden for pair in zip(person.tolist(), table["frame"].to_pylist())], bool)
    usable = np.isin(person, list(truth.test_people)) & (time_s >= truth.test_start_s) & ~is_hidden
    table = table.filter(pa.array(usable)).sort_by([("track", "ascending"), ("frame", "ascending")])
    return table, split_visits(table["track"].to_numpy(), table["time_s"].to_numpy())


def split_visits(person: np.ndarray, time_s: np.ndarray) -> list[Visit]:
    """Visits of rows ordered by (person, time): a person's first one is the query, later ones the gallery; one alone is both."""
    if not len(person):
        return []
    is_new = np.concatenate([[True], (np.diff(person) != 0) | (np.diff(time_s) > GAP_S)])
    pieces = np.split(np.arange(len(person)), np.flatnonzero(is_new)[1:])
    people = [int(person[rows[0]]) for rows in pieces]
    num_visits = Counter(people)
    seen: set[int] = set()
    visits = []
    for who, rows in zip(people, pieces):
        splits: tuple[str, ...] = ("gallery",) if who in seen else ("query",)
        visits.append(Visit(person_id=who, splits=SPLITS[1:] if num_visits[who] == 1 else splits, rows=rows))
        seen.add(who)
    return visits


def _hidden(path: Path) -> set[tuple[int, int]]:
    """(person, frame from 0) of the boxes whose ninth field, visibility, is below MIN_VISIBILITY."""
    rows = (line.split(",") for line in path.read_text().splitlines())
    try:
        return {(int(float(r[1])), int(float(r[0])) - 1) for r in rows if len(r) >= 9 and float(r[8]) < MIN_VISIBILITY}
    except ValueError as error:
        raise UserError(f"{path}: the ninth field, visibility, is not a number everywhere ({error}); mend it") from None
