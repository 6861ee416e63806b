"""When a run folder may be written to, when its run may go on, and who may still write."""

import dataclasses
import errno
import fcntl
import json
import multiprocessing
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from taudl_dist.config import Config, resolve
from taudl_dist.errors import UserError
from taudl_dist.training import checkpoint
from taudl_dist.training.run_folder import Overtaken, RunFolder, code_version, config_digest, locked, open_run

BASE = {"data": "d", "steps": 100, "model": {"name": "small"}}


def _config(out: Path, **changes: object) -> Config:
    return resolve({**BASE, "out": str(out), **changes})


def _open(config: Config, digest: str = "abc") -> RunFolder:
    return open_run(config, dataset_digest=digest, workers=(1, 1))


def _with_checkpoint(out: Path, step: int = 40) -> None:
    folder = out / "checkpoints" / f"step-{step:010d}-aa"
    folder.mkdir(parents=True)
    (folder / "COMPLETE.json").write_text("{}")


def test_a_new_run_describes_itself(tmp_path: Path) -> None:
    run = _open(_config(tmp_path / "r"))
    info = run.info()
    assert (info["format"], info["version"], info["dataset"]["digest"], info["workers"]) == ("taudl-run", 1, "abc", "1")
    assert info["code"]["version"]
    assert run.attempt() is None
    run.add_attempt("a1", after=None, world_size=2, from_step=0)
    assert run.info()["attempts"][0]["world_size"] == 2
    assert not list(run.path.glob("*.tmp*"))


def test_one_command_starts_a_run_and_goes_on_with_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Also where the first start was killed before it had written run.json."""
    folder = tmp_path / "a run"
    config = _config(folder, resume=True)
    folder.mkdir()
    for left in ("lock", "config.yaml", "run.json.tmp-7"):
        (folder / left).touch()
    first = _open(config)
    assert "holds no run yet; starting one" in capsys.readouterr().err
    first.add_attempt("a1", after=None, world_size=1, from_step=0)
    first.workers.mkdir()
    for left in ("driver.json", "a1-00000.json", "a1-00000.json.tmp-7"):
        (first.workers / left).touch()
    again = _open(config)
    assert again.attempt() == "a1"
    assert not any(again.workers.iterdir())  # or `taudl status` would show how the first ended
    assert again.resume_command == f"taudl train --out '{tmp_path}/a run' --resume"
    assert capsys.readouterr().err == ""


def test_code_without_a_repository_is_named_by_who_shipped_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_DIR", str(tmp_path))  # where there is no repository
    assert code_version()["git_sha"] is None
    monkeypatch.setenv("TAUDL_GIT_SHA", "f" * 40)
    monkeypatch.setenv("TAUDL_GIT_DIRTY", "1")
    assert code_version() | {"version": ""} == {"version": "", "git_sha": "f" * 40, "git_dirty": True}


def test_a_folder_in_use_is_refused_with_the_way_out(tmp_path: Path) -> None:
    config = _config(tmp_path / "r")
    _open(config)
    with pytest.raises(UserError, match=r"not empty.*--resume"):
        _open(config)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "photo.jpg").touch()
    with pytest.raises(UserError, match=r"holds photo.jpg\); choose another"):
        _open(_config(tmp_path / "other"))
    with pytest.raises(UserError, match=r"holds no run"):
        _open(_config(tmp_path / "nowhere", resume=True, data=""))
    with pytest.raises(UserError, match=r"holds no run"):
        _open(_config(tmp_path / "other", resume=True))
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"found a file"):
        _open(_config(tmp_path / "file"))


MAY_CHANGE = [
    {"workers": "2"},
    {"launcher": "ray"},
    {"stop_at": 50},
    {"tracking": {"uri": "none"}},
    {"checkpoint": {"every": 7}},
    {"data": "moved"},
]


@pytest.mark.parametrize("change", MAY_CHANGE, ids=str)
def test_what_does_not_change_the_result_may_change(tmp_path: Path, change: dict[str, object]) -> None:
    first = _config(tmp_path)
    _open(first)
    _with_checkpoint(tmp_path)
    second = _config(tmp_path, resume=True, **change)
    _open(second)
    assert config_digest(first) == config_digest(second)


MAY_NOT_CHANGE = [
    ({"seed": 1}, "seed was 0, is 1"),
    ({"recipe": "pctd"}, r"loss.ccta_weight was 0.7, is 0.0"),
    ({"optim": {"lr": 1.0}}, "optim.lr was 0.00035, is 1.0"),
    ({"batch": {"images": 12}}, "batch.images"),
    ({"model": {"name": "resnet18"}}, "model.name"),
    ({"precision": "fp64"}, "precision"),
    ({"augment": {"flip": 0.0}}, "augment.flip"),
    ({"steps": 30}, "40 steps behind it"),
]


@pytest.mark.parametrize(("change", "message"), MAY_NOT_CHANGE, ids=[row[1] for row in MAY_NOT_CHANGE])
def test_what_changes_the_result_is_refused_by_name(tmp_path: Path, change: dict[str, object], message: str) -> None:
    _open(_config(tmp_path))
    _with_checkpoint(tmp_path)
    before = (tmp_path / "config.yaml").read_text()
    with pytest.raises(UserError, match=message):
        _open(_config(tmp_path, resume=True, **change))
    assert (tmp_path / "config.yaml").read_text() == before


def test_more_steps_are_a_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _open(_config(tmp_path))
    _with_checkpoint(tmp_path)
    _open(_config(tmp_path, resume=True, steps=200))
    assert "steps 100 -> 200: the learning rate's schedule spans" in capsys.readouterr().err


def test_the_logged_model_of_fewer_steps_is_not_that_of_more(tmp_path: Path) -> None:
    _open(_config(tmp_path)).update(mlflow={"run_id": "r1", "model_id": "m1"})
    _with_checkpoint(tmp_path)
    assert _open(_config(tmp_path, resume=True)).info()["mlflow"]["model_id"] == "m1"
    assert _open(_config(tmp_path, resume=True, steps=200)).info()["mlflow"] == {"run_id": "r1", "model_id": None}


@pytest.mark.parametrize("text", ["{", "{}", "[]", '{"format": "x", "version": 1, "dataset": {"digest": ""}}'])
def test_a_damaged_run_json_is_refused(tmp_path: Path, text: str) -> None:
    run = _open(_config(tmp_path))
    (run.path / "run.json").write_text(text)
    with pytest.raises(UserError, match=r"run\.json: (not readable|found format)"):
        _open(_config(tmp_path, resume=True))


@pytest.mark.parametrize(
    "damage", [{"mlflow": ...}, {"outcome": ...}, {"attempts": [{"from_step": 0}]}, {"attempts": 3}]
)
def test_a_run_json_without_a_part_is_refused(tmp_path: Path, damage: dict[str, object]) -> None:
    run = _open(_config(tmp_path))
    record = {**run.info(), **damage}
    (run.path / "run.json").write_text(json.dumps({key: value for key, value in record.items() if value is not ...}))
    with pytest.raises(UserError, match=r"run\.json: not readable as written"):
        _open(_config(tmp_path, resume=True))


@pytest.mark.parametrize("text", ["foo: 1", None])
def test_a_damaged_config_is_refused(tmp_path: Path, text: str | None) -> None:
    path = _open(_config(tmp_path)).path / "config.yaml"
    path.unlink() if text is None else path.write_text(text)
    with pytest.raises(UserError, match=r"config\.yaml is not what the run wrote"):
        _open(_config(tmp_path, resume=True))


def test_another_dataset_is_refused_naming_both_digests(tmp_path: Path) -> None:
    _open(_config(tmp_path))
    _with_checkpoint(tmp_path)
    with pytest.raises(UserError, match=r"digest abc.*digest xyz"):
        _open(_config(tmp_path, resume=True), digest="xyz")


def test_a_run_without_a_checkpoint_keeps_its_identity_or_takes_a_new_one(tmp_path: Path) -> None:
    run = _open(_config(tmp_path))
    run.update(mlflow={"run_id": "r1"})
    assert _open(_config(tmp_path, resume=True)).info()["mlflow"] == {"run_id": "r1"}
    changed = dataclasses.replace(_config(tmp_path, resume=True), seed=9)
    assert _open(changed).info()["mlflow"] is None


def test_a_second_driver_is_refused_and_told_who_holds_the_folder(tmp_path: Path) -> None:
    with locked(tmp_path / "r"), pytest.raises(UserError, match=rf"process {os.getpid()} on .*since 20"):
        locked(tmp_path / "r").__enter__()
    with locked(tmp_path / "r"):
        _open(_config(tmp_path / "r"))  # the lock's own file does not count as a folder in use


def _hold(path: Path, pipe: Any) -> None:
    with locked(path):
        pipe.send("held")
        signal.pause()


def test_a_dead_holder_does_not_block(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    holder = context.Process(target=_hold, args=(tmp_path, there))
    holder.start()
    assert here.recv() == "held"
    with pytest.raises(UserError, match=f"process {holder.pid}"):
        locked(tmp_path).__enter__()
    holder.kill()
    holder.join()
    with locked(tmp_path):
        assert (tmp_path / "lock").read_text().startswith(f"process {os.getpid()} ")


def test_a_file_system_without_locks_costs_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(file: Any, how: int) -> None:  # noqa: ARG001
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with locked(tmp_path):
        assert "keeps no locks" in capsys.readouterr().err


def test_an_attempt_that_was_overtaken_may_not_write(tmp_path: Path) -> None:
    run = _open(_config(tmp_path))
    run.add_attempt("a1", after=None, world_size=2, from_step=0)
    run.check_newest("a1")
    run.add_attempt("a2", after="a1", world_size=1, from_step=4)
    with pytest.raises(Overtaken, match="attempt a2 of this run has begun after a1"):
        run.check_newest("a1")
    with pytest.raises(Overtaken):  # a3 began before a2 was announced
        run.add_attempt("a3", after="a1", world_size=1, from_step=4)
    assert run.attempt() == "a2"


TRUSTED = [
    ("a1", 4, True, "where the second attempt began"),
    ("a1", 5, False, "written by the first after the second had begun"),
    ("a2", 5, True, "where the third attempt began"),
    ("a2", 8, False, "ahead of where the third began"),
    ("a3", 99, True, "the newest attempt"),
    ("bb", 99, True, "put there by hand"),
]


@pytest.mark.parametrize(("attempt", "step", "trusted", "remark"), TRUSTED, ids=[row[3] for row in TRUSTED])
def test_checkpoints_of_overtaken_attempts_do_not_count(
    tmp_path: Path, attempt: str, step: int, trusted: bool, remark: str
) -> None:
    run = _open(_config(tmp_path))
    for name, after, start in (("a1", None, 0), ("a2", "a1", 4), ("a3", "a2", 5)):
        run.add_attempt(name, after=after, world_size=1, from_step=start)
    assert run.trusts(attempt, step) is trusted, remark


def test_a_run_goes_on_from_the_newest_checkpoint_that_counts(tmp_path: Path) -> None:
    run = _open(_config(tmp_path))
    for name, after, start in (("a1", None, 0), ("a2", "a1", 4)):
        run.add_attempt(name, after=after, world_size=1, from_step=start)
    for name in ("step-0000000004-a1", "step-0000000006-a2", "step-0000000008-a1"):
        (run.checkpoints / name).mkdir(parents=True)
        (run.checkpoints / name / "COMPLETE.json").touch()
    assert checkpoint.newest(run.checkpoints, trusts=run.trusts).name == "step-0000000006-a2"
    assert checkpoint.newest(run.checkpoints).name == "step-0000000008-a1"
