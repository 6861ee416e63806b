"""The losses of TAUDL: PCTD (Eq. 1-2), CCTA (Eq. 3), and their mixture (Eq. 4)."""

from taudl_dist.losses.ccta import ccta_loss, ccta_rows, tracklet_means
from taudl_dist.losses.joint import Association, Discrimination, Share, joint_share
from taudl_dist.losses.pctd import as_joint_labels, pctd_loss, pctd_sum, sample_weights

__all__ = [
    "Association", "Discrimination", "Share", "as_joint_labels", "ccta_loss", "ccta_rows", "joint_share", "pctd_loss",
    "pctd_sum", "sample_weights", "tracklet_means",
]  # fmt: skip
