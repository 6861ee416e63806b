"""Feeds one worker: reads and decodes its groups of the next steps in a background thread.

The order is the plan's, so the loader has no state: a loader that starts at step s gives what an older one would have given there.
"""

from __future__ import annotations

import queue
import threading
import weakref
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import TYPE_CHECKING, Literal, NoReturn, TypeVar

import numpy as np

from taudl_dist.batches.batch import Batch, Composition
from taudl_dist.batches.draws import concatenate, crop_windows
from taudl_dist.batches.pipeline import CorruptImageError, DecodePipeline, jpeg_sizes
from taudl_dist.batches.plan import BatchPlan, Group, check_world_size
from taudl_dist.errors import UserError

if TYPE_CHECKING:
    import torch

    from taudl_dist.dataset import Dataset, Extent

Item = TypeVar("Item")

_STOP_TIMEOUT_S = 30.0
_PLACE: tuple[Literal["shard", "offset", "length"], ...] = ("shard", "offset", "length")


class BatchLoader:
    """The batches of worker `rank` for the steps start..stop-1, a few of them ahead of their use.

    Args:
        dataset: the open dataset of the plan.
        plan: what each step consists of.
        device: where images are decoded and where tensors lie.
        depth: batches kept ready.

    Raises:
        UsageError: more workers than groups.
    """

    def __init__(
        self,
        dataset: Dataset,
        plan: BatchPlan,
        *,
        rank: int,
        world_size: int,
        start: int,
        stop: int,
        device: str | torch.device = "cpu",
        depth: int = 2,
    ) -> None:
        from taudl_dist.dataset import TrackletReader

        check_world_size(plan.num_groups, plan.cameras_per_step, world_size)
        batch = plan.config.batch
        largest_group = -(-plan.tracklets_per_camera // batch.groups_per_camera) * batch.frames
        self._dataset, self._plan = dataset, plan
        self._rank, self._world_size, self._device = rank, world_size, device
        self._reader = TrackletReader(dataset)
        self._pipeline = DecodePipeline(
            -(-plan.max_groups // world_size) * largest_group, batch.height, batch.width, device
        )
        self._steps, self._depth = range(start, stop), depth
        self._running: Callable[[], Generator[Batch] | None] = lambda: None

    def __iter__(self) -> Iterator[Batch]:
        self.close()
        batches = self._batches()
        self._running = weakref.ref(batches)  # a loop that is left drops its iterator, and the thread ends with it
        return batches

    def close(self) -> None:
        """Ends the iteration under way and its thread."""
        running = self._running()
        if running is not None:
            running.close()

    def stats(self) -> dict[str, float]:
        """What reading from the object store cost so far (see ReadStats.as_dict); empty for a local dataset."""
        return self._reader.remote.stats.as_dict() if self._reader.remote else {}

    def load(self, step: int) -> Batch:
        """The worker's share of a step, read and decoded now.

        Raises:
            UserError: damaged data, with shard and tracklet.
        """
        mine, layout = self._plan.share(step, rank=self._rank, world_size=self._world_size)
        jpegs = self._jpegs(mine)
        draws = concatenate([group.draws for group in mine])
        try:
            images = self._pipeline.decode(jpegs, crop_windows(draws, *jpeg_sizes(jpegs)), draws.flip)
        except CorruptImageError as error:
            self._name_culprit(mine, error)

        return Batch(
            step=step,
            images=images,
            group_sizes=tuple(group.num_images for group in mine),
            composition=Composition.of(layout, world_size=self._world_size, frames=self._plan.config.batch.frames),
        )

    def _batches(self) -> Generator[Batch]:
        if self._reader.remote is None:
            yield from prefetch(self.load, self._steps, depth=self._depth)
            return
        from taudl_dist.dataset import FetchAhead

        ahead = FetchAhead(self._reader.remote, self._extents_of_step, self._steps)

        def load(step: int) -> Batch:
            with ahead.step(step):
                return self.load(step)

        yield from prefetch(load, self._steps, depth=self._depth, release=ahead.close)

    def _jpegs(self, groups: Sequence[Group]) -> list[bytes]:
        """The chosen images of each tracklet, group by group."""
        rows = np.concatenate([group.rows for group in groups])
        frames = np.concatenate([group.frames for group in groups])
        recorded = self._dataset.training.take("num_frames", rows).tolist()
        jpegs: list[bytes] = []
        for extent, chosen, num_frames in zip(self._extents(rows), frames.tolist(), recorded):
            images = self._reader.read(*extent)
            if len(images) != num_frames:
                raise UserError(
                    f"{self._dataset.shard_location(extent.shard)}: tracklet {self._reader.read_sample(*extent).key} has"
                    f" {len(images)} images, the index says {num_frames}; run `taudl validate`, then make the dataset again"
                )
            jpegs += [images[frame] for frame in chosen]
        return jpegs

    def _extents_of_step(self, step: int) -> list[Extent]:
        """All that this worker reads in a step."""
        layout = self._plan.layout(step)
        run = layout.runs(self._world_size)[self._rank]
        return self._extents(layout.rows[layout.edges[run.start] : layout.edges[run.stop]])

    def _extents(self, rows: np.ndarray) -> list[Extent]:
        index = self._dataset.training
        columns = [index.take(name, rows).tolist() for name in _PLACE]
        return [self._reader.extent(*place) for place in zip(*columns)]

    def _name_culprit(self, groups: Sequence[Group], error: CorruptImageError) -> NoReturn:
        frames = np.concatenate([group.frames for group in groups])
        tracklet, column = np.unravel_index(error.position, frames.shape)
        (extent,) = self._extents(np.concatenate([group.rows for group in groups])[[tracklet]])
        sample = self._reader.read_sample(*extent)
        raise UserError(
            f"{self._dataset.shard_location(extent.shard)}: {sample.key}.{sample.frames[frames[tracklet, column]]:06d}.jpg:"
            f" {error.reason}; run `taudl validate`, then make the dataset again"
        ) from None


def prefetch(
    make: Callable[[int], Item], steps: Sequence[int], *, depth: int, release: Callable[[], None] = lambda: None
) -> Generator[Item]:
    """make(step) for each step in order, up to `depth` of them made ahead in a thread.

    An exception of `make` is raised where its item would have come. The thread ends with the generator, however that ends;
    `release` is called then, and ends whatever `make` may wait for.
    """
    ready: queue.SimpleQueue[tuple[Item | None, BaseException | None]] = queue.SimpleQueue()
    room = threading.Semaphore(depth)
    stopping = threading.Event()

    def work() -> None:
        try:
            for step in steps:
                room.acquire()
                if stopping.is_set():
                    return
                ready.put((make(step), None))
        except BaseException as error:  # raised again in the consumer
            ready.put((None, error))

    thread = threading.Thread(target=work, name="taudl-prefetch", daemon=True)
    thread.start()
    try:
        for _ in steps:
            item, error = ready.get()
            if error is not None:
                raise error
            room.release()
            yield item  # type: ignore[misc]
    finally:
        stopping.set()
        room.release()
        release()
        thread.join(_STOP_TIMEOUT_S)  # a read from a dead network disk must not hang the exit
