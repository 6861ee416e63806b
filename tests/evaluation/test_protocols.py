"""The named protocols, against what a dataset says about itself and against rankings by hand."""

import io

import numpy as np
import pytest
from PIL import Image

from data_tools.shards import ImportTracklet, write_dataset
from taudl_dist.dataset import open_dataset
from taudl_dist.errors import UsageError, UserError
from taudl_dist.evaluation import evaluate, rank_metrics, single_shot_cmc
from taudl_dist.evaluation.evaluate import numbers, rank_features, table
from taudl_dist.evaluation.probes import read_probes
from taudl_dist.evaluation.protocols import BENCHMARKS, Protocol, benchmark_of
from tests.evaluation.test_reranking import slow_reranking

SETTINGS = [
    # what dataset.json says, the protocol it asks for
    ({}, "standard"),
    ({"interval_s": 6.0}, "standard"),
    ({"benchmark": "another"}, "standard"),
    ({"benchmark": "market1501"}, "market1501"),
    ({"benchmark": "dukemtmcreid"}, "dukemtmcreid"),
    ({"benchmark": "cuhk03", "protocol": "new"}, "cuhk03"),
    ({"benchmark": "cuhk03", "protocol": "classic"}, "cuhk03-classic"),
    ({"benchmark": "prid2011", "split": 3}, "prid2011"),
    ({"benchmark": "ilids-vid", "split": 3}, "ilids-vid"),
    ({"benchmark": "mars", "gallery": "without-queries"}, "mars"),
    ({"benchmark": "mars", "gallery": "with-queries"}, "mars-official"),
]


@pytest.mark.parametrize(("settings", "name"), SETTINGS)
def test_a_dataset_tells_its_protocol(settings, name):
    assert benchmark_of(settings) == name
    assert name in BENCHMARKS


def test_every_importer_has_a_protocol_and_the_command_knows_all():
    from typing import get_args, get_type_hints

    from data_tools.benchmarks import IMPORTERS
    from taudl_dist.commands.evaluate import EvaluateArgs

    assert set(IMPORTERS) <= set(BENCHMARKS)
    assert get_args(get_type_hints(EvaluateArgs)["protocol"]) == ("auto", *BENCHMARKS)


def test_reranking_and_single_shot_exclude_each_other():
    with pytest.raises(UsageError, match="leave one out"):
        Protocol(rerank=True, single_shot=True)


def jpeg(shade):
    stream = io.BytesIO()
    Image.fromarray(np.full((32, 16, 3), shade, np.uint8)).save(stream, "JPEG")
    return stream.getvalue()


@pytest.fixture(scope="module")
def mars_path(tmp_path_factory):
    """A test part as MARS has it: queries that are gallery too, people, a distractor, junk."""
    tracklets = [
        ("cam1", "both", 1), ("cam2", "both", 1), ("cam1", "both", 2), ("cam2", "gallery", 2), ("cam1", "gallery", 1),
        ("cam2", "gallery", 0), ("cam2", "gallery", -1), ("cam1", "train", None), ("cam2", "train", None),
    ]  # fmt: skip
    made = [
        ImportTracklet(
            camera=camera,
            split=split,
            name=f"{n}",
            person_id=person,
            frames=[(f, jpeg(20 * n + 9 * f)) for f in range(3)],
        )
        for n, (camera, split, person) in enumerate(tracklets)
    ]
    settings = {"benchmark": "mars", "gallery": "with-queries"}
    return write_dataset(tmp_path_factory.mktemp("mars") / "dataset", made, settings=settings, source={})


GALLERIES = [("stored", 7), ("with-queries", 7), ("without-queries", 3)]


@pytest.mark.parametrize(("gallery", "count"), GALLERIES)
def test_galleries_of_mars(mars_path, gallery, count):
    probes = read_probes(open_dataset(mars_path), gallery=gallery)
    assert (len(probes.query), len(probes.gallery)) == (3, count)
    if gallery == "without-queries":
        assert sorted(probes.gallery_ids) == [0, 1, 2]


def test_a_gallery_without_the_queries_cannot_be_one_with_them(dataset):
    with pytest.raises(UserError, match=r"5 of 5 queries are not in its gallery.*--protocol mars"):
        read_probes(dataset, gallery="with-queries")


def test_both_protocols_of_mars_on_one_dataset(mars_path, run):
    official = evaluate(mars_path, run)
    assert (official["protocol"], official["num_gallery"], official["num_valid_queries"]) == ("mars-official", 7, 3)
    assert (official["pooling"], official["metric"], official["average_precision"]) == ("max", "cosine", "trapezoid")
    assert "trapezoid average precision, largest value over frames" in table(official)
    usual = evaluate(mars_path, run, protocol=BENCHMARKS["mars"].protocol)
    assert (usual["num_gallery"], usual["num_valid_queries"], usual["num_skipped_queries"]) == (3, 2, 1)


@pytest.fixture
def features():
    """Of five queries and five gallery tracklets."""
    return np.random.default_rng(1).normal(size=(10, 8)).astype(np.float32)


def test_single_shot_changes_the_cmc_alone(dataset, features):
    probes = read_probes(dataset)
    found = rank_features("model", features, probes, protocol=Protocol(single_shot=True)).metrics
    plain = rank_features("model", features, probes, protocol=Protocol()).metrics
    distances = np.linalg.norm(features[:5, None] - features[5:], axis=2)
    np.testing.assert_allclose(found.cmc, single_shot_cmc(distances, *probes.targets))
    assert {k: v for k, v in numbers(found).items() if k[0] != "r"} == {
        k: v for k, v in numbers(plain).items() if k[0] != "r"
    }


def test_reranked_metrics_are_those_of_reranked_distances(dataset, features):
    probes = read_probes(dataset)
    found = rank_features("model", features, probes, protocol=Protocol(rerank=True)).metrics
    expected = rank_metrics(slow_reranking(features[:5], features[5:], "euclidean", 20, 6, 0.3), *probes.targets)
    assert (found.mAP, found.cmc.tolist()) == (expected.mAP, expected.cmc.tolist())


def test_what_is_query_and_gallery_is_embedded_once(mars_path, run, monkeypatch):
    from taudl_dist.evaluation import features

    asked = []
    original = features.embed
    monkeypatch.setattr(features, "embed", lambda *args, **kw: asked.append(args[2]) or original(*args, **kw))
    evaluate(mars_path, run)
    assert [len(rows) for rows in asked] == [7]  # three queries among them
