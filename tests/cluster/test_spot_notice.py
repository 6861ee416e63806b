"""`cluster/spot_notice.sh` against stand-ins of the clouds' metadata servers."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(
    not shutil.which("wget"),
    reason="runs spot_notice.sh itself, which calls wget: on the clouds' machines, not on this one",
)
SCRIPT = Path(__file__).parents[2] / "cluster" / "spot_notice.sh"
RAY = "trap 'echo drained for $RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S; exit 5' TERM; echo up; while true; do sleep 0.05; done"


class Metadata(BaseHTTPRequestHandler):
    """Both clouds' servers, strict about their headers; `server.notice` is set by the test."""

    def do_PUT(self) -> None:
        known = self.path == "/latest/api/token" and self.headers["X-aws-ec2-metadata-token-ttl-seconds"]
        self._answer(200 if known else 400, "session")

    def do_GET(self) -> None:
        notice: threading.Event = self.server.notice  # type: ignore[attr-defined]
        if self.path == "/latest/meta-data/spot/instance-action":
            code = 401 if self.headers["X-aws-ec2-metadata-token"] != "session" else 200 if notice.is_set() else 404
            self._answer(code, '{"action": "terminate"}')
        elif self.path == "/computeMetadata/v1/instance/preempted":
            right = self.headers["Metadata-Flavor"] == "Google"
            self._answer(200 if right else 403, "TRUE" if notice.is_set() else "FALSE")

    def _answer(self, code: int, text: str) -> None:
        self.send_response(code)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: object) -> None:
        """Says nothing."""


@pytest.fixture
def server() -> Iterator[ThreadingHTTPServer]:
    made = ThreadingHTTPServer(("127.0.0.1", 0), Metadata)
    made.notice = threading.Event()  # type: ignore[attr-defined]
    thread = threading.Thread(target=made.serve_forever, daemon=True)
    thread.start()
    yield made
    made.shutdown()
    made.server_close()


def _start(cloud: str, metadata: str, *command: str) -> subprocess.Popen[str]:
    env = {**os.environ, "METADATA": metadata, "INTERVAL_S": "0.1", "no_proxy": "127.0.0.1"}
    env.pop("RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S", None)
    return subprocess.Popen(
        [SCRIPT, cloud, *command], env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


@pytest.mark.parametrize(("cloud", "seconds"), [("aws", 100), ("gcp", 25)])
def test_a_notice_drains(server: ThreadingHTTPServer, cloud: str, seconds: int) -> None:
    process = _start(cloud, f"http://127.0.0.1:{server.server_port}", "bash", "-c", RAY)
    assert process.stdout
    assert process.stdout.readline() == "up\n"
    with pytest.raises(subprocess.TimeoutExpired):  # no notice, no end
        process.wait(timeout=0.5)
    server.notice.set()  # type: ignore[attr-defined]
    out, _ = process.communicate(timeout=20)
    assert f"this node is drained for {seconds} s" in out
    assert out.endswith(f"drained for {seconds}\n")
    assert process.returncode == 5


@pytest.mark.parametrize("cloud", ["aws", "gcp"])
def test_without_a_metadata_server_ray_runs_on(cloud: str) -> None:
    process = _start(cloud, "http://127.0.0.1:1", "bash", "-c", RAY)
    assert process.stdout
    assert process.stdout.readline() == "up\n"
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(timeout=0.5)
    process.terminate()
    out, _ = process.communicate(timeout=20)
    assert "drained for" in out


def test_the_end_of_ray_is_the_end() -> None:
    process = _start("aws", "http://127.0.0.1:1", "bash", "-c", "exit 3")
    process.communicate(timeout=20)
    assert process.returncode == 3


@pytest.mark.parametrize("words", [["azure", "true"], ["aws"]])
def test_wrong_usage(words: list[str]) -> None:
    process = _start(words[0], "", *words[1:])
    _, err = process.communicate(timeout=20)
    assert process.returncode == 2
    assert "aws" in err
