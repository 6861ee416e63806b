"""Feature files: their columns, their origin, their bytes under kills, and that nothing is overwritten."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import textwrap
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest

from taudl_dist.cli import main
from taudl_dist.dataset import read_manifest
from taudl_dist.dataset.schema import SPLITS
from taudl_dist.errors import UsageError, UserError
from taudl_dist.evaluation import embedding, pieces
from taudl_dist.evaluation.embedding import stored_facts, write_features
from taudl_dist.evaluation.evaluate import model_digest
from taudl_dist.evaluation.features import embed
from taudl_dist.model import load_model


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    """The world in seven pieces."""
    monkeypatch.setattr(pieces, "MAX_IMAGES", 8)


def features_of(path):
    return np.stack(pq.read_table(path)["feature"].to_numpy())


@pytest.mark.parametrize(("split", "count"), [("all", 18), ("train", 8), ("query", 5), ("gallery", 5)])
def test_features_of_a_split(dataset, run, tmp_path, split, count):
    out = tmp_path / "new" / "features.parquet"
    written = write_features(dataset.path, run, out, split=split)
    table = pq.read_table(out)
    assert table.column_names == ["key", "camera", "split", "feature"]
    rows = read_manifest(dataset, splits=SPLITS if split == "all" else (split,))
    assert table["key"].to_pylist() == rows["key"].to_pylist()
    assert len(table) == written["num_tracklets"] == count
    features = features_of(out)
    assert features.dtype == np.float32
    np.testing.assert_allclose(features, embed(load_model(run), dataset, rows), atol=1e-6)
    assert stored_facts(out) == {
        "format": "taudl-features", "version": "2", "dataset_digest": dataset.digest, "model_digest": model_digest(run),
        "split": split, "frames": "0", "flip": "False", "normalize": "False",
    }  # fmt: skip
    assert [path.name for path in out.parent.iterdir()] == [out.name]


def test_flip_and_normalize(dataset, run, tmp_path):
    write_features(dataset.path, run, tmp_path / "both", flip=True, normalize=True)
    rows = read_manifest(dataset, splits=SPLITS)
    mean = embed(load_model(run), dataset, rows, flip=True)
    expected = mean / np.sqrt((mean.astype(np.float64) ** 2).sum(1))[:, None]
    np.testing.assert_allclose(features_of(tmp_path / "both"), expected, atol=1e-6)
    assert stored_facts(tmp_path / "both")["flip"] == stored_facts(tmp_path / "both")["normalize"] == "True"


def test_pieces_change_no_feature(dataset, run, tmp_path, monkeypatch):
    write_features(dataset.path, run, tmp_path / "pieces")
    assert pq.ParquetFile(tmp_path / "pieces").metadata.num_row_groups > 3
    monkeypatch.undo()
    write_features(dataset.path, run, tmp_path / "whole")
    np.testing.assert_allclose(features_of(tmp_path / "pieces"), features_of(tmp_path / "whole"), atol=1e-6)


def test_another_file_is_kept(dataset, run, tmp_path):
    out = tmp_path / "features.parquet"
    out.write_text("precious")
    with pytest.raises(UserError, match="--overwrite"):
        write_features(dataset.path, run, out)
    assert out.read_text() == "precious"
    write_features(dataset.path, run, out, overwrite=True)
    assert len(pq.read_table(out)) == 18
    with pytest.raises(UserError, match=r"found frames 0, expected frames 2.*--overwrite"):
        write_features(dataset.path, run, out, frames=2)
    assert [path.name for path in tmp_path.iterdir()] == [out.name]


def test_the_same_again_does_nothing(dataset, run, tmp_path, monkeypatch, capsys):
    out = tmp_path / "features.parquet"
    first = write_features(dataset.path, run, out)
    (tmp_path / "features.parquet.pieces").mkdir()  # killed after the file was complete
    monkeypatch.setattr(embedding, "make_pieces", None)
    assert write_features(dataset.path, run, out) == first
    assert "nothing to do" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == [out.name]


@pytest.fixture
def interrupted(dataset, run, tmp_path, monkeypatch):
    """A file whose embedding was interrupted after three pieces."""
    write, out = pieces.PieceFolder.write, tmp_path / "features.parquet"

    def stop(self, piece, features):
        if piece.number == 3:
            raise KeyboardInterrupt
        write(self, piece, features)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(pieces.PieceFolder, "write", stop)
        write_features(dataset.path, run, out)
    assert not out.exists()
    return out


def test_it_goes_on_where_it_was(dataset, run, interrupted, monkeypatch, capsys):
    tmp_path = interrupted.parent
    folder = tmp_path / "features.parquet.pieces"
    (folder / "000001.npy").write_bytes((folder / "000001.npy").read_bytes()[:-4])  # a disk that lost its end
    (folder / "000004.npy.tmp-12345678").write_bytes(b"half")
    made = []
    monkeypatch.setattr(
        embedding, "make_pieces", lambda request, todo, **how: made.extend(todo) or pieces.make_pieces(request, todo, **how)
    )  # fmt: skip
    write_features(dataset.path, run, interrupted)
    assert [piece.number for piece in made][:3] == [1, 3, 4]
    assert "going on; 2 of 7 pieces are done" in capsys.readouterr().err
    write_features(dataset.path, run, tmp_path / "undisturbed")
    assert interrupted.read_bytes() == (tmp_path / "undisturbed").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["features.parquet", "undisturbed"]


def test_other_settings_do_not_go_on(dataset, run, tmp_path, interrupted):
    with pytest.raises(UserError, match=r"was begun there with flip False, found flip True.*--overwrite"):
        write_features(dataset.path, run, interrupted, flip=True)
    request = interrupted.with_name(f"{interrupted.name}.pieces") / "request.json"
    request.write_text(json.dumps({**json.loads(request.read_text()), "pooling": "max"}))  # of a later version
    with pytest.raises(UserError, match=r"was begun there with pooling max, found pooling None"):
        write_features(dataset.path, run, interrupted)
    write_features(dataset.path, run, interrupted, flip=True, overwrite=True)
    write_features(dataset.path, run, tmp_path / "undisturbed", flip=True)
    assert interrupted.read_bytes() == (tmp_path / "undisturbed").read_bytes()


def test_a_folder_of_someone_else(dataset, run, tmp_path):
    folder = tmp_path / "features.parquet.pieces"
    folder.mkdir()
    (folder / "thesis.txt").write_text("precious")
    for overwrite in (False, True):
        with pytest.raises(UserError, match=r"found thesis\.txt, expected what an interrupted"):
            write_features(dataset.path, run, tmp_path / "features.parquet", overwrite=overwrite)
    assert (folder / "thesis.txt").read_text() == "precious"


def test_one_driver_at_a_time(dataset, run, tmp_path):
    from taudl_dist.training.run_folder import locked

    with (
        locked(tmp_path / "features.parquet.pieces", command="embed"),
        pytest.raises(UserError, match="another `taudl embed` is writing"),
    ):
        write_features(dataset.path, run, tmp_path / "features.parquet")


def test_a_failing_write_leaves_no_file(dataset, run, tmp_path, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(pq.ParquetWriter, "write_table", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_features(dataset.path, run, tmp_path / "features.parquet")
    assert [path.name for path in tmp_path.iterdir()] == ["features.parquet.pieces"]  # to go on from


def test_wrong_usage(dataset, run, tmp_path):
    with pytest.raises(UserError, match=r"exists; choose another name$"):
        write_features(dataset.path, run, tmp_path, overwrite=True)
    with pytest.raises(UsageError, match="--frames -1"):
        write_features(dataset.path, run, tmp_path / "features.parquet", frames=-1)
    for flag, value in (("workers", 0), ("threads", -1)):
        with pytest.raises(UsageError, match=f"--{flag} {value}"):
            write_features(dataset.path, run, tmp_path / "features.parquet", **{flag: value})
    assert not list(tmp_path.iterdir())


def test_a_gpu_that_is_not_there_is_refused(dataset, run, tmp_path, monkeypatch):
    monkeypatch.setattr(pieces, "best_device", lambda: "cpu")
    with pytest.raises(UsageError, match="--device gpu: this process sees no GPU"):
        write_features(dataset.path, run, tmp_path / "features.parquet", device="gpu")


@pytest.mark.parametrize(
    ("device", "there", "num_gpus", "waits"),
    [("auto", 0, 0, False), ("auto", 2, 1, False), ("cpu", 2, 0, False), ("gpu", 2, 1, False), ("gpu", 0, 1, True)],
)
def test_what_ray_tasks_take(dataset, run, tmp_path, monkeypatch, capsys, *, device, there, num_gpus, waits):
    def run_on_ray(_, todo, **how):
        assert how["num_gpus"] == num_gpus
        yield from ((piece, np.zeros((len(piece.rows), 4), np.float32)) for piece in todo)

    ray = SimpleNamespace(cluster_resources=lambda: {"CPU": 4.0, "GPU": float(there)})
    monkeypatch.setattr("taudl_dist.ray_cluster.ray_session", lambda *, cpus: contextlib.nullcontext(ray))  # noqa: ARG005
    monkeypatch.setattr("data_tools.ray_tasks.run_on_ray", run_on_ray)
    write_features(dataset.path, run, tmp_path / "features.parquet", workers=2, device=device)
    said = capsys.readouterr().err
    assert f"of a {'GPU' if num_gpus else 'CPU'} each" in said
    assert ("waiting for the first GPU" in said) == waits


def test_the_command(dataset, run, tmp_path, capsys):
    words = [
        "embed",
        "--data",
        str(dataset.path),
        "--model",
        str(run),
        "--out",
        str(tmp_path / "f"),
        "--flip",
        "--normalize",
    ]
    assert main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "path": str(tmp_path / "f"), "num_tracklets": 18, "feature_dim": 16, "dataset_digest": dataset.digest,
        "model_digest": model_digest(run), "split": "all", "frames": "0", "flip": "True", "normalize": "True",
    }  # fmt: skip


KILLED = """
    import os, signal, sys
    from pathlib import Path
    from taudl_dist.cli import main
    from taudl_dist.evaluation import pieces

    embed_piece, write = pieces.embed_piece, pieces.PieceFolder.write
    pieces.MAX_IMAGES = 8

    def dying(*args, once=sys.argv[1]):
        if args[-1].number == 1 and not os.path.exists(once):
            open(once, "w").close()
            os.kill(os.getpid(), 9)  # this worker
        return embed_piece(*args)

    def until_the_driver_dies(self, piece, features):
        write(self, piece, features)
        if len(list(self.path.glob("*.npy"))) == 4:
            os.kill(os.getpid(), 9)

    pieces.embed_piece, pieces.PieceFolder.write = dying, until_the_driver_dies
    sys.exit(main(["embed", *sys.argv[2:]]))
"""


@pytest.mark.slow
def test_a_killed_worker_and_a_killed_driver_change_no_byte(dataset, run, tmp_path):
    out, killed = tmp_path / "features.parquet", tmp_path / "killed"
    words = ["--data", str(dataset.path), "--model", str(run), "--out", str(out), "--workers", "2"]
    with (tmp_path / "said").open("w") as said:  # not a pipe: agents of Ray's outlive the driver and would hold it
        driver = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(KILLED), str(killed), *words],
            check=False, env={**os.environ, "CUDA_VISIBLE_DEVICES": ""}, timeout=300, stdout=said, stderr=said,
        )  # fmt: skip
    assert driver.returncode == -9, (tmp_path / "said").read_text()
    assert killed.exists() and not out.exists()
    folder = tmp_path / "features.parquet.pieces"
    done = {path.name: path.read_bytes() for path in folder.glob("*.npy")}
    assert len(done) == 4
    write_features(dataset.path, run, tmp_path / "undisturbed", threads=1)
    write_features(dataset.path, run, out, threads=1)
    assert out.read_bytes() == (tmp_path / "undisturbed").read_bytes()
