"""How good the labels of SSTT are, where ground truth is at hand: who is in a tracklet, and how many labels a person has.

For judging only: nothing here is called while a dataset is made.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data_tools.sstt import estimate_interval, sample_tracklets

NOBODY = -1
MIN_IOU = 0.5


@dataclass(frozen=True, kw_only=True)
class Quality:
    """Of a choice of tracks as tracklets, over all cameras.

    tracklets: how many. false: those of which less than half is any one person. identities: people, by camera, who have a tracklet.
    duplication: share of these with two or more (labels for one person). purity: mean over tracklets of the share of its detections
    that show its main person.
    """

    tracklets: int
    false: int
    identities: int
    duplication: float
    purity: float


def judge_sampling(
    tracks: pa.Table, truth: pa.Table, *, interval_s: float | str, min_distance: float
) -> dict[str, Quality]:
    """The quality of all tracks, of those that the instants take, and of those that also stand apart.

    Args:
        tracks, truth: TRACKS_SCHEMA, any number of cameras; in `truth` a track is a person.
    """
    tracks = tracks.filter(pc.greater_equal(tracks["track"], 0)).sort_by(
        [("camera", "ascending"), ("track", "ascending")]
    )
    person = match_people(tracks, truth)
    if interval_s == "auto":
        interval_s = estimate_interval(tracks)
    found = {"all tracks": measure(tracks, person)}
    for name, distance in (("temporal", 0.0), ("temporal + spatial", min_distance)):
        sampled = sample_tracklets(tracks, interval_s=interval_s, min_distance=distance)
        chosen = np.array(list(zip(sampled["camera"].to_pylist(), sampled["track"].to_pylist())), dtype=object)
        pairs = {tuple(pair) for pair in chosen}
        is_in = np.array(
            [pair in pairs for pair in zip(tracks["camera"].to_pylist(), tracks["track"].to_pylist())], bool
        )
        found[name] = measure(tracks.filter(pa.array(is_in)), person[is_in])
    return found


def match_people(tracks: pa.Table, truth: pa.Table) -> np.ndarray:
    """The person each detection shows, (N,), or NOBODY: one to one in a frame, most overlap in all, IoU of MIN_IOU or more."""
    from scipy.optimize import linear_sum_assignment

    people = np.full(tracks.num_rows, NOBODY)
    of_truth, true_boxes, identity = _by_frame(truth), _boxes(truth), truth["track"].to_numpy()
    boxes = _boxes(tracks)
    for place, rows in _by_frame(tracks).items():
        others = of_truth.get(place)
        if others is None:
            continue
        overlap = _iou(boxes[rows], true_boxes[others])
        mine, theirs = linear_sum_assignment(np.where(overlap >= MIN_IOU, -overlap, 0.0))
        is_match = overlap[mine, theirs] >= MIN_IOU
        people[rows[mine[is_match]]] = identity[others[theirs[is_match]]]
    return people


def measure(tracks: pa.Table, person: np.ndarray) -> Quality:
    """The quality of tracks as they are; `person` (N,) is whom each row shows."""
    labels: dict[tuple[str, int], list[int]] = {}
    for camera, track, who in zip(tracks["camera"].to_pylist(), tracks["track"].to_pylist(), person.tolist()):
        labels.setdefault((camera, track), []).append(who)
    purity, owners = [], []
    for (camera, _), people in labels.items():
        seen = [who for who in people if who != NOBODY]
        main = max(sorted(set(seen)), key=seen.count, default=NOBODY)
        share = seen.count(main) / len(people) if seen else 0.0
        purity.append(share)
        if share >= 0.5:
            owners.append((camera, main))
    identities = len(set(owners))
    twice = sum(owners.count(owner) > 1 for owner in set(owners))
    return Quality(
        tracklets=len(labels),
        false=len(labels) - len(owners),
        identities=identities,
        duplication=twice / identities if identities else 0.0,
        purity=float(np.mean(purity)) if purity else 0.0,
    )


def _by_frame(table: pa.Table) -> dict[tuple[str, int], np.ndarray]:
    places: dict[tuple[str, int], list[int]] = {}
    for row, place in enumerate(zip(table["camera"].to_pylist(), table["frame"].to_pylist())):
        places.setdefault(place, []).append(row)
    return {place: np.array(rows) for place, rows in places.items()}


def _boxes(table: pa.Table) -> np.ndarray:
    return np.stack([table[name].to_numpy() for name in ("x1", "y1", "x2", "y2")], axis=1).astype(np.float64)


def _iou(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Intersection over union of boxes (n, 4) and (m, 4): (n, m)."""
    low = np.maximum(one[:, None, :2], other[None, :, :2])
    size = np.clip(np.minimum(one[:, None, 2:], other[None, :, 2:]) - low, 0, None)
    shared = size.prod(axis=2)
    area = (one[:, 2:] - one[:, :2]).prod(axis=1)[:, None] + (other[:, 2:] - other[:, :2]).prod(axis=1)[None]
    return shared / (area - shared)
