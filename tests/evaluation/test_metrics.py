"""Ranking metrics against a slow, obvious implementation and against cases worked out by hand."""

import numpy as np
import pytest
import torch

from taudl_dist.errors import UserError
from taudl_dist.evaluation.distances import distance_blocks
from taudl_dist.evaluation.matches import ranking
from taudl_dist.evaluation.metrics import rank_metrics, rank_metrics_from_features


def slow_metrics(distances, query_ids, gallery_ids, query_cameras, gallery_cameras, max_rank, average_precision):  # noqa: PLR0917
    """One query at a time, one gallery item at a time, as the protocol is told."""
    curves, precisions, penalties = [], [], []
    for q, row in enumerate(distances):
        ranked = sorted(range(len(row)), key=lambda g: (row[g], g))
        kept = [g for g in ranked if gallery_ids[g] != -1
                and not (gallery_ids[g] == query_ids[q] and gallery_cameras[g] == query_cameras[q])]  # fmt: skip
        right = [bool(gallery_ids[g] == query_ids[q]) for g in kept]
        if not any(right):
            continue
        curves.append([any(right[: k + 1]) for k in range(max_rank)])
        penalties.append(sum(right) / (1 + max(k for k, is_right in enumerate(right) if is_right)))
        area, hits, old = 0.0, 0, 1.0
        for k, is_right in enumerate(right):
            hits += is_right
            precision = hits / (k + 1)
            if is_right:
                area += precision if average_precision == "step" else (old + precision) / 2
            old = precision
        precisions.append(area / sum(right))
    return np.mean(curves, axis=0), np.mean(precisions), np.mean(penalties), len(curves)


def small_tiles(monkeypatch, elements):
    """Several blocks and tiles, the last ones shorter."""
    for module in ("distances", "matches"):
        monkeypatch.setattr(f"taudl_dist.evaluation.{module}.TILE_ELEMENTS", elements)


def random_case(seed, *, num_queries=40, num_gallery=90, ties=False):
    rng = np.random.default_rng(seed)
    distances = rng.random((num_queries, num_gallery)).astype(np.float32)
    if ties:
        distances = np.round(distances * 5)
    return (
        distances,
        rng.integers(1, 12, num_queries),
        rng.integers(-1, 10, num_gallery),  # with junk, distractors, and queries 10 and 11 that have no match
        rng.integers(0, 3, num_queries),
        rng.integers(0, 3, num_gallery),
    )


@pytest.mark.parametrize("average_precision", ["step", "trapezoid"])
@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("num_gallery", [7, 90])  # shorter than max_rank, and longer
def test_agrees_with_the_slow_implementation(average_precision, ties, num_gallery, monkeypatch):
    small_tiles(monkeypatch, 600)
    for seed in range(8):
        case = random_case(seed, ties=ties, num_gallery=num_gallery)
        result = rank_metrics(*case, max_rank=20, average_precision=average_precision)
        cmc, mean_ap, mean_inp, num_valid = slow_metrics(*case, 20, average_precision)
        np.testing.assert_allclose(result.cmc, cmc, atol=1e-12)
        assert result.mAP == pytest.approx(mean_ap, abs=1e-12)
        assert result.mINP == pytest.approx(mean_inp, abs=1e-12)
        assert (result.num_valid_queries, result.num_skipped_queries) == (num_valid, 40 - num_valid)


# Query of identity 1 in camera 0; its gallery as identities, cameras and distances.
BY_HAND = [
    # remark, ids, cameras, distances, first rank, AP step, AP trapezoid, INP
    ("match first", [1, 2], [1, 1], [0.1, 0.2], 1, 1.0, 1.0, 1.0),
    ("match second", [2, 1], [1, 1], [0.1, 0.2], 2, 1 / 2, 1 / 4, 1 / 2),
    ("same camera dropped", [1, 2, 1], [0, 1, 1], [0.1, 0.2, 0.3], 2, 1 / 2, 1 / 4, 1 / 2),
    ("another person of the same camera stays", [2, 1], [0, 1], [0.1, 0.2], 2, 1 / 2, 1 / 4, 1 / 2),
    ("junk dropped", [-1, 1], [1, 1], [0.1, 0.2], 1, 1.0, 1.0, 1.0),
    ("distractor stays", [0, 1], [1, 1], [0.1, 0.2], 2, 1 / 2, 1 / 4, 1 / 2),
    ("tie: wrong one stands first", [2, 1], [1, 1], [0.5, 0.5], 2, 1 / 2, 1 / 4, 1 / 2),
    ("tie: right one stands first", [1, 2], [1, 1], [0.5, 0.5], 1, 1.0, 1.0, 1.0),
    ("ranks 1 and 3", [1, 2, 1], [1, 1, 2], [1, 2, 3], 1, (1 + 2 / 3) / 2, (1 + (1 / 2 + 2 / 3) / 2) / 2, 2 / 3),
    ("infinitely far, before the dropped", [1, 1], [0, 1], [0.1, np.inf], 1, 1.0, 1.0, 1.0),
    ("negative distances", [2, 1], [1, 1], [-1, -2], 1, 1.0, 1.0, 1.0),
]


@pytest.mark.parametrize(("ids", "cameras", "distances", "first", "step", "trapezoid", "inp"),
                         [row[1:] for row in BY_HAND], ids=[row[0] for row in BY_HAND])  # fmt: skip
def test_by_hand(ids, cameras, distances, first, step, trapezoid, inp):  # noqa: PLR0917
    result = rank_metrics([distances], [1], ids, [0], cameras, max_rank=4)
    assert result.cmc.tolist() == [float(k >= first) for k in (1, 2, 3, 4)]
    assert (result.mAP, result.mINP) == (pytest.approx(step), pytest.approx(inp))
    other = rank_metrics([distances], [1], ids, [0], cameras, average_precision="trapezoid")
    assert other.mAP == pytest.approx(trapezoid)
    order = ranking(np.array(distances), 1, 0, np.array(ids), np.array(cameras))
    assert ids[order[first - 1]] == 1


def test_cmc_keeps_its_last_value_where_the_gallery_is_shorter():
    result = rank_metrics([[0.3, 0.1]], [1], [1, 2], [0], [1, 1], max_rank=5)
    assert result.cmc.tolist() == [0, 1, 1, 1, 1]
    assert result.rank(20) == 1


def test_tensors_of_any_precision_give_the_same():
    case = random_case(3)
    expected = rank_metrics(*case)
    for dtype in (torch.float32, torch.float64):
        result = rank_metrics(torch.tensor(case[0], requires_grad=True).to(dtype), *map(torch.tensor, case[1:]))
        assert (result.cmc == expected.cmc).all()
        assert result.mAP == expected.mAP
    assert rank_metrics(torch.tensor(case[0]).bfloat16(), *case[1:]).num_valid_queries == expected.num_valid_queries


def test_names_of_people_and_cameras_are_as_good_as_numbers():
    distances, *labels = random_case(4)
    labels[1] = np.maximum(labels[1], 0)  # junk has no name
    named = [np.array([f"{value}" for value in side]) for side in labels]
    assert rank_metrics(distances, *named).mAP == rank_metrics(distances, *labels).mAP


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_features_give_the_metrics_of_their_distances(metric, monkeypatch):
    small_tiles(monkeypatch, 200)
    rng = np.random.default_rng(0)
    query, gallery = (rng.normal(size=(n, 16)).astype(np.float32) + 3 for n in (40, 90))
    if metric == "cosine":
        distances = torch.stack(
            [1 - torch.cosine_similarity(torch.tensor(q)[None], torch.tensor(gallery)) for q in query]
        )
    else:
        distances = torch.cdist(torch.tensor(query).double(), torch.tensor(gallery).double())
    rows, blocks = zip(*distance_blocks(query, gallery, metric=metric))
    assert len(rows) == 20
    assert {block.dtype for block in blocks} == {np.dtype(np.float32)}
    np.testing.assert_allclose(np.concatenate(blocks), distances, atol=1e-5)
    targets = random_case(1)[1:]
    result = rank_metrics_from_features(query, gallery, *targets, metric=metric)
    assert result.mAP == pytest.approx(rank_metrics(distances, *targets).mAP, abs=1e-6)


def test_far_from_the_origin_near_neighbours_are_still_told_apart():
    gallery = np.array([[1000.0, 0.0], [1000.01, 0.0]], np.float32)
    (_, block), = distance_blocks(gallery, gallery)  # fmt: skip
    assert block[0, 1] == pytest.approx(0.01, rel=0.02)
    assert block[0, 0] < 1e-4


def test_zero_features_are_at_cosine_distance_one():
    (_, block), = distance_blocks(np.zeros((1, 3), np.float32), np.eye(3, dtype=np.float32), metric="cosine")  # fmt: skip
    assert block.tolist() == [[1, 1, 1]]


BAD = [
    # remark, arguments, what the message says
    ("transposed", (np.zeros((3, 2)), [1, 2], [1, 2, 3], [0, 0], [1, 1, 1]), r"\(3, 2\), expected \(2, 3\)"),
    ("ids and cameras differ", (np.zeros((1, 2)), [1], [1, 2], [0], [1]), "gallery ids"),
    ("identities between numbers", ([[0.1, 0.2]], [1.5], [1, 1], [0], [1, 1]), "query ids are of type float64"),
    ("NaN", ([[np.nan, 1.0]], [1], [1, 1], [0], [1, 1]), "1 distances are NaN"),
    ("no match at all", ([[0.1, 0.2]], [1], [2, 1], [0], [1, 0]), "none of the 1 queries"),
    ("no queries", (np.zeros((0, 2)), [], [1, 2], [], [1, 1]), "none of the 0 queries"),
    ("no gallery", (np.zeros((1, 0)), [1], [], [0], []), "gallery of 0"),
]


@pytest.mark.parametrize(("arguments", "message"), [row[1:] for row in BAD], ids=[row[0] for row in BAD])
def test_bad_input_is_named(arguments, message):
    with pytest.raises(UserError, match=message):
        rank_metrics(*arguments)


@pytest.mark.parametrize("option", [{"max_rank": 0}, {"average_precision": "area"}])
def test_bad_options_are_named(option):
    with pytest.raises(UserError, match=next(iter(option))):
        rank_metrics([[0.1]], [1], [1], [0], [1], **option)


def test_features_of_another_length_are_named():
    with pytest.raises(UserError, match="one length"):
        rank_metrics_from_features(np.zeros((1, 3)), np.zeros((1, 4)), [1], [1], [0], [1])
    with pytest.raises(UserError, match="1 queries and 2 gallery"):
        rank_metrics_from_features(np.zeros((1, 3)), np.zeros((2, 3)), [1], [1], [0], [1])
