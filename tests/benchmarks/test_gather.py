"""Whether the counts of neighbours are right, and whether the benchmark runs."""

from __future__ import annotations

import io
import json
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks import gather
from benchmarks.gather import Matches, people_of_benchmark
from data_tools.shards import ImportTracklet, write_dataset
from taudl_dist.dataset import open_dataset


def test_matches_against_a_loop():
    rng = np.random.default_rng(0)
    means, cameras, labels = rng.normal(size=(24, 5)), rng.integers(0, 4, 24), np.arange(24)
    people = {(int(c), int(label)): int(rng.integers(0, 6)) for c, label in zip(cameras, labels) if label % 5}
    matches = Matches(people)
    matches.count(torch.from_numpy(means), cameras, labels)
    person = [people.get(place) for place in zip(cameras.tolist(), labels.tolist())]
    known = matched = true = possible = 0
    for i in range(24):
        others = [j for j in range(24) if cameras[j] != cameras[i]]
        nearest = sorted(others, key=lambda j, i=i: np.linalg.norm(means[i] - means[j]))[:2]  # K = 4 cameras // 2
        same = [j for j in others if person[i] is not None and person[j] == person[i]]
        known += person[i] is not None
        matched += bool(same)
        true += len(set(nearest) & set(same))
        possible += min(2, len(same))
    assert 0 < matched < known < 24 and 0 < true < possible
    assert matches.rates("a") == pytest.approx({"a_match": matched / known, "a_found": true / possible})


def jpeg(person: int, seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(90, 130, (32, 16, 3))
    pixels[4:28, 4:12] = np.random.default_rng(person).integers(0, 256, 3)
    stream = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(stream, "JPEG")
    return stream.getvalue()


def write_world(folder, *, with_people: bool = True):
    tracklets = [
        ImportTracklet(
            camera=camera, split=split, name=f"{person}", person_id=person if with_people or split != "train" else None,
            frames=[(frame, jpeg(person, 7 * person + frame)) for frame in range(4)],
        )
        for camera, tested in (("cam1", "query"), ("cam2", "gallery"))
        for split, people in (("train", range(1, 7)), (tested, range(7, 9)))
        for person in people
    ]  # fmt: skip
    return write_dataset(folder, tracklets, settings={}, source={})


def test_people_of_a_benchmark(tmp_path):
    dataset = open_dataset(write_world(tmp_path / "data"))
    assert sorted(people_of_benchmark(dataset).values()) == sorted([*range(1, 7)] * 2)


def test_a_dataset_without_people_is_refused(tmp_path, monkeypatch):
    data = write_world(tmp_path / "data", with_people=False)
    monkeypatch.setattr(sys, "argv", ["gather", "--data", str(data)])
    with pytest.raises(SystemExit, match="tells nobody's identity; give --world"):
        gather.main()


@pytest.mark.slow
def test_the_table(tmp_path, monkeypatch, capsys):
    data, file = write_world(tmp_path / "data"), tmp_path / "rows.json"
    sizes = ["--tracklets", "4", "12", "--split", "4", "--images", "64", "--frames", "2"]
    words = ["gather", "--data", str(data), "--warm", "2", "--warm-tracklets", "4", "--recipes", "best", *sizes]
    monkeypatch.setattr(sys, "argv", [*words, "--json", str(file)])
    threads = torch.get_num_threads()
    try:
        gather.main()
    finally:
        torch.set_num_threads(threads)
    warm, small, large = json.loads(file.read_text())
    assert warm["recipe"] == "warm" and (small["tracklets"], large["tracklets"]) == (4, 12)
    assert (small["steps"], large["steps"]) == (8, 4)
    assert large["early_match"] == 1 > small["early_match"]  # all twelve tracklets are in each batch
    assert len(capsys.readouterr().out.splitlines()) == 3 + 2 + 3
