"""Several hosts on one machine: each a network, mount, process and name space of its own, joined by a virtual switch.

A host has one address, one core, its own /tmp and /dev/shm, and sees the folders in `shared` under the path they have here. Its name
resolves to loopback, as Debian installs it. Nothing of it has a name in the machine's own network or file system: hosts and switch
live as long as a process that reads this one's pipe, so however this process ends, the kernel takes them down.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil

REPOSITORY = Path(__file__).parents[2]
BIN = Path(sys.executable).parent

_NETWORK = "10.77.0"
_SPACES = ("--net", "--mount", "--uts", "--pid")
_HOLD = "import signal, sys; signal.signal(signal.SIGCHLD, signal.SIG_IGN); print(flush=True); sys.stdin.read()"
"""The first process of a host: collects orphans, and ends with its pipe, and every process of the host with it."""

HEALTH = {
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "3000",
    "RAY_health_check_failure_threshold": "5",
}
"""How the head notices lost hosts; cluster/README.md says why."""


def why_not() -> str | None:
    """Why this machine cannot make hosts, or None."""
    if sys.platform != "linux":
        return f"hosts are Linux namespaces; this is {sys.platform}"
    missing = [name for name in ("ip", "unshare", "nsenter", "taskset", "mount") if not shutil.which(name)]
    if missing:
        return f"{', '.join(missing)} not found; install iproute2 and util-linux"
    if os.geteuid():
        return "hosts need root (network namespaces, mounts); run: sudo make test-cluster"
    attempt = "mount -t tmpfs none /mnt && ip link add b0 type bridge && ip link add v0 type veth peer name v1"
    tried = subprocess.run(
        ["unshare", *_SPACES, "--fork", "sh", "-c", attempt], text=True, capture_output=True, check=False
    )
    if tried.returncode:
        return (
            f"this machine gives no namespaces with a bridge ({tried.stderr.strip()}); a container needs --privileged"
        )
    return None


class Host:
    """One host; `Hosts.add` makes it."""

    def __init__(self, folder: Path, number: int, shared: Sequence[Path]) -> None:
        self.name, self.address = f"host{number}", f"{_NETWORK}.{number}"
        self.number = number
        self._folder = folder / self.name
        self._core = str(sorted(os.sched_getaffinity(0))[number % len(os.sched_getaffinity(0))])
        (self._folder / "tmp").mkdir(parents=True)
        (self._folder / "hosts").write_text(f"127.0.0.1 localhost\n127.0.1.1 {self.name}\n")
        self._holder, self.pid = _hold(_SPACES)
        self._as_root(_mounts(self._folder, [*shared, REPOSITORY, BIN.parent]), f"hostname {self.name}")

    def start(self, words: Sequence[Any], *, log: str, **environment: str) -> subprocess.Popen[str]:
        """A command in this host; what it prints goes into a file beside the host's /tmp."""
        with (self._folder / log).open("a") as file:
            return self._popen(words, environment, stdout=file, stderr=subprocess.STDOUT)

    def follow(self, words: Sequence[Any], **environment: str) -> subprocess.Popen[str]:
        """A command in this host; what it prints goes through pipes."""
        return self._popen(words, environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    def said(self, log: str) -> str:
        """What a command printed so far."""
        return (self._folder / log).read_text()

    def processes(self) -> list[psutil.Process]:
        """Everything that runs in this host."""
        space = _process_space(self.pid)
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(OSError):
                if process.pid != self.pid and _process_space(process.pid) == space:
                    found.append(process)
        return found

    def sent_bytes(self) -> int:
        """Bytes that left this host so far, headers included."""
        counter = f"/proc/{self.pid}/net/dev"
        line = next(line for line in Path(counter).read_text().splitlines() if line.strip().startswith("eth0:"))
        return int(line.split()[9])

    def kill(self) -> None:
        """As when the power goes: all processes at once, and the network with them."""
        psutil.Process(self.pid).kill()
        self._holder.wait()

    def stop(self) -> None:
        """SIGKILL to all its processes; the host stays, with its address and files."""
        for process in self.processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        for log in self._folder.glob("*.log"):
            log.write_text("")

    def _popen(self, words: Sequence[Any], environment: dict[str, str], **streams: Any) -> subprocess.Popen[str]:
        enter = ["taskset", "-c", self._core, "nsenter", f"--target={self.pid}", "--net", "--mount", "--uts", "--pid"]
        enter += [f"--wd={REPOSITORY}", "--", *map(str, words)]
        return subprocess.Popen(enter, text=True, stdin=subprocess.DEVNULL, env=_environment(**environment), **streams)

    def _as_root(self, *commands: str) -> None:
        enter = ["nsenter", f"--target={self.pid}", "--net", "--mount", "--uts", "--", "sh", "-ec", "\n".join(commands)]
        subprocess.run(enter, check=True)


class Hosts:
    """A switch and the hosts on it.

    Args:
        folder: for what belongs to single hosts; its path must be short.
        shared: folders that all hosts see.
    """

    def __init__(self, folder: Path, shared: Sequence[Path]) -> None:
        self._folder, self._shared = folder, shared
        self._holder, self._switch = _hold(["--net"])
        self._on_switch("ip link add switch type bridge", "ip link set switch up")
        self._hosts: list[Host] = []

    def add(self) -> Host:
        """A host that is up and reachable."""
        host = Host(self._folder, len(self._hosts) + 1, self._shared)
        self._hosts.append(host)
        port = f"port{host.number}"
        self._on_switch(
            f"ip link add {port} type veth peer name eth0 netns {host.pid}", f"ip link set {port} master switch up"
        )
        host._as_root("ip link set lo up", f"ip addr add {host.address}/24 dev eth0", "ip link set eth0 up")
        return host

    def cut(self, host: Host) -> None:
        """Pulls the cable: nothing arrives any more, and no connection is closed."""
        self._on_switch(f"ip link set port{host.number} down")

    def mend(self, host: Host) -> None:
        """Puts the cable back."""
        self._on_switch(f"ip link set port{host.number} up")

    def close(self) -> None:
        for host in self._hosts:
            with contextlib.suppress(psutil.NoSuchProcess):
                host.kill()
        psutil.Process(self._switch).kill()
        self._holder.wait()

    def _on_switch(self, *commands: str) -> None:
        enter = ["nsenter", f"--target={self._switch}", "--net", "--", "sh", "-ec", "\n".join(commands)]
        subprocess.run(enter, check=True)


class Cluster:
    """Ray on hosts of its own, with token authentication: a head that works on nothing, and workers of one CPU.

    Args:
        before_head: called with the hosts while there is none but the head's, for what the head needs.
        head_environment: for the head, beside HEALTH.
    """

    def __init__(
        self,
        hosts: Hosts,
        token: Path,
        *,
        before_head: Callable[[Hosts], None] | None = None,
        **head_environment: str,
    ) -> None:
        self.hosts, self.token, self._settings = hosts, token, {**HEALTH, **head_environment}
        self.head = hosts.add()
        self.gcs_address, self.jobs_address = f"{self.head.address}:6379", f"http://{self.head.address}:8265"
        if before_head:
            before_head(hosts)
        self.start_head()

    def start_head(self) -> None:
        """Ray's head on its host, and waits until it takes jobs."""
        words = ["--head", "--port=6379", "--num-cpus=0", "--dashboard-host=0.0.0.0", "--include-log-monitor=false"]
        self._ray(self.head, words, **self._settings)
        self._until(self.head, "Ray runtime started")

    def add(self, *, cpus: int = 1) -> Host:
        """A host that works for the cluster."""
        host = self.hosts.add()
        self.join(host, cpus=cpus)
        return host

    def join(self, host: Host, *, cpus: int = 1) -> None:
        """Starts Ray's worker on a host, and waits until it has joined."""
        self._ray(host, [f"--address={self.gcs_address}", f"--num-cpus={cpus}"])
        self._until(host, "Ray runtime started")

    def job(self, *words: Any) -> list[str]:
        """The command that submits a job to the head's address and follows it, to be run on any host."""
        ray_job = [str(BIN / "ray"), "job", "submit", "--address", self.jobs_address]
        return [*ray_job, "--working-dir", str(REPOSITORY), "--", *map(str, words)]

    @property
    def access(self) -> dict[str, str]:
        """Environment of a driver that runs on one of the hosts."""
        return {"RAY_ADDRESS": self.gcs_address, "RAY_AUTH_TOKEN_PATH": str(self.token)}

    def submit(self, *words: Any, token: Path | None = None) -> subprocess.Popen[str]:
        """Submits a job from the head's host."""
        return self.head.follow(self.job(*words), RAY_AUTH_TOKEN_PATH=str(token or self.token))

    def _ray(self, host: Host, words: Sequence[str], **environment: str) -> None:
        common = [f"--node-ip-address={host.address}", "--object-store-memory=80000000", "--disable-usage-stats"]
        command = [BIN / "ray", "start", *words, *common, "--block"]
        host.start(command, log="ray.log", RAY_AUTH_TOKEN_PATH=str(self.token), **environment)

    def _until(self, host: Host, said: str, *, timeout_s: float = 60) -> None:
        deadline = time.monotonic() + timeout_s
        while said not in host.said("ray.log"):
            if time.monotonic() > deadline:
                raise AssertionError(f"{host.name} did not say {said!r}:\n{host.said('ray.log')}")
            time.sleep(0.05)


@contextlib.contextmanager
def cluster(workers: int, shared: Sequence[Path], **options: Any) -> Iterator[tuple[Cluster, list[Host]]]:
    """A cluster with that many hosts beside its head; gone when this is left, or when this process ends in any other way.

    Args:
        options: of `Cluster`.
    """
    folder = Path(tempfile.mkdtemp(prefix="th-", dir="/tmp"))
    token = folder / "secret" / "token"
    token.parent.mkdir(mode=0o700)
    token.write_text(secrets.token_hex(32))
    hosts = Hosts(folder, [*shared, token.parent])
    try:
        found = Cluster(hosts, token, **options)
        yield found, [found.add() for _ in range(workers)]
    finally:
        hosts.close()
        shutil.rmtree(folder, ignore_errors=True)


def _hold(spaces: Sequence[str]) -> tuple[subprocess.Popen[str], int]:
    """A process in new namespaces that does nothing; what started it, and its number here."""
    proc = ["--fork", "--mount-proc"] if "--pid" in spaces else []
    command = ["unshare", *spaces, *proc, sys.executable, "-S", "-c", _HOLD]
    pipe = subprocess.PIPE
    holder = subprocess.Popen(command, text=True, stdin=pipe, stdout=pipe, stderr=pipe)
    assert holder.stdout and holder.stderr
    assert holder.stdout.readline() == "\n", holder.stderr.read()
    below = psutil.Process(holder.pid).children()
    return holder, below[0].pid if below else holder.pid


def _process_space(pid: int) -> Path:
    return Path(f"/proc/{pid}/ns/pid").readlink()


def _mounts(folder: Path, seen: Sequence[Path]) -> str:
    """Shell commands: an own /tmp and /dev/shm, through which the given folders stay visible."""
    lines = ["mount -t tmpfs none /dev/shm", f"mount --bind {shlex.quote(str(folder / 'hosts'))} /etc/hosts"]
    for path in dict.fromkeys(path for path in map(Path.resolve, seen) if path.is_relative_to("/tmp")):
        place = folder / "tmp" / path.relative_to("/tmp")
        lines += [
            f"mkdir -p {shlex.quote(str(place))}",
            f"mount --bind {shlex.quote(str(path))} {shlex.quote(str(place))}",
        ]
    return "\n".join([*lines, f"mount --rbind {shlex.quote(str(folder / 'tmp'))} /tmp"])


def _environment(**more: str) -> dict[str, str]:
    """Of a host: this one's without what belongs to another cluster."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "MLFLOW_"))}
    common = {"HOME": "/tmp", "RAY_AUTH_MODE": "token", "RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}
    return {**kept, **common, "PATH": f"{BIN}:{os.environ['PATH']}", **more}
