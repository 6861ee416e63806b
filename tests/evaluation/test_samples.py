"""What a report shows is chosen by position, and by the protocol's rule."""

from types import SimpleNamespace

import numpy as np

from taudl_dist.dataset import TrackletReader
from taudl_dist.evaluation import samples
from taudl_dist.evaluation.evaluate import Protocol, rank_features
from taudl_dist.evaluation.probes import Probes, read_probes

PROBES = Probes(
    query=None,
    gallery=None,
    query_ids=np.array([1, 2, 3, 4, -1]),
    query_cameras=np.array([0, 0, 0, 0, 0]),
    gallery_ids=np.array([1, 2, 2, 3, -1, -1]),
    gallery_cameras=np.array([0, 0, 1, 1, 1, 0]),
)


def test_valid_queries_have_a_match_in_another_camera():
    assert samples.valid_queries(PROBES, 10).tolist() == [1, 2]  # 1: own camera only; 4: nowhere; -1: junk
    assert samples.valid_queries(PROBES, 1).tolist() == [2]


def ranked_by(dataset, features):
    probes = read_probes(dataset)
    return probes, rank_features("test", np.array(features, np.float32)[:, None], probes, protocol=Protocol())


def test_rank_lists_follow_the_distances(dataset):
    # queries of people 1 2 3 4 9, gallery of people 0 1 2 3 4, in manifest order (hashed inside a camera)
    probes = read_probes(dataset)
    position = {person: place for place, person in enumerate([1, 2, 3, 4, 9, 0])}
    features = [position[person] for person in [*probes.query_ids, *probes.gallery_ids]]
    probes, ranked = ranked_by(dataset, features)
    lists = samples.rank_lists(TrackletReader(dataset), probes, ranked, metric="euclidean", count=10, top=3)
    assert len(lists) == 4
    for entry in lists:
        assert entry.is_match == [True, False, False]
        assert np.allclose(entry.distances[0], 0, atol=1e-3)
        assert all(image[:2] == b"\xff\xd8" for image in [entry.query, *entry.gallery])


def test_cross_camera_distances_are_complete(dataset):
    probes, ranked = ranked_by(dataset, np.arange(10))
    same, different = samples.cross_camera_distances(probes, ranked, metric="euclidean", count=10)
    assert (len(same), len(different)) == (4, 4 * 4)


def test_training_tracklets_of_every_camera(dataset):
    shown = samples.training_tracklets(TrackletReader(dataset), dataset, per_camera=2, frames=3)
    assert [caption.splitlines()[0] for caption in shown] == ["cam1", "cam1", "cam2", "cam2"]
    assert all(len(images) == 3 for images in shown.values())
    assert all(caption.endswith("5 frames") for caption in shown)


def test_people_on_the_map_are_whole_and_nobody_else(dataset):
    probes, ranked = ranked_by(dataset, np.arange(10))
    features, people, cameras = samples.people_on_the_map(probes, ranked, at_most=100)
    assert sorted(people.tolist()) == [1, 1, 2, 2, 3, 3, 4, 4, 9]  # not the distractor
    everyone = np.concatenate([probes.query_ids, probes.gallery_ids])
    for feature, person, camera in zip(features[:, 0].astype(int), people, cameras):
        assert everyone[feature] == person
        assert camera == ("cam1" if feature < 5 else "cam2")
    _, few, _ = samples.people_on_the_map(probes, ranked, at_most=4)
    assert sorted(few.tolist()) == [2, 2, 4, 4]  # evenly spaced, each with all tracklets


def test_a_tracklet_that_is_query_and_gallery_stands_on_the_map_once(dataset):
    probes, _ = ranked_by(dataset, np.arange(10))
    both = Probes(
        query=probes.query, gallery=probes.query, query_ids=probes.query_ids, gallery_ids=probes.query_ids,
        query_cameras=probes.query_cameras, gallery_cameras=probes.query_cameras,
    )  # fmt: skip
    ranked = SimpleNamespace(query=np.zeros((5, 2), np.float32), gallery=np.ones((5, 2), np.float32))
    features, people, _ = samples.people_on_the_map(both, ranked, at_most=100)
    assert (features == 0).all()
    assert sorted(people.tolist()) == [1, 2, 3, 4, 9]


def test_images_of_queries_and_of_training_tracklets(dataset):
    reader, probes = TrackletReader(dataset), read_probes(dataset)
    queries = samples.query_images(reader, probes, count=3)
    assert [camera for camera, _ in queries] == ["cam1"] * 3
    training = samples.training_images(reader, dataset, count=4)
    assert [camera for camera, _ in training] == ["cam1", "cam1", "cam2", "cam2"]
    assert all(jpeg[:2] == b"\xff\xd8" for _, jpeg in [*queries, *training])
