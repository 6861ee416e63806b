"""`cluster/slurm.sbatch`: with stand-ins for Slurm and Ray everywhere, on a real Slurm where one can be started."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.training.conftest import FLAGS, rows, tiny_dataset

ROOT = Path(__file__).parents[2]
STAND_INS = {
    "hostname": "echo 192.0.2.7 192.0.2.8",
    "scontrol": 'echo "scontrol $*" >> "$CALLS"; kill -TERM $PPID',  # a requeue ends the batch script
    # srun passes its own flags over; ray starts nothing and runs what stands behind `--`
    "srun": 'while [[ $1 == --* ]]; do shift; done; "$@" & child=$!; trap "kill -TERM $child" TERM; wait $child',
    "ray": 'echo "ray $* auth=$RAY_AUTH_MODE" >> "$CALLS"; [ "$1" = symmetric-run ] || exit 0; [ -z "${RAY_BROKEN:-}" ] || exit 0;'
    ' while [ "$1" != -- ]; do shift; done; shift; "$@"',
    "python": 'echo "python $* ray=$RAY_ADDRESS" >> "$CALLS"; exec bash "$JOB"',
}


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout with a job and an environment that holds the stand-ins."""
    folder = tmp_path / "checkout"
    (folder / "jobs").mkdir(parents=True)
    (folder / "jobs" / "train.py").touch()
    programs = folder / ".venv" / "bin"
    programs.mkdir(parents=True)
    for name, line in STAND_INS.items():
        (programs / name).write_text(f"#!/usr/bin/env bash\n{line}\n")
        (programs / name).chmod(0o755)
    (programs / "activate").write_text(f'export PATH="{programs}:$PATH"\n')
    return folder


def _start(checkout: Path, job: str, *words: str, **env: str) -> subprocess.Popen[str]:
    (checkout / "job.sh").write_text(job)
    slurm = {
        "SLURM_SUBMIT_DIR": str(checkout),
        "SLURM_JOB_ID": "42",
        "SLURM_JOB_NUM_NODES": "3",
        "SLURM_CPUS_PER_TASK": "2",
    }
    mine = {
        "CALLS": str(checkout / "calls"),
        "JOB": str(checkout / "job.sh"),
        "HOME": str(checkout),
        "TMPDIR": str(checkout),
    }
    return subprocess.Popen(
        ["bash", ROOT / "cluster" / "slurm.sbatch", *words],
        env={**os.environ, **slurm, **mine, **env},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def _calls(checkout: Path) -> list[str]:
    return (checkout / "calls").read_text().splitlines()


def test_a_job_that_succeeds(checkout: Path) -> None:
    process = _start(checkout, "exit 0", "train", "--data", "a b")
    _, err = process.communicate(timeout=30)
    assert process.returncode == 0, err
    token, start, job = _calls(checkout)
    assert token == "ray get-auth-token --generate auth=token"
    assert start.startswith("ray symmetric-run --address 192.0.2.7:6379 --min-nodes 3 --num-cpus 2 --num-gpus 0 -- ")
    assert job == "python jobs/train.py --data a b ray=192.0.2.7:6379"
    assert not list(checkout.glob("taudl-*"))


FAILURES = [
    ("exit 3", {}, 3, "did not succeed"),
    ("exit 0", {"RAY_BROKEN": "1"}, 1, "did not succeed"),  # `ray symmetric-run` says 0 where Ray did not start
]


@pytest.mark.parametrize(("job", "env", "code", "message"), FAILURES)
def test_a_job_that_fails(checkout: Path, job: str, env: dict[str, str], code: int, message: str) -> None:
    process = _start(checkout, job, "train", **env)
    _, err = process.communicate(timeout=30)
    assert process.returncode == code
    assert message in err


def test_after_a_notice_the_driver_saves_and_the_job_is_queued_again(checkout: Path) -> None:
    process = _start(
        checkout,
        f"trap 'touch {checkout}/saved; exit 143' TERM; touch {checkout}/up; while true; do sleep 0.1; done",
        "train",
    )
    _wait_for(checkout / "up", process)
    process.send_signal(signal.SIGUSR1)
    out, _ = process.communicate(timeout=30)
    assert "back into the queue" in out
    assert (checkout / "saved").exists()
    assert _calls(checkout)[-1] == "scontrol requeue 42"


def test_a_job_that_is_done_when_the_notice_comes_is_done(checkout: Path) -> None:
    process = _start(checkout, f"trap 'exit 0' TERM; touch {checkout}/up; while true; do sleep 0.1; done", "train")
    _wait_for(checkout / "up", process)
    process.send_signal(signal.SIGUSR1)
    process.communicate(timeout=30)
    assert process.returncode == 0
    assert "scontrol" not in (checkout / "calls").read_text()


def test_wrong_usage(checkout: Path) -> None:
    for words in ([], ["no-such-job"]):
        process = _start(checkout, "exit 0", *words)
        process.communicate(timeout=30)
        assert process.returncode == 2


def _wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 30
    while not path.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)


NEEDED = ["slurmctld", "slurmd", "sbatch", "munged", "unshare", "ip", "runuser"]
MISSING = [name for name in NEEDED if not shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")]

DRIVE = """
set -euo pipefail
id=$(sbatch --parsable --nodes=1 --cpus-per-task=2 --output="$FOLDER/log" cluster/slurm.sbatch train "$@")
for _ in $(seq 600); do [ "$(cat "$FOLDER/run/metrics.jsonl" 2> /dev/null | wc -l)" -ge 10 ] && break; sleep 0.2; done
scancel --batch --signal=USR1 "$id"
for _ in $(seq 300); do
  # Slurm waits two minutes; in the second that the first part ended in, slurmd would refuse the next ("credential revoked")
  scontrol show job "$id" | grep --quiet 'JobState=PENDING.*BeginTime' && sleep 3 && scontrol update "jobid=$id" StartTime=now
  scontrol show job "$id" | grep --quiet -E 'JobState=(COMPLETED|FAILED|CANCELLED|TIMEOUT)' && break
  sleep 0.5
done
scontrol show job "$id"
"""


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.skipif(
    bool(MISSING) or os.geteuid() != 0, reason=f"needs root and Slurm; missing: {', '.join(MISSING) or 'root'}"
)
def test_on_a_real_slurm_a_noticed_job_goes_on_where_it_was(tmp_path: Path) -> None:
    data = tiny_dataset(tmp_path / "data")
    flags = [*FLAGS, "--steps", "100", "--checkpoint.every", "1000", "--workers", "2", "--resume"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "SLURM_"))}
    result = subprocess.run(
        [
            *(Path(__file__).with_name("slurm_node.sh"), tmp_path),
            *("bash", "-c", DRIVE, "drive", "--data", data, "--out", tmp_path / "run", *flags),
        ],
        cwd=ROOT,
        env={**environment, "FOLDER": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=390,
    )
    log = (tmp_path / "log").read_text()
    assert "JobState=COMPLETED" in result.stdout, log + result.stdout + result.stderr
    assert "Restarts=1" in result.stdout
    assert [row["step"] for row in rows(tmp_path / "run")] == list(range(100))
    assert "back into the queue" in log
    assert ", from step " in log
    token = (tmp_path / "home" / ".ray" / "auth_token").read_text().strip()
    assert token not in log
