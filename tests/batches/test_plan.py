from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from taudl_dist.batches import BatchPlan
from taudl_dist.config import resolve
from taudl_dist.errors import UsageError, UserError


@pytest.fixture
def make_plan(index_in_memory):
    def make(sizes, *, seed=0, digest="0" * 64, num_frames=None, batch_norm="group", **batch):
        config = resolve({"seed": seed, "batch": {"frames": 4, **batch}, "model": {"batch_norm": batch_norm}})
        return BatchPlan(index_in_memory(sizes, digest=digest, num_frames=num_frames), config)

    return make


def content(groups):
    """Everything of some groups as plain numbers, for comparison."""
    return [
        (g.index, g.camera, g.slots.tolist(), g.rows.tolist(), g.labels.tolist(), g.frames.tolist())
        + tuple(values.tolist() for values in vars(g.draws).values())
        for g in groups
    ]


def shares(plan, step, world_size):
    """The groups of each worker."""
    return [plan.share(step, rank=rank, world_size=world_size)[0] for rank in range(world_size)]


def check_batch(plan, groups):
    """What holds for every batch."""
    offsets = plan.dataset.training.camera_offsets
    rows = np.concatenate([g.rows for g in groups])
    assert len(np.unique(rows)) == len(rows), "a tracklet twice"
    runs = [g.camera for i, g in enumerate(groups) if i == 0 or groups[i - 1].camera != g.camera]
    assert len(set(runs)) == len(runs) == plan.cameras_per_step, "a camera twice"
    assert [g.index for g in groups] == list(range(len(groups)))
    assert np.concatenate([g.slots for g in groups]).tolist() == list(range(len(rows)))
    for group in groups:
        assert (offsets[group.camera] <= group.rows).all() and (group.rows < offsets[group.camera + 1]).all()
        assert (group.labels == group.rows - offsets[group.camera]).all()
        assert group.frames.shape == (len(group.rows), plan.config.batch.frames)
        assert len(group.draws) == group.num_images
        assert (group.frames < plan.dataset.training.num_frames[group.rows][:, None]).all() and group.frames.min() >= 0
    shown = Counter(camera for g in groups for camera in [g.camera] * len(g.rows))
    sizes = np.diff(offsets)
    assert all(count == min(sizes[camera], plan.tracklets_per_camera) for camera, count in shown.items())


@pytest.mark.parametrize(
    ("sizes", "batch"),
    [
        ([1, 2, 3, 4, 5, 40], {"images": 96}),  # every camera, most smaller than n
        (list(range(1, 41)), {"images": 96, "cameras": 7}),  # T not divisible by C
        (list(range(1, 41)), {"images": 480, "cameras": 39}),  # C = T - 1: nearly every batch straddles
        (list(range(1, 41)), {"images": 320, "cameras": 20, "groups_per_camera": 3}),
        ([5], {"images": 16}),  # one camera
        ([9, 0, 4, 0, 7], {"images": 48, "cameras": 2}),  # cameras without tracklets take no part
    ],
)
def test_exact_coverage_and_no_repeats(make_plan, sizes, batch):
    plan = make_plan(sizes, **batch)
    active = [camera for camera, size in enumerate(sizes) if size]
    steps = len(active) * 12
    visits, tracklets = Counter(), Counter()
    for step in range(steps):
        groups = plan.groups(step)
        check_batch(plan, groups)
        visits.update({g.camera for g in groups})
        for group in groups:
            tracklets.update(group.rows.tolist())
    assert set(visits.values()) == {steps * plan.cameras_per_step // len(active)} and set(visits) == set(active)
    offsets = plan.dataset.training.camera_offsets
    for camera in active:  # whole epochs show everything equally often, a part of one differs by one
        counts = {tracklets[row] for row in range(offsets[camera], offsets[camera + 1])}
        assert max(counts) - min(counts) <= 1, camera
        shown = visits[camera] * min(sizes[camera], plan.tracklets_per_camera)
        assert sum(tracklets[row] for row in range(offsets[camera], offsets[camera + 1])) == shown


def reads_of_the_same_worker(plan, *, steps, world_size):
    """Share of the reads of all workers that repeat an earlier one of the same worker."""
    seen, hits, reads = [set() for _ in range(world_size)], 0, 0
    for step in range(steps):
        for rank, run in enumerate(shares(plan, step, world_size)):
            rows = [row for group in run for row in group.rows.tolist()]
            hits += len(seen[rank].intersection(rows))
            reads += len(rows)
            seen[rank].update(rows)
    return hits / reads


@pytest.mark.parametrize(
    ("num_cameras", "batch", "least"),
    [
        (8, {"images": 128}, 2 / 3),  # every camera in each batch: all reads but those of the first of three epochs
        (40, {"images": 160, "cameras": 10}, 0.4),  # a quarter of them
    ],
)
def test_a_camera_is_mostly_read_by_the_same_worker(make_plan, num_cameras, batch, least):
    plan = make_plan([20] * num_cameras, **batch)
    steps = 3 * 20 * num_cameras // (plan.cameras_per_step * plan.tracklets_per_camera)
    shares = {world_size: reads_of_the_same_worker(plan, steps=steps, world_size=world_size) for world_size in (1, 4)}
    assert shares[1] == pytest.approx(2 / 3) and shares[4] >= least - 1e-9  # in a random order 1/6


def test_five_thousand_cameras(make_plan):
    sizes = np.random.default_rng(3).integers(1, 41, 5000)
    plan = make_plan(sizes, cameras=48)
    seen = Counter()
    for step in range(2 * 625):  # gcd(5000, 48) = 8: 625 steps are 6 rounds
        layout = plan.layout(step)
        camera, rows = layout.cameras, layout.rows
        assert len(np.unique(rows)) == len(rows)
        cameras = camera[np.flatnonzero(np.diff(camera, prepend=-1))]
        assert len(np.unique(cameras)) == 48
        seen.update(cameras.tolist())
    assert set(seen.values()) == {12} and len(seen) == 5000
    for step in (10**6, 10**9):
        check_batch(plan, plan.groups(step))


def test_steps_are_independent_of_order_and_of_the_plan_object(make_plan):
    plan = make_plan([13, 7, 22, 9, 5], images=48, cameras=3, groups_per_camera=2)
    forward = {step: content(plan.groups(step)) for step in range(12)}
    again = make_plan([13, 7, 22, 9, 5], images=48, cameras=3, groups_per_camera=2)
    for step in (11, 3, 7, 0):
        assert content(again.groups(step)) == forward[step]


def test_seed_digest_and_step_each_change_the_batch(make_plan):
    sizes = [100] * 6
    plans = [make_plan(sizes), make_plan(sizes, seed=1), make_plan(sizes, digest="1" * 64)]
    batches = [content(plan.groups(0)) for plan in plans] + [content(plans[0].groups(1))]
    for part in (3, 5, 6):  # rows, frames, crops
        assert len({str([group[part] for group in batch]) for batch in batches}) == 4


def test_batches_are_fixed_for_ever(make_plan):
    """Other numbers here break the resume of every run: raise PLAN_VERSION."""
    groups = make_plan([13, 7, 22, 9, 5], images=24, cameras=3, num_frames=np.full(56, 9)).groups(1000)
    assert [(g.camera, g.labels.tolist(), g.frames.tolist()) for g in groups] == [
        (1, [4, 5], [[0, 1, 4, 7], [0, 1, 7, 8]]),
        (2, [16, 4], [[0, 4, 6, 7], [2, 3, 5, 6]]),
        (4, [1, 3], [[0, 3, 4, 7], [2, 6, 7, 8]]),
    ]


@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 6, 8])
@pytest.mark.parametrize("step", [0, 1, 10**6])
def test_workers_share_the_same_groups_in_order(make_plan, world_size, step):
    plan = make_plan([40] * 6, images=96, groups_per_camera=2)
    runs = shares(plan, step, world_size)
    assert content([group for run in runs for group in run]) == content(plan.groups(step))
    sizes = [len(run) for run in runs]
    assert max(sizes) - min(sizes) <= 1 and min(sizes) >= 1


@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 6, 8])
def test_every_worker_knows_what_the_others_have(make_plan, world_size):
    plan = make_plan([5, 1, 9, 0, 30, 2, 2, 2, 7, 3], images=96)
    for step in (0, 7, 10**6):
        runs = shares(plan, step, world_size)
        groups = [group for run in runs for group in run]
        layout = plan.layout(step)
        assert content(groups) == content(plan.groups(step))
        assert layout.rank_tracklets(world_size) == tuple(sum(len(g.rows) for g in run) for run in runs)
        assert layout.rows.tolist() == [row for g in groups for row in g.rows]
        assert layout.labels.tolist() == [label for g in groups for label in g.labels]
        assert layout.cameras.tolist() == [g.camera for g in groups for _ in g.rows]
        assert layout.num_cameras == len({g.camera for g in groups}) and layout.num_groups == len(groups)


def test_groups_per_camera_cuts_a_visit_into_near_equal_parts(make_plan):
    whole, cut = (make_plan([40, 3, 40], images=84, groups_per_camera=parts) for parts in (1, 3))
    assert whole.tracklets_per_camera == 7
    a, b = whole.groups(5), cut.groups(5)
    assert np.concatenate([g.rows for g in a]).tolist() == np.concatenate([g.rows for g in b]).tolist()
    assert sorted(len(g.rows) for g in b) == [1, 1, 1, 2, 2, 2, 2, 3, 3]


def test_numbers_of_groups(make_plan):
    plan = make_plan([40, 1, 2, 40], images=96, cameras=3, groups_per_camera=2)
    counts = [len(plan.groups(step)) for step in range(8)]
    assert min(counts) == plan.num_groups == 5 and max(counts) <= plan.max_groups == 6
    assert max(sum(g.num_images for g in plan.groups(step)) for step in range(8)) <= plan.images_per_step == 96


@pytest.mark.parametrize(
    ("num_cameras", "batch", "expected"),
    [
        (6, {}, (6, 16)),  # the paper on Market-1501
        (8, {}, (8, 12)),
        (2, {"frames": 16}, (2, 12)),  # PRID2011
        (15, {}, (15, 6)),  # 96 // 15, the rest of the batch is not used
        (5000, {}, (96, 1)),  # as many as there is room for
        (5000, {"cameras": 24}, (24, 4)),
        (97, {}, (96, 1)),
    ],
)
def test_shape_of_the_batch(make_plan, num_cameras, batch, expected):
    plan = make_plan([50] * num_cameras, **batch)
    assert (plan.cameras_per_step, plan.tracklets_per_camera) == expected


@pytest.mark.parametrize(
    ("sizes", "batch", "words"),
    [
        ([5, 5], {"cameras": 3}, "2 cameras"),
        ([5, 5], {"images": 3}, "images=3"),
        ([5] * 9, {"images": 32, "cameras": 9}, "36 images"),
        ([5, 5], {"images": 16, "groups_per_camera": 3}, "set it to 2"),
        ([5, 1], {"frames": 1, "images": 8}, "camera cam2"),  # batch norm of a single image
        ([5, 5], {"frames": 1, "images": 8, "groups_per_camera": 4}, "two images"),
    ],
)
def test_batches_that_cannot_be_formed(make_plan, sizes, batch, words):
    with pytest.raises(UsageError, match=words):
        make_plan(sizes, **batch)


def test_single_images_are_fine_with_synchronised_batch_norm(make_plan):
    assert make_plan([5, 1], frames=1, images=8, batch_norm="sync").num_groups == 2


@pytest.mark.parametrize("sizes", [[], [0, 0]])
def test_nothing_to_train_on(make_plan, sizes):
    with pytest.raises(UserError, match="no training tracklets"):
        make_plan(sizes)


def test_more_workers_than_groups_names_the_way_out(make_plan):
    plan = make_plan([40] * 6, images=96)
    with pytest.raises(UsageError, match=r"groups_per_camera=2.*at most 6 workers"):
        plan.share(0, rank=0, world_size=8)
    assert all(shares(make_plan([40] * 6, images=96, groups_per_camera=2), 0, 8))
