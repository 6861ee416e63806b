"""What a model is worth: tracklet features, CMC / mAP / mINP, baselines, pictures and the report."""

from taudl_dist.evaluation.evaluate import Protocol, evaluate
from taudl_dist.evaluation.features import embed
from taudl_dist.evaluation.metrics import RankMetrics, rank_metrics, rank_metrics_from_features

__all__ = ["Protocol", "RankMetrics", "embed", "evaluate", "rank_metrics", "rank_metrics_from_features"]
