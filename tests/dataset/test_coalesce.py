from __future__ import annotations

import random

import pytest

from taudl_dist.dataset.coalesce import Extent, coalesce

CASES = [
    # extents, ranges as (shard, offset, length, number of extents), remark
    ([], [], "nothing"),
    ([(0, 0, 10)], [(0, 0, 10, 1)], "one"),
    ([(0, 0, 10), (0, 10, 5)], [(0, 0, 15, 2)], "touching"),
    ([(0, 0, 10), (0, 30, 5)], [(0, 0, 35, 2)], "a gap of the limit"),
    ([(0, 0, 10), (0, 31, 5)], [(0, 0, 10, 1), (0, 31, 5, 1)], "a gap beyond the limit"),
    ([(0, 30, 5), (0, 0, 10)], [(0, 0, 35, 2)], "out of order"),
    ([(0, 0, 10), (1, 10, 5)], [(0, 0, 10, 1), (1, 10, 5, 1)], "neighbours in different shards"),
    ([(0, 0, 10), (0, 0, 10)], [(0, 0, 10, 1)], "one twice"),
    ([(0, 0, 60), (0, 60, 41)], [(0, 0, 60, 1), (0, 60, 41, 1)], "too long together"),
    ([(0, 0, 60), (0, 60, 40)], [(0, 0, 100, 2)], "just not too long"),
    ([(0, 0, 200)], [(0, 0, 200, 1)], "one that is too long alone is still fetched"),
    ([(0, 0, 50), (0, 10, 5)], [(0, 0, 50, 2)], "one inside another, which a damaged index can say"),
    ([(3, 0, 9), (1, 0, 9), (2, 0, 9)], [(3, 0, 9, 1), (1, 0, 9, 1), (2, 0, 9, 1)], "the order of need"),
]


@pytest.mark.parametrize(("extents", "expected"), [row[:2] for row in CASES], ids=[row[2] for row in CASES])
def test_table(extents, expected):
    ranges = coalesce([Extent(*extent) for extent in extents], gap_bytes=20, range_bytes=100)
    assert [(r.shard, r.offset, r.length, len(r.extents)) for r in ranges] == expected


def test_every_extent_lies_in_exactly_one_range():
    rng = random.Random(1)
    for _ in range(50):
        extents = [Extent(rng.randrange(3), rng.randrange(500), rng.randrange(1, 40)) for _ in range(30)]
        ranges = coalesce(extents, gap_bytes=5, range_bytes=80)
        held = [extent for wanted in ranges for extent in wanted.extents]
        assert sorted(held) == sorted(set(extents))
        for wanted in ranges:
            assert all(e.shard == wanted.shard for e in wanted.extents)
            assert all(wanted.offset <= e.offset and e.end <= wanted.offset + wanted.length for e in wanted.extents)
            assert wanted.length <= 80
