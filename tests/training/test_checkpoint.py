"""Checkpoints: what is saved comes back at any number of workers; damage and foreign state are refused by name."""

import errno
import json
import resource
import shutil
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from taudl_dist.config import OptimConfig
from taudl_dist.errors import UserError
from taudl_dist.model import CameraHeads
from taudl_dist.training import checkpoint
from taudl_dist.training.backbone import TrainedBackbone
from taudl_dist.training.heads import TrainedHeads
from taudl_dist.training.world import World

IDENTITY = {"dataset_digest": "abc", "plan_version": 1, "seed": 0}
CAMERAS = ["north", "south/gate", "east.1"]


def _backbone(seed: int) -> TrainedBackbone:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(3, 2, generator=generator, dtype=torch.float64).requires_grad_()
    return TrainedBackbone({"fc.weight": weight, "bn.running_mean": torch.randn(3, generator=generator)}, OptimConfig())


def _heads(cameras: list[str], seed: int, *, labels: int = 4, saved: list[str] | None = None) -> TrainedHeads:
    numbers = [CAMERAS.index(camera) for camera in cameras]
    heads = CameraHeads(dict.fromkeys(numbers, labels), 3, seed=seed, held=numbers)
    chosen = None if saved is None else [CAMERAS.index(camera) for camera in saved]
    return TrainedHeads(heads, dict(enumerate(CAMERAS)), OptimConfig(), saved=chosen)


def _move(backbone: TrainedBackbone) -> None:
    weight = backbone.tensors["fc.weight"]
    weight.grad = torch.full_like(weight, 0.5) * weight.detach()
    backbone.step(lr=0.1)


def _move_heads(heads: TrainedHeads, *, skip: str = "") -> None:
    leaves = heads.heads.leaves(
        camera for camera in heads.heads.rows if not skip or not heads.names[camera].startswith(skip)
    )
    for tensor in (tensor for head in leaves.values() for tensor in head):
        tensor.grad = torch.full_like(tensor, 0.5) + tensor.detach()
    heads.step(leaves, lr=0.1)


def _by_camera(heads: TrainedHeads) -> dict[str, torch.Tensor]:
    packed, _ = heads.state()
    state = {}
    for position, (camera, rows) in enumerate(heads.heads.rows.items()):
        for name, tensor in packed.items():
            state[f"{heads.names[camera]}/{name}"] = tensor[position if name.endswith(":step") else rows].clone()
    return state


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

            def first(self, action):
                return action() if self.rank == 0 else None

        return Fake(rank=rank, size=size)


def _save(folder: Path, world: World, backbone: TrainedBackbone, heads: TrainedHeads, *, step: int, **options) -> Path:
    saver = checkpoint.Saver(folder, world=world, identity=IDENTITY, **{"attempt": "aa", "keep": 3, **options})
    saver.begin(step, backbone=backbone, heads=heads)
    return saver.complete()


def _save_as(size: int, folder: Path, *, step: int, replicated: bool = False, **options) -> Path:
    ranks = _Ranks(size)
    path = None
    for rank in reversed(range(size)):
        owned = CAMERAS[rank::size]
        backbone, heads = _backbone(1), _heads(CAMERAS, 1, saved=owned) if replicated else _heads(owned, 1)
        _move(backbone)
        _move_heads(heads, skip="east")
        path = _save(folder, ranks.world(rank), backbone, heads, step=step, **options)
    assert path is not None
    return path


@pytest.mark.parametrize("replicated", [False, True])
@pytest.mark.parametrize(("saved_at", "loaded_at"), [(1, 1), (2, 1), (1, 3), (2, 3), (3, 2), (5, 1), (1, 5)])
def test_any_number_of_workers_loads_what_any_other_saved(
    tmp_path: Path, saved_at: int, loaded_at: int, replicated: bool
) -> None:
    path = _save_as(saved_at, tmp_path, step=7, replicated=replicated)
    assert checkpoint.newest(tmp_path) == path
    expected_backbone, expected_heads = _backbone(1), _heads(CAMERAS, 1)
    _move(expected_backbone)
    _move_heads(expected_heads, skip="east")
    before = _by_camera(expected_heads)
    _move_heads(expected_heads)
    after = _by_camera(expected_heads)
    ranks = _Ranks(loaded_at)
    seen = set()
    for rank in reversed(range(loaded_at)):
        backbone, heads = _backbone(2), _heads(CAMERAS[rank::loaded_at], 2)
        assert checkpoint.load(path, world=ranks.world(rank), backbone=backbone, heads=heads, identity=IDENTITY) == 7
        for key, tensor in backbone.state().items():
            assert torch.equal(tensor, expected_backbone.state()[key]), key
        for key, tensor in _by_camera(heads).items():
            assert torch.equal(tensor, before[key]), key
            seen.add(key)
        _move_heads(heads)  # moments and step counts must have come along
        for key, tensor in _by_camera(heads).items():
            assert torch.equal(tensor, after[key]), key
    assert seen == set(before)
    assert (before["east.1/weight:step"], before["north/weight:step"]) == (0, 1)
    _move(backbone)
    _move(expected_backbone)
    assert torch.equal(backbone.tensors["fc.weight"], expected_backbone.tensors["fc.weight"])


def test_training_goes_on_while_a_checkpoint_is_written(tmp_path: Path) -> None:
    """What is written is the state when it began, and nothing counts before it is complete."""
    backbone, heads = _backbone(1), _heads(CAMERAS, 1)
    expected = {**backbone.state(), **heads.state()[0]}
    expected = {name: tensor.clone() for name, tensor in expected.items()}
    saver = checkpoint.Saver(tmp_path, attempt="aa", world=World(), identity=IDENTITY, keep=3)
    assert (saver.is_under_way, saver.is_written) == (False, False)
    saver.begin(3, backbone=backbone, heads=heads)
    _move(backbone)
    _move_heads(heads)
    deadline = time.monotonic() + 60
    while not saver.is_written and time.monotonic() < deadline:
        time.sleep(0.001)
    assert (saver.is_under_way, saver.is_written, checkpoint.newest(tmp_path)) == (True, True, None)
    path = saver.complete()
    assert (saver.is_under_way, saver.is_written, checkpoint.newest(tmp_path)) == (False, False, path)
    found = {key: tensor for file in path.glob("*.safetensors") for key, tensor in load_file(file).items()}
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], tensor) for key, tensor in expected.items())


def test_a_file_that_rank_0_does_not_see_is_no_checkpoint(tmp_path: Path) -> None:
    """As where --out lies on a disk of its own on each machine."""
    ranks = _Ranks(2)
    with pytest.raises(UserError, match=r"heads-00001\.safetensors.*does not see.*storage that all machines share"):
        for rank, folder in ((1, tmp_path / "there"), (0, tmp_path / "here")):
            _save(folder, ranks.world(rank), _backbone(1), _heads(CAMERAS[rank::2], 1), step=1)
    assert checkpoint.newest(tmp_path / "here") is None


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


_FACTS = {"bytes": 1, "sha256": ""}
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
    "a file without its size": (lambda path: _edit(path, files={"backbone.safetensors": {}}), "not readable.*bytes"),
    "a way out of the folder": (
        lambda path: _edit(path, files={"backbone.safetensors": _FACTS, "../step/heads-00000.safetensors": _FACTS}),
        "not readable.*a file '../step",
    ),
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
    path = _save(tmp_path, World(), _backbone(1), _heads(CAMERAS[:2], 1), step=1)
    wide = _heads(CAMERAS[:1], 2, labels=5)
    double = TrainedHeads(CameraHeads({0: 4}, 3, seed=1, held=[0], dtype=torch.float64), {0: "north"}, OptimConfig())
    cases = (
        (_heads(CAMERAS, 2), r"no head of camera east\.1"),
        (wide, r"\(4, 3\).*\(5, 3\)"),
        (double, "float32.*float64"),
    )
    for heads, message in cases:
        with pytest.raises(UserError, match=message) as caught:
            checkpoint.load(path, world=World(), backbone=_backbone(2), heads=heads, identity=IDENTITY)
        assert path.name in str(caught.value)


def test_weights_that_are_not_finite_are_not_saved_over_good_ones(tmp_path: Path) -> None:
    _save_as(1, tmp_path, step=1)
    backbone = _backbone(1)
    with torch.no_grad():
        backbone.tensors["fc.weight"][0, 0] = float("nan")
    with pytest.raises(UserError, match=r"fc.weight is not finite"):
        _save(tmp_path, World(), backbone, _heads(CAMERAS, 1), step=2, keep=1)
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
