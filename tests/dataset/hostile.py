"""Dataset folders that mean harm, each read in a process of its own with bounded memory and time.

Run as a script: hostile.py DATASET WORK [CASE ...] prints a JSON object a case: what came of it, seconds, and memory beyond the start.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import resource
import shutil
import signal
import struct
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas  # noqa: F401  # all that is imported must be so before memory is bounded, and once instead of in each process
import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq
import torch  # noqa: F401
from webdataset.tariterators import tar_file_iterator  # noqa: F401

from data_tools.validate import validate_dataset
from taudl_dist.batches import BatchPlan
from taudl_dist.batches.pipeline import jpeg_size
from taudl_dist.config import BatchConfig, Config
from taudl_dist.dataset import TrackletReader, open_dataset, read_manifest
from taudl_dist.dataset.bounded import EXTENT_BYTES
from taudl_dist.dataset.schema import INDEX_SCHEMA, MANIFEST_SCHEMA
from taudl_dist.errors import UserError

ROOM_BYTES = 800 * 2**20
"""Memory that a case may take beyond what the process has."""
TIME_S = 30

Change = Callable[[Path], None]
CASES: dict[str, Change] = {}


def case(name: str) -> Callable[[Change], Change]:
    def register(change: Change) -> Change:
        CASES[name] = change
        return change

    return register


def info(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Changes dataset.json."""
    path = folder / "dataset.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def shard(folder: Path) -> Path:
    return sorted((folder / "shards").glob("*.tar"))[0]


def sparse(path: Path, size: int) -> None:
    path.unlink(missing_ok=True)
    with path.open("wb") as file:
        file.truncate(size)


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def endless(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


for _name in (
    "dataset.json",
    "tracklets.arrow",
    "tracklets.parquet",
    "shards/*.tar",
    "shards/*.tar.idx",
    "shards/*.ok.json",
):
    for _kind, _make in (
        ("is a pipe", pipe),
        ("never ends", endless),
        ("has a terabyte", lambda path: sparse(path, 2**40)),
    ):
        CASES[f"{_name} {_kind}"] = lambda folder, name=_name, make=_make: make(sorted(folder.glob(name))[0])  # type: ignore[misc]


@case("dataset.json is deep")
def _(folder: Path) -> None:
    (folder / "dataset.json").write_text("[" * 3_000_000)


@case(".ok.json is deep")
def _(folder: Path) -> None:
    sorted(folder.glob("shards/*.ok.json"))[0].write_text("[" * 1_000_000)


for _value in (2**62, -1, True, float("nan"), 10**400):
    CASES[f"num_tracklets {str(_value)[:20]}"] = lambda folder, value=_value: info(  # type: ignore[misc]
        folder, lambda content: content["cameras"][0].update(num_tracklets=value)
    )
    CASES[f"shard bytes {str(_value)[:20]}"] = lambda folder, value=_value: info(  # type: ignore[misc]
        folder, lambda content: content["shards"][0].update(bytes=value)
    )
for _text in ("../../etc/passwd", "/etc/passwd", "x" * 100_000, "a\0.tar", 7):
    CASES[f"shard name {str(_text)[:20]!r}"] = lambda folder, name=_text: info(  # type: ignore[misc]
        folder, lambda content: content["shards"][0].update(name=name)
    )
    CASES[f"shard file {str(_text)[:20]!r}"] = lambda folder, name=_text: info(  # type: ignore[misc]
        folder, lambda content: content["shards"][0].update(file=name)
    )
for _text in ("x" * 1_000_000, "\x1b[2J", "\ud800"):
    CASES[f"camera name {str(_text)[:10]!r}"] = lambda folder, name=_text: info(  # type: ignore[misc]
        folder, lambda content: content["cameras"][0].update(name=name)
    )


@case("a thousand million cameras by count")
def _(folder: Path) -> None:
    info(
        folder,
        lambda content: (
            content["splits"]["train"].update(tracklets=2**50),
            content["cameras"][0].update(num_tracklets=2**50),
        ),
    )


def index(folder: Path, *, options: pa.ipc.IpcWriteOptions | None = None, repeat: int = 1, **columns: int) -> None:
    """Writes the training index anew, with these values in its first row (or all, where repeated)."""
    path = folder / "tracklets.arrow"
    with pa.memory_map(str(path)) as file:
        table = pa.ipc.open_file(file).read_all().to_pydict()
    for name, value in columns.items():
        table[name][0] = value
    arrays = [pa.array(table[field.name] * repeat, field.type) for field in INDEX_SCHEMA]
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, INDEX_SCHEMA, options=options) as writer:
        writer.write_batch(pa.record_batch(arrays, schema=INDEX_SCHEMA))


for _column, _values in {
    "offset": (-512, 2**63 - 1, 1),
    "length": (-1, 0, 2**62),
    "shard": (-1, 99),
    "num_frames": (0, 2**31 - 1),
    "label": (-1, 2**31 - 1),
}.items():
    for _number in _values:
        CASES[f"index {_column} {_number}"] = lambda folder, name=_column, value=_number: index(folder, **{name: value})  # type: ignore[misc]


@case("index is compressed")
def _(folder: Path) -> None:
    index(folder, options=pa.ipc.IpcWriteOptions(compression="zstd"))


@case("index is a bomb")
def _(folder: Path) -> None:
    rows = 30_000_000
    arrays = [pa.array(np.zeros(rows, field.type.to_pandas_dtype())) for field in INDEX_SCHEMA]
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with (
        pa.OSFile(str(folder / "tracklets.arrow"), "wb") as sink,
        pa.ipc.new_file(sink, INDEX_SCHEMA, options=options) as writer,
    ):
        writer.write_batch(pa.record_batch(arrays, schema=INDEX_SCHEMA))


@case("index claims more rows than it has bytes")
def _(folder: Path) -> None:
    path = folder / "tracklets.arrow"
    data = path.read_bytes()
    path.write_bytes(data.replace(struct.pack("<q", 4), struct.pack("<q", 2**40)))


@case("manifest is a bomb")
def _(folder: Path) -> None:
    rows = 1_000_000
    row = pq.read_table(folder / "tracklets.parquet").slice(0, 1).to_pylist()[0] | {"split": "gallery"}
    columns = [
        pa.DictionaryArray.from_arrays(np.zeros(rows, np.int32), pa.array([row[f.name]], f.type))
        for f in MANIFEST_SCHEMA
    ]
    table = pa.Table.from_arrays([column.dictionary_decode() for column in columns], schema=MANIFEST_SCHEMA)
    pq.write_table(table, folder / "tracklets.parquet", row_group_size=rows, compression="gzip")
    info(folder, lambda content: content["splits"]["gallery"].update(tracklets=rows - 5))  # 4 of train, 1 query


def manifest(folder: Path, **values: Any) -> None:
    path = folder / "tracklets.parquet"
    table = pq.read_table(path).to_pylist()
    table[0].update(values)
    pq.write_table(pa.Table.from_pylist(table, schema=MANIFEST_SCHEMA), path)


for _name, _value in (
    ("start_s", float("nan")),
    ("offset", 2**63 - 1),
    ("shard", 10**9),
    ("key", "../../../etc/passwd"),
    ("key", "k" * 1_000_000),
    ("split", "nowhere"),
    ("num_frames", -1),
):
    CASES[f"manifest {_name} {str(_value)[:20]}"] = lambda folder, name=_name, value=_value: manifest(
        folder, **{name: value}
    )  # type: ignore[misc]


def whole(folder: Path, data: bytes | int) -> None:
    """Puts other bytes into the first shard (a number: that many, sparse), with records that agree."""
    path = shard(folder)
    if isinstance(data, int):
        sparse(path, data)
    else:
        path.write_bytes(data)
    size = path.stat().st_size
    entry: dict[str, Any] = {}

    def change(content: dict[str, Any]) -> None:
        content["shards"][0]["bytes"] = size
        entry.update(content["shards"][0])

    info(folder, change)
    ok = path.with_name(f"{path.name.removesuffix('.tar')}.ok.json")
    content = json.loads(ok.read_text())
    ok.write_text(json.dumps({**content, "shard": entry}))


@case("an extent larger than any tracklet")
def _(folder: Path) -> None:
    whole(folder, EXTENT_BYTES + 2**20)
    index(folder, offset=0, length=EXTENT_BYTES + 512, shard=0)
    manifest(folder, offset=0, length=EXTENT_BYTES + 512, shard=0)


def members(
    folder: Path,
    change: Callable[[tarfile.TarInfo, bytes], tuple[tarfile.TarInfo, bytes]],
    *,
    form: int = tarfile.USTAR_FORMAT,
) -> bytes:
    """The first shard with other members."""
    buffer = io.BytesIO()
    with tarfile.open(shard(folder)) as old, tarfile.open(fileobj=buffer, mode="w", format=form) as new:
        for member in old:
            content = old.extractfile(member)
            altered, data = change(member, content.read() if content else b"")
            new.addfile(altered, io.BytesIO(data) if altered.isreg() else None)
    return buffer.getvalue()


def renamed(prefix: str) -> Callable[[tarfile.TarInfo, bytes], tuple[tarfile.TarInfo, bytes]]:
    def change(member: tarfile.TarInfo, data: bytes) -> tuple[tarfile.TarInfo, bytes]:
        member.name = prefix + member.name
        return member, data

    return change


for _prefix in ("../../../../tmp/", "/etc/"):
    CASES[f"members under {_prefix[:20]}"] = lambda folder, prefix=_prefix: whole(
        folder, members(folder, renamed(prefix))
    )  # type: ignore[misc]


def typed(kind: bytes) -> Change:
    def change(member: tarfile.TarInfo, data: bytes) -> tuple[tarfile.TarInfo, bytes]:
        member.type, member.linkname, member.size = kind, "/etc/passwd", 0
        return member, data

    return lambda folder: whole(folder, members(folder, change))


for _name, _kind in (
    ("symlinks", tarfile.SYMTYPE),
    ("devices", tarfile.CHRTYPE),
):
    CASES[f"members are {_name}"] = typed(_kind)


def summed(data: bytearray) -> bytes:
    """A tar whose first header, changed, has the sum that fits it: so that the change is read, not refused for its sum."""
    data[148:156] = b"        "
    data[148:156] = b"%06o\0 " % sum(data[:512])
    return bytes(data)


@case("a header with a negative size")
def _(folder: Path) -> None:
    data = bytearray(shard(folder).read_bytes())
    data[124:136] = b"-0000001000\0"
    whole(folder, summed(data))


@case("a header of 8 exabytes")
def _(folder: Path) -> None:
    data = bytearray(shard(folder).read_bytes())
    data[124:136] = b"\x80" + bytes(3) + struct.pack(">q", 2**62)
    whole(folder, summed(data))


@case("a member of 8 gigabytes in a small file")
def _(folder: Path) -> None:
    data = bytearray(shard(folder).read_bytes())
    data[124:136] = b"77777777777\0"
    whole(folder, summed(data))


@case("a long name of a gigabyte")
def _(folder: Path) -> None:
    header = tarfile.TarInfo("././@LongLink")
    header.type, header.size = tarfile.GNUTYPE_LONGNAME, 2**30
    whole(folder, header.tobuf(tarfile.USTAR_FORMAT) + shard(folder).read_bytes())


@case("a gzip bomb for a tar")
def _(folder: Path) -> None:
    header = tarfile.TarInfo("a.000000000.jpg")
    header.size = 2**30
    buffer = io.BytesIO()
    with gzip.GzipFile(fileobj=buffer, mode="wb", compresslevel=1) as file:
        file.write(header.tobuf(tarfile.USTAR_FORMAT))
        for _ in range(2**7):
            file.write(bytes(2**20))
    whole(folder, buffer.getvalue())


@case("a sparse tar of one member larger than any tracklet")
def _(folder: Path) -> None:
    header = tarfile.TarInfo("a.000000000.jpg")
    header.size = EXTENT_BYTES + 512
    whole(folder, header.size + 512)
    with shard(folder).open("r+b") as file:
        file.write(header.tobuf(tarfile.USTAR_FORMAT))


def replaced(extension: str, content: Callable[[bytes], bytes]) -> Change:
    """The same sizes, other content: the extents stay true."""

    def change(member: tarfile.TarInfo, data: bytes) -> tuple[tarfile.TarInfo, bytes]:
        return (
            (member, content(data)[: len(data)].ljust(len(data), b" "))
            if member.name.endswith(extension)
            else (member, data)
        )

    return lambda folder: whole(folder, members(folder, change))


def giant(width: int, height: int) -> Callable[[bytes], bytes]:
    def change(jpeg: bytes) -> bytes:
        at = jpeg.index(b"\xff\xc0")
        return jpeg[: at + 5] + struct.pack(">HH", height, width) + jpeg[at + 9 :]

    return change


CASES["JPEGs of 65500 x 65500"] = replaced(".jpg", giant(65500, 65500))
CASES["JPEGs of 8000 x 8000"] = replaced(".jpg", giant(8000, 8000))
CASES["JPEGs of 0 x 0"] = replaced(".jpg", giant(0, 0))
CASES["PNGs for JPEGs"] = replaced(
    ".jpg", lambda _: b"\x89PNG\r\n\x1a\n" + b"\0\0\0\rIHDR" + struct.pack(">II", 60000, 60000) + b"\x08\x02\0\0\0"
)
CASES["deep JSON in a tracklet"] = replaced(".json", lambda data: b"[" * len(data))
CASES["NaN in a tracklet's JSON"] = replaced(".json", lambda data: data.replace(b'"a"', b"NaN").replace(b'"b"', b"NaN"))


def read_everything(folder: Path) -> None:
    """What training, evaluation and `taudl validate` do with a dataset."""
    problems = []

    def attempt(action: Callable[[], Any]) -> Any:
        try:
            return action()
        except UserError as error:
            problems.append(str(error))
            return None

    dataset = attempt(lambda: open_dataset(folder))
    if dataset:
        attempt(lambda: read_manifest(folder, splits=("train", "query", "gallery")))
        plan = attempt(lambda: BatchPlan(dataset, Config(data=str(folder), batch=BatchConfig(images=16, frames=2))))
        for step in range(2) if plan else []:
            attempt(lambda step=step: plan.groups(step))
        reader = TrackletReader(dataset)
        for row in range(len(dataset.training)):
            places = [int(dataset.training.take(name, np.array([row]))[0]) for name in ("shard", "offset", "length")]
            for jpeg in attempt(lambda places=places: reader.read(*places)) or []:
                attempt(lambda jpeg=jpeg: jpeg_size(jpeg))
    report = attempt(lambda: validate_dataset(folder))
    problems += report.problems if report else []
    if problems:
        raise UserError("; ".join(dict.fromkeys(problems)))


def status(name: str) -> int:
    text = Path("/proc/self/status").read_text()
    return int(text.split(f"{name}:")[1].split()[0]) * 1024


def attack(name: str, dataset: Path, work: Path) -> dict[str, Any]:
    """Reads the changed dataset in a child with bounded memory and time."""
    folder = work / "attacked"
    shutil.copytree(dataset, folder)
    said, say = os.pipe()
    child = os.fork()
    if not child:
        CASES[name](folder)
        began, before = time.monotonic(), status("VmRSS")
        resource.setrlimit(resource.RLIMIT_AS, (status("VmSize") + ROOM_BYTES,) * 2)
        signal.alarm(TIME_S)
        try:
            read_everything(folder)
            came = "nothing wrong was found"
        except UserError as error:
            came = f"UserError: {error}"
        except BaseException as error:
            came = f"{type(error).__name__}: {str(error)[:300]}"
        outcome = {"came": came[:5000], "seconds": time.monotonic() - began, "bytes": status("VmHWM") - before}
        os.write(say, json.dumps(outcome).encode())
        os._exit(0)
    os.close(say)
    with os.fdopen(said, "rb") as pipe_end:
        answer = pipe_end.read()
    _, code = os.waitpid(child, 0)
    shutil.rmtree(folder)
    died = f"died of {signal.Signals(code & 127).name}" if code & 127 else f"ended with {code >> 8}"
    return {"case": name, **(json.loads(answer) if answer else {"came": died, "seconds": 0.0, "bytes": 0})}


if __name__ == "__main__":
    PIL.Image.init()
    os.environ["ARROW_DEFAULT_MEMORY_POOL"] = "system"
    for wanted in sys.argv[3:] or CASES:
        print(json.dumps(attack(wanted, Path(sys.argv[1]), Path(sys.argv[2]))), flush=True)
