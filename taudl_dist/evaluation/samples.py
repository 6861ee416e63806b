"""What a report shows of an evaluation: some queries with their rankings, some distances, some training tracklets.

Samples are evenly spaced, never chosen by result, so that the same evaluation always shows the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from taudl_dist.evaluation.distances import Metric, distance_blocks
from taudl_dist.evaluation.features import evenly_spaced
from taudl_dist.evaluation.figures import RankList
from taudl_dist.evaluation.matches import JUNK, ranking

if TYPE_CHECKING:
    import pyarrow as pa

    from taudl_dist.dataset import Dataset, TrackletReader
    from taudl_dist.evaluation.evaluate import Ranked
    from taudl_dist.evaluation.probes import Probes


def valid_queries(probes: Probes, count: int) -> np.ndarray:
    """Positions of at most `count` queries with a match in another camera."""
    seen = np.unique(np.stack([probes.gallery_ids, probes.gallery_cameras]), axis=1)
    people, num_cameras = np.unique(seen[0], return_counts=True)
    own = {tuple(pair) for pair in seen.T.tolist()}
    cameras_of = dict(zip(people.tolist(), num_cameras.tolist()))
    queries = zip(probes.query_ids.tolist(), probes.query_cameras.tolist())
    valid = [
        position
        for position, (person, camera) in enumerate(queries)
        if person != JUNK and cameras_of.get(person, 0) > ((person, camera) in own)
    ]
    return np.array(valid)[evenly_spaced(len(valid), count)]


def rank_lists(
    reader: TrackletReader, probes: Probes, ranked: Ranked, *, metric: Metric, count: int, top: int
) -> list[RankList]:
    """The first ranks of some queries; a tracklet is shown by its middle frame."""
    queries = valid_queries(probes, count)
    distances = np.concatenate(
        [block for _, block in distance_blocks(ranked.query[queries], ranked.gallery, metric=metric)]
    )
    lists = []
    for query, row in zip(queries, distances):
        person, camera = probes.query_ids[query], probes.query_cameras[query]
        found = ranking(row, person, camera, probes.gallery_ids, probes.gallery_cameras)[:top]
        lists.append(
            RankList(
                query=_frames(reader, probes.query, int(query), 1)[0],
                gallery=[_frames(reader, probes.gallery, int(position), 1)[0] for position in found],
                is_match=(probes.gallery_ids[found] == person).tolist(),
                distances=row[found].tolist(),
            )
        )
    return lists


def cross_camera_distances(
    probes: Probes, ranked: Ranked, *, metric: Metric, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Distances of some queries to the gallery of other cameras: to the same person, and to everyone else."""
    queries = valid_queries(probes, count)
    same, different = [], []
    for rows, block in distance_blocks(ranked.query[queries], ranked.gallery, metric=metric):
        is_same = probes.query_ids[queries[rows], None] == probes.gallery_ids
        is_other_camera = probes.query_cameras[queries[rows], None] != probes.gallery_cameras
        is_person = probes.gallery_ids != JUNK
        same.append(block[is_same & is_other_camera & is_person])
        different.append(block[~is_same & is_other_camera & is_person])
    return np.concatenate(same), np.concatenate(different)


def people_on_the_map(probes: Probes, ranked: Ranked, *, at_most: int) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Features (N, D), people (N,) and cameras of all tracklets of some people; of a tracklet that is query and gallery, one."""
    import pyarrow as pa

    from taudl_dist.evaluation.probes import places

    rows = pa.concat_tables([probes.query, probes.gallery])
    first = np.sort(np.unique(places(rows), return_index=True)[1])
    people = np.concatenate([probes.query_ids, probes.gallery_ids])[first]
    known, counts = np.unique(people[people > 0], return_counts=True)
    several = len(known) * at_most // max(1, counts.sum())
    chosen = known[evenly_spaced(len(known), max(1, several))]
    kept = np.flatnonzero(np.isin(people, chosen))[:at_most]
    place, num_queries = first[kept], len(ranked.query)
    is_query = place < num_queries
    features = np.concatenate([ranked.query[place[is_query]], ranked.gallery[place[~is_query] - num_queries]])
    return features, people[kept], rows["camera"].take(place).to_pylist()


def query_images(reader: TrackletReader, probes: Probes, *, count: int) -> list[tuple[str, bytes]]:
    """Camera and middle frame of some queries with a match."""
    queries = valid_queries(probes, count).tolist()
    return [(probes.query["camera"][row].as_py(), _frames(reader, probes.query, row, 1)[0]) for row in queries]


def training_images(reader: TrackletReader, dataset: Dataset, *, count: int) -> list[tuple[str, bytes]]:
    """Camera and middle frame of some training tracklets."""
    index = dataset.training
    images = []
    for row in evenly_spaced(len(index), count).tolist():
        camera = int(np.searchsorted(index.camera_offsets, row, side="right")) - 1
        jpegs = reader.read(int(index.shard[row]), int(index.offset[row]), int(index.length[row]))
        images.append((dataset.cameras[camera], jpegs[evenly_spaced(len(jpegs), 1)[0]]))
    return images


def training_tracklets(
    reader: TrackletReader, dataset: Dataset, *, per_camera: int, frames: int, max_cameras: int = 8
) -> dict[str, list[bytes]]:
    """Evenly spaced images of some training tracklets of the first cameras, by caption."""
    index = dataset.training
    tracklets = {}
    for camera, name in enumerate(dataset.cameras[:max_cameras]):
        start, stop = index.camera_offsets[camera : camera + 2]
        for row in start + evenly_spaced(int(stop - start), per_camera):
            jpegs = reader.read(int(index.shard[row]), int(index.offset[row]), int(index.length[row]))
            caption = f"{name}\ntracklet {index.label[row]}\n{len(jpegs)} frame{'s' if len(jpegs) > 1 else ''}"
            tracklets[caption] = [jpegs[frame] for frame in evenly_spaced(len(jpegs), frames)]
    return tracklets


def _frames(reader: TrackletReader, rows: pa.Table, position: int, count: int) -> list[bytes]:
    shard, offset, length = (rows[name][position].as_py() for name in ("shard", "offset", "length"))
    jpegs = reader.read(shard, offset, length)
    return [jpegs[frame] for frame in evenly_spaced(len(jpegs), count)]
