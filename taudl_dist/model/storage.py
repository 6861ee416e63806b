"""A trained network on disk: model.safetensors (weights) and model.json (what it is and where it comes from)."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from taudl_dist.errors import UserError
from taudl_dist.model.backbone import BACKBONES, IMAGE_MEAN, IMAGE_STD, ReidModel
from taudl_dist.model.weights import fill, read_state

FORMAT = "taudl-model"
VERSION = 1


def save_model(model: ReidModel, folder: str | Path, extra: dict[str, Any]) -> None:
    """Writes weights and description into a folder, each complete or not at all; `extra` joins the description."""
    from safetensors.torch import save

    folder = Path(folder)
    height, width = model.image_size
    facts = {
        "format": FORMAT, "version": VERSION, "name": model.name, "feature_dim": model.feature_dim,
        "batch_norm": model.batch_norm, "height": height, "width": width, "mean": IMAGE_MEAN, "std": IMAGE_STD, **extra,
    }  # fmt: skip
    state = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
    # not save_file: it makes a file that others cannot read, and wraps a full disk in an error of its own
    _replace(folder / "model.safetensors", lambda path: path.write_bytes(save(state)))
    _replace(folder / "model.json", lambda path: path.write_text(json.dumps(facts, indent=2) + "\n"))


def load_model(path: str | Path, device: str | torch.device = "cpu") -> ReidModel:
    """The network of a run folder, of a folder with model.safetensors, or of such a file beside its model.json; in eval mode.

    Its type is that of the weights, float32 or float64.

    Raises:
        UserError: no model there, a description of another format or version, or weights that do not fit it.
    """
    path = Path(path)
    weights = path if path.suffix == ".safetensors" else path / "model.safetensors"
    facts = _describe(weights)
    model = ReidModel(facts["name"], feature_dim=facts["feature_dim"], batch_norm=facts["batch_norm"])
    model.image_size = (facts["height"], facts["width"])
    state = read_state(weights)
    if "embedding.weight" in state and state["embedding.weight"].dtype == torch.float64:
        model.double()
    fill(model, state, source=str(weights), architecture=facts["name"])
    return model.to(device).eval()


def _describe(weights: Path) -> dict[str, Any]:
    path = weights.with_name("model.json")
    if not path.is_file() or not weights.is_file():
        raise UserError(
            f"{weights.parent}: no model.json with {weights.name} there; expected a run folder of `taudl train` that is finished"
        )
    try:
        facts = json.loads(path.read_text())
    except (ValueError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not valid JSON ({error})") from None
    expected = {"name": str, "feature_dim": int, "batch_norm": str, "height": int, "width": int}
    if not isinstance(facts, dict) or facts.get("format") != FORMAT or facts.get("version") != VERSION:
        raise UserError(f"{path}: expected format {FORMAT} version {VERSION}; found {str(facts)[:80]}")
    for key, kind in expected.items():
        if not isinstance(facts.get(key), kind):
            raise UserError(f"{path}: {key} is {facts.get(key)!r}, expected a {kind.__name__}")
    if min(facts["height"], facts["width"]) < 1:
        raise UserError(f"{path}: height x width is {facts['height']} x {facts['width']}, expected pixels")
    if facts["name"] not in BACKBONES or not 1 <= facts["feature_dim"] <= 65536:
        raise UserError(f"{path}: {facts['name']!r} with feature_dim {facts['feature_dim']} is not a known network")
    return facts


def _replace(path: Path, write: Callable[[Path], object]) -> None:
    temporary = path.with_name(f"{path.name}.tmp-{os.getpid()}")
    try:
        write(temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
