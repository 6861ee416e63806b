"""The network: backbone and feature layer, batch norm in groups, a classification head for each camera."""

from taudl_dist.model.backbone import IMAGE_MEAN, IMAGE_STD, ReidModel, build_model, feature_dim
from taudl_dist.model.batch_norm import GroupBatchNorm, update_running_statistics
from taudl_dist.model.heads import CameraHeads
from taudl_dist.model.storage import load_model, save_model

__all__ = [
    "CameraHeads", "GroupBatchNorm", "IMAGE_MEAN", "IMAGE_STD", "ReidModel", "build_model", "feature_dim", "load_model",
    "save_model", "update_running_statistics",
]  # fmt: skip
