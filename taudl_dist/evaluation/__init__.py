"""What a model is worth: tracklet features, CMC / mAP / mINP, baselines, pictures and the report."""

from taudl_dist.evaluation.evaluate import evaluate
from taudl_dist.evaluation.features import embed
from taudl_dist.evaluation.metrics import RankMetrics, rank_metrics, rank_metrics_from_features
from taudl_dist.evaluation.protocols import Protocol
from taudl_dist.evaluation.sharded import Side, rank_distributed, rank_shards, ray_run
from taudl_dist.evaluation.single_shot import single_shot_cmc

__all__ = [
    "Protocol",
    "RankMetrics",
    "Side",
    "embed",
    "evaluate",
    "rank_distributed",
    "rank_metrics",
    "rank_metrics_from_features",
    "rank_shards",
    "ray_run",
    "single_shot_cmc",
]
