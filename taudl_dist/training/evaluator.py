"""Evaluates checkpoints in processes of their own, beside training: nothing that happens there reaches it.

    python -m taudl_dist.training.evaluator RUN CHECKPOINT

is such a process. Under Ray it is started by a task of Ray's validation on any machine, else by the first worker, one at a time. A
checkpoint that cannot be evaluated costs a line in the log and in evaluations.jsonl, and is tried again when the run is resumed.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from taudl_dist.config import Config, load_yaml, resolve
from taudl_dist.dataset import open_dataset
from taudl_dist.errors import UserError
from taudl_dist.training.evaluations import Evaluations
from taudl_dist.training.run_folder import RunFolder, file_sha256
from taudl_dist.training.saved import NAME, step_of

Log = Callable[[str], None]
Evaluate = Callable[[Path], None]
"""Asks for the evaluation of a complete checkpoint; a collective, and it does not wait."""

_NICENESS = 10
"""Training goes first where the two share processors."""
_POLL_S = 0.2


def check_evaluation(config: Config) -> None:
    """Refuses an evaluation that could only fail.

    Raises:
        UserError: the dataset cannot be read, or does not give the number that decides.
    """
    from taudl_dist.evaluation.measure import deciding

    if config.evaluation.every:
        deciding(open_dataset(config.evaluation.data or config.data, config.storage), config.evaluation.metric)


@contextlib.contextmanager
def beside_training(config: Config, run: RunFolder, *, report: Log, asked: Callable[[], int]) -> Iterator[Evaluate]:
    """While inside, checkpoints are evaluated one after the other; at the end those still waiting are finished, or given up.

    Args:
        asked: a signal that asks this process to end, or 0.
    """
    if not config.evaluation.every:
        yield lambda _: None
        return
    has_ended = threading.Event()
    waiting: list[Future[None]] = []

    def work(checkpoint: Path) -> None:
        try:
            evaluate_in_process(run, checkpoint, report=report, gives_up=lambda: has_ended.is_set() or bool(asked()))
        except Exception as error:  # no room for a process or a line, say; a thread would keep it to itself
            report(f"warning: {checkpoint.name} could not be evaluated ({type(error).__name__}: {error})")

    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="taudl-evaluation") as queue:
        try:
            yield lambda checkpoint: waiting.append(queue.submit(work, checkpoint))
        except BaseException:
            has_ended.set()
            raise
        left = sum(not future.done() for future in waiting)
        if left:
            report(f"trained; evaluations to come: {left} (Ctrl-C leaves them to --resume)")


def evaluate_in_process(
    run: RunFolder, checkpoint: Path, *, report: Log, gives_up: Callable[[], bool]
) -> dict[str, Any]:
    """Evaluates a checkpoint in a process of its own and waits for it.

    Returns:
        Its row of evaluations.jsonl; only the step if there was no time for it.
    """
    record, step = Evaluations(run=run.path), step_of(checkpoint)
    done = next((row for row in record.rows() if row["step"] == step), None)
    if done:
        return done
    with tempfile.TemporaryFile("w+") as errors:
        process = None if gives_up() else _start(run, checkpoint, errors)
        while process and process.poll() is None:
            if gives_up():
                process.kill()
                process.wait()
            else:
                time.sleep(_POLL_S)
        if process is None or (process.returncode and gives_up()):
            report(f"no time to evaluate step {step}; done when the run is resumed: {run.resume_command}")
            return {"step": step}
        errors.seek(0)
        lines = errors.read().strip().splitlines()
    reason = _reason(process.returncode, lines)
    row = next((row for row in record.rows() if row["step"] == step), None)
    if row is None:
        row = {"step": step, "checkpoint": checkpoint.name, "time": time.time(), "error": reason[:500]}
        record.add(row)
        report(f"warning: step {step} could not be evaluated ({reason}); training does not need it and goes on")
        return row
    if process.returncode:
        lines.append(f"warning: step {step} was evaluated, but then: {reason}")
    for line in lines:
        if line.startswith("warning:"):
            report(line)
    report(_line(row, record.best()))
    return row


def _start(run: RunFolder, checkpoint: Path, errors: Any) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        [sys.executable, "-m", "taudl_dist.training.evaluator", str(run.path), checkpoint.name],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},  # a Ray job's folder is only there
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=errors,
        start_new_session=True,  # Ctrl-C is for training, which then says what becomes of this
    )
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, process.pid, _NICENESS)
    return process


def _reason(code: int, lines: list[str]) -> str:
    if code < 0:
        return f"its process was ended by {signal.Signals(-code).name}{', out of memory?' if code == -signal.SIGKILL else ''}"
    return lines[-1] if lines else f"its process ended with code {code}"


def _line(row: dict[str, Any], best: dict[str, Any] | None) -> str:
    from taudl_dist.evaluation.evaluate import RATES

    names = [row["metric"], *(name for name in ("mAP", "rank1") if name != row["metric"] and name in row["metrics"])]
    values = {RATES.get(name, name): row["metrics"].get(name, float("nan")) for name in names}
    numbers = ", ".join(f"{title} {100 * value:.1f}" for title, value in values.items())
    place = "the best so far" if best and best["step"] == row["step"] else f"best: step {best['step']}" if best else ""
    return f"evaluated step {row['step']}: {numbers} (percent; in {row['seconds']:.0f} s)  {place}"


def main(argv: Sequence[str] | None = None) -> int:
    """The process: evaluates, records, and sends to MLflow."""
    from taudl_dist.cli import run_guarded

    folder, name = sys.argv[1:] if argv is None else argv
    return run_guarded(lambda: _evaluate(RunFolder(path=Path(folder)), name), "evaluation")


def _evaluate(run: RunFolder, name: str) -> None:
    from taudl_dist import tracked_models
    from taudl_dist.evaluation.features import best_device
    from taudl_dist.evaluation.measure import deciding, measure
    from taudl_dist.training.checkpoint import prune

    config, record, checkpoint = (
        resolve(load_yaml(run.path / "config.yaml")),
        Evaluations(run=run.path),
        run.checkpoints / name,
    )
    match = NAME.fullmatch(name)
    if not match or not run.trusts(match[2], step_of(checkpoint)):
        raise UserError(f"checkpoint {checkpoint} is of an attempt that has been overtaken")
    began = time.perf_counter()
    data = open_dataset(config.evaluation.data or config.data, config.storage)
    as_model(run, checkpoint, config)
    row = {
        "step": step_of(checkpoint),
        "checkpoint": name,
        "time": time.time(),
        "data": data.location,
        "dataset_digest": data.digest,
        "sha256": file_sha256(checkpoint / "model.safetensors"),
        "metric": deciding(data, config.evaluation.metric),
        "metrics": measure(data, checkpoint, frames=config.evaluation.frames, device=best_device()),
    }
    row["seconds"] = time.perf_counter() - began
    # before it is recorded: until then the checkpoint is kept from pruning
    tracked_models.send(run.path, [*record.rows(), row])
    record.add(row)
    record.point_to_best()
    prune(run.checkpoints, keep=config.checkpoint.keep, pinned=record.pinned(config))


def as_model(run: RunFolder, checkpoint: Path, config: Config) -> None:
    """Writes the weights of a checkpoint beside its state as model.safetensors and model.json, if they are not there."""
    from safetensors import safe_open

    from taudl_dist.model import ReidModel, feature_dim, save_model
    from taudl_dist.model.weights import fill
    from taudl_dist.training.checkpoint import BACKBONE
    from taudl_dist.training.run_folder import config_digest

    if (checkpoint / "model.json").is_file():
        return
    about = json.loads((checkpoint / "COMPLETE.json").read_text())
    model = ReidModel(config.model.name, feature_dim=feature_dim(config.model), batch_norm=config.model.batch_norm)
    model.image_size = (config.batch.height, config.batch.width)
    with safe_open(checkpoint / BACKBONE, framework="pt") as file:
        state = {key: file.get_tensor(key) for key in file.keys() if key in model.state_dict()}  # noqa: SIM118
    if config.precision == "fp64":
        model.double()
    fill(model, state, source=str(checkpoint), architecture=config.model.name)
    mlflow = run.info()["mlflow"]
    facts = {"dataset_digest": about["dataset_digest"], "step": about["step"], "config_digest": config_digest(config)}
    save_model(model, checkpoint, {**facts, "mlflow_run_id": mlflow and mlflow["run_id"]})


if __name__ == "__main__":
    sys.exit(main())
