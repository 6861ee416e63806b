"""Real gloo groups of several sizes, one after another, in processes that are started once."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist


def run_groups(work: Callable[[int, int], Any], *, sizes: Sequence[int], folder: Path) -> dict[int, list[Any]]:
    """Calls work(rank, world_size) in every process of a group of each size.

    Args:
        work: a function of a module; returns tensors, numbers and strings in lists, tuples and dicts.
        sizes: world sizes, in order.
        folder: an empty one, for rendezvous and results.

    Returns:
        World size -> the results of its ranks.
    """
    torch.multiprocessing.spawn(_process, args=(work, tuple(sizes), str(folder)), nprocs=max(sizes))
    return {size: [torch.load(_result(folder, size, rank)) for rank in range(size)] for size in sizes}


def _process(rank: int, work: Callable[[int, int], Any], sizes: Sequence[int], folder: str) -> None:
    torch.set_num_threads(1)
    for size in sizes:
        if rank < size:
            meeting = f"file://{folder}/meeting-{size}"
            wait = datetime.timedelta(seconds=120)
            dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=size, timeout=wait)
            torch.save(work(rank, size), _result(Path(folder), size, rank))
            dist.barrier()  # nobody leaves while another still needs it
            dist.destroy_process_group()


def _result(folder: Path, size: int, rank: int) -> Path:
    return folder / f"result-{size}-{rank}.pt"
