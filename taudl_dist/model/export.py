"""A network without this package: one file for ONNX runtimes or for torch.export, of any batch size, its numbers checked.

Both formats come from one torch.export program of the network in eval mode, so batch norm is arithmetic with the trained running
statistics and an image's feature does not depend on its neighbours. The same weights give the same bytes.
"""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from taudl_dist.errors import UserError
from taudl_dist.model.backbone import IMAGE_MEAN, IMAGE_STD, ReidModel

FORMAT, VERSION = "taudl-export", 1
FORMATS = ("onnx", "pt2")
TOLERANCE = 1e-4
"""Largest difference from torch's features allowed, as a share of their largest value; rounding gives about 1e-6."""
PT2_FACTS = "taudl.json"
"""Name of the facts among the extra files of a .pt2."""

_BATCHES = (1, 2, 5)
"""Sizes that are compared; the program is traced with 2, because torch.export takes 1 for a constant."""
_INPUT = "images"

Network = Callable[[np.ndarray], np.ndarray]
"""Images (B, 3, H, W) float32 -> features (B, D) float32."""


def export_facts(model: ReidModel, **more: Any) -> dict[str, Any]:
    """What a user of the file must know: how to prepare an image, what comes out, and `more`."""
    height, width = model.image_size
    return {
        **more,
        "format": FORMAT,
        "version": VERSION,
        "name": model.name,
        "feature_dim": model.feature_dim,
        "height": height,
        "width": width,
        "channels": "RGB",
        "pixel_range": [0, 1],
        "mean": list(IMAGE_MEAN),
        "std": list(IMAGE_STD),
        "resize": "linear, the whole image, antialiased",
    }


def write_export(model: ReidModel, path: Path, *, kind: str, facts: Mapping[str, Any]) -> dict[str, float]:
    """Writes the network at exactly this path, in fp32, reads it back, and compares features.

    Args:
        model: is in fp32, on the CPU and in eval mode afterwards.
        kind: `onnx` or `pt2`.
        facts: go into the file's metadata; see `export_facts`.

    Returns:
        largest_difference between the file's features and torch's, and largest_feature, over batches of 1, 2 and 5 images of noise.

    Raises:
        UserError: they differ by more than TOLERANCE; the file is there then, and the caller removes it.
    """
    model = model.float().cpu().eval()
    program = _program(model)
    if kind == "onnx":
        _write_onnx(program, path, facts)
    else:
        _write_pt2(program, path, facts)
    compared = compare(read_export(path, kind=kind)[0], model)
    if not compared["largest_difference"] <= TOLERANCE * compared["largest_feature"]:  # also where one is NaN
        raise UserError(
            f"the exported network's features differ from torch's by {compared['largest_difference']:.3g} where the largest"
            f" is {compared['largest_feature']:.3g}; expected at most {TOLERANCE:g} of that. Nothing was kept; if the weights"
            " are sound, export to the other format, or with other versions of torch and onnxscript"
        )
    return compared


def read_export(path: Path, *, kind: str) -> tuple[Network, dict[str, Any]]:
    """The network of a file that `write_export` wrote, on the CPU, and its facts."""
    return _read_onnx(path) if kind == "onnx" else _read_pt2(path)


def compare(exported: Network, model: ReidModel) -> dict[str, float]:
    """Largest difference between the two networks' features of noise images, and the largest feature."""
    generator = torch.Generator().manual_seed(0)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGE_MEAN, IMAGE_STD))
    difference = largest = 0.0
    for size in _BATCHES:
        images = (torch.rand(size, 3, *model.image_size, generator=generator) - mean) / std
        with torch.inference_mode():
            features = model(images).numpy()
        difference = np.maximum(
            difference, np.abs(exported(images.numpy()) - features).max()
        )  # keeps NaN, unlike max()
        largest = np.maximum(largest, np.abs(features).max())
    return {"largest_difference": float(difference), "largest_feature": float(largest)}


def _program(model: ReidModel) -> torch.export.ExportedProgram:
    images = torch.zeros(2, 3, *model.image_size)
    program = torch.export.export(model, (images,), dynamic_shapes=({0: torch.export.Dim("batch", min=1)},))
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # paths of this machine
    return program


def _write_onnx(program: torch.export.ExportedProgram, path: Path, facts: Mapping[str, Any]) -> None:
    try:
        import onnxscript  # noqa: F401 - torch's exporter needs it, and would say so less clearly
    except ImportError as error:
        raise ImportError("exporting to ONNX needs onnxscript: pip install onnxscript") from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about dynamic_shapes, which only names the axis here
        exported = torch.onnx.export(
            program,
            input_names=[_INPUT],
            output_names=["features"],
            dynamic_shapes=({0: "batch"},),
            verbose=False,
        )
    assert exported is not None
    for name, value in facts.items():
        exported.model.metadata_props[name] = value if isinstance(value, str) else json.dumps(value)
    exported.save(path)


def _read_onnx(path: Path) -> tuple[Network, dict[str, Any]]:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    facts = {name: _value(text) for name, text in session.get_modelmeta().custom_metadata_map.items()}
    return lambda images: np.asarray(session.run(None, {_INPUT: images})[0]), facts


def _write_pt2(program: torch.export.ExportedProgram, path: Path, facts: Mapping[str, Any]) -> None:
    buffer = io.BytesIO()
    torch.export.save(program, buffer, extra_files={PT2_FACTS: json.dumps(dict(facts))})
    path.write_bytes(buffer.getbuffer())


def _read_pt2(path: Path) -> tuple[Network, dict[str, Any]]:
    extra = {PT2_FACTS: ""}
    module = torch.export.load(io.BytesIO(path.read_bytes()), extra_files=extra).module()

    def network(images: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return module(torch.from_numpy(images)).numpy()

    return network, json.loads(extra[PT2_FACTS])


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
