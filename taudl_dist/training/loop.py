"""The training loop of one worker: builds, restores, steps, saves. The same in a plain process, under torchrun and under Ray."""

from __future__ import annotations

import dataclasses
import math
import secrets
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from taudl_dist import tracking
from taudl_dist.batches import PLAN_VERSION, Batch, BatchLoader, BatchPlan
from taudl_dist.config import Config
from taudl_dist.dataset import open_dataset
from taudl_dist.errors import UserError
from taudl_dist.progress import log
from taudl_dist.tracked_system import SystemMetrics
from taudl_dist.training import checkpoint, tracked
from taudl_dist.training.evaluations import Evaluations, is_due
from taudl_dist.training.heartbeat import Heartbeat
from taudl_dist.training.interval import Interval
from taudl_dist.training.metrics import MetricsFile
from taudl_dist.training.run_folder import RunFolder, config_digest, file_sha256
from taudl_dist.training.schedule import learning_rate
from taudl_dist.training.step import Learner, train_step
from taudl_dist.training.world import World

Log = Callable[[str], None]

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
"""What `stop_signal` may say; the first that any worker says counts."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a worker's loop ended."""

    step: int
    """Steps done."""
    signal: int = 0
    """The signal that ended it before the last step, or 0."""
    model: dict[str, Any] | None = None
    """Path, sha256 and origin of the final weights, when all steps are done."""
    reading: dict[str, float] = dataclasses.field(default_factory=dict)
    """What rank 0 fetched and used, where the dataset lies in an object store."""


class Loop:
    """One worker of a run.

    Args:
        stop_signal: asked after each step; SIGINT and SIGTERM end the run with a checkpoint, SIGUSR1 asks for a checkpoint alone.
        report: takes the log lines of rank 0, and that of another rank which sees the run stuck.
        measure: takes the numbers of each step, on every rank.
        evaluate: asks for the evaluation of a complete checkpoint; called on all ranks.
    """

    def __init__(
        self,
        config: Config,
        run: RunFolder,
        world: World,
        *,
        stop_signal: Callable[[], int],
        report: Log = log,
        measure: Callable[[dict[str, Any]], None] = lambda row: None,  # noqa: ARG005
        evaluate: Callable[[Path], None] = lambda checkpoint: None,  # noqa: ARG005
    ) -> None:
        self.config, self.run, self.world = config, run, world
        self.stop_signal, self.report = stop_signal, report if world.rank == 0 else lambda _: None
        self.measure = measure
        self.evaluate, self.evaluations = evaluate, Evaluations(run=run.path)
        self.threads = world.use_threads()
        if world.device.type == "cuda":
            torch.cuda.set_device(world.device)  # collectives of objects go through the current GPU
            torch.backends.cudnn.allow_tf32 = False  # fp32 means fp32, which torch does not hold to in convolutions
        self.dataset = open_dataset(config.data, config.storage)
        self.plan = BatchPlan(self.dataset, config)
        self.identity = {"dataset_digest": self.dataset.digest, "plan_version": PLAN_VERSION, "seed": config.seed}
        self.attempt = world.first(lambda: secrets.token_hex(4))
        self.saver = checkpoint.Saver(
            run.checkpoints,
            attempt=self.attempt,
            world=world,
            identity=self.identity,
            keep=config.checkpoint.keep,
            pinned=lambda: self.evaluations.pinned(config),
        )
        self.heartbeat = Heartbeat(
            run.workers,
            attempt=self.attempt,
            rank=world.rank,
            size=world.size,
            report=report,
            gpu_bytes=world.gpu_bytes,
        )
        self.after = world.first(run.attempt)
        newest = world.first(lambda: checkpoint.newest(run.checkpoints, trusts=run.trusts))
        self.learner = Learner.build(config, self.dataset, world, pretrained=newest is None)
        self.start = 0
        if newest:
            self.start = checkpoint.load(
                newest,
                world=world,
                backbone=self.learner.backbone,
                heads=self.learner.heads,
                identity=self.identity,
            )
        self.saved = self.start if newest else -1

    def train(self) -> Outcome:
        """Runs the steps that are left."""
        with self.heartbeat:
            return self._train()

    def _train(self) -> Outcome:
        config, world = self.config, self.world
        end = min(config.steps, config.stop_at or config.steps)
        self._announce()
        for waiting in world.first(self._waiting_evaluations):
            self.evaluate(waiting)
        follower = self._follower() if world.rank == 0 else None
        system = self._system_metrics()
        metrics = MetricsFile(self.run.metrics, start=self.start) if world.rank == 0 else None
        loader = BatchLoader(
            self.dataset,
            self.plan,
            rank=world.rank,
            world_size=world.size,
            start=self.start,
            stop=max(end, self.start),
            device=world.device,
        )
        step, stopped = self.start, 0
        interval = Interval(steps=config.steps, start=self.start)
        last = time.perf_counter()
        self.heartbeat.now("waiting for data", step)
        try:
            for batch in loader:
                data_wait_s = time.perf_counter() - last
                self.heartbeat.now("computing", step)
                row, asked = self._step(batch, metrics)
                step += 1
                self.heartbeat.now("reporting", step)
                now = time.perf_counter()
                row |= {
                    "images_per_s": batch.composition.num_images / (now - last),
                    "data_wait_s": data_wait_s,
                    "time": time.time(),
                }
                interval.add(row, images=batch.composition.num_images, seconds=now - last)
                self.measure({**row, "images": batch.composition.num_images, "seconds": now - last})
                last = now
                if metrics:
                    metrics.write(row)
                if step % config.tracking.every == 0 or step == end:
                    self.report(interval.line())
                    if follower and self.run.attempt() == self.attempt:
                        follower.send()
                    if system:
                        system.look()
                if step % config.checkpoint.every == 0 or step == end or asked or is_due(config, step):
                    self.heartbeat.now("saving", step)
                    self._save(step, metrics)
                self.heartbeat.now("waiting for data", step)
                if asked and asked != signal.SIGUSR1:
                    stopped = asked
                    break
            self.heartbeat.now("saving", step)
            self._complete(metrics)
        finally:
            loader.close()
            if metrics:
                metrics.close()
            if system:
                system.stop()
        model, reading = self._finish(step) if step >= config.steps else None, loader.stats()
        if reading:
            self.report("reading: " + ", ".join(f"{name} {value:.6g}" for name, value in reading.items()))
        outcome = Outcome(step=step, signal=stopped, model=model, reading=reading)
        if world.rank == 0:
            self.run.update(outcome=dataclasses.asdict(outcome))
        return outcome

    def _step(self, batch: Batch, metrics: MetricsFile | None) -> tuple[dict[str, Any], int]:
        """One step; its line of metrics.jsonl, and the signal any worker got. Completes a checkpoint that all have written."""
        lr = learning_rate(batch.step, steps=self.config.steps, config=self.config.optim)
        shares = train_step(self.learner, batch, lr=lr)
        asked = self.stop_signal()
        votes = [float(asked == number) for number in _SIGNALS]
        memory = self.heartbeat.memory_bytes, self.heartbeat.gpu_bytes
        facts = self.world.total(
            torch.cat([shares, shares.new_tensor([*votes, float(self.saver.is_written), *memory])])
        )
        pctd, ccta, mutual, *votes, written, memory_bytes, gpu_bytes = facts
        weight, mutual_weight = self.config.loss.ccta_weight, self.config.loss.mutual_weight
        loss = (1 - weight) * pctd + weight * ccta + mutual_weight * mutual
        if not math.isfinite(loss):
            self._complete(metrics)
            raise UserError(
                f"the loss of step {batch.step} is {loss} (pctd {pctd}, ccta {ccta}, mutual {mutual}); {checkpoint.diverged_remedy()};"
                f" checkpoints in {self.run.checkpoints} are from before"
            )
        if written == self.world.size:
            self._complete(metrics)
        asked = next((int(number) for number, vote in zip(_SIGNALS, votes) if vote), 0)
        row = {"step": batch.step, "loss": loss, "pctd": pctd, "ccta": ccta, "lr": lr}
        row |= {"mutual": mutual} if mutual_weight else {}
        row |= {"workers": self.world.size, "memory_bytes": int(memory_bytes)}
        return row | ({"gpu_memory_bytes": int(gpu_bytes)} if gpu_bytes else {}), asked

    def _save(self, step: int, metrics: MetricsFile | None) -> None:
        """Begins a checkpoint; training goes on while it is written."""
        if step == self.saved:
            return
        self._complete(metrics)
        self.world.first(lambda: self.run.check_newest(self.attempt))
        self.saver.begin(step, backbone=self.learner.backbone, heads=self.learner.heads)
        self.saved = step

    def _complete(self, metrics: MetricsFile | None) -> None:
        """Waits for the checkpoint under way, if there is one; a collective."""
        if not self.saver.is_under_way:
            return
        self.saver.wait()  # before it is asked whose turn it is: a later attempt may begin meanwhile
        self.world.first(lambda: self.run.check_newest(self.attempt))
        if metrics:
            metrics.sync()
        path = self.saver.complete()
        if is_due(self.config, checkpoint.step_of(path)):
            self.evaluate(path)

    def _follower(self) -> tracking.Follower | None:
        if tracking.tracking_uri(self.config) is None:
            return None
        place = self.run.info()["mlflow"]
        return tracking.Follower(place, self.run.metrics, begin=lambda: tracked.begin(self.config, self.run))

    def _system_metrics(self) -> SystemMetrics | None:
        """On one worker of each machine."""
        world = self.world
        if world.local_rank or tracking.tracking_uri(self.config) is None:
            return None
        node = f"node_{world.node}" if world.local_size < world.size else ""
        return SystemMetrics(lambda: self.run.info()["mlflow"], node=node)

    def _waiting_evaluations(self) -> list[Path]:
        """Checkpoints that an earlier attempt left without an evaluation."""
        self.evaluations.begin(self.start)
        return self.evaluations.pending(self.config)

    def _finish(self, step: int) -> dict[str, Any]:
        """Final weights into the run folder; what they are, for run.json and MLflow."""
        from taudl_dist.model import save_model

        def write() -> dict[str, Any]:
            self.run.check_newest(self.attempt)
            mlflow = self.run.info()["mlflow"]
            facts = {"dataset_digest": self.dataset.digest, "step": step, "config_digest": config_digest(self.config)}
            save_model(self.learner.model, self.run.path, {**facts, "mlflow_run_id": mlflow and mlflow["run_id"]})
            weights = self.run.path / "model.safetensors"
            return {"weights": str(weights), "sha256": file_sha256(weights), **facts}

        return self.world.first(write)

    def _announce(self) -> None:
        world, config = self.world, self.config
        if world.rank == 0:
            self.run.add_attempt(self.attempt, after=self.after, world_size=world.size, from_step=self.start)
        where = f"{world.size} worker{'s' * (world.size > 1)} on {world.device.type}"
        threads = f", {self.threads} threads each" if world.device.type == "cpu" else ""
        origin = f"from step {self.start}" if self.start else "from the beginning"
        self.report(f"training {config.model.name} on {len(self.dataset.cameras)} cameras, {where}{threads}, {origin}")
