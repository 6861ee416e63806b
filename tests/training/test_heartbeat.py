"""Who holds up the others is named: in a table of cases, and in a real group of processes."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from taudl_dist.training import heartbeat, run_state
from taudl_dist.training.heartbeat import Beat, Heartbeat, driving, find_stuck, read_beat, read_beats
from tests.training import hang
from tests.training.conftest import FLAGS


def beat(rank: int, **facts: Any) -> Beat:
    usual = {
        "size": 3,
        "host": f"host{rank}",
        "pid": 100 + rank,
        "attempt": "ab",
        "step": 7,
        "doing": "computing",
        "for_s": 400.0,
        "where": "taudl_dist/training/step.py:40",
        "collective": "",
        "interval_s": 2.0,
        "patience_s": 60.0,
        "rss_bytes": 1,
        "gpu_bytes": 0,
    }
    return Beat(rank=rank, **{**usual, **facts})


WAITING = {"collective": "all_to_all_single"}


@pytest.mark.parametrize(
    ("beats", "culprits"),
    [
        ([beat(0, **WAITING), beat(1, doing="waiting for data"), beat(2, **WAITING)], [1]),
        ([beat(0, **WAITING), beat(1, age_s=90.0), beat(2, **WAITING)], [1]),
        ([beat(0, age_s=90.0), beat(1, **WAITING), beat(2, **WAITING)], [0]),
        ([beat(0, **WAITING), beat(1, age_s=90.0, **WAITING), beat(2, age_s=90.0)], [1, 2]),
        # silence counts more than what the silent was last seen at
        ([beat(0, doing="saving"), beat(1, age_s=90.0, **WAITING), beat(2, **WAITING)], [1]),
        # a backward that computes looks like one that waits; next to a collective proper it is the one
        ([beat(0, collective="backward"), beat(1, doing="waiting for data"), beat(2, collective="backward")], [1]),
        ([beat(0, **WAITING), beat(1, collective="backward"), beat(2, **WAITING)], [1]),
        ([beat(0, **WAITING), beat(1, doing="ended"), beat(2, **WAITING)], [1]),
        ([beat(0, size=1, doing="waiting for data")], [0]),  # alone, and still stuck
        ([beat(0, **WAITING), beat(1, **WAITING), beat(2, **WAITING)], []),  # nobody stands out, so nobody is named
        ([beat(0, collective="backward"), beat(1, collective="backward")], []),
    ],
)
def test_the_one_that_the_others_wait_for_is_named(beats: list[Beat], culprits: list[int]) -> None:
    stuck = find_stuck(beats)
    assert stuck is not None
    assert [one.rank for one in stuck.culprits] == culprits
    for rank in culprits:
        assert f"worker {rank} (pid {100 + rank} on host{rank})" in str(stuck)
    assert "no progress for 400 s" in str(stuck)
    assert bool(culprits) != ("no worker stands out" in str(stuck))


@pytest.mark.parametrize(
    "beats",
    [
        [],
        [beat(0, for_s=50.0), beat(1, **WAITING)],  # one went on less than a minute ago
        [beat(0, patience_s=500.0), beat(1, patience_s=500.0)],  # steps of this run take that long
        [beat(0, age_s=90.0), beat(1, for_s=3.0)],  # one is silent, and the others go on without it
        [beat(0, age_s=90.0), beat(1, age_s=90.0)],  # all are gone: not stuck, over
        [beat(0, doing="ended"), beat(1, doing="ended")],
    ],
)
def test_a_run_that_goes_on_or_is_over_is_not_stuck(beats: list[Beat]) -> None:
    assert find_stuck(beats) is None


def watched(folder: Path, **facts: Any) -> Heartbeat:
    return Heartbeat(folder, **{"attempt": "ab", "rank": 0, "size": 1, "report": lambda _: None, **facts})


def test_a_beat_says_what_is_done_and_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeat, "INTERVAL_S", 0.05)
    (tmp_path / "cd-00007.json").write_text("{}")  # of an earlier start
    with watched(tmp_path, gpu_bytes=lambda: 5) as one:
        one.now("waiting for data", 3)
        time.sleep(0.2)
        (found,) = read_beats(tmp_path, attempt="ab")
        assert (found.rank, found.step, found.doing, found.gpu_bytes) == (0, 3, "waiting for data", 5)
        assert found.pid == os.getpid()
        assert found.rss_bytes > 1e6
        assert found.age_s < 5
    (last,) = read_beats(tmp_path, attempt="ab")
    assert last.has_ended
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ab-00000.json"]


def test_the_stack_tells_the_collective_and_our_line() -> None:
    """As in a worker that waits: our function calls torch.distributed, which calls another function of its own."""
    seen = []
    namespace: dict[str, Any] = {"look": lambda: seen.append(heartbeat._place(sys._getframe(1)))}
    inner = "def inner():\n    look()\ndef all_gather_object():\n    inner()\n"
    exec(compile(inner, "/x/torch/distributed/distributed_c10d.py", "exec"), namespace)
    ours = str(Path(heartbeat.__file__).with_name("world.py"))
    exec(compile("\n\ndef everyone():\n    all_gather_object()\neveryone()", ours, "exec"), namespace)
    exec(compile("\ndef check():\n    look()\ndef first():\n    check()\nfirst()", ours, "exec"), namespace)
    backward = "/x/torch/autograd/graph.py"
    exec(compile("def _engine_run_backward():\n    look()\n_engine_run_backward()", backward, "exec"), namespace)
    assert seen == [
        ("taudl_dist/training/world.py:4", "all_gather_object"),
        ("taudl_dist/training/world.py:3", ""),  # an action of rank 0 that the others wait for
        ("", "backward"),
    ]


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"[" * 100_000, b'{"rank": "0"}', b'{"rank": 0, "for_s": "x"}', b"\xff", b"{}" * 100_000],
)
def test_what_no_worker_wrote_is_left_out(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "ab-00000.json").write_bytes(content)
    assert read_beats(tmp_path, attempt="ab") == []


@pytest.mark.parametrize("value", ["NaN", "-Infinity", "1e400", "9" * 400, "null", "[1]"])
@pytest.mark.parametrize("name", ["for_s", "rss_bytes"])
def test_numbers_that_cannot_be_reckoned_with_are_left_out(name: str, value: str, tmp_path: Path) -> None:
    content = {key: number for key, number in dataclasses.asdict(beat(0)).items() if key != "age_s"}
    (tmp_path / "ab-00000.json").write_text(json.dumps(content))
    assert len(read_beats(tmp_path, attempt="ab")) == 1
    text = json.dumps({**content, name: "here"}).replace('"here"', value)
    (tmp_path / "ab-00000.json").write_text(text)
    assert read_beats(tmp_path, attempt="ab") == []


def test_a_folder_that_cannot_be_written_costs_a_line_and_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heartbeat, "INTERVAL_S", 0.02)
    lines: list[str] = []
    with watched(tmp_path / "workers", report=lines.append) as one:
        (tmp_path / "workers").rename(tmp_path / "gone")
        time.sleep(0.2)
        one.now("computing", 1)
    assert len(lines) == 1
    assert "cannot be written" in lines[0]


def test_a_worker_beats_again_after_a_full_disk_that_took_no_line_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heartbeat, "INTERVAL_S", 0.02)
    asked = threading.Event()

    def report(_: str) -> None:
        asked.set()
        raise OSError(errno.ENOSPC, "no room")

    with watched(tmp_path / "workers", report=report) as one:
        (tmp_path / "workers").rename(tmp_path / "gone")
        assert asked.wait(30)
        (tmp_path / "gone").rename(tmp_path / "workers")
        one.now("computing", 5)
    (last,) = read_beats(tmp_path / "workers", attempt="ab")
    assert (last.step, last.has_ended) == (5, True)


def test_noting_what_is_begun_is_next_to_nothing(tmp_path: Path) -> None:
    one = watched(tmp_path)
    began = time.perf_counter()
    for step in range(10_000):
        one.now("computing", step)
    assert (time.perf_counter() - began) / 10_000 < 2e-5  # 0.3 us where the machine is free


@pytest.mark.parametrize(
    ("error", "state", "why"),
    [
        (None, "finished", ""),
        (ValueError("bad"), "failed", "ValueError: bad"),
        (KeyboardInterrupt(), "interrupted", ""),
    ],
)
def test_the_driver_says_how_it_ended(error: BaseException | None, state: str, why: str, tmp_path: Path) -> None:
    with contextlib.suppress(ValueError, KeyboardInterrupt), driving(tmp_path):
        if error:
            raise error
    found = read_beat(tmp_path / heartbeat.DRIVER)
    assert (found["state"], found["why"], found["pid"]) == (state, why, os.getpid())
    assert not [thread for thread in threading.enumerate() if thread.name == "taudl-driver"]


@contextlib.contextmanager
def group(size: int, words: list[Any]) -> Iterator[tuple[list[subprocess.Popen[str]], list[str]]]:
    """Processes as torchrun would start them, and all that they say."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {"WORLD_SIZE": str(size), "LOCAL_WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    said: list[str] = []
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.training.hang", *map(str, words)],
            env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
        )
        for rank in range(size)
    ]

    def listen(process: subprocess.Popen[str]) -> None:
        assert process.stderr
        said.extend(process.stderr)

    for process in processes:
        threading.Thread(target=listen, args=(process,), daemon=True).start()
    try:
        yield processes, said
    finally:
        for process in processes:
            process.kill()
            process.wait()


def until(condition: Callable[[], Any], what: str, said: list[str]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline, f"no {what}:\n{''.join(said)}"
        time.sleep(0.05)


@pytest.mark.slow
def test_a_stopped_worker_and_a_hanging_loader_are_named(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("INTERVAL_S", "SILENT_S", "PATIENCE_S"):
        monkeypatch.setattr(heartbeat, name, getattr(hang, name))
    run, block = tmp_path / "run", tmp_path / "hang"
    words = [
        1,
        block,
        "train",
        "--data",
        dataset,
        "--out",
        run,
        *FLAGS,
        "--steps",
        100_000,
        "--checkpoint.every",
        50_000,
    ]

    def step() -> int:
        return run_state.run_state(run).step if (run / "workers" / "driver.json").exists() else 0

    with group(3, words) as (processes, said):
        until(lambda: step() >= 5, "step 5", said)
        assert run_state.run_state(run).state == "running"

        os.kill(processes[0].pid, signal.SIGSTOP)  # the first: another one has to say so
        until(lambda: any("no progress" in line for line in said), "line about the stopped one", said)
        (line,) = [line for line in said if "no progress" in line]
        assert f"worker 0 (pid {processes[0].pid} on {socket.gethostname()}) is silent" in line
        assert "2 others wait in" in line
        state = run_state.run_state(run)
        assert (state.state, len(state.workers)) == ("stuck", 3)
        assert f"worker 0 (pid {processes[0].pid}" in state.why
        os.kill(processes[0].pid, signal.SIGCONT)
        until(lambda: any("going on after all" in line for line in said), "end of the pause", said)

        said.clear()
        block.touch()
        until(lambda: any("no progress" in line for line in said), "line about the loader", said)
        (line,) = [line for line in said if "no progress" in line]
        assert f"worker 1 (pid {processes[1].pid} on {socket.gethostname()}) hangs: waiting for data" in line
        assert "2 others wait in" in line
        state = run_state.run_state(run)
        assert state.state == "stuck"
        assert f"worker 1 (pid {processes[1].pid}" in state.why
        assert json.dumps(state.as_dict())
        block.unlink()
        at = state.step
        until(lambda: run_state.run_state(run).step > at + 2, "further step", said)
        assert run_state.run_state(run).state == "running"
