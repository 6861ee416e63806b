"""Person detectors: an ONNX file run by onnxruntime, or one of torchvision's networks with a local weights file.

A detector maps one picture, uint8 (H, W, 3) RGB, to boxes (N, 4) float32 in its pixels and scores (N,) float32.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from taudl_dist.errors import UsageError, UserError

Detector = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]

_MOST_OVERLAP = 0.45
_PERSON_OF_91 = 1  # torchvision's COCO label of a person; 0 is background


def load_detector(name: str, *, weights: str = "", min_score: float) -> Detector:
    """The detector that `name` stands for: the path of an .onnx file, or a torchvision network, which needs `weights`.

    Raises:
        UserError: a file that is missing or holds another kind of model.
        UsageError: an unknown name, or weights where they have no meaning.
    """
    if not 0 < min_score < 1:
        raise UsageError(f"--min-score {min_score:g}: expected a score between 0 and 1")
    if Path(name).suffix.lower() == ".onnx":
        if weights:
            raise UsageError(f"--weights {weights}: an .onnx detector holds its weights; leave the flag out")
        return _onnx_detector(Path(name), min_score)
    return _torchvision_detector(name, weights, min_score)


def decode_fastestdet(output: np.ndarray, *, width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
    """Person boxes and scores of all cells of FastestDet's output (85, rows, columns).

    Channels: objectness, tanh-coded offset of the centre from the cell, sigmoid-coded width and height, class
    probabilities (0: person). Everything is relative to the picture, which is stretched to the network's input.
    Source: the model's published ONNX example; score = objectness^0.6 * class^0.4 as its authors evaluate it.
    """
    _, rows, columns = output.shape
    row, column = np.mgrid[:rows, :columns]
    centre = np.stack([(column + np.tanh(output[1])) / columns, (row + np.tanh(output[2])) / rows], axis=-1)
    half = 0.5 / (1 + np.exp(-output[3:5].transpose(1, 2, 0)))
    boxes = np.concatenate([centre - half, centre + half], axis=-1).reshape(-1, 4) * (width, height, width, height)
    scores = np.clip(output[0], 0, 1) ** 0.6 * np.clip(output[5], 0, 1) ** 0.4
    return boxes.astype(np.float32), scores.reshape(-1).astype(np.float32)


def suppress(
    boxes: np.ndarray, scores: np.ndarray, *, min_score: float, width: int, height: int
) -> tuple[np.ndarray, np.ndarray]:
    """The boxes that score enough, cut to the picture, without those that a better one overlaps by IoU 0.45 or more."""
    import torch
    from torchvision.ops import nms

    boxes = np.clip(boxes, 0, np.array([width, height, width, height], np.float32))
    keep = (scores >= min_score) & (boxes[:, 2:] - boxes[:, :2] >= 1).all(axis=1)
    boxes, scores = boxes[keep], scores[keep]
    kept = nms(torch.from_numpy(boxes), torch.from_numpy(scores), _MOST_OVERLAP).numpy()
    return boxes[kept], scores[kept]


def _onnx_detector(path: Path, min_score: float) -> Detector:
    session = _onnx_session(path)
    (source,), (_, _, input_height, input_width) = session.get_inputs(), _require_fastestdet(path, session)

    def detect(picture: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        from PIL import Image

        height, width = picture.shape[:2]
        resized = np.asarray(Image.fromarray(picture).resize((input_width, input_height), Image.Resampling.BILINEAR))
        planes = np.ascontiguousarray(resized[:, :, ::-1].transpose(2, 0, 1)[None], dtype=np.float32) / 255
        output = session.run(None, {source.name: planes})[0][0]
        boxes, scores = decode_fastestdet(output, width=width, height=height)
        return suppress(boxes, scores, min_score=min_score, width=width, height=height)

    return detect


def _onnx_session(path: Path) -> Any:
    import onnxruntime

    if not path.is_file():
        raise UserError(f"--detector {path}: no such file; expected FastestDet as .onnx")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what goes wrong is raised; its warnings are about graph optimisation
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions share no base class but this
        raise UserError(f"--detector {path}: not a model that onnxruntime can run: {error}") from None


def _require_fastestdet(path: Path, session: Any) -> list[int]:
    """The input shape of a FastestDet session; refuses every other family by its inputs and outputs."""
    inputs, outputs = (
        [list(value.shape) for value in values] for values in (session.get_inputs(), session.get_outputs())
    )
    match inputs, outputs:
        case [[1, 3, int(height), int(width)]], [[1, 85, int(rows), int(columns)]]:
            if (height, width) == (16 * rows, 16 * columns):
                return inputs[0]
    raise UserError(
        f"--detector {path}: found inputs {inputs} and outputs {outputs}; expected FastestDet, one input [1, 3, 16 R, 16 C] "
        "and one output [1, 85, R, C]. Other detectors: write their boxes as MOTChallenge text and give them to `taudl shard`"
    )


def _torchvision_detector(name: str, weights: str, min_score: float) -> Detector:
    import torch
    from torchvision.models import detection, get_model, list_models

    names = [known for known in list_models(module=detection) if "rcnn_" not in known or known.startswith("faster")]
    if name not in names:
        raise UsageError(f"--detector {name}: expected a file ending in .onnx, or one of {', '.join(names)}")
    if not weights:
        raise UsageError(f"--detector {name} needs --weights FILE, its COCO weights as .pth or .safetensors")
    state = _state(Path(weights))
    network = get_model(name, weights=None, weights_backbone=None, num_classes=91)
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise UserError(f"--weights {weights}: not weights of {name}: {str(error)[:300]}") from None
    network.eval()

    @torch.inference_mode()
    def detect(picture: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        height, width = picture.shape[:2]
        image = torch.from_numpy(np.ascontiguousarray(picture)).permute(2, 0, 1).float() / 255
        found = network([image])[0]
        is_person = found["labels"] == _PERSON_OF_91
        boxes, scores = found["boxes"][is_person].numpy(), found["scores"][is_person].numpy()
        return suppress(boxes, scores, min_score=min_score, width=width, height=height)

    return detect


def _state(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise UserError(f"--weights {path}: no such file")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        import torch

        return torch.load(path, map_location="cpu", weights_only=True)  # never unpickle code from a user's file
    except Exception as error:  # each reader raises kinds of its own
        raise UserError(f"--weights {path}: not readable as a state dict: {str(error)[:300]}") from None
