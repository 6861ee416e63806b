"""What each step trains on: a pure function of (dataset digest, seed, step), the same for every number of workers.

No state: step 10^6 costs what step 0 costs, and a checkpoint holds the step alone. A global batch is C cameras x n tracklets x F
frames; cameras and the tracklets of a camera are drawn by `stream.draw`, so that

- no camera and no tracklet comes twice in a batch, across the boundaries of rounds and epochs too;
- every camera comes exactly once in a round, and every tracklet of a camera exactly once in an epoch of that camera;
- a camera with fewer than n tracklets shows all of them on each visit; one without tracklets takes no part.

Cameras stand in a batch in ascending order: with all of them in each batch, a camera is always read by the same worker, and else mostly
by the same few, so that a worker's cache holds what it will read in the next epoch.
"""

from __future__ import annotations

import hashlib
import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from taudl_dist.batches.draws import Draws, choose_frames, draw_augmentation, uniforms
from taudl_dist.batches.permutation import fold
from taudl_dist.batches.stream import draw
from taudl_dist.config import Config
from taudl_dist.errors import UsageError, UserError

if TYPE_CHECKING:
    from taudl_dist.dataset import Dataset

PLAN_VERSION = 2
"""Changes whenever the same (digest, seed, step) would give another batch."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """One camera's visit or an equal part of it: never split over workers, and the batch norm group."""

    index: int
    """Position in the global batch."""
    camera: int
    """Index into the dataset's cameras."""
    slots: NDArray[np.int64]
    """(m,) positions of the tracklets in the global batch, ascending over the groups."""
    rows: NDArray[np.int64]
    """(m,) rows of the training index."""
    labels: NDArray[np.int64]
    """(m,) labels of the tracklets within their camera."""
    frames: NDArray[np.int64]
    """(m, F) frames inside each tracklet, ascending."""
    draws: Draws
    """Crops and flips of the m*F images, tracklet by tracklet."""

    @property
    def num_images(self) -> int:
        return self.frames.size


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """Which tracklets stand where in a global batch: all that a worker has to know of the others' shares."""

    step: int
    num_cameras: int
    """Cameras present, C."""
    cameras: NDArray[np.int64]
    """(N,) index into the dataset's cameras."""
    rows: NDArray[np.int64]
    """(N,) rows of the training index."""
    labels: NDArray[np.int64]
    """(N,) labels within their camera."""
    edges: NDArray[np.int64]
    """(G + 1,) the first tracklet of each group, and N."""

    @property
    def num_groups(self) -> int:
        return len(self.edges) - 1

    def runs(self, world_size: int) -> list[range]:
        """The groups of each worker: contiguous, differing by at most one group.

        Raises:
            UsageError: more workers than groups.
        """
        check_world_size(self.num_groups, self.num_cameras, world_size)
        return _runs(self.num_groups, world_size)

    def rank_tracklets(self, world_size: int) -> tuple[int, ...]:
        """Tracklets of each worker."""
        return tuple(int(self.edges[run.stop] - self.edges[run.start]) for run in self.runs(world_size))


class BatchPlan:
    """The batches of a training run.

    Args:
        dataset: an open dataset or its path; only `.digest`, `.cameras` and `.training` are used.
        config: batch, augment, seed and model.batch_norm decide.

    Raises:
        UserError: there is nothing to train on.
        UsageError: the batch cannot be formed from this dataset.
    """

    def __init__(self, dataset: Dataset | str | Path, config: Config) -> None:
        if isinstance(dataset, str | Path):
            from taudl_dist.dataset import open_dataset

            dataset = open_dataset(dataset, config.storage)
        self.dataset = dataset
        self.config = config
        sizes = np.diff(dataset.training.camera_offsets)
        self.cameras = np.flatnonzero(sizes)
        """Indices of the cameras that have training tracklets, T of them."""
        self._sizes = sizes[self.cameras]
        if not len(self.cameras):
            raise UserError(
                f"the dataset (digest {dataset.digest}) has no training tracklets; shard or import some first"
            )
        self.cameras_per_step = _cameras_per_step(config, len(self.cameras))
        """C: cameras of one batch."""
        self.tracklets_per_camera = config.batch.images // (self.cameras_per_step * config.batch.frames)
        """n: tracklets of a camera in one batch, or all it has if those are fewer."""
        self._take = np.minimum(self._sizes, self.tracklets_per_camera)
        self._check_groups()
        text = f"taudl batch plan {PLAN_VERSION}|{dataset.digest}|{config.seed}"
        words = np.frombuffer(hashlib.sha256(text.encode()).digest(), "<u8").astype(np.uint64)
        self._camera_key, self._tracklet_keys, self._draw_key = words[:1], fold(words[1], self.cameras), words[2:]

    @property
    def images_per_step(self) -> int:
        """Images of a batch whose cameras all have n tracklets; no batch is larger."""
        return self.cameras_per_step * self.tracklets_per_camera * self.config.batch.frames

    @property
    def num_groups(self) -> int:
        """Groups that every batch has at least; more workers than these cannot be fed."""
        parts = np.minimum(self._take, self.config.batch.groups_per_camera)
        return int(np.sort(parts)[: self.cameras_per_step].sum())

    @property
    def max_groups(self) -> int:
        """Groups that a batch has at most."""
        return self.cameras_per_step * self.config.batch.groups_per_camera

    def epochs(self, steps: int) -> NDArray[np.float64]:
        """How often `steps` steps show each tracklet of a camera, for each of `cameras`."""
        return steps * self.cameras_per_step / len(self.cameras) * self._take / self._sizes

    def groups(self, step: int) -> list[Group]:
        """The groups of a step, in the order of the global batch."""
        layout = self.layout(step)
        return self.draw(layout, range(layout.num_groups))

    def share(self, step: int, *, rank: int, world_size: int) -> tuple[list[Group], Layout]:
        """One worker's groups and the whole batch's layout, without drawing frames and crops for the other workers.

        Raises:
            UsageError: more workers than groups.
        """
        layout = self.layout(step)
        return self.draw(layout, layout.runs(world_size)[rank]), layout

    def layout(self, step: int) -> Layout:
        """What the global batch of a step consists of."""
        cameras, visits = draw(
            np.array([step]), np.array([len(self.cameras)]), np.array([self.cameras_per_step]), self._camera_key
        )
        order = np.argsort(cameras[0])
        chosen, visits = cameras[0, order], visits[0, order]
        take = self._take[chosen]
        labels, _ = draw(visits, self._sizes[chosen], take, self._tracklet_keys[chosen])
        camera = np.repeat(self.cameras[chosen], take)
        label = labels[np.arange(labels.shape[1]) < take[:, None]]
        return Layout(
            step=step,
            num_cameras=self.cameras_per_step,
            cameras=camera,
            rows=self.dataset.training.camera_offsets[camera] + label,  # in order of labels 0..M_c-1 within a camera
            labels=label,
            edges=_edges(take, self.config.batch.groups_per_camera),
        )

    def draw(self, layout: Layout, groups: range) -> list[Group]:
        """Some consecutive groups of a batch, with their frames, crops and flips."""
        edges = layout.edges[groups.start : groups.stop + 1].tolist()
        first, stop, frames_per_tracklet = edges[0], edges[-1], self.config.batch.frames
        key, step = self._draw_key, layout.step
        frames = choose_frames(
            self.dataset.training.take("num_frames", layout.rows[first:stop]).astype(np.int64),
            uniforms((stop - first, frames_per_tracklet), first=first, key=key, step=step, purpose="frames"),
        )
        draws = draw_augmentation(
            frames.size, self.config.augment, first=first * frames_per_tracklet, key=key, step=step
        )
        slots = np.arange(first, stop)
        made: list[Group] = []
        for index, (start, end) in zip(groups, itertools.pairwise(edges)):
            part = slice(start - first, end - first)
            group = Group(
                index=index,
                camera=int(layout.cameras[start]),
                slots=slots[part],
                rows=layout.rows[start:end],
                labels=layout.labels[start:end],
                frames=frames[part],
                draws=draws[part.start * frames_per_tracklet : part.stop * frames_per_tracklet],
            )
            made.append(group)
        return made

    def _check_groups(self) -> None:
        batch, n = self.config.batch, self.tracklets_per_camera
        if batch.groups_per_camera > n:
            raise UsageError(
                f"batch.groups_per_camera={batch.groups_per_camera} is more than the {n} tracklets of a camera in one batch"
                f" ({batch.images} images // ({self.cameras_per_step} cameras * {batch.frames} frames)); set it to {n} or less"
            )
        smallest = self._take // np.minimum(self._take, batch.groups_per_camera) * batch.frames
        if self.config.model.batch_norm == "group" and smallest.min() < 2:
            camera = self.dataset.cameras[self.cameras[smallest.argmin()]]
            raise UsageError(
                f"batch norm needs two images in a group, and a group of camera {camera} would have one"
                f" (it shows {self._take[smallest.argmin()]} tracklets of {batch.frames} frame a visit, in groups_per_camera="
                f"{batch.groups_per_camera} parts); set batch.frames=2 or more, fewer groups, or model.batch_norm=sync"
            )


def _runs(num_groups: int, world_size: int) -> list[range]:
    edges = [num_groups * rank // world_size for rank in range(world_size + 1)]
    return [range(start, stop) for start, stop in itertools.pairwise(edges)]


def _edges(take: NDArray[np.int64], groups_per_camera: int) -> NDArray[np.int64]:
    """Where groups start, and the end of the last: each camera's `take` tracklets in near-equal contiguous parts."""
    parts = np.minimum(take, groups_per_camera)
    part = np.arange(parts.sum()) - np.repeat(np.cumsum(parts) - parts, parts)
    starts = np.repeat(np.cumsum(take) - take, parts) + np.repeat(take, parts) * part // np.repeat(parts, parts)
    return np.append(starts, take.sum())


def check_world_size(num_groups: int, num_cameras: int, world_size: int) -> None:
    """Refuses more workers than groups, naming the setting that would allow them."""
    if world_size > num_groups:
        needed = -(-world_size // num_cameras)
        raise UsageError(
            f"{world_size} workers cannot share a batch of {num_groups} groups ({num_cameras} cameras), for a group is never"
            f" split; set batch.groups_per_camera={needed} (every camera of the batch needs that many tracklets in it),"
            f" or use at most {num_groups} workers"
        )


def _cameras_per_step(config: Config, num_cameras: int) -> int:
    batch = config.batch
    room = batch.images // batch.frames
    if room < 1:
        raise UsageError(
            f"batch.images={batch.images} is less than one tracklet of batch.frames={batch.frames} images; raise images"
        )
    if batch.cameras > num_cameras:
        raise UsageError(
            f"batch.cameras={batch.cameras}, but the dataset has {num_cameras} cameras with training tracklets;"
            f" set batch.cameras={num_cameras} or 0"
        )
    if batch.cameras > room:
        raise UsageError(
            f"batch.cameras={batch.cameras} with batch.frames={batch.frames} needs {batch.cameras * batch.frames} images or more,"
            f" found batch.images={batch.images}"
        )
    return batch.cameras or min(num_cameras, room)
