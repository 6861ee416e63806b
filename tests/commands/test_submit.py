"""`taudl submit` up to the cluster's door: what it refuses, what it would run, what it returns. A real cluster: tests/cluster/."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from taudl_dist import ray_jobs
from taudl_dist.cli import main
from taudl_dist.commands import submit
from taudl_dist.errors import UsageError

ROOT = Path(__file__).parents[2]


class Cluster:
    """Takes jobs, and ends each with `status`, saying `log`."""

    def __init__(self, status: str = "SUCCEEDED", log: str = "working\n") -> None:
        self.status, self.log = status, log
        self.submitted: list[dict[str, Any]] = []
        self.jobs: list[Any] = []

    def list_jobs(self) -> list[Any]:
        return self.jobs

    def submit_job(self, **request: Any) -> str:
        assert Path(request["runtime_env"]["working_dir"]).is_file()
        self.submitted.append(request)
        return request["submission_id"] or "raysubmit_1"

    def stop_job(self, job: str) -> bool:
        if job != "known":
            raise RuntimeError(f"Job {job} does not exist")
        return True

    def get_job_info(self, job: str) -> Any:  # noqa: ARG002
        return SimpleNamespace(status=self.status, driver_info=None, message="exit code 3\nand much more")

    async def tail_job_logs(self, job: str) -> Any:  # noqa: ARG002
        yield self.log


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    made = Cluster()
    monkeypatch.setattr(ray_jobs, "connect", lambda address: made)  # noqa: ARG005
    return made


def test_what_reaches_the_cluster(cluster: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train", "--data", "/storage/a b", "--out", "/storage/run", "--resume"]
    assert main(["submit", "--submission-id", "first", *words]) == 0
    [request] = cluster.submitted
    assert request["entrypoint"] == "python jobs/train.py --data '/storage/a b' --out /storage/run --resume"
    assert request["submission_id"] == "first"
    assert request["runtime_env"]["env_vars"]["RAY_JOB_STOP_WAIT_TIME_S"] == "120"
    assert "excludes" not in request["runtime_env"]
    captured = capsys.readouterr()
    assert captured.out == "working\n"
    assert " MB)" in captured.err
    assert "job first succeeded" in captured.err


ENDS = [
    ("SUCCEEDED", 0, "job raysubmit_1 succeeded"),
    ("FAILED", 1, "job raysubmit_1 failed: exit code 3\n"),
    ("STOPPED", 1, "stopped"),
]


@pytest.mark.parametrize(("status", "code", "message"), ENDS)
def test_only_success_is_zero(
    cluster: Cluster, capsys: pytest.CaptureFixture[str], status: str, code: int, message: str
) -> None:
    cluster.status = status
    assert main(["submit", "shard", "--help"]) == code
    assert message in capsys.readouterr().err


def test_the_runs_address_is_said_last(cluster: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    cluster.log = (
        "mlflow   http://old\nstep 1\nmlflow   http://host:5000/#/experiments/1/runs/abc\nsaid: mlflow   nothing\n"
    )
    main(["submit", "train"])
    assert "mlflow   http://host:5000/#/experiments/1/runs/abc\n" in capsys.readouterr().err


def test_a_job_that_runs_is_not_started_twice(cluster: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    cluster.jobs = [SimpleNamespace(submission_id="first", status="RUNNING", entrypoint="python jobs/shard.py --help")]
    assert main(["submit", "--submission-id", "first", "shard", "--help"]) == 0
    assert not cluster.submitted
    assert "running this command already" in capsys.readouterr().err


def test_without_waiting(cluster: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    cluster.status = "FAILED"
    assert main(["submit", "--no-wait", "shard", "--help"]) == 0
    assert "taudl submit --follow raysubmit_1; stop it: taudl submit --stop raysubmit_1" in capsys.readouterr().err


def test_a_job_the_cluster_does_not_take(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(**_: Any) -> str:
        raise RuntimeError("Request failed with status code 400: no such field\nTraceback ...")

    monkeypatch.setattr(cluster, "submit_job", refuse)
    assert main(["submit", "shard", "--help"]) == 1
    assert capsys.readouterr().err.endswith(
        "does not take the job: Request failed with status code 400: no such field\n"
    )


def test_ctrl_c_leaves_the_job_alone(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(ray_jobs, "follow", interrupt)
    assert main(["submit", "shard", "--help"]) == 130
    err = capsys.readouterr().err
    assert "job raysubmit_1 goes on without you" in err
    assert "--stop raysubmit_1" in err
    assert cluster.submitted


def test_stop(cluster: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["submit", "--stop", "known"]) == 0
    assert main(["submit", "--stop", "unknown"]) == 1
    assert "knows no job unknown" in capsys.readouterr().err
    assert not cluster.submitted


WRONG = [
    ([], "expected one of JOB, --follow ID and --stop ID"),
    (["--stop", "a", "--follow", "b"], "expected one of"),
    (["--stop", "a", "train"], "expected one of"),
    (["submit"], "no job 'submit'"),  # not of a cluster
    (["../x"], "no job '../x'"),
    (["--submision-id", "a", "train"], "unrecognized arguments: --submision-id"),
    (["train", "--data", "dataset"], "--data dataset: a relative path"),
    (["train", "--out=runs/first"], "--out runs/first: a relative path"),
    (["train", "out=runs/first"], "--out runs/first: a relative path"),
    (["evaluate", "--model", "runs/first"], "--model runs/first: a relative path"),
    (["evaluate", "--report=report.html"], "--report report.html: a relative path"),
    (["shard", "--videos", "./videos"], "--videos ./videos: a relative path"),
]


@pytest.mark.parametrize(("words", "message"), WRONG, ids=lambda value: " ".join(value)[:30])
def test_wrong_usage(cluster: Cluster, capsys: pytest.CaptureFixture[str], words: list[str], message: str) -> None:
    assert main(["submit", *words]) == 2
    assert message in capsys.readouterr().err
    assert not cluster.submitted


def test_what_is_not_a_relative_path(cluster: Cluster) -> None:
    for words in (["--data", "s3://bucket/dataset"], ["--data"], ["--data="], ["--model", "small"], ["data", "x"]):
        assert main(["submit", "train", *words]) == 0
    assert len(cluster.submitted) == 5


def test_which_code_is_shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert submit.checkout() == ROOT
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "submit.py").touch()
    assert submit.checkout() == ROOT  # somebody else's jobs
    (tmp_path / "taudl_dist").mkdir()
    assert submit.checkout() == tmp_path
    monkeypatch.setattr(submit, "__file__", str(tmp_path / "a" / "b" / "c" / "submit.py"))
    monkeypatch.chdir("/")
    with pytest.raises(UsageError, match="/ is no checkout"):
        submit.checkout()


def test_the_commit_goes_with_the_code(tmp_path: Path) -> None:
    assert submit._code_version(tmp_path) == {}
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "train.py").write_text("a\n")
    git = ["git", "-C", tmp_path, "-c", "user.name=a", "-c", "user.email=a@b"]
    for words in (["init", "--quiet"], ["add", "jobs"], ["commit", "--quiet", "--message", "first"]):
        subprocess.run([*git, *words], check=True)
    version = submit._code_version(tmp_path)
    assert (len(version["TAUDL_GIT_SHA"]), version["TAUDL_GIT_DIRTY"]) == (40, "0")
    (tmp_path / "jobs" / "train.py").write_text("b\n")
    assert submit._code_version(tmp_path)["TAUDL_GIT_DIRTY"] == "1"


def test_nothing_but_ray_is_needed(tmp_path: Path) -> None:
    """Up to the token, `python jobs/submit.py` imports this project and the standard library alone; yaml comes with Ray."""
    script = f"""
import runpy, sys
sys.argv = ["submit.py", "train"]
try:
    runpy.run_path({str(ROOT / "jobs" / "submit.py")!r}, run_name="__main__")
except SystemExit as stop:
    print(stop.code)
print(sorted({{"tyro", "torch", "numpy", "mlflow", "pyarrow"}} & set(sys.modules)))
"""
    env = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    result = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=env, capture_output=True, text=True, check=False
    )
    assert result.stdout == "1\n[]\n", result.stderr
    assert "no token" in result.stderr
