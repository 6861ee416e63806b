"""What is sent to a cluster, under which name, and how a job is followed over lost connections. A real cluster: tests/cluster/."""

from __future__ import annotations

import socket
import threading
import zipfile
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from taudl_dist import ray_jobs
from taudl_dist.errors import UsageError, UserError


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("RAY_API_SERVER_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))


ADDRESSES = [
    ("ftp://host", "expected http://HOST:8265"),
    ("host:8265", "expected http://HOST:8265"),
    ("http://[::1", "expected http://HOST:8265"),
    ("http://me:s3cret@host:8265", "'http://...@host:8265'"),  # shown without what stands before the @
]


@pytest.mark.parametrize(("address", "message"), ADDRESSES)
def test_addresses_that_cannot_be(address: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        ray_jobs.connect(address)
    assert message in str(caught.value)
    assert "s3cret" not in str(caught.value)


def test_without_a_token_nothing_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"there is no file .*auth_token; copy the cluster's token there"):
        ray_jobs.connect("http://127.0.0.1:1")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "elsewhere"))
    with pytest.raises(UserError, match="elsewhere"):
        ray_jobs.connect("http://127.0.0.1:1")
    monkeypatch.setenv("RAY_AUTH_MODE", "tokn")
    with pytest.raises(UsageError, match="RAY_AUTH_MODE=tokn: expected token or disabled"):
        ray_jobs.connect("http://127.0.0.1:1")


def test_a_token_in_the_open_is_said_and_not_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "s3cret")
    for scheme, host, warned in (
        ("http", "far.example", True),
        ("https", "far.example", False),
        ("http", "localhost", False),
    ):
        assert ray_jobs._check_token(scheme, host) == "token"
        err = capsys.readouterr().err
        assert ("unencrypted" in err) == warned
        assert "s3cret" not in err


@pytest.mark.parametrize(
    "name",
    ["RAY_AUTH_TOKEN", "AWS_SECRET_ACCESS_KEY", "aws_access_key_id", "MLFLOW_TRACKING_PASSWORD", "WANDB_API_KEY"],
)
def test_secrets_are_not_shipped(tmp_path: Path, name: str) -> None:
    path = tmp_path / "runtime_env.yaml"
    path.write_text(f"env_vars: {{A: b, {name}: hidden}}\n")
    with pytest.raises(UserError, match=name) as caught:
        ray_jobs.read_runtime_env(path)
    assert "hidden" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "- a\n",
        "env_vars: [a]\n",
        "env_vars: {A: 1}\n",
        "env_vars: {1: a}\n",
        "excludes: runs/\n",
        "a: [\n",
        "working_dir: .\n",
        "[" * 9999,
        None,
    ],
)
def test_a_runtime_env_that_is_none(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "runtime_env.yaml"
    if text:
        path.write_text(text)
    with pytest.raises(UserError, match=r"--runtime-env .*runtime_env.yaml"):
        ray_jobs.read_runtime_env(path)


def test_what_only_sounds_like_a_secret_is_shipped(tmp_path: Path) -> None:
    path = tmp_path / "runtime_env.yaml"
    path.write_text('env_vars: {TOKENIZERS_PARALLELISM: "false"}')
    assert ray_jobs.read_runtime_env(path)["env_vars"] == {"TOKENIZERS_PARALLELISM": "false"}


def test_a_server_that_never_answers_or_is_another_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "s3cret")
    monkeypatch.setattr(ray_jobs, "_SILENCE_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(UserError, match=f"no job server at {address}.*timed out"):
            ray_jobs.connect(address)
    for body in (b"<html>", b"{}"):
        with socket.create_server(("127.0.0.1", 0)) as other:
            address = f"http://127.0.0.1:{other.getsockname()[1]}"
            reply = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
            threading.Thread(target=_answer, args=(other, reply), daemon=True).start()
            with pytest.raises(UserError, match=f"no job server at {address}"):
                ray_jobs.connect(address)


def _answer(server: socket.socket, reply: bytes) -> None:
    with server.accept()[0] as connection:
        connection.recv(10_000)
        connection.sendall(reply)


def test_our_own_runtime_env_is_taken() -> None:
    settings = ray_jobs.read_runtime_env(Path(__file__).parents[1] / "cluster" / "runtime_env.yaml")
    assert set(settings) == {"excludes", "env_vars"}
    assert all(isinstance(value, str) for value in settings["env_vars"].values())


def test_what_is_packed(tmp_path: Path) -> None:
    code = tmp_path / "code"
    for name in ("jobs/train.py", ".git/HEAD", ".venv/x", "runs/first/model", "a.db", "kept.txt", "data/big"):
        (code / name).parent.mkdir(parents=True, exist_ok=True)
        (code / name).write_text(name)
    (code / ".gitignore").write_text("/runs/\n")
    (code / ".rayignore").write_text("data/\n")
    size = ray_jobs.pack(code, tmp_path / "code.zip", ["*.db"])
    assert size == (tmp_path / "code.zip").stat().st_size
    names = set(zipfile.ZipFile(tmp_path / "code.zip").namelist())
    assert {name for name in names if not name.endswith("/")} == {
        "jobs/train.py",
        "kept.txt",
        ".gitignore",
        ".rayignore",
    }


def test_too_much_to_ship_names_the_largest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "film.bin").write_bytes(bytes(range(256)) * 400)
    (tmp_path / "code" / "small.txt").write_text("small")
    monkeypatch.setattr(ray_jobs, "MAX_PACKAGE_BYTES", 100)
    with pytest.raises(UserError, match=r"largest files are film.bin .* in .rayignore"):
        ray_jobs.pack(tmp_path / "code", tmp_path / "code.zip", [])


IDS = [
    ({}, ("a", False)),
    ({"b": "RUNNING"}, ("a", False)),
    ({"a": "FAILED"}, ("a.2", False)),
    ({"a": "FAILED", "a.2": "STOPPED"}, ("a.3", False)),
    ({"a": "RUNNING"}, ("a", True)),
    ({"a": "FAILED", "a.2": "PENDING"}, ("a.2", True)),
    ({"a": "SUCCEEDED", "a.3": "RUNNING"}, ("a.2", False)),  # a.3 is not ours: a.2 was never there
]


@pytest.mark.parametrize(("jobs", "expected"), IDS)
def test_the_name_of_the_next_attempt(jobs: dict[str, str], expected: tuple[str, bool]) -> None:
    known = [SimpleNamespace(submission_id=name, status=status, entrypoint="do") for name, status in jobs.items()]
    known.append(SimpleNamespace(submission_id=None, status="RUNNING", entrypoint="a driver of its own"))
    client = SimpleNamespace(list_jobs=lambda: known)
    assert ray_jobs.free_id(client, "a", "do") == expected


def test_another_command_under_the_same_name() -> None:
    client = SimpleNamespace(list_jobs=lambda: [SimpleNamespace(submission_id="a", status="RUNNING", entrypoint="do")])
    with pytest.raises(UsageError, match="a is running `do`"):
        ray_jobs.free_id(client, "a", "do something else")


class Unreliable:
    """A cluster whose log breaks off twice, and starts anew each time, as Ray's does."""

    def __init__(self, *, end: str = "SUCCEEDED") -> None:
        self.cuts = [2, 0, 3, None]
        self.status = "PENDING"
        self.end = end

    def get_job_info(self, job: str) -> Any:
        if job != "here":
            raise RuntimeError(f"Request failed with status code 404: Job {job} does not exist")
        before, self.status = self.status, "RUNNING" if self.status == "PENDING" else self.status
        return SimpleNamespace(status=before, driver_info=None, message="")

    async def tail_job_logs(self, job: str) -> AsyncIterator[str]:
        assert job == "here"
        cut = self.cuts.pop(0)
        lines = [f"line {number}\n" for number in range(4)]
        for line in lines[:cut]:
            yield line
        if cut is not None:
            raise ConnectionError("gone")
        self.status = self.end


@pytest.mark.parametrize("end", ["SUCCEEDED", "FAILED"])
def test_each_line_once_over_lost_connections(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], end: str
) -> None:
    monkeypatch.setattr(ray_jobs.time, "sleep", lambda _: None)
    said: list[str] = []
    info = ray_jobs.follow(Unreliable(end=end), "here", said.append)
    assert "".join(said) == "line 0\nline 1\nline 2\nline 3\n"
    assert "out of reach (ConnectionError); trying again for 300 s" in capsys.readouterr().err
    assert info.status == end


def test_following_ends_where_there_is_nothing_to_follow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_jobs.time, "sleep", lambda _: None)
    with pytest.raises(UserError, match="knows no job there"):
        ray_jobs.follow(Unreliable(), "there", print)
    monkeypatch.setattr(ray_jobs, "_PATIENCE_S", 0.0)
    client = Unreliable()
    client.status = "RUNNING"
    with pytest.raises(UserError, match="job here may well go on"):
        ray_jobs.follow(client, "here", lambda _: None)


def test_a_closed_pipe_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(_: str) -> None:
        raise BrokenPipeError

    monkeypatch.setattr(ray_jobs.time, "sleep", lambda _: None)
    with pytest.raises(BrokenPipeError):
        ray_jobs.follow(Unreliable(), "here", closed)


def test_a_silent_connection_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    import asyncio

    class Silent(Unreliable):
        async def tail_job_logs(self, job: str) -> AsyncIterator[str]:  # noqa: ARG002
            self.cuts.pop()
            yield "line 0\n"
            if self.cuts:
                await asyncio.sleep(60)
            self.status = self.end

    monkeypatch.setattr(ray_jobs, "_SILENCE_S", 0.01)
    monkeypatch.setattr(ray_jobs.time, "sleep", lambda _: None)
    said: list[str] = []
    assert ray_jobs.follow(Silent(), "here", said.append).status == "SUCCEEDED"
    assert said == ["line 0\n"]
