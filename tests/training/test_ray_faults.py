"""What Ray's controller is told to say and ask, without Ray: pretended workers, errors and notices."""

from __future__ import annotations

import errno
import os
import signal
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import ActorDiedError
from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError

from taudl_dist.config import resolve
from taudl_dist.errors import UserError
from taudl_dist.training import ray_faults
from taudl_dist.training.ray_faults import MAX_LOSSES, Faults, NoteSigterm, Requests, Yielded, find, for_the_user
from taudl_dist.training.run_folder import Overtaken, RunFolder, open_run

DEAD = SimpleNamespace(health_check_failure=ActorDiedError())
GLOO = RuntimeError("[pair.cc:545] gloo: Connection reset by peer")


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    config = resolve({"data": "d", "out": str(tmp_path / "run"), "model": {"name": "small"}})
    run = open_run(config, dataset_digest="abc", workers=(1, 2))
    run.add_attempt("aa", after=None, world_size=2, from_step=0)
    return run


def _faults(run: RunFolder, workers: tuple[int, int] = (2, 2)) -> Faults:
    faults = Faults(run, workers)
    _start(faults)
    return faults


def _start(faults: Faults) -> None:
    workers = [
        SimpleNamespace(
            distributed_context=SimpleNamespace(world_rank=rank), metadata=SimpleNamespace(node_ip=f"10.0.0.{rank}")
        )
        for rank in range(2)
    ]
    faults.after_worker_group_start(SimpleNamespace(get_workers=lambda: workers))


def _lose(faults: Faults, errors: dict[int, Any]) -> None:
    faults.after_worker_group_poll_status(SimpleNamespace(errors=errors))


def _save(run: RunFolder, step: int) -> None:
    folder = run.checkpoints / f"step-{step:010d}-aa"
    folder.mkdir(parents=True)
    (folder / "COMPLETE.json").touch()


def _state(name: str, **facts: Any) -> Any:
    return type(name, (), facts)()


LOST = [
    (
        {1: DEAD, 0: GLOO},
        "lost worker 1 on 10.0.0.1 (killed, or out of memory); going on from step 0",
        "not the bereaved",
    ),
    ({0: GLOO}, "lost worker 0 on 10.0.0.0 (lost its connection to another one", "the bereaved alone"),
    ({0: KeyError("x")}, "lost worker 0 on 10.0.0.0 (KeyError: 'x')", "a fault of the code"),
]


@pytest.mark.parametrize(("errors", "line", "remark"), LOST, ids=[row[2] for row in LOST])
def test_a_line_says_what_was_lost(run: RunFolder, errors: dict[int, Any], line: str, remark: str) -> None:
    faults = _faults(run)
    _lose(faults, {})
    for _ in range(3):  # Ray looks again until all workers have ended
        _lose(faults, errors)
    assert run.log.read_text().count("\n") == 1, remark
    assert line in run.log.read_text()
    assert "with 2 workers; 2 more losses" in run.log.read_text()


def test_losses_count_between_two_checkpoints_only(run: RunFolder) -> None:
    faults = _faults(run, (1, 2))
    for step in (5, 10):
        for _ in range(MAX_LOSSES):
            _start(faults)
            _lose(faults, {1: DEAD})
        _save(run, step)
    for _ in range(MAX_LOSSES):
        _start(faults)
        _lose(faults, {1: DEAD})
    assert "going on from step 10 with 1 to 2 workers" in run.log.read_text()
    _start(faults)
    with pytest.raises(UserError, match=r"and workers 3 times before since the checkpoint of step 10; .*--resume"):
        _lose(faults, {1: DEAD})


def test_workers_that_saved_and_ended_are_no_loss(run: RunFolder) -> None:
    _lose(_faults(run), {0: Yielded("saved"), 1: GLOO})
    assert not run.log.exists()


def test_what_the_user_must_mend_ends_the_run(run: RunFolder) -> None:
    with pytest.raises(UserError, match="bad image"):
        _lose(_faults(run), {0: GLOO, 1: UserError("bad image")})


def test_an_error_is_found_however_deep() -> None:
    full = OSError(errno.ENOSPC, "full")
    wrapped = RuntimeError("Ray")
    wrapped.worker_failures = {0: GLOO, 1: SimpleNamespace()}  # type: ignore[attr-defined]
    wrapped.__cause__ = full
    assert for_the_user(wrapped) is full
    assert for_the_user(OSError(errno.EIO, "hiccup")) is None
    assert for_the_user(Overtaken("another")) is None
    assert find(wrapped, lambda error: error is GLOO) is GLOO


NOTICES = [
    (120, [(0, signal.SIGUSR1), (80, None), (91, signal.SIGTERM), (92, None)], "time to go on"),
    (20, [(0, signal.SIGTERM), (1, None)], "no time"),
    (None, [(0, signal.SIGTERM)], "nobody knows when"),
]


@pytest.mark.parametrize(("in_s", "asked", "remark"), NOTICES, ids=[row[2] for row in NOTICES])
def test_a_notice_asks_to_save_and_in_time_to_end(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch, in_s: int | None, asked: list[tuple[int, Any]], remark: str
) -> None:
    faults, start = _faults(run), 1.8e9
    notice = SimpleNamespace(deadline_ms=(start + in_s) * 1000 if in_s else None, preempted_ranks=[1])
    for after_s, number in asked:
        monkeypatch.setattr(ray_faults.time, "time", lambda after_s=after_s: start + after_s)
        faults.after_controller_state_update(None, _state("PreemptingState", preemption_info=notice))
        found = run.request.read_text() if run.request.exists() else None
        assert found == (number and f"aa {int(number)}"), remark
        run.request.unlink(missing_ok=True)
    assert run.log.read_text().startswith("10.0.0.1 will be taken away ")


def test_before_resizing_the_workers_save(run: RunFolder) -> None:
    faults, seen = _faults(run, (1, 4)), []

    def answer() -> None:
        while not run.request.exists():
            time.sleep(0.01)
        seen.append(run.request.read_text())
        run.request.unlink()

    worker = threading.Thread(target=answer)
    worker.start()
    faults.before_controller_execute_resize_decision(SimpleNamespace(num_workers=2))  # the first start: nobody to ask
    assert not run.request.exists()
    faults.after_controller_state_update(_state("RunningState"), _state("ResizingState"))
    faults.before_controller_execute_resize_decision(SimpleNamespace(num_workers=3))
    worker.join()
    assert seen == ["aa 15"]
    assert "room for 3 workers instead of 2" in run.log.read_text()


def test_a_run_that_waits_for_room_says_so_and_can_be_stopped(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_faults, "_LOOK_S", 0)
    monkeypatch.setattr(ray_faults, "_WAITING_S", -1)
    faults, pending = _faults(run), _state("RestartingState")
    faults.after_controller_state_update(_state("RunningState"), pending)
    assert not run.log.exists()
    faults.after_controller_state_update(pending, pending)
    assert "waiting for room for 2 workers" in run.log.read_text()
    run.stop.write_text("2")
    with pytest.raises(Yielded):
        faults.after_controller_state_update(
            _state("SchedulingState"), _state("ReschedulingState", training_failed_error=NO_ROOM)
        )


NO_ROOM = SimpleNamespace(controller_failure=WorkerGroupStartupTimeoutError(2))
BROKEN = SimpleNamespace(controller_failure=RuntimeError("no module named taudl_dist"))


def test_workers_that_cannot_be_started_are_not_waited_for_forever(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_faults, "_LOOK_S", 0)
    faults = _faults(run)
    for _ in range(MAX_LOSSES):
        faults.after_controller_state_update(
            _state("SchedulingState"), _state("ReschedulingState", training_failed_error=NO_ROOM)
        )
    assert not run.log.exists()
    for _ in range(MAX_LOSSES):
        failed = _state("ReschedulingState", training_failed_error=BROKEN)
        faults.after_controller_state_update(_state("SchedulingState"), failed)
        faults.after_controller_state_update(failed, failed)
    assert "lost workers that could not be started (RuntimeError: no module named taudl_dist)" in run.log.read_text()
    with pytest.raises(UserError, match="3 times before"):
        faults.after_controller_state_update(
            _state("SchedulingState"), _state("ReschedulingState", training_failed_error=BROKEN)
        )


def test_a_worker_answers_what_is_meant_for_it_and_once(run: RunFolder) -> None:
    requests = Requests(run, rank=0)
    requests.attempt = "aa"
    assert requests() == 0
    run.request.write_text("bb 15")  # meant for an attempt that is gone
    assert requests() == 0
    run.request.write_text("aa 10")
    assert [requests(), requests()] == [signal.SIGUSR1, 0]
    run.request.write_text("aa 15")
    assert requests() == signal.SIGTERM
    run.stop.write_text("2")
    assert requests() == signal.SIGINT
    assert Requests(run, rank=1)() == 0


def test_sigterm_to_any_worker_asks_to_save_and_end(run: RunFolder) -> None:
    before = signal.getsignal(signal.SIGTERM)
    try:
        NoteSigterm().after_init_train_context()
        os.kill(os.getpid(), signal.SIGTERM)
        assert Requests(run, rank=1)() == signal.SIGTERM
        NoteSigterm().after_init_train_context()
        assert Requests(run, rank=1)() == 0
    finally:
        signal.signal(signal.SIGTERM, before)
