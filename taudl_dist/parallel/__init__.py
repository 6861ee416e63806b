"""What ranks share: a differentiable gather and exchange, the owners of the heads, the norm of the whole gradient."""

from taudl_dist.parallel.gather import gather
from taudl_dist.parallel.norm import clip_by_global_norm, global_norm
from taudl_dist.parallel.owners import assign_owners
from taudl_dist.parallel.route import Route, exchange

__all__ = ["Route", "assign_owners", "clip_by_global_norm", "exchange", "gather", "global_norm"]
