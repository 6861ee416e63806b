"""What happens on Ray when workers are lost, taken away, or joined by others; with ray_train.py the only code that knows Ray Train.

Ray's controller restarts all workers when something changes, and they go on from the newest checkpoint. This module tells them to
save first where there is a warning, says what was lost, and ends a run that only ever loses workers. Whatever it asks stands in the
run folder's `request`, with the name of the attempt it is meant for, so a request that comes too late reaches nobody.
"""

from __future__ import annotations

import errno
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ray.exceptions import RayActorError
from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError
from ray.train.v2._internal.execution.callback import ControllerCallback, WorkerCallback, WorkerGroupCallback

from taudl_dist.errors import UserError
from taudl_dist.progress import clean
from taudl_dist.training.run_folder import Overtaken, RunFolder, write_text
from taudl_dist.training.saved import newest, step_of

MAX_LOSSES = 3
"""Times in a row workers may be lost before the next checkpoint; a long run on machines that come and go may lose any number."""

LEAVE_S = 30
"""Seconds before a machine is taken away at which its workers stop: time for a step and a checkpoint."""

_PATIENCE_S = 120
"""Longest wait for that checkpoint; without it the steps since the last one are computed again."""

_LOOK_S = 0.5
"""Seconds between two looks for room where there is none."""

_WAITING_S = 60
"""Seconds between two lines that say what is waited for."""


_PENDING = ("InitializingState", "RestartingState")
"""States that Ray's controller stays in while there is no room."""


class Yielded(Exception):
    """Raised by workers that saved their state and ended so that Ray starts them anew, elsewhere or in another number."""


class Faults(ControllerCallback, WorkerGroupCallback):
    """Watches the workers of a run from Ray's controller.

    Args:
        workers: fewest and most.
    """

    def __init__(self, run: RunFolder, workers: tuple[int, int]) -> None:
        self._run, self._workers = run, workers
        self._losses, self._saved = 0, 0
        self._places: dict[int, str] = {}
        self._is_settled = False
        self._is_resizing = False
        self._leave_at_s: float | None = None
        self._last_line_s = time.monotonic()

    def after_worker_group_start(self, worker_group: Any) -> None:
        self._places = {
            worker.distributed_context.world_rank: worker.metadata.node_ip for worker in worker_group.get_workers()
        }
        self._is_settled, self._leave_at_s = False, None

    def after_worker_group_poll_status(self, worker_group_status: Any) -> None:
        """After every look at the workers; once for each group of them that ends in an error."""
        errors = worker_group_status.errors
        if not errors or self._is_settled:
            return
        self._is_settled = True
        cause = next(filter(None, map(for_the_user, errors.values())), None)
        if cause:
            raise cause  # an error of this callback ends the run instead of trying again
        if any(isinstance(error, Yielded) for error in errors.values()):
            return
        lost = {rank: error for rank, error in errors.items() if _is_death(error)} or errors
        self._count_loss(
            "; ".join(
                f"worker {rank} on {self._places.get(rank, '?')} ({_reason(error)})"
                for rank, error in sorted(lost.items())
            )
        )

    def after_controller_state_update(self, previous_state: Any, current_state: Any) -> None:
        """Ray calls this at least once a look; `current_state` may be the same as before."""
        name = type(current_state).__name__
        if name == "ResizingState":
            self._is_resizing = True
        elif name == "PreemptingState":
            self._leave(current_state.preemption_info)
        elif name == "ReschedulingState" and current_state is not previous_state and not _is_no_room(current_state):
            self._count_loss(f"workers that could not be started ({_reason(_cause(current_state))})")
        elif name == "ReschedulingState" or (name == type(previous_state).__name__ and name in _PENDING):
            self._wait_for_room()

    def before_controller_execute_resize_decision(self, resize_decision: Any) -> None:
        """Before workers are started in another number: waits until those at work have saved and ended."""
        if not self._is_resizing:
            return
        self._is_resizing = False
        self._say(
            f"the cluster has room for {_counted(resize_decision.num_workers)} instead of {len(self._places)}: saving, then going on with them"
        )
        self._ask(signal.SIGTERM)
        deadline = time.monotonic() + _PATIENCE_S
        while self._run.request.exists() and time.monotonic() < deadline:
            time.sleep(0.1)

    def _count_loss(self, what: str) -> None:
        saved = newest_step(self._run)
        self._losses = self._losses + 1 if saved == self._saved else 1
        self._saved = saved
        if self._losses > MAX_LOSSES:
            raise UserError(
                f"lost {what}, and workers {MAX_LOSSES} times before since the checkpoint of step {saved}; find out why, then go on"
                f" with: {self._run.resume_command}"
            )
        low, high = self._workers
        number = _counted(high) if low == high else f"{low} to {_counted(high)}, as many as there is room for"
        self._say(
            f"lost {what}; going on from step {saved} with {number}; {MAX_LOSSES - self._losses} more losses before the next"
            " checkpoint would end the run"
        )

    def _leave(self, notice: Any) -> None:
        """A machine will be taken away: save now, and end in time if there is time to go on until then."""
        now = time.time()
        is_news = self._leave_at_s is None
        taken_at_s = notice.deadline_ms / 1000 if notice.deadline_ms else now
        if self._leave_at_s is None:
            self._leave_at_s = taken_at_s - LEAVE_S
        if now >= self._leave_at_s:
            self._leave_at_s = float("inf")
            self._ask(signal.SIGTERM)
        elif is_news:
            self._ask(signal.SIGUSR1)
        if is_news:  # said once it is asked: who reads the line may count on it
            machines = ", ".join(sorted({self._places.get(rank, "?") for rank in notice.preempted_ranks}))
            when = f"in {taken_at_s - now:.0f} s" if notice.deadline_ms else "soon"
            self._say(
                f"{machines} will be taken away {when}, with workers {notice.preempted_ranks}: saving, then going on without"
            )

    def _ask(self, number: signal.Signals) -> None:
        write_text(self._run.request, f"{self._run.attempt()} {int(number)}")

    def _wait_for_room(self) -> None:
        if self._run.stop.exists():
            raise Yielded("asked to stop, and no worker is there to do so")
        time.sleep(_LOOK_S)  # Ray's controller looks again at once
        if time.monotonic() - self._last_line_s > _WAITING_S:
            room = _counted(self._workers[0])
            self._say(
                f"waiting for room for {room}; add machines, or stop this run with Ctrl-C and resume it with fewer --workers"
            )

    def _say(self, line: str) -> None:
        self._last_line_s = time.monotonic()
        append(self._run.log, line)


class NoteSigterm(WorkerCallback):
    """Runs in each worker: SIGTERM, which Slurm and others send to every process of a job, becomes a checkpoint."""

    def after_init_train_context(self) -> None:
        _terminated.clear()
        signal.signal(signal.SIGTERM, lambda *_: _terminated.set())


_terminated = threading.Event()
"""Set where this process got SIGTERM; Ray runs the training loop in a thread, which may not handle signals itself."""


class Requests:
    """What driver, controller and SIGTERM ask of a worker's loop; asked after each step.

    Args:
        attempt: the attempt this worker belongs to.
    """

    def __init__(self, run: RunFolder, *, rank: int) -> None:
        self._run, self._rank = run, rank
        self._answered = ""
        self.attempt = ""

    def __call__(self) -> int:
        """A signal number, or 0."""
        if _terminated.is_set():
            return signal.SIGTERM
        if self._rank:
            return 0
        stop = _read(self._run.stop)
        if stop:
            return int(stop)
        request = _read(self._run.request)
        if request == self._answered or not request.startswith(self.attempt):
            return 0
        self._answered = request
        return int(request.split()[1])


def append(path: Path, line: str) -> None:
    """Adds a line to a log."""
    with path.open("a") as file:
        file.write(clean(line) + "\n")


def newest_step(run: RunFolder) -> int:
    """Steps behind the checkpoint that the next attempt goes on from."""
    checkpoint = newest(run.checkpoints, trusts=run.trusts)
    return step_of(checkpoint) if checkpoint else 0


def for_the_user(error: BaseException) -> BaseException | None:
    """What only the user can mend (a UserError, a full or read-only disk) somewhere inside what Ray made of it, or None."""
    return find(error, _is_for_the_user)


def find(error: BaseException, suits: Callable[[BaseException], bool]) -> BaseException | None:
    """The first suitable error inside one, however deep Ray has wrapped it."""
    if suits(error):
        return error
    inside = [getattr(error, name, None) for name in ("controller_failure", "_base_exc", "cause", "__cause__")]
    inside += list(getattr(error, "worker_failures", {}).values())
    found = (find(part, suits) for part in inside if isinstance(part, BaseException))
    return next(filter(None, found), None)


def _is_for_the_user(error: BaseException) -> bool:
    final = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)
    if isinstance(error, OSError):
        return error.errno in final
    return isinstance(error, UserError) and not isinstance(error, Overtaken)


def _cause(state: Any) -> BaseException:
    return getattr(state.training_failed_error, "controller_failure", state.training_failed_error)


def _is_no_room(state: Any) -> bool:
    return isinstance(_cause(state), WorkerGroupStartupTimeoutError)


def _is_death(error: BaseException) -> bool:
    return isinstance(getattr(error, "health_check_failure", error), RayActorError)


def _reason(error: BaseException) -> str:
    text = str(error)
    if _is_death(error):
        return "its machine is gone" if "node has died" in text else "killed, or out of memory"
    if "gloo" in text or "NCCL" in text:
        return "lost its connection to another one, which died or whose machine is gone"
    lines = text.strip().splitlines()
    return f"{type(error).__name__}: {lines[-1][:200] if lines else ''}"


def _counted(workers: int) -> str:
    return f"{workers} worker{'s' * (workers > 1)}"


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except FileNotFoundError:
        return ""
