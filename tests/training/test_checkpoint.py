"""Checkpoints: what is saved comes back at any number of workers; damage and foreign state are refused by name."""

import errno
import json
import resource
import shutil
from pathlib import Path

import pytest
import torch

from taudl_dist.config import OptimConfig
from taudl_dist.errors import UserError
from taudl_dist.training import checkpoint
from taudl_dist.training.optimizer import Trained
from taudl_dist.training.world import World

IDENTITY = {"dataset_digest": "abc", "plan_version": 1, "seed": 0}
CAMERAS = ["north", "south/gate", "east.1"]


def _backbone(seed: int) -> Trained:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(3, 2, generator=generator, dtype=torch.float64).requires_grad_()
    return Trained({"fc.weight": weight, "bn.running_mean": torch.randn(3, generator=generator)}, OptimConfig())


def _heads(cameras: list[str], seed: int) -> Trained:
    tensors = {}
    for camera in cameras:
        generator = torch.Generator().manual_seed(seed * 100 + CAMERAS.index(camera))
        tensors[f"{camera}/weight"] = torch.randn(4, 3, generator=generator).requires_grad_()
    return Trained(tensors, OptimConfig())


def _move(trained: Trained, *, skip: str = "") -> None:
    for name, tensor in trained.tensors.items():
        if tensor.requires_grad and not (skip and name.startswith(skip)):
            tensor.grad = torch.full_like(tensor, 0.5) * tensor.detach()
    trained.step(lr=0.1)


class _Ranks:
    """Worlds of several ranks in one process: rank 0, which is asked last, hears what the others said."""

    def __init__(self, size: int) -> None:
        self.said: dict[int, list[object]] = {}
        self.size = size

    def world(self, rank: int) -> World:
        said, size = self.said, self.size

        class Fake(World):
            def everyone(self, value):
                said.setdefault(self.rank, []).append(value)
                turn = len(said[self.rank]) - 1
                return [said[r][turn] for r in range(size) if r in said and turn < len(said[r])]

        return Fake(rank=rank, size=size)


def _save_as(size: int, folder: Path, *, step: int, attempt: str = "aa", keep: int = 3, moved: bool = True) -> Path:
    ranks = _Ranks(size)
    path = None
    for rank in reversed(range(size)):
        backbone, heads = _backbone(1), _heads(CAMERAS[rank::size], 1)
        if moved:
            _move(backbone)
            _move(heads, skip="east")
        path = checkpoint.save(
            folder,
            step=step,
            attempt=attempt,
            world=ranks.world(rank),
            backbone=backbone,
            heads=heads,
            identity=IDENTITY,
            keep=keep,
        )
    assert path is not None
    return path


@pytest.mark.parametrize(("saved_at", "loaded_at"), [(1, 1), (2, 1), (1, 3), (2, 3), (3, 2), (5, 1), (1, 5)])
def test_any_number_of_workers_loads_what_any_other_saved(tmp_path: Path, saved_at: int, loaded_at: int) -> None:
    path = _save_as(saved_at, tmp_path, step=7)
    assert checkpoint.newest(tmp_path) == path
    expected_backbone, expected_heads = _backbone(1), _heads(CAMERAS, 1)
    _move(expected_backbone)
    _move(expected_heads, skip="east")
    ranks = _Ranks(loaded_at)
    for rank in reversed(range(loaded_at)):
        backbone, heads = _backbone(2), _heads(CAMERAS[rank::loaded_at], 2)
        assert checkpoint.load(path, world=ranks.world(rank), backbone=backbone, heads=heads, identity=IDENTITY) == 7
        for found, expected in ((backbone, expected_backbone), (heads, expected_heads)):
            for key, tensor in found.state().items():
                assert torch.equal(tensor, expected.state()[key]), key
            _move(found)  # moments and step counts must have come along
        assert not any(
            key.startswith("east.1/weight:") and tensor.dim() == 0 and tensor != 1
            for key, tensor in heads.state().items()
        )
    _move(expected_backbone)
    assert torch.equal(backbone.tensors["fc.weight"], expected_backbone.tensors["fc.weight"])


def test_partial_checkpoints_do_not_count_and_are_cleared_by_the_next_save(tmp_path: Path) -> None:
    _save_as(1, tmp_path, step=1)
    partial = _save_as(1, tmp_path, step=2)
    (partial / checkpoint.COMPLETE).unlink()
    assert checkpoint.newest(tmp_path).name.startswith("step-0000000001")
    third = _save_as(1, tmp_path, step=2, attempt="bb")
    assert not partial.exists()
    assert checkpoint.newest(tmp_path) == third


def test_the_oldest_is_pruned_after_the_new_one_is_complete(tmp_path: Path) -> None:
    for step in range(1, 6):
        _save_as(1, tmp_path, step=step, keep=2)
    assert [checkpoint.step_of(path) for path in sorted(tmp_path.iterdir())] == [4, 5]


def test_an_empty_place_has_no_checkpoint(tmp_path: Path) -> None:
    assert checkpoint.newest(tmp_path / "none") is None


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def _edit(path: Path, **changes: object) -> None:
    complete = json.loads((path / checkpoint.COMPLETE).read_text())
    (path / checkpoint.COMPLETE).write_text(json.dumps({**complete, **changes}))


DAMAGE = {
    "a byte of the heads": (lambda path: _flip(path / "heads-00000.safetensors"), "heads-00000.safetensors"),
    "a byte of the backbone": (lambda path: _flip(path / "backbone.safetensors"), "backbone.safetensors"),
    "a file missing": (lambda path: (path / "backbone.safetensors").unlink(), "backbone.safetensors is missing"),
    "a file cut short": (lambda path: (path / "backbone.safetensors").write_bytes(b"x"), "has 1 bytes, expected"),
    "another step": (lambda path: _edit(path, step=8), "says step 8"),
    "another dataset": (lambda path: _edit(path, dataset_digest="zzz"), "'zzz'.*'abc'"),
    "another plan": (lambda path: _edit(path, plan_version=2), "plan_version"),
    "another seed": (lambda path: _edit(path, seed=5), "seed"),
    "another format": (lambda path: _edit(path, version=9), "version 9"),
    "a file not listed": (lambda path: _edit(path, files={}), "not readable.*backbone.safetensors"),
    "no JSON": (lambda path: (path / checkpoint.COMPLETE).write_text("{"), "not readable"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_refused_by_name_and_not_passed_over(tmp_path: Path, kind: str) -> None:
    damage, message = DAMAGE[kind]
    _save_as(1, tmp_path, step=6)
    path = _save_as(1, tmp_path, step=7)
    damage(path)
    assert checkpoint.newest(tmp_path) == path
    with pytest.raises(UserError, match=message) as caught:
        checkpoint.load(path, world=World(), backbone=_backbone(2), heads=_heads(CAMERAS, 2), identity=IDENTITY)
    assert path.name in str(caught.value)


def test_heads_of_other_cameras_or_shapes_are_refused(tmp_path: Path) -> None:
    path = _save_as(1, tmp_path, step=1)
    other = Trained({"west/weight": torch.zeros(4, 3, requires_grad=True)}, OptimConfig())
    wide = Trained({"north/weight": torch.zeros(5, 3, requires_grad=True)}, OptimConfig())
    for heads, message in ((other, "no tensor west/weight"), (wide, r"\(4, 3\).*\(5, 3\)")):
        with pytest.raises(UserError, match=message):
            checkpoint.load(path, world=World(), backbone=_backbone(2), heads=heads, identity=IDENTITY)


def test_weights_that_are_not_finite_are_not_saved_over_good_ones(tmp_path: Path) -> None:
    _save_as(1, tmp_path, step=1)
    backbone = _backbone(1)
    with torch.no_grad():
        backbone.tensors["fc.weight"][0, 0] = float("nan")
    with pytest.raises(UserError, match=r"fc.weight is not finite"):
        checkpoint.save(
            tmp_path,
            step=2,
            attempt="aa",
            world=World(),
            backbone=backbone,
            heads=_heads(CAMERAS, 1),
            identity=IDENTITY,
            keep=1,
        )
    assert [checkpoint.step_of(path) for path in tmp_path.iterdir()] == [1]


def test_a_full_disk_leaves_the_older_checkpoint_and_nothing_half_written(tmp_path: Path) -> None:
    old = _save_as(1, tmp_path, step=1)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64, before[1]))  # the system refuses the write, as a full disk would
    try:
        with pytest.raises(OSError, match="safetensors") as caught:
            _save_as(1, tmp_path, step=2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert caught.value.errno == errno.EFBIG
    assert list(tmp_path.iterdir()) == [old]
    shutil.rmtree(old)
