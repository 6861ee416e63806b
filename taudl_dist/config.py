"""One tree of frozen dataclasses: defaults, types, help texts and checks of a training run.

The docstring under each field is its help text on the command line. The resolved tree is saved beside the run,
logged to MLflow, and checked once, here.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from taudl_dist.errors import UsageError

T = typing.TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class BatchConfig:
    """The global batch: C cameras x n tracklets x F frames, whatever the number of workers."""

    images: int = 384
    """Images of one global batch at most (N_bs of Eq. 2); n = images // (cameras * frames)."""
    cameras: int = 0
    """Cameras in one batch (C); 0 takes all cameras, or as many as the batch has room for."""
    frames: int = 4
    """Frames drawn from each tracklet (F), two by the recipe `best`; the paper's video sets PRID2011 and iLIDS-VID use 16."""
    groups_per_camera: int = 1
    """Equal parts a camera's visit is cut into; a part is the batch norm group and is never split over workers."""
    height: int = 256
    """Height in pixels of an image given to the network."""
    width: int = 128
    """Width in pixels of an image given to the network."""

    def __post_init__(self) -> None:
        for name in ("images", "frames", "groups_per_camera"):
            _require(getattr(self, name) >= 1, f"batch.{name}", getattr(self, name), "at least 1")
        _require(self.cameras >= 0, "batch.cameras", self.cameras, "0 (all) or more")
        for name in ("height", "width"):
            _require(16 <= getattr(self, name) <= 4096, f"batch.{name}", getattr(self, name), "16 to 4096 pixels")


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """Random crop and flip of training images, drawn from (seed, step, slot)."""

    min_area: float = 0.64
    """Smallest share of the image's area a crop may keep."""
    min_aspect: float = 2.0
    """Smallest height / width of a crop."""
    max_aspect: float = 3.0
    """Largest height / width of a crop."""
    flip: float = 0.5
    """Probability of a horizontal flip."""

    def __post_init__(self) -> None:
        _require(0 < self.min_area <= 1, "augment.min_area", self.min_area, "a share in (0, 1]")
        _require(0 < self.min_aspect <= self.max_aspect, "augment.min_aspect", self.min_aspect, "0 < min <= max_aspect")
        _require(0 <= self.flip <= 1, "augment.flip", self.flip, "a probability")


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The shared network that maps an image to its feature."""

    name: Literal["resnet50", "resnet18", "mobilenet_v2", "small"] = "resnet50"
    """Backbone: torchvision's, or `small`, a five-layer network for CPU demonstrations."""
    weights: str = ""
    """Initial backbone weights: a .safetensors or .pth file, or `imagenet` (torchvision downloads them); empty: random."""
    feature_dim: int = 0
    """Length of the feature (D); 0 takes 2048 for resnet50, 1024 for mobilenet_v2, 512 for resnet18, 256 for small."""
    batch_norm: Literal["group", "sync"] = "group"
    """Batch norm statistics: of each group (`group`) or of the whole global batch (`sync`)."""
    compile: bool = False
    """Compile the network with torch.compile, which takes a minute or two: for a GPU, and batches of one composition of groups."""

    def __post_init__(self) -> None:
        _require(self.feature_dim >= 0, "model.feature_dim", self.feature_dim, "0 (by backbone) or more")


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """PCTD (Eq. 1-2), CCTA (Eq. 3) and their mixture (Eq. 4)."""

    ccta_weight: float = 0.7
    """lambda of Eq. 4: the share of CCTA; 0 trains PCTD alone."""
    pctd_reduction: Literal["mean", "camera_sum"] = "mean"
    """`mean` over the batch (Eq. 2), or the sum over cameras of each camera's mean (the released code: T times Eq. 2)."""
    num_neighbours: int = 0
    """K of Eq. 3, cross-camera neighbours pulled; 0 takes max(1, cameras present // 2)."""
    sigma: float = 2.0
    """sigma of Eq. 3, the scale of exp(-d / (2 sigma^2))."""
    squared: bool = False
    """Square the distance in Eq. 3 (the paper does not)."""
    detach_numerator: bool = False
    """Do not differentiate the pull of Eq. 3 (the released code): what is left is repulsion."""
    mutual_weight: float = 0.0
    """mu, the weight of mutual association (ours, see losses/mutual.py): a pull to another camera's label; 0: none."""
    mutual_start: float = 0.5
    """Share of the steps after which mutual association sets in: heads must have learned their tracklets first."""
    mutual_cameras: int = 8
    """Other cameras of a batch in which a tracklet's match is sought in one step; they take turns."""
    joint_labels: bool = False
    """One classifier over all cameras' labels instead of one per camera (the JCC baseline of Table 4)."""

    def __post_init__(self) -> None:
        _require(0 <= self.ccta_weight <= 1, "loss.ccta_weight", self.ccta_weight, "a share in [0, 1]")
        _require(self.num_neighbours >= 0, "loss.num_neighbours", self.num_neighbours, "0 (by cameras) or more")
        _require(self.sigma > 0, "loss.sigma", self.sigma, "above 0")
        _require(self.mutual_weight >= 0, "loss.mutual_weight", self.mutual_weight, "0 (off) or more")
        _require(0 <= self.mutual_start <= 1, "loss.mutual_start", self.mutual_start, "a share in [0, 1]")
        _require(self.mutual_cameras >= 1, "loss.mutual_cameras", self.mutual_cameras, "at least 1")


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """Adam with a rate that is constant at first and then decays exponentially."""

    lr: float = 3.5e-4
    """Learning rate."""
    weight_decay: float = 5e-4
    """L2 penalty added to the gradient."""
    decay_start: float = 0.5
    """Share of the steps after which the rate decays; 1 keeps it constant."""
    decay_span: float = 0.25
    """Share of the steps in which the rate falls by a factor of 1000, once it decays."""
    clip_norm: float = 0.0
    """Largest global norm of the gradient of backbone and heads together; 0: no clipping."""

    def __post_init__(self) -> None:
        _require(self.lr > 0, "optim.lr", self.lr, "above 0")
        _require(self.weight_decay >= 0, "optim.weight_decay", self.weight_decay, "0 or more")
        _require(0 <= self.decay_start <= 1, "optim.decay_start", self.decay_start, "a share in [0, 1]")
        _require(self.decay_span > 0, "optim.decay_span", self.decay_span, "above 0")
        _require(self.clip_norm >= 0, "optim.clip_norm", self.clip_norm, "0 (off) or more")


@dataclass(frozen=True, kw_only=True)
class ParallelConfig:
    """How a step is computed; its numbers are the same up to rounding."""

    heads: Literal["owned", "replicated"] = "owned"
    """`owned`: each head lives on one worker, memory shrinks with their number; `replicated`: all heads on each, for small data."""
    two_pass: bool = False
    """Compute features twice, the second time group by group: activation memory of one group, for batches that do not fit."""
    device: Literal["auto", "cpu", "gpu"] = "auto"
    """What each Ray worker takes. `auto`: a GPU if the cluster has any when the run begins, else a CPU, and the fewest workers must fit
    then. `cpu`, `gpu`: that, and it waits for machines that are still to come, as from an autoscaler."""


@dataclass(frozen=True, kw_only=True)
class StorageConfig:
    """How a dataset in an object store (s3://, gs://) is read; a local one is read in place."""

    cache_dir: str = ""
    """Folder for what was fetched, on a local disk; empty: taudl in $XDG_CACHE_HOME, or else ~/.cache/taudl."""
    cache_bytes: int = 20_000_000_000
    """Bytes of images that each worker keeps on disk at most; N workers on a machine use N times as much."""
    ahead_steps: int = 16
    """Steps whose images are fetched before their use."""
    requests: int = 16
    """Requests of one worker under way at the same time."""
    attempts: int = 5
    """Times a request is made before the run gives up, with growing pauses of up to 8 s between."""
    timeout_s: float = 60.0
    """Seconds after which an unanswered request counts as failed."""

    def __post_init__(self) -> None:
        _require(self.cache_bytes >= 1, "storage.cache_bytes", self.cache_bytes, "at least 1")
        for name in ("ahead_steps", "requests", "attempts"):
            _require(getattr(self, name) >= 1, f"storage.{name}", getattr(self, name), "at least 1")
        _require(self.timeout_s > 0, "storage.timeout_s", self.timeout_s, "above 0")


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """When the state of a run is written, and how many states are kept."""

    every: int = 200
    """Steps between checkpoints; the last step is always saved."""
    keep: int = 3
    """Newest complete checkpoints kept."""

    def __post_init__(self) -> None:
        _require(self.every >= 1, "checkpoint.every", self.every, "at least 1")
        _require(self.keep >= 1, "checkpoint.keep", self.keep, "at least 1")


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """Checkpoints that are evaluated while training goes on, in processes of their own; training does not depend on it."""

    every: int = 0
    """Steps between checkpoints that are evaluated, the last step is one too; 0: none. Each becomes a model in MLflow, weights and all."""
    data: str = ""
    """Dataset to evaluate on; empty: the one trained on."""
    metric: str = ""
    """The number by which a checkpoint is the best, more being better; empty: mAP, or without people label_free/within_camera_accuracy."""
    frames: int = 0
    """Evenly spaced frames pooled per tracklet; 0 takes all, or as many as the benchmark's protocol says."""

    def __post_init__(self) -> None:
        _require(self.every >= 0, "evaluation.every", self.every, "0 (none) or a number of steps")
        _require(self.frames >= 0, "evaluation.frames", self.frames, "0 (all) or more")
        for name in ("data", "metric", "frames"):
            if getattr(self, name) and not self.every:
                raise UsageError(
                    f"evaluation.{name} is {getattr(self, name)!r}, but no checkpoint is evaluated; add --evaluate-every N, or"
                    f" leave evaluation.{name} out"
                )


@dataclass(frozen=True, kw_only=True)
class TrackingConfig:
    """Where MLflow keeps the run."""

    uri: str = ""
    """MLflow tracking URI; empty: $MLFLOW_TRACKING_URI, else SQLite in the run folder's parent; `none` tracks nothing."""
    experiment: str = "taudl"
    """MLflow experiment."""
    every: int = 10
    """Steps between two log lines, and between two batches of metrics sent to MLflow."""

    def __post_init__(self) -> None:
        _require(self.every >= 1, "tracking.every", self.every, "at least 1")


@dataclass(frozen=True, kw_only=True)
class Config:
    """Everything that decides a training run."""

    data: str = ""
    """Dataset written by `taudl shard` or `taudl import`: a folder, s3://BUCKET/FOLDER or gs://BUCKET/FOLDER."""
    out: str = ""
    """Run folder to write."""
    workers: str = "1"
    """Training processes: N, or MIN:MAX for an elastic Ray cluster. The result does not depend on it."""
    steps: int = 3000
    """Optimizer steps, each on one global batch."""
    seed: int = 0
    """Decides weights, batches and augmentation."""
    recipe: Literal["best", "paper", "official-code", "pctd", "jcc"] = "best"
    """Named settings of losses and batch; see taudl_dist.config.RECIPES. Anything set by file or flag wins over it."""
    precision: Literal["fp32", "bf16", "fp64"] = "fp32"
    """Arithmetic of the backbone; the losses are computed in fp32 at least."""
    resume: bool = False
    """Go on from the newest complete checkpoint of the run folder."""
    launcher: Literal["auto", "process", "ray"] = "auto"
    """`process`: in this process, or the group torchrun made; `ray`: Ray Train; `auto`: Ray for more than one worker."""
    stop_at: int = 0
    """Stop cleanly before this step, as if interrupted; 0: never. The schedule still spans `steps`."""
    model: ModelConfig = field(default_factory=ModelConfig)
    batch: BatchConfig = field(default_factory=BatchConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    storage: StorageConfig = field(default_factory=StorageConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)

    def __post_init__(self) -> None:
        _require(self.steps >= 1, "steps", self.steps, "at least 1")
        _require(0 <= self.seed < 2**63, "seed", self.seed, "an integer in [0, 2^63)")
        _require(self.stop_at >= 0, "stop_at", self.stop_at, "0 (never) or a step")
        worker_range(self.workers)
        if self.parallel.two_pass and self.model.batch_norm == "sync":
            raise UsageError(
                "parallel.two_pass computes one group at a time, and model.batch_norm=sync needs the statistics of the whole"
                " batch; set model.batch_norm=group, or parallel.two_pass=false"
            )
        if self.loss.joint_labels and self.loss.mutual_weight:
            raise UsageError(
                "loss.joint_labels has one classifier for all cameras, and loss.mutual_weight seeks matches between cameras'"
                " classifiers; set loss.mutual_weight=0"
            )
        if self.loss.joint_labels and self.loss.pctd_reduction == "camera_sum":
            raise UsageError(
                "loss.joint_labels has one classifier for all cameras, so loss.pctd_reduction=camera_sum has no"
                " meaning with it; set loss.pctd_reduction=mean"
            )


RECIPES: dict[str, dict[str, Any]] = {
    "paper": {},
    "official-code": {"loss": {"detach_numerator": True, "pctd_reduction": "camera_sum"}},
    "pctd": {"loss": {"ccta_weight": 0.0}},
    "jcc": {"loss": {"ccta_weight": 0.0, "joint_labels": True}},
    "best": {
        "loss": {"detach_numerator": True, "pctd_reduction": "camera_sum", "mutual_weight": 3.0},
        "batch": {"frames": 2},
    },
}
"""Settings by name. `paper`: Eq. 1-4 as printed. `official-code`: what the released code computes. `pctd`, `jcc`: the
ablations of Tables 4-5. `best`: the default, chosen by the measurements in benchmarks/RESULTS.md: the released
code's repulsion, more tracklets with fewer frames, and mutual association in the second half."""


def worker_range(workers: str) -> tuple[int, int]:
    """Smallest and largest number of workers of `N` or `MIN:MAX`."""
    parts = str(workers).split(":")
    if (
        len(parts) > 2
        or not all(part.isdecimal() and int(part) >= 1 for part in parts)
        or int(parts[0]) > int(parts[-1])
    ):
        raise UsageError(f"--workers {workers}: expected N or MIN:MAX with 1 <= MIN <= MAX, for instance 2 or 1:4")
    return int(parts[0]), int(parts[-1])


def resolve(base: dict[str, Any]) -> Config:
    """The config of a nested mapping: defaults, then the recipe the mapping names, then the mapping itself.

    Raises:
        UsageError: an unknown key or a value of the wrong type, with its dotted name.
    """
    recipe = base.get("recipe", Config.recipe)
    if not isinstance(recipe, str) or recipe not in RECIPES:
        raise UsageError(f"recipe {recipe!r}: expected one of {', '.join(RECIPES)}")
    return from_dict(Config, merge(RECIPES[recipe], base))


def merge(under: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Two nested mappings as one; where both hold a value, `over` wins."""
    merged = dict(under)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = merge(merged[key], value) if both else value
    return merged


def to_dict(config: Any) -> dict[str, Any]:
    """The config as plain nested mappings, ready for YAML or JSON."""
    return dataclasses.asdict(config)


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one mapping with dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat.update(flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value})
    return flat


def unflatten(flat: dict[str, Any]) -> dict[str, Any]:
    """Dotted keys as nested mappings, the inverse of `flatten`."""
    tree: dict[str, Any] = {}
    for name, value in flat.items():
        *outer, last = name.split(".")
        branch = tree
        for part in outer:
            branch = branch.setdefault(part, {})
        branch[last] = value
    return tree


def from_dict(kind: type[T], values: Any, prefix: str = "") -> T:
    """A config dataclass of nested mappings; strict about names and types."""
    if not isinstance(values, dict):
        raise UsageError(
            f"config {prefix.rstrip('.') or 'file'}: found {values!r}, expected a mapping of names to values"
        )
    hints = typing.get_type_hints(kind)
    unknown = [str(key) for key in values if key not in hints]
    if unknown:
        import difflib

        close = difflib.get_close_matches(unknown[0], list(hints), n=1)
        hint = f"did you mean {prefix}{close[0]}?" if close else f"expected one of {', '.join(hints)}"
        raise UsageError(f"config key {prefix}{unknown[0]} is unknown: {hint}")
    return kind(**{key: _typed(hints[key], value, prefix + key) for key, value in values.items()})


def _typed(hint: Any, value: Any, name: str) -> Any:
    if dataclasses.is_dataclass(hint):
        return from_dict(typing.cast(type, hint), value, name + ".")
    if typing.get_origin(hint) is Literal:
        if value not in typing.get_args(hint):
            raise UsageError(
                f"config {name}: found {value!r}, expected one of {', '.join(map(str, typing.get_args(hint)))}"
            )
        return value
    if isinstance(hint, types.UnionType):
        hint = next(kind for kind in typing.get_args(hint) if kind is not types.NoneType)
    if name == "workers" and isinstance(value, int) and not isinstance(value, bool):
        return str(value)  # `workers: 2` is what people write in YAML
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise UsageError(f"config {name}: found {value!r}, expected {hint.__name__}")
    return value


def _require(condition: bool, name: str, value: Any, expected: str) -> None:
    if not condition or (isinstance(value, float) and not math.isfinite(value)):
        raise UsageError(f"config {name}: found {value!r}, expected {expected}")


_MAX_YAML = 2**20
"""Characters of a file of settings at most."""


def load_yaml(path: str | Path) -> dict[str, Any]:
    """The mapping of a YAML config file."""
    import yaml

    try:
        with Path(path).open(encoding="utf-8") as file:
            text = file.read(_MAX_YAML + 1)
        if len(text) > _MAX_YAML:
            raise UsageError(f"--config {path}: more than {_MAX_YAML} characters, expected a file of settings")
        values = yaml.load(text, _yaml_loader())
    except FileNotFoundError:
        raise UsageError(f"--config {path}: no such file") from None
    except UsageError:
        raise
    except (yaml.YAMLError, UnicodeDecodeError, OSError, RecursionError, ValueError) as error:
        raise UsageError(f"--config {path}: not a readable YAML file: {error}") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise UsageError(f"--config {path}: found {type(values).__name__}, expected a mapping of names to values")
    return values


def _yaml_loader() -> Any:
    """YAML's safe loader with the numbers of YAML 1.2: `1e-4` is a number, and `1:4` (64 in YAML 1.1) is text."""
    import re

    import yaml

    class Loader(yaml.SafeLoader):
        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.AliasEvent):  # nine lines of them can stand for a thousand million values
                raise yaml.YAMLError(f"an alias (*{self.peek_event().anchor}); write the value out")
            return super().compose_node(parent, index)

    Loader.yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith((":int", ":float"))]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"[-+]?[0-9]+$"), list("-+0123456789"))
    number = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?$|[-+]?\.inf$|\.nan$")
    Loader.add_implicit_resolver("tag:yaml.org,2002:float", number, list("-+.0123456789"))
    return Loader
