"""Training on 1, 2 and 4 hosts that are namespaces of this machine: `python -m benchmarks.hosts`, as root.

The same batch divided among more hosts: images a second, and bytes that the hosts put on the wire, Ray's own talk included and also
shown alone. Hosts have a core each where there are enough; where they share cores, speed says what is lost and not what is gained.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.cluster_hosts.hosts import Cluster, Host, cluster, why_not
from tests.training.conftest import FLAGS, rows, tiny_dataset
from tests.training.faults import FaultyRun

SIZES = (1, 2, 4)
BATCH = ["--batch.images", 48, "--batch.height", 64, "--batch.width", 32, "--batch.groups-per-camera", 2]
WARM_UP = 10
IDLE_S = 5.0


def measure(found: Cluster, hosts: list[Host], size: int, shared: Path, steps: int) -> dict[str, Any]:
    """One run on `size` of the hosts."""
    words = ["--data", shared / "data", *FLAGS, *BATCH, "--steps", steps, "--checkpoint.every", 10 * steps]
    words += ["--workers", size, "--launcher", "ray"]
    run = FaultyRun(shared / f"run-{size}", words, start=lambda command: found.submit(*command))
    run.until_step(WARM_UP)
    before, first = sent(hosts), run.steps()
    run.until_step(steps - 2)
    after, last = sent(hosts), run.steps()
    run.end()
    return {
        "hosts": size,
        "images_per_s": statistics.median(row["images_per_s"] for row in rows(run.run)[WARM_UP:]),
        "mb_per_step": (after - before) / (last - first) / 1e6,
    }


def sent(hosts: list[Host]) -> int:
    """Bytes that all of them sent so far."""
    return sum(host.sent_bytes() for host in hosts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=60)
    args = parser.parse_args()
    reason = why_not()
    if reason:
        parser.error(reason)
    with tempfile.TemporaryDirectory(prefix="taudl-hosts-") as place:
        shared = Path(place)
        tiny_dataset(shared / "data")
        with cluster(max(SIZES), [shared]) as (found, hosts):
            before = sent(hosts)
            time.sleep(IDLE_S)
            idle = (sent(hosts) - before) / IDLE_S / 1e6
            cores = len(os.sched_getaffinity(0))
            print(f"{cores} cores; Ray at rest: {idle:.3f} MB/s of all {len(hosts)} hosts")
            print("| hosts | images/s | of one host | MB a step, all hosts |\n|---|---|---|---|")
            alone = None
            for size in SIZES:
                row = measure(found, hosts, size, shared, args.steps)
                alone = alone or row["images_per_s"]
                speed = row["images_per_s"]
                print(f"| {size} | {speed:.0f} | {speed / alone:.2f} | {row['mb_per_step']:.2f} |", flush=True)


if __name__ == "__main__":
    main()
