"""Who this worker is among all, and the few things workers agree on; with one worker no process group is needed.

Every function here that talks is a collective: all ranks call it equally often.
"""

from __future__ import annotations

import contextlib
import datetime
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from taudl_dist.errors import UserError

Value = TypeVar("Value")

TIMEOUT_S = 600
"""Seconds until a collective gives up on a lost worker, instead of torch's 30 minutes."""


@dataclass(frozen=True, kw_only=True)
class World:
    """One worker's place in the group."""

    rank: int = 0
    size: int = 1
    local_size: int = 1
    """Workers on this machine: they share its cores."""
    local_rank: int = 0
    """Place among them."""
    node: int = 0
    """Number of this machine among the run's."""
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def use_threads(self) -> int:
        """Shares the machine's cores among its workers; the same rule however they were started, as sums depend on it."""
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        threads = max(1, cores // self.local_size)
        torch.set_num_threads(threads)
        return threads

    def gpu_bytes(self) -> int:
        """Memory of the GPU that this worker holds; 0 on a CPU."""
        return torch.cuda.memory_reserved(self.device) if self.device.type == "cuda" else 0

    def total(self, values: torch.Tensor) -> list[float]:
        """Sum of a small vector over all workers, as numbers."""
        if self.size > 1:
            dist.all_reduce(values)
        return values.tolist()

    def everyone(self, value: Value) -> list[Value]:
        """The value of each worker, by rank; also a barrier."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def first(self, action: Callable[[], Value]) -> Value:
        """What `action` returns on rank 0, on every rank; its UserError is raised on every rank."""
        if self.size == 1:
            return action()
        answer: list[Any] = [None, None]
        if self.rank == 0:
            try:
                answer[0] = action()
            except (UserError, OSError) as error:
                answer[1] = error
        dist.broadcast_object_list(answer, src=0)
        if answer[1] is not None:
            raise answer[1]
        return answer[0]


def launched_size() -> int | None:
    """World size of the group torchrun (or anything that sets its variables) started; None in a plain process."""
    return int(os.environ["WORLD_SIZE"]) if {"RANK", "WORLD_SIZE", "MASTER_ADDR"} <= os.environ.keys() else None


@contextlib.contextmanager
def process_world() -> Iterator[World]:
    """This process alone, or its place in the group that torchrun started."""
    size = launched_size()
    local_rank = int(os.environ.get("LOCAL_RANK", "0")) if size else 0
    device = torch.device("cuda", local_rank) if torch.cuda.is_available() else torch.device("cpu")
    if device.type == "cuda":
        if local_rank >= torch.cuda.device_count():
            raise UserError(
                f"process {local_rank} of this machine found {torch.cuda.device_count()} GPUs; start as many processes with"
                " torchrun --nproc-per-node, or hide the GPUs with CUDA_VISIBLE_DEVICES= to train on CPUs"
            )
        torch.cuda.set_device(device)
    if size is None:
        yield World(device=device)
        return
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, timeout=datetime.timedelta(seconds=TIMEOUT_S))
    try:
        local_size = int(os.environ.get("LOCAL_WORLD_SIZE", size))
        node = int(os.environ.get("GROUP_RANK", "0"))
        yield World(
            rank=dist.get_rank(), size=size, local_size=local_size, local_rank=local_rank, node=node, device=device
        )
    finally:
        dist.destroy_process_group()
