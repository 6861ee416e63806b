"""Training runs side by side: what differs in settings, data and numbers; groups of equal settings over seeds; curves."""

from taudl_dist.comparison.compare import Comparison, Group, compare
from taudl_dist.comparison.run import Curve, Run

__all__ = ["Comparison", "Curve", "Group", "Run", "compare"]
