"""What is on disk: the dataset format, its training index, its manifest, and reading tracklets out of shards."""

from taudl_dist.dataset.coalesce import Extent
from taudl_dist.dataset.dataset import Dataset, open_dataset, read_info
from taudl_dist.dataset.fetch_ahead import FetchAhead
from taudl_dist.dataset.index import TrainingIndex
from taudl_dist.dataset.location import absolute, is_remote
from taudl_dist.dataset.manifest import read_manifest
from taudl_dist.dataset.reader import Sample, TrackletReader
from taudl_dist.dataset.schema import dataset_digest
from taudl_dist.dataset.storage import ReadStats

__all__ = [
    "Dataset",
    "Extent",
    "FetchAhead",
    "ReadStats",
    "Sample",
    "TrackletReader",
    "TrainingIndex",
    "absolute",
    "dataset_digest",
    "is_remote",
    "open_dataset",
    "read_info",
    "read_manifest",
]
