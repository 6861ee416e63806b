"""Decoding against a loop over cells; refusal of other models; torchvision's detectors from a local file."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from data_tools.detect import decode_fastestdet, load_detector, suppress
from taudl_dist.errors import UsageError, UserError

SHARED = Path(__file__).parents[2].parent / "shared" / "data"
MODEL = SHARED / "models" / "FastestDet.onnx"
ROOM = SHARED / "video" / "one-by-one-person-detection.mp4"


def test_decode_equals_a_loop_over_cells() -> None:
    output = np.random.default_rng(0).normal(size=(85, 4, 5)).astype(np.float32)
    output[0], output[5:] = abs(output[0]) % 1, abs(output[5:]) % 1
    boxes, scores = decode_fastestdet(output, width=200, height=90)
    for cell in range(20):
        row, column = divmod(cell, 5)
        objectness, dx, dy, w, h, person = output[:6, row, column].tolist()
        x, y = (column + math.tanh(dx)) / 5 * 200, (row + math.tanh(dy)) / 4 * 90
        width, height = 200 / (1 + math.exp(-w)), 90 / (1 + math.exp(-h))
        expected = [x - width / 2, y - height / 2, x + width / 2, y + height / 2]
        assert boxes[cell].tolist() == pytest.approx(expected, rel=1e-4, abs=1e-3)
        assert scores[cell] == pytest.approx(objectness**0.6 * person**0.4, rel=1e-4)


def test_suppress() -> None:
    boxes = np.array(
        [[0, 0, 10, 20], [1, 0, 11, 20], [50, 50, 60, 70], [-5, -5, 4, 4], [99, 0, 130, 9], [100, 0, 130, 9]],
        np.float32,
    )
    scores = np.array([0.5, 0.9, 0.2, 0.6, 0.7, 0.8], np.float32)
    kept, kept_scores = suppress(boxes, scores, min_score=0.3, width=100, height=100)
    assert kept_scores.tolist() == pytest.approx([0.9, 0.7, 0.6])  # overlapped, weak and outside boxes are gone
    assert kept.tolist() == [[1, 0, 11, 20], [99, 0, 100, 9], [0, 0, 4, 4]]
    assert suppress(boxes[:0], scores[:0], min_score=0.3, width=9, height=9)[0].shape == (0, 4)


def field(number: int, value: bytes | int) -> bytes:
    """One protobuf field: a varint or a length-delimited value (all here are shorter than 16,384 bytes)."""
    if isinstance(value, int):
        return bytes([number << 3]) + varint(value)
    return bytes([number << 3 | 2]) + varint(len(value)) + value


def varint(value: int) -> bytes:
    return bytes([value]) if value < 128 else bytes([value & 127 | 128, value >> 7])


def identity_model(shape: tuple[int, ...]) -> bytes:
    """An ONNX file whose output is its input, written by hand so that the tests need no exporter."""
    dims = b"".join(field(1, field(1, size)) for size in shape)
    kind = field(2, field(1, field(1, 1) + field(2, dims)))
    node = field(1, b"in") + field(2, b"out") + field(4, b"Identity")
    graph = field(1, node) + field(2, b"g") + field(11, field(1, b"in") + kind) + field(12, field(1, b"out") + kind)
    return field(1, 8) + field(7, graph) + field(8, field(2, 13))


def test_other_models_are_refused(tmp_path: Path) -> None:
    (tmp_path / "other.onnx").write_bytes(identity_model((1, 3, 32, 32)))
    with pytest.raises(UserError, match=r"found inputs \[\[1, 3, 32, 32\]\] and outputs .* expected FastestDet"):
        load_detector(str(tmp_path / "other.onnx"), min_score=0.3)
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    with pytest.raises(UserError, match="not a model"):
        load_detector(str(tmp_path / "broken.onnx"), min_score=0.3)


@pytest.mark.parametrize(
    ("name", "settings", "kind", "message"),
    [
        ("none.onnx", {}, UserError, "no such file"),
        ("none.onnx", {"weights": "a.pth"}, UsageError, "leave the flag out"),
        ("none.onnx", {"min_score": 1.5}, UsageError, "--min-score 1.5"),
        ("yolo", {}, UsageError, "expected a file ending in .onnx, or one of fasterrcnn"),
        ("ssdlite320_mobilenet_v3_large", {}, UsageError, "needs --weights"),
        ("ssdlite320_mobilenet_v3_large", {"weights": "none.pth"}, UserError, "no such file"),
    ],
)
def test_wrong_calls(name: str, settings: dict, kind: type, message: str) -> None:
    with pytest.raises(kind, match=message):
        load_detector(name, **{"min_score": 0.3, **settings})


@pytest.mark.slow
def test_torchvision_detector_from_a_file(tmp_path: Path) -> None:
    import torch
    from torchvision.models import get_model

    name, path = "ssdlite320_mobilenet_v3_large", tmp_path / "weights.pth"
    torch.manual_seed(0)
    torch.save(get_model(name, weights=None, weights_backbone=None).state_dict(), path)
    boxes, scores = load_detector(name, weights=str(path), min_score=0.001)(np.zeros((60, 80, 3), np.uint8))
    assert boxes.shape == (len(scores), 4)
    assert boxes.dtype == scores.dtype == np.float32
    torch.save({"weight": torch.zeros(3)}, path)
    with pytest.raises(UserError, match=f"not weights of {name}"):
        load_detector(name, weights=str(path), min_score=0.3)
    path.write_bytes(b"no weights")
    with pytest.raises(UserError, match="not readable"):
        load_detector(name, weights=str(path), min_score=0.3)


@pytest.mark.skipif(not (MODEL.is_file() and ROOM.is_file()), reason=f"needs {MODEL} and {ROOM}")
def test_a_real_person_is_found() -> None:
    from data_tools.video import iter_frames

    detect = load_detector(str(MODEL), min_score=0.5)
    empty, person = (detect(picture) for _, picture in iter_frames(ROOM, wanted=np.array([20, 120])))
    assert len(empty[0]) == 0
    assert len(person[0]) == 1
    x1, y1, x2, y2 = person[0][0].tolist()  # seen in the picture: she stands right of the middle, head to feet
    assert 360 < x1 < 420 and 480 < x2 < 560
    assert y1 < 60 and 370 < y2 <= 432
