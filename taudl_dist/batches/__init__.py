"""What a step trains on: the plan (seed, step) -> groups, augmentation draws, decoding, and the loader that feeds a worker."""

from taudl_dist.batches.batch import Batch, Composition
from taudl_dist.batches.loader import BatchLoader
from taudl_dist.batches.plan import PLAN_VERSION, BatchPlan, Group, Layout, check_world_size

__all__ = [
    "PLAN_VERSION",
    "Batch",
    "BatchLoader",
    "BatchPlan",
    "Composition",
    "Group",
    "Layout",
    "check_world_size",
]
