"""The expected single-gallery-shot CMC against listing every draw."""

import itertools

import numpy as np
import pytest

from taudl_dist.errors import UserError
from taudl_dist.evaluation.single_shot import single_shot_cmc


def by_listing(distances, query_ids, gallery_ids, query_cameras, gallery_cameras, max_rank):  # noqa: PLR0917
    """Every way to draw one gallery item per person, ranked; the mean over draws, then over queries."""
    curves = []
    for q, row in enumerate(distances):
        kept = [g for g in range(len(row)) if gallery_ids[g] != -1
                and not (gallery_ids[g] == query_ids[q] and gallery_cameras[g] == query_cameras[q])]  # fmt: skip
        people = sorted({gallery_ids[g] for g in kept})
        if query_ids[q] not in people or query_ids[q] == -1:
            continue
        draws = []
        for draw in itertools.product(*[[g for g in kept if gallery_ids[g] == person] for person in people]):
            ranked = sorted(draw, key=lambda g: (row[g], g))
            first = [gallery_ids[g] for g in ranked].index(query_ids[q])
            draws.append([first <= k for k in range(max_rank)])
        curves.append(np.mean(draws, axis=0))
    return np.mean(curves, axis=0)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("max_rank", [1, 3, 10])  # within the number of people, and beyond
def test_agrees_with_every_draw(ties, max_rank):
    for seed in range(4):
        rng = np.random.default_rng(seed)
        distances = rng.random((6, 13))
        distances = np.round(3 * distances) if ties else distances
        labels = rng.integers(-1, 6, 6), rng.integers(-1, 5, 13), rng.integers(0, 2, 6), rng.integers(0, 2, 13)
        expected = by_listing(distances, *labels, max_rank)
        np.testing.assert_allclose(single_shot_cmc(distances, *labels, max_rank=max_rank), expected, atol=1e-12)


def test_one_image_per_person_is_the_plain_cmc():
    assert single_shot_cmc([[0.3, 0.1, 0.2]], [1], [1, 2, 3], [0], [1, 1, 1], max_rank=4).tolist() == [0, 0, 1, 1]


def test_bad_input_is_named():
    with pytest.raises(UserError, match="none of the 1 queries"):
        single_shot_cmc([[0.3]], [1], [2], [0], [1])
    with pytest.raises(UserError, match="max_rank is 0"):
        single_shot_cmc([[0.3]], [1], [1], [0], [1], max_rank=0)
    with pytest.raises(UserError, match=r"shape \(1, 1\), expected \(1, 2\)"):
        single_shot_cmc([[0.3]], [1], [1, 2], [0], [1, 1])
