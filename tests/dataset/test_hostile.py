"""A dataset folder that means harm costs a message, and neither memory nor time nor a file outside."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from data_tools.shards import ImportTracklet, write_dataset
from tests.dataset.conftest import jpeg
from tests.dataset.hostile import CASES, ROOM_BYTES

EXPECTED = {
    "is a pipe": "not a plain file|this shard is missing",
    "never ends": "not a plain file|damaged|shard is missing",
    "has a terabyte": "expected at most|damaged|cut off or replaced",
    "is deep": "not readable",
    "num_tracklets": "wrong type|count different tracklets|not readable as JSON",
    "shard name": "not a plain file name",
    "shard file": "not a plain file name",
    "camera name": "wrong type|digest of the content|can't encode",
    "manifest start_s": "damaged",
    "manifest shard": "names a shard number that does not exist",
    "manifest split": "but dataset.json counts",
    "manifest num_frames": "damaged",
    "shard bytes": "wrong type|but dataset.json says|not readable as JSON",
    "index offset": "do not lie inside|broken tar header",
    "index length": "do not lie inside|broken tar header|larger than the tracklet",
    "index shard": "the manifest names shard number",
    "index num_frames": "num_frames differs",
    "index is": "compressed, which an index never is",
    "index claims": "rows, but|damaged",
    "manifest is a bomb": "no command of taudl wrote that",
    "an extent larger": "expected at most",
    "members are": "a link, a device",
    "a header": "broken tar header",
    "a gzip bomb": "a broken tar header at byte 0",
    "a long name": "a link, a device, or 1073741824 bytes",
    "a sparse tar": "that no shard holds",
    "JPEGs of 65500": "expected 1 to 67108864 pixels|does not decode",
    "JPEGs of 0": "does not decode",
    "PNGs": "does not decode",
    "deep JSON": "do not form one tracklet",
}
"""Beginning or end of a case's name -> what its message says."""


def small_dataset(folder: Path) -> Path:
    """Two cameras of two training tracklets, one query, one gallery; two images each."""
    places = [("a", "train"), ("a", "train"), ("b", "train"), ("b", "train"), ("a", "query"), ("b", "gallery")]
    tracklets = [
        ImportTracklet(
            camera=camera, split=split, name=str(number), frames=[(0, jpeg(number)), (9, jpeg(9))], person_id=1
        )
        for number, (camera, split) in enumerate(places)
    ]
    return write_dataset(folder, tracklets, settings={}, source={})


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, object]]:
    work = tmp_path_factory.mktemp("hostile")
    command = [sys.executable, "-m", "tests.dataset.hostile", str(small_dataset(work / "dataset")), str(work)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    return {outcome["case"]: outcome for outcome in map(json.loads, done.stdout.splitlines())}


@pytest.mark.slow
def test_every_attack_ends_in_a_message(outcomes: dict[str, dict[str, object]]) -> None:
    assert set(outcomes) == set(CASES)
    wrong = {name: one["came"] for name, one in outcomes.items() if not str(one["came"]).startswith("UserError: ")}
    assert wrong == {}
    for name, one in outcomes.items():
        known = [text for part, text in EXPECTED.items() if name.startswith(part) or name.endswith(part)]
        assert not known or any(re.search(text, str(one["came"])) for text in known), (name, one["came"])
    assert not list(Path("/tmp").glob("*.000000000.jpg"))


@pytest.mark.slow
def test_no_attack_takes_much_memory(outcomes: dict[str, dict[str, object]]) -> None:
    """The most is an image of 64 megapixels, which training would take too."""
    greedy = {name: one["bytes"] for name, one in outcomes.items() if int(str(one["bytes"])) > ROOM_BYTES // 2}
    assert greedy == {}
