"""What `taudl status` tells of runs that go on, ended, were killed, or are no runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from taudl_dist.cli import main
from taudl_dist.errors import UserError
from taudl_dist.training import heartbeat
from taudl_dist.training.run_state import run_state


def row(step: int, *, time_s: float, wait_s: float = 0.1) -> str:
    return json.dumps(
        {
            "step": step,
            "loss": 2.0 - step / 100,
            "pctd": 1.0,
            "ccta": 1.0,
            "images_per_s": 40.0,
            "data_wait_s": wait_s,
            "time": time_s,
        }
    )


def beat(rank: int, **facts: Any) -> dict[str, Any]:
    usual = {"size": 2, "host": "here", "pid": 100 + rank, "attempt": "ab", "step": 30, "doing": "computing"}
    more = {"for_s": 0.0, "where": "", "collective": "", "interval_s": 2.0, "patience_s": 60.0}
    return {"rank": rank, **usual, **more, "rss_bytes": 10**9, "gpu_bytes": 0, **facts}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Thirty of 100 steps, half a second each, with a pause for a restart before step 20; two workers at work."""
    path = tmp_path / "run"
    (path / "workers").mkdir(parents=True)
    (path / "config.yaml").write_text("steps: 100\n")
    attempts = [{"attempt": "cd", "from_step": 0}, {"attempt": "ab", "from_step": 20}]
    facts = {"format": "taudl-run", "version": 1, "dataset": {"digest": "d"}, "mlflow": None, "outcome": None}
    (path / "run.json").write_text(json.dumps({**facts, "attempts": attempts}))
    now = time.time()
    times = [now - 0.5 * (30 - step) - (300 if step < 20 else 0) for step in range(30)]
    (path / "metrics.jsonl").write_text("".join(row(step, time_s=at) + "\n" for step, at in enumerate(times)) + '{"st')
    saved = path / "checkpoints" / "step-0000000020-cd"
    saved.mkdir(parents=True)
    (saved / "COMPLETE.json").write_text("{}")
    os.utime(saved / "COMPLETE.json", (now - 100, now - 100))
    (path / "train.log").write_text(
        "training small\nstep 10/100  loss 1\nlost worker 1 on here (killed)\nstep 30/100\n"
    )
    for rank in range(2):
        (path / "workers" / f"ab-{rank:05d}.json").write_text(json.dumps(beat(rank)))
    (path / "workers" / "cd-00000.json").write_text(json.dumps(beat(0, attempt="cd")))
    (path / "workers" / heartbeat.DRIVER).write_text(json.dumps({"host": "here", "pid": 99, "started": 0}))
    return path


def change(run: Path, **facts: Any) -> None:
    path = run / "run.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **facts}))


def driver(run: Path, *, age_s: float = 0.0, **facts: Any) -> None:
    path = run / "workers" / heartbeat.DRIVER
    path.write_text(json.dumps({"host": "here", "pid": 99, "started": 0, **facts}))
    os.utime(path, (time.time() - age_s,) * 2)


def silence(run: Path, age_s: float = 1000.0) -> None:
    for path in (run / "workers").iterdir():
        os.utime(path, (time.time() - age_s,) * 2)


def test_a_run_that_goes_on(run: Path) -> None:
    state = run_state(run)
    assert (state.state, state.step, state.steps) == ("running", 30, 100)
    assert state.steps_per_s == pytest.approx(2.0, rel=0.01)  # the pause for the restart does not count
    assert state.left_s == pytest.approx(35, rel=0.01)
    assert state.images_per_s == pytest.approx(40)
    assert state.data_wait == pytest.approx(0.2, rel=0.01)
    assert (state.checkpoint_step, state.starts, state.started_from, state.losses) == (20, 2, 20, 1)
    assert state.checkpoint_age_s == pytest.approx(100, abs=5)
    assert [worker["rank"] for worker in state.workers] == [0, 1]
    assert state.notices == ["training small", "lost worker 1 on here (killed)"]


def test_a_checkpoint_of_a_machine_whose_clock_is_ahead_is_new(run: Path) -> None:
    os.utime(run / "checkpoints" / "step-0000000020-cd" / "COMPLETE.json", (time.time() + 100,) * 2)
    assert run_state(run).checkpoint_age_s == 0


def test_states_of_runs_that_ended(run: Path) -> None:
    driver(run, state="failed", why="UserError: the loss is nan")
    assert (run_state(run).state, "the loss is nan" in run_state(run).why) == ("failed", True)
    driver(run, state="interrupted", why="stopped by SIGTERM after 30 steps")
    assert run_state(run).state == "interrupted"
    driver(run, state="interrupted", why="Go on with: taudl train --out x --resume")
    assert run_state(run).why.count("--resume") == 1
    change(run, outcome={"step": 30, "signal": 15})
    (run / "workers" / heartbeat.DRIVER).unlink()  # of a run before there were beats
    assert (run_state(run).state, "stopped after 30 steps" in run_state(run).why) == ("interrupted", True)
    change(run, outcome={"step": 100, "signal": 0})
    state = run_state(run)
    assert (state.state, state.left_s, state.workers) == ("finished", None, [])


def test_a_killed_run_and_one_that_is_being_started(run: Path) -> None:
    silence(run)
    state = run_state(run)
    assert state.state == "interrupted"
    assert "pid 99 on here" in state.why
    assert "--resume" in state.why
    (run / "workers" / "ab-00001.json").write_text(json.dumps(beat(1)))  # outlives its driver for a moment
    assert run_state(run).why == "1 worker, whose driver (pid 99 on here) is silent"
    silence(run)
    driver(run)
    assert "being started" in run_state(run).why
    for path in (run / "workers").iterdir():
        path.unlink()
    assert run_state(run).why == "it has just been begun"
    os.utime(run / "run.json", (time.time() - 100,) * 2)
    assert run_state(run).state == "interrupted"
    driver(run)
    assert run_state(run).state == "running"


def test_a_stuck_run_names_the_culprit(run: Path) -> None:
    (run / "workers" / "ab-00000.json").write_text(json.dumps(beat(0, for_s=200.0, collective="all_gather")))
    (run / "workers" / "ab-00001.json").write_text(json.dumps(beat(1, for_s=200.0, doing="waiting for data")))
    state = run_state(run)
    assert state.state == "stuck"
    assert state.why.startswith("no progress for 200 s: worker 1 (pid 101 on here) hangs: waiting for data")
    assert state.left_s is None


def test_a_run_before_its_first_step(run: Path) -> None:
    (run / "metrics.jsonl").unlink()
    (run / "train.log").unlink()
    for path in (run / "checkpoints").glob("*/*"):
        path.unlink()
    change(run, attempts=[])
    state = run_state(run)
    assert (state.state, state.step, state.checkpoint_step, state.loss, state.starts) == ("running", 0, None, None, 0)
    assert main(["status", str(run)]) == 0


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("run.json", None, "not a run"),
        ("run.json", "{", "not readable as written"),
        ("run.json", "[" * 100_000, "not readable as written"),
        ("run.json", '{"format": "taudl-run"}', "not readable as written"),
        ("config.yaml", None, "no such file"),
        ("config.yaml", "steps: many", "expected a number"),
    ],
)
def test_what_is_no_run_is_refused(run: Path, file: str, content: str | None, message: str, capsys: Any) -> None:
    if content is None:
        (run / file).unlink()
    else:
        (run / file).write_text(content)
    with pytest.raises(UserError, match=message):
        run_state(run)
    assert main(["status", str(run)]) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "content",
    [
        "nonsense\n" * 5,
        "[1]\n",
        '{"step": "x", "time": 1}\n',
        "\x00" * 100,
        "[" * 200_000,
        row(7, time_s=float("nan")),
        row(7, time_s=10**400),
    ],
)
def test_lines_that_are_no_steps_are_passed_over(run: Path, content: str) -> None:
    (run / "metrics.jsonl").write_text(content)
    assert run_state(run).step == 0


def test_the_command(run: Path, capsys: Any) -> None:
    with (run / "train.log").open("a") as file:
        file.write("a camera named \x1b[2J\n")
    assert main(["status", str(run)]) == 0
    text = capsys.readouterr().out
    assert text.startswith(f"{run}: running, step 30 of 100 (30%)")
    for part in (
        "2 steps/s, 40 images/s, data wait 20%",
        "step 20, 1:40 ago",
        "workers lost 1 time",
        "worker 1",
        "pid 101",
    ):
        assert part in text
    assert "\x1b" not in text
    assert main(["status", str(run), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["step"] == 30
    driver(run, state="failed", why="x")
    assert main(["status", str(run), "--watch"]) == 0  # ends, as the run has
    assert main(["status"]) == 2
    assert main(["status", str(run / "nowhere")]) == 1


def test_it_needs_neither_torch_nor_ray_nor_mlflow(run: Path) -> None:
    code = f"import sys; from taudl_dist.cli import main; main(['status', {str(run)!r}]); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "ray", "mlflow"} & set(done.stdout.split())
