"""Initial backbone weights: torchvision's state dicts, as .safetensors or .pth, and our own model files. Nothing is unpickled."""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from taudl_dist.errors import UserError

if TYPE_CHECKING:
    from taudl_dist.model.backbone import ReidModel

_IMAGENET = {
    "resnet50": "ResNet50_Weights",
    "resnet18": "ResNet18_Weights",
    "mobilenet_v2": "MobileNet_V2_Weights",
}


def load_backbone(model: ReidModel, weights: str) -> None:
    """Fills the backbone (and the feature layer, from a file of ours) from a file or torchvision's ImageNet weights.

    Args:
        weights: path of a .safetensors or .pth state dict, or `imagenet`.

    Raises:
        UserError: the file is missing, unreadable, or of another architecture; the first keys that differ are named.
    """
    state = _imagenet(model.name) if weights == "imagenet" else read_state(Path(weights))
    if any(key.startswith("embedding.") for key in state):
        target: torch.nn.Module = model
    else:  # torchvision's own classifier is not part of this network
        target = model.backbone
        state = {key: value for key, value in state.items() if not key.startswith(("fc.", "classifier."))}
    fill(target, state, source=weights, architecture=model.name)


def fill(module: torch.nn.Module, state: dict[str, torch.Tensor], *, source: str, architecture: str) -> None:
    """Copies a state dict into a module; names and shapes must be the module's, types are converted."""
    own = module.state_dict()
    optional = {key for key in own if key.endswith("num_batches_tracked")}
    missing = sorted(set(own) - set(state) - optional)
    unknown = sorted(set(state) - set(own))
    wrong = [key for key in own if key in state and own[key].shape != state[key].shape]
    if missing or unknown or wrong:
        facts = [
            f"{len(keys)} {what}, first {keys[0]}"
            for what, keys in (("missing", missing), ("unknown", unknown), ("of another shape", wrong))
            if keys
        ]
        if wrong:
            facts[-1] += f" {tuple(state[wrong[0]].shape)} instead of {tuple(own[wrong[0]].shape)}"
        raise UserError(
            f"weights {source} do not fit {architecture}: of {len(own)} tensors {'; '.join(facts)}."
            " Give the file of this architecture, or change --model"
        )
    with torch.no_grad():
        for key, value in state.items():
            own[key].copy_(value)


def read_state(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a .safetensors file, or of a .pth file read with weights_only=True."""
    if not path.is_file():
        raise UserError(f"weights {path}: no such file; expected a .safetensors or .pth file, or `imagenet`")
    state: Any
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state = load_file(path)
        else:
            _refuse_bomb(path)
            state = torch.load(path, map_location="cpu", weights_only=True)
            state = state.get("state_dict", state) if isinstance(state, dict) else state
    except Exception as error:  # many kinds, by what is damaged; all of them mean the same to the user
        raise UserError(f"weights {path}: not a readable state dict ({type(error).__name__}: {error})") from None
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise UserError(f"weights {path}: found {type(state).__name__}, expected a mapping of names to tensors")
    return state


def _refuse_bomb(path: Path) -> None:
    """torch.save stores its tensors as they are; a compressed entry could ask for any amount of memory."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as file:
            claimed = sum(entry.file_size for entry in file.infolist())
        if claimed > path.stat().st_size:
            raise UserError(f"{claimed} bytes in a file of {path.stat().st_size}")


def _imagenet(name: str) -> dict[str, torch.Tensor]:
    import torchvision

    if name not in _IMAGENET:
        raise UserError(
            f"there are no ImageNet weights for {name}; leave --weights away, or use one of {', '.join(_IMAGENET)}"
        )
    weights = getattr(torchvision.models, _IMAGENET[name]).DEFAULT
    try:
        return weights.get_state_dict(progress=sys.stderr.isatty(), check_hash=True, weights_only=True)
    except (OSError, RuntimeError) as error:  # RuntimeError: the file that came has another hash
        raise UserError(
            f"--weights imagenet could not be downloaded ({error}); fetch the file by hand and give --weights FILE"
        ) from None
