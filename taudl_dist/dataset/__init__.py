"""What is on disk: the dataset format, its training index, its manifest, and reading tracklets out of shards."""

from taudl_dist.dataset.dataset import Dataset, open_dataset, read_info
from taudl_dist.dataset.index import TrainingIndex
from taudl_dist.dataset.manifest import read_manifest
from taudl_dist.dataset.reader import Sample, TrackletReader
from taudl_dist.dataset.schema import dataset_digest

__all__ = [
    "Dataset",
    "Sample",
    "TrackletReader",
    "TrainingIndex",
    "dataset_digest",
    "open_dataset",
    "read_info",
    "read_manifest",
]
