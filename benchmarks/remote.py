"""Reading from an object store: what is fetched for what is used, counted; and whether waiting is hidden, timed.

Counting needs no pixels: the plan of a synthetic corpus tells each worker's extents, and the same rules as in training (look-ahead,
eviction, joining of neighbours) say what would be fetched. Beside them, in the same run: no cache; an extent cache that drops what
was used longest ago; and a cache of whole shards that does so, as readers that copy shards before use have it, given this order.

Timing reads a generated dataset from the local disk through a store that answers each request only after a while.

    python -m benchmarks.remote [--json]
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
import time
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from taudl_dist.batches import BatchPlan
from taudl_dist.config import StorageConfig, resolve
from taudl_dist.dataset import open_dataset
from taudl_dist.dataset.coalesce import Extent, coalesce
from taudl_dist.dataset.eviction import FarthestNextUse
from taudl_dist.dataset.extent_cache import disk_bytes
from taudl_dist.dataset.fetch_ahead import USES_PER_KEPT, FetchAhead
from taudl_dist.dataset.index import TrainingIndex
from taudl_dist.dataset.shards import RemoteShards
from taudl_dist.dataset.storage import Storage

CAMERAS, TRACKLETS, SHARD_BYTES = 40, 100_000, 256 * 10**6
CAMERAS_PER_STEP, EPOCHS, AHEAD = 24, 3, 16
LATENCY_S, STEP_S, TIMED_STEPS = 0.1, 0.1, 100


def corpus() -> BatchPlan:
    """Uneven cameras, tracklets of about 16 frames of 6 kB, shards of one camera each."""
    rng = np.random.default_rng(0)
    sizes = rng.lognormal(0, 0.7, CAMERAS)
    sizes = np.maximum(8, sizes / sizes.sum() * TRACKLETS).astype(np.int64)
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    length = (rng.lognormal(0, 0.3, offsets[-1]) * 96_000 // 512 * 512 + 1024).astype(np.int64)
    shard, offset = np.zeros(len(length), np.int32), np.zeros(len(length), np.int64)
    number = -1
    for start, stop in itertools.pairwise(offsets):
        place = np.cumsum(length[start:stop]) - length[start:stop]
        part = place // SHARD_BYTES
        shard[start:stop] = number + 1 + part
        first = np.flatnonzero(np.diff(part, prepend=-1))
        offset[start:stop] = place - place[first][part]
        number = int(shard[stop - 1])
    label = (np.arange(len(length)) - np.repeat(offsets[:-1], sizes)).astype(np.int32)
    index = TrainingIndex(
        camera_offsets=offsets, label=label, shard=shard, offset=offset, length=length,
        num_frames=np.full(len(length), 16, np.int32),
    )  # fmt: skip
    dataset = SimpleNamespace(digest="0" * 64, training=index, cameras=[f"cam{c}" for c in range(CAMERAS)])
    return BatchPlan(dataset, resolve({"batch": {"cameras": CAMERAS_PER_STEP}}))  # type: ignore[arg-type]


def worker_steps(plan: BatchPlan, *, rank: int, world_size: int, steps: int) -> list[list[Extent]]:
    """What a worker reads in each step."""
    index, uses = plan.dataset.training, []
    for step in range(steps):
        layout = plan.layout(step)
        run = layout.runs(world_size)[rank]
        rows = layout.rows[layout.edges[run.start] : layout.edges[run.stop]]
        columns = [index.take(name, rows).tolist() for name in ("shard", "offset", "length")]
        uses.append([Extent(*place) for place in zip(*columns)])
    return uses


def planned(uses: Sequence[Sequence[Extent]], limit: int, *, uses_per_kept: float) -> tuple[int, int]:
    """Bytes fetched and requests made by the rules of FetchAhead."""
    cache: FarthestNextUse[Extent] = FarthestNextUse(limit)
    fetched = requests = following = 0
    told = iter({extent: disk_bytes(extent) for extent in step} for step in uses)
    for step in range(len(uses)):
        if following - step <= AHEAD // 2:
            while cache.known < len(uses) and (
                cache.known <= step + AHEAD or cache.known_uses < uses_per_kept * len(cache)
            ):
                cache.tell(next(told))
            wanted: list[Extent] = []
            is_full = False
            while not is_full and following < min(len(uses), step + AHEAD + 1):
                for extent in cache.missing(following):
                    is_full = cache.admit(extent, following) is None
                    if is_full:
                        break
                    wanted.append(extent)
                following += not is_full
            ranges = coalesce(wanted)
            fetched += sum(made.length for made in ranges)
            requests += len(ranges)
        cache.finish()
    return fetched, requests


def least_recently_used(keys: Iterable[tuple[Any, int, int]], limit: int) -> tuple[int, int]:
    """Bytes fetched and requests made by a cache that drops what was used longest ago.

    Args:
        keys: what is used, in order, with its bytes to fetch and its room on the disk.
    """
    kept: OrderedDict[Any, int] = OrderedDict()
    used = fetched = requests = 0
    for key, size, room in keys:
        if key in kept:
            kept.move_to_end(key)
            continue
        fetched, requests, used = fetched + size, requests + 1, used + room
        kept[key] = room
        while used > limit:
            used -= kept.popitem(last=False)[1]
    return fetched, requests


def count(plan: BatchPlan, *, world_size: int) -> list[dict[str, Any]]:
    """A row for each way of reading and each size of the cache; means over the first, a middle and the last worker."""
    index = plan.dataset.training
    total = int(sum(-(-(index.length + 4) // 4096) * 4096))
    sizes = np.bincount(index.shard, weights=index.length).astype(np.int64).tolist()
    per_step = len(plan.layout(0).rows)
    steps = EPOCHS * len(index) // per_step
    rows: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for rank in sorted({0, world_size // 2, world_size - 1}):
        uses = worker_steps(plan, rank=rank, world_size=world_size, steps=steps)
        flat = [extent for step in uses for extent in step]
        used = sum(extent.length for extent in flat)
        for name, limit in (("all", 2 * total), ("a tenth", total // 10)):
            ways = {
                "planned (this project)": planned(uses, limit, uses_per_kept=USES_PER_KEPT),
                "planned, whole future known": planned(uses, limit, uses_per_kept=np.inf),
                "planned, horizon of one cache content": planned(uses, limit, uses_per_kept=1),
                "extents, least recently used": least_recently_used(
                    ((e, e.length, disk_bytes(e)) for e in flat), limit
                ),
                "whole shards, least recently used": least_recently_used(
                    ((e.shard, sizes[e.shard], sizes[e.shard]) for e in flat), limit
                ),
                "no cache": (used, len(flat)),
            }
            for way, (fetched, requests) in ways.items():
                rows.setdefault((name, way), []).append((fetched / used, requests / steps))
    return [
        {
            "workers": world_size, "cache": name, "way": way,
            "fetched_over_used": float(np.mean([ratio for ratio, _ in results])),
            "requests_per_step": float(np.mean([requests for _, requests in results])),
        }
        for (name, way), results in rows.items()
    ]  # fmt: skip


class SlowDisk:
    """The local disk as a store that answers after LATENCY_S."""

    def open_input_file(self, path: str) -> Any:
        from pyarrow import fs

        time.sleep(LATENCY_S)
        file = fs.LocalFileSystem().open_input_file(path)

        def get_stream(offset: int, length: int) -> Any:
            time.sleep(LATENCY_S)
            return file.get_stream(offset, length)

        return SimpleNamespace(size=file.size, get_stream=get_stream)


def timed(folder: Path, *, ahead_steps: int, requests: int) -> dict[str, Any]:
    """Seconds a worker waits per step of STEP_S, its cache empty at first."""
    with tempfile.TemporaryDirectory() as cache:
        config = StorageConfig(cache_dir=cache, ahead_steps=ahead_steps, requests=requests)
        storage = Storage(SlowDisk(), str(folder), uri="slow://disk", config=config)  # type: ignore[arg-type]
        dataset = open_dataset(folder)
        plan = BatchPlan(dataset, resolve({"batch": {"images": 128, "frames": 4}}))
        uses = worker_steps(plan, rank=0, world_size=1, steps=TIMED_STEPS)
        shards = RemoteShards(dataset, storage)
        ahead = FetchAhead(shards, uses.__getitem__, range(TIMED_STEPS))
        warm_s = 0.0
        try:
            for step, extents in enumerate(uses):
                with ahead.step(step):
                    for extent in extents:
                        shards.members(extent)
                if step == 0:
                    warm_s = shards.stats.waited_s
                time.sleep(STEP_S)
        finally:
            ahead.close()
        stats = shards.stats
        return {
            "ahead_steps": ahead_steps, "requests": requests, "first_step_s": warm_s,
            "waited_ms_per_step": 1000 * (stats.waited_s - warm_s) / (TIMED_STEPS - 1),
            "requests_per_step": stats.requests / TIMED_STEPS, "fetched_over_used": stats.as_dict()["fetched_over_used"],
        }  # fmt: skip


def timed_dataset(folder: Path) -> Path:
    """4 cameras of 800 tracklets of 4 images without content."""
    from data_tools.shards import ImportTracklet, write_dataset

    jpeg = _jpeg()
    tracklets = (
        ImportTracklet(camera=f"cam{c}", split="train", name=str(n), frames=[(f, jpeg) for f in range(4)])
        for c in range(4)
        for n in range(800)
    )
    return write_dataset(folder, tracklets, settings={}, source={})


def _jpeg() -> bytes:
    import io

    from PIL import Image

    buffer = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (64, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def main() -> None:
    """Counts, times, prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args()
    plan = corpus()
    counted = [row for world_size in (1, 8) for row in count(plan, world_size=world_size)]
    with tempfile.TemporaryDirectory() as folder:
        dataset = timed_dataset(Path(folder) / "dataset")
        waits = [
            timed(dataset, ahead_steps=ahead, requests=requests) for ahead, requests in ((1, 1), (1, 16), (16, 16))
        ]
    if args.json:
        print(json.dumps({"counted": counted, "timed": waits}))
        return
    index = plan.dataset.training
    print(f"{CAMERAS} cameras, {len(index)} tracklets, {index.length.sum() / 1e9:.1f} GB in {index.shard.max() + 1} shards,"
          f" {EPOCHS} epochs\n")  # fmt: skip
    print("| workers | cache of each | way | fetched / used | requests a step and worker |\n|---|---|---|---|---|")
    for row in counted:
        print(
            f"| {row['workers']} | {row['cache']} | {row['way']} | {row['fetched_over_used']:.3f} | {row['requests_per_step']:.1f} |"
        )
    print(f"\nEach request answered after {1000 * LATENCY_S:.0f} ms, steps of {1000 * STEP_S:.0f} ms:\n")
    print("| steps ahead | requests at a time | first step | waiting a step | requests a step |\n|---|---|---|---|---|")
    for row in waits:
        print(f"| {row['ahead_steps']} | {row['requests']} | {row['first_step_s']:.2f} s | {row['waited_ms_per_step']:.1f} ms"
              f" | {row['requests_per_step']:.1f} |")  # fmt: skip


if __name__ == "__main__":
    main()
